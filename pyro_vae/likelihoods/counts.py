"""Counts without an upper limit."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor

from pyro_vae import distributions
from pyro_vae.fields import Field
from pyro_vae.likelihoods.scales import Scaled

__all__ = ["NegativeBinomial", "Poisson", "ZeroInflatedNegativeBinomial", "ZeroInflatedPoisson"]

LARGEST_OFFSET = 50.0  # exp(50) is an exposure of 5e21: larger ones were not turned into logarithms
LOG_RATES = -80.0, 20.0  # exp(-80) is not yet zero in float32; exp(20) is a rate of 5e8


class _Counts(Scaled):
    """Base of the likelihoods of counts: the rate of a cell is exp(log_mean + output + offset).

    The offset is a per-row field, (B,), zero where the data bring none: the logarithm of the row's exposure, to which
    its counts are proportional, such as the length of time over which they were counted.
    """

    support = constraints.nonnegative_integer
    support_advice = "Give counts, or choose a likelihood for such values."
    discrete = True
    inflated = False
    log_mean: Tensor

    def __init__(self, event_shape: int | Sequence[int], dispersion: str = "shared") -> None:
        super().__init__(event_shape, "dispersion", dispersion, other_outputs=1 + self.inflated)
        self.dispersion = dispersion
        self.gate = math.log(1 / 9) if self.inflated else -math.inf  # the logit of the gate where the output is zero
        self.register_buffer("log_mean", torch.zeros(self.event_shape))

    @property
    def fields(self) -> dict[str, Field]:
        found = super().fields
        if "offset" in found:
            found["offset"] = Field(found["offset"].required, one_per_row=True, meaning="the logarithm of the exposure")
        return found

    def check_fields(self, x: Tensor | None, fields: Mapping[str, Tensor], first_row: int = 0) -> None:
        super().check_fields(x, fields, first_row)
        if "offset" not in fields:
            return
        sizes = fields["offset"].double().abs()
        if (sizes > LARGEST_OFFSET).any():
            row = int(sizes.argmax())
            raise ValueError(
                f"field 'offset' must be logarithms of exposures, from {-LARGEST_OFFSET:g} to {LARGEST_OFFSET:g}; got"
                f" {fields['offset'][row].item():g} in row {first_row + row}. Pass the logarithm: np.log(exposure)."
            )

    @abstractmethod
    def family(self, log_rate: Tensor, size: Tensor, dtype: torch.dtype) -> dist.TorchDistribution:
        """The distribution of each cell, before zeros are added, from float64; its draws have the precision `dtype`."""

    def forward(self, outputs: Tensor, *, offset: Tensor | None = None, **batch: Tensor) -> dist.TorchDistribution:
        output, *gate, size = self.split(outputs)
        log_rate = (self.log_mean.double() + output + self._log_exposure(offset)).clamp(*LOG_RATES)
        counts = self.family(log_rate, size.double(), outputs.dtype)
        if gate:
            counts = distributions.ZeroInflated(counts, self.gate + gate[0])
        return counts.to_event(len(self.event_shape))  # type: ignore[no-any-return]

    def features(self, x: Tensor) -> Tensor:
        return x.log1p()

    def initialize(self, x: Tensor, *, offset: Tensor | None = None, **batch: Tensor) -> None:
        exposure, kept = self._log_exposure(offset).exp(), 1 / (1 + math.exp(self.gate))
        rate = (x.sum(0) + 0.5) / exposure.expand(len(x), *self.event_shape).sum(0)
        self.log_mean.copy_((rate / kept).log())
        # E x (x - 1) = mean^2 (1 + 1 / size) / kept
        above = (rate * exposure).square().expand_as(x).mean(0) / kept
        self.start_unit(above, (x * (x - 1)).mean(0) - above)

    def _log_exposure(self, offset: Tensor | None) -> Tensor:
        """The log-exposure, (..., B, 1, ..., 1)."""
        if offset is None:
            return torch.zeros_like(self.log_mean)
        if offset.dim() > 1:
            raise ValueError(
                f"field 'offset' must have shape (rows,); got {tuple(offset.shape)}. Give one log-exposure per row."
            )
        return offset.to(self.log_mean)[(..., *[None] * len(self.event_shape))]


class Poisson(_Counts):
    """Counts: x ~ Poisson(exp(log_mean + output + offset)).

    log_mean is the logarithm of each cell's smoothed mean. The offset is a per-row field, (B,), zero where the data
    bring none: the logarithm of the row's exposure, to which its counts are proportional. Logarithms of rates are
    clamped to at most 20.

    Args:
        event_shape: E.

    Example:
        >>> Poisson(2)(torch.zeros(3, 2), offset=torch.tensor([1.0, 2.0, 3.0]).log()).mean[:, 0]
        tensor([1., 2., 3.])
    """

    choices = ("none",)

    def __init__(self, event_shape: int | Sequence[int]) -> None:
        super().__init__(event_shape, "none")

    def family(self, log_rate: Tensor, size: Tensor, dtype: torch.dtype) -> dist.TorchDistribution:
        return distributions.Poisson(log_rate.exp(), dtype=dtype)


class NegativeBinomial(_Counts):
    """Counts with more variance than Poisson's: mean m = exp(log_mean + output + offset), variance m + m^2 / r.

    log_mean and offset are those of `Poisson`.

    Args:
        event_shape: E.
        dispersion: where r comes from: "shared" (one learned number), "per_dimension" (one learned for each cell) or
            "predicted" (by the decoder, for each row and cell).

    Raises:
        ValueError: if `dispersion` is unknown.

    References:
        *Deep Generative Modeling for Single-Cell Transcriptomics* (Lopez et al., 2018), Nature Methods 15
    """

    gamma_functions = True

    def family(self, log_rate: Tensor, size: Tensor, dtype: torch.dtype) -> dist.TorchDistribution:
        return distributions.NegativeBinomial(size, logits=log_rate - size.log(), dtype=dtype)


class ZeroInflatedNegativeBinomial(NegativeBinomial):
    """Negative binomial counts, some of them lost: x = 0 with probability sigmoid(gate), else x ~ NegativeBinomial.

    The decoder gives the gate for each row and cell; where its output is zero, that probability is 0.1.

    Args:
        event_shape: E.
        dispersion: where r comes from: "shared", "per_dimension" or "predicted"; see `NegativeBinomial`.

    Raises:
        ValueError: if `dispersion` is unknown.

    References:
        *Deep Generative Modeling for Single-Cell Transcriptomics* (Lopez et al., 2018), Nature Methods 15
    """

    inflated = True


class ZeroInflatedPoisson(Poisson):
    """Poisson counts, some of them lost: x = 0 with probability sigmoid(gate), else x ~ Poisson.

    The decoder gives the gate for each row and cell; where its output is zero, that probability is 0.1.

    Args:
        event_shape: E.

    References:
        *Zero-Inflated Poisson Regression, with an Application to Defects in Manufacturing* (Lambert, 1992),
        Technometrics 34(1)
    """

    inflated = True
