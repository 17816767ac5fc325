"""Likelihoods p(x | z): parts that turn the decoder's output into the distribution of one row.

To add one: subclass `Likelihood`, say which values a cell of x may take (`support`), how many numbers of the decoder's
it needs for each cell (`outputs_per_cell`), and return the distribution; add one line to `tests/cases.py`.
"""

from pyro_vae.likelihoods.autoregressive import Autoregressive
from pyro_vae.likelihoods.base import Likelihood
from pyro_vae.likelihoods.binary import Bernoulli, BetaBinomial, Binomial
from pyro_vae.likelihoods.categorical import Categorical, Multinomial, OrderedLogistic
from pyro_vae.likelihoods.counts import (
    NegativeBinomial,
    Poisson,
    ZeroInflatedNegativeBinomial,
    ZeroInflatedPoisson,
)
from pyro_vae.likelihoods.images import DiscretizedLogistic
from pyro_vae.likelihoods.joint import Custom, LowRankNormal, MultivariateNormal, Product
from pyro_vae.likelihoods.positive import Gamma, LogNormal
from pyro_vae.likelihoods.proportions import Beta, ContinuousBernoulli
from pyro_vae.likelihoods.real import Laplace, Normal, StudentT

__all__ = [
    "Autoregressive",
    "Bernoulli",
    "Beta",
    "BetaBinomial",
    "Binomial",
    "Categorical",
    "ContinuousBernoulli",
    "Custom",
    "DiscretizedLogistic",
    "Gamma",
    "Laplace",
    "Likelihood",
    "LogNormal",
    "LowRankNormal",
    "Multinomial",
    "MultivariateNormal",
    "NegativeBinomial",
    "Normal",
    "OrderedLogistic",
    "Poisson",
    "Product",
    "StudentT",
    "ZeroInflatedNegativeBinomial",
    "ZeroInflatedPoisson",
]
