"""What priors, likelihoods and guides have in common: their base class, shapes, scales and the names of supports."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from pyro.distributions import constraints
from torch import Tensor, nn
from torch.nn.functional import softplus

from pyro_vae.arguments import is_integer
from pyro_vae.fields import Field, ReadsFields, keyword_fields, merge_fields

__all__ = ["Part", "as_event_shape", "as_scale", "as_unbounded", "support_name", "support_of"]


class Part(ReadsFields, nn.Module):
    """A module whose `forward` returns a `pyro.distributions` object.

    Every argument of the constructor is kept under its own name, as plain values (numbers, strings, tuples,
    dictionaries, other parts), so that `arguments` can be saved as JSON and the part built again.
    """

    def __init__(self) -> None:  # a part without a constructor takes no arguments; nn.Module's own would take any
        super().__init__()

    def arguments(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {name: getattr(self, name) for name in inspect.signature(type(self)).parameters}

    @property
    def fields(self) -> dict[str, Field]:
        """The per-row fields that the part reads: keyword parameters of `forward`, and those of parts within it.

        A class may state others in a class attribute `fields`.
        """
        own = self.stated_fields
        if own is None:
            own = keyword_fields(type(self).forward)
        within = (part.fields for part in self.children() if isinstance(part, Part))
        lists = (part.fields for child in self.children() for part in _parts_of_list(child))
        return merge_fields((own, *within, *lists))

    def extra_repr(self) -> str:
        return ", ".join(
            f"{name}={value!r}" for name, value in self.arguments().items() if not isinstance(value, nn.Module)
        )


def _parts_of_list(child: nn.Module) -> list[Part]:
    return [part for part in child if isinstance(part, Part)] if isinstance(child, nn.ModuleList) else []


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


SUPPORT_NAMES: dict[str, str] = {
    str(constraint): name
    for constraint, name in (
        (constraints.real, "the real numbers"),
        (constraints.positive, "the positive numbers"),
        (constraints.nonnegative, "the nonnegative numbers"),
        (constraints.unit_interval, "[0, 1]"),
        (constraints.boolean, "{0, 1}"),
        (constraints.nonnegative_integer, "{0, 1, 2, ...}"),
        (constraints.positive_integer, "{1, 2, 3, ...}"),
        (constraints.simplex, "the probability simplex"),
        (constraints.one_hot, "the one-hot vectors"),
        (constraints.sphere, "the unit sphere"),
    )
}


def support_name(constraint: Any) -> str:
    """The name of the set that a constraint stands for, such as "[0, 1]"; two constraints of one name are alike.

    Where the constraint is that of a vector or an array of independent numbers, the set is that of one number.

    Example:
        >>> support_name(constraints.integer_interval(0, 16)), support_name(constraints.real_vector)
        ('{0, 1, ..., 16}', 'the real numbers')
    """
    while hasattr(constraint, "base_constraint"):
        constraint = constraint.base_constraint
    if type(constraint) is constraints.integer_interval and isinstance(constraint.upper_bound, int):
        first, last = constraint.lower_bound, constraint.upper_bound
        members = range(first, last + 1) if last - first < 3 else (first, first + 1, "...", last)
        return f"{{{', '.join(map(str, members))}}}"
    return SUPPORT_NAMES.get(str(constraint), str(constraint))


def support_of(distribution: Any) -> Any:
    """The constraint that a distribution states for its draws, or None where it states none."""
    try:
        return distribution.support
    except (NotImplementedError, AttributeError):
        return None
