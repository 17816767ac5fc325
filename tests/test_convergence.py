"""Convergence: what is said of bounds with known curves and known noise, and of real fits, and where it is said."""

from __future__ import annotations

import csv
import io
import json
import math
from dataclasses import asdict

import numpy as np
import pytest
import torch
from cases import draw_data, small_vae
from exact import LinearGaussian
from scipy.stats import t as student

import pyro_vae as pv
from pyro_vae import cli
from pyro_vae.training import convergence
from pyro_vae.training.convergence import convergence_of

# Curves that rise by `gain` from 60 to 120 epochs, each as a function of epochs.
CURVES = {
    "power 1": lambda t: -(60.0 / t),
    "power 1/2": lambda t: -((60 / t) ** 0.5),
    "power 2": lambda t: -((60 / t) ** 2),
    "logarithm": lambda t: np.log(t),
    "exponential, 30 epochs": lambda t: -np.exp(-t / 30),
    "exponential, 15 epochs": lambda t: -np.exp(-t / 15),
    "burn-in, then exponential": lambda t: -np.exp(-t / 25) - 20 * np.exp(-t / 3),
    "parabola with its top at 100 epochs": lambda t: -np.square(np.maximum(1 - t / 100, 0)),
}


def series(curve, epochs=60, gain=3.0, noise=0.0, seed=0):
    """Bounds of a curve, scaled so that it rises by `gain` from 60 to 120 epochs, with independent noise."""
    t = np.arange(1, epochs + 1.0)
    scale = gain / float(curve(np.array(120.0)) - curve(np.array(60.0)))
    return (scale * curve(t) + noise * np.random.default_rng(seed).normal(size=epochs)).tolist()


# A third of the parabola is not told from a line where the standard deviation of the noise is .03.
CASES = [(name, noise) for name in CURVES for noise in (0.0, 0.01, 0.03) if noise < 0.03 or "parabola" not in name]


@pytest.mark.parametrize(("name", "noise"), CASES)
def test_the_expected_gain_of_a_known_curve_is_right_within_a_factor_of_two(name: str, noise: float) -> None:
    for seed in range(10 if noise else 1):
        found = convergence_of(series(CURVES[name], noise=noise, seed=seed))
        assert found.converged is False and found.trend == "rising"
        assert found.expected_gain is not None and 1.5 < found.expected_gain < 6


def autoregressive(count: int, epochs: int, correlation: float) -> np.ndarray:
    y = np.random.default_rng(1).normal(size=(count, epochs + 50))
    for t in range(1, epochs + 50):
        y[:, t] += correlation * y[:, t - 1]
    return y[:, 50:]


@pytest.mark.parametrize("correlation", [0.0, 0.3, 0.6])
@pytest.mark.parametrize("epochs", [20, 60, 200])
def test_a_bound_without_a_trend_is_called_rising_in_at_most_five_percent(correlation: float, epochs: int) -> None:
    """1,000 series; more than 72 of them would be called rising with probability .001 at a rate of 5 %."""
    rising = sum(convergence_of(list(y)).trend == "rising" for y in autoregressive(1000, epochs, correlation))
    assert rising <= 72


def test_the_critical_values_are_points_of_students_distribution() -> None:
    assert pytest.approx(student.ppf(0.98, convergence.BATCHES - 2), abs=5e-4) == convergence.CRITICAL
    assert pytest.approx(student.ppf(0.9, convergence.BATCHES - 2), abs=5e-4) == convergence.STILL


def test_a_shift_of_the_bound_changes_nothing_and_a_scale_only_the_units() -> None:
    bounds = np.array(series(CURVES["power 1"], noise=0.05))
    found, moved, scaled = (convergence_of(list(y)) for y in (bounds, bounds - 1e4, 10 * bounds))
    assert moved.slope == pytest.approx(found.slope) and moved.expected_gain == pytest.approx(found.expected_gain)
    assert scaled.slope_error == pytest.approx(10 * found.slope_error)
    assert scaled.expected_gain == pytest.approx(10 * found.expected_gain)


def test_a_rise_that_is_sure_but_negligible_does_not_count() -> None:
    bounds = series(CURVES["power 1"], gain=0.02)
    found = convergence_of(bounds)
    assert found.trend == "rising" and found.converged is True and found.advice == ""
    assert "60 more epochs are expected to add no more than 0.02 nats per row" in str(found)
    assert convergence_of(bounds, negligible=0.01).converged is False


def test_a_flat_bound_a_falling_one_and_a_rising_one_are_described() -> None:
    noise = np.random.default_rng(0).normal(size=60)
    flat = convergence_of(list(noise))
    assert flat.converged is True and flat.trend == "flat" and flat.advice == ""
    unseen = 60 * (flat.slope + student.ppf(0.98, 3) * flat.slope_error)
    assert flat.undetected_gain == pytest.approx(unseen, rel=1e-3)
    assert f"within its noise; a gain of up to {unseen:.2g} nats per row in 60 more epochs would not show" in str(flat)
    falling = convergence_of(list(0.01 * noise - np.abs(np.arange(60) - 20.0)), "valid_bound")
    assert falling.converged is True and falling.trend == "falling" and falling.best_epoch == 21
    assert "validation bound fell by 1 " in str(falling) and "it was highest after epoch 21" in str(falling)
    rising = convergence_of(list(0.01 * noise + np.arange(60)))
    assert str(rising).startswith(
        "Training had not converged: over the last 20 of 60 epochs the training bound rose by 1"
    )
    assert "60 more epochs are expected to add about" in str(rising)
    assert rising.advice.startswith("Train for 60 more epochs before acting on anything else")
    ended = convergence_of(list(0.01 * noise + np.minimum(np.arange(60), 50)))  # as at the end of early stopping
    assert ended.converged is True and ended.trend == "flat" and ended.leveled and ended.advice == ""
    assert "over the last 20 of 60 epochs the training bound rose by" in str(ended)
    assert str(ended).endswith("nats per row in each, but no longer over the last 10.")
    still = convergence_of([-3.0] * 60)
    assert (still.converged, still.slope, still.slope_error, still.expected_gain) == (True, 0.0, 0.0, 0.0)


def test_fewer_epochs_than_ten_are_too_few_and_said_to_be() -> None:
    for count in (0, 1, 9):
        found = convergence_of([float(n) for n in range(count)])
        assert found.converged is None and found.trend == "unknown"
        assert (found.slope, found.slope_error, found.expected_gain) == (None, None, None)
        assert f"a training bound of {count} epoch" in str(found) and "at least 10 are needed" in str(found)
        assert f"Train for at least {10 - count} more epochs" in found.advice
    assert convergence_of([float(n) for n in range(10)]).converged is False


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_bound_that_is_not_finite_makes_it_unknown_unless_it_lies_before_the_last_third(bad: float) -> None:
    bounds = series(CURVES["power 1"])
    late = convergence_of([*bounds[:50], bad, *bounds[51:]])
    assert late.converged is None and "not finite in 1 of the last 20 epochs" in str(late) and late.advice
    early = convergence_of([*bounds[:5], bad, *bounds[6:]])
    assert early.expected_gain == convergence_of(bounds).expected_gain
    assert early.best_epoch == 60


def history_of(train, valid=None, rates=None) -> pv.History:
    history = pv.History()
    for i, bound in enumerate(train):
        rate = 1e-3 if rates is None else rates[i]
        last = None if valid is None else valid[i]
        history.append(epoch=i + 1, train_bound=bound, valid_bound=last, learning_rate=rate, skipped=0, seconds=0.5)
    return history


def test_the_validation_bound_decides_where_there_is_one() -> None:
    rising, flat = series(CURVES["power 1"]), list(np.random.default_rng(3).normal(size=60))
    assert history_of(rising).convergence().column == "train_bound"
    assert history_of(rising).convergence().converged is False
    found = history_of(rising, flat).convergence()
    assert found.column == "valid_bound" and found.converged is True
    assert history_of(flat, rising).convergence().converged is False
    later = history_of(flat, [None] * 30 + rising[30:]).convergence()  # validation rows came with a later fit
    assert later.column == "valid_bound" and later.converged is False and later.num_epochs == 60
    assert history_of([None] * 60).convergence().converged is None
    few = history_of(flat, [None] * 48 + rising[48:])
    assert "a validation bound of 12 epochs, and at least 20 are needed" in str(few.convergence())
    assert few.convergence(since=49).converged is False


def test_epochs_before_a_later_fit_can_be_left_out() -> None:
    jump = [-90.0] * 40 + list(-80 + 0.1 * np.random.default_rng(2).normal(size=40))
    found = history_of(jump).convergence(since=41)
    assert found.num_epochs == 40 and found.converged is True and found.best_epoch > 40
    assert history_of(jump).convergence(since=81).converged is None
    for wrong in (0, 1.5, "x"):
        with pytest.raises(ValueError, match="since must be a positive integer"):
            history_of(jump).convergence(since=wrong)
    with pytest.raises(ValueError, match="negligible must be"):
        history_of(jump).convergence(negligible=0.0)


def test_a_learning_rate_that_has_fallen_is_mentioned() -> None:
    flat = list(np.random.default_rng(3).normal(size=60))
    cosine = [1e-3 * (1 + math.cos(math.pi * i / 60)) / 2 for i in range(60)]
    found = history_of(flat, rates=cosine).convergence()
    assert found.converged is True and "learning rate had fallen from 0.001 to 6.9e-07" in str(found)
    assert history_of(flat).convergence().note == ""


def test_the_table_is_read_back_as_it_was_written() -> None:
    history = history_of(series(CURVES["power 1"], noise=0.1), [None] * 59 + [math.nan])
    again = pv.History.from_csv(history.to_csv())
    assert again.to_csv() == history.to_csv()
    assert [type(cell) for cell in again.rows[0].values()] == [type(cell) for cell in history.rows[0].values()]
    with pytest.raises(ValueError, match="columns of a history must be"):
        pv.History.from_csv("a,b\n1,2\n")
    buffer = io.StringIO()
    csv.writer(buffer).writerows([pv.History.COLUMNS, ["one"] * len(pv.History.COLUMNS)])
    with pytest.raises(ValueError, match="cells of a history must be numbers"):
        pv.History.from_csv(buffer.getvalue())


def test_a_fit_is_not_converged_early_and_converged_later_and_continues_from_there(tmp_path) -> None:
    program = LinearGaussian(event=4)
    x = program.draw(200)
    with torch.no_grad():
        for parameter in program.parameters():
            parameter.add_(1.0)
    options = {"learning_rate": 5e-2, "batch_size": 100, "seed": 0, "compile": False, "run_dir": tmp_path / "run"}
    options["progress"] = False
    early = program.fit(x, epochs=50, **options).convergence()
    assert early.converged is False and early.expected_gain > 0.1
    found = pv.diagnose(program, x, num_particles=20, num_samples=5, verbose=False)
    assert found.findings[0].about == "training" and found.findings[0] in found.concerns
    assert found.convergence == early and found.findings[0].advice.startswith("Train for 50 more epochs")
    history = program.fit(x, epochs=300, resume=True, **options)
    assert len(history) == 300 and history.convergence().converged is True
    found = pv.diagnose(program, x, num_particles=20, num_samples=5, verbose=False)
    assert found.findings[0].about == "training" and found.findings[0].advice == ""


def test_a_report_on_a_loaded_model_takes_its_history_or_the_one_that_it_is_given(tmp_path) -> None:
    vae = small_vae()
    x = draw_data(vae.likelihood, 40)
    history = vae.fit(x, epochs=2, seed=0, progress=False)
    vae.save(tmp_path / "saved")
    loaded = pv.load(tmp_path / "saved")
    few = {"num_particles": 20, "num_samples": 5, "verbose": False}
    assert pv.diagnose(loaded, x, **few).convergence == history.convergence()
    (tmp_path / "saved" / "history.csv").unlink()
    loaded = pv.load(tmp_path / "saved")
    found = pv.diagnose(loaded, x, **few)
    assert found.convergence is None and found.findings[0].about == "evidence"
    found = pv.diagnose(loaded, x, history=history, **few)
    assert found.findings[0].about == "training" and "a training bound of 2 epochs" in found.findings[0].found
    for wrong in ([1.0, 2.0], 3, "history.csv"):
        with pytest.raises(TypeError, match="history must be the table that `fit` returns"):
            pv.diagnose(loaded, x, history=wrong, **few)


@pytest.mark.usefixtures("short_annealing")
def test_the_command_line_prints_stores_and_reports_it(tmp_path, capsys: pytest.CaptureFixture[str]) -> None:
    run, file = tmp_path / "run", tmp_path / "x.npy"
    np.save(file, np.random.RandomState(0).randn(60, 4).astype(np.float32))
    few = ["--num-likelihood-particles", "30", "--hidden", "8", "--latent-dim", "2", "--no-pictures", "--no-compile"]
    assert cli.main(["train", str(file), "--run-dir", str(run), "--epochs", "12", *few]) == 0
    with (run / "history.csv").open() as table:
        history = pv.History.from_csv(table.read())
    found = history.convergence()
    assert found.column == "valid_bound" and found.num_epochs == 12
    assert str(found) in capsys.readouterr().out.splitlines()
    assert json.loads((run / "summary.json").read_text())["convergence"] == asdict(found)
    assert cli.main(["evaluate", str(run), "--report", "--num-particles", "30"]) == 0
    report = json.loads((run / "report.json").read_text())
    assert report["convergence"] == asdict(found) and report["findings"][0]["found"] == str(found)
    assert f"training: {found}" in capsys.readouterr().out
    (run / "history.csv").write_text("epoch\n1\n")
    with pytest.warns(UserWarning, match="history.csv must hold the epochs of the run"):
        assert cli.main(["evaluate", str(run), "--report", "--num-particles", "30"]) == 0
    assert "convergence" not in json.loads((run / "report.json").read_text())
