"""Large matrix products by oneDNN where the compiler would call MKL, which is half as fast on AMD's processors."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

__all__ = ["products_by_onednn"]

aten = torch.ops.aten
LARGE = 2**21  # multiplications from which on oneDNN is faster, as measured on two cores of a server


@cache
def prefers_onednn() -> bool:
    """Whether Intel has not made this processor, as far as Linux says so."""
    try:
        return torch.backends.mkldnn.is_available() and "GenuineIntel" not in Path("/proc/cpuinfo").read_text()
    except OSError:
        return False


@contextmanager
def products_by_onednn() -> Iterator[None]:
    """Compile large products of float32 matrices as calls of oneDNN; the numbers differ by rounding alone."""
    with ExitStack() as stack:
        if prefers_onednn():
            from torch._inductor import lowering
            from torch.compiler import config

            # else graphs that were compiled without are taken from torch's cache
            stack.enter_context(patch.object(config, "cache_key_tag", f"{config.cache_key_tag} pyro_vae: oneDNN"))
            rules = lowering.lowerings
            ours: dict[Any, Callable[..., Any]] = {
                aten.mm.default: _product(rules[aten.mm.default]),
                aten.addmm.default: _sum_and_product(rules[aten.addmm.default]),
            }
            stack.enter_context(patch.dict(rules, ours))
        yield


def _product(otherwise: Callable[..., Any]) -> Callable[..., Any]:
    def lowered(a: Any, b: Any, **options: Any) -> Any:
        return _linear(a, b) if not options and _large(a, b) else otherwise(a, b, **options)

    return lowered


def _sum_and_product(otherwise: Callable[..., Any]) -> Callable[..., Any]:
    def lowered(bias: Any, a: Any, b: Any, **options: Any) -> Any:
        plain = not options and len(bias.get_size()) == 1 and bias.get_size() == b.get_size()[1:]
        return _linear(a, b, bias) if plain and _large(a, b) else otherwise(bias, a, b, **options)

    return lowered


def _large(a: Any, b: Any) -> bool:
    from torch._inductor.virtualized import V

    sizes = V.graph.sizevars  # older versions of torch have another name for what stands for an open size
    hint: Any = getattr(sizes, "optimization_hint", None) or getattr(sizes, "size_hint")  # noqa: B009
    work = math.prod(int(hint(size)) for size in (*a.get_size(), *b.get_size()[1:]))
    same = all(matrix.get_dtype() == torch.float32 and matrix.get_device().type == "cpu" for matrix in (a, b))
    return same and work >= LARGE


def _linear(a: Any, b: Any, bias: Any = None) -> Any:
    """a b + bias as a call of oneDNN, which takes transposed matrices as they lie."""
    from torch._inductor import ir, lowering, mkldnn_ir

    def in_memory(tensor: Any) -> Any:
        return ir.ExternKernel.require_stride1(ir.ExternKernel.realize_input(tensor))

    size = [a.get_size()[0], b.get_size()[1]]
    inputs = [in_memory(a), in_memory(lowering.permute(b, [1, 0]))]
    constants: list[Any] = ["none", [-1], ""]
    if bias is None:
        constants.insert(0, None)
    else:
        inputs.append(in_memory(bias))
    layout = ir.FixedLayout(device=a.get_device(), dtype=a.get_dtype(), size=size)
    node = mkldnn_ir._create_output_node(mkldnn_ir.LinearUnary(layout=layout, inputs=inputs, constant_args=constants))
    return ir.TensorBox.create(node)
