"""What a graph treats as constant: the attributes of the objects that it was recorded from."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from torch import Tensor, nn

from pyro_vae.graphs.graph import CaptureError

__all__ = ["TENSORS", "attributes", "tensors_of", "unchanged"]

TENSORS = frozenset({"_parameters", "_buffers"})  # attributes of modules that are inputs of a graph


def tensors_of(model: nn.Module) -> list[tuple[str, Tensor]]:
    """The parameters and buffers of a model, by name: what a graph takes as inputs."""
    return [*model.named_parameters(), *model.named_buffers()]


def attributes(owners: Iterable[Any], leave_out: Container[str] = TENSORS) -> str:
    """The attributes of some objects as text, as far as they can be inspected; if they change, so does the text."""
    return repr([{name: _identity(v) for name, v in vars(owner).items() if name not in leave_out} for owner in owners])


@contextmanager
def unchanged(owners: Iterable[Any], describe: Callable[[], str]) -> Iterator[None]:
    """Set the attributes of some objects back if what is within raises; raise if it changes their description.

    Raises:
        CaptureError: if `describe` returns another text than before.
    """
    owners = list(owners)
    before, values = describe(), [dict(vars(owner)) for owner in owners]
    try:
        yield
        if describe() != before:
            raise CaptureError("the programs change attributes of the model as they run")
    except BaseException:
        for owner, own in zip(owners, values, strict=True):  # the programs may have kept tensors without values
            vars(owner).clear()
            vars(owner).update(own)
        raise


def _identity(value: Any) -> str:
    """What identifies a value within this process, as text: a plain value itself, the address of a tensor or function.

    An object of another kind is not inspected.
    """
    if isinstance(value, Tensor):
        return f"{id(value)} {value._version}"
    if isinstance(value, np.ndarray):
        return f"{id(value)} {value.tobytes()!r}"
    if isinstance(value, bool | int | float | str | None):
        return repr(value)
    if isinstance(value, list | tuple | set | frozenset):
        return f"[{', '.join(map(_identity, value))}]"
    if callable(value):
        return str(id(value))
    if isinstance(value, dict):
        return f"{{{', '.join(f'{k!r}: {_identity(v)}' for k, v in value.items())}}}"
    return ""
