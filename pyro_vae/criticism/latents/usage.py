"""How much of the latents is used: active units, KL, mutual information, aggregate posterior."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyro_vae.arguments import positive_integer
from pyro_vae.distributions import cells_of
from pyro_vae.elbos.evidence import closed_forms_hold, kl_by_cell
from pyro_vae.evaluation import Mean, mean_over_rows
from pyro_vae.inference import chunks
from pyro_vae.inference.chunks import chunk_weights, fields_of, program_structure, row_chunks
from pyro_vae.inference.handlers import fix_latents
from pyro_vae.inference.pair import ProgramPair
from pyro_vae.inference.weights import LogWeights, Site, log_weights
from pyro_vae.model import LatentVariableModel, check_model
from pyro_vae.runtime.display import Shown
from pyro_vae.runtime.isolation import evaluating

__all__ = ["REMEDIES", "LatentUse", "SiteUse", "use"]

ACTIVE = 0.01  # variance of the posterior mean over rows above which a unit is active (Burda et al., 2015)
REMEDIES = (
    "anneal the KL weight from 0 (kl_weight=schedules.Linear(...)), train with free bits (elbos.FreeBitsELBO), use a"
    " weaker decoder, or fewer latents"
)


@dataclass(frozen=True, repr=False)
class SiteUse(Shown):
    """How some rows use one latent site with D coordinates.

    Attributes:
        kl: KL(q(z | x) || p(z)), given the sites before this one, mean over rows in nats. Where the guide draws sites
            in another order than the model, this is E log q / p at this site, and only the sum over sites is a KL.
        kl_per_dimension: the KL of each coordinate, (D,); None where coordinates depend on each other.
        mean_variance: variance over rows of the mean of q(z | x), (D,). Where this mean is an average over draws, its
            Monte Carlo variance is subtracted. Where the prior of the only site differs between rows, as one that
            depends on covariates, its mean is subtracted first, if it has a closed form: the rest is what x adds.
        active: whether `mean_variance` is above 0.01, (D,).
    """

    kl: Mean
    kl_per_dimension: Tensor | None
    mean_variance: Tensor
    active: Tensor

    def __str__(self) -> str:
        return f"{int(self.active.sum())} of {len(self.active)} units active, KL {self.kl.estimate:.2f} nats"

    def plot(self, ax: Any = None) -> Any:
        """KL of each coordinate; returns matplotlib axes.

        Raises:
            ValueError: if coordinates depend on each other.
        """
        if self.kl_per_dimension is None:
            raise ValueError("Coordinates must be independent given x to have a KL each; got dependent ones. Use kl.")
        from pyro_vae import plots

        return plots.kl_per_dimension(self.kl_per_dimension, self.active, ax=ax)


@dataclass(frozen=True, repr=False)
class LatentUse(Shown):
    """How some rows use the latents, in nats.

    Attributes:
        sites: the use of each latent site, by name.
        kl: KL(q(z | x) || p(z)) of all sites together, mean over rows.
        mutual_information: I(row; z), what z tells about which of the rows it belongs to. It cannot exceed
            log `information_rows`, and is underestimated near that limit.
        aggregate_kl: estimate of KL(q(z) || p(z)), where q(z) is the average of q(z | x) over rows: the mean KL of
            these rows minus their `mutual_information`. Noise can make it negative. NaN where the prior differs between
            rows, as one that depends on fields does: there is no single p(z) then.
        aggregate_kl_error: Monte Carlo standard error of `aggregate_kl`; NaN where that is.
        information_rows: number of rows that `mutual_information` and `aggregate_kl` are computed from.
    """

    sites: dict[str, SiteUse]
    kl: Mean
    mutual_information: Mean
    aggregate_kl: float
    aggregate_kl_error: float
    information_rows: int

    @property
    def collapsed(self) -> list[str]:
        """Sites without an active unit."""
        return [name for name, site in self.sites.items() if not site.active.any()]

    @property
    def aggregate_kl_text(self) -> str:
        """`aggregate_kl` in words: with its error, as not above noise, or why it is not computed."""
        if math.isnan(self.aggregate_kl):
            return "not computed (the prior differs between rows, so that there is no single p(z))"
        if self.aggregate_kl <= 2 * self.aggregate_kl_error:
            return f"not above noise (Monte Carlo error {self.aggregate_kl_error:.2f})"
        return f"{self.aggregate_kl:.2f} (Monte Carlo error {self.aggregate_kl_error:.2f})"

    def __str__(self) -> str:
        lines = [f"{name}: {site}" for name, site in self.sites.items()]
        share = "there" if math.isnan(self.aggregate_kl) else "it is the sum of"
        lines.append(
            f"KL {self.kl.estimate:.2f} nats; in {self.information_rows} rows {share} I(row; z)"
            f" {self.mutual_information.estimate:.2f} and KL(q(z) || p(z)) {self.aggregate_kl_text}"
            f" (I(row; z) cannot exceed the log of the number of rows, {math.log(self.information_rows):.2f},"
            " and is underestimated near that limit)"
        )
        if self.collapsed:
            lines.append(f"Collapsed: {', '.join(self.collapsed)}. Remedies: {REMEDIES}.")
        return "\n".join(lines)


def use(
    model: LatentVariableModel,
    x: Any,
    *,
    num_particles: int = 64,
    information_rows: int = 1000,
    seed: int | None = None,
    **fields: Any,
) -> LatentUse:
    """Active units, KL of each latent, mutual information, and the aggregate posterior against the prior.

    I(row; z) = E log q(z | x) / q(z), where q(z) is the average of q(z | x) over rows, is the part of the KL that is
    information about x. The other part, KL(q(z) || p(z)), is what a better prior could save.

    Args:
        model: the fitted model.
        x: rows (N, *E), in any form that `fit` takes.
        num_particles: draws from the guide per row, at least 2.
        information_rows: number of rows, the first ones, for the mutual information; time grows with its square.
        seed: seed of the draws.
        **fields: named per-row fields, as in `elbo`.

    Raises:
        NotImplementedError: if a latent is global, or one is summed out.

    References:
        *Importance Weighted Autoencoders* (Burda et al., 2015), arXiv 1509.00519; *ELBO Surgery* (Hoffman, Johnson,
        2016)
    """
    positive_integer("num_particles", num_particles, 2)
    positive_integer("information_rows", information_rows)
    rows, names = check_model(model).read_rows(x, fields)
    if len(rows) < 2:
        raise ValueError(f"x must be at least two rows to be compared; got {len(rows)}. Pass more rows.")
    structure = program_structure(model, rows, names)
    if structure.joint:
        raise NotImplementedError("The use of latents is measured row by row; got a global latent.")
    parts = []
    with evaluating(model, seed=seed):
        for batch in row_chunks(model, rows, num_particles, names, structure=structure, at_once=num_particles):
            parts.append(_measure(_of_latents(model, chunk_weights(model, batch, num_particles))))
        kl, error = (torch.cat(column) for column in zip(*[(part.kl, part.error) for part in parts], strict=True))
        batch = rows.take(slice(0, information_rows), names, like=model.like)
        record = _of_latents(model, chunk_weights(model, batch, 2))
        information = _log_ratios(model, batch, record)
        one_prior = _same_prior_in_all_rows(model, batch, record)
    sites = {name: _join_chunks([part.sites[name] for part in parts], one_prior) for name in parts[0].sites}
    mutual = mean_over_rows(information.mean(0), information.std(0) / math.sqrt(2))
    part = mean_over_rows(kl[:information_rows], error[:information_rows])
    return LatentUse(
        sites=sites,
        kl=mean_over_rows(kl, error),
        mutual_information=mutual,
        aggregate_kl=part.estimate - mutual.estimate if one_prior else math.nan,
        aggregate_kl_error=math.hypot(part.monte_carlo_error, mutual.monte_carlo_error) if one_prior else math.nan,
        information_rows=information.shape[1],
    )


class _Site(NamedTuple):
    """What is measured of one site in a chunk of B rows."""

    kl: Tensor  # (B,)
    error: Tensor  # (B,), Monte Carlo standard error of the KL
    by_cell: Tensor | None  # (B, D), KL of each coordinate
    mean: Tensor  # (B, D)
    noise: Tensor  # (B, D), Monte Carlo variance of these means
    prior: Tensor | None  # (B, D), the mean of the prior of the only site; None where it has no closed form


class _Measures(NamedTuple):
    """What is measured in a chunk of B rows."""

    sites: dict[str, _Site]
    kl: Tensor  # (B,), of all sites
    error: Tensor  # (B,), Monte Carlo standard error of the KL


def _of_latents(model: ProgramPair, record: LogWeights) -> LogWeights:
    """The record without the site of missing cells, which model and guide draw alike.

    Raises:
        NotImplementedError: if sites are summed out, since the other latents then have a distribution for each value.
    """
    if record.enumeration is not None:
        raise NotImplementedError(
            "The use of latents is measured where all are drawn; got"
            f" {', '.join(map(repr, record.enumeration.names))}, which the log-weights sum out."
        )
    latent, guide = (
        {name: site for name, site in sites.items() if name != model.site_of_missing}
        for sites in (record.latent, record.guide)
    )
    return replace(record, latent=latent, guide=guide)


def _measure(record: LogWeights) -> _Measures:
    def averaged(log_ratio: Tensor) -> tuple[Tensor, Tensor]:
        return log_ratio.double().mean(0), log_ratio.double().std(0) / math.sqrt(record.num_particles)

    sites, ordered = {}, closed_forms_hold(record)
    for name, p in record.latent.items():
        q = record.guide[name]
        mean = _mean(q.distribution)
        mean = _by_row(q, q.value if mean is None else mean)
        by_cell = _kl_by_cell(q.distribution, p.distribution, q.value, ordered)
        kept = None if by_cell is None else _by_row(q, by_cell).mean(0)
        noise = mean.var(0) / record.num_particles
        centre = _mean(p.distribution) if len(record.latent) == 1 else None
        centre = None if centre is None else _by_row(q, centre).mean(0)
        sites[name] = _Site(*averaged(q.log_prob - p.log_prob), kept, mean.mean(0), noise, centre)
    return _Measures(sites, *averaged(record.log_guide - record.log_prior))


def _by_row(site: Site, terms: Tensor) -> Tensor:
    """Terms that broadcast to the site's value, as one term for each of its cells: (K, B, D)."""
    terms = terms.double().expand(site.value.shape).movedim(_row_dim(site), 1)
    return terms.reshape(*terms.shape[:2], -1)


def _mean(distribution: Any) -> Tensor | None:
    """The mean of a distribution; None where it has none."""
    try:
        mean: Tensor = distribution.mean
        return None if torch.isnan(mean).any() else mean
    except NotImplementedError:
        return None


def _kl_by_cell(q: Any, p: Any, value: Tensor, ordered: bool) -> Tensor | None:
    """KL of each coordinate, from draws where no closed form holds; None where coordinates are dependent."""
    try:
        q, p = (cells_of(one).expand(value.shape) for one in (q, p))
    except NotImplementedError:
        return None
    return kl_by_cell(q, p, value, closed=ordered)


def _join_chunks(parts: list[_Site], one_prior: bool) -> SiteUse:
    """The use of a site; unless all rows have one prior, means count as distances from those of the prior."""
    mean = torch.cat([part.mean if one_prior or part.prior is None else part.mean - part.prior for part in parts])
    variance = mean.var(0) if len(mean) > 1 else torch.zeros_like(mean[0])
    variance = (variance - torch.cat([part.noise for part in parts]).mean(0)).clamp_min(0)
    cells = [part.by_cell for part in parts if part.by_cell is not None]
    kl = mean_over_rows(torch.cat([part.kl for part in parts]), torch.cat([part.error for part in parts]))
    return SiteUse(kl, torch.cat(cells).mean(0) if cells else None, variance, variance > ACTIVE)


def _same_prior_in_all_rows(model: ProgramPair, batch: dict[str, Tensor], record: LogWeights) -> bool:
    """Whether the same latents, draws of the first row, have the same prior density in every row."""
    values = {
        name: site.value.narrow(_row_dim(site), 0, 1).expand(site.value.shape) for name, site in record.guide.items()
    }
    program = fix_latents(model.guide, values)
    again = log_weights(model.model, program, batch["x"], num_particles=2, **fields_of(batch))
    log_prior = _of_latents(model, again).log_prior
    first = log_prior[:, :1].expand(log_prior.shape)
    return torch.allclose(log_prior, first, rtol=1e-4, atol=1e-4)


def _log_ratios(model: ProgramPair, batch: dict[str, Tensor], record: LogWeights) -> Tensor:
    """log q(z | x) / q(z) at two draws of z for each of N rows, (2, N): its mean is the mutual information."""
    n = len(batch["x"])
    width = sum(site.value[0].numel() for site in record.guide.values())
    mixture = []
    for part in torch.arange(2 * n).split(max(2, chunks.CELLS // width // 2 * 2)):  # a particle plate needs two
        values = {  # each of these draws is given to the guide of every row
            name: site.value.movedim(_row_dim(site), 1)
            .flatten(0, 1)[part]
            .unsqueeze(_row_dim(site))
            .expand(len(part), *site.value.shape[1:])
            for name, site in record.guide.items()
        }
        program = fix_latents(model.guide, values)
        pairs = log_weights(model.guide, program, batch["x"], num_particles=len(part), **fields_of(batch))
        mixture.append(torch.logsumexp(_of_latents(model, pairs).log_guide.double(), 1) - math.log(n))
    return record.log_guide.double() - torch.cat(mixture).reshape(2, n)


def _row_dim(site: Site) -> int:
    return -1 if site.row_dim is None else site.row_dim
