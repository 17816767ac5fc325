"""Further numbers of a row, such as covariates, beside the input of a net."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from pyro_vae.nets.base import Recipe, Shape

__all__ = ["put_beside", "shape_beside"]


def shape_beside(net: Recipe | nn.Module, in_shape: Shape, size: int) -> Shape:
    """The shape of one row of input with `size` further numbers beside it, as `put_beside` puts them there.

    Images get one further channel for each number, unless the net reads inputs of any shape as vectors.

    Raises:
        NotImplementedError: if rows are neither vectors nor images for this net.
    """
    if size == 0:
        return in_shape
    if len(in_shape) == 1 or bool(getattr(net, "reads_any_shape", False)):
        return (math.prod(in_shape) + size,)
    if len(in_shape) != 3:
        raise NotImplementedError(
            f"rows must be vectors or images (C, H, W) for covariates to be put beside them; got shape {in_shape}. Use"
            " nets.MLP, which reads any shape as a vector, or leave the encoder out of into=."
        )
    return (in_shape[0] + size, *in_shape[1:])


def put_beside(rows: Tensor, further: Tensor, event_dim: int, in_dim: int) -> Tensor:
    """Rows of input with further numbers beside them; dimensions before those of a row are broadcast.

    Args:
        rows: (..., *E).
        further: (..., F).
        event_dim: the number of dimensions of E.
        in_dim: the number of dimensions of a row that the net takes: 1 for vectors, 3 for images.

    Returns:
        (..., |E| + F), or (..., C + F, H, W) for images.
    """
    lead = torch.broadcast_shapes(rows.shape[: rows.dim() - event_dim], further.shape[:-1])
    rows = rows.expand(*lead, *rows.shape[rows.dim() - event_dim :])
    further = further.to(rows.dtype).expand(*lead, further.shape[-1])
    if in_dim == 1:
        return torch.cat([rows.reshape(*lead, -1), further], -1)
    channels = further[..., None, None].expand(*further.shape, *rows.shape[-2:])
    return torch.cat([rows, channels], -3)
