"""Frames of polars."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from pyro_vae.tables.columns import NAT, Column
from pyro_vae.tables.libraries.base import DType, Library, floats_in, integers_in, ticks_in, unsupported

__all__ = ["Polars"]

INTEGERS = {"Int8", "Int16", "Int32", "Int64", "UInt8", "UInt16", "UInt32", "UInt64"}
FLOATS = {"Float32", "Float64"}


class Polars(Library):
    """polars. NaN counts as missing, as null does."""

    name, frame_class = "polars", "DataFrame"
    dtypes: ClassVar[Mapping[str, tuple[str, ...]]] = {
        **dict.fromkeys([*INTEGERS, *FLOATS, "Boolean", "String", "Categorical", "Date"], ()),
        "Datetime": ("unit", "zone"),
        "Enum": ("levels",),
    }

    def kept(self, frame: Any) -> Any:
        return frame.clone()

    def names(self, frame: Any) -> list[Any]:
        return list(frame.columns)

    def read(self, frame: Any, place: int, name: str) -> tuple[Column, DType | None]:
        import polars

        series = frame.to_series(place)
        short = str(series.dtype.base_type())
        if short == "Null":
            return Column(name, "empty", np.full(len(series), np.nan)), None
        dtype = _describe(series.dtype, short)
        if short not in self.dtypes or _rebuild(dtype) != series.dtype:
            raise unsupported(name, series.dtype)
        if short in ("Date", "Datetime"):
            ticks = series.to_physical().cast(polars.Int64).fill_null(int(NAT)).to_numpy()
            return Column(name, "time", ticks, unit=dtype.get("unit", "D"), zoned=bool(dtype.get("zone"))), dtype
        if short == "Enum":
            return Column(name, "levels", _floats(series.to_physical()), tuple(dtype["levels"]), enum=True), dtype
        if short in ("String", "Categorical"):
            text = series.cast(polars.String)
            levels = tuple(text.drop_nulls().unique().sort().to_list())
            sort = "text" if short == "String" else "levels"
            return Column(name, sort, _floats(text.rank("dense")) - 1, levels), dtype
        sort = "bool" if short == "Boolean" else "int" if short in INTEGERS else "float"
        return Column(name, sort, _floats(series)), dtype

    def write(self, values: np.ndarray, dtype: DType) -> Any:
        import polars

        kind, name = _rebuild(dtype), dtype["name"]
        if values.dtype.kind == "M":
            ticks = polars.Series(ticks_in(values, dtype.get("unit", "D")))
            ticks = ticks.set(polars.Series(np.isnat(values)), None)
            return ticks.cast(polars.Int32).cast(kind) if name == "Date" else ticks.cast(kind)
        if name in INTEGERS:
            numbers = values.astype(np.float64)
            series = polars.Series(integers_in(numbers, name.lower()))
            return series.set(polars.Series(np.isnan(numbers)), None)
        if name in FLOATS:
            return polars.Series(floats_in(values, name.lower()), nan_to_null=True)
        return polars.Series(values.tolist(), dtype=polars.Boolean if name == "Boolean" else polars.String).cast(kind)

    def make(self, columns: Mapping[Any, Any], axis: DType | None) -> Any:
        import polars

        return polars.DataFrame([column.alias(name) for name, column in columns.items()])

    def replaced(self, frame: Any, columns: Mapping[int, Any]) -> Any:
        return frame.with_columns([column.alias(frame.columns[place]) for place, column in columns.items()])

    def taken(self, frame: Any, rows: np.ndarray) -> Any:
        return frame[rows]


def _describe(kind: Any, short: str) -> DType:
    if short == "Datetime":
        return {"name": short, "unit": kind.time_unit, "zone": kind.time_zone}
    return {"name": short, "levels": kind.categories.to_list()} if short == "Enum" else {"name": short}


def _rebuild(dtype: DType) -> Any:
    import polars

    if dtype["name"] == "Datetime":
        return polars.Datetime(dtype["unit"], dtype["zone"])
    if dtype["name"] == "Enum":
        return polars.Enum(dtype["levels"])
    made = getattr(polars, dtype["name"])
    return made() if dtype["name"] == "Categorical" else made


def _floats(series: Any) -> np.ndarray:
    import polars

    numbers: np.ndarray = series.cast(polars.Float64).fill_null(float("nan")).to_numpy()
    return numbers
