"""Distributions of directions."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor
from torch.distributions.utils import broadcast_all
from torch.nn.functional import normalize

__all__ = ["PowerSpherical"]


class PowerSpherical(dist.TorchDistribution):
    """Unit vectors z in D dimensions with density proportional to (1 + loc . z) ** concentration.

    It resembles the von Mises-Fisher distribution and is uniform at concentration 0, but draws need no rejection, and
    density, entropy and mean have closed forms.

    Args:
        loc: the mean direction, (..., D), of length 1.
        concentration: (...), at least 0.

    References:
        *The Power Spherical Distribution* (De Cao, Aziz, 2020), arXiv 2006.04437
    """

    arg_constraints: ClassVar = {"loc": constraints.sphere, "concentration": constraints.nonnegative}
    support = constraints.sphere
    has_rsample = True

    def __init__(self, loc: Tensor, concentration: Tensor, validate_args: bool | None = None) -> None:
        (count,) = broadcast_all(loc[..., 0], concentration)[1:]
        self.loc, self.concentration = loc.expand(*count.shape, loc.shape[-1]), count
        super().__init__(count.shape, loc.shape[-1:], validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> PowerSpherical:
        shape = torch.Size(batch_shape)
        return PowerSpherical(self.loc.expand(*shape, -1), self.concentration.expand(shape), validate_args=False)

    @property
    def _beta(self) -> tuple[Tensor, float]:
        """The parameters a and b for which 2 Beta(a, b) - 1 is the coordinate of a draw along the mean direction."""
        b = (self.event_shape[0] - 1) / 2
        return b + self.concentration, b

    @property
    def mean(self) -> Tensor:
        a, b = self._beta
        return self.loc * ((a - b) / (a + b)).unsqueeze(-1)

    def log_normalizer(self) -> Tensor:
        """The logarithm of the integral of (1 + loc . z) ** concentration over the sphere."""
        b, a = self._beta[1], self._beta[1] + self.concentration.double()
        ratio = torch.lgamma(a) - torch.lgamma(a + b)
        return ((a + b) * math.log(2) + b * math.log(math.pi) + ratio).to(self.concentration.dtype)

    def log_prob(self, value: Tensor) -> Tensor:
        along = (self.loc * value).sum(-1)
        return self.concentration * torch.log1p(along.clamp_min(1e-6 - 1)) - self.log_normalizer()

    def entropy(self) -> Tensor:
        b, concentration = self._beta[1], self.concentration.double()
        a = b + concentration
        # log 2 times the concentration cancels against the normalizer
        constant = 2 * b * math.log(2) + b * math.log(math.pi) + torch.lgamma(a) - torch.lgamma(a + b)
        return (constant - concentration * (torch.digamma(a) - torch.digamma(a + b))).to(self.concentration.dtype)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        a, b = self._beta
        shape = self._extended_shape(sample_shape)
        one, two = (torch._standard_gamma(c.expand(shape[:-1])) for c in (a, torch.full_like(a, b)))
        along = (2 * one / (one + two) - 1).unsqueeze(-1)
        across = normalize(torch.randn(*shape[:-1], shape[-1] - 1, dtype=a.dtype, device=a.device), dim=-1)
        straight = torch.cat((along, (1 - along.square()).clamp_min(1e-12).sqrt() * across), -1)
        first = torch.zeros_like(self.loc)
        first[..., 0] = 1.0
        axis = normalize(first - self.loc, dim=-1)  # the reflection that takes the first axis to the mean direction
        return straight - 2 * (straight * axis).sum(-1, keepdim=True) * axis


@torch.distributions.register_kl(PowerSpherical, PowerSpherical)
def _kl_to_uniform(p: PowerSpherical, q: PowerSpherical) -> Tensor:
    """KL(p || q), which has a closed form if q is uniform."""
    if (q.concentration != 0).any():
        raise NotImplementedError
    return q.log_normalizer() - p.entropy()
