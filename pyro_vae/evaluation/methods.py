"""The methods for log p(x) that have a name: to add one, write a subclass of `Method` and put it into this table."""

from __future__ import annotations

from pyro_vae.evaluation.annealing import AIS
from pyro_vae.evaluation.base import Method
from pyro_vae.evaluation.importance import Importance
from pyro_vae.evaluation.refined import SemiAmortized

__all__ = ["METHODS", "as_method"]

METHODS: dict[str, type[Method]] = {
    "importance": Importance,
    "ais": AIS,
    "semi_amortized": SemiAmortized,
}


def as_method(method: str | Method) -> Method:
    """The method of this name with its default options, or the object itself.

    Raises:
        ValueError: if there is no method of this name.
    """
    if isinstance(method, Method):
        return method
    if not isinstance(method, str) or method not in METHODS:
        raise ValueError(f"method must be {', '.join(METHODS)} or an object; got {method!r}. Choose one of these.")
    return METHODS[method]()
