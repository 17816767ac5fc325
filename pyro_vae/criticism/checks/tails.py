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
from pyro_vae.criticism import statistics
from pyro_vae.criticism.checks.transforms import PIT, Ranks, check_unit, column_names, pit_of_cells, prior_replicates
from pyro_vae.criticism.statistics import Statistic
from pyro_vae.data.batches import Rows
from pyro_vae.inference.chunks import facts
from pyro_vae.inference.pair import ProgramPair
from pyro_vae.model import check_model
from pyro_vae.runtime.random import seeded

__all__ = ["Checks", "StatisticCheck", "check"]

READY: dict[str, Statistic] = {
    "mean": statistics.mean,
    "variance": statistics.variance,
    "zero fraction": statistics.zero_fraction,
    "row total": statistics.row_total,
    "row standard deviation": statistics.row_standard_deviation,
}


@dataclass(frozen=True)
class StatisticCheck:
    """One statistic of the data beside what the model says of it.

    Attributes:
        name: the statistic's.
        of_rows: whether it is one of each row, (N,), and not of the data set.
        observed: its value, (N,) or of any shape T.
        replicated: its values on S data sets drawn from the model, (S, N) or (S, *T).
        prior: P(replicated >= observed), ties randomised, under the prior predictive: uniform if the model is true and
            the rows are fresh.
        posterior: the same for data replicated given each row: conservative, that is closer to 1/2 than uniform.
        uniformity: p-value of the hypothesis that `prior` is uniform over rows (Kolmogorov, Smirnov); None for
            statistics of the data set, or where rows share a latent.
        names: of the entries of a statistic of the data set, e.g. columns.
    """

    name: str
    of_rows: bool
    observed: Tensor
    replicated: Tensor
    prior: Tensor
    posterior: Tensor
    uniformity: float | None
    names: list[str]

    def rows(self, most: int = 3) -> list[dict[str, Any]]:
        """Lines of a table: means over rows, or the entries with the most extreme prior tail probabilities."""
        if self.of_rows:
            return [self._line("mean over rows", self.observed.mean(), self.replicated.mean(1), self.uniformity, None)]
        observed, replicated = self.observed.reshape(-1), self.replicated.reshape(len(self.replicated), -1)
        prior, posterior = self.prior.reshape(-1), self.posterior.reshape(-1)
        return [
            self._line(self.names[i], observed[i], replicated[:, i], float(prior[i]), float(posterior[i]))
            for i in self.extreme()[:most]
        ]

    def extreme(self) -> list[int]:
        """Numbers of the entries, those farthest out in the prior predictive first; ties count as halfway."""
        replicated, observed = self.replicated.reshape(len(self.replicated), -1), self.observed.reshape(-1)
        more = (replicated > observed).double().mean(0) + 0.5 * (replicated == observed).double().mean(0)
        return [int(i) for i in (more - 0.5).abs().sort(descending=True, stable=True).indices]

    def _line(
        self, entry: str, observed: Tensor, replicated: Tensor, prior: float | None, posterior: float | None
    ) -> dict[str, Any]:
        return {
            "statistic": self.name,
            "entry": entry,
            "observed": float(observed),
            "replicated": float(replicated.mean()),
            "deviation": float(replicated.std()) if len(replicated) > 1 else math.nan,
            "prior p": prior,
            "posterior p (conservative)": posterior,
        }

    def plot(self, entry: int | None = None, ax: Any = None) -> Any:
        """Observed and replicated values of one entry, by default the most extreme, or the tail probabilities of rows;
        returns matplotlib axes."""
        from pyro_vae import plots

        if self.of_rows:
            ax = plots.pit(self.prior, ax=ax)
            ax.set(title=f"{self.name} of rows", xlabel="P(replicated >= observed)")
            return ax
        entry = self.extreme()[0] if entry is None else entry
        observed = float(self.observed.reshape(-1)[entry])
        name = self.name if self.observed.dim() == 0 else f"{self.name}, {self.names[entry]}"
        p = float(self.prior.reshape(-1)[entry])
        return plots.statistic(
            observed, self.replicated.reshape(len(self.replicated), -1)[:, entry], name, p_value=p, ax=ax
        )


@dataclass(frozen=True)
class Checks:
    """What `check` found: statistics by name, and PIT values with their coverage.

    Attributes:
        statistics: by name.
        pit: PIT values of every cell.
        num_samples: S, replicated data sets.
    """

    statistics: dict[str, StatisticCheck]
    pit: PIT
    num_samples: int

    def rows(self) -> list[dict[str, Any]]:
        """The table of statistics."""
        return [line for one in self.statistics.values() for line in one.rows()]

    def __str__(self) -> str:
        from pyro_vae import reporting

        covered = ", ".join(
            f"{o['level']:.0%}: {o['coverage']:.1%} +- {o['its error']:.1%}" for o in self.pit.overall()
        )
        return "\n".join(
            [
                reporting.table(self.rows()),
                f"{self.num_samples} replicated data sets. Prior p: tail probability of a statistic of the data set;"
                " for statistics of rows the p-value of uniform tail probabilities.",
                f"Coverage of central intervals ({self.pit.unit}): {covered}.",
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
    model: ProgramPair,
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

    Two predictives. Under the *prior* predictive, rows are new: tail probabilities of fresh rows are uniform if the
    model is true. Under the *posterior* predictive each row is replicated given itself: the data are used twice, and
    tail probabilities are conservative, nearer 1/2. Coverage comes from PIT values, never from replicates of the row.

    Args:
        model: the fitted model.
        x: rows (N, *E), in any form that `fit` takes; rows that were not trained on give honest probabilities.
        statistics: functions of data (N, *E) by name, as in `pv.statistics`; a few of those by default.
        num_samples: S, replicated data sets.
        unit: of the PIT values, "row" or "cell"; see `pit`.
        num_candidates: as in `posterior_predictive`, for guides that are not exact.
        num_particles: draws from the guide per row for `unit="cell"`.
        seed: of the draws.
        **fields: named per-row fields, as in `elbo`.

    Raises:
        ValueError: if there are fewer than two rows, or a statistic is no number.
        NotImplementedError: if x is made of several data sites.

    References:
        *Posterior Predictive Assessment of Model Fitness via Realized Discrepancies* (Gelman, Meng, Stern, 1996),
        Statistica Sinica 6; *Visualization in Bayesian Workflow* (Gabry et al., 2019), arXiv 1709.01449
    """
    positive_integer("num_samples", num_samples, 2)
    check_unit(unit)
    rows, names = check_model(model).read_rows(x, fields)
    if len(rows) < 2:
        raise ValueError(f"x must be at least two rows to be checked; got {len(rows)}. Pass more rows.")
    chosen = READY if statistics is None else statistics
    if not isinstance(chosen, Mapping) or not all(callable(function) for function in chosen.values()):
        raise TypeError(
            f"statistics must be a dictionary of functions of data; got {chosen!r}. Pass e.g."
            " {'mean': pv.statistics.mean}."
        )
    with seeded(seed):
        rows = rows.drawn(model.like)
        batch = rows.take(slice(None), names, like=model.like)
        tallies = {name: _Tally(name, function, batch["x"]) for name, function in chosen.items()}
        ranks = Ranks(batch["x"])
        for replicate in prior_replicates(model, batch, num_samples):
            ranks.add(replicate)
            for tally in tallies.values():
                tally.prior.add(tally.kept(replicate))
        for replicate in _posterior_replicates(model, rows, names, num_samples, num_candidates):
            for tally in tallies.values():
                tally.posterior.add(tally(replicate))
        known = facts(model, rows, names)
        columns = column_names(rows)
        found = {name: tally.result(columns, independent=not known.joint) for name, tally in tallies.items()}
        if unit == "row":
            values = PIT(ranks.below(), "row", columns)
        else:
            values = pit_of_cells(model, rows, names, num_particles)
    return Checks(found, values, num_samples)


class _Tally:
    """A statistic, observed and on replicates."""

    def __init__(self, name: str, function: Statistic, x: Tensor) -> None:
        self.name, self.function = name, function
        observed, fewer = self(x), self(x[:-1])
        self.of_rows = observed.dim() == 1 and (len(observed), len(fewer) if fewer.dim() else 0) == (len(x), len(x) - 1)
        self.observed, self.replicated = observed, []  # type: ignore[var-annotated]
        self.prior, self.posterior = Ranks(observed), Ranks(observed)

    def __call__(self, x: Tensor) -> Tensor:
        found = self.function(x)
        if not isinstance(found, Tensor | int | float):
            raise TypeError(
                f"statistic {self.name!r} must return a tensor; got {type(found).__name__}. Some are made by a call:"
                " statistics.quantile(0.9), statistics.correlation(0, 1)."
            )
        value = torch.as_tensor(found).double()
        if not torch.isfinite(value).all():
            raise ValueError(
                f"statistic {self.name!r} must be finite; got {value[~torch.isfinite(value)][0].item()}."
                " Define it for constant columns too."
            )
        return value

    def kept(self, x: Tensor) -> Tensor:
        self.replicated.append(self(x))
        return self.replicated[-1]

    def result(self, columns: list[str], *, independent: bool) -> StatisticCheck:
        prior, uniformity = self.prior.above(), None
        if self.of_rows and independent:
            from scipy.stats import kstest

            uniformity = float(kstest(prior.cpu().numpy(), "uniform").pvalue)
        size = self.observed.numel()
        names = columns if size == len(columns) else [str(i) for i in range(size)] if self.observed.dim() else [""]
        replicated = torch.stack(self.replicated)
        posterior = self.posterior.above()
        return StatisticCheck(self.name, self.of_rows, self.observed, replicated, prior, posterior, uniformity, names)


def _posterior_replicates(
    model: ProgramPair, rows: Rows, names: tuple[str, ...], num_samples: int, num_candidates: int | None
) -> Iterator[Tensor]:
    """Data sets (N, *E) of rows replicated given themselves."""
    latents = predictive.posterior_draws(
        model, rows, num_samples=num_samples, num_candidates=num_candidates, fields=names
    )
    return map(predictive.one_site, predictive.replicates(model, rows, latents, names))
