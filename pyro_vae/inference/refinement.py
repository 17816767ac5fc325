"""Semi-amortized inference: parameters of q(z | x), row by row, improved by gradient steps from the encoder's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from pyro_vae.arguments import positive_integer, positive_number

__all__ = ["Refinement"]

SMALL = 0.01  # Adam alone would blow up what is left of the slope at the optimum


@dataclass(frozen=True)
class Refinement:
    """Adam's steps uphill, for each row by itself, of a rate that falls to zero along a line.

    In derivatives of the result the second moment counts as a constant.

    Args:
        steps: how many.
        learning_rate: about how far a parameter moves in the first step.
        small: a slope in nats that takes half a step.

    Raises:
        ValueError: if one is not positive.

    References:
        *Semi-Amortized Variational Autoencoders* (Kim et al., 2018), arXiv 1802.02550
    """

    steps: int = 20
    learning_rate: float = 0.05
    small: float = SMALL

    def __post_init__(self) -> None:
        positive_integer("steps", self.steps)
        positive_number("learning_rate", self.learning_rate)

    def __call__(self, objective: Callable[[Tensor], Tensor], start: Tensor, *, differentiable: bool) -> Tensor:
        """The parameters after the steps, (B, P).

        Args:
            objective: what to make large: from parameters (B, P) to (B,); drawn anew in each step.
            start: (B, P).
            differentiable: whether the result carries the gradient with respect to the start, and to all that the
                objective depends on, through all steps.
        """
        first, second = torch.zeros_like(start), torch.zeros_like(start)
        parameters = start if differentiable else start.detach()
        for step in range(1, self.steps + 1):
            with torch.enable_grad():
                here = parameters if parameters.requires_grad else parameters.detach().requires_grad_()
                (slope,) = torch.autograd.grad(objective(here).sum(), here, create_graph=differentiable)
            first = 0.9 * first + 0.1 * slope
            second = 0.999 * second + 0.001 * slope.detach().square()
            size = (second / (1 - 0.999**step)).sqrt() + self.small
            rate = self.learning_rate * (1 - (step - 1) / self.steps)
            parameters = parameters + rate * first / (1 - 0.9**step) / size
            parameters = parameters if differentiable else parameters.detach()
        return parameters
