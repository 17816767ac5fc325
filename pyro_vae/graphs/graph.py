"""A function of tensors, recorded as a graph of operations and compiled for this machine.

The function runs once on tensors without values, which records its operations. On CPU the graph draws the same noise
from the same random state as the function itself. Everything that is not an input is a constant of the graph.
"""

from __future__ import annotations

import linecache
import logging
import platform
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import cache
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from pyro_vae.graphs.functions import recorded_as
from pyro_vae.graphs.rules import own_rules
from pyro_vae.runtime.isolation import isolated
from pyro_vae.runtime.processor import tuned_processor
from pyro_vae.runtime.random import preserved_rng

__all__ = ["COMPILATION", "CaptureError", "CudaGraph", "Graph", "compilations", "saved_by_cell"]

logger = logging.getLogger("pyro_vae")
INDUCTOR = {
    "fallback_random": True,  # the same noise as without compilation
    "size_asserts": False,
    "alignment_asserts": False,
    "scalar_asserts": False,
}
COMPILATION = 12.0  # seconds that a first compilation of 784-400-20 takes, as measured on two cores of a server
SAVED_BY_CELL = 3e-9  # seconds that it saves in each call for each cell and particle
SAVED_BY_GAMMA_CELL = 2e-7  # the same where the likelihood is made of log-gamma functions
compilations = 0  # the number of graphs that this process has compiled


def saved_by_cell(model: Any) -> float:
    """The seconds that compiled programs of a model save for each cell and particle."""
    by_gammas = getattr(getattr(model, "likelihood", None), "gamma_functions", False)
    return SAVED_BY_GAMMA_CELL if by_gammas else SAVED_BY_CELL


class CaptureError(RuntimeError):
    """The reason why a function can't be recorded and compiled."""


class Graph:
    """A recorded and compiled function of two arguments: static tensors, and inputs, some of whose sizes stay open.

    Args:
        function: a function of (static, inputs) that returns tensors; it may change the static tensors in place.
        static: tensors in any nesting, of fixed shapes; always the same objects.
        inputs: tensors like those that follow.
        num_threads: the number of threads that the compiled code runs with.
        open_dims: for each input, a letter for each of its first dimensions whose size stays open; sizes of one letter
            are equal. By default the first dimension of each has the letter B. If sizes of two letters are equal here,
            another size of the later letter is recorded.

    Raises:
        CaptureError: with the reason, whether the function, the recording or the compiler fails.
    """

    def __init__(
        self,
        function: Callable[[Any, list[Tensor]], list[Tensor]],
        static: Any,
        inputs: list[Tensor],
        *,
        num_threads: int,
        open_dims: Sequence[str] | None = None,
    ) -> None:
        global compilations
        self.static, structure = pytree.tree_flatten(static)
        self.fitting: dict[Any, bool] = {}
        count = len(self.static)

        def flat(*tensors: Tensor) -> list[Tensor]:
            with _AsRecorded(), _untouched_random_state():
                return function(pytree.tree_unflatten(list(tensors[:count]), structure), list(tensors[count:]))

        try:
            with warnings.catch_warnings(), _quiet(), _emptied_caches():
                warnings.simplefilter("ignore")
                self.fakes = _fakes(self.static, inputs, ["B"] * len(inputs) if open_dims is None else open_dims)
                with isolated(), preserved_rng(), self.fakes[0].fake_mode:
                    graph = make_fx(flat, _allow_non_fake_inputs=True)(*self.fakes)
                self.run = _compiled(graph, self.fakes, num_threads)
                compilations += 1
        except CaptureError:
            raise
        except Exception as error:
            raise CaptureError(_first_line(error)) from error

    def fits(self, inputs: list[Tensor]) -> bool:
        """Whether the graph is valid for inputs of these shapes and dtypes."""
        key = tuple((tensor.shape, tensor.dtype) for tensor in inputs)
        if key not in self.fitting:
            fakes = self.fakes[len(self.static) :]
            same = all(f.dtype == t.dtype and _matches(f.shape, t.shape) for f, t in zip(fakes, inputs, strict=True))
            env = self.fakes[0].fake_mode.shape_env
            self.fitting[key] = same and env.evaluate_guards_for_args(fakes, inputs)
        return self.fitting[key]

    def __call__(self, inputs: list[Tensor]) -> list[Tensor]:
        """The function's values at the static tensors and these inputs."""
        return self.run(*self.static, *inputs)  # type: ignore[no-any-return]


class CudaGraph:
    """A graph whose kernels are launched together, for batches with as many rows as the sample.

    The first calls run normally, because libraries initialize themselves then.
    """

    WARM_UP = 3

    def __init__(self, graph: Graph, sample: list[Tensor]) -> None:
        self.graph, self.inputs = graph, [tensor.clone() for tensor in sample]
        self.calls = 0
        self.replay: Any = None
        self.result: list[Tensor] = []

    def fits(self, inputs: list[Tensor]) -> bool:
        """Whether the graph is valid for inputs of these shapes and dtypes."""
        return self.graph.fits(inputs)

    def __call__(self, inputs: list[Tensor]) -> list[Tensor]:
        """The function's values at the static tensors and these inputs."""
        if any(tensor.shape != own.shape for tensor, own in zip(inputs, self.inputs, strict=True)):
            return self.graph(inputs)
        self.calls += 1
        if self.calls <= self.WARM_UP:
            return self.graph(inputs)
        for tensor, own in zip(inputs, self.inputs, strict=True):
            own.copy_(tensor)
        if self.replay is None:
            self.replay = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self.replay):  # this records and computes nothing
                self.result = self.graph(self.inputs)
        self.replay.replay()
        return self.result


class _AsRecorded(TorchDispatchMode):
    """Record some operations in another form; see `functions`."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if any(isinstance(value, torch.Generator) for value in (kwargs or {}).values()):
            raise CaptureError("the programs draw from a random generator of their own")
        return recorded_as(func, args)(*args, **(kwargs or {}))


def _untouched_random_state() -> ExitStack:
    """Raise if the programs set the random state: the graph would ignore it."""

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise CaptureError("the programs set the random state as they run")

    stack = ExitStack()
    for module in (torch, torch.random):
        for name in ("manual_seed", "set_rng_state"):
            stack.enter_context(patch.object(module, name, refuse))
    return stack


def _fakes(static: list[Tensor], inputs: list[Tensor], open_dims: Sequence[str]) -> list[Any]:
    """Tensors without values that stand for static tensors and inputs; sizes of one letter are one open number."""
    # This import takes half a second.
    from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StatelessSymbolicContext

    mode = FakeTensorMode(shape_env=ShapeEnv(), allow_non_fake_inputs=True)
    sizes: dict[str, int] = {}
    for tensor, letters in zip(inputs, open_dims, strict=True):
        for letter, size in zip(letters, tensor.shape, strict=False):
            while letter not in sizes and size in sizes.values():  # torch takes equal sizes for one number
                size += 1
            sizes.setdefault(letter, size)

    def fake(tensor: Tensor, letters: str = "") -> Any:
        shape = [sizes[letter] for letter in letters] + list(tensor.shape[len(letters) :])
        like = tensor.detach() if shape == list(tensor.shape) else tensor.new_empty(shape)
        kinds = [DimDynamic.DUCK] * len(letters) + [DimDynamic.STATIC] * (tensor.dim() - len(letters))
        return mode.from_tensor(like, symbolic_context=StatelessSymbolicContext(dynamic_sizes=kinds))

    return [*map(fake, static), *map(fake, inputs, open_dims)]


@contextmanager
def _quiet() -> Iterator[None]:
    """Hide what torch logs about its own compilation, which tells the user nothing."""
    loggers = [logging.getLogger(name) for name in ("torch._inductor.ir", "torch.utils.cpp_extension")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@contextmanager
def _emptied_caches() -> Iterator[None]:
    """Remove on exit what a compilation adds to torch's caches, which would keep sources, modules and shapes."""
    from torch._inductor.codecache import PyCodeCache
    from torch.fx import graph_module
    from torch.fx.experimental.symbolic_shapes import ShapeEnv

    sources, modules = graph_module._loader.eval_cache, PyCodeCache.modules
    known, loaded = set(sources), len(modules)
    try:
        yield
    finally:
        for name in set(sources) - known:
            del sources[name]
            linecache.cache.pop(name, None)
        del modules[loaded:]
        FakeTensorMode.cache_clear()
        for answer in vars(ShapeEnv).values():
            while answer is not None:
                if hasattr(answer, "cache_clear"):
                    answer.cache_clear()
                answer = getattr(answer, "__wrapped__", None)


def _matches(recorded: Sequence[int], shape: Sequence[int]) -> bool:
    """Whether a shape is the recorded one, apart from sizes that stay open."""
    fixed = [size if isinstance(size, int) else size.node.maybe_as_int() for size in recorded]
    return len(fixed) == len(shape) and all(a is None or a == b for a, b in zip(fixed, shape, strict=True))


def _compiled(graph: Any, fakes: list[Any], num_threads: int) -> Callable[..., Any]:
    from torch import _inductor
    from torch._inductor import config

    patches = INDUCTOR | {"cpp_wrapper": fakes[0].device.type == "cpu"}  # no Python between the kernels
    known = {name: value for name, value in patches.items() if hasattr(config, name)}

    def compiled(**more: Any) -> Callable[..., Any]:
        options = {"config_patches": known | more}
        return _inductor.standalone_compile(graph, fakes, dynamic_shapes="from_graph", options=options)  # type: ignore[no-any-return]

    with tuned_processor(num_threads), _without_detours():
        # On x86 no programs are built, for five seconds, to see whether the C++ compiler knows the processor.
        known_isa = sys.platform == "linux" and platform.machine() == "x86_64"
        try:
            with own_rules():
                return compiled(**({"cpp.vec_isa_ok": True} if known_isa else {}))
        except Exception as error:
            logger.debug("A graph is compiled by torch's own rules: %s", _first_line(error))
            return compiled()


@contextmanager
def _without_detours() -> Iterator[None]:
    """Spare torch two detours, which take much of the time in which it writes code for long expressions.

    It simplifies each index by all rules of algebra, where expanding it is enough, and it makes the rules of dtypes
    anew for each operation, although they are meant to be made once.
    """
    import sympy
    from torch._inductor import sizevars
    from torch._inductor.codegen import common

    with ExitStack() as stack:
        if hasattr(sizevars, "sympy"):
            expanding = SimpleNamespace(**{name: getattr(sympy, name) for name in dir(sympy)})
            expanding.simplify = sympy.expand
            stack.enter_context(patch.object(sizevars, "sympy", expanding))
        if rules := getattr(common, "DtypePropagationOpsHandler", None):
            stack.enter_context(patch.object(common, "DtypePropagationOpsHandler", cache(rules)))
        yield


def _first_line(error: BaseException) -> str:
    kind, lines = type(error).__name__, [line.strip() for line in str(error).splitlines() if line.strip()]
    if "DataDependent" in kind:
        lines = ["the programs read the value of a tensor, or branch on it", *lines]
    return f"{kind}: {lines[0] if lines else ''}"
