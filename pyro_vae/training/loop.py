"""The loop of training: epochs of steps, validation, and the table of what came of them."""

from __future__ import annotations

import copy
import itertools
import logging
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyro_vae.data.batches import Batches
from pyro_vae.elbos import Estimator
from pyro_vae.inference.pair import ProgramPair
from pyro_vae.runtime import processes
from pyro_vae.runtime.isolation import evaluating, isolated
from pyro_vae.runtime.processor import tuned_processor
from pyro_vae.runtime.random import begin_stream, every_random_state, seeded, set_every_random_state
from pyro_vae.training.checkpoints.writer import CheckpointWriter
from pyro_vae.training.divergence import DivergenceWatch
from pyro_vae.training.history import History
from pyro_vae.training.options import FitOptions
from pyro_vae.training.progress import ProgressBar
from pyro_vae.training.state import Position, TrainingState, set_learning_rate
from pyro_vae.training.step import Step, Totals

__all__ = ["Loop"]

logger = logging.getLogger("pyro_vae")
REPEATED_ROWS = 1.1  # an epoch with more rows than this times num_rows is reported: samplers may repeat a few
VALIDATION_SEED = 0  # common random numbers: validation bounds of different epochs differ by the parameters alone


@dataclass
class Loop:
    """Trains a model for epochs.

    Attributes:
        model: the pair of programs.
        options: the options of `fit`.
        state: what changes: optimizer, history, position.
        estimator: what is maximized.
        held_out: the validation rows, or None.
        seed: seed of the random streams, one for each epoch; None for the global stream.
        writer: the writer of checkpoints, or None.
        progress: what shows the run, or None.
    """

    model: ProgramPair
    options: FitOptions
    state: TrainingState
    estimator: Estimator
    held_out: Batches | None
    seed: int | None
    writer: CheckpointWriter | None
    progress: ProgressBar | None

    def run(self, step: Step) -> History:
        """Train for `options.epochs` epochs, or fewer where a callback or patience ends the run; returns the table."""
        state, writer, patience = self.state, self.writer, self.options.patience
        state.history.interrupted = False
        if writer is None or writer.saved is None:
            self._begin_run()
        epochs = self.options.epochs if writer is None else writer.epochs_left(self.options.epochs, state)
        last = len(state.history) + epochs
        watch = DivergenceWatch(self.model, type(self.estimator).__name__) if self.estimator.guide_may_diverge else None
        try:
            while len(state.history) < last and not state.stopped:
                step = step.begin_epoch(state.position.totals, state.position.skipped)
                self._train_epoch(step)
                if watch is not None:
                    watch.check(state.history.rows[-1])
                self._note_best()
                stop = [callback(self.model, state.history) for callback in self.options.callbacks]
                waited = patience is not None and state.epochs_since_best >= patience
                state.stopped = processes.any_of(any(stop) or waited)
                if writer is not None:
                    state.position.begun = self._random_state_between_epochs(step.batches)
                    is_last = state.stopped or len(state.history) >= last
                    writer.write_after_epoch(self.model, state, step, is_last=is_last)
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

    def _begin_run(self) -> None:
        """Begin at the start of an epoch.

        The best bound so far is computed again: the validation rows or the estimator may have changed.
        """
        state = self.state
        state.position, state.stopped = Position(), False
        if self.options.patience is not None:
            state.epochs_since_best, state.best_parameters = 0, copy.deepcopy(self.model.state_dict())
            bound = self._validate()["bound"]
            state.best_bound = -math.inf if bound is None else bound

    def _train_epoch(self, step: Step) -> None:
        """Train for an epoch, or the rest of one, and add its line to the history."""
        state, position = self.state, self.state.position
        start = time.perf_counter() - position.seconds
        with isolated(), seeded(self.seed, len(state.history)), tuned_processor(step.num_threads):
            for key in self._begin_order(step.batches):
                if self.writer is not None:
                    step.ask(self.writer.request())
                position.num_rows += self._take_step(step, key)
                position.batches, position.skipped = position.batches + 1, step.skipped
                if self.writer is not None and step.granted:
                    position.seconds = time.perf_counter() - start
                    self.writer.write_within_epoch(self.model, state, step)
        step.settle()
        processes.synchronize(self.model.buffers())
        num_rows = self._check_num_rows(step.batches)
        train = _means(processes.sum_of(step.totals.sum()), num_rows)
        valid = dict.fromkeys(Totals.PARTS) if self.held_out is None else self._validate()
        del valid["objective"]
        state.history.append(
            epoch=len(state.history) + 1,
            **{f"train_{part}": value for part, value in train.items()},
            **{f"valid_{part}": value for part, value in valid.items()},
            learning_rate=state.optimizer.param_groups[0]["lr"],
            skipped=step.skipped,
            seconds=time.perf_counter() - start,
        )
        state.position = Position()
        if self.progress is not None:
            self.progress.show_epoch(state.history)

    def _check_num_rows(self, batches: Batches) -> int:
        """The number of rows that all processes trained on in this epoch.

        Raises:
            ValueError: if every step was left out.
        """
        position, history = self.state.position, self.state.history
        num_rows = int(processes.sum_of(torch.tensor(position.num_rows)))
        if num_rows == 0:
            raise ValueError(
                f"Some step of an epoch must be finite; got none of {position.batches} in epoch {len(history) + 1}."
                " Lower learning_rate, or look at the data with on_nonfinite='raise'."
            )
        if num_rows > REPEATED_ROWS * batches.num_rows and not history:
            logger.warning(
                "An epoch has %d rows where num_rows is %d: each worker of the loader may read all of them.",
                *(num_rows, batches.num_rows),
            )
        return num_rows

    def _begin_order(self, batches: Batches) -> Iterator[Any]:
        """Set the random states that this epoch begins or continues with.

        Returns:
            The keys of its batches, without those that were used before an interruption.
        """
        position, epoch = self.state.position, len(self.state.history)
        if position.begun is not None:
            set_every_random_state(position.begun, batches.generators)
        if self.writer is not None:
            position.begun = every_random_state(batches.generators)
        keys = batches.order(epoch)
        for _ in range(position.batches):
            next(keys, None)
        if position.now is not None:
            set_every_random_state(position.now, batches.generators)
        elif processes.rank() > 0 or position.batches:
            # Each process has noise of its own, and new noise where a run is resumed by another number of processes.
            begin_stream(self.seed or 0, epoch, 2 + processes.rank(), position.batches)
        position.now = position.totals = None
        return keys

    def _random_state_between_epochs(self, batches: Batches) -> dict[str, Tensor]:
        """The random states that the next epoch begins with, without torch's where a seed gives it a stream."""
        states = every_random_state(batches.generators)
        own = self.seed is not None
        return {name: value for name, value in states.items() if not (own and name.startswith(("torch", "cuda")))}

    def _take_step(self, step: Step, key: Any) -> int:
        """Set the learning rate if it follows a schedule, then take one step; returns what the step returns."""
        state = self.state
        if callable(state.learning_rate):
            set_learning_rate(state)
        self.estimator.step, self.estimator.epoch = state.step, len(state.history)
        num_rows = step(key)
        state.step += 1
        if self.progress is not None:
            self.progress.count_step()
        return num_rows

    def _validate(self) -> dict[str, float | None]:
        """Means over the validation rows, every weight on the KL removed, with common random numbers."""
        unweighted, held_out = self.estimator.unweighted(), self.held_out
        assert held_out is not None
        totals, num_rows = torch.zeros(4, dtype=torch.float64), 0
        with evaluating(self.model, seed=VALIDATION_SEED, subsampling=True):
            own = processes.own()
            for number, key in itertools.islice(enumerate(held_out.order()), own.start, None, own.step):
                batch = held_out.read(key)
                x = batch.pop("x")
                with seeded(VALIDATION_SEED, number):
                    terms = unweighted.run(self.model.model, self.model.guide, x, num_rows=held_out.num_rows, **batch)
                totals += len(x) * terms.per_row().to(totals)
                num_rows += len(x)
        totals = processes.sum_of(totals)
        if not math.isfinite(totals[0]) and processes.rank() == 0:
            logger.warning(
                "The bound on the validation rows is %s: elbo(valid).bound shows for which rows.", float(totals[0])
            )
        return _means(totals, int(processes.sum_of(torch.tensor(num_rows))))

    def _note_best(self) -> None:
        """Count the epochs since the best validation bound; with patience, keep the parameters that reached it."""
        state, bound = self.state, self.state.history.rows[-1]["valid_bound"]
        if bound is not None and bound > state.best_bound:
            keep = self.options.patience is not None
            state.best_bound, state.epochs_since_best = bound, 0
            state.best_parameters = copy.deepcopy(self.model.state_dict()) if keep else None
        else:
            state.epochs_since_best += 1


def _means(totals: Tensor, num_rows: int) -> dict[str, float | None]:
    """Means over rows of bound, reconstruction, KL and objective; None where a part is unknown."""
    means = (totals / max(num_rows, 1)).tolist()
    return {part: None if math.isnan(mean) else mean for part, mean in zip(Totals.PARTS, means, strict=True)}
