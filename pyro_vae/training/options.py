"""The options of `fit`, checked."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import pyro.infer
import torch

from pyro_vae.arguments import as_path, check_compile, is_number, positive_integer, positive_number, true_or_false
from pyro_vae.runtime.precision import PRECISIONS
from pyro_vae.training.history import History

__all__ = ["Callback", "FitOptions"]

Callback = Callable[[Any, History], bool | None]
OF_THE_RUN = {"of_the_run": True}  # marks options that decide what a run computes: a resumed run must have the same


@dataclass(frozen=True)
class FitOptions:
    """The options of a call of `LatentVariableModel.fit`, whose signature has the defaults and the explanations.

    Raises:
        ValueError, TypeError: naming the option that is wrong.
    """

    elbo: pyro.infer.ELBO | None = field(metadata=OF_THE_RUN)
    epochs: int
    batch_size: int = field(metadata=OF_THE_RUN)
    learning_rate: float | Callable[..., float] | None = field(metadata=OF_THE_RUN)
    optimizer: Callable[..., torch.optim.Optimizer] | None = field(metadata=OF_THE_RUN)
    valid: Any
    patience: int | None = field(metadata=OF_THE_RUN)
    grad_clip: float | None = field(metadata=OF_THE_RUN)
    num_rows: int | None = field(metadata=OF_THE_RUN)
    seed: int | None = field(metadata=OF_THE_RUN)
    device: torch.device | str | None
    fields: Sequence[str] | Mapping[str, Any]
    callbacks: Sequence[Callback]
    compile: bool | str
    precision: str = field(metadata=OF_THE_RUN)
    on_nonfinite: str
    locate_nonfinite: bool
    run_dir: str | os.PathLike[str] | None
    resume: bool
    checkpoint_every: float
    progress: bool

    @classmethod
    def of_call(cls, arguments: Mapping[str, Any]) -> FitOptions:
        """The options among the arguments of a call, by name."""
        return cls(**{option.name: arguments[option.name] for option in fields(cls)})

    def of_the_run(self) -> dict[str, Any]:
        """The options that decide what a run computes, by name."""
        return {option.name: getattr(self, option.name) for option in fields(self) if option.metadata == OF_THE_RUN}

    def __post_init__(self) -> None:
        object.__setattr__(self, "epochs", positive_integer("epochs", self.epochs))
        object.__setattr__(self, "batch_size", positive_integer("batch_size", self.batch_size))
        check_compile(self.compile)
        if not isinstance(self.precision, str) or self.precision not in PRECISIONS:
            raise ValueError(f"precision must be one of {PRECISIONS}; got {self.precision!r}. Choose one of these.")
        if self.num_rows is not None:
            positive_integer("num_rows", self.num_rows)
        if not isinstance(self.callbacks, Sequence) or not all(map(callable, self.callbacks)):
            raise TypeError(f"callbacks must be a sequence of functions; got {self.callbacks!r}. Pass [function].")
        if self.patience is not None:
            positive_integer("patience", self.patience)
            if self.valid is None:
                raise ValueError(
                    "valid must be given where patience is; got None. Pass rows that training does not see."
                )
        if isinstance(self.valid, int | float | str):
            raise TypeError(
                f"valid must be rows, in any form that data takes; got {self.valid!r}. Split the data first."
            )
        if self.grad_clip is not None and not (is_number(self.grad_clip) and self.grad_clip > 0):
            raise ValueError(
                f"grad_clip must be positive; got {self.grad_clip!r}. It is the largest norm of the gradient."
            )
        if not isinstance(self.on_nonfinite, str) or self.on_nonfinite not in ("raise", "skip"):
            raise ValueError(f"on_nonfinite must be 'raise' or 'skip'; got {self.on_nonfinite!r}. Choose one of these.")
        true_or_false("locate_nonfinite", self.locate_nonfinite)
        true_or_false("progress", self.progress)
        if self.run_dir is not None:
            as_path("run_dir", self.run_dir)
        if true_or_false("resume", self.resume) and self.run_dir is None:
            raise ValueError("run_dir must be given where resume is; got None. Pass the folder of the run.")
        positive_number("checkpoint_every", self.checkpoint_every)
