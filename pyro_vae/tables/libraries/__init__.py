"""The libraries whose frames a table reads and writes."""

from __future__ import annotations

from typing import Any

from pyro_vae.tables.libraries.arrow_tables import Arrow
from pyro_vae.tables.libraries.base import DType, Library, check_dtype, sort_of
from pyro_vae.tables.libraries.pandas_frames import Pandas
from pyro_vae.tables.libraries.polars_frames import Polars

__all__ = ["LIBRARIES", "DType", "Library", "check_dtype", "is_frame", "library_of", "sort_of"]

LIBRARIES: dict[str, Library] = {library.name: library for library in (Pandas(), Polars(), Arrow())}

ADVICE = {
    "dict": "Make a frame of it: pandas.DataFrame(columns).",
    "list": "Make a frame of it: pandas.DataFrame(rows).",
    "str": "Read the file first, e.g. with pandas.read_csv or polars.read_parquet.",
    "PosixPath": "Read the file first, e.g. with pandas.read_csv or polars.read_parquet.",
    "LazyFrame": "Collect it first: frame.collect().",
    "Series": "Make a frame of it: series.to_frame().",
    "RecordBatch": "Make a table of it: pyarrow.Table.from_batches([batch]).",
    "ndarray": "Use pv.Rows for cells of one kind, or pandas.DataFrame(x).",
    "Tensor": "Use pv.Rows for cells of one kind, or pandas.DataFrame(x.numpy()).",
}


def library_of(frame: Any) -> Library:
    """The library of a frame.

    Raises:
        TypeError: if it is not a frame of pandas or polars, or a table of pyarrow.
    """
    for library in LIBRARIES.values():
        if library.owns(frame):
            return library
    kind = type(frame).__name__
    advice = ADVICE.get(kind, "Convert it to one of these.")
    raise TypeError(f"frame must be a frame of pandas or polars, or a table of pyarrow; got {kind}. {advice}")


def is_frame(data: Any) -> bool:
    """Whether these are data of a library whose frames a table reads."""
    return any(library.owns(data) for library in LIBRARIES.values())
