"""The statistics that are checked by default: those that mean something for the columns of a model."""

from __future__ import annotations

import torch
from torch import Tensor

from pyro_vae.criticism import statistics
from pyro_vae.criticism.statistics import Statistic
from pyro_vae.distributions import Blocks
from pyro_vae.inference.chunks import fields_of
from pyro_vae.inference.pair import ProgramPair
from pyro_vae.predictive.sites import trace_of
from pyro_vae.runtime.isolation import evaluating
from pyro_vae.runtime.random import preserved_rng

__all__ = ["READY", "OfColumns", "ready_statistics"]

READY: dict[str, Statistic] = {
    "mean": statistics.mean,
    "variance": statistics.variance,
    "zero fraction": statistics.zero_fraction,
    "row total": statistics.row_total,
    "row standard deviation": statistics.row_standard_deviation,
}
OF_COUNTS = ("zero fraction",)  # a real number is 0 with probability 0
OF_LIKE_COLUMNS = ("row total", "row standard deviation")  # sums over columns, which need one kind and unit


class OfColumns:
    """A statistic of some columns of x alone.

    Args:
        statistic: the statistic, with one value for each column.
        columns: numbers of the columns, from 0, in the flattened event.
    """

    def __init__(self, statistic: Statistic, columns: list[int]) -> None:
        self.statistic, self.columns = statistic, columns

    def __call__(self, x: Tensor) -> Tensor:
        return self.statistic(x.reshape(len(x), -1)[:, self.columns])


def ready_statistics(model: ProgramPair, batch: dict[str, Tensor]) -> dict[str, Statistic]:
    """The statistics of `READY` that mean something: shares of zeros of discrete columns, and sums over the columns of
    a row where all columns have the same kind of distribution."""
    fields = {name: value[:1] for name, value in fields_of(batch).items()}
    with evaluating(model), preserved_rng():
        trace = trace_of(model.model, rows=1, **fields)
    kinds = [kind for name in model.data_sites if name in trace.nodes for kind in _kinds(trace.nodes[name]["fn"])]
    counts = [i for i, (_, discrete) in enumerate(kinds) if discrete]
    left_out = (OF_LIKE_COLUMNS if len(set(kinds)) > 1 else ()) + (() if counts else OF_COUNTS)
    chosen = {name: statistic for name, statistic in READY.items() if name not in left_out}
    if counts and len(counts) < len(kinds):
        chosen |= {name: OfColumns(READY[name], counts) for name in OF_COUNTS}
    return chosen


def _kinds(distribution: object) -> list[tuple[str, bool]]:
    """For each cell of a row, the name of its distribution and whether it is discrete."""
    if isinstance(distribution, Blocks):
        return [kind for block in distribution.blocks for kind in _kinds(block)]
    base = distribution
    while isinstance(base, torch.distributions.Independent):
        base = base.base_dist
    try:
        discrete = bool(distribution.support.is_discrete)  # type: ignore[attr-defined]
    except (NotImplementedError, AttributeError):
        discrete = False
    size = torch.Size(distribution.event_shape).numel()  # type: ignore[attr-defined]
    return [(type(base).__name__, discrete)] * size
