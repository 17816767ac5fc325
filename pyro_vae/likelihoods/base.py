"""What likelihoods have in common."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import pyro.distributions as dist
from torch import Tensor

from pyro_vae.parts import Part, as_event_shape

__all__ = ["Likelihood"]


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
        self.event_shape = as_event_shape(event_shape)

    @property
    def output_shape(self) -> tuple[int, ...]:
        """The shape of one row of the decoder's output."""
        return (self.outputs * self.event_shape[0], *self.event_shape[1:])

    @property
    def feature_shape(self) -> tuple[int, ...]:
        """The shape of one row of what the encoder sees."""
        return self.event_shape

    @property
    @abstractmethod
    def support(self) -> tuple[Any, str, str]:
        """The constraint on one cell of x, its name, and what to do about data that violate it."""

    @abstractmethod
    def forward(self, outputs: Tensor, **batch: Tensor) -> dist.TorchDistribution:
        """p(x | z) from the decoder's output (..., *output_shape): batch shape (...), event shape E."""

    def features(self, x: Tensor) -> Tensor:
        """What the encoder sees of x, (..., *feature_shape): scaled to the order of one."""
        return x

    def initialize(self, x: Tensor, **batch: Tensor) -> None:
        """Start from the data (N, *E), and fields of these rows: zero output becomes the marginal of each cell."""

    def check_columns(self, columns: Sequence[str]) -> None:
        """Raise where the names of the columns of x tell that they come in another order than the likelihood's."""

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
