"""Frames of pandas and polars and tables of pyarrow become numbers, and these become the same frames again."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pyro_vae.tables import Table, TableSchema

pyarrow = pytest.importorskip("pyarrow")
polars = pytest.importorskip("polars")
pytest.importorskip("polars.testing")

Random = np.random.Generator
TEXT = np.array(["no", "ja", "", "<b>", "ü"], dtype=object)
SECONDS = np.arange(0, 40_000_000, 3_601)


def some(values: np.ndarray, missing: np.ndarray) -> list[Any]:
    """The values as objects of Python, None where missing."""
    return [None if gone else value for value, gone in zip(values.tolist(), missing, strict=True)]


def floats(random: Random, n: int) -> np.ndarray:
    return random.normal(0, 3, n).astype(np.float16).astype(np.float64)  # held by each floating-point dtype


def counts(random: Random, n: int) -> np.ndarray:
    return random.integers(0, 100, n)


def flags(random: Random, n: int) -> np.ndarray:
    return random.random(n) < 0.5


def words(random: Random, n: int) -> np.ndarray:
    return random.choice(TEXT[: random.integers(2, 6)], n)


def seconds(random: Random, n: int) -> np.ndarray:
    return random.choice(SECONDS, n)


CONTENTS: dict[str, Callable[[Random, int], np.ndarray]] = {
    "floats": floats,
    "counts": counts,
    "flags": flags,
    "words": words,
    "seconds": seconds,
    "digits": lambda random, n: random.integers(1, 4, n),
    "zero and one": lambda random, n: random.integers(0, 2, n),
}

Maker = tuple[str, bool, Callable[[np.ndarray, np.ndarray], Any]]  # the contents, whether cells may be missing


def plain(kind: str) -> Callable[[np.ndarray, np.ndarray], Any]:
    return lambda values, missing: pandas.Series(values).astype(kind)


def objects(kind: str) -> Callable[[np.ndarray, np.ndarray], Any]:
    return lambda values, missing: pandas.Series(some(values, missing), dtype=kind)


def with_nan(kind: str) -> Callable[[np.ndarray, np.ndarray], Any]:
    return lambda values, missing: pandas.Series(np.where(missing, np.nan, values)).astype(kind)


def category(levels: Any, ordered: bool) -> Callable[[np.ndarray, np.ndarray], Any]:
    return lambda values, missing: pandas.Series(
        pandas.Categorical([None if gone else v for v, gone in zip(values, missing, strict=True)], levels, ordered)
    )


def stamps(kind: str) -> Callable[[np.ndarray, np.ndarray], Any]:
    def make(values: np.ndarray, missing: np.ndarray) -> Any:
        zone = kind.partition(", ")[2].rstrip("]")
        times = pandas.Series(np.where(missing, np.datetime64("NaT", "s"), values.astype("datetime64[s]")))
        return times.dt.tz_localize("UTC").dt.tz_convert(zone).astype(kind) if zone else times.astype(kind)

    return make


PANDAS: dict[str, Maker] = {
    **{kind: ("floats", True, with_nan(kind)) for kind in ("float64", "float32", "float16")},
    **{kind: ("counts", False, plain(kind)) for kind in ("int8", "int64", "uint16", "uint64")},
    **{kind: ("counts", True, objects(kind)) for kind in ("Int64", "UInt8", "int16[pyarrow]")},
    **{kind: ("floats", True, objects(kind)) for kind in ("Float32", "Float64", "double[pyarrow]")},
    "whole floats": ("counts", True, with_nan("float64")),
    "two integers": ("zero and one", False, plain("int32")),
    "bool": ("flags", False, plain("bool")),
    "boolean": ("flags", True, objects("boolean")),
    "objects of bool": ("flags", True, objects("object")),
    "objects of int": ("counts", True, objects("object")),
    "objects of float": ("floats", True, objects("object")),
    "objects of text": ("words", True, objects("object")),
    "str": ("words", True, objects("str")),
    "string": ("words", True, objects("string[python]")),
    "arrow string": ("words", True, objects("string[pyarrow]")),
    "text of arrow": ("words", True, objects("large_string[pyarrow]")),
    "category": ("words", True, category([*TEXT[::-1], "unused"], False)),
    "ordered": ("words", True, category([*TEXT, "unused"], True)),
    "category of int": ("digits", True, category([3, 1, 2, 7], False)),
    "category of two": ("flags", True, category([True, False], False)),
    "stamps": ("seconds", True, stamps("datetime64[ns]")),
    "coarse stamps": ("seconds", True, stamps("datetime64[s]")),
    "stamps of a zone": ("seconds", True, stamps("datetime64[ns, Europe/Berlin]")),
    "stamps of an offset": ("seconds", True, stamps("datetime64[us, UTC+02:00]")),
    "stamps of arrow": ("seconds", True, lambda v, m: stamps("datetime64[us]")(v, m).astype("timestamp[us][pyarrow]")),
}


def in_polars(kind: Any) -> Callable[[np.ndarray, np.ndarray], Any]:
    return lambda values, missing: polars.Series(some(values, missing)).cast(kind)


POLARS: dict[str, Maker] = {
    **{kind: ("counts", True, in_polars(getattr(polars, kind))) for kind in ("Int8", "Int64", "UInt16", "UInt64")},
    **{kind: ("floats", True, in_polars(getattr(polars, kind))) for kind in ("Float32", "Float64")},
    "bool": ("flags", True, in_polars(polars.Boolean)),
    "text": ("words", True, in_polars(polars.String)),
    "categorical": ("words", True, in_polars(polars.Categorical)),
    "enum": ("words", True, in_polars(polars.Enum([*TEXT[::-1], "unused"]))),
    "stamps": ("seconds", True, lambda v, m: (in_polars(polars.Int64)(v, m) * 1000).cast(polars.Datetime("ms"))),
    "zone": ("seconds", True, lambda v, m: (in_polars(polars.Int64)(v, m) * 10**6).cast(polars.Datetime("us", "UTC"))),
    "dates": ("counts", True, lambda v, m: in_polars(polars.Int32)(v, m).cast(polars.Date)),
}


def in_arrow(kind: Any) -> Callable[[np.ndarray, np.ndarray], Any]:
    return lambda values, missing: pyarrow.array(some(values, missing), kind)


def dictionary(levels: list[Any], ordered: bool) -> Callable[[np.ndarray, np.ndarray], Any]:
    def make(values: np.ndarray, missing: np.ndarray) -> Any:
        codes = [None if gone else levels.index(value) for value, gone in zip(values, missing, strict=True)]
        return pyarrow.DictionaryArray.from_arrays(pyarrow.array(codes, pyarrow.int8()), levels, ordered=ordered)

    return make


ARROW: dict[str, Maker] = {
    **{kind: ("counts", True, in_arrow(getattr(pyarrow, kind)())) for kind in ("int8", "int64", "uint16", "uint64")},
    **{kind: ("floats", True, in_arrow(getattr(pyarrow, kind)())) for kind in ("float32", "float64")},
    "half": ("floats", True, lambda v, m: pyarrow.array(v.astype(np.float16), mask=m)),
    "bool": ("flags", True, in_arrow(pyarrow.bool_())),
    **{kind: ("words", True, in_arrow(getattr(pyarrow, kind)())) for kind in ("string", "large_string", "string_view")},
    "dictionary": ("words", True, dictionary([*TEXT[::-1], "unused"], False)),
    "ordered": ("words", True, dictionary([*TEXT, "unused"], True)),
    "dictionary of int": ("digits", True, dictionary([3, 1, 2, 7], False)),
    "stamps": ("seconds", True, lambda v, m: in_arrow(pyarrow.int64())(v, m).cast(pyarrow.timestamp("s"))),
    "zone": ("seconds", True, lambda v, m: in_arrow(pyarrow.int64())(v, m).cast(pyarrow.timestamp("us", "UTC"))),
    "dates": ("counts", True, lambda v, m: in_arrow(pyarrow.int32())(v, m).cast(pyarrow.date32())),
    "dates in ms": ("counts", True, lambda v, m: in_arrow(pyarrow.int64())(v * 86_400_000, m).cast(pyarrow.date64())),
}

INDICES: dict[str, Callable[[int], Any]] = {
    "counted": lambda n: pandas.RangeIndex(n),
    "text": lambda n: pandas.Index([f"row {i}" for i in range(n)], name="patient"),
    "two levels": lambda n: pandas.MultiIndex.from_arrays([["a"] * n, range(n)], names=["site", None]),
    "days": lambda n: pandas.date_range("2020-01-01", periods=n, tz="UTC"),
}


def columns_of(data: st.DataObject, makers: dict[str, Maker]) -> tuple[list[str], list[Any]]:
    """Random columns; the first is one that is always modelled."""
    kinds = data.draw(st.lists(st.sampled_from(sorted(makers)), min_size=1, max_size=6))
    n, random = data.draw(st.integers(2, 15)), np.random.default_rng(data.draw(st.integers(0, 2**16)))
    made = [makers["Float64" if "Float64" in makers else "float64"][2](random.normal(0, 1, n), np.zeros(n, bool))]
    for kind in kinds:
        contents, gaps, make = makers[kind]
        missing = (random.random(n) < data.draw(st.sampled_from([0, 0.3]))) & gaps
        missing[random.integers(n)] = False
        made.append(make(CONTENTS[contents](random, n), missing))
    return ["first", *(f"{i} {kind}" for i, kind in enumerate(kinds))], made


def pandas_frame(data: st.DataObject) -> Any:
    names, columns = columns_of(data, PANDAS)
    frame = pandas.concat(columns, axis=1, keys=names)
    frame.index = INDICES[data.draw(st.sampled_from(sorted(INDICES)))](len(frame))
    if data.draw(st.booleans()):
        frame.columns = pandas.Index(range(5, 5 + len(names)), name="variable")
    return frame


def polars_frame(data: st.DataObject) -> Any:
    return polars.DataFrame([column.alias(name) for name, column in zip(*columns_of(data, POLARS), strict=True)])


def arrow_table(data: st.DataObject) -> Any:
    names, columns = columns_of(data, ARROW)
    fields = [
        pyarrow.field(name, column.type, metadata={"unit": "m"}) for name, column in zip(names, columns, strict=True)
    ]
    return pyarrow.table(columns, pyarrow.schema(fields, metadata={"study": "A"}))


def assert_equal(one: Any, other: Any) -> None:
    assert type(one) is type(other)
    if isinstance(one, pandas.DataFrame):
        pandas.testing.assert_frame_equal(one, other, check_exact=True, check_freq=False)
    elif isinstance(one, polars.DataFrame):
        polars.testing.assert_frame_equal(one, other, check_exact=True)
    else:
        assert one.equals(other) and one.schema.equals(other.schema)


def chosen(frame: Any, labels: list[Any]) -> Any:
    return frame.select(labels) if not isinstance(frame, pandas.DataFrame) else frame[labels].reset_index(drop=True)


def with_gaps_filled(table: Table) -> torch.Tensor:
    """x with an observed cell of its column in place of each missing one."""
    x = table.x.clone()
    for column in x.T:
        column[column.isnan()] = column[~column.isnan()][0].item()
    return x


@pytest.mark.parametrize("draw", [pandas_frame, polars_frame, arrow_table])
@settings(max_examples=40, deadline=None, derandomize=True, database=None)
@given(data=st.data())
def test_frames_come_back_as_they_came(draw: Callable[[st.DataObject], Any], data: st.DataObject) -> None:
    frame = draw(data)
    table = Table(frame)
    schema = TableSchema.from_plain(json.loads(json.dumps(table.schema.to_plain())))
    labels = [column.label for column in schema.modelled]
    assert schema == table.schema
    assert_equal(table.frame(), frame)
    made, want = chosen(schema.frame(table.x), labels), chosen(frame, labels)
    assert_equal(made, without_metadata(want) if draw is arrow_table else want)
    assert torch.equal(Table.like(made, schema).x.nan_to_num(-99), table.x.nan_to_num(-99))
    filled = with_gaps_filled(table)
    imputed = table.frame(filled, own_rows=True)
    again = Table.like(imputed, schema)
    assert torch.equal(again.x, filled) and [c.dtype for c in again.schema.columns] == [c.dtype for c in schema.columns]
    if draw is pandas_frame:
        assert imputed.index.equals(frame.index) and imputed.columns.equals(frame.columns)
        assert imputed.index.names == frame.index.names and imputed.columns.names == frame.columns.names
    if draw is arrow_table:
        assert imputed.schema.equals(frame.schema, check_metadata=True)


def without_metadata(table: Any) -> Any:
    return pyarrow.table(dict(zip(table.column_names, table.columns, strict=True)))


FRAME = pandas.DataFrame(
    {"id": range(100, 112), "age": np.linspace(30.0, 60.5, 12), "site": [*"ABCABCABCAB", None], "study": "one"},
    index=[f"row {i}" for i in range(12)],
)


@pytest.mark.parametrize("make", [lambda f: f, polars.from_pandas, lambda f: pyarrow.Table.from_pandas(f)])
def test_own_rows_bring_back_columns_that_are_left_out_and_drawn_rows_do_not(make: Callable[[Any], Any]) -> None:
    frame = make(FRAME)
    table = Table(frame)
    assert table.schema.names == ["age", "site"]
    x = table.x.clone()
    x[-1, 1] = 2.0
    imputed = table.frame(x, own_rows=True)
    assert_equal(imputed, make(FRAME.fillna({"site": "C"})))
    drawn = table.frame(x[:2])
    assert table.frame(x, own_rows=False).shape[0] == 12
    drawn = drawn if isinstance(drawn, pandas.DataFrame) else drawn.to_pandas()
    assert drawn.columns.tolist() == ["age", "site", "study"] and drawn.study.tolist() == ["one"] * 2
    assert drawn.index.tolist() == [0, 1]
    with pytest.raises(ValueError, match="values must be 12 rows, those of the table, for own_rows=True; got 2"):
        table.frame(x[:2], own_rows=True)


@pytest.mark.parametrize("make", [lambda f: f, polars.from_pandas, lambda f: pyarrow.Table.from_pandas(f)])
@pytest.mark.parametrize("index", [slice(3, 9), torch.tensor([7, 0, 11])])
def test_rows_that_are_picked_keep_their_part_of_the_frame(make: Callable[[Any], Any], index: Any) -> None:
    part = Table(make(FRAME)).subset(index)
    rows = FRAME.iloc[index if isinstance(index, slice) else index.tolist()]
    assert_equal(part.frame(), make(rows))
    assert_equal(part.subset(slice(1, 3)).frame(), make(rows.iloc[1:3]))
    assert part.index in (None, rows.index.tolist())


def test_the_user_may_change_the_frame_later() -> None:
    frame = FRAME.copy()
    table = Table(frame)
    frame.loc["row 3", "age"] = -1.0
    first = table.frame()
    first.loc["row 4", "age"] = -2.0
    assert_equal(table.frame(), FRAME)


def test_times_keep_all_their_digits_where_they_are_not_imputed() -> None:
    times = pandas.Series(pandas.to_datetime([1, 10**18 + 7, 3 * 10**17 + 1, None])).astype("datetime64[ns]")
    table = Table(pandas.DataFrame({"when": times}))
    x = table.x.clone()
    x[3] = 4.0
    found = table.frame(x, own_rows=True).when
    assert found[:3].equals(times[:3]) and found[3] == pandas.Timestamp("1970-01-05 00:00:00.000000001")


@pytest.mark.parametrize(
    ("kind", "values", "found"),
    [
        ("uint8", [-3.2, 4.6, 300.0], [0, 5, 255]),
        ("int64", [-1e30, 2.4, 1e30], [-(2**63), 2, 2**63 - 1024]),
        ("float16", [-1e30, 2.4, 1e30], [-65504.0, 2.0, 65504.0]),
        ("Int8", [-3.2, float("nan"), 300.0], [-3, pandas.NA, 127]),
    ],
)
def test_numbers_become_the_nearest_that_the_dtype_holds(kind: str, values: list[float], found: list[Any]) -> None:
    frame = pandas.DataFrame({"a": pandas.Series([100, 101, 103, 101]).astype(kind)})
    table = Table(frame, kinds={"a": "real"})
    assert table.frame([[value] for value in values]).a.tolist() == found


def test_frames_of_other_libraries_and_orders_are_read_under_the_schema_of_the_training_data() -> None:
    table = Table(FRAME)
    other = polars.DataFrame({"site": ["C", "A", None], "age": [3, None, 5]})
    like = Table.like(other, table.schema)
    assert like.columns == ["age", "site"] and like.schema.kinds == table.schema.kinds and like.library == "polars"
    assert torch.equal(like.x.nan_to_num(-1), torch.tensor([[3.0, 2.0], [-1.0, 0.0], [5.0, -1.0]]).double())
    assert_equal(like.frame(), other)
    filled = like.frame([[3.0, 2.0], [4.0, 0.0], [5.0, 1.0]], own_rows=True)
    assert_equal(filled, polars.DataFrame({"site": ["C", "A", "B"], "age": [3, 4, 5]}))


def test_a_level_that_the_new_frame_lacks_can_be_imputed() -> None:
    levels = pandas.CategoricalDtype(["a", "b", "c"])
    table = Table(pandas.DataFrame({"g": pandas.Series(list("abcabc")).astype(levels)}))
    for kind in ("category", "object"):
        like = Table.like(pandas.DataFrame({"g": pandas.Series(["b", None]).astype(kind)}), table.schema)
        assert like.frame([[1.0], [2.0]], own_rows=True).g.tolist() == ["b", "c"]
    for gaps in (pandas.Series([None], dtype=object), pandas.Series([np.nan])):  # nothing says that these are levels
        like = Table.like(pandas.DataFrame({"g": gaps}), table.schema)
        assert like.frame([[2.0]], own_rows=True).g.dtype == levels


def test_missing_cells_that_a_dtype_cannot_hold_are_refused() -> None:
    table = Table(pandas.DataFrame({"a": [0, 3, 9, 14], "b": [True, False, True, True]}))
    for row, name in (([np.nan, 1.0], "a"), ([1.0, np.nan], "b")):
        with pytest.raises(ValueError, match=f"In column '{name}': values must have no missing cells for dtype"):
            table.frame([row])


def test_nan_of_polars_is_missing_too() -> None:
    frame = polars.DataFrame({"a": [1.5, float("nan"), None, 2.25]})
    table = Table(frame)
    assert table.missing_shares().tolist() == [0.5]
    polars.testing.assert_frame_equal(table.frame(), frame)


UNREADABLE: dict[str, tuple[Any, str]] = {
    "a duration": (polars.DataFrame({"a": [1, 2]}).cast(polars.Duration("ms")), "Duration.*Convert it to numbers"),
    "decimals": (polars.DataFrame({"a": [1.5, 2.5]}).cast(polars.Decimal(8, 2)), "Decimal.*Cast it to floating-point"),
    "lists": (polars.DataFrame({"a": [[1], [2]]}), "List"),
    "structs": (polars.DataFrame({"a": [{"b": 1}, {"b": 2}]}), "Struct"),
    "bytes of arrow": (pyarrow.table({"a": [b"x", b"y"]}), "binary"),
    "lists of arrow": (pyarrow.table({"a": [[1], [2]]}), "list"),
    "a duration of arrow": (pyarrow.table({"a": pyarrow.array([1, 2], pyarrow.duration("s"))}), "duration.*Convert it"),
    "dates by code": (pyarrow.table({"a": pyarrow.array([1, 2]).cast("date64").dictionary_encode()}), "dictionary"),
}


@pytest.mark.parametrize("case", UNREADABLE)
def test_columns_of_other_dtypes_are_refused_unless_left_out(case: str) -> None:
    frame, message = UNREADABLE[case]
    with pytest.raises(TypeError, match=f"column 'a' must hold .*; got dtype {message}.*or pass leave_out=.'a'."):
        Table(frame)
    number = polars.Series([1.5, 2.5]) if isinstance(frame, polars.DataFrame) else pyarrow.array([1.5, 2.5])
    wide = frame.with_columns(n=number) if isinstance(frame, polars.DataFrame) else frame.append_column("n", number)
    table = Table(wide, leave_out=["a"])
    assert_equal(table.frame(), wide)
    assert table.frame([[2.0]]).shape == (1, 1)


@pytest.mark.parametrize("make", [polars.DataFrame, pyarrow.table])
def test_columns_without_a_dtype_have_no_cell(make: Callable[[Any], Any]) -> None:
    with pytest.raises(ValueError, match="column 'a' must have a cell that is not missing; got none"):
        Table(make({"a": [None, None], "b": [1.5, 2.5]}))
    table = Table(make({"a": [3.5, 1.0, 9.0], "b": [1.5, 2.5, 4.0]}))
    like = Table.like(make({"a": [None, None], "b": [1.5, 2.5]}), table.schema)
    assert_equal(like.frame([[3.5, 1.5], [1.0, 2.5]], own_rows=True), make({"a": [3.5, 1.0], "b": [1.5, 2.5]}))
