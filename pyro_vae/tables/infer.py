"""The kind of a column, where the user does not say it."""

from __future__ import annotations

import numpy as np

from pyro_vae.tables.columns import EXACT, Column
from pyro_vae.tables.kinds import Binary, Categorical, Constant, Count, Identifier, Kind, Ordinal, Positive, Real, Time
from pyro_vae.tables.kinds.numbers import NARROW, TINY

__all__ = ["infer"]

MANY_LEVELS = 50  # text of more levels is left out
FEW_LEVELS = 10  # text of so few is taken for levels even in a small table
LARGEST_COUNT = 2**24  # float32 holds all integers up to here
SPREAD = 10.0  # the quotient of largest and smallest number from which a logarithm is considered


def infer(column: Column) -> Kind:
    """The kind of a column, completed from it.

    The first of these rules that applies decides; missing cells do not count.

    - Integers beyond 2**53, which float64 does not hold, are left out.
    - A column with one value is constant, and left out.
    - Dates and times are of the kind time; truth values are binary.
    - Two values of any sort are binary, except two cells that are not whole numbers. Of categories that a dtype lists,
      all listed ones count, used or not.
    - Ordered categories are ordinal; other categories, and an Enum of polars, are categorical if there are at most 50.
    - Text is categorical if it has at most 50 levels, fewer than half as many as there are cells (of up to 10
      levels, at most half). Other text is left out: it is an identifier if nearly all values differ.
    - Whole numbers (integers, or floats that are all whole, as integers become beside missing cells) are left out as an
      identifier if they all differ and are consecutive. They are counts if they are at least 0 and below 256, or below
      2**24 with a variance of at least half their mean; otherwise real.
    - Other numbers are positive if all are above 1e-37, the largest is over 10 times the smallest, and their logarithms
      have less than half their skewness; otherwise real.

    Shares are never inferred.

    Args:
        column: a column with at least one cell that is not missing.

    Raises:
        ValueError: if a cell is infinite.
    """
    observed = column.observed
    found = column.numbers[observed]
    if column.sort == "int" and np.abs(found).max() >= EXACT:
        advice = f"to model it: subtract a constant, or kinds={{{column.name!r}: 'real'}} after a cast to float"
        return Identifier("integers beyond 2**53, which float64 does not hold", advice)
    column.check_numbers()
    if (found == found[0]).all():
        return Constant().fit(column)
    if column.sort == "time":
        return Time().fit(column)
    if column.sort == "bool":
        return Binary((False, True))
    if column.sort in ("text", "levels"):
        return _of_levels(column, len(found))
    repeated = column.is_whole or len(found) > 2
    if repeated and len(np.unique(found[:1000])) <= 2 and len(np.unique(found)) == 2:
        return Binary().fit(column)
    return _of_whole_numbers(column, found) if column.is_whole else _of_numbers(column, found)


def _of_levels(column: Column, num_cells: int) -> Kind:
    count = len(column.levels)
    if count == 2:
        return Binary().fit(column)
    if column.ordered:
        return Ordinal().fit(column)
    few = 2 * count < num_cells or (count <= FEW_LEVELS and 2 * count <= num_cells)
    if count <= MANY_LEVELS and (few or column.sort == "levels"):
        return Categorical().fit(column)
    advice = f"to model it: kinds={{{column.name!r}: 'categorical'}}"
    used = len(np.unique(column.numbers[column.observed]))
    if used > 0.9 * num_cells:
        return Identifier("an identifier: nearly all values differ", advice)
    return Identifier(f"text of {count:,} levels", advice)


def _of_whole_numbers(column: Column, found: np.ndarray) -> Kind:
    low, high = float(found.min()), float(found.max())
    advice = f"to model it: kinds={{{column.name!r}: 'real'}}"
    if len(found) == len(column) == high - low + 1 and len(np.unique(found)) == len(found):
        return Identifier("an identifier: consecutive numbers that all differ", advice)
    if low >= 0 and (high < NARROW or (high < LARGEST_COUNT and found.var() >= 0.5 * found.mean())):
        return Count().fit(column)
    return Real().fit(column)


def _of_numbers(column: Column, found: np.ndarray) -> Kind:
    if found.min() > TINY and found.max() > SPREAD * found.min() and _skewness(np.log(found)) < 0.5 * _skewness(found):
        return Positive().fit(column)
    return Real().fit(column)


def _skewness(values: np.ndarray) -> float:
    """The absolute skewness; the values are scaled first, so that their cubes do not overflow."""
    centred = values / np.abs(values).max()
    centred = centred - centred.mean()
    deviation = float(np.sqrt(np.mean(centred**2)))
    return abs(float(np.mean((centred / deviation) ** 3))) if deviation > 0 else 0.0
