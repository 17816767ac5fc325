"""A column of a frame, in the one form in which kinds read it, whatever the library of the frame."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np

__all__ = ["EXACT", "NAT", "SORTS", "UNITS", "Column", "Level", "as_time", "key_of", "plain_levels", "shown"]

Level = str | int | float | bool
EXACT = 2**53  # integers from here on are not all held by float64
NAT = np.iinfo(np.int64).min  # the tick of a missing time, in NumPy and pandas too
UNITS = {"D": 1, "s": 86_400, "ms": 86_400 * 10**3, "us": 86_400 * 10**6, "ns": 86_400 * 10**9}  # ticks of a day
SORTS = {
    "bool": "true or false",
    "int": "whole numbers",
    "float": "numbers",
    "text": "text",
    "levels": "categories",
    "time": "times",
    "empty": "no value",
}


@dataclass(frozen=True, eq=False)
class Column:
    """One column of a frame.

    Attributes:
        name: the name of the column.
        sort: what the frame's dtype says that the cells are: "bool", "int", "float", "text", "levels" (categories that
            the dtype lists), "time", or "empty" (a dtype without values).
        numbers: the cells, (N,): numbers as float64, truth values as 0 and 1, text and levels as codes, with NaN where
            a cell is missing. Of times these are int64 ticks since 1970 in UTC, `NAT` where a cell is missing.
        levels: what the codes of text and levels stand for. Those of text are sorted.
        ordered: whether the dtype says that the levels have an order.
        enum: whether the levels were listed by the user, as in an Enum of polars, whose order may mean something.
        unit: the unit of the ticks, a key of `UNITS`.
        zoned: whether the times belong to a time zone.
    """

    name: str
    sort: str
    numbers: np.ndarray
    levels: tuple[Level, ...] = ()
    ordered: bool = False
    enum: bool = False
    unit: str = ""
    zoned: bool = False

    def __len__(self) -> int:
        return len(self.numbers)

    @property
    def observed(self) -> np.ndarray:
        """Which cells are not missing, (N,)."""
        return self.numbers != NAT if self.sort == "time" else ~np.isnan(self.numbers)

    @property
    def is_whole(self) -> bool:
        """Whether these are numbers and all that are observed are whole, of floats also below 2**53."""
        if self.sort == "float":
            found = self.numbers[self.observed]
            return bool((found == np.floor(found)).all() and (np.abs(found) < EXACT).all())
        return self.sort == "int"

    def coded(self) -> tuple[np.ndarray, tuple[Level, ...]]:
        """Codes of the cells, (N,), NaN where missing, and the levels that they stand for; numbers become levels."""
        if self.sort in ("text", "levels"):
            return self.numbers, self.levels
        if self.sort == "bool":
            return self.numbers, (False, True)
        found, place = np.unique(self.numbers[self.observed], return_inverse=True)
        codes = np.full(len(self), np.nan)
        codes[self.observed] = place
        return codes, tuple(self._number(value) for value in found.tolist())

    def _number(self, value: float) -> int | float:
        return int(value) if self.sort == "int" or value == math.floor(value) else value

    def value(self, row: int) -> Any:
        """An observed cell, as a plain value; a time as text."""
        cell = self.numbers[row]
        if self.sort == "time":
            return as_time(int(cell), self.unit)
        if self.sort in ("text", "levels"):
            return self.levels[int(cell)]
        return bool(cell) if self.sort == "bool" else int(cell) if self.sort == "int" else float(cell)

    def refuse(self, cells: np.ndarray, must: str, advice: str) -> None:
        """Raise a ValueError if there are such cells, (N,) bool; it names the first."""
        if cells.any():
            row, count = int(np.argmax(cells)), int(cells.sum())
            more = f" ({count:,} such cells)" if count > 1 else ""
            raise ValueError(
                f"column {self.name!r} must {must}; got {self.value(row)!r:.80} in row {row}{more}. {advice}"
            )

    def check_numbers(self) -> None:
        """Raise a ValueError if a number is infinite, or an integer that float64 may not hold."""
        if self.sort in ("int", "float"):
            advice = "Mark these cells as missing, or drop the rows."
            self.refuse(np.isinf(self.numbers), "be finite", advice)
        if self.sort == "int":
            beyond = np.abs(self.numbers) >= EXACT
            self.refuse(beyond, "hold integers below 2**53, which float64 holds", "Subtract a constant, or rescale.")

    def refuse_sort(self, must: str, advice: str) -> NoReturn:
        """Raise a TypeError about the sort of the cells."""
        raise TypeError(f"column {self.name!r} must {must}; got {SORTS[self.sort]}. {advice}")


def as_time(tick: int, unit: str, shown_in: str = "") -> str:
    """A tick as the text of a time, cut to the unit `shown_in`."""
    time = np.array([tick], np.int64).view(f"datetime64[{unit}]")
    return str(time.astype(f"datetime64[{shown_in or unit}]")[0])


def key_of(level: Level) -> tuple[bool, Level]:
    """What two levels have in common if they are one level: 1 and 1.0 are, 1 and True are not."""
    return isinstance(level, bool), level


def plain_levels(what: str, values: Iterable[Any]) -> tuple[Level, ...]:
    """The values as levels: text, finite numbers or truth values of Python, each once.

    Raises:
        TypeError: if a value is of another kind.
        ValueError: if a value occurs twice.
    """
    levels = tuple(value.item() if isinstance(value, np.generic) else value for value in values)
    for level in levels:
        finite = not isinstance(level, int | float) or abs(level) <= sys.float_info.max
        if not isinstance(level, str | int | float) or not finite:
            raise TypeError(f"{what} must have levels that are text, numbers, True or False; got {level!r}. Rename it.")
    if len({key_of(level) for level in levels}) < len(levels):
        twice = next(level for i, level in enumerate(levels) if key_of(level) in map(key_of, levels[:i]))
        raise ValueError(f"{what} must have different levels; got {twice!r} twice. Name each once.")
    return levels


def shown(values: Iterable[Any], count: int, show: Callable[[Any], str] = repr) -> str:
    """The first values as text, with commas, and an ellipsis if there are more than `count`."""
    listed = list(values)
    return ", ".join(map(show, listed[:count])) + (", ..." if len(listed) > count else "")
