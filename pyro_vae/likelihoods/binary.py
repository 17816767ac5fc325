"""Successes out of trials."""

from __future__ import annotations

from collections.abc import Sequence

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor

from pyro_vae import distributions
from pyro_vae.arguments import positive_integer
from pyro_vae.likelihoods.base import Likelihood
from pyro_vae.likelihoods.scales import Scaled, concentrations

__all__ = ["Bernoulli", "BetaBinomial", "Binomial"]


class Bernoulli(Likelihood):
    """Binary cells: x ~ Bernoulli(sigmoid(offset + output)).

    The offset is the logit of each cell's mean, smoothed by half a success and half a failure (Jeffreys' prior).

    References:
        *Auto-Encoding Variational Bayes* (Kingma, Welling, 2013), arXiv 1312.6114; the start at the data's mean follows
        *Importance Weighted Autoencoders* (Burda, Grosse, Salakhutdinov, 2015), arXiv 1509.00519
    """

    support = constraints.boolean
    support_advice = "Scale and binarize the data, or choose a likelihood for such values."
    discrete = True
    offset: Tensor

    def __init__(self, event_shape: int | Sequence[int]) -> None:
        super().__init__(event_shape)
        self.register_buffer("offset", torch.zeros(self.event_shape))

    def forward(self, outputs: Tensor, **batch: Tensor) -> dist.TorchDistribution:
        cells = distributions.Bernoulli(logits=self.offset + outputs)
        return cells.to_event(len(self.event_shape))  # type: ignore[no-any-return]

    def initialize(self, x: Tensor, **batch: Tensor) -> None:
        self.offset.copy_(_smoothed_logit(x, 1))


class BetaBinomial(Scaled):
    """Counts out of a known total with more variance than the binomial: x ~ Binomial(n, p), p ~ Beta(c m, c (1 - m)).

    m = sigmoid(offset + output), where the offset is the logit of each cell's smoothed mean; the logit of m is clamped
    to [-40, 40]. The mean is n m and the variance n m (1 - m) (c + n) / (c + 1).

    Args:
        event_shape: E.
        total_count: n, the largest possible count.
        dispersion: where the concentration c comes from: "shared" (one learned number), "per_dimension" (one learned
            for each cell) or "predicted" (by the decoder, for each row and cell).

    Raises:
        ValueError: if `total_count` is not a positive integer or `dispersion` unknown.
    """

    support_advice = "Correct total_count, or the data."
    discrete = True
    gamma_functions = True
    offset: Tensor

    def __init__(self, event_shape: int | Sequence[int], total_count: int, dispersion: str = "shared") -> None:
        super().__init__(event_shape, "dispersion", dispersion)
        self.total_count, self.dispersion = positive_integer("total_count", total_count), dispersion
        self.support = constraints.integer_interval(0, self.total_count)
        self.register_buffer("offset", torch.zeros(self.event_shape))

    def forward(self, outputs: Tensor, **batch: Tensor) -> dist.TorchDistribution:
        output, dispersion = self.split(outputs)
        total = dispersion.double()
        parameters = concentrations(self.offset.double() + output, total)
        counts = distributions.BetaBinomial(*parameters, total=total, total_count=self.total_count, dtype=outputs.dtype)
        return counts.to_event(len(self.event_shape))  # type: ignore[no-any-return]

    def features(self, x: Tensor) -> Tensor:
        return x / self.total_count

    def initialize(self, x: Tensor, **batch: Tensor) -> None:
        self.offset.copy_(_smoothed_logit(x, self.total_count))
        mean, variance = x.mean(0), x.var(0, correction=0)
        binomial = mean * (1 - mean / self.total_count)  # the variance without overdispersion
        self.start_unit((self.total_count * binomial - variance).clamp_min(0), variance - binomial)


class Binomial(Likelihood):
    """Counts out of a known total: x ~ Binomial(total_count, sigmoid(offset + output)).

    Args:
        event_shape: E.
        total_count: the largest possible count, such as 16 for scikit-learn's digits.

    Raises:
        ValueError: if `total_count` is not a positive integer.
    """

    support_advice = "Correct total_count, or the data."
    discrete = True
    offset: Tensor

    def __init__(self, event_shape: int | Sequence[int], total_count: int) -> None:
        super().__init__(event_shape)
        self.total_count = positive_integer("total_count", total_count)
        self.support = constraints.integer_interval(0, self.total_count)
        self.register_buffer("offset", torch.zeros(self.event_shape))

    def forward(self, outputs: Tensor, **batch: Tensor) -> dist.TorchDistribution:
        counts = distributions.Binomial(self.total_count, logits=self.offset.double() + outputs, dtype=outputs.dtype)
        return counts.to_event(len(self.event_shape))  # type: ignore[no-any-return]

    def features(self, x: Tensor) -> Tensor:
        return x / self.total_count

    def initialize(self, x: Tensor, **batch: Tensor) -> None:
        self.offset.copy_(_smoothed_logit(x, self.total_count))


def _smoothed_logit(x: Tensor, total_count: int) -> Tensor:
    successes, trials = x.sum(0), len(x) * total_count
    return ((successes + 0.5) / (trials - successes + 0.5)).log()
