"""Importance sampling from the guide."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from pyro_vae.arguments import check_compile
from pyro_vae.evaluation.base import Batch, Method, log_weights_of
from pyro_vae.inference.chunks import chunk_weights, fields_of, particle_counts
from pyro_vae.inference.handlers import Program
from pyro_vae.inference.pair import ProgramPair
from pyro_vae.inference.programs import find_plates

__all__ = ["Importance"]

NAME = "Importance sampling"


@dataclass(frozen=True)
class Importance(Method):
    """Importance sampling from the guide.

    Args:
        guide: a program to draw from; by default the model's own guide.
        compile: whether the programs run as compiled code: True, or raise with the reason why they can't; False,
            never; "auto", where that pays.

    References:
        *Importance Weighted Autoencoders* (Burda, Grosse, Salakhutdinov, 2015), arXiv 1509.00519
    """

    name: ClassVar[str] = "importance"
    guide: Program | None = None
    compile: bool | str = "auto"

    def __post_init__(self) -> None:
        check_compile(self.compile)

    def log_weights(
        self, model: ProgramPair, batch: Batch, num_particles: int, cells: Sequence[Tensor | None] = (None,)
    ) -> list[Tensor]:
        counted = [part for part in cells if part is not None]
        key = tuple(batch), tuple(part is None for part in cells)
        open_dims = [*["B"] * (len(batch) + len(counted)), "K"]

        def run(tensors: list[Tensor]) -> list[Tensor]:
            given, masks = dict(zip(batch, tensors, strict=False)), iter(tensors[len(batch) :])
            count = tensors[-1].shape[0]
            record = chunk_weights(model, given, count, self.guide)
            return [log_weights_of(record, None if part is None else next(masks)) for part in cells]

        if self.recorder is not None:
            self.recorder.refresh()
        if self.recorder is not None:  # plates are found by runs that draw
            find_plates(model.model, model.guide, (batch["x"],), fields_of(batch), checked=num_particles > 1)
        parts = []
        for count in particle_counts(batch, num_particles):
            inputs = [*batch.values(), *counted, torch.empty(count, 0)]  # the last one says how many particles
            parts.append(run(inputs) if self.recorder is None else self.recorder(NAME, key, run, inputs, open_dims))
        return [torch.cat(columns) for columns in zip(*parts, strict=True)]
