"""Tail probabilities of statistics under the prior and the posterior predictive."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyro_vae import predictive
from pyro_vae.arguments import positive_integer
from pyro_vae.criticism.checks.fields import fields_for, split_fields, value_of
from pyro_vae.criticism.checks.ready import OfColumns, ready_statistics
from pyro_vae.criticism.checks.transforms import (
    PIT,
    Ranks,
    check_unit,
    column_names,
    columns_of_statistics,
    completed,
    pit_of_cells,
    prior_replicates,
)
from pyro_vae.criticism.statistics import Statistic
from pyro_vae.data.batches import Rows
from pyro_vae.inference.chunks import ProgramStructure, program_structure
from pyro_vae.inference.pair import ProgramPair
from pyro_vae.model import LatentVariableModel, check_model
from pyro_vae.runtime.display import Shown
from pyro_vae.runtime.random import seeded

__all__ = ["RATE_OF_DATA_SETS", "RATE_OF_ROWS", "Checks", "StatisticCheck", "check"]

RATE_OF_DATA_SETS = 0.025  # of the tests of all statistics of the data set together
RATE_OF_ROWS = 0.01  # of the tests of all statistics of rows together


@dataclass(frozen=True, repr=False)
class StatisticCheck(Shown):
    """One statistic of the observed data, its values on replicated data, and the tail probabilities.

    Attributes:
        name: name of the statistic.
        of_rows: whether the statistic has one value for each row, (N,); otherwise it is one of the data set.
        observed: its value on the observed data, (N,) or of any shape T.
        replicated: its values on S data sets drawn from the prior predictive, (S, N) or (S, *T).
        prior: P(replicated >= observed) under the prior predictive, ties randomized, (N,) or (*T): uniform if the model
            is true and was not fitted to these rows.
        posterior: the same where each row is replicated given itself: conservative, that is, nearer 1/2 than uniform.
        uniformity: p-value of the Kolmogorov-Smirnov test that `prior` is uniform over rows; None for a statistic of
            the data set, and where rows share a latent.
        names: names of the entries of a statistic of the data set, e.g. of its columns.
    """

    name: str
    of_rows: bool
    observed: Tensor
    replicated: Tensor
    prior: Tensor
    posterior: Tensor
    uniformity: float | None
    names: list[str]

    def lines(self, most: int = 3) -> list[dict[str, Any]]:
        """Lines of the table: one of means over rows, or the entries with the most extreme prior tail probabilities.

        Args:
            most: largest number of lines.
        """
        if self.of_rows:
            return [self._line("mean over rows", self.observed.mean(), self.replicated.mean(1), self.uniformity, None)]
        observed, replicated = self.observed.reshape(-1), self.replicated.reshape(len(self.replicated), -1)
        prior, posterior = self.prior.reshape(-1), self.posterior.reshape(-1)
        return [
            self._line(self.names[i], observed[i], replicated[:, i], float(prior[i]), float(posterior[i]))
            for i in self.extreme()[:most]
        ]

    def __str__(self) -> str:
        from pyro_vae import reporting

        return reporting.table(self.lines())

    def extreme(self) -> list[int]:
        """Numbers of the entries, most extreme under the prior predictive first; half of the ties count as above."""
        replicated, observed = self.replicated.reshape(len(self.replicated), -1), self.observed.reshape(-1)
        more = (replicated > observed).double().mean(0) + 0.5 * (replicated == observed).double().mean(0)
        return [int(i) for i in (more - 0.5).abs().sort(descending=True, stable=True).indices]

    def furthest(self) -> Tensor:
        """Largest distance of an entry from its mean over the observed and all replicated data sets, in standard
        deviations, in each of these data sets: (1 + S,), the observed one first."""
        values = torch.cat([self.observed.reshape(1, -1), self.replicated.reshape(len(self.replicated), -1)])
        deviation, scale = values - values.mean(0), values.std(0)
        return (deviation / scale.where(scale > 0, 1)).abs().amax(1)

    def _line(
        self, entry: str, observed: Tensor, replicated: Tensor, prior: float | None, posterior: float | None
    ) -> dict[str, Any]:
        return {
            "statistic": self.name,
            "entry": entry,
            "observed": float(observed),
            "replicated": float(replicated.mean()),
            "standard deviation": float(replicated.std()) if len(replicated) > 1 else math.nan,
            "prior p": prior,
            "posterior p (conservative)": posterior,
        }

    def plot(self, entry: int | None = None, ax: Any = None) -> Any:
        """Observed and replicated values of one entry, by default the most extreme; for a statistic of rows a histogram
        of their tail probabilities. Returns matplotlib axes."""
        from pyro_vae import plots

        if self.of_rows:
            ax = plots.pit(self.prior, ax=ax)
            ax.set(title=f"{self.name}: tail probabilities of rows", xlabel="P(replicated >= observed)")
            return ax
        entry = self.extreme()[0] if entry is None else entry
        observed = float(self.observed.reshape(-1)[entry])
        name = self.name if self.observed.dim() == 0 else f"{self.name}, {self.names[entry]}"
        p = float(self.prior.reshape(-1)[entry])
        return plots.statistic(
            observed, self.replicated.reshape(len(self.replicated), -1)[:, entry], name, p_value=p, ax=ax
        )


@dataclass(frozen=True, repr=False)
class Checks(Shown):
    """The result of `check`: statistics by name, and PIT values with their coverage.

    Attributes:
        statistics: the check of each statistic, by name.
        pit: probability integral transforms of every cell.
        num_samples: S, number of replicated data sets.
    """

    statistics: dict[str, StatisticCheck]
    pit: PIT
    num_samples: int

    def adjusted_p_values(self) -> dict[str, float]:
        """p-value of each statistic that is tested, two-sided, adjusted for the number of tests.

        Statistics of the data set: the furthest entry of the statistic, in standard deviations over all S + 1 data
        sets, is ranked among the furthest entries of all statistics in each replicate. If the model is true and was not
        fitted to these rows, the smallest of these p-values is below a with probability at most a, however the
        statistics depend on each other. The smallest possible one is 1 / (S + 1). Statistics of rows: `uniformity`
        times the number of such statistics.

        References:
            *Resampling-Based Multiple Testing* (Westfall, Young, 1993)
        """
        of_rows = {name: one.uniformity for name, one in self.statistics.items() if one.uniformity is not None}
        found = {name: min(1.0, p * len(of_rows)) for name, p in of_rows.items()}
        furthest = {name: one.furthest() for name, one in self.statistics.items() if not one.of_rows}
        if furthest:
            of_replicates = torch.stack(list(furthest.values()))[:, 1:].amax(0)  # (S,)
            for name, distance in furthest.items():
                found[name] = (1 + int((of_replicates >= distance[0]).sum())) / (self.num_samples + 1)
        return found

    @property
    def disagreeing(self) -> list[str]:
        """Names of the statistics whose `adjusted_p_values` are at most .025, or .01 for statistics of rows.

        If the model is true and was not fitted to these rows, there is one in at most 3.5 % of data sets.
        """
        rates = {name: RATE_OF_ROWS if one.of_rows else RATE_OF_DATA_SETS for name, one in self.statistics.items()}
        return [name for name, p in self.adjusted_p_values().items() if p <= rates[name]]

    def _headline(self) -> str:
        return f"{len(self.disagreeing)} of {len(self.statistics)} statistics disagree with the model"

    def lines(self) -> list[dict[str, Any]]:
        """Lines of the table of statistics, as plain values."""
        return [line for one in self.statistics.values() for line in one.lines()]

    def __str__(self) -> str:
        from pyro_vae import reporting

        return "\n".join(
            [
                reporting.table(self.lines()),
                f"Mean and standard deviation of {self.num_samples} replicated data sets. p of a statistic of the data"
                " set: P(replicated >= observed);",
                "p of a statistic of rows: p-value of the test that these tail probabilities are uniform.",
                str(self.pit),
            ]
        )

    def plot(self, axes: Any = None) -> Any:
        """The most extreme entry of each statistic, PIT values and coverage; returns an array of matplotlib axes."""
        from pyro_vae import plots

        axes = plots.grid(len(self.statistics) + 2) if axes is None else axes
        for ax, one in zip(axes, self.statistics.values(), strict=False):
            one.plot(ax=ax)
        self.pit.plot(ax=axes[-2])
        self.pit.plot_coverage(ax=axes[-1])
        return axes


def check(
    model: LatentVariableModel,
    x: Any,
    statistics: Mapping[str, Statistic] | None = None,
    *,
    num_samples: int = 200,
    unit: str = "row",
    num_candidates: int | None = None,
    num_particles: int = 500,
    seed: int | None = None,
    **fields: Any,
) -> Checks:
    """Compare statistics of the data with those of data drawn from the fitted model.

    There are two predictives. Under the *prior* predictive, replicated rows are new rows: tail probabilities are
    uniform if the model is true and was not fitted to x. Under the *posterior* predictive, each row is replicated given
    itself: the data are used twice, and tail probabilities are conservative, that is, nearer 1/2. Coverage is always
    that of PIT values, never that of replicates given the row.

    Missing cells are imputed once, by draws from the model. Completed rows of a true model are draws from it, whatever
    the observed cells say about which others are missing, while the observed cells alone are not. Imputed cells agree
    with the model: where many are missing, less can be found.

    Args:
        model: the fitted model.
        x: rows (N, *E), in any form that `fit` takes, preferably rows that the model was not trained on.
        statistics: functions of data (N, *E) by name, as in `pv.statistics`, that return a tensor, an array or a
            number; by default means, variances, shares of zeros of discrete columns and, where all columns are of one
            kind, totals and standard deviations of rows. A function's further parameters without a default name fields
            of the rows, such as `group` of f(x, group), whether the model reads them or not.
        num_samples: S, number of replicated data sets.
        unit: "row" or "cell", what PIT values are conditional on; see `pit`.
        num_candidates: as in `posterior_predictive`, for guides that are not exact.
        num_particles: draws from the guide per row, used by `unit="cell"`.
        seed: seed of the draws.
        **fields: named per-row fields, as in `elbo`, and those that the statistics read.

    Raises:
        ValueError: if there are fewer than two rows, a statistic is not finite, or a field that it reads is absent.
        NotImplementedError: if x is made of several data sites.

    References:
        *Posterior Predictive Assessment of Model Fitness via Realized Discrepancies* (Gelman, Meng, Stern, 1996),
        Statistica Sinica 6; *Visualization in Bayesian Workflow* (Gabry et al., 2019), arXiv 1709.01449
    """
    positive_integer("num_samples", num_samples, 2)
    check_unit(unit)
    fields, of_statistics = split_fields(check_model(model), statistics, fields)
    rows, names = model.read_rows(x, fields)
    rows = rows.with_fields(of_statistics) if of_statistics else rows
    if len(rows) < 2:
        raise ValueError(f"x must be at least two rows to be checked; got {len(rows)}. Pass more rows.")
    with seeded(seed):
        rows = rows.drawn(model.like)
        batch = rows.take(slice(None), names, like=model.like)
        chosen = ready_statistics(model, batch) if statistics is None else statistics
        observed = completed(model, rows, names, batch)
        read = fields_for(chosen, rows)
        tallies = {name: _Tally(name, function, observed, read[name]) for name, function in chosen.items()}
        ranks = Ranks(observed)
        for replicate in prior_replicates(model, batch, num_samples):
            ranks.add(replicate)
            for tally in tallies.values():
                tally.prior.add(tally.evaluate_and_keep(replicate))
        structure = program_structure(model, rows, names)
        for replicate in _posterior_replicates(model, rows, names, num_samples, num_candidates, structure):
            for tally in tallies.values():
                tally.posterior.add(tally(replicate))
        columns = column_names(rows)
        seen = columns_of_statistics(model, rows)
        found = {name: tally.result(seen, independent=not structure.joint) for name, tally in tallies.items()}
        if unit == "row":
            values = PIT(ranks.below(), "row", columns)
        else:
            values = pit_of_cells(model, rows, names, num_particles)
    return Checks(found, values, num_samples)


class _Tally:
    """A statistic with its observed value and those on replicates; calling it evaluates the statistic on data."""

    def __init__(self, name: str, function: Statistic, x: Tensor, fields: dict[str, Tensor]) -> None:
        self.name, self.function, self.fields = name, function, fields
        observed = self(x)
        # Only where there is a number for each row is the statistic tried on fewer rows, of which a group may be empty.
        self.of_rows = observed.shape == (len(x),) and self(x[:-1]).shape == (len(x) - 1,)
        self.observed, self.replicated = observed, []  # type: ignore[var-annotated]
        self.prior, self.posterior = Ranks(observed), Ranks(observed)

    def __call__(self, x: Tensor) -> Tensor:
        return value_of(self.name, self.function, x, {name: value[: len(x)] for name, value in self.fields.items()})

    def evaluate_and_keep(self, x: Tensor) -> Tensor:
        self.replicated.append(self(x))
        return self.replicated[-1]

    def result(self, columns: list[str], *, independent: bool) -> StatisticCheck:
        prior, uniformity = self.prior.above(), None
        if self.of_rows and independent:
            from scipy.stats import kstest

            uniformity = float(kstest(prior.cpu().numpy(), "uniform").pvalue)
        size = self.observed.numel()
        if isinstance(self.function, OfColumns):
            columns = [columns[i] for i in self.function.columns]
        names = columns if size == len(columns) else [str(i) for i in range(size)] if self.observed.dim() else [""]
        replicated = torch.stack(self.replicated)
        posterior = self.posterior.above()
        return StatisticCheck(self.name, self.of_rows, self.observed, replicated, prior, posterior, uniformity, names)


def _posterior_replicates(
    model: ProgramPair,
    rows: Rows,
    names: tuple[str, ...],
    num_samples: int,
    num_candidates: int | None,
    structure: ProgramStructure,
) -> Iterator[Tensor]:
    """Data sets (N, *E) in which each row is replicated given itself."""
    latents = predictive.posterior_draws(
        model, rows, num_samples=num_samples, num_candidates=num_candidates, fields=names, structure=structure
    )
    return map(predictive.one_site, predictive.replicates(model, rows, latents, names, structure))
