"""The base class of priors."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import pyro.distributions as dist
from torch import Tensor

from pyro_vae.parts import Part

__all__ = ["Prior"]


class Prior(Part):
    """Base class of priors.

    Attributes:
        latent_dim: D, the size of the latent of one row.
    """

    latent_dim: int

    @abstractmethod
    def forward(self, **batch: Any) -> dist.TorchDistribution:
        """The distribution p(z), with empty batch shape, or p(z | fields), with batch shape (B,); event shape (D,).

        Args:
            **batch: the fields of the batch, and `posterior`: the function from inputs of the encoder to q(z | x).
        """

    def initialize(self, features: Tensor) -> None:
        """Set initial values from the encoder's inputs for the data, (N, *feature_shape); by default there are none."""
