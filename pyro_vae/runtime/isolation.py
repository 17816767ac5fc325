"""Calls that leave everything as they found it: Pyro's globals, and a module's modes, parameters and buffers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import pyro
import torch
from torch import Tensor, nn

from pyro_vae.runtime.processor import keep_memory
from pyro_vae.runtime.random import seeded

__all__ = [
    "call_frozen",
    "call_with",
    "evaluating",
    "isolated",
    "preserved_buffers",
    "preserved_modes",
    "remember_buffers",
]


@contextmanager
def isolated(*, validate: bool = False) -> Iterator[None]:
    """Run Pyro programs without touching Pyro's globals.

    Modules keep their own parameters, an empty parameter store replaces the global one, and validation is set to
    `validate`; everything is restored on exit.
    """
    local = pyro.settings.context(module_local_params=True)
    with pyro.get_param_store().scope(), local, pyro.validation_enabled(validate):
        yield


def remember_buffers(module: nn.Module) -> Callable[[], None]:
    """Copy the module's buffers (running statistics, counters); returns a function that sets them back."""
    buffers = [(buffer, buffer.clone()) for buffer in module.buffers()]

    def restore() -> None:
        with torch.no_grad():
            for buffer, value in buffers:
                buffer.copy_(value)

    return restore


@contextmanager
def preserved_buffers(module: nn.Module) -> Iterator[None]:
    """Set the module's buffers back on exit."""
    restore = remember_buffers(module)
    try:
        yield
    finally:
        restore()


class _RefuseSubsamples(pyro.poutine.messenger.Messenger):
    """A handler that raises where a plate draws a subsample: results by row would be those of other rows."""

    def _pyro_sample(self, msg: Any) -> None:
        fn = msg["fn"]
        if type(fn).__name__ == "_Subsample" and fn.subsample_size not in (None, fn.size):
            raise NotImplementedError(
                f"Plate {msg['name']!r} must have all of its rows outside of training; got subsample_size="
                f"{fn.subsample_size} of {fn.size}, by which results would be those of other rows. Give the plate"
                " len(x), without subsample_size, and subsample by fit(batch_size=)."
            )


@contextmanager
def evaluating(
    module: nn.Module, *, seed: int | None = None, stream: int = 0, subsampling: bool = False
) -> Iterator[None]:
    """Evaluate a module: in evaluation mode, without gradients, Pyro's globals isolated; modes are restored on exit.

    Args:
        module: the module.
        seed: seed of the draws; the global random stream by default.
        stream: which of the streams of this seed; see `random.PREDICTIVE`.
        subsampling: whether plates of the programs may draw subsamples, as in training.
    """
    keep_memory()
    refuse = nullcontext() if subsampling else _RefuseSubsamples()
    with preserved_modes(module), torch.no_grad(), isolated(), seeded(seed, stream), refuse:
        for part in module.modules():
            part.training = False
        yield


@contextmanager
def preserved_modes(module: nn.Module) -> Iterator[None]:
    """Set every module back to training or evaluation mode, as it was, on exit."""
    modes = [(part, part.training) for part in module.modules()]
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training


class _Call(nn.Module):
    """A module whose call is a function of another module, whose tensors `functional_call` can then replace."""

    def __init__(self, owner: nn.Module, function: Callable[[], Any]) -> None:
        super().__init__()
        self.owner, self.function = owner, function

    def forward(self) -> Any:
        return self.function()


def call_with(owner: nn.Module, tensors: Mapping[str, Tensor], function: Callable[[], Any]) -> Any:
    """Call a function while other tensors replace a module's parameters and buffers, by their names.

    A tensor that a module has in several places is replaced in each. A module that is in several places is visited
    once: torch would visit it twice and leave the replacements in it.
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
    """Call a function while a module's parameters are detached and its buffers are copies, so that statistics stay."""
    tensors = {name: parameter.detach() for name, parameter in owner.named_parameters()}
    return call_with(owner, tensors | {name: buffer.clone() for name, buffer in owner.named_buffers()}, function)
