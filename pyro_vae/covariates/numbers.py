"""Covariates that are numbers."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence

import torch
from torch import Tensor

from pyro_vae.covariates.base import Covariate, first_bad, warn_if_constant
from pyro_vae.data.tensors import check_finite
from pyro_vae.parts import as_event_shape

__all__ = ["Binary", "Real"]


class _Numbers(Covariate):
    """Base class of numbers, of which a row has one, or an array of the same shape in every row."""

    def __init__(self, shape: int | Sequence[int] = ()) -> None:
        super().__init__()
        self.shape = () if shape == () or shape == [] else as_event_shape(shape)
        self.size = math.prod(self.shape)

    def flattened(self, values: Tensor) -> Tensor:
        """Values (..., *shape) as (..., F)."""
        return values.reshape(*values.shape[: values.dim() - len(self.shape)], self.size)


class Real(_Numbers):
    """Real numbers, standardized by mean and standard deviation of the training rows before they reach a net.

    Of a `DataLoader` these are the rows of its first batch. A warning names values that lie further from these rows
    than the width of their range, as in another unit.

    Args:
        shape: the shape of the values of one row, such as (1, 28, 28) for an image, each of which is standardized by
            itself; () for one number.

    Raises:
        ValueError: if a size is not positive.
    """

    mean: Tensor
    std: Tensor
    ends: Tensor  # the smallest and the largest value of the rows that it is standardized by

    def __init__(self, shape: int | Sequence[int] = ()) -> None:
        super().__init__(shape)
        self.register_buffer("mean", torch.zeros(self.shape))
        self.register_buffer("std", torch.ones(self.shape))
        self.register_buffer("ends", torch.tensor([-torch.inf, torch.inf]))

    def check(self, name: str, values: Tensor, first_row: int = 0) -> None:
        self.check_shape(name, values)
        check_finite(f"covariate {name!r}", values, first_row)
        low, high = self.ends
        far = (values < low - (high - low)) | (values > high + (high - low))
        if far.any():
            value, where = first_bad(values, far, first_row)
            warnings.warn(
                f"covariate {name!r} lies far outside of the rows by which it was standardized, {low:g} to {high:g}:"
                f" {value:g}{where}. The model extrapolates; check the unit.",
                stacklevel=2,
            )

    def initialize(self, name: str, values: Tensor) -> None:
        wide, resolution = values.double(), torch.finfo(self.mean.dtype).eps
        std, mean = wide.std(0, correction=0), wide.mean(0)
        if not self.shape:
            warn_if_constant(name, values)
        if ((std > 0) & (std < 1e3 * resolution * mean.abs())).any():
            warnings.warn(
                f"covariate {name!r} varies in digits that {self.mean.dtype} does not hold. Subtract a constant.",
                stacklevel=2,
            )
        self.ends.copy_(torch.stack([wide.min(), wide.max()]))
        self.mean.copy_(mean)
        self.std.copy_(torch.where(std > 0, std, 1.0))

    def forward(self, values: Tensor) -> Tensor:
        return self.flattened((values.to(self.mean) - self.mean) / self.std)


class Binary(_Numbers):
    """0 or 1, or False or True. For two levels with names, list them: `["control", "treated"]`.

    Args:
        shape: the shape of the values of one row; () for one number.

    Raises:
        ValueError: if a size is not positive.
    """

    def check(self, name: str, values: Tensor, first_row: int = 0) -> None:
        self.check_shape(name, values)
        bad = (values != 0) & (values != 1)
        if bad.any():
            value, where = first_bad(values, bad, first_row)
            raise ValueError(
                f"covariate {name!r} must be 0 or 1; got {value:g}{where}. Recode it, or list its levels: [1, 2]."
            )

    def initialize(self, name: str, values: Tensor) -> None:
        if not self.shape:
            warn_if_constant(name, values)

    def forward(self, values: Tensor) -> Tensor:
        return self.flattened(values if values.is_floating_point() else values.to(torch.get_default_dtype()))
