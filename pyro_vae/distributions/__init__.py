"""Distributions and transforms that Pyro and torch lack, or have with limits that matter here."""

from pyro_vae.distributions.blocks import Blocks
from pyro_vae.distributions.cells import Beta, ContinuousBernoulli, Gamma, OptimalNormal, StudentT
from pyro_vae.distributions.counts import (
    Bernoulli,
    BetaBinomial,
    Binomial,
    Categorical,
    Multinomial,
    NegativeBinomial,
    OrderedCategorical,
    Poisson,
    ZeroInflated,
)
from pyro_vae.distributions.images import Autoregressive, DiscretizedLogistic
from pyro_vae.distributions.independent import cell_log_prob, cells_of, unwrap
from pyro_vae.distributions.masked import masked
from pyro_vae.distributions.mixtures import MixtureOfDiagNormals
from pyro_vae.distributions.simplex import AdditiveLogRatio
from pyro_vae.distributions.sphere import PowerSpherical

__all__ = [
    "AdditiveLogRatio",
    "Autoregressive",
    "Bernoulli",
    "Beta",
    "BetaBinomial",
    "Binomial",
    "Blocks",
    "Categorical",
    "ContinuousBernoulli",
    "DiscretizedLogistic",
    "Gamma",
    "MixtureOfDiagNormals",
    "Multinomial",
    "NegativeBinomial",
    "OptimalNormal",
    "OrderedCategorical",
    "Poisson",
    "PowerSpherical",
    "StudentT",
    "ZeroInflated",
    "cell_log_prob",
    "cells_of",
    "masked",
    "unwrap",
]
