"""Columns of levels: two of them, several with an order, several without."""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np

from pyro_vae import likelihoods
from pyro_vae.likelihoods import Likelihood
from pyro_vae.tables.columns import Column, Level, key_of, plain_levels, shown
from pyro_vae.tables.kinds.base import Kind

__all__ = ["Binary", "Categorical", "Ordinal"]


@dataclass(frozen=True)
class _Levels(Kind):
    """Base of the kinds of levels: cells become the codes 0, ..., C - 1.

    Args:
        levels: the levels, in the order of their codes; without any, those of the column.

    Raises:
        TypeError: if the levels are not text, numbers, True or False.
        ValueError: if there is one level, or one occurs twice.
    """

    levels: Sequence[Level] = ()

    sorts: ClassVar[tuple[str, ...]] = ("text", "levels", "int", "float", "bool")

    def __post_init__(self) -> None:
        if isinstance(self.levels, str) or not isinstance(self.levels, Sequence):
            raise TypeError(f"levels must be a list of levels; got {self.levels!r}. Pass e.g. ['low', 'high'].")
        object.__setattr__(self, "levels", plain_levels(f"the kind {self.name!r}", self.levels))
        if len(self.levels) == 1:
            raise ValueError(f"levels must be at least two; got {self.levels[0]!r} alone. Name the others.")

    def fit(self, column: Column) -> Self:
        self.check_sort(column)
        column.check_numbers()
        if not self.levels and len(self.levels_of(column)) < 2:
            raise ValueError(
                f"column {column.name!r} must have two levels or more for the kind {self.name!r}; got"
                f" {shown(self.levels_of(column), 1)}. Pass {type(self).__name__}([...]) with all, or leave it out."
            )
        found = self if self.levels else dataclasses.replace(self, levels=self.levels_of(column))
        found.encode(column)
        return found

    def levels_of(self, column: Column) -> tuple[Level, ...]:
        """The levels of a column, in order."""
        return column.coded()[1]

    def encode(self, column: Column) -> np.ndarray:
        self.check_sort(column)
        if column.sort not in self.sorts:
            return np.full(len(column), np.nan)
        column.check_numbers()
        codes, levels = column.coded()
        known = {key_of(level): float(code) for code, level in enumerate(self.levels)}
        own_codes = np.array([*(known.get(key_of(level), np.nan) for level in levels), np.nan])
        encoded: np.ndarray = own_codes[np.where(column.observed, codes, len(levels)).astype(np.int64)]
        self.refuse_unseen(column, column.observed & np.isnan(encoded))
        return encoded

    def refuse_unseen(self, column: Column, cells: np.ndarray) -> None:
        """Raise a ValueError if there are cells with a level that the kind does not have."""
        advice = "Correct these cells, or drop these rows; a column of x may mark them as missing."
        column.refuse(cells, f"have one of the levels {shown(self.levels, 12)}", advice)

    def decode(self, values: np.ndarray) -> np.ndarray:
        codes, count = np.asarray(values, np.float64), len(self.levels)
        missing = np.isnan(codes)
        wrong = ~missing & ~np.isin(codes, np.arange(count))
        if wrong.any():
            row = int(np.argmax(wrong))
            raise ValueError(
                f"values must be whole numbers from 0 to {count - 1}, the codes of levels; got {codes[row]:g} in row"
                f" {row}. Pass draws, or modes, not means."
            )
        numeric = not any(isinstance(level, str | bool) for level in self.levels)
        cells = np.empty(count + 1, np.float64 if numeric else object)
        cells[:count], cells[count] = self.levels, np.nan if numeric else None
        return cells[np.where(missing, count, codes).astype(np.int64)]  # type: ignore[no-any-return]

    @property
    def group(self) -> Hashable:
        return (self.name, len(self.levels))

    def describe(self) -> str:
        return f"levels {shown(self.levels, 6, str)} ({len(self.levels):,})"


class Binary(_Levels):
    """Two levels, with a Bernoulli distribution given z.

    Example:
        >>> kind = Binary(["no", "yes"])
        >>> kind.encode(Column("smokes", "text", np.array([0.0, np.nan, 0.0]), ("yes",)))
        array([ 1., nan,  1.])
        >>> kind.decode(np.array([0.0, 1.0]))
        array(['no', 'yes'], dtype=object)
    """

    name = "binary"

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.levels) > 2:
            raise ValueError(f"levels must be two for the kind 'binary'; got {self.levels!r}. Choose 'categorical'.")

    def levels_of(self, column: Column) -> tuple[Level, ...]:
        codes, levels = column.coded()
        if len(levels) != 2:
            third = column.observed & (codes >= 2)
            advice = f"Pass kinds={{{column.name!r}: 'categorical'}} or correct the cells."
            column.refuse(third, f"have two levels for the kind 'binary', here {shown(levels[:2], 2)}", advice)
            raise ValueError(
                f"column {column.name!r} must have two levels for the kind 'binary'; got {shown(levels, 6)}. Pass"
                " Binary([...]) with both, or leave the column out."
            )
        return levels

    def likelihood(self, num_columns: int) -> Likelihood:
        return likelihoods.Bernoulli(num_columns)


class Ordinal(_Levels):
    """Levels in an order, from the lowest, with an ordered logistic distribution given z.

    Example:
        >>> Ordinal(["low", "middle", "high"]).describe()
        'levels low, middle, high (3)'
    """

    name = "ordinal"

    def levels_of(self, column: Column) -> tuple[Level, ...]:
        levels = super().levels_of(column)
        if column.sort == "text" or (column.sort == "levels" and not column.ordered and not column.enum):
            raise ValueError(
                f"column {column.name!r} must have levels in an order for the kind 'ordinal'; got"
                f" {shown(levels, 6)} without one. Pass kinds={{{column.name!r}: Ordinal([...])}} with the levels from"
                " the lowest to the highest, or make it an ordered category."
            )
        return levels

    def likelihood(self, num_columns: int) -> Likelihood:
        return likelihoods.OrderedLogistic(num_columns, len(self.levels))


class Categorical(_Levels):
    """Levels without an order, with a categorical distribution given z."""

    name = "categorical"

    def likelihood(self, num_columns: int) -> Likelihood:
        return likelihoods.Categorical(num_columns, len(self.levels))
