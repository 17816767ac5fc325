"""Families of q(z | x): parts that turn the encoder's output into a distribution.

To add one: subclass `Guide`, say how many numbers it needs per row and return a distribution with event shape
(latent_dim,); add one line to `tests/cases.py`.
"""

from __future__ import annotations

from abc import abstractmethod

import pyro.distributions as dist
from torch import Tensor

from pyro_vae.parts import Part, positive

__all__ = ["Guide", "Normal"]


class Guide(Part):
    """Base of the families."""

    @abstractmethod
    def parameter_shape(self, latent_dim: int) -> tuple[int, ...]:
        """The shape of one row of the encoder's output."""

    @abstractmethod
    def forward(self, parameters: Tensor) -> dist.TorchDistribution:
        """q(z | x) from the encoder's output (..., *parameter_shape): batch shape (...), event shape (D,)."""


class Normal(Guide):
    """Mean-field normal: z ~ N(loc(x), diag(scale(x)^2)).

    The first half of the encoder's output is the mean, the second the scale (0 gives 1):
    an encoder with small outputs starts at the standard normal.

    References:
        *Auto-Encoding Variational Bayes* (Kingma, Welling, 2013), arXiv 1312.6114
    """

    def parameter_shape(self, latent_dim: int) -> tuple[int, ...]:
        return (2 * latent_dim,)

    def forward(self, parameters: Tensor) -> dist.TorchDistribution:
        loc, raw = parameters.chunk(2, -1)
        return dist.Normal(loc, positive(raw)).to_event(1)
