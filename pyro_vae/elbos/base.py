"""The base class of the estimators, which runs the programs and follows Pyro's `ELBO` protocol."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import pyro.infer
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from pyro_vae.arguments import positive_integer
from pyro_vae.inference.gradients import GradientPath
from pyro_vae.inference.handlers import Program
from pyro_vae.inference.weights import LogWeights, log_weights
from pyro_vae.schedules import value_at

__all__ = ["Estimator", "Terms"]


@dataclass(frozen=True)
class Terms:
    """The result of one evaluation of an estimator.

    Attributes:
        bound: the bound of each row, without weights and scales, (B,); (1,) for the whole data set if weights are
            joint.
        reconstruction: E_q log p(x | z), of the same shape; None if an estimator of Pyro does not compute it.
        kl: KL(q(z | x) || p(z)), of the same shape, or None likewise.
        objective: the scaled and weighted sum over rows that is maximized, a scalar; minus Pyro's loss. Where the guide
            has sites that are summed out, it has terms besides the bound that train them (`Estimator.mismatch`).
        num_rows: N, the number of rows that `objective` is the sum over.
        analytic_sites: latent sites whose KL was computed in closed form.
        weights: the log-weights that all of this was computed from; None for estimators of Pyro.
    """

    bound: Tensor
    reconstruction: Tensor | None
    kl: Tensor | None
    objective: Tensor
    num_rows: float
    analytic_sites: tuple[str, ...] = ()
    weights: LogWeights | None = None

    @property
    def joint(self) -> bool:
        """Whether `bound` is one number for the whole data set."""
        return self.weights is None or self.weights.joint

    def per_row(self) -> Tensor:
        """Means over rows of bound, reconstruction, KL and objective, (4,), detached; NaN for what was not computed."""
        count = self.num_rows if self.joint else self.bound.numel()
        unknown = torch.full_like(self.bound, torch.nan)
        parts = (unknown if part is None else part for part in (self.bound, self.reconstruction, self.kl))
        means = [part.detach().sum() / count for part in parts]
        return torch.stack([*means, self.objective.detach().to(self.bound) / self.num_rows])


class Estimator(pyro.infer.ELBO):
    """Base of the estimators: runs the programs, scales to N rows, and follows Pyro's `ELBO` protocol.

    Args:
        num_particles: K, run together under a particle plate.
        gradient: the gradient estimator, one of those in the class attribute `gradients`.
        num_rows: N, if a call sees only B of N rows; `fit` sets it.
        max_particles_at_once: a bound on memory: with more particles, chunks of this size run one after the other, and
            the backward pass runs each again. Running statistics (BatchNorm) then move with every such run.

    Attributes:
        step: the number of training steps taken, for schedules; counted by `loss_and_grads`, set by `fit`.
        epoch: the number of epochs completed; set by `fit`.
        guide_may_diverge: whether the guide's target has no limit, so that `fit` watches for guides that run away.
        penalizes_latents: whether the objective depends on each latent by itself, and not on the weights alone.
        schedulable: names of the options that may be schedules; read their values through `current_value`.
        schedule_inputs: tensors that take the place of schedules' values in a compiled training step, by option.
        one_by_one: whether particles run one after the other, for programs that do not allow leading dimensions.

    Raises:
        ValueError: if `num_particles` is less than 1 or the gradient estimator has no meaning here.
    """

    gradients: tuple[str, ...] = ("reparameterized",)
    schedulable: tuple[str, ...] = ()
    guide_may_diverge = False
    penalizes_latents = False

    def __init__(
        self,
        *,
        num_particles: int = 1,
        gradient: str = "reparameterized",
        num_rows: int | None = None,
        max_particles_at_once: int | None = None,
    ) -> None:
        num_particles = positive_integer("num_particles", num_particles)
        if num_rows is not None:
            positive_integer("num_rows", num_rows)
        if not isinstance(gradient, str) or gradient not in self.gradients:
            raise ValueError(
                f"gradient must be one of {self.gradients} for {type(self).__name__}; got {gradient!r}."
                " Choose one of these."
            )
        if gradient in SCORE and num_particles < 2:
            raise ValueError(
                f"num_particles must be at least 2 for gradient={gradient!r}, whose baseline comes from the other"
                f" particles; got {num_particles}. Raise it."
            )
        super().__init__(num_particles=num_particles, vectorize_particles=True)
        if max_particles_at_once is not None:
            positive_integer("max_particles_at_once", max_particles_at_once)
        self.gradient = gradient
        self.num_rows = num_rows
        self.max_particles_at_once = max_particles_at_once
        self.step = self.epoch = 0
        self.schedule_inputs: dict[str, Tensor] = {}
        self.one_by_one = False

    @abstractmethod
    def terms(self, weights: LogWeights, path: GradientPath | None = None) -> Terms:
        """Compute the bound, its parts and the objective from the log-weights.

        Args:
            weights: the log-weights of a run.
            path: how gradients pass through the draws of that run; None if nothing about them was changed.
        """

    @staticmethod
    def mismatch(weights: LogWeights, path: GradientPath | None) -> Tensor:
        """What the objective subtracts for the guide's sites that are summed out, scaled and summed over rows.

        It is KL(q(y | x) || r), with r the posterior probabilities of y given the particle, and -log q(label | x) of
        the rows with a label, times its weight. A bound of log-weights does not depend on q(y | x), which would stay
        untrained. Less the KL, the bound of one draw is that of `pyro.infer.TraceEnum_ELBO`, gradients included.

        Args:
            weights: the log-weights of a run.
            path: how gradients passed through its draws; where it is given, r counts as a constant.
        """
        enumeration = weights.enumeration
        if enumeration is None or not enumeration.in_guide:
            return torch.zeros(())
        scale = weights.latent[enumeration.names[0]].scale
        terms = enumeration.mismatch(detached=path is not None) + enumeration.classification()
        return (scale * terms.mean(0)).sum()

    @property
    def reason_not_to_compile(self) -> str:
        """Why a training step with this estimator cannot be compiled; empty if it can."""
        if self.max_particles_at_once is None or self.max_particles_at_once >= self.num_particles:
            return ""
        return "max_particles_at_once bounds memory, which a graph would not respect"

    @property
    def one_bound(self) -> bool:
        """Whether every parameter follows the gradient of one bound of the log-weights.

        Where it does not, parameters that model and guide share get a sum of gradients that belongs to no bound.
        """
        return True

    def current_value(self, option: str) -> Any:
        """The value at this step and epoch of an option that may be a schedule."""
        if option in self.schedule_inputs:
            return self.schedule_inputs[option]
        return value_at(getattr(self, option), self.step, self.epoch)

    def unweighted(self) -> Estimator:
        """The same estimator without weights on its terms, which is reported on validation data."""
        return self

    def gradient_path(self) -> GradientPath | None:
        """How gradients pass through the draws to the guide's parameters; None leaves this to the guide."""
        if not torch.is_grad_enabled() or self.gradient == "reparameterized":
            return None
        return GradientPath(through_draws=self.gradient not in SCORE, detached_log_q=self.gradient in DETACHED)

    def run(
        self,
        model: Program,
        guide: Program,
        *args: Any,
        num_rows: int | None = None,
        row_weights: Tensor | None = None,
        **kwargs: Any,
    ) -> Terms:
        """Run the programs once and evaluate.

        Args:
            model: the model; called with `*args, **kwargs`.
            guide: the guide; called likewise.
            *args: what both programs are called with, usually x.
            num_rows: N; the sites in the row plate are scaled by N/B.
            row_weights: (B,), multiplies the per-row bound after the logarithm.
            **kwargs: named arguments of both programs, usually fields.
        """
        path = self.gradient_path()
        kwargs |= {"num_rows": num_rows or self.num_rows, "row_weights": row_weights}
        weights = self._log_weights(path, model, guide, *args, **kwargs)
        if torch.is_grad_enabled() and self.gradient not in SCORE:
            _check_reparameterized(weights, self.gradient)
        return self.terms(weights, path)

    def _log_weights(self, path: GradientPath | None, *args: Any, **kwargs: Any) -> LogWeights:
        """The log-weights of all K particles, which run in chunks if K exceeds what is allowed together."""
        size = 1 if self.one_by_one else self.max_particles_at_once or self.num_particles
        if size >= self.num_particles:
            return log_weights(*args, num_particles=self.num_particles, path=path, **kwargs)
        records = []
        for start in range(0, self.num_particles, size):
            count = min(size, self.num_particles - start)
            part = None if path is None else path.for_chunk(count)
            chunk = partial(log_weights, *args, num_particles=count, path=part, **kwargs)
            rerun = torch.is_grad_enabled() and self.max_particles_at_once is not None
            records.append(checkpoint(chunk, use_reentrant=False) if rerun else chunk())
        return LogWeights.joined(records)

    def backward(
        self, parameters: Iterable[nn.Parameter], model: Program, guide: Program, *args: Any, **kwargs: Any
    ) -> Terms:
        """Evaluate and add the gradient of minus the objective *per row* to the parameters."""
        terms = self.run(model, guide, *args, **kwargs)
        if terms.objective.requires_grad:
            (-terms.objective / terms.num_rows).backward()  # type: ignore[no-untyped-call]
        return terms

    def differentiable_loss(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> Tensor:
        """Minus the objective, -(N/B) x its sum over the rows seen, as a tensor to be differentiated."""
        return -self.run(model, guide, *args, **kwargs).objective

    def loss(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> float:
        """The value of `differentiable_loss`, without gradients."""
        with torch.no_grad():
            return float(self.differentiable_loss(model, guide, *args, **kwargs))

    def loss_and_grads(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> float:
        """The value of `differentiable_loss`; its gradient is added to the parameters, and a step is counted."""
        loss = self.differentiable_loss(model, guide, *args, **kwargs)
        if loss.requires_grad:
            loss.backward()  # type: ignore[no-untyped-call]
        self.step += 1
        return float(loss.detach())

    def _get_trace(self, model: Program, guide: Program, args: Any, kwargs: Any) -> Any:
        raise NotImplementedError("Estimators read log-weights, not traces. Use pv.log_weights.")


SCORE = ("rloo", "vimco", "score")  # gradient estimators for which draws are constants
DETACHED = ("stl", "dreg")  # gradient estimators for which log q has constant parameters


def _check_reparameterized(weights: LogWeights, gradient: str) -> None:
    summed_out = () if weights.enumeration is None else weights.enumeration.names
    for site in weights.guide.values():
        if site.name in summed_out:
            continue
        trained = gradient in DETACHED or site.log_prob.requires_grad
        if trained and not site.distribution.has_rsample:  # type: ignore[attr-defined]
            raise ValueError(
                f"gradient={gradient!r} must have guide sites with a pathwise derivative; got site {site.name!r} drawn"
                f" from {type(site.distribution).__name__}. Use gradient='rloo' or 'vimco', or"
                " pyro.infer.TraceEnum_ELBO."
            )
