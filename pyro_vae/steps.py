"""One gradient step, run by Pyro's interpreter as the programs are written."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from pyro_vae import door
from pyro_vae.batches import Batches
from pyro_vae.elbos import Estimator

__all__ = ["EagerStep"]


@dataclass
class EagerStep:
    """What one step needs; called with a batch's key it takes the step.

    Attributes:
        model: the pair of programs.
        estimator: what is maximised.
        optimizer: of the model's parameters.
        batches: where keys become batches.
        grad_clip: the largest norm of the gradient, or None.
        totals: bound, reconstruction, KL and objective summed over the rows of all steps since it was last zero.
    """

    model: Any
    estimator: Estimator
    optimizer: torch.optim.Optimizer
    batches: Batches
    grad_clip: float | None = None
    totals: Tensor = field(default_factory=lambda: torch.zeros(4, dtype=torch.float64))

    @property
    def parameters(self) -> list[nn.Parameter]:
        return [parameter for group in self.optimizer.param_groups for parameter in group["params"]]

    def __call__(self, key: Any) -> int:
        """Take one step; returns the number of rows seen.

        Raises:
            ValueError: if loss or gradient are not finite; nothing is changed then.
        """
        batch = self.batches.read(key)
        x = batch.pop("x")
        self.optimizer.zero_grad()
        model, parameters = self.model, self.parameters
        terms = self.estimator.backward(
            parameters, model.model, model.guide, x, num_rows=self.batches.num_rows, **batch
        )
        norm = nn.utils.get_total_norm([parameter.grad for parameter in parameters if parameter.grad is not None])
        if not torch.isfinite(terms.objective.detach() + norm):
            objective = terms.objective.detach()
            raise ValueError(door.explain_nonfinite(terms.weights, model, self.estimator.step, objective))
        if self.grad_clip is not None:
            nn.utils.clip_grads_with_norm_(parameters, self.grad_clip, norm)
        self.optimizer.step()
        self.totals += len(x) * terms.per_row().to(self.totals)
        return len(x)

    @property
    def num_threads(self) -> int:
        return torch.get_num_threads()

    def begin(self) -> EagerStep:
        """Begin an epoch; returns the step to take it with, itself."""
        self.totals.zero_()
        return self

    def settle(self) -> None:
        """Leave model and optimizer as they should be seen between epochs."""

    def close(self) -> None:
        """Give back what the step holds."""
        self.model.zero_grad()
