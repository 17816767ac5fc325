"""Priors p(z): parts whose `forward` returns the distribution of one row's latent.

To add one: subclass `Prior`, keep `latent_dim`, return a distribution with event shape (latent_dim,) and empty
batch shape, and add one line to `tests/cases.py`.
"""

from __future__ import annotations

from abc import abstractmethod

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyro_vae.parts import Part, positive, positive_integer

__all__ = ["Normal", "Prior"]


class Prior(Part):
    """Base of the priors.

    Attributes:
        latent_dim: D, the size of one row's latent.
    """

    latent_dim: int

    @abstractmethod
    def forward(self, **batch: Tensor) -> dist.TorchDistribution:
        """p(z), or p(z | fields) where the batch brings fields: batch shape () or (B,), event shape (D,)."""


class Normal(Prior):
    """Independent normal latents: z ~ N(0, I), or with learned means and scales.

    Args:
        latent_dim: D.
        learn: whether mean and scale of each latent are trained with the model.

    Raises:
        ValueError: if `latent_dim` is not a positive integer.

    References:
        *Auto-Encoding Variational Bayes* (Kingma, Welling, 2013), arXiv 1312.6114

    Example:
        >>> Normal(2)().log_prob(torch.zeros(2)).item()
        -1.8378770351409912
    """

    scale: Tensor

    def __init__(self, latent_dim: int, learn: bool = False) -> None:
        super().__init__()
        self.latent_dim, self.learn = positive_integer("latent_dim", latent_dim), learn
        loc, raw = torch.zeros(latent_dim), torch.zeros(latent_dim)
        if learn:
            self.loc, self.raw_scale = nn.Parameter(loc), nn.Parameter(raw)
        else:
            self.register_buffer("loc", loc)
            self.register_buffer("scale", torch.ones(latent_dim))

    def forward(self, **batch: Tensor) -> dist.TorchDistribution:
        scale = positive(self.raw_scale) if self.learn else self.scale
        return dist.Normal(self.loc, scale).to_event(1)
