"""The log-likelihood that a command prints: how it is estimated, and what is said about it."""

from __future__ import annotations

import math
import warnings
from dataclasses import asdict, dataclass
from typing import Any

import torch

from pyro_vae.criticism.latents.conditions import at_random
from pyro_vae.data.batches import Rows
from pyro_vae.evaluation import AIS, LogLikelihood, Mean, UnreliableWarning
from pyro_vae.evaluation.results import SIGNS, SMALL_SHARE
from pyro_vae.inference import pareto
from pyro_vae.models import VAE
from pyro_vae.runtime import processes
from pyro_vae.runtime.random import seeded

__all__ = ["METHODS", "Scoring", "about", "as_numbers", "finite"]

METHODS = {
    "importance": "importance sampling",
    "semi_amortized": "importance sampling from a guide that is refined for each row",
    "ais": "annealed importance sampling",
}
FEW = 10  # effective sample size below which an estimate of log p(x) is called too low
FEW_ROWS = 20  # audited, below which the error of the correction has few degrees of freedom
SIMULATED_ROWS = 50  # of the sandwich
DRAWS = 1_000_000  # of importance sampling, for all rows together
ANNEALING = AIS()


@dataclass(frozen=True)
class Scoring:
    """How log p(x) is estimated.

    Attributes:
        num_particles: draws for each row; None for the method's own number, or, where annealing corrects importance
            sampling, for 1,000, fewer where there are more than 1,000 rows: a million in all, but at least 100 a row.
        method: one of `METHODS`, for all rows; None for importance sampling that annealing corrects on random rows.
        num_rows: how many random rows are annealed, or scored by the method; None for as many as a minute allows, or
            all of them.
    """

    num_particles: int | None = None
    method: str | None = None
    num_rows: int | None = None

    def numbers(self, vae: VAE, rows: Rows, seed: int) -> dict[str, Any]:
        """The mean over rows as `log_likelihood`, and how it was found, as values for JSON."""
        if self.method is None:
            return self._audited(vae, rows, seed)
        if self.num_rows is not None and self.num_rows < len(rows):
            with seeded(seed, 1):
                rows = rows.subset(torch.randperm(len(rows))[: self.num_rows])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UnreliableWarning)  # the printed report counts these rows
            found = vae.log_likelihood(rows, method=self.method, num_particles=self.num_particles, seed=seed)
        return {
            "log_likelihood": as_numbers(found.mean()),
            "likelihood": {"method": self.method, "rows": len(rows), **_weights(found)},
        }

    def _audited(self, vae: VAE, rows: Rows, seed: int) -> dict[str, Any]:
        draws = self.num_particles or min(1000, max(100, DRAWS // len(rows)))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UnreliableWarning)  # the printed report says it
            found = vae.audited_log_likelihood(
                rows, num_particles=draws, num_rows=self.num_rows, method=ANNEALING, seed=seed
            )
        audit = {
            "method": found.better.method,
            "rows": len(found.index),
            "particles": found.better.num_particles,
            "difference": finite(found.difference().estimate),
            "corrects": found.corrects,
        }
        likelihood = {"method": "audited", "rows": len(rows), **_weights(found.cheap), "audit": audit}
        likelihood["importance"] = as_numbers(found.cheap.mean())
        if processes.rank() == 0:
            simulated = min(SIMULATED_ROWS, self.num_rows or SIMULATED_ROWS)
            given = at_random(vae, rows, simulated, seed)
            sandwich = vae.sandwich(simulated, method=ANNEALING, seed=seed, fields=given)
            likelihood["sandwich"] = {
                "rows": len(sandwich.x),
                "lower": as_numbers(sandwich.lower.mean()),
                "upper": as_numbers(sandwich.upper.mean()),
                "gap": as_numbers(sandwich.gap()),
            }
        return {"log_likelihood": as_numbers(found.mean()), "likelihood": likelihood}


def _weights(found: LogLikelihood) -> dict[str, Any]:
    """How many draws there were, and how the weights behaved."""
    return {
        "particles": found.num_particles,
        "median_ess": finite(float(found.ess.nanmedian())),
        "unreliable_rows": int(found.unreliable.sum()),
        "unknown_khat_rows": int(found.khat.isnan().sum()),
        "flagged_share": found.flagged_share,
        "khat_threshold": finite(float(torch.as_tensor(found.threshold).max())),
    }


def about(numbers: dict[str, Any]) -> list[str]:
    """Lines about the log-likelihood: the method, what it may miss, and how its weights behave."""
    likelihood = numbers["likelihood"]
    if likelihood["method"] == "audited":
        return [*_about_audit(likelihood), *_about_weights(likelihood), *_about_flags(numbers)]
    what = METHODS[likelihood["method"]]
    rows, kept = numbers["rows"], likelihood["rows"]
    where = "" if kept == rows else f", on {kept:,} of {rows:,} rows, chosen at random"
    lines = [f"Log-likelihood: {what}, {_draws(likelihood)}{where}; in expectation a lower bound."]
    return [*lines, *_about_weights(likelihood), *_about_flags(numbers)]


def _about_flags(numbers: dict[str, Any]) -> list[str]:
    """Why there is no Monte Carlo error, where flags are the reason."""
    likelihood = numbers["likelihood"]
    corrected = likelihood["method"] == "audited" and likelihood["audit"]["corrects"]
    if numbers["log_likelihood"]["error_holds"] or corrected:
        return []
    known = likelihood["unreliable_rows"] - likelihood["unknown_khat_rows"] > SMALL_SHARE * likelihood["rows"]
    flagged = "flagged: the log-likelihood is" if known else "flagged, for want of k-hat: the log-likelihood may be"
    return [
        f"{likelihood['flagged_share']:.0%} of the rows are {flagged} too low, by more than a Monte Carlo error"
        " would say, so none is printed."
    ]


def _about_audit(likelihood: dict[str, Any]) -> list[str]:
    audit, sandwich = likelihood["audit"], likelihood["sandwich"]
    gap, cheap = sandwich["gap"], likelihood["importance"]
    alone, difference = f"{SIGNS[cheap['kind']]}{float(cheap['estimate']):.3f}", float(audit["difference"])
    rows = likelihood["rows"]
    draws = f"Log-likelihood: {METHODS['importance']}, {_draws(likelihood)}"
    better = f"{METHODS[audit['method']]}, {audit['particles']:,} chains for each row"
    where = f"on {audit['rows']:,} of {rows:,} rows, chosen at random"
    moved = f"{abs(difference):.3f} nats {'higher' if difference >= 0 else 'lower'}"
    if not audit["corrects"]:
        return [
            f"{draws}; in expectation a lower bound. {better[0].upper()}{better[1:]}, {where}, is {moved} there, since"
            " its chains move too little, and corrects nothing."
        ]
    return [
        f"{draws}, which alone gives {alone}; corrected by {better}, {where}: it is {moved} there."
        + (" So few rows make the Monte Carlo error uncertain." if audit["rows"] < min(FEW_ROWS, rows) else ""),
        "What annealing misses is left, so that the result is a lower bound. On"
        f" {sandwich['rows']} rows drawn from the model, whose posteriors have a known draw, it misses at most"
        f" {max(0.0, float(gap['estimate'])):.3f} nats (standard error {_text(gap['sampling_error'])}).",
    ]


def _text(error: float | None) -> str:
    return "unknown" if error is None else f"{error:.3f}"


def _draws(likelihood: dict[str, Any]) -> str:
    kind, particles = "chain" if likelihood["method"] == "ais" else "draw", likelihood["particles"]
    where = "" if kind == "chain" else " from the guide"
    return f"{particles:,} {kind}{'' if particles == 1 else 's'}{where} for each row"


def _about_weights(likelihood: dict[str, Any]) -> list[str]:
    """Effective draws, and how many rows are flagged, and why."""
    ess, rows, unknown = likelihood["median_ess"], likelihood["rows"], likelihood["unknown_khat_rows"]
    few = ", so few that it is too low alone and more draws would raise it" if ess is None or ess < FEW else ""
    which = "Importance sampling: effective" if likelihood["method"] == "audited" else "Effective"
    lines = [f"{which} sample size, median over rows: {'unknown' if ess is None else f'{ess:.0f} draws'}{few}."]
    if unknown < rows:
        lines.append(
            f"Pareto k-hat above {likelihood['khat_threshold']:.2f}, with fewer than {pareto.MIN_EFFECTIVE} effective"
            f" draws, in {likelihood['unreliable_rows'] - unknown} of {rows} rows."
        )
    if unknown:
        scarce = likelihood["particles"] < pareto.MIN_PARTICLES
        why = f"it needs at least {pareto.MIN_PARTICLES} draws for each row" if scarce else "all weights are zero there"
        lines.append(f"Pareto k-hat: not computed in {unknown} of {rows} rows; {why}.")
    return lines


def as_numbers(mean: Mean) -> dict[str, Any]:
    """A mean as values for JSON; a Monte Carlo error that is known to be too small is left out (null).

    A bound has two values more: its kind, and whether its error holds.
    """
    numbers = {name: finite(value) if isinstance(value, float) else value for name, value in asdict(mean).items()}
    if not mean.error_holds:
        return numbers | {"monte_carlo_error": None}
    if mean.kind == "estimate":
        del numbers["kind"], numbers["error_holds"]
    return numbers


def finite(value: float) -> float | str | None:
    """The number; null if it is unknown (NaN); "Infinity" or "-Infinity", which JSON has no numbers for."""
    if math.isnan(value):
        return None
    return value if math.isfinite(value) else "Infinity" if value > 0 else "-Infinity"
