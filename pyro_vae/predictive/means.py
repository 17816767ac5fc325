"""Reconstructions, and the distributions at the sites of the programs."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from pyro import poutine
from torch import Tensor

from pyro_vae.arguments import positive_integer
from pyro_vae.data.batches import Rows
from pyro_vae.distributions.moments import known_mean
from pyro_vae.inference.chunks import fields_of, particle_counts, row_chunks
from pyro_vae.inference.pair import ProgramPair
from pyro_vae.inference.programs import find_plates
from pyro_vae.predictive.draws import BySite, joined, replicate
from pyro_vae.predictive.given import read_fields, rows_of
from pyro_vae.predictive.sites import data_of, num_rows_of, read_latents, trace_of
from pyro_vae.runtime.isolation import evaluating

__all__ = ["decode", "encode", "reconstruct"]


class _Means(poutine.messenger.Messenger):
    """A handler under which each latent site takes the mean of its distribution."""

    def _pyro_sample(self, msg: Any) -> None:
        if msg["is_observed"] or type(msg["fn"]).__name__ == "_Subsample":
            return
        mean = known_mean(msg["fn"])
        if mean is None:
            raise NotImplementedError(f"{type(msg['fn']).__name__} has no mean.")
        msg["value"], msg["done"] = mean, True


def reconstruct(
    model: ProgramPair,
    rows: Rows,
    *,
    num_samples: int = 100,
    seed: int | None = None,
    fields: tuple[str, ...] = (),
    decode_as: dict[str, Tensor] | None = None,
) -> BySite:
    """The decoder's mean at the guide's mean; see `LatentVariableModel.reconstruct`."""
    positive_integer("num_samples", num_samples)
    chunks, start = [], 0
    with evaluating(model, seed=seed):
        for batch in row_chunks(model, rows, 1, fields):
            x, rest = batch["x"], fields_of(batch)
            decoded = rows_of(decode_as or {}, start, len(x))
            start += len(x)
            try:
                if find_plates(model.model, model.guide, (x,), rest).enumerated:
                    raise NotImplementedError("A latent that is summed out has values, and no mean.")
                with _Means():
                    guide_trace = trace_of(model.guide, x, **rest)
                replayed = poutine.replay(model.model, trace=guide_trace)
                chunks.append(data_of(model, trace_of(replayed, rows=len(x), **(rest | decoded)), mean=True))
            except NotImplementedError:
                warnings.warn(
                    f"q(z | x) or p(x | z) has no mean here: the reconstruction is an average over {num_samples} draws"
                    " of z (and of x, if p(x | z) has no mean), and not the decoder's mean at one z.",
                    stacklevel=3,
                )
                chunks.append(_average(model, batch, num_samples, decoded))
    return joined(chunks)


def _average(
    model: ProgramPair, batch: dict[str, Tensor], num_samples: int, decode_as: dict[str, Tensor]
) -> dict[str, Tensor]:
    """An estimate of E[x]: the average over draws of z of the mean of p(x | z), or of draws of x if it has no mean."""
    total: dict[str, Tensor] = {}
    for count in particle_counts(batch, num_samples):
        try:
            values = replicate(model, batch, count, mean=True, decode_as=decode_as)
        except NotImplementedError:
            values = replicate(model, batch, count, decode_as=decode_as)
        for name, means in values.items():
            total[name] = total.get(name, torch.zeros(())) + means.sum(0) / num_samples
    return total


def encode(model: ProgramPair, x: Tensor, *, seed: int | None = None, **fields: Tensor) -> dict[str, Any]:
    """The guide's distribution at each latent site, by name, given draws of the sites before it."""
    with evaluating(model, seed=seed):
        sites = trace_of(model.guide, x, **fields).nodes.items()
    return {name: site["fn"] for name, site in sites if site["type"] == "sample"}


def decode(model: ProgramPair, latents: dict[str, Tensor], **fields: Tensor) -> dict[str, Any]:
    """The model's distribution at each observed site, by name, given values of all latent sites."""
    with evaluating(model):
        given, fields = fields, read_fields(model, fields)
        latents = read_latents(model, latents, fields, means=True)
        num_rows = num_rows_of(model, latents, fields)
        fields = read_fields(model, given, num_rows)
        trace = trace_of(poutine.condition(model.model, data=latents), rows=num_rows, **fields)
    return {name: site["fn"] for name, site in trace.nodes.items() if site["type"] == "sample" and name not in latents}
