"""Lists of cells whose contrast is beyond a threshold, with their expected false discovery rate."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import torch
from torch import Tensor

from pyro_vae.runtime.display import Shown

__all__ = ["Discoveries", "discover", "rounded"]

MOST_LINES = 20  # of a printed table


@dataclass(frozen=True, repr=False)
class Discoveries(Shown):
    """Cells with |contrast| > threshold, the most probable first; all tensors are (D,) for D cells.

    Attributes:
        names: names of the cells, with their group where there are groups.
        index: their places among all cells, groups one after the other.
        estimate: the contrasts.
        probability: P(|contrast| > threshold).
        threshold: the smallest contrast that matters.
        fdr: the largest false discovery rate that was asked for.
        expected_fdr: that of this list, the mean of 1 - P over its cells; 0 for an empty list.
        monte_carlo_error: the standard error of `expected_fdr` that is due to the number of draws.
        num_cells: how many cells were searched.
    """

    names: list[str]
    index: Tensor
    estimate: Tensor
    probability: Tensor
    threshold: float
    fdr: float
    expected_fdr: float
    monte_carlo_error: float
    num_cells: int

    def __len__(self) -> int:
        return len(self.names)

    def lines(self) -> list[dict[str, Any]]:
        """Lines of the table, one for each cell of the list."""
        columns = self.estimate.tolist(), self.probability.tolist()
        return [
            {"cell": name, "estimate": estimate, f"P(|contrast| > {self.threshold:g})": probability}
            for name, estimate, probability in zip(self.names, *columns, strict=True)
        ]

    def to_pandas(self) -> Any:
        """The table as a pandas frame (needs pandas)."""
        import pandas as pd

        titles = ["cell", "estimate", f"P(|contrast| > {self.threshold:g})"]
        return pd.DataFrame(self.lines(), columns=titles).set_index("cell")

    def _headline(self) -> str:
        if not self.names:
            return f"No cell of {self.num_cells:,}: an expected false discovery rate of {self.fdr:g} allows none"
        return (
            f"{len(self):,} of {self.num_cells:,} cells with |contrast| > {self.threshold:g}; expected false discovery"
            f" rate {self.expected_fdr:.4f} (Monte Carlo error {self.monte_carlo_error:.4f}), at most {self.fdr:g}"
        )

    def __str__(self) -> str:
        from pyro_vae import reporting

        if not self.names:
            return f"{self._headline()}."
        table = reporting.table(self.lines()[:MOST_LINES])
        more = f"\n... and {len(self) - MOST_LINES:,} more" if len(self) > MOST_LINES else ""
        return (
            f"{table}{more}\n{self._headline()}.\n"
            "The rate holds for known parameters: of a fitted model, far more of the list may be false."
        )


def discover(draws: Tensor, names: Sequence[str], threshold: float, fdr: float, num_refits: int = 0) -> Discoveries:
    """The longest list of cells, ordered by P(|contrast| > threshold), with a mean of 1 - P of at most `fdr`.

    Of cells with the same probability, those with the larger |estimate| come first.

    Args:
        draws: draws of the contrasts, (S, C).
        names: names of the cells, C.
        threshold: the smallest contrast that matters.
        fdr: the largest expected false discovery rate.
        num_refits: from how many models the draws come, one after the other; 0 where all are from one.

    Example:
        >>> draws = torch.tensor([[2.0, 0.0, -3.0], [2.0, 5.0, -3.0], [2.0, 0.0, 0.5], [2.0, 0.0, -3.0]])
        >>> found = discover(draws, ["a", "b", "c"], threshold=1.0, fdr=0.2)
        >>> found.names, found.expected_fdr
        (['a', 'c'], 0.125)
    """
    inside = (draws.abs() <= threshold).double()
    misses, size = inside.mean(0), draws.mean(0).abs()
    order = size.argsort(descending=True, stable=True)
    order = order[misses[order].argsort(stable=True)]
    rates = misses[order].cumsum(0) / torch.arange(1, len(order) + 1)
    count = int((rates <= fdr * (1 + 1e-12)).sum())  # the rates never fall, but for rounding
    chosen = order[:count]
    shares = inside[:, chosen].mean(1) if count else inside.new_zeros(len(draws))  # of each draw
    shares = shares.unflatten(0, (num_refits, -1)).mean(1) if num_refits else shares  # draws of one model are alike
    return Discoveries(
        names=[names[i] for i in chosen.tolist()],
        index=chosen,
        estimate=draws.mean(0)[chosen],
        probability=1 - misses[chosen],
        threshold=threshold,
        fdr=fdr,
        expected_fdr=float(shares.mean()),
        monte_carlo_error=float(shares.std() / math.sqrt(len(shares))),
        num_cells=len(names),
    )


def rounded(line: dict[str, Any]) -> dict[str, Any]:
    """A line of a table whose numbers have three digits of the standard error, and probabilities three places.

    An error of less than a millionth of the estimate is rounding, and shown as 0.
    """
    error, size = line["standard error"], abs(line["estimate"])
    most, scale = (15, error) if error > 1e-6 * size else (6, size / 1000)
    digits = min(max(2 - math.floor(math.log10(scale)), 0), most) if scale > 0 else 3
    shown: dict[str, Any] = {}
    for title, value in line.items():
        if isinstance(value, float):
            shown[title] = Decimal(f"{value:.{3 if title.startswith('P(') else digits}f}")
        else:
            shown[title] = value
    return shown
