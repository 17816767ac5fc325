"""Logarithms of rising factorials a (a + 1) ... (a + k - 1), which are quotients of gamma functions, for small k.

Compiled, a product of sixteen factors takes far less time than two log-gamma functions, and nothing cancels.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pyro_vae.distributions.precise import without_repeats

__all__ = ["FACTORS", "LARGEST", "log_rising"]

LARGEST = 32  # factors; with more, log-gamma functions are faster
FACTORS = 8  # in one product: each is at most 3e38 where it comes from float32, and the product 1e308


def log_rising(a: Tensor, b: Tensor, k: Tensor, n: int) -> Tensor:
    """log of the product of k factors a, a + 1, ... and n - k factors b, b + 1, ...

    Args:
        a: positive, in float64, of any shape.
        b: likewise, of a shape that broadcasts with that of `a`.
        k: integers from 0 to n, in float64, of a shape that broadcasts with both.
        n: the number of factors, at least 1 and at most `LARGEST`.
    """
    shape = torch.broadcast_shapes(a.shape, b.shape, k.shape)
    return _LogRising.apply(a.expand(shape), b.expand(shape), without_repeats(k), n)  # type: ignore[no-untyped-call, no-any-return]


class _LogRising(torch.autograd.Function):
    """The logarithm, whose derivatives in a and b are sums of 1 / (a + j) and of 1 / (b + j)."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, k: Tensor, n: int) -> Tensor:
        ctx.save_for_backward(a, b, k)
        ctx.n = n
        return torch.ops.pyro_vae.log_rising(a, b, k, n)  # type: ignore[no-any-return]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None, None]:
        a, b, k = ctx.saved_tensors
        if torch.is_grad_enabled():  # these have derivatives in turn
            steps = [(k > j, torch.where(k > j, a + j, b + (j - k)).reciprocal()) for j in range(ctx.n)]
            of_a = sum((torch.where(first, inverse, 0.0) for first, inverse in steps), torch.zeros(()))
            of_b = sum((torch.where(first, 0.0, inverse) for first, inverse in steps), torch.zeros(()))
        else:
            of_a, of_b = torch.ops.pyro_vae.rising_slopes(a, b, k, ctx.n)
        return gradient * of_a, gradient * of_b, None, None


def _factor(a: Tensor, b: Tensor, k: Tensor, j: int) -> Tensor:
    """The factor number j: a + j, or b + (j - k), which is b where j is k, however small b is."""
    first = k > j
    return torch.where(first, a, b).add_(torch.where(first, j, j - k))


def _logarithm(a: Tensor, b: Tensor, k: Tensor, n: int) -> Tensor:
    """The logarithm."""
    total = torch.zeros_like(a, memory_format=torch.contiguous_format)
    for start in range(0, n, FACTORS):
        product = torch.ones_like(total)
        for j in range(start, min(start + FACTORS, n)):
            product.mul_(_factor(a, b, k, j))
        total.add_(product.log_())
    return total


def _slopes(a: Tensor, b: Tensor, k: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """The derivatives of the logarithm in a and b."""
    of_a, of_b = (torch.zeros_like(a, memory_format=torch.contiguous_format) for _ in range(2))
    for j in range(n):
        inverse, first = _factor(a, b, k, j).reciprocal_(), k > j
        of_a.add_(inverse.where(first, 0.0))
        of_b.add_(inverse.masked_fill_(first, 0.0))
    return of_a, of_b


OPERATIONS = torch.library.Library("pyro_vae", "DEF")  # graphs record these operations in another form
OPERATIONS.define("log_rising(Tensor a, Tensor b, Tensor k, int n) -> Tensor")
OPERATIONS.define("rising_slopes(Tensor a, Tensor b, Tensor k, int n) -> (Tensor, Tensor)")
OPERATIONS.impl("log_rising", _logarithm, "CompositeExplicitAutograd")
OPERATIONS.impl("rising_slopes", _slopes, "CompositeExplicitAutograd")
