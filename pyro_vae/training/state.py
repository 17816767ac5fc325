"""What a later `fit` continues from: optimizer, learning rate, history, the best parameters so far."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from pyro_vae.inference.pair import ProgramPair
from pyro_vae.schedules import value_at
from pyro_vae.training.history import History
from pyro_vae.training.step import Totals

__all__ = ["Position", "TrainingState", "prepare_state", "set_learning_rate"]

LearningRate = float | Callable[..., float]


@dataclass
class Position:
    """How far an epoch has come.

    Attributes:
        batches: the number of batches taken so far.
        num_rows: the number of rows that this process has trained on so far, without steps that were left out.
        seconds: the seconds spent so far.
        skipped: the number of steps left out, because something was not finite.
        begun: every random state as it was when the epoch began.
        now: every random state as it is now; None where the epoch was not interrupted.
        totals: sums over the steps so far; None likewise.
    """

    batches: int = 0
    num_rows: int = 0
    seconds: float = 0.0
    skipped: int = 0
    begun: dict[str, Tensor] | None = None
    now: dict[str, Tensor] | None = None
    totals: Totals | None = None


@dataclass
class TrainingState:
    """What a later `fit` continues from.

    Attributes:
        optimizer: the optimizer, with its moments.
        learning_rate: a number, a schedule, or a function of the steps taken.
        history: the table of all epochs.
        step: the number of steps taken.
        best_bound: the best validation bound so far.
        best_parameters: the parameters that reached it; None without patience.
        epochs_since_best: the number of epochs since then.
        position: how far the present epoch has come.
        stopped: whether a callback or patience ended the run.
    """

    optimizer: torch.optim.Optimizer
    learning_rate: LearningRate
    history: History = field(default_factory=History)
    step: int = 0
    best_bound: float = -math.inf
    best_parameters: dict[str, Any] | None = None
    epochs_since_best: int = 0
    position: Position = field(default_factory=Position)
    stopped: bool = False


def prepare_state(
    model: ProgramPair,
    optimizer: Callable[..., torch.optim.Optimizer] | None,
    learning_rate: LearningRate | None,
) -> TrainingState:
    """The state to continue from, with what this call of `fit` changes; it becomes the model's.

    A new optimizer is made in the first call, if this call passes one, and if other parameters are trained than before.

    Raises:
        TypeError, ValueError: if the learning rate is no positive number, schedule or function.
        TypeError: if `optimizer` does not make a first-order optimizer.
    """
    if not (learning_rate is None or callable(learning_rate) or isinstance(learning_rate, int | float)) or isinstance(
        learning_rate, bool
    ):
        raise TypeError(
            f"learning_rate must be a number, a schedule or a function; got {learning_rate!r}. Pass e.g. 1e-3."
        )
    if isinstance(learning_rate, int | float) and not (learning_rate > 0 and math.isfinite(learning_rate)):
        raise ValueError(f"learning_rate must be positive; got {learning_rate}. Pass e.g. 1e-3.")
    state: TrainingState | None = model.training_state
    rate = learning_rate if learning_rate is not None else (1e-3 if state is None else state.learning_rate)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    known = {id(p) for group in state.optimizer.param_groups for p in group["params"]} if state else set()
    if state is None or optimizer is not None or known != {id(p) for p in parameters}:
        made = _make_optimizer(optimizer, parameters, rate)
        state = state or TrainingState(made, rate)
        state.optimizer = made
    for parameter, moments in state.optimizer.state.items():  # the model may have changed its dtype or device since
        for name, value in moments.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape and name != "step":
                moments[name] = value.to(parameter)
    state.learning_rate = rate
    if learning_rate is not None:
        set_learning_rate(state)
    model.training_state = state
    return state


def _make_optimizer(
    make: Callable[..., torch.optim.Optimizer] | None, parameters: list[torch.nn.Parameter], rate: LearningRate
) -> torch.optim.Optimizer:
    """The user's optimizer, or Adam, over these parameters."""
    if make is None:
        make = partial(torch.optim.Adam, fused=all(parameter.is_floating_point() for parameter in parameters))
    try:
        made: Any = make(parameters, lr=value_at(rate, 0, 0))
    except TypeError as error:
        made = error
    if not isinstance(made, torch.optim.Optimizer) or isinstance(made, torch.optim.LBFGS):
        raise TypeError(
            f"optimizer must make a first-order torch.optim.Optimizer from (parameters, lr=...); got {made!r}."
            " Pass e.g. torch.optim.AdamW."
        )
    return made


def set_learning_rate(state: TrainingState) -> None:
    """Give the optimizer the learning rate of this step."""
    for group in state.optimizer.param_groups:
        group["lr"] = value_at(state.learning_rate, state.step, len(state.history))
