"""Distributions without their wrappers, and the log-probabilities of single cells where cells are independent."""

from __future__ import annotations

from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import Independent

from pyro_vae.distributions.blocks import Blocks

__all__ = ["cell_log_prob", "cells_of", "unwrap"]


def unwrap(distribution: Any, *wrappers: type) -> Any:
    """The distribution inside its wrappers.

    Args:
        distribution: a distribution, wrapped any number of times or not at all.
        wrappers: classes to remove from the outside, such as `Independent`, which `.to_event` puts around a
            distribution. Without any, every distribution that has a `base_dist` is replaced by it: also those that
            change the density, such as `TransformedDistribution` or `ZeroInflated`.

    Example:
        >>> p = dist.LogNormal(torch.zeros(3), 1.0).to_event(1)
        >>> unwrap(p, Independent)
        LogNormal()
        >>> unwrap(p)
        Normal(loc: torch.Size([3]), scale: torch.Size([3]))
    """
    while isinstance(distribution, wrappers) if wrappers else hasattr(distribution, "base_dist"):
        distribution = distribution.base_dist
    return distribution


def cells_of(distribution: Any) -> Any:
    """The distribution of single cells, with batch shape (..., *E): the one that `.to_event` was called on.

    Raises:
        NotImplementedError: if the cells of an event depend on each other.
    """
    base = unwrap(distribution, Independent)
    if base.event_shape:
        raise NotImplementedError(
            f"Cells must be independent given the latents; got {type(base).__name__} with events of shape"
            f" {tuple(base.event_shape)}. Choose a likelihood of single cells."
        )
    return base


def cell_log_prob(distribution: Any, value: Tensor) -> Tensor:
    """The log-probability of each cell, (..., *E); their sum over E is `distribution.log_prob(value)`.

    Raises:
        NotImplementedError: if the cells of an event depend on each other.

    Example:
        >>> cell_log_prob(dist.Bernoulli(torch.tensor([0.5, 0.25])).to_event(1), torch.ones(2)).exp()
        tensor([0.5000, 0.2500])
    """
    if isinstance(distribution, Blocks):
        columns = zip(distribution.blocks, value.split(distribution.sizes, -1), strict=True)
        terms = [cell_log_prob(block, part) for block, part in columns]
        shape = torch.broadcast_shapes(*(term.shape[:-1] for term in terms))
        return torch.cat([term.expand(*shape, -1) for term in terms], -1)
    base = cells_of(distribution)
    if isinstance(base, dist.MaskedDistribution):
        inner = base.base_dist.log_prob(value)
        return torch.where(torch.as_tensor(base._mask, device=inner.device), inner, 0.0)
    log_prob: Tensor = base.log_prob(value)
    return log_prob.expand(torch.broadcast_shapes(log_prob.shape, value.shape))
