"""Operations that are recorded in another form: one that graphs can hold, or that compiles to faster code.

Compilers call the log-gamma and digamma functions number by number. Written as arithmetic, they are computed on several
numbers at once, four to six times as fast.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

__all__ = ["RECORDED_AS"]

# Bernoulli numbers B_2, B_4, ..., B_16: coefficients of both asymptotic series
BERNOULLI = (1 / 6, -1 / 30, 1 / 42, -1 / 30, 5 / 66, -691 / 2730, 7 / 6, -3617 / 510)
SHIFT = 8  # the series are exact in float64 from here on; smaller arguments are raised by this first


def lgamma(z: Tensor) -> Tensor:
    """log |Gamma(z)| in float64, with an absolute error below 1e-14 or a relative one below 1e-14."""
    if z.dtype != torch.float64:
        return torch.ops.aten.lgamma.default(z)  # type: ignore[no-any-return]
    positive, small, raised = _raised(z)
    product, inverse = positive, raised.reciprocal()
    for k in range(1, SHIFT):
        product = product * (positive + k)
    series = inverse * _polynomial(inverse.square(), [b / (2 * n * (2 * n - 1)) for n, b in enumerate(BERNOULLI, 1)])
    # (y - 1/2) log y - y, in a form that holds for infinity
    value = (raised - 0.5) * (raised.log() - 1) + (0.5 * math.log(2 * math.pi) - 0.5) + series
    value = value - torch.where(small, product.log(), 0.0)
    rest = math.pi * (z - z.round())
    reflected = torch.where(z == -math.inf, math.inf, math.log(math.pi) - rest.sin().abs().log() - value)
    return torch.where(z < 0, reflected, value)


def digamma(z: Tensor) -> Tensor:
    """The derivative of log Gamma(z), computed in float64, with an error below 1e-14 relative to max(1, |value|)."""
    wide = z.double()
    positive, small, raised = _raised(wide)
    inverse = raised.reciprocal()
    series = inverse.square() * _polynomial(inverse.square(), [b / (2 * n) for n, b in enumerate(BERNOULLI, 1)])
    terms = positive.reciprocal()
    for k in range(1, SHIFT):
        terms = terms + (positive + k).reciprocal()
    value = raised.log() - 0.5 * inverse - series - torch.where(small, terms, 0.0)
    rest = math.pi * (wide - wide.round())
    reflected = torch.where(rest == 0, math.nan, value - math.pi / rest.tan())
    return torch.where(wide < 0, reflected, value).to(z.dtype)


def _raised(z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """z, or 1 - z where z is negative; whether that is small; and the same, raised by 8 where it is."""
    positive = torch.where(z < 0, 1 - z, z)
    small = positive < SHIFT
    return positive, small, torch.where(small, positive + SHIFT, positive)


def _polynomial(x: Tensor, coefficients: list[float]) -> Tensor:
    value = torch.full_like(x, coefficients[-1])
    for coefficient in coefficients[-2::-1]:
        value = value * x + coefficient
    return value


def _bernoulli(probs: Tensor) -> Tensor:
    """Bernoulli draws in the form that the compiler does not rewrite: rewritten, they give other noise."""
    return torch.empty_like(probs).bernoulli_(probs)


def _solve_triangular(a: Tensor, b: Tensor, *, upper: bool, left: bool = True, unitriangular: bool = False) -> Tensor:
    """Triangular systems in their older form, whose shapes torch can infer while sizes are open."""
    with _disable_current_modes():  # the first call in a process warns that this form is old; the warning is hidden
        torch.triangular_solve(torch.ones(1, 1), torch.ones(1, 1))
    if not left:
        return _solve_triangular(a.mT, b.mT, upper=not upper, unitriangular=unitriangular).mT
    return torch.ops.aten.triangular_solve.default(b, a, upper, False, unitriangular)[0]  # type: ignore[no-any-return]


RECORDED_AS: dict[Any, Callable[..., Tensor]] = {
    torch.ops.aten.bernoulli.default: _bernoulli,
    torch.ops.aten.linalg_solve_triangular.default: _solve_triangular,
    torch.ops.aten.lgamma.default: lgamma,
    torch.ops.aten.digamma.default: digamma,
}
