"""Pyro's own estimators: replaced by ours of the same value where there is one, wrapped otherwise."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pyro.infer
import torch
from torch import Tensor, nn

from pyro_vae.elbos.base import Estimator, Terms
from pyro_vae.elbos.evidence import ELBO, MeanFieldELBO
from pyro_vae.elbos.weighted import Renyi
from pyro_vae.inference.gradients import GradientPath
from pyro_vae.inference.handlers import Program, ScaleRows
from pyro_vae.inference.programs import row_plate
from pyro_vae.inference.weights import LogWeights

__all__ = ["PyroEstimator", "from_pyro", "runs_one_by_one"]


class PyroEstimator(Estimator):
    """One of Pyro's own estimators, unchanged, behind the protocol that `fit` uses.

    It computes the loss alone, so that the parts of the bound are unknown.

    Args:
        elbo: the estimator of Pyro.
    """

    def __init__(self, elbo: pyro.infer.ELBO) -> None:
        super().__init__(num_particles=1)
        self.elbo: Any = elbo

    @property
    def reason_not_to_compile(self) -> str:
        return f"{type(self.elbo).__name__} runs as Pyro wrote it"

    def terms(self, weights: LogWeights, path: GradientPath | None = None) -> Terms:
        raise NotImplementedError(
            f"{type(self.elbo).__name__} computes its loss alone, not its terms. Use an estimator of pv.elbos."
        )

    def run(
        self,
        model: Program,
        guide: Program,
        *args: Any,
        num_rows: int | None = None,
        row_weights: Tensor | None = None,
        **kwargs: Any,
    ) -> Terms:
        differentiable = torch.is_grad_enabled() and hasattr(self.elbo, "differentiable_loss")
        loss = self.elbo.differentiable_loss if differentiable else self.elbo.loss
        with ScaleRows(row_plate(model), num_rows, row_weights):
            return self._terms(loss(model, guide, *args, **kwargs), args, num_rows)

    def backward(
        self, parameters: Iterable[nn.Parameter], model: Program, guide: Program, *args: Any, **kwargs: Any
    ) -> Terms:
        if hasattr(self.elbo, "differentiable_loss"):
            return super().backward(parameters, model, guide, *args, **kwargs)
        num_rows, row_weights = kwargs.pop("num_rows", None), kwargs.pop("row_weights", None)
        with ScaleRows(row_plate(model), num_rows, row_weights):
            loss = self.elbo.loss_and_grads(model, guide, *args, **kwargs)
        terms = self._terms(loss, args, num_rows)
        for parameter in parameters:
            if parameter.grad is not None:
                parameter.grad /= terms.num_rows
        return terms

    def _terms(self, loss: Any, args: tuple[Any, ...], num_rows: int | None) -> Terms:
        objective = -(loss if isinstance(loss, Tensor) else torch.tensor(loss, dtype=torch.float64))
        return Terms(objective.reshape(1), None, None, objective, float(num_rows or len(args[0])))


def from_pyro(elbo: pyro.infer.ELBO, *, reparameterized: bool = True) -> Estimator:
    """Our estimator for one of Pyro's: of the same value on the same draws if we have it, else a wrapper around Pyro's.

    Args:
        elbo: an estimator of Pyro, or one of ours, which is returned as it is.
        reparameterized: whether every guide site is reparameterized; if not, Pyro's estimator is kept for its
            score-function terms.

    Raises:
        TypeError: if `elbo` is not a `pyro.infer.ELBO`.
    """
    if isinstance(elbo, Estimator):
        return elbo
    if not isinstance(elbo, pyro.infer.ELBO):
        raise TypeError(f"elbo must be a pyro.infer.ELBO object; got {elbo!r}. Pass e.g. pv.elbos.ELBO().")
    make: dict[type, Any] = {
        pyro.infer.Trace_ELBO: ELBO,
        pyro.infer.TraceMeanField_ELBO: MeanFieldELBO,
        pyro.infer.RenyiELBO: Renyi,
    }
    if not reparameterized or type(elbo) not in make:
        return PyroEstimator(elbo)
    options = {"alpha": elbo.alpha} if isinstance(elbo, pyro.infer.RenyiELBO) else {}
    ours: Estimator = make[type(elbo)](num_particles=elbo.num_particles, **options)
    ours.one_by_one = not elbo.vectorize_particles  # such programs may not allow leading dimensions
    return ours


def runs_one_by_one(elbo: pyro.infer.ELBO) -> bool:
    """Whether an estimator, ours or Pyro's, runs its particles one after the other."""
    inner = elbo.elbo if isinstance(elbo, PyroEstimator) else elbo
    return not inner.vectorize_particles or getattr(inner, "one_by_one", False)
