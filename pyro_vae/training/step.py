"""What a training step is, eager or compiled, and what it returns."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from pyro_vae.data.batches import Batches

__all__ = ["Request", "Step", "Totals"]


class Request(enum.IntEnum):
    """What a process asks of all processes at the end of a step.

    Requests are summed over the processes. Process 0 alone asks for checkpoints, so that a sum of 2 or more means that
    some process was asked to stop.
    """

    NOTHING = 0
    CHECKPOINT = 1
    STOP = 2

    @classmethod
    def granted(cls, total: float) -> Request:
        """What all processes do, given the sum of their requests."""
        return cls(min(int(total), cls.STOP))


@dataclass(frozen=True)
class Totals:
    """Bound, reconstruction, KL and objective, summed over the rows of the steps of an epoch; NaN where unknown.

    Eager and compiled steps each add to sums of their own, and are kept apart here: a run that is resumed then adds in
    the same order as one that was never interrupted, and ends with the same last digit.

    Attributes:
        eager: sums of the eager steps, (4,), float64.
        compiled: sums of the compiled steps, (4,), float64.
    """

    PARTS: ClassVar[tuple[str, ...]] = ("bound", "reconstruction", "kl", "objective")

    eager: Tensor
    compiled: Tensor

    @classmethod
    def zero(cls) -> Totals:
        """No steps yet."""
        return cls(torch.zeros(4, dtype=torch.float64), torch.zeros(4, dtype=torch.float64))

    @classmethod
    def from_tensor(cls, sums: Tensor) -> Totals:
        """The totals that `to_tensor` joined."""
        return cls(*sums.split(4))

    def to_tensor(self) -> Tensor:
        """Both sums in one tensor, (8,)."""
        return torch.cat([self.eager, self.compiled])

    def sum(self) -> Tensor:
        """The sums over all steps, (4,)."""
        return self.eager + self.compiled


class Step(Protocol):
    """A training step: from a batch to changed parameters. `EagerStep` and `CompiledStep` are the two kinds.

    Attributes:
        compiled: whether this is the compiled kind.
        batches: where the data come from.
        num_threads: the number of threads that it computes with.
    """

    compiled: ClassVar[bool]
    batches: Batches
    num_threads: int

    def ask(self, request: Request) -> None:
        """Ask all processes for something with the next step."""

    @property
    def granted(self) -> Request:
        """What all processes do after a step, because one of them asked for it."""

    @property
    def totals(self) -> Totals:
        """Sums over the rows of all steps since the epoch began."""

    @property
    def skipped(self) -> int:
        """The number of steps left out since the epoch began, because loss or gradient were not finite."""

    def __call__(self, key: Any) -> int:
        """Take one step on the batch that `key` stands for.

        Returns:
            The number of rows that this process had in it; 0 if the step was left out.

        Raises:
            ValueError: if loss or gradient are not finite and such steps are not to be left out; parameters, optimizer
                and buffers are then as they were before the step.
        """

    def begin_epoch(self, totals: Totals | None = None, skipped: int = 0) -> Step:
        """Begin an epoch, or continue one with these totals; returns the step to take it with."""

    def settle(self) -> None:
        """Bring the state of the optimizer up to date, because callbacks and checkpoints read it between steps."""

    def close(self) -> None:
        """Clear the gradients; a compiled step also gives parameters and moments memory of their own again."""
