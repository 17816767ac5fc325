"""Estimators of bounds that are functions of the log-weights alone."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
from pyro import poutine
from torch import Tensor

from pyro_vae import bounds
from pyro_vae.arguments import is_number, positive_integer
from pyro_vae.elbos.base import Estimator, Terms
from pyro_vae.inference.gradients import GRADIENTS, Bound, GradientPath, baselines, curvature, slope
from pyro_vae.inference.handlers import Program
from pyro_vae.inference.weights import LogWeights

__all__ = ["CIWAE", "CUBO", "IWAE", "MIWAE", "PIWAE", "TVO", "Renyi", "WakeSleep", "WeightBound"]

TINY = 1e-20  # the smallest coefficient, so that ratios are finite; coefficients sum to 1, so rounding exceeds it


class WeightBound(Estimator):
    """Base of the estimators of such bounds: write `bound`, and every gradient estimator applies.

    Args:
        num_particles: K.
        gradient: "reparameterized", "stl", "dreg", "rloo" or "vimco" (`inference.gradients` has the formulas); the last
            two also work for discrete latents.
        num_rows: N, if a call sees only B of N rows.
        max_particles_at_once: a bound on memory; more particles run in chunks of this size.
    """

    gradients: tuple[str, ...] = GRADIENTS

    def __init__(self, *, num_particles: int = 5, **options: Any) -> None:
        if "kl_weight" in options:
            raise ValueError(
                f"kl_weight must be left out for {type(self).__name__}, which has no KL term;"
                f" got {options['kl_weight']}. Use ELBO or MeanFieldELBO."
            )
        super().__init__(num_particles=num_particles, **options)

    @abstractmethod
    def bound(self, log_w: Tensor) -> Tensor:
        """The bound that is reported, and that is trained unless a subclass sets other targets: (K, B) -> (B,)."""

    @property
    def model_target(self) -> Bound:
        """The function of log-weights that the model's parameters maximize."""
        return self.bound

    @property
    def guide_target(self) -> Bound:
        """The function of log-weights that the guide's parameters maximize."""
        return self.bound

    @property
    def one_bound(self) -> bool:
        # "stl" leaves out the score of the guide, whose mean is zero only without weights.
        return self.guide_target == self.model_target and (self.gradient != "stl" or self.num_particles == 1)

    def terms(self, weights: LogWeights, path: GradientPath | None = None) -> Terms:
        bound = self.bound(weights.log_w)
        model = weights.log_likelihood + weights.log_prior
        surrogate = self.surrogate(model, weights.log_guide, weights.log_draws, path)
        objective = (weights.scale * surrogate).sum() - self.mismatch(weights, path)
        reconstruction = weights.log_likelihood.mean(0)
        kl = (weights.log_guide - weights.log_prior).mean(0)
        return Terms(bound, reconstruction, kl, objective, weights.total_rows, weights=weights)

    def gradient_path(self) -> GradientPath | None:
        if torch.is_grad_enabled() and self.gradient == "reparameterized" and self.guide_target != self.model_target:
            return GradientPath()
        return super().gradient_path()

    def surrogate(self, model: Tensor, guide: Tensor, log_q: Tensor, path: GradientPath | None) -> Tensor:
        """A number for each row whose value is the model's target, and whose gradients are those of both targets: (B,).

        Args:
            model: what the model contributes to the log-weights, log p(x, z), (K, B).
            guide: what is subtracted for the guide: log q, or a multiple of it.
            log_q: the log-density of all draws, whose gradient is the score.
            path: how gradients passed through the draws of the run that gave these.
        """
        log_w = model - guide
        value = self.model_target(log_w)
        same = self.guide_target == self.model_target
        if not torch.is_grad_enabled() or (same and self.gradient in ("reparameterized", "stl")):
            return value
        target = self.guide_target
        of_model, of_guide = slope(self.model_target, log_w), slope(target, log_w)  # coefficients, (K, B)
        if path is None or not path.through_draws:
            signal = target(log_w.detach()) - baselines(target, log_w, self.gradient)
            sum_ = (of_model * model - of_guide * guide + signal * log_q).sum(0)
        else:
            of_guide = of_guide - curvature(target, log_w) if self.gradient == "dreg" else of_guide
            of_model = torch.where(of_model.abs() < TINY, TINY, of_model)
            path.set_factor(of_guide / of_model)
            sum_ = (of_model * model - (of_model if path.detached_log_q else of_guide) * guide).sum(0)
        return value.detach() + sum_ - sum_.detach()


class IWAE(WeightBound):
    """Importance-weighted bound, log mean_k w_k: tighter than the ELBO, equal to it at K = 1.

    As K grows, noise drowns its gradient for the guide; gradient="dreg" avoids that.

    References:
        *Importance Weighted Autoencoders* (Burda, Grosse, Salakhutdinov, 2015), arXiv 1509.00519
    """

    def bound(self, log_w: Tensor) -> Tensor:
        return bounds.iwae(log_w)


class CIWAE(WeightBound):
    """Convex combination, beta ELBO + (1 - beta) IWAE.

    Args:
        beta: the share of the ELBO, in [0, 1].

    References:
        *Tighter Variational Bounds are Not Necessarily Better* (Rainforth et al., 2018), arXiv 1802.04537
    """

    def __init__(self, *, beta: float = 0.5, **options: Any) -> None:
        super().__init__(**options)
        if not is_number(beta) or not 0.0 <= beta <= 1.0:
            raise ValueError(f"beta must lie in [0, 1]; got {beta}. 0 is IWAE, 1 the ELBO.")
        self.beta = float(beta)

    def bound(self, log_w: Tensor) -> Tensor:
        return bounds.ciwae(log_w, self.beta)


class CUBO(WeightBound):
    """The guide minimizes the chi upper bound log mean_k w_k^n / n, the model maximizes IWAE on the same draws.

    Use it for guides wider than the posterior. The bound reported is IWAE. `bounds.cubo` of the weights estimates the
    upper bound; at finite K it is biased downward, and no upper bound in expectation. A guide that leaves the posterior
    behind lowers it without limit: start from a model that was trained by another estimator, with many particles and
    a small learning rate. `fit` stops a run that diverges.

    Args:
        order: n, above 1.

    References:
        *Variational Inference via chi Upper Bound Minimization* (Dieng et al., 2017), arXiv 1611.00328
    """

    guide_may_diverge = True

    def __init__(self, *, order: float = 2.0, **options: Any) -> None:
        super().__init__(**options)
        if not is_number(order) or not order > 1.0:
            raise ValueError(f"order must be above 1; got {order}. 2 is the chi-square divergence.")
        self.order = float(order)

    def bound(self, log_w: Tensor) -> Tensor:
        return bounds.iwae(log_w)

    @property
    def guide_target(self) -> Bound:
        return self._minus_cubo

    def _minus_cubo(self, log_w: Tensor) -> Tensor:
        return -bounds.cubo(log_w, self.order)


class MIWAE(WeightBound):
    """Multiply importance-weighted bound: the mean over groups of K / `groups` particles of their IWAE.

    Args:
        groups: the number of groups; it must divide the number of particles.

    References:
        *Tighter Variational Bounds are Not Necessarily Better* (Rainforth et al., 2018), arXiv 1802.04537
    """

    def __init__(self, *, groups: int = 2, num_particles: int = 8, **options: Any) -> None:
        super().__init__(num_particles=num_particles, **options)
        if self.num_particles % positive_integer("groups", groups):
            raise ValueError(f"groups must divide num_particles ({num_particles}); got {groups!r}. Change either.")
        if self.gradient in ("rloo", "vimco"):
            raise NotImplementedError(
                f"gradient={self.gradient!r} with groups would need baselines within each group. Use IWAE."
            )
        self.groups = groups

    def bound(self, log_w: Tensor) -> Tensor:
        return bounds.miwae(log_w, self.groups)


class PIWAE(MIWAE):
    """Partially importance-weighted bound: the model maximizes IWAE of all particles, the guide MIWAE of the groups.

    References:
        *Tighter Variational Bounds are Not Necessarily Better* (Rainforth et al., 2018), arXiv 1802.04537
    """

    def bound(self, log_w: Tensor) -> Tensor:
        return bounds.iwae(log_w)

    @property
    def guide_target(self) -> Bound:
        return super().bound


class Renyi(WeightBound):
    """Renyi bound, log mean_k w_k^(1 - alpha) / (1 - alpha): the ELBO at 1, IWAE at 0, VR-max at -inf.

    Args:
        alpha: the order; a lower bound on log p(x) for alpha >= 0.

    References:
        *Renyi Divergence Variational Inference* (Li, Turner, 2016), arXiv 1602.02311
    """

    def __init__(self, *, alpha: float = 0.5, **options: Any) -> None:
        super().__init__(**options)
        if not is_number(alpha) and not (isinstance(alpha, float) and alpha == -math.inf):
            raise ValueError(f"alpha must be a number below infinity; got {alpha}. 1 is the ELBO, 0 IWAE.")
        self.alpha = float(alpha)

    def bound(self, log_w: Tensor) -> Tensor:
        return bounds.renyi(log_w, self.alpha)


class TVO(WeightBound):
    """Thermodynamic variational objective: a Riemann sum over a path of distributions from q to the posterior.

    Args:
        points: where the path is evaluated, increasing from 0 to below 1, e.g. (0.0, 0.1, 0.3); or a function of the
            training step that returns them.
        side: "left" (trained in the paper) or "right".

    References:
        *The Thermodynamic Variational Objective* (Masrani, Le, Wood, 2019), arXiv 1907.00031
    """

    schedulable = ("points",)

    def __init__(
        self,
        *,
        points: Sequence[float] | Callable[[int], Sequence[float]] = (0.0, 0.025, 0.063, 0.158, 0.398),
        side: str = "left",
        **options: Any,
    ) -> None:
        super().__init__(**options)
        if side not in ("left", "right"):
            raise ValueError(f"side must be left or right; got {side!r}. Choose one of these.")
        self.points, self.side = points, side
        first = self.current_value("points")
        grid = [*first, 1.0] if isinstance(first, Sequence) and all(map(is_number, first)) else []
        if not grid or grid[0] != 0.0 or any(not a < b for a, b in pairwise(grid)):
            raise ValueError(f"points must increase from 0 to below 1; got {first!r}. Start at 0.")

    def bound(self, log_w: Tensor) -> Tensor:
        return bounds.tvo(log_w, self.current_value("points"), self.side)


class WakeSleep(WeightBound):
    """Reweighted wake-sleep: the model maximizes IWAE, the guide learns from importance weights or simulated rows.

    Args:
        phase: how the guide learns: "wake" minimizes KL(p(z | x) || q) by importance weights; "sleep" maximizes
            log q(z | x) at draws (x, z) of the model.
        gradient: "score" (as published; also for discrete latents) or, for "wake", "dreg".

    References:
        *Reweighted Wake-Sleep* (Bornschein, Bengio, 2015), arXiv 1406.2751
        *Doubly Reparameterized Gradient Estimators* (Tucker et al., 2018), arXiv 1810.04152
    """

    gradients = ("score", "dreg")

    def __init__(self, *, phase: str = "wake", gradient: str = "score", **options: Any) -> None:
        super().__init__(gradient=gradient, **options)
        if phase not in ("wake", "sleep") or (phase == "sleep" and gradient != "score"):
            raise ValueError(
                f"phase must be wake or sleep, with gradient='score' for sleep; got {phase!r} with {gradient!r}."
                " Choose one of these."
            )
        self.phase = phase

    @property
    def one_bound(self) -> bool:
        return False

    def bound(self, log_w: Tensor) -> Tensor:
        return bounds.iwae(log_w)

    def run(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> Terms:
        terms = super().run(model, guide, *args, **kwargs)
        if self.phase == "wake" or not torch.is_grad_enabled() or terms.weights is None:
            return terms
        dream = _dream(model, guide, terms.weights.num_rows, kwargs) * terms.weights.total_rows
        objective = terms.objective + dream - dream.detach()
        return Terms(terms.bound, terms.reconstruction, terms.kl, objective, terms.num_rows, weights=terms.weights)

    def surrogate(self, model: Tensor, guide: Tensor, log_q: Tensor, path: GradientPath | None) -> Tensor:
        value = self.bound(model - guide)
        if path is None:
            return value
        shares = slope(self.bound, model - guide)  # normalized weights, (K, B)
        if self.gradient == "dreg":
            if path.enumerates:
                raise NotImplementedError(
                    "gradient must be 'score' for WakeSleep where sites are summed out; got 'dreg'. Or use IWAE."
                )
            shares = torch.where(shares < TINY, TINY, shares)
            path.set_factor(curvature(self.bound, model - guide) / shares)
            sum_ = (shares * (model - guide)).sum(0)
        else:
            sum_ = (shares * model).sum(0) + (shares * guide).sum(0) * (self.phase == "wake")
        return value.detach() + sum_ - sum_.detach()


def _dream(model: Program, guide: Program, num_rows: int, fields: dict[str, Any]) -> Tensor:
    """The mean of log q(z | x) over `num_rows` rows (x, z) that are drawn from the model."""
    owner = getattr(model, "__self__", None)
    sites = getattr(owner, "data_sites", ("x",))
    if len(sites) != 1:
        raise NotImplementedError("phase='sleep' with several data sites is not built. Use phase='wake'.")
    fields = {name: value for name, value in fields.items() if name not in ("num_rows", "row_weights")}
    with torch.no_grad(), poutine.block(hide_types=["param"]):
        drawn = poutine.trace(model).get_trace(rows=num_rows, **fields)
    x = drawn.nodes[sites[0]]["value"]
    guide_trace = poutine.trace(poutine.replay(guide, trace=drawn)).get_trace(x, **fields)
    return torch.as_tensor(guide_trace.log_prob_sum()) / num_rows
