"""Operations that are recorded in another form: one that graphs can hold, or that compiles to faster code.

Compilers call the log-gamma and digamma functions number by number. Written as arithmetic, they are computed on several
numbers at once, four to six times as fast. `log1p` and `expm1` cost ten times what `log` and `exp` cost, of which both
can be made without loss; softplus, the log-sigmoid and the cross-entropy contain the first.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

from pyro_vae.distributions import rising

__all__ = ["recorded_as"]

# Bernoulli numbers B_2, B_4, ..., B_16: coefficients of both asymptotic series
BERNOULLI = (1 / 6, -1 / 30, 1 / 42, -1 / 30, 5 / 66, -691 / 2730, 7 / 6, -3617 / 510)
SHIFT = 8  # the series are exact in float64 from here on; smaller arguments are raised by this first


def log1p(y: Tensor) -> Tensor:
    """log(1 + y) within 3 units in the last place: where 1 + y is rounded to u, log(u) y / (u - 1) is exact.

    References:
        *Accuracy and Stability of Numerical Algorithms* (Higham, 2002), section 1.14.1
    """
    u = 1 + y
    value = torch.where(u == 1, y, u.log() * (y / (u - 1)))
    return torch.where(y == math.inf, y, value)


def expm1(x: Tensor) -> Tensor:
    """exp(x) - 1 within 3 units in the last place, likewise: (u - 1) x / log(u), where u is exp(x)."""
    u = x.exp()
    value = (u - 1) * (x / u.log())
    value = torch.where((u == 1) | x.isnan(), x, value)
    return torch.where(u == math.inf, u, torch.where(u - 1 == -1, torch.full_like(x, -1.0), value))


def softplus(x: Tensor, beta: float = 1, threshold: float = 20) -> Tensor:
    """log(1 + exp(beta x)) / beta, accurate where it is tiny; x itself above the threshold, as torch has it."""
    scaled = x * beta
    return torch.where(scaled > threshold, x, log1p(scaled.exp()) / beta)


def log_sigmoid_forward(x: Tensor) -> tuple[Tensor, Tensor]:
    """The log-sigmoid, and exp(-|x|), which its gradient needs; on GPUs torch leaves the second empty."""
    small = x.abs().neg().exp()
    buffer = small if x.device.type == "cpu" else x.new_zeros((0,))
    return x.clamp_max(0.0) - log1p(small), buffer


def cross_entropy(
    logits: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    pos_weight: Tensor | None = None,
    reduction: int = 1,
) -> Tensor:
    """The cross-entropy of logits with an absolute error below 1e-7: max(l, 0) - l t + log(1 + exp(-|l|))."""
    if weight is not None or pos_weight is not None:
        plain = torch.ops.aten.binary_cross_entropy_with_logits.default
        return plain(logits, target, weight, pos_weight, reduction)  # type: ignore[no-any-return]
    value = logits.clamp_min(0.0) - logits * target + (1 + logits.abs().neg().exp()).log()
    return value if reduction == 0 else value.mean() if reduction == 1 else value.sum()


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


def _factors(a: Tensor, b: Tensor, k: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """The factors of `distributions.rising` along a new first dimension, and which of them belong to a."""
    j = torch.arange(n, dtype=a.dtype, device=a.device).reshape(n, *[1] * a.dim())
    first = k > j
    return first, torch.where(first, a + j, b + (j - k))


def log_rising(a: Tensor, b: Tensor, k: Tensor, n: int) -> Tensor:
    """The logarithm of a product of rising factorials; see `distributions.rising`."""
    first, *others = (part.prod(0).log() for part in _factors(a, b, k, n)[1].split(rising.FACTORS))
    return sum(others, first)


def rising_slopes(a: Tensor, b: Tensor, k: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """The derivatives of this logarithm in a and b."""
    first, factors = _factors(a, b, k, n)
    inverse = factors.reciprocal()
    return torch.where(first, inverse, 0.0).sum(0), torch.where(first, 0.0, inverse).sum(0)


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


def _channels_last(*tensors: Tensor) -> list[Tensor]:
    return [tensor.contiguous(memory_format=torch.channels_last) if tensor.dim() == 4 else tensor for tensor in tensors]


def convolution(x: Tensor, weight: Tensor, *others: Any) -> Tensor:
    """A convolution of images whose channels lie side by side, as they do in the processor's own routines."""
    return torch.ops.aten.convolution.default(*_channels_last(x, weight), *others).contiguous()


def convolution_backward(gradient: Tensor, x: Tensor, weight: Tensor, *others: Any) -> list[Tensor | None]:
    """The gradients of such a convolution."""
    values = torch.ops.aten.convolution_backward.default(*_channels_last(gradient, x, weight), *others)
    return [None if value is None else value.contiguous() for value in values]


def recorded_as(func: Any, args: Sequence[Any]) -> Callable[..., Any]:
    """What is recorded for a call of an operation with these arguments; the operation itself by default."""
    if func in HELD:
        return HELD[func]
    first = args[0] if args else None
    exact = isinstance(first, Tensor) and first.device.type == "cpu" and first.dtype in (torch.float32, torch.float64)
    return FASTER.get(func, func) if exact else func  # type: ignore[no-any-return]


HELD: dict[Any, Callable[..., Any]] = {
    torch.ops.aten.bernoulli.default: _bernoulli,
    torch.ops.aten.linalg_solve_triangular.default: _solve_triangular,
    torch.ops.pyro_vae.log_rising.default: log_rising,
    torch.ops.pyro_vae.rising_slopes.default: rising_slopes,
}
FASTER: dict[Any, Callable[..., Any]] = {
    torch.ops.aten.log1p.default: log1p,
    torch.ops.aten.expm1.default: expm1,
    torch.ops.aten.softplus.default: softplus,
    torch.ops.aten.log_sigmoid_forward.default: log_sigmoid_forward,
    torch.ops.aten.binary_cross_entropy_with_logits.default: cross_entropy,
    torch.ops.aten.lgamma.default: lgamma,
    torch.ops.aten.digamma.default: digamma,
    torch.ops.aten.convolution.default: convolution,
    torch.ops.aten.convolution_backward.default: convolution_backward,
}
