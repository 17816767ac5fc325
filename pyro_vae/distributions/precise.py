"""Densities whose log-gamma terms nearly cancel, computed in float64 whatever the precision of the model.

log p of a count of ten million is the difference of terms of 1e8: float32 holds those to 8, float64 to 1e-8.
"""

from __future__ import annotations

from abc import abstractmethod
from functools import reduce
from typing import Any

import torch
from torch import Tensor

__all__ = ["InFloat64", "draw_beta_logit", "without_repeats"]


class InFloat64:
    """Mixin, before a distribution of torch or Pyro: parameters and arithmetic in float64, results in `dtype`.

    Args:
        parameters, named: those of the distribution.
        dtype: the precision of draws, log-probabilities and moments; that of the parameters by default.
    """

    dtype: torch.dtype

    def __init__(self, *parameters: Any, dtype: torch.dtype | None = None, **named: Any) -> None:
        given = [value.dtype for value in (*parameters, *named.values()) if isinstance(value, Tensor)]
        self.dtype = dtype or reduce(torch.promote_types, given, torch.get_default_dtype() if not given else given[0])
        super().__init__(*map(_double, parameters), **{name: _double(value) for name, value in named.items()})

    def expand(self, batch_shape: Any, _instance: Any = None) -> Any:
        new = type(self).__new__(type(self)) if _instance is None else _instance
        new.dtype = self.dtype
        return super().expand(batch_shape, new)  # type: ignore[misc]

    @property
    def mean(self) -> Tensor:
        return super().mean.to(self.dtype)  # type: ignore[misc, no-any-return]

    @property
    def variance(self) -> Tensor:
        return super().variance.to(self.dtype)  # type: ignore[misc, no-any-return]

    def sample(self, sample_shape: Any = ()) -> Tensor:
        return super().sample(torch.Size(sample_shape)).to(self.dtype)  # type: ignore[misc, no-any-return]

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:  # type: ignore[attr-defined]
            self._validate_sample(value)  # type: ignore[attr-defined]
        return self.exact_log_prob(value.double()).to(self.dtype)

    @abstractmethod
    def exact_log_prob(self, value: Tensor) -> Tensor:
        """The log-probability of a value in float64, in float64."""


def _double(value: Any) -> Any:
    return value.double() if isinstance(value, Tensor) else value


def without_repeats(value: Tensor) -> Tensor:
    """The tensor with size 1 along dimensions that only repeat its numbers, so that those are not computed again."""
    for dim in range(value.dim()):
        if value.stride(dim) == 0 and value.shape[dim] > 1:
            value = value.narrow(dim, 0, 1)
    return value


def draw_beta_logit(concentration1: Tensor, concentration0: Tensor) -> Tensor:
    """The logits of draws from beta distributions, as differences of log-gamma draws.

    Where both concentrations are tiny, both gamma draws are zero in any precision, and their quotient has no meaning.
    """
    return _draw_log_gamma(concentration1) - _draw_log_gamma(concentration0)


def _draw_log_gamma(shape: Tensor) -> Tensor:
    """The logarithm of a gamma draw, since Gamma(a) is Gamma(a + 1) U^(1/a) with U uniform."""
    return torch._standard_gamma(shape + 1).log() + torch.log1p(-torch.rand_like(shape)) / shape
