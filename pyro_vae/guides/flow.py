"""Normalizing flows as guides."""

from __future__ import annotations

from collections.abc import Sequence

import pyro.distributions as dist
from torch import Tensor

from pyro_vae.arguments import positive_integer
from pyro_vae.guides.base import Guide
from pyro_vae.nets import flows
from pyro_vae.parts import as_scale

__all__ = ["Flow"]


class Flow(Guide):
    """A normal sent through learned invertible maps that see a context from the encoder.

    The maps run from the noise to z: draws and their densities take one pass, which is the inverse autoregressive
    flow (IAF) for kind "affine_autoregressive". The density of a z that comes from elsewhere takes D passes there.

    Args:
        latent_dim: D, at least 2.
        kind: "affine_autoregressive", "affine_coupling", "spline_autoregressive" or "spline_coupling".
        layers: how many maps.
        hidden: widths of the net inside each map.
        context_dim: C, the encoder's numbers per row that every map sees.

    Raises:
        ValueError: if the kind is unknown or a size is out of range.

    References:
        *Improving Variational Inference with Inverse Autoregressive Flow* (Kingma et al., 2016), arXiv 1606.04934;
        *Neural Spline Flows* (Durkan et al., 2019), arXiv 1906.04032
    """

    def __init__(
        self,
        latent_dim: int,
        kind: str = "affine_autoregressive",
        layers: int = 2,
        hidden: Sequence[int] = (64,),
        context_dim: int = 16,
    ) -> None:
        super().__init__()
        self.latent_dim = positive_integer("latent_dim", latent_dim, at_least=2)
        self.context_dim = positive_integer("context_dim", context_dim)
        self.maps = flows.Maps(latent_dim, kind=kind, layers=layers, hidden=hidden, context_dim=context_dim)
        self.kind, self.layers, self.hidden = kind, layers, tuple(hidden)

    def parameter_shape(self, latent_dim: int) -> tuple[int, ...]:
        if latent_dim != self.latent_dim:
            raise ValueError(
                f"latent_dim must be that of the prior, {latent_dim}; got guides.Flow({self.latent_dim})."
                f" Pass guides.Flow({latent_dim})."
            )
        return (2 * latent_dim + self.context_dim,)

    def forward(self, parameters: Tensor) -> dist.TorchDistribution:
        loc, raw, context = parameters.split((self.latent_dim, self.latent_dim, self.context_dim), -1)
        noise = dist.Normal(loc, as_scale(raw)).to_event(1)
        return dist.TransformedDistribution(noise, self.maps(context))
