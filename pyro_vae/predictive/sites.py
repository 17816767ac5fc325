"""The sites of a program: which are data and which are latent, and checks of latents that a user passes."""

from __future__ import annotations

import inspect
from typing import Any

from pyro import poutine
from pyro.distributions import constraints
from pyro.poutine.util import prune_subsample_sites
from torch import Tensor

from pyro_vae.data.tensors import as_tensor, check_finite
from pyro_vae.inference.pair import ProgramPair
from pyro_vae.inference.programs import row_dims
from pyro_vae.parts import support_name, support_of
from pyro_vae.runtime.random import preserved_rng

__all__ = ["check_latent", "data_of", "latents_of", "num_rows_of", "read_latents", "trace_of"]


def trace_of(program: Any, *args: Any, **kwargs: Any) -> Any:
    """The trace of a run of the program, without the sites by which plates subsample.

    Raises:
        TypeError: if the model does not draw: it is called with `rows`, and without x.
    """
    if "rows" in kwargs:
        _check_draws_rows(program)
    return prune_subsample_sites(poutine.trace(program).get_trace(*args, **kwargs))


def _check_draws_rows(program: Any) -> None:
    """Raise a TypeError unless the program can be called with rows= and without x."""
    parameters = inspect.signature(program).parameters
    kinds = [parameter.kind for parameter in parameters.values()]
    takes_rows = "rows" in parameters or inspect.Parameter.VAR_KEYWORD in kinds
    if not takes_rows or ("x" in parameters and parameters["x"].default is inspect.Parameter.empty):
        raise TypeError(
            "model must take rows=, the number of rows to draw where there is no x, to draw data; got"
            f" model{inspect.signature(program)}. Write model(self, x=None, *, rows=None, **batch), with"
            " pyro.plate('data', len(x) if x is not None else rows) and obs=x."
        )


def latents_of(model: ProgramPair, trace: Any) -> dict[str, Any]:
    """The latent sites of the model, by name, from its trace without data."""
    return {
        name: site
        for name, site in trace.nodes.items()
        if site["type"] == "sample" and not site["is_observed"] and name not in model.data_sites
    }


def data_of(model: ProgramPair, trace: Any, *, mean: bool = False) -> dict[str, Tensor]:
    """The values at the data sites of the model, or the means there, by name, from its trace without data."""
    missing = [name for name in model.data_sites if name not in trace.nodes]
    if missing:
        raise ValueError(
            f"data_sites must name the model's observed sites; got {model.data_sites}, but the model has no site"
            f" {missing[0]!r}. Set the class attribute data_sites."
        )
    sites = {name: trace.nodes[name] for name in model.data_sites}
    return {name: (site["fn"].mean if mean else site["value"]).detach() for name, site in sites.items()}


def read_latents(
    model: ProgramPair, latents: Any, fields: dict[str, Tensor], *, means: bool = False
) -> dict[str, Tensor]:
    """Check values of latents that a user passes, and return them by site.

    Args:
        model: the pair of programs, in evaluation mode.
        latents: values by site, or a tensor if the model has one latent site.
        fields: named per-row fields.
        means: whether means of draws are allowed too, and leading dimensions.

    Raises:
        ValueError: if sites, shapes or values are impossible under the model.
    """
    with preserved_rng():
        found = latents_of(model, trace_of(model.model, rows=1, **{name: value[:1] for name, value in fields.items()}))
    sites = list(found)
    named = latents if isinstance(latents, dict) else {sites[0]: latents}
    if (not isinstance(latents, dict) and len(sites) > 1) or not named or set(named) - set(sites):
        got = sorted(map(str, named)) if isinstance(latents, dict) else "a tensor"
        raise ValueError(f"latents must be a dictionary of values at sites of {sites}; got {got}. Name the sites.")
    values = {}
    for name, given in named.items():
        value, site = as_tensor(given, name), found[name]
        real = value.is_floating_point() or site["value"].is_floating_point()
        values[name] = value.to(model.like) if real else value.to(model.like.device)
        _check_shape(name, value, site, model.row_plate, leading=means)
        check_latent(f"latents at {name!r}", values[name], site["fn"], means=means)
    return values


def _check_shape(name: str, value: Tensor, site: Any, plate: str, *, leading: bool) -> None:
    """Raise unless the value has the shape of the site, for any number of rows.

    Args:
        name: the name of the site.
        value: the value.
        site: the site in a trace of the model for one row.
        plate: the name of the row plate.
        leading: whether leading dimensions are allowed.
    """
    shape = list(site["value"].shape)
    got = list(value.shape[-len(shape) :] if leading and shape else value.shape)
    row_dim = [dim - site["fn"].event_dim for dim in row_dims(site, plate)]
    if len(got) == len(shape) and row_dim:
        shape[row_dim[0]] = max(got[row_dim[0]], 1)
    if got != shape:
        expected = ["rows" if row_dim and i - len(shape) == row_dim[0] else str(size) for i, size in enumerate(shape)]
        raise ValueError(
            f"latents at {name!r} must have shape ({', '.join(expected)}); got {tuple(value.shape)}. Reshape them."
        )


HULLS: dict[str, Any] = {  # the sets in which means of draws lie, for supports that are not convex
    support_name(constraints.boolean): constraints.unit_interval,
    support_name(constraints.one_hot): constraints.simplex,
    support_name(constraints.sphere): constraints.real_vector,
}


def check_latent(what: str, value: Tensor, distribution: Any, *, means: bool = False) -> None:
    """Raise a ValueError unless values are finite and lie in the support of a distribution.

    Args:
        what: what the values are called in the message.
        value: the values.
        distribution: the distribution.
        means: whether means of values in the support are allowed too.
    """
    check_finite(what, value)
    support = support_of(distribution)
    hull = HULLS.get(support_name(support)) if means else None
    if support is None or (hull or support).check(value).all():
        return
    raise ValueError(
        f"{what} must lie in the support of the prior, {support_name(support)}; got values from"
        f" {value.min().item():g} up to {value.max().item():g}. Take them from encode or posterior_draws."
    )


def num_rows_of(model: ProgramPair, latents: dict[str, Tensor], fields: dict[str, Tensor]) -> int:
    """The number of rows of values of latents: the size along the row plate of the first site inside it, else 1."""
    with preserved_rng():
        probe = trace_of(model.model, rows=1, **{name: value[:1] for name, value in fields.items()})
    for name, value in latents.items():
        site = probe.nodes[name]
        for dim in row_dims(site, model.row_plate):
            return value.shape[dim - site["fn"].event_dim]
    return 1
