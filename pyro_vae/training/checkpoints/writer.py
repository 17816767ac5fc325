"""When the checkpoints of a run are written, and how a run is resumed from one."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from pyro_vae.inference.pair import ProgramPair
from pyro_vae.runtime import processes
from pyro_vae.runtime.random import every_random_state
from pyro_vae.training.checkpoints import snapshot
from pyro_vae.training.checkpoints.folder import CheckpointFolder, refuse_differences
from pyro_vae.training.checkpoints.signals import HeldSignals, hold_signals
from pyro_vae.training.state import TrainingState
from pyro_vae.training.step import Request, Step, Totals

__all__ = ["CheckpointWriter", "open_checkpoints"]

logger = logging.getLogger("pyro_vae")
Saved = tuple[dict[str, Tensor], dict[str, Any]]
SHORT_EPOCH = 2.0  # seconds: shorter epochs have no checkpoint each, since it would take as long as they do


@dataclass
class CheckpointWriter:
    """Writes checkpoints of a run when they are due, and brings a run back to where one was written.

    Attributes:
        folder: where checkpoints are; None in all processes but the first.
        every: seconds between checkpoints within an epoch.
        signals: signals that wait for a checkpoint.
        saved: the checkpoint that the run is resumed from; None for a new run.
        choices: what a resumed run keeps: configuration, first epoch, number of threads and kind of step. It is written
            beside the state, under the name "facts".
    """

    folder: CheckpointFolder | None
    every: float
    signals: HeldSignals
    saved: Saved | None
    choices: dict[str, Any] = field(default_factory=dict)
    last: float = field(default_factory=time.monotonic)

    def check_same_run(self, configuration: Mapping[str, Any]) -> None:
        """Raise if the checkpoint belongs to another run; the choices of the run are kept.

        Raises:
            ValueError: showing every difference.
        """
        if self.saved is not None:
            self.choices = dict(self.saved[1]["facts"])
            refuse_differences(self.choices["configuration"], dict(configuration))
        self.choices["configuration"] = dict(configuration)

    def load_parameters(self, model: ProgramPair) -> None:
        """Give the model the parameters of the checkpoint, if there is one."""
        if self.saved is not None:
            model.load_state_dict(snapshot.part(self.saved[0], "model"))

    def restore(self, model: ProgramPair, state: TrainingState) -> None:
        """Bring model and state to where the checkpoint was written.

        The sums of all processes are given to the first. With another number of processes than then, each continues
        with a new stream of noise.
        """
        if self.saved is None:
            return
        snapshot.restore(model, state, *self.saved)
        position, rank = state.position, processes.rank()
        if rank:
            position.num_rows, position.totals = 0, None
            position.now = snapshot.part(self.saved[0], f"now{rank}") or None
        if self.choices["processes"] != processes.size():
            position.now = None

    def epochs_left(self, epochs: int, state: TrainingState) -> int:
        """How many of these epochs, counted from where the run began, are still to be trained."""
        first = self.choices.setdefault("first_epoch", len(state.history))
        return 0 if state.stopped and self.saved is not None else first + epochs - len(state.history)

    def request(self, seconds: float | None = None) -> Request:
        """What this process asks for: to stop, a checkpoint, or nothing.

        Args:
            seconds: the time after which a checkpoint is due; `every` by default.
        """
        if self.signals.received is not None:
            return Request.STOP
        due = time.monotonic() - self.last > (self.every if seconds is None else seconds)
        return Request.CHECKPOINT if processes.rank() == 0 and due else Request.NOTHING

    def write_within_epoch(self, model: ProgramPair, state: TrainingState, step: Step) -> None:
        """Write a checkpoint within an epoch, and stop there if a process asked for it."""
        state.position.now = every_random_state(step.batches.generators)
        state.position.totals = Totals.from_tensor(processes.sum_of(step.totals.to_tensor()))
        self.write(model, state, step)
        state.position.now = state.position.totals = None
        if step.granted == Request.STOP:
            self._stop()

    def write_after_epoch(self, model: ProgramPair, state: TrainingState, step: Step, *, is_last: bool) -> None:
        """Write a checkpoint, unless the last one is recent and epochs follow; stop if a process asked for it."""
        request = self.request(min(self.every, SHORT_EPOCH))
        granted = Request.granted(float(processes.sum_of(torch.tensor(float(request)))))
        if is_last or granted:
            self.write(model, state, step)
        if granted == Request.STOP:
            self._stop()

    def write(self, model: ProgramPair, state: TrainingState, step: Step) -> None:
        """Write a checkpoint; all processes call this at the same step."""
        step.settle()
        others = processes.gathered(state.position.now)
        num_rows = int(processes.sum_of(torch.tensor(state.position.num_rows)))
        if self.folder is not None:
            tensors, record = snapshot.take(model, state)
            for rank, states in enumerate(others):
                tensors |= {f"now{rank}/{name}": value for name, value in (states or {}).items() if rank}
            record["position"]["rows"] = num_rows
            record["facts"] = self.choices | {"processes": processes.size(), "compiled": step.compiled}
            self.folder.write(state.step, tensors, record)
        self.last = time.monotonic()

    def _stop(self) -> None:
        if self.folder is not None:
            logger.warning(
                "Training was asked to stop. A checkpoint is in %s: continue from it with resume.", self.folder.run_dir
            )
        self.signals.deliver()
        if processes.size() > 1:  # the signal's own handler may return here, but other processes have stopped
            raise KeyboardInterrupt


@contextmanager
def open_checkpoints(
    run_dir: str | os.PathLike[str] | None, every: float, *, resume: bool
) -> Iterator[CheckpointWriter | None]:
    """The writer of checkpoints into a run folder, which is locked until the end; None without a folder.

    Raises:
        ValueError: if there are checkpoints and `resume` is false, or there are some and none can be read.
        OSError, RuntimeError: if the folder can't be written, or another process uses it.
    """
    if run_dir is None:
        yield None
        return
    folder = CheckpointFolder(run_dir) if processes.rank() == 0 else None
    try:
        if folder is not None and folder.files() and not resume:
            raise ValueError(
                f"run_dir must be a folder without checkpoints; got {str(run_dir)!r}. Pass resume=True to continue"
                " from them, or choose another folder."
            )
        saved = processes.agree_on(None if folder is None else folder.newest())
        with hold_signals() as signals:
            yield CheckpointWriter(folder, every, signals, saved)
    finally:
        if folder is not None:
            folder.close()
