"""What every method for log p(x) is: a way to draw log-weights whose mean weight is p(x)."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from pyro_vae.distributions import cell_log_prob
from pyro_vae.graphs.graph import COMPILATION, saved_by_cell
from pyro_vae.graphs.recorder import Recorder
from pyro_vae.inference import chunks
from pyro_vae.inference.pair import ProgramPair
from pyro_vae.inference.weights import LogWeights

__all__ = ["Batch", "Method", "log_densities", "log_weights_of"]

Batch = dict[str, Tensor]
SAVED_BY_CALL = 3e-3  # seconds that a compiled evaluation of both programs saves, as measured on two cores of a server


class Method(ABC):
    """A way to draw log-weights whose mean weight is p(x). To add one, subclass it and write `log_weights`.

    Attributes:
        name: the name of the method, for `method=` and in results.
        shares_draws: whether one call uses the same draws for all sets of cells, so that their errors are correlated.
        remedy: what to do if its weights are unreliable, for the warning; `remedies` has what depends on the question.
        compile: whether what it computes again and again runs as compiled code: True, or raise with the reason why it
            can't; False, never; "auto", where that pays.
        recorder: the compiled code; None where there is none.
    """

    name: ClassVar[str]
    shares_draws: ClassVar[bool] = True
    remedy: ClassVar[str] = "Draw more particles, or try another method."
    compile: bool | str = False
    recorder: Recorder | None = None

    @property
    def default_particles(self) -> int:
        """K where no number is given."""
        return 1000

    def evaluations(self) -> int:
        """How many times the method evaluates the log-densities of K particles of a row."""
        return 1

    def prepared(self, model: ProgramPair, num_rows: int, num_particles: int, num_cells: int) -> Self:
        """The method, ready to evaluate so many rows: with compiled code, if that is asked for or pays.

        "auto" is judged by counts and sizes and not by the clock, so that results can be repeated.
        """
        if not self.compile or (self.recorder is not None and self.recorder.model is model):
            return self
        cells = num_rows * num_particles * num_cells
        calls = 1 + cells // chunks.CELLS
        saved = self.evaluations() * (calls * SAVED_BY_CALL + cells * saved_by_cell(model))
        if self.compile == "auto" and saved < COMPILATION:
            return self
        prepared = copy.copy(self)
        object.__setattr__(prepared, "recorder", Recorder(model, required=self.compile != "auto"))
        return prepared

    @abstractmethod
    def log_weights(
        self, model: ProgramPair, batch: Batch, num_particles: int, cells: Sequence[Tensor | None] = (None,)
    ) -> list[Tensor]:
        """Log-weights for each set of cells, whose mean weight estimates the probability of these cells.

        Args:
            model: the pair of programs, in evaluation mode.
            batch: x (B, *E) and named fields.
            num_particles: K.
            cells: sets of cells of x, each boolean (B, *E), or None for all cells.

        Returns:
            One tensor for each set of cells: (K, B), or (K, 1) if a latent is global.
        """


def log_weights_of(record: LogWeights, cells: Tensor | None = None) -> Tensor:
    """Log-weights of some cells of x, all other sites the same, (K, B).

    Args:
        record: the log-weights of a run.
        cells: the cells, boolean (B, *E); None for all cells.
    """
    if record.enumeration is None:
        return observed_log_prob(record, cells) + (record.log_prior - record.log_guide)
    return record.log_w if cells is None else record.log_w_of(_terms_of_cells(record, cells))


def log_densities(record: LogWeights, cells: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """log q(z | x) and log p(x, z) of some cells of x, (K, B), sites that are summed out left out of z.

    Args:
        record: the log-weights of a run whose draws all values of these sites share.
        cells: the cells, boolean (B, *E); None for all cells.
    """
    if record.enumeration is None:
        return record.log_guide, observed_log_prob(record, cells) + record.log_prior
    return record.densities(None if cells is None else _terms_of_cells(record, cells))


def observed_log_prob(record: LogWeights, cells: Tensor | None = None) -> Tensor:
    """log p(x | z), or the part of it that belongs to some cells of x, (K, B).

    Args:
        record: the log-weights of a run.
        cells: the cells, boolean (B, *E); None for all cells.

    Raises:
        NotImplementedError: if cells depend on each other given z, or there are several observed sites.
    """
    if cells is None:
        return record.log_likelihood
    (terms,) = _terms_of_cells(record, cells).values()
    return terms


def _terms_of_cells(record: LogWeights, cells: Tensor) -> dict[str, Tensor]:
    """The part of log p(x | z) that belongs to some cells, by the observed site, (K, B) for each enumerated value."""
    if len(record.observed) != 1:
        raise NotImplementedError(
            f"Cells of x must belong to one observed site; got {sorted(record.observed)}. Score whole rows."
        )
    (site,) = record.observed.values()
    distribution: Any = site.distribution
    terms, events = torch.where(cells, cell_log_prob(distribution, site.value), 0.0), distribution.event_dim
    terms = terms.flatten(-events).sum(-1) if events else terms
    return {site.name: (site.per_value or site.per_row)(terms)}
