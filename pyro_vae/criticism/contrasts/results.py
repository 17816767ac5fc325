"""The result of `contrast`: draws of a difference, and what they say."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyro_vae.arguments import finite_number, is_number, positive_integer
from pyro_vae.criticism.contrasts.discoveries import Discoveries, discover, rounded
from pyro_vae.inference import pareto
from pyro_vae.predictive.quantiles import sample_quantiles
from pyro_vae.runtime.display import Shown

__all__ = ["Contrast"]

MOST_LINES = 20  # of a printed table
LEFT_OUT = {
    "all": (
        "Left out: the parameters of the model are taken as known and the rows as given. What is unknown about an"
        " effect in the decoder is mostly in the parameters: unless very many rows trained the model, intervals are far"
        " too narrow."
    ),
    "own": (
        "Left out: the parameters of the model are taken as known, and the rows as given, not as a sample: intervals"
        " are too narrow where few rows trained the model, and say nothing about other rows."
    ),
    "refits": (
        "Refits carry the uncertainty of the parameters as far as fits that start at the estimate vary with the rows:"
        " what nets and penalties shrink or overfit is left out. The rows that are averaged are as given."
    ),
}


@dataclass(frozen=True, repr=False)
class Contrast(Shown):
    """Draws of what differs between two levels of a field, B - A or log(B / A), for T cells and G groups of rows.

    Shapes: T stands for the shape of a row, or for that of the statistic, (1,) for a single number; the dimension of
    groups is absent without `by`.

    Attributes:
        draws: S draws, (S, [G,] *T).
        field: the name of the field.
        levels: its two levels, A and B.
        rows: "all": every row is decoded under A and under B; "own": rows observed at B against rows observed at A.
        scale: "difference", B - A, or "log ratio", log(B / A) with the natural logarithm.
        quantity: what is compared: "predictive means", or the name of the statistic of replicated data.
        names: names of the cells, in order.
        groups: names of the groups of rows; None without `by`.
        counts: how many rows were observed at A and at B.
        khat: Pareto k-hat of the importance weights of each row, (N,).
        ess: effective number of candidates of each row, (N,).
        independent: how many independent draws of the latents the candidates are worth, (G,), (1,) without `by`: the
            harmonic mean of `ess` over the rows.
        num_candidates: K, draws from the guide for each row.
        num_refits: from how many bootstrap copies of the model the draws come, one after the other in equal numbers; 0:
            from the model itself. k-hat and `ess` are then the medians over copies.
    """

    draws: Tensor
    field: str
    levels: tuple[str, str]
    rows: str
    scale: str
    quantity: str
    names: list[str]
    groups: list[str] | None
    counts: tuple[int, int]
    khat: Tensor
    ess: Tensor
    independent: Tensor
    num_candidates: int
    num_refits: int = 0

    @property
    def estimate(self) -> Tensor:
        """The mean of the draws, ([G,] *T)."""
        return self.draws.mean(0)

    @property
    def standard_error(self) -> Tensor:
        """The standard deviation of the draws, ([G,] *T): of the posterior at given parameters, or over refits."""
        return self.draws.std(0)

    @property
    def monte_carlo_error(self) -> Tensor:
        """The standard error of the estimate that is due to the numbers of draws, candidates and refits, ([G,] *T)."""
        if self.num_refits:
            return self.draws.unflatten(0, (self.num_refits, -1)).mean(1).std(0) / math.sqrt(self.num_refits)
        both = (1 / len(self.draws) + 1 / self.independent).sqrt().to(self.draws)
        shape = [-1, *[1] * (self.draws.dim() - 2)] if self.groups is not None else [1] * (self.draws.dim() - 1)
        return self.standard_error * both.reshape(shape)

    def interval(self, level: float = 0.95) -> tuple[Tensor, Tensor]:
        """The lower and the upper ends of central intervals with this posterior probability, ([G,] *T) each.

        Raises:
            ValueError: if `level` does not lie between 0 and 1.
        """
        if not is_number(level) or not 0 < level < 1:
            raise ValueError(f"level must lie between 0 and 1; got {level!r}. Pass e.g. level=0.95.")
        low, high = sample_quantiles(self.draws, ((1 - level) / 2, (1 + level) / 2))
        return low, high

    def probability(self, *, above: float | None = None, beyond: float | None = None) -> Tensor:
        """Posterior probabilities, ([G,] *T): the shares of draws with a contrast above a number, or further from 0.

        Args:
            above: P(contrast > above).
            beyond: P(|contrast| > beyond), with a number of at least 0.

        Raises:
            ValueError: unless one of both is given, as a finite number.
        """
        if (above is None) == (beyond is None):
            both = "neither" if above is None else "both"
            raise ValueError(f"above or beyond must be given; got {both}. Pass e.g. above=0.0.")
        if above is not None:
            return (self.draws > finite_number("above", above)).double().mean(0)
        return (self.draws.abs() > _threshold("beyond", beyond, 0)).double().mean(0)

    def discoveries(self, threshold: float, fdr: float = 0.05) -> Discoveries:
        """The longest list of cells with |contrast| > threshold whose expected false discovery rate is at most `fdr`.

        Cells, of all groups together, are ordered by P(|contrast| > threshold). The expected rate of a list is the mean
        of 1 - P over its cells. It holds if the parameters of the model are known. Of a model that was fitted to few
        rows, far more of the list may be false: P says nothing about what is unknown of the parameters.

        Args:
            threshold: the smallest contrast that matters, above 0: at 0, all contrasts of real numbers differ.
            fdr: the largest expected share of listed cells whose contrast is not beyond the threshold.

        Raises:
            ValueError: if `threshold` is not positive, or `fdr` does not lie between 0 and 1.

        References:
            *Detecting Differential Gene Expression with a Semiparametric Hierarchical Mixture Method* (Newton, Noueiry,
            Sarkar, Ahlquist, 2004), Biostatistics 5; *Optimal Sample Size for Multiple Testing: The Case of Gene
            Expression Microarrays* (Muller, Parmigiani, Robert, Rousseau, 2004), JASA 99
        """
        if not is_number(fdr) or not 0 < fdr < 1:
            raise ValueError(f"fdr must lie between 0 and 1; got {fdr!r}. Pass e.g. fdr=0.05.")
        draws = self.draws.reshape(len(self.draws), -1)
        labels = [", ".join(label.values()) for label in self._labels()]
        return discover(draws, labels, _threshold("threshold", threshold, None), fdr, self.num_refits)

    @property
    def flagged(self) -> Tensor:
        """The rows whose draws are not to be relied on, (N,): k-hat above its threshold with fewer than 100 effective
        candidates, or unknown."""
        return pareto.flagged(self.khat, self.ess, pareto.threshold(self.num_candidates))

    @property
    def flagged_share(self) -> float:
        """The share of rows that are flagged."""
        return float(self.flagged.double().mean())

    def lines(self, level: float = 0.95) -> list[dict[str, Any]]:
        """Lines of the table, one for each cell of each group, with a central interval of this level."""
        low, high = self.interval(level)
        columns = {
            "estimate": self.estimate,
            "standard error": self.standard_error,
            "Monte Carlo error": self.monte_carlo_error,
            f"{100 * level:g} % from": low,
            "to": high,
            "P(> 0)": self.probability(above=0.0),
        }
        numbers = {title: values.reshape(-1).tolist() for title, values in columns.items()}
        labels = self._labels()
        return [label | {title: values[i] for title, values in numbers.items()} for i, label in enumerate(labels)]

    def largest(self, most: int = MOST_LINES) -> list[int]:
        """Places, in the lines, of the cells with the largest |estimate| in standard errors, in their order there.

        Args:
            most: the largest number of them.
        """
        estimate, error = self.estimate.reshape(-1).abs(), self.standard_error.reshape(-1)
        ratio = torch.where(error > 0, estimate / error, torch.where(estimate > 0, math.inf, 0.0))
        return sorted(ratio.argsort(descending=True, stable=True)[: positive_integer("most", most)].tolist())

    def to_pandas(self, level: float = 0.95) -> Any:
        """The table as a pandas frame (needs pandas)."""
        import pandas as pd

        return pd.DataFrame(self.lines(level)).set_index("cell" if self.groups is None else ["group", "cell"])

    def plot(self, most: int = MOST_LINES, level: float = 0.95, threshold: float | None = None, ax: Any = None) -> Any:
        """Estimates with central intervals of the cells with the largest |estimate| in standard errors.

        Args:
            most: the largest number of cells.
            level: the level of the intervals.
            threshold: a contrast that matters, drawn on both sides of 0.
            ax: where to draw.

        Returns:
            Matplotlib axes.
        """
        from pyro_vae import plots

        some = self.largest(most)
        low, high = (end.reshape(-1)[some] for end in self.interval(level))
        labels = [", ".join(label.values()) for label in self._labels()]
        ax = plots.contrast([labels[i] for i in some], self.estimate.reshape(-1)[some], low, high, threshold, ax=ax)
        ax.set_xlabel(f"{self._order()} of {self.quantity}, {100 * level:g} % intervals")
        return ax

    def _labels(self) -> list[dict[str, str]]:
        if self.groups is None:
            return [{"cell": name} for name in self.names]
        return [{"group": group, "cell": name} for group in self.groups for name in self.names]

    def _order(self) -> str:
        a, b = self.levels
        return f"{b} - {a}" if self.scale == "difference" else f"log({b} / {a})"

    def _headline(self) -> str:
        cells = f"{len(self.names):,} {'cell' if len(self.names) == 1 else 'cells'}"
        groups = "" if self.groups is None else f" in {len(self.groups):,} groups"
        return f"{self.field}: {self._order()} of {self.quantity}, {cells}{groups}, rows={self.rows!r}"

    def _design(self) -> str:
        (a, b), (num_a, num_b) = self.levels, self.counts
        if self.rows == "own":
            return (
                f"{num_b:,} rows at {b} against {num_a:,} rows at {a}, each decoded under its own fields: what differs"
                " between these rows, not adjusted for anything (rows='own')."
            )
        return (
            f"{len(self.khat):,} rows, each decoded under {a} and under {b} with the same draw of its latents:"
            f" counterfactual, standardized over the rows ({num_a:,} observed at {a}, {num_b:,} at {b}; rows='all')."
        )

    def __str__(self) -> str:
        from pyro_vae import reporting

        lines, some = self.lines(), self.largest()
        kind = "" if self.scale == "difference" else ", natural logarithm"
        what = self.quantity if self.quantity == "predictive means" else f"{self.quantity} of replicated data"
        refits, of_copies = (
            (f" from {self.num_refits:,} bootstrap refits", ", its median over them,") if self.num_refits else ("", "")
        )
        part = f"The {len(some)} of {len(lines):,} cells with the largest |estimate| in standard errors.\n"
        return (
            f"{reporting.table([rounded(lines[i]) for i in some])}\n"
            f"{part if len(some) < len(lines) else ''}"
            f"{self.field}: {self._order()} of {what}{kind}. {self._design()}\n"
            f"{len(self.draws):,} draws{refits}, resampled from {self.num_candidates:,} candidates of each row; k-hat"
            f"{of_copies} flags {int(self.flagged.sum()):,} of {len(self.khat):,} rows.\n"
            f"{LEFT_OUT['refits' if self.num_refits else self.rows]}"
        )


def _threshold(what: str, value: Any, least: float | None) -> float:
    """A number above 0, or of at least `least`."""
    if not is_number(value) or value < 0 or (least is None and value == 0):
        kind = "a positive number" if least is None else "a number of at least 0"
        raise ValueError(f"{what} must be {kind}; got {value!r}. Pass the smallest contrast that matters.")
    return float(value)
