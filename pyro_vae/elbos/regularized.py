"""Objectives that change the KL term, or add a penalty to it. The bound reported is always the plain ELBO."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import Independent

from pyro_vae.arguments import finite_number, is_number
from pyro_vae.distributions import unwrap
from pyro_vae.elbos.evidence import ELBO, ScaledTerms, closed_forms_hold, closed_kl, kl_by_cell, scaled
from pyro_vae.inference.gradients import GradientPath
from pyro_vae.inference.weights import LogWeights, Site

__all__ = ["DIPVAE", "BetaTCVAE", "CapacityELBO", "FreeBitsELBO", "InfoVAE", "KLBalancedELBO"]

LatentSites = list[tuple[Site, Site]]


class _Regularized(ELBO):
    """Base of these objectives, N times (the mean reconstruction minus a penalty): write `penalty`."""

    analytic = True
    gradients = ("reparameterized",)
    weighs_kl = False  # whether `kl_weight` has a meaning
    penalizes_latents = True

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        if "kl_weight" in options and not self.weighs_kl:
            raise ValueError(
                f"kl_weight must be left out for {type(self).__name__}, which has other weights;"
                f" got {options['kl_weight']}. Use these, or MeanFieldELBO."
            )

    def objective(
        self, weights: LogWeights, reconstruction: ScaledTerms, kl: ScaledTerms, path: GradientPath | None
    ) -> Tensor:
        if weights.joint:
            raise NotImplementedError(
                f"{type(self).__name__} must have every site in the row plate; got a latent outside it. Use ELBO."
            )
        if weights.enumeration is not None:
            raise NotImplementedError(
                f"{type(self).__name__} with sites that are summed out is not built: its penalty is one of draws; got"
                f" {', '.join(map(repr, weights.enumeration.names))}. Use ELBO or IWAE."
            )
        if any(isinstance(site.scale, Tensor) and site.scale.numel() > 1 for site in weights.sites):
            raise NotImplementedError(
                f"{type(self).__name__} with weights on rows is not built: its penalty is one number for all rows of a"
                " batch. Use ELBO."
            )
        pairs = [(q, weights.latent[name]) for name, q in weights.guide.items() if name in weights.latent]
        return scaled(reconstruction) - weights.total_rows * self.penalty(weights, pairs)

    @abstractmethod
    def penalty(self, weights: LogWeights, pairs: LatentSites) -> Tensor:
        """What is subtracted from the mean reconstruction of a row: a scalar.

        Args:
            weights: the log-weights of a run.
            pairs: each latent site in the guide and in the model.
        """


class FreeBitsELBO(_Regularized):
    """ELBO in which the KL of each latent dimension, or site, costs no less than a floor: sum_j max(floor, KL_j).

    KL_j is the mean over the rows of the batch.

    Args:
        floor: lambda, in nats; at least 0.
        per: what has a floor, each "dimension" of the latents or each "site".

    References:
        *Improving Variational Inference with Inverse Autoregressive Flow* (Kingma et al., 2016), arXiv 1606.04934
    """

    weighs_kl = True

    def __init__(self, *, floor: float = 0.1, per: str = "dimension", **options: Any) -> None:
        super().__init__(**options)
        if not is_number(floor) or not floor >= 0 or per not in ("dimension", "site"):
            raise ValueError(
                f"floor must be zero or more, and per 'dimension' or 'site'; got {floor} and {per!r}. Correct them."
            )
        self.floor, self.per = float(floor), per

    def penalty(self, weights: LogWeights, pairs: LatentSites) -> Tensor:
        closed, each = closed_forms_hold(weights), self.per == "dimension"
        groups = [kl_per_dimension(q, p, closed) if each else _kl(q, p, closed).reshape(1) for q, p in pairs]
        return self.beta() * torch.cat(groups).clamp_min(self.floor).sum()


class KLBalancedELBO(_Regularized):
    """ELBO of several sites in which each KL has a weight in proportion to its size, while `kl_weight` is below 1.

    These weights have mean 1. Sites with a small KL are penalized less, so that none collapses during warm-up. With one
    site this is the ELBO.

    References:
        *NVAE* (Vahdat, Kautz, 2020), arXiv 2007.03898
    """

    weighs_kl = True

    def penalty(self, weights: LogWeights, pairs: LatentSites) -> Tensor:
        closed = closed_forms_hold(weights)
        kl = torch.stack([_kl(q, p, closed) for q, p in pairs])
        beta = torch.as_tensor(self.beta(), dtype=kl.dtype, device=kl.device)
        size = kl.detach().clamp_min(0.0) + 1e-8
        return beta * (torch.where(beta < 1.0, size / size.mean(), 1.0) * kl).sum()


class CapacityELBO(_Regularized):
    """ELBO whose KL is held at a capacity: the penalty is weight |KL - capacity|.

    Args:
        capacity: in nats per row; a number or a schedule, usually from 0 upward.
        weight: gamma, which multiplies the distance of the KL from the capacity.

    References:
        *Understanding Disentangling in beta-VAE* (Burgess et al., 2018), arXiv 1804.03599
    """

    schedulable = ("capacity",)

    def __init__(self, *, capacity: float | Callable[..., float] = 25.0, weight: float = 100.0, **options: Any) -> None:
        super().__init__(**options)
        self.capacity = capacity if callable(capacity) else finite_number("capacity", capacity)
        self.weight = finite_number("weight", weight)

    def penalty(self, weights: LogWeights, pairs: LatentSites) -> Tensor:
        closed = closed_forms_hold(weights)
        kl = sum((_kl(q, p, closed) for q, p in pairs), torch.zeros(()))
        return self.weight * (kl - self.current_value("capacity")).abs()


class BetaTCVAE(_Regularized):
    """ELBO whose KL is split into mutual information, total correlation and dimension-wise KL, with a weight each.

    The mutual information is that between the row number and z. The log-densities log q(z) and log q(z_j) of the
    aggregate posterior are estimated from the batch.

    Args:
        mutual_information: alpha.
        total_correlation: beta.
        dimension_wise: gamma. With all three equal to 1 this is the ELBO.
        sampling: how the density of the aggregate posterior of N rows is estimated from a batch of B rows: "weighted",
            or "stratified" (the paper's formula, unbiased for the density).

    References:
        *Isolating Sources of Disentanglement in VAEs* (Chen et al., 2018), arXiv 1802.04942
    """

    def __init__(
        self,
        *,
        mutual_information: float = 1.0,
        total_correlation: float = 6.0,
        dimension_wise: float = 1.0,
        sampling: str = "stratified",
        **options: Any,
    ) -> None:
        super().__init__(**options)
        if sampling not in ("weighted", "stratified"):
            raise ValueError(f"sampling must be weighted or stratified; got {sampling!r}. Choose one of these.")
        if self.num_particles != 1:
            raise ValueError(f"num_particles must be 1 for BetaTCVAE; got {self.num_particles}. Use larger batches.")
        self.shares = (
            finite_number("mutual_information", mutual_information),
            finite_number("total_correlation", total_correlation),
            finite_number("dimension_wise", dimension_wise),
        )
        self.sampling = sampling

    def penalty(self, weights: LogWeights, pairs: LatentSites) -> Tensor:
        parts = [self._decompose(q, p, weights.total_rows) for q, p in pairs]
        return sum(
            (share * part for each in parts for share, part in zip(self.shares, each, strict=True)), torch.zeros(())
        )

    def _decompose(self, q: Site, p: Site, total: int) -> tuple[Tensor, Tensor, Tensor]:
        """Mutual information, total correlation and dimension-wise KL, means over the batch."""
        z = q.value[0]  # (B, D)
        base, prior = _independent(q), _independent(p)
        pairwise = base.expand(z.shape).log_prob(z.unsqueeze(1))  # (B, B, D): log q(z_i | x_j)
        shift = self._log_shares(z.shape[0], total).to(z)
        log_q = base.log_prob(z).sum(-1)
        log_joint = torch.logsumexp(pairwise.sum(-1) + shift, 1)
        log_product = torch.logsumexp(pairwise + shift.unsqueeze(-1), 1).sum(-1)
        log_p = prior.log_prob(z).sum(-1)
        return (log_q - log_joint).mean(), (log_joint - log_product).mean(), (log_product - log_p).mean()

    def _log_shares(self, num_rows: int, total: int) -> Tensor:
        """The logarithm of the weight of row j in the estimate of q(z_i): (B, B)."""
        if self.sampling == "weighted" or num_rows == 1:
            return torch.full((num_rows, num_rows), -math.log(num_rows * total))
        shares = torch.full((num_rows, num_rows), 1.0 / (num_rows - 1))
        total = max(total, num_rows)
        shares.fill_diagonal_(1.0 / total)
        off = (torch.arange(num_rows) + 1) % num_rows
        shares[torch.arange(num_rows), off] = (total - num_rows + 1) / (total * (num_rows - 1))
        return shares.log()


class InfoVAE(_Regularized):
    """ELBO whose KL becomes (1 - alpha) KL + (alpha + lambda - 1) MMD.

    MMD is the maximum mean discrepancy between the aggregate posterior and the prior, estimated from the batch, with a
    Gaussian kernel of bandwidth sqrt(D), exp(-d^2 / 2D).

    Args:
        alpha: 0 keeps the KL, 1 removes it (MMD-VAE).
        weight: lambda.

    References:
        *InfoVAE* (Zhao, Song, Ermon, 2017), arXiv 1706.02262
    """

    def __init__(self, *, alpha: float = 0.0, weight: float = 10.0, **options: Any) -> None:
        super().__init__(**options)
        self.alpha, self.weight = finite_number("alpha", alpha), finite_number("weight", weight)

    def penalty(self, weights: LogWeights, pairs: LatentSites) -> Tensor:
        total = torch.zeros(())
        for q, p in pairs:
            z = q.value.flatten(0, 1)
            shape = q.distribution.batch_shape  # type: ignore[attr-defined]
            prior = p.distribution.expand(shape).sample().flatten(0, len(shape) - 1)  # type: ignore[attr-defined]
            mmd = _mmd(z, prior)
            total = (
                total + (1 - self.alpha) * _kl(q, p, closed_forms_hold(weights)) + (self.alpha + self.weight - 1) * mmd
            )
        return total


class DIPVAE(_Regularized):
    """ELBO with a penalty on the covariance of the aggregate posterior, which should be the identity.

    Args:
        off_diagonal: weight of the squared covariances.
        diagonal: weight of the squared differences of the variances from 1.
        of: whose covariance: that of the "means" of q (DIP-VAE-I), or that of "draws", which adds the expected
            variances (DIP-VAE-II).

    References:
        *Variational Inference of Disentangled Latent Concepts* (Kumar, Sattigeri, Balakrishnan, 2018), arXiv 1711.00848
    """

    def __init__(self, *, off_diagonal: float = 10.0, diagonal: float = 5.0, of: str = "means", **options: Any) -> None:
        super().__init__(**options)
        if of not in ("means", "draws"):
            raise ValueError(f"of must be means or draws; got {of!r}. Choose one of these.")
        self.off_diagonal, self.diagonal = (
            finite_number("off_diagonal", off_diagonal),
            finite_number("diagonal", diagonal),
        )
        self.of = of

    def penalty(self, weights: LogWeights, pairs: LatentSites) -> Tensor:
        total = torch.zeros(())
        for q, p in pairs:
            base = _independent(q)
            means, variances = base.mean.flatten(0, -2), base.variance.flatten(0, -2)
            centred = means - means.mean(0)
            covariance = centred.T @ centred / means.shape[0]
            if self.of == "draws":
                covariance = covariance + variances.mean(0).diag()
            diagonal = covariance.diag()
            off = covariance.square().sum() - diagonal.square().sum()
            kl = _kl(q, p, closed_forms_hold(weights))
            total = total + kl + self.off_diagonal * off + self.diagonal * (diagonal - 1).square().sum()
        return total


def _kl(q: Site, p: Site, closed: bool) -> Tensor:
    """The KL of a site, mean over particles and rows; in closed form if there is one and it holds."""
    kl = closed_kl(q.distribution, p.distribution) if closed else None
    return (q.log_prob - p.log_prob).mean() if kl is None else q.per_row(kl).mean()


def kl_per_dimension(q: Site, p: Site, closed: bool) -> Tensor:
    """The KL of each dimension of a latent vector, mean over particles and rows: (D,).

    Raises:
        NotImplementedError: if the dimensions are not independent under both distributions.
    """
    kl = kl_by_cell(_independent(q), _independent(p), q.value, closed=closed)
    return kl.reshape(-1, kl.shape[-1]).mean(0)


def _independent(site: Site) -> Any:
    """The distribution of single dimensions of a latent vector.

    Raises:
        NotImplementedError: if the dimensions are not independent.
    """
    fn = unwrap(site.distribution, dist.ExpandedDistribution, dist.MaskedDistribution)
    if not isinstance(fn, Independent) or fn.reinterpreted_batch_ndims != 1 or fn.base_dist.event_shape:
        raise NotImplementedError(
            f"Site {site.name!r} must have independent dimensions; got {type(fn).__name__}. Use ELBO, or .to_event(1)."
        )
    return fn.base_dist


def _mmd(x: Tensor, y: Tensor) -> Tensor:
    """Squared maximum mean discrepancy with a Gaussian kernel, as a biased V-statistic: (n, D), (m, D) -> scalar."""

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        squares = (a.unsqueeze(1) - b.unsqueeze(0)).square().sum(-1)
        return torch.exp(-squares / (2 * a.shape[-1])).mean()

    return kernel(x, x) + kernel(y, y) - 2 * kernel(x, y)
