"""One gradient step as one compiled function: batch, loss, gradient, clipping and update, without the interpreter.

What the graph takes for constant: everything but tensors of the model, the batch, the learning rate and the schedules
of the estimator. Where such a thing changes between epochs, training goes on by the interpreter.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from pyro_vae.data.batches import Rows
from pyro_vae.runtime import processes
from pyro_vae.runtime.isolation import call_with
from pyro_vae.runtime.random import random_state
from pyro_vae.training.compiled.graph import COMPILATION, SAVED_BY_CELL, CaptureError, CudaGraph, Graph
from pyro_vae.training.compiled.optimizer import FlatAdam, FlatOptimizer
from pyro_vae.training.eager import EagerStep

__all__ = ["CompiledStep", "pays", "threads"]

logger = logging.getLogger("pyro_vae")
SMALL_BUFFER = 2**16  # numbers
SMALL = 10**7  # parameters x rows x particles
SAVED_BY_STEP = 2.5e-3  # seconds, as seen on two cores of a server
RESIDENT = 2**32  # bytes of data that another device than the processor keeps
MOVING = {"_parameters", "_buffers", "step", "epoch", "fed"}  # attributes that are the graph's inputs


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

    Raises:
        CaptureError: with the reason; nothing is changed then.
    """

    compiled: ClassVar[bool] = True

    def __init__(self, eager: EagerStep, sample: Any, *, num_threads: int) -> None:
        if eager.estimator.uncapturable:
            raise CaptureError(eager.estimator.uncapturable)
        self.eager, self.num_threads = eager, num_threads
        self.model, self.estimator, self.batches = eager.model, eager.estimator, eager.batches
        trained = {id(parameter) for parameter in eager.parameters}
        self.names = [name for name, parameter in self.model.named_parameters() if id(parameter) in trained]
        parameters = [self.model.get_parameter(name) for name in self.names]
        inside = processes.size() == 1 and FlatAdam.fits(eager.optimizer)  # several agree on the gradient before that
        self.optimizer = (FlatAdam if inside else FlatOptimizer)(eager.optimizer, parameters)
        self.scheduled = [o for o in self.estimator.scheduled if callable(getattr(self.estimator, o))]
        attributes = [(module, dict(vars(module))) for module in self.model.modules()]
        try:
            self.static = self._inputs(parameters[0].device)
            self.constant = self._constants()
            rows = self._rows(sample)
            self.graph: Graph | CudaGraph = Graph(self._record, self.static, rows, num_threads=num_threads)
            if self._constants() != self.constant:
                raise CaptureError("the programs change attributes of the model as they run")
        except BaseException:
            self.close()
            for module, values in attributes:  # tensors without values may be left among them
                vars(module).clear()
                vars(module).update(values)
            raise
        # Batch norm moves its statistics without a trace in the record: those that the first step moves are watched.
        self.first, others = True, self.static["others"].items()
        self.watched = [name for name, value in others if value.is_floating_point() and value.numel() <= SMALL_BUFFER]
        self.on_cpu = rows[0].device.type == "cpu"
        if not self.on_cpu:
            self.graph = CudaGraph(self.graph, rows)

    def _inputs(self, device: torch.device) -> dict[str, Any]:
        """The tensors that stay from step to step, on the device of the parameters."""
        data: dict[str, list[Tensor]] = {}
        values = self._controls()
        if isinstance(self.batches.data, Rows):
            data = self.batches.data.stored(self.batches.names)
            if device.type != "cpu" and sum(tensor.nbytes for part in data.values() for tensor in part) > RESIDENT:
                data = {}
        self.splits = [len(value) for value in values]
        self.host = torch.zeros(sum(self.splits), dtype=self.model.like.dtype)
        self.numbers = self.host.numpy()
        others = {name: tensor.detach() for name, tensor in _tensors(self.model) if name not in self.names}
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
        """The optimizer's numbers, and those of each schedule."""
        values = [self.estimator.now(option) for option in self.scheduled]
        return [self.optimizer.controls(), *([v] if isinstance(v, int | float) else [*v] for v in values)]

    def _rows(self, key: Any) -> list[Tensor]:
        """What the graph takes for a batch: the numbers of its rows, or its tensors."""
        like = self.batches.like
        if self.static["data"]:
            return [self.batches.mine(key).to(like.device, non_blocking=True)]
        batch = self.batches.share(key)
        return [batch[name].contiguous() for name in ("x", *self.batches.names)]

    def _record(self, static: dict[str, Any], rows: list[Tensor]) -> Tensor:
        """The step; returns whether all was finite."""
        batches, estimator = self.batches, self.estimator
        controls, *schedules = static["controls"].split(self.splits)
        views = self.optimizer.flat.split(static["optimizer"]["parameters"])
        leaves = {name: view.detach().requires_grad_() for name, view in zip(self.names, views, strict=True)}
        if isinstance(batches.data, Rows) and static["data"]:
            batch = batches.data.pick(static["data"], rows[0], batches.like)
        else:
            batch = dict(zip(("x", *batches.names), rows, strict=True))
        x = batch.pop("x")
        step, epoch = estimator.step, estimator.epoch
        estimator.fed = {
            option: value if isinstance(estimator.now(option), Sequence) else value[0]
            for option, value in zip(self.scheduled, schedules, strict=True)
        }
        estimator.step = estimator.epoch = None  # type: ignore[assignment]  # read, they would become constants

        before = {name: (tensor.clone(), tensor._version) for name, tensor in static["others"].items()}

        def run() -> Any:
            terms = estimator.run(self.model.model, self.model.guide, x, num_rows=batches.num_rows, **batch)
            for name, buffer in self.model.named_buffers():
                if buffer is not static["others"][name]:
                    raise CaptureError(f"the programs set the buffer {name} anew; change it in place")
            return terms

        try:
            terms = call_with(self.model, leaves | static["others"], run)
        finally:
            estimator.fed, estimator.step, estimator.epoch = {}, step, epoch
        gradients = torch.autograd.grad(-terms.objective / terms.rows, list(leaves.values()))
        with torch.no_grad():
            gradient = self.optimizer.flat.join(gradients)
            norm = gradient.square().sum().sqrt()
            finite = torch.isfinite(terms.objective + norm)
            if self.eager.grad_clip is not None and processes.size() == 1:
                gradient = gradient * (self.eager.grad_clip / (norm + 1e-6)).clamp_max(1.0)
            self.optimizer.update(static["optimizer"], gradient, finite, controls)
            static["totals"].add_(torch.where(finite, terms.per_row().double() * x.shape[0], 0.0))
            static["objective"].copy_(terms.objective / terms.rows)
            self.moved = [name for name, (_, version) in before.items() if static["others"][name]._version != version]
            for name in self.moved:
                static["before"][name].copy_(before[name][0])
        return finite

    def __call__(self, key: Any) -> int:
        """Take one step; returns the number of rows seen.

        Raises:
            ValueError: if loss or gradient are not finite and such steps are not left out; nothing is changed then.
        """
        rows = self._rows(key)
        if not self.graph.fits(rows):
            return self._eager(key)
        before = random_state() if self.on_cpu else None
        totals = self.static["totals"].clone() if processes.size() > 1 else None
        others = self.static["others"]
        statistics = {name: others[name].clone() for name in self.watched}
        self._steer()
        fine = bool(self.graph(rows))
        if totals is not None:  # the others count, too
            self.optimizer.show_gradients()
            fine = self.eager.agree(len(rows[0]), self.static["objective"])
        if not fine:
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
        return len(rows[0])

    def _eager(self, key: Any) -> int:
        """The step by the interpreter, on the same parameters and moments."""
        self.optimizer.settle()
        rows = self.eager(key)
        self.optimizer.after_eager()
        return rows

    def _steer(self) -> None:
        """Write the numbers of this step where the graph reads them."""
        numbers = self._controls()
        if self.scheduled and [len(number) for number in numbers] != self.splits:
            raise ValueError(f"Schedules must keep their length, {self.splits}; got {numbers}. Pass compile=False.")
        self.numbers[:] = [number for value in numbers for number in value]
        if not self.on_cpu:  # where it is, both are one
            self.static["controls"].copy_(self.host)

    def settle(self) -> None:
        """Leave model and optimizer as they should be seen between epochs."""
        self.optimizer.settle()

    @property
    def totals(self) -> Tensor:
        """Sums over rows since they were last zero, of compiled and eager steps."""
        return self.eager.totals + self.static["totals"].to(self.eager.totals)

    @property
    def sums(self) -> Tensor:
        """All that `totals` is made of, to go on from."""
        return torch.cat([self.eager.totals, self.static["totals"].to(self.eager.totals)])

    @property
    def skipped(self) -> int:
        """The steps left out since it was last zero."""
        return self.eager.skipped

    @property
    def ballot(self) -> float:
        """A number that is summed over the processes in passing."""
        return self.eager.ballot

    @ballot.setter
    def ballot(self, value: float) -> None:
        self.eager.ballot = value

    def begin(self, sums: Tensor | None = None, skipped: int = 0) -> CompiledStep | EagerStep:
        """Begin an epoch, or go on in one; returns the step to take it with: the eager one where the graph is out."""
        self.static["totals"].zero_()
        if sums is not None:
            self.static["totals"].copy_(sums[4:])
        eager = self.eager.begin(None if sums is None else torch.cat([sums[:4], torch.zeros_like(sums[4:])]), skipped)
        if self._constants() == self.constant:
            return self
        logger.warning("Training goes on without compiled steps: model, estimator or optimizer were changed.")
        self.close()
        return eager

    def _constants(self) -> str:
        """What the graph takes for constant, as far as it can be seen."""
        owners = [*self.model.modules(), self.estimator]
        options = [{name: _shown(v) for name, v in vars(owner).items() if name not in MOVING} for owner in owners]
        tensors = [(name, tensor.data_ptr(), tensor.requires_grad) for name, tensor in _tensors(self.model)]
        return repr((options, tensors, self.optimizer.options, self.optimizer.addresses))

    def close(self) -> None:
        """Give back what the step holds."""
        self.optimizer.close()
        self.eager.close()


def _tensors(model: nn.Module) -> list[tuple[str, Tensor]]:
    return [*model.named_parameters(), *model.named_buffers()]


def _shown(value: Any) -> str:
    """A plain value, or plain values in a container, as text; which tensor or function; nothing of the rest."""
    if isinstance(value, Tensor):
        return f"{id(value)} {value._version}"
    if isinstance(value, np.ndarray):
        return f"{id(value)} {value.tobytes()!r}"
    if isinstance(value, bool | int | float | str | None):
        return repr(value)
    if isinstance(value, list | tuple | set | frozenset):
        return f"[{', '.join(map(_shown, value))}]"
    if callable(value):
        return str(id(value))
    if isinstance(value, dict):
        return f"{{{', '.join(f'{k!r}: {_shown(v)}' for k, v in value.items())}}}"
    return ""
