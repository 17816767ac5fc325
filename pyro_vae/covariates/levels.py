"""Covariates with levels."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pyro_vae.arguments import is_integer, positive_integer
from pyro_vae.covariates.base import Covariate, as_cells, as_numbers, first_bad
from pyro_vae.runtime.random import INITIAL, seeded

__all__ = ["Levels"]


class Levels(Covariate):
    """One of several levels: text, or whole numbers. A level reaches a net as zeros and a one, or as a learned vector.

    A tensor holds numbers: levels that are numbers stand for themselves there, and text is coded by its place in
    `levels`, from 0. Lists, arrays and columns of frames hold the levels themselves.

    Args:
        levels: all levels, at least two.
        embed: the length of a learned vector for each level, in place of zeros and a one; it pays where there are many.
        other: the level, one of `levels`, that stands for all that are not listed; by default these are refused.

    Raises:
        TypeError: if levels are neither text nor whole numbers.
        ValueError: if there are fewer than two, one occurs twice, or `other` is none of them.

    Example:
        >>> kind = Levels(["A", "B", "C"])
        >>> kind(kind.read("site", ["B", "B", "A"]))
        tensor([[0., 1., 0.],
                [0., 1., 0.],
                [1., 0., 0.]])
    """

    numbers: Tensor

    def __init__(
        self, levels: Sequence[str] | Sequence[int], embed: int | None = None, other: str | int | None = None
    ) -> None:
        super().__init__()
        self.levels = _as_levels(levels)
        self.text = isinstance(self.levels[0], str)
        if other is not None and other not in self.levels:
            raise ValueError(f"other must be one of the levels, {_shown(self.levels)}; got {other!r}. Add it to them.")
        self.embed, self.other = embed, other
        numbers = list(range(len(self.levels))) if self.text else self.levels
        self.register_buffer("numbers", torch.tensor(numbers, dtype=torch.int64), persistent=False)
        if embed is None:
            self.size = len(self.levels)
            return
        self.size = positive_integer("embed", embed)
        with seeded(0, INITIAL):
            self.vectors = nn.Parameter(torch.randn(len(self.levels), self.size) / self.size**0.5)

    @property
    def level_names(self) -> list[str] | None:
        return list(self.levels) if self.text else None

    def read(self, name: str, values: Any) -> Tensor:
        cells = as_cells(values)
        self.refuse_missing(name, cells)
        if isinstance(cells, Tensor) or not self.text:
            if not isinstance(cells, Tensor) and cells.dtype.kind == "O":
                expected = f"have one of the levels {_shown(self.levels)}"
                cells = as_numbers(name, cells, expected, "Convert it to whole numbers.")
            numbers = super().read(name, cells)
            whole = numbers.is_floating_point() and bool((numbers == numbers.round()).all())
            return numbers.long() if whole else numbers  # float32 does not hold all whole numbers
        codes = {level: code for code, level in enumerate(self.levels)}
        other = -1 if self.other is None else codes[self.other]
        found = [codes.get(cell, other) if isinstance(cell, str) else -1 for cell in cells.reshape(-1).tolist()]
        if -1 in found:
            place = found.index(-1)
            self._refuse(name, cells.reshape(-1)[place], f" in row {place}" if cells.ndim else "")
        return torch.tensor(found).reshape(cells.shape)

    def check(self, name: str, values: Tensor, first_row: int = 0) -> None:
        self.check_shape(name, values)
        if values.is_floating_point() and (values.abs() >= 1 / torch.finfo(values.dtype).eps).any():
            raise ValueError(
                f"covariate {name!r} must hold its levels as integers where they are large; got {values.dtype}, which"
                " holds no neighbouring numbers of that size. Pass integers."
            )
        known = (values.unsqueeze(-1) == self.numbers).any(-1)
        if self.other is not None and not self.text:
            known = known | (values == values.round())
        if not known.all():
            value, where = first_bad(values, ~known, first_row)
            self._refuse(name, int(value) if value == round(value) else value, where)

    def _refuse(self, name: str, level: Any, where: str) -> None:
        coded = self.text and not isinstance(level, str)
        advice = (
            f"A tensor holds their numbers, 0 to {len(self.levels) - 1}; lists and arrays hold the levels themselves."
            if coded
            else "Correct it; or list it, and train a new model; or make one of the levels stand for others by other=."
        )
        raise ValueError(
            f"covariate {name!r} must have one of the levels {_shown(self.levels)}; got {level!r}{where}. {advice}"
        )

    def initialize(self, name: str, values: Tensor) -> None:
        there = self._places(values).any(0).tolist()
        absent = [level for level, found in zip(self.levels, there, strict=True) if not found]
        if absent:
            warnings.warn(
                f"covariate {name!r} has no row at {_shown(absent)} among the {len(values):,} rows that the model"
                " starts from: what is never trained means nothing. Train on rows with these levels, or do not use"
                " them.",
                stacklevel=2,
            )

    def _places(self, values: Tensor) -> Tensor:
        """Which level each value is, (..., number of levels)."""
        found = values.unsqueeze(-1) == self.numbers
        if self.other is None:
            return found
        fallback = self.numbers == self.numbers[self.levels.index(self.other)]
        return torch.where(found.any(-1, keepdim=True), found, fallback)

    def forward(self, values: Tensor) -> Tensor:
        found = self._places(values)
        if self.embed is None:
            return found.to(values.dtype if values.is_floating_point() else torch.get_default_dtype())
        return found.to(self.vectors) @ self.vectors


def _as_levels(levels: Any) -> list[Any]:
    """The levels as a list, checked."""
    cells = list(levels) if isinstance(levels, Sequence | np.ndarray) and not isinstance(levels, str) else []
    cells = [cell.item() if isinstance(cell, np.generic) else cell for cell in cells]
    cells = [int(cell) if isinstance(cell, bool) else cell for cell in cells]
    whole = [is_integer(cell) for cell in cells]
    if not cells or not (all(whole) or all(isinstance(cell, str) for cell in cells)):
        raise TypeError(
            f"levels must be a list of text or of whole numbers; got {levels!r}. Pass e.g. ['A', 'B', 'C']."
        )
    if len(cells) < 2 or len(set(cells)) < len(cells):
        raise ValueError(f"levels must be at least two different ones; got {levels!r}. Name each once.")
    return cells


def _shown(levels: list[Any]) -> str:
    return ", ".join(map(repr, levels[:12])) + (", ..." if len(levels) > 12 else "")
