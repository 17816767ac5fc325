"""The loop: batches in, gradient steps, a table out."""

from __future__ import annotations

import copy
import logging
import math
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import pyro.infer
import torch
from torch import Tensor, nn

from pyro_vae import capture, door, scope
from pyro_vae.batches import Batches, Rows, warn_of_lost_digits
from pyro_vae.capture import CompiledStep
from pyro_vae.elbos import Estimator, from_pyro
from pyro_vae.graphs import CaptureError
from pyro_vae.history import History
from pyro_vae.parts import positive_integer
from pyro_vae.state import TrainingState, prepared, set_rate
from pyro_vae.steps import EagerStep

__all__ = ["Progress", "fit"]

logger = logging.getLogger("pyro_vae")

VALIDATION_SEED = 0  # common random numbers: validation bounds of different epochs differ by the parameters alone


class Progress(Protocol):
    """What shows a run while it goes on."""

    def batch(self) -> None: ...
    def epoch(self, history: History) -> None: ...
    def close(self) -> None: ...


def fit(
    model: Any,
    data: Any,
    *,
    elbo: pyro.infer.ELBO | None = None,
    epochs: int = 100,
    batch_size: int = 128,
    learning_rate: float | Callable[..., float] | None = None,
    optimizer: Callable[..., torch.optim.Optimizer] | None = None,
    valid: Any = None,
    patience: int | None = None,
    grad_clip: float | None = None,
    num_rows: int | None = None,
    seed: int | None = None,
    device: torch.device | str | None = None,
    fields: Sequence[str] = (),
    callbacks: Sequence[Callable[[Any, History], bool | None]] = (),
    compile: bool | str = "auto",
    progress: Progress | None = None,
) -> History:
    """Train a model and its guide; see `LatentVariableModel.fit`, which calls this."""
    epochs, batch_size = positive_integer("epochs", epochs), positive_integer("batch_size", batch_size)
    _check_options(valid, patience, grad_clip, num_rows, callbacks, compile)
    if device is not None:
        model.to(device)
    options: dict[str, Any] = {"like": model.like, "fields": fields, "batch_size": batch_size}
    batches = Batches(data, num_rows=num_rows, **options)
    held_out = None if valid is None else Batches(valid, shuffle=False, **options)
    for part in (batches, held_out):
        if part is not None:
            model.check_rows(_everything(part)["x"])
    warn_of_lost_digits(batches.data, model.like)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    earlier = copy.copy(model.training_state)
    rates = [] if earlier is None else [group["lr"] for group in earlier.optimizer.param_groups]
    modes = [(part, part.training) for part in model.modules()]
    try:
        if not model.initialized:
            with torch.no_grad(), scope.seeded(seed, 0, 1):  # a stream that no epoch has
                model.initialize(**_everything(batches))
                model.initialized.fill_(True)
        estimator = _open_the_door(model, batches, pyro.infer.Trace_ELBO() if elbo is None else elbo)
        state = prepared(model, optimizer, learning_rate)
        model.train()
        step = _step(EagerStep(model, estimator, state.optimizer, batches, grad_clip), epochs, compile)
    except BaseException:
        model.load_state_dict(before)
        model.training_state = earlier
        for rate, group in zip(rates, earlier.optimizer.param_groups if earlier else (), strict=True):
            group["lr"] = rate
        _set_modes(modes)
        raise
    state.history.interrupted = False
    if patience is not None and held_out is not None:  # bounds of other rows or another estimator do not compare
        state.epochs_since_best, state.best_parameters = 0, copy.deepcopy(model.state_dict())
        state.best_bound = _validate(model, estimator, held_out)[0] or -math.inf
    try:
        for _ in range(epochs):
            step = step.begin()
            _epoch(state, step, held_out, seed, progress)
            _note_best(model, state, keep=patience is not None)
            stop = [callback(model, state.history) for callback in callbacks]
            if any(stop) or (patience is not None and state.epochs_since_best >= patience):
                break
    except KeyboardInterrupt:
        state.history.interrupted = True
    finally:
        step.close()
        _set_modes(modes)
        if progress is not None:
            progress.close()
    if patience is not None and state.best_parameters is not None:
        model.load_state_dict(state.best_parameters)
    return state.history


def _set_modes(modes: list[tuple[nn.Module, bool]]) -> None:
    for part, training in modes:
        part.training = training


def _check_options(valid: Any, patience: Any, grad_clip: Any, num_rows: Any, callbacks: Any, compile: Any) -> None:
    if compile not in (True, False, "auto"):
        raise ValueError(f"compile must be True, False or 'auto'; got {compile!r}. 'auto' compiles where it pays.")
    if num_rows is not None:
        positive_integer("num_rows", num_rows)
    if callable(callbacks):
        raise TypeError(f"callbacks must be a sequence of functions; got {callbacks!r}. Pass [function].")
    if patience is not None and (valid is None or positive_integer("patience", patience) < 1):
        raise ValueError("valid must be given where patience is; got None. Pass rows that training does not see.")
    if isinstance(valid, int | float | str):
        raise TypeError(f"valid must be rows, in any form that data takes; got {valid!r}. Split the data first.")
    if grad_clip is not None and not grad_clip > 0:
        raise ValueError(f"grad_clip must be positive; got {grad_clip}. It is the largest norm of the gradient.")


def _everything(batches: Batches) -> dict[str, Tensor]:
    """All rows where they are in memory, else the first batch; the random state is left alone."""
    with scope.preserved_rng():
        if isinstance(batches.data, Rows):
            return batches.data.take(slice(None), batches.names, like=batches.like)
        return batches.read(batches.first())


def _open_the_door(model: Any, batches: Batches, elbo: pyro.infer.ELBO) -> Estimator:
    """Check the first batch strictly; returns the estimator to train with."""
    with scope.preserved_rng():
        batch = batches.read(batches.first())
    x, fields = batch.pop("x"), batch
    row_weights = {"row_weights": fields.pop("row_weights")} if "row_weights" in fields else {}
    estimator = from_pyro(elbo, reparameterized=door.check_programs(model, x, fields))
    door.check_gradients(model, estimator, x, num_rows=batches.num_rows, **row_weights, **fields)
    return estimator


def _step(eager: EagerStep, epochs: int, compile: bool | str) -> EagerStep | CompiledStep:
    """The way to take steps: compiled where that is asked for, or repays itself."""
    batches = eager.batches
    if not (capture.pays(eager, epochs) if compile == "auto" else compile):
        return eager
    try:
        return CompiledStep(eager, batches.first(), num_threads=capture.threads(eager))
    except CaptureError as reason:
        if compile != "auto":
            raise RuntimeError(
                f"The step must be one that can be captured; got {reason}. Change the program, or pass compile='auto'."
            ) from reason
        logger.warning("Training is not compiled: %s.", reason)
        return eager


def _epoch(
    state: TrainingState,
    step: EagerStep | CompiledStep,
    held_out: Batches | None,
    seed: int | None,
    progress: Progress | None,
) -> None:
    """Train for an epoch, and note it."""
    start = time.perf_counter()
    model, estimator = step.model, step.estimator
    with scope.isolated(), scope.seeded(seed, len(state.history)), scope.tuned_processor(step.num_threads):
        rows = sum(_advance(state, step, key, progress) for key in step.batches.order())
    step.settle()
    valid: list[float | None] = [None] * 4
    if held_out is not None:
        valid = _validate(model, estimator, held_out)
    names = ("bound", "reconstruction", "kl")
    state.history.append(
        epoch=len(state.history) + 1,
        **{f"train_{n}": value for n, value in zip((*names, "objective"), _means(step.totals, rows), strict=True)},
        **{f"valid_{name}": value for name, value in zip(names, valid[:3], strict=True)},
        learning_rate=state.optimizer.param_groups[0]["lr"],
        seconds=time.perf_counter() - start,
    )
    if progress is not None:
        progress.epoch(state.history)


def _advance(state: TrainingState, step: EagerStep | CompiledStep, key: Any, progress: Progress | None) -> int:
    """Take one step; returns the number of rows seen."""
    if callable(state.learning_rate):
        set_rate(state)
    step.estimator.step, step.estimator.epoch = state.step, len(state.history)
    rows = step(key)
    state.step += 1
    if progress is not None:
        progress.batch()
    return rows


def _validate(model: Any, estimator: Estimator, held_out: Batches) -> list[float | None]:
    """Bound, parts and objective of held-out rows, every weight on the KL removed, with common random numbers."""
    unweighted = estimator.unweighted()
    totals, rows = torch.zeros(4, dtype=torch.float64), 0
    with scope.evaluating(model, seed=VALIDATION_SEED):
        for batch in held_out:
            x = batch.pop("x")
            terms = unweighted.run(model.model, model.guide, x, num_rows=held_out.num_rows, **batch)
            totals += len(x) * terms.per_row().to(totals)
            rows += len(x)
    return _means(totals, rows)


def _means(totals: Tensor, rows: int) -> list[float | None]:
    """Means over rows of bound, reconstruction, KL and objective; None where a part is unknown."""
    return [None if math.isnan(value) else value for value in (totals / max(rows, 1)).tolist()]


def _note_best(model: nn.Module, state: TrainingState, *, keep: bool) -> None:
    """Count epochs since the best validation bound, and keep the parameters that had it."""
    bound = state.history.rows[-1]["valid_bound"]
    if bound is not None and bound > state.best_bound:
        state.best_bound, state.epochs_since_best = bound, 0
        state.best_parameters = copy.deepcopy(model.state_dict()) if keep else None
    else:
        state.epochs_since_best += 1
