"""What kinds of columns have in common."""

from __future__ import annotations

import dataclasses
import sys
from abc import ABC, abstractmethod
from collections.abc import Hashable
from typing import Any, ClassVar, Self

import numpy as np

from pyro_vae.arguments import is_number
from pyro_vae.likelihoods import Likelihood
from pyro_vae.tables.columns import SORTS, Column

__all__ = ["Kind", "check_range"]


class Kind(ABC):
    """What a column of a table is: how its cells become numbers, and what distribution these numbers have.

    A kind is a frozen data class whose fields are plain values: that is how it is saved. To add one, write such a class
    and add a line to `KINDS`.

    Attributes:
        name: the name by which `Table(frame, kinds={"column": name})` finds the kind.
        sorts: the sorts of columns that the kind can read; see `Column`.
        modelled: whether the column is a part of x.
    """

    name: ClassVar[str]
    sorts: ClassVar[tuple[str, ...]]
    modelled: ClassVar[bool] = True

    def fit(self, column: Column) -> Self:
        """This kind with what it learns from the column, such as its levels; what was given stays.

        Raises:
            TypeError, ValueError: if the column contradicts the kind.
        """
        return self

    @abstractmethod
    def encode(self, column: Column) -> np.ndarray:
        """The cells as float64, (N,), with NaN where a cell is missing.

        Raises:
            TypeError: if the cells are of another sort, such as text in a column of numbers.
            ValueError: if a cell contradicts the kind; the message names its row.
        """

    @abstractmethod
    def decode(self, values: np.ndarray) -> np.ndarray:
        """Numbers as cells: float64 with NaN, objects with None, or datetime64 with NaT where a cell is missing.

        Raises:
            ValueError: if a number stands for no cell.
        """

    @abstractmethod
    def likelihood(self, num_columns: int) -> Likelihood:
        """The likelihood of so many adjacent columns that have an equal `group`."""

    @property
    def group(self) -> Hashable:
        """Adjacent columns whose groups are equal share a block of the likelihood."""
        return (self.name,)

    def describe(self) -> str:
        """The levels, or the range, for people."""
        return ""

    def check_sort(self, column: Column) -> None:
        """Raise a TypeError unless the kind can read columns of this sort; any kind can read one without values."""
        if column.sort not in self.sorts and column.observed.any():
            wanted = " or ".join(SORTS[sort] for sort in self.sorts)
            column.refuse_sort(f"hold {wanted} for the kind {self.name!r}", "Convert the column, or choose its kind.")

    def to_plain(self) -> dict[str, Any]:
        """This kind as JSON values."""
        fields = dataclasses.fields(self)  # type: ignore[arg-type]
        values = {field.name: getattr(self, field.name) for field in fields}
        plain = {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}
        return {"kind": self.name, **plain}


def check_range(what: str, low: Any, high: Any) -> None:
    """Raise a ValueError unless both are None, or finite numbers in order."""
    if low is None and high is None:
        return
    if not all(is_number(value) and abs(value) <= sys.float_info.max for value in (low, high)) or low > high:
        raise ValueError(f"{what} must have a finite range from low to high; got {low!r} and {high!r}. Correct it.")
