"""Positive cells."""

from __future__ import annotations

from collections.abc import Sequence

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor

from pyro_vae import distributions
from pyro_vae.likelihoods.base import Likelihood
from pyro_vae.likelihoods.scales import LocationScale, Scaled

__all__ = ["Gamma", "LogNormal"]


class Gamma(Scaled):
    """Positive cells: x ~ Gamma(shape, rate), with mean shape / rate = exp(log_mean + output), variance mean^2 / shape.

    log_mean is the logarithm of each cell's mean; outputs are clamped to [-40, 40].

    Args:
        event_shape: E.
        dispersion: where the shape comes from: "shared" (one learned number), "per_dimension" (one learned for each
            cell) or "predicted" (by the decoder, for each row and cell).

    Raises:
        ValueError: if `dispersion` is unknown.
    """

    support = constraints.positive
    log_mean: Tensor

    def __init__(self, event_shape: int | Sequence[int], dispersion: str = "shared") -> None:
        super().__init__(event_shape, "dispersion", dispersion)
        self.dispersion = dispersion
        self.register_buffer("log_mean", torch.zeros(self.event_shape))

    def forward(self, outputs: Tensor, **batch: Tensor) -> dist.TorchDistribution:
        output, shape = self.split(outputs)
        rate = shape * (-self.log_mean - output.clamp(-40, 40)).exp()
        return distributions.Gamma(shape, rate).to_event(len(self.event_shape))

    def features(self, x: Tensor) -> Tensor:
        return x.log() - self.log_mean

    def initialize(self, x: Tensor, **batch: Tensor) -> None:
        mean = x.mean(0)
        self.log_mean.copy_(mean.log())
        relative = (x / mean - 1).square().mean(0)
        self.start_unit(torch.ones_like(relative), relative)


class LogNormal(LocationScale):
    """Positive cells with a normal logarithm: log x ~ Normal(loc, scale^2).

    The network works on standardized values of log x.

    Args:
        event_shape: E.
        scale: where the standard deviation of log x comes from: "shared", "per_dimension", "predicted" or "fixed"; see
            `Normal`.
        fixed_scale: the standard deviation of log x where `scale` is "fixed".
        standardize: whether the network works on standardized logarithms.

    Raises:
        ValueError: if `scale` is unknown or `fixed_scale` not positive.
    """

    support = constraints.positive
    support_advice = Likelihood.support_advice

    def to_real(self, x: Tensor) -> Tensor:
        return x.log()

    def family(self, loc: Tensor, scale: Tensor) -> dist.TorchDistribution:
        return dist.LogNormal(loc, scale)
