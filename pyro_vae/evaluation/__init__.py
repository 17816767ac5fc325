"""Numbers about a fitted model, per row, with their errors: the ELBO and its parts, log-likelihoods.

`results` has what is returned, `bound` the ELBO, `likelihood` log p(x) by one `Method` or another, `annealing` the
method that moves draws to the posterior, `refined` the one that moves the guide there. To add a method, subclass
`Method` and write `log_weights`.
"""

from pyro_vae.evaluation.annealing import AIS, sandwich
from pyro_vae.evaluation.bound import elbo
from pyro_vae.evaluation.likelihood import (
    Importance,
    Method,
    conditional_log_likelihood,
    log_likelihood,
    summarize,
)
from pyro_vae.evaluation.refined import SemiAmortized
from pyro_vae.evaluation.results import (
    BoundResult,
    ConditionalLogLikelihood,
    LogLikelihood,
    Mean,
    Sandwich,
    UnreliableWarning,
    mean_of,
)

__all__ = [
    "AIS",
    "BoundResult",
    "ConditionalLogLikelihood",
    "Importance",
    "LogLikelihood",
    "Mean",
    "Method",
    "Sandwich",
    "SemiAmortized",
    "UnreliableWarning",
    "conditional_log_likelihood",
    "elbo",
    "log_likelihood",
    "mean_of",
    "sandwich",
    "summarize",
]
