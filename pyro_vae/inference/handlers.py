"""Handlers of Pyro's statements: latents at given values, draws as constants, rows that count for all N."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pyro import poutine
from torch import Tensor

from pyro_vae.fields import check_one_per_row

__all__ = ["DetachDraws", "FixLatents", "Program", "ReplaceDraws", "ScaleRows", "fix_latents"]

Program = Callable[..., Any]


def fix_latents(program: Program, values: dict[str, Tensor]) -> Program:
    """The program with its latent sites fixed at `values`, whose log-probabilities count as those of draws."""

    def run(*args: Any, **kwargs: Any) -> Any:
        with FixLatents(values):
            return program(*args, **kwargs)

    return run


class FixLatents(poutine.messenger.Messenger):
    """A handler that fixes latent sites at `values`; their log-probabilities count as those of draws."""

    def __init__(self, values: dict[str, Tensor]) -> None:
        super().__init__()
        self.values = values

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"] in self.values and not msg["is_observed"]:
            msg["value"], msg["done"] = self.values[msg["name"]], True


class ReplaceDraws(poutine.messenger.Messenger):
    """Let sites draw, and replace what they drew by `values`: random numbers are used up as in the run before."""

    def __init__(self, values: dict[str, Tensor]) -> None:
        super().__init__()
        self.values = values

    def _pyro_post_sample(self, msg: Any) -> None:
        if msg["name"] in self.values:
            msg["value"] = self.values[msg["name"]]


class DetachDraws(poutine.messenger.Messenger):
    """Make draws constants, through which no gradient passes."""

    def _pyro_post_sample(self, msg: Any) -> None:
        if isinstance(msg["value"], Tensor):
            msg["value"] = msg["value"].detach()


class ScaleRows(poutine.messenger.Messenger):
    """A handler that multiplies the log-probability of every site in the row plate by N/B, where B of N rows are seen.

    The estimator knows N, the program does not.

    Args:
        plate: the name of the row plate.
        num_rows: N; B is the size that the plate itself states. None: the factor is 1.
        row_weights: further factors of the rows, (B,).
    """

    def __init__(self, plate: str, num_rows: int | None, row_weights: Tensor | None) -> None:
        super().__init__()
        self.plate, self.num_rows, self.row_weights = plate, num_rows, row_weights
        self.size: int | None = None
        self.factor: float | Tensor = 1.0

    def _factor(self, size: int) -> float | Tensor:
        """N/B for a plate of this size, times the row weights: one object for all sites, so that they compare equal."""
        if size != self.size:
            if self.row_weights is not None and self.row_weights.dim() != 1:  # they would multiply along particles
                check_one_per_row("row_weights", self.row_weights, size)
            factor = 1.0 if self.num_rows is None else self.num_rows / size
            self.size, self.factor = size, factor if self.row_weights is None else factor * self.row_weights
        return self.factor

    def _pyro_sample(self, msg: Any) -> None:
        for frame in msg["cond_indep_stack"]:
            if frame.name == self.plate:
                factor, scale = self._factor(frame.full_size or frame.size), msg["scale"]
                msg["scale"] = scale * factor if isinstance(scale, Tensor) or scale != 1.0 else factor
