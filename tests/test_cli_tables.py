"""The command line on tables: .csv and .parquet files with typed columns and missing cells."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
import torch

import pyro_vae as pv
from pyro_vae.cli import main, runs, tables

pytestmark = pytest.mark.usefixtures("short_annealing")
N = 60
SMALL = ["--epochs", "2", "--hidden", "8", "--num-likelihood-particles", "20", "--num-likelihood-rows", "2"]
KINDS = "grade=ordinal:low:middle:high,note=leave_out"
NUMBERS = {"model_card.md", "checkpoints", "model.safetensors", "config.json", "history.csv", "summary.json"}
PICTURES = {f"{name}.png" for name in ("training", "marginals", "pairs", "missing", "imputed", "latents")}


def people(*, gaps: bool = True) -> pandas.DataFrame:
    numbers = np.random.RandomState(0)
    frame = pandas.DataFrame(
        {
            "id": np.arange(101, 101 + N),
            "weight": numbers.normal(70, 9, N).round(1),
            "visits": pandas.array(numbers.poisson(3, N), dtype="Int64"),
            "site": numbers.choice(["north", "south", "east"], N),
            "grade": numbers.choice(["low", "middle", "high"], N),
            "seen": pandas.Timestamp("2024-01-01") + pandas.to_timedelta(numbers.randint(0, 90, N), "D"),
            "note": [f"note {i}" for i in range(N)],
        }
    )
    for place, name in enumerate(("weight", "visits", "site", "grade", "seen") if gaps else ()):
        frame.loc[[3 * place, 3 * place + 1, 40 + place], name] = None
    return frame


def train(data: Path, run: Path, *more: str) -> int:
    return main(["train", str(data), "--run-dir", str(run), "--kinds", KINDS, *SMALL, *more])


def read(file: Path) -> dict[str, Any]:
    return dict(json.loads(file.read_text()))


def fails(arguments: list[str], text: str, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("pyro-vae: error: ") and captured.err.count("\n") == 1, captured.err
    assert text in captured.err and captured.out == ""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with people.csv, and a run on it."""
    folder = tmp_path_factory.mktemp("tables")
    people().to_csv(folder / "people.csv", index=False)
    assert train(folder / "people.csv", folder / "run") == 0
    return folder


@pytest.fixture
def folder(trained: Path, tmp_path: Path) -> Path:
    """A copy of that folder, whose run is one on its own file."""
    copy = Path(shutil.copytree(trained, tmp_path / "copy"))
    config = read(copy / "run" / "config.json")
    config["data"]["path"] = str(copy / "people.csv")
    (copy / "run" / "config.json").write_text(json.dumps(config))
    return copy


def test_a_run_on_a_table_has_its_numbers_and_pictures(trained: Path) -> None:
    assert {file.name for file in (trained / "run").iterdir()} == NUMBERS | PICTURES
    assert set(runs.FILES) >= PICTURES  # so that they are removed when the run is replaced
    for name in PICTURES:
        assert (trained / "run" / name).stat().st_size > 5000, name
    summary, config = read(trained / "run" / "summary.json"), read(trained / "run" / "config.json")
    assert math.isfinite(summary["test_log_likelihood"]) and "test_bits_per_dimension" not in summary
    assert config["options"]["kinds"] == KINDS
    assert list(config["data"]["columns"]) == ["weight", "visits", "site", "grade", "seen"]
    vae = pv.load(trained / "run")
    assert vae.prior.latent_dim == 2 and isinstance(vae.missing, pv.missing.AtRandom)
    assert isinstance(vae.nets["encoder"], pv.nets.Masked) and vae.table_schema is not None
    assert vae.table_schema.kinds["grade"] == pv.tables.Ordinal(["low", "middle", "high"])


def test_train_prints_the_table_first_and_no_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    people(gaps=False).to_parquet(tmp_path / "people.parquet")
    assert train(tmp_path / "people.parquet", tmp_path / "run", "--latent-dim", "3") == 0
    out, err = capsys.readouterr()
    data = pv.datasets.load(tmp_path / "people.parquet", kinds=tables.read_kinds(KINDS))
    assert out.startswith(f"{data.table}\n") and "--kinds COLUMN=KIND" in out and "left out" not in err
    vae = pv.load(tmp_path / "run")
    assert vae.missing is None and vae.prior.latent_dim == 3
    assert not {"missing.png", "imputed.png"} & {file.name for file in (tmp_path / "run").iterdir()}
    fails(["impute", str(tmp_path / "run")], "must hold a model that allows for missing cells; got one", capsys)


@pytest.mark.parametrize("prior", ["normal", "vamp", "flow"])
def test_priors_and_guides_are_chosen_for_tables_too(trained: Path, tmp_path: Path, prior: str) -> None:
    more = ["--prior", prior, "--guide", "normal", "--no-pictures", "--elbo", "elbo", "--dropout", "0"]
    assert train(trained / "people.csv", tmp_path / "run", *more) == 0
    assert type(pv.load(tmp_path / "run").prior).__name__.lower().startswith(prior)


def test_evaluate_and_its_report_work_with_missing_cells(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = folder / "run"
    assert main(["evaluate", str(run), "--report", "--num-particles", "20", "--rows", "2"]) == 0
    assert read(run / "evaluation.json")["test"] == read(run / "summary.json")["test"]
    assert "Diagnosis on 6 rows" in capsys.readouterr().out
    assert (run / "statistics.png").exists() and not (run / "traversal.png").exists()


def test_a_run_on_a_table_is_resumed_with_its_kinds_and_on_its_data_alone(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, file = folder / "run", folder / "people.csv"
    assert main(["train", "--resume", str(run), "--epochs", "3", "--no-pictures"]) == 0
    assert read(run / "summary.json")["epochs"] == 3
    again = ["train", "--resume", str(run), "--epochs", "4"]
    fails([*again, "--kinds", "visits=real"], "--kinds must be as in the run that is resumed, grade=ord", capsys)
    text = file.read_text()
    file.write_text(text.replace(",north,", ",nord,"))  # the same numbers stand for other levels
    for command in (again, ["evaluate", str(run)], ["impute", str(run)]):
        fails(command, "columns that they had when the run was new; got another column 'site' from", capsys)
    frame = people()
    frame["weight"] = (
        frame["weight"].iloc[[0, 1, 3, 2, *range(4, N)]].to_numpy()
    )  # two cells of the same column swapped
    frame.to_csv(file, index=False)
    assert main(again) == 2 and "resume must continue the same run" in capsys.readouterr().err
    fails(["evaluate", str(run)], "data must be those of the run", capsys)
    file.write_text(text)
    assert main([*again, "--no-pictures"]) == 0


def test_sample_writes_a_frame_as_it_came_in(folder: Path) -> None:
    run, schema = str(folder / "run"), pv.load(folder / "run").table_schema
    assert schema is not None
    for name in ("new.csv", "new.parquet"):
        assert main(["sample", run, "--rows", "12", "--seed", "3", "--out", str(folder / name)]) == 0
    expected = schema.frame(pv.load(folder / "run").sample(12, seed=3))
    pandas.testing.assert_frame_equal(pandas.read_parquet(folder / "new.parquet"), expected)
    found = pv.datasets.read_frame(folder / "new.csv", schema=schema)
    pandas.testing.assert_frame_equal(found, expected, check_dtype=False)
    assert (folder / "run" / "samples.png").stat().st_size > 5000


def test_impute_completes_the_rows_of_the_run_in_the_order_of_their_file(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["impute", str(folder / "run"), "--num-imputations", "3", "--num-candidates", "30"]) == 0
    out = capsys.readouterr().out
    assert "the run's own rows, in the order of their file: 3 imputations of 15 missing cells (5.0%) in" in out
    assert f"Written to {folder / 'run'}: imputations.csv" in out
    frame, found = people(), pandas.read_csv(folder / "run" / "imputations.csv", parse_dates=["seen"])
    assert found.columns.tolist() == [".imp", ".id", *frame.columns] and len(found) == 3 * N
    assert found.notna().all().all() and found[".imp"].unique().tolist() == [1, 2, 3]
    for number, part in found.groupby(".imp"):
        assert part["id"].tolist() == frame["id"].tolist() and part[".id"].tolist() == list(range(N)), number
        for name in frame:
            known = frame[name].notna().to_numpy()
            assert part[name][known].tolist() == frame[name][known].tolist(), name


def test_impute_completes_another_file_once_or_several_times(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    frame = people().drop(columns=["id", "note"]).loc[:5, ["seen", "grade", "site", "visits", "weight"]]
    frame.to_csv(folder / "new.csv", index=False, sep=";", decimal=",")
    vae = pv.load(folder / "run")
    common = ["impute", str(folder / "run"), str(folder / "new.csv"), "--decimal", ",", "--num-candidates", "40"]
    assert main([*common, "--single", "mode", "--out", str(folder / "done.csv")]) == 0
    given = pv.datasets.read_frame(folder / "new.csv", decimal=",", schema=vae.table_schema)
    expected = vae.impute(given, single="mode", num_candidates=40, seed=0)[0]
    found = pv.datasets.read_frame(folder / "done.csv", decimal=",", schema=vae.table_schema)
    pandas.testing.assert_frame_equal(found, expected, check_dtype=False)
    assert f"{folder / 'new.csv'}: one best guess (mode) of" in capsys.readouterr().out
    assert main([*common, "--single", "median"]) == 0 and (folder / "run" / "completed_new.csv").exists()
    assert main([*common, "--num-imputations", "2", "--seed", "4", "--out", str(folder / "long.parquet")]) == 0
    long = vae.impute(given, num_imputations=2, num_candidates=40, seed=4).long()
    pandas.testing.assert_frame_equal(pandas.read_parquet(folder / "long.parquet"), long)


def test_impute_prints_the_warning_about_k_hat(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["impute", str(folder / "run"), "--num-imputations", "1", "--num-candidates", "2"]) == 0
    out, err = capsys.readouterr()
    assert "Warning: " in out and "of 60 rows have a Pareto k-hat above" in out and "Warning" not in err


def test_names_of_rows_come_back(tmp_path: Path) -> None:
    frame = people().set_index(pandas.Index([f"row {i}" for i in range(N)]))
    frame.to_csv(tmp_path / "people.csv")
    assert train(tmp_path / "people.csv", tmp_path / "run", "--no-pictures") == 0
    assert main(["impute", str(tmp_path / "run"), "--single", "mode", "--num-candidates", "5"]) == 0
    assert pandas.read_csv(tmp_path / "run" / "completed.csv", index_col=0).index.tolist() == frame.index.tolist()
    assert main(["impute", str(tmp_path / "run"), "--num-candidates", "5"]) == 0
    assert pandas.read_csv(tmp_path / "run" / "imputations.csv")[".id"].tolist()[:N] == frame.index.tolist()


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (None, None),
        ("visits=count,id=leave_out", {"visits": "count", "id": "leave_out"}),
        ('"a,b"=real,c=d=count', {"a,b": "real", "c=d": "count"}),
        ("grade=ordinal:low:high", {"grade": pv.tables.Ordinal(["low", "high"])}),
        ("pain=ordinal:0:1:2", {"pain": pv.tables.Ordinal([0, 1, 2])}),
    ],
)
def test_kinds_are_read_from_text(text: str | None, found: Any) -> None:
    assert tables.read_kinds(text) == found


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--kinds", "visits=county"], "--kinds must give 'visits' one of the kinds real, positive, count,"),
        (["--kinds", "visits"], "--kinds must be COLUMN=KIND, separated by commas; got 'visits'"),
        (["--kinds", "=count"], "--kinds must be COLUMN=KIND, separated by commas; got '=count'"),
        (["--kinds", "visits=count,visits=real"], "--kinds must name each column once; got 'visits' twice"),
        (["--kinds", "visits=count:1:2"], "--kinds must give levels to the kinds binary, ordinal, categorical only"),
        (["--kinds", "visit=count"], "kinds must name columns of"),
        (["--kinds", "grade=ordinal"], "--kinds grade=ordinal:LOWEST:...:HIGHEST"),
        (["--likelihood", "normal"], "--likelihood must be auto for a table"),
        (["--net", "conv"], "--net must be mlp for a table, which is no image; got conv"),
        (["--binarize", "static"], "binarize must be None for"),
    ],
)
def test_wrong_options_for_a_table_are_refused_and_nothing_is_written(
    arguments: list[str], text: str, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fails(["train", str(trained / "people.csv"), "--run-dir", str(tmp_path / "run"), *arguments], text, capsys)
    assert not (tmp_path / "run").exists()


def test_kinds_of_other_data_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fails(
        ["train", "digits", "--run-dir", str(tmp_path / "run"), "--kinds", "a=count"], "must be None for 'dig", capsys
    )


def test_commands_without_meaning_for_tables_say_what_to_use(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, data = str(folder / "run"), str(folder / "people.csv")
    fails(
        ["reconstruct", run], "RUN of reconstruct must be on images or vectors; got one on a table. Use `pyro", capsys
    )
    fails(["interpolate", run], "RUN of interpolate must be on images or vectors; got one on a table. Use `py", capsys)
    fails(["sample", run, "--out", "x.npy"], "--out must be a .csv or .parquet file in a folder that exists", capsys)
    fails(["sample", run, "--mean"], "--mean must be left out for a table", capsys)
    fails(["impute", run, "--out", "x.npy"], "--out must be a .csv or .parquet file in a folder that exists", capsys)
    fails(["impute", run, "--sep", ";"], "--sep must be given with FILE only; got ';'", capsys)
    fails(["impute", run, data, "--single", "mode", "--num-imputations", "2"], "--num-imputations must be left", capsys)
    fails(["impute", run, data, "--single", "best"], "--single", capsys)
    fails(["impute", run, str(folder / "none.csv")], "none.csv', which does not exist", capsys)
    fails(["impute", run, data, "--out", data], "--out must be a new file; got", capsys)
    fails(["impute", run, "--out", data], "--out must be a new file; got", capsys)
    people().drop(columns="site").to_csv(folder / "less.csv", index=False)
    fails(
        ["impute", run, str(folder / "less.csv")], "must have the columns of the schema; got none named 'site'", capsys
    )


def test_a_run_on_other_data_is_not_imputed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save(tmp_path / "x.npy", np.random.RandomState(0).randn(30, 3))
    run = tmp_path / "run"
    assert main(["train", str(tmp_path / "x.npy"), "--run-dir", str(run), "--no-pictures", *SMALL]) == 0
    fails(["impute", str(run)], "RUN must hold a model of a table; got one of other data", capsys)
    fails(["sample", str(run), "--out", str(tmp_path / "x.csv")], "--out must be a .npy file", capsys)


def test_a_model_does_not_depend_on_the_format_of_the_file(folder: Path) -> None:
    people().to_parquet(folder / "people.parquet")
    assert train(folder / "people.parquet", folder / "other", "--no-pictures") == 0
    one, other = pv.load(folder / "run"), pv.load(folder / "other")
    assert torch.equal(one.sample(5, seed=0), other.sample(5, seed=0))
