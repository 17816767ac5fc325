"""Columns of numbers."""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np

from pyro_vae import likelihoods
from pyro_vae.arguments import true_or_false
from pyro_vae.likelihoods import Likelihood
from pyro_vae.tables.columns import Column
from pyro_vae.tables.kinds.base import Kind, check_range

__all__ = ["NARROW", "TINY", "Count", "Positive", "Real", "Share"]

NARROW = 256  # counts below this may have a rounded distribution
ENOUGH = 1000  # cells of a column from which the decoder predicts its scale for each cell
TINY = 1e-37  # positive numbers below this are 0 in float32, or nearly so


@dataclass(frozen=True)
class _Numbers(Kind):
    """Base of the kinds of numbers.

    Args:
        low: the smallest number that was seen; None until the kind has seen a column.
        high: the largest one.
        whole: whether all numbers that were seen are whole, so that those that come back are rounded.
    """

    low: float | None = None
    high: float | None = None
    whole: bool = False

    sorts: ClassVar[tuple[str, ...]] = ("int", "float")

    def __post_init__(self) -> None:
        check_range(f"the kind {self.name!r}", self.low, self.high)
        true_or_false("whole", self.whole)

    def fit(self, column: Column) -> Self:
        found = self.encode(column)[column.observed]
        if not len(found):
            return self
        return dataclasses.replace(self, low=float(found.min()), high=float(found.max()), whole=column.is_whole)

    def encode(self, column: Column) -> np.ndarray:
        self.check_sort(column)
        if column.sort not in self.sorts:
            return np.full(len(column), np.nan)
        column.check_numbers()
        self.check(column)
        return column.numbers

    def check(self, column: Column) -> None:
        """Raise a ValueError if an observed number contradicts the kind."""

    def decode(self, values: np.ndarray) -> np.ndarray:
        return np.round(values) if self.whole else values

    def describe(self) -> str:
        return "" if self.low is None else f"{self.low:.6g} to {self.high:.6g}"


@dataclass(frozen=True)
class _Continuous(_Numbers):
    """Base of the kinds of real numbers.

    Args:
        low, high, whole: those of all kinds of numbers.
        scale: where the scale of the distribution comes from: "per_dimension" (one number for the column) or
            "predicted" (by the decoder, for each cell). By default it is predicted if there are at least 1,000 cells,
            and no value takes over a tenth of them: with fewer cells a predicted scale fits noise, and at such a value
            it would shrink to zero, where the density has no bound.
    """

    scale: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.scale not in (None, "per_dimension", "predicted"):
            raise ValueError(
                f"scale must be 'per_dimension' or 'predicted'; got {self.scale!r}. Leave it out, or choose one."
            )

    def fit(self, column: Column) -> Self:
        found = super().fit(column)
        cells = column.numbers[column.observed] if column.sort in self.sorts else np.empty(0)
        enough = len(cells) >= ENOUGH and np.unique(cells, return_counts=True)[1].max() <= 0.1 * len(cells)
        return dataclasses.replace(found, scale=self.scale or ("predicted" if enough else "per_dimension"))

    @property
    def group(self) -> Hashable:
        return (self.name, self.scale)


@dataclass(frozen=True)
class Real(_Continuous):
    """Real numbers, with a normal distribution given z.

    Example:
        >>> column = Column("age", "float", np.array([31.5, np.nan, 62.0]))
        >>> Real().fit(column).describe()
        '31.5 to 62'
    """

    name: ClassVar[str] = "real"

    def likelihood(self, num_columns: int) -> Likelihood:
        return likelihoods.Normal(num_columns, scale=self.scale or "per_dimension")


@dataclass(frozen=True)
class Positive(_Continuous):
    """Numbers above zero, with a normal logarithm given z."""

    name: ClassVar[str] = "positive"

    def check(self, column: Column) -> None:
        column.refuse(
            column.numbers <= 0, "be above 0 for the kind 'positive'", _elsewise(column, "real", "'count' of counts")
        )
        advice = "Choose units in which the numbers are larger, or pass " + _elsewise(column, "real").removeprefix(
            "Pass "
        )
        column.refuse(column.numbers < TINY, f"be above {TINY:g} for the kind 'positive', in float32", advice)

    def decode(self, values: np.ndarray) -> np.ndarray:
        return np.maximum(np.round(values), 1) if self.whole else values

    def likelihood(self, num_columns: int) -> Likelihood:
        return likelihoods.LogNormal(num_columns, scale=self.scale or "per_dimension")


@dataclass(frozen=True)
class Count(_Numbers):
    """Counts, with a negative binomial distribution given z, whose variance is at least the mean.

    Counts up to 255 that vary less than that have a logistic distribution that is rounded to whole numbers.

    Args:
        low, high, whole: those of all kinds of numbers.
        narrow: whether the counts are at most 255 and their variance is below their mean.
    """

    narrow: bool = False

    name: ClassVar[str] = "count"

    def __post_init__(self) -> None:
        super().__post_init__()
        true_or_false("narrow", self.narrow)

    def fit(self, column: Column) -> Self:
        found = super().fit(column)
        cells = column.numbers[column.observed] if column.sort in self.sorts else np.empty(0)
        narrow = bool(len(cells)) and cells.max() < NARROW and cells.var() < cells.mean()
        return dataclasses.replace(found, narrow=bool(narrow))

    @property
    def group(self) -> Hashable:
        return (self.name, self.narrow)

    def check(self, column: Column) -> None:
        numbers = column.numbers
        wrong = (numbers < 0) | (np.floor(numbers) < numbers)
        column.refuse(wrong, "be whole and at least 0 for the kind 'count'", _elsewise(column, "real"))
        column.refuse(numbers > 2**24, "be at most 2**24 for the kind 'count'", _elsewise(column, "real"))
        if self.narrow:
            must = f"be below {NARROW}, since the counts that the kind was made from vary little"
            column.refuse(numbers >= NARROW, must, "Correct these cells, or fit a model to such data.")

    def likelihood(self, num_columns: int) -> Likelihood:
        if self.narrow:
            return likelihoods.DiscretizedLogistic(num_columns, levels=NARROW)
        return likelihoods.NegativeBinomial(num_columns, dispersion="per_dimension")


@dataclass(frozen=True)
class Share(_Numbers):
    """Shares, from 0 to 1: beta distributed given z, or continuous Bernoulli where cells are exactly 0 or 1.

    Args:
        low, high, whole: those of all kinds of numbers.
        inside: whether no cell is 0 or 1, in float32.
    """

    inside: bool = True

    name: ClassVar[str] = "share"
    sorts: ClassVar[tuple[str, ...]] = ("float",)

    def __post_init__(self) -> None:
        super().__post_init__()
        true_or_false("inside", self.inside)

    def fit(self, column: Column) -> Self:
        edge = _at_an_end(column.numbers).any()
        return dataclasses.replace(
            super(Share, dataclasses.replace(self, inside=self.inside and not edge)).fit(column), whole=False
        )

    def check(self, column: Column) -> None:
        numbers = column.numbers
        advice = "Divide percentages by 100, or pass " + _elsewise(column, "real").removeprefix("Pass ")
        column.refuse((numbers < 0) | (numbers > 1), "be from 0 to 1 for the kind 'share'", advice)
        if self.inside:
            must = "be strictly between 0 and 1, as in the data that the kind was made from"
            column.refuse(_at_an_end(numbers), must, "Move these cells inside, or fit a model to such data.")

    @property
    def group(self) -> Hashable:
        return (self.name, self.inside)

    def likelihood(self, num_columns: int) -> Likelihood:
        if self.inside:
            return likelihoods.Beta(num_columns, "per_dimension")
        return likelihoods.ContinuousBernoulli(num_columns)


def _at_an_end(shares: np.ndarray) -> np.ndarray:
    """Which shares are 0 or 1, in the precision in which most models are trained."""
    return np.isin(shares.astype(np.float32), (0.0, 1.0))


def _elsewise(column: Column, kind: str, more: str = "") -> str:
    """Advice to choose another kind."""
    return f"Pass kinds={{{column.name!r}: {kind!r}}}{f', {more},' if more else ''} or correct the cells."
