"""The log-weights of any pair of Pyro programs, site by site: the record from which every number is computed."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from pyro.distributions import Distribution
from pyro.distributions.util import scale_and_mask
from torch import Tensor

from pyro_vae.inference.programs import (
    GradientPath,
    Program,
    ScaleRows,
    check_sites,
    plate_nesting,
    row_dims,
    row_plate,
    run_programs,
)
from pyro_vae.runtime.display import Shown

__all__ = ["LogWeights", "Site", "log_weights"]


@dataclass(frozen=True, repr=False)
class Site(Shown):
    """One sample site of a run.

    Attributes:
        name: its name in the program.
        distribution: the distribution at the site.
        value: the value; the first dimension of a latent's value runs over particles.
        log_prob: masked, *unscaled* log-probability, (K, B); (K, 1) outside the row plate.
        scale: what `poutine.scale` and subsampling multiply the term by; a number or a tensor that broadcasts to (B,).
        in_rows: whether the site lies inside the row plate.
        per_row: a function that masks terms of the distribution's batch shape and sums them to (K, B), or (K, 1).
        row_dim: the dimension of the value that runs over rows, counted from the last; None outside the row plate.
    """

    name: str
    distribution: Distribution
    value: Tensor
    log_prob: Tensor
    scale: float | Tensor
    in_rows: bool
    per_row: Callable[[Tensor], Tensor]
    row_dim: int | None

    def broadcast_to_value(self, terms: Tensor) -> Tensor:
        """Reshape terms (K, B) or (K, 1) so that they broadcast against the value; K may be 1, for all particles."""
        shape = [len(terms)] + [1] * (self.value.dim() - 1)
        if self.row_dim is not None:
            shape[self.row_dim] = terms.shape[1]
        return terms.reshape(shape)

    def sum_to_rows(self, cells: Tensor) -> Tensor:
        """Sum terms of the value's shape, one per cell, to (K, B); to (K, 1) outside the row plate."""
        row_dims = () if self.row_dim is None else (self.row_dim + cells.dim(),)
        others = [dim for dim in range(1, cells.dim()) if dim not in row_dims]
        summed = cells.sum(others) if others else cells
        return summed if row_dims else summed.unsqueeze(-1)


@dataclass(frozen=True, repr=False)
class LogWeights(Shown):
    """Per-site log-probabilities of K runs of guide and model over B rows.

    Attributes:
        observed: the model's observed sites.
        latent: the model's latent sites.
        guide: the guide's sites, auxiliary ones included.
        num_particles: K.
        num_rows: B, the number of rows in this batch; 1 if the programs have no row plate.
        total_rows: N, the number of rows in the data set that the scaled terms estimate.

    If one site lies outside the row plate, the weights are *joint*: the totals have shape (K, 1), one weight for all
    rows together.
    """

    observed: dict[str, Site]
    latent: dict[str, Site]
    guide: dict[str, Site]
    num_particles: int
    num_rows: int
    total_rows: int

    @cached_property
    def joint(self) -> bool:
        """Whether a site lies outside the row plate, so that each particle has one weight for the whole data set."""
        return not all(site.in_rows for site in self.sites)

    @property
    def sites(self) -> list[Site]:
        """All sites: the model's observed and latent ones, then the guide's."""
        return [*self.observed.values(), *self.latent.values(), *self.guide.values()]

    def total(self, sites: Iterable[Site]) -> Tensor:
        """The sum of the sites' unscaled log-probabilities: (K, B), or (K, 1) if joint.

        Raises:
            NotImplementedError: if the weights are joint and rows are subsampled: scaled terms do not form a weight.
        """
        if not self.joint:
            return sum((site.log_prob for site in sites), torch.zeros(()))
        if any(_differs_from_one(site.scale) for site in self.sites):
            raise NotImplementedError(
                "Log-weights with a latent site outside the row plate must see all rows, unscaled; got a subsample"
                " or a scaled site. Use the whole data set as one batch, or an ELBO."
            )
        return sum((site.log_prob.sum(-1, keepdim=True) for site in sites), torch.zeros(()))

    @cached_property
    def log_likelihood(self) -> Tensor:
        """log p(x | z), (K, B)."""
        return self.total(self.observed.values())

    @cached_property
    def log_prior(self) -> Tensor:
        """log p(z), (K, B)."""
        return self.total(self.latent.values())

    @cached_property
    def log_guide(self) -> Tensor:
        """log q(z | x), (K, B)."""
        return self.total(self.guide.values())

    @cached_property
    def log_w(self) -> Tensor:
        """log p(x, z) - log q(z | x), (K, B)."""
        return self.log_likelihood + self.log_prior - self.log_guide

    @property
    def scale(self) -> float | Tensor:
        """The scale that all sites share; it multiplies a bound after the logarithm.

        Raises:
            ValueError: if the sites' scales differ.
        """
        scales = [site.scale for site in self.sites]
        if any(scale is not scales[0] and not _equal(scale, scales[0]) for scale in scales):
            raise ValueError(
                "The scale of all sites must be the same for a bound formed from weights; got different ones."
                " Put poutine.scale around whole programs, or use an ELBO."
            )
        return scales[0]

    @staticmethod
    def joined(records: list[LogWeights]) -> LogWeights:
        """Concatenate records over particles; the distributions kept are those of the first record."""

        def join(kind: str) -> dict[str, Site]:
            parts: list[dict[str, Site]] = [getattr(record, kind) for record in records]
            joined = {}
            for name, site in parts[0].items():
                log_prob = torch.cat([part[name].log_prob for part in parts])
                value = site.value if kind == "observed" else torch.cat([part[name].value for part in parts])
                joined[name] = replace(site, value=value, log_prob=log_prob)
            return joined

        count = sum(record.num_particles for record in records)
        return LogWeights(
            join("observed"), join("latent"), join("guide"), count, records[0].num_rows, records[0].total_rows
        )


def _equal(a: float | Tensor, b: float | Tensor) -> bool:
    return bool(torch.as_tensor(a == b).all()) if isinstance(a, Tensor) or isinstance(b, Tensor) else bool(a == b)


def _differs_from_one(scale: float | Tensor) -> bool:
    return not _equal(scale, 1.0)


def log_weights(
    model: Program,
    guide: Program,
    *args: Any,
    num_particles: int = 1,
    num_rows: int | None = None,
    row_weights: Tensor | None = None,
    path: GradientPath | None = None,
    **kwargs: Any,
) -> LogWeights:
    """Run guide and model on K particles and record every site.

    Args:
        model: the model; called with `*args, **kwargs`.
        guide: the guide; called likewise.
        *args: what both programs are called with, usually x.
        num_particles: K. With K = 1 no particle plate is opened.
        num_rows: N, if this call sees only B of N rows: sites in the row plate are scaled by N/B.
        row_weights: (B,), multiplied into the scale of the sites in the row plate.
        path: how gradients pass through the draws to the guide's parameters; None leaves this to the guide.
        **kwargs: named arguments of both programs, usually fields.

    Raises:
        ValueError: if model and guide do not have the same latent sites.
        NotImplementedError: if a model site is to be enumerated.
    """
    plate = row_plate(model)
    nesting = plate_nesting(model, guide, args, kwargs) if num_particles > 1 else 0
    with ScaleRows(plate, num_rows, row_weights):
        model_trace, guide_trace = run_programs(model, guide, args, kwargs, num_particles, path)
    check_sites(model_trace, guide_trace)

    particle_dim = -1 - nesting if num_particles > 1 else None

    def record(name: str, site: Any) -> Site:
        dims = row_dims(site, plate)

        def per_row(terms: Tensor) -> Tensor:
            terms = scale_and_mask(terms, 1.0, site["mask"])
            summed = [dim for dim in range(-terms.dim(), 0) if dim not in (particle_dim, *dims)]
            terms = terms.sum(summed) if summed else terms
            terms = terms if particle_dim is not None else terms.unsqueeze(0)
            return terms if dims else terms.unsqueeze(-1)

        log_prob = per_row(site["fn"].log_prob(site["value"], *site["args"], **site["kwargs"]))
        value = site["value"] if particle_dim is not None else site["value"].unsqueeze(0)
        row_dim = dims[0] - site["fn"].event_dim if dims else None
        return Site(name, site["fn"], value, log_prob, site["scale"], bool(dims), per_row, row_dim)

    sites = {name: site for name, site in model_trace.nodes.items() if site["type"] == "sample"}
    in_guide = {name: site for name, site in guide_trace.nodes.items() if site["type"] == "sample"}
    frames = [f for site in [*sites.values(), *in_guide.values()] for f in site["cond_indep_stack"] if f.name == plate]
    return LogWeights(
        observed={name: record(name, site) for name, site in sites.items() if site["is_observed"]},
        latent={name: record(name, site) for name, site in sites.items() if not site["is_observed"]},
        guide={name: record(name, site) for name, site in in_guide.items()},
        num_particles=num_particles,
        num_rows=frames[0].size if frames else 1,
        total_rows=num_rows or ((frames[0].full_size or frames[0].size) if frames else 1),
    )
