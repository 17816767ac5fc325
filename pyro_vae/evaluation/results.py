"""Results of evaluation: numbers about a fitted model, per row, with their errors."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from pyro_vae.arguments import positive_number
from pyro_vae.inference import pareto
from pyro_vae.inference.pareto import UnreliableWarning
from pyro_vae.runtime.display import Shown

__all__ = ["BoundResult", "ConditionalLogLikelihood", "LogLikelihood", "Mean", "Sandwich", "UnreliableWarning"]


SIGNS = {"estimate": "", "lower bound": ">= ", "upper bound": "<= "}
SMALL_SHARE = (
    0.05  # of flagged rows; with more of them, the error of the mean is known to be larger than the stated one
)


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


@dataclass(frozen=True, repr=False)
class Mean(Shown):
    """A mean over rows with its two errors, and what kind of number it is.

    It is printed as what it is: a lower bound as `>= -85.67`, and a Monte Carlo error only where it holds.

    Attributes:
        estimate: the mean.
        monte_carlo_error: standard error due to the finite number of particles; NaN where it is unknown.
        sampling_error: standard error due to the finite number of rows; NaN for one row.
        kind: "estimate", or, of one whose expectation lies on one side of what it estimates, "lower bound" or
            "upper bound".
        error_holds: whether the Monte Carlo error is to be relied on. If not, the error is known to be larger.
    """

    estimate: float
    monte_carlo_error: float
    sampling_error: float
    kind: str = "estimate"
    error_holds: bool = True

    def __str__(self) -> str:
        errors = []
        if self.error_holds:
            known = not math.isnan(self.monte_carlo_error)
            errors.append(f"Monte Carlo error {f'{self.monte_carlo_error:.3f}' if known else 'unknown'}")
        if not math.isnan(self.sampling_error):
            errors.append(f"sampling error {self.sampling_error:.3f}")
        return f"{SIGNS[self.kind]}{self.estimate:.3f}" + (f" ({', '.join(errors)})" if errors else "")


def mean_over_rows(estimate: Tensor, standard_error: Tensor, kind: str = "estimate", error_holds: bool = True) -> Mean:
    """The mean over rows of estimates (B,) whose Monte Carlo standard errors (B,) are independent."""
    num_rows = len(estimate)
    sampling = float(estimate.std() / math.sqrt(num_rows)) if num_rows > 1 else math.nan
    error = float(standard_error.square().sum().sqrt() / num_rows)
    return Mean(float(estimate.mean()), error, sampling, kind, error_holds)


@dataclass(frozen=True, repr=False)
class BoundResult(Shown):
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

    def __str__(self) -> str:
        unit = "for all rows together" if self.joint else f"per row, {len(self.bound)} rows"
        parts = ", ".join(f"{name} {self.mean(name).estimate:.3f}" for name in ("reconstruction", "kl"))
        return f"ELBO {self.mean()} nats {unit}: {parts}"

    def mean(self, part: str = "bound") -> Mean:
        """Mean over rows of the "bound", the "reconstruction" or the "kl", with its Monte Carlo and its sampling error.

        Raises:
            ValueError: if `part` is none of these.
        """
        if part not in ("bound", "reconstruction", "kl"):
            raise ValueError(f"part must be bound, reconstruction or kl; got {part!r}. Choose one of these.")
        error = self.standard_error if part == "bound" else getattr(self, f"{part}_error")
        return mean_over_rows(getattr(self, part), error)


@dataclass(frozen=True, repr=False)
class LogLikelihood(Shown):
    """log p(x) of each row from K log-weights, in nats, each field (B,); (1,) if joint over the rows.

    Attributes:
        estimate: log mean_k w_k, a lower bound in expectation.
        standard_error: Monte Carlo standard error by the delta method; NaN for one particle.
        ess: effective sample size, (sum w)^2 / sum w^2, between 1 and K; NaN if all weights are zero.
        khat: Pareto k-hat of the weights; -inf if they do not vary; NaN, unknown, with fewer than 25, too few for an
            estimate, or if all are zero.
        smoothed: the same estimate from Pareto-smoothed weights; where k-hat is large it has less noise and some bias.
        num_particles: K; if a target for the error was given, K of each row, (B,).
        joint: whether a latent lies outside the row plate, so that there is one number for all rows together.
        method: the name of the method: "importance", "semi_amortized" or "ais".
        discrete: whether these are logarithms of probabilities, not of densities.
        num_cells: how many numbers a row of x has, or all rows together if joint; 0 if cells are missing, so that rows
            differ.
        kind: "lower bound", or "upper bound" for the upper half of a sandwich: what the estimate is in expectation.
        what: what is estimated: "log p(x)", or "log p(x, label)" of rows with a known label.
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
    kind: str = "lower bound"
    what: str = "log p(x)"

    def __str__(self) -> str:
        unit = "for all rows together" if self.joint else f"per row, {len(self.estimate)} rows"
        return "; ".join([f"{self.what} {self.mean()} nats {unit}", *self.flags()])

    def flags(self) -> list[str]:
        """How many rows are flagged, and why, in words; rows whose k-hat is unknown are counted apart."""
        num_rows, unknown = len(self.khat), int(self.khat.isnan().sum())
        texts = []
        if unknown < num_rows:
            texts.append(
                f"Pareto k-hat above the threshold in {int(self.unreliable.sum()) - unknown} of {num_rows}, with fewer"
                f" than {pareto.MIN_EFFECTIVE} effective draws"
            )
        return [*texts, unknown_khat(self)] if unknown else texts

    @property
    def threshold(self) -> float | Tensor:
        """The k-hat above which estimates are unreliable, min(1 - 1 / log10 K, 0.7); (B,) where K is."""
        if isinstance(self.num_particles, int):
            return pareto.threshold(self.num_particles)
        return self.khat.new_tensor([pareto.threshold(k) for k in self.num_particles.tolist()])

    @property
    def unreliable(self) -> Tensor:
        """Which rows are flagged, (B,): k-hat is above the threshold with fewer than 100 effective draws, or unknown.

        Flags describe a set of rows by their share. Rows that are not flagged are not the better ones, and may err
        more: do not pick them out.
        """
        return pareto.flagged(self.khat, self.ess, self.threshold)

    @property
    def flagged_share(self) -> float:
        """The share of rows that are flagged; above 5 % the Monte Carlo error of the mean does not hold."""
        return float(self.unreliable.double().mean())

    @property
    def error_holds(self) -> bool:
        """Whether the Monte Carlo error of the mean is to be relied on: at most 5 % of the rows are flagged.

        That of the upper half of a sandwich comes from the spread over rows, whatever the weights are.
        """
        return self.kind == "upper bound" or self.flagged_share <= SMALL_SHARE

    @property
    def bias(self) -> Tensor:
        """The approximate bias of the estimate, (B,): -Var(w) / 2K for weights of mean 1, at most zero."""
        return -self.standard_error.square() / 2

    def bits_per_dimension(self, bin_width: float | None = None) -> Tensor:
        """-log2 of the probability of a row, divided by how many numbers it has, (B,).

        Args:
            bin_width: the width of the bins that real data were rounded to, on the scale of x; None for discrete data.

        Raises:
            ValueError: if x is real and no width is given, or it is discrete and one is; or if cells are missing.
        """
        return -(self.estimate + self._log_volume(bin_width)) / (self.num_cells * math.log(2))

    def _log_volume(self, bin_width: float | None) -> float:
        """The logarithm of the volume of the bins that a row of x was rounded to; 0 for discrete data."""
        if not self.num_cells:
            raise ValueError(
                "bits per dimension must be of complete rows; got rows with missing cells, which differ in their number"
                " of dimensions. Use nats."
            )
        if self.discrete == (bin_width is not None):
            kind, advice = ("discrete", "Leave it out") if self.discrete else ("real", "State the data's resolution")
            raise ValueError(f"bin_width must suit x, which is {kind}; got {bin_width!r}. {advice}.")
        return self.num_cells * math.log(1.0 if bin_width is None else positive_number("bin_width", bin_width))

    def mean(self, unit: str = "nats", bin_width: float | None = None) -> Mean:
        """Mean over rows, in "nats" or "bits" per dimension, with both errors.

        Raises:
            ValueError: for another unit, or as `bits_per_dimension`.
        """
        found = mean_over_rows(self.estimate, self.standard_error, self.kind, self.error_holds)
        return in_bits(found, self, unit, bin_width)

    def plot(self, ax: Any = None) -> Any:
        """k-hat of each row; returns matplotlib axes."""
        from pyro_vae import plots

        highest = float(torch.as_tensor(self.threshold).max())
        return plots.khat(self.khat, highest, ax=ax, flagged=self.unreliable)


def in_bits(mean: Mean, result: LogLikelihood, unit: str, bin_width: float | None) -> Mean:
    """A mean of log p(x) in its unit: unchanged for "nats"; for "bits", -log2 of the probability per number of a row.

    Raises:
        ValueError: for another unit, or as `LogLikelihood.bits_per_dimension`.
    """
    if unit not in ("nats", "bits"):
        raise ValueError(f"unit must be nats or bits; got {unit!r}. Bits are per dimension.")
    if unit == "nats":
        return mean
    volume, scale = result._log_volume(bin_width), result.num_cells * math.log(2)
    return Mean(
        -(mean.estimate + volume) / scale,
        mean.monte_carlo_error / scale,
        mean.sampling_error / scale,
        "upper bound" if mean.kind == "lower bound" else "lower bound",  # the sign changes
        mean.error_holds,
    )


def unknown_khat(result: LogLikelihood) -> str:
    """In how many rows k-hat is unknown, and why, in words."""
    unknown = result.khat.isnan()
    counts = torch.as_tensor(result.num_particles, device=unknown.device).expand_as(unknown)[unknown]
    few = bool((counts < pareto.MIN_PARTICLES).any())
    why = f"it needs at least {pareto.MIN_PARTICLES} draws" if few else "all their weights are zero"
    where = "for all rows together" if result.joint else f"in {int(unknown.sum())} of {len(unknown)} rows"
    return f"k-hat could not be computed {where}; {why}"


@dataclass(frozen=True, repr=False)
class ConditionalLogLikelihood(Shown):
    """log p(x_A | x_B) = log p(x) - log p(x_B) of each row, (B,), in nats.

    Both terms are lower bounds in expectation; their difference may err either way.

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
        count, num_rows = int(self.unreliable.sum()), len(self.estimate)
        unknown = f"; {unknown_khat(self.given)}" if self.given.khat.isnan().any() else ""
        return f"log p(x_A | x_B) {self.mean()} nats per row; {count} of {num_rows} rows flagged{unknown}"

    @property
    def unreliable(self) -> Tensor:
        """Which rows are flagged in one of the terms, (B,); see `LogLikelihood.unreliable`."""
        return self.whole.unreliable | self.given.unreliable

    @property
    def flagged_share(self) -> float:
        """The share of rows that are flagged; above 5 % the Monte Carlo error of the mean does not hold."""
        return float(self.unreliable.double().mean())

    def mean(self) -> Mean:
        """Mean over rows, with both errors."""
        return mean_over_rows(self.estimate, self.standard_error, error_holds=self.flagged_share <= SMALL_SHARE)


@dataclass(frozen=True, repr=False)
class Sandwich(Shown):
    """Lower and upper estimates of log p(x) for rows drawn from the model.

    Another estimate for these rows is credible only if it lies between both, within its errors.

    Attributes:
        lower: forward annealed importance sampling, a lower bound in expectation.
        upper: reverse annealed importance sampling from an exact posterior draw, an upper bound in expectation. All
            chains of a row share this start, so their spread is too small for an error. The standard error of a row,
            one number for all rows, comes from the spread of upper - lower over rows; NaN for one row, or if joint.
        x: the rows drawn, (B, *E).
    """

    lower: LogLikelihood
    upper: LogLikelihood
    x: Tensor

    def __str__(self) -> str:
        low, high = (replace(side.mean(), kind="estimate") for side in (self.lower, self.upper))
        unit = "for all rows together" if self.lower.joint else "per row"
        return f"log p(x) of {len(self.x)} simulated rows: at least {low}, at most {high} nats {unit}"

    def gap(self) -> Mean:
        """Mean over rows of upper - lower, a bound on the error of both; its error comes from the spread over rows."""
        gap = self.upper.estimate - self.lower.estimate
        return mean_over_rows(gap, _spread(gap))

    def plot(self, ax: Any = None) -> Any:
        """Both estimates of each row; returns matplotlib axes."""
        from pyro_vae import plots

        return plots.sandwich(self.lower.estimate, self.upper.estimate, ax=ax)


def as_sandwich(lower: LogLikelihood, reverse: LogLikelihood, x: Tensor) -> Sandwich:
    """Both bounds, from estimates of log p(x) and of log 1 / p(x).

    The chains of `reverse` start at one exact draw for each row, so only the spread over rows shows their error: the
    variance of upper - lower, less the error that `lower` states for itself.
    """
    estimate = -reverse.estimate
    variance = _spread(estimate - lower.estimate).square() - lower.standard_error.square().mean()
    error = torch.maximum(variance.clamp_min(0.0).sqrt(), reverse.standard_error.square().mean().sqrt())
    upper = replace(reverse, estimate=estimate, smoothed=-reverse.smoothed, standard_error=error, kind="upper bound")
    return Sandwich(lower, upper, x)


def _spread(values: Tensor) -> Tensor:
    """The standard deviation over rows, repeated for each row, (B,); NaN for one row."""
    spread = values.std() if len(values) > 1 else values.new_tensor(math.nan)
    return spread.expand_as(values)
