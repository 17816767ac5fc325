"""Models and options as plain values: to make a saved model again, and to see whether two runs have the same options.

Two functions turn an object into JSON values. `describe` is for a saved model: `rebuild` makes the same object of its
result, so it refuses what it cannot describe. `comparable` is for an option of `fit`: its result is only compared with
that of an earlier run or of another process, so it takes every object and leaves out what it cannot describe.

A compiled step (`training.compiled.step`) asks another question: whether the objects that it was recorded with have
changed since. It identifies them by their addresses, which mean nothing in a file or in another process.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pyro
import torch
from torch import nn

from pyro_vae import covariates, guides, likelihoods, missing, nets, priors
from pyro_vae.arguments import as_path
from pyro_vae.inference.pair import ProgramPair
from pyro_vae.parts import Part
from pyro_vae.saving import files

__all__ = [
    "USER_CLASS",
    "comparable",
    "configuration",
    "describe",
    "differences",
    "in_common",
    "is_plain",
    "rebuild",
    "save",
]

FORMER = {("guides.Flow", "latent_dim")}  # arguments in files of earlier versions that the class no longer takes
PACKAGES = {
    package.__name__.split(".")[-1]: package for package in (covariates, guides, likelihoods, missing, nets, priors)
}
USER_CLASS = "yours"  # the key, in saved files, of the name of a class that is not in these packages
SET_BY_FIT = ("step", "epoch")  # attributes of an estimator that change while it trains


def is_plain(value: Any) -> bool:
    """Whether this is None, a truth value, a number, a string, or a list or tuple of such values."""
    if isinstance(value, list | tuple):
        return all(map(is_plain, value))
    return value is None or isinstance(value, bool | int | float | str)


def describe(value: Any) -> Any:
    """A constructor argument of a model as JSON values, from which `rebuild` makes it again.

    A part or a recipe becomes its class name and its arguments. If it is, or holds, an object of a class that is not
    in this package, such as the user's own module, it becomes the name of that class, so that `pv.load` can ask for it.

    Raises:
        TypeError: if the value is neither such an object nor plain values.
    """
    if isinstance(value, Part | nets.Recipe):
        return _describe_part(value)
    if isinstance(value, nn.Module):
        return {USER_CLASS: type(value).__qualname__}
    if isinstance(value, list | tuple):
        return [describe(part) for part in value]
    if isinstance(value, dict):
        return {str(key): describe(part) for key, part in value.items()}
    if is_plain(value):
        return value
    raise TypeError(
        f"Arguments of a saved model must be plain values or parts; got {value!r}. Pass it again to pv.load."
    )


def _describe_part(part: Part | nets.Recipe) -> dict[str, Any]:
    package, name = type(part).__module__.removeprefix("pyro_vae.").split(".")[0], type(part).__name__
    if getattr(PACKAGES.get(package), name, None) is not type(part):
        return {USER_CLASS: type(part).__qualname__}
    try:
        arguments = {key: describe(value) for key, value in _arguments(part).items()}
    except TypeError:  # one of them is a distribution or a function
        return {USER_CLASS: name}
    if _has_user_class(arguments):
        return {USER_CLASS: name}
    return {"class": f"{package}.{name}", "arguments": arguments}


def _arguments(part: Part | nets.Recipe) -> dict[str, Any]:
    if isinstance(part, Part):
        return part.arguments()
    return {field.name: getattr(part, field.name) for field in dataclasses.fields(part)}  # type: ignore[arg-type]


def _has_user_class(described: Any) -> bool:
    if isinstance(described, dict):
        return USER_CLASS in described or any(map(_has_user_class, described.values()))
    return isinstance(described, list) and any(map(_has_user_class, described))


def rebuild(value: Any) -> Any:
    """Make what `describe` described; tuples come back as lists.

    Raises:
        ValueError: if the description names a class that is not a part or a recipe of this package.
    """
    if isinstance(value, list):
        return [rebuild(part) for part in value]
    if not isinstance(value, dict):
        return value
    if "class" not in value:
        return {key: rebuild(part) for key, part in value.items()}
    package, _, name = str(value["class"]).partition(".")
    known = PACKAGES.get(package)
    cls = getattr(known, name) if known is not None and name in known.__all__ else None
    allowed = isinstance(cls, type) and issubclass(cls, Part | nets.Recipe)
    if cls is None or not allowed or not isinstance(value.get("arguments"), dict):
        raise ValueError(
            f"A saved part must be of a class of pyro_vae; got {value['class']!r}. Pass it to pv.load by its role."
        )
    return cls(**{key: rebuild(part) for key, part in without_former(value)["arguments"].items()})


def without_former(description: Any) -> Any:
    """A description without arguments that files of earlier versions hold and that a class no longer takes."""
    if isinstance(description, list):
        return [without_former(part) for part in description]
    if not isinstance(description, dict):
        return description
    current = {key: without_former(part) for key, part in description.items()}
    if "class" in current and isinstance(current.get("arguments"), dict):
        arguments = current["arguments"]
        current["arguments"] = {key: arguments[key] for key in arguments if (current["class"], key) not in FORMER}
    return current


def comparable(value: Any) -> Any:
    """An option of `fit` as JSON values that are equal, in another process too, where two options do the same.

    An object becomes the name of its class with its public attributes, as far as these are plain values, data classes
    or functions; a function becomes its name. Memory addresses do not enter.
    """
    if isinstance(value, float) and not math.isfinite(value):
        return repr(value)
    if isinstance(value, list | tuple):
        return [comparable(part) for part in value]
    if is_plain(value):
        return value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _named(value, dataclasses.asdict(value))
    if isinstance(value, type) or hasattr(value, "__qualname__"):
        return value.__qualname__
    if isinstance(value, partial):
        return {"": comparable(value.func)} | {name: comparable(part) for name, part in value.keywords.items()}
    public = {n: part for n, part in getattr(value, "__dict__", {}).items() if n not in SET_BY_FIT and n[0] != "_"}
    return _named(value, {name: part for name, part in public.items() if _is_comparable(part)})


def _is_comparable(value: Any) -> bool:
    return is_plain(value) or dataclasses.is_dataclass(value) or callable(value)


def _named(value: Any, attributes: Mapping[str, Any]) -> dict[str, Any]:
    """The name of the class of a value, under the empty key, and these attributes of it."""
    return {"": type(value).__qualname__} | {name: comparable(part) for name, part in attributes.items()}


def differences(one: dict[str, Any], other: dict[str, Any], here: str, there: str) -> str:
    """Say in which entries two descriptions differ, the first eight of them; an empty text where they are equal.

    Args:
        one: a description that was read from JSON.
        other: a description that was made in this process.
        here: where the first comes from, e.g. "then".
        there: where the second comes from, e.g. "now".
    """
    old, new = _flattened(one), _flattened(json.loads(json.dumps(other)))
    different = [name for name in old | new if old.get(name) != new.get(name)]
    shown = "; ".join(f"{name} {old.get(name)!r} {here} and {new.get(name)!r} {there}" for name in different[:8])
    return shown + (f"; {len(different) - 8} more" if len(different) > 8 else "")


def in_common(one: Any, other: Any) -> tuple[Any, Any]:
    """Two descriptions without the entries that only one of them has, such as arguments that a class gained since."""
    if isinstance(one, dict) and isinstance(other, dict) and (USER_CLASS in one) == (USER_CLASS in other):
        pairs = {key: in_common(one[key], other[key]) for key in one if key in other}
        return {key: pair[0] for key, pair in pairs.items()}, {key: pair[1] for key, pair in pairs.items()}
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        pairs_in_order = [in_common(part, own) for part, own in zip(one, other, strict=True)]
        return [pair[0] for pair in pairs_in_order], [pair[1] for pair in pairs_in_order]
    return one, other


def _flattened(value: Any, name: str = "") -> dict[str, Any]:
    """The values within nested dictionaries, by their keys joined with dots."""
    if isinstance(value, dict) and value:
        return {k: v for key, part in value.items() for k, v in _flattened(part, f"{name}.{key}".strip(".")).items()}
    return {name: value}


def configuration(model: ProgramPair) -> dict[str, Any]:
    """The class of a model, its constructor arguments (None if one cannot be described), and the versions in use."""
    parts = model.made_of()
    try:
        arguments = None if parts is None else {name: describe(part) for name, part in parts.items()}
    except TypeError:
        arguments = None
    versions = {"pyro": pyro.__version__, "torch": torch.__version__}
    return {"model": type(model).__qualname__, "arguments": arguments, "versions": versions}


def save(model: ProgramPair, path: str | os.PathLike[str], **extra: Any) -> None:
    """Write a model to a folder.

    `model.safetensors` holds the model, and `history.csv` its history, if it was trained; `config.json` repeats the
    description for people, with `extra`.

    Raises:
        ValueError: if the path is an existing file, or the folder holds another `history.csv`.
        OSError: if the files cannot be written.
    """
    path = as_path("path", path)
    if path.exists() and not path.is_dir():
        raise ValueError(f"path must be a folder or a new name; got the file {str(path)!r}. Choose another name.")
    history = getattr(model, "history", None)
    file = path / "history.csv"
    if history is not None and file.exists() and not _is_history(file, history.COLUMNS):
        raise ValueError(
            f"path must be a folder without a history.csv of something else; got {str(file)!r}. Choose another folder."
        )
    config = configuration(model)
    schema = {name: value for name, value in dataclasses.asdict(model.schema).items() if value is not None}
    config |= {"schema": schema} if schema else {}
    files.save_tensors(path / "model.safetensors", model.state_dict(), config)
    files.write_json(path / "config.json", {"format": files.FORMAT, **config, **extra})
    if history:
        files.write_text(file, history.to_csv())
    elif history is not None:
        file.unlink(missing_ok=True)  # that of the model that was saved here before


def _is_history(file: Path, columns: Sequence[str]) -> bool:
    """Whether a file begins as a table that `History.to_csv` wrote."""
    with file.open("rb") as content:
        return content.readline(1000).strip() == ",".join(columns).encode()
