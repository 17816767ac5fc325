"""What priors, likelihoods and guides have in common: modules that keep their constructor's arguments."""

from __future__ import annotations

import inspect
import operator
from typing import Any

from torch import Tensor, nn
from torch.nn.functional import softplus

__all__ = ["Part", "positive", "positive_integer"]


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


def positive_integer(what: str, value: Any) -> int:
    """Return `value`, or raise a ValueError that names `what`."""
    number = operator.index(value) if hasattr(value, "__index__") and not isinstance(value, bool) else 0
    if number < 1:
        raise ValueError(f"{what} must be a positive integer; got {value!r}. Pass e.g. {what}=16.")
    return number


def positive(raw: Tensor) -> Tensor:
    """A scale from an unbounded number: a softplus shifted so that 0 gives 1, and kept above 1e-6 for float32."""
    return softplus(raw + 0.5413248546129181) + 1e-6
