"""Numbers that change during training: KL weights, learning rates, capacities.

A schedule is a function of the number of training steps taken and the number of epochs completed, both from 0. Its
length is given in `steps` or in `epochs`. Schedules are frozen dataclasses of plain values: they can be printed,
compared and serialized (`dataclasses.asdict`).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

from pyro_vae.arguments import finite_number, is_integer, is_number

__all__ = ["Constant", "Cosine", "Cyclical", "Linear", "Schedule", "value_at"]


class Schedule(ABC):
    """A number as a function of training time."""

    @abstractmethod
    def __call__(self, step: int, epoch: int = 0) -> float:
        """The value after `step` training steps and `epoch` epochs."""


def value_at(value: float | Callable[..., float], step: int, epoch: int) -> float:
    """The value at a step and epoch of a number, a schedule, or a function of the step."""
    if isinstance(value, Schedule):
        return value(step, epoch)
    return value(step) if callable(value) else value


@dataclass(frozen=True)
class Constant(Schedule):
    """The same number throughout."""

    value: float

    def __post_init__(self) -> None:
        finite_number("value", self.value)

    def __call__(self, step: int, epoch: int = 0) -> float:
        return self.value


@dataclass(frozen=True)
class _Ramp(Schedule):
    start: float
    stop: float
    steps: int | None = None
    epochs: int | None = None

    def __post_init__(self) -> None:
        finite_number("start", self.start)
        finite_number("stop", self.stop)
        length = self.steps if self.epochs is None else self.epochs
        if (self.steps is None) == (self.epochs is None) or not is_integer(length) or not (length or 0) > 0:
            raise ValueError(
                f"A schedule's length must be a positive number of steps or of epochs; got steps={self.steps},"
                f" epochs={self.epochs}. Pass one of them."
            )

    def _time(self, step: int, epoch: int) -> float:
        """Time since the start, divided by the length."""
        return step / self.steps if self.steps is not None else epoch / (self.epochs or 1)

    def _between(self, share: float) -> float:
        return self.start + (self.stop - self.start) * share


class Linear(_Ramp):
    """A straight line from `start` to `stop`, and `stop` from then on.

    Example:
        >>> warm_up = Linear(0.0, 1.0, steps=100)
        >>> warm_up(0), warm_up(25), warm_up(500)
        (0.0, 0.25, 1.0)
    """

    def __call__(self, step: int, epoch: int = 0) -> float:
        return self._between(min(self._time(step, epoch), 1.0))


class Cosine(_Ramp):
    """Half a period of a cosine from `start` to `stop`, slow at both ends, and `stop` from then on."""

    def __call__(self, step: int, epoch: int = 0) -> float:
        return self._between((1.0 - math.cos(math.pi * min(self._time(step, epoch), 1.0))) / 2.0)


@dataclass(frozen=True)
class Cyclical(_Ramp):
    """A line from `start` to `stop` over a share of each period, `stop` until the period ends, and so on.

    Args:
        start: the value at the beginning of each period.
        stop: the value at the end of each period.
        steps: the length of a period in training steps.
        epochs: its length in epochs, if not in steps.
        share: the share of a period in which the value changes, in (0, 1].

    References:
        *Cyclical Annealing Schedule* (Fu et al., 2019), arXiv 1903.10145
    """

    share: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if not is_number(self.share) or not 0.0 < self.share <= 1.0:
            raise ValueError(
                f"share must lie in (0, 1]; got {self.share}. It is the part of a period in which the value changes."
            )

    def __call__(self, step: int, epoch: int = 0) -> float:
        return self._between(min(self._time(step, epoch) % 1.0 / self.share, 1.0))
