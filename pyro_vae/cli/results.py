"""The numbers of a run, in nats per row, each with its Monte Carlo and its sampling error."""

from __future__ import annotations

import argparse
import math
import warnings
from dataclasses import asdict
from typing import Any

import torch

from pyro_vae import reporting
from pyro_vae.criticism.diagnosis import Diagnosis
from pyro_vae.data.batches import Rows
from pyro_vae.datasets import Splits
from pyro_vae.elbos import Estimator
from pyro_vae.evaluation import Mean, UnreliableWarning
from pyro_vae.runtime.isolation import evaluating
from pyro_vae.training.history import History
from pyro_vae.vae import VAE

__all__ = ["as_plain", "evaluate", "flatten", "report", "summarize"]

TRAIN_ROWS = 5000  # the ELBO of the training rows is that of the first so many
NAMES = {"log_likelihood": "log-likelihood", "elbo": "ELBO", "reconstruction": "reconstruction", "kl": "KL"}
PLAIN = ("elbo", "meanfield")  # one bound, two estimators of it
FEW = 10  # effective draws below which importance sampling is not to be relied on


def evaluate(vae: VAE, rows: Rows, seed: int, num_particles: int | None = None) -> dict[str, Any]:
    """ELBO, its parts and, with `num_particles`, the log-likelihood of rows: means with two errors."""
    result = vae.elbo(rows, seed=seed)
    parts = {"elbo": result.mean(), "reconstruction": result.mean("reconstruction"), "kl": result.mean("kl")}
    numbers: dict[str, Any] = {"rows": len(rows), "elbo_particles": result.num_particles}
    if num_particles is not None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UnreliableWarning)  # the table says it
            likelihood = vae.log_likelihood(rows, num_particles=num_particles, seed=seed)
        parts = {"log_likelihood": likelihood.mean(), **parts}
        numbers |= {
            "likelihood_particles": num_particles,
            "median_ess": float(likelihood.ess.median()),
            "unreliable_rows": int(likelihood.unreliable.sum()),
        }
    return numbers | {name: _numbers(mean) for name, mean in parts.items()}


def flatten(vae: VAE, test: dict[str, Any]) -> dict[str, Any]:
    """The test estimates under names of their own."""
    flat: dict[str, Any] = {"unit": "nats per row"} | {f"test_{name}": test[name]["estimate"] for name in NAMES}
    if vae.likelihood.discrete:
        cells = math.prod(vae.likelihood.event_shape)
        flat["test_bits_per_dimension"] = -flat["test_log_likelihood"] / (cells * math.log(2))
    return flat


def summarize(
    vae: VAE,
    splits: Splits,
    history: History,
    name: str,
    estimator: Estimator,
    options: argparse.Namespace,
    seconds: float,
) -> dict[str, Any]:
    """All of `summary.json`."""
    test = evaluate(vae, splits.test, options.seed, options.num_likelihood_particles)
    valid = evaluate(vae, splits.valid, options.seed)
    train = evaluate(vae, splits.train.subset(slice(0, TRAIN_ROWS)), options.seed)
    trained = test["elbo"]["estimate"] if name in PLAIN else _trained_bound(vae, estimator, splits.test, options.seed)
    bounds = [row["valid_bound"] for row in history]
    return flatten(vae, test) | {
        "trained_bound": {"name": name, "num_particles": estimator.num_particles, "test": trained},
        "data": splits.name,
        "epochs": len(history),
        "best_epoch": 1 + max(range(len(bounds)), key=bounds.__getitem__) if bounds else None,
        "interrupted": history.interrupted,
        "seconds": seconds,
        "num_parameters": sum(parameter.numel() for parameter in vae.parameters()),
        "seed": options.seed,
        "test": test,
        "valid": valid,
        "train": train,
    }


def report(summary: dict[str, Any]) -> str:
    """A table of the results with units, and lines about how they came about."""
    test = summary["test"]
    few = "; so few that it is too low, and more draws would raise it" if test["median_ess"] < FEW else ""
    notes = [
        reporting.table(_lines(summary)),
        f"Log-likelihood by importance sampling, {test['likelihood_particles']:,} draws for each row"
        f" (median effective number {test['median_ess']:.0f}{few}); Pareto k-hat above the threshold in"
        f" {test['unreliable_rows']} of {test['rows']} rows.",
    ]
    if "test_bits_per_dimension" in summary:
        notes.append(f"That is {summary['test_bits_per_dimension']:.3f} bits per dimension.")
    if "seconds" in summary:
        notes += _about_training(summary)
    return "\n".join(notes)


def _lines(summary: dict[str, Any]) -> list[dict[str, Any]]:
    lines = []
    for split in ("test", "valid", "train"):
        for name in NAMES if split == "test" else ("elbo",) if split in summary else ():
            mean = summary[split][name]
            is_part = name in ("reconstruction", "kl")
            lines.append(
                {
                    "nats per row": f"  {NAMES[name]}" if is_part else f"{split} {NAMES[name]}",
                    "estimate": mean["estimate"],
                    "Monte Carlo error": mean["monte_carlo_error"],
                    "sampling error": mean["sampling_error"],
                    "rows": summary[split]["rows"],
                }
            )
    return lines


def _about_training(summary: dict[str, Any]) -> list[str]:
    bound = summary["trained_bound"]
    notes = [
        f"{summary['epochs']} epochs in {summary['seconds']:.1f} s"
        + (f", best at epoch {summary['best_epoch']}" if summary["best_epoch"] else "")
        + f"; {summary['num_parameters']:,} parameters."
    ]
    if bound["name"] not in PLAIN:
        name = f"{bound['name']} with {bound['num_particles']} particles"
        notes.append(f"The bound that was trained, {name}: {bound['test']:.3f} nats per test row.")
    return notes


def _trained_bound(vae: VAE, estimator: Estimator, rows: Rows, seed: int) -> float:
    """The mean over rows of the bound that was trained."""
    total = 0.0
    with evaluating(vae, seed=seed):
        for part in torch.arange(len(rows)).split(500):
            x = rows.take(part, like=vae.like)["x"]
            total += float(estimator.unweighted().run(vae.model, vae.guide, x).bound.double().sum())
    return total / len(rows)


def as_plain(found: Diagnosis) -> dict[str, Any]:
    """The report as plain values."""
    plain: dict[str, Any] = {
        "unit": "nats per row",
        "rows": found.num_rows,
        "findings": [asdict(finding) for finding in found.findings],
        "skipped": found.skipped,
        "log_likelihood": _numbers(found.log_likelihood.mean()),
        "elbo": _numbers(found.bound.mean()),
        "khat": [_finite(k) for k in found.log_likelihood.khat.tolist()],
        "khat_threshold": found.log_likelihood.threshold,
    }
    if found.use is not None:
        plain["latents"] = {
            "mutual_information": _numbers(found.use.mutual_information),
            "aggregate_kl": found.use.aggregate_kl,
            "active_units": {name: int(site.active.sum()) for name, site in found.use.sites.items()},
        }
    if found.calibration is not None:
        names, p_values = found.calibration.names, found.calibration.p_values.tolist()
        plain["calibration_p_values"] = dict(zip(names, p_values, strict=True))
    if found.gap is not None:
        plain["amortization_gap"] = _numbers(found.gap.gap)
    if found.checks is not None:
        lines = found.checks.rows()
        plain["checks"] = [{k: _finite(v) if isinstance(v, float) else v for k, v in line.items()} for line in lines]
        plain["coverage"] = found.checks.pit.overall()
    return plain


def _numbers(mean: Mean) -> dict[str, Any]:
    return {name: _finite(value) for name, value in asdict(mean).items()}


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
