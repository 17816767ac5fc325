"""Distributions of single real numbers."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor

from pyro_vae.distributions.precise import draw_beta_logit, without_repeats

__all__ = ["Beta", "ContinuousBernoulli", "Gamma", "OptimalNormal", "StudentT"]


class _OpenInterval(constraints.interval):  # type: ignore[misc]
    """An interval without its ends."""

    def __repr__(self) -> str:
        return f"the open interval ({self.lower_bound:g}, {self.upper_bound:g})"

    def check(self, value: Tensor) -> Tensor:
        return (value > self.lower_bound) & (value < self.upper_bound)


class Beta(dist.Beta):
    """Beta on the open interval (0, 1), with a log-density that is computed in float64.

    Where rounding puts a draw at 0 or 1, at which the density may be infinite, the draw is moved inside.
    """

    support = _OpenInterval(0.0, 1.0)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        numbers, shape = torch.finfo(self.concentration1.dtype), self._extended_shape(torch.Size(sample_shape))
        logits = draw_beta_logit(self.concentration1.expand(shape), self.concentration0.expand(shape))
        return torch.sigmoid(logits).clamp(numbers.tiny, 1 - numbers.eps / 2)

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        x, a, b = value.double(), self.concentration1.double(), self.concentration0.double()
        normalizer = torch.lgamma(a) + torch.lgamma(b) - torch.lgamma(a + b)
        return ((a - 1) * x.log() + (b - 1) * torch.log1p(-x) - normalizer).to(self.concentration1.dtype)


class Gamma(dist.Gamma):
    """torch's distribution of this name, with a log-density that is computed in float64."""

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        x, shape, rate = value.double(), without_repeats(self.concentration).double(), self.rate.double()
        kernel = torch.xlogy(shape, rate) + torch.xlogy(shape - 1, x) - rate * x
        return (kernel - torch.lgamma(shape)).to(self.rate.dtype)


class StudentT(dist.StudentT):
    """torch's distribution of this name, with a log-density that holds for any degrees of freedom."""

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        df, loc, scale = without_repeats(self.df).double(), self.loc.double(), self.scale.double()
        half, large = df / 2, df > 1e6
        small = torch.where(large, 1.0, half)
        # log Gamma(z + 1/2) - log Gamma(z) - log(z) / 2 is -1 / (8 z) + O(z^-3)
        ratio = torch.where(large, -0.125 / half, torch.lgamma(small + 0.5) - torch.lgamma(small) - 0.5 * small.log())
        kernel = -0.5 * (df + 1) * torch.log1p(((value.double() - loc) / scale).square() / df)
        return (kernel + ratio - 0.5 * math.log(2 * math.pi) - scale.log()).to(self.loc.dtype)


class ContinuousBernoulli(dist.TorchDistribution):
    """Density proportional to exp(logits x) on [0, 1].

    This is torch's distribution, computed from the logits alone: in float32, logits of probabilities cannot exceed 16,
    and the density would be limited with them.

    References:
        *The Continuous Bernoulli: Fixing a Pervasive Error in Variational Autoencoders* (Loaiza-Ganem, Cunningham,
        2019), arXiv 1907.06845
    """

    arg_constraints: ClassVar = {"logits": constraints.real}
    support = constraints.unit_interval
    has_rsample = True

    def __init__(self, logits: Tensor, validate_args: bool | None = None) -> None:
        self.logits = logits
        super().__init__(logits.shape, validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> ContinuousBernoulli:
        return ContinuousBernoulli(self.logits.expand(torch.Size(batch_shape)), validate_args=False)

    def _parts(self) -> tuple[Tensor, Tensor, Tensor]:
        """Where a power series replaces a quotient near 0 / 0; the logits there; their absolute values elsewhere."""
        near, size = self.logits.abs() < 0.1, self.logits.abs()
        return near, torch.where(near, self.logits, 0.0), torch.where(near, 1.0, size)

    def log_normalizer(self) -> Tensor:
        """log((exp(logits) - 1) / logits)."""
        near, small, size = self._parts()
        series = small / 2 + small**2 / 24 - small**4 / 2880 + small**6 / 181440
        return torch.where(near, series, self.logits.clamp_min(0) + (-torch.expm1(-size) / size).log())

    @property
    def mean(self) -> Tensor:
        near, small, size = self._parts()
        series = 0.5 + small / 12 - small**3 / 720 + small**5 / 30240 - small**7 / 1209600
        rest = 1 / size - 1 / torch.expm1(size)  # the distance of the mean from the nearer end
        return torch.where(near, series, torch.where(self.logits > 0, 1 - rest, rest))

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        size = self.logits.abs().clamp_min(1e-6)
        u = torch.rand(self._extended_shape(sample_shape), dtype=size.dtype, device=size.device)
        distance = (-torch.log1p(u * torch.expm1(-size)) / size).clamp(0, 1)
        return torch.where(self.logits > 0, 1 - distance, distance)

    def log_prob(self, value: Tensor) -> Tensor:
        return self.logits * value - self.log_normalizer()


class OptimalNormal(dist.Normal):
    """Normal with one variance for all cells: the most probable one for the values at hand, or a running average of it.

    Args:
        loc: the means.
        mean_square: the running average of the variance, a scalar. Draws use it; `log_prob` updates it in place if
            `fitted`.
        fitted: whether the variance in `log_prob` is the mean squared residual of its values, over all dimensions;
            else it is the running average.
        momentum: the weight of the values at hand in the running average.
    """

    def __init__(self, loc: Tensor, mean_square: Tensor, fitted: bool, momentum: float = 0.1) -> None:
        self.mean_square, self.fitted, self.momentum = mean_square, fitted, momentum
        super().__init__(loc, mean_square.sqrt())

    def expand(self, batch_shape: Any, _instance: Any = None) -> OptimalNormal:
        return OptimalNormal(self.loc.expand(torch.Size(batch_shape)), self.mean_square, self.fitted, self.momentum)

    def log_prob(self, value: Tensor) -> Tensor:
        if not self.fitted:
            return super().log_prob(value)  # type: ignore[no-any-return]
        mean_square = (value - self.loc).square().mean().clamp_min(torch.finfo(self.loc.dtype).tiny)
        with torch.no_grad():
            self.mean_square.lerp_(mean_square, self.momentum)
        return dist.Normal(self.loc, mean_square.sqrt()).log_prob(value)  # type: ignore[no-any-return]
