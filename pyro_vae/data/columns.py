"""What the columns of x are like: constant ones, and those that lose their digits in a cast."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from pyro_vae.data.rows import Rows

__all__ = ["warn_of_lost_digits"]


def warn_of_lost_digits(data: Rows | DataLoader[Any], like: Tensor) -> None:
    """Warn of columns that vary only in digits which are lost in the cast to the parameters' dtype."""
    if not isinstance(data, Rows) or torch.finfo(data.dtype if data.dtype.is_floating_point else like.dtype).eps >= (
        torch.finfo(like.dtype).eps
    ):
        return
    mean, std = _mean_and_std(data)
    lost = ((std > 0) & (std < 1e3 * torch.finfo(like.dtype).eps * mean.abs())).nonzero().flatten()
    if len(lost):
        names = [data.columns[i] if data.columns else str(i) for i in lost.tolist()]
        warnings.warn(
            f"Columns {', '.join(names[:8])} of x vary in digits that {like.dtype} does not hold. Subtract a constant,"
            " or train a model in float64: model.double().",
            stacklevel=5,
        )


def _mean_and_std(rows: Rows) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each cell over rows, merged from pieces."""
    count, mean, squares = 0, torch.zeros(()), torch.zeros(())
    for part in rows.pieces():
        part = part.reshape(len(part), -1)
        total, own = count + len(part), part.mean(0)
        squares = squares + (part - own).square().sum(0) + (own - mean).square() * count * len(part) / total
        mean = mean + (own - mean) * len(part) / total
        count = total
    return mean, (squares / count).sqrt()
