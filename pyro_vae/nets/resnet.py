"""Residual convolutional networks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from pyro_vae.arguments import positive_integer
from pyro_vae.nets.base import ACTIVATIONS, ImageRecipe, Shape, as_widths, check_activation, check_choice, halvings
from pyro_vae.nets.mlp import MLP

__all__ = ["ResNet"]

CHANNELS_PER_GROUP = 16  # of group normalization, as Wu and He recommend


@dataclass(frozen=True)
class ResNet(ImageRecipe):
    """Stages of pre-activation residual blocks, then fully connected layers; as a decoder, in reverse order.

    Built from images (C, H, W) to a vector it is an encoder, and each stage begins with a convolution of stride 2.
    Built from a vector to images it is a decoder, and each stage ends by doubling the size of the image, with repeated
    pixels, and a convolution.

    Args:
        channels: numbers of feature maps of the stages, beginning at the image.
        blocks: the number of residual blocks in a stage.
        hidden: widths of the fully connected layers between the features and the vector.
        activation: one of elu, gelu, relu, silu, softplus, tanh.
        normalization: "group" for group normalization (in groups of 16 channels; one group if their number is not a
            multiple of 16), or None.

    Raises:
        ValueError: if sizes are not positive, a name is unknown or neither side is an image.

    References:
        *Identity Mappings in Deep Residual Networks* (He, Zhang, Ren, Sun, 2016), arXiv 1603.05027;
        *Group Normalization* (Wu, He, 2018), arXiv 1803.08494

    Example:
        >>> import torch
        >>> ResNet(channels=(16, 32), blocks=1).build((1, 28, 28), (6,))(torch.zeros(5, 1, 28, 28)).shape
        torch.Size([5, 6])
    """

    channels: Sequence[int] = (32, 64)
    blocks: int = 2
    hidden: Sequence[int] = ()
    activation: str = "silu"
    normalization: str | None = "group"

    def __post_init__(self) -> None:
        object.__setattr__(self, "channels", as_widths("channels", self.channels))
        object.__setattr__(self, "hidden", as_widths("hidden", self.hidden))
        positive_integer("blocks", self.blocks)
        check_activation(self.activation)
        check_choice("normalization", self.normalization, (None, "group"))
        if not self.channels:
            raise ValueError("channels must be at least one width; got (). Use MLP for no stages.")

    def encoder(self, in_shape: Shape, out_shape: Shape) -> nn.Module:
        layers: list[nn.Module] = []
        maps = in_shape[0]
        for size in self.channels:
            layers += [nn.Conv2d(maps, size, 3, stride=2, padding=1), *self._blocks(size)]
            maps = size
        features = (maps, *halvings(in_shape[1:], len(self.channels))[-1])
        return nn.Sequential(
            *layers, *self._activation(maps), MLP(self.hidden, self.activation).build(features, out_shape)
        )

    def decoder(self, in_shape: Shape, out_shape: Shape) -> nn.Module:
        sizes = halvings(out_shape[1:], len(self.channels))
        maps = self.channels[-1]
        layers: list[nn.Module] = [MLP(self.hidden, self.activation).build(in_shape, (maps, *sizes[-1]))]
        outputs = (self.channels[0], *self.channels[:-1])
        for size, larger in zip(reversed(outputs), reversed(sizes[:-1]), strict=True):
            layers += [*self._blocks(maps), nn.Upsample(larger), nn.Conv2d(maps, size, 3, padding=1)]
            maps = size
        return nn.Sequential(*layers, *self._activation(maps), nn.Conv2d(maps, out_shape[0], 3, padding=1))

    def _blocks(self, maps: int) -> list[nn.Module]:
        def half() -> list[nn.Module]:
            return [*self._activation(maps), nn.Conv2d(maps, maps, 3, padding=1)]

        return [_Block(*half(), *half()) for _ in range(self.blocks)]

    def _activation(self, maps: int) -> list[nn.Module]:
        """Normalization and activation, the layers before a convolution."""
        groups = maps // CHANNELS_PER_GROUP if maps % CHANNELS_PER_GROUP == 0 else 1
        return [*([nn.GroupNorm(groups, maps)] if self.normalization else []), ACTIVATIONS[self.activation]()]


class _Block(nn.Sequential):
    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x + super().forward(x)
        return y
