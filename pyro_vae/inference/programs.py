"""Running a pair of Pyro programs: particles, scales, how draws depend on parameters, which sites must match."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

import pyro
import torch
from pyro import poutine
from pyro.poutine.util import prune_subsample_sites
from torch import Tensor, nn

from pyro_vae.runtime.isolation import call_frozen, evaluating, isolated
from pyro_vae.runtime.random import Noise, preserved_rng

__all__ = [
    "Given",
    "Path",
    "Program",
    "ScaleRows",
    "check_sites",
    "given",
    "num_rows",
    "outside_rows",
    "particles",
    "plate_nesting",
    "row_dims",
    "row_plate",
    "run_programs",
]

Program = Callable[..., Any]


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
    """Let sites draw, and then take the values given: the noise passed is that of the run that gave them."""

    def __init__(self, values: dict[str, Tensor]) -> None:
        super().__init__()
        self.values = values

    def _pyro_post_sample(self, msg: Any) -> None:
        if msg["name"] in self.values:
            msg["value"] = self.values[msg["name"]]


def given(program: Program, values: dict[str, Tensor]) -> Program:
    """The program with its latent sites at the values given, which count as drawn."""

    def run(*args: Any, **kwargs: Any) -> Any:
        with Given(values):
            return program(*args, **kwargs)

    return run


class Given(poutine.messenger.Messenger):
    """A handler under which latent sites take the values given, and count as drawn."""

    def __init__(self, values: dict[str, Tensor]) -> None:
        super().__init__()
        self.values = values

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"] in self.values and not msg["is_observed"]:
            msg["value"], msg["done"] = self.values[msg["name"]], True


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
        self.size: int | None = None
        self.factor: float | Tensor = 1.0

    def _factor(self, size: int) -> float | Tensor:
        """The factor of a site in a plate of this size: one object for all sites, so that it equals itself."""
        if size != self.size:
            factor = 1.0 if self.num_rows is None else self.num_rows / size
            self.size, self.factor = size, factor if self.row_weights is None else factor * self.row_weights
        return self.factor

    def _pyro_sample(self, msg: Any) -> None:
        for frame in msg["cond_indep_stack"]:
            if frame.name == self.plate:
                factor, scale = self._factor(frame.full_size or frame.size), msg["scale"]
                msg["scale"] = scale * factor if isinstance(scale, Tensor) or scale != 1.0 else factor


def row_plate(program: Program) -> str:
    """The name of the plate over rows: the class attribute `row_plate` of the program's owner, or "data"."""
    return getattr(getattr(program, "__self__", None), "row_plate", "data")


def num_rows(x: Tensor | None, rows: int | None) -> int:
    """How many rows a model scores, or draws."""
    if x is not None:
        return x.shape[0]
    if rows is None:
        raise ValueError("rows must be given where x is not; got None. Call model(x) or model(rows=B).")
    return rows


_nestings: WeakKeyDictionary[Any, int] = WeakKeyDictionary()


def plate_nesting(model: Program, guide: Program, args: tuple[Any, ...], kwargs: dict[str, Any]) -> int:
    """How many plate dimensions the programs use; found by one dry run, then remembered as long as the model lives."""
    owner = getattr(model, "__self__", model)
    if owner not in _nestings:
        quiet = evaluating(owner) if isinstance(owner, nn.Module) else isolated()
        with quiet, preserved_rng(), torch.no_grad(), poutine.block():
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

    noise = Noise() if path.stopped else None
    with noise or nullcontext(), nullcontext() if path.attached else _Detach():
        guide_trace = trace(guide)
    seen = _cut(guide_trace, path, num_particles, nesting, row_plate(model)) if path.attached else guide_trace
    if noise is not None:
        guide_trace = _stopped(guide, trace, seen, noise)
    model_trace = trace(poutine.replay(model, trace=seen))
    return prune_subsample_sites(model_trace), prune_subsample_sites(guide_trace)


def _cut(trace: Any, path: Path, num_particles: int, nesting: int, plate: str) -> Any:
    """A copy of the trace whose values scale the gradient that arrives at them by `path.ratio`."""
    copy = trace.copy()
    for name, site in trace.nodes.items():
        if site["type"] != "sample" or site["is_observed"] or not site["value"].requires_grad:
            continue
        value = site["value"].view_as(site["value"])
        rows = row_dims(site, plate)

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


def _stopped(guide: Program, trace: Callable[[Program], Any], seen: Any, noise: Noise) -> Any:
    """The trace of the guide with stopped parameters at the values seen; the noise, dropout included, is repeated."""
    owner = getattr(guide, "__self__", guide)
    if not isinstance(owner, nn.Module):
        raise TypeError(
            f"The guide must be a method of an nn.Module to have its parameters stopped; got {guide!r}."
            " Subclass LatentVariableModel, or use gradient='reparameterized'."
        )
    values = {name: site["value"] for name, site in seen.nodes.items() if site["type"] == "sample"}
    with Noise(repeat=noise), poutine.block(hide_types=["param"]), _SetValues(values):
        return call_frozen(owner, lambda: trace(guide))


def row_dims(site: Any, plate: str) -> list[int]:
    """The batch dimension of a site that counts rows, from the right; none outside of the plate over rows."""
    return [frame.dim for frame in site["cond_indep_stack"] if frame.name == plate and frame.vectorized]


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
