"""Paths between two points of the latent space."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["PATHS", "linear", "spherical"]


def linear(z0: Tensor, z1: Tensor, t: Tensor) -> Tensor:
    """The points at t from 0 to 1 on the line from z0 to z1."""
    return (1 - t) * z0 + t * z1


def spherical(z0: Tensor, z1: Tensor, t: Tensor) -> Tensor:
    """Directions along the great circle, lengths along the line; a straight line where the angle is nearly 0 or pi."""
    r0, r1 = z0.norm(dim=-1, keepdim=True), z1.norm(dim=-1, keepdim=True)
    cosine = ((z0 * z1).sum(-1, keepdim=True) / (r0 * r1).clamp_min(1e-12)).clamp(-1, 1)
    angle = cosine.acos()
    direction = ((1 - t) * angle).sin() * z0 / r0.clamp_min(1e-12) + (t * angle).sin() * z1 / r1.clamp_min(1e-12)
    on_sphere = direction / angle.sin().clamp_min(1e-12) * linear(r0, r1, t)
    return torch.where(angle.sin() > 1e-4, on_sphere, linear(z0, z1, t))


PATHS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {"linear": linear, "spherical": spherical}
