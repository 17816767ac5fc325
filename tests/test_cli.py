"""The command line: what it writes, what it prints, and how it fails."""

from __future__ import annotations

import argparse
import csv
import json
import math
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pages
import pytest
import torch
from exact import LinearGaussian

import pyro_vae as pv
from pyro_vae.cli import choices, commands, main, options, runs, scoring
from pyro_vae.training import loop

pytestmark = pytest.mark.usefixtures("short_annealing")
SCORED = ["--num-likelihood-particles", "20", "--num-likelihood-rows", "2"]
SMALL = ["--epochs", "2", "--hidden", "16", "--latent-dim", "3", *SCORED]
PICTURES = {"training", "reconstructions", "prior_means", "prior_draws", "interpolation", "latents"}
NUMBERS = {"model_card.md", "checkpoints", "model.safetensors", "config.json", "history.csv", "summary.json"}


def train(folder: Path, *more: str) -> int:
    return main(["train", *more[:1], "--run-dir", str(folder), *SMALL, *more[1:]])


def read(file: Path) -> dict[str, Any]:
    return json.loads(file.read_text())


def numbers_in(value: Any) -> list[float]:
    if isinstance(value, dict):
        return [number for part in value.values() for number in numbers_in(part)]
    return [value] if isinstance(value, int | float) else []


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "digits"
    assert train(folder, "digits") == 0
    return folder


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A copy of the trained run, for tests that write into it."""
    return Path(shutil.copytree(trained, tmp_path / "run"))


@pytest.fixture
def vectors(tmp_path: Path) -> Path:
    file = tmp_path / "vectors.npy"
    np.save(file, np.random.RandomState(0).randn(60, 4).astype(np.float32) * [1, 10, 100, 1])
    return file


def test_train_writes_model_configuration_history_summary_and_pictures(trained: Path) -> None:
    assert {file.name for file in trained.iterdir()} == NUMBERS | {f"{name}.png" for name in PICTURES}
    for name in PICTURES:
        content = (trained / f"{name}.png").read_bytes()
        assert content.startswith(b"\x89PNG") and len(content) > 5000, name


def test_the_model_card_has_the_numbers_the_data_and_the_parts(trained: Path) -> None:
    card, summary = (trained / "model_card.md").read_text(), read(trained / "summary.json")
    assert f">= {summary['test_log_likelihood']:.3f}" in card and f"{summary['test_elbo']:.3f}" in card
    assert read(trained / "config.json")["data"]["sha256"]["test"] in card and "360 test |" in card
    assert "| likelihood | BetaBinomial(event_shape=(1, 8, 8), total_count=16" in card


def test_the_ridge_penalty_is_on_the_bound_of_all_training_rows() -> None:
    """The mode of the mean of 50 normal cells, normal a priori with variance 1/25, is sum(x) / (50 + 25 s^2)."""
    model = LinearGaussian(1, 1)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    model.weight.zero_()
    model.mean_map.zero_()
    model.bias.requires_grad_(True)
    x = 3 + torch.randn(50, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    rows = pv.Rows(x)
    splits = pv.datasets.Splits("normal", rows, rows, rows, (1,), "Normal", {}, "", {})
    penalized, plain = (
        choices.training(options.parser().parse_args(["train", "--ridge", ridge]), splits)["optimizer"]
        for ridge in ("25", "0")
    )
    for rate in (0.1, 1e-3):
        model.fit(x, optimizer=penalized, learning_rate=rate, epochs=200, batch_size=50, seed=0, progress=False)
    mode = x.sum() / (50 + 25 * model.log_scale.mul(2).exp())
    assert float(model.bias.detach()) == pytest.approx(float(mode), rel=1e-5)
    assert plain is None


@pytest.mark.parametrize(("cells", "given", "expected"), [(64, [], 12), (65, [], 16), (65, ["--latent-dim", "3"], 3)])
def test_the_number_of_latents_follows_the_number_of_cells(cells: int, given: list[str], expected: int) -> None:
    rows = pv.Rows(torch.zeros(2, cells))
    splits = pv.datasets.Splits("zeros", rows, rows, rows, (cells,), "Normal", {}, "", {})
    assert choices.model(options.parser().parse_args(["train", *given]), splits).prior.latent_dim == expected


def test_summary_json_is_finite_and_its_numbers_agree_with_each_other(trained: Path) -> None:
    summary = read(trained / "summary.json")
    assert all(math.isfinite(number) for number in numbers_in(summary))
    assert summary["test_elbo"] == pytest.approx(summary["test_reconstruction"] - summary["test_kl"], rel=1e-9)
    assert summary["test_log_likelihood"] > summary["test_elbo"]
    bits = -summary["test_log_likelihood"] / (64 * math.log(2))
    assert summary["test_bits_per_dimension"] == pytest.approx(bits)
    bound = summary["trained_bound"]
    assert (bound["name"], bound["num_particles"]) == ("iwae", 3) and bound["test"] > summary["test_elbo"]
    assert [summary[split]["rows"] for split in ("train", "valid", "test")] == [1257, 180, 360]
    for split in ("train", "valid", "test"):
        parts = [summary[split][name] for name in ("elbo", "reconstruction", "kl")]
        assert all(set(part) == {"estimate", "monte_carlo_error", "sampling_error"} for part in parts)
        assert parts[0]["estimate"] == pytest.approx(parts[1]["estimate"] - parts[2]["estimate"], rel=1e-9)
    vae = pv.load(trained)
    assert summary["num_parameters"] == sum(parameter.numel() for parameter in vae.parameters())
    assert summary["epochs"] == 2 and summary["interrupted"] is False and summary["seconds"] > 0


def test_history_csv_has_the_epochs_and_config_json_the_options_and_data(trained: Path) -> None:
    with (trained / "history.csv").open() as file:
        history = list(csv.DictReader(file))
    assert [row["epoch"] for row in history] == ["1", "2"]
    config = read(trained / "config.json")
    assert {"pyro", "torch", "numpy", "pyro_vae"} <= set(config["versions"])
    assert config["seed"] == 0 and config["options"]["latent_dim"] == 3 and config["options"]["hidden"] == [16]
    digits = pv.datasets.load("digits")
    for split, indices in digits.indices.items():
        assert config["data"]["indices"][split] == runs._ranges(indices)
        assert len(config["data"]["sha256"][split]) == 64


def test_a_seed_repeats_a_run_and_leaves_the_split_of_the_data_alone(vectors: Path, tmp_path: Path) -> None:
    for name, seed in (("first", "0"), ("same", "0"), ("other", "1")):
        assert train(tmp_path / name, str(vectors), "--no-pictures", "--seed", seed) == 0
    assert {file.name for file in (tmp_path / "same").iterdir()} == NUMBERS
    first, same, other = (read(tmp_path / name / "summary.json") for name in ("first", "same", "other"))
    assert first["test_elbo"] == same["test_elbo"] != other["test_elbo"]
    data = [read(tmp_path / name / "config.json")["data"] for name in ("first", "other")]
    assert data[0] == data[1]


def test_evaluate_gives_the_numbers_of_the_summary_under_the_same_seed(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", str(run), "--num-particles", "20", "--rows", "2"]) == 0
    out = capsys.readouterr().out
    summary, evaluation = read(run / "summary.json"), read(run / "evaluation.json")
    for name in ("test_elbo", "test_reconstruction", "test_kl", "test_log_likelihood", "test_bits_per_dimension"):
        assert evaluation[name] == summary[name], name
    assert evaluation["test"] == summary["test"]
    for text in ("nats per row", f"{summary['test_elbo']:.3f}", "Monte Carlo error", "sampling error", "bits per dim"):
        assert text in out
    assert main(["evaluate", str(run), "--num-particles", "20", "--rows", "2", "--seed", "1"]) == 0
    assert read(run / "evaluation.json")["test_elbo"] != summary["test_elbo"]


def test_train_and_evaluate_print_the_log_likelihood_that_annealing_corrects(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The printed number is that of `audited_log_likelihood`, and a sandwich on simulated rows stands beside it."""
    assert main(["evaluate", str(run), "--num-particles", "20", "--rows", "3"]) == 0
    out = capsys.readouterr().out
    test = read(run / "evaluation.json")["test"]
    x = pv.datasets.load("digits").test
    found = pv.load(run).audited_log_likelihood(x, num_particles=20, num_rows=3, method=scoring.ANNEALING, seed=0)
    mean = found.mean()
    expected = {"estimate": mean.estimate, "monte_carlo_error": mean.monte_carlo_error, "kind": "lower bound"}
    assert expected.items() <= test["log_likelihood"].items()
    (line,) = (line for line in out.splitlines() if line.startswith("test log-likelihood"))
    assert f">= {mean.estimate:.3f}" in line and len(line.split()) == 7  # both errors are printed
    cheap, sandwich = test["likelihood"]["importance"], test["likelihood"]["sandwich"]
    assert cheap["estimate"] == found.cheap.mean().estimate and f"which alone gives >= {cheap['estimate']:.3f}" in out
    assert "chains for each row, on 3 of 360 rows, chosen at random" in out and "error uncertain" in out
    assert sandwich["gap"]["estimate"] == pytest.approx(sandwich["upper"]["estimate"] - sandwich["lower"]["estimate"])
    assert "On 3 rows drawn from the model" in out and f"{max(0.0, sandwich['gap']['estimate']):.3f} nats" in out


def test_many_rows_are_scored_with_fewer_draws_each(
    vectors: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    assert train(run, str(vectors), "--no-pictures") == 0
    for draws, each in ((6 * 1200, 1000), (6 * 150, 150), (6 * 50, 100)):
        monkeypatch.setattr(scoring, "DRAWS", draws)
        assert main(["evaluate", str(run), "--rows", "2"]) == 0
        assert read(run / "evaluation.json")["test"]["likelihood"]["particles"] == each


@pytest.mark.parametrize("method", scoring.METHODS)
def test_evaluate_scores_rows_by_each_method(method: str, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(run), "--method", method, "--num-particles", "10", "--rows", "4"]) == 0
    test = read(run / "evaluation.json")["test"]
    assert test["likelihood"]["method"] == method and test["likelihood"]["rows"] == 4
    assert test["rows"] == 360 and test["likelihood"]["particles"] == 10
    kind = "chains" if method == "ais" else "draws from the guide"
    out = capsys.readouterr().out
    assert f"{scoring.METHODS[method]}, 10 {kind} for each row, on 4 of 360 rows, chosen at random" in out


@pytest.mark.parametrize(
    ("difference", "gap", "texts"),
    [
        (0.5, 0.2, ("it is 0.500 nats higher there", "it misses at most 0.200 nats (standard error 0.100)")),
        (-0.5, -0.2, ("it is 0.500 nats lower there", "it misses at most 0.000 nats (standard error 0.100)")),
        (math.inf, math.inf, ("it is inf nats higher there", "it misses at most inf nats (standard error unknown)")),
    ],
)
def test_the_sentences_about_an_audit_hold_for_either_sign(
    difference: float, gap: float, texts: tuple[str, ...]
) -> None:
    error = None if math.isinf(gap) else 0.1
    likelihood = {
        "method": "audited",
        "rows": 9,
        "particles": 1,
        "importance": {"estimate": -3.0, "kind": "lower bound"},
        "audit": {
            "method": "ais",
            "particles": 32,
            "rows": 4,
            "difference": scoring.finite(difference),
            "corrects": True,
        },
        "sandwich": {"rows": 4, "gap": {"estimate": scoring.finite(gap), "sampling_error": error}},
    }
    lines = "\n".join(scoring._about_audit(likelihood))
    assert all(text in lines for text in (*texts, "1 draw from the guide for each row"))


def test_where_annealing_is_clearly_lower_the_report_says_that_nothing_is_corrected() -> None:
    audit = {"method": "ais", "particles": 32, "rows": 4, "difference": -1.2, "corrects": False}
    likelihood = {
        "method": "audited",
        "rows": 9,
        "particles": 1000,
        "unreliable_rows": 8,
        "unknown_khat_rows": 0,
        "khat_threshold": 0.67,
        "flagged_share": 8 / 9,
        "median_ess": 20.0,
        "importance": {"estimate": -3.0, "kind": "lower bound"},
        "audit": audit,
        "sandwich": {"rows": 4, "gap": {"estimate": 1.0, "sampling_error": 0.1}},
    }
    numbers = {"rows": 9, "likelihood": likelihood, "log_likelihood": {"error_holds": False}}
    lines = "\n".join(scoring.about(numbers))
    assert "is 1.200 nats lower there, since its chains move too little, and corrects nothing" in lines
    assert "misses" not in lines and "89% of the rows are flagged" in lines and "none is printed" in lines


def test_a_small_effective_sample_size_and_a_k_hat_that_is_not_computed_are_pointed_out(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", str(run), "--method", "importance", "--num-particles", "4"]) == 0
    out = capsys.readouterr().out
    assert "so few that it is too low alone and more draws would raise it" in out
    assert "Pareto k-hat: not computed in 360 of 360 rows; it needs at least 25 draws" in out and "in 0 of" not in out
    (line,) = (line for line in out.splitlines() if line.startswith("test log-likelihood"))
    evaluation = read(run / "evaluation.json")
    assert f">= {evaluation['test_log_likelihood']:.3f}" in line
    assert line.split()[-1] == "360" and len(line.split()) == 6  # one error is printed: that of the choice of rows
    assert "100% of the rows are flagged, for want of k-hat: the log-likelihood may be too low" in out
    assert "Monte Carlo error would say, so none is printed" in out
    assert evaluation["test_log_likelihood_is"] == "lower bound" and evaluation["flagged_share"] == 1.0
    likelihood = evaluation["test"]["likelihood"]
    assert likelihood["unknown_khat_rows"] == likelihood["unreliable_rows"] == 360
    assert evaluation["test"]["log_likelihood"]["monte_carlo_error"] is None
    assert evaluation["test"]["elbo"]["monte_carlo_error"] > 0


def test_infinity_and_unknown_are_two_things_in_json() -> None:
    assert [scoring.finite(value) for value in (1.5, math.nan, math.inf, -math.inf)] == [
        1.5,
        None,
        "Infinity",
        "-Infinity",
    ]


def test_sample_gives_the_draws_of_the_python_method(run: Path, tmp_path: Path) -> None:
    vae = pv.load(run)
    for more, mean in (([], False), (["--mean"], True)):
        out = tmp_path / f"{mean}.npy"
        assert main(["sample", str(run), "--rows", "5", "--seed", "3", "--out", str(out), *more]) == 0
        assert torch.equal(torch.from_numpy(np.load(out)), vae.sample(5, mean=mean, seed=3))
        assert (run / "samples.png").read_bytes().startswith(b"\x89PNG")


def test_reconstruct_and_interpolate_write_their_pictures_and_say_where(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("reconstructions.png", "interpolation.png"):
        (run / name).unlink()
    assert main(["reconstruct", str(run), "--rows", "3"]) == 0
    assert main(["interpolate", str(run), "--between", "0", "7", "--steps", "4", "--path", "spherical"]) == 0
    straight = main(["interpolate", str(run)])
    assert straight == 0 and (run / "interpolation.png").exists() and (run / "reconstructions.png").exists()
    assert f"Written to {run}: reconstructions.png" in capsys.readouterr().out


def test_datasets_lists_every_name_with_its_description(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["datasets"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for name, description in pv.datasets.names().items():
        assert any(line.split()[0] == name and description in line for line in lines), name


def test_a_run_on_a_file_of_vectors_is_evaluated_where_the_file_has_moved_to(
    vectors: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    assert train(folder, str(vectors), "--latent-dim", "1", "--num-particles", "5") == 0
    summary = read(folder / "summary.json")
    assert "test_bits_per_dimension" not in summary
    assert summary["trained_bound"]["name"] == "iwae" and summary["trained_bound"]["num_particles"] == 5
    assert summary["test_elbo"] < summary["trained_bound"]["test"]
    assert "iwae with 5 particles" in capsys.readouterr().out
    assert all((folder / f"{name}.png").exists() for name in PICTURES)

    (tmp_path / "elsewhere").mkdir()
    vectors.rename(tmp_path / "elsewhere" / vectors.name)
    assert main(["evaluate", str(folder)]) == 2
    moved = ["--data-dir", str(tmp_path / "elsewhere")]
    assert main(["evaluate", str(folder), "--num-particles", "20", "--rows", "2", *moved]) == 0
    assert read(folder / "evaluation.json")["test_elbo"] == summary["test_elbo"]


@pytest.mark.parametrize(
    ("sep", "header", "options"),
    [(";", True, ["--sep", ";", "--decimal", ","]), ("\t", False, ["--sep", "\\t", "--decimal", ",", "--no-header"])],
)
def test_a_run_on_a_csv_file_reads_it_alike_each_time(
    tmp_path: Path, sep: str, header: bool, options: list[str]
) -> None:
    values = np.random.RandomState(0).randn(60, 3)
    lines = [sep.join(f"{value:.3f}".replace(".", ",") for value in row) for row in values]
    (tmp_path / "x.csv").write_text("\n".join([sep.join("abc"), *lines] if header else lines) + "\n")
    folder = tmp_path / "run"
    assert train(folder, str(tmp_path / "x.csv"), "--no-pictures", *options) == 0
    recorded = read(folder / "config.json")["options"]
    assert recorded["decimal"] == "," and recorded["header"] is (None if header else False)
    assert main(["evaluate", str(folder), "--num-particles", "5", "--rows", "2"]) == 0
    assert main(["train", "--resume", str(folder), "--epochs", "3"]) == 0


def test_the_run_folder_is_named_after_the_data_by_default(
    vectors: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["train", vectors.name, *SMALL, "--no-pictures", "--elbo", "renyi"]) == 0
    assert {file.name for file in (tmp_path / "runs" / "vectors").iterdir()} == NUMBERS


@pytest.mark.parametrize(
    "arguments",
    [
        ["--likelihood", "normal", "--latent-dim", "2", "--net", "conv"],
        ["--elbo", "iwae", "--gradient", "dreg"],
        ["--elbo", "wake-sleep", "--num-particles", "3"],
        ["--binarize", "dynamic", "--elbo", "meanfield", "--num-particles", "2"],
        ["--binarize", "static", "--likelihood", "bernoulli", "--hidden", "8", "4"],
        ["--binarize", "dynamic", "--likelihood", "binomial"],
    ],
    ids=["normal conv", "dreg", "wake-sleep", "dynamic", "static", "binomial"],
)
def test_each_choice_of_model_estimator_and_data_trains_and_is_evaluated_alike(
    tmp_path: Path, arguments: list[str]
) -> None:
    pictures = [] if arguments[1] == "normal" else ["--no-pictures"]
    assert train(tmp_path / "run", "digits", "--epochs", "1", *arguments, *pictures) == 0
    assert math.isfinite(read(tmp_path / "run" / "summary.json")["test_log_likelihood"])
    assert main(["evaluate", str(tmp_path / "run"), "--num-particles", "20", "--rows", "2"]) == 0
    assert read(tmp_path / "run" / "evaluation.json")["test"] == read(tmp_path / "run" / "summary.json")["test"]


def test_overwrite_replaces_every_file_of_the_earlier_run_and_no_other(run: Path, vectors: Path) -> None:
    (run / "evaluation.json").write_text("{}")
    (run / "notes.txt").write_text("mine")
    assert train(run, str(vectors), "--overwrite", "--no-pictures", "--seed", "2") == 0
    assert {file.name for file in run.iterdir()} == NUMBERS | {"notes.txt"}
    assert read(run / "config.json")["seed"] == 2


def test_without_a_terminal_ten_lines_report_the_bounds(
    vectors: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(tmp_path / "run", str(vectors), "--no-pictures", "--epochs", "20") == 0
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 10
    assert (
        lines[0].startswith("epoch 2/20: bound -") and "(train), -" in lines[0] and lines[-1].endswith("nats per row")
    )


def test_an_interrupted_run_is_saved_with_summary_and_pictures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop(model: Any, history: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(commands, "_print_epochs", lambda epochs: stop)
    assert train(tmp_path / "run", "digits") == 130
    assert {file.name for file in (tmp_path / "run").iterdir()} == (NUMBERS | {f"{name}.png" for name in PICTURES}) - {
        "checkpoints"
    }
    summary = read(tmp_path / "run" / "summary.json")
    assert summary["interrupted"] is True and summary["epochs"] == 1
    assert "Interrupted after 1 epoch." in capsys.readouterr().out


def test_a_run_interrupted_in_its_first_epoch_is_saved(
    vectors: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*args: Any, **kwargs: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(loop.Loop, "_train_epoch", stop)
    assert train(tmp_path / "run", str(vectors)) == 130
    summary = read(tmp_path / "run" / "summary.json")
    assert summary["epochs"] == 0 and summary["best_epoch"] is None
    assert pv.load(tmp_path / "run").prior.latent_dim == 3


def test_an_interrupt_before_training_ends_with_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def stop(*args: Any, **kwargs: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(pv.datasets, "load", stop)
    assert train(tmp_path / "run", "digits") == 130
    assert capsys.readouterr().err == "pyro-vae: interrupted\n"


def test_a_report_on_too_few_rows_is_refused_at_once(vectors: Path, tmp_path: Path, capsys) -> None:
    np.save(vectors, np.load(vectors)[:20])
    assert train(tmp_path / "few", str(vectors), "--no-pictures") == 0
    capsys.readouterr()
    fails(["evaluate", str(tmp_path / "few"), "--report"], "--report must have at least 3 test rows; got 2", capsys)
    assert not (tmp_path / "few" / "evaluation.json").exists()


def fails(arguments: list[str], text: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Check that a command exits with code 2 and prints one line, with `text` in it, on stderr."""
    capsys.readouterr()
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("pyro-vae: error: ") and captured.err.count("\n") == 1, captured.err
    assert text in captured.err and captured.out == ""


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["nonsense"], "must be one of ['digits'"),
        (["--nonsense"], "--nonsense"),
        (["--epoch", "1"], "--epoch"),
        (["--epochs", "0"], "--epochs: must be a positive integer; got 0"),
        (["--epochs", "many"], "--epochs: must be a positive integer; got many"),
        (["--latent-dim", "0"], "--latent-dim: must be a positive integer; got 0"),
        (["--hidden", "0"], "--hidden"),
        (["--learning-rate", "-1"], "--learning-rate"),
        (["--learning-rate", "nan"], "--learning-rate: must be a positive number; got nan"),
        (["--dropout", "1"], "--dropout: must be 0 or more and less than 1; got 1"),
        (["--seed", "-1"], "--seed"),
        (["--elbo", "nonsense"], "--elbo"),
        (["--likelihood", "bernoulli"], "must lie in {0, 1} for Bernoulli"),
        (["--binarize", "none", "--likelihood", "bernoulli"], "must lie in {0, 1} for Bernoulli"),
        (["digits", "more"], "more"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_wrong_option_of_train_is_named_and_nothing_is_written(
    arguments: list[str], text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fails(["train", *arguments, "--run-dir", str(tmp_path / "run")], text, capsys)
    assert not (tmp_path / "run" / "config.json").exists()


def test_networks_that_do_not_fit_the_data_are_refused_and_nothing_is_written(
    vectors: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fails(["train", str(vectors), "--net", "conv", "--run-dir", str(tmp_path / "run")], "Conv must map", capsys)
    assert not (tmp_path / "run").exists()


def test_an_existing_run_is_not_replaced_without_overwrite(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (run / "model.safetensors").read_bytes()
    fails(["train", "--run-dir", str(run), *SMALL], "--overwrite", capsys)
    (run / "config.json").unlink()
    fails(["train", "--run-dir", str(run), *SMALL], "--overwrite", capsys)
    assert (run / "model.safetensors").read_bytes() == before


def test_a_run_folder_among_the_images_of_the_data_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fails(["train", str(tmp_path), "--run-dir", str(tmp_path / "run"), *SMALL], "outside of DATA", capsys)
    assert not (tmp_path / "run").exists()


def test_a_run_folder_that_is_a_file_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    fails(["train", "--run-dir", str(tmp_path / "file"), *SMALL], "file", capsys)


@pytest.mark.parametrize("command", ["evaluate", "sample", "reconstruct", "interpolate"])
def test_missing_and_damaged_runs_are_refused_by_name(
    command: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fails([command, str(run / "nowhere")], "nowhere", capsys)
    content = (run / "model.safetensors").read_bytes()
    (run / "model.safetensors").write_bytes(content[: len(content) // 2])
    fails([command, str(run)], "model.safetensors", capsys)
    (run / "model.safetensors").unlink()
    fails([command, str(run)], "model.safetensors", capsys)


@pytest.mark.parametrize("command", ["evaluate", "reconstruct", "interpolate"])
def test_a_run_whose_configuration_does_not_match_its_data_is_refused(
    command: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = read(run / "config.json")
    config["data"]["sha256"]["test"] = "0" * 64
    (run / "config.json").write_text(json.dumps(config))
    fails([command, str(run)], "got other test rows from 'digits'", capsys)
    for text in ("[]", "{}", '{"data": null}', "{"):
        (run / "config.json").write_text(text)
        fails([command, str(run)], "must name the data of the run", capsys)
    (run / "config.json").unlink()
    fails([command, str(run)], "config.json", capsys)


def test_data_that_changed_since_training_are_refused(
    vectors: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(tmp_path / "run", str(vectors), "--no-pictures") == 0
    np.save(vectors, np.load(vectors) + 1)
    fails(["evaluate", str(tmp_path / "run")], "got other train rows", capsys)


def test_wrong_options_of_the_other_commands_are_named(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fails(["sample", str(run), "--rows", "0"], "--rows: must be a positive integer; got 0", capsys)
    fails(["sample", str(run), "--out", str(tmp_path / "x.txt")], "x.txt", capsys)
    fails(["sample", str(run), "--out", str(tmp_path / "none" / "x.npy")], "x.npy", capsys)
    fails(
        ["interpolate", str(run), "--between", "0", "360"],
        "integers less than 360, the number of test rows; got 0 360",
        capsys,
    )
    fails(["interpolate", str(run), "--steps", "1"], "steps", capsys)
    fails(["interpolate", str(run), "--path", "crooked"], "crooked", capsys)
    fails([], "COMMAND", capsys)
    fails(["nonsense"], "nonsense", capsys)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["sample", "-n", "3"], "unrecognized arguments: -n 3"),
        (["reconstruct", "-n", "3"], "unrecognized arguments: -n 3"),
        (["interpolate", "--rows", "0", "7"], "unrecognized arguments: --rows 0 7"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_options_under_their_former_names_are_refused(
    arguments: list[str], text: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command, *rest = arguments
    fails([command, str(run), *rest], text, capsys)


def test_a_model_of_another_class_is_refused_by_name(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    class Mine(pv.VAE):
        pass

    likelihood, prior = pv.likelihoods.Binomial((1, 8, 8), 16), pv.priors.Normal(2)
    Mine(likelihood=likelihood, prior=prior).save(run)
    fails(["sample", str(run)], "Mine", capsys)


def test_the_help_of_every_command_shows_every_default(capsys: pytest.CaptureFixture[str]) -> None:
    (commands_of,) = [a for a in options.parser()._actions if isinstance(a, argparse._SubParsersAction)]
    assert set(commands_of.choices) == {
        "train",
        "evaluate",
        "sample",
        "predict",
        "impute",
        "reconstruct",
        "interpolate",
        "explore",
        "datasets",
    }
    for name, sub in commands_of.choices.items():
        assert main([name, "--help"]) == 0
        text = capsys.readouterr().out
        optional = [a for a in sub._actions if a.dest != "help" and (a.option_strings or a.nargs == "?")]
        assert text.count("default:") == text.count("(default:") == len(optional), name
        assert "None" not in text


def test_version_and_help_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"pyro-vae {pv.__version__}\n"
    assert main(["--help"]) == 0
    assert "interpolate" in capsys.readouterr().out


def test_the_package_imports_neither_command_line_nor_matplotlib() -> None:
    late = ("matplotlib", "pyro_vae.cli", "pyro_vae.plots")
    code = f"import sys, pyro_vae; print([name for name in {late} if name in sys.modules])"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"


def test_row_indices_are_written_as_ranges() -> None:
    for indices, text in (([], ""), ([7, 3, 4, 5], "7,3-5"), ([0, 1, 2], "0-2"), ([2, 1], "2,1"), ([5], "5")):
        assert runs._ranges(indices) == text


def test_evaluate_report_writes_the_diagnosis_as_text_numbers_and_pictures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = pages.train_digits(tmp_path, "--no-compile")
    assert main(["evaluate", str(run), "--report", "--num-particles", "30", "--rows", "2"]) == 0
    printed = capsys.readouterr()
    assert "Diagnosis on 15 rows" in printed.out and "rows have a Pareto k-hat" not in printed.err
    report = read(run / "report.json")
    assert (run / "report.txt").read_text().startswith("Diagnosis on 15 rows")
    assert all(math.isfinite(number) for number in numbers_in(report))
    assert len(report["khat"]) == 15 and report["rows"] == 15
    assert {finding["about"] for finding in report["findings"]} >= {"evidence", "latents at z", "predictive checks"}
    pictures = ("khat", "khat_map", "kl", "ranks", "guide_coverage", "pit", "coverage", "statistics", "traversal")
    for name in pictures:
        content = (run / f"{name}.png").read_bytes()
        assert content.startswith(b"\x89PNG") and len(content) > 5000, name
    assert {f"{name}.png" for name in pictures} <= set(runs.FILES)  # so that they are removed when the run is replaced
    evaluation = read(run / "evaluation.json")
    assert 0 <= evaluation["test"]["likelihood"]["unreliable_rows"] <= 15


def test_a_run_that_is_refused_leaves_the_earlier_one_as_it_was(vectors: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert train(run, str(vectors), "--no-pictures") == 0
    files = {file: file.read_bytes() for file in run.rglob("*") if file.is_file() and file.name != "lock"}
    assert train(run, str(vectors), "--no-pictures", "--overwrite", "--likelihood", "bernoulli") == 2
    left = {file: file.read_bytes() for file in run.rglob("*") if file.is_file() and file.name != "lock"}
    assert left == files
    assert train(tmp_path / "new", str(vectors), "--likelihood", "bernoulli") == 2
    assert not (tmp_path / "new").exists()


def test_a_resumed_run_keeps_its_options_and_ends_bit_for_bit_as_one_that_was_not_interrupted(
    vectors: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, run = tmp_path / "whole", tmp_path / "run"
    assert train(whole, str(vectors), "--no-pictures", "--batch-size", "16", "--epochs", "4") == 0
    assert train(run, str(vectors), "--no-pictures", "--batch-size", "16") == 0
    with monkeypatch.context() as patch:
        patch.setattr(pv.VAE, "fit", interrupted)
        assert main(["train", "--resume", str(run), "--epochs", "4"]) == 130
    assert main(["train", "--resume", str(run)]) == 0  # to the fourth epoch, too
    assert main(["train", "--resume", str(run), "--batch-size", "32"]) == 2
    assert "got batch_size 16 then and 32 now" in capsys.readouterr().err
    ends = [pv.load(folder).state_dict() for folder in (whole, run)]
    torch.testing.assert_close(ends[0], ends[1], rtol=0, atol=0)
    tables = [list(csv.DictReader((folder / "history.csv").read_text().splitlines())) for folder in (whole, run)]
    assert len(tables[0]) == 4
    assert [row | {"seconds": 0} for row in tables[0]] == [row | {"seconds": 0} for row in tables[1]]


def test_a_run_killed_while_it_replaces_another_leaves_the_other_as_it_was(
    run: Path, vectors: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (run / "model.safetensors").read_bytes()
    code = (
        "import os, pyro_vae as pv; from pyro_vae.cli import main;"
        " pv.VAE.fit = lambda *args, **options: os.kill(os.getpid(), 9);"
        f" main(['train', 'digits', '--overwrite', '--run-dir', {str(run)!r}])"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -9
    assert not (run / "model.safetensors").exists()
    assert train(run, "digits") == 2
    assert "must be a folder without a run" in capsys.readouterr().err
    assert (run / "model.safetensors").read_bytes() == before and not (run / runs.REPLACED).exists()
    assert train(run, str(vectors), "--no-pictures", "--overwrite") == 0
    assert {file.name for file in run.iterdir()} == NUMBERS


def test_a_run_interrupted_while_it_sets_another_aside_puts_the_other_back(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {file: file.read_bytes() for file in run.rglob("*") if file.is_file() and file.name != "lock"}
    move, moved = runs._move, []

    def stop_at_the_fourth(file: Path, place: Path) -> None:
        moved.append(file)
        if len(moved) == 4:
            raise KeyboardInterrupt
        move(file, place)

    monkeypatch.setattr(runs, "_move", stop_at_the_fourth)
    assert train(run, "digits", "--overwrite") == 130
    assert {file: file.read_bytes() for file in run.rglob("*") if file.is_file() and file.name != "lock"} == files


def test_restarted_processes_continue_only_a_run_of_their_own_launch(
    vectors: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "first")
    assert train(run, str(vectors), "--no-pictures") == 0
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    assert train(run, str(vectors), "--no-pictures", "--epochs", "3") == 0
    assert read(run / "summary.json")["epochs"] == 3
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "second")
    assert train(run, str(vectors)) == 2
    assert "must be a folder without a run" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--batch-size", "64", "--epochs", "50"], "got batch_size 128 then and 64 now"),
        (["mnist"], "DATA must be the data of the run that is resumed, 'digits'; got 'mnist'"),
        (["--overwrite"], "--resume must be given without --overwrite"),
        (["--run-dir", "elsewhere"], "--resume must be given without --run-dir"),
    ],
)
def test_options_that_contradict_resume_are_refused_and_the_run_is_left_alone(
    more: list[str], message: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (run / "config.json").read_bytes()
    assert main(["train", "--resume", str(run), *more]) == 2
    assert message in capsys.readouterr().err
    assert (run / "config.json").read_bytes() == before


def test_a_run_that_has_not_ended_is_not_evaluated_and_the_command_to_continue_is_named(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (run / "model.safetensors").unlink()
    assert main(["evaluate", str(run)]) == 2
    assert f"Continue the run: pyro-vae train --resume {run}." in capsys.readouterr().err


def interrupted(*args: Any, **options: Any) -> None:
    raise KeyboardInterrupt
