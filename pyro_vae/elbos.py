"""Estimators of the evidence bound: `pyro.infer.ELBO` subclasses over the log-weights.

To add one, subclass `Estimator` and write `terms`, usually one call of a function in `bounds`. It then
works in `fit(elbo=...)` and in `pyro.infer.SVI(loss=...)`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import pyro.infer
import torch
from torch import Tensor, nn
from torch.distributions import kl_divergence

from pyro_vae import bounds
from pyro_vae.weights import LogWeights, Program, ScaleRows, Site, log_weights, row_plate

__all__ = [
    "ELBO",
    "IWAE",
    "Estimator",
    "MeanFieldELBO",
    "PyroEstimator",
    "Renyi",
    "Terms",
    "from_pyro",
    "kl_terms",
    "sum_terms",
]


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
        """Bound, reconstruction and KL as means over rows, (3,), detached; NaN where unknown."""
        count = self.rows if self.joint else self.bound.numel()
        unknown = torch.full_like(self.bound, torch.nan)
        parts = (unknown if part is None else part for part in (self.bound, self.reconstruction, self.kl))
        return torch.stack([part.detach().sum() / count for part in parts])


class Estimator(pyro.infer.ELBO):
    """Base of the estimators: runs the programs, scales to N rows, speaks Pyro's `ELBO` protocol.

    Args:
        num_particles: K, run at once under a particle plate.
        num_rows: N, if a call sees only B of N rows; `fit` fills it in.

    Raises:
        ValueError: if `num_particles` is less than 1.
    """

    def __init__(self, *, num_particles: int = 1, num_rows: int | None = None) -> None:
        if not isinstance(num_particles, int) or num_particles < 1:
            raise ValueError(
                f"num_particles must be a positive integer; got {num_particles!r}. Pass e.g. num_particles=1."
            )
        super().__init__(num_particles=num_particles, vectorize_particles=True)
        self.num_rows = num_rows

    @abstractmethod
    def terms(self, weights: LogWeights) -> Terms:
        """Read the bound, its parts and the objective off the log-weights."""

    def unweighted(self) -> Estimator:
        """The same estimator with every weight on a term removed: what is reported on validation data."""
        return self

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
        kwargs |= {
            "num_particles": self.num_particles,
            "num_rows": num_rows or self.num_rows,
            "row_weights": row_weights,
        }
        weights = log_weights(model, guide, *args, **kwargs)
        if torch.is_grad_enabled():
            _check_reparameterized(weights)
        return self.terms(weights)

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
        """The value of `differentiable_loss`; its gradient is added to the parameters."""
        loss = self.differentiable_loss(model, guide, *args, **kwargs)
        if loss.requires_grad:
            loss.backward()  # type: ignore[no-untyped-call]
        return float(loss.detach())

    def _get_trace(self, model: Program, guide: Program, args: Any, kwargs: Any) -> Any:
        raise NotImplementedError("Estimators read log-weights, not traces. Use pyro_vae.weights.log_weights.")


class ELBO(Estimator):
    """Evidence lower bound, the mean over draws z ~ q of log p(x | z) + log p(z) - log q(z | x), all by Monte Carlo.

    Equals `pyro.infer.Trace_ELBO` on the same draws where all guide sites are reparameterized.

    Args:
        num_particles: draws per row.
        kl_weight: beta, multiplies the KL term of the objective; the reported bound is never weighted.
        num_rows: N, if a call sees only B of N rows.

    Raises:
        ValueError: if `num_particles` is less than 1 or `kl_weight` negative.

    References:
        *Auto-Encoding Variational Bayes* (Kingma, Welling, 2013), arXiv 1312.6114
        *beta-VAE* (Higgins et al., 2017), ICLR
    """

    analytic = False

    def __init__(self, *, num_particles: int = 1, kl_weight: float = 1.0, num_rows: int | None = None) -> None:
        super().__init__(num_particles=num_particles, num_rows=num_rows)
        if not kl_weight >= 0:
            raise ValueError(f"kl_weight must be zero or more; got {kl_weight}. 1 is the ELBO.")
        self.kl_weight = kl_weight

    def unweighted(self) -> Estimator:
        return type(self)(num_particles=self.num_particles, num_rows=self.num_rows)

    def terms(self, weights: LogWeights) -> Terms:
        reconstruction = [(site.scale, site.log_prob) for site in weights.observed.values()]
        kl, analytic_sites = kl_terms(weights, analytic=self.analytic)
        r, d = (sum_terms(terms, weights.joint).mean(0) for terms in (reconstruction, kl))
        objective = _scaled(reconstruction) - self.kl_weight * _scaled(kl)
        return Terms(r - d, r, d, objective, weights.total_rows, analytic_sites, weights)


class MeanFieldELBO(ELBO):
    """ELBO with the KL in closed form at every site where torch registers one; Monte Carlo at the others.

    `Terms.analytic_sites` says which; where model and guide order their sites differently no KL is taken in closed
    form, since it could then condition on draws that depend on the site itself. Equals
    `pyro.infer.TraceMeanField_ELBO` on the same draws. Less noise than `ELBO`, except near the exact posterior.
    """

    analytic = True


class IWAE(Estimator):
    """Importance-weighted bound, log mean_k w_k: tighter than the ELBO, equal to it at K = 1.

    Args:
        num_particles: K.
        num_rows: N, if a call sees only B of N rows.

    Raises:
        ValueError: if `num_particles` is less than 1.

    References:
        *Importance Weighted Autoencoders* (Burda, Grosse, Salakhutdinov, 2015), arXiv 1509.00519
    """

    def __init__(self, *, num_particles: int = 5, num_rows: int | None = None) -> None:
        super().__init__(num_particles=num_particles, num_rows=num_rows)

    def bound(self, log_w: Tensor) -> Tensor:
        return bounds.iwae(log_w)

    def terms(self, weights: LogWeights) -> Terms:
        bound = self.bound(weights.log_w)
        objective = (weights.scale * bound).sum()
        reconstruction = weights.log_likelihood.mean(0)
        kl = (weights.log_guide - weights.log_prior).mean(0)
        return Terms(bound, reconstruction, kl, objective, weights.total_rows, weights=weights)


class Renyi(IWAE):
    """Renyi bound, log mean_k w_k^(1 - alpha) / (1 - alpha): the ELBO at alpha = 1, IWAE at 0.

    Args:
        alpha: the order; a lower bound on log p(x) for alpha >= 0.
        num_particles: K.
        num_rows: N, if a call sees only B of N rows.

    References:
        *Renyi Divergence Variational Inference* (Li, Turner, 2016), arXiv 1602.02311
    """

    def __init__(self, *, alpha: float = 0.5, num_particles: int = 5, num_rows: int | None = None) -> None:
        super().__init__(num_particles=num_particles, num_rows=num_rows)
        self.alpha = float(alpha)

    def bound(self, log_w: Tensor) -> Tensor:
        return bounds.renyi(log_w, self.alpha)


class PyroEstimator(Estimator):
    """One of Pyro's own estimators, unchanged, behind the protocol that `fit` uses.

    It tells the loss alone, so that the parts of the bound stay unknown.
    """

    def __init__(self, elbo: pyro.infer.ELBO) -> None:
        super().__init__(num_particles=1)
        self.elbo: Any = elbo

    def terms(self, weights: LogWeights) -> Terms:
        raise NotImplementedError(
            f"{type(self.elbo).__name__} tells its loss alone, not its terms. Use an estimator of pv.elbos."
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
                parameter.grad /= terms.rows
        return terms

    def _terms(self, loss: Any, args: tuple[Any, ...], num_rows: int | None) -> Terms:
        rows = float(num_rows or len(args[0]))
        objective = -(loss if isinstance(loss, Tensor) else torch.tensor(loss, dtype=torch.float64))
        return Terms(objective.reshape(1), None, None, objective, rows)


def from_pyro(elbo: pyro.infer.ELBO, *, reparameterized: bool = True) -> Estimator:
    """Our estimator for one of Pyro's: the same value on the same draws where we have it, else a wrapper around Pyro's.

    Args:
        elbo: ours (returned as it is) or Pyro's.
        reparameterized: whether every guide site is; Pyro's score-function terms are kept where not.

    Raises:
        TypeError: if `elbo` is not a `pyro.infer.ELBO`.
    """
    if isinstance(elbo, Estimator):
        return elbo
    if not isinstance(elbo, pyro.infer.ELBO):
        raise TypeError(f"elbo must be a pyro.infer.ELBO object; got {elbo!r}. Pass e.g. pv.elbos.ELBO().")
    if reparameterized and type(elbo) is pyro.infer.Trace_ELBO:
        return ELBO(num_particles=elbo.num_particles)
    if reparameterized and type(elbo) is pyro.infer.TraceMeanField_ELBO:
        return MeanFieldELBO(num_particles=elbo.num_particles)
    if reparameterized and type(elbo) is pyro.infer.RenyiELBO:
        return Renyi(alpha=elbo.alpha, num_particles=elbo.num_particles)
    return PyroEstimator(elbo)


ScaledTerms = list[tuple[float | Tensor, Tensor]]


def kl_terms(weights: LogWeights, *, analytic: bool) -> tuple[ScaledTerms, tuple[str, ...]]:
    """The KL of each latent site and particle as (scale, (K, B)) terms, and the names of the sites in closed form."""
    terms: ScaledTerms = []
    closed = []
    same_order = list(weights.latent) == [name for name in weights.guide if name in weights.latent]
    for name, q in weights.guide.items():
        p = weights.latent.get(name)
        kl = _analytic_kl(q, p) if analytic and same_order and p is not None else None
        if kl is not None:
            closed.append(name)
            terms.append((q.scale, kl))
            continue
        terms.append((q.scale, q.log_prob))
        if p is not None:
            terms.append((p.scale, -p.log_prob))
    return terms, tuple(closed)


def _analytic_kl(q: Site, p: Site) -> Tensor | None:
    try:
        return q.per_row(kl_divergence(q.distribution, p.distribution))  # type: ignore[arg-type]
    except NotImplementedError:
        return None


def sum_terms(terms: ScaledTerms, joint: bool) -> Tensor:
    """Unscaled sum of the terms, (K, B); for joint programs the scaled sum over the data set, (K, 1)."""
    zero = torch.zeros(())
    if joint:
        return sum(((scale * term).sum(-1, keepdim=True) for scale, term in terms), zero)
    return sum((term for _, term in terms), zero)


def _scaled(terms: ScaledTerms) -> Tensor:
    return sum(((scale * term.mean(0)).sum() for scale, term in terms), torch.zeros(()))


def _check_reparameterized(weights: LogWeights) -> None:
    for site in weights.guide.values():
        if site.log_prob.requires_grad and not site.distribution.has_rsample:  # type: ignore[attr-defined]
            raise ValueError(
                f"gradient='reparameterized' must have guide sites with a pathwise derivative; got site {site.name!r}"
                f" drawn from {type(site.distribution).__name__}. Use pyro.infer.TraceEnum_ELBO or TraceGraph_ELBO."
            )
