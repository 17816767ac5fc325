"""What likelihoods with a location and a scale, or with a mean and a dispersion, have in common."""

from __future__ import annotations

import warnings
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

UNLIKE = 10.0  # quotient of standard deviations from which columns are taken to have different units


class Scaled(Likelihood):
    """Base of likelihoods with a positive parameter, a scale or a dispersion, besides those that the decoder gives.

    It is unit * as_scale(raw), where raw is learned ("shared" or "per_dimension") or is the last of the decoder's
    numbers for the cell ("predicted"). With any other choice it is the unit itself, a number that comes from the data.

    Args:
        event_shape: E.
        what: the name of the parameter, for the message.
        choice: where the parameter comes from.
        other_outputs: how many numbers the decoder gives for each cell without this one.

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
        """The parameters of the cells: the decoder's other numbers, (..., *E) each, and the positive parameter last."""
        parts = outputs.chunk(self.outputs_per_cell, -len(self.event_shape))
        if self.choice == "predicted":
            return *parts[:-1], self.unit * as_scale(parts[-1])
        if self.choice in ("shared", "per_dimension"):
            return *parts, self.unit * as_scale(self.raw_scale)
        return *parts, self.unit

    def unbounded_at(self, constant: Tensor) -> Tensor:
        learned = not self.discrete and self.choice != "fixed"
        shared = self.choice in ("shared", "optimal")
        return constant & learned & (constant.all() if shared else True)

    def start_unit(self, numerator: Tensor, denominator: Tensor) -> None:
        """Set the unit to the quotient of two moments of the cells, clamped to [0.01, 100]; to 1 where both are 0."""
        if self.unit.dim() == 0:
            numerator, denominator = numerator.mean(), denominator.mean()
        self.unit.copy_((numerator / denominator.clamp_min(0.01 * numerator)).nan_to_num(1.0).clamp(0.01, 100))


class Standardized(Scaled):
    """Base of likelihoods whose cells are standardized for the network, by the data's means and standard deviations."""

    support: Constraint = constraints.real
    support_advice = "Drop or impute cells that are not finite."
    shift: Tensor

    def __init__(self, event_shape: int | Sequence[int], scale: str, standardize: bool) -> None:
        super().__init__(event_shape, "scale", scale)
        self.standardize = true_or_false("standardize", standardize)
        self.register_buffer("shift", torch.zeros(self.event_shape))

    def to_real(self, x: Tensor) -> Tensor:
        """The cells as the real numbers that have the location and the scale."""
        return x

    def features(self, x: Tensor) -> Tensor:
        return (self.to_real(x) - self.shift) / self.unit

    def initialize(self, x: Tensor, **batch: Tensor) -> None:
        if not self.standardize:
            return
        x = self.to_real(x)
        shift = x.mean(0)
        variance = (x - shift).square_().mean(0)  # one copy of x, not two
        spread = x.amax(0) - x.amin(0)
        lost = (variance < torch.finfo(x.dtype).tiny) & (spread > 0)
        if lost.all() if self.unit.dim() == 0 else lost.any():
            place = tuple(lost.nonzero()[0].tolist())
            raise ValueError(
                f"x must vary by amounts that can be squared in {x.dtype}; got {spread[place].item():g} between the"
                f" largest and the smallest value of column {', '.join(map(str, place))}. Choose units in which the"
                " numbers are larger, or train in float64: model.double()."
            )
        overall = variance.mean().sqrt()
        overall = torch.where(overall > 0, overall, torch.ones_like(overall))
        self.shift.copy_(shift)
        if self.unit.dim() == 0:
            self._warn_of_units(variance.sqrt().where(spread > 0, 0.0))  # rounded, a constant column varies
            self.unit.copy_(overall)
        else:  # a constant cell gets a thousandth of the overall standard deviation, so that its unit is positive
            deviation = variance.sqrt()
            self.unit.copy_(torch.where(deviation > 1e-6 * shift.abs(), deviation, 1e-3 * overall))

    def _warn_of_units(self, deviation: Tensor) -> None:
        """Warn where one learned scale serves columns of different units; the cells of images have one unit."""
        varying = deviation[(deviation > 0) & deviation.isfinite()]  # other checks name cells that overflow
        if self.choice == "fixed" or deviation.dim() > 1 or len(varying) < 2:
            return
        low, high = float(varying.min()), float(varying.max())
        if high > UNLIKE * low:
            warnings.warn(
                f"One scale for all columns of x ({type(self).__name__}, scale={self.choice!r}) should go with columns"
                f" of one unit; their standard deviations are {low:.3g} to {high:.3g}. Pass scale='per_dimension', or"
                " standardize the columns.",
                stacklevel=2,
            )


class LocationScale(Standardized):
    """Base of likelihoods with a location and a scale for each cell.

    The network works on standardized cells, and the distribution is on the original scale. Where `scale` is
    "per_dimension" or "predicted", every cell is divided by its own standard deviation. Otherwise all are divided by
    one number: with a common scale, separate units would change the family of distributions.

    Args:
        event_shape: E.
        scale: where the scale comes from: "shared" (one learned number), "per_dimension" (one learned for each cell),
            "predicted" (by the decoder, for each row and cell) or "fixed".
        fixed_scale: the scale, in units of x, where `scale` is "fixed".
        standardize: whether the network works on standardized cells.

    Attributes:
        ratio: the scale at which the standard deviation is 1, so that the learned scale starts at that of the data.

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
    """The two parameters of the beta distribution whose mean is sigmoid(logit) and whose parameters have this sum.

    The logit is clamped to [-40, 40], so that neither parameter is zero in float32.
    """
    logit = logit.clamp(-40, 40)
    return total * torch.sigmoid(logit), total * torch.sigmoid(-logit)
