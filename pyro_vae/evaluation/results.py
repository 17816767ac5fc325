"""Results of evaluation: numbers about a fitted model, per row, with their errors."""

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
    """Warns that an estimate which is returned is not reliable."""


def check_estimates(what: str, values: Tensor) -> Tensor:
    """Return the values, or raise a ValueError if one is NaN or plus infinity; minus infinity is a possible answer."""
    bad = values.isnan() | (values == torch.inf)
    if bad.any():
        row = int(bad.nonzero()[0])
        raise ValueError(
            f"{what} must be a number; got {values[row].item()} in row {row} ({int(bad.sum())} such rows), where terms"
            " overflow. Rescale x, use model.double(), or check the parameters."
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


def mean_over_rows(estimate: Tensor, standard_error: Tensor) -> Mean:
    """The mean over rows of estimates (B,) whose Monte Carlo standard errors (B,) are independent."""
    num_rows = len(estimate)
    sampling = float(estimate.std() / math.sqrt(num_rows)) if num_rows > 1 else math.nan
    return Mean(float(estimate.mean()), float(standard_error.square().sum().sqrt() / num_rows), sampling)


@dataclass(frozen=True)
class BoundResult:
    """The ELBO of each row, in nats: `bound` = `reconstruction` - `kl`, each (B,); (1,) if joint over the rows.

    Attributes:
        bound: the evidence lower bound.
        reconstruction: E_q log p(x | z).
        kl: KL(q(z | x) || p(z)).
        standard_error: Monte Carlo standard error of the bound; NaN for one particle.
        reconstruction_error: Monte Carlo standard error of the reconstruction.
        kl_error: Monte Carlo standard error of the KL; 0 if it is in closed form and does not vary.
        analytic_sites: latent sites whose KL is in closed form.
        num_particles: K.
        joint: whether a latent lies outside the row plate, so that there is one number for all rows together.
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
        """Mean over rows of the "bound", the "reconstruction" or the "kl", with its Monte Carlo and its sampling error.

        Raises:
            ValueError: if `part` is none of these.
        """
        if part not in ("bound", "reconstruction", "kl"):
            raise ValueError(f"part must be bound, reconstruction or kl; got {part!r}. Choose one of these.")
        error = self.standard_error if part == "bound" else getattr(self, f"{part}_error")
        return mean_over_rows(getattr(self, part), error)


@dataclass(frozen=True)
class LogLikelihood:
    """log p(x) of each row from K log-weights, in nats, each field (B,); (1,) if joint over the rows.

    Attributes:
        estimate: log mean_k w_k, a lower bound in expectation.
        standard_error: Monte Carlo standard error by the delta method; NaN for one particle.
        ess: effective sample size, (sum w)^2 / sum w^2, between 1 and K.
        khat: Pareto k-hat of the weights; -inf if they do not vary, NaN with fewer than 25, too few for an estimate.
        smoothed: the same estimate from Pareto-smoothed weights; where k-hat is large it has less noise and some bias.
        num_particles: K; if a target for the error was given, K of each row, (B,).
        joint: whether a latent lies outside the row plate, so that there is one number for all rows together.
        method: the name of the method: "importance", "semi_amortized" or "ais".
        discrete: whether these are logarithms of probabilities, not of densities.
        num_cells: how many numbers a row of x has, or all rows together if joint.
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
        """Whether k-hat is above the threshold, (B,): estimate and standard error are then unreliable."""
        return self.khat > self.threshold

    @property
    def bias(self) -> Tensor:
        """The approximate bias of the estimate, (B,): -Var(w) / 2K for weights of mean 1, at most zero."""
        return -self.standard_error.square() / 2

    def bits_per_dimension(self, bin_width: float | None = None) -> Tensor:
        """-log2 of the probability of a row, divided by how many numbers it has, (B,).

        Args:
            bin_width: the width of the bins that real data were rounded to, on the scale of x; None for discrete data.

        Raises:
            ValueError: if x is real and no width is given, or it is discrete and one is.
        """
        if self.discrete == (bin_width is not None):
            kind, advice = ("discrete", "Leave it out") if self.discrete else ("real", "State the data's resolution")
            raise ValueError(f"bin_width must suit x, which is {kind}; got {bin_width!r}. {advice}.")
        width = 1.0 if bin_width is None else positive_number("bin_width", bin_width)
        return -(self.estimate + self.num_cells * math.log(width)) / (self.num_cells * math.log(2))

    def mean(self, unit: str = "nats", bin_width: float | None = None) -> Mean:
        """Mean over rows, in "nats" or "bits" per dimension, with both errors.

        Raises:
            ValueError: for another unit, or as `bits_per_dimension`.
        """
        if unit not in ("nats", "bits"):
            raise ValueError(f"unit must be nats or bits; got {unit!r}. Bits are per dimension.")
        if unit == "nats":
            return mean_over_rows(self.estimate, self.standard_error)
        return mean_over_rows(self.bits_per_dimension(bin_width), self.standard_error / (self.num_cells * math.log(2)))

    def plot(self, ax: Any = None) -> Any:
        """k-hat of each row; returns matplotlib axes."""
        from pyro_vae import plots

        return plots.khat(self.khat, float(torch.as_tensor(self.threshold).max()), ax=ax)


@dataclass(frozen=True)
class ConditionalLogLikelihood:
    """log p(x_A | x_B) = log p(x) - log p(x_B) of each row, (B,), in nats.

    Attributes:
        estimate: the difference.
        standard_error: its Monte Carlo standard error, which allows for draws that both terms share.
        whole: the first term, log p(x).
        given: the second term, log p(x_B).
    """

    estimate: Tensor
    standard_error: Tensor
    whole: LogLikelihood
    given: LogLikelihood

    def __str__(self) -> str:
        return f"log p(x_A | x_B) {self.mean()} nats per row; {int(self.unreliable.sum())} rows unreliable"

    @property
    def unreliable(self) -> Tensor:
        """Whether k-hat of one of the terms is above the threshold, (B,)."""
        return self.whole.unreliable | self.given.unreliable

    def mean(self) -> Mean:
        """Mean over rows, with both errors."""
        return mean_over_rows(self.estimate, self.standard_error)


@dataclass(frozen=True)
class Sandwich:
    """Lower and upper estimates of log p(x) for rows drawn from the model.

    Another estimate for these rows is credible only if it lies between both, within its errors.

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
        """Mean over rows of upper - lower, a bound on the error of both."""
        error = (self.lower.standard_error.square() + self.upper.standard_error.square()).sqrt()
        return mean_over_rows(self.upper.estimate - self.lower.estimate, error)

    def plot(self, ax: Any = None) -> Any:
        """Both estimates of each row; returns matplotlib axes."""
        from pyro_vae import plots

        return plots.sandwich(self.lower.estimate, self.upper.estimate, ax=ax)


def as_upper_bound(result: LogLikelihood) -> LogLikelihood:
    """The upper bounds on log p(x) that estimates of log 1 / p(x) give, with their signs changed."""
    return replace(result, estimate=-result.estimate, smoothed=-result.smoothed)
