"""One gradient step as one compiled function: batch, loss, gradient, clipping and update, without the interpreter.

The programs run once on tensors without values, which records their operations as a graph; the graph is compiled for
the machine at hand. It draws the same noise from the same random state as the interpreter does, on CPU.

What the graph takes for constant: everything but tensors of the model, the batch, the learning rate and the schedules
of the estimator. Where such a thing changes between epochs, training goes on by the interpreter.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StatelessSymbolicContext
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from pyro_vae import scope
from pyro_vae.batches import Rows, cast, name_item
from pyro_vae.steps import EagerStep

__all__ = ["CompiledStep", "Uncapturable", "compilations"]

ALIGNMENT = 64  # bytes: where slices of the flat buffers begin
INDUCTOR = {
    "fallback_random": True,  # the interpreter's noise
    "cpp_wrapper": True,  # no Python between kernels
    "size_asserts": False,
    "alignment_asserts": False,
    "scalar_asserts": False,
}
SMALL = 10**7  # parameters x rows x particles
SAVED_BY_STEP, SAVED_BY_CELL, COMPILATION = 2.5e-3, 5e-9, 20.0  # seconds, as seen on two cores of a server
MOVING = {"_parameters", "_buffers", "step", "epoch", "fed"}  # attributes that are the graph's inputs
logger = logging.getLogger("pyro_vae")
compilations = 0  # how many steps this process has compiled


class Uncapturable(RuntimeError):
    """Why a step can't be captured."""


class Flat:
    """Tensors side by side in one flat tensor, each slice aligned."""

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        kinds = {(tensor.dtype, tensor.device) for tensor in tensors}
        if len(kinds) > 1 or not tensors[0].is_floating_point():
            raise Uncapturable(f"parameters are of several kinds: {sorted(map(str, kinds))}")
        unit = max(1, ALIGNMENT // tensors[0].element_size())
        self.shapes = [tensor.shape for tensor in tensors]
        self.sizes = [tensor.numel() for tensor in tensors]
        self.padding = [-size % unit for size in self.sizes]

    def join(self, tensors: Sequence[Tensor]) -> Tensor:
        parts = []
        for tensor, padding in zip(tensors, self.padding, strict=True):
            parts += [tensor.reshape(-1), *([tensor.new_zeros(padding)] if padding else [])]
        return torch.cat(parts)

    def split(self, flat: Tensor) -> Iterator[Tensor]:
        """Views of the slices."""
        start = 0
        for shape, size, padding in zip(self.shapes, self.sizes, self.padding, strict=True):
            yield flat[start : start + size].view(shape)
            start += size + padding


class FlatOptimizer:
    """The gradient in a flat tensor whose slices are the parameters' gradients; the optimizer itself steps outside."""

    inside = False

    def __init__(self, optimizer: torch.optim.Optimizer, parameters: list[nn.Parameter]) -> None:
        self.optimizer, self.parameters = optimizer, parameters
        self.flat = Flat(parameters)
        self.tensors = {"parameters": self.flat.join([parameter.detach() for parameter in parameters])}
        for parameter, view in zip(parameters, self.flat.split(self.tensors["parameters"]), strict=True):
            parameter.data = view
        self._take_state()

    def _take_state(self) -> None:
        self.tensors["gradient"] = torch.zeros_like(self.tensors["parameters"])
        self.gradients = list(self.flat.split(self.tensors["gradient"]))

    @property
    def options(self) -> list[dict[str, Any]]:
        """The groups' options that the graph takes for constant."""
        return [{k: v for k, v in group.items() if k not in ("params", "lr")} for group in self.optimizer.param_groups]

    def controls(self) -> list[float]:
        """Numbers that change from step to step and that `update` needs."""
        return []

    def update(self, tensors: dict[str, Tensor], gradient: Tensor, finite: Tensor, controls: Tensor) -> None:
        """The part of the graph that follows the gradient."""
        tensors["gradient"].copy_(gradient)

    def step(self) -> None:
        """What follows the graph."""
        for parameter, gradient in zip(self.parameters, self.gradients, strict=True):
            parameter.grad = gradient
        self.optimizer.step()

    def before_eager(self) -> None:
        """Bring the optimizer up to date."""

    def after_eager(self) -> None:
        """Note that the optimizer took a step by itself."""

    def close(self) -> None:
        """Give every parameter memory of its own."""
        for parameter in self.parameters:
            parameter.data = parameter.data.clone()


class FlatAdam(FlatOptimizer):
    """Adam or AdamW inside the graph, on flat parameters and moments; the optimizer's state are slices of these."""

    inside = True
    moments = ("exp_avg", "exp_avg_sq")

    @staticmethod
    def fits(optimizer: torch.optim.Optimizer) -> bool:
        """Whether this is Adam or AdamW, in one group, without variants, and has taken as many steps everywhere."""
        if type(optimizer) not in (torch.optim.Adam, torch.optim.AdamW) or len(optimizer.param_groups) > 1:
            return False
        group = optimizer.param_groups[0]
        plain = not (group["amsgrad"] or group["maximize"] or isinstance(group["lr"], Tensor))
        states = [optimizer.state.get(parameter, {}) for parameter in group["params"]]
        return plain and len({float(state["step"]) if state else 0.0 for state in states}) == 1

    def _take_state(self) -> None:
        self.group = self.optimizer.param_groups[0]
        states: list[Any] = [self.optimizer.state[parameter] for parameter in self.parameters]
        self.count = int(states[0].get("step", 0))
        for state, parameter in zip(states, self.parameters, strict=True):
            if not state:
                device = parameter.device if self.group["fused"] or self.group["capturable"] else "cpu"
                state["step"] = torch.zeros((), device=device)
                state |= {name: torch.zeros_like(parameter) for name in self.moments}
        for name in self.moments:
            self.tensors[name] = self.flat.join([state[name] for state in states])
            for state, view in zip(states, self.flat.split(self.tensors[name]), strict=True):
                state[name] = view

    def controls(self) -> list[float]:
        (beta1, beta2), rate = self.group["betas"], self.group["lr"]
        step = self.count + 1
        decay = self.group["weight_decay"]
        return [
            rate / (1.0 - beta1**step),
            (1.0 - beta2**step) ** -0.5,
            rate * decay if self.group["decoupled_weight_decay"] else decay,
        ]

    def update(self, tensors: dict[str, Tensor], gradient: Tensor, finite: Tensor, controls: Tensor) -> None:
        (beta1, beta2), old = self.group["betas"], tensors["parameters"]
        rate, root, decay = controls.unbind()
        new = old
        if self.group["weight_decay"] and self.group["decoupled_weight_decay"]:
            new = old - decay * old
        elif self.group["weight_decay"]:
            gradient = gradient + decay * old
        first = torch.lerp(tensors["exp_avg"], gradient, 1.0 - beta1)
        second = tensors["exp_avg_sq"] * beta2 + gradient * gradient * (1.0 - beta2)
        new = new - rate * first / (second.sqrt() * root + self.group["eps"])
        for name, value in zip(("parameters", *self.moments), (new, first, second), strict=True):
            tensors[name].copy_(torch.where(finite, value, tensors[name]))

    def step(self) -> None:
        self.count += 1

    def before_eager(self) -> None:
        for parameter in self.parameters:
            self.optimizer.state[parameter]["step"].fill_(self.count)

    def after_eager(self) -> None:
        self.count += 1

    def close(self) -> None:
        self.before_eager()
        super().close()
        for parameter in self.parameters:
            state = self.optimizer.state[parameter]
            state |= {name: state[name].clone() for name in self.moments}


def pays(eager: EagerStep, epochs: int) -> bool:
    """Whether compiling repays itself within so many epochs.

    Judged by counts and sizes, not by the clock, so that runs repeat: a step costs the interpreter some milliseconds
    that the graph saves, and each number of each particle some nanoseconds.
    """
    batches = eager.batches
    cells = batches.row_size * batches.batch_size * eager.estimator.num_particles
    return epochs * len(batches) * (SAVED_BY_STEP + SAVED_BY_CELL * cells) > COMPILATION


def threads(eager: EagerStep) -> int:
    """One for steps of little arithmetic, where threads wait for each other more than they compute."""
    parameters = sum(parameter.numel() for parameter in eager.parameters)
    work = parameters * eager.batches.batch_size * eager.estimator.num_particles
    return 1 if work < SMALL else torch.get_num_threads()


class CompiledStep:
    """The step of an `EagerStep`, captured and compiled; batches that the graph does not fit take the eager one.

    While it lives, parameters and moments are slices of flat tensors; `close` gives them memory of their own again.

    Args:
        eager: the step to capture.
        sample: the key of a batch like those to come.
        num_threads: that the compiled code runs with.
        backend: "inductor", or "none": the graph is run operation by operation.

    Raises:
        Uncapturable: with the reason; nothing is changed then.
    """

    def __init__(self, eager: EagerStep, sample: Any, *, num_threads: int, backend: str = "inductor") -> None:
        if eager.estimator.uncapturable:
            raise Uncapturable(eager.estimator.uncapturable)
        self.eager, self.num_threads = eager, num_threads
        self.model, self.estimator, self.batches = eager.model, eager.estimator, eager.batches
        trained = {id(parameter) for parameter in eager.parameters}
        self.names = [name for name, parameter in eager.model.named_parameters() if id(parameter) in trained]
        parameters = [eager.model.get_parameter(name) for name in self.names]
        self.optimizer = (FlatAdam if FlatAdam.fits(eager.optimizer) else FlatOptimizer)(eager.optimizer, parameters)
        self.scheduled = [o for o in eager.estimator.scheduled if callable(getattr(eager.estimator, o))]
        self.fitting: dict[Any, bool] = {}
        try:
            self._capture(sample, backend)
        except Uncapturable:
            self.close()
            raise
        except Exception as error:  # whatever a program, the tracer or the compiler raises is a reason not to compile
            self.close()
            raise Uncapturable(_reason(error)) from error

    def _capture(self, sample: Any, backend: str) -> None:
        global compilations
        eager = self.eager
        device = eager.parameters[0].device
        self.on_cpu = device.type == "cpu"
        others = {name: tensor for name, tensor in _tensors(eager.model) if name not in self.names}
        data = {}
        if isinstance(eager.batches.data, Rows):
            rows = eager.batches.data
            data = {"x": rows.x} | {name: rows.field(name) for name in eager.batches.names}
            data = {name: value.to(device) for name, value in data.items()}
        values = self._controls()
        self.splits = [len(value) for value in values]
        self.controls = torch.tensor([number for value in values for number in value], dtype=eager.model.like.dtype)
        static = {"optimizer": self.optimizer.tensors, "others": others, "data": data}
        static |= {"controls": self.controls.to(device), "totals": torch.zeros(4, dtype=torch.float64, device=device)}
        self.static = static
        batch = self._batch(sample)
        inputs, structure = pytree.tree_flatten((static, batch))
        self.numbers = self.controls.numpy()
        constant = self._constants()

        def step(*tensors: Tensor) -> list[Tensor]:
            with _DrawInPlace():
                return [self._step(*pytree.tree_unflatten(list(tensors), structure))]

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.fakes = _fakes(inputs, dynamic=len(batch))
            with scope.isolated(), scope.preserved_rng(), self.fakes[0].fake_mode:
                graph = make_fx(step, _allow_non_fake_inputs=True)(*self.fakes)
            if self._constants() != constant:
                raise Uncapturable("the programs change attributes of the model as they run")
            self.constant = constant
            self.inputs = inputs[: -len(batch)]
            self.run = graph
            if backend == "inductor":
                self.run = _compiled(graph, self.fakes, self.num_threads)
                compilations += 1

    def _controls(self) -> list[list[float]]:
        """The optimizer's numbers, and those of each schedule."""
        values = [self.estimator.now(option) for option in self.scheduled]
        return [self.optimizer.controls(), *([v] if isinstance(v, int | float) else [*v] for v in values)]

    def _batch(self, key: Any) -> list[Tensor]:
        """What the graph takes for a batch: the numbers of its rows, or its tensors."""
        if self.static["data"]:
            return [key if self.on_cpu else key.to(self.static["totals"].device, non_blocking=True)]
        item = name_item(key, self.batches.fields)
        return list(cast(item, self.batches.like).values())

    def _step(self, static: dict[str, Any], batch: list[Tensor]) -> Tensor:
        """The step as it is recorded; returns whether all was finite."""
        eager, estimator = self.eager, self.eager.estimator
        adam, *schedules = static["controls"].split(self.splits)
        views = self.optimizer.flat.split(static["optimizer"]["parameters"])
        leaves = {name: view.detach().requires_grad_() for name, view in zip(self.names, views, strict=True)}
        if isinstance(eager.batches.data, Rows):
            fields = eager.batches.data.pick(static["data"], batch[0], eager.batches.like)
        else:
            fields = dict(zip(dict.fromkeys(("x", *eager.batches.fields)), batch, strict=True))
        x = fields.pop("x")
        step, epoch = estimator.step, estimator.epoch
        estimator.fed = {
            option: value if isinstance(estimator.now(option), Sequence) else value[0]
            for option, value in zip(self.scheduled, schedules, strict=True)
        }
        estimator.step = estimator.epoch = None  # type: ignore[assignment]  # constants in the graph, if they were read
        try:

            def run() -> Any:
                model = eager.model
                return estimator.run(model.model, model.guide, x, num_rows=eager.batches.num_rows, **fields)

            terms = scope.call_with(eager.model, leaves | static["others"], run)
        finally:
            estimator.fed, estimator.step, estimator.epoch = {}, step, epoch
        gradients = torch.autograd.grad(-terms.objective / terms.rows, list(leaves.values()))
        with torch.no_grad():
            gradient = self.optimizer.flat.join(gradients)
            norm = gradient.square().sum().sqrt()
            finite = torch.isfinite(terms.objective + norm)
            if eager.grad_clip is not None:
                gradient = gradient * (eager.grad_clip / (norm + 1e-6)).clamp_max(1.0)
            self.optimizer.update(static["optimizer"], gradient, finite, adam)
            static["totals"].add_(terms.per_row().double() * x.shape[0])
        return finite

    def __call__(self, key: Any) -> int:
        """Take one step; returns the number of rows seen.

        Raises:
            ValueError: if loss or gradient are not finite; nothing is changed then.
        """
        tensors = self._batch(key)
        if not self._fits(tensors):
            self.optimizer.before_eager()
            rows = self.eager(key)
            self.optimizer.after_eager()
            return rows
        before = scope.random_state()
        self._steer()
        (finite,) = self.run(*self.inputs, *tensors)
        if not finite:
            scope.set_random_state(before)
            self.optimizer.before_eager()
            self.eager(key)
            raise ValueError(f"Loss and gradient must be finite; got NaN or infinity at step {self.eager.estimator.step}.")
        self.optimizer.step()
        return len(tensors[0])

    def _steer(self) -> None:
        """Write the numbers of this step where the graph reads them."""
        numbers = self._controls()
        if self.scheduled and [len(number) for number in numbers] != self.splits:
            raise ValueError(f"Schedules must keep their length, {self.splits}; got {numbers}. Pass compile=False.")
        self.numbers[:] = [number for value in numbers for number in value]
        if not self.on_cpu:
            self.static["controls"].copy_(self.controls)

    def _fits(self, tensors: list[Tensor]) -> bool:
        """Whether the graph holds for a batch of these shapes and kinds."""
        key = tuple((tensor.shape, tensor.dtype) for tensor in tensors)
        if key not in self.fitting:
            fakes = self.fakes[len(self.inputs) :]
            same = all(f.dtype == t.dtype and f.shape[1:] == t.shape[1:] for f, t in zip(fakes, tensors, strict=True))
            env = self.fakes[0].fake_mode.shape_env
            self.fitting[key] = same and env.evaluate_guards_for_args(fakes, tensors, ignore_static=False)
        return self.fitting[key]

    @property
    def totals(self) -> Tensor:
        """Sums over rows since they were last zero, of compiled and eager steps."""
        return self.eager.totals + self.static["totals"].to(self.eager.totals)

    def begin(self) -> bool:
        """Begin an epoch; returns whether the graph still holds."""
        self.eager.begin()
        self.static["totals"].zero_()
        return self._constants() == self.constant

    def _constants(self) -> str:
        """What the graph takes for constant, as far as it can be seen."""
        model, estimator = self.eager.model, self.eager.estimator
        owners = [*model.modules(), estimator]
        options = [{name: _shown(v) for name, v in vars(owner).items() if name not in MOVING} for owner in owners]
        tensors = [(name, tensor.data_ptr(), tensor.requires_grad) for name, tensor in _tensors(model)]
        return repr((options, tensors, self.optimizer.options))

    def close(self) -> None:
        """Give back what the step holds."""
        self.optimizer.close()
        self.eager.close()


class _DrawInPlace(TorchDispatchMode):
    """Record Bernoulli draws in the form that the compiler leaves as it is: of the other it makes other noise."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.bernoulli.default:
            return torch.empty_like(args[0]).bernoulli_(args[0])
        return func(*args, **(kwargs or {}))


def _tensors(model: nn.Module) -> list[tuple[str, Tensor]]:
    return [*model.named_parameters(), *model.named_buffers()]


def _shown(value: Any) -> str:
    """A plain value, or plain values in a container, as text; nothing of other objects but which one it is."""
    if isinstance(value, Tensor):
        return f"{id(value)} {value._version}"
    if isinstance(value, bool | int | float | str | None):
        return repr(value)
    if isinstance(value, list | tuple | set | frozenset):
        return f"[{', '.join(map(_shown, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{k!r}: {_shown(v)}' for k, v in value.items())}}}"
    return ""


def _fakes(inputs: list[Tensor], *, dynamic: int) -> list[Any]:
    """Tensors without values that stand for the inputs; the first size of the last `dynamic` ones is left open."""
    mode = FakeTensorMode(shape_env=ShapeEnv(), allow_non_fake_inputs=True)
    fakes = []
    for number, tensor in enumerate(inputs):
        sizes = [DimDynamic.STATIC] * tensor.dim()
        if number >= len(inputs) - dynamic and sizes:
            sizes[0] = DimDynamic.DUCK  # those of one number of rows stay equal
        context = StatelessSymbolicContext(dynamic_sizes=sizes)
        fakes.append(mode.from_tensor(tensor.detach(), symbolic_context=context))
    return fakes


def _compiled(graph: Any, fakes: list[Any], num_threads: int) -> Any:
    from torch import _inductor
    from torch._inductor import config

    patches = {name: value for name, value in INDUCTOR.items() if hasattr(config, name)}
    patches["cpp_wrapper"] = fakes[0].device.type == "cpu"
    with scope.tuned_processor(num_threads):
        return _inductor.standalone_compile(
            graph, fakes, dynamic_shapes="from_graph", options={"config_patches": patches}
        )


def _reason(error: BaseException) -> str:
    """The first line of an error, and its kind."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else ''}"
