"""What the columns of x are like: constant ones, and those that lose their digits in a cast."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from pyro_vae.data.rows import Rows

__all__ = ["Ranges", "named_columns", "warn_of_lost_digits", "warn_of_lost_integers"]


class Ranges:
    """The smallest and the largest observed value of each cell of a row, over rows that come in pieces."""

    def __init__(self) -> None:
        self.num_rows, self.low, self.high = 0, torch.zeros(()), torch.zeros(())

    def add(self, x: Tensor, observed: Tensor | None = None) -> None:
        """Take account of further rows, of all cells or of those that are observed."""
        if observed is None:
            low, high = x.amin(0), x.amax(0)
        else:
            low = torch.where(observed, x, torch.inf).amin(0)
            high = torch.where(observed, x, -torch.inf).amax(0)
        if self.num_rows:
            low, high = torch.minimum(low, self.low), torch.maximum(high, self.high)
        self.num_rows, self.low, self.high = self.num_rows + len(x), low, high

    def empty(self) -> Tensor:
        """Which cells are observed in no row."""
        return self.low > self.high

    def constant(self) -> Tensor:
        """Which cells have one value in all rows; of a single row none."""
        return (self.low == self.high) & (self.num_rows > 1)


def named_columns(chosen: Tensor, rows: Rows) -> str:
    """The names, or else the numbers, of the columns that are chosen, at most eight, and how many these are."""
    numbers = chosen.flatten().nonzero().flatten().tolist()
    names = [repr(rows.columns[i]) if rows.columns else str(i) for i in numbers]
    listed = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
    return f"{listed} ({len(names)} of {chosen.numel()})"


def warn_of_lost_digits(data: Rows | DataLoader[Any], like: Tensor) -> None:
    """Warn of columns that vary only in digits which are lost in the cast to the parameters' dtype."""
    if not isinstance(data, Rows) or not _may_lose_digits(data.dtype, like.dtype):
        return
    mean, std = _mean_and_std(data)
    lost = _varies_in_lost_digits(mean, std, like.dtype)
    if lost.any():
        names = [data.columns[i] if data.columns else str(i) for i in lost.nonzero().flatten().tolist()]
        kept = not _varies_in_lost_digits(mean, std, torch.float64).any()
        remedy = (
            ", or train a model in float64: model.double()" if kept else " before they become floating-point numbers"
        )
        warnings.warn(
            f"Columns {', '.join(names[:8])} of x vary in digits that {like.dtype} does not hold. Subtract a constant"
            f"{remedy}.",
            stacklevel=5,
        )


def warn_of_lost_integers(names: list[str], columns: list[np.ndarray]) -> None:
    """Warn of columns of integers that vary only in digits which are lost as they become float64."""
    lost = []
    for name, column in zip(names, columns, strict=True):
        if column.dtype.kind in "iu" and column.dtype.itemsize == 8 and len(column):
            low, high = int(column.min()), int(column.max())
            if high > low and (high - low) < 1e3 * np.finfo(np.float64).eps * max(abs(low), abs(high)):
                lost.append(name)
    if lost:
        warnings.warn(
            f"Columns {', '.join(lost[:8])} of x vary in digits that float64 does not hold. Subtract a constant from"
            " these integers first.",
            stacklevel=5,
        )


def _may_lose_digits(dtype: torch.dtype, target: torch.dtype) -> bool:
    if dtype == torch.bool:
        return False
    resolution = torch.finfo(dtype).eps if dtype.is_floating_point else 1 / torch.iinfo(dtype).max
    return resolution < torch.finfo(target).eps


def _varies_in_lost_digits(mean: Tensor, std: Tensor, dtype: torch.dtype) -> Tensor:
    return (std > 0) & (std < 1e3 * torch.finfo(dtype).eps * mean.abs())


def _mean_and_std(rows: Rows) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each cell over rows, merged from pieces; integers are centred before the cast.

    Missing cells are left out.
    """
    first = next(rows.pieces())[0].reshape(-1)
    origin = first if not first.is_floating_point() else torch.zeros_like(first)
    count, mean, squares = torch.zeros(()), torch.zeros(()), torch.zeros(())
    for part in rows.pieces():
        part = part.reshape(len(part), -1)
        part = part if part.is_floating_point() else (part - origin).double()
        seen = ~torch.isnan(part)
        number = seen.sum(0)
        total, own = count + number, part.nansum(0) / number.clamp_min(1)
        share = number / total.clamp_min(1)
        squares = squares + torch.where(seen, part - own, 0.0).square().sum(0) + (own - mean).square() * count * share
        mean = mean + (own - mean) * share
        count = total
    return mean + origin, (squares / count.clamp_min(1)).sqrt()
