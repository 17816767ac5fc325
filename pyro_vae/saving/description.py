"""Models to files: parts and nets as plain values and back, by a registry of our classes only."""

from __future__ import annotations

import dataclasses
import os
from typing import Any

import pyro
import torch
from torch import nn

from pyro_vae import guides, likelihoods, nets, priors
from pyro_vae.arguments import as_path
from pyro_vae.parts import Part
from pyro_vae.saving import files

__all__ = ["configuration", "describe", "rebuild", "save"]

FORMER = {("guides.Flow", "latent_dim")}  # arguments in files of earlier versions that the class no longer takes
ROOMS = {room.__name__.split(".")[-1]: room for room in (guides, likelihoods, nets, priors)}


def describe(value: Any) -> Any:
    """Plain values for a part, a recipe or plain values; a user's own module becomes its name."""
    if isinstance(value, Part | nets.Recipe):
        room, name = type(value).__module__.removeprefix("pyro_vae.").split(".")[0], type(value).__name__
        if getattr(ROOMS.get(room), name, None) is not type(value):
            return {"yours": type(value).__qualname__}
        arguments = value.arguments() if isinstance(value, Part) else _fields(value)
        try:
            described = {key: describe(part) for key, part in arguments.items()}
        except TypeError:  # it holds a distribution or a function of yours
            described = {"": {"yours": name}}
        if _holds_yours(described):
            return {"yours": name}
        return {"class": f"{room}.{name}", "arguments": described}
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


def _holds_yours(described: Any) -> bool:
    if isinstance(described, dict):
        return "yours" in described or any(map(_holds_yours, described.values()))
    return isinstance(described, list) and any(map(_holds_yours, described))


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
    ours = isinstance(cls, type) and issubclass(cls, Part | nets.Recipe)
    if cls is None or not ours or not isinstance(value.get("arguments"), dict):
        raise ValueError(
            f"A saved part must be one of ours; got {value['class']!r}. Pass the part to pv.load by its role."
        )
    arguments = {key: part for key, part in value["arguments"].items() if (value["class"], key) not in FORMER}
    return cls(**{key: rebuild(part) for key, part in arguments.items()})


def configuration(model: Any) -> dict[str, Any]:
    """The model as plain values, with the releases it was made with."""
    parts = model.made_of()
    try:
        arguments = None if parts is None else {name: describe(part) for name, part in parts.items()}
    except TypeError:
        arguments = None
    versions = {"pyro": pyro.__version__, "torch": torch.__version__}
    return {"model": type(model).__qualname__, "arguments": arguments, "versions": versions}


def save(model: Any, path: str | os.PathLike[str], **extra: Any) -> None:
    """Write `model.safetensors` (all that `load` needs) and `config.json` (the same for people, and `extra`)."""
    path = as_path("path", path)
    if path.exists() and not path.is_dir():
        raise ValueError(f"path must be a folder, or free; got the file {str(path)!r}. Choose another name.")
    config = configuration(model)
    files.save_tensors(path / "model.safetensors", model.state_dict(), config)
    files.write_json(path / "config.json", {"format": files.FORMAT, **config, **extra})
