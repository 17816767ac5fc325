"""What priors, likelihoods and guides have in common: modules that keep their constructor's arguments."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from pyro_vae.arguments import is_integer

__all__ = ["Part", "as_event_shape", "as_scale", "as_unbounded", "support_name"]


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


def as_event_shape(shape: int | Sequence[int]) -> tuple[int, ...]:
    """The shape of one row; raise a ValueError if it is empty or a size is not positive."""
    sizes = tuple(shape) if isinstance(shape, Sequence) else (shape,)
    if not sizes or any(not is_integer(size) or size < 1 for size in sizes):
        raise ValueError(f"event_shape must be positive integers; got {shape!r}. Pass e.g. (1, 28, 28) or 10.")
    return tuple(int(size) for size in sizes)


def as_scale(raw: Tensor) -> Tensor:
    """A scale from an unbounded number: a softplus shifted so that 0 gives 1, and kept above 1e-6 for float32."""
    return softplus(raw + 0.5413248546129181) + 1e-6


def as_unbounded(scale: Tensor) -> Tensor:
    """The unbounded number that `as_scale` maps to this scale."""
    above = (scale - 1e-6).clamp_min(1e-12)
    return above + torch.log(-torch.expm1(-above)) - 0.5413248546129181


def support_name(distribution: Any) -> str:
    """The name of the set that a coordinate, or a whole event, lies in; empty where the distribution does not tell."""
    try:
        constraint: Any = distribution.support
    except (NotImplementedError, AttributeError):
        return ""
    while hasattr(constraint, "base_constraint"):
        constraint = constraint.base_constraint
    return str(constraint)
