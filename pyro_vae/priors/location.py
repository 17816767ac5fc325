"""Priors of independent latents, each with a location and a scale."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyro_vae import distributions
from pyro_vae.arguments import positive_integer, positive_number, true_or_false
from pyro_vae.parts import as_scale
from pyro_vae.priors.base import Prior

__all__ = ["Laplace", "Normal", "StudentT"]


class _LocationScale(Prior):
    """Base class of these: location 0 and scale 1, or a learned location and scale for each latent."""

    loc: Tensor
    scale: Tensor

    def __init__(self, latent_dim: int, learn: bool = False) -> None:
        super().__init__()
        self.latent_dim, self.learn = positive_integer("latent_dim", latent_dim), true_or_false("learn", learn)
        loc, raw = torch.zeros(latent_dim), torch.zeros(latent_dim)
        if learn:
            self.loc, self.raw_scale = nn.Parameter(loc), nn.Parameter(raw)
        else:
            self.register_buffer("loc", loc)
            self.register_buffer("scale", torch.ones(latent_dim))

    @abstractmethod
    def family(self, loc: Tensor, scale: Tensor) -> dist.TorchDistribution:
        """The distribution of each latent."""

    def forward(self, **batch: Any) -> dist.TorchDistribution:
        scale = as_scale(self.raw_scale) if self.learn else self.scale
        return self.family(self.loc, scale).to_event(1)


class Normal(_LocationScale):
    """Independent normal latents: z ~ N(0, I), or with learned means and standard deviations.

    Args:
        latent_dim: D.
        learn: whether the mean and the standard deviation of each latent are trained with the model.

    Raises:
        ValueError: if `latent_dim` is not a positive integer.

    References:
        *Auto-Encoding Variational Bayes* (Kingma, Welling, 2013), arXiv 1312.6114

    Example:
        >>> Normal(2)().log_prob(torch.zeros(2)).item()
        -1.8378770351409912
    """

    def family(self, loc: Tensor, scale: Tensor) -> dist.TorchDistribution:
        return dist.Normal(loc, scale)


class Laplace(_LocationScale):
    """Independent Laplace latents: more mass near 0 and heavier tails than the normal, which favours sparse codes.

    Unlike the normal, it is not invariant under rotations of the latent space.

    Args:
        latent_dim: D.
        learn: whether the location and the scale of each latent are trained with the model.

    Raises:
        ValueError: if `latent_dim` is not a positive integer.

    References:
        *Sparse Coding with an Overcomplete Basis Set* (Olshausen, Field, 1997), Vision Research 37(23)

    Example:
        >>> Laplace(2)().log_prob(torch.zeros(2)).item()
        -1.3862943649291992
    """

    def family(self, loc: Tensor, scale: Tensor) -> dist.TorchDistribution:
        return dist.Laplace(loc, scale)


class StudentT(_LocationScale):
    """Independent Student-t latents, whose heavy tails leave room for rows that lie far from the others.

    Args:
        latent_dim: D.
        df: degrees of freedom; the variance is finite above 2.
        learn: whether the location and the scale of each latent are trained with the model.

    Raises:
        ValueError: if `latent_dim` is not a positive integer or `df` is not positive.

    References:
        *Variational Auto-Encoders with Student's t-Prior* (Abiri, Ohlsson, 2019), arXiv 2004.02581

    Example:
        >>> StudentT(1, df=1)().log_prob(torch.zeros(1)).exp().item()  # a Cauchy: 1 / pi
        0.3183...
    """

    def __init__(self, latent_dim: int, df: float = 5.0, learn: bool = False) -> None:
        super().__init__(latent_dim, learn)
        self.df = positive_number("df", df)

    def family(self, loc: Tensor, scale: Tensor) -> dist.TorchDistribution:
        return distributions.StudentT(self.df, loc, scale)
