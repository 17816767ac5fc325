"""Kinds of columns: what is inferred, what is refused, what is printed, and what is saved."""

from __future__ import annotations

import copy
import json
import re
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas
import pytest
import torch

from pyro_vae import likelihoods
from pyro_vae.data.rows import Rows
from pyro_vae.tables import KINDS, Binary, Categorical, Constant, Ordinal, Real, Table, TableSchema, Time
from pyro_vae.tables.columns import Column

RANDOM = np.random.default_rng(0)
N = 60
REAL = RANDOM.normal(0, 1, N)
SKEWED = np.exp(RANDOM.normal(0, 1.5, N))
COUNTS = RANDOM.negative_binomial(2, 0.3, N)
DAYS = pandas.Timestamp("2020-02-01") + pandas.to_timedelta(RANDOM.integers(0, 99, N), "D")
LETTERS = [*"abc"] * (N // 3)


def gaps(values: Any) -> pandas.Series:
    """The values with every seventh missing."""
    column = pandas.Series(values)
    return column.mask(np.arange(len(column)) % 7 == 3)


def table_of(values: Any, **options: Any) -> Table:
    """A table of the column `a`, and of another one that is always modelled."""
    return Table(pandas.DataFrame({"a": values, "other": np.resize(REAL, len(values))}), **options)


def kind_of(values: Any, **options: Any) -> Any:
    return table_of(values, **options).schema.columns[0].kind


INFERRED: dict[str, tuple[Any, str, str]] = {
    "floats": (REAL, "real", " to "),
    "skewed floats": (SKEWED, "positive", " to "),
    "positive floats": (REAL + 50, "real", " to "),
    "percentages": (np.linspace(0.01, 0.99, N), "real", "0.01 to 0.99"),
    "counts": (COUNTS, "count", "0 to "),
    "counts with gaps": (gaps(COUNTS), "count", "0 to "),
    "years": (RANDOM.integers(1990, 2020, N), "real", "19.* to 20"),
    "negative integers": (RANDOM.integers(-50, 50, N), "real", "-.* to "),
    "large integers": (RANDOM.integers(0, 2**30, N), "real", "0|.* to "),
    "zero and one": (np.arange(N) % 2, "binary", r"levels 0, 1 \(2\)"),
    "one and two, with gaps": (gaps(1 + np.arange(N) % 2), "binary", r"levels 1, 2 \(2\)"),
    "two floats": (0.5 + np.arange(N) % 2, "binary", r"levels 0.5, 1.5 \(2\)"),
    "two cells that differ": ([31.5, np.nan, 40.25], "real", "31.5 to 40.25"),
    "bool": (REAL > 0, "binary", r"levels False, True \(2\)"),
    "two words": (["yes", "no"] * 30, "binary", r"levels no, yes \(2\)"),
    "words": (LETTERS, "categorical", r"levels a, b, c \(3\)"),
    "as many words as half the cells": ([*"abcd"] * 2, "categorical", "levels"),
    "more words than half the cells": ([*"abcdabc"], "identifier", "text of 4 levels"),
    "30 words": ([f"{i % 29}" for i in range(N)], "categorical", r"levels 0, 1, 10, 11, 12, 13, ... \(29\)"),
    "51 words": ([f"{i % 51}" for i in range(200)], "identifier", "text of 51 levels"),
    "names": ([f"{i}" for i in range(N)], "identifier", "an identifier: nearly all values differ"),
    "categories": (pandas.Categorical(LETTERS, [*"cbax"]), "categorical", r"levels c, b, a, x \(4\)"),
    "few categories": (pandas.Categorical([*"abc"]), "categorical", r"levels a, b, c \(3\)"),
    "two categories": (pandas.Categorical([*"ab"] * 9, [*"ba"]), "binary", r"levels b, a \(2\)"),
    "ordered": (pandas.Categorical(LETTERS, [*"cbax"], ordered=True), "ordinal", r"levels c, b, a, x \(4\)"),
    "numbered categories": (pandas.Categorical([3, 1, 2] * 9, [3, 1, 2]), "categorical", r"levels 3, 1, 2 \(3\)"),
    "days": (DAYS, "time", "2020-0.-.. to 2020-0.-.."),
    "times": (DAYS + pandas.Timedelta("90s"), "time", "2020-0.-..T00:01:30|.* to "),
    "numbers of rows": (np.arange(7, 7 + N), "identifier", "consecutive numbers that all differ"),
    "ids beyond float64": (2**60 + 5 * np.arange(N), "identifier", "integers beyond 2"),
    "one number": (np.full(N, 4), "constant", "constant: 4"),
    "one word, with gaps": (gaps(["x"] * N), "constant", "constant: 'x'"),
    "one day": ([DAYS[0]] * N, "constant", "constant: 2020-0"),
}


@pytest.mark.parametrize("case", INFERRED)
def test_kinds_are_inferred(case: str) -> None:
    values, name, text = INFERRED[case]
    kind = kind_of(values)
    assert kind.name == name and re.search(text, kind.describe())
    assert kind.modelled == (name not in ("identifier", "constant"))


LIKELIHOODS: dict[str, tuple[Any, str]] = {
    "real": (REAL, "Normal"),
    "positive": (SKEWED, "LogNormal"),
    "count": (COUNTS, "NegativeBinomial"),
    "binary": (["yes", "no"] * 30, "Bernoulli"),
    "ordinal": (pandas.Categorical(LETTERS, ordered=True), "OrderedLogistic"),
    "categorical": (LETTERS, "Categorical"),
    "share": (np.linspace(0.01, 0.99, N), "Beta"),
    "time": (DAYS, "Normal"),
}


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_a_kind_has_its_likelihood_and_encodes_what_it_decodes(name: str) -> None:
    values, likelihood = LIKELIHOODS[name]
    table = table_of(gaps(values), kinds={"a": name})
    kind, x = table.schema.kinds["a"], table.x[:, 0].numpy()
    assert type(kind) is KINDS[name] and type(kind.likelihood(3)).__name__ == likelihood
    assert np.isnan(x).sum() == 9 and table.missing_shares()[0] == 0.15
    decoded = pandas.Series(kind.decode(x))
    again = table_of(decoded, kinds={"a": kind})
    np.testing.assert_array_equal(again.x[:, 0].numpy(), x)
    kind.likelihood(1).check(table.x[~table.x[:, 0].isnan(), :1])
    assert table.likelihood().names[0].startswith("a")


def test_shares_that_reach_the_ends_have_a_likelihood_that_includes_them() -> None:
    kind = kind_of([0.0, 0.5, 0.75] * 5, kinds={"a": "share"})
    assert isinstance(kind.likelihood(2), likelihoods.ContinuousBernoulli) and not kind.inside
    with pytest.raises(ValueError, match="column 'a' must be strictly between 0 and 1, as in .*; got 1.0 in row 1"):
        Table.like(
            pandas.DataFrame({"a": [0.5, 1.0], "other": 0.1}), table_of([0.2, 0.4, 0.9], kinds={"a": "share"}).schema
        )


def test_adjacent_columns_of_one_kind_share_a_block() -> None:
    frame = pandas.DataFrame({"h": REAL, "w": REAL + 1, "n": COUNTS, "s": LETTERS, "t": LETTERS, "u": [*"abcd"] * 15})
    likelihood = Table(frame.assign(z=REAL)).likelihood()
    assert likelihood.event_shape == (7,)
    names = {name: (type(block).__name__, block.event_shape[0]) for name, block in likelihood.blocks}
    assert names == {
        "h..w": ("Normal", 2),
        "n": ("NegativeBinomial", 1),
        "s..t": ("Categorical", 2),
        "u": ("Categorical", 1),
        "z": ("Normal", 1),
    }
    strange = Table(pandas.DataFrame({"h": REAL, "w": REAL, "n": COUNTS, "h..w": REAL}))
    assert strange.likelihood().names == ["h..w", "n", "h..w (2)"]


def test_a_table_is_rows() -> None:
    table = Table(pandas.DataFrame({"n": COUNTS, "s": LETTERS}), leave_out=["s"])
    assert isinstance(table, Rows) and table.columns == ["n"] and table.index == list(range(N))
    assert table.x.dtype == torch.float64 and table.x[:, 0].tolist() == COUNTS.tolist()
    part = table.with_fields({"label": torch.arange(N)}).subset(slice(5, 9))
    assert isinstance(part, Table) and part.field("label").tolist() == [5, 6, 7, 8]


V, T = ValueError, TypeError
TIMES = pandas.to_datetime(["2020-01-01", "2020-01-02", "2020-01-03"])
REFUSED: dict[str, tuple[Any, dict[str, Any], type[Exception], str]] = {
    "a negative count": ([1.0, -3.0, 2.0], {"a": "count"}, V, "'a' must be whole and at least 0.*-3.0 in row 1"),
    "half a count": ([1.0, 2.5, 2.5], {"a": "count"}, V, r"got 2.5 in row 1 \(2 such cells\). Pass kinds="),
    "a large count": ([1, 2, 2**24 + 1], {"a": "count"}, V, "must be at most 2.*; got 16777217 in row 2"),
    "zero": ([1.0, 0.0, 3.0], {"a": "positive"}, V, "must be above 0 for the kind 'positive'; got 0.0 in row 1"),
    "three levels": ([*"abc"], {"a": "binary"}, V, "have two levels for .* 'a', 'b'; got 'c' in row 2"),
    "one level": ([*"aaa"], {"a": "binary"}, V, "column 'a' must have two levels for the kind 'binary'; got 'a'"),
    "one level of several": ([*"aaa"], {"a": "categorical"}, V, "column 'a' must have two levels or more"),
    "no order": ([*"abc"], {"a": "ordinal"}, V, r"must have levels in an order.*kinds={'a': Ordinal\(\[...\]\)}"),
    "a share": ([0.5, 12.0, 0.1], {"a": "share"}, V, "from 0 to 1 for the kind 'share'; got 12.0 in row 1"),
    "another level": ([*"abd"], {"a": Ordinal([*"abc"])}, V, "have one of the levels 'a', 'b', 'c'; got 'd' in row 2"),
    "two constants": ([1, 1, 2], {"a": "constant"}, V, "be 1 in all rows.*; got 2 in row 2"),
    "integers that float64 lacks": ([1, 2, 2**60], {"a": "real"}, V, "below 2.*53.*; got .* in row 2"),
    "infinity": ([1.0, np.inf, 2.0], {}, V, "column 'a' must be finite; got inf in row 1"),
    "infinity of a kind": ([1.0, 2.0, -np.inf], {"a": "real"}, V, "column 'a' must be finite; got -inf in row 2"),
    "text as a number": ([*"abc"], {"a": "real"}, T, "'a' must hold whole numbers or numbers.*; got text"),
    "truth as a number": ([True, False, True], {"a": "count"}, T, "'a' must hold .*; got true or false"),
    "levels that are times": (TIMES, {"a": "categorical"}, T, "'a' must hold text or .*; got times"),
    "numbers as times": ([1.0, 2.5, 9.0], {"a": "time"}, T, "'a' must hold times for the kind 'time'; got numbers"),
    "no cell": ([np.nan] * 3, {}, V, r"column 'a' must have a cell that is not missing.*leave_out=\['a'\]"),
    "no cell of objects": ([None] * 3, {}, V, "column 'a' must have a cell that is not missing"),
    "no category": (pandas.Categorical([None] * 3), {}, V, "column 'a' must have a cell that is not missing"),
    "complex": ([1j, 2.0, 3.0], {}, T, "column 'a' must hold numbers.*; got dtype complex128. Split it"),
    "lists": ([[1], [2], [3]], {}, T, r"column 'a' must hold .*; got dtype object \(mixed\).*leave_out=\['a'\]"),
    "mixed": (["x", 1, 2.5], {}, T, r"column 'a' must hold .*; got dtype object \(mixed-integer\)"),
    "durations": (TIMES - TIMES[0], {}, T, "got dtype timedelta.*. Convert it to numbers, e.g. of seconds or days"),
    "intervals": (pandas.cut([1, 5, 9], [0, 4, 9]), {}, T, "column 'a' must hold .*; got dtype category"),
    "periods": (TIMES.to_period("D"), {}, T, "got dtype period"),
    "an unknown kind": ([1, 2, 3], {"a": "number"}, V, r"kinds\['a'\] must be one of real, positive.*'number'"),
    "no kind": ([1, 2, 3], {"a": 3}, T, r"kinds\['a'\] must be the name of a kind, or a kind; got 3"),
    "an unknown column": ([1, 2, 3], {"b": "real"}, V, "kinds must name columns of the frame .'a', 'other'.; got 'b'"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_read_is_refused(case: str) -> None:
    values, kinds, error, message = REFUSED[case]
    with pytest.raises(error, match=message):
        table_of(values, kinds=kinds)


FRAME = pandas.DataFrame({"a": [1.5, 2.0, 4.0], "b": [*"aab"], "c": 1, "d": [*"xyz"]})
FRAMES: dict[str, tuple[Any, dict[str, Any], type[Exception], str]] = {
    "a dictionary": ({"a": [1]}, {}, T, "frame must be a frame of pandas or polars.*; got dict. Make a frame"),
    "a file": ("x.csv", {}, T, "got str. Read the file first"),
    "a series": (FRAME.a, {}, T, r"got Series. Make a frame of it: series.to_frame\(\)"),
    "an array": (REAL, {}, T, "got ndarray. Use pv.Rows"),
    "one name twice": (FRAME.set_axis([*"abca"], axis=1), {}, V, "columns must have different names; got 'a' twice"),
    "one name in two forms": (FRAME.set_axis([1, "1", 2, 3], axis=1), {}, V, "different names; got '1' twice"),
    "names that are numbers": (FRAME.set_axis([0.5, 1, 2, 3], axis=1), {}, T, "columns must have names.*; got 0.5"),
    "levels of names": (pandas.concat([FRAME], keys=["x"], axis=1), {}, T, "columns must have plain names; got 2"),
    "no row": (FRAME[:0], {}, V, "frame must have at least one row; got none"),
    "no column": (FRAME[[]], {}, V, "frame must have a column to model; got no column"),
    "nothing to model": (FRAME[["c", "d"]], {}, V, "column to model; got none: 'c' is constant: 1; 'd' is an ident"),
    "an unknown name": (FRAME, {"leave_out": ["q"]}, V, r"leave_out must name columns of the frame \('a', .*; got 'q'"),
    "left out and not": (FRAME, {"leave_out": ["a"], "kinds": {"a": "real"}}, V, "without a kind; got 'a'"),
    "no dictionary": (FRAME, {"kinds": ["real"]}, T, "kinds must be a dictionary; got"),
    "id": (FRAME, {"id": "a"}, NotImplementedError, "id must be None"),
    "time": (FRAME, {"time": "a"}, NotImplementedError, "time must be None"),
}  # fmt: skip


@pytest.mark.parametrize("case", FRAMES)
def test_frames_that_cannot_be_read_are_refused(case: str) -> None:
    frame, options, error, message = FRAMES[case]
    with pytest.raises(error, match=message):
        Table(frame, **options)


NEW: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "a column is absent": ({"b": None}, ValueError, "frame must have the columns of the schema; got none named 'b'"),
    "a column is new": ({"e": [1, 2, 3]}, ValueError, "frame must have columns of the schema only; got 'e' besides"),
    "a level is new": (
        {"b": ["a", "z", "b"]},
        ValueError,
        "column 'b' must have one of the levels 'a', 'b'; got 'z' in row 1",
    ),
    "text for numbers": ({"a": [*"xyz"]}, TypeError, "column 'a' must hold whole numbers or numbers.*; got text"),
    "another constant": ({"c": [1, 2, 1]}, ValueError, "column 'c' must be 1 in all rows.*; got 2 in row 1"),
    "an infinite cell": ({"a": [1.0, 2.0, np.inf]}, ValueError, "column 'a' must be finite; got inf in row 2"),
    "a list": ({"a": [[1], [2], [3]]}, TypeError, "column 'a' must hold numbers"),
}


@pytest.mark.parametrize("case", NEW)
def test_other_frames_that_contradict_the_schema_are_refused(case: str) -> None:
    changes, error, message = NEW[case]
    frame = FRAME.assign(**changes).drop(columns=[name for name, values in changes.items() if values is None])
    with pytest.raises(error, match=message):
        Table.like(frame, Table(FRAME).schema)


def test_other_frames_may_lack_what_is_left_out_and_all_cells_of_a_column() -> None:
    schema = Table(FRAME).schema
    like = Table.like(pandas.DataFrame({"b": [None, "a"], "a": [None, None]}), schema)
    assert like.x.isnan().tolist() == [[True, True], [True, False]]
    assert like.frame([[1.5, 0.0], [2.0, 0.0]], own_rows=True).a.tolist() == [1.5, 2.0]


def test_time_zones_must_agree() -> None:
    frame = pandas.DataFrame({"t": TIMES})
    with pytest.raises(TypeError, match="column 't' must have no time zone, as in .*; got one"):
        Table.like(frame.assign(t=TIMES.tz_localize("UTC")), Table(frame).schema)


def test_times_of_other_units_are_the_same_days() -> None:
    times = pandas.to_datetime(["2020-01-01 06:00", "2020-01-02 12:00", "2020-01-04 18:00"])
    schema = Table(pandas.DataFrame({"t": times.as_unit("s")})).schema
    for unit in ("ms", "ns"):
        like = Table.like(pandas.DataFrame({"t": times.as_unit(unit)}), schema)
        assert like.x[:, 0].tolist() == [0.0, 1.25, 3.5]


@pytest.mark.parametrize(
    ("unit", "cells", "step"),
    [("ns", ["2020-01-01", "2020-01-09"], "D"), ("s", ["2020-01-01 01:00", "2020-01-03 05:00"], "h"),
     ("us", ["2020-01-01 01:00:01", "2020-01-03 05:07:22"], "s"), ("D", ["2020-01-01", "2020-01-09"], "D")],
)  # fmt: skip
def test_times_are_rounded_to_what_all_of_them_are_multiples_of(unit: str, cells: list[str], step: str) -> None:
    times = np.array(cells, f"datetime64[{unit}]")
    kind = Time().fit(Column("t", "time", times.view(np.int64), unit=unit))
    assert kind.step == np.timedelta64(1, step) // np.timedelta64(1, unit)
    np.testing.assert_array_equal(kind.decode(kind.encode(Column("t", "time", times.view(np.int64), unit=unit))), times)
    found = kind.decode(np.array([0.123456789, np.nan]))
    assert (found[0] - times[0]) % np.timedelta64(1, step) == np.timedelta64(0, unit) and np.isnat(found[1])


def test_levels_are_told_apart_by_their_kind() -> None:
    assert Binary([0, 1]).encode(Column("a", "float", np.array([1.0, 0.0]))).tolist() == [1.0, 0.0]
    with pytest.raises(ValueError, match="one of the levels 0, 1; got True in row 0"):
        Binary([0, 1]).encode(Column("a", "bool", np.array([1.0])))


@pytest.mark.parametrize("codes", [[0.5], [-1.0], [3.0]])
def test_numbers_that_are_no_codes_are_refused(codes: list[float]) -> None:
    with pytest.raises(ValueError, match=r"In column 'a': values must be whole numbers from 0 to 2.*Pass draws"):
        table_of(LETTERS).frame([[*codes, 0.0]])


@pytest.mark.parametrize("values", [[[1.0]], [1.0, 2.0], [[1.0, np.inf]]])
def test_values_of_another_shape_or_infinite_ones_are_refused(values: Any) -> None:
    with pytest.raises(
        ValueError, match="values must (have shape .rows, 2|be finite; got inf in row 0, column 'other')"
    ):
        table_of(LETTERS).frame(values)


def test_the_user_can_give_levels_that_the_data_lack() -> None:
    table = table_of(pandas.Categorical(["no"] * 3), kinds={"a": Binary(["no", "yes"])})
    assert table.frame([[1.0, 0.5]]).a.tolist() == ["yes"]
    assert kind_of([*"ab"] * 5, kinds={"a": Ordinal([*"bca"])}).levels == tuple("bca")


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Binary([*"abc"]), ValueError, "levels must be two for the kind 'binary'"),
        (lambda: Ordinal(["a"]), ValueError, "levels must be at least two; got 'a' alone"),
        (lambda: Ordinal(["a", "b", "a"]), ValueError, "different levels; got 'a' twice"),
        (lambda: Categorical("abc"), TypeError, "levels must be a list of levels; got 'abc'"),
        (lambda: Categorical([None, "a"]), TypeError, "levels that are text, numbers, True or False; got None"),
        (lambda: Real(2.0, 1.0), ValueError, "finite range from low to high; got 2.0 and 1.0"),
        (lambda: Time(step=7), ValueError, "step must be a number of ticks that divides the day; got 7"),
        (lambda: Time(unit="W"), ValueError, "unit must be one of D, s, ms, us, ns; got 'W'"),
        (lambda: Constant([1]), TypeError, "levels that are text, numbers, True or False"),
    ],
)
def test_kinds_check_their_arguments(make: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make()


def test_a_user_can_add_a_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    @dataclass(frozen=True)
    class Angle(Real):
        name: ClassVar[str] = "angle"

        def encode(self, column: Column) -> np.ndarray:
            return super().encode(column) % 360

    monkeypatch.setitem(KINDS, "angle", Angle)
    table = table_of([350.5, 370.0, -10.0, 90.0], kinds={"a": "angle"})
    assert table.x[:, 0].tolist() == [350.5, 10.0, 350.0, 90.0]
    assert TableSchema.from_plain(json.loads(json.dumps(table.schema.to_plain()))) == table.schema


PRINTED = """\
Table of 60 rows and 4 columns (pandas); 3 columns left out

column  kind         levels or range           missing  likelihood
h       real         -2.3 to 1.4               0        Normal
n       count        0 to 9                    15.0 %   NegativeBinomial
s       categorical  levels a, b, c (3)        0        Categorical
t       time         2020-02-01 to 2020-03-31  0        Normal

Left out:
  id: an identifier: consecutive numbers that all differ (to model it: kinds={'id': 'real'})
  k: constant: 'one'
  g: left out, as asked for"""


def test_a_table_prints_what_was_made_of_it() -> None:
    frame = pandas.DataFrame({"h": np.resize([-2.3, 0.1, 1.4], N), "n": gaps(np.resize([0, 0, 1, 9, 4], N))})
    days = pandas.Timestamp("2020-02-01") + pandas.to_timedelta(np.arange(N), "D")
    frame = frame.assign(s=LETTERS, t=days, id=range(N), k="one", g=REAL)
    table = Table(frame, leave_out=["g"])
    assert str(table) == PRINTED
    assert repr(table) == "<Table of 60 rows and 4 columns (pandas); 3 columns left out>"


def test_wide_tables_print_their_first_columns() -> None:
    wide = pandas.DataFrame({f"x{i}": REAL for i in range(448)} | {f"id{i}": range(N) for i in range(30)})
    lines = str(Table(wide)).splitlines()
    assert len(lines) <= 60 and "... and 412 more" in lines and "... and 14 more" in lines
    assert Table(wide)._repr_html_().count("<tr>") == 37


def test_html_is_escaped_and_text_stays_on_its_line() -> None:
    bad = "<script>alert(1)</script>\n&"
    frame = pandas.DataFrame({bad: [bad, "b"] * 9, bad + "id": [bad + str(i) for i in range(18)], "k": bad})
    table = Table(frame)
    html = table._repr_html_()
    assert "<script" not in html and "&lt;script&gt;" in html and html.count("<td>") == 5
    assert len(str(table).splitlines()) == 8 and bad not in str(table)


SCHEMA = table_of(gaps(LETTERS)).schema.to_plain()
HOSTILE: dict[str, Any] = {
    "no dictionary": lambda plain: [plain],
    "an entry more": lambda plain: plain | {"code": "import os"},
    "a later version": lambda plain: plain | {"version": 3},
    "another library": lambda plain: plain | {"library": "os"},
    "a library in a list": lambda plain: plain | {"library": ["pandas"]},
    "no list": lambda plain: plain | {"columns": {"a": 1}},
    "no column": lambda plain: plain | {"columns": []},
    "a column twice": lambda plain: plain | {"columns": plain["columns"] * 2},
    "an axis": lambda plain: plain | {"axis": {"name": [3], "dtype": None}},
    "a dtype of the axis": lambda plain: plain | {"axis": {"name": None, "dtype": {"name": "x"}}},
    **{
        f"{key} {value!r:.40}": lambda plain, key=key, value=value: changed(plain, key, value)
        for key, value in [
            ("name", None),
            ("name", True),
            ("name", ["a"]),
            ("kind", None),
            ("kind", "real"),
            ("kind", {"kind": "os.system", "levels": []}),
            ("kind", {"kind": "categorical"}),
            ("kind", {"kind": "categorical", "levels": ["a", ["b"]]}),
            ("kind", {"kind": "categorical", "levels": ["a", "a"]}),
            ("kind", {"kind": "categorical", "levels": "ab"}),
            ("kind", {"kind": "categorical", "levels": 10**9}),
            ("kind", {"kind": "categorical", "levels": ["a", 10**400]}),
            ("kind", {"kind": "real", "low": "x", "high": 1, "whole": False}),
            ("kind", {"kind": "real", "low": 10**400, "high": 10**401, "whole": False}),
            ("kind", {"kind": "real", "low": 0, "high": 1, "whole": "yes"}),
            ("kind", {"kind": "real", "low": 0, "high": 1, "whole": False}),
            ("kind", {"kind": "time", "origin": 2**70, "last": 2**71, "unit": "ns", "step": 1, "zoned": False}),
            ("kind", {"kind": "time", "origin": 0, "last": 1, "unit": [], "step": 1, "zoned": False}),
            ("kind", {"kind": "constant", "value": {}, "unit": ""}),
            ("kind", {"kind": "identifier", "reason": 3, "advice": ""}),
            ("dtype", None),
            ("dtype", "O"),
            ("dtype", {"name": "os"}),
            ("dtype", {"name": "int64", "code": "x"}),
            ("dtype", {"name": "object", "holds": "code"}),
            ("dtype", {"name": "object", "holds": []}),
            ("dtype", {"name": "string", "storage": "remote", "na": "nan"}),
            ("dtype", {"name": "datetime64", "unit": "ns", "zone": "../../etc/passwd" * 9}),
            ("dtype", {"name": "category", "values": {"name": "int64"}, "levels": [1, 2], "ordered": False}),
            ("dtype", {"name": "arrow", "type": {"name": "arrow", "type": {}}}),
        ]
    },
}


def changed(plain: dict[str, Any], key: str, value: Any) -> dict[str, Any]:
    plain["columns"][0][key] = value
    return plain


@pytest.mark.parametrize("case", HOSTILE)
def test_damaged_and_hostile_descriptions_raise_a_value_error(case: str) -> None:
    assert TableSchema.from_plain(copy.deepcopy(SCHEMA)).to_plain() == SCHEMA
    with pytest.raises(ValueError, match=r"must (be|have|name)"):
        TableSchema.from_plain(HOSTILE[case](copy.deepcopy(SCHEMA)))


@pytest.mark.parametrize(
    ("cells", "value"),
    [
        ([18.5, 40.25, 90.0, -999.0, -999.0], "-999"),
        ([1, 2, 5, 99, 99, 3], "99"),
        (["no", "yes", "?", "no", "yes", "no"], r"'\?'"),
        (["low", "low", "high", "high", "n/a", "n/a", "low"], "'n/a'"),
    ],
)
def test_cells_that_look_like_marks_of_missing_cells_raise_a_warning(cells: list[Any], value: str) -> None:
    frame = pandas.DataFrame({"a": cells})
    with pytest.warns(UserWarning, match=rf"column 'a' holds {value} in [12] of {len(cells)} rows, which looks like"):
        table = Table(frame)
    Table(frame, kinds={"a": table.schema.kinds["a"].name})  # it is meant


@pytest.mark.parametrize(
    "cells", [[90, 95, 97, 99, 99], [1.5, 2.5, 99.0, 3.0], [9, 9, 9, 3, 4, 5], ["none", "all"] * 3]
)
def test_ordinary_cells_raise_no_warning(cells: list[Any]) -> None:
    Table(pandas.DataFrame({"a": cells}))
