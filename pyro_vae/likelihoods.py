"""Likelihoods p(x | z): parts that turn the decoder's output into the distribution of one row.

To add one: subclass `Likelihood`, say how many numbers it needs per cell (`outputs`), which values x may take
(`support`) and return the distribution; add one line to `tests/cases.py`.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor, nn

from pyro_vae.parts import Part, positive, positive_integer

__all__ = ["Bernoulli", "Binomial", "Likelihood", "Normal"]


class Likelihood(Part):
    """Base of the likelihoods.

    Args:
        event_shape: E, the shape of one row of x; an integer for a vector.

    Attributes:
        outputs: the decoder's numbers per cell; its output has shape (outputs * E[0], *E[1:]).
        discrete: whether log-probabilities are those of a mass function, so that bits per dimension have meaning.

    Raises:
        ValueError: if the shape is empty or a size is not positive.
    """

    outputs = 1
    discrete = False

    def __init__(self, event_shape: int | Sequence[int]) -> None:
        super().__init__()
        shape = (event_shape,) if isinstance(event_shape, int) else tuple(event_shape)
        if not shape or any(not isinstance(size, int) or size < 1 for size in shape):
            raise ValueError(
                f"event_shape must be positive integers; got {event_shape!r}. Pass e.g. (1, 28, 28) or 10."
            )
        self.event_shape = shape

    @property
    def output_shape(self) -> tuple[int, ...]:
        """The shape of one row of the decoder's output."""
        return (self.outputs * self.event_shape[0], *self.event_shape[1:])

    @property
    @abstractmethod
    def support(self) -> tuple[Any, str, str]:
        """The constraint on one cell of x, its name, and what to do about data that violate it."""

    @abstractmethod
    def forward(self, outputs: Tensor, **batch: Tensor) -> dist.TorchDistribution:
        """p(x | z) from the decoder's output (..., *output_shape): batch shape (...), event shape E."""

    def features(self, x: Tensor) -> Tensor:
        """What the encoder sees of x, (..., *E): scaled to the order of one."""
        return x

    def initialize(self, x: Tensor) -> None:
        """Start from the data (N, *E): the decoder's zero output becomes the marginal of each cell."""

    def check(self, x: Tensor, first_row: int = 0) -> None:
        """Raise unless x consists of rows of shape E within the support.

        Args:
            x: the data, (N, *E).
            first_row: the number of the first of these rows, for the message.

        Raises:
            ValueError: naming the likelihood, the range seen and the first offending row.
        """
        name = type(self).__name__
        if tuple(x.shape[1:]) != self.event_shape:
            expected = ", ".join(map(str, self.event_shape))
            raise ValueError(
                f"x must have shape (rows, {expected}) for {name}; got {tuple(x.shape)}. Reshape the data."
            )
        constraint, description, remedy = self.support
        outside = ~constraint.check(x).reshape(len(x), -1)
        if outside.any():
            row, cell = (int(i) for i in outside.nonzero()[0])
            value = x.reshape(len(x), -1)[row, cell].item()
            raise ValueError(
                f"x must lie in {description} for {name}; got {value:g} in row {first_row + row}, and values from"
                f" {x.min().item():g} up to {x.max().item():g}. {remedy}"
            )


class Bernoulli(Likelihood):
    """Binary cells: x ~ Bernoulli(sigmoid(offset + output)).

    The offset is the logit of each cell's mean, smoothed as by half a success and half a failure (Jeffreys).

    References:
        *Auto-Encoding Variational Bayes* (Kingma, Welling, 2013), arXiv 1312.6114; the start at the data's mean is that
        of *Importance Weighted Autoencoders* (Burda, Grosse, Salakhutdinov, 2015), arXiv 1509.00519
    """

    discrete = True
    offset: Tensor

    def __init__(self, event_shape: int | Sequence[int]) -> None:
        super().__init__(event_shape)
        self.register_buffer("offset", torch.zeros(self.event_shape))

    @property
    def support(self) -> tuple[Any, str, str]:
        return constraints.boolean, "{0, 1}", "Scale and binarise the data, or choose a likelihood for such values."

    def forward(self, outputs: Tensor, **batch: Tensor) -> dist.TorchDistribution:
        return dist.Bernoulli(logits=self.offset + outputs).to_event(len(self.event_shape))

    def initialize(self, x: Tensor) -> None:
        self.offset.copy_(_smoothed_logit(x, 1))


class Binomial(Likelihood):
    """Counts out of a known total: x ~ Binomial(total_count, sigmoid(offset + output)).

    Args:
        event_shape: E.
        total_count: the largest possible count, e.g. 16 for scikit-learn's digits.

    Raises:
        ValueError: if `total_count` is not a positive integer.
    """

    discrete = True
    offset: Tensor

    def __init__(self, event_shape: int | Sequence[int], total_count: int) -> None:
        super().__init__(event_shape)
        self.total_count = positive_integer("total_count", total_count)
        self.register_buffer("offset", torch.zeros(self.event_shape))

    @property
    def support(self) -> tuple[Any, str, str]:
        name = f"{{0, 1, ..., {self.total_count}}}"
        return constraints.integer_interval(0, self.total_count), name, "Correct total_count, or the data."

    def forward(self, outputs: Tensor, **batch: Tensor) -> dist.TorchDistribution:
        return dist.Binomial(self.total_count, logits=self.offset + outputs).to_event(len(self.event_shape))

    def features(self, x: Tensor) -> Tensor:
        return x / self.total_count

    def initialize(self, x: Tensor) -> None:
        self.offset.copy_(_smoothed_logit(x, self.total_count))


class Normal(Likelihood):
    """Real cells: x ~ Normal(loc, scale^2), with the scale fixed, learned or predicted.

    Data are standardised inside, the distribution is on the original scale. The unit is one per cell where `scale` is
    "per_dimension" or "predicted": the network works on cells of mean 0 and deviation 1. Where it is "fixed" or
    "shared" the unit is one number, since the family of distributions would otherwise be another one: for columns of
    very different units choose "per_dimension" or "predicted".

    Args:
        event_shape: E.
        scale: "shared" (one learned deviation, as in probabilistic PCA), "per_dimension" (one learned for each cell),
            "predicted" (by the decoder, for each row and cell) or "fixed".
        fixed_scale: the deviation, in units of x, where `scale` is "fixed".
        standardize: whether the network works on standardised cells.

    Raises:
        ValueError: if `scale` is unknown or `fixed_scale` not positive.

    References:
        *Simple and Effective VAE Training with Calibrated Decoders* (Rybkin et al., 2021), arXiv 2006.13202
    """

    shift: Tensor
    unit: Tensor

    def __init__(
        self,
        event_shape: int | Sequence[int],
        scale: str = "shared",
        fixed_scale: float = 1.0,
        standardize: bool = True,
    ) -> None:
        super().__init__(event_shape)
        if scale not in ("fixed", "shared", "per_dimension", "predicted"):
            raise ValueError(
                f"scale must be fixed, shared, per_dimension or predicted; got {scale!r}. Choose one of these."
            )
        if not (fixed_scale > 0 and math.isfinite(fixed_scale)):
            raise ValueError(f"fixed_scale must be positive; got {fixed_scale}. Give a deviation in units of x.")
        self.scale, self.fixed_scale, self.standardize = scale, fixed_scale, standardize
        self.outputs = 2 if scale == "predicted" else 1
        if scale in ("shared", "per_dimension"):
            self.raw_scale = nn.Parameter(torch.zeros(() if scale == "shared" else self.event_shape))
        self.register_buffer("shift", torch.zeros(self.event_shape))
        self.register_buffer("unit", torch.ones(() if scale in ("fixed", "shared") else self.event_shape))

    @property
    def support(self) -> tuple[Any, str, str]:
        return constraints.real, "the real numbers", "Drop or impute cells that are not finite."

    def forward(self, outputs: Tensor, **batch: Tensor) -> dist.TorchDistribution:
        if self.scale == "predicted":
            outputs, raw = outputs.chunk(2, -len(self.event_shape))
            scale = self.unit * positive(raw)
        elif self.scale == "fixed":
            scale = self.unit.new_tensor(self.fixed_scale)
        else:
            scale = self.unit * positive(self.raw_scale)
        return dist.Normal(self.shift + self.unit * outputs, scale).to_event(len(self.event_shape))

    def features(self, x: Tensor) -> Tensor:
        return (x - self.shift) / self.unit

    def initialize(self, x: Tensor) -> None:
        if not self.standardize:
            return
        shift = x.mean(0)
        variance = (x - shift).square().mean(0)
        overall = variance.mean().sqrt()
        overall = torch.where(overall > 0, overall, torch.ones_like(overall))
        self.shift.copy_(shift)
        if self.unit.dim() == 0:
            self.unit.copy_(overall)
        else:  # a constant cell has no deviation of its own: a thousandth of the overall one keeps its unit positive
            deviation = variance.sqrt()
            self.unit.copy_(torch.where(deviation > 1e-6 * shift.abs(), deviation, 1e-3 * overall))


def _smoothed_logit(x: Tensor, total_count: int) -> Tensor:
    successes, trials = x.sum(0), len(x) * total_count
    return ((successes + 0.5) / (trials - successes + 0.5)).log()
