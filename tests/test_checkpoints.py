"""Checkpoints: a run that was interrupted, in whatever way, ends as one that was not, or is refused and says why."""

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
from cases import BatchNormNet, small_vae
from torch.utils.data import DataLoader, Dataset, IterableDataset, RandomSampler, TensorDataset

import pyro_vae as pv
from pyro_vae.saving import files
from pyro_vae.training.checkpoints import folder as checkpoints
from pyro_vae.training.checkpoints import signals, writer

DATA = (torch.rand(50, 2, 3, generator=torch.Generator().manual_seed(3)) < 0.4).double()
KILL = Path(__file__).parents[1] / "benchmarks" / "kill.py"


class Noisy(Dataset):
    """Rows that are drawn by NumPy's and Python's global streams, as augmentations often are."""

    def __len__(self) -> int:
        return len(DATA)

    def __getitem__(self, index: int) -> torch.Tensor:
        return (DATA[index] != torch.as_tensor(np.random.rand(2, 3) < 0.1)).double()


class Stream(IterableDataset):
    """Rows in an order drawn by torch as they are asked for."""

    def __iter__(self):
        for _ in range(50):
            yield DATA[int(torch.randint(50, ()))]


class Rate:
    """A learning rate that sends a signal to its own process at a step."""

    def __init__(self, at: int | set[int] | None, number: int = signal.SIGINT) -> None:
        self._at, self._number = at if isinstance(at, set) else {at}, number

    def __call__(self, step: int) -> float:
        if step in self._at:
            signal.raise_signal(self._number)
        return 1e-2 / (1 + step / 20)


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


def fit(run_dir, at: int | set[int] | None = None, data=None, number: int = signal.SIGINT, net=None, **options):
    torch.manual_seed(5)
    np.random.seed(5)
    vae = small_vae(**({} if net is None else {"encoder": net((6, 6))}))
    vae.fit(
        DATA if data is None else data,
        learning_rate=Rate(at, number),
        run_dir=run_dir,
        **{"epochs": 4, "batch_size": 8, "num_rows": 50, "seed": 0, "compile": False, "progress": False} | options,
    )
    return vae


def ends_alike(vae, other) -> None:
    assert all(torch.equal(a, b) for a, b in zip(vae.state_dict().values(), other.state_dict().values(), strict=True))
    for column in set(pv.History.COLUMNS) - {"seconds"}:
        assert vae.history[column] == other.history[column], column


@pytest.mark.parametrize("at", [2, 6, 17])  # 7 steps an epoch: within the first, at the end of one, later
@pytest.mark.parametrize("source", SOURCES)
def test_an_interrupted_run_goes_on_as_if_nothing_had_been(source: str, at: int, tmp_path: Path) -> None:
    whole = fit(tmp_path / "whole", data=SOURCES[source](), net=BatchNormNet)
    interrupted = fit(tmp_path / "run", at, data=SOURCES[source](), net=BatchNormNet)
    assert interrupted.history.interrupted and len(interrupted.history) <= at // 7 + 1
    resumed = fit(tmp_path / "run", data=SOURCES[source](), net=BatchNormNet, resume=True)
    ends_alike(whole, resumed)
    assert not resumed.history.interrupted


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_it_does_with_every_option(options: dict, tmp_path: Path) -> None:
    whole = fit(None, **options)
    fit(tmp_path, 9, **options)
    ends_alike(whole, fit(tmp_path, resume=True, **options))


def test_it_does_when_interrupted_again_and_again_and_when_already_done(tmp_path: Path) -> None:
    whole = fit(None)
    for at in (3, 4, 11, 20, 27):
        fit(tmp_path, at, resume=True)
    ends_alike(whole, fit(tmp_path, resume=True))
    ends_alike(whole, fit(tmp_path, resume=True))
    assert len(fit(tmp_path, resume=True, epochs=6).history) == 6
    ends_alike(fit(None, epochs=6), fit(tmp_path, resume=True, epochs=6))


@pytest.mark.slow
def test_it_does_with_compiled_steps(tmp_path: Path) -> None:
    whole = fit(None, compile=True)
    fit(tmp_path, 9, compile=True)
    ends_alike(whole, fit(tmp_path, resume=True, compile=True))


def test_the_choice_to_compile_and_the_threads_are_kept(tmp_path: Path) -> None:
    fit(tmp_path, 9, compile=False)
    ends_alike(fit(None), fit(tmp_path, resume=True, compile="auto", epochs=4))
    (record,) = [files.load_tensors(checkpoints_of(tmp_path)[0])[1]["checkpoint"]]
    assert record["facts"]["compiled"] is False and record["facts"]["num_threads"] == 1


def test_a_second_fit_of_the_same_model_has_a_folder_of_its_own(tmp_path: Path) -> None:
    vae, same = fit(tmp_path / "a"), fit(None)
    for model, folder in ((vae, tmp_path / "b"), (same, None)):
        options = {"epochs": 2, "batch_size": 8, "num_rows": 50, "seed": 0, "compile": False, "progress": False}
        model.fit(DATA, learning_rate=Rate(None), run_dir=folder, **options)
    ends_alike(vae, same)


@pytest.mark.slow
@pytest.mark.parametrize("compile", [[], ["--compile"]], ids=["interpreted", "compiled"])
def test_a_killed_run_goes_on_as_if_nothing_had_been(compile: list[str]) -> None:
    command = [sys.executable, str(KILL), "--times", "3", *compile]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 of 1 interrupted runs ended as the uninterrupted one" in done.stdout


def checkpoints_of(run_dir: Path) -> list[Path]:
    return sorted((run_dir / "checkpoints").glob("step-*.safetensors"), reverse=True)


def test_the_last_two_are_kept_and_one_is_written_every_so_many_seconds(tmp_path: Path, monkeypatch) -> None:
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


def test_sigterm_writes_a_checkpoint_and_then_does_what_it_did_before(tmp_path: Path) -> None:
    code = f"import test_checkpoints; test_checkpoints.fit({str(tmp_path)!r}, 9, number=15); print('went on')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parent)
    assert (done.returncode, done.stdout) == (-signal.SIGTERM, ""), done.stderr
    assert checkpoints_of(tmp_path)[0].name in ("step-000000000010.safetensors", "step-000000000011.safetensors")
    ends_alike(fit(None), fit(tmp_path, resume=True))


def test_a_run_goes_on_after_a_signal_that_is_ignored_or_that_its_own_handler_survives(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    seen: list[int] = []
    before = signal.getsignal(signal.SIGINT)
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        ends_alike(fit(None), fit(tmp_path / "ignored", 9))
        assert not caplog.text
        signal.signal(signal.SIGINT, lambda number, frame: seen.append(number))
        ends_alike(fit(None), fit(tmp_path / "survived", {9, 16}))
    finally:
        signal.signal(signal.SIGINT, before)
    assert seen == [signal.SIGINT] * 2 and caplog.text.count("A signal came; a checkpoint is in") == 2


def test_handlers_are_set_back_and_a_second_signal_does_not_wait() -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with signals.hold_signals() as held:
        signal.raise_signal(signal.SIGINT)
        assert held.received == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


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
def test_another_run_is_refused_with_the_difference(message: str, tmp_path: Path) -> None:
    fit(tmp_path, 9)
    files = {file: file.read_bytes() for file in checkpoints_of(tmp_path)}
    with pytest.raises(ValueError, match=f"(?s)resume must continue the same run; got .*{message}"):
        fit(tmp_path, resume=True, **DRIFTS[message])
    assert {file: file.read_bytes() for file in checkpoints_of(tmp_path)} == files


def test_checkpoints_are_not_overwritten_unless_the_run_goes_on(tmp_path: Path) -> None:
    fit(tmp_path, 9)
    with pytest.raises(ValueError, match="run_dir must be a folder without checkpoints; got .*Pass resume=True"):
        fit(tmp_path)


def test_a_second_process_is_refused(tmp_path: Path) -> None:
    first = checkpoints.CheckpointFolder(tmp_path)
    with pytest.raises(RuntimeError, match=f"one process at a time; got .* where process {os.getpid()} trains"):
        fit(tmp_path)
    first.close()
    fit(tmp_path, epochs=1)


def test_a_damaged_checkpoint_is_left_out_and_the_one_before_is_taken(tmp_path: Path, monkeypatch, caplog) -> None:
    monkeypatch.setattr(writer, "SHORT_EPOCH", 0.0)
    fit(tmp_path, 9)
    newest = checkpoints_of(tmp_path)[0]
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 4
    newest.write_bytes(content)
    ends_alike(fit(None), fit(tmp_path, resume=True))
    assert "is damaged and left out" in caplog.text
    for file in checkpoints_of(tmp_path):
        file.write_bytes(b"")
    with pytest.raises(ValueError, match="run_dir must hold a whole checkpoint; got damaged ones alone"):
        fit(tmp_path, resume=True)


def test_a_full_disk_is_told_and_the_last_checkpoint_is_whole(tmp_path: Path, monkeypatch) -> None:
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
    ends_alike(fit(None), fit(tmp_path, resume=True))


def test_a_folder_that_cannot_be_is_told_before_training_and_one_left_empty_goes(tmp_path: Path) -> None:
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
def test_wrong_options_are_named(options: dict, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        fit(**{"run_dir": None} | options)
