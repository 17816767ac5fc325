"""Numbers in files: .npy, .npz and .csv."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import cast

import numpy as np

from pyro_vae.batches import Rows, as_rows, as_tensor
from pyro_vae.datasets.splits import Request, Splits, describe, reading, tenths


def read(path: Path, request: Request) -> Splits:
    """The numbers of a file, as they are; cells in {0, 1} only suggest Bernoulli, others Normal.

    Raises:
        ValueError: if the file is damaged, has pickled objects, no array `x`, or fewer than 10 rows.
        TypeError: if the cells are not numbers.
        ImportError: if pandas is needed and absent.
    """
    request.refuse("binarize", "image_size")
    rows = _from_csv(path, request.fields) if path.suffix.lower() == ".csv" else _from_numpy(path)
    if rows.x[0].numel() == 0:
        raise ValueError(f"x must have a cell in each row; got shape {tuple(rows.x.shape)} in {path}. Leave some to x.")
    parts = tenths(rows, request)
    if ((rows.x == 0) | (rows.x == 1)).all():
        return describe(request, parts, "Bernoulli", {}, "as in the file")
    return describe(request, parts, "Normal", {"scale": "per_dimension"}, "as in the file")


def _from_numpy(path: Path) -> Rows:
    with reading(path), path.open("rb") as file:
        loaded = np.load(file, allow_pickle=False)
        arrays = {name: loaded[name] for name in loaded.files} if hasattr(loaded, "files") else {"x": loaded}
    name = "x" if len(arrays) != 1 else next(iter(arrays))
    if name not in arrays:
        raise ValueError(f"{path} must hold an array 'x', or only one; got {sorted(arrays)}. Name the data 'x'.")
    x = as_tensor(arrays.pop(name))
    x = x[:, None] if x.dim() == 1 else x
    aligned = [name for name, array in arrays.items() if x.dim() and array.shape[:1] == x.shape[:1]]
    return Rows(x, {name: as_tensor(arrays[name], name) for name in aligned})


def _from_csv(path: Path, fields: Sequence[str]) -> Rows:
    try:
        import pandas
    except ImportError as error:
        raise ImportError(f"pandas must be installed to read {path}; got {error}. Run: pip install pandas.") from error
    with reading(path):
        frame = pandas.read_csv(path)
    if list(frame.columns[:1]) == ["Unnamed: 0"]:  # the row names, as DataFrame.to_csv writes them
        frame = frame.set_index("Unnamed: 0")
    return cast(Rows, as_rows(frame, fields))
