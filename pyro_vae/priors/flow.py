"""Normalizing flows as priors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_vae.arguments import positive_integer
from pyro_vae.nets import flows
from pyro_vae.priors.base import Prior

__all__ = ["Flow"]


class Flow(Prior):
    """Standard normal noise transformed by learned invertible maps.

    The nets map z to the noise, so that the density at a given z takes one run of each net; a draw from an
    autoregressive flow takes D runs.

    Args:
        latent_dim: D, at least 2.
        kind: "affine_coupling", "affine_autoregressive", "spline_coupling" or "spline_autoregressive".
        layers: the number of maps.
        hidden: widths of the hidden layers of the net in each map.

    Raises:
        ValueError: if the kind is unknown or a size is out of range.

    References:
        *Density Estimation Using Real NVP* (Dinh et al., 2016), arXiv 1605.08803; *Masked Autoregressive Flow for
        Density Estimation* (Papamakarios et al., 2017), arXiv 1705.07057; *Neural Spline Flows* (Durkan et al., 2019),
        arXiv 1906.04032; as a prior: *Variational Lossy Autoencoder* (Chen et al., 2016), arXiv 1611.02731

    Example:
        >>> Flow(4, kind="spline_coupling")().sample((3,)).shape
        torch.Size([3, 4])
    """

    loc: Tensor
    scale: Tensor

    def __init__(
        self, latent_dim: int, kind: str = "affine_coupling", layers: int = 4, hidden: Sequence[int] = (64,)
    ) -> None:
        super().__init__()
        self.latent_dim = positive_integer("latent_dim", latent_dim, at_least=2)
        self.maps = flows.Maps(self.latent_dim, kind=kind, layers=layers, hidden=hidden)
        self.kind, self.layers, self.hidden = kind, layers, tuple(hidden)
        self.register_buffer("loc", torch.zeros(latent_dim))
        self.register_buffer("scale", torch.ones(latent_dim))

    def forward(self, **batch: Any) -> dist.TorchDistribution:
        noise = dist.Normal(self.loc, self.scale).to_event(1)
        return dist.TransformedDistribution(noise, [transform.inv for transform in reversed(self.maps())])
