"""Families for latents that are proportions, directions or discrete values."""

from __future__ import annotations

import pyro.distributions as dist
from pyro.distributions import constraints
from torch import Tensor
from torch.nn.functional import normalize

from pyro_vae import distributions
from pyro_vae.arguments import positive_integer
from pyro_vae.guides.base import Guide
from pyro_vae.parts import as_scale

__all__ = ["Bernoulli", "Categorical", "LogisticNormal", "PowerSpherical"]


class LogisticNormal(Guide):
    """Proportions with independent normal log-ratios, for `priors.LogisticNormal` or any prior on the simplex.

    References:
        *Autoencoding Variational Inference for Topic Models* (Srivastava, Sutton, 2017), arXiv 1703.01488
    """

    support = constraints.simplex

    def parameter_shape(self, latent_dim: int) -> tuple[int, ...]:
        positive_integer("latent_dim", latent_dim, at_least=2)
        return (2 * (latent_dim - 1),)

    def forward(self, parameters: Tensor) -> dist.TorchDistribution:
        loc, raw = parameters.chunk(2, -1)
        ratios = dist.Normal(loc, as_scale(raw)).to_event(1)
        return dist.TransformedDistribution(ratios, [distributions.AdditiveLogRatio()])


class PowerSpherical(Guide):
    """Directions about a mean direction, for `priors.PowerSpherical`.

    The encoder gives the concentration, and a vector whose direction is the mean.

    References:
        *The Power Spherical Distribution* (De Cao, Aziz, 2020), arXiv 2006.04437
    """

    support = constraints.sphere

    def parameter_shape(self, latent_dim: int) -> tuple[int, ...]:
        return (latent_dim + 1,)

    def forward(self, parameters: Tensor) -> dist.TorchDistribution:
        direction = normalize(parameters[..., :-1] + 1e-6, dim=-1)  # so that zeros have a direction too
        return distributions.PowerSpherical(direction, as_scale(parameters[..., -1]))


class Bernoulli(Guide):
    """Independent binary latents, for `priors.Bernoulli`. Train with `gradient="rloo"` or "vimco".

    References:
        *Neural Variational Inference and Learning in Belief Networks* (Mnih, Gregor, 2014), arXiv 1402.0030
    """

    support = constraints.boolean

    def parameter_shape(self, latent_dim: int) -> tuple[int, ...]:
        return (latent_dim,)

    def forward(self, parameters: Tensor) -> dist.TorchDistribution:
        return dist.Bernoulli(logits=parameters).to_event(1)


class Categorical(Guide):
    """A latent with D values, a one-hot vector, for `priors.Categorical`. Train with `gradient="rloo"` or "vimco"."""

    support = constraints.one_hot

    def parameter_shape(self, latent_dim: int) -> tuple[int, ...]:
        return (latent_dim,)

    def forward(self, parameters: Tensor) -> dist.TorchDistribution:
        return dist.OneHotCategorical(logits=parameters)
