"""Convolutional nets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from pyro_vae.nets.base import ACTIVATIONS, ImageRecipe, Shape, check_activation, halvings, widths
from pyro_vae.nets.mlp import MLP

__all__ = ["Conv"]


@dataclass(frozen=True)
class Conv(ImageRecipe):
    """Convolutions of stride 2, then fully connected layers; as a decoder the mirror image.

    From images (C, H, W) to a vector it encodes; from a vector to images it decodes.

    Args:
        channels: feature maps of the layers, from the image inward.
        hidden: widths of the fully connected layers between features and vector.
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
        object.__setattr__(self, "channels", widths("channels", self.channels))
        object.__setattr__(self, "hidden", widths("hidden", self.hidden))
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
