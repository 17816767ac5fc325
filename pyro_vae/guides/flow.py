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
    """Normal noise sent through learned invertible maps that depend on a context from the encoder.

    The maps run from the noise to z, so that a draw and its density take one pass. With kind "affine_autoregressive"
    this is the inverse autoregressive flow (IAF). With autoregressive maps, the density at a z that was not drawn here
    takes D passes.

    A VAE tells the guide the number of latents D, at least 2. In a program of your own call `prepare(latent_dim)`.

    Args:
        kind: "affine_autoregressive", "affine_coupling", "spline_autoregressive" or "spline_coupling".
        layers: number of maps.
        hidden: widths of the net inside each map; at least D where the maps are autoregressive.
        context_dim: C, how many numbers of the encoder's output make the context.

    Raises:
        ValueError: if the kind is unknown or a size is out of range.

    References:
        *Improving Variational Inference with Inverse Autoregressive Flow* (Kingma et al., 2016), arXiv 1606.04934;
        *Neural Spline Flows* (Durkan et al., 2019), arXiv 1906.04032
    """

    def __init__(
        self,
        kind: str = "affine_autoregressive",
        layers: int = 2,
        hidden: Sequence[int] = (64,),
        context_dim: int = 16,
    ) -> None:
        super().__init__()
        self.kind, self.layers, self.hidden = flows.check_arguments(kind, layers, hidden)
        self.context_dim = positive_integer("context_dim", context_dim)
        self.latent_dim: int | None = None
        self.maps: flows.Maps | None = None

    def prepare(self, latent_dim: int) -> None:
        if latent_dim < 2:
            raise ValueError(
                f"prior must have at least 2 latents for guides.Flow; got {latent_dim}. Choose guides.Normal, or more."
            )
        if self.maps is None or not self.in_use:
            self.latent_dim = latent_dim
            self.maps = flows.Maps(
                latent_dim, kind=self.kind, layers=self.layers, hidden=self.hidden, context_dim=self.context_dim
            )
        elif latent_dim != self.latent_dim:
            raise ValueError(
                f"guide must be a Flow for {latent_dim} latents, those of the prior; got one that is in use for"
                f" {self.latent_dim}. Make another guides.Flow."
            )

    def parameter_shape(self, latent_dim: int) -> tuple[int, ...]:
        return (2 * latent_dim + self.context_dim,)

    def forward(self, parameters: Tensor) -> dist.TorchDistribution:
        if self.maps is None or self.latent_dim is None:
            raise ValueError("guide must know the number of latents; got a new Flow. Call prepare(latent_dim) first.")
        loc, raw, context = parameters.split((self.latent_dim, self.latent_dim, self.context_dim), -1)
        noise = dist.Normal(loc, as_scale(raw)).to_event(1)
        return dist.TransformedDistribution(noise, self.maps(context))
