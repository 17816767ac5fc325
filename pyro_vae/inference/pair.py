"""What training, evaluation and draws ask of a model: the contract between the rooms and `LatentVariableModel`."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from pyro.nn import PyroModule
from torch import Tensor

__all__ = ["ProgramPair"]


class ProgramPair(PyroModule):
    """A module with two Pyro programs over rows of data: a model p(x, z) and a guide q(z | x).

    It is a class and not a `typing.Protocol`, because the rooms also ask it for what every `torch.nn.Module` has
    (parameters, buffers, modes), and a protocol cannot extend a class.

    Attributes:
        row_plate: the name of the plate over rows.
        data_sites: the names of the sites that are data.
        initialized: whether the model has started from its data.
        training_state: what a later `fit` continues from; None before the first.
    """

    row_plate: ClassVar[str] = "data"
    data_sites: ClassVar[tuple[str, ...]] = ("x",)
    initialized: Tensor
    training_state: Any

    def model(self, x: Tensor | None = None, *, rows: int | None = None, **batch: Tensor) -> Any:
        """p(x, z): scores `x` (B, *E), or draws `rows` rows without it."""
        raise NotImplementedError(f"{type(self).__name__} must define model(self, x=None, *, rows=None, **batch).")

    def guide(self, x: Tensor, **batch: Tensor) -> Any:
        """q(z | x) for the rows of `x` (B, *E)."""
        raise NotImplementedError(f"{type(self).__name__} must define guide(self, x, **batch).")

    def initialize(self, x: Tensor, **batch: Tensor) -> None:
        """Start from the data (N, *E) and their fields; called once by `fit`, before the first step, never by SVI."""

    def check_data(self, x: Tensor, first_row: int = 0) -> None:
        """Raise unless `x` (N, *E) is data for this model; called by `fit` and every evaluation method."""

    def check_columns(self, columns: Sequence[str]) -> None:
        """Raise where names of the columns of x tell that they come in a wrong order; called as `check_data` is."""

    @property
    def like(self) -> Tensor:
        """A tensor of the dtype and device that data are cast to: the first parameter or real buffer."""
        for tensor in itertools.chain(self.parameters(), self.buffers()):
            if tensor.is_floating_point():
                return tensor
        return torch.zeros(())
