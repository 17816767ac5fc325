"""Tables of pyarrow, and columns of pandas frames that pyarrow holds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from pyro_vae.tables.columns import NAT, UNITS, Column, plain_levels
from pyro_vae.tables.libraries.base import DType, Library, floats_in, integers_in, missing_in, ticks_in, unsupported

__all__ = ["Arrow", "describe", "read_array", "rebuild", "write_array"]

INTEGERS = {"int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"}
FLOATS = {"halffloat": np.float16, "float": np.float32, "double": np.float64}
TEXTS = {"string", "large_string", "string_view"}
PLAIN = {*INTEGERS, *FLOATS, *TEXTS, "bool", "date32", "date64"}


class Arrow(Library):
    """pyarrow. The metadata of a table come back with its own rows; a drawn table has none."""

    name, frame_class = "pyarrow", "Table"
    dtypes = dict.fromkeys(PLAIN, ()) | {
        "timestamp": ("unit", "zone"),
        "dictionary": ("index", "values", "levels", "ordered"),
    }

    def kept(self, frame: Any) -> Any:
        return frame

    def names(self, frame: Any) -> list[Any]:
        return list(frame.column_names)

    def read(self, frame: Any, place: int, name: str) -> tuple[Column, DType | None]:
        return read_array(frame.column(place), name)

    def write(self, values: np.ndarray, dtype: DType) -> Any:
        return write_array(values, dtype)

    def make(self, columns: Mapping[Any, Any], axis: DType | None) -> Any:
        import pyarrow

        return pyarrow.table(dict(columns))

    def replaced(self, frame: Any, columns: Mapping[int, Any]) -> Any:
        for place, column in columns.items():
            frame = frame.set_column(place, frame.schema.field(place).with_type(column.type), column)
        return frame

    def taken(self, frame: Any, rows: np.ndarray) -> Any:
        return frame.take(rows)


def _name(kind: Any) -> str:
    """The name of an Arrow type without its parameters."""
    from pyarrow import types

    if types.is_dictionary(kind):
        return "dictionary"
    if types.is_timestamp(kind):
        return "timestamp"
    text = str(kind)
    return {"date32[day]": "date32", "date64[ms]": "date64"}.get(text, text)


def describe(kind: Any, levels: Any = ()) -> DType:
    """An Arrow type as JSON values."""
    name = _name(kind)
    if name == "timestamp":
        return {"name": name, "unit": kind.unit, "zone": kind.tz}
    if name == "dictionary":
        parts = {"index": describe(kind.index_type), "values": describe(kind.value_type)}
        return {"name": name, **parts, "levels": list(levels), "ordered": kind.ordered}
    return {"name": name}


def rebuild(dtype: DType) -> Any:
    """The Arrow type that was described."""
    import pyarrow

    if dtype["name"] == "timestamp":
        return pyarrow.timestamp(dtype["unit"], dtype["zone"])
    if dtype["name"] == "dictionary":
        return pyarrow.dictionary(rebuild(dtype["index"]), rebuild(dtype["values"]), dtype["ordered"])
    makers = {"halffloat": "float16", "float": "float32", "double": "float64", "bool": "bool_"}
    name: str = dtype["name"]
    return getattr(pyarrow, makers.get(name, name))()


def read_array(array: Any, name: str) -> tuple[Column, DType | None]:
    """A chunked array as a column, and its dtype."""
    import pyarrow
    from pyarrow import compute, types

    kind, short = array.type, _name(array.type)
    if types.is_null(kind):
        return Column(name, "empty", np.full(len(array), np.nan)), None
    if short == "timestamp" or short in ("date32", "date64"):
        ticks = array.cast(pyarrow.int32() if short == "date32" else pyarrow.int64()).cast(pyarrow.int64())
        unit = {"date32": "D", "date64": "ms"}.get(short) or kind.unit
        numbers = compute.fill_null(ticks, int(NAT)).to_numpy()
        zoned = short == "timestamp" and kind.tz is not None
        return Column(name, "time", numbers, unit=unit, zoned=zoned), describe(kind)
    if short == "dictionary":
        levels, codes = _levels(array, name, kind)
        return Column(name, "levels", codes, levels, ordered=kind.ordered), describe(kind, levels)
    if short in TEXTS:
        return _read_text(array, name), describe(kind)
    if short == "bool":
        return Column(name, "bool", _floats(array.cast(pyarrow.int8()))), describe(kind)
    if short in INTEGERS or short in FLOATS:
        return Column(name, "int" if short in INTEGERS else "float", _floats(array)), describe(kind)
    raise unsupported(name, kind)


def _floats(array: Any) -> np.ndarray:
    import pyarrow

    numbers = array.cast(pyarrow.float64(), safe=False).to_numpy()
    return numbers.astype(np.float64)  # type: ignore[no-any-return]


def _read_text(array: Any, name: str) -> Column:
    import pyarrow

    encoded = array.cast(pyarrow.large_string()).combine_chunks().dictionary_encode()
    encoded = encoded.combine_chunks() if isinstance(encoded, pyarrow.ChunkedArray) else encoded
    found = encoded.dictionary.to_pylist()
    order = sorted(range(len(found)), key=found.__getitem__)
    rank = np.empty(len(found) + 1)
    rank[order], rank[-1] = np.arange(len(found)), np.nan
    codes = encoded.indices.fill_null(len(found)).to_numpy(zero_copy_only=False)
    return Column(name, "text", rank[codes], tuple(found[i] for i in order))


def _levels(array: Any, name: str, kind: Any) -> tuple[tuple[Any, ...], np.ndarray]:
    """The levels of a dictionary, and the codes."""
    import pyarrow

    if _name(kind.value_type) not in {*INTEGERS, *FLOATS, *TEXTS, "bool"}:
        raise unsupported(name, kind)
    whole = array.unify_dictionaries().combine_chunks()
    if isinstance(whole, pyarrow.ChunkedArray):
        whole = whole.chunk(0) if whole.num_chunks else pyarrow.array([], kind)
    levels = plain_levels(f"column {name!r}", whole.dictionary.to_pylist())
    return levels, _floats(pyarrow.chunked_array([whole.indices.cast(pyarrow.int64())]))


def write_array(values: np.ndarray, dtype: DType) -> Any:
    """What a kind decodes, as an Arrow array."""
    import pyarrow
    from pyarrow import compute

    kind, name, missing = rebuild(dtype), dtype["name"], missing_in(values)
    if values.dtype.kind == "M":
        ticks = ticks_in(values, {"date32": "D", "date64": "ms"}.get(name) or dtype["unit"])
        ticks = ticks.astype(np.int32) if name == "date32" else ticks
        ticks = ticks // UNITS["ms"] * UNITS["ms"] if name == "date64" else ticks
        return pyarrow.array(ticks, mask=missing).cast(kind)
    if name in INTEGERS:
        return pyarrow.array(integers_in(values.astype(np.float64), name), mask=missing)
    if name in FLOATS:
        return pyarrow.array(floats_in(values, FLOATS[name]), mask=missing)
    if name != "dictionary":
        return pyarrow.array(values, kind, mask=missing)
    cells, levels = write_array(values, dtype["values"]), pyarrow.array(dtype["levels"], kind.value_type)
    common = pyarrow.large_string() if dtype["values"]["name"] in TEXTS else kind.value_type
    codes = compute.index_in(cells.cast(common), value_set=levels.cast(common), skip_nulls=True)
    return pyarrow.DictionaryArray.from_arrays(codes.cast(kind.index_type), levels, ordered=dtype["ordered"])
