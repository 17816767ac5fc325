"""The strict validation of the first batch, before anything is trained."""

from __future__ import annotations

from typing import Any

import torch
from pyro import poutine
from pyro.poutine.util import prune_subsample_sites
from pyro.util import check_site_shape
from torch import Tensor

from pyro_vae.distributions import unwrap
from pyro_vae.elbos import Estimator
from pyro_vae.fields import OBSERVED
from pyro_vae.inference.pair import ProgramPair
from pyro_vae.inference.programs import check_sites, find_plates
from pyro_vae.runtime.isolation import evaluating, isolated, preserved_buffers
from pyro_vae.runtime.random import preserved_rng
from pyro_vae.training import nonfinite

__all__ = ["check_gradients", "check_programs", "shared_parameters"]


def check_programs(model: ProgramPair, x: Tensor, fields: dict[str, Tensor]) -> bool:
    """Run model and guide once on a batch with every check; random state and buffers are left as they were.

    Args:
        model: the pair of programs.
        x: the batch, (B, *E).
        fields: the named fields of its rows.

    Returns:
        Whether every guide site has a pathwise derivative, or is summed out.

    Raises:
        ValueError: if sites or plates of the programs differ, a dimension is declared by no plate, a parameter is not
            the module's, x lies outside the support of its distribution, or a term is not finite.
    """
    with isolated(validate=True), preserved_rng(), preserved_buffers(model), torch.no_grad():
        guide_trace = poutine.trace(model.guide).get_trace(x, **fields)
        replayed = poutine.replay(model.model, trace=guide_trace)
        model_trace = poutine.trace(replayed).get_trace(x, **fields)
        traces = prune_subsample_sites(model_trace), prune_subsample_sites(guide_trace)
        check_sites(*traces)
        _check_plates(*traces)
        _check_parameters(model, *traces)
        for trace in traces:
            for name, site in trace.nodes.items():
                if site["type"] == "sample":
                    _check_support(name, site)
        for trace in reversed(traces):  # the guide first: the model sees its draws
            trace.compute_log_prob()
            for name, site in trace.nodes.items():
                if site["type"] == "sample":
                    check_site_shape(site, float("inf"))  # type: ignore[arg-type]
                    _check_finite(model, name, site, x)
    if OBSERVED in fields and not fields[OBSERVED].all():
        _check_missing_masked(model, x, fields)
    sites: list[Any] = [site for site in traces[1].nodes.values() if site["type"] == "sample"]
    summed_out = find_plates(model.model, model.guide, (x,), fields).enumerated
    return all(site["fn"].has_rsample or site["name"] in summed_out for site in sites)


def _check_missing_masked(model: ProgramPair, x: Tensor, fields: dict[str, Tensor]) -> None:
    """Raise a ValueError if what stands in missing cells changes the log-probability of the data."""
    observed = fields[OBSERVED]
    first = torch.where(observed, x, 0.0).gather(0, observed.int().argmax(0, keepdim=True))  # possible values
    found = []
    with evaluating(model), preserved_rng():
        guide_trace = poutine.trace(model.guide).get_trace(x, **fields)
        for cells in (x, torch.where(observed, x, first)):
            trace = poutine.trace(poutine.replay(model.model, trace=guide_trace)).get_trace(cells, **fields)
            trace.compute_log_prob()
            sites = (trace.nodes[name] for name in model.data_sites if name in trace.nodes)
            found.append(torch.cat([site["log_prob"].reshape(-1) for site in sites]))
    if not torch.allclose(found[0], found[1], rtol=1e-4, atol=1e-4):
        raise ValueError(
            "The log-probability of the data must not read missing cells; got another one when what stands there was"
            " changed. Mask these cells in the model: dist.Normal(loc, scale).mask(observed).to_event(1)."
        )


def _check_plates(model_trace: Any, guide_trace: Any) -> None:
    """Raise unless a plate has one size in both programs."""
    sizes: list[dict[str, int]] = [
        {
            frame.name: int(frame.full_size or frame.size)
            for site in trace.nodes.values()
            for frame in site.get("cond_indep_stack", ())
        }
        for trace in (model_trace, guide_trace)
    ]
    for name, size in sizes[1].items():
        if sizes[0].get(name, size) != size:
            raise ValueError(
                f"Plate {name!r} must have the same size in model and guide; got {sizes[0][name]} in the model and"
                f" {size} in the guide. Give both the number of rows of x."
            )


def _check_parameters(model: ProgramPair, *traces: Any) -> None:
    """Raise unless every parameter of the programs belongs to the module."""
    known = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    places = {parameter.data_ptr() for parameter in model.parameters()}
    for trace in traces:
        for name, site in trace.nodes.items():
            own = site["type"] != "param" or site["value"].data_ptr() in places
            if not own and not {name, name.replace("$$$", "."), f"{name}_unconstrained"} & known:
                raise ValueError(
                    f"Parameter {name!r} must belong to the module, to be trained and saved with it; got a pyro.param"
                    f" statement. Make it an attribute: self.{name} = PyroParam(...) or nn.Parameter(...)."
                )


def _check_support(name: str, site: Any) -> None:
    """Raise unless the data of an observed site lie in the support of its distribution."""
    fn, value = site["fn"], site["value"]
    if not site["is_observed"] or not isinstance(value, Tensor):
        return
    inside = fn.support.check(value)
    if inside.all():
        return
    position = tuple(int(i) for i in (~inside).nonzero()[0])
    worst = value[position]
    base = unwrap(fn)
    raise ValueError(
        f"{name} must lie in the support of {type(base).__name__}, {base.support}; got values from"
        f" {worst.min().item():g} up to {worst.max().item():g} in row {position[0] if position else 0}."
        " Transform the data or change the likelihood."
    )


def _check_finite(model: ProgramPair, name: str, site: Any, x: Tensor) -> None:
    """Raise, with the likely cause, unless the terms of a site are finite."""
    bad = ~torch.isfinite(site["log_prob"])
    if bad.any():
        local = sorted(set(bad.nonzero()[:, -1].tolist())) if bad.dim() else [0]
        state = getattr(model, "training_state", None)
        why = nonfinite.cause(model, x, list(range(len(x))), local, site["fn"], 0 if state is None else state.step)
        raise ValueError(
            f"The term of site {name!r} must be finite; got {site['log_prob'][bad][0].item()} in row {local[0]} of the"
            f" first batch ({int(bad.sum())} such rows). {why}"
        )


def shared_parameters(model: ProgramPair, x: Tensor, fields: dict[str, Tensor]) -> list[str]:
    """The names of the parameters that both log p(x, z) and log q(z | x) read, at draws held constant.

    Random state and buffers are left as they were.
    """
    named = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    with isolated(), preserved_rng(), preserved_buffers(model):
        with torch.no_grad():
            drawn = prune_subsample_sites(poutine.trace(model.guide).get_trace(x, **fields))
        read = []
        for program in (model.model, model.guide):
            trace = poutine.trace(poutine.replay(program, trace=drawn)).get_trace(x, **fields)
            total = torch.as_tensor(prune_subsample_sites(trace).log_prob_sum())
            if not total.requires_grad:
                return []
            gradients = torch.autograd.grad(total, list(named.values()), allow_unused=True)
            read.append({name for name, gradient in zip(named, gradients, strict=True) if gradient is not None})
    return sorted(read[0] & read[1])


def check_gradients(model: ProgramPair, estimator: Estimator, x: Tensor, **options: Any) -> None:
    """Raise unless every trainable parameter receives a gradient from the first batch; gradients are then cleared.

    Raises:
        ValueError: naming the parameters without a gradient.
    """
    if model.site_of_missing is not None and (not estimator.one_bound or estimator.penalizes_latents):
        kind = f"{type(estimator).__name__} with gradient={estimator.gradient!r}"
        raise NotImplementedError(
            "elbo must follow one bound with all parameters where cells are not missing at random, since model and"
            f" guide share the decoder; got {kind}. Use ELBO or IWAE, with gradient='reparameterized' or 'dreg'."
        )
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if not parameters:
        raise ValueError("The model must have a trainable parameter; got none. There is nothing to fit.")
    with isolated(), preserved_rng(), preserved_buffers(model):
        model.zero_grad()
        estimator.backward(parameters.values(), model.model, model.guide, x, **options)
    without = [name for name, parameter in parameters.items() if parameter.grad is None]
    model.zero_grad()
    if without:
        raise ValueError(
            f"Every parameter must receive a gradient; got none for {', '.join(without)}."
            " Use it in model or guide, or set requires_grad_(False)."
        )
