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

from pyro_vae.inference.enumeration import Enumeration, PlatesUnknownError, Summed, SumOut
from pyro_vae.inference.gradients import GradientPath
from pyro_vae.inference.handlers import Program, ScaleRows
from pyro_vae.inference.programs import (
    Plates,
    check_sites,
    find_plates,
    known_plates,
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
        value: the value; the first dimension of a latent's value runs over particles. Where sites are summed out, their
            values, and draws that depend on them, have dimensions of enumeration before it.
        log_prob: masked, *unscaled* log-probability, (K, B); (K, 1) outside the row plate. Where sites are summed out,
            it is the mean under the responsibilities of their values (`inference.enumeration`).
        scale: what `poutine.scale` and subsampling multiply the term by; a number or a tensor that broadcasts to (B,).
        in_rows: whether the site lies inside the row plate.
        per_row: a function that masks terms of the distribution's batch shape and sums them to (K, B), or (K, 1).
        row_dim: the dimension of the value that runs over rows, counted from the last; None outside the row plate.
        by_value: the log-probability for each combination of values of the sites that are summed out, (C_n, ..., C_1,
            K, B), with 1 or nothing for those on which it does not depend; None where the site is not evaluated.
        per_value: a function like `per_row` that keeps these dimensions.
        leading: the number of dimensions of enumeration that the value has.
    """

    name: str
    distribution: Distribution
    value: Tensor
    log_prob: Tensor
    scale: float | Tensor
    in_rows: bool
    per_row: Callable[[Tensor], Tensor]
    row_dim: int | None
    by_value: Tensor | None = None
    per_value: Callable[[Tensor], Tensor] | None = None
    leading: int = 0

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
        enumeration: the combinations of values of the sites that are summed out; None where there are none.

    Where sites are summed out, log_w is exactly the logarithm of the sum over their values. Such a site is among the
    guide's, too, with the logarithm of the responsibilities: log p - log q of all sites together is log_w.

    If one site lies outside the row plate, the weights are *joint*: the totals have shape (K, 1), one weight for all
    rows together.
    """

    observed: dict[str, Site]
    latent: dict[str, Site]
    guide: dict[str, Site]
    num_particles: int
    num_rows: int
    total_rows: int
    enumeration: Enumeration | None = None

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

    @cached_property
    def log_draws(self) -> Tensor:
        """The unscaled log-density of all draws, one for each value of a site that is summed out, (K, B) or (K, 1)."""
        terms = [_over_values(site) for site in self.drawn_by_guide]
        return sum((term.sum(-1, keepdim=True) if self.joint else term for term in terms), torch.zeros(()))

    def densities(self, observed: dict[str, Tensor] | None = None) -> tuple[Tensor, Tensor]:
        """log q(z | x) and log p(x, z), (K, B), at draws z that all values of the enumerated sites share.

        These sites are summed out of each; a known label counts as given in q, and as data in p.

        Args:
            observed: terms that replace those of observed sites by name, (C_n, ..., C_1, K, B).
        """
        if self.enumeration is None:
            raise ValueError("densities must be asked of a run with enumerated sites; got none. Use log_guide.")
        drawn, model = self.drawn_by_guide, self._model_with(observed)
        q = self.enumeration.log_sum(self._in_rows(drawn) + self.enumeration.log_q, guide=True)
        p = self.enumeration.log_sum(self._in_rows(model))
        return self._with_global(q, drawn), self._with_global(p, model)

    def log_w_of(self, observed: dict[str, Tensor]) -> Tensor:
        """Log-weights, (K, B), of a run with enumerated sites where other terms replace those of observed sites."""
        if self.enumeration is None:
            raise ValueError("log_w_of must be asked of a run with enumerated sites; got none. Use log_w.")
        drawn, model = self.drawn_by_guide, self._model_with(observed)
        rows = self.enumeration.log_sum(self._in_rows(model) - self._in_rows(drawn))
        return self._with_global(rows, model) - self._with_global(torch.zeros_like(rows), drawn)

    @property
    def drawn_by_guide(self) -> list[Site]:
        """The guide's sites that are not summed out."""
        names = () if self.enumeration is None else self.enumeration.names
        return [site for name, site in self.guide.items() if name not in names]

    def _model_with(self, observed: dict[str, Tensor] | None) -> list[Site]:
        """The model's sites, with other terms at observed ones."""
        replaced = {name: replace(self.observed[name], by_value=terms) for name, terms in (observed or {}).items()}
        return [*(self.observed | replaced).values(), *self.latent.values()]

    def _in_rows(self, sites: Iterable[Site]) -> Tensor:
        """The sum of the terms of the sites in the row plate, by value: (C_n, ..., C_1, K, B)."""
        start = torch.zeros(1, 1)
        return sum((s.by_value for s in sites if s.in_rows and s.by_value is not None), start)

    def _with_global(self, rows: Tensor, sites: Iterable[Site]) -> Tensor:
        """Terms of rows, (K, B), with those of sites outside the row plate: (K, B), or (K, 1) if joint."""
        outside = [site for site in sites if not site.in_rows]
        return rows.sum(-1, keepdim=True) + self.total(outside) if self.joint else rows

    def draw_latents(self, *, posterior: bool = True) -> dict[str, Tensor]:
        """Values of all latent sites, (K, B, ...): for each particle one value of each site that is summed out.

        Args:
            posterior: whether these values are drawn by their responsibilities; if not, by the guide's probabilities.
        """
        if self.enumeration is None:
            return {name: site.value for name, site in self.latent.items()}
        shares = self.enumeration.shares if posterior else self.enumeration.guide_shares().detach()
        chosen = self.enumeration.drawn(shares)
        return {name: self._at(site, chosen) for name, site in self.latent.items()}

    @staticmethod
    def _at(site: Site, chosen: dict[str, Tensor]) -> Tensor:
        """The value of a latent site, (K, B, ...), at the chosen values of the enumerated sites, (K, B) each."""
        value, count = site.value, site.leading
        for place, number in enumerate(chosen.values()):
            dim = count - 1 - place
            if dim < 0 or value.shape[dim] == 1:
                continue
            shape = [1] * value.dim()
            shape[count], shape[value.dim() + (site.row_dim or 0)] = number.shape
            value = torch.take_along_dim(value, number.reshape(shape), dim)
        return value[(0,) * count]

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
        first = records[0]
        names = () if first.enumeration is None else first.enumeration.names

        def join(kind: str) -> dict[str, Site]:
            parts: list[dict[str, Site]] = [getattr(record, kind) for record in records]
            joined = {}
            for name, site in parts[0].items():
                log_prob = torch.cat([part[name].log_prob for part in parts])
                given = kind == "observed" or name in names  # the same in all records
                value = site.value if given else torch.cat([part[name].value for part in parts], site.leading)
                terms = [part[name].by_value for part in parts]
                by_value = None if site.by_value is None else torch.cat([t for t in terms if t is not None], -2)
                joined[name] = replace(site, value=value, log_prob=log_prob, by_value=by_value)
            return joined

        count = sum(record.num_particles for record in records)
        whole = LogWeights(
            join("observed"), join("latent"), join("guide"), count, first.num_rows, first.total_rows, first.enumeration
        )
        return whole if first.enumeration is None else whole._summed_out(first.enumeration.summed)

    def _summed_out(self, summed: tuple[Summed, ...]) -> LogWeights:
        """This record with the terms of each site averaged under the responsibilities of the enumerated values."""
        summed = tuple(replace(one, log_q=_by_value_in(self.guide, one.name)) for one in summed)
        drawn = [site for name, site in self.guide.items() if name not in [one.name for one in summed]]
        model = [*self.observed.values(), *self.latent.values()]
        enumeration = Enumeration.of(summed, self._in_rows(model) - self._in_rows(drawn))

        def averaged(site: Site) -> Site:
            of, by_value = site.per_value, site.by_value
            if of is None or by_value is None or not site.in_rows:
                return site
            return replace(
                site, log_prob=enumeration.average(by_value), per_row=lambda terms: enumeration.average(of(terms))
            )

        kinds = [{n: averaged(site) for n, site in kind.items()} for kind in (self.observed, self.latent, self.guide)]
        for one, entropy in zip(summed, enumeration.entropies(), strict=True):
            site = kinds[2].get(one.name, replace(kinds[1][one.name], by_value=None))
            kinds[2][one.name] = replace(site, log_prob=entropy)
        return replace(self, observed=kinds[0], latent=kinds[1], guide=kinds[2], enumeration=enumeration)


def _equal(a: float | Tensor, b: float | Tensor) -> bool:
    return bool(torch.as_tensor(a == b).all()) if isinstance(a, Tensor) or isinstance(b, Tensor) else bool(a == b)


def _differs_from_one(scale: float | Tensor) -> bool:
    return not _equal(scale, 1.0)


def _by_value_in(guide: dict[str, Site], name: str) -> Tensor | None:
    return guide[name].by_value if name in guide else None


def _over_values(site: Site) -> Tensor:
    """The sum of the terms of all values, (K, B)."""
    terms = site.log_prob if site.by_value is None else site.by_value
    return terms.sum(tuple(range(terms.dim() - 2))) if terms.dim() > 2 else terms


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
        ValueError: if model and guide do not have the same latent sites, or one cannot be summed out that should be.
    """
    plate = row_plate(model)
    summed, (model_trace, guide_trace) = _run(model, guide, args, kwargs, num_particles, path, num_rows, row_weights)
    check_sites(model_trace, guide_trace)
    nesting = -1 - summed.first_dim - (num_particles > 1) if summed.first_dim is not None else 0
    recorder = _Recorder(plate, nesting, num_particles, bool(summed.dims))
    sites = {name: site for name, site in model_trace.nodes.items() if site["type"] == "sample"}
    in_guide = {name: site for name, site in guide_trace.nodes.items() if site["type"] == "sample"}
    frames = [f for site in [*sites.values(), *in_guide.values()] for f in site["cond_indep_stack"] if f.name == plate]
    record = LogWeights(
        observed={name: recorder.site(name, site) for name, site in sites.items() if site["is_observed"]},
        latent={name: recorder.site(name, site) for name, site in sites.items() if not site["is_observed"]},
        guide={name: recorder.site(name, site) for name, site in in_guide.items()},
        num_particles=num_particles,
        num_rows=frames[0].size if frames else 1,
        total_rows=num_rows or ((frames[0].full_size or frames[0].size) if frames else 1),
    )
    if not summed.dims:
        return record
    found = tuple(Summed.of(place, sites[name], in_guide.get(name), None) for place, name in enumerate(summed.dims))
    record = record._summed_out(found)
    if path is not None and path.detached_log_q and record.enumeration is not None:
        path.shares = record.enumeration.shares
    return record


def _run(
    model: Program,
    guide: Program,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    num_particles: int,
    path: GradientPath | None,
    num_rows: int | None,
    row_weights: Tensor | None,
) -> tuple[SumOut, tuple[Any, Any]]:
    """Run the programs; returns the handler of the sites that were summed out, and the traces of model and guide.

    With one particle, plates are counted only if a site is to be summed out.
    """
    plate, owner = row_plate(model), (model, guide, args, kwargs)
    if num_particles > 1:
        known: Plates | None = find_plates(*owner, checked=True)
    else:
        known = known_plates(model)
    while True:
        first_dim = None if known is None else -1 - known.nesting - (num_particles > 1)
        summed = SumOut(plate, first_dim, () if known is None else known.enumerated)
        try:
            with ScaleRows(plate, num_rows, row_weights):
                return summed, run_programs(*owner, num_particles, path, summed)
        except PlatesUnknownError:
            known = find_plates(*owner)


@dataclass(frozen=True)
class _Recorder:
    """Makes records of the sites of a trace.

    Attributes:
        plate: the name of the row plate.
        nesting: the number of plate dimensions; 0 if it is unknown.
        num_particles: K.
        enumerated: whether sites are summed out, in the dimensions left of particles and plates.
    """

    plate: str
    nesting: int
    num_particles: int
    enumerated: bool

    def site(self, name: str, site: Any) -> Site:
        """The record of a site."""
        dims = row_dims(site, self.plate)
        particle_dim = -1 - self.nesting if self.num_particles > 1 else None
        first = -1 - self.nesting - (self.num_particles > 1)  # dimensions from here to the left are of enumeration

        def per_value(terms: Tensor) -> Tensor:
            terms = scale_and_mask(terms, 1.0, site["mask"])
            kept = (particle_dim, *dims)
            left = first if self.enumerated else -1 - terms.dim()
            summed = [dim for dim in range(-terms.dim(), 0) if dim not in kept and dim > left]
            terms = terms.sum(summed) if summed else terms
            terms = terms if dims else terms.unsqueeze(-1)
            return terms if particle_dim is not None else terms.unsqueeze(-2)

        terms = per_value(site["fn"].log_prob(site["value"], *site["args"], **site["kwargs"]))
        value, events = site["value"], site["fn"].event_dim
        leading = max(0, value.dim() - events + 1 + first) if self.enumerated else 0
        value = value if particle_dim is not None else value.unsqueeze(leading)
        row_dim = dims[0] - events if dims else None
        if not self.enumerated:
            return Site(name, site["fn"], value, terms, site["scale"], bool(dims), per_value, row_dim)
        if terms.dim() > 2 and not dims:
            raise ValueError(
                f"Site {name!r}, which depends on a site that is summed out in each row, must lie in the row plate"
                f" {self.plate!r}; got one outside. Move it there."
            )
        terms = terms.expand(*terms.shape[:-2], self.num_particles, terms.shape[-1])
        return Site(
            name, site["fn"], value, terms, site["scale"], bool(dims), per_value, row_dim, terms, per_value, leading
        )
