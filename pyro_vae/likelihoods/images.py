"""Images with a finite number of levels."""

from __future__ import annotations

from collections.abc import Sequence

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor

from pyro_vae import distributions
from pyro_vae.arguments import positive_integer
from pyro_vae.likelihoods.base import Likelihood
from pyro_vae.parts import as_scale

__all__ = ["DiscretizedLogistic"]


class DiscretizedLogistic(Likelihood):
    """Levels 0 to L - 1, such as 8-bit pixels: p(x) = sum_c w_c [F_c(x + 1/2) - F_c(x - 1/2)].

    F_c is a logistic distribution function. The decoder gives its location and scale, and the weights w, for each row
    and cell; levels 0 and L - 1 take the tails. The locations start at each cell's mean, and the scales where the
    standard deviation is the cell's. The channels of a pixel are independent given z, unlike in PixelCNN++.

    Args:
        event_shape: E.
        levels: L, the number of levels.
        num_components: C, the number of logistic distributions that are mixed in each cell.

    Raises:
        ValueError: if `levels` is not an integer of at least 2 or `num_components` not a positive one.

    References:
        *PixelCNN++* (Salimans et al., 2017), arXiv 1701.05517; in a variational autoencoder: *Improved Variational
        Inference with Inverse Autoregressive Flow* (Kingma et al., 2016), arXiv 1606.04934

    Example:
        >>> DiscretizedLogistic((3, 8, 8)).output_shape, DiscretizedLogistic((3, 8, 8), num_components=5).output_shape
        ((6, 8, 8), (45, 8, 8))
    """

    support_advice = "Correct levels, or do not scale the data."
    discrete = True
    shift: Tensor
    unit: Tensor

    def __init__(self, event_shape: int | Sequence[int], levels: int = 256, num_components: int = 1) -> None:
        super().__init__(event_shape)
        self.levels = positive_integer("levels", levels, at_least=2)
        self.support = constraints.integer_interval(0, self.levels - 1)
        self.num_components = positive_integer("num_components", num_components)
        self.outputs_per_cell = 2 if num_components == 1 else 3 * self.num_components
        self.register_buffer("shift", torch.full(self.event_shape, (levels - 1) / 2))
        self.register_buffer("unit", torch.full(self.event_shape, levels / 4))

    def forward(self, outputs: Tensor, **batch: Tensor) -> dist.TorchDistribution:
        dims = len(self.event_shape)
        parts = outputs.unflatten(-dims, (self.outputs_per_cell, self.event_shape[0])).movedim(-dims - 1, -1)
        loc, raw, *logits = parts.split(self.num_components, -1)
        shift, unit = self.shift.unsqueeze(-1), self.unit.unsqueeze(-1)
        scale = unit * 3**0.5 / torch.pi * as_scale(raw)  # the standard logistic's standard deviation is pi / sqrt(3)
        weights = logits[0] if logits else torch.zeros_like(loc)
        cells = distributions.DiscretizedLogistic(shift + unit * loc, scale, weights, self.levels)
        return cells.to_event(dims)  # type: ignore[no-any-return]

    def features(self, x: Tensor) -> Tensor:
        return 2 * x / (self.levels - 1) - 1

    def initialize(self, x: Tensor, **batch: Tensor) -> None:
        self.shift.copy_(x.mean(0))
        self.unit.copy_(x.std(0, correction=0).clamp_min(1.0))
