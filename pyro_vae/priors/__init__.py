"""Priors p(z): parts whose `forward` returns the distribution of the latent of one row.

To add one, write a subclass of `Prior` that sets `latent_dim` and returns a distribution with event shape (latent_dim,)
and empty batch shape, and add a line to `tests/cases.py`.
"""

from pyro_vae.priors.base import Prior
from pyro_vae.priors.discrete import Bernoulli, Categorical
from pyro_vae.priors.flow import Flow
from pyro_vae.priors.given import Distribution
from pyro_vae.priors.location import Laplace, Normal, StudentT
from pyro_vae.priors.mixture import Mixture, VampPrior
from pyro_vae.priors.simplex import LogisticNormal
from pyro_vae.priors.sphere import PowerSpherical

__all__ = [
    "Bernoulli",
    "Categorical",
    "Distribution",
    "Flow",
    "Laplace",
    "LogisticNormal",
    "Mixture",
    "Normal",
    "PowerSpherical",
    "Prior",
    "StudentT",
    "VampPrior",
]
