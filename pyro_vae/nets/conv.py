"""Convolutional networks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from pyro_vae.nets.base import ACTIVATIONS, ImageRecipe, Shape, as_widths, check_activation, halvings
from pyro_vae.nets.mlp import MLP

__all__ = ["Conv"]


@dataclass(frozen=True)
class Conv(ImageRecipe):
    """Convolutions of stride 2, then fully connected layers; as a decoder, the same layers in reverse order.

    Built from images (C, H, W) to a vector it is an encoder; built from a vector to images it is a decoder.

    Args:
        channels: numbers of feature maps of the convolutions, beginning at the image.
        hidden: widths of the fully connected layers between the features and the vector.
        activation: one of elu, gelu, relu, silu, softplus, tanh.

    Raises:
        ValueError: if sizes are not positive, the activation is unknown or neither side is an image.

    Example:
        >>> import torch
        >>> Conv(channels=(8, 16)).build((3,), (1, 28, 28))(torch.zeros(5, 3)).shape
        torch.Size([5, 1, 28, 28])
    """

    channels: Sequence[int] = (32, 64)
    hidden: Sequence[int] = (256,)
    activation: str = "relu"

    def __post_init__(self) -> None:
        object.__setattr__(self, "channels", as_widths("channels", self.channels))
        object.__setattr__(self, "hidden", as_widths("hidden", self.hidden))
        check_activation(self.activation)

    def encoder(self, in_shape: Shape, out_shape: Shape) -> nn.Module:
        layers: list[nn.Module] = []
        maps = in_shape[0]
        for size in self.channels:
            layers += [nn.Conv2d(maps, size, 3, stride=2, padding=1), ACTIVATIONS[self.activation]()]
            maps = size
        features = (maps, *halvings(in_shape[1:], len(self.channels))[-1])
        return nn.Sequential(*layers, MLP(self.hidden, self.activation).build(features, out_shape))

    def decoder(self, in_shape: Shape, out_shape: Shape) -> nn.Module:
        sizes = halvings(out_shape[1:], len(self.channels))
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
