"""Vectors whose columns are dependent given z or of different kinds, and distributions of the user's own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor, nn
from torch.distributions.constraints import Constraint

from pyro_vae import distributions
from pyro_vae.arguments import positive_integer
from pyro_vae.data.tensors import as_names
from pyro_vae.likelihoods.base import Likelihood, check_vector
from pyro_vae.likelihoods.scales import Standardized
from pyro_vae.parts import as_scale

__all__ = ["Custom", "LowRankNormal", "MultivariateNormal", "Product"]


class _Joint(Standardized):
    """Base of multivariate normal likelihoods: each column is standardized for the network."""

    choices = ("none",)

    def __init__(self, event_shape: int | Sequence[int], standardize: bool) -> None:
        super().__init__(event_shape, "none", standardize)
        check_vector(self.event_shape)


class MultivariateNormal(_Joint):
    """Real vectors: x ~ N(loc, L L^T), where the decoder gives loc, and L is one learned triangular matrix.

    What is learned is the matrix for standardized columns, which starts at the identity.

    Args:
        event_shape: D, or (D,).
        standardize: whether the network works on standardized columns.

    Raises:
        ValueError: if the shape is not that of a vector.
    """

    def __init__(self, event_shape: int | Sequence[int], standardize: bool = True) -> None:
        super().__init__(event_shape, standardize)
        self.raw_scale_tril = nn.Parameter(torch.zeros(*self.event_shape, *self.event_shape))

    def forward(self, outputs: Tensor, **batch: Tensor) -> dist.TorchDistribution:
        raw = self.raw_scale_tril
        tril = raw.tril(-1) + as_scale(raw.diagonal()).diag_embed()
        return dist.MultivariateNormal(self.shift + self.unit * outputs, scale_tril=self.unit.unsqueeze(-1) * tril)


class LowRankNormal(_Joint):
    """Real vectors: x ~ N(loc, W W^T + diag(d)), where the decoder gives loc; W (D, R) and d are learned.

    This is a factor analysis of the residuals. What is learned are W and d for standardized columns.

    Args:
        event_shape: D, or (D,).
        rank: R, at most D.
        standardize: whether the network works on standardized columns.

    Raises:
        ValueError: if the shape is not that of a vector or `rank` out of range.
    """

    def __init__(self, event_shape: int | Sequence[int], rank: int = 2, standardize: bool = True) -> None:
        super().__init__(event_shape, standardize)
        self.rank, columns = positive_integer("rank", rank), self.event_shape[0]
        if rank > columns:
            raise ValueError(f"rank must be at most the number of columns, {columns}; got {rank}. Lower it.")
        self.factor = nn.Parameter(0.1 * torch.eye(columns, rank))
        self.raw_diagonal = nn.Parameter(torch.zeros(columns))

    def forward(self, outputs: Tensor, **batch: Tensor) -> dist.TorchDistribution:
        factor = self.unit.unsqueeze(-1) * self.factor
        diagonal = self.unit.square() * as_scale(self.raw_diagonal)
        return dist.LowRankMultivariateNormal(self.shift + self.unit * outputs, factor, diagonal)


class Custom(Likelihood):
    """Any distribution, given as a function of the decoder's output.

    The function is not saved: pass the likelihood to `pv.load` again. If the function is a module, its parameters are
    trained.

    Args:
        event_shape: E.
        function: a function from outputs (..., *output_shape) to a distribution with batch shape (...) and event shape
            E.
        outputs_per_cell: how many numbers the decoder gives for each cell. They are stacked along the first dimension
            of E: of a vector, `outputs.chunk(2, -1)` is the first and the second number of every column.
        support: the constraint on one cell of x, by which data are checked.

    Example:
        >>> likelihood = Custom(3, lambda outputs: dist.Gumbel(outputs, 1.0).to_event(1))
        >>> likelihood(torch.zeros(5, 3)).event_shape
        torch.Size([3])
        >>> def function(outputs):
        ...     loc, log_scale = outputs.chunk(2, -1)
        ...     return dist.Gumbel(loc, log_scale.exp()).to_event(1)
        >>> Custom(3, function, outputs_per_cell=2).output_shape
        (6,)
    """

    support_advice = "Correct support, or the data."

    def __init__(
        self,
        event_shape: int | Sequence[int],
        function: Callable[[Tensor], Any],
        outputs_per_cell: int = 1,
        support: Any = constraints.real,
    ) -> None:
        super().__init__(event_shape)
        if not callable(function):
            raise TypeError(f"function must map outputs to a distribution; got {function!r}. Pass a function.")
        if not isinstance(support, Constraint):
            raise TypeError(f"support must be a constraint; got {support!r}. Pass e.g. constraints.real.")
        self.function = function
        self.outputs_per_cell = positive_integer("outputs_per_cell", outputs_per_cell)
        self.support, self.discrete = support, support.is_discrete

    def forward(self, outputs: Tensor, **batch: Tensor) -> dist.TorchDistribution:
        return self.function(outputs)  # type: ignore[no-any-return]


class Product(Likelihood):
    """Vectors of columns of different kinds: named blocks of columns, each with a likelihood of its own.

    log p(x | z) is the sum over the blocks. Per-row fields reach every block.

    Args:
        blocks: likelihoods of vectors by name, in the order of the columns.
        columns: names of all columns; by default those of the blocks, numbered where a block has several columns.

    Raises:
        ValueError: if there is no block, one is not a likelihood of vectors, one object is given for several, or there
            is not one name for each column.

    References:
        *Handling Incomplete Heterogeneous Data Using VAEs* (Nazabal et al., 2018), arXiv 1807.03653

    Example:
        >>> from pyro_vae.likelihoods import Normal, Poisson
        >>> likelihood = Product({"age": Normal(1), "visits": Poisson(2)})
        >>> likelihood.event_shape, likelihood(torch.zeros(4, 3)).mean[0]
        ((3,), tensor([0., 1., 1.]))
    """

    def __init__(
        self,
        blocks: Mapping[str, Likelihood] | Sequence[tuple[str, Likelihood]],
        columns: Sequence[str] | None = None,
    ) -> None:
        pairs = list(blocks.items() if isinstance(blocks, Mapping) else blocks if isinstance(blocks, Sequence) else ())
        if not pairs or not all(isinstance(pair, Sequence) and len(pair) == 2 for pair in pairs):
            raise ValueError(f"blocks must be a dictionary of likelihoods; got {blocks!r}. Name at least one.")
        named = dict(pairs)
        for name, block in named.items():
            if not isinstance(block, Likelihood) or len(block.event_shape) != 1:
                raise ValueError(
                    f"blocks must be likelihoods of vectors; got {block!r} for {name!r}. Give e.g. Normal(1)."
                )
        _check_own_objects(named)
        super().__init__(sum(block.event_shape[0] for block in named.values()))
        self.names, self.parts = list(named), nn.ModuleList(named.values())
        sizes = [block.event_shape[0] for block in named.values()]
        self.columns = None if columns is None else list(as_names(columns, "columns"))
        if self.columns is not None and len(self.columns) != sum(sizes):
            raise ValueError(f"columns must be names of {sum(sizes)} columns; got {self.columns}. Give one for each.")
        self.support = constraints.cat([block.support for block in named.values()], -1, sizes)
        self.discrete = all(block.discrete for block in named.values())

    @property
    def blocks(self) -> list[tuple[str, Any]]:
        """Names and likelihoods, as pairs: these keep their order, and any name, when saved."""
        return list(zip(self.names, self.parts, strict=True))

    @property
    def output_shape(self) -> tuple[int, ...]:
        return (sum(block.output_shape[0] for _, block in self.blocks),)

    @property
    def feature_shape(self) -> tuple[int, ...]:
        return (sum(block.feature_shape[0] for _, block in self.blocks),)

    def split(self, x: Tensor) -> list[tuple[str, Any, Tensor]]:
        """Names, likelihoods and columns of x by block."""
        split = x.split([block.event_shape[0] for _, block in self.blocks], -1)
        return [(*block, part) for block, part in zip(self.blocks, split, strict=True)]

    def forward(self, outputs: Tensor, **batch: Tensor) -> dist.TorchDistribution:
        split = outputs.split([block.output_shape[0] for _, block in self.blocks], -1)
        made = [block(part, **batch) for (_, block), part in zip(self.blocks, split, strict=True)]
        return distributions.Blocks(made, names=self.names, columns=self.columns)

    def features(self, x: Tensor) -> Tensor:
        return torch.cat([block.features(part) for _, block, part in self.split(x)], -1)

    def feature_pattern(self, observed: Tensor) -> Tensor:
        return torch.cat([block.feature_pattern(part) for _, block, part in self.split(observed)], -1)

    def sum_features(self, values: Tensor) -> Tensor:
        split = values.split([block.feature_shape[0] for _, block in self.blocks], -1)
        return torch.cat([block.sum_features(part) for (_, block), part in zip(self.blocks, split, strict=True)], -1)

    def initialize(self, x: Tensor, **batch: Tensor) -> None:
        for _, block, part in self.split(x):
            block.initialize(part, **batch)

    def unbounded_at(self, constant: Tensor) -> Tensor:
        return torch.cat([block.unbounded_at(part) for _, block, part in self.split(constant)])

    def check_columns(self, columns: Sequence[str]) -> None:
        place = 0
        if self.columns is not None and list(columns) != self.columns and sorted(columns) == sorted(self.columns):
            raise ValueError(
                f"columns must come in the order of the likelihood, {self.columns}; got {list(columns)}. Reorder them."
            )
        for name, block in self.blocks:
            size = block.event_shape[0]
            if size == 1 and name in columns and columns.index(name) != place:
                raise ValueError(
                    f"columns must come in the order of the blocks, {self.names}; got {list(columns)}."
                    " Reorder them: frame[[...]]."
                )
            place += size

    def check_fields(self, x: Tensor | None, fields: Mapping[str, Tensor], first_row: int = 0) -> None:
        blocks = [block for _, block in self.blocks]
        columns = [None] * len(blocks) if x is None else [part for _, _, part in self.split(x)]
        for block, part in zip(blocks, columns, strict=True):
            block.check_fields(part, fields, first_row)

    def check(self, x: Tensor, first_row: int = 0) -> None:
        if tuple(x.shape[1:]) != self.event_shape:
            super().check(x, first_row)
        for name, block, part in self.split(x):
            try:
                block.check(part, first_row)
            except ValueError as error:
                raise ValueError(f"In block {name!r}: {error}") from None


def _check_own_objects(blocks: Mapping[str, Likelihood]) -> None:
    """Raise a ValueError if two blocks are one object, or share a likelihood within: they would share its state."""
    owners: dict[int, str] = {}
    for name, block in blocks.items():
        for part in block.modules():
            if isinstance(part, Likelihood) and owners.setdefault(id(part), name) != name:
                raise ValueError(
                    f"blocks must be objects of their own; got one {type(part).__name__} for {owners[id(part)]!r} and"
                    f" {name!r}, whose scale and parameters all these columns would share. Make one for each, e.g."
                    " {name: Normal(1) for name in columns}; or one block of several columns, Normal(2)."
                )
