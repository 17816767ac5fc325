"""Signals: SIGINT and SIGTERM wait for the end of a step and for a checkpoint, and then take their usual effect."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from interrupted import assert_ends_alike, checkpoints_of, fit

from pyro_vae.training.checkpoints import signals


def test_sigterm_writes_a_checkpoint_and_then_ends_the_process(tmp_path: Path) -> None:
    code = f"import interrupted; interrupted.fit({str(tmp_path)!r}, 9, number=15); print('continued')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parent)
    assert (done.returncode, done.stdout) == (-signal.SIGTERM, ""), done.stderr
    assert checkpoints_of(tmp_path)[0].name in ("step-000000000010.safetensors", "step-000000000011.safetensors")
    assert_ends_alike(fit(None), fit(tmp_path, resume=True))


def test_a_run_continues_after_a_signal_that_is_ignored_or_that_the_users_handler_survives(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    seen: list[int] = []
    before = signal.getsignal(signal.SIGINT)
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        assert_ends_alike(fit(None), fit(tmp_path / "ignored", 9))
        assert not caplog.text
        signal.signal(signal.SIGINT, lambda number, frame: seen.append(number))
        assert_ends_alike(fit(None), fit(tmp_path / "survived", {9, 16}))
    finally:
        signal.signal(signal.SIGINT, before)
    assert seen == [signal.SIGINT] * 2 and caplog.text.count("Training was asked to stop. A checkpoint is in") == 2


def test_handlers_are_restored_and_a_second_signal_does_not_wait() -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with signals.hold_signals() as held:
        signal.raise_signal(signal.SIGINT)
        assert held.received == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
