"""log p(x) of each row, and log p of some cells given the others, by any method."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from pyro_vae.arguments import positive_integer, positive_number
from pyro_vae.data.batches import Rows
from pyro_vae.data.tensors import as_tensor
from pyro_vae.evaluation.base import Batch, Method
from pyro_vae.evaluation.methods import as_method
from pyro_vae.evaluation.remedies import remedy
from pyro_vae.evaluation.results import (
    ConditionalLogLikelihood,
    LogLikelihood,
    UnreliableWarning,
    check_estimates,
)
from pyro_vae.evaluation.summary import Summary, as_log_likelihood, summarize_log_weights, warn_if_unreliable
from pyro_vae.fields import OBSERVED
from pyro_vae.inference import pareto
from pyro_vae.inference.chunks import ProgramStructure, program_structure, row_chunks
from pyro_vae.inference.pair import ProgramPair
from pyro_vae.runtime import processes
from pyro_vae.runtime.isolation import evaluating
from pyro_vae.runtime.random import seeded

__all__ = ["conditional_log_likelihood", "known_labels", "log_likelihood", "quantity"]


def known_labels(model: ProgramPair, rows: Rows, fields: tuple[str, ...]) -> dict[str, bool]:
    """The partly known fields that are known in some of these rows, and whether they are in all; without them: {}."""
    partly = [name for name in fields if name in model.fields and model.fields[name].unknown]
    known = {name: rows.field(name) >= 0 for name in partly}
    return {name: bool(value.all()) for name, value in known.items() if value.any()}


def quantity(model: ProgramPair, rows: Rows, fields: tuple[str, ...]) -> str:
    """What the log-likelihood of these rows is: that of x, or of x with the labels that are known."""
    labels = [name if whole else f"{name} where known" for name, whole in known_labels(model, rows, fields).items()]
    return f"log p({', '.join(['x', *labels])})"


def log_likelihood(
    model: ProgramPair,
    rows: Rows,
    *,
    num_particles: int | None = None,
    method: str | Method = "importance",
    target_error: float | None = None,
    max_particles: int = 100_000,
    seed: int | None = None,
    fields: tuple[str, ...] = (),
) -> LogLikelihood:
    """log p(x) of each row; see `LatentVariableModel.log_likelihood`."""
    method = as_method(method)
    num_particles = _count(num_particles, method)
    if target_error is not None:
        positive_number("target_error", target_error)
        positive_integer("max_particles", max_particles, num_particles)
    structure = program_structure(model, rows, fields)
    method = method.prepared(model, len(rows), num_particles, structure.num_cells)
    count = 1 if structure.joint else len(rows)  # joint estimates are not divided among processes
    share = processes.share(count)
    stream = (processes.rank(),) if share else ()
    own_rows = rows if share is None else rows.subset(share)
    with evaluating(model), seeded(seed, *stream):
        parts = [
            _estimate(model, batch, method, num_particles, target_error, max_particles, structure.joint)
            for batch in row_chunks(model, own_rows, num_particles, fields, structure=structure)
        ]
    columns = [*Summary.joined([part[0] for part in parts]), torch.cat([part[1] for part in parts])]
    *columns, counts = processes.joined(columns, count, share)
    if structure.joint:
        structure = structure._replace(num_cells=len(rows) * structure.num_cells)
    particles = num_particles if target_error is None else counts
    if OBSERVED in fields and (rows.has_missing or model.site_of_missing is not None):
        structure = structure._replace(num_cells=0)  # rows differ in how many cells they have, or patterns count too
    what = quantity(model, rows, fields)
    result = as_log_likelihood(Summary(*columns), particles, method, structure, what)
    warn_if_unreliable(result, _remedy("log p(x)", method, structure, result), what)
    if target_error is not None and not (result.standard_error <= target_error).all():
        above = int((~(result.standard_error <= target_error)).sum())
        warnings.warn(
            f"target_error={target_error:g} was not reached in {above} of {len(counts)} rows with"
            f" {int(counts.max()):,} particles. Raise max_particles, or choose another method.",
            UnreliableWarning,
            stacklevel=3,
        )
    return result


def _estimate(
    model: ProgramPair,
    batch: Batch,
    method: Method,
    num_particles: int,
    target_error: float | None,
    max_particles: int,
    joint: bool,
) -> tuple[Summary, Tensor]:
    """Summary and number of particles of each row.

    With a target, first draws decide how many a row needs, and new ones, twice as many, estimate it. Estimates from the
    draws that decided would be too low: rows stop early if they happened to miss the weights that matter.
    """
    if target_error is None:
        (log_w,) = method.log_weights(model, batch, num_particles)
        result = summarize_log_weights(log_w)
        return result, torch.full_like(result.estimate, num_particles, dtype=torch.int64)
    result, first = _double(model, batch, method, num_particles, target_error, max_particles, joint, first=True)
    stopped = (first < max_particles) & (result.khat != -torch.inf)  # weights that do not vary leave nothing to chance
    counts = first.clone()
    for count in first[stopped].unique().tolist():
        index = (stopped & (first == count)).nonzero().squeeze(1)
        part = batch if joint else {name: value[index] for name, value in batch.items()}
        room = max_particles - count
        better, more = _double(model, part, method, min(2 * count, room), target_error, room, joint, first=False)
        result = result.with_rows(index, better)
        counts[index] = more
    return result, counts


def _double(
    model: ProgramPair,
    batch: Batch,
    method: Method,
    num_particles: int,
    target_error: float,
    max_particles: int,
    joint: bool,
    first: bool,
) -> tuple[Summary, Tensor]:
    """Summary and number of particles of each row; particles double while the error of a row is above its target.

    The first draws must also have a small k-hat and 100 effective draws, and leave room for as many again; otherwise
    they continue to the maximum.
    """
    (log_w,) = method.log_weights(model, batch, num_particles)
    result = summarize_log_weights(log_w)
    counts = torch.full_like(result.estimate, num_particles, dtype=torch.int64)
    index = torch.arange(len(counts), device=counts.device)  # of the rows whose weights are in log_w
    while len(log_w) < max_particles:
        met = result.standard_error[index] <= target_error
        if first:
            khat = result.khat[index]
            reliable = (khat <= pareto.threshold(len(log_w))) & (result.ess[index] >= pareto.MIN_EFFECTIVE)
            met &= (reliable & (2 * len(log_w) <= max_particles)) | (khat == -torch.inf)
        if met.all():
            break
        log_w, index = log_w[:, ~met], index[~met]
        part = batch if joint else {name: value[index] for name, value in batch.items()}
        (more,) = method.log_weights(model, part, min(len(log_w), max_particles - len(log_w)))
        log_w = torch.cat([log_w, more])
        result = result.with_rows(index, summarize_log_weights(log_w))
        counts[index] = len(log_w)
    return result, counts


def conditional_log_likelihood(
    model: ProgramPair,
    rows: Rows,
    given: Any,
    *,
    asked: Any = None,
    num_particles: int | None = None,
    method: str | Method = "importance",
    seed: int | None = None,
    fields: tuple[str, ...] = (),
) -> ConditionalLogLikelihood:
    """log p(x_A | x_B) of each row; see `LatentVariableModel.conditional_log_likelihood`."""
    method = as_method(method)
    num_particles = _count(num_particles, method)
    structure = program_structure(model, rows, fields)
    if structure.joint:
        raise NotImplementedError("Rows must be independent for a conditional log-likelihood; got a global latent.")
    if model.site_of_missing is not None:
        raise NotImplementedError(
            "missing must be AtRandom for a conditional log-likelihood: cells that are not given would count as missing"
            " for the mechanism. Use a model with AtRandom, or log_likelihood of whole rows."
        )
    method = method.prepared(model, 2 * len(rows), num_particles, structure.num_cells)
    shown = OBSERVED in fields  # whether the guide can be shown the cells of x_B alone
    known = _read_cells(given, rows)
    asked = torch.ones(()).bool() if asked is None else _read_cells(asked, rows, "asked")
    if not shown and not asked.all():
        raise NotImplementedError(
            "asked must be None, all cells that are not given, for a model without missing cells; got others. Make the"
            " VAE with missing=pv.missing.AtRandom()."
        )
    asked, done = (known | asked).expand_as(known), 0
    wholes, conditions, errors = [], [], []
    with evaluating(model, seed=seed):
        for batch in row_chunks(model, rows, num_particles, fields, structure=structure):
            cells = slice(done, done + len(batch["x"]))
            done = cells.stop
            part = known[cells].to(batch["x"].device)
            if shown:
                all_cells = batch | {OBSERVED: batch[OBSERVED] & asked[cells].to(part.device)}
                (log_w,) = method.log_weights(model, all_cells, num_particles)
                (log_v,) = method.log_weights(model, batch | {OBSERVED: batch[OBSERVED] & part}, num_particles)
            else:
                log_w, log_v = method.log_weights(model, batch, num_particles, (None, part))
            wholes.append(summarize_log_weights(log_w))
            conditions.append(summarize_log_weights(log_v))
            errors.append(_error_of_difference(log_w, log_v, same_draws=method.shares_draws and not shown))
    if shown:
        structure = structure._replace(num_cells=0)
    whole, condition = (
        as_log_likelihood(Summary.joined(parts), num_particles, method, structure) for parts in (wholes, conditions)
    )
    advice = _remedy("conditional", method, structure, whole)
    warn_if_unreliable(whole, advice)
    warn_if_unreliable(condition, advice, "log p(x_B)", "as a rule too low, and log p(x_A | x_B) too high")
    difference = check_estimates("log p(x_A | x_B)", whole.estimate - condition.estimate)
    return ConditionalLogLikelihood(difference, torch.cat(errors), whole, condition)


def _count(num_particles: int | None, method: Method) -> int:
    """The number of particles that was given, or else the method's own."""
    return method.default_particles if num_particles is None else positive_integer("num_particles", num_particles)


def _remedy(question: str, method: Method, structure: ProgramStructure, result: LogLikelihood) -> str:
    """The advice of the warning about a result."""
    all_unknown = bool(result.khat.isnan().all())
    few = int(torch.as_tensor(result.num_particles).max()) if all_unknown else None
    return remedy(question, method, structure, few)


def _read_cells(given: Any, rows: Rows, what: str = "given") -> Tensor:
    """The cells that a mask, or names of columns, select: boolean (N, *E)."""
    shape = (len(rows), *rows.event_shape)
    if isinstance(given, str) or (isinstance(given, Sequence) and given and all(isinstance(n, str) for n in given)):
        names = [given] if isinstance(given, str) else list(given)
        unknown = [name for name in names if name not in (rows.columns or ())]
        if rows.columns is None:
            raise ValueError(
                f"{what} must be boolean for data without names; got {names}. Pass a pandas frame, or a mask."
            )
        if unknown:
            raise ValueError(f"{what} must name columns of x, {rows.columns}; got {unknown}. Correct the names.")
        given = [column in names for column in rows.columns or ()]
    mask = as_tensor(given, what)
    if mask.dtype != torch.bool or tuple(mask.shape) not in (shape, shape[1:]):
        raise ValueError(
            f"{what} must be boolean of shape {shape[1:]} or {shape}; got {mask.dtype} of shape {tuple(mask.shape)}."
            " Mark the cells that are meant."
        )
    return mask.expand(shape)


def _error_of_difference(log_w: Tensor, log_v: Tensor, *, same_draws: bool) -> Tensor:
    """The standard error of log mean w - log mean v, to first order, (B,)."""
    k = len(log_w)
    w, v = (k * part.double().softmax(0) for part in (log_w, log_v))
    if same_draws:
        return (w - v).std(0) / k**0.5
    return ((w.var(0) + v.var(0)) / k).sqrt()
