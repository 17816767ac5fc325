"""Files: arrays of numbers in .npy and .npz, tables in .csv and .parquet."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from pyro_vae.data.batches import Rows
from pyro_vae.data.tensors import as_tensor
from pyro_vae.datasets import frames
from pyro_vae.datasets.arrays import read_array, read_arrays
from pyro_vae.datasets.splits import Request, Splits, UnsuitableDataError, as_splits, reading, split_80_10_10


def read(path: Path, request: Request) -> Splits:
    """Read a table, or the numbers in a file of arrays, unchanged.

    The likelihood of arrays is Bernoulli if all cells are 0 or 1, else normal.

    Raises:
        ValueError: if the file is damaged, holds pickled objects or fewer than 10 rows, or has no array `x`.
        TypeError: if the cells of an array are not numbers, or a column is of a type without a kind.
        ImportError: if pandas or pyarrow is needed and not installed.
    """
    request.refuse_options("binarize", "image_size")
    suffix = path.suffix.lower()
    if suffix != ".csv":
        request.refuse_options("sep", "decimal", "header")
    if suffix in frames.READERS:
        table = frames.read_table(path, request)
        parts = split_80_10_10(table, request)
        return replace(as_splits(request, parts, "Product", {}, "as in the file"), table=table)
    request.refuse_options("kinds")
    rows = READERS[suffix](path)
    if 0 in rows.event_shape:
        shape = (len(rows), *rows.event_shape)
        raise ValueError(f"x must have a cell in each row; got shape {shape} in {path}. Name fewer fields.")
    data = split_80_10_10(rows, request)
    if all(bool(((part == 0) | (part == 1)).all()) for part in rows.pieces()):
        return as_splits(request, data, "Bernoulli", {}, "as in the file")
    return as_splits(request, data, "Normal", {"scale": "per_dimension"}, "as in the file")


def _from_npy(path: Path) -> Rows:
    with reading(path):
        array = read_array(path)
    return _with_fields(as_tensor(array), {})


def _from_npz(path: Path) -> Rows:
    with reading(path):
        arrays = read_arrays(path, lambda shapes: _arrays_of_rows(path, shapes))
    x, *others = arrays
    return _with_fields(as_tensor(arrays[x]), {name: as_tensor(arrays[name], name) for name in others})


def _with_fields(x: Tensor, fields: dict[str, Tensor]) -> Rows:
    return Rows(x[:, None] if x.dim() == 1 else x, fields)


def _arrays_of_rows(path: Path, shapes: dict[str, tuple[int, ...]]) -> list[str]:
    """The name of the data, then the names of all other arrays with as many rows, which are fields."""
    x = "x" if len(shapes) != 1 else next(iter(shapes))
    if x not in shapes:
        raise UnsuitableDataError(
            f"{path} must hold an array 'x', or only one; got {sorted(shapes)}. Name the data 'x'."
        )
    return [x, *(name for name in shapes if name != x and shapes[x] and shapes[name][:1] == shapes[x][:1])]


READERS: dict[str, Callable[[Path], Rows]] = {".npy": _from_npy, ".npz": _from_npz}
SUFFIXES = (*READERS, *frames.READERS)
