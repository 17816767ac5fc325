"""Rules of the compiler that are replaced while we compile: how matrices are multiplied, and rows are picked."""

from __future__ import annotations

import math
import platform
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import torch

__all__ = ["own_rules"]

aten = torch.ops.aten
LOCK = threading.RLock()  # torch's table of rules is one for all threads
VERSION = 1  # of these rules: raise it with each change, since torch keeps compiled code on disk
LARGE = 2**21  # multiplications from which on oneDNN is faster, as measured on two cores of a server


@cache
def prefers_onednn() -> bool:
    """Whether this is an x86 processor that Intel has not made, as far as Linux says so."""
    if platform.machine() != "x86_64" or not torch.backends.mkldnn.is_available():
        return False
    try:
        return "GenuineIntel" not in Path("/proc/cpuinfo").read_text()
    except OSError:
        return False


@contextmanager
def own_rules() -> Iterator[None]:
    """Compile by our rules; the numbers differ by rounding alone.

    Picked rows are kept. The compiler picks them anew wherever they are used, and a likelihood uses a cell many times,
    so that tables took minutes to compile.

    Large products of float32 matrices are calls of oneDNN where Intel has not made the processor. The compiler calls
    MKL, which takes twice as long on AMD's.
    """
    from torch._inductor import compile_fx, lowering  # noqa: F401  (the first fills the table of rules)
    from torch.compiler import config

    with LOCK:
        rules, tag = lowering.lowerings, config.cache_key_tag
        ours: dict[Any, Callable[..., Any]] = {aten.index.Tensor: _kept}
        if prefers_onednn():
            ours |= {aten.mm.default: _product, aten.addmm.default: _sum_and_product}
        before = {operation: rules[operation] for operation in ours}
        try:
            rules.update({operation: rule(before[operation]) for operation, rule in ours.items()})
            config.cache_key_tag = f"{tag} pyro_vae {VERSION}, {len(ours)} rules"  # else torch's cache has other graphs
            yield
        finally:
            rules.update(before)
            config.cache_key_tag = tag


def _kept(otherwise: Callable[..., Any]) -> Callable[..., Any]:
    def lowered(*args: Any, **options: Any) -> Any:
        value = otherwise(*args, **options)
        value.realize()
        return value

    return lowered


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
