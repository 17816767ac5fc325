"""One gradient step, eagerly: the programs run in Python, as they are written."""

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
from pyro_vae.runtime.isolation import preserved_buffers, remember_buffers
from pyro_vae.runtime.precision import products_in
from pyro_vae.runtime.random import RandomState, preserved_rng, random_state, set_random_state
from pyro_vae.training import nonfinite
from pyro_vae.training.step import Request, Totals

__all__ = ["EagerStep"]

logger = logging.getLogger("pyro_vae")
ELSEWHERE = (
    "The loss must be finite in every process; got NaN or infinity in another process, whose message says where."
)


@dataclass
class EagerStep:
    """A step that runs the programs in Python; see `Step` for what every kind of step offers.

    Where several processes train, each takes its share of the rows, and gradients are means over all rows.

    Attributes:
        model: the pair of programs.
        estimator: what is maximized.
        optimizer: the optimizer of the model's parameters.
        batches: where keys become batches.
        grad_clip: the largest norm of the gradient, or None.
        on_nonfinite: "raise", or "skip" to leave out steps whose loss or gradient is not finite.
        locate_nonfinite: whether a step that fails is repeated, to name the module where it began.
        precision: that of the products of layers; see `LatentVariableModel.fit`.
    """

    model: ProgramPair
    estimator: Estimator
    optimizer: torch.optim.Optimizer
    batches: Batches
    grad_clip: float | None = None
    on_nonfinite: str = "raise"
    locate_nonfinite: bool = True
    precision: str = "float32"
    num_threads: int = field(default_factory=torch.get_num_threads)
    compiled: ClassVar[bool] = False
    totals: Totals = field(default_factory=Totals.zero)
    skipped: int = 0
    granted: Request = Request.NOTHING

    @property
    def parameters(self) -> list[nn.Parameter]:
        """The parameters that are trained."""
        return [parameter for group in self.optimizer.param_groups for parameter in group["params"]]

    def __call__(self, key: Any) -> int:
        """Take one step; returns the number of rows that this process had in it, 0 if it was left out.

        Raises:
            ValueError: if loss or gradient are not finite and such steps are not to be left out; nothing is changed
                then.
        """
        before, restore_buffers = random_state(), remember_buffers(self.model)
        batch = self.batches.share(key)
        num_rows = len(batch["x"])
        terms = self._backward(batch) if num_rows else None
        loss = torch.zeros(()) if terms is None else terms.objective.detach() / terms.num_rows
        if not self.finish_gradient(num_rows, loss):
            restore_buffers()
            self.leave_out(key, before)
            return 0
        self.optimizer.step()
        if terms is not None:
            self.totals.eager.add_(num_rows * terms.per_row().to(self.totals.eager))
        return num_rows

    def ask(self, request: Request) -> None:
        """Ask all processes for something with the next step; a process that trains alone grants it to itself."""
        self.granted = request

    def _backward(self, batch: dict[str, Tensor]) -> Terms:
        """Compute the gradient of this process's rows."""
        self.optimizer.zero_grad()
        fields: dict[str, Any] = {name: value for name, value in batch.items() if name != "x"}
        programs, num_rows = (self.model.model, self.model.guide), self.batches.num_rows
        with products_in(self.precision):
            return self.estimator.backward(self.parameters, *programs, batch["x"], num_rows=num_rows, **fields)

    def finish_gradient(self, num_rows: int, loss: Tensor) -> bool:
        """Turn this process's gradient into that of all rows, and clip it; returns whether it and the loss are finite.

        Args:
            num_rows: the number of rows that this process had.
            loss: the mean objective over these rows.
        """
        if processes.size() > 1:
            numbers = num_rows * float(loss), float(self.granted)
            total, requests = processes.mean_gradient(self.parameters, num_rows, numbers)
            loss, self.granted = torch.tensor(total), Request.granted(requests)
        norm = nn.utils.get_total_norm([p.grad for p in self.parameters if p.grad is not None])
        if not torch.isfinite(loss + norm):
            return False
        if self.grad_clip is not None:
            nn.utils.clip_grads_with_norm_(self.parameters, self.grad_clip, norm)
        return True

    def leave_out(self, key: Any, before: RandomState | None) -> None:
        """Raise with the reason, or count a step that is left out; the first one of an epoch is reported.

        Args:
            key: the key of the batch.
            before: the random state that the step began with; None where it cannot be set back.

        Raises:
            ValueError: with the reason, unless such steps are to be left out.
        """
        reason = self._explain(key, before) if self.on_nonfinite == "raise" or not self.skipped else ""
        self.optimizer.zero_grad()
        if self.on_nonfinite == "raise":
            raise ValueError(reason)
        self.skipped += 1
        if self.skipped == 1:
            logger.warning("A step is left out: %s The history counts further such steps of this epoch.", reason)

    def _explain(self, key: Any, before: RandomState | None) -> str:
        """Repeat a step that failed and say why it did; everything but the gradients is left as it was."""
        batch, numbers = self.batches.share(key), self.batches.row_numbers(key)
        with preserved_rng(), preserved_buffers(self.model):
            before = before or random_state()
            set_random_state(before)
            terms = self._backward(batch) if numbers else None
            mine = [] if terms is None else [terms.objective, *(p.grad for p in self.parameters if p.grad is not None)]
            if processes.size() > 1 and all(torch.isfinite(tensor).all() for tensor in mine):
                return ELSEWHERE
            place = "data" if isinstance(self.batches.data, Rows) else "batch"
            reason = nonfinite.explain(terms, self.model, self.estimator.step, batch["x"], numbers, place)
            if self.locate_nonfinite and torch.isfinite(batch["x"]).all():
                set_random_state(before)
                reason += " " + nonfinite.locate(self.model, lambda: self._backward(batch))
        return reason

    def begin_epoch(self, totals: Totals | None = None, skipped: int = 0) -> EagerStep:
        """Begin an epoch, or continue one with these totals; returns the step to take it with, which is this one."""
        self.totals = Totals.zero()
        if totals is not None:
            self.totals.eager.copy_(totals.sum())
        self.skipped = skipped
        return self

    def settle(self) -> None:
        """Do nothing: model and optimizer are always up to date."""

    def close(self) -> None:
        """Clear the gradients."""
        self.model.zero_grad()
