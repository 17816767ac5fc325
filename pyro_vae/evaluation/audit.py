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
from pyro_vae.runtime.random import seeded

__all__ = ["AuditedLogLikelihood", "audited_log_likelihood"]

FEWEST_ROWS = 50  # audited, whatever the budget
CLEAR = 3.0  # standard errors by which a method that is lower is known to be no better


@dataclass(frozen=True)
class AuditedLogLikelihood:
    """Mean log p(x) over rows by a difference estimator, whose error includes what the cheap estimate misses.

    The mean over all N rows of the cheap estimate is corrected by the mean of (better - cheap) over m random rows. What
    the better method misses is left: the result is a lower bound in expectation. So is the cheap estimate; where the
    better method is clearly lower (`is_better` is False), as annealing can be whose chains move too little, the mean is
    that of the cheap estimates.

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
        counts = "" if self.is_better else f", so that {self.cheap.method} counts"
        return (
            f"log p(x) {self.mean()} nats {unit}; {self.better.method} is {self.difference()} nats above"
            f" {self.cheap.method}{where}{counts}"
        )

    @property
    def is_better(self) -> bool:
        """False where the better method is lower than the cheap one by more than three standard errors."""
        low = self.difference()
        return not low.estimate < -CLEAR * low.monte_carlo_error

    def difference(self) -> Mean:
        """Mean over the audited rows of better - cheap; its Monte Carlo error is that of the corrected mean."""
        cheap, better = self.cheap.estimate[self.index], self.better.estimate
        differences = torch.where(better == cheap, 0.0, better - cheap)  # both may be minus infinity
        return replace(self._corrected(), estimate=float(differences.mean()), sampling_error=math.nan, kind="estimate")

    def mean(self, unit: str = "nats", bin_width: float | None = None) -> Mean:
        """Mean over rows, in "nats" or "bits" per dimension, with both errors.

        The square of the Monte Carlo error is (1 - m/N) s^2 / m, where s is the standard deviation of the differences
        over the audited rows, plus the mean squared error of their better estimates, divided by N. It does not hold if
        a cheap estimate is minus infinity in a row that was not audited. From fewer than 20 audited rows it is itself
        uncertain: intervals need Student's distribution with m - 1 degrees of freedom. The sampling error is that of
        the better estimates; if these are fewer than 50, that of the cheap ones, of all rows. Where the better method
        is clearly lower, all of this is `cheap.mean()`.

        Raises:
            ValueError: as `LogLikelihood.mean`.
        """
        return (
            in_bits(self._corrected(), self.cheap, unit, bin_width)
            if self.is_better
            else self.cheap.mean(unit, bin_width)
        )

    def _corrected(self) -> Mean:
        """The mean of the cheap estimates plus the mean difference."""
        cheap, better, m = self.cheap.estimate, self.better.estimate, len(self.index)
        rows, zero = better if m >= min(FEWEST_ROWS, len(cheap)) else cheap, cheap == -torch.inf
        if zero.any():
            cheap, rows = torch.zeros_like(cheap), better  # what is left is the mean over the audited rows
        differences = better - cheap[self.index]
        spread = float(differences.var()) if m < len(cheap) else 0.0
        noise = float(self.better.standard_error.square().mean())
        error = math.sqrt((1 - m / len(cheap)) * spread / m + noise / len(cheap))
        sampling = float(rows.std()) / math.sqrt(len(cheap)) if len(rows) > 1 else math.nan
        holds = bool(zero[self.index].sum() == zero.sum())
        return Mean(float(cheap.mean() + differences.mean()), error, sampling, "lower bound", holds)


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
    better = as_method(method)
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
            return _warned(AuditedLogLikelihood(cheap, found, torch.zeros(1, dtype=torch.int64)))
        better = better.prepared(model, largest, better.default_particles, cheap.num_cells)
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
    return _warned(AuditedLogLikelihood(cheap, replace(parts[0], **columns), torch.cat([index, more])))


def _warned(found: AuditedLogLikelihood) -> AuditedLogLikelihood:
    """The same, with a warning if the better method is not better."""
    if not found.is_better:
        warnings.warn(
            f"{found.better.method} is {-found.difference().estimate:.2f} nats lower than {found.cheap.method} on the"
            f" audited rows. Both are lower bounds, so that the mean is that of {found.cheap.method}. Take more steps,"
            " evaluation.AIS(num_steps=...), or another method.",
            UnreliableWarning,
            stacklevel=4,
        )
    return found
