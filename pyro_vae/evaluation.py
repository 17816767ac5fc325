"""Numbers about a fitted model, per row, with their errors: the ELBO and its parts, the log-likelihood."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyro_vae import bounds, scope
from pyro_vae.batches import Rows
from pyro_vae.elbos.evidence import kl_terms, sum_terms
from pyro_vae.parts import positive_integer
from pyro_vae.programs import outside_rows, run_programs
from pyro_vae.weights import LogWeights, log_weights

__all__ = ["BoundResult", "LogLikelihood", "Mean", "elbo", "log_likelihood", "principal_components", "row_chunks"]

CELLS = 2**20  # numbers per chunk of rows x particles x cells: 4 MB in float32, which stays in the cache


@dataclass(frozen=True)
class Mean:
    """A mean over rows with its two errors.

    Attributes:
        estimate: the mean.
        monte_carlo_error: standard error due to the finite number of particles.
        sampling_error: standard error due to the finite number of rows.
    """

    estimate: float
    monte_carlo_error: float
    sampling_error: float

    def __str__(self) -> str:
        errors = f"Monte Carlo error {self.monte_carlo_error:.3f}, sampling error {self.sampling_error:.3f}"
        return f"{self.estimate:.3f} ({errors})"


def _mean(estimate: Tensor, standard_error: Tensor) -> Mean:
    rows = len(estimate)
    sampling = float(estimate.std() / math.sqrt(rows)) if rows > 1 else math.nan
    return Mean(float(estimate.mean()), float(standard_error.square().sum().sqrt() / rows), sampling)


@dataclass(frozen=True)
class BoundResult:
    """The ELBO of each row, in nats: `bound` = `reconstruction` - `kl`, each (B,); (1,) if joint over the rows.

    Attributes:
        bound: the evidence lower bound.
        reconstruction: E_q log p(x | z).
        kl: KL(q(z | x) || p(z)).
        standard_error: Monte Carlo standard error of the bound; NaN for one particle.
        reconstruction_error: that of the reconstruction.
        kl_error: that of the KL; 0 where it is in closed form and does not vary.
        analytic_sites: latent sites whose KL is in closed form.
        num_particles: K.
        joint: whether a latent lies outside the row plate, so that there is one number for all rows.
    """

    bound: Tensor
    reconstruction: Tensor
    kl: Tensor
    standard_error: Tensor
    reconstruction_error: Tensor
    kl_error: Tensor
    analytic_sites: tuple[str, ...]
    num_particles: int
    joint: bool

    def mean(self, part: str = "bound") -> Mean:
        """Mean over rows of the "bound", the "reconstruction" or the "kl", with both errors.

        Raises:
            ValueError: for another part.
        """
        if part not in ("bound", "reconstruction", "kl"):
            raise ValueError(f"part must be bound, reconstruction or kl; got {part!r}. Choose one of these.")
        error = self.standard_error if part == "bound" else getattr(self, f"{part}_error")
        return _mean(getattr(self, part), error)


@dataclass(frozen=True)
class LogLikelihood:
    """Importance-sampled log p(x) of each row, in nats, each field (B,); (1,) if joint over the rows.

    Attributes:
        estimate: log mean_k w_k, a lower bound in expectation.
        standard_error: Monte Carlo standard error by the delta method.
        ess: effective sample size, (sum w)^2 / sum w^2, between 1 and K.
        num_particles: K.
        joint: whether a latent lies outside the row plate, so that there is one number for all rows.
    """

    estimate: Tensor
    standard_error: Tensor
    ess: Tensor
    num_particles: int
    joint: bool

    def mean(self) -> Mean:
        """Mean over rows, with both errors."""
        return _mean(self.estimate, self.standard_error)


def elbo(
    model: Any, rows: Rows, *, num_particles: int = 64, seed: int | None = None, fields: tuple[str, ...] = ()
) -> BoundResult:
    """The ELBO of each row; see `LatentVariableModel.elbo`."""
    positive_integer("num_particles", num_particles)
    parts: list[tuple[Tensor, ...]] = []
    analytic_sites: tuple[str, ...] = ()
    joint = False
    with scope.evaluating(model, seed=seed):
        for batch in row_chunks(model, rows, num_particles, fields):
            draws = []
            for count in particle_counts(batch, num_particles):
                weights = chunk_weights(model, batch, count)
                joint = weights.joint
                reconstruction, kl, analytic_sites = _elbo_draws(weights)
                draws.append((reconstruction, kl))
            r = torch.cat([draw[0] for draw in draws]).double()
            d = torch.cat([draw[1] for draw in draws]).double()
            parts.append((r.mean(0), d.mean(0), *(_error(draws) for draws in (r - d, r, d))))
    r, d, error, r_error, d_error = (torch.cat(column) for column in zip(*parts, strict=True))
    return BoundResult(r - d, r, d, error, r_error, d_error, analytic_sites, num_particles, joint)


def _error(draws: Tensor) -> Tensor:
    """The standard error of the mean over particles, (K, B) -> (B,); NaN for one."""
    k = len(draws)
    return draws.std(0) / math.sqrt(k) if k > 1 else torch.full_like(draws[0], math.nan)


def _elbo_draws(weights: LogWeights) -> tuple[Tensor, Tensor, tuple[str, ...]]:
    """Reconstruction and KL of every particle, (K, B), the KL in closed form where there is one."""
    kl, analytic_sites = kl_terms(weights, analytic=True)
    reconstruction = sum_terms([(site.scale, site.log_prob) for site in weights.observed.values()], weights.joint)
    return reconstruction, sum_terms(kl, weights.joint).expand_as(reconstruction), analytic_sites


def log_likelihood(
    model: Any, rows: Rows, *, num_particles: int = 1000, seed: int | None = None, fields: tuple[str, ...] = ()
) -> LogLikelihood:
    """The importance-sampled log-likelihood of each row; see `LatentVariableModel.log_likelihood`."""
    positive_integer("num_particles", num_particles)
    parts: list[tuple[Tensor, Tensor, Tensor]] = []
    joint = False
    with scope.evaluating(model, seed=seed):
        for batch in row_chunks(model, rows, num_particles, fields):
            log_w = []
            for count in particle_counts(batch, num_particles):
                weights = chunk_weights(model, batch, count)
                log_w.append(weights.log_w)
                joint = weights.joint
            parts.append(summarize(torch.cat(log_w).double()))
    estimate, standard_error, ess = (torch.cat(column) for column in zip(*parts, strict=True))
    return LogLikelihood(estimate, standard_error, ess, num_particles, joint)


def summarize(log_w: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Log-mean, its standard error and the effective sample size of log-weights: (K, B) -> three times (B,).

    The error is that of the logarithm of a mean to first order: the weights' coefficient of variation over sqrt(K).
    """
    k = len(log_w)
    normalized = torch.softmax(log_w, 0)
    ess = 1.0 / normalized.square().sum(0)
    constant = (log_w == log_w[0]).all(0)
    ess = torch.where(constant, torch.full_like(ess, k), ess)
    variance = (k / ess - 1.0).clamp_min(0.0) / (k - 1) if k > 1 else torch.full_like(ess, math.nan)
    return bounds.iwae(log_w), variance.sqrt(), ess


def principal_components(z: Tensor, count: int = 2) -> Tensor:
    """The coordinates of rows along their directions of largest variance, (N, D) -> (N, count), each of mean zero.

    The largest entry of each direction is positive, so that the signs do not depend on the machine.

    Args:
        z: rows (N, D), e.g. the guide's means.
        count: how many directions, at most min(N, D).

    Raises:
        ValueError: if `z` is not a matrix, or has fewer directions.

    Example:
        >>> z = torch.tensor([[0.0, 1.0], [0.0, 5.0], [1.0, 3.0], [-1.0, 3.0]])
        >>> principal_components(z, 1).squeeze(1).tolist()
        [-2.0, 2.0, 0.0, 0.0]
    """
    positive_integer("count", count)
    if z.dim() != 2 or count > min(z.shape):
        raise ValueError(
            f"z must have shape (N, D) with N and D at least {count}; got {tuple(z.shape)}. Ask for fewer."
        )
    centred = z - z.mean(0)
    directions = torch.linalg.svd(centred, full_matrices=False).Vh[:count]
    largest = directions.gather(1, directions.abs().argmax(1, keepdim=True))
    return centred @ (directions * largest.sign()).T


def row_chunks(model: Any, rows: Rows, num_particles: int, fields: tuple[str, ...]) -> Iterator[dict[str, Tensor]]:
    """Rows in chunks that, times some particles, stay within memory; all at once if a latent is global."""
    first = rows.take(slice(0, 1), fields, like=model.like)
    with scope.preserved_rng():
        x, named = first["x"], {name: value for name, value in first.items() if name != "x"}
        joint = any(
            outside_rows(trace, model.row_plate) for trace in run_programs(model.model, model.guide, (x,), named)
        )
    size = len(rows) if joint else max(1, CELLS // (x.numel() * min(num_particles, 64)))
    for start in range(0, len(rows), size):
        yield rows.take(slice(start, start + size), fields, like=model.like)


def particle_counts(batch: dict[str, Tensor], num_particles: int) -> Iterator[int]:
    """Particles in chunks that fit with these rows."""
    size = max(1, CELLS // batch["x"].numel())
    for start in range(0, num_particles, size):
        yield min(size, num_particles - start)


def chunk_weights(model: Any, batch: dict[str, Tensor], count: int) -> LogWeights:
    """The record of a chunk of rows and particles."""
    fields: dict[str, Any] = {name: value for name, value in batch.items() if name != "x"}
    return log_weights(model.model, model.guide, batch["x"], num_particles=count, **fields)
