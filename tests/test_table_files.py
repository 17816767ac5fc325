"""Data files with typed columns and missing cells, as tables."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pyarrow
import pytest
import torch
from pyarrow import parquet as arrow

import pyro_vae as pv
from pyro_vae.datasets import load, read_frame

N = 40


def people() -> pandas.DataFrame:
    """Columns of many kinds, with gaps."""
    numbers = np.random.RandomState(0)
    frame = pandas.DataFrame(
        {
            "id": np.arange(1, N + 1),
            "weight": numbers.normal(70, 9, N).round(1),
            "visits": pandas.array(numbers.poisson(3, N), dtype="Int64"),
            "site": numbers.choice(["north", "south", "east"], N),
            "smokes": numbers.choice(["no", "yes"], N),
            "seen": pandas.Timestamp("2024-01-01") + pandas.to_timedelta(numbers.randint(0, 90, N), "D"),
            "insured": pandas.array(numbers.rand(N) < 0.5, dtype="boolean"),
            "note": [f"note {i}" for i in range(N)],
        }
    )
    for place, name in enumerate(("weight", "visits", "site", "seen", "insured")):
        frame.loc[[3 * place, 3 * place + 1], name] = None
    return frame


KINDS = {
    "weight": "real",
    "visits": "count",
    "site": "categorical",
    "smokes": "binary",
    "seen": "time",
    "insured": "binary",
}


@pytest.fixture
def csv(tmp_path: Path) -> Path:
    people().to_csv(tmp_path / "people.csv", index=False)
    return tmp_path / "people.csv"


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_file_of_typed_columns_is_a_table_whose_kinds_come_from_all_rows(csv: Path, suffix: str) -> None:
    people().to_parquet(csv.with_suffix(".parquet"))
    data = load(csv.with_suffix(suffix))
    assert all(isinstance(rows, pv.Table) for rows in (data.train, data.valid, data.test, data.table))
    assert [len(rows) for rows in (data.train, data.valid, data.test)] == [32, 4, 4] and data.table is not None
    assert {name: kind.name for name, kind in data.table.schema.kinds.items()} == KINDS
    assert (data.likelihood, data.likelihood_options, data.event_shape) == ("Product", {}, (6,))
    for split, rows in (("train", data.train), ("valid", data.valid), ("test", data.test)):
        assert rows.schema == data.table.schema  # type: ignore[attr-defined]
        torch.testing.assert_close(rows.x, data.table.x[data.indices[split]], equal_nan=True)
    assert [c.name for c in data.table.schema.left_out] == ["id", "note"]
    assert int(data.table.x.isnan().sum()) == 10


def test_a_file_gives_back_the_frame_that_was_written(csv: Path) -> None:
    frame = people()
    frame.to_parquet(csv.with_suffix(".parquet"))
    for suffix in (".csv", ".parquet"):
        table = load(csv.with_suffix(suffix)).table
        assert table is not None
        found = table.frame()
        pandas.testing.assert_frame_equal(found, frame, check_dtype=False)
        assert str(found["visits"].dtype) == "Int64"
        assert found["insured"].tolist()[:12] == frame["insured"].tolist()[:12]
        drawn = table.schema.frame(table.x[-5:])
        assert list(drawn) == [*KINDS] and str(drawn["visits"].dtype) == "Int64"
    table.frame().to_csv(csv.with_name("again.csv"), index=False)
    assert csv.with_name("again.csv").read_bytes() == csv.read_bytes()


def test_for_table_makes_the_model_of_a_file(csv: Path) -> None:
    data = load(csv)
    vae = pv.VAE.for_table(data.train, seed=0)
    vae.fit(data.train, valid=data.valid, epochs=2, seed=0, progress=False)
    assert torch.isfinite(vae.elbo(data.test, seed=0).bound).all()
    assert vae.impute(read_frame(csv), num_imputations=2, seed=0)[1].notna().all().all()


def test_kinds_can_be_chosen_and_columns_left_out(csv: Path) -> None:
    chosen = {
        "visits": "real",
        "site": pv.tables.Ordinal(["north", "south", "east"]),
        "id": "real",
        "seen": "leave_out",
    }
    table = load(csv, kinds=chosen).table
    assert table is not None
    found = {name: kind.name for name, kind in table.schema.kinds.items()}
    expected = {"id": "real", **KINDS, "visits": "real", "site": "ordinal"}
    assert found == {name: kind for name, kind in expected.items() if name != "seen"}
    assert load(csv, kinds={}).indices == load(csv).indices


def test_columns_that_the_rules_leave_out_are_named_in_a_warning(csv: Path) -> None:
    with pytest.warns(
        UserWarning, match=r"Columns are left out: 'id' \(an identifier.*'note'.*kinds=.*'identifier'"
    ) as seen:
        load(csv)
    assert seen[0].filename == __file__
    load(csv, kinds={"id": "leave_out", "note": "leave_out"})


@pytest.mark.parametrize(
    ("kinds", "error", "message"),
    [
        ({"visits": "county"}, ValueError, r"kinds\['visits'\] must be one of real, .*, leave_out; got 'county'"),
        ({"visit": "count"}, ValueError, r"kinds must name columns of .*csv \('id', 'weight', .*got 'visit'. Correct"),
        ({"visit": "leave_out"}, ValueError, r"kinds must name columns of .*; got 'visit'"),
        (["visits"], TypeError, r"kinds must be a dictionary; got \['visits'\]"),
        ({"site": "ordinal"}, ValueError, r"column 'site' of .* levels in an order .*--kinds site=ordinal:LOWEST"),
        ({"site": "count"}, TypeError, "column 'site' must hold"),
    ],
)
def test_wrong_kinds_are_refused(csv: Path, kinds: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        load(csv, kinds=kinds)


def test_kinds_of_other_data_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros((20, 2)))
    for name in (tmp_path / "x.npy", "digits", tmp_path):
        with pytest.raises(ValueError, match="kinds must be None for .*; got {'a': 'real'}. Leave it out"):
            load(name, kinds={"a": "real"})


def test_an_empty_column_is_refused_with_what_to_write_on_the_command_line(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("a,b\n" + "1.5,\n2.5,\n" * 10)
    with pytest.raises(
        ValueError, match=r"'b' of .*x.csv must have a cell .*kinds=\{'b': 'leave_out'\} .*--kinds b=leave"
    ):
        load(tmp_path / "x.csv")
    assert load(tmp_path / "x.csv", kinds={"b": "leave_out", "a": "real"}).train.columns == ["a"]


@pytest.mark.parametrize(
    ("cells", "kind"),
    [
        (["2024-03-31", "2024-04-01", "2024-04-05", ""], "time"),
        (["2024-03-31T08:30", "2024-04-01 09:00:00.5", "2024-04-01", ""], "time"),
        (["2024-03-31T08:30Z", "2024-04-01T08:30+02:00", "2024-04-01T08:31Z", ""], "time"),
        (["2024-03-31T08:30Z", "2024-04-01T08:30", "2024-04-01", ""], "categorical"),  # with and without a zone
        (["2024-02-31", "2024-04-01", "2024-04-02", ""], "categorical"),  # no such day
        (["03/04/2024", "04/05/2024", "07/05/2024", ""], "categorical"),  # which is the month?
    ],
)
def test_text_of_iso_dates_alone_holds_times(tmp_path: Path, cells: list[str], kind: str) -> None:
    (tmp_path / "x.csv").write_text("when,a\n" + "".join(f"{c},{i}.5\n" for i, c in enumerate(cells * 5)))
    data = load(tmp_path / "x.csv")
    assert data.train.schema.kinds["when"].name == kind  # type: ignore[attr-defined]
    if kind == "time":
        found = load(tmp_path / "x.csv", kinds={"when": "categorical"}).train
        assert found.schema.kinds["when"].levels == tuple(sorted(filter(None, cells)))  # type: ignore[attr-defined]


def test_text_with_decimal_commas_is_refused_unless_its_kind_is_stated(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("a;text;place\n" + "".join(f"{i}.5;word;{i % 3},5\n" for i in range(20)))
    with pytest.raises(
        ValueError, match=r"decimal points; got '0,5' in line 2, column 'place'. Pass .*'leave_out'\) where"
    ):
        load(tmp_path / "x.csv", sep=";")
    for kind, columns in (("categorical", ["a", "place"]), ("leave_out", ["a"])):
        assert load(tmp_path / "x.csv", sep=";", kinds={"place": kind}).train.columns == columns


def test_fields_are_no_part_of_the_table(csv: Path) -> None:
    table = load(csv, fields=["id"], kinds={"note": "leave_out"}).table
    assert table is not None and table.field("id").tolist() == list(range(1, N + 1))
    assert "id" not in [column.name for column in table.schema.columns]


def test_types_of_a_parquet_file_survive(tmp_path: Path) -> None:
    days = [None, *(datetime.date(2024, 1, 1 + i) for i in range(19))]
    columns = {
        "day": pyarrow.array(days, pyarrow.date32()),
        "small": pyarrow.array([None, *range(0, 38, 2)], pyarrow.uint8()),
        "level": pyarrow.array(["a", "b", None, "c"] * 5).dictionary_encode(),
        "text": pyarrow.array(["x", "y", None, "z"] * 5, pyarrow.large_string()),
    }
    arrow.write_table(pyarrow.table(columns), tmp_path / "x.parquet")
    table = load(tmp_path / "x.parquet").table
    assert table is not None
    assert [kind.name for kind in table.schema.kinds.values()] == ["time", "count", "categorical", "categorical"]
    table.schema.frame(table.x).to_parquet(tmp_path / "y.parquet")
    assert arrow.read_schema(tmp_path / "y.parquet").types[:2] == [pyarrow.date32(), pyarrow.uint8()]


def test_a_small_file_of_one_long_text_in_many_rows_is_a_decompression_bomb(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pandas.DataFrame({"a": np.arange(1000) % 7, "text": ["x" * 10**4] * 1000}).to_parquet(tmp_path / "x.parquet")
    monkeypatch.setattr("pyro_vae.datasets.decompression.ALWAYS_ALLOWED", 10**6)
    with pytest.raises(ValueError, match=r"x.parquet must unpack to at most 1 GB.*that become 10\d{6}, a decomp"):
        load(tmp_path / "x.parquet")


# Frames to impute


def test_whole_numbers_with_leading_zeros_are_text(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("code,zero,number\n01000,0,10\n20000,1,20\n")
    frame = read_frame(tmp_path / "x.csv")
    assert frame["code"].tolist() == ["01000", "20000"] and frame["zero"].tolist() == [0, 1]
    assert frame["number"].tolist() == [10, 20]


def test_text_of_the_schema_is_read_as_text_from_another_file(tmp_path: Path) -> None:
    codes = ["01", "2", "A", "2024-01-01"] * 5
    pandas.DataFrame({"code": codes, "a": np.sqrt(np.arange(20))}).to_csv(tmp_path / "x.csv", index=False)
    schema = load(tmp_path / "x.csv").train.schema  # type: ignore[attr-defined]
    (tmp_path / "new.csv").write_text("code,a\n01,1.5\n2,\n")
    assert read_frame(tmp_path / "new.csv")["code"].tolist() == ["01", "2"]
    frame = read_frame(tmp_path / "new.csv", schema=schema)
    assert frame["code"].tolist() == ["01", "2"] and len(pv.Table.like(frame, schema)) == 2
    (tmp_path / "new.csv").write_text("01,1.5\n2,\n")
    assert read_frame(tmp_path / "new.csv", header=False, schema=schema).columns.tolist() == ["0", "1"]


def test_read_frame_refuses_other_files_and_options(csv: Path) -> None:
    people().to_parquet(csv.with_suffix(".parquet"))
    with pytest.raises(ValueError, match="path must be a .csv or .parquet file; got .*none.csv', which does not exist"):
        read_frame(csv.with_name("none.csv"))
    with pytest.raises(ValueError, match="path must be a .csv or .parquet file; got .*Correct"):
        read_frame(csv.parent)
    with pytest.raises(ValueError, match="sep must be None for .*parquet'; got ';'"):
        read_frame(csv.with_suffix(".parquet"), sep=";")
    with pytest.raises(ValueError, match="sep must be one character; got ';;'"):
        read_frame(csv, sep=";;")
