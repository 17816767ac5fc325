"""BySite of data and latents, from the prior and from the posterior."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_vae.arguments import as_path, is_number, positive_integer, true_or_false
from pyro_vae.data.batches import Rows
from pyro_vae.fields import split_fields
from pyro_vae.inference import chunks
from pyro_vae.inference.chunks import ProgramStructure, chunk_weights, fields_of, particle_counts, row_chunks
from pyro_vae.inference.handlers import FixLatents, fix_latents
from pyro_vae.inference.pair import ProgramPair
from pyro_vae.inference.programs import any_site_outside_rows, find_plates, particles, plate_nesting, row_dims
from pyro_vae.predictive.candidates import Latents, draw_candidates
from pyro_vae.predictive.given import read_decode_as, read_fields, rows_of
from pyro_vae.predictive.memory import check_memory
from pyro_vae.predictive.quantiles import sample_quantiles
from pyro_vae.predictive.sites import data_of, latents_of, num_rows_of, read_latents, trace_of
from pyro_vae.runtime.isolation import evaluating
from pyro_vae.runtime.random import PREDICTIVE, preserved_rng

__all__ = [
    "one_site",
    "posterior_draws",
    "posterior_predictive",
    "predictive",
    "replicates",
    "run_model",
    "sample",
    "simulate",
    "simulated_rows",
]

BySite = Tensor | dict[str, Tensor]


def sample(model: ProgramPair, num_rows: int, *, mean: bool = False, seed: int | None = None, **fields: Any) -> BySite:
    """BySite of data from the prior predictive; see `LatentVariableModel.sample`."""
    true_or_false("mean", mean)
    with evaluating(model, seed=seed, stream=PREDICTIVE):
        parts = [data_of(model, trace, mean=mean) for trace in _traces(model, num_rows, fields)]
    return joined(parts)


def simulate(model: ProgramPair, num_rows: int, *, seed: int | None = None, **fields: Any) -> dict[str, Tensor]:
    """BySite of latents and data together, by site; see `LatentVariableModel.simulate`."""
    with evaluating(model, seed=seed, stream=PREDICTIVE):
        parts = []
        for trace in _traces(model, num_rows, fields):
            data = data_of(model, trace)
            latents = latents_of(model, trace)
            parts.append({name: site["value"].detach() for name, site in latents.items()} | data)
            in_rows = {name for name, site in latents.items() if row_dims(site, model.row_plate)} | set(data)
    return {
        name: torch.cat([part[name] for part in parts]) if name in in_rows else value
        for name, value in parts[0].items()
    }


def simulated_rows(model: ProgramPair, num_rows: int, **fields: Any) -> tuple[dict[str, Tensor], Rows]:
    """Rows drawn from the model under these fields, and the latents that they were drawn from.

    Raises:
        NotImplementedError: if the model has several data sites, since it is unknown how x is made from them.
    """
    _, fields = split_fields(fields)
    latents = simulate(model, num_rows, **fields)
    data = {name: latents.pop(name) for name in model.data_sites}
    return latents, Rows(one_site(data), read_fields(model, fields, num_rows))


def one_site(draws: BySite) -> Tensor:
    """The values at the one data site.

    Raises:
        NotImplementedError: if there are several.
    """
    if isinstance(draws, dict) and len(draws) != 1:
        raise NotImplementedError(f"The model must have one data site here; got {sorted(draws)}. Do it by hand.")
    return next(iter(draws.values())) if isinstance(draws, dict) else draws


def _traces(model: ProgramPair, num_rows: int, fields: dict[str, Any]) -> Iterator[Any]:
    """Runs of the model without data, in chunks of rows."""
    positive_integer("num_rows", num_rows)
    fields = read_fields(model, fields, num_rows)
    with preserved_rng():
        probe = trace_of(model.model, rows=1, **{name: value[:1] for name, value in fields.items()})
    cells = max(value.numel() for value in data_of(model, probe).values())
    size = num_rows if any_site_outside_rows(probe, model.row_plate) else max(1, chunks.CELLS // cells)
    shapes = {name: ((num_rows, *value.shape[1:]), value) for name, value in data_of(model, probe).items()}
    check_memory(shapes, "Draw fewer rows at a time.")
    for start in range(0, num_rows, size):
        batch = {name: value[start : start + size] for name, value in fields.items()}
        yield trace_of(model.model, rows=min(size, num_rows - start), **batch)


def _only_site_or_all(values: dict[str, Any]) -> Any:
    """The value at the data site if there is one site, else the dictionary."""
    return next(iter(values.values())) if len(values) == 1 else values


def joined(chunks: list[dict[str, Tensor]]) -> BySite:
    """Concatenate values by site over rows."""
    return _only_site_or_all({name: torch.cat([chunk[name] for chunk in chunks]) for name in chunks[0]})  # type: ignore[no-any-return]


def posterior_predictive(
    model: ProgramPair,
    rows: Rows,
    *,
    num_samples: int = 100,
    num_candidates: int | None = None,
    quantiles: Sequence[float] | None = None,
    seed: int | None = None,
    out: Any = None,
    fields: tuple[str, ...] = (),
    decode_as: dict[str, Tensor] | None = None,
) -> Any:
    """Replicated data given the rows; see `LatentVariableModel.posterior_predictive`."""
    _check_counts(num_samples, num_candidates)
    if quantiles is not None:
        _check_levels(quantiles)
    with evaluating(model, seed=seed, stream=PREDICTIVE):
        return _write_in_chunks(model, rows, num_samples, num_candidates, quantiles, out, fields, decode_as or {})


def posterior_draws(
    model: ProgramPair,
    rows: Rows,
    *,
    num_samples: int = 100,
    num_candidates: int | None = None,
    seed: int | None = None,
    fields: tuple[str, ...] = (),
    structure: ProgramStructure | None = None,
) -> dict[str, Tensor]:
    """BySite of the latents given the rows, by site: (S, B, ...), (S, ...) outside the row plate.

    See `LatentVariableModel.posterior_draws`; `structure` is that of the programs, if the caller knows it.
    """
    _check_counts(num_samples, num_candidates)
    with evaluating(model, seed=seed, stream=PREDICTIVE):
        parts = []
        for batch in row_chunks(model, rows, num_candidates or num_samples, fields, structure=structure):
            if num_candidates is not None:
                parts.append(draw_candidates(model, batch, num_candidates).resample(num_samples))
                continue
            drawn = [_guide_draws(model, batch, count) for count in particle_counts(batch, num_samples)]
            parts.append({name: torch.cat([part[name] for part in drawn]) for name in drawn[0]})
        with preserved_rng():
            sites = trace_of(model.guide, batch["x"], **fields_of(batch)).nodes
    whole = {name: torch.cat([part[name] for part in parts], 1) for name in parts[0]} if len(parts) > 1 else parts[0]
    return {  # outside the row plate there is no dimension of rows
        name: value
        if name not in sites or row_dims(sites[name], model.row_plate)
        else value.reshape(len(value), *sites[name]["value"].shape)
        for name, value in whole.items()
    }


def predictive(
    model: ProgramPair,
    latents: Any,
    *,
    num_samples: int = 100,
    quantiles: Sequence[float] | None = None,
    seed: int | None = None,
    decode_as: Any = None,
    **fields: Any,
) -> Any:
    """BySite of data given latents; see `LatentVariableModel.predictive`."""
    positive_integer("num_samples", num_samples)
    if quantiles is not None:
        _check_levels(quantiles)
    with evaluating(model, seed=seed, stream=PREDICTIVE):
        batch = read_fields(model, fields)
        values = read_latents(model, latents, batch)
        num_rows = num_rows_of(model, values, batch)
        batch = read_fields(model, fields, num_rows)
        decoded = batch | read_decode_as(model, decode_as, num_rows)
        with preserved_rng(), FixLatents(values):
            probe = trace_of(model.model, rows=num_rows, **batch)
        frames = [frame.dim for site in probe.nodes.values() for frame in site.get("cond_indep_stack", ()) if frame.dim]
        single = data_of(model, probe)
        check_memory({name: ((num_samples, *v.shape), v) for name, v in single.items()}, "Lower num_samples.")
        size = max(1, chunks.CELLS // max(value.numel() for value in single.values()))
        parts = []
        for start in range(0, num_samples, size):
            count = min(size, num_samples - start)
            with particles(count, -min(frames, default=0)):
                fixed = values
                if decode_as is not None and set(latents_of(model, probe)) - set(values):
                    with FixLatents(values):
                        own = trace_of(model.model, rows=num_rows, **batch)
                    fixed = {name: site["value"] for name, site in latents_of(model, own).items()}
                with FixLatents(fixed):
                    trace = trace_of(model.model, rows=num_rows, **decoded)
            drawn = data_of(model, trace)
            parts.append(drawn if count > 1 else {name: value.unsqueeze(0) for name, value in drawn.items()})
    whole = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    if quantiles is not None:
        whole = {name: sample_quantiles(value, quantiles) for name, value in whole.items()}
    return _only_site_or_all(whole)


def _write_in_chunks(
    model: ProgramPair,
    rows: Rows,
    num_samples: int,
    num_candidates: int | None,
    quantiles: Sequence[float] | None,
    out: Any,
    fields: tuple[str, ...],
    decode_as: dict[str, Tensor],
) -> Any:
    """Replicated data, or their quantiles: each chunk of rows and samples is written into the result when drawn."""
    start = 0
    for batch in row_chunks(model, rows, num_samples if num_candidates is None else num_candidates, fields):
        chosen = None if num_candidates is None else draw_candidates(model, batch, num_candidates).resample(num_samples)
        done, kept = 0, []
        for count in particle_counts(batch, num_samples):
            latents = chosen and {name: value[done : done + count] for name, value in chosen.items()}
            draws = replicate(model, batch, count, latents, decode_as=rows_of(decode_as, start, len(batch["x"])))
            done += count
            if quantiles is not None:
                kept.append(draws)
                continue
            out = _allocate(out, draws, num_samples, len(rows)) if start == 0 and done == count else out
            _write(out, draws, done - count, start)
        if quantiles is not None:
            whole = {name: torch.cat([part[name] for part in kept]) for name in kept[0]}
            draws = {name: sample_quantiles(value, quantiles) for name, value in whole.items()}
            out = _allocate(out, draws, len(quantiles), len(rows)) if start == 0 else out
            _write(out, draws, 0, start)
        start += len(batch["x"])
    return out


def _check_counts(num_samples: Any, num_candidates: Any) -> None:
    positive_integer("num_samples", num_samples)
    if num_candidates is not None:
        positive_integer("num_candidates", num_candidates, num_samples)


def _check_levels(levels: Any) -> None:
    numbers = isinstance(levels, Sequence) and all(is_number(level) and 0 <= level <= 1 for level in levels)
    if not numbers or not levels:
        raise ValueError(f"quantiles must be numbers from 0 to 1; got {levels!r}. E.g. (0.05, 0.5, 0.95).")


def _write(out: Any, draws: dict[str, Tensor], sample: int, row: int) -> None:
    """Write draws (S, B, *E) into the result, from this sample and this row on."""
    for name, target in out.items() if isinstance(out, dict) else [(None, out)]:
        value = draws[name] if name is not None else next(iter(draws.values()))
        real = target.is_floating_point() if isinstance(target, Tensor) else target.dtype.kind == "f"
        if not real and not (value == value.round()).all():
            raise ValueError(
                f"out must hold real numbers for these draws; got dtype {target.dtype}. Pass e.g. float32."
            )
        place = slice(sample, sample + value.shape[0]), slice(row, row + value.shape[1])
        target[place] = value if isinstance(target, Tensor) else value.cpu().numpy()


def _allocate(out: Any, draws: dict[str, Tensor], num_samples: int, num_rows: int) -> Any:
    """The place of the result: new tensors, a new .npy file, or what the user passed, checked."""
    shapes = {name: (num_samples, num_rows, *value.shape[2:]) for name, value in draws.items()}
    if out is None:
        advice = "Write them to a file by out='draws.npy', keep quantiles= alone, or lower num_samples."
        check_memory({name: (shape, draws[name]) for name, shape in shapes.items()}, advice)
        made = {name: draws[name].new_empty(shape) for name, shape in shapes.items()}
        return _only_site_or_all(made)
    if len(draws) > 1:
        raise NotImplementedError("out must be None for several observed sites; got a target. Draw the rows in parts.")
    ((name, shape),) = shapes.items()
    if isinstance(out, str | os.PathLike):
        path = as_path("out", out)
        if path.suffix != ".npy" or path.exists() or not path.parent.is_dir():
            raise ValueError(
                f"out must be the path of a new .npy file in a folder that exists; got {str(out)!r}. Choose another."
            )
        return np.lib.format.open_memmap(out, mode="w+", dtype=draws[name].cpu().numpy().dtype, shape=shape)
    if not isinstance(out, Tensor | np.ndarray):
        raise TypeError(f"out must be a tensor, an array or a path; got {out!r}. Allocate {shape}.")
    if tuple(out.shape) != shape:
        raise ValueError(f"out must have shape {shape}; got {tuple(out.shape)}. Allocate (num_samples, rows, *event).")
    return out


def replicates(
    model: ProgramPair,
    rows: Rows,
    latents: Latents,
    fields: tuple[str, ...],
    structure: ProgramStructure | None = None,
) -> Iterator[BySite]:
    """Replicated data of all rows, (N, *E), one for each of S draws of their latents.

    Args:
        model: the pair of programs.
        rows: the data.
        latents: draws of the latents given the rows, by site.
        fields: names of the fields that the programs receive.
        structure: that of the programs, if the caller knows it.
    """
    with evaluating(model):
        batches = list(row_chunks(model, rows, 1, fields, structure=structure))
    for sample in range(len(next(iter(latents.values())))):
        with evaluating(model):
            parts, start = [], 0
            for batch in batches:
                stop = start + len(batch["x"])
                one = {name: value[sample : sample + 1] for name, value in latents.items()}
                one = one if len(batches) == 1 else {name: value[:, start:stop] for name, value in one.items()}
                parts.append(data_of(model, run_model(model, one, batch)))
                start = stop
        yield joined(parts)


def run_model(model: ProgramPair, latents: Latents, batch: dict[str, Tensor]) -> Any:
    """The trace of the model, without data, at S values of its latents, (S, B, ...)."""
    count = len(next(iter(latents.values()))) if latents else 1
    nesting = plate_nesting(model.model, model.guide, (batch["x"],), fields_of(batch)) if count > 1 else 0
    values = latents if count > 1 else {name: value.squeeze(0) for name, value in latents.items()}
    with particles(count, nesting), FixLatents(values):
        return trace_of(model.model, rows=len(batch["x"]), **fields_of(batch))


def _guide_draws(model: ProgramPair, batch: dict[str, Tensor], count: int) -> Latents:
    """`count` draws from the guide; given these, of the sites that are summed out and that the model alone has."""
    plates = find_plates(model.model, model.guide, (batch["x"],), fields_of(batch), checked=count > 1)
    with particles(count, plates.nesting):
        trace = trace_of(model.guide, batch["x"], **fields_of(batch))
    values = {name: site["value"].detach() for name, site in trace.nodes.items() if site["type"] == "sample"}
    drawn = values if count > 1 else {name: value.unsqueeze(0) for name, value in values.items()}
    if plates.in_model_alone:
        record = chunk_weights(model, batch, count, fix_latents(model.guide, values))
        drawn |= {name: value for name, value in record.draw_latents().items() if name in plates.in_model_alone}
    return drawn


def replicate(
    model: ProgramPair,
    batch: dict[str, Tensor],
    count: int,
    latents: Latents | None = None,
    *,
    mean: bool = False,
    decode_as: dict[str, Tensor] | None = None,
) -> dict[str, Tensor]:
    """`count` draws of data per row, or means of p(x | z), by data site: (count, B, *E).

    Args:
        model: the pair of programs.
        batch: x (B, *E) and named fields.
        count: the number of draws.
        latents: as many draws of the latents; by default they are drawn from the guide.
        mean: whether to return means of p(x | z), one for each draw of z, and not draws.
        decode_as: fields of the model, (B, ...) each, that replace those of the batch once the latents are drawn.
    """
    latents = _guide_draws(model, batch, count) if latents is None else latents
    draws = data_of(model, run_model(model, latents, batch | (decode_as or {})), mean=mean)
    return draws if count > 1 else {name: value.unsqueeze(0) for name, value in draws.items()}
