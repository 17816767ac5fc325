"""Distributions of rows of which some cells are missing."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pyro_vae.distributions.blocks import Blocks
from pyro_vae.distributions.cells import OptimalNormal
from pyro_vae.distributions.independent import cells_of, unwrap

__all__ = ["masked", "value_inside"]


def masked(distribution: Any, observed: Tensor) -> Any:
    """The distribution whose log-probability counts the observed cells alone; draws and means are those of all cells.

    Where cells are independent given the latents, as they must be, this is the marginal of the observed cells.

    Args:
        distribution: a distribution with events of shape E.
        observed: which cells count, boolean (..., *E).

    Raises:
        NotImplementedError: if cells depend on each other, or the log-probability of one reads others.

    Example:
        >>> import pyro.distributions as dist
        >>> p = dist.Bernoulli(torch.tensor([0.5, 0.25])).to_event(1)
        >>> masked(p, torch.tensor([True, False])).log_prob(torch.ones(2)).exp()
        tensor(0.5000)
    """
    if isinstance(distribution, Blocks):
        parts = zip(distribution.blocks, observed.split(distribution.sizes, -1), strict=True)
        return distribution.of([masked(block, own) for block, own in parts])
    cells = cells_of(distribution)
    if isinstance(unwrap(cells), OptimalNormal):
        raise NotImplementedError(
            'scale must not be "optimal" where cells may be missing, since the scale is computed from all cells.'
            " Choose another, e.g. 'per_dimension'."
        )
    return cells.mask(observed).to_event(len(distribution.event_shape))


def value_inside(support: Any, shape: tuple[int, ...]) -> Tensor:
    """Cells of this shape that lie in the support, to stand where cells are missing.

    Args:
        support: the constraint on one cell, or `constraints.cat` of such constraints for blocks of columns.
        shape: E.
    """
    if hasattr(support, "cseq"):
        parts = zip(support.cseq, support.lengths, strict=True)
        return torch.cat([value_inside(part, (size,)) for part, size in parts])
    candidates = torch.tensor([0.0, 1.0, 0.5])
    inside = [value for value in candidates if bool(support.check(value.expand(shape)).all())]
    if inside:
        return inside[0].expand(shape).clone()
    low = torch.as_tensor(getattr(support, "lower_bound", 0.0), dtype=torch.get_default_dtype())
    high = torch.as_tensor(getattr(support, "upper_bound", low + 2.0), dtype=torch.get_default_dtype())
    return ((low + high) / 2).expand(shape).clone()
