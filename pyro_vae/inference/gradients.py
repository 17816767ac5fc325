"""Gradient estimators: the coefficient of each particle on each of three paths to the parameters.

A bound is a function f of log-weights log w_k = log p(x, z_k) - log q(z_k | x). Its gradient reaches the parameters

- explicitly through log p (the model's parameters), with coefficient `model`,
- explicitly through log q (the guide's parameters), with coefficient `guide`,
- through the draws z_k (the guide's parameters again), with coefficient `path`.

Every estimator is a choice of these three (K, B) arrays, which are functions of the log-weights alone. With
g = df/dlog w:

| estimator | model | guide | path |
|---|---|---|---|
| reparameterized | g | -g | g |
| stl (sticking the landing) | g | 0 | g |
| dreg (doubly reparameterized) | g | 0 | g - dg/dlog w |
| rloo, vimco | g | (f - baseline) - g | none |

For IWAE, g is the normalized weight and dreg's path coefficient is its square, as published.

References:
    *Sticking the Landing* (Roeder, Wu, Duvenaud, 2017), arXiv 1703.09194
    *Doubly Reparameterized Gradient Estimators* (Tucker et al., 2018), arXiv 1810.04152
    *Variational Inference for Monte Carlo Objectives* (Mnih, Rezende, 2016), arXiv 1602.06725
    *Buy 4 REINFORCE Samples, Get a Baseline for Free!* (Kool, van Hoof, Welling, 2019)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from pyro_vae.bounds import leave_one_out

__all__ = ["GRADIENTS", "GradientPath", "baselines", "curvature", "slope"]

Bound = Callable[[Tensor], Tensor]
GRADIENTS = ("reparameterized", "stl", "dreg", "rloo", "vimco")


@dataclass
class GradientPath:
    """The path of a gradient from the log-weights through the draws to the guide's parameters.

    Of the three paths to the parameters two lead to those of the guide: explicitly, as the
    parameters of log q, and through the draws z, which are functions of parameters and noise. A gradient estimator
    decides what each path contributes; this object changes a run accordingly.

    Attributes:
        through_draws: whether gradients pass through the draws; if not, draws are constants.
        detached_log_q: whether log q is evaluated with the guide's parameters held constant, so that it depends on
            them through the draws alone. This costs a second run of the guide.
        factor: (K, B), set by `set_factor` after the run: multiplies the gradient that the draws receive from the
            model, and from a detached log q, on its way back. What flows inside the guide, from one draw to the next,
            is multiplied once only.
        shares: the responsibilities of the values of enumerated sites (`inference.enumeration`), set where log q is
            detached. A draw given one value of an enumerated site has a share R of its particle's weight; the doubly
            reparameterized coefficient of its path is R^2 where that of a draw without such a site is 1.
        chunks: the paths of the chunks of particles that make up one run, each with its number of particles.
    """

    through_draws: bool = True
    detached_log_q: bool = False
    factor: Tensor | None = None
    shares: Tensor | None = None
    chunks: list[tuple[GradientPath, int]] = field(default_factory=list)

    @property
    def enumerates(self) -> bool:
        """Whether sites were summed out in the run, or in one of its chunks."""
        return self.shares is not None or any(path.enumerates for path, _ in self.chunks)

    def set_factor(self, factor: Tensor) -> None:
        """Set the factor (K, B), of each chunk its own part."""
        self.factor = factor
        if self.chunks:
            parts = factor.split([count for _, count in self.chunks])
            for (path, _), part in zip(self.chunks, parts, strict=True):
                path.factor = part

    def for_chunk(self, num_particles: int) -> GradientPath:
        """The path of the next chunk, of `num_particles` particles."""
        path = GradientPath(self.through_draws, self.detached_log_q)
        self.chunks.append((path, num_particles))
        return path


def slope(bound: Bound, log_w: Tensor) -> Tensor:
    """g = df/dlog w, detached: (K, B)."""
    return torch.func.grad(lambda weights: bound(weights).sum())(log_w.detach())


def curvature(bound: Bound, log_w: Tensor) -> Tensor:
    """The diagonal of the second derivative, dg_k/dlog w_k, detached: (K, B)."""
    log_w = log_w.detach()
    gradient = torch.func.grad(lambda weights: bound(weights).sum())

    def along(direction: Tensor) -> Tensor:
        """The second derivative of each row along one particle: (B,)."""
        mask = direction.unsqueeze(-1)
        return (torch.func.grad(lambda weights: (gradient(weights) * mask).sum())(log_w) * mask).sum(0)

    return torch.func.vmap(along)(torch.eye(len(log_w), dtype=log_w.dtype, device=log_w.device))


def baselines(bound: Bound, log_w: Tensor, kind: str) -> Tensor:
    """For each particle k a value near f that does not depend on it, to be subtracted from f: (K, B), detached.

    Args:
        bound: f, from (K, B) to (B,), for any number of particles.
        log_w: log-weights, (K, B).
        kind: "rloo" for f of the K - 1 other weights; "vimco" for f with w_k replaced by the others' geometric mean.
    """
    log_w = log_w.detach()
    others = leave_one_out(log_w)  # (K - 1, K, B)
    if kind == "vimco":
        others = torch.cat([others, others.mean(0, keepdim=True)])
    return torch.func.vmap(bound, in_dims=1)(others)
