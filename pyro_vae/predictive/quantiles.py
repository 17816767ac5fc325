"""Quantiles of draws."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["sample_quantiles"]


def sample_quantiles(draws: Tensor, levels: Sequence[float]) -> Tensor:
    """Quantiles along the first dimension by linear interpolation: (S, ...) -> (Q, ...).

    They are those of `torch.quantile`, which takes no more than 16 million numbers and computes the places of the
    levels in the precision of the draws.

    Args:
        draws: S draws of numbers, (S, ...).
        levels: Q probabilities.

    Example:
        >>> sample_quantiles(torch.tensor([[1.0], [9.0], [2.0]]), (0.5, 0.75))
        tensor([[2.0000],
                [5.5000]])
    """
    real = draws if draws.is_floating_point() else draws.double()
    place = torch.tensor(levels, dtype=torch.float64) * (len(draws) - 1)
    ordered = real.sort(0).values
    low = place.floor().long()
    share = (place - low).to(real).reshape(-1, *[1] * (draws.dim() - 1))
    return ordered[low].lerp(ordered[(low + 1).clamp_max(len(draws) - 1)], share)
