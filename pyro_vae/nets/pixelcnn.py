"""Autoregressive convolutional networks."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from pyro_vae.arguments import positive_integer
from pyro_vae.nets.base import Recipe, Shape

__all__ = ["PixelCNN"]


@dataclass(frozen=True)
class PixelCNN(Recipe):
    """From images to images of the same height and width, where a pixel of the output depends on earlier pixels only.

    Pixels are ordered row by row, from left to right. The channels of a pixel do not depend on each other; later pixels
    depend on all of them. Each gated layer has two stacks of features: the vertical one depends on the rows above, the
    horizontal one on the pixels to the left and on the vertical stack. A pixel of the output so depends on all earlier
    pixels that are at most `layers` * (`kernel` // 2) rows and columns away.

    Args:
        channels: the number of feature maps of each layer.
        layers: the number of gated layers.
        kernel: the width of the convolutions in pixels, an odd number of at least 3.

    Raises:
        ValueError: if sizes are not positive, the kernel is even or 1, or images differ in height or width.

    References:
        *Conditional Image Generation with PixelCNN Decoders* (van den Oord et al., 2016), arXiv 1606.05328; causality
        by shifts in place of masks: *PixelCNN++* (Salimans et al., 2017), arXiv 1701.05517

    Example:
        >>> PixelCNN(channels=8, layers=2).build((3, 8, 8), (6, 8, 8))(torch.zeros(5, 3, 8, 8)).shape
        torch.Size([5, 6, 8, 8])
    """

    channels: int = 32
    layers: int = 5
    kernel: int = 5

    def __post_init__(self) -> None:
        positive_integer("channels", self.channels)
        positive_integer("layers", self.layers)
        positive_integer("kernel", self.kernel)
        if self.kernel < 3 or self.kernel % 2 == 0:
            raise ValueError(f"kernel must be odd and at least 3; got {self.kernel}. Pass e.g. kernel=5.")

    def build(self, in_shape: Shape, out_shape: Shape, context_channels: int = 0) -> nn.Module:
        """A new module that maps (B, *in_shape) to (B, *out_shape).

        Args:
            in_shape: (C, H, W) of the input.
            out_shape: (C', H, W) of the output.
            context_channels: the number of input channels, the last ones, that are context. It is added in every
                layer; a pixel of the output depends on the context at its own place and around it.
        """
        if len(in_shape) != 3 or len(out_shape) != 3 or in_shape[1:] != out_shape[1:]:
            raise ValueError(
                f"PixelCNN must map images (C, H, W) to images of the same height and width; got {in_shape} to"
                f" {out_shape}. Use it in likelihoods.Autoregressive."
            )
        return _Net(self, in_shape[0] - context_channels, context_channels, out_shape[0])


class _Net(nn.Module):
    def __init__(self, recipe: PixelCNN, maps: int, context_maps: int, outputs: int) -> None:
        super().__init__()
        self.maps, self.context_maps = maps, context_maps
        self.above, self.left = nn.Conv2d(maps, recipe.channels, 1), nn.Conv2d(maps, recipe.channels, 1)
        self.layers = nn.ModuleList(
            _Layer(recipe.channels, recipe.kernel // 2, context_maps) for _ in range(recipe.layers)
        )
        self.head = nn.Sequential(
            nn.ELU(), nn.Conv2d(recipe.channels, recipe.channels, 1), nn.ELU(), nn.Conv2d(recipe.channels, outputs, 1)
        )

    def forward(self, images: Tensor) -> Tensor:
        x, context = images.split((self.maps, self.context_maps), 1)
        above = self.above(pad(x, (0, 0, 1, 0))[..., :-1, :])  # row i holds row i - 1
        left = self.left(pad(x, (1, 0))[..., :-1])  # column j holds column j - 1
        for layer in self.layers:
            above, left = layer(above, left, context)
        y: Tensor = self.head(left)
        return y


class _Layer(nn.Module):
    """A vertical convolution that reads no row below its place, and a horizontal one that reads no later pixel."""

    def __init__(self, channels: int, reach: int, context_maps: int) -> None:
        super().__init__()
        self.reach = reach
        self.vertical = nn.Conv2d(channels, 2 * channels, (reach + 1, 2 * reach + 1))
        self.horizontal = nn.Conv2d(channels, 2 * channels, (1, reach + 1))
        self.link = nn.Conv2d(2 * channels, 2 * channels, 1)
        self.output = nn.Conv2d(channels, channels, 1)
        self.context = nn.Conv2d(context_maps, 4 * channels, 1, bias=False) if context_maps else None

    def forward(self, above: Tensor, left: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        vertical = self.vertical(pad(above, (self.reach, self.reach, self.reach, 0)))
        horizontal = self.horizontal(pad(left, (self.reach, 0))) + self.link(vertical)
        if self.context is not None:
            for_vertical, for_horizontal = self.context(context).chunk(2, 1)
            vertical, horizontal = vertical + for_vertical, horizontal + for_horizontal
        return _gate(vertical), left + self.output(_gate(horizontal))


def _gate(features: Tensor) -> Tensor:
    value, gate = features.chunk(2, 1)
    return torch.tanh(value) * torch.sigmoid(gate)
