"""Checkpoints: an interrupted run, once resumed, ends bit for bit as one that was not interrupted, or is refused."""

from __future__ import annotations

import math
import os
import resource
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from cases import BatchNormNet
from interrupted import DATA, Rate, assert_ends_alike, checkpoints_of, fit
from torch.utils.data import DataLoader, Dataset, IterableDataset, RandomSampler, TensorDataset

import pyro_vae as pv
from pyro_vae.saving import files
from pyro_vae.training.checkpoints import folder as checkpoints
from pyro_vae.training.checkpoints import writer

KILL = Path(__file__).parents[1] / "benchmarks" / "kill.py"


class Noisy(Dataset):
    """Rows with noise from NumPy's global random stream, as augmentations often have."""

    def __len__(self) -> int:
        return len(DATA)

    def __getitem__(self, index: int) -> torch.Tensor:
        return (DATA[index] != torch.as_tensor(np.random.rand(2, 3) < 0.1)).double()


class Stream(IterableDataset):
    """Rows in an order that torch draws while they are read."""

    def __iter__(self):
        for _ in range(50):
            yield DATA[int(torch.randint(50, ()))]


def own_generator(data: Dataset) -> DataLoader:
    return DataLoader(data, batch_size=8, sampler=RandomSampler(data, generator=torch.Generator().manual_seed(7)))


SOURCES = {
    "rows": lambda: DATA,
    "rows drawn anew": lambda: pv.Rows(DATA * 0.5, transform=torch.bernoulli),
    "data set": lambda: Noisy(),
    "loader": lambda: DataLoader(TensorDataset(DATA), batch_size=8, shuffle=True),
    "loader with a generator": lambda: own_generator(TensorDataset(DATA)),
    "stream": lambda: DataLoader(Stream(), batch_size=8),
}
OPTIONS = {
    "Adam": {},
    "no seed": {"seed": None},
    "SGD with momentum": {"optimizer": partial(torch.optim.SGD, momentum=0.9)},
    "AMSGrad, clipped": {"optimizer": partial(torch.optim.AdamW, amsgrad=True), "grad_clip": 0.5},
    "patience": {"valid": DATA[:20], "patience": 2},
    "another estimator": {"elbo": pv.elbos.IWAE(num_particles=3)},
    "schedules": {"elbo": pv.elbos.ELBO(kl_weight=pv.schedules.Linear(0.0, 1.0, steps=9))},
}


@pytest.mark.parametrize("at", [2, 6, 17])  # of 7 steps an epoch: in the first epoch, at its end, later
@pytest.mark.parametrize("source", SOURCES)
def test_a_resumed_run_ends_as_the_uninterrupted_one_for_every_form_of_data(
    source: str, at: int, tmp_path: Path
) -> None:
    whole = fit(tmp_path / "whole", data=SOURCES[source](), net=BatchNormNet)
    interrupted = fit(tmp_path / "run", at, data=SOURCES[source](), net=BatchNormNet)
    assert interrupted.history.interrupted and len(interrupted.history) <= at // 7 + 1
    resumed = fit(tmp_path / "run", data=SOURCES[source](), net=BatchNormNet, resume=True)
    assert_ends_alike(whole, resumed)
    assert not resumed.history.interrupted


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_a_resumed_run_ends_as_the_uninterrupted_one_with_every_option(options: dict, tmp_path: Path) -> None:
    whole = fit(None, **options)
    fit(tmp_path, 9, **options)
    assert_ends_alike(whole, fit(tmp_path, resume=True, **options))


def test_a_run_can_be_resumed_many_times_and_after_its_end(tmp_path: Path) -> None:
    whole = fit(None)
    for at in (3, 4, 11, 20, 27):
        fit(tmp_path, at, resume=True)
    assert_ends_alike(whole, fit(tmp_path, resume=True))
    assert_ends_alike(whole, fit(tmp_path, resume=True))
    assert len(fit(tmp_path, resume=True, epochs=6).history) == 6
    assert_ends_alike(fit(None, epochs=6), fit(tmp_path, resume=True, epochs=6))


@pytest.mark.slow
def test_a_resumed_run_ends_as_the_uninterrupted_one_with_compiled_steps(tmp_path: Path) -> None:
    whole = fit(None, compile=True)
    fit(tmp_path, 9, compile=True)
    assert_ends_alike(whole, fit(tmp_path, resume=True, compile=True))


def test_a_resumed_run_keeps_the_choice_to_compile_and_the_number_of_threads(tmp_path: Path) -> None:
    fit(tmp_path, 9, compile=False)
    assert_ends_alike(fit(None), fit(tmp_path, resume=True, compile="auto", epochs=4))
    (record,) = [files.load_tensors(checkpoints_of(tmp_path)[0])[1]["checkpoint"]]
    assert record["facts"]["compiled"] is False and record["facts"]["num_threads"] == 1


def test_a_second_fit_may_write_to_another_folder_and_changes_no_number(tmp_path: Path) -> None:
    vae, same = fit(tmp_path / "a"), fit(None)
    for model, folder in ((vae, tmp_path / "b"), (same, None)):
        options = {"epochs": 2, "batch_size": 8, "num_rows": 50, "seed": 0, "compile": False, "progress": False}
        model.fit(DATA, learning_rate=Rate(None), run_dir=folder, **options)
    assert_ends_alike(vae, same)


@pytest.mark.slow
@pytest.mark.parametrize("compile", [[], ["--compile"]], ids=["uncompiled", "compiled"])
def test_a_killed_run_ends_as_the_uninterrupted_one(compile: list[str]) -> None:
    command = [sys.executable, str(KILL), "--times", "3", *compile]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 of 1 interrupted runs ended as the uninterrupted one" in done.stdout


def test_the_last_two_checkpoints_are_kept(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(writer, "SHORT_EPOCH", math.inf)
    fit(tmp_path / "short")
    assert [file.name for file in checkpoints_of(tmp_path / "short")] == ["step-000000000028.safetensors"]
    monkeypatch.setattr(writer, "SHORT_EPOCH", 0.0)
    fit(tmp_path / "epochs")
    assert [file.name for file in checkpoints_of(tmp_path / "epochs")] == [
        "step-000000000028.safetensors",
        "step-000000000021.safetensors",
    ]
    fit(tmp_path / "seconds", checkpoint_every=1e-9, epochs=1)
    assert [file.name for file in checkpoints_of(tmp_path / "seconds")] == [
        "step-000000000007.safetensors",
        "step-000000000006.safetensors",
    ]


DRIFTS = {
    "batch_size 8 then and 16 now": {"batch_size": 16},
    "data.sha256.x '[0-9a-f]{64}' then and": {"data": 1 - DATA},
    "seed 0 then and 1 now": {"seed": 1},
    "optimizer None then and 'SGD' now": {"optimizer": torch.optim.SGD},
    "elbo None then and 'IWAE' now": {"elbo": pv.elbos.IWAE(num_particles=5)},
    "grad_clip None then and 1.0 now": {"grad_clip": 1.0},
    "valid.rows None then and 50 now": {"valid": DATA},
    "tensors.*then and": {"net": BatchNormNet},
}


@pytest.mark.parametrize("message", DRIFTS)
def test_resuming_with_other_data_or_options_is_refused_with_the_difference(message: str, tmp_path: Path) -> None:
    fit(tmp_path, 9)
    files = {file: file.read_bytes() for file in checkpoints_of(tmp_path)}
    with pytest.raises(ValueError, match=f"(?s)resume must continue the same run; got .*{message}"):
        fit(tmp_path, resume=True, **DRIFTS[message])
    assert {file: file.read_bytes() for file in checkpoints_of(tmp_path)} == files


def test_checkpoints_are_not_overwritten_without_resume(tmp_path: Path) -> None:
    fit(tmp_path, 9)
    with pytest.raises(ValueError, match="run_dir must be a folder without checkpoints; got .*Pass resume=True"):
        fit(tmp_path)


def test_a_second_process_in_the_same_folder_is_refused(tmp_path: Path) -> None:
    first = checkpoints.CheckpointFolder(tmp_path)
    with pytest.raises(RuntimeError, match=f"one process at a time; got .* where process {os.getpid()} trains"):
        fit(tmp_path)
    first.close()
    fit(tmp_path, epochs=1)


def test_a_damaged_checkpoint_is_skipped_for_the_one_before(tmp_path: Path, monkeypatch, caplog) -> None:
    monkeypatch.setattr(writer, "SHORT_EPOCH", 0.0)
    fit(tmp_path, 9)
    newest = checkpoints_of(tmp_path)[0]
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 4
    newest.write_bytes(content)
    assert_ends_alike(fit(None), fit(tmp_path, resume=True))
    assert "is damaged and is left out" in caplog.text
    for file in checkpoints_of(tmp_path):
        file.write_bytes(b"")
    with pytest.raises(ValueError, match="run_dir must hold a whole checkpoint; got only damaged ones"):
        fit(tmp_path, resume=True)


def test_a_full_disk_is_reported_and_the_last_checkpoint_stays_whole(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(writer, "SHORT_EPOCH", 0.0)
    fit(tmp_path, 9)
    limits, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
        with pytest.raises(OSError, match="run_dir must take a checkpoint at step 14; got File too large"):
            fit(tmp_path, resume=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert not list((tmp_path / "checkpoints").glob(".*"))
    assert_ends_alike(fit(None), fit(tmp_path, resume=True))


def test_a_folder_that_cannot_be_written_is_reported_before_training_and_an_empty_one_is_removed(
    tmp_path: Path,
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="run_dir must be a folder that can be written; got Not a directory"):
        fit(tmp_path / "file" / "run")
    with pytest.raises(ValueError, match="must lie in"):
        fit(tmp_path / "run", data=DATA - 3)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"run_dir": 3}, "run_dir must be the name of a folder or file; got 3"),
        ({"run_dir": None, "resume": True}, "run_dir must be given where resume is; got None"),
        ({"checkpoint_every": 0}, "checkpoint_every must be a positive number; got 0"),
        ({"on_nonfinite": "ignore"}, "on_nonfinite must be 'raise' or 'skip'; got 'ignore'"),
    ],
)
def test_wrong_options_of_checkpoints_are_errors(options: dict, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        fit(**{"run_dir": None} | options)
