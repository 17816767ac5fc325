"""Decoders of images whose content is rotated, shifted and scaled by latents."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pyro_vae.arguments import positive_number, true_or_false
from pyro_vae.nets.base import Recipe, Shape, as_widths, check_activation
from pyro_vae.nets.mlp import MLP

__all__ = ["Spatial"]


@dataclass(frozen=True)
class Spatial(Recipe):
    """A decoder of images in which some latents rotate, shift and scale what the other latents, the content, describe.

    An MLP maps the coordinates of a pixel and the content to the pixel's value. For a pixel at p, the coordinates are
    R(-angle) (p - shift) / exp(log scale). They are 0 at the centre of the image, with x to the right and y upward, in
    units of half the image's width, so that neighbouring pixels are 2 / W apart; the angle is counterclockwise.

    The first latents are the angle, the shift (x, y) and the log scale, in this order and as far as they are used, each
    multiplied by its unit; all other latents are content.

    Args:
        rotation: whether the first latent is the angle.
        translation: whether the next two latents are the shift.
        scale: whether the next latent is the log scale.
        hidden: widths of the hidden layers.
        activation: one of elu, gelu, relu, silu, softplus, tanh.
        rotation_scale: unit of the angle, in radians; with pi, a standard normal latent is nearly a uniform angle.
        translation_scale: unit of the shift, in half widths of the image.
        log_scale_scale: unit of the log scale.

    Raises:
        ValueError: if a width or unit is not positive, the activation is unknown, the output is not an image or there
            are fewer latents than are needed for angle, shift and scale.

    References:
        *Explicitly disentangling image content from translation and rotation with spatial-VAE* (Bepler et al., 2019),
        arXiv 1909.11663

    Example:
        >>> Spatial().build((5,), (1, 28, 28))(torch.zeros(3, 5)).shape
        torch.Size([3, 1, 28, 28])
    """

    rotation: bool = True
    translation: bool = True
    scale: bool = False
    hidden: Sequence[int] = (128, 128)
    activation: str = "tanh"
    rotation_scale: float = math.pi
    translation_scale: float = 0.1
    log_scale_scale: float = 0.1

    def __post_init__(self) -> None:
        object.__setattr__(self, "hidden", as_widths("hidden", self.hidden))
        check_activation(self.activation)
        for what in ("rotation", "translation", "scale"):
            true_or_false(what, getattr(self, what))
        for what in ("rotation_scale", "translation_scale", "log_scale_scale"):
            positive_number(what, getattr(self, what))

    def build(self, in_shape: Shape, out_shape: Shape) -> nn.Module:
        if len(in_shape) != 1 or len(out_shape) != 3:
            raise ValueError(
                f"Spatial must map a vector to an image (C, H, W); got {in_shape} to {out_shape}. Use MLP for others."
            )
        num_spatial = self.rotation + 2 * self.translation + self.scale
        if in_shape[0] < num_spatial:
            raise ValueError(f"Spatial must have at least {num_spatial} latents; got {in_shape[0]}. Raise latent_dim.")
        return _SpatialDecoder(self, in_shape[0] - num_spatial, out_shape)


class _SpatialDecoder(nn.Module):
    grid: Tensor

    def __init__(self, recipe: Spatial, num_content: int, out_shape: Shape) -> None:
        super().__init__()
        self.recipe, self.out_shape = recipe, out_shape
        self.net = MLP(recipe.hidden, recipe.activation).build((2 + num_content,), out_shape[:1])
        height, width = out_shape[1:]
        up, right = (height - 1) / 2 - torch.arange(height), torch.arange(width) - (width - 1) / 2
        y, x = torch.meshgrid(up, right, indexing="ij")
        self.register_buffer("grid", torch.stack((x, y), -1).reshape(-1, 2) * (2 / width), persistent=False)

    def forward(self, z: Tensor) -> Tensor:
        coordinates, content = self.coordinates(z)
        content = content.unsqueeze(1).expand(-1, len(self.grid), -1)
        cells: Tensor = self.net(torch.cat((coordinates, content), -1))
        return cells.transpose(1, 2).reshape(-1, *self.out_shape)

    def coordinates(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Split latents (B, D) into the coordinates of the pixels, (B, H * W, 2), and the content, both for the MLP."""
        angles, shifts, log_scales, content = self._split(z)
        x, y = (self.grid - shifts.unsqueeze(1)).unbind(-1)
        cos, sin = angles.cos(), angles.sin()
        return torch.stack((cos * x + sin * y, cos * y - sin * x), -1) * (-log_scales).exp().unsqueeze(-1), content

    def _split(self, z: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Angles (B, 1), shifts (B, 2), log scales (B, 1) and content; zeros for what is not used."""
        recipe, parts = self.recipe, []
        for used, size, unit in (
            (recipe.rotation, 1, recipe.rotation_scale),
            (recipe.translation, 2, recipe.translation_scale),
            (recipe.scale, 1, recipe.log_scale_scale),
        ):
            parts.append(unit * z[:, :size] if used else z.new_zeros(len(z), size))
            z = z[:, size:] if used else z
        return parts[0], parts[1], parts[2], z
