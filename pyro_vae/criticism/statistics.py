"""Statistics for predictive checks: functions of data x (N, *E).

A statistic whose result has one entry for each row is a *statistic of rows*. Any other is a *statistic of the data
set*: a number, or an array, such as one number for each column. Any function of x can be a statistic; the ones here are
ready to use. They leave out missing cells, which are NaN, and are 0 where no cell is observed.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from pyro_vae.arguments import is_number, positive_integer
from pyro_vae.data.tensors import as_tensor
from pyro_vae.predictive.quantiles import sample_quantiles

__all__ = [
    "Statistic",
    "correlation",
    "largest",
    "mean",
    "on_cells",
    "quantile",
    "row_largest",
    "row_mean",
    "row_standard_deviation",
    "row_total",
    "variance",
    "zero_fraction",
]

Statistic = Callable[..., Any]  # of x, and of the fields that its further parameters name


def _on_rows(function: Statistic) -> Statistic:
    """Let the function accept data of any form, converted to real numbers, with at least one row and column."""

    @functools.wraps(function)
    def checked(x: Any) -> Tensor:
        values = as_tensor(x)
        if values.dim() == 0 or values.numel() == 0:
            raise ValueError(f"x must be at least one row; got shape {tuple(values.shape)}. Pass rows of data.")
        return function(values if values.dtype in (torch.float32, torch.float64) else values.double())

    return checked


def _mean(x: Tensor, dim: int) -> Tensor:
    """Mean over the observed cells along a dimension."""
    gaps = torch.isnan(x)
    return x.nansum(dim) / (~gaps).sum(dim).clamp_min(1) if gaps.any() else x.mean(dim)


def _largest(x: Tensor, dim: int) -> Tensor:
    """Largest observed cell along a dimension."""
    gaps = torch.isnan(x)
    return torch.where(gaps.all(dim), 0.0, x.masked_fill(gaps, -torch.inf).amax(dim)) if gaps.any() else x.amax(dim)


@_on_rows
def mean(x: Tensor) -> Tensor:
    """Mean of each column, (*E)."""
    return _mean(x, 0)


@_on_rows
def variance(x: Tensor) -> Tensor:
    """Variance of each column, (*E)."""
    if len(x) < 2:
        raise ValueError(f"x must be at least two rows to have a variance; got {len(x)}. Pass more rows.")
    gaps = torch.isnan(x)
    if not gaps.any():
        return x.var(0)
    return (x - _mean(x, 0)).square().nansum(0) / ((~gaps).sum(0) - 1).clamp_min(1)


@_on_rows
def zero_fraction(x: Tensor) -> Tensor:
    """Share of zeros in each column, (*E)."""
    return _mean((x == 0).to(x).masked_fill(torch.isnan(x), torch.nan), 0)


@_on_rows
def largest(x: Tensor) -> Tensor:
    """Largest value of each column, (*E)."""
    return _largest(x, 0)


def quantile(level: float) -> Statistic:
    """Make a statistic: the quantile of each column, (*E), with linear interpolation.

    Args:
        level: level of the quantile, from 0 to 1.

    Raises:
        ValueError: if `level` is not from 0 to 1.

    Example:
        >>> quantile(0.5)(torch.tensor([[1.0], [2.0], [9.0]]))
        tensor([2.])
    """
    if not is_number(level) or not 0 <= level <= 1:
        raise ValueError(f"level must be a number from 0 to 1; got {level!r}. Pass e.g. 0.9.")

    @_on_rows
    def statistic(x: Tensor) -> Tensor:
        if not torch.isnan(x).any():
            return sample_quantiles(x, [level])[0]
        return torch.nanquantile(x, level, dim=0).nan_to_num()

    return statistic


def correlation(first: int, second: int) -> Statistic:
    """Make a statistic: the correlation of two columns; 0 where one of them does not vary.

    Args:
        first: number of a column, from 0, in the flattened event.
        second: number of another column.

    Example:
        >>> round(float(correlation(0, 1)(torch.tensor([[1.0, 2.0], [2.0, 4.0], [3.0, 6.0]]))), 3)
        1.0
    """
    first, second = positive_integer("first", first, 0), positive_integer("second", second, 0)

    @_on_rows
    def statistic(x: Tensor) -> Tensor:
        cells = x.reshape(len(x), -1)
        if max(first, second) >= cells.shape[1]:
            raise ValueError(f"first and second must be below {cells.shape[1]}; got {first} and {second}. Lower them.")
        columns = cells[:, [first, second]]
        columns = columns[~torch.isnan(columns).any(1)]
        return torch.corrcoef(columns.T)[0, 1].nan_to_num()

    return statistic


@_on_rows
def row_total(x: Tensor) -> Tensor:
    """Sum of each row, (N,)."""
    return x.reshape(len(x), -1).nansum(1)


@_on_rows
def row_mean(x: Tensor) -> Tensor:
    """Mean of each row, (N,)."""
    return _mean(x.reshape(len(x), -1), 1)


@_on_rows
def row_standard_deviation(x: Tensor) -> Tensor:
    """Standard deviation within each row, (N,)."""
    cells = x.reshape(len(x), -1)
    if not torch.isnan(cells).any():
        return cells.std(1, correction=0)
    return _mean((cells - _mean(cells, 1).unsqueeze(1)).square(), 1).sqrt()


@_on_rows
def row_largest(x: Tensor) -> Tensor:
    """Largest value of each row, (N,)."""
    return _largest(x.reshape(len(x), -1), 1)


@_on_rows
def on_cells(x: Tensor) -> Tensor:
    """Number of cells above zero in each row, (N,), e.g. of pixels that are on."""
    return (x > 0).to(x).reshape(len(x), -1).sum(1)
