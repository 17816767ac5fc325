"""What follows the history of a run: callbacks, and the history of saved models."""

from __future__ import annotations

import itertools
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from cases import small_vae

import pyro_vae as pv

X = torch.bernoulli(torch.full((20, 2, 3), 0.4), generator=torch.Generator().manual_seed(0))
OPTIONS = {"seed": 0, "progress": False, "compile": False}


def test_the_logger_writes_the_whole_history_after_each_epoch_and_goes_on(tmp_path: Path) -> None:
    log, vae, seen = tmp_path / "log.csv", small_vae(), []

    def read(model: pv.VAE, history: pv.History) -> None:
        seen.append(pv.History.from_csv(log.read_text()).rows == history.rows)

    vae.fit(X, epochs=2, callbacks=[pv.callbacks.CSVLogger(log), read], **OPTIONS)
    vae.fit(X, epochs=1, callbacks=[pv.callbacks.CSVLogger(log), read], **OPTIONS)
    assert seen == [True] * 3 and pv.History.from_csv(log.read_text()).rows == vae.history.rows


def test_the_logger_does_not_replace_another_file(tmp_path: Path) -> None:
    log = tmp_path / "log.csv"
    log.write_text("mine")
    with pytest.raises(ValueError, match="path must be a new file or hold epochs of this history; got"):
        small_vae().fit(X, epochs=1, callbacks=[pv.callbacks.CSVLogger(log)], **OPTIONS)
    assert log.read_text() == "mine"


def test_tensorboard_receives_each_epoch(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    vae = small_vae()
    vae.fit(X, epochs=3, callbacks=[pv.callbacks.TensorBoard(tmp_path)], **OPTIONS)
    events = accumulator.EventAccumulator(str(tmp_path)).Reload()
    found = events.Scalars("train_bound")
    assert [event.step for event in found] == [1, 2, 3]
    assert [event.value for event in found] == pytest.approx(vae.history["train_bound"])
    assert "valid_bound" not in events.Tags()["scalars"]


def test_tensorboard_says_how_to_install_it(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "torch.utils.tensorboard", None)
    with pytest.raises(ImportError, match="tensorboard must be installed for this callback; got"):
        pv.callbacks.TensorBoard(tmp_path)


def test_a_loaded_model_has_its_history_until_it_is_trained_again(tmp_path: Path) -> None:
    vae = small_vae()
    vae.fit(X, epochs=12, **OPTIONS)
    vae.save(tmp_path)
    loaded = pv.load(tmp_path)
    assert loaded.history.rows == vae.history.rows and loaded.history.convergence() == vae.history.convergence()
    loaded.save(tmp_path / "again")
    assert pv.load(tmp_path / "again").history.rows == vae.history.rows
    loaded.fit(X, epochs=1, **OPTIONS)
    assert len(loaded.history) == 1
    small_vae().save(tmp_path)  # one that was never trained, in the same folder
    assert len(pv.load(tmp_path).history) == 0


def test_a_damaged_history_is_left_out_with_a_warning(tmp_path: Path) -> None:
    vae = small_vae()
    vae.fit(X, epochs=1, **OPTIONS)
    vae.save(tmp_path)
    (tmp_path / "history.csv").write_text("epoch\n1\n")
    with pytest.warns(UserWarning, match="history.csv must hold the epochs of the run; got a file that can't be read"):
        loaded = pv.load(tmp_path)
    assert len(loaded.history) == 0 and torch.equal(loaded.elbo(X, seed=0).bound, vae.elbo(X, seed=0).bound)


def test_a_history_csv_of_something_else_is_not_lost(tmp_path: Path) -> None:
    (tmp_path / "history.csv").write_text("patient,history\n1,none\n")
    trained = small_vae()
    trained.fit(X, epochs=1, **OPTIONS)
    for vae in (small_vae(), trained):
        with pytest.raises(ValueError, match="path must be a folder without a history.csv of something else"):
            vae.save(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["history.csv"]


def test_a_logger_goes_on_after_a_crash_and_not_with_another_model(tmp_path: Path) -> None:
    log = pv.callbacks.CSVLogger(tmp_path / "log.csv")
    first, ahead = small_vae(), small_vae()
    ahead.fit(X, epochs=3, callbacks=[log], **OPTIONS)  # the run that crashed had come further than its checkpoint
    first.fit(X, epochs=2, callbacks=[log], **OPTIONS)
    assert pv.History.from_csv(log.path.read_text()).rows == first.history.rows
    with pytest.raises(ValueError, match="path must be a new file or hold epochs of this history"):
        small_vae().fit(X, epochs=1, callbacks=[log], **(OPTIONS | {"seed": 1}))


@pytest.mark.parametrize("service", ["wandb", "mlflow"])
def test_the_callbacks_that_the_guide_writes_out_log_each_epoch(service: str, monkeypatch) -> None:
    text = (Path(__file__).parents[1] / "docs" / "guide" / "share.md").read_text()
    lines = text[text.index(f"    import {service}") :].splitlines()
    block = "\n".join(line[4:] for line in itertools.takewhile(lambda line: line.startswith("    "), lines))
    logged: list[dict[str, float]] = []
    module: Any = types.ModuleType(service)
    module.init = lambda **options: None
    module.log = module.log_metrics = lambda values, step=None: logged.append(values)
    monkeypatch.setitem(sys.modules, service, module)
    rows = types.SimpleNamespace(train=X)
    exec(block.replace("epochs=100", "epochs=2, progress=False"), {"vae": small_vae(), "data": rows})
    assert [line["epoch"] for line in logged] == [1, 2] and "valid_bound" not in logged[0]
