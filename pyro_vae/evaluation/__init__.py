"""Numbers about a fitted model, per row, with their errors: the ELBO and its parts, and log p(x).

`bound` has the ELBO and `likelihood` has log p(x); both return `results`. `base` says what a method for log p(x) is,
and `methods` lists all of them: `importance` draws from the guide, `refined` improves the guide for each row first,
and `annealing` moves draws of the guide to the posterior. `audit` corrects the mean of a cheap method by a better one
on random rows. To add a method, subclass `Method`, write `log_weights`, and add a line to the table in `methods`.
"""

from pyro_vae.evaluation.annealing import AIS
from pyro_vae.evaluation.audit import AuditedLogLikelihood
from pyro_vae.evaluation.base import Method
from pyro_vae.evaluation.importance import Importance
from pyro_vae.evaluation.refined import SemiAmortized
from pyro_vae.evaluation.results import (
    BoundResult,
    ConditionalLogLikelihood,
    LogLikelihood,
    Mean,
    Sandwich,
    UnreliableWarning,
    mean_over_rows,
)
from pyro_vae.evaluation.summary import Summary, summarize_log_weights

__all__ = [
    "AIS",
    "AuditedLogLikelihood",
    "BoundResult",
    "ConditionalLogLikelihood",
    "Importance",
    "LogLikelihood",
    "Mean",
    "Method",
    "Sandwich",
    "SemiAmortized",
    "Summary",
    "UnreliableWarning",
    "mean_over_rows",
    "summarize_log_weights",
]
