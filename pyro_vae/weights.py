"""The record of log-weights of any pair of Pyro programs, from which every number is read off."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any
from weakref import WeakKeyDictionary

import pyro
import torch
from pyro import poutine
from pyro.distributions import Distribution
from pyro.distributions.util import scale_and_mask
from pyro.poutine.util import prune_subsample_sites
from torch import Tensor, nn

from pyro_vae import scope

__all__ = [
    "LogWeights",
    "Path",
    "ScaleRows",
    "Site",
    "check_sites",
    "log_weights",
    "outside_rows",
    "particles",
    "plate_nesting",
    "row_plate",
    "run_programs",
]

Program = Callable[..., Any]


@dataclass(frozen=True)
class Site:
    """One sample site of a run.

    Attributes:
        name: its name in the program.
        distribution: the distribution at the site.
        value: the value; that of a latent has the particles as its leading dimension.
        log_prob: masked, *unscaled* log-probability, (K, B); (K, 1) outside the row plate.
        scale: what `poutine.scale` and subsampling multiply the term by; a number or a tensor that broadcasts to (B,).
        in_rows: whether the site lies inside the row plate.
        per_row: masks terms of the distribution's batch shape and sums them to (K, B), or (K, 1).
    """

    name: str
    distribution: Distribution
    value: Tensor
    log_prob: Tensor
    scale: float | Tensor
    in_rows: bool
    per_row: Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class LogWeights:
    """Per-site log-probabilities of K runs of guide and model over B rows.

    Attributes:
        observed: the model's observed sites.
        latent: the model's latent sites.
        guide: the guide's sites, auxiliary ones included.
        num_particles: K.
        num_rows: B, the rows in this batch (1 where the program has no row plate).
        total_rows: N, the rows that the scaled terms speak for.

    The totals are joint over the rows, of shape (K, 1), as soon as one site lies outside the row plate.
    """

    observed: dict[str, Site]
    latent: dict[str, Site]
    guide: dict[str, Site]
    num_particles: int
    num_rows: int
    total_rows: int

    @cached_property
    def joint(self) -> bool:
        """Whether a site lies outside the row plate, so that there is one weight for the whole data set."""
        return not all(site.in_rows for site in self.sites)

    @property
    def sites(self) -> list[Site]:
        return [*self.observed.values(), *self.latent.values(), *self.guide.values()]

    def total(self, sites: Iterable[Site]) -> Tensor:
        """The sum of the sites' unscaled log-probabilities: (K, B), or (K, 1) if joint.

        Raises:
            NotImplementedError: if the weights are joint and rows are subsampled: scaled terms form no weight.
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
        """The one scale of all sites, applied to a bound after the logarithm.

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
        """One record of all particles of several; distributions are those of the first."""

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
    return bool(torch.as_tensor(a == b).all())


def _differs_from_one(scale: float | Tensor) -> bool:
    return not _equal(scale, 1.0)


@dataclass
class Path:
    """How a run's draws depend on the guide's parameters: a gradient estimator is a choice of these.

    Attributes:
        attached: whether draws carry a gradient; where not, they are constants.
        stopped: whether log q is that of a guide whose parameters are stopped, so that it depends on them only
            through the draws. Costs a second run of the guide.
        ratio: (K, B), set by `scale` after the run: multiplies the gradient that arrives at the draws from the model,
            and from a stopped log q. Paths inside the guide, from one draw to the next, are passed once.
        chunks: the paths of the runs that one run was cut into, and their numbers of particles.
    """

    attached: bool = True
    stopped: bool = False
    ratio: Tensor | None = None
    chunks: list[tuple[Path, int]] = field(default_factory=list)

    def scale(self, ratio: Tensor) -> None:
        """Set the ratio, here or chunk by chunk."""
        self.ratio = ratio
        if self.chunks:
            parts = ratio.split([count for _, count in self.chunks])
            for (path, _), part in zip(self.chunks, parts, strict=True):
                path.ratio = part

    def cut(self, count: int) -> Path:
        """The path of a chunk of so many particles."""
        path = Path(self.attached, self.stopped)
        self.chunks.append((path, count))
        return path


class _SetValues(poutine.messenger.Messenger):
    """Let sites draw, and then take the values given: the noise consumed is that of the run that gave them."""

    def __init__(self, values: dict[str, Tensor]) -> None:
        super().__init__()
        self.values = values

    def _pyro_post_sample(self, msg: Any) -> None:
        if msg["name"] in self.values:
            msg["value"] = self.values[msg["name"]]


class _Detach(poutine.messenger.Messenger):
    """Make constants of draws."""

    def _pyro_post_sample(self, msg: Any) -> None:
        if isinstance(msg["value"], Tensor):
            msg["value"] = msg["value"].detach()


class ScaleRows(poutine.messenger.Messenger):
    """A handler that scales every site in the row plate to N rows: N is known to the estimator, not to the program.

    Args:
        plate: the name of the row plate.
        num_rows: N; the factor is N over the size that the plate states. None: the plate's own size.
        row_weights: (B,), multiplied in.
    """

    def __init__(self, plate: str, num_rows: int | None, row_weights: Tensor | None) -> None:
        super().__init__()
        self.plate, self.num_rows, self.row_weights = plate, num_rows, row_weights

    def _pyro_sample(self, msg: Any) -> None:
        for frame in msg["cond_indep_stack"]:
            if frame.name == self.plate:
                if self.num_rows is not None:
                    msg["scale"] = msg["scale"] * (self.num_rows / (frame.full_size or frame.size))
                if self.row_weights is not None:
                    msg["scale"] = msg["scale"] * self.row_weights


def row_plate(program: Program) -> str:
    """The name of the plate over rows: the class attribute `row_plate` of the program's owner, or "data"."""
    return getattr(getattr(program, "__self__", None), "row_plate", "data")


_nestings: WeakKeyDictionary[Any, int] = WeakKeyDictionary()


def plate_nesting(model: Program, guide: Program, args: tuple[Any, ...], kwargs: dict[str, Any]) -> int:
    """How many plate dimensions the programs use; found by one dry run, then remembered as long as the model lives."""
    owner = getattr(model, "__self__", model)
    if owner not in _nestings:
        quiet = scope.evaluating(owner) if isinstance(owner, nn.Module) else scope.isolated()
        with quiet, scope.preserved_rng(), torch.no_grad(), poutine.block():
            traces = run_programs(model, guide, args, kwargs)
        dims = [
            frame.dim for trace in traces for site in trace.nodes.values() for frame in site.get("cond_indep_stack", ())
        ]
        _nestings[owner] = max((-dim for dim in dims if dim is not None), default=0)
    return _nestings[owner]


def particles(num_particles: int, nesting: int) -> Any:
    """The plate that runs `num_particles` copies at once, left of all plates of the programs; nothing for one."""
    if num_particles == 1:
        return nullcontext()
    return pyro.plate("particles", num_particles, dim=-1 - nesting)


def run_programs(
    model: Program,
    guide: Program,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    num_particles: int = 1,
    path: Path | None = None,
) -> tuple[Any, Any]:
    """Trace the guide, then the model replayed on the guide's values; returns (model trace, guide trace)."""
    nesting = plate_nesting(model, guide, args, kwargs) if num_particles > 1 else 0

    def trace(program: Program) -> Any:
        with particles(num_particles, nesting):
            return poutine.trace(program).get_trace(*args, **kwargs)

    if path is None:
        guide_trace = trace(guide)
        model_trace = trace(poutine.replay(model, trace=guide_trace))
        return prune_subsample_sites(model_trace), prune_subsample_sites(guide_trace)

    random = scope.random_state() if path.stopped else None
    with nullcontext() if path.attached else _Detach():
        guide_trace = trace(guide)
    seen = _cut(guide_trace, path, num_particles, nesting, row_plate(model)) if path.attached else guide_trace
    if random is not None:
        guide_trace = _stopped(guide, trace, seen, random)
    model_trace = trace(poutine.replay(model, trace=seen))
    return prune_subsample_sites(model_trace), prune_subsample_sites(guide_trace)


def _cut(trace: Any, path: Path, num_particles: int, nesting: int, plate: str) -> Any:
    """A copy of the trace whose values scale the gradient that arrives at them by `path.ratio`."""
    copy = trace.copy()
    for name, site in trace.nodes.items():
        if site["type"] != "sample" or site["is_observed"] or not site["value"].requires_grad:
            continue
        value = site["value"].view_as(site["value"])
        rows = [frame.dim for frame in site["cond_indep_stack"] if frame.name == plate and frame.vectorized]

        def scale(gradient: Tensor, site: Any = site, rows: list[int] = rows) -> Tensor:
            if path.ratio is None:
                return gradient
            shape = [1] * gradient.dim()
            events = site["fn"].event_dim
            if num_particles > 1:
                shape[-1 - nesting - events] = num_particles
            if rows:
                shape[rows[0] - events] = path.ratio.shape[1]
            return gradient * path.ratio.reshape(shape).to(gradient.dtype)

        value.register_hook(scale)
        copy.nodes[name] = {**site, "value": value}
    return copy


def _stopped(guide: Program, trace: Callable[[Program], Any], seen: Any, random: Any) -> Any:
    """The trace of the guide with stopped parameters at the values seen; the noise, dropout included, is repeated."""
    owner = getattr(guide, "__self__", guide)
    if not isinstance(owner, nn.Module):
        raise TypeError(
            f"The guide must be a method of an nn.Module to have its parameters stopped; got {guide!r}."
            " Subclass LatentVariableModel, or use gradient='reparameterized'."
        )
    values = {name: site["value"] for name, site in seen.nodes.items() if site["type"] == "sample"}
    with scope.preserved_rng(), poutine.block(hide_types=["param"]), _SetValues(values):
        scope.set_random_state(random)
        return scope.call_frozen(owner, lambda: trace(guide))


def log_weights(
    model: Program,
    guide: Program,
    *args: Any,
    num_particles: int = 1,
    num_rows: int | None = None,
    row_weights: Tensor | None = None,
    path: Path | None = None,
    **kwargs: Any,
) -> LogWeights:
    """Run guide and model on K particles and record every site.

    Args:
        model: the model; called with `*args, **kwargs`.
        guide: the guide; likewise.
        num_particles: K. With K = 1 no particle plate is opened.
        num_rows: N, if this call sees only B of N rows: sites in the row plate are scaled by N/B.
        row_weights: (B,), multiplied into the scale of the sites in the row plate.
        path: how the draws depend on the guide's parameters; by default as the guide has it.

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
        rows = [frame.dim for frame in site["cond_indep_stack"] if frame.name == plate and frame.vectorized]

        def per_row(terms: Tensor) -> Tensor:
            terms = scale_and_mask(terms, 1.0, site["mask"])
            summed = [dim for dim in range(-terms.dim(), 0) if dim not in (particle_dim, *rows)]
            terms = terms.sum(summed) if summed else terms
            terms = terms if particle_dim is not None else terms.unsqueeze(0)
            return terms if rows else terms.unsqueeze(-1)

        log_prob = per_row(site["fn"].log_prob(site["value"], *site["args"], **site["kwargs"]))
        value = site["value"] if particle_dim is not None else site["value"].unsqueeze(0)
        return Site(name, site["fn"], value, log_prob, site["scale"], bool(rows), per_row)

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


def outside_rows(trace: Any, plate: str) -> bool:
    """Whether a sample site of the trace lies outside the row plate, so that rows are not independent."""
    sites = (site for site in trace.nodes.values() if site["type"] == "sample")
    return any(all(frame.name != plate for frame in site["cond_indep_stack"]) for site in sites)


def check_sites(model_trace: Any, guide_trace: Any, *, enumerated: bool = False) -> None:
    """Raise unless model and guide have the same latent sites; auxiliary guide sites are exempt.

    Args:
        enumerated: whether model sites marked for parallel enumeration may be missing from the guide.
    """
    in_guide = {name for name, site in guide_trace.nodes.items() if site["type"] == "sample"}
    auxiliary = {name for name in in_guide if guide_trace.nodes[name]["infer"].get("is_auxiliary")}
    in_model = {n for n, site in model_trace.nodes.items() if site["type"] == "sample" and not site["is_observed"]}
    only_model = in_model - in_guide
    marked = {name for name in only_model if model_trace.nodes[name]["infer"].get("enumerate") == "parallel"}
    if marked and not enumerated:
        raise NotImplementedError(
            f"Site {sorted(marked)[0]!r} is marked for enumeration, which log-weights do not sum out."
            " Sample it in the guide, or train with pyro.infer.TraceEnum_ELBO."
        )
    only_model -= marked
    only_guide = in_guide - auxiliary - in_model
    if only_model or only_guide:
        raise ValueError(
            f"Latent sites of model and guide must be the same; got {sorted(only_model)} only in the model and"
            f" {sorted(only_guide)} only in the guide. Rename or add the missing sites, or mark a guide site"
            " infer={'is_auxiliary': True}."
        )
