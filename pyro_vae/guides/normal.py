"""Normal families: independent latents, and correlated ones."""

from __future__ import annotations

import pyro.distributions as dist
from torch import Tensor
from torch.distributions.utils import vec_to_tril_matrix

from pyro_vae.arguments import positive_integer
from pyro_vae.guides.base import Guide
from pyro_vae.parts import as_scale

__all__ = ["LowRankNormal", "MultivariateNormal", "Normal"]


class Normal(Guide):
    """Mean-field normal: z ~ N(loc(x), diag(scale(x)^2)).

    The first half of the encoder's output is the mean, and the second half gives the scale, where 0 stands for 1. An
    encoder with small outputs therefore starts near the standard normal.

    References:
        *Auto-Encoding Variational Bayes* (Kingma, Welling, 2013), arXiv 1312.6114
    """

    def parameter_shape(self, latent_dim: int) -> tuple[int, ...]:
        return (2 * latent_dim,)

    def forward(self, parameters: Tensor) -> dist.TorchDistribution:
        loc, raw = parameters.chunk(2, -1)
        return dist.Normal(loc, as_scale(raw)).to_event(1)


class MultivariateNormal(Guide):
    """Normal with a full covariance matrix, given by its Cholesky factor: D + D (D + 1) / 2 numbers per row.

    Choose it for posteriors with correlated latents, such as those of a linear decoder, and up to some fifty latents.

    References:
        *An Introduction to Variational Autoencoders* (Kingma, Welling, 2019), section 2.5.1, arXiv 1906.02691
    """

    def parameter_shape(self, latent_dim: int) -> tuple[int, ...]:
        return (latent_dim + latent_dim * (latent_dim + 1) // 2,)

    def forward(self, parameters: Tensor) -> dist.TorchDistribution:
        dim = int((2 * parameters.shape[-1] + 2.25) ** 0.5 - 1.5)
        loc, raw, below = parameters.split((dim, dim, dim * (dim - 1) // 2), -1)
        return dist.MultivariateNormal(loc, scale_tril=as_scale(raw).diag_embed() + vec_to_tril_matrix(below, -1))


class LowRankNormal(Guide):
    """Normal with covariance diag(scale^2) + W W^T: correlations at the price of D R more numbers per row.

    Args:
        rank: R, the number of columns of W.

    Raises:
        ValueError: if `rank` is not a positive integer.

    References:
        *Variational Bayesian Inference with Factor Covariance* (Ong, Nott, Smith, 2018),
        Journal of Computational and Graphical Statistics 27(3)
    """

    def __init__(self, rank: int = 2) -> None:
        super().__init__()
        self.rank = positive_integer("rank", rank)

    def parameter_shape(self, latent_dim: int) -> tuple[int, ...]:
        return ((2 + self.rank) * latent_dim,)

    def forward(self, parameters: Tensor) -> dist.TorchDistribution:
        dim = parameters.shape[-1] // (2 + self.rank)
        loc, raw, factor = parameters.split((dim, dim, dim * self.rank), -1)
        factor = factor.reshape(*factor.shape[:-1], dim, self.rank)
        return dist.LowRankMultivariateNormal(loc, factor, as_scale(raw).square())
