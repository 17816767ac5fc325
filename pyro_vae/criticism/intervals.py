"""Coverage of central intervals, for ranks of latents and for probability integral transforms of data."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["LEVELS", "central_coverage"]

LEVELS = (0.5, 0.8, 0.9, 0.95)


def central_coverage(transforms: Tensor, levels: Sequence[float]) -> Tensor:
    """Share of rows that lie in the central interval of each level, by column: (N, *E) in [0, 1] -> (levels, *E)."""
    distance = (transforms - 0.5).abs()
    return torch.stack([(distance <= level / 2).double().mean(0) for level in levels])
