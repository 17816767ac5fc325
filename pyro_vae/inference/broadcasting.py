"""Whether programs treat each of several particles as they treat one: shapes and log-probabilities are compared."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from pyro import poutine
from torch import Tensor

__all__ = ["FirstParticle", "differs_at_value", "disagreement", "same_log_probs", "subsamples"]

TOLERANCE = 1e-3  # of log-probabilities, relative to the largest; rounding is far below, a wrong broadcast far above


class FirstParticle(poutine.messenger.Messenger):
    """A handler that gives the first particle of each latent site the value that the site has in earlier traces."""

    def __init__(self, *traces: Any) -> None:
        super().__init__()
        self.values = {name: site["value"] for trace in traces for name, site in trace.nodes.items() if _is_drawn(site)}

    def _pyro_post_sample(self, msg: Any) -> None:
        value, drawn = self.values.get(msg["name"]), msg["value"]
        if value is None or msg["is_observed"] or drawn.shape[1:].numel() != value.numel():
            return
        msg["value"] = torch.cat([value.reshape(drawn.shape[1:])[None], drawn[1:]])


def _is_drawn(site: Any) -> bool:
    return bool(site["type"] == "sample" and not site["is_observed"] and isinstance(site["value"], Tensor))


def _log_prob(site: Any) -> Tensor:
    return torch.as_tensor(site["fn"].log_prob(site["value"], *site["args"], **site["kwargs"]))


def _sample_sites(trace: Any) -> dict[str, Any]:
    return {name: site for name, site in trace.nodes.items() if site["type"] == "sample"}


def subsamples(*traces: Any) -> bool:
    """Whether a plate of the traced programs draws a subsample by itself."""
    sites = (site for trace in traces for site in trace.nodes.values())
    return any(
        frame.full_size not in (None, frame.size) for site in sites for frame in site.get("cond_indep_stack", ())
    )


def same_log_probs(ones: tuple[Any, ...], others: tuple[Any, ...]) -> bool:
    """Whether all sites of two runs of the same programs, with the same draws, have the same log-probabilities."""
    return all(
        _close(_log_prob(site), _log_prob(other.nodes[name]))
        for one, other in zip(ones, others, strict=True)
        for name, site in _sample_sites(one).items()
        if name in other.nodes
    )


def _close(a: Tensor, b: Tensor) -> bool:
    """Whether log-probabilities agree up to rounding."""
    a, b = a.double(), b.double().expand(a.shape)
    both = torch.isfinite(a) & torch.isfinite(b)
    largest = float(a[both].abs().max()) if both.any() else 0.0
    return torch.allclose(a, b, rtol=TOLERANCE, atol=TOLERANCE * max(largest, 1e-3), equal_nan=True)


def disagreement(alone: Any, together: Any, nesting: int) -> tuple[str, str]:
    """Where a run with two particles differs from a run with one particle, which is the first of the two.

    Args:
        alone: the trace of a program with one particle.
        together: the trace of the same program with two.
        nesting: the number of plate dimensions of the program.

    Returns:
        "shape" or "value", and the part of a message that names the site; two empty strings where they agree.
    """
    for name, site in _sample_sites(alone).items():
        if name not in together.nodes:
            continue
        other = together.nodes[name]
        one, two = _log_prob(site), _log_prob(other)
        batch = tuple(one.shape)
        if len(batch) > nesting or site["fn"].event_shape != other["fn"].event_shape or not _fits(two, batch, nesting):
            expected = (2, *(1,) * (nesting - len(batch)), *batch)
            return "shape", (
                f"{name!r} must have log-probabilities of shape {expected} with 2 particles, since it has {batch} with"
                f" one and {nesting} plate dimensions; got {tuple(two.shape)}, and events of shape"
                f" {tuple(other['fn'].event_shape)} for {tuple(site['fn'].event_shape)}"
            )
        first = two[0] if two.dim() == nesting + 1 else two  # a site that no particle changes has no such dimension
        if not _close(first.reshape(batch) if first.numel() == one.numel() else first, one):
            return "value", (
                f"{name!r} must give a particle the same log-probabilities, of shape {batch}, alone and beside another;"
                f" got {float(one.sum()):.6g} and {float(first.sum()):.6g}, summed"
            )
    return "", ""


def differs_at_value(alone: Any, together: Any, dims: Mapping[str, int]) -> str:
    """Where a run with all values of the enumerated sites differs, at the values of another run, from that run.

    Args:
        alone: the trace of a program in which these sites were drawn.
        together: the trace with all of their values, and the same draws at all other sites.
        dims: the dimension of each enumerated site, counted from the right.

    Returns:
        The part of a message that names the site; an empty string where they agree.
    """
    for name, site in _sample_sites(alone).items():
        if name not in together.nodes:
            continue
        one, found = _log_prob(site), _log_prob(together.nodes[name])
        for enumerated, dim in dims.items():
            if enumerated in alone.nodes and found.dim() >= -dim:
                found = _at_value(found, together.nodes[enumerated], alone.nodes[enumerated]["value"], dim)
        found = found.reshape(one.shape) if found.numel() == one.numel() else found
        if not _close(found, one):
            return (
                f"{name!r} must give each value of {', '.join(map(repr, dims))} the log-probabilities that it has when"
                f" it is drawn, of shape {tuple(one.shape)}; got {float(one.sum()):.6g} and"
                f" {float(found.sum()):.6g}, summed"
            )
    return ""


def _at_value(terms: Tensor, site: Any, drawn: Tensor, dim: int) -> Tensor:
    """Terms of all values of a site, which are in dimension `dim`, at the value that was drawn."""
    events = site["fn"].event_dim
    same = site["value"] == drawn
    same = same.flatten(-events).all(-1) if events else same
    place = same.int().argmax(dim, keepdim=True)
    place = place.reshape((1,) * (terms.dim() - place.dim()) + place.shape)
    return torch.take_along_dim(terms, place, dim)


def _fits(two: Tensor, batch: tuple[int, ...], nesting: int) -> bool:
    """Whether log-probabilities of two particles have the dimension of particles left of plates, or none."""
    shape = (1,) * (nesting - len(batch)) + batch
    return tuple(two.shape) in ((2, *shape), batch)
