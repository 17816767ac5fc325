"""Cells between 0 and 1."""

from __future__ import annotations

from collections.abc import Sequence

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor

from pyro_vae import distributions
from pyro_vae.arguments import positive_number
from pyro_vae.likelihoods.base import Likelihood
from pyro_vae.likelihoods.scales import Scaled, concentrations

__all__ = ["Beta", "ContinuousBernoulli", "inverse_mean"]


class Beta(Scaled):
    """Cells strictly between 0 and 1: x ~ Beta(c m, c (1 - m)) with mean m = sigmoid(offset + output).

    The offset is the logit of each cell's mean; the logit of m is clamped to [-40, 40].

    Args:
        event_shape: E.
        dispersion: where the concentration c comes from: "shared" (one learned number), "per_dimension" (one learned
            for each cell) or "predicted" (by the decoder, for each row and cell).

    Raises:
        ValueError: if `dispersion` is unknown.
    """

    support = distributions.Beta.support
    support_advice = "Move cells at 0 or 1 inside, or choose ContinuousBernoulli."
    offset: Tensor

    def __init__(self, event_shape: int | Sequence[int], dispersion: str = "shared") -> None:
        super().__init__(event_shape, "dispersion", dispersion)
        self.dispersion = dispersion
        self.register_buffer("offset", torch.zeros(self.event_shape))

    def forward(self, outputs: Tensor, **batch: Tensor) -> dist.TorchDistribution:
        output, total = self.split(outputs)
        return distributions.Beta(*concentrations(self.offset + output, total)).to_event(len(self.event_shape))

    def features(self, x: Tensor) -> Tensor:
        return 2 * x - 1

    def initialize(self, x: Tensor, **batch: Tensor) -> None:
        mean = x.mean(0)
        self.offset.copy_(mean.logit())
        variance = (x - mean).square().mean(0)
        self.start_unit(mean * (1 - mean) - variance, variance)


class ContinuousBernoulli(Likelihood):
    """Cells from 0 to 1, both included, such as grey levels: p(x) proportional to exp(logit x).

    The logit is offset + 4 output, clamped to [-limit, limit]; the factor is there because such logits range further
    than a Bernoulli's. The density of cells that are exactly 0 or 1 grows with the size of the logit without bound.
    Where data have many such cells, as in the dark background of pictures, the ELBO of a model without a limit measures
    little but how near to 0 the model thinks they are. The price of a limit is that means stay away from 0 and 1:
    between 0.11 and 0.89 at the default.

    The offset is the logit of each cell's mean, clamped to half the limit, so that outputs still have an effect.

    Args:
        event_shape: E.
        limit: the largest absolute logit, or None for no limit. At 9.21, the parameter sigmoid(logit) lies between 1e-4
            and 1 - 1e-4.

    Raises:
        ValueError: if `limit` is not positive.

    References:
        *The Continuous Bernoulli: Fixing a Pervasive Error in Variational Autoencoders* (Loaiza-Ganem, Cunningham,
        2019), arXiv 1907.06845

    Example:
        >>> likelihood = ContinuousBernoulli(2)
        >>> likelihood.initialize(torch.tensor([[0.2, 0.5], [0.4, 0.7]]))
        >>> likelihood(torch.zeros(2)).mean
        tensor([0.3000, 0.6000])
    """

    support = constraints.unit_interval
    support_advice = "Scale the data, or choose a likelihood for such values."
    offset: Tensor

    def __init__(self, event_shape: int | Sequence[int], limit: float | None = 9.21) -> None:
        super().__init__(event_shape)
        self.limit = None if limit is None else positive_number("limit", limit)
        self.register_buffer("offset", torch.zeros(self.event_shape))

    def forward(self, outputs: Tensor, **batch: Tensor) -> dist.TorchDistribution:
        logits = self.offset + 4 * outputs
        logits = logits if self.limit is None else logits.clamp(-self.limit, self.limit)
        return distributions.ContinuousBernoulli(logits).to_event(len(self.event_shape))

    def initialize(self, x: Tensor, **batch: Tensor) -> None:
        farthest = 50.0 if self.limit is None else self.limit / 2
        self.offset.copy_(inverse_mean(x.mean(0).clamp(1e-3, 1 - 1e-3)).clamp(-farthest, farthest))


def inverse_mean(mean: Tensor) -> Tensor:
    """The logits of the continuous Bernoulli distribution with this mean, by bisection in double precision.

    They are logits, not probabilities, since the probability of a mean above 0.973 is 1 in double precision.

    Args:
        mean: means, strictly between 0 and 1.

    Returns:
        Logits, of the shape and the precision of `mean`.

    Example:
        >>> inverse_mean(torch.tensor([0.5, 0.9]))
        tensor([0.0000, 9.9954])
    """
    target = (mean.double() - 0.5).abs()
    low, high = torch.zeros_like(target), 1 / (0.5 - target)  # since the mean is above 1 - 1 / logits
    for _ in range(100):
        middle = (low + high) / 2
        above = distributions.ContinuousBernoulli(middle).mean - 0.5 > target
        low, high = torch.where(above, low, middle), torch.where(above, middle, high)
    return ((mean.double() - 0.5).sign() * (low + high) / 2).to(mean)
