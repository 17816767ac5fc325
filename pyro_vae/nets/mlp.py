"""Fully connected networks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from pyro_vae.arguments import is_number, true_or_false
from pyro_vae.nets.base import ACTIVATIONS, Dropout, Recipe, Shape, as_widths, check_activation, check_choice

__all__ = ["MLP"]


@dataclass(frozen=True)
class MLP(Recipe):
    """A multilayer perceptron: fully connected layers; inputs and outputs may have any shape.

    Args:
        hidden: widths of the hidden layers; without any, the map is affine.
        activation: one of elu, gelu, relu, silu, softplus, tanh.
        dropout: the probability with which a hidden unit is set to zero in training.
        gated: whether a hidden layer is h * sigmoid(g) with affine h and g, in place of the activation.
        residual: whether the input of each hidden layer is added to its output, through a linear map if widths differ.
        normalization: "layer" or "batch" normalization before the activation, or None.

    Raises:
        ValueError: if a width is not positive, a name is unknown or dropout lies outside [0, 1).

    References:
        Gates: *VAE with a VampPrior* (Tomczak, Welling, 2017), arXiv 1705.07120; skips: *Deep Residual Learning for
        Image Recognition* (He et al., 2015), arXiv 1512.03385; *Layer Normalization* (Ba, Kiros, Hinton, 2016), arXiv
        1607.06450; *Batch Normalization* (Ioffe, Szegedy, 2015), arXiv 1502.03167

    Example:
        >>> import torch
        >>> MLP(hidden=(32,)).build((1, 8, 8), (4,))(torch.zeros(5, 1, 8, 8)).shape
        torch.Size([5, 4])
    """

    reads_any_shape: ClassVar[bool] = True
    hidden: Sequence[int] = (256, 256)
    activation: str = "relu"
    dropout: float = 0.0
    gated: bool = False
    residual: bool = False
    normalization: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "hidden", as_widths("hidden", self.hidden))
        check_activation(self.activation)
        check_choice("normalization", self.normalization, (None, "layer", "batch"))
        true_or_false("gated", self.gated)
        true_or_false("residual", self.residual)
        if not is_number(self.dropout) or not 0.0 <= self.dropout < 1.0:
            raise ValueError(f"dropout must lie in [0, 1); got {self.dropout}. 0 drops nothing.")

    def build(self, in_shape: Shape, out_shape: Shape) -> nn.Module:
        layers: list[nn.Module] = [nn.Flatten()] if len(in_shape) != 1 else []
        width = math.prod(in_shape)
        for size in self.hidden:
            layer = self._layer(width, size)
            layers += [_Residual(nn.Sequential(*layer), width, size)] if self.residual else layer
            width = size
        layers.append(nn.Linear(width, math.prod(out_shape)))
        layers += [nn.Unflatten(1, out_shape)] if len(out_shape) != 1 else []
        return nn.Sequential(*layers)

    def _layer(self, width: int, size: int) -> list[nn.Module]:
        numbers = 2 * size if self.gated else size
        layer: list[nn.Module] = [nn.Linear(width, numbers, bias=self.normalization != "batch")]
        if self.normalization is not None:
            layer.append(nn.LayerNorm(numbers) if self.normalization == "layer" else nn.BatchNorm1d(numbers))
        layer.append(nn.GLU() if self.gated else ACTIVATIONS[self.activation]())
        return [*layer, Dropout(self.dropout)] if self.dropout else layer


class _Residual(nn.Module):
    def __init__(self, body: nn.Module, width: int, size: int) -> None:
        super().__init__()
        self.body = body
        self.skip = nn.Identity() if width == size else nn.Linear(width, size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.skip(x) + self.body(x)
        return y
