"""Annealed importance sampling: chains that move from the guide, or the prior, to the posterior in many small steps.

Each chain moves by Hamiltonian Monte Carlo in unconstrained coordinates. Step sizes are found in a pilot run on
separate draws and then kept fixed, so that the weights stay unbiased and chains can be run backwards.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from pyro import poutine
from torch import Tensor
from torch.distributions import biject_to
from torch.distributions.constraints import Constraint, MixtureSameFamilyConstraint

from pyro_vae.arguments import check_compile, positive_integer
from pyro_vae.evaluation.base import Batch, Method, log_densities
from pyro_vae.evaluation.results import Sandwich, as_sandwich
from pyro_vae.evaluation.summary import Summary, as_log_likelihood, summarize_log_weights
from pyro_vae.inference.chunks import fields_of, program_structure, row_chunks
from pyro_vae.inference.handlers import fix_latents
from pyro_vae.inference.pair import ProgramPair
from pyro_vae.inference.weights import LogWeights, Site, log_weights
from pyro_vae.predictive import simulated_rows
from pyro_vae.runtime.isolation import evaluating
from pyro_vae.runtime.random import seeded

__all__ = ["AIS", "sandwich"]

State = dict[str, Tensor]  # unconstrained values by site, (K, ...)
COUNTED = " counted cells"  # among the tensors of a batch; no field has a name with spaces
PILOT_CHAINS = 16
TARGET_ACCEPTANCE = 0.75


@dataclass(frozen=True)
class AIS(Method):
    """Annealed importance sampling through f_b(z) = start(z)^(1 - b) p(x, z)^b, for b from 0 to 1.

    The mean of its weights is p(x). They mostly vary far less than those of importance sampling, at the cost of
    `num_steps` x `leapfrog_steps` gradients each.

    With fewer than 25 chains k-hat is unknown, and its threshold is strict for few chains (0.34 for 32). It is a better
    check to take more steps and see whether the estimate changes, or to call `sandwich`.

    Args:
        num_steps: T, the number of steps of b, whose values follow a sigmoid.
        leapfrog_steps: gradient steps in each move of a chain.
        start: "guide" or "prior". The prior needs more steps; use it if the guide may miss part of the posterior.
        num_chains: K, chains per row, where a call gives no `num_particles`.
        compile: whether densities and gradients run as compiled code: True, or raise with the reason why they can't;
            False, never; "auto", where that pays.

    Raises:
        ValueError: if one is out of range.

    References:
        *Annealed Importance Sampling* (Neal, 2001), arXiv physics/9803008; *On the Quantitative Analysis of
        Decoder-Based Generative Models* (Wu et al., 2017), arXiv 1611.04273
    """

    name: ClassVar[str] = "ais"
    shares_draws: ClassVar[bool] = False
    num_steps: int = 100
    leapfrog_steps: int = 3
    start: str = "guide"
    num_chains: int = 32
    compile: bool | str = "auto"

    def __post_init__(self) -> None:
        check_compile(self.compile)
        positive_integer("num_steps", self.num_steps)
        positive_integer("leapfrog_steps", self.leapfrog_steps)
        positive_integer("num_chains", self.num_chains, 2)
        if self.start not in ("guide", "prior"):
            raise ValueError(f"start must be guide or prior; got {self.start!r}. Choose one of these.")

    @property
    def default_particles(self) -> int:
        return self.num_chains

    def log_weights(
        self, model: ProgramPair, batch: Batch, num_particles: int, cells: Sequence[Tensor | None] = (None,)
    ) -> list[Tensor]:
        results = []
        for counted in cells:
            sizes = self._find_steps(model, batch, num_particles, counted)
            results.append(self._forward(_Target(self, model, batch, num_particles, counted), sizes))
        return results

    def evaluations(self) -> int:
        return 2 * (self.num_steps - 1) * self.leapfrog_steps

    def _temperatures(self) -> list[float]:
        """b_0 = 0, ..., b_T = 1."""
        ends = torch.linspace(-4, 4, self.num_steps + 1, dtype=torch.float64).sigmoid()
        return ((ends - ends[0]) / (ends[-1] - ends[0])).tolist()  # type: ignore[no-any-return]

    def _find_steps(self, model: ProgramPair, batch: Batch, num_particles: int, cells: Tensor | None = None) -> _Steps:
        """Pilot run: the standard deviations of the start, and a step size for each temperature and row."""
        target = _Target(self, model, batch, min(num_particles, PILOT_CHAINS), cells)
        steps = _Steps({name: value.std(0, keepdim=True) + 1e-12 for name, value in target.first.items()})
        self._forward(target, steps)
        return steps

    def _forward(self, target: _Target, steps: _Steps) -> Tensor:
        """Log-weights (K, B) of chains from the start to the posterior; step sizes that `steps` lacks are added."""
        b = self._temperatures()
        point = target.at(target.first)
        log_w = b[1] * point.log_ratio
        for t in _progress(range(1, self.num_steps)):
            point = target.move(point, b[t], steps, t - 1)
            log_w = log_w + (b[t + 1] - b[t]) * point.log_ratio
        return log_w

    def _backward(self, target: _Target, steps: _Steps, state: State) -> Tensor:
        """Log-weights (K, B), whose mean is 1 / p(x), of chains from exact posterior draws to the start."""
        b = self._temperatures()
        point = target.at(state)
        log_w = -(b[-1] - b[-2]) * point.log_ratio
        for t in _progress(range(self.num_steps - 1, 0, -1)):
            point = target.move(point, b[t], steps, t - 1)
            log_w = log_w - (b[t] - b[t - 1]) * point.log_ratio
        return log_w


@dataclass
class _Steps:
    """How far the chains of each row move.

    Attributes:
        standard_deviations: those of the draws at the start, by site.
        sizes: step sizes (1, B) in units of these, by temperature.
    """

    standard_deviations: State
    sizes: list[Tensor] = field(default_factory=list)


@dataclass
class _Point:
    """The positions of the chains, and the log-densities there, (K, B), with their gradients.

    Attributes:
        state: unconstrained values, by site.
        log_start: log-density of the start.
        log_target: log p(x, z).
        start_slope: gradient of `log_start`, by site.
        target_slope: gradient of `log_target`, by site.
    """

    state: State
    log_start: Tensor
    log_target: Tensor
    start_slope: State
    target_slope: State

    @property
    def log_ratio(self) -> Tensor:
        return self.log_target - self.log_start

    def log_density(self, b: float) -> Tensor:
        """log f_b."""
        return (1 - b) * self.log_start + b * self.log_target

    def slope(self, b: float) -> State:
        """The gradient of log f_b."""
        return {name: (1 - b) * self.start_slope[name] + b * self.target_slope[name] for name in self.state}


class _Target:
    """The densities f_b of a batch of rows, on K chains."""

    def __init__(self, ais: AIS, model: ProgramPair, batch: Batch, num_chains: int, cells: Tensor | None) -> None:
        if num_chains < 2:
            raise ValueError(f"num_particles must be at least 2 for AIS; got {num_chains}. Draw several chains.")
        self.ais, self.model = ais, model
        self.batch = batch if cells is None else batch | {COUNTED: cells}
        self.program = model.guide if ais.start == "guide" else poutine.block(model.model, hide_fn=_is_data)
        record = self._run(self.program, batch, num_chains)
        if record.enumeration is not None:  # chains move the other latents, given the sum over the values of these
            first = record.draw_latents(posterior=False)
            first = {name: value for name, value in first.items() if name not in record.enumeration.names}
            record = self._run(fix_latents(self.program, first), batch, num_chains)
        summed_out = () if record.enumeration is None else record.enumeration.names
        self.sites: dict[str, Site] = {name: site for name, site in record.latent.items() if name not in summed_out}
        self.transforms = {name: _transform(name, site) for name, site in self.sites.items()}
        self.first = self.unconstrained({name: site.value for name, site in self.sites.items()})
        self.recorder = ais.recorder
        supports = [site.distribution.support for site in self.sites.values()]  # type: ignore[attr-defined]
        if self.recorder is not None:
            self.recorder.refresh()
            if any(map(_has_tensors, supports)):
                self.recorder.do_without("Annealing", "a latent whose support depends on tensors")
                self.recorder = None

    def _run(self, program: Any, batch: Batch, num_chains: int) -> LogWeights:
        return log_weights(self.model.model, program, batch["x"], num_particles=num_chains, **fields_of(batch))

    def repeated(self, draws: dict[str, Tensor], index: slice) -> State:
        """The state in which all chains of a row are at its draw in `draws`, for the rows at `index`."""
        values = {}
        for name, site in self.sites.items():
            value = draws[name].unsqueeze(0) if site.row_dim is None else draws[name][index].unsqueeze(0)
            values[name] = value.reshape(1, *site.value.shape[1:]).expand_as(site.value)
        return self.unconstrained(values)

    def unconstrained(self, values: dict[str, Tensor]) -> State:
        """The state of chains at given values of the sites."""
        return {name: transform.inv(values[name]) for name, transform in self.transforms.items()}

    def at(self, state: State) -> _Point:
        """Both log-densities of the unconstrained coordinates, which include the transforms' Jacobians."""
        inputs = [*self.batch.values(), *(value.contiguous() for value in state.values())]
        if self.recorder is None:
            values = self._densities(inputs)
        else:
            second = [site.row_dim is not None and site.row_dim + site.value.dim() == 1 for site in self.sites.values()]
            open_dims = ["B"] * len(self.batch) + ["KB" if rows else "K" for rows in second]
            values = self.recorder("Annealing", tuple(self.batch), self._densities, inputs, open_dims)
        log_start, log_target, *slopes = values
        start, target = slopes[: len(state)], slopes[len(state) :]
        named = (dict(zip(state, part, strict=True)) for part in (start, target))
        return _Point(state, log_start, log_target, *named)

    def _densities(self, inputs: list[Tensor]) -> list[Tensor]:
        """Both log-densities and their gradients, from the tensors of the batch and those of the state, in order."""
        batch = dict(zip(self.batch, inputs, strict=False))
        here = {n: v.detach().requires_grad_() for n, v in zip(self.sites, inputs[len(batch) :], strict=True)}
        cells = batch.pop(COUNTED, None)
        with torch.enable_grad():
            values = {name: self.transforms[name](value) for name, value in here.items()}
            record = self._run(fix_latents(self.program, values), batch, inputs[-1].shape[0])
            jacobian = record.total(
                replace(
                    record.latent[name],
                    log_prob=record.latent[name].per_row(transform.log_abs_det_jacobian(here[name], values[name])),
                )
                for name, transform in self.transforms.items()
            )
            log_start, log_target = (density + jacobian for density in log_densities(record, cells))
            slopes = [*_gradient(log_start, here), *_gradient(log_target, here)]
        return [log_start.detach(), log_target.detach(), *slopes]

    def move(self, point: _Point, b: float, steps: _Steps, number: int) -> _Point:
        """One move of Hamiltonian Monte Carlo that leaves f_b invariant.

        Args:
            point: where the chains are.
            b: the temperature.
            steps: how far chains move; if there is no size for this temperature yet, it is found and added.
            number: the number of this temperature.
        """
        pilot = number == len(steps.sizes)
        size = steps.sizes[-1 if pilot else number] if steps.sizes else torch.full_like(point.log_ratio[:1], 0.5)
        stride = {
            name: self.sites[name].broadcast_to_value(size) * standard_deviation
            for name, standard_deviation in steps.standard_deviations.items()
        }
        momentum = {name: torch.randn_like(value) for name, value in point.state.items()}
        before = point.log_density(b) - self._kinetic(momentum)
        moved, slope = point, point.slope(b)
        for _ in range(self.ais.leapfrog_steps):
            momentum = {name: p + 0.5 * stride[name] * slope[name] for name, p in momentum.items()}
            moved = self.at({name: value + stride[name] * momentum[name] for name, value in moved.state.items()})
            slope = moved.slope(b)
            momentum = {name: p + 0.5 * stride[name] * slope[name] for name, p in momentum.items()}
        rise = (moved.log_density(b) - self._kinetic(momentum) - before).nan_to_num(nan=-math.inf)
        accepted = torch.rand_like(rise).log() < rise
        if pilot:
            acceptance = rise.clamp_max(0.0).exp().mean(0, keepdim=True)
            steps.sizes.append(size * torch.exp(acceptance - TARGET_ACCEPTANCE))
        return self._chosen(accepted, moved, point)

    def _chosen(self, accepted: Tensor, moved: _Point, point: _Point) -> _Point:
        """The chains' new points where they are accepted, (K, B), else their old ones."""

        def by_site(new: State, old: State) -> State:
            where = {name: self.sites[name].broadcast_to_value(accepted) for name in new}
            return {name: torch.where(where[name], new[name], old[name]) for name in new}

        return _Point(
            by_site(moved.state, point.state),
            torch.where(accepted, moved.log_start, point.log_start),
            torch.where(accepted, moved.log_target, point.log_target),
            by_site(moved.start_slope, point.start_slope),
            by_site(moved.target_slope, point.target_slope),
        )

    def _kinetic(self, momentum: State) -> Tensor:
        """Kinetic energy of the chains, (K, B), or (K, 1) if a site lies outside the row plate."""
        terms = {name: self.sites[name].sum_to_rows(0.5 * p.square()) for name, p in momentum.items()}
        if not all(site.in_rows for site in self.sites.values()):
            terms = {name: term.sum(1, keepdim=True) for name, term in terms.items()}
        return sum(terms.values(), torch.zeros(()))


def _gradient(log_density: Tensor, state: State) -> Sequence[Tensor]:
    """The gradient of log-densities at the state of each chain, site by site; zero at sites that they do not read."""
    if not log_density.requires_grad:
        return [torch.zeros_like(value) for value in state.values()]
    return torch.autograd.grad(
        log_density.sum(), list(state.values()), retain_graph=True, allow_unused=True, materialize_grads=True
    )


def _has_tensors(support: Any) -> bool:
    """Whether a support depends on tensors, as bounds can that differ between rows."""
    parts = support if isinstance(support, list | tuple) else vars(support).values() if _is_support(support) else ()
    return isinstance(support, Tensor) or any(map(_has_tensors, parts))


def _is_support(value: Any) -> bool:
    return isinstance(value, Constraint)


def _progress(temperatures: range) -> Iterable[int]:
    """The temperatures, with a bar over them; it shows nothing where there is no terminal."""
    from tqdm.auto import tqdm

    bar: Iterable[int] = tqdm(
        temperatures, desc="annealing", unit="temperature", disable=None, leave=False, dynamic_ncols=True
    )
    return bar


def _is_data(site: Any) -> bool:
    return bool(site["type"] == "sample" and site["is_observed"])


def _transform(name: str, site: Site) -> Any:
    """The transform from unconstrained coordinates to values of the site.

    Raises:
        NotImplementedError: if there is none, as for discrete sites.
    """
    distribution: Any = site.distribution
    support = distribution.support
    if isinstance(support, MixtureSameFamilyConstraint):
        support = support.base_constraint
    try:
        if support.is_discrete:
            raise NotImplementedError
        return biject_to(support)
    except NotImplementedError:
        raise NotImplementedError(
            f"Annealing moves latents along gradients; got site {name!r} on {support}, which has no unconstrained"
            " coordinates. Use method='importance'."
        ) from None


def sandwich(
    model: ProgramPair,
    num_rows: int = 200,
    *,
    num_particles: int | None = None,
    method: AIS | None = None,
    seed: int | None = None,
    **fields: Any,
) -> Sandwich:
    """Lower and upper estimates of log p(x) for rows drawn from the model, whose exact posterior draws are known.

    They check other estimates, which must lie between both. See `LatentVariableModel.sandwich`.
    """
    ais = AIS() if method is None else method
    if not isinstance(ais, AIS):
        raise TypeError(f"method must be an AIS object; got {ais!r}. Pass e.g. evaluation.AIS(num_steps=500).")
    num_particles = ais.num_chains if num_particles is None else positive_integer("num_particles", num_particles, 2)
    with seeded(seed):
        drawn, rows = simulated_rows(model, num_rows, **fields)
        structure, done = program_structure(model, rows, rows.field_names), 0
        ais = ais.prepared(model, 2 * num_rows, num_particles, structure.num_cells)
        lowers, uppers = [], []
        with evaluating(model):
            for batch in row_chunks(model, rows, num_particles, rows.field_names, structure=structure):
                count = len(batch["x"])
                steps = ais._find_steps(model, batch, num_particles)
                target = _Target(ais, model, batch, num_particles, None)
                lowers.append(summarize_log_weights(ais._forward(target, steps)))
                exact = target.repeated(drawn, slice(done, done + count))
                uppers.append(summarize_log_weights(ais._backward(target, steps, exact)))
                done += count
    lower, upper = (
        as_log_likelihood(Summary.joined(parts), num_particles, ais, structure) for parts in (lowers, uppers)
    )
    return as_sandwich(lower, upper, rows.x)
