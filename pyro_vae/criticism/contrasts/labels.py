"""Labels of rows: values of a field, or what the user gives for each row, as numbers of a few different values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from pyro_vae.data.rows import Rows
from pyro_vae.data.tensors import as_tensor, check_finite
from pyro_vae.inference.pair import ProgramPair

__all__ = ["Labels", "labels_of_field", "read_labels", "shown"]


class Labels(NamedTuple):
    """Labels of N rows.

    Attributes:
        codes: the place of each row's label in `values`, (N,).
        values: the different labels, sorted: text, or numbers.
        names: the labels as text.
    """

    codes: Tensor
    values: list[Any]
    names: list[str]


def read_labels(what: str, values: Any, num_rows: int) -> Labels:
    """Labels that the user gives, one for each row: text, or finite numbers.

    Raises:
        TypeError: if they are neither.
        ValueError: if there is not one for each row, or one is missing.
    """
    cells = None if isinstance(values, Tensor) else _text(values)
    if cells is None:
        return _of_numbers(what, _as_numbers(what, values), num_rows)
    _check_shape(what, cells.shape, num_rows)
    wrong = [row for row, cell in enumerate(cells) if not isinstance(cell, str)]
    if wrong:
        raise ValueError(
            f"{what} must be text in each row; got {cells[wrong[0]]!r} in row {wrong[0]}. Drop these rows."
        )
    found, codes = np.unique(cells.astype(str), return_inverse=True)
    names = [str(name) for name in found]
    return Labels(torch.from_numpy(codes.astype(np.int64)), list(names), names)


def labels_of_field(model: ProgramPair, rows: Rows, name: str) -> Labels:
    """The values of a field of the rows, with the names of levels where the model knows them."""
    found = _of_numbers(f"field {name!r}", rows.field(name), len(rows))
    names = model.level_names(name)
    if names is None:
        return found
    return found._replace(names=["unknown" if value < 0 else names[int(value)] for value in found.values])


def shown(values: Sequence[Any]) -> str:
    """At most twelve values in a message."""
    return ", ".join(map(repr, values[:12])) + (", ..." if len(values) > 12 else "")


def _as_numbers(what: str, values: Any) -> Tensor:
    try:
        return as_tensor(values, what)
    except TypeError:
        kind = getattr(getattr(values, "dtype", None), "name", type(values).__name__)
        raise TypeError(f"{what} must be text or numbers, one for each row; got {kind}. Convert it to text.") from None


def _of_numbers(what: str, values: Tensor, num_rows: int) -> Labels:
    _check_shape(what, tuple(values.shape), num_rows)
    check_finite(what, values)
    found, codes = values.cpu().unique(return_inverse=True)
    numbers = [int(value) if value == round(value) else value for value in found.tolist()]
    return Labels(codes, numbers, [str(number) for number in numbers])


def _check_shape(what: str, shape: tuple[int, ...], num_rows: int) -> None:
    if shape != (num_rows,):
        raise ValueError(f"{what} must be one label for each of {num_rows} rows; got shape {shape}. Align it with x.")


def _text(values: Any) -> np.ndarray | None:
    """The cells of an array or a list that holds text; None for anything else."""
    try:
        cells = np.asarray(values, object)
    except (ValueError, TypeError, RuntimeError):
        return None
    holds_text = any(isinstance(cell, str) for cell in cells.reshape(-1))
    return cells if holds_text and cells.ndim else None
