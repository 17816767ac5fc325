"""The base class of kinds of covariates."""

from __future__ import annotations

import warnings
from abc import abstractmethod
from typing import Any

import numpy as np
from torch import Tensor

from pyro_vae.data.tensors import as_tensor
from pyro_vae.parts import Part

__all__ = ["Covariate", "as_cells", "as_numbers", "is_missing", "warn_if_constant"]


class Covariate(Part):
    """Base class of the kinds of covariates: from the user's values to numbers, and from these to inputs of nets.

    Attributes:
        shape: the shape of the values of one row, () for one number.
        size: F, how many numbers reach a net.
    """

    shape: tuple[int, ...] = ()
    size: int

    @property
    def level_names(self) -> list[str] | None:
        """The names of the levels, in the order of their codes; None where numbers stand for themselves."""
        return None

    def read(self, name: str, values: Any) -> Tensor:
        """The user's values, one for each row or a single one, as numbers.

        Raises:
            TypeError, ValueError: if they are not of this kind, or one is missing.
        """
        cells = as_cells(values)
        self.refuse_missing(name, cells)
        if not isinstance(cells, Tensor) and cells.dtype.kind == "O":
            cells = as_numbers(name, cells)
        return as_tensor(cells, f"covariate {name!r}")

    def refuse_missing(self, name: str, cells: Any) -> None:
        """Raise a ValueError if a value is missing."""
        if isinstance(cells, Tensor):
            gaps = cells.isnan().numpy(force=True) if cells.is_floating_point() else np.zeros(1, bool)
        elif cells.dtype.kind == "f":
            gaps = np.isnan(cells)
        else:
            gaps = np.array([is_missing(cell) for cell in cells.reshape(-1)], bool).reshape(cells.shape)
        if gaps.any():
            row = f" in row {np.argwhere(gaps)[0][0]}" if gaps.ndim else ""
            raise ValueError(
                f"covariate {name!r} must be known in every row; got a missing value{row} ({int(gaps.sum())} of"
                f" {gaps.size}). Make it a column of x instead, where missing cells are modelled, or drop these rows."
            )

    @abstractmethod
    def check(self, name: str, values: Tensor, first_row: int = 0) -> None:
        """Raise a ValueError unless these numbers, (B, *shape), are possible for this kind."""

    def check_shape(self, name: str, values: Tensor) -> None:
        """Raise a ValueError unless values have the shape (B, *shape)."""
        if tuple(values.shape[1:]) != self.shape:
            expected = ", ".join(map(str, ("rows", *self.shape))) + ("" if self.shape else ",")
            raise ValueError(
                f"covariate {name!r} must have shape ({expected}); got {tuple(values.shape)}. Give"
                f" {'one value' if not self.shape else 'values of this shape'} for each row."
            )

    def initialize(self, name: str, values: Tensor) -> None:
        """Set what is computed from the values of the training rows, (N, *shape); by default there is nothing."""

    @abstractmethod
    def forward(self, values: Tensor) -> Tensor:
        """Values (B, *shape) as inputs of a net, (B, F)."""


def as_cells(values: Any) -> Any:
    """A tensor as it is; anything else as an array, of objects where these are not numbers."""
    if isinstance(values, Tensor):
        return values.detach()
    cells = np.asarray(values)
    return cells if cells.dtype.kind in "biuf" else np.asarray(values, object)


def as_numbers(
    name: str,
    cells: np.ndarray,
    expected: str = "be numbers",
    advice: str = "Convert it; levels and dates are kinds of their own, such as ['A', 'B'] and 'time'.",
) -> np.ndarray:
    """Cells of an array of objects as numbers; raises a ValueError if one is none."""
    for row, cell in enumerate(cells.reshape(-1)):
        if isinstance(cell, str) or not isinstance(cell, int | float | np.number | np.bool_):
            where = f" in row {row}" if cells.ndim else ""
            raise ValueError(f"covariate {name!r} must {expected}; got {cell!r}{where}. {advice}")
    return cells.astype(np.float64)


def is_missing(cell: Any) -> bool:
    """Whether a cell of an array of objects stands for a missing value: None, NaN, or the marks of pandas."""
    if cell is None or type(cell).__name__ in ("NAType", "NaTType"):
        return True
    return isinstance(cell, float | np.floating) and bool(np.isnan(cell))


def warn_if_constant(name: str, values: Tensor) -> None:
    """Warn if all rows, of which there are several, have the same value."""
    if len(values) > 1 and bool((values == values[0]).all()):
        warnings.warn(
            f"covariate {name!r} is constant in the {len(values):,} rows that the model starts from: a model can't"
            " learn what other values mean. Leave it out, or train on rows where it varies.",
            stacklevel=2,
        )


def first_bad(values: Tensor, bad: Tensor, first_row: int) -> tuple[Any, str]:
    """The first of the values that are bad, and the place of its row in words; empty for a single value."""
    place = tuple(int(i) for i in bad.nonzero()[0])
    return values[place].item(), f" in row {first_row + place[0]}" if place else ""
