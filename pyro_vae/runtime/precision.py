"""Matrix products in bfloat16, everything else in float32, as other libraries mean by "bf16-mixed"."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

__all__ = ["PRECISIONS", "has_bfloat16", "products_in"]

PRECISIONS = ("float32", "bf16-mixed")
PRODUCTS = {
    functional.linear,
    functional.bilinear,
    torch.conv1d,
    torch.conv2d,
    torch.conv3d,
    torch.conv_transpose1d,
    torch.conv_transpose2d,
    torch.conv_transpose3d,
}  # what the layers of networks are made of


class _InBFloat16(TorchFunctionMode):
    """Compute the products of layers, and those of their gradients, in bfloat16, and return them in float32."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func not in PRODUCTS or args[0].dtype != torch.float32:
            return func(*args, **kwargs)
        named = {name: _narrow(value) for name, value in kwargs.items()}
        return func(*map(_narrow, args), **named).float()


def _narrow(value: Any) -> Any:
    return value.bfloat16() if isinstance(value, Tensor) and value.dtype == torch.float32 else value


def products_in(precision: str) -> AbstractContextManager[Any]:
    """Within, layers of networks compute as this precision says; nothing else changes."""
    return _InBFloat16() if precision == "bf16-mixed" else nullcontext()


def has_bfloat16(device: torch.device) -> bool:
    """Whether a device has instructions for products in bfloat16; without them, these are slower than in float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    known = [getattr(torch.cpu, name, bool) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported")]
    return device.type != "cpu" or any(probe() for probe in known)
