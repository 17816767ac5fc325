"""Frames in .csv and .parquet files, as tables."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from pyro_vae.arguments import as_path
from pyro_vae.data.tensors import as_tensor
from pyro_vae.datasets import delimited, tables
from pyro_vae.datasets.splits import Request, check_enough_rows
from pyro_vae.tables import KINDS, Kind, Table, TableSchema, Time
from pyro_vae.tables.columns import shown
from pyro_vae.tables.libraries import sort_of

__all__ = ["LEAVE_OUT", "READERS", "as_kinds", "read_frame", "read_table"]

READERS = (".csv", ".parquet")  # suffixes
LEAVE_OUT = "leave_out"  # in place of a kind: the column is not modelled
ISO_TIME = re.compile(r"\d{4}-\d\d-\d\d([T ]\d\d:\d\d(:\d\d(\.\d{1,9})?)?(?P<zone>Z|[+-]\d\d:?\d\d)?)?")


def as_kinds(kinds: Any) -> dict[str, Any] | None:
    """The argument `kinds` of `load`, checked; None where there are none.

    Raises:
        TypeError, ValueError: if it is no dictionary, or a value is no kind.
    """
    if kinds is None:
        return None
    if not isinstance(kinds, Mapping):
        raise TypeError(f"kinds must be a dictionary; got {kinds!r}. Pass e.g. {{'visits': 'count'}}.")
    for name, kind in kinds.items():
        if not isinstance(kind, Kind) and kind not in (*KINDS, LEAVE_OUT):
            raise ValueError(
                f"kinds[{str(name)!r}] must be one of {', '.join((*KINDS, LEAVE_OUT))}; got {kind!r}. Choose one."
            )
    return {str(name): kind for name, kind in kinds.items()} or None


def read_frame(
    path: str | os.PathLike[str],
    *,
    sep: str | None = None,
    decimal: str | None = None,
    header: bool | None = None,
    schema: TableSchema | None = None,
) -> Any:
    """Read a .csv or .parquet file as a frame of pandas, as `load` does, but as a whole and of any number of rows.

    Args:
        path: the file.
        sep: as in `load`.
        decimal: as in `load`.
        header: as in `load`.
        schema: the columns of a table, such as `vae.table_schema`: columns that hold text there are read as text from
            a .csv file, even if all cells of this file look like numbers or dates.

    Raises:
        ValueError: if there is no such file, an option has no meaning for it, or it is damaged.
        ImportError: if pandas or pyarrow is needed and not installed.

    Example:
        >>> import pathlib, tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = pathlib.Path(folder) / "people.csv"
        ...     _ = file.write_text("seen,visits\\n2024-03-31,3\\n,\\n")
        ...     read_frame(file)
                seen  visits
        0 2024-03-31       3
        1        NaT    <NA>
    """
    file = as_path("path", path)
    if not file.is_file() or file.suffix.lower() not in READERS:
        absent = "" if file.exists() else ", which does not exist"
        raise ValueError(f"path must be a .csv or .parquet file; got {str(path)!r}{absent}. Correct the path.")
    delimited.check_options(sep, decimal, header)
    text = set()
    if schema is not None:
        text = {c.name for c in schema.columns if c.dtype is not None and sort_of(c.dtype) in ("text", "levels")}
    if file.suffix.lower() == ".parquet":
        given = {"sep": sep, "decimal": decimal, "header": header}
        for option, value in given.items():
            if value is not None:
                raise ValueError(f"{option} must be None for {str(path)!r}; got {value!r}. Leave it out.")
    return _read(file, sep, decimal, header, text=text)


def _read(
    path: Path,
    sep: str | None,
    decimal: str | None,
    header: bool | None,
    *,
    text: Collection[str] = (),
    stated: Collection[str] = (),
) -> Any:
    if path.suffix.lower() == ".parquet":
        return tables.read(path)
    frame = delimited.read(path, sep, decimal, header, text=text, stated=stated)
    for place, name in enumerate(frame.columns):
        if name not in text and name not in stated:
            times = _as_times(frame.iloc[:, place])
            if times is not None:
                frame.isetitem(place, times)
    return frame


def _as_times(column: Any) -> Any:
    """A column of text as times; None unless all cells that are not missing are ISO dates or times that exist."""
    import pandas

    cells = column.dropna()
    if column.dtype.kind in "biuf" or not len(cells):
        return None
    zones = set()
    for cell in cells:
        match = ISO_TIME.fullmatch(cell) if isinstance(cell, str) else None
        if match is None:
            return None
        zones.add(match["zone"] is not None)
    if len(zones) > 1:
        return None
    try:
        return pandas.to_datetime(column, format="ISO8601", utc=zones.pop())
    except (ValueError, OverflowError):
        return None


def read_table(path: Path, request: Request) -> Table:
    """All rows of a file, in its order.

    Raises:
        TypeError: if a column is of a type that no kind reads, or a field holds no numbers.
        ValueError: if the file can't be read, has fewer than 10 rows, lacks a column, or one contradicts its kind.
    """
    kinds = dict(request.kinds or {})
    stated = [name for name, kind in kinds.items() if kind != "time" and not isinstance(kind, Time)]
    frame = _read(path, request.sep, request.decimal, request.header, stated=stated)
    frame, fields = _take_fields(frame, request.fields)
    check_enough_rows(len(frame), request)
    names = [str(name) for name in frame.columns]
    if not names:
        raise ValueError(f"{path} must have a column of data besides the fields; got none. Name fewer fields.")
    unknown = [name for name in kinds if name not in names]
    if unknown:
        raise ValueError(
            f"kinds must name columns of {path} ({shown(names, 20)}); got {unknown[0]!r}. Correct the name."
        )
    leave_out = [name for name, kind in kinds.items() if kind == LEAVE_OUT]
    empty = [name for place, name in enumerate(names) if name not in leave_out and frame.iloc[:, place].isna().all()]
    if empty:
        raise ValueError(
            f"column {empty[0]!r} of {path} must have a cell that is not missing; got none. Pass kinds={{{empty[0]!r}:"
            f" {LEAVE_OUT!r}}} (on the command line: --kinds {empty[0]}={LEAVE_OUT})."
        )
    given = {name: kind for name, kind in kinds.items() if kind != LEAVE_OUT}
    for name in (name for name, kind in given.items() if kind == "ordinal"):
        _refuse_text_without_order(path, name, frame.iloc[:, names.index(name)])
    table = Table(frame, kinds=given, leave_out=leave_out, covariates=request.covariates)
    return table.with_fields(fields) if fields else table  # type: ignore[return-value]


def _refuse_text_without_order(path: Path, name: str, column: Any) -> None:
    if column.dtype.kind != "O" or getattr(column.dtype, "ordered", False):
        return
    levels = sorted(map(str, column.dropna().unique()))
    raise ValueError(
        f"column {name!r} of {path} must have levels in an order for the kind 'ordinal'; got {shown(levels, 6)} without"
        f" one. Pass kinds={{{name!r}: pv.tables.Ordinal([...])}} with the levels from the lowest to the highest (on"
        f" the command line: --kinds {name}=ordinal:LOWEST:...:HIGHEST)."
    )


def _take_fields(frame: Any, names: tuple[str, ...]) -> tuple[Any, dict[str, Any]]:
    """The frame without the columns that are fields, and these; levels of the index may be fields, too."""
    labels, levels = [str(label) for label in frame.columns], [str(name) for name in frame.index.names]
    unknown = [name for name in names if name not in labels and name not in levels]
    if unknown:
        raise ValueError(f"fields must be columns of the frame; got {unknown}. The columns are {labels}.")
    fields = {}
    for name in names:
        place = labels.index(name) if name in labels else None
        column = frame.index.get_level_values(levels.index(name)) if place is None else frame.iloc[:, place]
        if column.dtype.kind not in "biuf":
            raise TypeError(f"field {name!r} must hold numbers; got {column.dtype}. Encode it, or model the column.")
        if column.isna().any():
            raise ValueError(
                f"field {name!r} must have no gaps; got a missing cell in row {int(column.isna().argmax())}. Drop the"
                " row, or model the column."
            )
        fields[name] = as_tensor(column.to_numpy(column.dtype.name.lower()), name)
    return frame.loc[:, [name not in names for name in labels]], fields
