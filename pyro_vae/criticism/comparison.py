"""Models compared by their log-likelihood of held-out rows."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from pyro_vae.data.batches import Rows, as_rows
from pyro_vae.data.frames import check_alignment
from pyro_vae.data.loaders import read_whole
from pyro_vae.data.tensors import as_tensor, check_finite
from pyro_vae.evaluation import LogLikelihood, Mean, Method, UnreliableWarning, mean_over_rows
from pyro_vae.evaluation.likelihood import known_labels
from pyro_vae.evaluation.methods import as_method
from pyro_vae.evaluation.remedies import remedy
from pyro_vae.evaluation.results import SIGNS
from pyro_vae.fields import choose_fields, merge_fields, split_fields
from pyro_vae.inference.chunks import ProgramStructure, program_structure
from pyro_vae.model import check_model
from pyro_vae.runtime.display import Shown
from pyro_vae.runtime.random import preserved_rng, seeded
from pyro_vae.tables.table import matching

__all__ = ["Comparison", "compare"]


@dataclass(frozen=True, repr=False)
class Comparison(Shown):
    """Expected log predictive density (elpd) of models on the same rows, in nats per row, the best first.

    Attributes:
        names: names of the models.
        scores: mean log p(x) of each model, with its Monte Carlo error and its sampling error.
        differences: score minus the best model's, paired by row, with both errors: at most 0, exactly 0 for the best.
        bias: approximate bias of each score, at most 0, because its guide is not the exact posterior.
        within_bias: whether a difference is at most twice the sum of its Monte Carlo error and the larger bias of the
            two models, so that it may be due to the guides.
        unreliable: number of flagged rows of each model; see `LogLikelihood.unreliable`.
        results: the log-likelihood of each row, by model.
    """

    names: list[str]
    scores: list[Mean]
    differences: list[Mean]
    bias: list[float]
    within_bias: list[bool]
    unreliable: list[int]
    results: dict[str, LogLikelihood]

    def _note(self, i: int) -> str:
        khat = self.results[self.names[i]].khat
        unknown = int(khat.isnan().sum())
        if self.unreliable[i] - unknown > 0.05 * len(khat):
            return "high k-hat: elpd is too low by more than the bias shown"
        if self.within_bias[i]:
            return "difference may be due to the guides"
        return "k-hat unknown: elpd may be too low by more than the bias shown" if unknown > 0.05 * len(khat) else ""

    def lines(self) -> list[dict[str, Any]]:
        """Lines of the table, one for each model; "-" where there are too few particles for a k-hat.

        The Monte Carlo error is None where over 5 % of a model's rows are flagged: it is known to be larger.
        """
        lines = []
        for i, name in enumerate(self.names):
            score, difference = self.scores[i], self.differences[i]
            lines.append(
                {
                    "model": name,
                    "elpd": score.estimate,
                    "sampling error": score.sampling_error,
                    "Monte Carlo error": score.monte_carlo_error if score.error_holds else None,
                    "difference": difference.estimate,
                    "error of difference": math.hypot(difference.sampling_error, difference.monte_carlo_error),
                    "bias": self.bias[i],
                    "rows of high k-hat": "-" if self.results[name].khat.isnan().all() else str(self.unreliable[i]),
                    "note": self._note(i),
                }
            )
        return lines

    def _headline(self) -> str:
        return f"{len(self.names)} models; the best is {self.names[0]}, log p(x) {self.scores[0]} nats per row"

    def __str__(self) -> str:
        from pyro_vae import reporting

        count = len(next(iter(self.results.values())).estimate)
        lines = [line | {"elpd": f"{SIGNS['lower bound']}{line['elpd']:.3f}"} for line in self.lines()]
        what = self.results[self.names[0]].what
        return (
            f"{reporting.table(lines)}\n"
            f"Mean {what} in nats per row, {count} rows; differences to the best model, paired by row."
        )

    def to_pandas(self) -> Any:
        """The table as a pandas frame (needs pandas)."""
        import pandas as pd

        return pd.DataFrame(self.lines()).set_index("model")

    def plot(self, ax: Any = None) -> Any:
        """Differences to the best model, two standard errors either way; returns matplotlib axes."""
        from pyro_vae import plots

        errors = [math.hypot(mean.sampling_error, mean.monte_carlo_error) for mean in self.differences]
        return plots.comparison(self.names, [d.estimate for d in self.differences], errors, self.within_bias, ax=ax)


def compare(
    models: Mapping[str, Any],
    x: Any,
    *,
    num_particles: int | None = None,
    method: str | Method = "importance",
    seed: int | None = None,
    **fields: Any,
) -> Comparison:
    """Compare models by log p(x) of the same held-out rows, paired by row.

    Every score is too low on average, by about Var(w) / 2K where weights have mean 1, and more so for a model whose
    guide fits worse. A difference is flagged if it is at most twice the sum of this bias and its Monte Carlo error;
    more particles, or `method="ais"`, lower both.

    Args:
        models: at least two models of the same data, by name.
        x: rows (N, *E), in any form that `fit` takes, on which no model was trained.
        num_particles: K, as in `log_likelihood`.
        method: as in `log_likelihood`.
        seed: seed of the draws.
        **fields: named per-row fields; each model receives those that it reads.

    Raises:
        ValueError: if there are fewer than two models, if one gives a density of a column and another a probability,
            if no model reads a field, or if a latent is global, so that there is one number for all rows.

    References:
        *Practical Bayesian Model Evaluation Using Leave-One-Out Cross-Validation and WAIC* (Vehtari, Gelman, Gabry,
        2017), arXiv 1507.04544, on differences paired by row
    """
    if not isinstance(models, Mapping) or len(models) < 2:
        got = len(models) if isinstance(models, Mapping) else type(models).__name__
        raise ValueError(
            f"models must be a dictionary of two models or more; got {got}. Pass {{'a': vae, 'b': other}}."
        )
    for model in models.values():
        check_model(model)
    first = next(iter(models.values()))
    data, own = _read(models, x, fields)
    with seeded(seed):
        data = data.drawn(first.like)
    _check_measures(models, data, own)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnreliableWarning)  # one warning for all models follows
        results = {
            str(name): model.log_likelihood(
                data, num_particles=num_particles, method=method, seed=seed, fields=own[name]
            )
            for name, model in models.items()
        }
    for name, result in results.items():
        check_finite(f"log p(x) under {name!r}", result.estimate)
    if any(result.joint for result in results.values()):
        raise ValueError(
            "models must have independent rows to be paired; got a global latent. Compare log_likelihood(x) by hand."
        )
    _warn_if_unreliable(models, results, data, own, as_method(method))
    names = sorted(results, key=lambda name: -float(results[name].estimate.mean()))
    best = results[names[0]]
    differences, within = [], []
    bias = {name: float(result.bias.mean()) for name, result in results.items()}
    for name in names:
        result = results[name]
        error = torch.zeros_like(best.estimate)
        if name != names[0]:
            error = (result.standard_error.square() + best.standard_error.square()).sqrt()
        difference = mean_over_rows(result.estimate - best.estimate, error)
        differences.append(difference)
        margin = 2 * (difference.monte_carlo_error - min(bias[name], bias[names[0]]))
        # One particle gives a NaN, which is flagged, too: hence `not >` and not `<=`.
        within.append(name != names[0] and not -difference.estimate > margin)
    return Comparison(
        names=names,
        scores=[results[name].mean() for name in names],
        differences=differences,
        bias=[bias[name] for name in names],
        within_bias=within,
        unreliable=[int(results[name].unreliable.sum()) for name in names],
        results={name: results[name] for name in names},
    )


def _warn_if_unreliable(
    models: Mapping[str, Any],
    results: dict[str, LogLikelihood],
    data: Rows,
    fields: dict[str, tuple[str, ...]],
    method: Method,
) -> None:
    """Warn if rows of a model are flagged: one warning for all models, with advice for a comparison."""
    flagged = {name: result for name, result in results.items() if result.unreliable.any()}
    if not flagged:
        return
    name, worst = max(flagged.items(), key=lambda item: item[1].flagged_share)
    few = int(torch.as_tensor(worst.num_particles).max()) if worst.khat.isnan().all() else None
    key = next(key for key in models if str(key) == name)
    structure = program_structure(models[key], *models[key].read_rows(data, {"fields": fields[key]}))
    shares = ", ".join(f"{result.flagged_share:.0%} under {name!r}" for name, result in flagged.items())
    warnings.warn(
        f"Rows are flagged by Pareto k-hat, or have too few draws for it: {shares}. There scores and differences are"
        f" unreliable. {remedy('comparison', method, structure, few)}",
        UnreliableWarning,
        stacklevel=3,
    )


def _read(models: Mapping[str, Any], x: Any, fields: dict[str, Any]) -> tuple[Rows, dict[str, tuple[str, ...]]]:
    """The rows with all fields, and the names of those that each model reads.

    Raises:
        ValueError: if a field is given that no model reads.
    """
    names, given = split_fields(fields)
    readable = merge_fields(model.fields for model in models.values())

    def read_field(name: str, values: Any) -> Any:
        """The values of a field as numbers, which must be the same for all models that read it."""
        read = {key: as_tensor(model.read_field(name, values)) for key, model in models.items() if name in model.fields}
        read = read or {"": as_tensor(values, name)}
        first, *others = read.values()
        if not all(torch.equal(first, other) for other in others):
            raise ValueError(
                f"field {name!r} must have the same levels in the same order in all models; got other codes in"
                f" {list(read)}. Compare models of one list of levels."
            )
        return first

    with preserved_rng():
        seen = [name for model in models.values() for name in model.schema.fields or ()]
        table = next((model.schema.table for model in models.values() if model.schema.table is not None), None)
        read = as_rows(matching(x, table), names, readable=(*readable, *seen), read_field=read_field)
        rows = read if isinstance(read, Rows) else read_whole(read, names, readable=readable)
    check_alignment(given, rows.index)
    rows = rows.with_fields({name: read_field(name, values) for name, values in given.items()}) if given else rows
    used = choose_fields(readable, (*names, *given), rows.field_names)
    chosen = {name: tuple(field for field in used if field in model.fields) for name, model in models.items()}
    _refuse_other_labels(models, rows, chosen)
    return rows, chosen


def _refuse_other_labels(models: Mapping[str, Any], rows: Rows, fields: dict[str, tuple[str, ...]]) -> None:
    """Raise a ValueError where one model would be scored by log p(x, label), and another by log p(x)."""
    labels = {name: set(known_labels(model, rows, fields[name])) for name, model in models.items()}
    for one in set().union(*labels.values()):
        without = [str(name) for name, found in labels.items() if one not in found]
        if without:
            raise ValueError(
                f"field {one!r} must be read by all models, or left out; got {without} without it, of which log p(x)"
                f" would be compared with log p(x, {one}). Pass rows without it: pv.Rows(rows.x)."
            )


def _check_measures(models: Mapping[str, Any], rows: Rows, fields: dict[str, tuple[str, ...]]) -> None:
    """Raise a ValueError where one model gives the probability of a column of x and another its density."""
    found: dict[str, ProgramStructure] = {}
    for name, model in models.items():
        own, used = model.read_rows(rows, {"fields": fields[name]})
        found[str(name)] = program_structure(model, own, used)
    kinds = {name: "probabilities" if structure.discrete else "densities" for name, structure in found.items()}
    if len(set(kinds.values())) > 1 and all(len(_distinct(structure)) == 1 for structure in found.values()):
        raise ValueError(
            f"models must all give probabilities of x, or all densities; got {kinds}. These cannot be compared."
        )
    first, *others = found.items()
    columns = {} if rows.columns is None else {site: tuple(rows.columns) for site in first[1].measures}
    for name, structure in others:
        for site, cells in first[1].measures.items():
            theirs = structure.measures.get(site, ())
            labels = columns.get(site) or first[1].columns.get(site) or structure.columns.get(site, ())
            for i, (one, other) in enumerate(zip(cells, theirs, strict=False)):
                if one != other:
                    label = f"column {labels[i]!r}" if len(labels) == len(cells) else f"cell {i}"
                    raise ValueError(
                        f"models must all give a probability, or all a density, of each column; got for {label} of"
                        f" {site!r} a {one} from {first[0]!r} and a {other} from {name!r}. These cannot be compared."
                    )
        if sorted(_cells(first[1])) != sorted(_cells(structure)):
            raise ValueError(
                f"models must give probabilities and densities of the same cells; got {_counts(first[1])} from"
                f" {first[0]!r} and {_counts(structure)} from {name!r}. These cannot be compared."
            )


def _cells(structure: ProgramStructure) -> list[str]:
    return [measure for cells in structure.measures.values() for measure in cells]


def _distinct(structure: ProgramStructure) -> set[str]:
    return set(_cells(structure))


def _counts(structure: ProgramStructure) -> dict[str, int]:
    cells = _cells(structure)
    return {measure: cells.count(measure) for measure in sorted(set(cells))}
