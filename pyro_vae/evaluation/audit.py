"""Mean log p(x) over rows: a cheap estimate for all rows, corrected by a better one on a random sample of them."""

from __future__ import annotations

import math
import time
import warnings
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from pyro_vae.arguments import positive_integer, positive_number
from pyro_vae.data.batches import Rows
from pyro_vae.evaluation.base import Method
from pyro_vae.evaluation.likelihood import log_likelihood
from pyro_vae.evaluation.methods import as_method
from pyro_vae.evaluation.results import LogLikelihood, Mean, UnreliableWarning, in_bits
from pyro_vae.evaluation.summary import Summary
from pyro_vae.inference.pair import ProgramPair
from pyro_vae.runtime import processes
from pyro_vae.runtime.display import Shown
from pyro_vae.runtime.random import seeded

__all__ = ["AuditedLogLikelihood", "audited_log_likelihood"]

FEWEST_ROWS = 50  # audited, whatever the budget
CLEAR = 3.0  # standard errors by which a method that is lower is known to be no better


@dataclass(frozen=True, repr=False)
class AuditedLogLikelihood(Shown):
    """Mean log p(x) over rows by a difference estimator, whose error includes what the cheap estimate misses.

    The mean over all N rows of the cheap estimate is corrected by the mean of (better - cheap) over m random rows. What
    the better method misses is left: the result is a lower bound in expectation. So is the cheap estimate. Where the
    better method is clearly lower (`corrects` is False), as annealing is whose chains move too little, nothing is
    corrected, and the mean and its error are those of the cheap estimates.

    Attributes:
        cheap: estimates for all rows.
        better: estimates for the audited rows.
        index: the numbers of these rows, (m,).

    References:
        *Model Assisted Survey Sampling* (Särndal, Swensson, Wretman, 1992), section 6.3
    """

    cheap: LogLikelihood
    better: LogLikelihood
    index: Tensor

    def __str__(self) -> str:
        num_rows = len(self.cheap.estimate)
        unit = "for all rows together" if self.cheap.joint else f"per row, {num_rows} rows"
        where = "" if self.cheap.joint else f" on {len(self.index)} random rows"
        low = self.difference()
        side = "above" if low.estimate >= 0 else "below"
        counts = "" if self.corrects else f", so that {self.cheap.method} counts"
        return (
            f"{self.cheap.what} {self.mean()} nats {unit}; {self.better.method} is"
            f" {replace(low, estimate=abs(low.estimate))} nats {side} {self.cheap.method}{where}{counts}"
        )

    @property
    def corrects(self) -> bool:
        """False where the better method is lower than the cheap one by more than three standard errors of `difference`.

        True also where that is not known.
        """
        low = self.difference()
        if not self.cheap.estimate.mean().isfinite():
            return True
        return low.estimate > -math.inf and not low.estimate < -CLEAR * low.monte_carlo_error

    def difference(self) -> Mean:
        """Mean of better - cheap, estimated from the audited rows, with the error of the sample and of both methods."""
        cheap, better, error = self.cheap.estimate[self.index], self.better.estimate, self.cheap.standard_error
        differences = torch.where(better == cheap, 0.0, better - cheap)  # both may be minus infinity
        noise = self.better.standard_error.square() + error[self.index].square()
        found = Mean(float(differences.mean()), self._error(differences, noise), math.nan)
        return replace(found, error_holds=self._all_zeros_audited)

    @property
    def _all_zeros_audited(self) -> bool:
        """Whether all rows whose cheap estimate is minus infinity were audited."""
        zero = self.cheap.estimate == -torch.inf
        return bool(zero[self.index].sum() == zero.sum())

    def _error(self, differences: Tensor, noise: Tensor) -> float:
        """The standard error of a mean difference, from differences and squared errors of the audited rows."""
        m, total = len(self.index), len(self.cheap.estimate)
        spread = float(differences.var()) if m < total else 0.0
        return math.sqrt((1 - m / total) * spread / m + float(noise.mean()) / total)

    def mean(self, unit: str = "nats", bin_width: float | None = None) -> Mean:
        """Mean over rows, in "nats" or "bits" per dimension, with both errors.

        The square of the Monte Carlo error is (1 - m/N) s^2 / m, where s is the standard deviation of the differences
        over the audited rows, plus the mean squared error of their better estimates, divided by N. It does not hold if
        a cheap estimate is minus infinity in a row that was not audited. From fewer than 20 audited rows it is itself
        uncertain: intervals need Student's distribution with m - 1 degrees of freedom. The sampling error is that of
        the better estimates; if these are fewer than 50, that of the cheap ones, of all rows. Where nothing is
        corrected, all of this is `cheap.mean()`.

        Raises:
            ValueError: as `LogLikelihood.mean`.
        """
        if not self.corrects:
            return self.cheap.mean(unit, bin_width)
        cheap, better, m = self.cheap.estimate, self.better.estimate, len(self.index)
        rows = better if m >= min(FEWEST_ROWS, len(cheap)) else cheap
        if (cheap == -torch.inf).any():
            cheap, rows = torch.zeros_like(cheap), better  # what is left is the mean over the audited rows
        differences = better - cheap[self.index]
        error = self._error(differences, self.better.standard_error.square())
        sampling = float(rows.std()) / math.sqrt(len(cheap)) if len(rows) > 1 else math.nan
        mean = float(cheap.mean() + differences.mean())
        found = Mean(mean, error, sampling, "lower bound", self._all_zeros_audited)
        return in_bits(found, self.cheap, unit, bin_width)


def audited_log_likelihood(
    model: ProgramPair,
    rows: Rows,
    *,
    num_rows: int | None = None,
    seconds: float = 60.0,
    num_particles: int | None = None,
    method: str | Method = "ais",
    seed: int | None = None,
    fields: tuple[str, ...] = (),
) -> AuditedLogLikelihood:
    """Mean log p(x) over rows; see `LatentVariableModel.audited_log_likelihood`."""
    found = _audited(model, rows, num_rows, seconds, num_particles, as_method(method), seed, fields)
    if not found.corrects:
        warnings.warn(
            f"{found.better.method} is {-found.difference().estimate:.2f} nats lower than {found.cheap.method} on the"
            f" audited rows. Both are lower bounds, so that the mean is that of {found.cheap.method}. Take more steps,"
            " evaluation.AIS(num_steps=...), or another method.",
            UnreliableWarning,
            stacklevel=3,
        )
    return found


def _audited(
    model: ProgramPair,
    rows: Rows,
    num_rows: int | None,
    seconds: float,
    num_particles: int | None,
    better: Method,
    seed: int | None,
    fields: tuple[str, ...],
) -> AuditedLogLikelihood:
    """The estimates of both methods, without a warning."""
    positive_number("seconds", seconds)
    largest = len(rows) if num_rows is None else min(len(rows), positive_integer("num_rows", num_rows, 2))
    with seeded(seed, 1):  # which checks the seed, too
        rows = rows.drawn(model.like)
        order = processes.agree_on(torch.randperm(len(rows)))
    seeds = [None if seed is None else seed + number for number in range(3)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnreliableWarning)  # the differences show what flags would warn of
        cheap = log_likelihood(model, rows, num_particles=num_particles, seed=seed, fields=fields)
        if cheap.joint:
            found = log_likelihood(model, rows, method=better, seed=seeds[1], fields=fields)
            return AuditedLogLikelihood(cheap, found, torch.zeros(1, dtype=torch.int64))
        better = better.prepared(model, largest, better.default_particles, max(1, cheap.num_cells))
        start, index = time.perf_counter(), order[: min(FEWEST_ROWS, largest)]
        parts = [log_likelihood(model, rows.subset(index), method=better, seed=seeds[1], fields=fields)]
        if num_rows is None:
            compiling = 0.0 if better.recorder is None else better.recorder.seconds
            affordable = len(index) * seconds / (time.perf_counter() - start - compiling)
            largest = processes.agree_on(int(min(largest, affordable)))
        more = order[len(index) : largest]
        if len(more):
            parts.append(log_likelihood(model, rows.subset(more), method=better, seed=seeds[2], fields=fields))
    columns: dict[str, Any] = {name: torch.cat([getattr(part, name) for part in parts]) for name in Summary._fields}
    return AuditedLogLikelihood(cheap, replace(parts[0], **columns), torch.cat([index, more]))
