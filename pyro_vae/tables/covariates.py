"""Columns that are covariates: from the kind of a column to the kind of a covariate, and from codes to values."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_vae.covariates import Covariate, Levels, Real, Time
from pyro_vae.data.tensors import as_tensor
from pyro_vae.tables.columns import Column, as_time
from pyro_vae.tables.kinds import Kind
from pyro_vae.tables.kinds import Time as TimeKind

__all__ = ["codes_of", "covariate_of", "field_of"]


def covariate_of(kind: Kind) -> Covariate:
    """The kind of covariate for a column of this kind: levels, or numbers or times that are standardized."""
    if hasattr(kind, "levels"):
        return Levels(_levels_of(kind))
    if isinstance(kind, TimeKind) and kind.origin is not None:
        return Time(as_time(kind.origin, kind.unit))
    return Real()


def field_of(kind: Kind, column: Column) -> Tensor:
    """The cells of a column as a field that the covariate takes, (N,).

    Raises:
        TypeError, ValueError: if a cell contradicts the kind, or is missing.
    """
    codes = np.array(kind.encode(column))  # a copy: those of a frame may be its own memory, which is read-only
    gaps = np.isnan(codes)
    if gaps.any():
        raise ValueError(
            f"column {column.name!r} must have no missing cells as a covariate; got {int(gaps.sum()):,}, the first in"
            f" row {int(np.argmax(gaps))}. Drop these rows, or train a new model with this column among those of x."
        )
    if not hasattr(kind, "levels"):
        return torch.tensor(codes)
    return torch.tensor(_numbers_of(kind))[torch.from_numpy(codes).long()]


def codes_of(kind: Kind, values: Any) -> np.ndarray:
    """The cells of a field as the codes that the kind decodes, (N,) in float64."""
    numbers = as_tensor(values, "a covariate").double()
    if hasattr(kind, "levels"):
        numbers = (numbers.unsqueeze(-1) == torch.tensor(_numbers_of(kind))).double().argmax(-1)
    return numbers.double().cpu().numpy()


def _levels_of(kind: Any) -> list[str] | list[int]:
    """The levels of a kind as those of a covariate: whole numbers as they are, all others as text."""
    if all(isinstance(level, int | float) and level == round(level) for level in kind.levels):
        return [int(level) for level in kind.levels]
    return [str(level) for level in kind.levels]


def _numbers_of(kind: Any) -> list[int]:
    """The numbers that stand for the levels of a kind in a tensor."""
    levels = _levels_of(kind)
    return [level if isinstance(level, int) else code for code, level in enumerate(levels)]
