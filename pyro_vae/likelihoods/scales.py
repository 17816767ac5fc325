"""What likelihoods with a location and a scale, or a mean and a dispersion, have in common."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor, nn
from torch.distributions.constraints import Constraint

from pyro_vae.arguments import positive_number, true_or_false
from pyro_vae.likelihoods.base import Likelihood
from pyro_vae.parts import as_scale

__all__ = ["LocationScale", "Scaled", "Standardized", "concentrations"]


class Scaled(Likelihood):
    """Base of likelihoods whose cells have a positive number besides what the decoder says of each cell.

    The number is unit * as_scale(raw), where raw is learned ("shared" or "per_dimension") or the last of the decoder's
    numbers for the cell ("predicted"); by any other choice it is the unit. The unit comes from the data.

    Args:
        event_shape: E.
        what: the name of the number, for the message.
        choice: where it comes from.
        other_outputs: how many numbers the decoder gives for each cell besides this one.

    Raises:
        ValueError: if the choice is not among `choices`.
    """

    choices: tuple[str, ...] = ("shared", "per_dimension", "predicted")
    unit: Tensor

    def __init__(self, event_shape: int | Sequence[int], what: str, choice: str, other_outputs: int = 1) -> None:
        super().__init__(event_shape)
        if choice not in self.choices:
            known = " or ".join((", ".join(self.choices[:-1]), self.choices[-1]))
            raise ValueError(f"{what} must be {known}; got {choice!r}. Choose one of these.")
        self.choice, self.outputs_per_cell = choice, other_outputs + (choice == "predicted")
        one = choice in ("fixed", "shared", "optimal")
        if choice in ("shared", "per_dimension"):
            self.raw_scale = nn.Parameter(torch.zeros(() if one else self.event_shape))
        self.register_buffer("unit", torch.ones(() if one else self.event_shape))

    def split(self, outputs: Tensor) -> tuple[Tensor, ...]:
        """The decoder's numbers for each cell, (..., *E) each, and last the positive one."""
        parts = outputs.chunk(self.outputs_per_cell, -len(self.event_shape))
        if self.choice == "predicted":
            return *parts[:-1], self.unit * as_scale(parts[-1])
        if self.choice in ("shared", "per_dimension"):
            return *parts, self.unit * as_scale(self.raw_scale)
        return *parts, self.unit

    def start(self, above: Tensor, below: Tensor) -> None:
        """Start from a quotient of moments of the cells, which may be out of range: within 0.01 and 100."""
        if self.unit.dim() == 0:
            above, below = above.mean(), below.mean()
        self.unit.copy_((above / below.clamp_min(0.01 * above)).nan_to_num(1.0).clamp(0.01, 100))


class Standardized(Scaled):
    """Base of likelihoods of cells that are standardised for the network: shift and unit are those of the data."""

    support: Constraint = constraints.real
    support_advice = "Drop or impute cells that are not finite."
    shift: Tensor

    def __init__(self, event_shape: int | Sequence[int], scale: str, standardize: bool) -> None:
        super().__init__(event_shape, "scale", scale)
        self.standardize = true_or_false("standardize", standardize)
        self.register_buffer("shift", torch.zeros(self.event_shape))

    def on_line(self, x: Tensor) -> Tensor:
        """The cells as real numbers of which location and scale speak."""
        return x

    def features(self, x: Tensor) -> Tensor:
        return (self.on_line(x) - self.shift) / self.unit

    def initialize(self, x: Tensor, **batch: Tensor) -> None:
        if not self.standardize:
            return
        x = self.on_line(x)
        shift = x.mean(0)
        variance = (x - shift).square_().mean(0)  # one copy of x, not two
        overall = variance.mean().sqrt()
        overall = torch.where(overall > 0, overall, torch.ones_like(overall))
        self.shift.copy_(shift)
        if self.unit.dim() == 0:
            self.unit.copy_(overall)
        else:  # a constant cell has no deviation of its own: a thousandth of the overall one keeps its unit positive
            deviation = variance.sqrt()
            self.unit.copy_(torch.where(deviation > 1e-6 * shift.abs(), deviation, 1e-3 * overall))


class LocationScale(Standardized):
    """Base of likelihoods with a location and a scale for each cell.

    Data are standardised inside, the distribution is on the original scale. The unit is one per cell where `scale` is
    "per_dimension" or "predicted": the network works on cells of mean 0 and deviation 1. Otherwise the unit is one
    number, since the family of distributions would be another one: for columns of very different units choose
    "per_dimension" or "predicted".

    Args:
        event_shape: E.
        scale: "shared" (one that is learned), "per_dimension" (one learned for each cell), "predicted" (by the decoder,
            for each row and cell) or "fixed".
        fixed_scale: the scale, in units of x, where `scale` is "fixed".
        standardize: whether the network works on standardised cells.

    Attributes:
        ratio: the scale of the member with deviation 1: the learned scale starts where the deviation is the data's.

    Raises:
        ValueError: if `scale` is unknown or `fixed_scale` not positive.
    """

    choices: tuple[str, ...] = ("fixed", "shared", "per_dimension", "predicted")
    ratio = 1.0

    def __init__(
        self,
        event_shape: int | Sequence[int],
        scale: str = "shared",
        fixed_scale: float = 1.0,
        standardize: bool = True,
    ) -> None:
        super().__init__(event_shape, scale, standardize)
        self.scale, self.fixed_scale = scale, positive_number("fixed_scale", fixed_scale)

    @abstractmethod
    def family(self, loc: Tensor, scale: Tensor) -> dist.TorchDistribution:
        """The distribution of each cell."""

    def forward(self, outputs: Tensor, **batch: Tensor) -> dist.TorchDistribution:
        loc, scale = self.split(outputs)
        scale = torch.full_like(self.unit, self.fixed_scale) if self.scale == "fixed" else self.ratio * scale
        return self.family(self.shift + self.unit * loc, scale).to_event(len(self.event_shape))


def concentrations(logit: Tensor, total: Tensor) -> tuple[Tensor, Tensor]:
    """The two parameters of the beta distribution with mean sigmoid(logit) and the sum given.

    The logit is held within 40, so that neither is zero in float32.
    """
    logit = logit.clamp(-40, 40)
    return total * torch.sigmoid(logit), total * torch.sigmoid(-logit)
