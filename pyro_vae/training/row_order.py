"""Whether programs treat a row alike wherever it stands in a batch, as training on shuffled rows requires."""

from __future__ import annotations

from typing import Any

import torch
from pyro import poutine
from torch import Tensor

from pyro_vae.inference.broadcasting import subsamples
from pyro_vae.inference.handlers import FixLatents
from pyro_vae.inference.pair import ProgramPair
from pyro_vae.inference.programs import row_dims, run_programs
from pyro_vae.runtime.isolation import evaluating, preserved_buffers
from pyro_vae.runtime.random import preserved_rng

__all__ = ["check_row_order"]

MOVED = 1  # rows move down by this many places, the last to the top
DIFFERENT = 0.1  # of a gradient: a parameter of another row gives another gradient altogether, rounding a millionth
NEGLIGIBLE = 1e-5  # of the largest gradient: below it lies rounding

Latents = dict[str, Tensor]


def check_row_order(model: ProgramPair, x: Tensor, fields: dict[str, Tensor]) -> None:
    """Raise if the place of a row in the batch changes which parameters the row depends on.

    The gradient of the log-probabilities of the first row, at fixed latents, must be the same when rows move.

    Args:
        model: the pair of programs.
        x: the batch, (B, *E).
        fields: the named fields of its rows.

    Raises:
        ValueError: naming the parameters.
    """
    if len(x) < 2:
        return
    with evaluating(model, subsampling=True), preserved_rng(), preserved_buffers(model), poutine.block():
        traces = run_programs(model.model, model.guide, (x,), fields)
        if subsamples(*traces):
            return
        parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
        before = _gradients(model, parameters, (x, fields, _latents(traces)), 0)
        moved_x, moved_fields = _moved(x), {name: _moved(value) for name, value in fields.items()}
        for whole in (False, True):  # a latent outside the plate belongs to no row, or has one entry for each
            latents = _latents(traces, plate=model.row_plate, size=len(x) if whole else None)
            after = _gradients(model, parameters, (moved_x, moved_fields, latents), MOVED)
            found = _differences(before, after)
            if not found:
                return
        again = _gradients(model, parameters, (x, fields, _latents(traces)), 0)
    if not _differences(before, again):  # otherwise the programs have noise of their own
        _raise(found, parameters, len(x))


def _moved(value: Tensor, dim: int = 0) -> Tensor:
    return value.roll(MOVED, dim)


def _latents(traces: tuple[Any, Any], plate: str | None = None, size: int | None = None) -> Latents:
    """Values of the latent sites.

    Args:
        traces: the traces that have them.
        plate: the name of the row plate, along which values are moved; None leaves them.
        size: the number of rows; dimensions of this size of latents outside the plate are moved, too. None leaves them.
    """
    values = {}
    for trace in traces:
        for name, site in trace.nodes.items():
            if site["type"] != "sample" or site["is_observed"]:
                continue
            value = site["value"]
            dims = [dim - site["fn"].event_dim for dim in row_dims(site, plate)] if plate is not None else []
            if not dims and size is not None:
                dims = [dim for dim, count in enumerate(value.shape) if count == size]
            for dim in dims:
                value = _moved(value, dim)
            values[name] = value
    return values


def _gradients(
    model: ProgramPair,
    parameters: dict[str, torch.nn.Parameter],
    given: tuple[Tensor, dict[str, Tensor], Latents],
    place: int,
) -> dict[str, Tensor]:
    """The gradient of the log-probabilities of the row in this place, and of all sites that belong to no row."""
    x, fields, latents = given
    with torch.enable_grad(), FixLatents(latents):
        traces = run_programs(model.model, model.guide, (x,), fields)
        total = torch.zeros((), device=x.device)
        for trace in traces:
            for site in trace.nodes.values():
                if site["type"] == "sample":
                    terms = torch.as_tensor(site["fn"].log_prob(site["value"], *site["args"], **site["kwargs"]))
                    for dim in row_dims(site, model.row_plate):
                        terms = terms.select(dim, place if terms.shape[dim] > 1 else 0)
                    total = total + terms.sum()
        if not total.requires_grad:
            return {}
        found = torch.autograd.grad(total, list(parameters.values()), allow_unused=True)
    return {
        name: torch.zeros_like(parameter) if gradient is None else gradient
        for (name, parameter), gradient in zip(parameters.items(), found, strict=True)
    }


def _differences(before: dict[str, Tensor], after: dict[str, Tensor]) -> list[str]:
    """The names of the parameters whose gradients differ."""
    sizes = {name: max(float(g.abs().max()), float(after[name].abs().max())) for name, g in before.items() if g.numel()}
    floor = NEGLIGIBLE * max(sizes.values(), default=0.0)
    return [
        name
        for name, size in sizes.items()
        if size > floor and float((before[name] - after[name]).abs().max()) > DIFFERENT * size
    ]


def _raise(names: list[str], parameters: dict[str, torch.nn.Parameter], num_rows: int) -> None:
    per_row = [name for name in names if num_rows in parameters[name].shape]
    shown = ", ".join(f"{name} {tuple(parameters[name].shape)}" for name in (per_row or names)[:3])
    raise ValueError(
        "The programs must treat a row alike wherever it stands in a batch, since fit shuffles rows; got other"
        f" gradients for {shown} when the rows of a batch change places. Parameters of single rows belong to places"
        " here, not to rows: compute them from x by a net (an encoder), or look them up by a field with the number of"
        " each row (fields=), or train on all rows in their order by pyro.infer.SVI, or by fit with a DataLoader of all"
        " rows in one batch, with shuffle=False."
    )
