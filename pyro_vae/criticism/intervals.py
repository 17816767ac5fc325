"""Tests of uniform ranks, and coverage of central intervals, for ranks of latents and for PIT values of data."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

__all__ = ["LEVELS", "central_coverage", "rank_bins", "rank_coverage", "rank_p_value"]

LEVELS = (0.5, 0.8, 0.9, 0.95)
FEWEST_EXPECTED = 2


def central_coverage(transforms: Tensor, levels: Sequence[float]) -> Tensor:
    """Share of rows that lie in the central interval of each level, by column: (N, *E) in [0, 1] -> (levels, *E)."""
    distance = (transforms - 0.5).abs()
    number = (~torch.isnan(distance)).sum(0)  # missing cells are NaN
    return torch.stack([(distance <= level / 2).double().sum(0) / number for level in levels])


def rank_coverage(ranks: Tensor, num_draws: int, levels: Sequence[float]) -> Tensor:
    """Expected `central_coverage` of the randomized ranks (rank + U) / (L + 1), U uniform: (N, C) -> (levels, C).

    It is the nominal level on average if ranks from 0 to L are uniform, for every L. A rank whose cell of width
    1 / (L + 1) is cut by an end of the interval counts as the share of the cell inside.
    """
    size = num_draws + 1
    start = ranks.double()
    shares = []
    for level in levels:
        low, high = size * (1 - level) / 2, size * (1 + level) / 2
        inside = (start + 1).clamp_max(high) - start.clamp_min(low)
        shares.append(inside.clamp_min(0).mean(0))
    return torch.stack(shares)


def rank_bins(num_rows: int, num_draws: int) -> np.ndarray:
    """The bin of each rank 0, ..., L in a test of uniformity, (L + 1,), numbered from 0.

    There are up to 20 bins, of sizes as equal as L + 1 allows: one for ten rows, but at least 8 if two rows can be
    expected in each. There are never fewer than three bins, since two cannot see a wrong width.
    """
    size = num_draws + 1
    most = min(size, 20, max(num_rows // 10, 8))
    enough = (b for b in range(most, 3, -1) if num_rows * (size // b) >= FEWEST_EXPECTED * size)
    return np.arange(size) * next(enough, min(3, size)) // size


def rank_p_value(ranks: Tensor, num_draws: int) -> float:
    """p-value of the chi-square test that ranks from 0 to L, (N,), are uniform."""
    from scipy.stats import chisquare

    bins = rank_bins(len(ranks), num_draws)
    counts = np.bincount(bins[ranks.cpu().numpy()], minlength=bins[-1] + 1)
    return float(chisquare(counts, len(ranks) * np.bincount(bins) / len(bins)).pvalue)
