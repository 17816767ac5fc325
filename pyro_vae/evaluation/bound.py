"""The evidence lower bound of each row and its parts."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pyro_vae.arguments import positive_integer
from pyro_vae.data.batches import Rows
from pyro_vae.elbos.evidence import kl_terms, sum_terms
from pyro_vae.evaluation.results import BoundResult, check_estimates
from pyro_vae.inference.chunks import chunk_weights, particle_counts, row_chunks
from pyro_vae.inference.pair import ProgramPair
from pyro_vae.inference.weights import LogWeights
from pyro_vae.runtime.isolation import evaluating

__all__ = ["elbo"]


def elbo(
    model: ProgramPair, rows: Rows, *, num_particles: int = 64, seed: int | None = None, fields: tuple[str, ...] = ()
) -> BoundResult:
    """The ELBO of each row; see `LatentVariableModel.elbo`."""
    positive_integer("num_particles", num_particles)
    parts: list[tuple[Tensor, ...]] = []
    analytic_sites: tuple[str, ...] = ()
    joint = False
    with evaluating(model, seed=seed):
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
    return BoundResult(
        check_estimates("The ELBO", r - d), r, d, error, r_error, d_error, analytic_sites, num_particles, joint
    )


def _error(draws: Tensor) -> Tensor:
    """The standard error of the mean over particles, (K, B) -> (B,); NaN for one particle."""
    k = len(draws)
    return draws.std(0) / math.sqrt(k) if k > 1 else torch.full_like(draws[0], math.nan)


def _elbo_draws(weights: LogWeights) -> tuple[Tensor, Tensor, tuple[str, ...]]:
    """Reconstruction and KL of each particle, (K, B), and the sites whose KL is in closed form."""
    kl, analytic_sites = kl_terms(weights, analytic=True)
    reconstruction = sum_terms([(site.scale, site.log_prob) for site in weights.observed.values()], weights.joint)
    return reconstruction, sum_terms(kl, weights.joint).expand_as(reconstruction), analytic_sites
