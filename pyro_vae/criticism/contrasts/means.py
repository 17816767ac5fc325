"""Predictive means of the cells of a row given its latents, with names of the cells."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any, NoReturn

import torch
from pyro import poutine
from torch import Tensor

from pyro_vae.data.rows import Rows
from pyro_vae.distributions import Blocks
from pyro_vae.imputation.guesses import nominal_probabilities

__all__ = ["WithoutData", "cell_names", "predictive_means", "refuse_without_mean"]


class WithoutData(poutine.messenger.Messenger):
    """A handler under which the data take their means where they have any, since draws would cost time for nothing."""

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__()
        self.names = names

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"] in self.names and not msg["is_observed"]:
            with suppress(NotImplementedError):
                msg["value"], msg["done"] = msg["fn"].mean, True


def predictive_means(distribution: Any, names: list[str]) -> Tensor:
    """E[x | z] of each cell; of a cell with levels in no order the probability of each level.

    Args:
        distribution: p(x | z), with events of shape E.
        names: names of the cells of a row, for messages.

    Returns:
        Numbers (..., C), with one entry for each of `cell_names`; NaN for a cell without a mean.

    Raises:
        NotImplementedError: if a cell has no mean in closed form.
    """
    found, first = [], 0
    for part, probabilities in _parts(distribution):
        try:
            values = part.mean if probabilities is None else probabilities
        except NotImplementedError:
            refuse_without_mean(names[first])
        found.append(values.flatten(len(part.batch_shape)))
        first += part.event_shape.numel()
    lead = torch.broadcast_shapes(*(values.shape[:-1] for values in found))
    return torch.cat([values.expand(*lead, -1) for values in found], -1) if len(found) > 1 else found[0]


def refuse_without_mean(name: str) -> NoReturn:
    """Raise the error about a cell that has no mean."""
    raise NotImplementedError(
        f"cells must have a mean in closed form given the latents to be compared by it; got none of {name!r}. Pass"
        " statistic=, such as pv.statistics.quantile(0.5), or pv.statistics.mean for averages of draws."
    )


def cell_names(distribution: Any, rows: Rows, names: list[str]) -> list[str]:
    """The names of the entries of `predictive_means`: those of the cells, and "cell = level" for levels in no order."""
    kinds = getattr(getattr(rows, "schema", None), "kinds", {})
    found, first = [], 0
    for part, probabilities in _parts(distribution):
        size = part.event_shape.numel()
        for name in names[first : first + size]:
            if probabilities is None:
                found.append(name)
                continue
            levels = getattr(kinds.get(name), "levels", None) or range(probabilities.shape[-1])
            found += [f"{name} = {level}" for level in levels]
        first += size
    return found


def _parts(distribution: Any) -> Iterator[tuple[Any, Tensor | None]]:
    """The distributions of blocks of cells, each with the probabilities (..., *E, C) if its levels have no order."""
    if isinstance(distribution, Blocks):
        for block in distribution.blocks:
            yield from _parts(block)
        return
    nominal = list(nominal_probabilities(distribution))
    yield distribution, nominal[0][1] if nominal else None
