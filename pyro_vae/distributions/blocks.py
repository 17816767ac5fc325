"""Vectors whose columns have different distributions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor

__all__ = ["Blocks"]


class Blocks(dist.TorchDistribution):
    """Vectors of independent blocks of columns, each block with a distribution of its own.

    Args:
        blocks: distributions with one-dimensional events, in the order of the columns.
        names: names of the blocks, where they have names.
        columns: names of the columns, where they have names of their own.
    """

    arg_constraints: ClassVar = {}

    def __init__(
        self,
        blocks: Sequence[Any],
        validate_args: bool | None = None,
        *,
        names: Sequence[str] | None = None,
        columns: Sequence[str] | None = None,
    ) -> None:
        self.names = None if names is None else list(names)
        self.columns = None if columns is None else list(columns)
        self.blocks, self.sizes = list(blocks), [block.event_shape[0] for block in blocks]
        batch_shape = torch.broadcast_shapes(*(block.batch_shape for block in blocks))
        super().__init__(batch_shape, torch.Size((sum(self.sizes),)), validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> Blocks:
        return self.of([block.expand(torch.Size(batch_shape)) for block in self.blocks])

    def of(self, blocks: Sequence[Any]) -> Blocks:
        """Other blocks with the same names."""
        return Blocks(blocks, validate_args=False, names=self.names, columns=self.columns)

    @constraints.dependent_property(event_dim=1)
    def support(self) -> Any:
        return _BlockConstraint([block.support for block in self.blocks], self.sizes)

    @property
    def mean(self) -> Tensor:
        return _join([block.mean for block in self.blocks], self.batch_shape)

    @property
    def has_rsample(self) -> bool:  # type: ignore[override]
        """Whether draws of all blocks carry derivatives."""
        return all(block.has_rsample for block in self.blocks)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        draws = [block.rsample(torch.Size(sample_shape)) for block in self.blocks]
        return _join(draws, torch.Size(sample_shape) + self.batch_shape)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        draws = [block.sample(torch.Size(sample_shape)) for block in self.blocks]
        return _join(draws, torch.Size(sample_shape) + self.batch_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        columns = value.split(self.sizes, -1)
        terms = [block.log_prob(part) for block, part in zip(self.blocks, columns, strict=True)]
        return torch.stack(torch.broadcast_tensors(*terms)).sum(0)


class _BlockConstraint(constraints.Constraint):  # type: ignore[misc]
    """The support of `Blocks`: each block of columns satisfies a constraint of its own."""

    event_dim = 1

    def __init__(self, parts: list[Any], sizes: list[int]) -> None:
        self.parts, self.sizes = parts, sizes
        self.is_discrete = any(part.is_discrete for part in parts)
        super().__init__()

    def check(self, value: Tensor) -> Tensor:
        columns = value.split(self.sizes, -1)
        return torch.stack([part.check(own) for part, own in zip(self.parts, columns, strict=True)]).all(0)


def _join(values: list[Tensor], shape: torch.Size) -> Tensor:
    """Put blocks side by side, with the dtype of the real ones among them."""
    dtype = max((value.dtype for value in values), key=lambda dtype: (dtype.is_floating_point, dtype.itemsize))
    return torch.cat([value.to(dtype).expand(*shape, -1) for value in values], -1)
