"""Rows and particles in chunks, so that memory does not grow with either."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyro_vae.data.batches import Rows
from pyro_vae.distributions import Blocks
from pyro_vae.inference.pair import ProgramPair
from pyro_vae.inference.programs import Program, outside_rows, run_programs
from pyro_vae.inference.weights import LogWeights, log_weights
from pyro_vae.runtime.isolation import evaluating
from pyro_vae.runtime.random import preserved_rng

__all__ = ["Facts", "chunk_weights", "facts", "fields_of", "particle_counts", "row_chunks"]

CELLS = 2**20  # numbers per chunk of rows x particles x cells: 4 MB in float32, which stays in the cache


class Facts(NamedTuple):
    """What one row tells about a pair of programs.

    Attributes:
        joint: whether a sample site lies outside the row plate, so that rows are not independent.
        discrete: whether all observed sites have mass functions, not densities.
        num_cells: numbers of a row at the observed sites.
    """

    joint: bool
    discrete: bool
    num_cells: int


def facts(model: ProgramPair, rows: Rows, fields: tuple[str, ...] = ()) -> Facts:
    """Run the programs on one row; random state and buffers are left as found."""
    with evaluating(model), preserved_rng():
        batch = rows.take(slice(0, 1), fields, like=model.like)
        traces = run_programs(model.model, model.guide, (batch["x"],), fields_of(batch))
    sites: list[Any] = [site for site in traces[0].nodes.values() if site["type"] == "sample" and site["is_observed"]]
    return Facts(
        joint=any(outside_rows(trace, model.row_plate) for trace in traces),
        discrete=bool(sites) and all(_is_discrete(site["fn"]) for site in sites),
        num_cells=sum(torch.as_tensor(site["value"]).numel() for site in sites),
    )


def _is_discrete(distribution: Any) -> bool:
    if isinstance(distribution, Blocks):
        return all(_is_discrete(block) for block in distribution.blocks)
    try:
        return bool(distribution.support.is_discrete)
    except (NotImplementedError, AttributeError):
        return False


def fields_of(batch: dict[str, Tensor]) -> dict[str, Any]:
    """The named fields of a batch, without x."""
    return {name: value for name, value in batch.items() if name != "x"}


def row_chunks(
    model: ProgramPair,
    rows: Rows,
    num_particles: int,
    fields: tuple[str, ...],
    *,
    known: Facts | None = None,
    at_once: int = 64,
) -> Iterator[dict[str, Tensor]]:
    """Rows in chunks that, times some particles, stay within memory; all at once if a latent is global.

    Args:
        model: the pair of programs.
        rows: the data.
        num_particles: K.
        fields: names of the fields that the programs receive.
        known: what `facts` found about the programs; by default they are run on one row here.
        at_once: how many of the K particles are held for whole rows.
    """
    known = known or facts(model, rows, fields)
    size = len(rows) if known.joint else max(1, CELLS // (math.prod(rows.event_shape) * min(num_particles, at_once)))
    for start in range(0, len(rows), size):
        yield rows.take(slice(start, start + size), fields, like=model.like)


def particle_counts(batch: dict[str, Tensor], num_particles: int) -> Iterator[int]:
    """Particles in chunks that fit with these rows."""
    size = max(1, CELLS // batch["x"].numel())
    for start in range(0, num_particles, size):
        yield min(size, num_particles - start)


def chunk_weights(model: ProgramPair, batch: dict[str, Tensor], count: int, guide: Program | None = None) -> LogWeights:
    """The record of a chunk of rows and particles, drawn from the model's guide or another one."""
    guide = model.guide if guide is None else guide
    return log_weights(model.model, guide, batch["x"], num_particles=count, **fields_of(batch))
