"""Results that do not fit into memory are refused before they are drawn."""

from __future__ import annotations

import math
from collections.abc import Mapping

from torch import Tensor

from pyro_vae.runtime.processor import memory_limit

__all__ = ["check_memory"]


def check_memory(results: Mapping[str, tuple[tuple[int, ...], Tensor]], advice: str) -> None:
    """Raise a ValueError if results of these shapes do not fit into the memory of the machine.

    Args:
        results: by site, the shape of the result and a tensor of its dtype and device.
        advice: what to do, the end of the message.
    """
    size = sum(math.prod(shape) * like.element_size() for shape, like in results.values())
    limit = min(memory_limit(like.device) for _, like in results.values())
    if size > limit:
        shapes = " and ".join(str(shape) for shape, _ in results.values())
        raise ValueError(
            f"Draws must fit into memory, {limit / 1e9:.3g} GB; got {size / 1e9:.3g} GB, of shape {shapes}. {advice}"
        )
