"""Encoders that see which cells are missing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn

from pyro_vae.arguments import positive_integer
from pyro_vae.nets.base import Recipe, Shape, as_widths, check_activation, reads_pattern
from pyro_vae.nets.mlp import MLP

__all__ = ["CellSet", "Masked"]


@dataclass(frozen=True)
class Masked(Recipe):
    """A net that sees the features of a row, with the marginal mean where a cell is missing, and the pattern.

    The pattern, 1 for observed and 0 for missing features, is put beside the features along the first dimension of a
    row: for images as further channels.

    Args:
        recipe: the net within; `MLP()` by default.

    Example:
        >>> net = Masked(MLP((8,))).build((3,), (4,))
        >>> net(torch.zeros(5, 3), torch.ones(5, 3)).shape
        torch.Size([5, 4])
    """

    reads_pattern: ClassVar[bool] = True
    recipe: Recipe = field(default_factory=MLP)

    def __post_init__(self) -> None:
        if not isinstance(self.recipe, Recipe) or reads_pattern(self.recipe):
            raise TypeError(f"recipe must be one of a net for whole rows; got {self.recipe!r}. Pass e.g. MLP().")

    @property
    def reads_any_shape(self) -> bool:  # type: ignore[override]
        """Whether the net within reads a row of any shape as a vector."""
        return self.recipe.reads_any_shape

    def build(self, in_shape: Shape, out_shape: Shape) -> nn.Module:
        return _Beside(self.recipe.build((2 * in_shape[0], *in_shape[1:]), out_shape))


class _Beside(nn.Module):
    reads_pattern = True

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, features: Tensor, pattern: Tensor) -> Tensor:
        return self.module(torch.cat([features, pattern], 1))  # type: ignore[no-any-return]


@dataclass(frozen=True)
class CellSet(Recipe):
    """A net that sees a row as the set of its n observed features: rho(sum of phi(value * name, name) / sqrt(n)).

    The name of a feature is a learned vector. A row without an observed feature is the empty set. With many missing
    cells this sees nothing that is not there, and the number of parameters grows little with the number of columns.

    Args:
        width: the number of outputs of phi, which are summed, and the length of a name.
        element_hidden: widths of the hidden layers of phi.
        hidden: widths of the hidden layers of rho.
        activation: one of elu, gelu, relu, silu, softplus, tanh.

    Raises:
        ValueError: if a width is not positive or the activation unknown.

    References:
        *EDDI: Efficient Dynamic Discovery of High-Value Information with Partial VAE* (Ma et al., 2019), arXiv
        1809.11142; *Deep Sets* (Zaheer et al., 2017), arXiv 1703.06114

    Example:
        >>> net = CellSet(width=8).build((3,), (4,))
        >>> net(torch.zeros(5, 3), torch.ones(5, 3)).shape
        torch.Size([5, 4])
    """

    reads_pattern: ClassVar[bool] = True
    reads_any_shape: ClassVar[bool] = True
    width: int = 64
    element_hidden: Sequence[int] = (64,)
    hidden: Sequence[int] = (256,)
    activation: str = "relu"

    def __post_init__(self) -> None:
        positive_integer("width", self.width)
        object.__setattr__(self, "element_hidden", as_widths("element_hidden", self.element_hidden))
        object.__setattr__(self, "hidden", as_widths("hidden", self.hidden))
        check_activation(self.activation)

    def build(self, in_shape: Shape, out_shape: Shape) -> nn.Module:
        phi = MLP(self.element_hidden, self.activation).build((2 * self.width,), (self.width,))
        rho = MLP(self.hidden, self.activation).build((self.width + 1,), out_shape)
        return _CellSet(phi, rho, math.prod(in_shape), self.width)


class _CellSet(nn.Module):
    reads_pattern = True

    def __init__(self, phi: nn.Module, rho: nn.Module, num_features: int, width: int) -> None:
        super().__init__()
        self.phi, self.rho = phi, rho
        self.names = nn.Parameter(torch.randn(num_features, width))

    def forward(self, features: Tensor, pattern: Tensor) -> Tensor:
        values, weights = features.flatten(1).unsqueeze(-1), pattern.flatten(1).unsqueeze(-1)
        elements = self.phi(torch.cat([values * self.names, self.names.expand(len(values), -1, -1)], -1)) * weights
        share = weights.mean(1)  # tells how many are observed
        pooled = elements.sum(1) / weights.sum(1).clamp_min(1.0).sqrt()
        return self.rho(torch.cat([pooled, share], -1))  # type: ignore[no-any-return]
