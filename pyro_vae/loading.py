"""Saved models: parts and nets to plain values and back, by a registry of our classes only."""

from __future__ import annotations

import dataclasses
import inspect
import os
from pathlib import Path
from typing import Any

import pyro
import torch
from torch import nn

from pyro_vae import guides, likelihoods, nets, priors, storage
from pyro_vae.base import LatentVariableModel
from pyro_vae.parts import Part
from pyro_vae.vae import VAE

__all__ = ["load", "save"]

ROOMS = {room.__name__.split(".")[-1]: room for room in (guides, likelihoods, nets, priors)}


def describe(value: Any) -> Any:
    """Plain values for a part, a recipe or plain values; a user's own module becomes its name."""
    if isinstance(value, Part | nets.Recipe):
        room, name = type(value).__module__.split(".")[-1], type(value).__name__
        if getattr(ROOMS.get(room), name, None) is not type(value):
            return {"yours": type(value).__qualname__}
        arguments = value.arguments() if isinstance(value, Part) else _fields(value)
        return {"class": f"{room}.{name}", "arguments": {key: describe(part) for key, part in arguments.items()}}
    if isinstance(value, nn.Module):
        return {"yours": type(value).__qualname__}
    if isinstance(value, list | tuple):
        return [describe(part) for part in value]
    if isinstance(value, dict):
        return {str(key): describe(part) for key, part in value.items()}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(
        f"Arguments of a saved model must be plain values or parts; got {value!r}. Pass it again to pv.load."
    )


def _fields(recipe: Any) -> dict[str, Any]:
    return {field.name: getattr(recipe, field.name) for field in dataclasses.fields(recipe)}


def rebuild(value: Any) -> Any:
    """The inverse of `describe`.

    Raises:
        ValueError: if the description names a class that is not one of ours.
    """
    if isinstance(value, list):
        return [rebuild(part) for part in value]
    if not isinstance(value, dict):
        return value
    if "class" not in value:
        return {key: rebuild(part) for key, part in value.items()}
    room, _, name = str(value["class"]).partition(".")
    known = ROOMS.get(room)
    cls = getattr(known, name) if known is not None and name in known.__all__ else None
    if cls is None or not isinstance(value.get("arguments"), dict):
        raise ValueError(
            f"A saved part must be one of ours; got {value['class']!r}. Pass the part to pv.load by its role."
        )
    return cls(**{key: rebuild(part) for key, part in value["arguments"].items()})


def _parts_of(model: LatentVariableModel) -> dict[str, Any] | None:
    """What the model is made of: a VAE's parts; a user's constructor arguments where they are kept and plain."""
    if type(model) is VAE:
        return {"likelihood": model.likelihood, "prior": model.prior, "guide": model.family, **model.nets}
    names = list(inspect.signature(type(model)).parameters)
    return {name: getattr(model, name) for name in names} if all(hasattr(model, name) for name in names) else None


def configuration(model: LatentVariableModel) -> dict[str, Any]:
    """The model as plain values, with the releases it was made with."""
    parts = _parts_of(model)
    try:
        arguments = None if parts is None else {name: describe(part) for name, part in parts.items()}
    except TypeError:
        arguments = None
    versions = {"pyro": pyro.__version__, "torch": torch.__version__}
    return {"model": type(model).__qualname__, "arguments": arguments, "versions": versions}


def save(model: LatentVariableModel, path: str | os.PathLike[str], **extra: Any) -> None:
    """Write `model.safetensors` (all that `load` needs) and `config.json` (the same for people, and `extra`)."""
    config = configuration(model)
    storage.save_tensors(Path(path) / "model.safetensors", model.state_dict(), config)
    storage.write_json(Path(path) / "config.json", {"format": storage.FORMAT, **config, **extra})


def load(
    path: str | os.PathLike[str], model: type[LatentVariableModel] | LatentVariableModel | None = None, **parts: Any
) -> Any:
    """Read a saved model.

    Args:
        path: the folder given to `save`, a run folder, or the `.safetensors` file itself.
        model: your own class, or an instance of it; not needed for a `VAE`.
        **parts: your own modules by role, e.g. `encoder=MyNet()`; or constructor arguments that could not be saved.

    Returns:
        The model, in evaluation mode, on the CPU.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is damaged, of a newer format, or does not fit the class.
        TypeError: if a class or a part of your own is needed and not given.
    """
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
    if cls is None and name != "VAE":
        raise TypeError(f"model must be given for your own class; got None for {name!r}. Call pv.load(path, {name}).")
    if cls is not None and cls.__qualname__ != name:
        raise ValueError(
            f"model must be the class that was saved, {name!r}; got {cls.__qualname__!r}. Pass that class."
        )
    if not isinstance(arguments, dict):
        arguments = {}
        if not parts and cls is not None and inspect.signature(cls).parameters:
            raise TypeError(
                f"model must be an instance here: the arguments of {name!r} were not saved. Pass {name}(...)."
            )
    missing = [
        role for role, value in arguments.items() if isinstance(value, dict) and "yours" in value and role not in parts
    ]
    if missing:
        yours = arguments[missing[0]]["yours"]
        raise TypeError(
            f"{missing[0]} must be given, since it is your own {yours}; got none. Pass {missing[0]}={yours}(...)."
        )
    built = {role: rebuild(value) for role, value in arguments.items() if role not in parts}
    try:
        return (cls or VAE)(**(built | parts))
    except TypeError as error:
        raise ValueError(
            f"The saved arguments must fit {name!r}; got {sorted(built | parts)} ({error}). Save it again."
        ) from error
