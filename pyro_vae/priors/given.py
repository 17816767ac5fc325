"""A distribution given by the user as a prior."""

from __future__ import annotations

import copy
import weakref
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor
from torch.distributions import Transform

from pyro_vae.priors.base import Prior

__all__ = ["Distribution"]


class Distribution(Prior):
    """A fixed distribution of your own, with event shape (D,) and no batch shape.

    `VAE` makes this part if its `prior` is a distribution. The distribution moves to the device and takes the precision
    of the model. It is not saved: pass it to `pv.load` as `prior=`.

    Args:
        distribution: a `pyro.distributions` object.

    Raises:
        TypeError: if it is not a distribution.
        ValueError: if its event shape is not (D,) or it has a batch shape.

    Example:
        >>> Distribution(dist.Gumbel(torch.zeros(3), 1.0).to_event(1)).latent_dim
        3
    """

    like: Tensor

    def __init__(self, distribution: Any) -> None:
        super().__init__()
        if not isinstance(distribution, TorchDistributionMixin):
            kind = f"{type(distribution).__module__}.{type(distribution).__name__}"
            raise TypeError(f"prior must be a distribution of Pyro; got {kind}. Pass a pyro.distributions object.")
        if len(distribution.event_shape) != 1 or distribution.batch_shape:
            raise ValueError(
                f"prior must have event shape (D,) and no batch shape; got {tuple(distribution.event_shape)} and"
                f" {tuple(distribution.batch_shape)}. Declare the event with .to_event(1)."
            )
        self.latent_dim, self.distribution = distribution.event_shape[0], distribution
        self.register_buffer("like", torch.zeros(()))

    def forward(self, **batch: Any) -> dist.TorchDistribution:
        return _moved(self.distribution, self.like)  # type: ignore[no-any-return]


def _moved(value: Any, like: Tensor, seen: dict[int, Any] | None = None) -> Any:
    """A copy of a distribution, or of one of its parts, with the device and precision of the tensor `like`."""
    seen = {} if seen is None else seen
    if id(value) in seen:
        return seen[id(value)]
    if isinstance(value, Tensor):
        return value.to(like) if value.is_floating_point() else value.to(like.device)
    if type(value) in (list, tuple):
        return type(value)(_moved(part, like, seen) for part in value)
    if isinstance(value, torch.distributions.Distribution | Transform):
        seen[id(value)] = moved = copy.copy(value)
        for name, part in vars(value).items():
            # a weak reference points to the inverse of a transform, which is made again when it is needed
            vars(moved)[name] = None if isinstance(part, weakref.ref) else _moved(part, like, seen)
        return moved
    return value
