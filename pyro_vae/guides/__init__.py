"""Families of q(z | x): parts that turn the encoder's output into a distribution.

To add one: subclass `Guide`, say how many numbers of the encoder's it needs for each row (`parameter_shape`) and return
a distribution with event shape (latent_dim,); add one line to `tests/cases.py`.
"""

from pyro_vae.guides.base import Guide
from pyro_vae.guides.constrained import Bernoulli, Categorical, LogisticNormal, PowerSpherical
from pyro_vae.guides.flow import Flow
from pyro_vae.guides.heavy import Mixture, StudentT
from pyro_vae.guides.normal import LowRankNormal, MultivariateNormal, Normal

__all__ = [
    "Bernoulli",
    "Categorical",
    "Flow",
    "Guide",
    "LogisticNormal",
    "LowRankNormal",
    "Mixture",
    "MultivariateNormal",
    "Normal",
    "PowerSpherical",
    "StudentT",
]
