"""Bounds on the log-evidence log p(x): pure functions of the log-weights of K particles, (K, B) -> (B,).

To add one, write a function of `log_w`. Scales, subsampling and parameters do not belong here.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from pyro_vae.arguments import finite_number, is_number, positive_integer, positive_number

__all__ = ["ciwae", "cubo", "elbo", "iwae", "jackknife", "miwae", "renyi", "tvo"]

Bound = TypeVar("Bound", bound=Callable[..., Tensor])


def _checked(function: Bound) -> Bound:
    """Make a bound raise an error unless its first argument is a real tensor with at least one particle."""

    @functools.wraps(function)
    def bound(log_w: Tensor, *args: Any, **options: Any) -> Tensor:
        if not isinstance(log_w, Tensor) or not log_w.is_floating_point() or log_w.layout != torch.strided:
            got = log_w.dtype if isinstance(log_w, Tensor) else type(log_w).__name__
            raise TypeError(f"log_w must be a dense real tensor (K, B); got {got}. Convert it by torch.as_tensor.")
        if log_w.dim() == 0 or len(log_w) == 0:
            raise ValueError(f"log_w must have shape (K, B); got {tuple(log_w.shape)}. Give at least one particle.")
        return function(log_w, *args, **options)

    return bound  # type: ignore[return-value]


@_checked
def elbo(log_w: Tensor) -> Tensor:
    """Evidence lower bound, the mean log-weight.

    References:
        *Auto-Encoding Variational Bayes* (Kingma, Welling, 2013), arXiv 1312.6114
    """
    return log_w.mean(0)


@_checked
def iwae(log_w: Tensor) -> Tensor:
    """Importance-weighted bound, the log of the mean weight.

    References:
        *Importance Weighted Autoencoders* (Burda, Grosse, Salakhutdinov, 2015), arXiv 1509.00519

    Example:
        >>> iwae(torch.zeros(5, 2)).tolist()
        [0.0, 0.0]
    """
    return torch.logsumexp(log_w, 0) - math.log(len(log_w))


@_checked
def ciwae(log_w: Tensor, beta: float) -> Tensor:
    """Convex combination, beta ELBO + (1 - beta) IWAE.

    References:
        *Tighter Variational Bounds are Not Necessarily Better* (Rainforth et al., 2018), arXiv 1802.04537
    """
    finite_number("beta", beta)
    return beta * elbo(log_w) + (1.0 - beta) * iwae(log_w)


@_checked
def cubo(log_w: Tensor, order: float = 2.0) -> Tensor:
    """Chi upper bound, log mean w^n / n.

    The mean of w^n is unbiased for every K. Its logarithm is biased downward at finite K, and therefore no upper bound
    in expectation.

    References:
        *Variational Inference via chi Upper Bound Minimization* (Dieng et al., 2017), arXiv 1611.00328
    """
    return iwae(positive_number("order", order) * log_w) / order


@_checked
def jackknife(log_w: Tensor) -> Tensor:
    """IWAE without its bias of order 1/K, K IWAE_K - (K - 1) x mean of leave-one-out IWAE_{K-1}: for evaluation.

    It is closer to log p(x) than IWAE, has a larger variance, and is not a bound.

    References:
        *Debiasing Evidence Approximations* (Nowozin, 2018), ICLR
    """
    k = positive_integer("The number of particles", len(log_w), 2)
    others = iwae(leave_one_out(log_w))
    return k * iwae(log_w) - (k - 1) * others.mean(0)


@_checked
def miwae(log_w: Tensor, groups: int) -> Tensor:
    """Multiply importance-weighted bound: the mean over M groups of K / M particles of their IWAE.

    References:
        *Tighter Variational Bounds are Not Necessarily Better* (Rainforth et al., 2018), arXiv 1802.04537
    """
    if len(log_w) % positive_integer("groups", groups):
        raise ValueError(f"groups must divide the number of particles, {len(log_w)}; got {groups}. Change either.")
    return iwae(log_w.unflatten(0, (groups, -1)).transpose(0, 1)).mean(0)


@_checked
def renyi(log_w: Tensor, alpha: float) -> Tensor:
    """Renyi bound, log mean w^(1 - alpha) / (1 - alpha); alpha = 1 is the ELBO, 0 IWAE, -inf the largest log-weight.

    References:
        *Renyi Divergence Variational Inference* (Li, Turner, 2016), arXiv 1602.02311
    """
    if isinstance(alpha, float) and alpha == -math.inf:
        return log_w.amax(0)
    if finite_number("alpha", alpha) == 1.0:
        return elbo(log_w)
    return iwae((1.0 - alpha) * log_w) / (1.0 - alpha)


@_checked
def tvo(log_w: Tensor, points: Sequence[float] | Tensor, side: str = "left") -> Tensor:
    """Thermodynamic variational objective: a Riemann sum of E_beta[log w] over beta in [0, 1].

    E_beta is the expectation under q(z)^(1 - beta) p(x, z)^beta, self-normalized over the K particles. For exact
    expectations the left sum is a lower and the right sum an upper bound on log p(x).

    Args:
        log_w: (K, B).
        points: the values of beta that begin the intervals, increasing from 0 to below 1.
        side: "left" evaluates each interval at its start, "right" at its end.

    References:
        *The Thermodynamic Variational Objective* (Masrani, Le, Wood, 2019), arXiv 1907.00031
    """
    if not isinstance(side, str) or side not in ("left", "right"):
        raise ValueError(f"side must be left or right; got {side!r}. Choose one of these.")
    numbers = isinstance(points, Tensor) or (isinstance(points, Sequence) and all(map(is_number, points)))
    if not numbers or len(points) == 0:
        raise ValueError(f"points must be numbers from 0 to below 1; got {points!r}. Start at 0.")
    inner = torch.as_tensor(points, dtype=log_w.dtype, device=log_w.device)
    grid = torch.cat([inner, inner.new_ones(1)])
    ends = grid[:-1] if side == "left" else grid[1:]
    tempered = torch.softmax(ends.reshape(-1, 1, 1) * log_w, 1)  # (points, K, B)
    expectations = (tempered * log_w).sum(1)
    return (grid.diff().unsqueeze(-1) * expectations).sum(0)


def leave_one_out(log_w: Tensor) -> Tensor:
    """The K - 1 other log-weights of each of K particles: (K, B) -> (K - 1, K, B)."""
    k = len(log_w)
    others = (torch.arange(k, device=log_w.device) + torch.arange(1, k, device=log_w.device).unsqueeze(1)) % k
    return log_w[others]
