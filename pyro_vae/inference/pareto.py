"""Pareto-smoothed importance sampling, vectorized over rows."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["MIN_EFFECTIVE", "MIN_PARTICLES", "UnreliableWarning", "flagged", "smooth", "threshold"]

MIN_PARTICLES = 25  # with fewer, the tail has less than five weights
MIN_EFFECTIVE = 100  # a k-hat above its threshold counts against a row only if it has fewer effective draws than these


class UnreliableWarning(UserWarning):
    """Warns that an estimate which is returned is not reliable."""


def smooth(log_w: Tensor) -> tuple[Tensor, Tensor]:
    """Smooth the largest log-weights of each row by a generalized Pareto distribution, and estimate its shape k.

    The M = min(K / 5, 3 sqrt(K)) largest weights are replaced by quantiles of the distribution fitted to them; none
    exceeds the largest weight seen. The estimated shape k-hat says which moments the weights have: below 1/2 they have
    a variance, below 1 a mean.

    Args:
        log_w: log-weights, (K, B).

    Returns:
        The smoothed log-weights (K, B), in the order of the particles and on the scale of `log_w`; and k-hat (B,). It
        is -inf if the largest weights are all equal (weights that do not vary, or a tail that ends in an atom), inf if
        fewer than five are larger than the rest, and NaN, unknown, with fewer than 25 particles, too few for an
        estimate, or if all weights are zero.

    References:
        *Pareto Smoothed Importance Sampling* (Vehtari et al., 2024), arXiv 1507.02646; the fit is that of *A New and
        Efficient Estimation Method for the Generalized Pareto Distribution* (Zhang, Stephens, 2009), Technometrics 51

    Example:
        >>> smooth(torch.zeros(100, 2))[1]
        tensor([-inf, -inf])
    """
    k, num_rows = log_w.shape
    smoothed, khat = log_w.double().clone(), log_w.new_full((num_rows,), math.nan, dtype=torch.float64)
    if k < MIN_PARTICLES:
        khat[(log_w == log_w[0]).all(0) & log_w[0].isfinite() & (k > 1)] = -math.inf  # one weight cannot vary
        return smoothed.to(log_w), khat.to(log_w)
    largest = smoothed.amax(0)
    top, where = (smoothed - largest).topk(tail_length(k) + 1, 0)  # decreasing; the tail begins after the last
    cutoff = top[-1].clamp_min(math.log(torch.finfo(torch.float64).tiny))
    sizes = (top > cutoff).sum(0)
    khat.fill_(math.inf)
    khat[sizes == 0] = -math.inf
    for size in sizes.unique().tolist():  # a single size if weights are continuous
        if size < 5:
            continue
        part = (sizes == size).nonzero().squeeze(1)
        start = cutoff[part].exp()
        excess = (top[:size, part].exp() - start).flip(0)  # increasing
        shape, scale = fit(excess)
        finite = torch.isfinite(shape)
        if not finite.any():
            continue
        khat[part[finite]] = shape[finite]
        part, shape, scale, start = part[finite], shape[finite], scale[finite], start[finite]
        probability = (torch.arange(size, dtype=torch.float64, device=log_w.device) + 0.5) / size
        replaced = (_quantile(probability[:, None], shape, scale) + start).log().clamp_max(0.0).flip(0)
        smoothed[where[:size, part], part] = replaced + largest[part]
    khat[largest == -math.inf] = math.nan
    return smoothed.to(log_w), khat.to(log_w)


def tail_length(num_particles: int) -> int:
    """The number of weights in the tail, M = min(K / 5, 3 sqrt(K)), rounded up."""
    return math.ceil(min(num_particles / 5, 3 * math.sqrt(num_particles)))


def threshold(num_particles: int) -> float:
    """The k-hat above which estimates from K particles are unreliable, min(1 - 1 / log10 K, 0.7).

    Example:
        >>> round(threshold(1000), 3), threshold(100_000)
        (0.667, 0.7)
    """
    return min(1 - 1 / math.log10(num_particles), 0.7) if num_particles > 1 else -math.inf


def flagged(khat: Tensor, ess: Tensor, limit: float | Tensor) -> Tensor:
    """Which rows count against the estimates of a set of rows, (B,).

    A row is flagged if its k-hat is unknown, or if it is above the limit and there are fewer than 100 effective draws:
    either one alone is a false alarm more often than not.

    Args:
        khat: k-hat of each row, (B,); NaN where it is unknown.
        ess: effective sample size of each row, (B,).
        limit: the threshold of k-hat.

    Example:
        >>> flagged(torch.tensor([0.9, 0.9, math.nan, 0.2]), torch.tensor([50.0, 500, 500, 50]), 0.7)
        tensor([ True, False,  True, False])
    """
    return khat.isnan() | ((khat > limit) & (ess < MIN_EFFECTIVE))


def fit(excess: Tensor) -> tuple[Tensor, Tensor]:
    """Shape and scale of generalized Pareto distributions: an empirical Bayes estimate, shrunk a little towards 1/2.

    Args:
        excess: the largest weights of each row minus the weight where its tail begins, positive and increasing, (M, B).

    Returns:
        The shapes and the scales, each (B,).
    """
    size = len(excess)
    points = 30 + math.floor(math.sqrt(size))
    grid = torch.arange(1, points + 1, dtype=excess.dtype, device=excess.device) - 0.5
    quartile = excess[math.floor(size / 4 + 0.5) - 1].clamp_min(1e-300)
    theta = (1 - (points / grid).sqrt())[:, None] / (3 * quartile) + 1 / excess[-1]  # (points, B)
    shapes = torch.stack([torch.log1p(-t * excess).mean(0) for t in theta])
    profile = size * ((-theta / shapes).log() - shapes - 1)
    weights = profile.softmax(0)
    weights = torch.where(weights < 10 * torch.finfo(excess.dtype).eps, 0.0, weights)
    mean = (weights * theta).sum(0) / weights.sum(0)
    shape = torch.log1p(-mean * excess).mean(0)
    return (shape * size + 5) / (size + 10), -shape / mean


def _quantile(probability: Tensor, shape: Tensor, scale: Tensor) -> Tensor:
    """Quantiles of generalized Pareto distributions that start at zero, (M, B)."""
    exponential = -torch.log1p(-probability)
    heavy = torch.expm1(shape * exponential) / shape
    return scale * torch.where(shape.abs() < 1e-12, exponential, heavy)
