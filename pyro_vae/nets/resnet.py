"""Residual convolutional nets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from pyro_vae.arguments import positive_integer
from pyro_vae.nets.base import ACTIVATIONS, ImageRecipe, Shape, check_activation, choice, halvings, widths
from pyro_vae.nets.mlp import MLP

__all__ = ["ResNet"]

GROUP = 16  # channels that are normalised together, as Wu and He recommend


@dataclass(frozen=True)
class ResNet(ImageRecipe):
    """Stages of pre-activation residual blocks, then fully connected layers; as a decoder the mirror image.

    From images (C, H, W) to a vector it encodes: each stage begins by a convolution of stride 2. From a vector to
    images it decodes: each stage ends by doubling the image, pixels repeated, and a convolution.

    Args:
        channels: feature maps of the stages, from the image inward.
        blocks: residual blocks per stage.
        hidden: widths of the fully connected layers between features and vector.
        activation: one of elu, gelu, relu, silu, softplus, tanh.
        normalization: "group" (groups of 16 channels; one group where 16 doesn't divide them) or None.

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
        object.__setattr__(self, "channels", widths("channels", self.channels))
        object.__setattr__(self, "hidden", widths("hidden", self.hidden))
        positive_integer("blocks", self.blocks)
        check_activation(self.activation)
        choice("normalization", self.normalization, (None, "group"))
        if not self.channels:
            raise ValueError("channels must be at least one width; got (). Use MLP for no stages.")

    def encoder(self, in_shape: Shape, out_shape: Shape) -> nn.Module:
        layers: list[nn.Module] = []
        maps = in_shape[0]
        for size in self.channels:
            layers += [nn.Conv2d(maps, size, 3, stride=2, padding=1), *self._blocks(size)]
            maps = size
        features = (maps, *halvings(in_shape[1:], len(self.channels))[-1])
        return nn.Sequential(*layers, *self._active(maps), MLP(self.hidden, self.activation).build(features, out_shape))

    def decoder(self, in_shape: Shape, out_shape: Shape) -> nn.Module:
        sizes = halvings(out_shape[1:], len(self.channels))
        maps = self.channels[-1]
        layers: list[nn.Module] = [MLP(self.hidden, self.activation).build(in_shape, (maps, *sizes[-1]))]
        outputs = (self.channels[0], *self.channels[:-1])
        for size, larger in zip(reversed(outputs), reversed(sizes[:-1]), strict=True):
            layers += [*self._blocks(maps), nn.Upsample(larger), nn.Conv2d(maps, size, 3, padding=1)]
            maps = size
        return nn.Sequential(*layers, *self._active(maps), nn.Conv2d(maps, out_shape[0], 3, padding=1))

    def _blocks(self, maps: int) -> list[nn.Module]:
        def half() -> list[nn.Module]:
            return [*self._active(maps), nn.Conv2d(maps, maps, 3, padding=1)]

        return [_Block(*half(), *half()) for _ in range(self.blocks)]

    def _active(self, maps: int) -> list[nn.Module]:
        """What stands before a convolution."""
        groups = maps // GROUP if maps % GROUP == 0 else 1
        return [*([nn.GroupNorm(groups, maps)] if self.normalization else []), ACTIVATIONS[self.activation]()]


class _Block(nn.Sequential):
    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x + super().forward(x)
        return y
