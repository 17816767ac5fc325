"""What a call leaves as it found it: Pyro's parameter store and validation, and a module's modes and buffers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pyro
import torch
from torch import Tensor, nn

from pyro_vae.runtime.processor import keep_memory
from pyro_vae.runtime.random import seeded

__all__ = ["call_frozen", "call_with", "evaluating", "isolated", "preserved_buffers", "preserved_modes"]


@contextmanager
def isolated(*, validate: bool = False) -> Iterator[None]:
    """Run Pyro programs without touching Pyro's globals.

    Modules keep their own parameters, an empty parameter store stands in for the global one, and validation
    is switched to `validate`; all is restored on exit.
    """
    local = pyro.settings.context(module_local_params=True)
    with pyro.get_param_store().scope(), local, pyro.validation_enabled(validate):
        yield


@contextmanager
def preserved_buffers(module: nn.Module) -> Iterator[None]:
    """Restore the module's buffers (running statistics, counters) on exit."""
    buffers = [(buffer, buffer.clone()) for buffer in module.buffers()]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, value in buffers:
                buffer.copy_(value)


@contextmanager
def evaluating(module: nn.Module, *, seed: int | None = None) -> Iterator[None]:
    """Evaluation mode, no gradients, Pyro's globals isolated; every module's mode is restored."""
    keep_memory()
    with preserved_modes(module), torch.no_grad(), isolated(), seeded(seed):
        for part in module.modules():
            part.training = False
        yield


@contextmanager
def preserved_modes(module: nn.Module) -> Iterator[None]:
    """Restore on exit whether each module is in training or in evaluation mode."""
    modes = [(part, part.training) for part in module.modules()]
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training


class _Call(nn.Module):
    """A module whose call is a function of another one, so that `functional_call` can swap that one's tensors."""

    def __init__(self, owner: nn.Module, function: Callable[[], Any]) -> None:
        super().__init__()
        self.owner, self.function = owner, function

    def forward(self) -> Any:
        return self.function()


def call_with(owner: nn.Module, tensors: Mapping[str, Tensor], function: Callable[[], Any]) -> Any:
    """Call a function while other tensors stand in for a module's parameters and buffers, by their names.

    A tensor in several places is replaced in each; a module in several places is entered once, as torch, which would
    enter it twice, leaves the stand-ins in it.
    """
    own = dict([*owner.named_parameters(), *owner.named_buffers()])
    by_id = {id(own[name]): tensor for name, tensor in tensors.items()}
    named = {
        f"owner.{path}.{name}".replace("..", "."): by_id[id(tensor)]
        for path, module in owner.named_modules()
        for name, tensor in [*module._parameters.items(), *module._buffers.items()]
        if id(tensor) in by_id
    }
    with isolated():
        return torch.func.functional_call(_Call(owner, function), named, (), tie_weights=False)


def call_frozen(owner: nn.Module, function: Callable[[], Any]) -> Any:
    """Call a function while a module's parameters are detached and its buffers copies: statistics do not move."""
    tensors = {name: parameter.detach() for name, parameter in owner.named_parameters()}
    return call_with(owner, tensors | {name: buffer.clone() for name, buffer in owner.named_buffers()}, function)
