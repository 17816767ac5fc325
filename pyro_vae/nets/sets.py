"""Networks for sets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from pyro_vae.arguments import positive_integer
from pyro_vae.nets.base import Recipe, Shape, as_widths, check_activation, check_choice
from pyro_vae.nets.mlp import MLP

__all__ = ["DeepSet"]


@dataclass(frozen=True)
class DeepSet(Recipe):
    """A function of a set that does not depend on the order of its elements: rho(pool over elements of phi(element)).

    A row of shape (n, d) is a set of n elements of d numbers each; phi and rho are fully connected networks.

    Args:
        features: the number of outputs of phi, which are pooled over the elements.
        element_hidden: widths of the hidden layers of phi.
        hidden: widths of the hidden layers of rho.
        pool: "mean", "sum" or "max".
        activation: one of elu, gelu, relu, silu, softplus, tanh.

    Raises:
        ValueError: if a width is not positive, a name is unknown or rows do not have shape (n, d).

    References:
        *Deep Sets* (Zaheer et al., 2017), arXiv 1703.06114

    Example:
        >>> import torch
        >>> DeepSet(features=16).build((10, 2), (4,))(torch.zeros(5, 10, 2)).shape
        torch.Size([5, 4])
    """

    features: int = 64
    element_hidden: Sequence[int] = (64,)
    hidden: Sequence[int] = (64,)
    pool: str = "mean"
    activation: str = "relu"

    def __post_init__(self) -> None:
        object.__setattr__(self, "element_hidden", as_widths("element_hidden", self.element_hidden))
        object.__setattr__(self, "hidden", as_widths("hidden", self.hidden))
        positive_integer("features", self.features)
        check_choice("pool", self.pool, ("mean", "sum", "max"))
        check_activation(self.activation)

    def build(self, in_shape: Shape, out_shape: Shape) -> nn.Module:
        if len(in_shape) != 2:
            raise ValueError(f"DeepSet must have rows of shape (n, d); got {in_shape}. Use another net, or reshape x.")
        phi = MLP(self.element_hidden, self.activation).build(in_shape[1:], (self.features,))
        rho = MLP(self.hidden, self.activation).build((self.features,), out_shape)
        return nn.Sequential(phi, _Pool(self.pool), rho)


class _Pool(nn.Module):
    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how

    def forward(self, elements: Tensor) -> Tensor:
        if self.how == "max":
            return elements.amax(-2)
        return elements.mean(-2) if self.how == "mean" else elements.sum(-2)
