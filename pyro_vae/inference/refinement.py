"""Semi-amortized inference: gradient steps that improve the parameters of q(z | x) of each row."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from pyro_vae.arguments import positive_integer, positive_number

__all__ = ["Refinement"]

HALVING_GRADIENT = 0.01  # without it, Adam would magnify what is left of the gradient at the optimum


@dataclass(frozen=True)
class Refinement:
    """Ascent by Adam, for each row separately, with a learning rate that falls linearly to zero.

    Derivatives of the result treat Adam's second moment as a constant.

    Args:
        steps: number of steps.
        learning_rate: about how far a parameter moves in the first step.
        halving_gradient: the gradient, in nats per unit of the parameter, at which a step has half its full length.

    Raises:
        ValueError: if one is not positive.

    References:
        *Semi-Amortized Variational Autoencoders* (Kim et al., 2018), arXiv 1802.02550
    """

    steps: int = 20
    learning_rate: float = 0.05
    halving_gradient: float = HALVING_GRADIENT

    def __post_init__(self) -> None:
        positive_integer("steps", self.steps)
        positive_number("learning_rate", self.learning_rate)

    def __call__(self, objective: Callable[[Tensor], Tensor], start: Tensor, *, differentiable: bool) -> Tensor:
        """The parameters after the steps, (B, P).

        Args:
            objective: the function to maximize, from parameters (B, P) to (B,); it may draw anew in each step.
            start: the parameters to start from, (B, P).
            differentiable: whether gradients pass through all steps, to the start and to all that the objective
                depends on.
        """
        first, second = torch.zeros_like(start), torch.zeros_like(start)
        parameters = start if differentiable else start.detach()
        for step in range(1, self.steps + 1):
            with torch.enable_grad():
                here = parameters if parameters.requires_grad else parameters.detach().requires_grad_()
                (slope,) = torch.autograd.grad(objective(here).sum(), here, create_graph=differentiable)
            first = 0.9 * first + 0.1 * slope
            second = 0.999 * second + 0.001 * slope.detach().square()
            size = (second / (1 - 0.999**step)).sqrt() + self.halving_gradient
            rate = self.learning_rate * (1 - (step - 1) / self.steps)
            parameters = parameters + rate * first / (1 - 0.9**step) / size
            parameters = parameters if differentiable else parameters.detach()
        return parameters
