"""Numbers about a fitted model, per row, with their errors."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from pyro_vae.arguments import positive_number
from pyro_vae.inference import pareto

__all__ = ["BoundResult", "ConditionalLogLikelihood", "LogLikelihood", "Mean", "Sandwich", "UnreliableWarning"]


class UnreliableWarning(UserWarning):
    """An estimate that is returned, and is not to be relied on."""


def check_told(what: str, values: Tensor) -> Tensor:
    """Return the values, or raise a ValueError where one is NaN or infinity: minus infinity is an answer."""
    bad = values.isnan() | (values == torch.inf)
    if bad.any():
        row = int(bad.nonzero()[0])
        raise ValueError(
            f"{what} must be a number; got {values[row].item()} in row {row} ({int(bad.sum())} such rows), where terms"
            " overflow. Rescale x, use model.double(), or look at the parameters."
        )
    return values


@dataclass(frozen=True)
class Mean:
    """A mean over rows with its two errors.

    Attributes:
        estimate: the mean.
        monte_carlo_error: standard error due to the finite number of particles.
        sampling_error: standard error due to the finite number of rows.
    """

    estimate: float
    monte_carlo_error: float
    sampling_error: float

    def __str__(self) -> str:
        errors = f"Monte Carlo error {self.monte_carlo_error:.3f}"
        if not math.isnan(self.sampling_error):
            errors += f", sampling error {self.sampling_error:.3f}"
        return f"{self.estimate:.3f} ({errors})"


def mean_of(estimate: Tensor, standard_error: Tensor) -> Mean:
    """The mean of estimates (B,) with independent Monte Carlo errors (B,)."""
    rows = len(estimate)
    sampling = float(estimate.std() / math.sqrt(rows)) if rows > 1 else math.nan
    return Mean(float(estimate.mean()), float(standard_error.square().sum().sqrt() / rows), sampling)


@dataclass(frozen=True)
class BoundResult:
    """The ELBO of each row, in nats: `bound` = `reconstruction` - `kl`, each (B,); (1,) if joint over the rows.

    Attributes:
        bound: the evidence lower bound.
        reconstruction: E_q log p(x | z).
        kl: KL(q(z | x) || p(z)).
        standard_error: Monte Carlo standard error of the bound; NaN for one particle.
        reconstruction_error: that of the reconstruction.
        kl_error: that of the KL; 0 where it is in closed form and does not vary.
        analytic_sites: latent sites whose KL is in closed form.
        num_particles: K.
        joint: whether a latent lies outside the row plate, so that there is one number for all rows.
    """

    bound: Tensor
    reconstruction: Tensor
    kl: Tensor
    standard_error: Tensor
    reconstruction_error: Tensor
    kl_error: Tensor
    analytic_sites: tuple[str, ...]
    num_particles: int
    joint: bool

    def mean(self, part: str = "bound") -> Mean:
        """Mean over rows of the "bound", the "reconstruction" or the "kl", with both errors.

        Raises:
            ValueError: for another part.
        """
        if part not in ("bound", "reconstruction", "kl"):
            raise ValueError(f"part must be bound, reconstruction or kl; got {part!r}. Choose one of these.")
        error = self.standard_error if part == "bound" else getattr(self, f"{part}_error")
        return mean_of(getattr(self, part), error)


@dataclass(frozen=True)
class LogLikelihood:
    """log p(x) of each row from K log-weights, in nats, each field (B,); (1,) if joint over the rows.

    Attributes:
        estimate: log mean_k w_k, a lower bound in expectation.
        standard_error: Monte Carlo standard error by the delta method; NaN for one particle.
        ess: effective sample size, (sum w)^2 / sum w^2, between 1 and K.
        khat: Pareto k-hat of the weights; -inf where they do not vary, NaN where fewer than 25 are too few to tell.
        smoothed: the same estimate from Pareto-smoothed weights; less noise and some bias where k-hat is large.
        num_particles: K; where a target for the error was given, that of each row, (B,).
        joint: whether a latent lies outside the row plate, so that there is one number for all rows.
        method: how the weights were made: "importance", "semi_amortized" or "ais".
        discrete: whether these are logarithms of probabilities, not of densities.
        num_cells: numbers of x that an estimate speaks of: of a row, or of all of them if joint.
    """

    estimate: Tensor
    standard_error: Tensor
    ess: Tensor
    khat: Tensor
    smoothed: Tensor
    num_particles: int | Tensor
    joint: bool
    method: str = "importance"
    discrete: bool = False
    num_cells: int = 1

    def __str__(self) -> str:
        unit = "for all rows together" if self.joint else f"per row, {len(self.estimate)} rows"
        flagged = f"Pareto k-hat above the threshold in {int(self.unreliable.sum())} of {len(self.khat)}"
        return f"log p(x) {self.mean()} nats {unit}; {flagged}"

    @property
    def threshold(self) -> float | Tensor:
        """The k-hat above which estimates are unreliable, min(1 - 1 / log10 K, 0.7); (B,) where K is."""
        if isinstance(self.num_particles, int):
            return pareto.threshold(self.num_particles)
        return self.khat.new_tensor([pareto.threshold(k) for k in self.num_particles.tolist()])

    @property
    def unreliable(self) -> Tensor:
        """Rows whose k-hat is above the threshold, (B,): estimate and error are then not to be relied on."""
        return self.khat > self.threshold

    @property
    def bias(self) -> Tensor:
        """About how much the estimate is too low on average, -Var(w) / 2K at mean weight 1, (B,); at most zero."""
        return -self.standard_error.square() / 2

    def bits_per_dimension(self, bin_width: float | None = None) -> Tensor:
        """-log2 of the probability per number of a row, (B,).

        Args:
            bin_width: of real data that were rounded to bins, on the scale of x; None for discrete data.

        Raises:
            ValueError: if x is real and no width is given, or it is discrete and one is.
        """
        if self.discrete == (bin_width is not None):
            kind, advice = ("discrete", "Leave it out") if self.discrete else ("real", "State the data's resolution")
            raise ValueError(f"bin_width must suit x, which is {kind}; got {bin_width!r}. {advice}.")
        width = 1.0 if bin_width is None else positive_number("bin_width", bin_width)
        rows = self.num_cells * math.log(2)
        return -(self.estimate + self.num_cells * math.log(width)) / rows

    def mean(self, unit: str = "nats", bin_width: float | None = None) -> Mean:
        """Mean over rows, in "nats" or "bits" per dimension, with both errors.

        Raises:
            ValueError: for another unit, or as `bits_per_dimension`.
        """
        if unit not in ("nats", "bits"):
            raise ValueError(f"unit must be nats or bits; got {unit!r}. Bits are per dimension.")
        if unit == "nats":
            return mean_of(self.estimate, self.standard_error)
        return mean_of(self.bits_per_dimension(bin_width), self.standard_error / (self.num_cells * math.log(2)))

    def plot(self, ax: Any = None) -> Any:
        """k-hat of each row; returns matplotlib axes."""
        from pyro_vae import plots

        return plots.khat(self.khat, float(torch.as_tensor(self.threshold).max()), ax=ax)


@dataclass(frozen=True)
class ConditionalLogLikelihood:
    """log p(x_A | x_B) = log p(x) - log p(x_B) of each row, (B,), in nats.

    Attributes:
        estimate: the difference.
        standard_error: its Monte Carlo standard error; draws that both terms share are allowed for.
        whole: the first term, with its k-hat.
        given: the second term, with its own.
    """

    estimate: Tensor
    standard_error: Tensor
    whole: LogLikelihood
    given: LogLikelihood

    def __str__(self) -> str:
        return f"log p(x_A | x_B) {self.mean()} nats per row; {int(self.unreliable.sum())} rows unreliable"

    @property
    def unreliable(self) -> Tensor:
        """Rows where k-hat of one of the terms is above the threshold, (B,)."""
        return self.whole.unreliable | self.given.unreliable

    def mean(self) -> Mean:
        """Mean over rows, with both errors."""
        return mean_of(self.estimate, self.standard_error)


@dataclass(frozen=True)
class Sandwich:
    """Lower and upper estimates of log p(x) of rows drawn from the model: what importance sampling says of them is
    right only if it lies between, within its errors.

    Attributes:
        lower: forward annealed importance sampling, a lower bound in expectation.
        upper: reverse annealed importance sampling from exact posterior draws, an upper bound in expectation.
        x: the rows drawn, (B, *E).
    """

    lower: LogLikelihood
    upper: LogLikelihood
    x: Tensor

    def __str__(self) -> str:
        return (
            f"log p(x) of {len(self.x)} simulated rows: at least {self.lower.mean()}, at most {self.upper.mean()} nats"
        )

    def gap(self) -> Mean:
        """Mean over rows of upper - lower: how much both can be off."""
        error = (self.lower.standard_error.square() + self.upper.standard_error.square()).sqrt()
        return mean_of(self.upper.estimate - self.lower.estimate, error)

    def plot(self, ax: Any = None) -> Any:
        """Both estimates of each row; returns matplotlib axes."""
        from pyro_vae import plots

        return plots.sandwich(self.lower.estimate, self.upper.estimate, ax=ax)


def upper_of(result: LogLikelihood) -> LogLikelihood:
    """The upper bound that estimates of log 1 / p(x) give."""
    return replace(result, estimate=-result.estimate, smoothed=-result.smoothed)
