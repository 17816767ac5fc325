"""Frames of pandas."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from pyro_vae.tables.columns import Column, plain_levels
from pyro_vae.tables.libraries import arrow_tables
from pyro_vae.tables.libraries.base import DType, Library, floats_in, integers_in, missing_in, ticks_in, unsupported

__all__ = ["Pandas"]

INTEGERS = {"int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"}
FLOATS = {"float16", "float32", "float64"}
NULLABLE = {"Int8", "Int16", "Int32", "Int64", "UInt8", "UInt16", "UInt32", "UInt64", "Float32", "Float64"}
OBJECTS = {"string": "text", "boolean": "bool", "integer": "int", "floating": "float"}  # names of pandas for contents


class Pandas(Library):
    """pandas: columns of NumPy, of pandas' own nullable dtypes, categories, and columns that pyarrow holds."""

    name, frame_class = "pandas", "DataFrame"
    dtypes: ClassVar[Mapping[str, tuple[str, ...]]] = {
        **dict.fromkeys([*INTEGERS, *FLOATS, *NULLABLE, "bool", "boolean"], ()),
        "object": ("holds",),
        "string": ("storage", "na"),
        "category": ("values", "levels", "ordered"),
        "datetime64": ("unit", "zone"),
        "arrow": ("type",),
    }

    def kept(self, frame: Any) -> Any:
        import pandas

        return frame.copy(deep=int(pandas.__version__.split(".")[0]) < 3)  # later versions copy on write

    def names(self, frame: Any) -> list[Any]:
        if frame.columns.nlevels > 1:
            raise TypeError(
                f"columns must have plain names; got {frame.columns.nlevels} levels of names. Join them:"
                " frame.columns = ['_'.join(map(str, name)) for name in frame.columns]."
            )
        return list(frame.columns.tolist())

    def index(self, frame: Any) -> list[Any] | None:
        return list(frame.index.tolist())

    def axis(self, frame: Any) -> DType | None:
        name, dtype = frame.columns.name, _describe(frame.columns.dtype, "text")
        return {"name": name if isinstance(name, str | int) else None, "dtype": dtype}

    def read(self, frame: Any, place: int, name: str) -> tuple[Column, DType | None]:
        import pandas

        series = frame.iloc[:, place]
        if isinstance(series.dtype, pandas.ArrowDtype):
            import pyarrow

            array = pyarrow.chunked_array(pyarrow.Array.from_pandas(series))
            column, inner = arrow_tables.read_array(array, name)
            return column, None if inner is None else {"name": "arrow", "type": inner}
        holds = pandas.api.types.infer_dtype(series, skipna=True) if series.dtype == object else ""
        if holds == "empty":
            return Column(name, "empty", np.full(len(series), np.nan)), None
        dtype = _describe(series.dtype, OBJECTS.get(holds, ""))
        if dtype is None:
            raise unsupported(name, f"object ({holds})" if holds else series.dtype)
        return _read(series, dtype, name), dtype

    def write(self, values: np.ndarray, dtype: DType) -> Any:
        import pandas

        name = dtype["name"]
        if name == "arrow":
            array = arrow_tables.write_array(values, dtype["type"])
            return pandas.Series(pandas.arrays.ArrowExtensionArray(array))
        kind = _rebuild(dtype)
        if name == "datetime64":
            ticks = ticks_in(values, dtype["unit"]).view(f"datetime64[{dtype['unit']}]")
            times = pandas.DatetimeIndex(ticks)
            return pandas.Series(times if dtype["zone"] is None else times.tz_localize("UTC").tz_convert(dtype["zone"]))
        missing = missing_in(values)
        if name == "category":
            return pandas.Series(pandas.Categorical(values, dtype=kind))
        if name == "object":
            return pandas.Series(_objects(values, missing, dtype["holds"]), dtype=object)
        if name == "string":
            return pandas.Series(pandas.array(values, dtype=kind))
        if name in FLOATS:
            return pandas.Series(floats_in(values, kind))
        if name in NULLABLE or name == "boolean":
            return pandas.Series(_nullable(values, missing, kind))
        if missing.any():
            raise ValueError(
                f"values must have no missing cells for dtype {name}; got one in row {int(np.argmax(missing))}. Impute"
                " it, or fit the model to a column of a dtype with missing cells, such as Int64 or boolean."
            )
        return pandas.Series(values.astype(bool) if name == "bool" else integers_in(values, name))

    def make(self, columns: Mapping[Any, Any], axis: DType | None) -> Any:
        import pandas

        frame = pandas.concat(list(columns.values()), axis=1, keys=range(len(columns)))
        described = (axis or {}).get("dtype")
        dtype = None if described is None else _rebuild(described)
        frame.columns = pandas.Index(list(columns), dtype=dtype, name=(axis or {}).get("name"))
        return frame

    def replaced(self, frame: Any, columns: Mapping[int, Any]) -> Any:
        import pandas

        parts = [frame.iloc[:, place] for place in range(frame.shape[1])]
        for place, column in columns.items():
            parts[place] = column.set_axis(frame.index)
        made = pandas.concat(parts, axis=1, keys=range(len(parts)))
        made.columns, made.attrs = frame.columns, dict(frame.attrs)
        return made

    def taken(self, frame: Any, rows: np.ndarray) -> Any:
        return frame.iloc[rows]


def _describe(kind: Any, holds: str) -> DType | None:
    """A pandas dtype as JSON values; None if it can't be made from these again."""
    import pandas

    described = _described(kind, holds)
    try:
        return described if described is not None and _rebuild(described) == kind else None
    except (TypeError, ValueError, pandas.errors.ParserError):
        return None


def _described(kind: Any, holds: str) -> DType | None:
    import pandas

    if isinstance(kind, pandas.CategoricalDtype):
        holds = pandas.api.types.infer_dtype(kind.categories, skipna=False)
        values = _described(kind.categories.dtype, {**OBJECTS, "empty": "text"}.get(holds, ""))
        if values is None:
            return None
        try:
            levels = list(plain_levels("a category", kind.categories.tolist()))
        except TypeError:
            return None
        return {"name": "category", "values": values, "levels": levels, "ordered": bool(kind.ordered)}
    if isinstance(kind, pandas.StringDtype):
        return {"name": "string", "storage": kind.storage, "na": "NA" if kind.na_value is pandas.NA else "nan"}
    if isinstance(kind, pandas.DatetimeTZDtype):
        return {"name": "datetime64", "unit": kind.unit, "zone": str(kind.tz)}
    if isinstance(kind, pandas.ArrowDtype):
        return {"name": "arrow", "type": arrow_tables.describe(kind.pyarrow_dtype)}
    if isinstance(kind, np.dtype) and kind.kind == "M":
        return {"name": "datetime64", "unit": np.datetime_data(kind)[0], "zone": None}
    if kind == np.dtype(object):
        return {"name": "object", "holds": holds} if holds else None
    return {"name": str(kind)} if Pandas.dtypes.get(str(kind)) == () else None


def _rebuild(dtype: DType) -> Any:
    """The pandas dtype that was described."""
    import pandas

    name = dtype["name"]
    if name == "category":
        levels = pandas.Index(dtype["levels"], dtype=_rebuild(dtype["values"]))
        return pandas.CategoricalDtype(levels, dtype["ordered"])
    if name == "string":
        return pandas.StringDtype(dtype["storage"], **({} if dtype["na"] == "NA" else {"na_value": np.nan}))
    if name == "datetime64":
        unit, zone = dtype["unit"], dtype["zone"]
        return np.dtype(f"datetime64[{unit}]") if zone is None else pandas.DatetimeTZDtype(unit, zone)
    if name == "arrow":
        return pandas.ArrowDtype(arrow_tables.rebuild(dtype["type"]))
    return pandas.api.types.pandas_dtype(name)


def _read(series: Any, dtype: DType, name: str) -> Column:
    import pandas

    short = dtype["name"]
    holds = dtype.get("holds") or {"bool": "bool", "boolean": "bool", "string": "text"}.get(short)
    if short == "category":
        codes = series.cat.codes.to_numpy(np.float64, copy=True)
        codes[codes < 0] = np.nan
        return Column(name, "levels", codes, tuple(dtype["levels"]), ordered=dtype["ordered"])
    if short == "datetime64":
        plain = series if dtype["zone"] is None else series.dt.tz_convert("UTC").dt.tz_localize(None)
        ticks = plain.to_numpy(f"datetime64[{dtype['unit']}]").view(np.int64)
        return Column(name, "time", ticks, unit=dtype["unit"], zoned=dtype["zone"] is not None)
    if holds == "text":
        places, found = pandas.factorize(series, sort=True)
        codes = places.astype(np.float64)
        codes[places < 0] = np.nan
        return Column(name, "text", codes, tuple(found.tolist()))
    sort = holds or ("int" if short.lower() in INTEGERS else "float")
    if short in FLOATS or short in INTEGERS or short == "bool":
        return Column(name, sort, series.to_numpy(np.float64))
    if short == "object":
        return Column(name, sort, series.where(series.notna(), np.nan).to_numpy().astype(np.float64))
    return Column(name, sort, series.to_numpy(np.float64, na_value=np.nan))


def _objects(values: np.ndarray, missing: np.ndarray, holds: str) -> np.ndarray:
    """Numbers, truth values and text as objects of Python; None where missing."""
    cells = integers_in(values, np.int64) if holds == "int" else values
    found = cells.astype(object)
    found[missing] = None
    return found


def _nullable(values: np.ndarray, missing: np.ndarray, kind: Any) -> Any:
    """An array of a dtype of pandas that has a mask."""
    import pandas

    if kind.kind == "f":
        return pandas.arrays.FloatingArray(floats_in(values, kind.numpy_dtype), missing)
    if kind.kind == "b":
        return pandas.arrays.BooleanArray(np.where(missing, False, values).astype(bool), missing)
    return pandas.arrays.IntegerArray(integers_in(values, kind.numpy_dtype), missing)
