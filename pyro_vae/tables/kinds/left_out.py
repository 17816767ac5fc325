"""Columns that are not modelled: they come back as they were, or, where they have one value, with that value."""

from __future__ import annotations

import dataclasses
from abc import ABC
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np

from pyro_vae.likelihoods import Likelihood
from pyro_vae.tables.columns import UNITS, Column, Level, as_time, key_of, plain_levels
from pyro_vae.tables.kinds.base import Kind

__all__ = ["Constant", "Identifier"]


class _LeftOut(Kind, ABC):
    modelled: ClassVar[bool] = False

    def likelihood(self, num_columns: int) -> Likelihood:
        raise ValueError(f"kind must be one that is modelled; got {self.name!r}. Choose another kind for the column.")


@dataclass(frozen=True)
class Identifier(_LeftOut):
    """A column that is left out, such as names and numbers of rows.

    Args:
        reason: why it is left out, for people.
        advice: what to do if it should not be, for people.
    """

    reason: str = "an identifier"
    advice: str = ""

    name: ClassVar[str] = "identifier"
    sorts: ClassVar[tuple[str, ...]] = ("text", "levels", "int", "float", "bool", "time", "empty")

    def __post_init__(self) -> None:
        if not isinstance(self.reason, str) or not isinstance(self.advice, str):
            raise ValueError(f"reason and advice must be text; got {self.reason!r} and {self.advice!r}. Correct them.")

    def encode(self, column: Column) -> np.ndarray:
        return np.full(len(column), np.nan)

    def decode(self, values: np.ndarray) -> np.ndarray:
        raise ValueError("values must be those of a column that is modelled; got some of one that is left out.")

    def describe(self) -> str:
        return self.reason


@dataclass(frozen=True)
class Constant(_LeftOut):
    """A column with one value besides missing cells, which needs no model; frames that are drawn hold the value.

    Args:
        value: the value; of times the ticks since 1970 in UTC.
        unit: of times, the unit of the ticks, otherwise empty.

    Raises:
        TypeError: if it is not text, a number, True or False.
        ValueError: if `unit` is not a unit of times.
    """

    value: Level | None = None
    unit: str = ""

    name: ClassVar[str] = "constant"
    sorts: ClassVar[tuple[str, ...]] = ("text", "levels", "int", "float", "bool", "time")

    def __post_init__(self) -> None:
        if self.value is not None:
            plain_levels(f"the kind {self.name!r}", [self.value])
        whole = isinstance(self.value, int) and -(2**63) < self.value < 2**63
        if not isinstance(self.unit, str) or (self.unit and (self.unit not in UNITS or not whole)):
            raise ValueError(f"unit must be one of {', '.join(UNITS)} or empty; got {self.unit!r}. Choose one.")

    def fit(self, column: Column) -> Self:
        row = int(np.argmax(column.observed))
        value = int(column.numbers[row]) if column.sort == "time" else column.value(row)
        found = dataclasses.replace(self, value=value, unit=column.unit)
        found.encode(column)
        return found

    def encode(self, column: Column) -> np.ndarray:
        """The cells as zeros, with NaN where missing."""
        self.check_sort(column)
        column.check_numbers()
        if column.sort == "time":
            wanted = np.int64(self.value or 0).view(f"datetime64[{self.unit}]")
            same = column.numbers.view(f"datetime64[{column.unit}]") == wanted
        elif column.sort in ("int", "float"):
            same = column.numbers == (float(self.value) if isinstance(self.value, int | float) else np.nan)
        else:
            codes, levels = column.coded()
            same = codes == next((i for i, found in enumerate(levels) if _is(found, self.value)), -1)
        must = f"be {self.value!r} in all rows, as in the data that the schema was made from"
        column.refuse(column.observed & ~same, must, "Leave the column out of this frame, or fit a model to such data.")
        return np.where(column.observed, 0.0, np.nan)

    def decode(self, values: np.ndarray) -> np.ndarray:
        if self.unit:
            return np.full(len(values), self.value, np.int64).view(f"datetime64[{self.unit}]")
        numeric = isinstance(self.value, int | float) and not isinstance(self.value, bool)
        return np.full(len(values), self.value, np.float64 if numeric else object)

    def describe(self) -> str:
        value = as_time(int(self.value or 0), self.unit) if self.unit else repr(self.value)
        return f"constant: {value}"


def _is(one: Level, other: Level | None) -> bool:
    return other is not None and key_of(one) == key_of(other)
