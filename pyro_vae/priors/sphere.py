"""Priors of latents that are directions."""

from __future__ import annotations

from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from pyro_vae import distributions
from pyro_vae.arguments import positive_integer, true_or_false
from pyro_vae.parts import as_scale
from pyro_vae.priors.base import Prior

__all__ = ["PowerSpherical"]


class PowerSpherical(Prior):
    """Unit vectors in D dimensions, uniform or around a learned direction; to be used with `guides.PowerSpherical`.

    Args:
        latent_dim: D, at least 2; the sphere has D - 1 dimensions.
        learn: whether the mean direction and the concentration are trained with the model.

    Raises:
        ValueError: if `latent_dim` is below 2.

    References:
        *Hyperspherical Variational Auto-Encoders* (Davidson et al., 2018), arXiv 1804.00891; the family is that of
        *The Power Spherical Distribution* (De Cao, Aziz, 2020), arXiv 2006.04437
    """

    loc: Tensor
    concentration: Tensor

    def __init__(self, latent_dim: int, learn: bool = False) -> None:
        super().__init__()
        self.latent_dim = positive_integer("latent_dim", latent_dim, at_least=2)
        self.learn = true_or_false("learn", learn)
        if learn:
            self.raw_loc, self.raw_concentration = nn.Parameter(torch.ones(latent_dim)), nn.Parameter(torch.zeros(()))
        else:
            self.register_buffer("loc", torch.eye(latent_dim)[0])
            self.register_buffer("concentration", torch.zeros(()))

    def forward(self, **batch: Any) -> dist.TorchDistribution:
        if self.learn:
            return distributions.PowerSpherical(normalize(self.raw_loc, dim=-1), as_scale(self.raw_concentration))
        return distributions.PowerSpherical(self.loc, self.concentration)
