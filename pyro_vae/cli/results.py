"""The numbers of a run, in nats per row, each with two standard errors: Monte Carlo, and sampling of rows."""

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
from pyro_vae.evaluation.results import SIGNS
from pyro_vae.inference import pareto
from pyro_vae.runtime.isolation import evaluating
from pyro_vae.training.history import History
from pyro_vae.vae import VAE

__all__ = ["as_plain", "evaluate", "flatten", "report", "summarize"]

TRAIN_ROWS = 5000  # the ELBO of the training rows is estimated on at most this many, the first ones
SPLITS = {"test": "test", "valid": "validation", "train": "train"}
NAMES = {"log_likelihood": "log-likelihood", "elbo": "ELBO", "reconstruction": "reconstruction", "kl": "KL"}
PLAIN = ("elbo", "meanfield")  # two estimators of the ELBO itself
FEW = 10  # effective sample size below which the estimate of log p(x) is called too low


def evaluate(vae: VAE, rows: Rows, seed: int, num_particles: int | None = None) -> dict[str, Any]:
    """Means over rows of the ELBO, its parts and, given `num_particles`, the log-likelihood, each with two errors."""
    result = vae.elbo(rows, seed=seed)
    parts = {"elbo": result.mean(), "reconstruction": result.mean("reconstruction"), "kl": result.mean("kl")}
    numbers: dict[str, Any] = {"rows": len(rows), "elbo_particles": result.num_particles}
    if num_particles is not None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UnreliableWarning)  # the printed report counts these rows
            likelihood = vae.log_likelihood(rows, num_particles=num_particles, seed=seed)
        parts = {"log_likelihood": likelihood.mean(), **parts}
        numbers |= {
            "likelihood_particles": num_particles,
            "median_ess": _finite(float(likelihood.ess.nanmedian())),
            "unreliable_rows": int(likelihood.unreliable.sum()),
            "unknown_khat_rows": int(likelihood.khat.isnan().sum()),
            "flagged_share": likelihood.flagged_share,
            "khat_threshold": _finite(float(torch.as_tensor(likelihood.threshold).max())),
        }
    return numbers | {name: _numbers(mean) for name, mean in parts.items()}


def flatten(vae: VAE, test: dict[str, Any]) -> dict[str, Any]:
    """The estimates of the test rows as one flat dictionary: `test_elbo` and so on."""
    flat: dict[str, Any] = {"unit": "nats per row"} | {f"test_{name}": test[name]["estimate"] for name in NAMES}
    flat |= {"test_log_likelihood_is": test["log_likelihood"]["kind"], "flagged_share": test["flagged_share"]}
    if vae.likelihood.discrete:
        cells = math.prod(vae.likelihood.event_shape)
        flat["test_bits_per_dimension"] = _finite(-float(flat["test_log_likelihood"]) / (cells * math.log(2)))
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
    """A table of the results, followed by lines on how they were estimated."""
    notes = [reporting.table(_lines(summary)), *_about_estimates(summary["test"])]
    if "test_bits_per_dimension" in summary:
        bits = summary["test_bits_per_dimension"]
        notes.append(
            f"The test log-likelihood corresponds to <= {float(bits):.3f} bits per dimension (lower is better)."
        )
    if "seconds" in summary:
        notes += _about_training(summary)
    return "\n".join(notes)


def _about_estimates(test: dict[str, Any]) -> list[str]:
    num_particles = test["likelihood_particles"]
    closed_form = ", and the KL in closed form" if test["kl"]["monte_carlo_error"] == 0 else ""
    ess = test["median_ess"]
    few = ", so few that the estimate is too low and more draws would raise it" if ess is None or ess < FEW else ""
    effective = "unknown" if ess is None else f"{ess:.0f} draws{few}"
    return [
        "Both errors are standard errors: Monte Carlo from the random draws, sampling from the choice of rows.",
        f"ELBO: {test['elbo_particles']:,} draws from the guide for each row{closed_form}.",
        f"Log-likelihood: importance sampling with {num_particles:,} draws from the guide for each row; in expectation"
        " a lower bound.",
        f"Effective sample size, median over rows: {effective}.",
        *_about_flags(test),
    ]


def _about_flags(test: dict[str, Any]) -> list[str]:
    """How many rows are flagged, why, and what follows for the log-likelihood."""
    unknown, rows = test["unknown_khat_rows"], test["rows"]
    high, lines = test["unreliable_rows"] - unknown, []
    if unknown < rows:
        lines.append(
            f"Pareto k-hat above {pareto.threshold(test['likelihood_particles']):.2f}, with fewer than"
            f" {pareto.MIN_EFFECTIVE} effective draws, in {high} of {rows} rows."
        )
    if unknown:
        few = test["likelihood_particles"] < pareto.MIN_PARTICLES
        why = f"it needs at least {pareto.MIN_PARTICLES} draws for each row" if few else "all weights are zero there"
        lines.append(f"Pareto k-hat: not computed in {unknown} of {rows} rows; {why}.")
    if not test["log_likelihood"]["error_holds"]:
        lines.append(
            f"{test['flagged_share']:.0%} of the rows are flagged: the log-likelihood is too low, by more than a Monte"
            " Carlo error would say, so none is printed."
        )
    return lines


def _lines(summary: dict[str, Any]) -> list[dict[str, Any]]:
    lines = []
    for split in SPLITS:
        for name in NAMES if split == "test" else ("elbo",) if split in summary else ():
            mean = summary[split][name]
            is_part = name in ("reconstruction", "kl")
            lines.append(
                {
                    "nats per row": f"  {NAMES[name]}" if is_part else f"{SPLITS[split]} {NAMES[name]}",
                    "estimate": f"{SIGNS[mean.get('kind', 'estimate')]}{float(mean['estimate']):.3f}",
                    "Monte Carlo error": mean["monte_carlo_error"],
                    "sampling error": mean["sampling_error"],
                    "rows": summary[split]["rows"],
                }
            )
    return lines


def _about_training(summary: dict[str, Any]) -> list[str]:
    bound, epochs, best = summary["trained_bound"], summary["epochs"], summary["best_epoch"]
    notes = [
        f"{epochs} epoch{'' if epochs == 1 else 's'} in all; training took {summary['seconds']:.1f} s this time"
        + (f"; the validation bound was highest after epoch {best}" if best else "")
        + f". The model has {summary['num_parameters']:,} parameters."
    ]
    if bound["name"] not in PLAIN:
        name = f"{bound['name']} with {bound['num_particles']} particles"
        notes.append(f"The bound used in training, {name}: {bound['test']:.3f} nats per test row.")
    return notes


def _trained_bound(vae: VAE, estimator: Estimator, rows: Rows, seed: int) -> float:
    """The mean over rows of the bound that the model was trained with."""
    total = 0.0
    with evaluating(vae, seed=seed):
        for part in torch.arange(len(rows)).split(500):
            x = rows.take(part, like=vae.like)["x"]
            total += float(estimator.unweighted().run(vae.model, vae.guide, x).bound.double().sum())
    return total / len(rows)


def as_plain(found: Diagnosis) -> dict[str, Any]:
    """A diagnosis as values that JSON can hold."""
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
            "aggregate_kl": _finite(found.use.aggregate_kl),
            "aggregate_kl_error": _finite(found.use.aggregate_kl_error),
            "active_units": {name: int(site.active.sum()) for name, site in found.use.sites.items()},
        }
    if found.calibration is not None:
        names, p_values = found.calibration.names, found.calibration.p_values.tolist()
        plain["calibration_p_values"] = dict(zip(names, p_values, strict=True))
    if found.gap is not None:
        plain["amortization_gap"] = _numbers(found.gap.gap)
    if found.checks is not None:
        lines = found.checks.lines()
        plain["checks"] = [{k: _finite(v) if isinstance(v, float) else v for k, v in line.items()} for line in lines]
        plain["coverage"] = found.checks.pit.overall()
    return plain


def _numbers(mean: Mean) -> dict[str, Any]:
    """A mean as values for JSON; a Monte Carlo error that is known to be too small is left out (null).

    A bound has two values more: its kind, and whether its error holds.
    """
    numbers = {name: _finite(value) if isinstance(value, float) else value for name, value in asdict(mean).items()}
    if not mean.error_holds:
        return numbers | {"monte_carlo_error": None}
    if mean.kind == "estimate":
        del numbers["kind"], numbers["error_holds"]
    return numbers


def _finite(value: float) -> float | str | None:
    """The number; null if it is unknown (NaN); "Infinity" or "-Infinity", which JSON has no numbers for."""
    if math.isnan(value):
        return None
    return value if math.isfinite(value) else "Infinity" if value > 0 else "-Infinity"
