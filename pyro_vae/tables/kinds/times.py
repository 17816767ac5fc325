"""Columns of dates and times."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np

from pyro_vae import likelihoods
from pyro_vae.arguments import is_integer, true_or_false
from pyro_vae.likelihoods import Likelihood
from pyro_vae.tables.columns import NAT, UNITS, Column, as_time
from pyro_vae.tables.kinds.base import Kind

__all__ = ["Time"]

STEPS = (86_400 * 10**9, 3_600 * 10**9, 60 * 10**9, 10**9, 10**6, 10**3, 1)  # nanoseconds: of a day, an hour, ...


@dataclass(frozen=True)
class Time(Kind):
    """Dates and times, as days since the column's first, with a normal distribution given z.

    Times that come back are rounded to the coarsest of day, hour, minute, second, ... that all times of the column are
    multiples of, counted from its first.

    Args:
        origin: the first time, in ticks since 1970 in UTC; None until the kind has seen a column.
        last: the last time, in ticks.
        unit: the unit of the ticks, "D", "s", "ms", "us" or "ns".
        step: the number of ticks to which times are rounded.
        zoned: whether the times belong to a time zone.

    Raises:
        ValueError: if these are not such numbers.
    """

    origin: int | None = None
    last: int | None = None
    unit: str = "ns"
    step: int = 1
    zoned: bool = False

    name: ClassVar[str] = "time"
    sorts: ClassVar[tuple[str, ...]] = ("time",)

    def __post_init__(self) -> None:
        true_or_false("zoned", self.zoned)
        if not isinstance(self.unit, str) or self.unit not in UNITS:
            raise ValueError(f"unit must be one of {', '.join(UNITS)}; got {self.unit!r}. Choose one.")
        range_of = [tick for tick in (self.origin, self.last) if tick is not None]
        if len(range_of) == 1 or not all(map(_is_tick, range_of)) or range_of != sorted(range_of):
            raise ValueError(f"origin and last must be ticks in order; got {self.origin!r} and {self.last!r}. Correct.")
        if not _is_tick(self.step) or self.step < 1 or UNITS[self.unit] % self.step:
            raise ValueError(f"step must be a number of ticks that divides the day; got {self.step!r}. Correct it.")

    def fit(self, column: Column) -> Self:
        self.check_sort(column)
        ticks = column.numbers[column.observed]
        if column.sort != "time" or not len(ticks):
            return self
        first, last, per_day = int(ticks.min()), int(ticks.max()), UNITS[column.unit]
        sizes = [step * per_day // STEPS[0] for step in STEPS if step * per_day % STEPS[0] == 0]
        step = next(size for size in sizes if not ((ticks - first) % size).any())
        return dataclasses.replace(self, origin=first, last=last, unit=column.unit, step=step, zoned=column.zoned)

    def encode(self, column: Column) -> np.ndarray:
        self.check_sort(column)
        if column.sort != "time":
            return np.full(len(column), np.nan)
        if column.zoned != self.zoned and column.observed.any():
            zone = "a" if self.zoned else "no"
            raise TypeError(
                f"column {column.name!r} must have {zone} time zone, as in the data that the kind was made from; got"
                f" {'one' if column.zoned else 'none'}. Convert it."
            )
        per_day, own_per_day = UNITS[column.unit], UNITS[self.unit]
        origin, rest = divmod((self.origin or 0) * per_day, own_per_day)  # in ticks of the column, exactly
        since = np.where(column.observed, column.numbers, origin) - origin
        return np.where(column.observed, since / per_day - rest / own_per_day / per_day, np.nan)

    def decode(self, values: np.ndarray) -> np.ndarray:
        missing, origin = np.isnan(values), self.origin or 0
        steps = np.round(np.where(missing, 0.0, values) * (UNITS[self.unit] / self.step))
        longest = (2**62 - abs(origin)) // self.step if abs(origin) < 2**62 else 0
        ticks = np.clip(steps, -longest, longest).astype(np.int64) * self.step + origin
        return np.where(missing, NAT, ticks).view(f"datetime64[{self.unit}]")  # type: ignore[no-any-return]

    def likelihood(self, num_columns: int) -> Likelihood:
        return likelihoods.Normal(num_columns, scale="per_dimension")

    def describe(self) -> str:
        if self.origin is None or self.last is None:
            return ""
        unit = "D" if self.step == UNITS[self.unit] else "s" if UNITS[self.unit] >= UNITS["s"] else self.unit
        first, last = (as_time(tick, self.unit, unit) for tick in (self.origin, self.last))
        return f"{first} to {last}" + (" UTC" if self.zoned else "")


def _is_tick(value: Any) -> bool:
    return is_integer(value) and -(2**63) < value < 2**63
