"""What guides have in common."""

from __future__ import annotations

from abc import abstractmethod

import pyro.distributions as dist
from torch import Tensor

from pyro_vae.parts import Part

__all__ = ["Guide"]


class Guide(Part):
    """Base of the families.

    Attributes:
        support: the set that draws lie in, by its name in `torch.distributions.constraints`.
    """

    support = "Real()"

    @abstractmethod
    def parameter_shape(self, latent_dim: int) -> tuple[int, ...]:
        """The shape of one row of the encoder's output."""

    @abstractmethod
    def forward(self, parameters: Tensor) -> dist.TorchDistribution:
        """q(z | x) from the encoder's output (..., *parameter_shape): batch shape (...), event shape (D,)."""
