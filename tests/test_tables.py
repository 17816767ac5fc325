"""Tables in .csv and .parquet files, read as a whole, and .parquet files in groups of rows."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
import torch
from cases import small_vae

import pyro_vae as pv
from pyro_vae.data.batches import Batches
from pyro_vae.datasets import load, parquet

X = np.random.RandomState(0).randint(0, 2, (100, 6))


@pytest.fixture
def table(tmp_path: Path) -> Path:
    frame = pandas.DataFrame(X, columns=list("abcdef")).astype({"b": bool, "c": np.float32, "d": np.uint8})
    frame["label"] = np.arange(100)
    frame.to_parquet(tmp_path / "x.parquet", row_group_size=23)
    return tmp_path / "x.parquet"


def test_a_parquet_file_is_read_like_the_same_csv_file(table: Path) -> None:
    pandas.read_parquet(table).to_csv(table.with_suffix(".csv"), index=False)
    one, other = (load(table.with_suffix(suffix), fields=("label",)) for suffix in (".parquet", ".csv"))
    for a, b in ((one.train, other.train), (one.valid, other.valid), (one.test, other.test)):
        assert torch.equal(a.x.double(), b.x.double()) and torch.equal(a.field("label"), b.field("label"))
        assert a.columns == list("abcdef")
        assert a.schema.kinds == b.schema.kinds
    assert one.likelihood == other.likelihood == "Product" and one.indices == other.indices


def test_names_of_rows_are_kept(tmp_path: Path) -> None:
    names = [f"row {i}" for i in range(20)]
    pandas.DataFrame({"a": np.sqrt(np.arange(20.0)), "b": np.arange(20.0) ** 2}, index=names).to_parquet(
        tmp_path / "x.parquet"
    )
    data = load(tmp_path / "x.parquet")
    assert data.event_shape == (2,) and data.test.index == [names[i] for i in data.indices["test"]]
    assert next(iter(parquet(tmp_path / "x.parquet")))["x"].shape == (20, 2)


def read(loader: Any) -> tuple[list[int], torch.Tensor, torch.Tensor]:
    batches = list(loader)
    sizes, labels = [len(batch["x"]) for batch in batches], torch.cat([batch["label"] for batch in batches])
    return sizes, labels, torch.cat([batch["x"] for batch in batches])


@pytest.mark.parametrize("shuffle", [False, True])
def test_batches_span_groups_and_contain_each_row_once(table: Path, shuffle: bool) -> None:
    loader = parquet(table, batch_size=30, fields=("label",), shuffle=shuffle)
    sizes, labels, x = read(loader)
    assert sizes == [30, 30, 30, 10] and len(loader) == 4
    assert sorted(labels.tolist()) == list(range(100)) and (labels.tolist() == list(range(100))) is not shuffle
    assert torch.equal(x.long(), torch.from_numpy(X)[labels])


def test_the_order_of_an_epoch_depends_on_the_random_state_at_its_start_alone(table: Path) -> None:
    loader = parquet(table, batch_size=30, fields="label")
    orders = []
    for seed, noise in ((0, False), (0, True), (1, False)):
        torch.manual_seed(seed)
        labels: list[int] = []
        for batch in loader:
            labels += batch["label"].tolist()
            if noise:
                torch.randn(3)
        orders.append(labels)
    assert orders[0] == orders[1] != orders[2]
    groups = [label // 23 for label in orders[0]]
    assert len(set(groups[:23])) <= 2  # group after group


def test_columns_can_be_chosen(table: Path) -> None:
    batch = next(iter(parquet(table, columns=("c", "a"), fields=("label", "x"), shuffle=False)))
    assert batch.keys() == {"x", "label"} and torch.equal(batch["x"], torch.from_numpy(X[:, [2, 0]]).double())


def test_a_model_trains_and_is_evaluated_on_a_loader_of_groups(table: Path) -> None:
    vae = small_vae(likelihood=pv.likelihoods.Bernoulli(6)).double()
    loader = parquet(table, batch_size=30, fields="label")
    assert len(Batches(loader, like=vae.like)) == 4 and Batches(loader, like=vae.like).num_rows == 100
    histories = [
        small_vae(likelihood=pv.likelihoods.Bernoulli(6)).fit(loader, epochs=2, seed=0, progress=False) for _ in "ab"
    ]
    assert histories[0].rows[-1]["train_bound"] == histories[1].rows[-1]["train_bound"]
    ordered, x = parquet(table, batch_size=30, fields="label", shuffle=False), torch.from_numpy(X)
    assert torch.equal(vae.elbo(ordered, seed=0).bound, vae.elbo(x, seed=0).bound)
    likelihoods = (vae.log_likelihood(data, num_particles=3, seed=0).estimate for data in (ordered, x))
    assert torch.equal(next(likelihoods), next(likelihoods))
    with pytest.raises(ValueError, match="x must come in a fixed order; got a loader with shuffle=True"):
        vae.elbo(loader, seed=0)


def test_columns_of_a_loader_must_exist_and_hold_numbers(tmp_path: Path) -> None:
    frame = pandas.DataFrame({"a": np.arange(20.0), "text": "x", "when": pandas.Timestamp(0)})
    frame.to_parquet(tmp_path / "x.parquet")
    with pytest.raises(TypeError, match=r"columns must be numbers; got text .* in \['text', 'when'\]"):
        parquet(tmp_path / "x.parquet")
    for options in ({"columns": ["b"]}, {"fields": ["b"]}, {"columns": []}):
        with pytest.raises(ValueError, match=r"columns must be in .*x.parquet, once; got (\['b'\]|none)"):
            parquet(tmp_path / "x.parquet", **options)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="batch_size must be a positive integer; got 0"):
        parquet(tmp_path / "x.parquet", columns="a", batch_size=0)
    with pytest.raises(FileNotFoundError, match=r"path must be a .parquet file; got .*nowhere"):
        parquet(tmp_path / "nowhere.parquet")


@pytest.mark.parametrize("values", [[1.0, None] * 10, [1, None] * 10, [True, None] * 10])
def test_missing_cells_are_nan(tmp_path: Path, values: list[Any]) -> None:
    pandas.DataFrame({"a": pandas.array(values)}).to_parquet(tmp_path / "x.parquet")
    (batch,) = parquet(tmp_path / "x.parquet", shuffle=False)
    assert batch["x"].isnan().flatten().tolist() == [False, True] * 10


def test_infinite_cells_are_refused_with_row_and_column(tmp_path: Path) -> None:
    pandas.DataFrame({"a": [np.inf] * 20}).to_parquet(tmp_path / "x.parquet")
    for read in (load, lambda path: list(parquet(path, shuffle=False))):
        with pytest.raises(ValueError, match=r"must be finite; got inf in row \d+"):
            read(tmp_path / "x.parquet")


def test_the_row_in_an_error_is_counted_in_the_whole_file(tmp_path: Path) -> None:
    values = np.where(np.arange(100) == 77, np.inf, 1.0)
    pandas.DataFrame({"a": values}).to_parquet(tmp_path / "x.parquet", row_group_size=30)
    for call in (load, lambda path: list(parquet(path))):
        with pytest.raises(ValueError, match="must be finite; got inf in row 77"):
            call(tmp_path / "x.parquet")


def test_decompression_bombs_and_damage_are_refused(
    table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pandas.DataFrame({"a": np.zeros(10**6)}).to_parquet(tmp_path / "bomb.parquet")
    with monkeypatch.context() as patch:
        patch.setattr("pyro_vae.datasets.decompression.ALWAYS_ALLOWED", 10**6)
        for call in (load, parquet):
            with pytest.raises(ValueError, match=r"bomb.parquet must unpack to at most 1 GB"):
                call(tmp_path / "bomb.parquet")
    table.write_bytes(table.read_bytes()[:-10])
    for call in (load, parquet):
        with pytest.raises(ValueError, match=r"x.parquet must be a whole .parquet file"):
            call(table)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ImportError, match=r"pyarrow must be installed to read .*pip install 'pyro-vae\[parquet\]'"):
        load(table)


# Names of rows


def index_frames() -> dict[str, pandas.DataFrame]:
    frame = pandas.DataFrame({"a": np.sqrt(np.arange(30.0)), "b": 0.5 * np.arange(30)})
    numbers = np.random.RandomState(0).permutation(30) + 5000
    return {
        "named numbers": frame.set_index(pandas.Index(numbers, name="patient")),
        "unnamed numbers": frame.set_index(pandas.Index(numbers)),
        "named text": frame.set_index(pandas.Index([f"row {i}" for i in numbers], name="patient")),
        "two levels": frame.set_index(
            pandas.MultiIndex.from_arrays([numbers // 10, numbers % 10], names=["site", "patient"])
        ),
        "two levels without names": frame.set_index(pandas.MultiIndex.from_arrays([numbers // 10, numbers % 10])),
        "a range": frame.set_index(pandas.RangeIndex(100, 130)),
    }


@pytest.mark.parametrize("name", index_frames())
def test_an_index_of_a_parquet_file_is_no_data(tmp_path: Path, name: str) -> None:
    frame = index_frames()[name]
    frame.to_parquet(tmp_path / "x.parquet")
    data = load(tmp_path / "x.parquet")
    assert data.train.columns == ["a", "b"]
    assert data.train.index == [frame.index.tolist()[i] for i in data.indices["train"]]
    assert next(iter(parquet(tmp_path / "x.parquet")))["x"].shape == (30, 2)
    if name == "named numbers":  # it is data where it is asked for
        assert next(iter(parquet(tmp_path / "x.parquet", columns=["patient", "a"], shuffle=False)))["x"][0, 0] > 4999
        assert load(tmp_path / "x.parquet", fields=("patient",)).train.field("patient").min() >= 5000


@pytest.mark.parametrize("times", [1, 2, 3, 4])
def test_leading_columns_without_a_name_in_a_csv_file_are_names_of_rows(tmp_path: Path, times: int) -> None:
    frame = index_frames()["unnamed numbers"]
    names, path = frame.index.tolist(), tmp_path / "x.csv"
    for _ in range(times):
        frame.to_csv(path)
        frame = pandas.read_csv(path)
    data = load(path)
    assert data.train.columns == ["a", "b"] and data.train.index == [names[i] for i in data.indices["train"]]
    with pytest.raises(ValueError, match=r"columns must be data; got 'Unnamed: 0.*', names of rows.*index_col=0"):
        small_vae(likelihood=pv.likelihoods.Normal(2 + times)).fit(frame, epochs=1, progress=False)
    frame.to_parquet(tmp_path / "x.parquet")
    with pytest.raises(ValueError, match=r"columns must be data; got 'Unnamed: 0.*', names of rows"):
        load(tmp_path / "x.parquet")


def test_a_leading_column_of_real_numbers_without_a_name_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text(",a\n" + "".join(f"{i}.5,{i}\n" for i in range(20)))
    with pytest.raises(ValueError, match=r"x.csv must have names for all columns of data; got column 1 .* is 0.5"):
        load(path)
    path.write_text(",a\n" + "".join(f"row {i},{i}\n" for i in range(20)))
    assert load(path, kinds={"a": "real"}).test.index[0].startswith("row ")


# What a reader would have to guess

COMMAS = {
    "semicolons": (
        "height;weight",
        "{0},5;{1},25",
        "got line 1, 'height;weight'. Pass sep=';', decimal=','",
    ),
    "one column": (
        "height",
        "{0},5",
        "1 fields .* in line 1; got 2 in line 2.* pass sep=';', decimal=','",
    ),
    "commas twice": ("height,weight", "{0},5,{1},25", "2 fields in each line, as in line 1; got 4 in line 2"),
    "one of two": ("height,weight", "{0},5,{1}", "2 fields in each line, as in line 1; got 3 in line 2"),
    "quoted": ("height,weight", '"{0},5","{1},25"', r"decimal points; got '0,5' in line 2, column 'height'"),
    "tabs": ("height\tweight", "{0},5\t{1},25", r"Pass sep='\\t', decimal=','"),
    "bars": ("height|weight", "{0}|{1}", r"Pass sep='\|'\."),
    "blanks": ("height weight", "{0} {1}", "Pass sep=' '"),
    "semicolons without commas": ("a;b", "{0};{1}", r"got line 1, 'a;b'. Pass sep=';'\."),
    "names of rows": (";a", "{0};{1},5", "Pass sep=';', decimal=','"),
    "no header": ("1,5;2,5", "{0},5;{1},25", "Pass sep=';', decimal=','"),
    "blank lines": ("\n\nheight,weight", "\n{0},5,{1},25", "2 fields in each line, as in line 3; got 4 in line 5"),
}


@pytest.mark.parametrize("name", COMMAS)
def test_other_separators_and_decimal_commas_are_refused_with_file_and_line(tmp_path: Path, name: str) -> None:
    header, line, message = COMMAS[name]
    (tmp_path / "x.csv").write_text("\n".join([header, *(line.format(i, i + 1) for i in range(20))]) + "\n")
    with pytest.raises(ValueError, match=r"x\.csv must .*" + message):
        load(tmp_path / "x.csv")


FORMS: dict[str, tuple[str, dict[str, Any]]] = {
    "semicolons": ("{0},5;{1},25", {"sep": ";", "decimal": ","}),
    "semicolons by default": ("{0},5;{1},25", {"decimal": ","}),
    "tabs": ("{0}.5\t{1}.25", {"sep": "\t"}),
    "quoted": ('"{0},5","{1},25"', {"sep": ",", "decimal": ","}),
    "blanks": ("{0}.5 {1}.25", {"sep": " "}),
}


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("header", [True, False])
@pytest.mark.parametrize("name", FORMS)
def test_other_separators_and_decimal_commas_are_read_on_request(
    tmp_path: Path, name: str, header: bool, end: str
) -> None:
    line, options = FORMS[name]
    lines = [line.format(i, i + 1) for i in range(20)]
    top = ["\ufeffheight" + options.get("sep", ";") + "weight"] if header else []
    (tmp_path / "x.csv").write_bytes(end.join([*top, *lines, ""]).encode())
    data = load(tmp_path / "x.csv", header=None if header else False, **options)
    assert data.train.columns == (["height", "weight"] if header else ["0", "1"])
    expected = torch.arange(20.0)[:, None] + torch.tensor([0.5, 1.25])
    assert torch.equal(data.train.x, expected[data.indices["train"]].double())


@pytest.mark.parametrize("first", ["0.5,1", "1,2", "1e3,-5", "nan,1", "NA,1", ",1.5", "0", "2019,2020", '"1","2"'])
def test_a_first_line_of_numbers_is_no_header_unless_it_is_said_to_be(tmp_path: Path, first: str) -> None:
    (tmp_path / "x.csv").write_text(f"{first}\n" + ("1,2\n" if "," in first else "1\n") * 20)
    with pytest.raises(ValueError, match=r"x\.csv must begin with a line of names; got numbers .*header=False"):
        load(tmp_path / "x.csv")
    if first == "2019,2020":
        chosen = {"2019": "real", "2020": "real"}  # the columns are constant
        assert load(tmp_path / "x.csv", header=True, kinds=chosen).train.columns == ["2019", "2020"]
        assert sum(len(rows) for rows in (load(tmp_path / "x.csv", header=False).indices).values()) == 21


def test_a_header_of_pandas_without_names_is_a_header(tmp_path: Path) -> None:
    pandas.DataFrame(X).to_csv(tmp_path / "x.csv")
    assert load(tmp_path / "x.csv").train.columns == list("012345")


def test_a_header_alone_and_options_without_meaning_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text("a,b\n")
    with pytest.raises(ValueError, match=r"x\.csv must hold rows; got a header alone. Add rows below it"):
        load(path)
    path.write_text("a,b\n" + "1,2\n" * 20)
    for option, value in (("sep", ";;"), ("sep", ""), ("sep", 1), ("decimal", ";"), ("decimal", 1), ("header", 0)):
        with pytest.raises(ValueError, match=f"{option} must be .*; got {value!r}"):
            load(path, **{option: value})  # type: ignore[arg-type]
    np.save(tmp_path / "x.npy", np.zeros((20, 2)))
    for name in (tmp_path / "x.npy", "digits", tmp_path):
        with pytest.raises(ValueError, match="sep must be None for .*; got ';'. Leave it out"):
            load(name, sep=";")
