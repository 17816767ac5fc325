"""When a run's checkpoints are written, and where it goes on from them."""

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
from pyro_vae.training.checkpoints import folder as checkpoints
from pyro_vae.training.checkpoints import signals, snapshot
from pyro_vae.training.checkpoints.folder import Checkpoints
from pyro_vae.training.state import TrainingState

__all__ = ["Keeper", "keeping"]

logger = logging.getLogger("pyro_vae")
Saved = tuple[dict[str, Tensor], dict[str, Any]]
SIGNAL = 1000.0  # a ballot for an end; one for a checkpoint is 1
SHORT = 2.0  # seconds: epochs that take less have no checkpoint each, which would cost as much as they do


@dataclass
class Keeper:
    """Writes checkpoints of a run when they are due.

    Attributes:
        folder: where; None in all processes but the first.
        every: seconds between checkpoints within an epoch.
        held: signals that wait for a checkpoint.
        saved: the checkpoint to go on from; None for a new run.
        facts: what is written beside the state: the configuration, and choices to be kept.
    """

    folder: Checkpoints | None
    every: float
    held: signals.Held
    saved: Saved | None
    facts: dict[str, Any] = field(default_factory=dict)
    last: float = field(default_factory=time.monotonic)

    def check(self, configuration: Mapping[str, Any]) -> None:
        """Raise if this is not the run of the checkpoint; what it chose is kept.

        Raises:
            ValueError: showing every difference.
        """
        if self.saved is not None:
            self.facts = dict(self.saved[1]["facts"])
            checkpoints.refuse_differences(self.facts["configuration"], dict(configuration))
        self.facts["configuration"] = dict(configuration)

    def load(self, model: ProgramPair) -> None:
        """Give the model the parameters of the checkpoint, if there is one."""
        if self.saved is not None:
            model.load_state_dict(snapshot.part(self.saved[0], "model"))

    def restore(self, model: ProgramPair, state: TrainingState) -> None:
        """Bring model and state to where the checkpoint was written; the sums of all processes are with the first.

        With another number of processes than then, noise goes on from streams of its own.
        """
        if self.saved is None:
            return
        snapshot.restore(model, state, *self.saved)
        at, rank = state.position, processes.rank()
        if rank:
            at.rows, at.totals = 0, None
            at.now = snapshot.part(self.saved[0], f"now{rank}") or None
        if self.facts["processes"] != processes.size():
            at.now = None

    def left_of(self, epochs: int, state: TrainingState) -> int:
        """How many of so many epochs, counted from where the run began, are to come."""
        first = self.facts.setdefault("first_epoch", len(state.history))
        return 0 if state.stopped and self.saved is not None else first + epochs - len(state.history)

    def wish(self, seconds: float | None = None) -> float:
        """What this process votes for: an end, a checkpoint since the last was so many seconds ago, or neither."""
        if self.held.received is not None:
            return SIGNAL
        due = time.monotonic() - self.last > (self.every if seconds is None else seconds)
        return float(processes.rank() == 0 and due)

    def pause(self, model: ProgramPair, state: TrainingState, step: Any) -> None:
        """Write a checkpoint within an epoch, and end there if that is what was voted for."""
        state.position.now = every_random_state(step.batches.generators)
        state.position.totals = processes.sum_of(step.sums)
        self.write(model, state, step)
        state.position.now = state.position.totals = None
        if step.ballot >= SIGNAL:
            self._end()

    def write(self, model: ProgramPair, state: TrainingState, step: Any) -> None:
        """Write a checkpoint; all processes call this at the same step."""
        step.settle()
        others = processes.gathered(state.position.now)
        rows = int(processes.sum_of(torch.tensor(state.position.rows)))
        if self.folder is not None:
            tensors, record = snapshot.take(model, state)
            for rank, states in enumerate(others):
                tensors |= {f"now{rank}/{name}": value for name, value in (states or {}).items() if rank}
            record["position"]["rows"] = rows
            record["facts"] = self.facts | {"processes": processes.size(), "compiled": step.compiled}
            self.folder.write(state.step, tensors, record)
        self.last = time.monotonic()

    def end_of_epoch(self, model: ProgramPair, state: TrainingState, step: Any, *, last: bool) -> None:
        """Write a checkpoint, unless one was written a moment ago, and end if a signal came."""
        ballot = float(processes.sum_of(torch.tensor(self.wish(min(self.every, SHORT)))))
        if last or ballot:
            self.write(model, state, step)
        if ballot >= SIGNAL:
            self._end()

    def _end(self) -> None:
        if self.folder is not None:
            logger.warning("A signal came; a checkpoint is in %s: go on from there with resume.", self.folder.run_dir)
        self.held.deliver()
        if processes.size() > 1:  # where an own handler survives it here, others have ended
            raise KeyboardInterrupt


@contextmanager
def keeping(run_dir: str | os.PathLike[str] | None, every: float, *, resume: bool) -> Iterator[Keeper | None]:
    """The keeper of a run folder, which is locked until the end; None without a folder.

    Raises:
        ValueError: if there are checkpoints and `resume` is false, or none that can be read.
        OSError, RuntimeError: if the folder can't be written, or another process has it.
    """
    if run_dir is None:
        yield None
        return
    folder = Checkpoints(run_dir) if processes.rank() == 0 else None
    try:
        if folder is not None and folder.files() and not resume:
            raise ValueError(
                f"run_dir must be a folder without checkpoints; got {str(run_dir)!r}. Pass resume=True to go on"
                " from them, or choose another folder."
            )
        saved = processes.agree_on(None if folder is None else folder.newest())
        with signals.held() as held:
            yield Keeper(folder, every, held, saved)
    finally:
        if folder is not None:
            folder.close()
