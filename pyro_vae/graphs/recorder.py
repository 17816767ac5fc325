"""Functions of a model that are called many times, each recorded and compiled at its first call."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Hashable, Sequence

import torch
from torch import Tensor, nn

from pyro_vae.graphs.constants import attributes, tensors_of, unchanged
from pyro_vae.graphs.graph import CaptureError, Graph
from pyro_vae.runtime.isolation import call_with

__all__ = ["Recorder"]

logger = logging.getLogger("pyro_vae")
Function = Callable[[list[Tensor]], list[Tensor]]


class Recorder:
    """Calls functions of a model by their graphs, where these can be recorded and fit, and else as they are.

    Args:
        model: the model. `refresh` must be called where it may have changed since the last call.
        required: whether a function that can't be recorded is an error; if not, a warning says why.

    Attributes:
        seconds: the time that recording and compiling have taken.
    """

    def __init__(self, model: nn.Module, *, required: bool = False) -> None:
        self.model, self.required = model, required
        self.constants, self.seconds = "", 0.0
        self.graphs: dict[Hashable, Graph | None] = {}
        self.refresh()

    def refresh(self) -> None:
        """Take the parameters and buffers that the model has now; forget the graphs if other attributes changed."""
        self.tensors = [tensor.detach() for _, tensor in tensors_of(self.model)]
        constants = attributes(self.model.modules())
        if constants != self.constants:
            self.graphs, self.constants = {}, constants

    def __call__(
        self, name: str, key: Hashable, function: Function, inputs: list[Tensor], open_dims: Sequence[str]
    ) -> list[Tensor]:
        """The values of a function.

        Args:
            name: what the function is, for messages.
            key: whatever the function depends on but its inputs and the model, so that functions of one key are the
                same function.
            function: takes the inputs and returns tensors.
            inputs: the inputs of this call.
            open_dims: a letter for each dimension of each input whose size stays open; see `Graph`.

        Raises:
            RuntimeError: if a graph is required and there can be none.
        """
        if key not in self.graphs:
            start = time.perf_counter()
            try:
                self.graphs[key] = self._recorded(function, inputs, open_dims)
            except CaptureError as reason:
                self.do_without(name, str(reason))
                self.graphs[key] = None
            self.seconds += time.perf_counter() - start
        graph, given = self.graphs[key], [*self.tensors, *inputs]
        return function(inputs) if graph is None or not graph.fits(given) else graph(given)

    def do_without(self, name: str, reason: str) -> None:
        """Say why a function is not compiled.

        Raises:
            RuntimeError: if it must be.
        """
        if self.required:
            raise RuntimeError(
                f"{name} must be what can be compiled; got {reason}. Change the program, or pass compile='auto'."
            )
        logger.warning("%s is not compiled: %s.", name, reason)

    def _recorded(self, function: Function, inputs: list[Tensor], open_dims: Sequence[str]) -> Graph:
        """The graph of a function, whose first inputs are the tensors of the model."""
        names, modules = [name for name, _ in tensors_of(self.model)], list(self.model.modules())

        def run(static: list[Tensor], given: list[Tensor]) -> list[Tensor]:
            own = dict(zip(names, given, strict=False))
            versions = [tensor._version for tensor in own.values()]
            values: list[Tensor] = call_with(self.model, own, lambda: function(given[len(names) :]))
            if [tensor._version for tensor in own.values()] != versions:
                raise CaptureError("the programs change buffers of the model as they run")
            return values

        with unchanged(modules, lambda: attributes(modules)):
            return Graph(
                run,
                [],
                [*self.tensors, *inputs],
                num_threads=torch.get_num_threads(),
                open_dims=[*[""] * len(names), *open_dims],
            )
