"""Probability integral transforms of every cell, and the coverage of predictive intervals that they give."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyro_vae import imputation, predictive
from pyro_vae.arguments import positive_integer
from pyro_vae.criticism.intervals import LEVELS, central_coverage
from pyro_vae.data.batches import Rows
from pyro_vae.data.rows import with_gaps
from pyro_vae.distributions import cell_log_prob
from pyro_vae.evaluation import UnreliableWarning
from pyro_vae.inference import pareto
from pyro_vae.inference.chunks import chunk_weights, fields_of, row_chunks
from pyro_vae.inference.pair import ProgramPair
from pyro_vae.model import LatentVariableModel, check_model
from pyro_vae.runtime.display import Shown
from pyro_vae.runtime.isolation import evaluating
from pyro_vae.runtime.random import seeded
from pyro_vae.tables import Categorical

__all__ = [
    "PIT",
    "Ranks",
    "check_unit",
    "column_names",
    "columns_of_statistics",
    "pit",
    "pit_of_cells",
    "prior_replicates",
]


@dataclass(frozen=True, repr=False)
class PIT(Shown):
    """Probability integral transforms of every cell, uniform if the model is true; ties are randomized.

    Attributes:
        values: P(x_ij <= observed), (N, *E). Missing cells are imputed for "row", and NaN for "cell".
        unit: "row": under p(x_ij), as for a new row; "cell": under p(x_ij | the other cells of row i).
        columns: names of the cells of a row.
        khat: Pareto k-hat of the importance weights behind each value, (N, *E); None for "row".
    """

    values: Tensor
    unit: str
    columns: list[str]
    khat: Tensor | None = None

    def coverage(self, levels: Sequence[float] = LEVELS) -> Tensor:
        """Share of rows that lie in central predictive intervals of these levels, by column, (levels, *E)."""
        return central_coverage(self.values, levels)

    def overall(self, levels: Sequence[float] = LEVELS) -> list[dict[str, float]]:
        """For each level its coverage, the mean over all cells, with the standard error by the spread over rows."""
        lines = []
        for level in levels:
            inside = ((self.values - 0.5).abs() <= level / 2).double().reshape(len(self.values), -1).sum(1)
            observed = (~torch.isnan(self.values)).double().reshape(len(inside), -1).sum(1)
            share = float(inside.sum() / observed.sum())
            deviations = (inside - share * observed) / observed.mean()
            error = float(deviations.std() / math.sqrt(len(deviations))) if len(deviations) > 1 else math.nan
            lines.append({"level": level, "coverage": share, "standard error": error})
        return lines

    def __str__(self) -> str:
        covered = ", ".join(
            f"{o['level']:.0%}: {o['coverage']:.1%} +- {o['standard error']:.1%}" for o in self.overall()
        )
        return f"Coverage of central intervals ({self.unit}): {covered}."

    def plot(self, ax: Any = None) -> Any:
        """Histogram of the values of all cells; returns matplotlib axes."""
        from pyro_vae import plots

        return plots.pit(self.values[~torch.isnan(self.values)], ax=ax)

    def plot_coverage(self, levels: Sequence[float] = LEVELS, ax: Any = None) -> Any:
        """Observed against nominal coverage; returns matplotlib axes."""
        from pyro_vae import plots

        lines = self.overall(levels)
        ax = plots.coverage(levels, [o["coverage"] for o in lines], [o["standard error"] for o in lines], ax=ax)
        given = "new rows" if self.unit == "row" else "cells given the rest of their row"
        ax.set_title(f"central predictive intervals of {given}")
        return ax


def pit(
    model: LatentVariableModel,
    x: Any,
    *,
    unit: str = "row",
    num_samples: int = 200,
    num_particles: int = 500,
    seed: int | None = None,
    **fields: Any,
) -> PIT:
    """Probability integral transforms of every cell of x, uniform if the model is true; ties are randomized.

    Args:
        model: the fitted model.
        x: rows (N, *E), in any form that `fit` takes.
        unit: "row": P(x_ij <= observed) for a new row, where missing cells are imputed once (see `check`); "cell": the
            same given the other cells of the row, by importance weights for p(z | x_i without cell j), which needs
            cells that are independent given z. Missing cells are left out, so that values are uniform for a true model
            if cells are missing completely at random.
        num_samples: S, draws of new rows, used by "row".
        num_particles: K, draws from the guide per row, used by "cell".
        seed: seed of the draws.
        **fields: named per-row fields, as in `elbo`.

    Raises:
        ValueError: if `unit` is neither "row" nor "cell".
        NotImplementedError: if cells depend on each other given z, for "cell".

    References:
        *Practical Bayesian Model Evaluation Using Leave-One-Out Cross-Validation and WAIC* (Vehtari, Gelman, Gabry,
        2017), arXiv 1507.04544, on leaving out by weights
    """
    check_unit(unit)
    rows, names = check_model(model).read_rows(x, fields)
    with seeded(seed):
        if unit == "row":
            batch = rows.take(slice(None), names, like=model.like)
            ranks = Ranks(completed(model, rows, names, batch))
            for replicate in prior_replicates(model, batch, positive_integer("num_samples", num_samples)):
                ranks.add(replicate)
            return PIT(ranks.below(), "row", column_names(rows))
        return pit_of_cells(model, rows, names, num_particles)


def completed(model: ProgramPair, rows: Rows, fields: tuple[str, ...], batch: dict[str, Tensor]) -> Tensor:
    """The rows of a batch of all rows, (N, *E), with missing cells drawn given the others."""
    if not rows.has_missing:
        return batch["x"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnreliableWarning)  # of candidates; the checks say what they find
        return imputation.impute(model, rows, num_imputations=1, fields=fields).values[0].to(batch["x"])


def pit_of_cells(model: ProgramPair, rows: Rows, fields: tuple[str, ...], num_particles: int) -> PIT:
    """PIT values of cells given the others of their row."""
    positive_integer("num_particles", num_particles, 2)
    with evaluating(model):
        chunks = row_chunks(model, rows, num_particles, fields, at_once=num_particles)
        parts = [_leave_cells_out(model, batch, num_particles) for batch in chunks]
    values, khat = (torch.cat(part) for part in zip(*parts, strict=True))
    high = ~(khat[~torch.isnan(values)] <= pareto.threshold(num_particles))  # NaN, unknown, is no pass
    share = float(high.double().mean())
    if share > 0.01:
        warnings.warn(
            f"{share:.1%} of the cells have a Pareto k-hat above the threshold when they are left out, or an unknown"
            f" one (it needs at least {pareto.MIN_PARTICLES} particles): their PIT values"
            " are too near 1/2. Draw more particles, or use unit='row'.",
            UnreliableWarning,
            stacklevel=3,
        )
    return PIT(values, "cell", column_names(rows), khat)


def check_unit(unit: Any) -> None:
    if unit not in ("row", "cell"):
        raise ValueError(f"unit must be row or cell; got {unit!r}. Choose one of these.")


def _leave_cells_out(model: ProgramPair, batch: dict[str, Tensor], num_particles: int) -> tuple[Tensor, Tensor]:
    """PIT values and k-hat (B, *E) of cells given the others of their row."""
    record = chunk_weights(model, batch, num_particles)
    if len(record.observed) != 1 or record.joint or record.enumeration is not None:
        raise NotImplementedError(
            "unit='cell' needs a program with one observed site, independent rows and no latent that is summed out; got"
            " another one. Use unit='row'."
        )
    (site,) = record.observed.values()
    x, cells = batch["x"], cell_log_prob(site.distribution, site.value)
    log_w = record.log_w.reshape(*record.log_w.shape, *[1] * (cells.dim() - 2)) - cells  # (K, B, *E)
    smoothed, khat = pareto.smooth(log_w.flatten(1))
    weights = smoothed.double().softmax(0).reshape(cells.shape)
    drawn = site.distribution.sample().expand(cells.shape)
    below, equal = ((weights * comparison).sum(0) for comparison in (drawn < x, drawn == x))
    count = 1 / weights.square().sum(0)  # treated as this many draws of equal weight
    values = (count * below + torch.rand_like(below) * (count * equal + 1)) / (count + 1)
    return with_gaps(values, batch), khat.reshape(x.shape)


class Ranks:
    """Counts of replicated values below and equal to each observed value."""

    def __init__(self, observed: Tensor) -> None:
        self.observed, self.count = observed, 0
        self.less, self.equal = (torch.zeros(observed.shape, dtype=torch.float64) for _ in range(2))

    def add(self, replicated: Tensor) -> None:
        self.count += 1
        self.less += replicated < self.observed
        self.equal += replicated == self.observed

    def below(self) -> Tensor:
        """P(replicated <= observed), ties randomized: exactly uniform if all are draws from one distribution.

        It is NaN where the observed value is NaN.
        """
        shares = (self.less + torch.rand_like(self.less) * (self.equal + 1)) / (self.count + 1)
        return shares.masked_fill(torch.isnan(self.observed), torch.nan)

    def above(self) -> Tensor:
        """P(replicated >= observed), ties randomized."""
        more = self.count - self.less - self.equal
        return (more + torch.rand_like(self.less) * (self.equal + 1)) / (self.count + 1)


def column_names(rows: Rows) -> list[str]:
    return rows.columns or [str(i) for i in range(math.prod(rows.event_shape))]


def columns_of_statistics(model: LatentVariableModel, rows: Rows) -> list[str]:
    """The names of the cells of a row for statistics, which see columns with levels in no order as codes 0, 1, ..."""
    schema = model.table_schema
    nominal = [] if schema is None else [name for name in schema.names if isinstance(schema.kinds[name], Categorical)]
    return [f"{name} (code)" if name in nominal else name for name in map(str, column_names(rows))]


def prior_replicates(model: ProgramPair, batch: dict[str, Tensor], num_samples: int) -> Iterator[Tensor]:
    """Data sets (N, *E) of new rows under the same fields."""
    for _ in range(num_samples):
        yield predictive.one_site(predictive.sample(model, len(batch["x"]), **fields_of(batch)))
