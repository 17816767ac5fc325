"""What priors, likelihoods and guides have in common: modules that keep their constructor's arguments."""

from __future__ import annotations

import inspect
import math
import os
from collections.abc import Sequence
from numbers import Integral
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

__all__ = [
    "Part",
    "as_path",
    "check_kind",
    "event",
    "flag",
    "is_integer",
    "is_number",
    "number",
    "positive",
    "positive_integer",
    "positive_number",
    "positive_numbers",
    "raw_of",
    "support",
]


class Part(nn.Module):
    """A module whose `forward` returns a `pyro.distributions` object.

    Every argument of the constructor is kept under its own name, as plain values (numbers, strings, tuples,
    dictionaries, other parts), so that `arguments` can be saved as JSON and the part built again.
    """

    def __init__(self) -> None:
        super().__init__()

    def arguments(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {name: getattr(self, name) for name in inspect.signature(type(self)).parameters}

    def extra_repr(self) -> str:
        return ", ".join(
            f"{name}={value!r}" for name, value in self.arguments().items() if not isinstance(value, nn.Module)
        )


def as_path(what: str, value: Any) -> Path:
    """The path of this name, `~` resolved; a TypeError that names `what` if it is none, a ValueError if none can be."""
    if not isinstance(value, str | os.PathLike):
        raise TypeError(f"{what} must be the name of a folder or file; got {value!r}. Pass e.g. {what}='runs/mine'.")
    try:
        if "\0" not in os.fspath(value):
            return Path(value).expanduser()
    except (TypeError, RuntimeError):  # of bytes; of a user that does not exist
        pass
    raise ValueError(f"{what} must be the name of a folder or file; got {value!r}. Correct it.")


def check_kind(role: str, part: Any, kind: Any) -> Any:
    """Return the part, or raise a TypeError if it is not of its kind."""
    if not isinstance(part, kind):
        room = kind.__module__.split(".")[1]
        raise TypeError(f"{role} must be a part of pv.{room}; got {part!r}. Pass an object.")
    return part


def positive_integer(what: str, value: Any, at_least: int = 1) -> int:
    """Return `value`, or raise a ValueError that names `what`."""
    if not is_integer(value) or value < at_least:
        kind = "a positive integer" if at_least == 1 else f"an integer of at least {at_least}"
        raise ValueError(f"{what} must be {kind}; got {value!r}. Pass e.g. {what}={max(16, at_least)}.")
    return int(value)


def is_integer(value: Any) -> bool:
    """Whether this is an integer, of Python or NumPy, not True or False."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def is_number(value: Any) -> bool:
    """Whether this is a finite number, not True or False."""
    return isinstance(value, int | float) and not isinstance(value, bool) and -math.inf < value < math.inf


def number(what: str, value: Any) -> float:
    """Return `value`, or raise a ValueError that names `what`."""
    if not is_number(value):
        raise ValueError(f"{what} must be a finite number; got {value!r}. Pass e.g. {what}=1.0.")
    return value  # type: ignore[no-any-return]


def positive_number(what: str, value: Any) -> float:
    """Return `value`, or raise a ValueError that names `what`."""
    if not is_number(value) or not value > 0:
        raise ValueError(f"{what} must be a positive number; got {value!r}. Pass e.g. {what}=1.0.")
    return value  # type: ignore[no-any-return]


def flag(what: str, value: Any) -> bool:
    """Return `value`, True or False, or raise a TypeError that names `what`."""
    if not isinstance(value, bool):
        raise TypeError(f"{what} must be True or False; got {value!r}. Pass one of these.")
    return value


def positive_numbers(what: str, value: Any, count: int) -> float | tuple[float, ...]:
    """Return `value`, one number or `count` of them, or raise a ValueError that names `what`."""
    if not isinstance(value, Sequence) or isinstance(value, str):
        return positive_number(what, value)
    if len(value) != count:
        raise ValueError(f"{what} must be one number or {count}; got {len(value)}. Give one for each.")
    return tuple(positive_number(what, number) for number in value)


def event(shape: int | Sequence[int]) -> tuple[int, ...]:
    """The shape of one row; raise a ValueError if it is empty or a size is not positive."""
    sizes = tuple(shape) if isinstance(shape, Sequence) else (shape,)
    if not sizes or any(not is_integer(size) or size < 1 for size in sizes):
        raise ValueError(f"event_shape must be positive integers; got {shape!r}. Pass e.g. (1, 28, 28) or 10.")
    return tuple(int(size) for size in sizes)


def positive(raw: Tensor) -> Tensor:
    """A scale from an unbounded number: a softplus shifted so that 0 gives 1, and kept above 1e-6 for float32."""
    return softplus(raw + 0.5413248546129181) + 1e-6


def raw_of(scale: Tensor) -> Tensor:
    """The unbounded number that `positive` maps to this scale."""
    above = (scale - 1e-6).clamp_min(1e-12)
    return above + torch.log(-torch.expm1(-above)) - 0.5413248546129181


def support(distribution: Any) -> str:
    """The name of the set that a coordinate, or a whole event, lies in; empty where the distribution does not tell."""
    try:
        constraint: Any = distribution.support
    except (NotImplementedError, AttributeError):
        return ""
    while hasattr(constraint, "base_constraint"):
        constraint = constraint.base_constraint
    return str(constraint)
