"""Runs of a pair of Pyro programs: under particles, with gradients through the draws or without.

A *particle* is one weighted draw of all latents from the guide. A *row plate* is the plate over rows of data.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack, nullcontext
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import pyro
import torch
from pyro import poutine
from pyro.poutine.util import prune_subsample_sites
from torch import Tensor, nn

from pyro_vae.inference import broadcasting
from pyro_vae.inference.enumeration import Marks, SumOut, is_marked
from pyro_vae.inference.gradients import GradientPath
from pyro_vae.inference.handlers import DetachDraws, FixLatents, Program, ReplaceDraws
from pyro_vae.runtime.isolation import call_frozen, evaluating, isolated, preserved_buffers
from pyro_vae.runtime.random import Noise, preserved_rng

__all__ = [
    "Plates",
    "any_site_outside_rows",
    "check_sites",
    "find_plates",
    "known_plates",
    "num_rows",
    "particles",
    "plate_nesting",
    "row_dims",
    "row_plate",
    "run_programs",
]


def row_plate(program: Program) -> str:
    """The name of the plate over rows: the class attribute `row_plate` of the program's owner, or "data"."""
    return getattr(getattr(program, "__self__", None), "row_plate", "data")


def num_rows(x: Tensor | None, rows: int | None) -> int:
    """How many rows a model scores (those of x), or draws (`rows`, where there is no x)."""
    if x is not None:
        return x.shape[0]
    if rows is None:
        raise ValueError("rows must be given where x is not; got None. Call model(x) or model(rows=B).")
    return rows


class Plates(NamedTuple):
    """What is known of the dimensions of a pair of programs.

    Attributes:
        nesting: how many plate dimensions they use.
        enumerated: the names of the sites that are summed out.
        in_model_alone: those of them that the guide does not have.
        checked: whether two particles, and all values of enumerated sites, were seen to be treated like one.
    """

    nesting: int
    enumerated: tuple[str, ...]
    in_model_alone: tuple[str, ...]
    checked: bool


_plates: WeakKeyDictionary[Any, Plates] = WeakKeyDictionary()


def known_plates(model: Program) -> Plates | None:
    """What earlier runs have found; None before the first."""
    return _plates.get(getattr(model, "__self__", model))


def plate_nesting(model: Program, guide: Program, args: tuple[Any, ...], kwargs: dict[str, Any]) -> int:
    """How many plate dimensions the programs use: found by one run, and remembered while the model lives.

    Raises:
        ValueError: if the programs do not treat two particles, or all values of an enumerated site, as they treat one,
            which further runs show.
    """
    return find_plates(model, guide, args, kwargs, checked=True).nesting


def find_plates(
    model: Program, guide: Program, args: tuple[Any, ...], kwargs: dict[str, Any], *, checked: bool = False
) -> Plates:
    """The plates and enumerated sites of the programs, found by one run, and remembered while the model lives.

    Args:
        model: the model.
        guide: the guide.
        args: what both are called with.
        kwargs: named arguments of both.
        checked: whether to raise a ValueError unless several particles and values are treated like one.
    """
    owner = getattr(model, "__self__", model)
    known = _plates.get(owner)
    if known is None or (checked and not known.checked):
        quiet: list[Any] = [isolated()]
        if isinstance(owner, nn.Module):
            quiet = [evaluating(owner, subsampling=True), preserved_buffers(owner)]
        with ExitStack() as stack:
            for context in (*quiet, preserved_rng(), torch.no_grad(), poutine.block()):
                stack.enter_context(context)
            marks = Marks()
            traces = run_programs(_within(marks, model), guide, args, kwargs)
            known = _plates_of(traces, tuple(marks.names), checked)
            if checked:
                _check_two_particles(model, guide, args, kwargs, traces, known.nesting)
                if known.enumerated:
                    _check_all_values(model, guide, args, kwargs, traces, known)
        _plates[owner] = known
    return known


def _plates_of(traces: tuple[Any, Any], marked: tuple[str, ...], checked: bool) -> Plates:
    """The plates in the traces of model and guide, and the sites that the model marks."""
    sites = [site for trace in traces for site in trace.nodes.values()]
    dims = [frame.dim for site in sites for frame in site.get("cond_indep_stack", ()) if frame.dim is not None]
    alone = tuple(name for name in marked if name not in traces[1].nodes)
    return Plates(max((-dim for dim in dims), default=0), marked, alone, checked)


def _within(handler: Any, program: Program) -> Program:
    """The program, run within a handler."""

    def run(*args: Any, **kwargs: Any) -> Any:
        with handler:
            return program(*args, **kwargs)

    run.__self__ = getattr(program, "__self__", program)  # type: ignore[attr-defined]
    return run


def _check_two_particles(
    model: Program, guide: Program, args: tuple[Any, ...], kwargs: dict[str, Any], alone: tuple[Any, Any], nesting: int
) -> None:
    """Raise a ValueError unless a run with two particles, whose first is that of `alone`, agrees with `alone`."""
    advice = (
        "Write the programs so that they accept dimensions to the left of the plates: count from the right"
        " (z[..., 0], not z[:, 0]) and broadcast; nets.Rowwise does this for a net. Training by"
        " elbo=pyro.infer.Trace_ELBO() runs particles one by one."
    )
    try:
        with broadcasting.FirstParticle(*alone), particles(2, nesting):
            guide_trace = poutine.trace(guide).get_trace(*args, **kwargs)
            model_trace = poutine.trace(poutine.replay(model, trace=guide_trace)).get_trace(*args, **kwargs)
        together = prune_subsample_sites(model_trace), prune_subsample_sites(guide_trace)
        found = [broadcasting.disagreement(*pair, nesting) for pair in zip(alone, together, strict=True)]
    except NotImplementedError:
        raise
    except Exception as error:
        raise ValueError(
            f"Model and guide must accept two particles, whose draws have one more dimension; got"
            f" {type(error).__name__} ({str(error).strip().splitlines()[0] if str(error) else 'no message'}). {advice}"
        ) from error
    found = [(kind, text) for kind, text in reversed(found) if kind]  # the guide first: the model sees its draws
    if any(kind == "value" for kind, _ in found) and not _repeatable(model, guide, args, kwargs, alone):
        found = [(kind, text) for kind, text in found if kind != "value"]
    if found:
        raise ValueError(f"Site {found[0][1]}. {advice}")


def _repeatable(
    model: Program, guide: Program, args: tuple[Any, ...], kwargs: dict[str, Any], traces: tuple[Any, Any]
) -> bool:
    """Whether a second run at the same draws gives the same log-probabilities: no noise or subsample of its own."""
    sites = [(name, site) for trace in traces for name, site in trace.nodes.items() if site["type"] == "sample"]
    with FixLatents({name: site["value"] for name, site in sites if not site["is_observed"]}):
        return broadcasting.same_log_probs(traces, run_programs(model, guide, args, kwargs))


def _check_all_values(
    model: Program, guide: Program, args: tuple[Any, ...], kwargs: dict[str, Any], alone: tuple[Any, Any], known: Plates
) -> None:
    """Raise a ValueError unless the run with all values of the enumerated sites agrees with `alone` at its values."""
    summed = SumOut(row_plate(model), -1 - known.nesting, known.enumerated)
    sites = [(name, site) for trace in alone for name, site in trace.nodes.items() if site["type"] == "sample"]
    drawn = {n: site["value"] for n, site in sites if not site["is_observed"] and n not in known.enumerated}
    names = ", ".join(map(repr, known.enumerated))
    advice = (
        "Write what reads the value so that it accepts dimensions to the left of the plates: count from the right,"
        " broadcast before torch.cat, and index tables by the value; nets.Rowwise does this for a net."
    )
    try:
        with FixLatents(drawn):
            together = run_programs(model, guide, args, kwargs, summed=summed)
        found = [broadcasting.differs_at_value(*pair, summed.dims) for pair in zip(alone, together, strict=True)]
    except Exception as error:
        if summed.refused:
            raise
        raise ValueError(
            f"Model and guide must accept all values of {names} at once, in a dimension left of the plates; got"
            f" {type(error).__name__} ({str(error).strip().splitlines()[0] if str(error) else 'no message'}). {advice}"
        ) from error
    wrong = next(filter(None, reversed(found)), "")
    if wrong and _repeatable(model, guide, args, kwargs, alone):
        raise ValueError(f"Site {wrong}. {advice}")


def particles(num_particles: int, nesting: int) -> Any:
    """A plate of `num_particles` particles, left of the `nesting` plates of the programs; no plate for one particle."""
    if num_particles == 1:
        return nullcontext()
    return pyro.plate("particles", num_particles, dim=-1 - nesting)


def run_programs(
    model: Program,
    guide: Program,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    num_particles: int = 1,
    path: GradientPath | None = None,
    summed: SumOut | None = None,
) -> tuple[Any, Any]:
    """Trace the guide, then the model at the guide's draws.

    Args:
        model: the model.
        guide: the guide.
        args: what both are called with.
        kwargs: named arguments of both.
        num_particles: K.
        path: how gradients pass through the draws; None leaves this to the guide.
        summed: the handler of sites that are summed out; None draws these sites like any others.

    Returns:
        The trace of the model and that of the guide.
    """
    nesting = plate_nesting(model, guide, args, kwargs) if num_particles > 1 else 0
    if summed is not None and summed.first_dim is not None:
        nesting = -1 - summed.first_dim - (num_particles > 1)

    def trace(program: Program) -> Any:
        with summed or nullcontext(), particles(num_particles, nesting):
            return poutine.trace(program).get_trace(*args, **kwargs)

    if path is None:
        guide_trace = trace(guide)
        model_trace = trace(poutine.replay(model, trace=guide_trace))
        return prune_subsample_sites(model_trace), prune_subsample_sites(guide_trace)

    noise = Noise() if path.detached_log_q else None
    with noise or nullcontext(), nullcontext() if path.through_draws else DetachDraws():
        guide_trace = trace(guide)
    draws = guide_trace
    if path.through_draws:
        draws = _scale_gradients(guide_trace, path, num_particles, nesting, row_plate(model))
    if noise is not None:
        guide_trace = _trace_detached_guide(guide, trace, draws, noise)
        for name in () if summed is None else summed.dims:
            guide_trace.nodes[name] = draws.nodes[name]  # nothing was drawn: q(y | x) keeps its gradient
    model_trace = trace(poutine.replay(model, trace=draws))
    return prune_subsample_sites(model_trace), prune_subsample_sites(guide_trace)


def _scale_gradients(trace: Any, path: GradientPath, num_particles: int, nesting: int, plate: str) -> Any:
    """A copy of the trace whose values multiply the gradient that they receive by `path.factor`, when there is one."""
    copy = trace.copy()
    for name, site in trace.nodes.items():
        if site["type"] != "sample" or site["is_observed"] or not site["value"].requires_grad:
            continue
        value = site["value"].view_as(site["value"])
        row_dim = row_dims(site, plate)

        def scale(gradient: Tensor, site: Any = site, row_dim: list[int] = row_dim) -> Tensor:
            shape, events = [1] * gradient.dim(), site["fn"].event_dim
            place = -1 - nesting - events  # of the particles
            if num_particles > 1:
                shape[place] = num_particles
            for coefficient in (path.factor, path.shares):
                if row_dim and coefficient is not None:
                    shape[row_dim[0] - events] = coefficient.shape[-1]
            if path.factor is not None:
                gradient = gradient * path.factor.reshape(shape).to(gradient.dtype)
            if path.shares is not None:
                first = gradient.dim() + place + (num_particles == 1)
                gradient = gradient * _share_of(path.shares, gradient, first, shape).to(gradient.dtype)
            return gradient

        value.register_hook(scale)
        copy.nodes[name] = {**site, "value": value}
    return copy


def _share_of(shares: Tensor, gradient: Tensor, count: int, shape: list[int]) -> Tensor:
    """The responsibility of each draw, summed over the enumerated sites that it does not depend on.

    Args:
        shares: the responsibilities, (C_n, ..., C_1, K, B).
        gradient: that of the draws, with `count` dimensions of enumerated sites on the left.
        count: how many of the enumerated sites' dimensions the draws have.
        shape: the sizes of particles and rows among the dimensions of the gradient, all others 1.
    """
    others = shares.dim() - 2 - count
    shares = shares.sum(tuple(range(others))) if others else shares
    for dim in range(count):
        if gradient.shape[dim] == 1:
            shares = shares.sum(dim, keepdim=True)
    return shares.reshape(*shares.shape[:count], *shape[count:])


def _trace_detached_guide(guide: Program, trace: Callable[[Program], Any], draws: Any, noise: Noise) -> Any:
    """Trace the guide once more with constant parameters, at the same draws and the same noise, dropout included."""
    owner = getattr(guide, "__self__", guide)
    if not isinstance(owner, nn.Module):
        raise TypeError(
            f"The guide must be a method of an nn.Module for its parameters to be held constant; got {guide!r}."
            " Subclass LatentVariableModel, or use gradient='reparameterized'."
        )
    values = {name: site["value"] for name, site in draws.nodes.items() if site["type"] == "sample"}
    with Noise(repeat=noise), poutine.block(hide_types=["param"]), ReplaceDraws(values):
        return call_frozen(owner, lambda: trace(guide))


def row_dims(site: Any, plate: str) -> list[int]:
    """The batch dimension of a site that runs over rows, counted from the right, as a list; empty outside the plate."""
    return [frame.dim for frame in site["cond_indep_stack"] if frame.name == plate and frame.vectorized]


def any_site_outside_rows(trace: Any, plate: str) -> bool:
    """Whether a sample site of the trace lies outside the row plate, so that rows are not independent."""
    sites = (site for site in trace.nodes.values() if site["type"] == "sample")
    return any(all(frame.name != plate for frame in site["cond_indep_stack"]) for site in sites)


def check_sites(model_trace: Any, guide_trace: Any) -> None:
    """Raise unless model and guide have the same latent sites; auxiliary guide sites are exempt.

    A site of the model that is summed out may be missing from the guide.

    Args:
        model_trace: a trace of the model.
        guide_trace: a trace of the guide.

    Raises:
        ValueError: if a latent site is in one of them only.
    """
    in_guide = {name for name, site in guide_trace.nodes.items() if site["type"] == "sample"}
    auxiliary = {name for name in in_guide if guide_trace.nodes[name]["infer"].get("is_auxiliary")}
    in_model = {n for n, site in model_trace.nodes.items() if site["type"] == "sample" and not site["is_observed"]}
    only_model = {name for name in in_model - in_guide if not is_marked(model_trace.nodes[name])}
    only_guide = in_guide - auxiliary - in_model
    if only_model or only_guide:
        raise ValueError(
            f"Latent sites of model and guide must be the same; got {sorted(only_model)} only in the model and"
            f" {sorted(only_guide)} only in the guide. Rename or add the missing sites, or mark a guide site"
            " infer={'is_auxiliary': True}."
        )
