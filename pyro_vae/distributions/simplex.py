"""Transforms to proportions."""

from __future__ import annotations

import torch
from pyro.distributions import constraints
from torch import Tensor
from torch.distributions import Transform
from torch.nn.functional import pad

__all__ = ["AdditiveLogRatio"]


class AdditiveLogRatio(Transform):
    """From D - 1 log-ratios y to D proportions: z = softmax(y_1, ..., y_{D-1}, 0), so that y_i = log(z_i / z_D).

    The density on the simplex is with respect to the first D - 1 proportions.
    """

    domain = constraints.real_vector
    codomain = constraints.simplex
    bijective = True

    def __eq__(self, other: object) -> bool:
        return isinstance(other, AdditiveLogRatio)

    __hash__ = Transform.__hash__

    def _call(self, x: Tensor) -> Tensor:
        return pad(x, (0, 1)).softmax(-1)

    def _inverse(self, y: Tensor) -> Tensor:
        logs = y.clamp_min(torch.finfo(y.dtype).tiny).log()
        return logs[..., :-1] - logs[..., -1:]

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        return pad(x, (0, 1)).log_softmax(-1).sum(-1)

    def forward_shape(self, shape: tuple[int, ...]) -> torch.Size:
        return torch.Size((*shape[:-1], shape[-1] + 1))

    def inverse_shape(self, shape: tuple[int, ...]) -> torch.Size:
        return torch.Size((*shape[:-1], shape[-1] - 1))
