"""What priors have in common."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import pyro.distributions as dist
from torch import Tensor

from pyro_vae.parts import Part

__all__ = ["Prior"]


class Prior(Part):
    """Base of the priors.

    Attributes:
        latent_dim: D, the size of one row's latent.
    """

    latent_dim: int

    @abstractmethod
    def forward(self, **batch: Any) -> dist.TorchDistribution:
        """p(z), or p(z | fields) where the batch brings fields: batch shape () or (B,), event shape (D,).

        Besides the fields, `posterior` is passed: the map from what the encoder sees to q(z | x).
        """

    def initialize(self, features: Tensor) -> None:
        """Start from what the encoder sees of the data, (N, *feature_shape)."""
