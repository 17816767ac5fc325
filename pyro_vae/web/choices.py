"""Covariates that the user of the explorer may choose, and what a browser sends for them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyro_vae.arguments import is_integer, is_number
from pyro_vae.covariates import Binary, Covariate, Levels, Time
from pyro_vae.data.rows import Rows
from pyro_vae.models import VAE
from pyro_vae.tables import Kind
from pyro_vae.tables.covariates import codes_of
from pyro_vae.web.covariates import cells_of, kinds_of_columns
from pyro_vae.web.views import text_of

__all__ = ["Choice", "as_number", "choices"]

REACH = 1.0  # how far a number may lie beyond the training rows, in widths of their range


@dataclass(frozen=True)
class Choice:
    """A covariate with one value for each row that can be chosen, a level or a number.

    Attributes:
        name: its name.
        unit: what its numbers are where this is not plain, such as days since a date; else empty.
        levels: its levels in words, in order; empty for numbers.
        values: the numbers that stand for the levels; of a covariate that is a number, the smallest and the largest
            one of the training rows.
    """

    name: str
    unit: str
    levels: tuple[str, ...]
    values: tuple[float, ...]

    @property
    def ends(self) -> tuple[float, float]:
        """The smallest and the largest number that can be chosen."""
        low, high = self.values[0], self.values[-1]
        beyond = REACH * (high - low)
        return low - beyond, high + beyond

    def start(self, value: Tensor) -> float | int | None:
        """The value of a row as the page has it: the place of its level, or a number with seven digits."""
        number = float(value)
        if not self.levels:
            return float(f"{number:.7g}")
        return self.values.index(number) if number in self.values else None

    def read(self, given: Any) -> float | None:
        """The number that stands for what a browser sent; None unless it is a level, or a number within the ends."""
        if self.levels:
            return self.values[given] if is_integer(given) and 0 <= given < len(self.levels) else None
        number, (low, high) = as_number(given), self.ends
        return number if number is not None and low <= number <= high else None

    def said(self, given: Any) -> str:
        """What is to be said about a value that a browser sent; empty where nothing is."""
        if self.levels:
            return ""
        number, (low, high) = self.read(given), (text_of(end) for end in self.ends)
        if number is None:
            return f"{self.name} must be a number from {low} to {high}: the row's own is used."
        if self.values[0] <= number <= self.values[-1]:
            return ""
        first, last = (text_of(end) for end in self.values)
        return f"{self.name} lies beyond the training rows, {first} to {last}: the model extrapolates."


def choices(vae: VAE, training: Rows) -> list[Choice]:
    """The covariates that p(x | z) depends on and that have one value for each row.

    Args:
        vae: the model.
        training: the rows of training, which say between which numbers the model has seen.
    """
    if vae.covariates is None or "decoder" not in vae.covariates.into:
        return []
    columns = kinds_of_columns(vae)
    return [
        _choice(name, kind, columns.get(name), training.field(name))
        for name, kind in vae.covariates.kinds
        if not kind.shape
    ]


def _choice(name: str, kind: Covariate, column: Kind | None, values: Tensor) -> Choice:
    if isinstance(kind, Levels | Binary):
        numbers = kind.numbers if isinstance(kind, Levels) else torch.tensor([0, 1])
        return Choice(name, "", tuple(cells_of(kind, column, numbers.cpu())), tuple(numbers.double().tolist()))
    ends = values.double().min(), values.double().max()
    unit = f"days since {kind.origin}" if isinstance(kind, Time) else ""
    if column is not None and column.name == "time":
        unit = f"days since {text_of(column.decode(codes_of(column, torch.zeros(1)))[0])}"
    low, high = (float(f"{float(end):.7g}") for end in ends)
    return Choice(name, unit, (), (low, high))


def as_number(value: Any) -> float | None:
    """A finite number that a browser sent, as a number or as text; None for anything else."""
    if isinstance(value, str) and len(value) < 40:
        try:
            value = float(value)
        except ValueError:
            return None
    return float(value) if is_number(value) and math.isfinite(value) else None
