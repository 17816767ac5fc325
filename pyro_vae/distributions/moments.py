"""Means that a distribution may not have."""

from __future__ import annotations

from typing import Any

from torch import Tensor

__all__ = ["known_mean"]


def known_mean(distribution: Any) -> Tensor | None:
    """The mean of a distribution; None where it has no closed form, or none at all, as Student's t with one df.

    Example:
        >>> import pyro.distributions as dist
        >>> known_mean(dist.Normal(1.0, 2.0)), known_mean(dist.StudentT(1.0))
        (tensor(1.), None)
    """
    try:
        mean: Tensor = distribution.mean
    except NotImplementedError:
        return None
    return None if mean.isnan().any() else mean
