"""What a later fit goes on from: optimiser, learning rate, history, the best parameters so far."""

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

__all__ = ["Position", "TrainingState", "prepared", "set_rate"]


@dataclass
class Position:
    """How far an epoch has come.

    Attributes:
        batches: taken so far.
        rows: seen so far by this process.
        seconds: spent so far.
        skipped: steps left out because something was not finite.
        begun: every random state as the epoch began.
        now: every random state as it goes on; None where it was not interrupted.
        totals: sums of the step; None likewise.
    """

    batches: int = 0
    rows: int = 0
    seconds: float = 0.0
    skipped: int = 0
    begun: dict[str, Tensor] | None = None
    now: dict[str, Tensor] | None = None
    totals: Tensor | None = None


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
    position: Position = field(default_factory=Position)
    stopped: bool = False


def prepared(
    model: ProgramPair,
    optimizer: Callable[..., torch.optim.Optimizer] | None,
    learning_rate: float | Callable[..., float] | None,
) -> TrainingState:
    """The state to go on from: the last one, with what the call asks for anew."""
    rate = learning_rate
    if not (rate is None or callable(rate) or isinstance(rate, int | float)) or isinstance(rate, bool):
        raise TypeError(f"learning_rate must be a number, a schedule or a function; got {rate!r}. Pass e.g. 1e-3.")
    if isinstance(rate, int | float) and not (rate > 0 and math.isfinite(rate)):
        raise ValueError(f"learning_rate must be positive; got {rate}. Pass e.g. 1e-3.")
    state: TrainingState | None = model.training_state
    rate = rate if rate is not None else (1e-3 if state is None else state.learning_rate)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    known = {id(p) for group in state.optimizer.param_groups for p in group["params"]} if state else set()
    if state is None or optimizer is not None or known != {id(p) for p in parameters}:
        make = (
            optimizer
            if optimizer is not None
            else partial(torch.optim.Adam, fused=all(p.is_floating_point() for p in parameters))
        )
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
        set_rate(state)
    model.training_state = state
    return state


def set_rate(state: TrainingState) -> None:
    for group in state.optimizer.param_groups:
        group["lr"] = value_at(state.learning_rate, state.step, len(state.history))
