"""One best guess of each cell, from weighted draws of the latents."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor

from pyro_vae.distributions import Blocks, OrderedCategorical, unwrap

__all__ = ["GUESSES", "guess", "nominal_probabilities"]

GUESSES = ("mean", "median", "mode")


def guess(distribution: Any, draws: Tensor, weights: Tensor, kind: str, *, use_means: bool = True) -> Tensor:
    """A guess of each cell, (B, *E).

    The mean and the median are those of numbers; cells with levels in no order get the most probable level.

    Args:
        distribution: p(x | z) at K draws of z, with batch shape (K, B).
        draws: one draw of x from each, (K, B, *E).
        weights: the weights of the draws, (K, B).
        kind: "mean", "median" or "mode": the most probable value of discrete cells, and the median of real ones.
        use_means: whether means and probabilities of the distribution may stand for draws, which makes less noise.
    """
    w = weights.reshape(*weights.shape, *[1] * (draws.dim() - 2)).to(draws.dtype)
    if kind == "mean":
        found = (w * _means(distribution, draws, use_means)).sum(0)
    else:
        found = _weighted_median(draws, w.expand_as(draws))
        if kind == "mode":
            found = torch.where(_is_discrete(distribution, draws), _weighted_mode(draws, w.expand_as(draws)), found)
    for columns, probabilities in nominal_probabilities(distribution):
        if not use_means:
            levels = torch.arange(probabilities.shape[-1], device=draws.device)
            probabilities = (draws[:, :, columns].unsqueeze(-1) == levels).to(probabilities)
        average = (weights[(..., *[None] * (probabilities.dim() - 2))] * probabilities).sum(0)
        found[:, columns] = average.argmax(-1).to(found)
    return found


def _means(distribution: Any, draws: Tensor, use_means: bool) -> Tensor:
    if use_means:
        with suppress(NotImplementedError):
            return distribution.mean  # type: ignore[no-any-return]
    return draws


def nominal_probabilities(distribution: Any, first: int = 0) -> Iterator[tuple[Any, Tensor]]:
    """The cells with levels in no order, as an index of the first dimension of E, and their probabilities (..., *E, C).

    Args:
        distribution: the distribution of a row.
        first: the number of the first column.
    """
    if isinstance(distribution, Blocks):
        for block, size in zip(distribution.blocks, distribution.sizes, strict=True):
            yield from nominal_probabilities(block, first)
            first += size
        return
    base = unwrap(distribution)
    if isinstance(base, torch.distributions.Categorical) and not isinstance(base, OrderedCategorical):
        yield slice(first, first + distribution.event_shape[0]), base.probs


def _weighted_median(draws: Tensor, weights: Tensor) -> Tensor:
    values, order = draws.sort(0)
    reached = weights.gather(0, order).cumsum(0) >= 0.5 * (1 - 1e-6)
    return values.gather(0, reached.int().argmax(0, keepdim=True)).squeeze(0)


def _weighted_mode(draws: Tensor, weights: Tensor) -> Tensor:
    values, order = draws.movedim(0, -1).contiguous().sort(-1)
    total = torch.nn.functional.pad(weights.movedim(0, -1).gather(-1, order).cumsum(-1), (1, 0))
    ends = [torch.searchsorted(values, values, right=right) for right in (False, True)]
    mass = total.gather(-1, ends[1]) - total.gather(-1, ends[0])  # of all draws that are equal to this one
    return values.gather(-1, mass.argmax(-1, keepdim=True)).squeeze(-1)


def _is_discrete(distribution: Any, draws: Tensor) -> Tensor:
    """Which cells are discrete, boolean of shape E."""
    if isinstance(distribution, Blocks):
        parts = draws.split(distribution.sizes, -1)
        return torch.cat([_is_discrete(b, part) for b, part in zip(distribution.blocks, parts, strict=True)], -1)
    return torch.full(draws.shape[2:], bool(distribution.support.is_discrete))
