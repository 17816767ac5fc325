"""log p(x) of each row, and log p of some cells given the others, from log-weights of one method or another."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from pyro_vae import bounds
from pyro_vae.arguments import positive_integer, positive_number
from pyro_vae.data.batches import Rows
from pyro_vae.data.tensors import as_tensor
from pyro_vae.distributions import cell_log_prob
from pyro_vae.evaluation.results import ConditionalLogLikelihood, LogLikelihood, UnreliableWarning, check_told
from pyro_vae.inference import pareto
from pyro_vae.inference.chunks import Facts, chunk_weights, facts, particle_counts, row_chunks
from pyro_vae.inference.pair import ProgramPair
from pyro_vae.inference.programs import Program
from pyro_vae.inference.weights import LogWeights
from pyro_vae.runtime import processes
from pyro_vae.runtime.isolation import evaluating
from pyro_vae.runtime.random import seeded

__all__ = [
    "Importance",
    "Method",
    "conditional_log_likelihood",
    "log_likelihood",
    "observed_log_prob",
    "summarize",
]

Batch = dict[str, Tensor]


class Method(ABC):
    """A way to draw log-weights whose mean weight is p(x). Subclass it and write `log_weights` for another.

    Attributes:
        name: what it is called in results.
        shared: whether the same draws stand behind all sets of cells.
        remedy: what to try where its weights are unreliable.
    """

    name: ClassVar[str]
    shared: ClassVar[bool] = True
    remedy: ClassVar[str] = "Draw more particles, or try another method."

    @abstractmethod
    def log_weights(
        self, model: ProgramPair, batch: Batch, num_particles: int, cells: Sequence[Tensor | None] = (None,)
    ) -> list[Tensor]:
        """Log-weights (K, B), (K, 1) if joint, for each set of cells: those that are data, the others left out.

        Args:
            model: the pair of programs, in evaluation mode.
            batch: x (B, *E) and named fields.
            num_particles: K.
            cells: for each result, which cells of x count, boolean (B, *E); None for all of them.
        """


@dataclass(frozen=True)
class Importance(Method):
    """Importance sampling from the guide.

    Args:
        guide: another program to draw from than the model's own.

    References:
        *Importance Weighted Autoencoders* (Burda, Grosse, Salakhutdinov, 2015), arXiv 1509.00519
    """

    name: ClassVar[str] = "importance"
    remedy: ClassVar[str] = "Draw more particles, train a more flexible guide, or try method='semi_amortized' or 'ais'."
    guide: Program | None = None

    def log_weights(
        self, model: ProgramPair, batch: Batch, num_particles: int, cells: Sequence[Tensor | None] = (None,)
    ) -> list[Tensor]:
        parts = []
        for count in particle_counts(batch, num_particles):
            record = chunk_weights(model, batch, count, self.guide)
            rest = record.log_prior - record.log_guide
            parts.append([observed_log_prob(record, counted) + rest for counted in cells])
        return [torch.cat(columns) for columns in zip(*parts, strict=True)]


def observed_log_prob(record: LogWeights, cells: Tensor | None = None) -> Tensor:
    """log p(x | z) of the record, or of some cells of x, boolean (B, *E): (K, B).

    Raises:
        NotImplementedError: if cells depend on each other given z, or there are several observed sites.
    """
    if cells is None:
        return record.log_likelihood
    if len(record.observed) != 1:
        raise NotImplementedError(
            f"Cells of x must belong to one observed site; got {sorted(record.observed)}. Score whole rows."
        )
    (site,) = record.observed.values()
    distribution: Any = site.distribution
    terms, events = torch.where(cells, cell_log_prob(distribution, site.value), 0.0), distribution.event_dim
    return site.per_row(terms.flatten(-events).sum(-1) if events else terms)


def log_likelihood(
    model: ProgramPair,
    rows: Rows,
    *,
    num_particles: int = 1000,
    method: str | Method = "importance",
    target_error: float | None = None,
    max_particles: int = 100_000,
    seed: int | None = None,
    fields: tuple[str, ...] = (),
) -> LogLikelihood:
    """log p(x) of each row; see `LatentVariableModel.log_likelihood`."""
    num_particles = positive_integer("num_particles", num_particles)
    if target_error is not None:
        positive_number("target_error", target_error)
        positive_integer("max_particles", max_particles, num_particles)
    way, known = method_of(method), facts(model, rows, fields)
    count = 1 if known.joint else len(rows)  # what is joint is not shared
    mine = processes.share(count)
    stream = (processes.rank(),) if mine else ()
    with evaluating(model), seeded(seed, *stream):
        parts = [
            _until(model, batch, way, num_particles, target_error, max_particles, known.joint)
            for batch in row_chunks(
                model, rows if mine is None else rows.subset(mine), num_particles, fields, known=known
            )
        ]
    columns = [*Summary.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])]
    *columns, counts = processes.joined(columns, count, mine)
    summary = Summary(*columns)
    if known.joint:
        known = known._replace(num_cells=len(rows) * known.num_cells)
    result = result_of(summary, num_particles if target_error is None else counts, way, known)
    warn_of(result, way)
    if target_error is not None and not (result.standard_error <= target_error).all():
        above = int((~(result.standard_error <= target_error)).sum())
        warnings.warn(
            f"target_error={target_error:g} was not reached in {above} of {len(counts)} rows with"
            f" {int(counts.max()):,} particles. Raise max_particles, or choose another method.",
            UnreliableWarning,
            stacklevel=3,
        )
    return result


def _until(
    model: ProgramPair, batch: Batch, way: Method, start: int, target: float | None, most: int, joint: bool
) -> tuple[Summary, Tensor]:
    """Summary and number of particles of each row; particles double where the error is above the target."""
    (log_w,) = way.log_weights(model, batch, start)
    result = summarize(log_w)
    counts = torch.full_like(result.estimate, start, dtype=torch.int64)
    rows = torch.arange(len(counts), device=counts.device)
    while target is not None:
        still = ~(result.standard_error[rows] <= target)
        if not still.any() or len(log_w) >= most:
            break
        log_w, rows = log_w[:, still], rows[still]
        part = batch if joint else {name: value[rows] for name, value in batch.items()}
        (more,) = way.log_weights(model, part, min(len(log_w), most - len(log_w)))
        log_w = torch.cat([log_w, more])
        result = result.put(rows, summarize(log_w))
        counts[rows] = len(log_w)
    return result, counts


def conditional_log_likelihood(
    model: ProgramPair,
    rows: Rows,
    given: Any,
    *,
    num_particles: int = 1000,
    method: str | Method = "importance",
    seed: int | None = None,
    fields: tuple[str, ...] = (),
) -> ConditionalLogLikelihood:
    """log p(x_A | x_B) of each row; see `LatentVariableModel.conditional_log_likelihood`."""
    num_particles = positive_integer("num_particles", num_particles)
    way, known = method_of(method), facts(model, rows, fields)
    if known.joint:
        raise NotImplementedError("Rows must be independent for a conditional log-likelihood; got a global latent.")
    mask, parts, done = _which_cells(given, rows), [], 0
    with evaluating(model, seed=seed):
        for batch in row_chunks(model, rows, num_particles, fields, known=known):
            part = mask[done : done + len(batch["x"])].to(batch["x"].device)
            done += len(part)
            log_w, log_v = way.log_weights(model, batch, num_particles, (None, part))
            parts.append((summarize(log_w), summarize(log_v), _error_of_difference(log_w, log_v, way)))
    whole, conditioned = (result_of(Summary.cat([p[i] for p in parts]), num_particles, way, known) for i in (0, 1))  # type: ignore[misc]
    warn_of(whole, way)
    warn_of(conditioned, way, "log p(x_B)", "as a rule too low, and log p(x_A | x_B) too high")
    error = torch.cat([part[2] for part in parts])
    difference = check_told("log p(x_A | x_B)", whole.estimate - conditioned.estimate)
    return ConditionalLogLikelihood(difference, error, whole, conditioned)


def _which_cells(given: Any, rows: Rows) -> Tensor:
    """Boolean (N, *E): the cells that a mask, or names of columns, stand for."""
    shape = (len(rows), *rows.event_shape)
    if isinstance(given, str) or (isinstance(given, Sequence) and given and all(isinstance(n, str) for n in given)):
        names = [given] if isinstance(given, str) else list(given)
        unknown = [name for name in names if name not in (rows.columns or ())]
        if rows.columns is None:
            raise ValueError(
                f"given must be boolean for data without names; got {names}. Pass a pandas frame, or a mask."
            )
        if unknown:
            raise ValueError(f"given must name columns of x, {rows.columns}; got {unknown}. Correct the names.")
        given = [column in names for column in rows.columns or ()]
    mask = as_tensor(given, "given")
    if mask.dtype != torch.bool or tuple(mask.shape) not in (shape, shape[1:]):
        raise ValueError(
            f"given must be boolean of shape {shape[1:]} or {shape}; got {mask.dtype} of shape {tuple(mask.shape)}."
            " Mark the cells that are known."
        )
    return mask.expand(shape)


def _error_of_difference(log_w: Tensor, log_v: Tensor, way: Method) -> Tensor:
    """Of log mean w - log mean v, to first order, (B,)."""
    k = len(log_w)
    w, v = (k * part.double().softmax(0) for part in (log_w, log_v))
    if way.shared:
        return (w - v).std(0) / k**0.5
    return ((w.var(0) + v.var(0)) / k).sqrt()


class Summary(NamedTuple):
    """What is said of log-weights (K, B), each (B,) in double precision."""

    estimate: Tensor
    standard_error: Tensor
    ess: Tensor
    khat: Tensor
    smoothed: Tensor

    @staticmethod
    def cat(parts: list[Summary]) -> Summary:
        return Summary(*(torch.cat(column) for column in zip(*parts, strict=True)))

    def put(self, rows: Tensor, other: Summary) -> Summary:
        """With the entries of some rows replaced."""
        return Summary(*(old.index_copy(0, rows, new) for old, new in zip(self, other, strict=True)))


def summarize(log_w: Tensor) -> Summary:
    """Log-mean, its standard error, effective sample size, k-hat and smoothed log-mean of log-weights (K, B).

    The error is that of the logarithm of a mean to first order: the weights' coefficient of variation over sqrt(K).
    Weights that differ by no more than rounding have a k-hat of -inf.
    """
    rounding = 64 * torch.finfo(log_w.dtype).eps * log_w.abs().amax(0).double()
    log_w, k = log_w.double(), len(log_w)
    ess = 1.0 / torch.softmax(log_w, 0).square().sum(0)
    ess = torch.where((log_w == log_w[0]).all(0), torch.full_like(ess, k), ess)
    variance = (k / ess - 1.0).clamp_min(0.0) / (k - 1) if k > 1 else torch.full_like(ess, torch.nan)
    smoothed, khat = pareto.smooth(log_w)
    khat = torch.where((log_w.amax(0) - log_w.amin(0) <= rounding) & (k > 1), -torch.inf, khat)
    return Summary(bounds.iwae(log_w), variance.sqrt(), ess, khat, bounds.iwae(smoothed))


def result_of(summary: Summary, num_particles: int | Tensor, way: Method, known: Facts) -> LogLikelihood:
    check_told("log p(x)", summary.estimate)
    return LogLikelihood(
        *summary,
        num_particles=num_particles,
        joint=known.joint,
        method=way.name,
        discrete=known.discrete,
        num_cells=known.num_cells,
    )


def warn_of(result: LogLikelihood, way: Method, what: str = "log p(x)", so: str = "as a rule too low") -> None:
    """Say how many rows are not to be relied on."""
    count = int(result.unreliable.sum())
    if count:
        where = "All rows together have" if result.joint else f"{count} of {len(result.khat)} rows have"
        warnings.warn(
            f"{where} a Pareto k-hat above the threshold: there {what} is unreliable, {so}. {way.remedy}",
            UnreliableWarning,
            stacklevel=4,
        )


METHODS: dict[str, type[Method]] = {"importance": Importance}  # others enter themselves


def method_of(method: str | Method) -> Method:
    """The method that a name, or an object, stands for.

    Raises:
        ValueError: if there is none of this name.
    """
    if isinstance(method, Method):
        return method
    if not isinstance(method, str) or method not in METHODS:
        raise ValueError(f"method must be {', '.join(METHODS)} or an object; got {method!r}. Choose one of these.")
    return METHODS[method]()
