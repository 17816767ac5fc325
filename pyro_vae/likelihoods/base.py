"""What likelihoods have in common."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions.constraints import Constraint

from pyro_vae.fields import check_one_per_row
from pyro_vae.parts import Part, as_event_shape, support_name

__all__ = ["Likelihood", "check_vector"]


class Likelihood(Part):
    """Base of the likelihoods.

    Args:
        event_shape: E, the shape of one row of x; an integer for a vector.

    Attributes:
        support: the constraint on x: on one cell, or on a row where it has a larger event.
        support_advice: what to do about data outside the support: the end of the message.
        outputs_per_cell: how many numbers the decoder gives for each cell; its output has shape
            (outputs_per_cell * E[0], *E[1:]).
        discrete: whether p(x | z) is a mass function, so that bits per dimension have meaning.
        gamma_functions: whether log-gamma functions of the decoder's outputs take most of its time. Compiled steps
            compute these several times as fast.

    Raises:
        ValueError: if the shape is empty or a size is not positive.
    """

    support: Constraint
    support_advice = "Correct the data, or choose a likelihood for such values."
    outputs_per_cell = 1
    discrete = False
    gamma_functions = False

    def __init__(self, event_shape: int | Sequence[int]) -> None:
        super().__init__()
        self.event_shape = as_event_shape(event_shape)

    @property
    def output_shape(self) -> tuple[int, ...]:
        """The shape of one row of the decoder's output."""
        return (self.outputs_per_cell * self.event_shape[0], *self.event_shape[1:])

    @property
    def feature_shape(self) -> tuple[int, ...]:
        """The shape of one row of what the encoder sees."""
        return self.event_shape

    @abstractmethod
    def forward(self, outputs: Tensor, **batch: Tensor) -> dist.TorchDistribution:
        """p(x | z) from the decoder's output (..., *output_shape): batch shape (...), event shape E."""

    def features(self, x: Tensor) -> Tensor:
        """What the encoder sees of x, (..., *feature_shape): scaled to the order of one."""
        return x

    def feature_pattern(self, observed: Tensor) -> Tensor:
        """Which features are observed, boolean (..., *feature_shape), where some cells, (..., *E), are missing.

        By default the features of a cell lie apart by the size of the first dimension of E, as in `features`.
        """
        number = self.feature_shape[0] // self.event_shape[0]
        return observed if number == 1 else torch.cat([observed] * number, -len(self.event_shape))

    def sum_features(self, values: Tensor) -> Tensor:
        """Sums of values over the features of each cell, (..., *feature_shape) -> (..., *E)."""
        dims, number = len(self.event_shape), self.feature_shape[0] // self.event_shape[0]
        return values if number == 1 else values.unflatten(-dims, (number, self.event_shape[0])).sum(-dims - 1)

    def initialize(self, x: Tensor, **batch: Tensor) -> None:
        """Set constants from the data (N, *E), and from fields of these rows, in place.

        Where the decoder's output is zero, p(x | z) is then the marginal distribution of each cell.
        """

    def unbounded_at(self, constant: Tensor) -> Tensor:
        """Of cells that are constant in the data, E, those at which the density of the data has no upper bound.

        A learned scale of such a cell may shrink to zero, and the cell then outweighs all others.
        """
        return torch.zeros_like(constant)

    def check_columns(self, columns: Sequence[str]) -> None:
        """Raise a ValueError where the names of the columns of x show another order than that of the likelihood."""

    def check_fields(self, x: Tensor | None, fields: Mapping[str, Tensor], first_row: int = 0) -> None:
        """Raise a ValueError unless these fields of rows are possible.

        Args:
            x: the rows, (N, *E); None where rows are to be drawn.
            fields: the fields by name; those of other parts are ignored.
            first_row: the number of the first of these rows, for the message.
        """
        for name, field in self.fields.items():
            if field.one_per_row and name in fields:
                values = fields[name]
                check_one_per_row(name, values, len(x) if x is not None else len(values) if values.dim() else 1)

    def check_support(self) -> None:
        """Raise a TypeError unless the class states its support."""
        support = getattr(self, "support", None)
        if not isinstance(support, Constraint):
            raise TypeError(
                f"support of {type(self).__name__} must be one of pyro.distributions.constraints; got {support!r}."
                " Set it as a class attribute."
            )

    def check(self, x: Tensor, first_row: int = 0) -> None:
        """Raise unless x consists of rows of shape E within the support.

        Args:
            x: the data, (N, *E).
            first_row: the number of the first of these rows, for the message.

        Raises:
            ValueError: naming the likelihood, the range seen and the first offending row.
        """
        name = type(self).__name__
        self.check_support()
        if tuple(x.shape[1:]) != self.event_shape:
            expected = ", ".join(map(str, self.event_shape))
            advice = "Reshape the data."
            if len(self.event_shape) > 1 and tuple(x.shape[1:]) == (*self.event_shape[1:], self.event_shape[0]):
                advice = "Channels come first: x.movedim(-1, 1) of a tensor, np.moveaxis(x, -1, 1) of an array."
            raise ValueError(f"x must have shape (rows, {expected}) for {name}; got {tuple(x.shape)}. {advice}")
        outside = ~self.support.check(x).reshape(len(x), -1)
        if outside.any():
            row, cell = (int(i) for i in outside.nonzero()[0])
            value = x.reshape(len(x), -1)[row, cell].item()
            raise ValueError(
                f"x must lie in {support_name(self.support)} for {name}; got {value:g} in row {first_row + row}, and"
                f" values from {x.min().item():g} up to {x.max().item():g}. {self.support_advice}"
            )
        if self.discrete and x.is_floating_point() and len(x):
            self._check_digits(x, first_row)

    def _check_digits(self, x: Tensor, first_row: int) -> None:
        """Raise a ValueError if x holds counts beyond the integers that its precision can tell apart."""
        largest = 2 / torch.finfo(x.dtype).eps  # 2 ** 24 for float32
        row_largest = x.reshape(len(x), -1).amax(1)
        if (row_largest > largest).any():
            row = int((row_largest > largest).nonzero()[0])
            raise ValueError(
                f"x must be at most {largest:.0f} for {type(self).__name__} in {x.dtype}, which does not hold all"
                f" larger integers; got {row_largest[row].item():.0f} in row {first_row + row}. Use float64:"
                " model.double()."
            )


def check_vector(event_shape: tuple[int, ...]) -> None:
    """Raise a ValueError unless a row is a vector."""
    if len(event_shape) != 1:
        raise ValueError(f"event_shape must be that of a vector; got {event_shape}. Flatten the rows.")
