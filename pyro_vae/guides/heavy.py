"""Families with more than one centre, or with heavy tails."""

from __future__ import annotations

import pyro.distributions as dist
from torch import Tensor

from pyro_vae import distributions
from pyro_vae.arguments import positive_integer, positive_number
from pyro_vae.guides.base import Guide
from pyro_vae.parts import as_scale

__all__ = ["Mixture", "StudentT"]


class Mixture(Guide):
    """A mixture of C normals with diagonal covariance, for two latents or more.

    It can take the shape of a skewed posterior, or of one with several modes; but training may leave all components at
    one mode, since draws from there say nothing about the others. Draws have pathwise derivatives with respect to all
    parameters, the weights included, so that every gradient estimator works.

    Args:
        num_components: C, the number of normals.

    Raises:
        ValueError: if `num_components` is not a positive integer, or there is only one latent.

    References:
        *Pathwise Derivatives for Multivariate Distributions* (Jankowiak, Karaletsos, 2018), arXiv 1806.01856
    """

    def __init__(self, num_components: int = 3) -> None:
        super().__init__()
        self.num_components = positive_integer("num_components", num_components)

    def parameter_shape(self, latent_dim: int) -> tuple[int, ...]:
        positive_integer("latent_dim", latent_dim, at_least=2)
        return (self.num_components * (1 + 2 * latent_dim),)

    def forward(self, parameters: Tensor) -> dist.TorchDistribution:
        count = self.num_components
        size = (parameters.shape[-1] // count - 1) // 2
        logits, loc, raw = parameters.split((count, count * size, count * size), -1)
        loc, raw = (part.reshape(*part.shape[:-1], count, size) for part in (loc, raw))
        return distributions.MixtureOfDiagNormals(loc, as_scale(raw), logits)


class StudentT(Guide):
    """Independent Student-t latents, whose heavy tails cover those of the posterior: importance weights stay bounded.

    Choose it for `log_likelihood` by importance sampling rather than for a tighter ELBO.

    Args:
        df: degrees of freedom.

    Raises:
        ValueError: if `df` is not positive.

    References:
        *Monte Carlo Theory, Methods and Examples* (Owen, 2013), chapter 9, on the tails of proposals
    """

    def __init__(self, df: float = 5.0) -> None:
        super().__init__()
        self.df = positive_number("df", df)

    def parameter_shape(self, latent_dim: int) -> tuple[int, ...]:
        return (2 * latent_dim,)

    def forward(self, parameters: Tensor) -> dist.TorchDistribution:
        loc, raw = parameters.chunk(2, -1)
        return distributions.StudentT(self.df, loc, as_scale(raw)).to_event(1)
