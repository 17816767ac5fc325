"""Keep the tensors that are made from the description in a file in proportion to the size of the file."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ["TensorBudget"]


class TensorBudget(TorchDispatchMode):
    """A context that limits the tensors made within it: an operation that would exceed the limit raises before it runs.

    Let the file hold T tensors with N numbers in all. Operations may return at most 16 N + `spare` numbers in all. At
    most 16 T + 1,000 tensors may be made from nothing, such as zeros or noise.

    Args:
        tensors: the tensors of the file.
        spare: the numbers allowed beyond 16 N.

    Raises:
        ValueError: within the context, where an operation would exceed the limit.

    Example:
        >>> with TensorBudget([torch.zeros(3)], spare=100):
        ...     _ = torch.zeros(10)
        ...     torch.zeros(10**12)
        Traceback (most recent call last):
        ValueError: Sizes must suit the 3 numbers of the file; got a description that asks for 1000000000010 or ...
    """

    def __init__(self, tensors: Iterable[Tensor], spare: int = 10**7) -> None:
        super().__init__()
        sizes = [tensor.numel() for tensor in tensors]
        self.in_file, self.limit = sum(sizes), 16 * sum(sizes) + spare
        self.made, self.tensors_left = 0, 16 * len(sizes) + 1000

    @classmethod
    def _should_skip_dynamo(cls) -> bool:  # True would import the compiler, which takes seconds
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if not func.is_view:
            self._count(func, args, kwargs)
        return func(*args, **kwargs)

    def _count(self, func: Any, args: Any, kwargs: dict[str, Any]) -> None:
        known = [leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        self.tensors_left -= not known
        if not func._schema.is_mutable:
            self.made += _result_size(func, args, kwargs, known)
        if self.made > self.limit or self.tensors_left < 0:
            asked = f"{self.made} or more" if self.made > self.limit else "a great many tensors"
            raise ValueError(
                f"Sizes must suit the {self.in_file} numbers of the file; got a description that asks for {asked}."
                " Save the model again."
            )


def _result_size(func: Any, args: Any, kwargs: dict[str, Any], known: list[Tensor]) -> int:
    """How many numbers an operation will return: exactly where that may be many, roughly elsewhere."""
    lists = [arg for arg in args if isinstance(arg, list | tuple) and all(isinstance(size, int) for size in arg)]
    asked = max((math.prod(map(abs, shape)) for shape in lists), default=1)
    if not known:
        numbers = [abs(arg) for arg in args if isinstance(arg, int | float)]
        return max(asked, *(int(n) ** (2 if "eye" in func.__name__ else 1) for n in numbers if math.isfinite(n)), 1)
    sizes = [tensor.numel() for tensor in known]
    if asked * math.prod(sizes) <= 10**6:
        return max(sizes)
    if torch.Tag.pointwise in func.tags:
        return math.prod(torch.broadcast_shapes(*(tensor.shape for tensor in known)))
    args, kwargs = pytree.tree_map_only(Tensor, lambda tensor: tensor.to("meta"), (args, kwargs))
    if "device" in kwargs:
        kwargs = kwargs | {"device": torch.device("meta")}
    try:
        found = func(*args, **kwargs)
    except Exception:  # the size depends on values, or the operation will raise the same error when it runs
        return asked
    return sum(leaf.numel() for leaf in pytree.tree_leaves(found) if isinstance(leaf, Tensor))
