"""Tables in .parquet files, read as a whole and in groups of rows."""

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
    assert one.likelihood == other.likelihood == "Bernoulli" and one.indices == other.indices


def test_names_of_rows_are_kept(tmp_path: Path) -> None:
    names = [f"row {i}" for i in range(20)]
    pandas.DataFrame({"a": np.arange(20.0), "b": 1.0}, index=names).to_parquet(tmp_path / "x.parquet")
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


def test_columns_must_exist_and_hold_numbers(tmp_path: Path) -> None:
    frame = pandas.DataFrame({"a": np.arange(20.0), "text": "x", "when": pandas.Timestamp(0)})
    frame.to_parquet(tmp_path / "x.parquet")
    for call in (load, parquet):
        with pytest.raises(TypeError, match=r"columns must be numbers; got text .* in \['text', 'when'\]"):
            call(tmp_path / "x.parquet")
    for options in ({"columns": ["b"]}, {"fields": ["b"]}, {"columns": []}):
        with pytest.raises(ValueError, match=r"columns must be in .*x.parquet, once; got (\['b'\]|none)"):
            parquet(tmp_path / "x.parquet", **options)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="batch_size must be a positive integer; got 0"):
        parquet(tmp_path / "x.parquet", columns="a", batch_size=0)
    with pytest.raises(FileNotFoundError, match=r"path must be a .parquet file; got .*nowhere"):
        parquet(tmp_path / "nowhere.parquet")


@pytest.mark.parametrize("values", [[1.0, None] * 10, [1, None] * 10, [True, None] * 10, [np.inf] * 20])
def test_missing_and_infinite_cells_are_refused_with_row_and_column(tmp_path: Path, values: list[Any]) -> None:
    pandas.DataFrame({"a": pandas.array(values)}).to_parquet(tmp_path / "x.parquet")
    with pytest.raises(ValueError, match=r"x must be finite; got (nan|inf) in row \d+, column 'a'"):
        load(tmp_path / "x.parquet")
    with pytest.raises(ValueError, match=r"x must be finite; got (nan|inf) in row \d+, column 'a'"):
        list(parquet(tmp_path / "x.parquet", shuffle=False))


def test_the_row_in_an_error_is_counted_in_the_whole_file(tmp_path: Path) -> None:
    values = np.where(np.arange(100) == 77, np.nan, 1.0)
    pandas.DataFrame({"a": values}).to_parquet(tmp_path / "x.parquet", row_group_size=30)
    for call in (load, lambda path: list(parquet(path))):
        with pytest.raises(ValueError, match="x must be finite; got nan in row 77, column 'a'"):
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
