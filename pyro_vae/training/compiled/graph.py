"""A function of tensors as a graph of their operations, compiled for the machine at hand.

The function runs once on tensors without values, which records what it does. On CPU the graph draws the same noise from
the same random state as the function itself. Whatever is not an input is a constant of the graph.
"""

from __future__ import annotations

import linecache
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from pyro_vae.runtime.isolation import isolated
from pyro_vae.runtime.processor import tuned_processor
from pyro_vae.runtime.random import preserved_rng

__all__ = ["COMPILATION", "SAVED_BY_CELL", "CaptureError", "CudaGraph", "Graph", "compilations"]

INDUCTOR = {
    "fallback_random": True,  # the interpreter's noise
    "size_asserts": False,
    "alignment_asserts": False,
    "scalar_asserts": False,
}
COMPILATION, SAVED_BY_CELL = 20.0, 3e-9  # seconds, as seen on two cores of a server: what it costs, what it saves
compilations = 0  # how many graphs this process has compiled


class CaptureError(RuntimeError):
    """Why a function can't be captured."""


class Graph:
    """A recorded and compiled function of two arguments: tensors that stay, and tensors with one row each per example.

    Args:
        function: of (static, rows) to a tensor; it may change the static tensors in place.
        static: tensors in any nesting, of fixed shapes; always the same objects.
        rows: tensors like those to come; their first size is open.
        num_threads: that the compiled code runs with.

    Raises:
        CaptureError: with the reason, whatever it is that the function, the recording or the compiler raises.
    """

    def __init__(
        self, function: Callable[[Any, list[Tensor]], Tensor], static: Any, rows: list[Tensor], *, num_threads: int
    ) -> None:
        global compilations
        self.static, structure = pytree.tree_flatten(static)
        self.fitting: dict[Any, bool] = {}
        count = len(self.static)

        def flat(*tensors: Tensor) -> list[Tensor]:
            with _AsRecorded(), _untouched_random_state():
                return [function(pytree.tree_unflatten(list(tensors[:count]), structure), list(tensors[count:]))]

        try:
            with warnings.catch_warnings(), _forgotten():
                warnings.simplefilter("ignore")
                self.fakes = _fakes(self.static, rows)
                with isolated(), preserved_rng(), self.fakes[0].fake_mode:
                    graph = make_fx(flat, _allow_non_fake_inputs=True)(*self.fakes)
                self.run = _compiled(graph, self.fakes, num_threads)
                compilations += 1
        except CaptureError:
            raise
        except Exception as error:
            raise CaptureError(_first_line(error)) from error

    def fits(self, rows: list[Tensor]) -> bool:
        """Whether the graph holds for rows of these shapes and kinds."""
        key = tuple((tensor.shape, tensor.dtype) for tensor in rows)
        if key not in self.fitting:
            fakes = self.fakes[len(self.static) :]
            same = all(f.dtype == t.dtype and _matches(f.shape, t.shape) for f, t in zip(fakes, rows, strict=True))
            env = self.fakes[0].fake_mode.shape_env
            self.fitting[key] = same and env.evaluate_guards_for_args(fakes, rows)
        return self.fitting[key]

    def __call__(self, rows: list[Tensor]) -> Tensor:
        """The function of the static tensors and these rows."""
        (result,) = self.run(*self.static, *rows)
        return result  # type: ignore[no-any-return]


class CudaGraph:
    """A graph whose kernels are launched all at once, where rows are as many as in the sample.

    The first calls run as they are, since libraries set themselves up then.
    """

    WARM_UP = 3

    def __init__(self, graph: Graph, sample: list[Tensor]) -> None:
        self.graph, self.rows = graph, [row.clone() for row in sample]
        self.calls = 0
        self.replay: Any = None
        self.result = torch.empty(())

    def fits(self, rows: list[Tensor]) -> bool:
        """Whether the graph holds for rows of these shapes and kinds."""
        return self.graph.fits(rows)

    def __call__(self, rows: list[Tensor]) -> Tensor:
        """The function of the static tensors and these rows."""
        if any(row.shape != own.shape for row, own in zip(rows, self.rows, strict=True)):
            return self.graph(rows)
        self.calls += 1
        if self.calls <= self.WARM_UP:
            return self.graph(rows)
        for row, own in zip(rows, self.rows, strict=True):
            own.copy_(row)
        if self.replay is None:
            self.replay = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self.replay):  # records, and computes nothing
                self.result = self.graph(self.rows)
        self.replay.replay()
        return self.result


class _AsRecorded(TorchDispatchMode):
    """Record some operations in a form that the graph can hold.

    Bernoulli draws are recorded as the compiler leaves them as they are: of the other form it makes other noise.
    Triangular systems are recorded in their older form: of the newer one torch can't tell shapes while sizes are open.
    """

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if any(isinstance(value, torch.Generator) for value in (kwargs or {}).values()):
            raise CaptureError("the programs draw from a random generator of their own")
        if func is torch.ops.aten.bernoulli.default:
            return torch.empty_like(args[0]).bernoulli_(args[0])
        if func is torch.ops.aten.linalg_solve_triangular.default:
            return _solve_triangular(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _solve_triangular(a: Tensor, b: Tensor, *, upper: bool, left: bool = True, unitriangular: bool = False) -> Tensor:
    with _disable_current_modes():  # says once for the process that it is the older form; not heard while recording
        torch.triangular_solve(torch.ones(1, 1), torch.ones(1, 1))
    if not left:
        return _solve_triangular(a.mT, b.mT, upper=not upper, unitriangular=unitriangular).mT
    return torch.ops.aten.triangular_solve.default(b, a, upper, False, unitriangular)[0]  # type: ignore[no-any-return]


def _untouched_random_state() -> ExitStack:
    """Raise where the random state is set: a graph would draw on."""

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise CaptureError("the programs set the random state as they run")

    stack = ExitStack()
    for module in (torch, torch.random):
        for name in ("manual_seed", "set_rng_state"):
            stack.enter_context(patch.object(module, name, refuse))
    return stack


def _fakes(static: list[Tensor], rows: list[Tensor]) -> list[Any]:
    """Tensors without values that stand for the inputs; numbers of rows that are equal are one open number."""
    from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StatelessSymbolicContext  # half a second

    mode = FakeTensorMode(shape_env=ShapeEnv(), allow_non_fake_inputs=True)

    def fake(tensor: Tensor, *sizes: DimDynamic) -> Any:
        kinds = [*sizes, *[DimDynamic.STATIC] * tensor.dim()][: tensor.dim()]
        return mode.from_tensor(tensor.detach(), symbolic_context=StatelessSymbolicContext(dynamic_sizes=kinds))

    return [*map(fake, static), *(fake(tensor, DimDynamic.DUCK) for tensor in rows)]


@contextmanager
def _forgotten() -> Iterator[None]:
    """Leave nothing in torch's memories, which keep sources, modules and shapes for as long as the process lives."""
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
    """Whether a shape is the recorded one, but for sizes that stayed open."""
    fixed = [size if isinstance(size, int) else size.node.maybe_as_int() for size in recorded]
    return len(fixed) == len(shape) and all(a is None or a == b for a, b in zip(fixed, shape, strict=True))


def _compiled(graph: Any, fakes: list[Any], num_threads: int) -> Callable[..., Any]:
    from torch import _inductor
    from torch._inductor import config

    patches = INDUCTOR | {"cpp_wrapper": fakes[0].device.type == "cpu"}  # no Python between kernels
    options = {"config_patches": {name: value for name, value in patches.items() if hasattr(config, name)}}
    with tuned_processor(num_threads):
        return _inductor.standalone_compile(graph, fakes, dynamic_shapes="from_graph", options=options)  # type: ignore[no-any-return]


def _first_line(error: BaseException) -> str:
    kind, lines = type(error).__name__, [line.strip() for line in str(error).splitlines() if line.strip()]
    if "DataDependent" in kind:
        lines = ["the programs read the value of a tensor, or branch on it", *lines]
    return f"{kind}: {lines[0] if lines else ''}"
