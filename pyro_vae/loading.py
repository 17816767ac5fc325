"""Saved models, read back."""

from __future__ import annotations

import inspect
import os
from pathlib import Path
from typing import Any

from pyro_vae import storage
from pyro_vae.base import LatentVariableModel
from pyro_vae.hierarchies import HierarchicalVAE
from pyro_vae.saving import rebuild
from pyro_vae.vae import VAE

__all__ = ["load"]

OURS: dict[str, type[LatentVariableModel]] = {"HierarchicalVAE": HierarchicalVAE, "VAE": VAE}


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
    file = Path(path) / "model.safetensors" if Path(path).is_dir() else Path(path)
    if not file.exists() and file.suffix != ".safetensors":
        file = file / "model.safetensors"
    tensors, config = storage.load_tensors(file)
    loaded = model if isinstance(model, LatentVariableModel) else _construct(config, model, parts)
    try:
        loaded.load_state_dict(tensors, assign=True)
    except RuntimeError as error:
        raise ValueError(
            f"path must hold the tensors of {type(loaded).__name__}; got other names or shapes ({error})."
            " Give the same class and arguments as when it was saved."
        ) from error
    loaded.eval()
    return loaded


def _construct(config: dict[str, Any], cls: type[LatentVariableModel] | None, parts: dict[str, Any]) -> Any:
    name, arguments = config.get("model"), config.get("arguments")
    if cls is None and name not in OURS:
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
                f"model must be an instance here: the arguments of {name!r} were not saved. Pass {name}(...)."
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
    built = {role: rebuild(value) for role, value in arguments.items() if role not in parts}
    try:
        return cls(**(built | parts))
    except TypeError as error:
        raise ValueError(
            f"The saved arguments must fit {name!r}; got {sorted(built | parts)} ({error}). Save it again."
        ) from error
