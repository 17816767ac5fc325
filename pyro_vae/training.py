"""The loop: batches in, gradient steps, a table out."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

import pyro.infer
import torch
from torch import Tensor, nn

from pyro_vae import door, scope
from pyro_vae.batches import Batches, Rows, warn_of_lost_digits
from pyro_vae.elbos import Estimator, from_pyro
from pyro_vae.history import History
from pyro_vae.parts import positive_integer
from pyro_vae.schedules import value_at

__all__ = ["Progress", "TrainingState", "fit"]

VALIDATION_SEED = 0  # common random numbers: validation bounds of different epochs differ by the parameters alone


class Progress(Protocol):
    """What shows a run while it goes on."""

    def batch(self) -> None: ...
    def epoch(self, history: History) -> None: ...
    def close(self) -> None: ...


@dataclass
class TrainingState:
    """What a later `fit` goes on from."""

    optimizer: torch.optim.Optimizer
    learning_rate: float | Callable[..., float]
    history: History = field(default_factory=History)
    step: int = 0
    best_bound: float = -math.inf
    best_parameters: dict[str, Any] | None = None
    epochs_since_best: int = 0


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
    progress: Progress | None = None,
) -> History:
    """Train a model and its guide; see `LatentVariableModel.fit`, which calls this."""
    epochs, batch_size = positive_integer("epochs", epochs), positive_integer("batch_size", batch_size)
    _check_options(valid, patience, grad_clip, num_rows, callbacks)
    if device is not None:
        model.to(device)
    options: dict[str, Any] = {"like": model.like, "fields": fields, "batch_size": batch_size}
    batches = Batches(data, num_rows=num_rows, **options)
    held_out = None if valid is None else Batches(valid, shuffle=False, **options)
    for part in (batches, held_out):
        if part is not None:
            model.check_rows(_everything(part))
    warn_of_lost_digits(batches.data, model.like)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    try:
        if not model.initialized:
            with torch.no_grad():
                model.initialize(_everything(batches))
                model.initialized.fill_(True)
        estimator = _open_the_door(model, batches, pyro.infer.Trace_ELBO() if elbo is None else elbo)
        state = _state(model, optimizer, learning_rate)
    except BaseException:
        model.load_state_dict(before)
        raise
    state.history.interrupted = False
    if patience is not None and held_out is not None:  # bounds of other rows or another estimator do not compare
        state.epochs_since_best, state.best_parameters = 0, copy.deepcopy(model.state_dict())
        state.best_bound = _validate(model, estimator, held_out)[0] or -math.inf
    modes = [(part, part.training) for part in model.modules()]
    model.train()
    try:
        for _ in range(epochs):
            _epoch(model, state, estimator, batches, held_out, grad_clip, seed, progress)
            _note_best(model, state, keep=patience is not None)
            stop = [callback(model, state.history) for callback in callbacks]
            if any(stop) or (patience is not None and state.epochs_since_best >= patience):
                break
    except KeyboardInterrupt:
        state.history.interrupted = True
    finally:
        model.zero_grad()
        for part, training in modes:
            part.training = training
        if progress is not None:
            progress.close()
    if patience is not None and state.best_parameters is not None:
        model.load_state_dict(state.best_parameters)
    return state.history


def _check_options(valid: Any, patience: Any, grad_clip: Any, num_rows: Any, callbacks: Any) -> None:
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


def _everything(batches: Batches) -> Tensor:
    """All rows where they are in memory, else the first batch; the random state is left alone."""
    with scope.preserved_rng():
        if isinstance(batches.data, Rows):
            return batches.data.take(slice(None), like=batches.like)["x"]
        return batches.first()["x"]


def _open_the_door(model: Any, batches: Batches, elbo: pyro.infer.ELBO) -> Estimator:
    """Check the first batch strictly; returns the estimator to train with."""
    with scope.preserved_rng():
        batch = batches.first()
    x, fields = batch.pop("x"), batch
    row_weights = {"row_weights": fields.pop("row_weights")} if "row_weights" in fields else {}
    estimator = from_pyro(elbo, reparameterized=door.check_programs(model, x, fields))
    door.check_gradients(model, estimator, x, num_rows=batches.num_rows, **row_weights, **fields)
    return estimator


def _state(
    model: Any,
    optimizer: Callable[..., torch.optim.Optimizer] | None,
    learning_rate: float | Callable[..., float] | None,
) -> TrainingState:
    """The state to go on from: the last one, with what the call asks for anew."""
    rate = learning_rate
    if not (rate is None or callable(rate) or isinstance(rate, int | float)):
        raise TypeError(f"learning_rate must be a number, a schedule or a function; got {rate!r}. Pass e.g. 1e-3.")
    if isinstance(rate, int | float) and not (rate > 0 and math.isfinite(rate)):
        raise ValueError(f"learning_rate must be positive; got {rate}. Pass e.g. 1e-3.")
    state: TrainingState | None = model.training_state
    rate = rate if rate is not None else (1e-3 if state is None else state.learning_rate)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    known = {id(p) for group in state.optimizer.param_groups for p in group["params"]} if state else set()
    if state is None or optimizer is not None or known != {id(p) for p in parameters}:
        make = optimizer or partial(torch.optim.Adam, fused=all(p.is_floating_point() for p in parameters))
        try:
            built: Any = make(parameters, lr=value_at(rate, 0, 0))
        except TypeError as error:
            built = error
        if not isinstance(built, torch.optim.Optimizer) or isinstance(built, torch.optim.LBFGS):
            raise TypeError(
                f"optimizer must make a first-order torch.optim.Optimizer from (parameters, lr=...); got {built!r}."
                " Pass e.g. torch.optim.AdamW."
            )
        state = state or TrainingState(built, rate)
        state.optimizer = built
    for parameter, moments in state.optimizer.state.items():  # the model may have changed its dtype or device since
        for name, value in moments.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape and name != "step":
                moments[name] = value.to(parameter)
    state.learning_rate = rate
    if learning_rate is not None:
        _set_rate(state)
    model.training_state = state
    return state


def _set_rate(state: TrainingState) -> None:
    for group in state.optimizer.param_groups:
        group["lr"] = value_at(state.learning_rate, state.step, len(state.history))


def _epoch(
    model: Any,
    state: TrainingState,
    estimator: Estimator,
    batches: Batches,
    held_out: Batches | None,
    grad_clip: float | None,
    seed: int | None,
    progress: Progress | None,
) -> None:
    start = time.perf_counter()
    with scope.isolated(), scope.seeded(seed, len(state.history)):
        train = _mean_over_rows(
            _step(model, state, estimator, batch, batches.num_rows, grad_clip, progress) for batch in batches
        )
    valid: list[float | None] = [None] * 4
    if held_out is not None:
        valid = _validate(model, estimator, held_out)
    names = ("bound", "reconstruction", "kl")
    state.history.append(
        epoch=len(state.history) + 1,
        **{f"train_{name}": value for name, value in zip((*names, "objective"), train, strict=True)},
        **{f"valid_{name}": value for name, value in zip(names, valid[:3], strict=True)},
        learning_rate=state.optimizer.param_groups[0]["lr"],
        seconds=time.perf_counter() - start,
    )
    if progress is not None:
        progress.epoch(state.history)


def _step(
    model: Any,
    state: TrainingState,
    estimator: Estimator,
    batch: dict[str, Tensor],
    num_rows: int,
    grad_clip: float | None,
    progress: Progress | None,
) -> tuple[int, Tensor]:
    """One gradient step; nothing is changed when loss or gradient are not finite."""
    parameters = state.optimizer.param_groups[0]["params"]
    if callable(state.learning_rate):
        _set_rate(state)
    state.optimizer.zero_grad()
    estimator.step, estimator.epoch = state.step, len(state.history)
    x = batch.pop("x")
    terms = estimator.backward(parameters, model.model, model.guide, x, num_rows=num_rows, **batch)
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    norm = nn.utils.get_total_norm(gradients)
    if not torch.isfinite(terms.objective.detach() + norm):
        raise ValueError(door.explain_nonfinite(terms.weights, model, state.step, terms.objective.detach()))
    if grad_clip is not None:
        nn.utils.clip_grads_with_norm_(parameters, grad_clip, norm)
    state.optimizer.step()
    state.step += 1
    if progress is not None:
        progress.batch()
    return len(x), terms.per_row()


def _validate(model: Any, estimator: Estimator, held_out: Batches) -> list[float | None]:
    """Bound, parts and objective of held-out rows, every weight on the KL removed, with common random numbers."""
    unweighted = estimator.unweighted()
    with scope.evaluating(model, seed=VALIDATION_SEED):
        return _mean_over_rows(_evaluate(model, unweighted, batch, held_out.num_rows) for batch in held_out)


def _evaluate(model: Any, estimator: Estimator, batch: dict[str, Tensor], num_rows: int) -> tuple[int, Tensor]:
    x = batch.pop("x")
    return len(x), estimator.run(model.model, model.guide, x, num_rows=num_rows, **batch).per_row()


def _mean_over_rows(parts: Any) -> list[float | None]:
    """Row-weighted means of the batches' (bound, reconstruction, kl, objective); None where a part is unknown."""
    total, rows = torch.zeros(4, dtype=torch.float64), 0
    for count, values in parts:
        total += count * values.to(total)
        rows += count
    return [None if math.isnan(value) else value for value in (total / max(rows, 1)).tolist()]


def _note_best(model: nn.Module, state: TrainingState, *, keep: bool) -> None:
    """Count epochs since the best validation bound, and keep the parameters that had it."""
    bound = state.history.rows[-1]["valid_bound"]
    if bound is not None and bound > state.best_bound:
        state.best_bound, state.epochs_since_best = bound, 0
        state.best_parameters = copy.deepcopy(model.state_dict()) if keep else None
    else:
        state.epochs_since_best += 1
