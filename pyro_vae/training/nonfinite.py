"""Explanations of NaN and infinity: the term, site, rows and step, the likely cause, and the module where it began."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from pyro_vae.distributions import unwrap
from pyro_vae.elbos import Terms

__all__ = ["cause", "explain", "locate"]

FAR = 1e3  # rows this many times larger than the others are likely to be the cause
UNITS = 1e12  # values beyond this, or below its inverse, are hard to compute with in float32
EXTREME = 1e10  # so are parameters of distributions beyond this, and scales below its inverse


def explain(terms: Terms | None, owner: nn.Module, step: int, x: Tensor, row_numbers: list[int], place: str) -> str:
    """A sentence that names the term, site, rows and step that are not finite, or the parameters, and the likely cause.

    Args:
        terms: the terms of the step; None if they were finite in this process.
        owner: the module, with the gradients of the step.
        step: the number of the step.
        x: the batch.
        row_numbers: the numbers of its rows.
        place: what the row numbers refer to: "data" or "batch".
    """
    where = f"at step {step}"
    kept = "The parameters are those before this step"
    weights = None if terms is None else terms.weights
    kinds: dict[str, dict[str, Any]] = {}
    if weights is not None:
        kinds = {"log q(z | x)": weights.guide, "log p(z)": weights.latent, "log p(x | z)": weights.observed}
    for kind, sites in kinds.items():
        for name, site in sites.items():
            bad = ~torch.isfinite(site.log_prob)
            if bad.any():
                local = bad.any(0).nonzero().flatten().tolist()
                why = cause(owner, x, row_numbers, local, site.distribution, step)
                return (
                    f"The term {kind} must be finite; got {site.log_prob[bad][0].item()} at site {name!r} in rows"
                    f" {_listed(row_numbers, local)} of the {place} {where}. {why} {kept}."
                )
    why = cause(owner, x, row_numbers, [], None, step)
    if terms is not None and not torch.isfinite(terms.objective):
        return f"The loss must be finite; got {-terms.objective.item()} {where}. {why} {kept}."
    named = [n for n, p in owner.named_parameters() if p.grad is not None and not torch.isfinite(p.grad).all()]
    return (
        f"Gradients must be finite; got NaN or infinity for {', '.join(named) or 'the norm of all (each is finite)'}"
        f" {where}, while the loss is finite. {why} {kept}."
    )


def _listed(row_numbers: list[int], local: list[int]) -> str:
    """The numbers of some rows of a batch, at most eight, as text."""
    numbers = [str(row_numbers[i]) for i in local if i < len(row_numbers)]
    return ", ".join(numbers[:8]) + (", ..." if len(numbers) > 8 else "") or "all"


def cause(owner: nn.Module, x: Tensor, row_numbers: list[int], bad: list[int], distribution: Any, step: int) -> str:
    """One or two sentences on the likely cause and what to do.

    Args:
        owner: the module.
        x: the batch.
        row_numbers: the numbers of its rows.
        bad: the positions in the batch of the rows that are not finite; empty if unknown.
        distribution: the distribution at the site that is not finite, if known.
        step: the number of steps taken before.
    """
    broken = [name for name, p in owner.named_parameters() if not torch.isfinite(p).all()]
    if broken:
        return f"The parameters {', '.join(broken[:8])} were not finite before this step: start again from finite ones."
    sizes = x.detach().reshape(len(x), -1).double().abs().amax(1)
    broken_rows = (~torch.isfinite(sizes)).nonzero().flatten().tolist()
    if broken_rows:
        return (
            f"x itself is not finite in rows {_listed(row_numbers, broken_rows)}: drop these rows, or impute the cells."
        )
    good = torch.ones(len(x), dtype=torch.bool, device=x.device)
    typical = float(sizes.median())
    bad = [i for i in bad if i < len(x)] or (sizes > (FAR * typical or math.inf)).nonzero().flatten().tolist()
    good[bad] = False
    if bad and good.any() and sizes[~good].numel() and sizes[~good].min() > FAR * sizes[good].max().clamp_min(1e-30):
        return (
            f"Likely cause: x reaches {sizes[~good].max():g} in rows {_listed(row_numbers, bad)} and at most"
            f" {sizes[good].max():g} in the others: look at these rows, or rescale x."
        )
    largest = x.detach().reshape(len(x), -1).double().abs().amax(0)
    far = largest[(largest > UNITS) | ((largest > 0) & (largest < 1 / UNITS))]
    if far.numel():
        return (
            f"Likely cause: the units of x, with {far.numel()} cells of a row whose values reach {far[0]:g} at most:"
            " choose units in which values are near 1 (divide x by a power of 10), or train in float64: model.double()."
        )
    extreme = _extreme(distribution)
    if extreme:
        return f"Likely cause: {extreme}. Lower learning_rate, set grad_clip, or bound this parameter."
    if step == 0:
        return (
            "Likely cause: the programs at their initial parameters. Look for roots, logarithms, powers or divisions"
            " near zero."
        )
    return "Likely cause: the step before this one was too long. Lower learning_rate, or set grad_clip."


def _extreme(distribution: Any) -> str:
    """A description of a parameter that is not finite, or far too large or small; empty if there is none."""
    distribution = unwrap(distribution)
    for name in getattr(distribution, "arg_constraints", {}):
        value = getattr(distribution, "__dict__", {}).get(name)
        if isinstance(value, Tensor) and value.is_floating_point():
            if not torch.isfinite(value).all():
                return f"{name} of {type(distribution).__name__} is not finite"
            if value.abs().max() > EXTREME or (name in ("scale", "concentration") and value.min() < 1 / EXTREME):
                low, high = value.min().item(), value.max().item()
                return f"{name} of {type(distribution).__name__} runs from {low:g} to {high:g}"
    return ""


def locate(owner: nn.Module, run: Callable[[], Any]) -> str:
    """Repeat a step with a hook on every module; returns a sentence that names where numbers cease to be finite.

    Args:
        owner: the module.
        run: a function that repeats the step, forward and backward, from the same random state.
    """
    forward: list[str] = []
    backward: list[str] = []
    handles: list[Any] = []
    for name, module in owner.named_modules():
        label = f"{name or 'the model'} ({type(module).__name__})"
        handles.append(module.register_forward_hook(_Watch(label, forward, backward, handles)))
    try:
        run()
    finally:
        for handle in handles:
            handle.remove()
    if forward:
        return f"It began in the output of {forward[0]}."
    if backward:
        return f"It began in the gradient that went back through {backward[0]}."
    return "It began outside of all modules: in the distributions, or in the programs themselves."


class _Watch:
    """A hook that notes its module if what goes in is finite and what comes out is not, forward and backward."""

    def __init__(self, label: str, forward: list[str], backward: list[str], handles: list[Any]) -> None:
        self.label, self.forward, self.backward, self.handles = label, forward, backward, handles

    def __call__(self, module: nn.Module, inputs: Any, output: Any) -> None:
        sent, made = _real(inputs), _real(output)
        if _finite(sent) and _finite(module.parameters(recurse=False)) and not _finite(made):
            self.forward.append(self.label)
        arrived: list[Tensor] = []
        for tensor in made:
            if tensor.requires_grad:
                self.handles.append(tensor.register_hook(arrived.append))
        for tensor in [*sent, *module.parameters(recurse=False)]:
            if tensor.requires_grad:
                self.handles.append(tensor.register_hook(lambda gradient: self._back(arrived, gradient)))

    def _back(self, arrived: list[Tensor], gradient: Tensor) -> None:
        if arrived and _finite(arrived) and not _finite([gradient]):
            self.backward.append(self.label)


def _real(values: Any) -> list[Tensor]:
    return [v for v in pytree.tree_leaves(values) if isinstance(v, Tensor) and v.is_floating_point()]


def _finite(tensors: Any) -> bool:
    return all(bool(torch.isfinite(tensor).all()) for tensor in tensors)
