"""Saved models, read back."""

from __future__ import annotations

import inspect
import os
from collections.abc import Iterable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from pyro_vae.arguments import as_path
from pyro_vae.hierarchical import HierarchicalVAE
from pyro_vae.model import LatentVariableModel
from pyro_vae.runtime.random import preserved_rng
from pyro_vae.saving import files
from pyro_vae.saving.description import rebuild
from pyro_vae.saving.limits import Bounded
from pyro_vae.vae import VAE

__all__ = ["load"]

OURS: dict[str, type[LatentVariableModel]] = {"HierarchicalVAE": HierarchicalVAE, "VAE": VAE}
YOURS = 2**28  # numbers that a module of the user's may make as it is tried on two rows


def load(
    path: str | os.PathLike[str], model: type[LatentVariableModel] | LatentVariableModel | None = None, **parts: Any
) -> Any:
    """Read a saved model.

    Args:
        path: the folder given to `save`, a run folder, or the `.safetensors` file itself.
        model: your own class, or an instance of it; not needed for a class of ours.
        **parts: your own modules by role, e.g. `encoder=MyNet()`; or constructor arguments that could not be saved.

    Returns:
        The model, in evaluation mode, on the CPU.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is damaged, of a newer format, or does not fit the class.
        TypeError: if a class or a part of your own is needed and not given.
    """
    if not (model is None or isinstance(model, LatentVariableModel | type)):
        raise TypeError(f"model must be your own class or an instance of it; got {model!r}. Leave it out for ours.")
    file = as_path("path", path)
    file = file / "model.safetensors" if file.is_dir() else file
    if not file.exists() and file.suffix != ".safetensors":
        file = file / "model.safetensors"
    tensors, config = files.load_tensors(file)
    with preserved_rng():  # initial parameters are drawn, and replaced
        loaded = model if isinstance(model, LatentVariableModel) else _construct(file, config, tensors, model, parts)
    try:
        loaded.load_state_dict(tensors, assign=True)
    except Exception as error:  # RuntimeError, and whatever a module raises that reads its state itself
        raise ValueError(
            f"path must hold the tensors of {type(loaded).__name__}; got other names or shapes in {str(file)!r}"
            f" ({_short(error)}). Give the same class and arguments as when it was saved."
        ) from error
    loaded.eval()
    return loaded


def _short(error: BaseException) -> str:
    text = str(error)
    return text if len(text) < 2000 else f"{text[:2000]} ..."


def _construct(
    file: Path,
    config: dict[str, Any],
    tensors: dict[str, Tensor],
    cls: type[LatentVariableModel] | None,
    parts: dict[str, Any],
) -> Any:
    name, arguments = config.get("model"), config.get("arguments")
    if cls is None and str(name) not in OURS:
        raise TypeError(f"model must be given for your own class; got None for {name!r}. Call pv.load(path, {name}).")
    cls = cls or OURS[str(name)]
    if cls.__qualname__ != name:
        raise ValueError(
            f"model must be the class that was saved, {name!r}; got {cls.__qualname__!r}. Pass that class."
        )
    if not isinstance(arguments, dict):
        arguments = {}
        if not parts and inspect.signature(cls).parameters:
            raise TypeError(
                f"model must be an instance here; got none, and the arguments of {name!r} were not saved. Pass"
                f" {name}(...)."
            )
    missing = [
        role for role, value in arguments.items() if isinstance(value, dict) and "yours" in value and role not in parts
    ]
    if missing:
        yours = arguments[missing[0]]["yours"]
        raise TypeError(
            f"{missing[0]} must be given, since it is, or holds, an object of your own ({yours}); got none."
            f" Pass {missing[0]}=, made as it was."
        )
    ours = cls in OURS.values()
    try:
        with Bounded(tensors.values()):
            built = {role: rebuild(value) for role, value in arguments.items() if role not in parts}
        with _bounded(tensors.values(), parts) if ours else nullcontext():
            return cls(**(built | parts))
    except Exception as error:  # a description that was made up can lead to any
        raise ValueError(
            f"The saved arguments must fit {name!r}; got {sorted(arguments.keys() | parts)} in {str(file)!r}"
            f" ({_short(error) or type(error).__name__}). Save it again, or pass what was passed before."
        ) from error


def _bounded(tensors: Iterable[Tensor], parts: dict[str, Any]) -> Bounded:
    yours = any(isinstance(part, nn.Module) for part in parts.values())
    return Bounded(tensors, spare=YOURS) if yours else Bounded(tensors)
