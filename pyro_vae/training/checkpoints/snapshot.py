"""What a checkpoint holds: a run as tensors and plain values, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from pyro_vae.inference.pair import ProgramPair
from pyro_vae.saving.description import is_plain
from pyro_vae.training.state import Position, TrainingState
from pyro_vae.training.step import Totals

__all__ = ["part", "restore", "take"]

NUMBERS = {"batches": "batches", "rows": "num_rows", "seconds": "seconds", "skipped": "skipped"}  # of a `Position`


def take(model: ProgramPair, state: TrainingState) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Parameters, optimizer, random states, position and history of a run, as tensors and plain values by name.

    Raises:
        TypeError: if the optimizer keeps anything but tensors and plain values.
    """
    optimizer = state.optimizer.state_dict()
    moments = {f"{i}.{name}": value for i, values in optimizer["state"].items() for name, value in values.items()}
    groups = {f"group.{i}.{k}": v for i, group in enumerate(optimizer["param_groups"]) for k, v in group.items()}
    plain = {name: value for name, value in (moments | groups).items() if not isinstance(value, Tensor)}
    others = [name for name, value in plain.items() if not is_plain(value)]
    if others:
        raise TypeError(
            f"optimizer must keep tensors and plain values to be written to run_dir; got {plain[others[0]]!r} as"
            f" {others[0]}. Use one of torch.optim, or train without run_dir."
        )
    position = state.position
    tensors = {
        "model": model.state_dict(),
        "best": state.best_parameters or {},
        "optimizer": {name: value for name, value in (moments | groups).items() if isinstance(value, Tensor)},
        "begun": position.begun or {},
        "now": position.now or {},
        "position": {} if position.totals is None else {"totals": position.totals.to_tensor()},
    }
    record = {
        "optimizer": plain,
        "position": {stored: getattr(position, name) for stored, name in NUMBERS.items()},
        "history": state.history.rows,
        "step": state.step,
        "best_bound": state.best_bound,
        "epochs_since_best": state.epochs_since_best,
        "stopped": state.stopped,
    }
    return {f"{kind}/{name}": value for kind, named in tensors.items() for name, value in named.items()}, record


def restore(model: ProgramPair, state: TrainingState, tensors: Mapping[str, Tensor], record: Mapping[str, Any]) -> None:
    """Set model and state back to what `take` returned."""
    model.load_state_dict(part(tensors, "model"))
    _restore_optimizer(state.optimizer, record["optimizer"] | part(tensors, "optimizer"))
    state.best_parameters = part(tensors, "best") or None
    state.history.rows[:] = record["history"]
    state.step, state.best_bound = record["step"], record["best_bound"]
    state.epochs_since_best, state.stopped = record["epochs_since_best"], record["stopped"]
    begun, now = part(tensors, "begun") or None, part(tensors, "now") or None
    sums = tensors.get("position/totals")
    totals = None if sums is None else Totals.from_tensor(sums)
    numbers = {NUMBERS[stored]: value for stored, value in record["position"].items()}
    state.position = Position(**numbers, begun=begun, now=now, totals=totals)


def part(tensors: Mapping[str, Tensor], kind: str) -> dict[str, Tensor]:
    """The tensors of one kind, by the rest of their names."""
    return {name.removeprefix(f"{kind}/"): value for name, value in tensors.items() if name.startswith(f"{kind}/")}


def _restore_optimizer(optimizer: torch.optim.Optimizer, values: Mapping[str, Any]) -> None:
    whole = optimizer.state_dict()
    state: dict[int, dict[str, Any]] = {}
    for name, value in values.items():
        first, _, rest = name.partition(".")
        if first != "group":
            state.setdefault(int(first), {})[rest] = value
            continue
        index, _, option = rest.partition(".")
        group = whole["param_groups"][int(index)]
        group[option] = tuple(value) if isinstance(group.get(option), tuple) else value
    optimizer.load_state_dict({"state": state, "param_groups": whole["param_groups"]})
