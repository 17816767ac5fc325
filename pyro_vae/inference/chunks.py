"""Chunks of rows and particles, so that memory does not grow with their numbers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from pyro.distributions import constraints
from torch import Tensor

from pyro_vae.data.batches import Rows
from pyro_vae.distributions import Blocks
from pyro_vae.inference.enumeration import is_marked
from pyro_vae.inference.handlers import Program
from pyro_vae.inference.pair import ProgramPair
from pyro_vae.inference.programs import any_site_outside_rows, find_plates, run_programs
from pyro_vae.inference.weights import LogWeights, log_weights
from pyro_vae.parts import support_name, support_of
from pyro_vae.runtime.isolation import evaluating
from pyro_vae.runtime.random import preserved_rng

__all__ = ["ProgramStructure", "chunk_weights", "fields_of", "particle_counts", "program_structure", "row_chunks"]

SURFACES = ("the probability simplex", "the unit sphere")  # of a lower dimension than the number of cells
CELLS = 2**20  # numbers in a chunk, rows x particles x cells of x: 4 MB in float32, which stays in the cache


class ProgramStructure(NamedTuple):
    """The structure of a pair of programs, as far as evaluation depends on it.

    Attributes:
        joint: whether a sample site lies outside the row plate, so that rows are not independent.
        discrete: whether all observed sites have probabilities, not densities.
        num_cells: how many numbers a row has at the observed sites.
        differentiable: whether every latent of the guide has real numbers, so that gradients can move them, or is
            summed out.
        measures: by observed site, for each cell of a row, what its log p(x) is: a "probability", or a "density" with
            respect to some measure.
        columns: names of the cells at the sites whose distribution has them.
    """

    joint: bool
    discrete: bool
    num_cells: int
    differentiable: bool = True
    measures: Mapping[str, tuple[str, ...]] = MappingProxyType({})
    columns: Mapping[str, tuple[str, ...]] = MappingProxyType({})


def program_structure(model: ProgramPair, rows: Rows, fields: tuple[str, ...] = ()) -> ProgramStructure:
    """Find the structure of the programs by a run on the first row, which changes no random state and no buffer."""
    with evaluating(model), preserved_rng():
        batch = rows.take(slice(0, 1), fields, like=model.like)
        programs = model.model, model.guide, (batch["x"],), fields_of(batch)
        traces = run_programs(*programs)
        marked = any(is_marked(site) for site in _sample_sites(traces[1]))
        summed_out = find_plates(*programs).enumerated if marked else ()
    sites = [site for site in _sample_sites(traces[0]) if site["is_observed"]]
    measures = {site["name"]: measures_of(site["fn"]) for site in sites}
    return ProgramStructure(
        joint=any(any_site_outside_rows(trace, model.row_plate) for trace in traces),
        discrete=bool(sites) and all(set(cells) == {"probability"} for cells in measures.values()),
        num_cells=sum(torch.as_tensor(site["value"]).numel() for site in sites),
        differentiable=not any("probability" in measures_of(site["fn"]) for site in _drawn(traces[1], summed_out)),
        measures=measures,
        columns={site["name"]: names for site in sites if (names := _names_of_cells(site["fn"]))},
    )


def _sample_sites(trace: Any) -> list[Any]:
    return [site for site in trace.nodes.values() if site["type"] == "sample"]


def _drawn(trace: Any, summed_out: tuple[str, ...]) -> list[Any]:
    """The latent sites that are not summed out."""
    return [site for site in _sample_sites(trace) if not site["is_observed"] and site["name"] not in summed_out]


def measures_of(distribution: Any) -> tuple[str, ...]:
    """What the log-probability of a distribution is, for each cell of an event: a probability, or which density."""
    cells = math.prod(distribution.event_shape)
    if isinstance(distribution, Blocks):
        return tuple(measure for block in distribution.blocks for measure in measures_of(block))
    return _measures(support_of(distribution), cells)


def _measures(support: Any, cells: int) -> tuple[str, ...]:
    """The measures of the cells that a constraint holds for; a density where it is not known."""
    if isinstance(support, constraints.cat):
        sizes = support.lengths
        known = len(sizes) == len(support.cseq) and sum(sizes) == cells and support.dim in (-1, 0)
        if known:
            parts = zip(support.cseq, sizes, strict=True)
            return tuple(measure for part, size in parts for measure in _measures(part, size))
    if support is None:
        return ("density",) * cells
    if bool(getattr(support, "is_discrete", False)) and not isinstance(support, constraints.cat):
        return ("probability",) * cells
    name = support_name(support)
    surface = name if name in SURFACES else ""
    return (f"density on {surface}" if surface else "density",) * cells


def _names_of_cells(distribution: Any) -> tuple[str, ...]:
    """The names of the cells of named blocks of columns."""
    if not isinstance(distribution, Blocks) or distribution.names is None:
        return ()
    if distribution.columns is not None:
        return tuple(distribution.columns)
    named = zip(distribution.names, distribution.sizes, strict=True)
    return tuple(name if size == 1 else f"{name}[{i}]" for name, size in named for i in range(size))


def fields_of(batch: dict[str, Tensor]) -> dict[str, Any]:
    """The named fields of a batch, without x."""
    return {name: value for name, value in batch.items() if name != "x"}


def row_chunks(
    model: ProgramPair,
    rows: Rows,
    num_particles: int,
    fields: tuple[str, ...],
    *,
    structure: ProgramStructure | None = None,
    at_once: int = 64,
) -> Iterator[dict[str, Tensor]]:
    """Batches of rows that fit into memory together with some of their particles; one batch if the programs are joint.

    Args:
        model: the pair of programs.
        rows: the data.
        num_particles: K.
        fields: names of the fields that the programs receive.
        structure: the structure of the programs, if the caller knows it; else they are run on one row to find it.
        at_once: how many of the K particles the caller needs in memory together for whole rows.
    """
    structure = structure or program_structure(model, rows, fields)
    per_row = math.prod(rows.event_shape) * min(num_particles, at_once)
    size = len(rows) if structure.joint else max(1, CELLS // per_row)
    for start in range(0, len(rows), size):
        yield rows.take(slice(start, start + size), fields, like=model.like)


def particle_counts(batch: dict[str, Tensor], num_particles: int) -> Iterator[int]:
    """The numbers of particles in the chunks, whose sum is `num_particles`, that fit into memory with this batch."""
    size = max(1, CELLS // batch["x"].numel())
    for start in range(0, num_particles, size):
        yield min(size, num_particles - start)


def chunk_weights(
    model: ProgramPair, batch: dict[str, Tensor], num_particles: int, guide: Program | None = None
) -> LogWeights:
    """The log-weights of a batch of rows, with particles drawn from `guide`, by default the model's own."""
    guide = model.guide if guide is None else guide
    return log_weights(model.model, guide, batch["x"], num_particles=num_particles, **fields_of(batch))
