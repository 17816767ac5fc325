"""Draws and means of data, from the prior and from the posterior."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from pyro import poutine
from pyro.poutine.util import prune_subsample_sites
from torch import Tensor

from pyro_vae import scope
from pyro_vae.batches import Rows, as_tensor, cast
from pyro_vae.evaluation import CELLS, particle_counts, row_chunks
from pyro_vae.parts import positive_integer
from pyro_vae.programs import outside_rows, particles, plate_nesting

__all__ = ["decode", "encode", "posterior_predictive", "reconstruct", "sample"]

Draws = Tensor | dict[str, Tensor]


def sample(model: Any, num_rows: int, *, mean: bool = False, seed: int | None = None, **fields: Tensor) -> Draws:
    """Draws of data from the prior predictive; see `LatentVariableModel.sample`."""
    positive_integer("num_rows", num_rows)
    fields = cast({name: as_tensor(value, name) for name, value in fields.items()}, model.like)
    for name, value in fields.items():
        if value.dim() == 0 or len(value) != num_rows:
            raise ValueError(
                f"field {name!r} must have one entry per row ({num_rows}); got shape {tuple(value.shape)}. Align it."
            )
    with scope.evaluating(model, seed=seed):
        with scope.preserved_rng():
            probe = _trace(model.model, rows=1, **{name: value[:1] for name, value in fields.items()})
        cells = max(value.numel() for value in _data(model, probe).values())
        size = num_rows if outside_rows(probe, model.row_plate) else max(1, CELLS // cells)
        chunks = []
        for start in range(0, num_rows, size):
            batch = {name: value[start : start + size] for name, value in fields.items()}
            trace = _trace(model.model, rows=min(size, num_rows - start), **batch)
            chunks.append(_data(model, trace, mean=mean))
    return _joined(chunks)


def _data(model: Any, trace: Any, *, mean: bool = False) -> dict[str, Tensor]:
    """The values, or the means, of the sites that are data."""
    missing = [name for name in model.data_sites if name not in trace.nodes]
    if missing:
        raise ValueError(
            f"data_sites must name the model's observed sites; got {model.data_sites}, but the model has no site"
            f" {missing[0]!r}. Set the class attribute data_sites."
        )
    sites = {name: trace.nodes[name] for name in model.data_sites}
    return {name: (site["fn"].mean if mean else site["value"]).detach() for name, site in sites.items()}


def _only(values: dict[str, Any]) -> Any:
    """The value where there is one data site, else the dictionary."""
    return next(iter(values.values())) if len(values) == 1 else values


def _joined(chunks: list[dict[str, Tensor]]) -> Draws:
    return _only({name: torch.cat([chunk[name] for chunk in chunks]) for name in chunks[0]})  # type: ignore[no-any-return]


def posterior_predictive(
    model: Any,
    rows: Rows,
    *,
    num_samples: int = 100,
    seed: int | None = None,
    out: Any = None,
    fields: tuple[str, ...] = (),
) -> Any:
    """Replicated data given the rows; see `LatentVariableModel.posterior_predictive`."""
    positive_integer("num_samples", num_samples)
    with scope.evaluating(model, seed=seed):
        for start, batch in _numbered(row_chunks(model, rows, num_samples, fields)):
            done = 0
            for count in particle_counts(batch, num_samples):
                draws = _replicate(model, batch, count)
                out = _allocate(out, draws, num_samples, len(rows)) if start == 0 and done == 0 else out
                for name, target in out.items() if isinstance(out, dict) else [(None, out)]:
                    value = draws[name] if name is not None else next(iter(draws.values()))
                    stop = start + value.shape[1]
                    target[done : done + count, start:stop] = (
                        value if isinstance(target, Tensor) else value.cpu().numpy()
                    )
                done += count
    return out


def _numbered(chunks: Iterator[dict[str, Tensor]]) -> Iterator[tuple[int, dict[str, Tensor]]]:
    start = 0
    for batch in chunks:
        yield start, batch
        start += len(batch["x"])


def _allocate(out: Any, draws: dict[str, Tensor], num_samples: int, num_rows: int) -> Any:
    """Where the result goes: new tensors, a new .npy file, or what the user brings."""
    shapes = {name: (num_samples, num_rows, *value.shape[2:]) for name, value in draws.items()}
    if out is None:
        made = {name: draws[name].new_empty(shape) for name, shape in shapes.items()}
        return _only(made)
    if len(draws) > 1:
        raise NotImplementedError("out must be None for several observed sites; got a target. Draw the rows in parts.")
    ((name, shape),) = shapes.items()
    if isinstance(out, str) or hasattr(out, "__fspath__"):
        return np.lib.format.open_memmap(out, mode="w+", dtype=draws[name].cpu().numpy().dtype, shape=shape)
    if tuple(out.shape) != shape:
        raise ValueError(f"out must have shape {shape}; got {tuple(out.shape)}. Allocate (num_samples, rows, *event).")
    return out


def _replicate(model: Any, batch: dict[str, Tensor], count: int, *, mean: bool = False) -> dict[str, Tensor]:
    """`count` draws of data per row, or means given draws of the latents: (count, B, *E) per data site."""
    x, fields = batch["x"], {name: value for name, value in batch.items() if name != "x"}
    nesting = plate_nesting(model.model, model.guide, (x,), fields) if count > 1 else 0
    with particles(count, nesting):
        guide_trace = poutine.trace(model.guide).get_trace(x, **fields)
    with particles(count, nesting):
        model_trace = _trace(poutine.replay(model.model, trace=guide_trace), rows=len(x), **fields)
    draws = _data(model, model_trace, mean=mean)
    return draws if count > 1 else {name: value.unsqueeze(0) for name, value in draws.items()}


class _Means(poutine.messenger.Messenger):
    """Let every latent site take the mean of its distribution."""

    def _pyro_sample(self, msg: Any) -> None:
        if msg["is_observed"] or type(msg["fn"]).__name__ == "_Subsample":
            return
        mean = msg["fn"].mean
        if torch.isnan(mean).any():
            raise NotImplementedError(f"{type(msg['fn']).__name__} has no mean.")
        msg["value"], msg["done"] = mean, True


def reconstruct(
    model: Any, rows: Rows, *, num_samples: int = 100, seed: int | None = None, fields: tuple[str, ...] = ()
) -> Draws:
    """The decoder's mean at the guide's mean; see `LatentVariableModel.reconstruct`."""
    chunks = []
    with scope.evaluating(model, seed=seed):
        for batch in row_chunks(model, rows, 1, fields):
            x, rest = batch["x"], {name: value for name, value in batch.items() if name != "x"}
            try:
                with _Means():
                    guide_trace = _trace(model.guide, x, **rest)
                replayed = poutine.replay(model.model, trace=guide_trace)
                chunks.append(_data(model, _trace(replayed, rows=len(x), **rest), mean=True))
            except NotImplementedError:
                warnings.warn(
                    f"q(z | x) or p(x | z) has no mean here: the reconstruction is an average over {num_samples} draws"
                    " of z (of x too, where p(x | z) has none), and not the decoder's mean at one z.",
                    stacklevel=3,
                )
                chunks.append(_average(model, batch, num_samples))
    return _joined(chunks)


def _average(model: Any, batch: dict[str, Tensor], num_samples: int) -> dict[str, Tensor]:
    total: dict[str, Tensor] = {}
    for count in particle_counts(batch, num_samples):
        try:
            values = _replicate(model, batch, count, mean=True)
        except NotImplementedError:
            values = _replicate(model, batch, count)
        for name, means in values.items():
            total[name] = total.get(name, torch.zeros(())) + means.sum(0) / num_samples
    return total


def encode(model: Any, x: Tensor, *, seed: int | None = None, **fields: Tensor) -> dict[str, Any]:
    """The guide's distribution at every latent site, by name; upstream sites are set to a draw."""
    with scope.evaluating(model, seed=seed):
        sites = _trace(model.guide, x, **fields).nodes.items()
    return {name: site["fn"] for name, site in sites if site["type"] == "sample"}


def decode(model: Any, latents: dict[str, Tensor], **fields: Tensor) -> dict[str, Any]:
    """The model's distribution at every observed site, by name, given values of all latent sites."""
    with scope.evaluating(model):
        rows = _count_rows(model, latents, fields)
        trace = _trace(poutine.condition(model.model, data=latents), rows=rows, **fields)
    return {name: site["fn"] for name, site in trace.nodes.items() if site["type"] == "sample" and name not in latents}


def _count_rows(model: Any, latents: dict[str, Tensor], fields: dict[str, Tensor]) -> int:
    """How many rows the values speak of: the size along the row plate of the first latent inside it, else 1."""
    with scope.preserved_rng():
        probe = _trace(model.model, rows=1, **{name: value[:1] for name, value in fields.items()})
    for name, value in latents.items():
        site = probe.nodes[name]
        for frame in site["cond_indep_stack"]:
            if frame.name == model.row_plate and frame.vectorized:
                return value.shape[frame.dim - site["fn"].event_dim]
    return 1


def _trace(program: Any, *args: Any, **kwargs: Any) -> Any:
    return prune_subsample_sites(poutine.trace(program).get_trace(*args, **kwargs))
