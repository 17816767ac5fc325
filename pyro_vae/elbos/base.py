"""What every estimator is: programs are run, scaled to N rows, and Pyro's `ELBO` protocol is spoken."""

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
from pyro_vae.inference.programs import Path, Program
from pyro_vae.inference.weights import LogWeights, log_weights
from pyro_vae.schedules import value_at

__all__ = ["Estimator", "Terms"]


@dataclass(frozen=True)
class Terms:
    """What one evaluation of an estimator yields.

    Attributes:
        bound: the unweighted, unscaled bound of each row, (B,); (1,) for the whole data set where weights are joint.
        reconstruction: E_q log p(x | z), of the same shape; None where a foreign estimator does not tell.
        kl: KL(q(z | x) || p(z)), likewise.
        objective: the scaled, weighted sum over rows that is maximised, a scalar; minus Pyro's loss.
        rows: the number of rows that `objective` speaks for, N.
        analytic_sites: latent sites whose KL was computed in closed form.
        weights: the record all this was read off; None for foreign estimators.
    """

    bound: Tensor
    reconstruction: Tensor | None
    kl: Tensor | None
    objective: Tensor
    rows: float
    analytic_sites: tuple[str, ...] = ()
    weights: LogWeights | None = None

    @property
    def joint(self) -> bool:
        """Whether `bound` is one number for the whole data set."""
        return self.weights is None or self.weights.joint

    def per_row(self) -> Tensor:
        """Bound, reconstruction, KL and objective as means over rows, (4,), detached; NaN where unknown."""
        count = self.rows if self.joint else self.bound.numel()
        unknown = torch.full_like(self.bound, torch.nan)
        parts = (unknown if part is None else part for part in (self.bound, self.reconstruction, self.kl))
        means = [part.detach().sum() / count for part in parts]
        return torch.stack([*means, self.objective.detach().to(self.bound) / self.rows])


class Estimator(pyro.infer.ELBO):
    """Base of the estimators: runs the programs, scales to N rows, speaks Pyro's `ELBO` protocol.

    Args:
        num_particles: K, run at once under a particle plate.
        gradient: one of those that the class names in `gradients`.
        num_rows: N, if a call sees only B of N rows; `fit` fills it in.
        max_particles_at_once: bounds memory: larger K run in chunks, which the backward pass runs again. Running
            statistics (BatchNorm) then move with every chunk and pass.

    Attributes:
        step: training steps taken, read by schedules; counted by `loss_and_grads`, set by `fit`.
        epoch: epochs begun before this one; set by `fit`.
        scheduled: names of the options that may be schedules, to be read through `now`.
        fed: values that stand in for those of schedules while a training step is captured.
        one_by_one: whether particles run one after the other, for programs that take no leading dimensions.

    Raises:
        ValueError: if `num_particles` is less than 1 or the gradient estimator has no meaning here.
    """

    gradients: tuple[str, ...] = ("reparameterized",)
    scheduled: tuple[str, ...] = ()

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
                f"num_particles must be at least 2 for gradient={gradient!r}, whose baseline is the other particles;"
                f" got {num_particles}. Raise it."
            )
        super().__init__(num_particles=num_particles, vectorize_particles=True)
        if max_particles_at_once is not None:
            positive_integer("max_particles_at_once", max_particles_at_once)
        self.gradient = gradient
        self.num_rows = num_rows
        self.max_particles_at_once = max_particles_at_once
        self.step = self.epoch = 0
        self.fed: dict[str, Tensor] = {}
        self.one_by_one = False

    @abstractmethod
    def terms(self, weights: LogWeights, path: Path | None = None) -> Terms:
        """Read the bound, its parts and the objective off the log-weights."""

    @property
    def uncapturable(self) -> str:
        """Why the estimator's run must not be recorded as a graph; empty where it may."""
        if self.max_particles_at_once is None or self.max_particles_at_once >= self.num_particles:
            return ""
        return "max_particles_at_once bounds memory, which a graph would not keep to"

    def now(self, option: str) -> Any:
        """The value of an option that may be a schedule, at this step and epoch."""
        return self.fed[option] if option in self.fed else value_at(getattr(self, option), self.step, self.epoch)

    def unweighted(self) -> Estimator:
        """The same estimator with every weight on a term removed: what is reported on validation data."""
        return self

    def path(self) -> Path | None:
        """How the draws of a run depend on the guide's parameters; None where that is as the guide has it."""
        if not torch.is_grad_enabled() or self.gradient == "reparameterized":
            return None
        return Path(attached=self.gradient not in SCORE, stopped=self.gradient in ("stl", "dreg"))

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
            num_rows: N; the sites in the row plate are scaled by N/B.
            row_weights: (B,), multiplies the per-row bound after the logarithm.
        """
        path = self.path()
        kwargs |= {"num_rows": num_rows or self.num_rows, "row_weights": row_weights}
        weights = self._log_weights(path, model, guide, *args, **kwargs)
        if torch.is_grad_enabled() and self.gradient not in SCORE:
            _check_reparameterized(weights, self.gradient)
        return self.terms(weights, path)

    def _log_weights(self, path: Path | None, *args: Any, **kwargs: Any) -> LogWeights:
        """The record of all K particles, in chunks where that is asked for."""
        size = 1 if self.one_by_one else self.max_particles_at_once or self.num_particles
        if size >= self.num_particles:
            return log_weights(*args, num_particles=self.num_particles, path=path, **kwargs)
        records = []
        for start in range(0, self.num_particles, size):
            count = min(size, self.num_particles - start)
            part = None if path is None else path.cut(count)
            chunk = partial(log_weights, *args, num_particles=count, path=part, **kwargs)
            again = torch.is_grad_enabled() and self.max_particles_at_once is not None
            records.append(checkpoint(chunk, use_reentrant=False) if again else chunk())
        return LogWeights.joined(records)

    def backward(
        self, parameters: Iterable[nn.Parameter], model: Program, guide: Program, *args: Any, **kwargs: Any
    ) -> Terms:
        """Evaluate and add the gradient of minus the objective *per row* to the parameters."""
        terms = self.run(model, guide, *args, **kwargs)
        if terms.objective.requires_grad:
            (-terms.objective / terms.rows).backward()  # type: ignore[no-untyped-call]
        return terms

    def differentiable_loss(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> Tensor:
        """-(N/B) x the objective summed over rows, with its graph."""
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


SCORE = ("rloo", "vimco", "score")  # gradient estimators that make constants of the draws


def _check_reparameterized(weights: LogWeights, gradient: str) -> None:
    stopped = gradient in ("stl", "dreg")
    for site in weights.guide.values():
        trained = stopped or site.log_prob.requires_grad
        if trained and not site.distribution.has_rsample:  # type: ignore[attr-defined]
            raise ValueError(
                f"gradient={gradient!r} must have guide sites with a pathwise derivative; got site {site.name!r} drawn"
                f" from {type(site.distribution).__name__}. Use gradient='rloo' or 'vimco', or"
                " pyro.infer.TraceEnum_ELBO."
            )
