"""What priors, likelihoods and guides have in common: modules that keep their constructor's arguments."""

from __future__ import annotations

import inspect
import math
import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

__all__ = [
    "Part",
    "check_kind",
    "event",
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


def check_kind(role: str, part: Any, kind: Any) -> Any:
    """Return the part, or raise a TypeError if it is not of its kind."""
    if not isinstance(part, kind):
        room = kind.__module__.split(".")[1]
        raise TypeError(f"{role} must be a part of pv.{room}; got {part!r}. Pass an object.")
    return part


def positive_integer(what: str, value: Any, at_least: int = 1) -> int:
    """Return `value`, or raise a ValueError that names `what`."""
    number = operator.index(value) if hasattr(value, "__index__") and not isinstance(value, bool) else 0
    if number < at_least:
        kind = "a positive integer" if at_least == 1 else f"an integer of at least {at_least}"
        raise ValueError(f"{what} must be {kind}; got {value!r}. Pass e.g. {what}={max(16, at_least)}.")
    return number


def positive_number(what: str, value: Any) -> float:
    """Return `value`, or raise a ValueError that names `what`."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not (value > 0 and math.isfinite(value)):
        raise ValueError(f"{what} must be a positive number; got {value!r}. Pass e.g. {what}=1.0.")
    return value


def positive_numbers(what: str, value: Any, count: int) -> float | tuple[float, ...]:
    """Return `value`, one number or `count` of them, or raise a ValueError that names `what`."""
    if not isinstance(value, Sequence):
        return positive_number(what, value)
    if len(value) != count:
        raise ValueError(f"{what} must be one number or {count}; got {len(value)}. Give one for each.")
    return tuple(positive_number(what, number) for number in value)


def event(shape: int | Sequence[int]) -> tuple[int, ...]:
    """The shape of one row; raise a ValueError if it is empty or a size is not positive."""
    sizes = (shape,) if isinstance(shape, int) else tuple(shape)
    if not sizes or any(isinstance(size, bool) or not isinstance(size, int) or size < 1 for size in sizes):
        raise ValueError(f"event_shape must be positive integers; got {shape!r}. Pass e.g. (1, 28, 28) or 10.")
    return sizes


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
