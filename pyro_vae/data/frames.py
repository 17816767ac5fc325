"""Rows of pandas frames."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NoReturn

import numpy as np

from pyro_vae.data.columns import warn_of_lost_integers
from pyro_vae.data.rows import Rows

__all__ = ["UNNAMED", "ReadField", "check_alignment", "from_frame", "refuse_row_names"]

ReadField = Callable[[str, Any], Any]  # from the name and the values of a field to a tensor
UNNAMED = re.compile(r"(Unnamed: \d+(\.\d+)*)?")  # a column of row names, as `DataFrame.to_csv` and `read_csv` name it


def from_frame(
    frame: Any, fields: Sequence[str], readable: Collection[str] = (), read_field: ReadField | None = None
) -> Rows:
    """x, fields and names of a frame; `readable` columns are fields wherever the frame has them.

    Fields become tensors by `read_field`, by default as numbers.

    Raises:
        TypeError: if a column does not hold numbers.
        ValueError: if the frame lacks a field, or its first columns hold names of rows.
    """
    frame = frame.to_frame() if frame.ndim == 1 else frame
    names = [str(column) for column in frame.columns]
    unknown = [name for name in fields if name != "x" and name not in names]
    if unknown:
        raise ValueError(f"fields must be columns of the frame; got {unknown}. The columns are {names}.")
    keep = [name not in fields and name not in readable for name in names]
    read = [read_field is not None and not kept for kept in keep]
    kinds = zip(names, frame.dtypes, read, strict=True)
    text = [name for name, kind, done in kinds if kind.kind not in "biuf" and not done]
    if text:
        raise TypeError(
            f"columns must be numbers; got text or other objects in {text}. Read the frame by pv.Table, and"
            " make the model by pv.VAE.for_table; or drop these columns."
        )
    if names and UNNAMED.fullmatch(names[0]) and frame.dtypes.iloc[0].kind in "iu" and frame.iloc[:, 0].is_unique:
        refuse_row_names(names[0])
    taken = {name: frame.iloc[:, i].to_numpy() for i, name in enumerate(names) if not keep[i]}
    taken = taken if read_field is None else {name: read_field(name, values) for name, values in taken.items()}
    columns = [name for name, kept in zip(names, keep, strict=True) if kept]
    warn_of_lost_integers(columns, [frame.iloc[:, i].to_numpy() for i, kept in enumerate(keep) if kept])
    x = (frame if all(keep) else frame.loc[:, keep]).to_numpy(dtype=np.float64)
    return Rows(x, taken, columns=columns, index=frame.index.tolist())


def refuse_row_names(name: str) -> NoReturn:
    """Raise a ValueError about a column with the names of rows."""
    raise ValueError(
        f"columns must be data; got {name!r}, names of rows. Read the file with index_col=0, or drop this column."
    )


def check_alignment(fields: Mapping[str, Any], index: Sequence[Any] | None) -> None:
    """Raise a ValueError if a field is a pandas Series whose rows have other names, or another order, than those of x.

    Args:
        fields: the user's values by name.
        index: the names of the rows of x; None where they have none.
    """
    for name, values in fields.items():
        if index is None or not type(values).__module__.startswith("pandas") or not hasattr(values, "index"):
            continue
        own = values.index.tolist()
        if own != list(index) and len(own) == len(index):
            place = next(i for i, (one, other) in enumerate(zip(own, index, strict=True)) if one != other)
            raise ValueError(
                f"field {name!r} must have the index of x, in its order; got {own[place]!r} in place of"
                f" {index[place]!r} in row {place}. Reorder it, {name}.loc[x.index], or pass {name}.to_numpy() if rows"
                " belong together by their place."
            )
