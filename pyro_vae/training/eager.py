"""One gradient step, run by Pyro's interpreter as the programs are written."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from pyro_vae.data.batches import Batches, Rows
from pyro_vae.elbos import Estimator, Terms
from pyro_vae.inference.pair import ProgramPair
from pyro_vae.runtime import processes
from pyro_vae.runtime.isolation import preserved_buffers
from pyro_vae.runtime.random import RandomState, preserved_rng, random_state, set_random_state
from pyro_vae.training import nonfinite

__all__ = ["EagerStep"]

logger = logging.getLogger("pyro_vae")
ELSEWHERE = "The loss must be finite in every process; got NaN or infinity in another one, which says where."


@dataclass
class EagerStep:
    """What one step needs; called with a batch's key it takes the step.

    Where several processes train, each takes its share of the rows, and gradients are means over all rows.

    Attributes:
        model: the pair of programs.
        estimator: what is maximised.
        optimizer: of the model's parameters.
        batches: where keys become batches.
        grad_clip: the largest norm of the gradient, or None.
        on_nonfinite: "raise", or "skip": leave out steps whose loss or gradient is not finite.
        locate_nonfinite: whether a step that fails is repeated, to name the module where it began.
        num_threads: that a step computes with.
        totals: bound, reconstruction, KL and objective summed over the rows of all steps since it was last zero.
        skipped: the steps left out since it was last zero.
        ballot: a number that is summed over the processes in passing.
    """

    model: ProgramPair
    estimator: Estimator
    optimizer: torch.optim.Optimizer
    batches: Batches
    grad_clip: float | None = None
    on_nonfinite: str = "raise"
    locate_nonfinite: bool = True
    num_threads: int = field(default_factory=torch.get_num_threads)
    compiled: ClassVar[bool] = False
    totals: Tensor = field(default_factory=lambda: torch.zeros(4, dtype=torch.float64))
    skipped: int = 0
    ballot: float = 0.0

    @property
    def parameters(self) -> list[nn.Parameter]:
        return [parameter for group in self.optimizer.param_groups for parameter in group["params"]]

    def __call__(self, key: Any) -> int:
        """Take one step; returns the number of rows seen.

        Raises:
            ValueError: if loss or gradient are not finite and such steps are not left out; nothing is changed then.
        """
        before, buffers = random_state(), [(buffer, buffer.clone()) for buffer in self.model.buffers()]
        batch = self.batches.share(key)
        rows = len(batch["x"])
        terms = self._backward(batch) if rows else None
        if not self.agree(rows, torch.zeros(()) if terms is None else terms.objective.detach() / terms.rows):
            with torch.no_grad():
                for buffer, value in buffers:
                    buffer.copy_(value)
            self.leave_out(key, before)
            return 0
        self.optimizer.step()
        if terms is not None:
            self.totals += rows * terms.per_row().to(self.totals)
        return rows

    def _backward(self, batch: dict[str, Tensor]) -> Terms:
        """The gradient of this process's rows."""
        self.optimizer.zero_grad()
        fields: dict[str, Any] = {name: value for name, value in batch.items() if name != "x"}
        programs = self.model.model, self.model.guide
        return self.estimator.backward(self.parameters, *programs, batch["x"], num_rows=self.batches.num_rows, **fields)

    def agree(self, rows: int, objective: Tensor) -> bool:
        """Make the gradient that of all rows, and clip it; returns whether it and the objective are finite."""
        if processes.size() > 1:
            numbers = rows * float(objective), self.ballot
            total, self.ballot = processes.mean_gradient(self.parameters, rows, numbers)
            objective = torch.tensor(total)
        norm = nn.utils.get_total_norm([p.grad for p in self.parameters if p.grad is not None])
        if not torch.isfinite(objective + norm):
            return False
        if self.grad_clip is not None:
            nn.utils.clip_grads_with_norm_(self.parameters, self.grad_clip, norm)
        return True

    def leave_out(self, key: Any, before: RandomState | None) -> None:
        """Raise with the reason, or count a step that is left out; the first of an epoch is told.

        Args:
            key: of the batch.
            before: the random state that the step began with; None where that can't be set back.

        Raises:
            ValueError: with the reason, unless such steps are left out.
        """
        reason = self._explain(key, before) if self.on_nonfinite == "raise" or not self.skipped else ""
        self.optimizer.zero_grad()
        if self.on_nonfinite == "raise":
            raise ValueError(reason)
        self.skipped += 1
        if self.skipped == 1:
            logger.warning("A step is left out: %s Further ones of this epoch are counted in the history.", reason)

    def _explain(self, key: Any, before: RandomState | None) -> str:
        """Repeat a step that failed, and say why it did; all is left as it was but the gradients."""
        batch, numbers = self.batches.share(key), self.batches.row_numbers(key)
        with preserved_rng(), preserved_buffers(self.model):
            before = before or random_state()
            set_random_state(before)
            terms = self._backward(batch) if numbers else None
            mine = [] if terms is None else [terms.objective, *(p.grad for p in self.parameters if p.grad is not None)]
            if processes.size() > 1 and all(torch.isfinite(tensor).all() for tensor in mine):
                return ELSEWHERE
            of = "data" if isinstance(self.batches.data, Rows) else "batch"
            reason = nonfinite.explain(terms, self.model, self.estimator.step, batch["x"], numbers, of)
            if self.locate_nonfinite and torch.isfinite(batch["x"]).all():
                set_random_state(before)
                reason += " " + nonfinite.locate(self.model, lambda: self._backward(batch))
        return reason

    @property
    def sums(self) -> Tensor:
        """All that `totals` is made of, to go on from."""
        return torch.cat([self.totals, torch.zeros_like(self.totals)])

    def begin(self, sums: Tensor | None = None, skipped: int = 0) -> EagerStep:
        """Begin an epoch, or go on in one; returns the step to take it with, itself."""
        self.totals.zero_()
        if sums is not None:
            self.totals.copy_(sums[:4] + sums[4:])
        self.skipped = skipped
        return self

    def settle(self) -> None:
        """Leave model and optimizer as they should be seen between epochs."""

    def close(self) -> None:
        """Give back what the step holds."""
        self.model.zero_grad()
