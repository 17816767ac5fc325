"""Two processes train as one does: the same steps, history and checkpoints; after a kill, workers resume the run."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import two_processes

import pyro_vae as pv
from pyro_vae.runtime import processes

LAUNCH = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
FLOATS = {torch.float32: 1e-6, torch.float64: 1e-12}


def launch(*arguments: str, **options: Any) -> subprocess.Popen[str]:
    """Start two processes that find each other on a free port."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [*LAUNCH, "--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """The results of each of two processes."""
    folder = tmp_path_factory.mktemp("two")
    two_processes.fit("Adam", torch.float64, run_dir=folder / "one", epochs=2)
    process = launch(two_processes.__file__, str(folder))
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    alone = two_processes.fit("Adam", torch.float64, run_dir=folder / "kept", resume=True, epochs=4)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) | {"alone": alone} for rank in (0, 1)]


def same(found: dict[str, Any], expected: dict[str, Any], tolerance: float) -> None:
    for name, value in expected["parameters"].items():
        torch.testing.assert_close(found["parameters"][name], value, rtol=tolerance, atol=tolerance)
    assert len(found["history"]) == len(expected["history"])
    for row, wanted in zip(found["history"], expected["history"], strict=True):
        assert row == pytest.approx(wanted, rel=max(tolerance, 1e-9), nan_ok=True)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("case", two_processes.CASES)
def test_two_processes_take_the_steps_of_one(case: str, dtype: torch.dtype, both: list[dict[str, Any]]) -> None:
    expected = two_processes.fit(case, dtype)
    start = two_processes.Program(dtype).state_dict()
    assert not torch.equal(expected["parameters"]["slope"], start["slope"])
    for found in both:
        same(found[f"{case}, {dtype}"], expected, FLOATS[dtype])


def test_a_run_can_be_resumed_with_another_number_of_processes(both: list[dict[str, Any]]) -> None:
    """With given noise, nothing changes from one process to two and back."""
    whole = two_processes.fit("Adam", torch.float64, epochs=4)
    for found in both:
        same(found["resumed"], whole, 1e-10)
    same(both[0]["alone"], whole, 1e-10)


def test_processes_share_the_rows_of_an_evaluation_and_each_has_the_whole_result(both: list[dict[str, Any]]) -> None:
    exact = two_processes.LinearGaussian(two_processes.E, two_processes.D).log_evidence(
        two_processes.data(torch.float64).x
    )
    (estimate, error), (again, _) = (found["log-likelihood"] for found in both)
    assert torch.equal(estimate, again) and torch.equal(estimate, both[0]["repeated"][0])
    assert ((estimate - exact).abs() < 5 * error).all()
    assert not torch.equal(estimate, two_processes.likelihood(seed=0)[0])  # the second process drew from its own stream


def test_the_threads_of_the_group_end_with_it(both: list[dict[str, Any]]) -> None:
    """A thread that outlives the group may abort the process while Python shuts down."""
    assert all(found["freed"] for found in both)


def test_the_process_that_has_a_row_that_is_not_finite_names_it(both: list[dict[str, Any]]) -> None:
    messages = [found["spoiled"] for found in both]
    (named,) = [message for message in messages if "another process" not in message]
    (other,) = [message for message in messages if "another process" in message]
    assert re.search("must be finite; got .* in rows 17 of the data at step", named), named
    assert (
        other
        == "The loss must be finite in every process; got NaN or infinity in another process, whose message says where."
    )


def test_processes_with_other_data_or_options_are_an_error_in_all(both: list[dict[str, Any]]) -> None:
    for found in both:
        rows, epochs, folder = found["differing"]
        assert rows.startswith("fit must be called alike in all processes; got data.sha256.x '")
        assert "got epochs 1 in process 0 and 2 in process 1. Give each" in epochs
        assert "got run_dir True in process 0 and False in process 1. Give each" in folder


def test_a_signal_to_one_process_ends_all_at_the_same_step(both: list[dict[str, Any]]) -> None:
    assert [found["ended"] for found in both] == [[True, 1]] * 2


def test_a_launched_process_that_trains_alone_is_warned(monkeypatch, caplog: pytest.LogCaptureFixture) -> None:
    two_processes.fit("one step", torch.float64)
    assert not caplog.text
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    two_processes.fit("one step", torch.float64)
    assert "This is one of 2 processes and it trains alone: call fit within" in caplog.text


def test_processes_agree_on_the_value_of_the_first_and_gather_all_values(both: list[dict[str, Any]]) -> None:
    assert [found["ours"] for found in both] == [({"rank": 0}, [0, 1])] * 2
    assert (processes.agree_on(3), processes.gathered(3), processes.share(10)) == (3, [3], None)


@pytest.mark.slow
def test_two_processes_with_compiled_steps_equal_uncompiled_ones() -> None:
    code = (
        "import sys, torch, two_processes\n"
        "from pyro_vae.runtime import processes\n"
        "torch.set_num_threads(1)\n"
        "with processes.launched():\n"
        "    found = [two_processes.fit(case, torch.float64, compile=c)['parameters']['slope'].item()\n"
        "             for case in ('uneven shares', 'clipped', 'Adam') for c in (True, False)]\n"
        "    print('SLOPES', found) if processes.rank() == 0 else None\n"
    )
    script = Path(two_processes.__file__).parent / "compiled_in_two.py"
    output, _ = launch(
        "--no-python", sys.executable, "-c", f"import sys; sys.path.insert(0, {str(script.parent)!r})\n{code}"
    ).communicate(timeout=300)
    line = re.search(r"SLOPES \[(.*)\]", output)
    assert line, output
    slopes = [float(number) for number in line[1].split(",")]
    for compiled, uncompiled in zip(slopes[::2], slopes[1::2], strict=True):
        assert compiled == pytest.approx(uncompiled, rel=1e-9)


@pytest.mark.slow
def test_a_killed_worker_is_restarted_and_the_run_completes(tmp_path: Path) -> None:
    run = tmp_path / "run"
    scored = ["--num-likelihood-particles", "20", "--num-likelihood-rows", "2"]
    options = ["--epochs", "60", "--no-pictures", "--hidden", "64", *scored]
    arguments = ["--max-restarts", "2", "-m", "pyro_vae", "train", "--no-compile", "--run-dir", str(run), *options]
    process = launch(*arguments)
    while process.poll() is None and not list(run.glob("checkpoints/step-*")):
        time.sleep(0.01)
    workers = subprocess.run(
        ["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=True
    ).stdout.split()
    os.kill(int(workers[-1]), signal.SIGKILL)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    assert "60 epochs in" in output
    assert pv.load(run).training is False
    assert len((run / "history.csv").read_text().splitlines()) == 61
