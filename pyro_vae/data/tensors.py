"""The user's numbers as tensors, and checks of fields and names."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["as_names", "as_tensor", "check_fields", "check_finite"]


def as_tensor(values: Any, what: str = "x") -> Tensor:
    """The values as a tensor of numbers, without its graph.

    It shares memory with an array where torch can; a read-only or reversed array is copied, a mapped file is not.

    Raises:
        TypeError: if the values are not numbers, or can't be read.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        tensor = values.detach() if isinstance(values, Tensor) else torch.from_numpy(_as_array(values, what))
    if tensor.layout != torch.strided or tensor.device.type == "meta" or tensor.is_quantized:
        kind = "without data" if tensor.device.type == "meta" else tensor.layout
        raise TypeError(f"{what} must be a dense tensor of numbers; got a tensor {kind}. Call .to_dense(), or load it.")
    if tensor.is_complex():
        raise TypeError(f"{what} must be real; got dtype {tensor.dtype}. Split it into real and imaginary parts.")
    return tensor


def _as_array(values: Any, what: str) -> np.ndarray:
    try:
        array = np.asarray(values)
    except (ValueError, TypeError, RuntimeError) as error:
        raise TypeError(
            f"{what} must be an array of numbers; got {type(values).__name__} ({error}). Convert it first."
        ) from None
    if array.dtype.kind not in "biuf" or array.dtype.itemsize > 8:
        raise TypeError(
            f"{what} must be a tensor, array, frame, Dataset or DataLoader of numbers; got {type(values).__name__}"
            f" of dtype {array.dtype}. Convert it first."
        )
    if np.ma.is_masked(values):
        raise TypeError(f"{what} must have no masked cells; got {np.ma.count_masked(values)}. Drop or impute them.")
    if array.dtype.kind == "u" and array.dtype.itemsize == 8 and array.size and array.max() > np.iinfo(np.int64).max:
        raise TypeError(f"{what} must be below 2**63; got {array.max()} of dtype uint64. Convert it to float64.")
    if array.dtype.kind == "u" and array.dtype.itemsize > 1:
        array = array.astype(np.int64)
    if not _plain(array, writeable=not isinstance(values, np.memmap)):
        array = np.array(array, dtype=array.dtype.newbyteorder("="), order="C", copy=True)
    return array


def _plain(array: np.ndarray, writeable: bool) -> bool:
    whole = all(stride >= 0 and stride % array.itemsize == 0 for stride in array.strides)
    return whole and array.dtype.isnative and (array.flags.writeable or not writeable)


def as_names(names: Any, what: str = "fields") -> tuple[str, ...]:
    """A tuple of names, from a sequence of names or a single one.

    Raises:
        TypeError: if they are not names.
    """
    found = (names,) if isinstance(names, str) else tuple(names) if isinstance(names, Sequence) else (names,)
    if not all(isinstance(name, str) for name in found):
        raise TypeError(f"{what} must be a sequence of names; got {names!r}. Pass e.g. {what}=('x', 'label').")
    return found


def check_fields(fields: Mapping[str, Tensor], num_rows: int) -> None:
    """Raise a ValueError unless every field has one entry per row."""
    for name, field in fields.items():
        if field.dim() == 0 or len(field) != num_rows:
            raise ValueError(
                f"field {name!r} must have one entry per row ({num_rows}); got shape {tuple(field.shape)}."
                " Align it with x."
            )


def check_finite(what: str, values: Tensor, first_row: int = 0) -> None:
    """Raise a ValueError unless all values are finite; their first dimension counts rows."""
    bad = ~torch.isfinite(values)
    if bad.any():
        place = tuple(int(i) for i in bad.nonzero()[0])
        where = f" in row {first_row + place[0]}" if place else ""
        raise ValueError(
            f"{what} must be finite; got {values[place].item()}{where} ({int(bad.sum())} such cells)."
            " Drop those rows or impute the cells."
        )
