"""The numbers of a run, in nats per row, each with two standard errors: Monte Carlo, and sampling of rows."""

from __future__ import annotations

import argparse
import math
from dataclasses import asdict
from typing import Any

import torch

from pyro_vae import reporting
from pyro_vae.cli import scoring
from pyro_vae.cli.scoring import Scoring, as_numbers, finite
from pyro_vae.criticism.diagnosis import Diagnosis
from pyro_vae.data.batches import Rows
from pyro_vae.datasets import Splits
from pyro_vae.elbos import Estimator
from pyro_vae.evaluation.results import SIGNS
from pyro_vae.models import VAE
from pyro_vae.runtime import processes
from pyro_vae.runtime.isolation import evaluating
from pyro_vae.training.convergence import Convergence
from pyro_vae.training.history import History

__all__ = ["as_plain", "evaluate", "flatten", "lines", "notes", "report", "summarize"]

TRAIN_ROWS = 5000  # the ELBO of the training rows is estimated on at most this many, the first ones
SPLITS = {"test": "test", "valid": "validation", "train": "train"}
NAMES = {"log_likelihood": "log-likelihood", "elbo": "ELBO", "reconstruction": "reconstruction", "kl": "KL"}
PLAIN = ("elbo", "meanfield")  # two estimators of the ELBO itself


def evaluate(vae: VAE, rows: Rows, seed: int, scoring: Scoring | None = None) -> dict[str, Any]:
    """Means over rows of the ELBO, its parts and, if it is said how, the log-likelihood, each with two errors."""
    result = vae.elbo(rows, seed=seed)
    parts = {"elbo": result.mean(), "reconstruction": result.mean("reconstruction"), "kl": result.mean("kl")}
    numbers: dict[str, Any] = {"rows": len(rows), "elbo_particles": result.num_particles}
    if scoring is not None:
        if processes.rank() == 0:
            print(f"ELBO {parts['elbo']} nats per row on {len(rows):,} test rows; log p(x) takes longer.", flush=True)
        numbers |= scoring.numbers(vae, rows, seed)
    return numbers | {name: as_numbers(mean) for name, mean in parts.items()}


def flatten(vae: VAE, test: dict[str, Any]) -> dict[str, Any]:
    """The estimates of the test rows as one flat dictionary: `test_elbo` and so on."""
    flat: dict[str, Any] = {"unit": "nats per row"} | {f"test_{name}": test[name]["estimate"] for name in NAMES}
    if vae.covariates is not None:
        flat["covariates"] = list(vae.covariates.names)
    flat |= {
        "test_log_likelihood_is": test["log_likelihood"]["kind"],
        "flagged_share": test["likelihood"]["flagged_share"],
    }
    if vae.likelihood.discrete and vae.table_schema is None and vae.missing is None:
        cells = math.prod(vae.likelihood.event_shape)
        flat["test_bits_per_dimension"] = finite(-float(flat["test_log_likelihood"]) / (cells * math.log(2)))
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
    """The content of `summary.json`."""
    scoring = Scoring(options.num_likelihood_particles, num_rows=options.num_likelihood_rows)
    test = evaluate(vae, splits.test, options.seed, scoring)
    valid = evaluate(vae, splits.valid, options.seed)
    train = evaluate(vae, splits.train.subset(slice(0, TRAIN_ROWS)), options.seed)
    trained = test["elbo"]["estimate"] if name in PLAIN else _trained_bound(vae, estimator, splits.test, options.seed)
    bounds = [row["valid_bound"] for row in history]
    return flatten(vae, test) | {
        "trained_bound": {"name": name, "num_particles": estimator.num_particles, "test": trained},
        "data": splits.name,
        "epochs": len(history),
        "best_epoch": 1 + max(range(len(bounds)), key=bounds.__getitem__) if bounds else None,
        "convergence": asdict(history.convergence()),
        "interrupted": history.interrupted,
        "seconds": seconds,
        "num_parameters": sum(parameter.numel() for parameter in vae.parameters()),
        "seed": options.seed,
        "test": test,
        "valid": valid,
        "train": train,
    }


def report(summary: dict[str, Any]) -> str:
    """A table of the results, followed by lines on how they were estimated."""
    return "\n".join([reporting.table(lines(summary)), *notes(summary)])


def notes(summary: dict[str, Any]) -> list[str]:
    """Lines on how the results were estimated, and on the training where it is known."""
    found = _about_estimates(summary["test"])
    if "covariates" in summary:
        names = ", ".join(summary["covariates"])
        about = f"All numbers are given covariates, as in log p(x | covariates): {names}. Rows that are drawn from the"
        found.insert(0, f"{about} model have those of test rows chosen at random.")
    if "test_bits_per_dimension" in summary:
        bits = summary["test_bits_per_dimension"]
        found.append(
            f"The test log-likelihood corresponds to <= {float(bits):.3f} bits per dimension (lower is better)."
        )
    return found + (_about_training(summary) if "seconds" in summary else [])


def _about_estimates(test: dict[str, Any]) -> list[str]:
    closed_form = ", and the KL in closed form" if test["kl"]["monte_carlo_error"] == 0 else ""
    return [
        "Both errors are standard errors: Monte Carlo from the random draws, sampling from the choice of rows.",
        f"ELBO: {test['elbo_particles']:,} draws from the guide for each row{closed_form}.",
        *scoring.about(test),
    ]


def lines(summary: dict[str, Any]) -> list[dict[str, Any]]:
    """The table of the results: a dictionary for each line."""
    found = []
    for split in SPLITS:
        for name in NAMES if split == "test" else ("elbo",) if split in summary else ():
            numbers, mean = summary[split], summary[split][name]
            is_part = name in ("reconstruction", "kl")
            found.append(
                {
                    "nats per row": f"  {NAMES[name]}" if is_part else f"{SPLITS[split]} {NAMES[name]}",
                    "estimate": f"{SIGNS[mean.get('kind', 'estimate')]}{float(mean['estimate']):.3f}",
                    "Monte Carlo error": mean["monte_carlo_error"],
                    "sampling error": mean["sampling_error"],
                    "rows": (numbers["likelihood"] if name == "log_likelihood" else numbers)["rows"],
                }
            )
    return found


def _about_training(summary: dict[str, Any]) -> list[str]:
    bound, epochs, best = summary["trained_bound"], summary["epochs"], summary["best_epoch"]
    found = [
        f"{epochs} epoch{'' if epochs == 1 else 's'} in all; training took {summary['seconds']:.1f} s this time"
        + (f"; the validation bound was highest after epoch {best}" if best else "")
        + f". The model has {summary['num_parameters']:,} parameters.",
        str(Convergence(**summary["convergence"])),
    ]
    if bound["name"] not in PLAIN:
        name = f"{bound['name']} with {bound['num_particles']} particles"
        found.append(f"The bound used in training, {name}: {bound['test']:.3f} nats per test row.")
    return found


def _trained_bound(vae: VAE, estimator: Estimator, rows: Rows, seed: int) -> float:
    """The mean over rows of the bound that the model was trained with."""
    total, (rows, names) = 0.0, vae.read_rows(rows, {})
    with evaluating(vae, seed=seed):
        for part in torch.arange(len(rows)).split(500):
            batch: dict[str, Any] = rows.take(part, names, like=vae.like)
            found = estimator.unweighted().run(vae.model, vae.guide, batch.pop("x"), **batch)
            total += float(found.bound.double().sum())
    return total / len(rows)


def as_plain(found: Diagnosis) -> dict[str, Any]:
    """A diagnosis as values that JSON can hold."""
    plain: dict[str, Any] = {
        "unit": "nats per row",
        "rows": found.num_rows,
        "findings": [asdict(finding) for finding in found.findings],
        "skipped": found.skipped,
        "log_likelihood": as_numbers(found.log_likelihood.mean()),
        "elbo": as_numbers(found.bound.mean()),
        "khat": [finite(k) for k in found.log_likelihood.khat.tolist()],
        "khat_threshold": found.log_likelihood.threshold,
    }
    if found.convergence is not None:
        plain["convergence"] = asdict(found.convergence)
    if found.use is not None:
        plain["latents"] = {
            "mutual_information": as_numbers(found.use.mutual_information),
            "aggregate_kl": finite(found.use.aggregate_kl),
            "aggregate_kl_error": finite(found.use.aggregate_kl_error),
            "active_units": {name: int(site.active.sum()) for name, site in found.use.sites.items()},
        }
    if found.calibration is not None:
        names, p_values = found.calibration.names, found.calibration.p_values.tolist()
        plain["calibration_p_values"] = dict(zip(names, p_values, strict=True))
    if found.gap is not None:
        plain["amortization_gap"] = as_numbers(found.gap.gap)
    if found.checks is not None:
        entries = found.checks.lines()
        plain["checks"] = [{k: finite(v) if isinstance(v, float) else v for k, v in line.items()} for line in entries]
        plain["coverage"] = found.checks.pit.overall()
    return plain
