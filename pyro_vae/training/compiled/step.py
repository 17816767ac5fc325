"""One gradient step as one compiled function: batch, loss, gradient, clipping and update, without Python between.

The compiled graph treats everything as constant except the tensors of the model, the batch, the learning rate and the
schedules of the estimator. If such a constant changes between epochs, training continues with eager steps.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from pyro_vae.data.batches import Rows
from pyro_vae.graphs.constants import TENSORS, attributes, tensors_of, unchanged
from pyro_vae.graphs.graph import COMPILATION, CaptureError, CudaGraph, Graph, saved_by_cell
from pyro_vae.runtime import processes
from pyro_vae.runtime.isolation import call_with
from pyro_vae.runtime.precision import products_in
from pyro_vae.runtime.random import random_state
from pyro_vae.training.compiled.optimizer import FlatAdam, FlatOptimizer
from pyro_vae.training.eager import EagerStep
from pyro_vae.training.step import Request, Step, Totals

__all__ = ["CompiledStep", "choose_num_threads", "pays"]

logger = logging.getLogger("pyro_vae")
WATCHED_BUFFER = 2**16  # numbers: larger buffers are not copied before each step
LITTLE_WORK = 10**7  # parameters x rows x particles
SAVED_BY_STEP = 4e-3  # seconds, as measured on two cores of a server
MAX_RESIDENT_DATA = 2**32  # bytes: larger data are not copied to a device other than the CPU
INPUTS = TENSORS | {"step", "epoch", "schedule_inputs"}  # attributes that are inputs of the graph


def pays(eager: EagerStep, epochs: int) -> bool:
    """Whether compiling saves more time than it takes, within this number of epochs.

    It is judged by counts and sizes and not by the clock, so that runs can be repeated: a compiled step saves the
    milliseconds that Python takes, and some nanoseconds for each cell of the batch and each particle, more of them
    where the likelihood is made of log-gamma functions.
    """
    batches = eager.batches
    cells = batches.row_size * batches.batch_size * eager.estimator.num_particles
    return epochs * len(batches) * (SAVED_BY_STEP + saved_by_cell(eager.model) * cells) > COMPILATION


def choose_num_threads(eager: EagerStep) -> int:
    """One thread for steps of little arithmetic, where threads wait for each other longer than they compute."""
    parameters = sum(parameter.numel() for parameter in eager.parameters)
    work = parameters * eager.batches.batch_size * eager.estimator.num_particles
    return 1 if work < LITTLE_WORK else torch.get_num_threads()


class CompiledStep:
    """An `EagerStep`, recorded and compiled; a batch that does not fit the graph takes the eager step.

    As long as the step is open, parameters and moments are slices of flat tensors; `close` gives them memory of their
    own again.

    Args:
        eager: the step to compile.
        sample: the key of a batch like those that follow.
        num_threads: the number of threads that the compiled code runs with.

    Raises:
        CaptureError: with the reason why the step can't be compiled; nothing is changed then.
    """

    compiled: ClassVar[bool] = True

    def __init__(self, eager: EagerStep, sample: Any, *, num_threads: int) -> None:
        if eager.estimator.reason_not_to_compile:
            raise CaptureError(eager.estimator.reason_not_to_compile)
        self.eager, self.num_threads = eager, num_threads
        self.model, self.estimator, self.batches = eager.model, eager.estimator, eager.batches
        trained = {id(parameter) for parameter in eager.parameters}
        self.names = [name for name, parameter in self.model.named_parameters() if id(parameter) in trained]
        parameters = [self.model.get_parameter(name) for name in self.names]
        inside = processes.size() == 1 and FlatAdam.fits(eager.optimizer)  # else the gradient is exchanged before it
        self.optimizer = (FlatAdam if inside else FlatOptimizer)(eager.optimizer, parameters)
        self.scheduled = [o for o in self.estimator.schedulable if callable(getattr(self.estimator, o))]
        try:
            self.static = self._static_tensors(parameters[0].device)
            self.constant = self._constants()
            inputs = self._inputs_of(sample)
            with unchanged([*self.model.modules(), self.estimator], self._constants):
                self.graph: Graph | CudaGraph = Graph(self._record, self.static, inputs, num_threads=num_threads)
        except BaseException:
            self.close()
            raise
        # Batch norm changes its statistics where the recording does not see it. Those that the first step changes are
        # copied before every step, so that a step that is left out can set them back.
        self.first, others = True, self.static["others"].items()
        self.watched = [name for name, value in others if value.is_floating_point() and value.numel() <= WATCHED_BUFFER]
        self.on_cpu = inputs[0].device.type == "cpu"
        if not self.on_cpu:
            self.graph = CudaGraph(self.graph, inputs)

    def _static_tensors(self, device: torch.device) -> dict[str, Any]:
        """The tensors that are the same objects in every step, on the device of the parameters."""
        data: dict[str, list[Tensor]] = {}
        values = self._controls()
        if isinstance(self.batches.data, Rows):
            data = self.batches.data.stored(self.batches.names)
            if (
                device.type != "cpu"
                and sum(tensor.nbytes for part in data.values() for tensor in part) > MAX_RESIDENT_DATA
            ):
                data = {}
        self.splits = [len(value) for value in values]
        self.host = torch.zeros(sum(self.splits), dtype=self.model.like.dtype)
        self.numbers = self.host.numpy()
        others = {name: tensor.detach() for name, tensor in tensors_of(self.model) if name not in self.names}
        return {
            "optimizer": self.optimizer.tensors,
            "others": others,
            "before": {name: tensor.clone() for name, tensor in others.items()},
            "data": {name: [tensor.to(device) for tensor in tensors] for name, tensors in data.items()},
            "controls": self.host.to(device),
            "totals": torch.zeros(4, dtype=torch.float64, device=device),
            "objective": torch.zeros((), dtype=self.model.like.dtype, device=device),
        }

    def _controls(self) -> list[list[float]]:
        """The numbers of this step that the graph reads: the optimizer's, and those of each schedule."""
        values = [self.estimator.current_value(option) for option in self.scheduled]
        return [self.optimizer.controls(), *([v] if isinstance(v, int | float) else [*v] for v in values)]

    def _inputs_of(self, key: Any) -> list[Tensor]:
        """The graph's inputs for a batch: the numbers of its rows where all data are inputs, else its tensors."""
        like = self.batches.like
        if self.static["data"]:
            return [self.batches.own(key).to(like.device, non_blocking=True)]
        batch = self.batches.share(key)
        return [batch[name].contiguous() for name in ("x", *self.batches.names)]

    def _record(self, static: dict[str, Any], inputs: list[Tensor]) -> list[Tensor]:
        """Take the step, to be recorded; returns whether loss and gradient are finite."""
        batches, estimator = self.batches, self.estimator
        controls, *schedules = static["controls"].split(self.splits)
        views = self.optimizer.flat.split(static["optimizer"]["parameters"])
        leaves = {name: view.detach().requires_grad_() for name, view in zip(self.names, views, strict=True)}
        if isinstance(batches.data, Rows) and static["data"]:
            batch = batches.data.pick(static["data"], inputs[0], batches.like)
        else:
            batch = dict(zip(("x", *batches.names), inputs, strict=True))
        x = batch.pop("x")
        step, epoch = estimator.step, estimator.epoch
        estimator.schedule_inputs = {
            option: value if isinstance(estimator.current_value(option), Sequence) else value[0]
            for option, value in zip(self.scheduled, schedules, strict=True)
        }
        estimator.step = estimator.epoch = None  # type: ignore[assignment]  # if they were read, they would become constants

        before = {name: (tensor.clone(), tensor._version) for name, tensor in static["others"].items()}

        def run() -> Any:
            terms = estimator.run(self.model.model, self.model.guide, x, num_rows=batches.num_rows, **batch)
            for name, buffer in self.model.named_buffers():
                if buffer is not static["others"][name]:
                    raise CaptureError(f"the programs replace the buffer {name}; change it in place")
            return terms

        try:
            with products_in(self.eager.precision):
                terms = call_with(self.model, leaves | static["others"], run)
        finally:
            estimator.schedule_inputs, estimator.step, estimator.epoch = {}, step, epoch
        gradients = torch.autograd.grad(-terms.objective / terms.num_rows, list(leaves.values()))
        with torch.no_grad():
            gradient = self.optimizer.flat.join(gradients)
            norm = gradient.square().sum().sqrt()
            finite = torch.isfinite(terms.objective + norm)
            if self.eager.grad_clip is not None and processes.size() == 1:
                gradient = gradient * (self.eager.grad_clip / (norm + 1e-6)).clamp_max(1.0)
            self.optimizer.update(static["optimizer"], gradient, finite, controls)
            static["totals"].add_(torch.where(finite, terms.per_row().double() * x.shape[0], 0.0))
            static["objective"].copy_(terms.objective / terms.num_rows)
            self.moved = [name for name, (_, version) in before.items() if static["others"][name]._version != version]
            for name in self.moved:
                static["before"][name].copy_(before[name][0])
        return [finite]

    def __call__(self, key: Any) -> int:
        """Take one step; returns the number of rows that this process had in it, 0 if it was left out.

        Raises:
            ValueError: if loss or gradient are not finite and such steps are not to be left out; nothing is changed
                then.
        """
        inputs = self._inputs_of(key)
        if not self.graph.fits(inputs):
            return self._take_eager_step(key)
        before = random_state() if self.on_cpu else None
        totals = self.static["totals"].clone() if processes.size() > 1 else None
        others = self.static["others"]
        statistics = {name: others[name].clone() for name in self.watched}
        self._write_controls()
        finite = bool(*self.graph(inputs))
        if totals is not None:  # the other processes have gradients, too
            self.optimizer.show_gradients()
            finite = self.eager.finish_gradient(len(inputs[0]), self.static["objective"])
        if not finite:
            if totals is not None:
                self.static["totals"].copy_(totals)
            for name, value in ({name: self.static["before"][name] for name in self.moved} | statistics).items():
                others[name].copy_(value)
            self.eager.leave_out(key, before)
            return 0
        if self.first:
            self.first = False
            self.watched = [name for name, value in statistics.items() if not torch.equal(value, others[name])]
        (self.optimizer if totals is None else self.eager.optimizer).step()
        return len(inputs[0])

    def _take_eager_step(self, key: Any) -> int:
        """Take an eager step, on the same parameters and moments."""
        self.optimizer.settle()
        num_rows = self.eager(key)
        self.optimizer.after_eager()
        return num_rows

    def _write_controls(self) -> None:
        """Write the numbers of this step to where the graph reads them."""
        numbers = self._controls()
        if self.scheduled and [len(number) for number in numbers] != self.splits:
            raise ValueError(f"Schedules must keep their length, {self.splits}; got {numbers}. Pass compile=False.")
        self.numbers[:] = [number for value in numbers for number in value]
        if not self.on_cpu:  # on the CPU, both are the same memory
            self.static["controls"].copy_(self.host)

    def settle(self) -> None:
        """Bring the optimizer's own state up to date."""
        self.optimizer.settle()

    @property
    def totals(self) -> Totals:
        """Sums over the rows of all steps since the epoch began."""
        return Totals(self.eager.totals.eager, self.static["totals"].to(self.eager.totals.eager))

    @property
    def skipped(self) -> int:
        """The number of steps left out since the epoch began."""
        return self.eager.skipped

    def ask(self, request: Request) -> None:
        """Ask all processes for something with the next step."""
        self.eager.ask(request)

    @property
    def granted(self) -> Request:
        """What all processes do after a step, because one of them asked for it."""
        return self.eager.granted

    def begin_epoch(self, totals: Totals | None = None, skipped: int = 0) -> Step:
        """Begin an epoch, or continue one with these totals; returns the step to take it with.

        That is the eager step if what the graph treats as constant has changed.
        """
        self.static["totals"].zero_()
        eager_totals = None
        if totals is not None:
            self.static["totals"].copy_(totals.compiled)
            eager_totals = Totals(totals.eager, torch.zeros_like(totals.eager))
        eager = self.eager.begin_epoch(eager_totals, skipped)
        if self._constants() == self.constant:
            return self
        logger.warning("Training continues without compiled steps: model, estimator or optimizer were changed.")
        self.close()
        return eager

    def _constants(self) -> str:
        """What the graph treats as constant, as text, as far as it can be inspected."""
        options = attributes([*self.model.modules(), self.estimator], INPUTS)
        tensors = [(name, tensor.data_ptr(), tensor.requires_grad) for name, tensor in tensors_of(self.model)]
        return repr((options, tensors, self.optimizer.options, self.optimizer.addresses))

    def close(self) -> None:
        """Clear the gradients, and give parameters and moments memory of their own again."""
        self.optimizer.close()
        self.eager.close()
