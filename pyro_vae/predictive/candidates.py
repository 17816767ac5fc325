"""Draws of the latents from the guide, weighted so that they stand for draws from the posterior."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pyro_vae.inference import pareto
from pyro_vae.inference.chunks import chunk_weights, particle_counts
from pyro_vae.inference.pair import ProgramPair
from pyro_vae.inference.weights import LogWeights, Site

__all__ = ["Candidates", "Latents", "draw_candidates"]

Latents = dict[str, Tensor]  # S values by site: (S, B, ...), (S, 1, ...) outside the row plate


@dataclass(frozen=True)
class Candidates:
    """Draws from the guide with the smoothed weights by which they stand for draws from the posterior.

    Attributes:
        sites: the latent sites, each with K draws for every row.
        weights: (K, B), of sum 1 over the draws.
        khat: Pareto k-hat of each row, (B,).
        kl: KL(q(z | x) || p(z)) of each row, estimated from the draws, (B,).
    """

    sites: dict[str, Site]
    weights: Tensor
    khat: Tensor
    kl: Tensor

    @property
    def latents(self) -> Latents:
        """All draws, by site."""
        return {name: site.value for name, site in self.sites.items()}

    @property
    def ess(self) -> Tensor:
        """How many draws of equal weight the weighted draws are worth, (B,)."""
        return 1 / self.weights.square().sum(0)

    def resample(self, count: int) -> Latents:
        """`count` draws from the posterior."""
        chosen = torch.multinomial(self.weights.T, count, replacement=True).T  # (count, B)
        return {
            name: torch.take_along_dim(site.value, site.broadcast_to_value(chosen), 0)
            for name, site in self.sites.items()
        }


def draw_candidates(model: ProgramPair, batch: dict[str, Tensor], count: int) -> Candidates:
    """`count` draws from the guide for each row of a batch, with their weights."""
    record = LogWeights.joined([chunk_weights(model, batch, part) for part in particle_counts(batch, count)])
    smoothed, khat = pareto.smooth(record.log_w)
    kl = (record.log_guide - record.log_prior).double().mean(0)
    drawn = record.draw_latents()  # one value of each site that is summed out, by its probability given the particle
    sites = {name: replace(site, value=drawn[name], leading=0) for name, site in record.latent.items()}
    return Candidates(sites, smoothed.double().softmax(0), khat, kl)
