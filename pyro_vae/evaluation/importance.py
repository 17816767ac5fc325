"""Importance sampling from the guide."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from pyro_vae.evaluation.base import Batch, Method, observed_log_prob
from pyro_vae.inference.chunks import chunk_weights, particle_counts
from pyro_vae.inference.pair import ProgramPair
from pyro_vae.inference.programs import Program

__all__ = ["Importance"]


@dataclass(frozen=True)
class Importance(Method):
    """Importance sampling from the guide.

    Args:
        guide: a program to draw from; by default the model's own guide.

    References:
        *Importance Weighted Autoencoders* (Burda, Grosse, Salakhutdinov, 2015), arXiv 1509.00519
    """

    name: ClassVar[str] = "importance"
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
