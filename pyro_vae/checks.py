"""Predictive checks: could the model have made these data? Tail probabilities, PIT values, coverage."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyro_vae import pareto, predictive, scope, statistics
from pyro_vae.batches import Rows
from pyro_vae.chunks import chunk_weights, facts, fields_of, row_chunks
from pyro_vae.distributions import cell_log_prob
from pyro_vae.evaluation import UnreliableWarning
from pyro_vae.parts import positive_integer
from pyro_vae.statistics import Statistic

__all__ = ["PIT", "Checks", "StatisticCheck", "check", "pit"]

LEVELS = (0.5, 0.8, 0.9, 0.95)
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
class PIT:
    """Probability integral transforms of every cell, (N, *E), uniform if the model is true; ties randomised.

    Attributes:
        values: P(x_ij <= observed).
        unit: "row": under p(x_ij); "cell": under p(x_ij | the other cells of row i).
        columns: names of the cells of a row.
        khat: "cell" only: Pareto k-hat of the weights behind each value, (N, *E).
    """

    values: Tensor
    unit: str
    columns: list[str]
    khat: Tensor | None = None

    def coverage(self, levels: Sequence[float] = LEVELS) -> Tensor:
        """Share of rows that lie in central predictive intervals of these levels, by column: (L, *E)."""
        distance = (self.values - 0.5).abs()
        return torch.stack([(distance <= level / 2).double().mean(0) for level in levels])

    def overall(self, levels: Sequence[float] = LEVELS) -> list[dict[str, float]]:
        """Level, coverage over all cells, and its standard error by the spread over rows."""
        lines = []
        for level in levels:
            inside = ((self.values - 0.5).abs() <= level / 2).double()
            by_row = inside.reshape(len(inside), -1).mean(1)
            error = float(by_row.std() / math.sqrt(len(by_row))) if len(by_row) > 1 else math.nan
            lines.append({"level": level, "coverage": float(by_row.mean()), "its error": error})
        return lines

    def plot(self, ax: Any = None) -> Any:
        """Histogram of all values; returns matplotlib axes."""
        from pyro_vae import plots

        return plots.pit(self.values, ax=ax)

    def plot_coverage(self, levels: Sequence[float] = LEVELS, ax: Any = None) -> Any:
        """Nominal against observed coverage; returns matplotlib axes."""
        from pyro_vae import plots

        lines = self.overall(levels)
        ax = plots.coverage(levels, [o["coverage"] for o in lines], [o["its error"] for o in lines], ax=ax)
        ax.set_title(f"predictive intervals, {self.unit}")
        return ax


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
    model: Any,
    x: Any,
    statistics: Mapping[str, Statistic] | None = None,
    *,
    num_samples: int = 200,
    unit: str = "row",
    resample: int | None = None,
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
        resample: as in `posterior_predictive`, for guides that are not exact.
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
    rows, names = model._rows(x, fields)
    if len(rows) < 2:
        raise ValueError(f"x must be at least two rows to be checked; got {len(rows)}. Pass more rows.")
    chosen = READY if statistics is None else statistics
    with scope.seeded(seed):
        batch = rows.take(slice(None), names, like=model.like)
        tallies = {name: _Tally(name, function, batch["x"]) for name, function in chosen.items()}
        ranks = _Ranks(batch["x"])
        for replicate in _prior_replicates(model, batch, num_samples):
            ranks.add(replicate)
            for tally in tallies.values():
                tally.prior.add(tally.kept(replicate))
        for replicate in _posterior_replicates(model, rows, names, num_samples, resample):
            for tally in tallies.values():
                tally.posterior.add(tally(replicate))
        known = facts(model, rows, names)
        columns = _columns(rows)
        found = {name: tally.result(columns, independent=not known.joint) for name, tally in tallies.items()}
        if unit == "row":
            values = PIT(ranks.below(), "row", columns)
        else:
            values = pit(model, x, unit=unit, num_particles=num_particles, **fields)
    return Checks(found, values, num_samples)


def pit(
    model: Any,
    x: Any,
    *,
    unit: str = "row",
    num_samples: int = 200,
    num_particles: int = 500,
    seed: int | None = None,
    **fields: Any,
) -> PIT:
    """Probability integral transforms of every cell of x, uniform if the model is true; ties are randomised.

    Args:
        model: the fitted model.
        x: rows (N, *E), in any form that `fit` takes.
        unit: "row": P(x_ij <= observed) for a new row; "cell": given the other cells of the row, by importance weights
            that leave the cell out, p(z | x_i without j); needs cells that are independent given z.
        num_samples: S, draws for "row".
        num_particles: K, draws from the guide per row for "cell".
        seed: of the draws.
        **fields: named per-row fields, as in `elbo`.

    Raises:
        ValueError: for another unit.
        NotImplementedError: if cells depend on each other given z, for "cell".

    References:
        *Practical Bayesian Model Evaluation Using Leave-One-Out Cross-Validation and WAIC* (Vehtari, Gelman, Gabry,
        2017), arXiv 1507.04544, on leaving out by weights
    """
    if unit not in ("row", "cell"):
        raise ValueError(f"unit must be row or cell; got {unit!r}. Choose one of these.")
    rows, names = model._rows(x, fields)
    with scope.seeded(seed):
        if unit == "row":
            batch = rows.take(slice(None), names, like=model.like)
            ranks = _Ranks(batch["x"])
            for replicate in _prior_replicates(model, batch, positive_integer("num_samples", num_samples)):
                ranks.add(replicate)
            return PIT(ranks.below(), "row", _columns(rows))
        positive_integer("num_particles", num_particles, 2)
        with scope.evaluating(model):
            chunks = row_chunks(model, rows, num_particles, names, at_once=num_particles)
            parts = [_leave_cells_out(model, batch, num_particles) for batch in chunks]
    values, khat = (torch.cat(part) for part in zip(*parts, strict=True))
    share = float((khat > pareto.threshold(num_particles)).double().mean())
    if share > 0.01:
        warnings.warn(
            f"{share:.1%} of the cells have a Pareto k-hat above the threshold when they are left out: there PIT values"
            " are too near 1/2. Draw more particles, or use unit='row'.",
            UnreliableWarning,
            stacklevel=2,
        )
    return PIT(values, "cell", _columns(rows), khat)


def _leave_cells_out(model: Any, batch: dict[str, Tensor], num_particles: int) -> tuple[Tensor, Tensor]:
    """PIT values and k-hat (B, *E) of cells given the others of their row."""
    record = chunk_weights(model, batch, num_particles)
    if len(record.observed) != 1 or record.joint:
        raise NotImplementedError("Cells are left out of one observed site with independent rows; got another program.")
    (site,) = record.observed.values()
    x, cells = batch["x"], cell_log_prob(site.distribution, site.value)
    log_w = record.log_w.reshape(*record.log_w.shape, *[1] * (cells.dim() - 2)) - cells  # (K, B, *E)
    smoothed, khat = pareto.smooth(log_w.flatten(1))
    weights = smoothed.double().softmax(0).reshape(cells.shape)
    drawn = site.distribution.sample().expand(cells.shape)
    below, equal = ((weights * comparison).sum(0) for comparison in (drawn < x, drawn == x))
    count = 1 / weights.square().sum(0)  # as if so many draws of equal weight: then exact, as ranks are
    return (count * below + torch.rand_like(below) * (count * equal + 1)) / (count + 1), khat.reshape(x.shape)


class _Ranks:
    """Where observed values lie among replicated ones."""

    def __init__(self, observed: Tensor) -> None:
        self.observed, self.count = observed, 0
        self.less, self.equal = (torch.zeros(observed.shape, dtype=torch.float64) for _ in range(2))

    def add(self, replicated: Tensor) -> None:
        self.count += 1
        self.less += replicated < self.observed
        self.equal += replicated == self.observed

    def below(self) -> Tensor:
        """P(replicated <= observed), ties randomised: exactly uniform if all are draws of one distribution."""
        return (self.less + torch.rand_like(self.less) * (self.equal + 1)) / (self.count + 1)

    def above(self) -> Tensor:
        """P(replicated >= observed), ties randomised."""
        more = self.count - self.less - self.equal
        return (more + torch.rand_like(self.less) * (self.equal + 1)) / (self.count + 1)


class _Tally:
    """A statistic, observed and on replicates."""

    def __init__(self, name: str, function: Statistic, x: Tensor) -> None:
        self.name, self.function = name, function
        observed, fewer = self(x), self(x[:-1])
        self.of_rows = observed.dim() == 1 and (len(observed), len(fewer) if fewer.dim() else 0) == (len(x), len(x) - 1)
        self.observed, self.replicated = observed, []  # type: ignore[var-annotated]
        self.prior, self.posterior = _Ranks(observed), _Ranks(observed)

    def __call__(self, x: Tensor) -> Tensor:
        value = torch.as_tensor(self.function(x)).double()
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


def _columns(rows: Rows) -> list[str]:
    return rows.columns or [str(i) for i in range(rows.x[0].numel())]


def _prior_replicates(model: Any, batch: dict[str, Tensor], num_samples: int) -> Iterator[Tensor]:
    """Data sets (N, *E) of new rows under the same fields."""
    for _ in range(num_samples):
        yield _one(predictive.sample(model, len(batch["x"]), **fields_of(batch)))


def _posterior_replicates(
    model: Any, rows: Rows, names: tuple[str, ...], num_samples: int, resample: int | None
) -> Iterator[Tensor]:
    """Data sets (N, *E) of rows replicated given themselves."""
    latents = predictive.posterior_draws(model, rows, num_samples=num_samples, resample=resample, fields=names)
    for sample in range(num_samples):
        one = {name: value[sample : sample + 1] for name, value in latents.items()}
        yield _one(predictive.replicate_whole(model, rows, one, names))


def _one(draws: Any) -> Tensor:
    if isinstance(draws, dict):
        raise NotImplementedError(f"Checks are for models of one data site; got {sorted(draws)}. Check them by hand.")
    return draws  # type: ignore[no-any-return]
