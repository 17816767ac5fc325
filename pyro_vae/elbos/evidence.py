"""The evidence lower bound, by Monte Carlo or with its KL in closed form, and with a weight on the KL."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.distributions import kl_divergence

from pyro_vae import bounds
from pyro_vae.arguments import is_number
from pyro_vae.elbos.base import Terms
from pyro_vae.elbos.weighted import WeightBound
from pyro_vae.inference.enumeration import weighted
from pyro_vae.inference.gradients import GradientPath
from pyro_vae.inference.weights import LogWeights, Site

__all__ = ["ELBO", "MeanFieldELBO", "closed_forms_hold", "kl_by_cell", "kl_terms", "sum_terms"]

ScaledTerms = list[tuple[float | Tensor, Tensor]]


class ELBO(WeightBound):
    """Evidence lower bound, the mean over draws z ~ q of log p(x | z) + log p(z) - log q(z | x), all by Monte Carlo.

    It equals `pyro.infer.Trace_ELBO` on the same draws if all guide sites are reparameterized.

    Args:
        num_particles: draws per row.
        kl_weight: beta, which multiplies the KL term of the objective; a number, a schedule, which advances with
            training steps, or a function of the step. The reported bound is never weighted.
        gradient: the gradient estimator, as for every `WeightBound`.
        num_rows: N, if a call sees only B of N rows.

    Raises:
        ValueError: if `num_particles` is less than 1 or `kl_weight` negative.

    References:
        *Auto-Encoding Variational Bayes* (Kingma, Welling, 2013), arXiv 1312.6114
        *beta-VAE* (Higgins et al., 2017), ICLR
    """

    analytic = False
    schedulable = ("kl_weight",)

    def __init__(
        self, *, num_particles: int = 1, kl_weight: float | Callable[..., float] = 1.0, **options: Any
    ) -> None:
        super().__init__(num_particles=num_particles, **options)
        if not callable(kl_weight) and not (is_number(kl_weight) and kl_weight >= 0):
            raise ValueError(f"kl_weight must be zero or more; got {kl_weight}. 1 is the ELBO.")
        self.kl_weight = kl_weight

    @property
    def one_bound(self) -> bool:
        return True

    def bound(self, log_w: Tensor) -> Tensor:
        return bounds.elbo(log_w)

    def unweighted(self) -> ELBO:
        kind = MeanFieldELBO if self.analytic else ELBO
        plain = kind(num_particles=self.num_particles, gradient=self.gradient, num_rows=self.num_rows)
        plain.one_by_one, plain.max_particles_at_once = self.one_by_one, self.max_particles_at_once
        return plain

    def beta(self) -> float | Tensor:
        """The KL weight at this step."""
        return self.current_value("kl_weight")  # type: ignore[no-any-return]

    def terms(self, weights: LogWeights, path: GradientPath | None = None) -> Terms:
        reconstruction = [(site.scale, site.log_prob) for site in weights.observed.values()]
        kl, analytic_sites = kl_terms(weights, analytic=self.analytic)
        r, d = (sum_terms(terms, weights.joint).mean(0) for terms in (reconstruction, kl))
        if path is None and weights.enumeration is not None:
            reconstruction, kl = _under_guide(weights)
        objective = self.objective(weights, reconstruction, kl, path)
        return Terms(r - d, r, d, objective, weights.total_rows, analytic_sites, weights)

    def objective(
        self, weights: LogWeights, reconstruction: ScaledTerms, kl: ScaledTerms, path: GradientPath | None
    ) -> Tensor:
        """The scaled sum over rows that is maximized: the ELBO with its weighted KL.

        Args:
            weights: the log-weights of a run.
            reconstruction: the terms of log p(x | z), with their scales.
            kl: the terms of the KL, with their scales.
            path: how gradients passed through the draws of that run; None if as the guide has it.
        """
        if path is None:
            return scaled(reconstruction) - self.beta() * scaled(kl) - classification(weights)
        prior = [(site.scale, site.log_prob) for site in weights.latent.values()]
        guide = [(site.scale, site.log_prob) for site in weights.guide.values()]
        parts = (_scaled_sums(terms, weights.joint) for terms in (reconstruction, prior, guide))
        observed, log_prior, log_guide = parts
        model = observed + self.beta() * log_prior
        surrogate = self.surrogate(model, self.beta() * log_guide, weights.log_draws, path).sum()
        return surrogate - self.mismatch(weights, path)


class MeanFieldELBO(ELBO):
    """ELBO with the KL in closed form at every site where torch registers one; Monte Carlo at the others.

    `Terms.analytic_sites` says which; where model and guide order their sites differently no KL is taken in closed
    form, since it could then condition on draws that depend on the site itself; nor where sites are summed out. Equals
    `pyro.infer.TraceMeanField_ELBO` on the same draws. Less noise than `ELBO`, except near the exact posterior.
    """

    analytic = True
    gradients = ("reparameterized",)


def kl_terms(weights: LogWeights, *, analytic: bool) -> tuple[ScaledTerms, tuple[str, ...]]:
    """The KL of all latent sites as terms (K, B) with their scales, and the names of the sites in closed form.

    Args:
        weights: the log-weights of a run.
        analytic: whether to use closed forms, at the sites where torch registers one.
    """
    terms: ScaledTerms = []
    closed = []
    analytic = analytic and closed_forms_hold(weights)
    for name, q in weights.guide.items():
        p = weights.latent.get(name)
        kl = closed_kl(q.distribution, p.distribution) if analytic and p is not None else None
        if kl is not None:
            closed.append(name)
            terms.append((q.scale, q.per_row(kl)))
            continue
        terms.append((q.scale, q.log_prob))
        if p is not None:
            terms.append((p.scale, -p.log_prob))
    return terms, tuple(closed)


def closed_forms_hold(weights: LogWeights) -> bool:
    """Whether KL(q || p) at each site, given draws of the sites before it, is right: both programs have one order.

    Where sites are summed out, their responsibilities depend on the draws, and no KL is a mean of closed forms.
    """
    return weights.enumeration is None and list(weights.latent) == [
        name for name in weights.guide if name in weights.latent
    ]


def closed_kl(q: Any, p: Any) -> Tensor | None:
    """KL(q || p) in closed form, of q's batch shape; None if torch registers none."""
    try:
        kl: Tensor = kl_divergence(q, p if p.batch_shape == q.batch_shape else p.expand(q.batch_shape))
    except NotImplementedError:
        return None
    return kl


def kl_by_cell(q: Any, p: Any, value: Tensor, *, closed: bool) -> Tensor:
    """KL(q || p) of each cell of a latent value: in closed form if there is one, else log q - log p at the draws.

    Args:
        q: the guide's distribution of single cells, whose batch shape includes the event of the latent.
        p: the model's distribution of single cells.
        value: the draws from q.
        closed: whether closed forms hold (`closed_forms_hold`).
    """
    kl = closed_kl(q, p) if closed else None
    return q.log_prob(value) - p.log_prob(value) if kl is None else kl


def sum_terms(terms: ScaledTerms, joint: bool) -> Tensor:
    """Unscaled sum of the terms, (K, B); for joint programs the scaled sum over the data set, (K, 1)."""
    if joint:
        return _scaled_sums(terms, joint)
    return sum((term for _, term in terms), torch.zeros(()))


def _scaled_sums(terms: ScaledTerms, joint: bool) -> Tensor:
    """Scaled sum of the terms for each particle: (K, B), or (K, 1) for joint programs."""
    values = (scale * term for scale, term in terms)
    return sum((value.sum(-1, keepdim=True) if joint else value for value in values), torch.zeros(()))


def _under_guide(weights: LogWeights) -> tuple[ScaledTerms, ScaledTerms]:
    """The terms of log p(x | z) and of the KL, with the values of enumerated sites averaged under q(y | x).

    Their difference is the objective of `pyro.infer.TraceEnum_ELBO`, which trains q(y | x): the mean log-weight less
    KL(q(y | x) || r).
    """
    enumeration: Any = weights.enumeration
    shares = enumeration.guide_shares()

    def averaged(site: Site) -> Tensor:
        return site.log_prob if site.by_value is None or not site.in_rows else weighted(shares, site.by_value)

    kl: ScaledTerms = [(site.scale, -averaged(site)) for site in weights.latent.values()]
    kl += [(site.scale, averaged(site)) for site in weights.drawn_by_guide]
    kl.append((weights.latent[enumeration.names[0]].scale, enumeration.guide_entropy()))
    return [(site.scale, averaged(site)) for site in weights.observed.values()], kl


def classification(weights: LogWeights) -> Tensor:
    """The weighted sum over rows with labels of -log q(label | x), scaled: a scalar."""
    if weights.enumeration is None:
        return torch.zeros(())
    scale = weights.latent[weights.enumeration.names[0]].scale
    return (scale * weights.enumeration.classification().mean(0)).sum()


def scaled(terms: ScaledTerms) -> Tensor:
    """The mean over particles of each term, scaled and summed over rows and terms: a scalar."""
    return sum(((scale * term.mean(0)).sum() for scale, term in terms), torch.zeros(()))
