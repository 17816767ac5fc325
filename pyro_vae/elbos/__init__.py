"""Estimators of bounds on log p(x): `pyro.infer.ELBO` subclasses that are computed from log-weights.

To add a bound, write a function of log-weights in `bounds` and a subclass of `WeightBound` that calls it; every
gradient estimator then applies to it, in `fit(elbo=...)` and in `pyro.infer.SVI(loss=...)`.
"""

from pyro_vae.elbos.base import Estimator, Terms
from pyro_vae.elbos.evidence import ELBO, MeanFieldELBO
from pyro_vae.elbos.foreign import PyroEstimator, from_pyro
from pyro_vae.elbos.regularized import (
    DIPVAE,
    BetaTCVAE,
    CapacityELBO,
    FreeBitsELBO,
    InfoVAE,
    KLBalancedELBO,
)
from pyro_vae.elbos.weighted import CIWAE, CUBO, IWAE, MIWAE, PIWAE, TVO, Renyi, WakeSleep, WeightBound
from pyro_vae.inference.gradients import GradientPath

__all__ = [
    "CIWAE",
    "CUBO",
    "DIPVAE",
    "ELBO",
    "IWAE",
    "MIWAE",
    "PIWAE",
    "TVO",
    "BetaTCVAE",
    "CapacityELBO",
    "Estimator",
    "FreeBitsELBO",
    "GradientPath",
    "InfoVAE",
    "KLBalancedELBO",
    "MeanFieldELBO",
    "PyroEstimator",
    "Renyi",
    "Terms",
    "WakeSleep",
    "WeightBound",
    "from_pyro",
]
