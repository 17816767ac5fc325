"""What guides have in common."""

from __future__ import annotations

from abc import abstractmethod

import pyro.distributions as dist
from pyro.distributions import constraints
from torch import Tensor
from torch.distributions.constraints import Constraint

from pyro_vae.parts import Part

__all__ = ["Guide"]


class Guide(Part):
    """Base of the families of q(z | x).

    Attributes:
        support: the constraint on a draw of z, or on each of its D numbers.
        in_use: whether a VAE has been made with this guide.
    """

    support: Constraint = constraints.real
    in_use = False

    def prepare(self, latent_dim: int) -> None:
        """Make what depends on the number of latents; the constructor of a VAE calls this with that of its prior."""

    @abstractmethod
    def parameter_shape(self, latent_dim: int) -> tuple[int, ...]:
        """The shape of the parameters of q(z | x) for one row, which the encoder gives."""

    @abstractmethod
    def forward(self, parameters: Tensor) -> dist.TorchDistribution:
        """q(z | x) from the encoder's output (..., *parameter_shape): batch shape (...), event shape (D,)."""
