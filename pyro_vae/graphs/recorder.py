"""Functions of a model that are called many times, each recorded and compiled at its first call."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence

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

    Attributes:
        seconds: the time that recording and compiling have taken.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.constants, self.seconds = "", 0.0
        self.tensors: list[Tensor] = []
        self.graphs: dict[str, Graph | None] = {}

    def refresh(self) -> None:
        """Take the parameters and buffers that the model has now; forget the graphs if other attributes changed."""
        self.tensors = [tensor.detach() for _, tensor in tensors_of(self.model)]
        constants = attributes(self.model.modules())
        if constants != self.constants:
            self.graphs, self.constants = {}, constants

    def __call__(self, name: str, function: Function, inputs: list[Tensor], open_dims: Sequence[str]) -> list[Tensor]:
        """The values of a function.

        Args:
            name: its name; functions of one name must give the same values at the same inputs.
            function: takes the inputs and returns tensors; whatever else it depends on is constant.
            inputs: the inputs of this call.
            open_dims: a letter for each dimension of each input whose size stays open; see `Graph`.
        """
        if name not in self.graphs:
            start = time.perf_counter()
            self.graphs[name] = self._recorded(name, function, inputs, open_dims)
            self.seconds += time.perf_counter() - start
        graph, given = self.graphs[name], [*self.tensors, *inputs]
        return function(inputs) if graph is None or not graph.fits(given) else graph(given)

    def _recorded(self, name: str, function: Function, inputs: list[Tensor], open_dims: Sequence[str]) -> Graph | None:
        """The graph of a function, whose first inputs are the tensors of the model; None if it can't be recorded."""
        names = [name for name, _ in tensors_of(self.model)]

        def run(static: list[Tensor], given: list[Tensor]) -> list[Tensor]:
            own = dict(zip(names, given, strict=False))
            versions = [tensor._version for tensor in own.values()]
            values: list[Tensor] = call_with(self.model, own, lambda: function(given[len(names) :]))
            if [tensor._version for tensor in own.values()] != versions:
                raise CaptureError("the programs change buffers of the model as they run")
            return values

        try:
            with unchanged(self.model.modules()):
                return Graph(
                    run,
                    [],
                    [*self.tensors, *inputs],
                    num_threads=torch.get_num_threads(),
                    open_dims=[*[""] * len(names), *open_dims],
                )
        except CaptureError as reason:
            logger.warning("%s is not compiled: %s.", name, reason)
            return None
