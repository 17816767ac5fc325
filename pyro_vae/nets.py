"""Networks from tensor to tensor, and recipes for them that know no sizes yet.

A recipe is a frozen dataclass with `build(in_shape, out_shape) -> nn.Module`; `VAE` fills the sizes in. Any
`nn.Module` that maps (B, *in_shape) to (B, *out_shape) serves as well.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

__all__ = ["MLP", "Conv", "Recipe", "Rowwise", "build"]

Shape = tuple[int, ...]

ACTIVATIONS = {
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "relu": nn.ReLU,
    "silu": nn.SiLU,
    "softplus": nn.Softplus,
    "tanh": nn.Tanh,
}


class Recipe(ABC):
    """A network without its sizes. To add one: a frozen dataclass of plain values with a `build` method."""

    @abstractmethod
    def build(self, in_shape: Shape, out_shape: Shape) -> nn.Module:
        """A module from (B, *in_shape) to (B, *out_shape)."""


@dataclass(frozen=True)
class MLP(Recipe):
    """Fully connected layers; events of any shape are flattened and restored.

    Args:
        hidden: widths of the hidden layers; none makes the map affine.
        activation: one of elu, gelu, relu, silu, softplus, tanh.
        dropout: the probability of dropping a hidden unit while training.

    Raises:
        ValueError: if a width is not positive, the activation is unknown or dropout lies outside [0, 1).

    Example:
        >>> MLP(hidden=(32,)).build((1, 8, 8), (4,))(torch.zeros(5, 1, 8, 8)).shape
        torch.Size([5, 4])
    """

    hidden: Sequence[int] = (256, 256)
    activation: str = "relu"
    dropout: float = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "hidden", _widths("hidden", self.hidden))
        _check_activation(self.activation)
        if not 0.0 <= self.dropout < 1.0:
            raise ValueError(f"dropout must lie in [0, 1); got {self.dropout}. 0 drops nothing.")

    def build(self, in_shape: Shape, out_shape: Shape) -> nn.Module:
        layers: list[nn.Module] = [nn.Flatten()] if len(in_shape) != 1 else []
        width = math.prod(in_shape)
        for size in self.hidden:
            layers += [nn.Linear(width, size), ACTIVATIONS[self.activation]()]
            layers += [nn.Dropout(self.dropout)] if self.dropout else []
            width = size
        layers.append(nn.Linear(width, math.prod(out_shape)))
        layers += [nn.Unflatten(1, out_shape)] if len(out_shape) != 1 else []
        return nn.Sequential(*layers)


@dataclass(frozen=True)
class Conv(Recipe):
    """Convolutions of stride 2, then fully connected layers; as a decoder the mirror image.

    From images (C, H, W) to a vector it encodes; from a vector to images it decodes.

    Args:
        channels: feature maps of the layers, from the image inward.
        hidden: widths of the fully connected layers between features and vector.
        activation: one of elu, gelu, relu, silu, softplus, tanh.

    Raises:
        ValueError: if sizes are not positive, the activation is unknown or neither side is an image.

    Example:
        >>> Conv(channels=(8, 16)).build((3,), (1, 28, 28))(torch.zeros(5, 3)).shape
        torch.Size([5, 1, 28, 28])
    """

    channels: Sequence[int] = (32, 64)
    hidden: Sequence[int] = (256,)
    activation: str = "relu"

    def __post_init__(self) -> None:
        object.__setattr__(self, "channels", _widths("channels", self.channels))
        object.__setattr__(self, "hidden", _widths("hidden", self.hidden))
        _check_activation(self.activation)

    def build(self, in_shape: Shape, out_shape: Shape) -> nn.Module:
        if len(in_shape) == 3 and len(out_shape) == 1:
            return self._encoder(in_shape, out_shape)
        if len(in_shape) == 1 and len(out_shape) == 3:
            return self._decoder(in_shape, out_shape)
        raise ValueError(
            f"Conv must map an image (C, H, W) to a vector or back; got {in_shape} to {out_shape}."
            " Use MLP for other events."
        )

    def _sizes(self, height: int, width: int) -> list[tuple[int, int]]:
        """Height and width before each layer and after the last: each layer halves them, rounding up."""
        sizes = [(height, width)]
        for _ in self.channels:
            sizes.append(((sizes[-1][0] + 1) // 2, (sizes[-1][1] + 1) // 2))
        return sizes

    def _encoder(self, in_shape: Shape, out_shape: Shape) -> nn.Module:
        layers: list[nn.Module] = []
        maps = in_shape[0]
        for size in self.channels:
            layers += [nn.Conv2d(maps, size, 3, stride=2, padding=1), ACTIVATIONS[self.activation]()]
            maps = size
        features = (maps, *self._sizes(*in_shape[1:])[-1])
        return nn.Sequential(*layers, MLP(self.hidden, self.activation).build(features, out_shape))

    def _decoder(self, in_shape: Shape, out_shape: Shape) -> nn.Module:
        sizes = self._sizes(*out_shape[1:])
        maps = self.channels[-1] if self.channels else out_shape[0]
        layers: list[nn.Module] = [MLP(self.hidden, self.activation).build(in_shape, (maps, *sizes[-1]))]
        outputs = [out_shape[0], *self.channels[:-1]][: len(self.channels)]
        for size, small, large in zip(reversed(outputs), reversed(sizes[1:]), reversed(sizes[:-1]), strict=True):
            extra = tuple(b - (2 * a - 1) for a, b in zip(small, large, strict=True))
            layers += [
                ACTIVATIONS[self.activation](),
                nn.ConvTranspose2d(maps, size, 3, stride=2, padding=1, output_padding=extra),  # type: ignore[arg-type]
            ]
            maps = size
        return nn.Sequential(*layers)


class Rowwise(nn.Module):
    """A module that sees rows only: all leading dimensions become one and come back.

    Thus nets that take dimension 0 for the batch (convolutions, BatchNorm) work under particle plates.

    Args:
        module: maps (B, *E) to (B, ...).
        event_dim: the number of dimensions of E.

    Shapes:
        (..., *E) -> (..., *out)
    """

    def __init__(self, module: nn.Module, event_dim: int) -> None:
        super().__init__()
        self.module, self.event_dim = module, event_dim

    def forward(self, x: Tensor) -> Tensor:
        lead = x.shape[: x.dim() - self.event_dim]
        if len(lead) == 1:
            return self.module(x)  # type: ignore[no-any-return]
        y: Tensor = self.module(x.reshape(-1, *x.shape[len(lead) :]))
        return y.reshape(*lead, *y.shape[1:])


def build(net: Recipe | nn.Module, in_shape: Shape, out_shape: Shape, role: str) -> Rowwise:
    """Fill a recipe's sizes in, or check that a module has them.

    Args:
        net: a recipe or a module.
        in_shape: the shape of one row of input.
        out_shape: the shape of one row of output.
        role: the name for error messages, e.g. "encoder".

    Raises:
        ValueError: if the module maps to another shape.
        TypeError: if `net` is neither.
    """
    if isinstance(net, Recipe):
        return Rowwise(net.build(in_shape, out_shape), len(in_shape))
    if not isinstance(net, nn.Module):
        raise TypeError(f"{role} must be a recipe such as nets.MLP() or an nn.Module; got {net!r}. Pass an instance.")
    like = next(net.parameters(), torch.zeros(()))
    modes = [(part, part.training) for part in net.modules()]
    try:
        with torch.no_grad():
            got = net.eval()(torch.zeros(2, *in_shape, dtype=like.dtype, device=like.device)).shape
    except RuntimeError as error:
        raise ValueError(
            f"{role} must accept rows of shape {in_shape}; got the error: {error}. Change its first layer."
        ) from error
    finally:
        for part, training in modes:
            part.training = training
    if tuple(got) != (2, *out_shape):
        raise ValueError(
            f"{role} must map (B, {_join(in_shape)}) to (B, {_join(out_shape)}); got {tuple(got)} for B = 2."
            " Change its last layer."
        )
    return Rowwise(net, len(in_shape))


def _join(shape: Shape) -> str:
    return ", ".join(map(str, shape))


def _widths(what: str, sizes: Sequence[int]) -> tuple[int, ...]:
    if not isinstance(sizes, Sequence):
        raise TypeError(f"{what} must be a sequence of widths; got {sizes!r}. Pass e.g. {what}=(64,).")
    sizes = tuple(sizes)
    if any(not isinstance(size, int) or size < 1 for size in sizes):
        raise ValueError(f"{what} must be positive integers; got {sizes}. Pass e.g. {what}=(64, 64).")
    return sizes


def _check_activation(name: str) -> None:
    if name not in ACTIVATIONS:
        raise ValueError(f"activation must be one of {sorted(ACTIVATIONS)}; got {name!r}. Choose one of these.")
