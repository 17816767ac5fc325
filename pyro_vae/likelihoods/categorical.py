"""Categories, levels in an order, and counts of kinds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor, nn
from torch.nn.functional import logsigmoid, pad

from pyro_vae import distributions
from pyro_vae.arguments import positive_integer
from pyro_vae.fields import Field
from pyro_vae.likelihoods.base import Likelihood, check_vector
from pyro_vae.parts import as_scale

__all__ = ["Categorical", "Multinomial", "OrderedLogistic"]


class _Categories(Likelihood):
    """Base of likelihoods of cells in {0, ..., C - 1}."""

    support_advice = "Correct num_categories, or number the categories from 0."
    discrete = True

    def __init__(self, event_shape: int | Sequence[int], num_categories: int) -> None:
        super().__init__(event_shape)
        self.num_categories = positive_integer("num_categories", num_categories, at_least=2)
        self.support = constraints.integer_interval(0, self.num_categories - 1)

    def indicators(self, x: Tensor) -> Tensor:
        """One-hot vectors of the categories, (..., *E, C)."""
        categories = torch.arange(self.num_categories, device=x.device)
        return (x.unsqueeze(-1) == categories).to(next(self.buffers()))

    def smoothed_frequencies(self, x: Tensor) -> Tensor:
        """The relative frequencies of the categories, (*E, C), with half a count added to each category."""
        return (self.indicators(x).sum(0) + 0.5) / (len(x) + 0.5 * self.num_categories)


class Categorical(_Categories):
    """Cells in {0, ..., C - 1}: p(x = c) = softmax(offset + outputs)_c, with C outputs per cell.

    The encoder sees each cell as C indicators. The offset is the logarithm of each cell's smoothed frequencies.

    Args:
        event_shape: E.
        num_categories: C, the number of categories.

    Raises:
        ValueError: if `num_categories` is not an integer of at least 2.

    Example:
        >>> Categorical((3, 8, 8), num_categories=4).feature_shape
        (12, 8, 8)
    """

    offset: Tensor

    def __init__(self, event_shape: int | Sequence[int], num_categories: int) -> None:
        super().__init__(event_shape, num_categories)
        self.outputs_per_cell = self.num_categories
        self.register_buffer("offset", torch.zeros(*self.event_shape, self.num_categories))

    @property
    def feature_shape(self) -> tuple[int, ...]:
        return self.output_shape

    def forward(self, outputs: Tensor, **batch: Tensor) -> dist.TorchDistribution:
        dims = len(self.event_shape)
        logits = outputs.unflatten(-dims, (self.num_categories, self.event_shape[0])).movedim(-dims - 1, -1)
        return distributions.Categorical(logits=self.offset + logits).to_event(dims)  # type: ignore[no-any-return]

    def features(self, x: Tensor) -> Tensor:
        dims = len(self.event_shape)
        return self.indicators(x).movedim(-1, -dims - 1).flatten(-dims - 1, -dims)

    def initialize(self, x: Tensor, **batch: Tensor) -> None:
        self.offset.copy_(self.smoothed_frequencies(x).log())


class OrderedLogistic(_Categories):
    """Levels 0 < 1 < ... < C - 1: p(x <= k) = sigmoid(cutpoint_k - output), with one output per cell.

    The C - 1 cutpoints of each cell are learned. They start where a decoder output of zero gives the cell's smoothed
    frequencies.

    Args:
        event_shape: E.
        num_categories: C, the number of categories.

    Raises:
        ValueError: if `num_categories` is not an integer of at least 2.

    References:
        *Regression Models for Ordinal Data* (McCullagh, 1980), Journal of the Royal Statistical Society B 42(2)
    """

    unit: Tensor

    def __init__(self, event_shape: int | Sequence[int], num_categories: int) -> None:
        super().__init__(event_shape, num_categories)
        even = torch.full((*self.event_shape, num_categories), 1 / num_categories)
        self.register_buffer("unit", _cutpoint_steps(even))
        self.raw_steps = nn.Parameter(torch.zeros_like(self.unit))

    def forward(self, outputs: Tensor, **batch: Tensor) -> dist.TorchDistribution:
        first = self.unit[..., :1] + self.raw_steps[..., :1]
        gaps = self.unit[..., 1:] * as_scale(self.raw_steps[..., 1:])
        z = torch.cat((first, gaps), -1).cumsum(-1) - outputs.unsqueeze(-1)
        # F(b) - F(a) = F(b) (1 - F(a)) (1 - exp(a - b)) for the logistic F: a product, so that nothing cancels
        logits = pad(logsigmoid(z), (0, 1)) + pad(logsigmoid(-z), (1, 0)) + pad((-torch.expm1(-gaps)).log(), (1, 1))
        return distributions.OrderedCategorical(logits=logits).to_event(len(self.event_shape))  # type: ignore[no-any-return]

    def features(self, x: Tensor) -> Tensor:
        return 2 * x.to(self.unit) / (self.num_categories - 1) - 1

    def initialize(self, x: Tensor, **batch: Tensor) -> None:
        self.unit.copy_(_cutpoint_steps(self.smoothed_frequencies(x)))


def _cutpoint_steps(frequencies: Tensor) -> Tensor:
    """The first cutpoint at these frequencies, and the distance of each later one from the one before it."""
    cutpoints = frequencies[..., :-1].cumsum(-1).logit()
    return torch.cat((cutpoints[..., :1], cutpoints.diff(dim=-1)), -1)


class Multinomial(Likelihood):
    """Counts of D kinds, given their sum: x ~ Multinomial(n, softmax(offset + outputs)).

    Choose it for documents as bags of words, or for reads per gene. The log-probability of a row is conditional on the
    row's own sum, so that rows may have different sums. The offset is the logarithm of the smoothed frequencies of the
    kinds.

    Args:
        event_shape: D, or (D,).
        total_count: n, the sum of every row. With None rows may differ: a draw has the sum that the per-row field
            `total_count`, (B,), gives, or where there is no such field the mean sum of the data, rounded.

    Raises:
        ValueError: if the shape is not that of a vector or `total_count` not a positive integer.

    References:
        *Variational Autoencoders for Collaborative Filtering* (Liang et al., 2018), arXiv 1802.05814
    """

    support = constraints.nonnegative_integer
    support_advice = "Give counts, or choose a likelihood for such values."
    discrete = True
    offset: Tensor
    mean_total: Tensor

    def __init__(self, event_shape: int | Sequence[int], total_count: int | None = None) -> None:
        super().__init__(event_shape)
        check_vector(self.event_shape)
        self.total_count = None if total_count is None else positive_integer("total_count", total_count)
        self.register_buffer("offset", torch.zeros(self.event_shape))
        self.register_buffer("mean_total", torch.tensor(float(total_count or 1)))

    def forward(self, outputs: Tensor, *, total_count: Tensor | None = None, **batch: Tensor) -> dist.TorchDistribution:
        if self.total_count is not None:
            total_count = torch.full_like(self.mean_total, self.total_count, dtype=torch.float64)
        elif total_count is None:
            total_count = self.mean_total.round()
        return distributions.Multinomial(total_count, self.offset.double() + outputs, dtype=outputs.dtype)

    @property
    def fields(self) -> dict[str, Field]:
        found = super().fields
        if self.total_count is not None:  # every row has this total
            found.pop("total_count", None)
        elif "total_count" in found:
            found["total_count"] = Field(found["total_count"].required, one_per_row=True, meaning="the sum of the row")
        return found

    def check_fields(self, x: Tensor | None, fields: Mapping[str, Tensor], first_row: int = 0) -> None:
        super().check_fields(x, fields, first_row)
        if "total_count" not in fields or "total_count" not in self.fields:
            return
        total = fields["total_count"].double()
        least = torch.zeros_like(total) if x is None else x.sum(-1)
        wrong = (total != total.floor()) | (total < least)
        if wrong.any():
            row = int(wrong.nonzero()[0])
            raise ValueError(
                f"field 'total_count' must be whole numbers, at least the sum of the row; got {total[row].item():g} in"
                f" row {first_row + row}"
                + ("" if x is None else f", whose sum is {least[row].item():g}")
                + ". Correct it."
            )

    def features(self, x: Tensor) -> Tensor:
        return x.log1p()

    def initialize(self, x: Tensor, **batch: Tensor) -> None:
        counts = x.sum(0) + 0.5
        self.offset.copy_((counts / counts.sum()).log())
        if self.total_count is None:
            self.mean_total.copy_(x.sum(-1).mean())

    def check(self, x: Tensor, first_row: int = 0) -> None:
        super().check(x, first_row)
        if self.total_count is None:
            return
        wrong = x.double().sum(-1) != self.total_count
        if wrong.any():
            row = int(wrong.nonzero()[0])
            raise ValueError(
                f"x must sum to {self.total_count} in each row for Multinomial; got {x[row].sum().item():g} in row"
                f" {first_row + row}. Correct total_count, or leave it out where rows differ."
            )
