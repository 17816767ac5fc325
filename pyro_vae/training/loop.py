"""The loop: batches in, gradient steps, a table out."""

from __future__ import annotations

import copy
import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from pyro_vae.data.batches import Batches
from pyro_vae.elbos import Estimator
from pyro_vae.inference.pair import ProgramPair
from pyro_vae.runtime import processes
from pyro_vae.runtime.isolation import evaluating, isolated
from pyro_vae.runtime.processor import tuned_processor
from pyro_vae.runtime.random import begin_stream, every_random_state, seeded, set_every_random_state
from pyro_vae.training.checkpoints.writer import Keeper
from pyro_vae.training.compiled.step import CompiledStep
from pyro_vae.training.eager import EagerStep
from pyro_vae.training.history import History
from pyro_vae.training.state import Position, TrainingState, set_rate

__all__ = ["Loop", "Progress"]

logger = logging.getLogger("pyro_vae")
MORE = 1.1  # rows of an epoch over num_rows, from which on that is told: samplers may repeat a few
VALIDATION_SEED = 0  # common random numbers: validation bounds of different epochs differ by the parameters alone


class Progress(Protocol):
    """What shows a run while it goes on."""

    def batch(self) -> None: ...
    def epoch(self, history: History) -> None: ...
    def close(self) -> None: ...


@dataclass
class Loop:
    """What training goes by, epoch after epoch.

    Attributes:
        model: the pair of programs.
        state: what changes.
        estimator: what is maximised.
        held_out: validation rows.
        seed: of the streams of random numbers, one an epoch.
        keeper: of checkpoints.
        progress: what shows the run.
    """

    model: ProgramPair
    state: TrainingState
    estimator: Estimator
    held_out: Batches | None
    seed: int | None
    keeper: Keeper | None
    progress: Progress | None

    def run(
        self,
        step: EagerStep | CompiledStep,
        epochs: int,
        patience: int | None,
        callbacks: Sequence[Callable[[Any, History], bool | None]],
    ) -> History:
        """Train for so many epochs, fewer where a callback or patience says so; returns the table."""
        state, keeper = self.state, self.keeper
        state.history.interrupted = False
        if keeper is None or keeper.saved is None:
            self._begin(patience)
        last = len(state.history) + (epochs if keeper is None else keeper.left_of(epochs, state))
        try:
            while len(state.history) < last and not state.stopped:
                step = step.begin(state.position.totals, state.position.skipped)
                self._epoch(step)
                self._note_best(keep=patience is not None)
                stop = [callback(self.model, state.history) for callback in callbacks]
                waited = patience is not None and state.epochs_since_best >= patience
                state.stopped = processes.any_of(any(stop) or waited)
                if keeper is not None:
                    state.position.begun = self._between(step.batches)
                    keeper.end_of_epoch(self.model, state, step, last=state.stopped or len(state.history) >= last)
        except KeyboardInterrupt:
            state.history.interrupted = True
            if processes.rank() == 0:
                logger.warning("Training was interrupted after %d epochs.", len(state.history))
        finally:
            step.close()
            if self.progress is not None:
                self.progress.close()
        if patience is not None and state.best_parameters is not None:
            self.model.load_state_dict(state.best_parameters)
        return state.history

    def _begin(self, patience: int | None) -> None:
        """Begin at an epoch's start; bounds of other rows or another estimator do not compare with those to come."""
        state = self.state
        state.position, state.stopped = Position(), False
        if patience is not None:
            state.epochs_since_best, state.best_parameters = 0, copy.deepcopy(self.model.state_dict())
            bound = self._validate()[0]
            state.best_bound = -math.inf if bound is None else bound

    def _epoch(self, step: EagerStep | CompiledStep) -> None:
        """Train for an epoch, or what is left of it, and note it."""
        state, at = self.state, self.state.position
        start = time.perf_counter() - at.seconds
        with (
            isolated(),
            seeded(self.seed, len(state.history)),
            tuned_processor(step.num_threads),
        ):
            for key in self._keys(step.batches):
                if self.keeper is not None:
                    step.ballot = self.keeper.wish()
                at.rows += self._advance(step, key)
                at.batches, at.skipped = at.batches + 1, step.skipped
                if self.keeper is not None and step.ballot:
                    at.seconds = time.perf_counter() - start
                    self.keeper.pause(self.model, state, step)
        step.settle()
        processes.synchronize(self.model.buffers())
        rows = int(processes.sum_of(torch.tensor(at.rows)))
        if rows == 0:
            raise ValueError(
                f"Some step of an epoch must be finite; got none of {at.batches} in epoch {len(state.history) + 1}."
                " Lower learning_rate, or look at the data with on_nonfinite='raise'."
            )
        if rows > MORE * step.batches.num_rows and not state.history:
            logger.warning(
                "An epoch has %d rows where num_rows is %d: loader's workers may each read all of them.",
                *(rows, step.batches.num_rows),
            )
        valid: list[float | None] = [None] * 4 if self.held_out is None else self._validate()
        names = ("bound", "reconstruction", "kl")
        train = _means(processes.sum_of(step.totals), rows)
        state.history.append(
            epoch=len(state.history) + 1,
            **{f"train_{n}": value for n, value in zip((*names, "objective"), train, strict=True)},
            **{f"valid_{name}": value for name, value in zip(names, valid[:3], strict=True)},
            learning_rate=state.optimizer.param_groups[0]["lr"],
            skipped=step.skipped,
            seconds=time.perf_counter() - start,
        )
        state.position = Position()
        if self.progress is not None:
            self.progress.epoch(state.history)

    def _keys(self, batches: Batches) -> Iterator[Any]:
        """What stands for the batches to come: those of the epoch, without the ones taken before an interruption."""
        at, epoch = self.state.position, len(self.state.history)
        if at.begun is not None:
            set_every_random_state(at.begun, batches.generators)
        if self.keeper is not None:
            at.begun = every_random_state(batches.generators)
        keys = batches.order(epoch)
        for _ in range(at.batches):
            next(keys, None)
        if at.now is not None:
            set_every_random_state(at.now, batches.generators)
        elif processes.rank() > 0 or at.batches:  # a process has noise of its own, and new noise if others are gone
            begin_stream(self.seed or 0, epoch, 2 + processes.rank(), at.batches)
        at.now = at.totals = None
        return keys

    def _between(self, batches: Batches) -> dict[str, Tensor]:
        """The random states that the next epoch begins with, torch's left out where it has a stream of its own."""
        states = every_random_state(batches.generators)
        own = self.seed is not None
        return {name: value for name, value in states.items() if not (own and name.startswith(("torch", "cuda")))}

    def _advance(self, step: EagerStep | CompiledStep, key: Any) -> int:
        """Take one step; returns the number of rows seen."""
        state = self.state
        if callable(state.learning_rate):
            set_rate(state)
        self.estimator.step, self.estimator.epoch = state.step, len(state.history)
        rows = step(key)
        state.step += 1
        if self.progress is not None:
            self.progress.batch()
        return rows

    def _validate(self) -> list[float | None]:
        """Bound, parts and objective of held-out rows, every weight on the KL removed, with common random numbers."""
        unweighted, held_out = self.estimator.unweighted(), self.held_out
        assert held_out is not None
        totals, rows = torch.zeros(4, dtype=torch.float64), 0
        with evaluating(self.model, seed=VALIDATION_SEED):
            for number, key in enumerate(held_out.order()):
                if number % processes.size() != processes.rank():
                    continue
                batch = held_out.read(key)
                x = batch.pop("x")
                with seeded(VALIDATION_SEED, number):
                    terms = unweighted.run(self.model.model, self.model.guide, x, num_rows=held_out.num_rows, **batch)
                totals += len(x) * terms.per_row().to(totals)
                rows += len(x)
        totals = processes.sum_of(totals)
        if not math.isfinite(totals[0]) and processes.rank() == 0:
            logger.warning(
                "The bound on the validation rows is %s: elbo(valid).bound tells of which rows.", float(totals[0])
            )
        return _means(totals, int(processes.sum_of(torch.tensor(rows))))

    def _note_best(self, *, keep: bool) -> None:
        """Count epochs since the best validation bound, and keep the parameters that had it."""
        state, bound = self.state, self.state.history.rows[-1]["valid_bound"]
        if bound is not None and bound > state.best_bound:
            state.best_bound, state.epochs_since_best = bound, 0
            state.best_parameters = copy.deepcopy(self.model.state_dict()) if keep else None
        else:
            state.epochs_since_best += 1


def _means(totals: Tensor, rows: int) -> list[float | None]:
    """Means over rows of bound, reconstruction, KL and objective; None where a part is unknown."""
    return [None if math.isnan(value) else value for value in (totals / max(rows, 1)).tolist()]
