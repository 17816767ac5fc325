"""The command line with covariates: runs on tables, draws under chosen values, replicates under other values."""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path
from typing import Any

import pandas
import pytest
from test_cli_tables import fails, people

import pyro_vae as pv
from pyro_vae.cli import main, runs

pytestmark = pytest.mark.usefixtures("short_annealing")
SMALL = ["--epochs", "2", "--hidden", "8", "--num-likelihood-particles", "20", "--num-likelihood-rows", "2"]
KINDS = "grade=ordinal:low:middle:high,note=leave_out,id=leave_out,seen=leave_out"
FIELDS = ["--field", "weight=70", "--field", "site=north"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with people.csv, whose covariates have no gaps, and a run on it."""
    folder = tmp_path_factory.mktemp("covariates")
    whole, frame = people(gaps=False), people()
    frame.assign(weight=whole["weight"], site=whole["site"]).to_csv(folder / "people.csv", index=False)
    data, into = str(folder / "people.csv"), ["--covariates-into", "encoder,decoder,prior"]
    given = ["--covariates", "weight,site", "--kinds", KINDS, *into, *SMALL]
    assert main(["train", data, "--run-dir", str(folder / "run"), *given]) == 0
    return folder


def test_a_run_has_its_covariates(trained: Path) -> None:
    vae = runs.read_model(trained / "run")
    assert isinstance(vae.covariates, pv.Covariates)
    assert vae.covariates.names == ["weight", "site"] and vae.covariates.into == ("encoder", "decoder", "prior")
    assert vae.table_schema is not None and vae.table_schema.names == ["visits", "grade"]
    assert "weight, site" in (trained / "run" / "model_card.md").read_text()


def test_rows_are_drawn_under_chosen_values(trained: Path) -> None:
    out = trained / "drawn.csv"
    assert main(["sample", str(trained / "run"), "--rows", "5", *FIELDS, "--out", str(out)]) == 0
    frame = pandas.read_csv(out)
    assert list(frame) == ["weight", "visits", "site", "grade"]
    assert (frame["weight"] == 70).all() and (frame["site"] == "north").all() and len(frame) == 5


def test_rows_are_predicted_under_other_values(trained: Path) -> None:
    run, out = str(trained / "run"), trained / "other.csv"
    assert main(["predict", run, "--decode-as", "site=south", "--draws", "2", "--out", str(out)]) == 0
    other, own = pandas.read_csv(out), pandas.read_csv(trained / "people.csv")
    assert other[".draw"].value_counts().to_dict() == {1: 60, 2: 60} and other[".id"].tolist() == [*range(60)] * 2
    assert (other["site"] == "south").all() and other["weight"][:60].tolist() == own["weight"].tolist()
    assert main(["predict", run, str(trained / "people.csv"), "--decode-as", "site=south", "--draws", "2"]) == 0
    assert pandas.read_csv(trained / "run" / "predictions_people.csv").equals(other)


def test_dates_and_truth_values_may_be_chosen_and_what_is_far_away_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def show(*warning: Any) -> None:
        sys.stderr.write(warnings.formatwarning(*warning[:4]))

    days = pandas.date_range("2020-01-01", periods=60).strftime("%Y-%m-%d")
    frame = pandas.DataFrame({"u": range(60), "seen": days, "smokes": [True, False] * 30})
    frame.assign(u=frame["u"] + 0.5).to_csv(tmp_path / "x.csv", index=False)
    given = ["--covariates", "seen,smokes", "--no-pictures", *SMALL]
    assert main(["train", str(tmp_path / "x.csv"), "--run-dir", str(tmp_path / "run"), *given]) == 0
    out = tmp_path / "drawn.csv"
    arguments = ["sample", str(tmp_path / "run"), "--rows", "2", "--field", "smokes=False", "--out", str(out)]
    assert main([*arguments, "--field", "seen=2020-02-01"]) == 0
    drawn = pandas.read_csv(out)
    assert drawn["seen"].tolist() == ["2020-02-01"] * 2 and not drawn["smokes"].any()
    out.unlink()
    capsys.readouterr()
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        monkeypatch.setattr(warnings, "showwarning", show)  # as Python does where nothing records warnings
        assert main([*arguments, "--field", "seen=2021-02-01"]) == 0
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("pyro-vae: warning: covariate 'seen' lies far outside")


def test_evaluation_and_imputation_know_the_covariates(trained: Path) -> None:
    run = str(trained / "run")
    assert main(["evaluate", run, "--rows", "2", "--num-particles", "20"]) == 0
    assert main(["impute", run]) == 0
    completed = pandas.read_csv(trained / "run" / "imputations.csv")
    assert not completed[["visits", "grade"]].isna().any().any() and "site" in completed


def test_a_run_on_other_covariates_is_not_continued(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, file = trained / "run", trained / "people.csv"
    fails(["train", "--resume", str(run), "--covariates", "site"], "--covariates must be as in the run", capsys)
    before = file.read_text()
    try:
        file.write_text(before.replace("north", "west"))
        fails(["evaluate", str(run)], "another column 'site'", capsys)
        file.write_text(before)
        changed = pandas.read_csv(file)
        changed.loc[[0, 1], "weight"] = changed.loc[[1, 0], "weight"].to_numpy()  # of the same range
        changed.to_csv(file, index=False)
        fails(["evaluate", str(run)], "data must be those of the run", capsys)
    finally:
        file.write_text(before)
    assert json.loads((run / "config.json").read_text())["options"]["covariates"] == "weight,site"


BAD = {
    "no value": (["sample", "RUN"], "--field must give each covariate a value (weight, site)"),
    "one value": (["sample", "RUN", "--field", "site=north"], "got none of 'weight'"),
    "twice": (["sample", "RUN", *FIELDS, "--field", "site=south"], "got 'site' twice"),
    "unknown level": (["sample", "RUN", "--field", "weight=70", "--field", "site=west"], "got 'west'"),
    "text for a number": (["sample", "RUN", "--field", "weight=heavy"], "must give this covariate a number"),
    "no covariate": (["sample", "RUN", "--field", "visits=3"], "NAME=VALUE for a covariate (weight, site)"),
    "no equals sign": (["predict", "RUN", "--decode-as", "site"], "must be NAME=VALUE"),
    "part": (["train", "CSV", "--covariates", "site", "--kinds", KINDS, "--covariates-into", "nets"], "into must name"),
    "part alone": (["train", "CSV", "--kinds", KINDS, "--covariates-into", "prior"], "must be given with --covariates"),
    "column": (["train", "CSV", "--covariates", "sites", "--kinds", KINDS], "covariates must name columns"),
    "gaps": (["train", "CSV", "--covariates", "visits", "--kinds", KINDS], "no missing cells as a covariate; got 3"),
    "images": (["train", "digits", "--covariates", "label"], "covariates must be None for 'digits'"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_wrong_is_refused(name: str, trained: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    arguments, message = BAD[name]
    places = {"RUN": str(trained / "run"), "CSV": str(trained / "people.csv")}
    more = ["--run-dir", str(tmp_path / "new")] if arguments[0] == "train" else []
    fails([places.get(text, text) for text in arguments] + more, message, capsys)
