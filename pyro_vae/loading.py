"""Read saved models."""

from __future__ import annotations

import csv
import inspect
import json
import os
import warnings
from collections.abc import Iterable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from pyro_vae.arguments import as_path
from pyro_vae.fields import Schema
from pyro_vae.model import LatentVariableModel
from pyro_vae.models import VAE, HierarchicalVAE, SemiSupervisedVAE
from pyro_vae.runtime.random import preserved_rng
from pyro_vae.saving import description, files
from pyro_vae.saving.description import USER_CLASS, rebuild
from pyro_vae.saving.limits import TensorBudget
from pyro_vae.training.history import History

__all__ = ["load"]

BUILT_IN: dict[str, type[LatentVariableModel]] = {
    "HierarchicalVAE": HierarchicalVAE,
    "SemiSupervisedVAE": SemiSupervisedVAE,
    "VAE": VAE,
}
SPARE_FOR_MODULES = 2**28  # numbers that the user's own modules may make when they are tried on two rows


def load(
    path: str | os.PathLike[str], model: type[LatentVariableModel] | LatentVariableModel | None = None, **parts: Any
) -> Any:
    """Read a saved model.

    Args:
        path: the folder given to `save`, a run folder, or the `.safetensors` file itself.
        model: your own class, or an instance of it; not needed for `VAE` and `HierarchicalVAE`.
        **parts: your own modules by role, e.g. `encoder=MyNet()`, and constructor arguments that could not be saved.

    Returns:
        The model, in evaluation mode, on the CPU. Its `history` is that in `history.csv` beside it, if there is one; a
        later `fit` begins a new one.

    Raises:
        FileNotFoundError: if there is no file at this path.
        ValueError: if the file is damaged, has a newer format, or does not fit the class.
        TypeError: if a class or a part of your own is needed and not given.
    """
    if not (model is None or isinstance(model, LatentVariableModel | type)):
        raise TypeError(f"model must be your own class or an instance of it; got {model!r}. Leave it out for a VAE.")
    file = as_path("path", path)
    file = file / "model.safetensors" if file.is_dir() else file
    if not file.exists() and file.suffix != ".safetensors":
        file = file / "model.safetensors"
    tensors, config = files.load_tensors(file)
    with preserved_rng():  # initial parameters are drawn, and replaced
        if isinstance(model, LatentVariableModel):
            _check_same_description(file, config, model)
        loaded = model if isinstance(model, LatentVariableModel) else _construct(file, config, tensors, model, parts)
    try:
        loaded.load_state_dict(tensors, assign=True)
    except Exception as error:  # RuntimeError, or any other from a module with a method of its own to read its state
        raise ValueError(
            f"path must hold the tensors of {type(loaded).__name__}; got other names or shapes in {str(file)!r}"
            f" ({_shortened(error)}). Give the same class and arguments as when it was saved."
        ) from error
    loaded.schema = Schema.read(config.get("schema"))
    loaded.saved_history = _read_history(file.parent / "history.csv")
    loaded.eval()
    return loaded


def _read_history(file: Path) -> History | None:
    """The history of a saved model; None where there is none, or, with a warning, where it can't be read."""
    if not file.is_file():
        return None
    try:
        return History.from_csv(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, csv.Error) as error:
        warnings.warn(
            f"{file} must hold the epochs of the run; got a file that can't be read ({_shortened(error)}). The model is"
            " loaded without its history.",
            stacklevel=3,
        )
        return None


def _check_same_description(file: Path, config: dict[str, Any], model: LatentVariableModel) -> None:
    """Raise a ValueError unless an instance has the saved parts and arguments, as far as both are known."""
    saved = description.without_former({"model": config.get("model"), "arguments": config.get("arguments")})
    made = description.configuration(model)
    given = json.loads(json.dumps({"model": made["model"], "arguments": made["arguments"]}))
    if saved["arguments"] is None or given["arguments"] is None:
        del saved["arguments"], given["arguments"]
    if found := description.differences(*description.in_common(saved, given), "in the file", "in the instance"):
        raise ValueError(
            f"model must be made as the one that was saved; got {found}, for {str(file)!r}. Pass an instance with the"
            " saved arguments."
        )


def _shortened(error: BaseException) -> str:
    """The message of an error, at most some 2,000 characters of it."""
    text = str(error)
    return text if len(text) < 2000 else f"{text[:2000]} ..."


def _construct(
    file: Path,
    config: dict[str, Any],
    tensors: dict[str, Tensor],
    cls: type[LatentVariableModel] | None,
    parts: dict[str, Any],
) -> Any:
    """A new model of the saved class, made with the saved arguments and with `parts` in place of some of them."""
    name, arguments = config.get("model"), config.get("arguments")
    if cls is None and str(name) not in BUILT_IN:
        raise TypeError(f"model must be given for your own class; got None for {name!r}. Call pv.load(path, {name}).")
    cls = cls or BUILT_IN[str(name)]
    if cls.__qualname__ != name:
        raise ValueError(
            f"model must be the class that was saved, {name!r}; got {cls.__qualname__!r}. Pass that class."
        )
    if not isinstance(arguments, dict):
        arguments = {}
        if not parts and inspect.signature(cls).parameters:
            raise TypeError(
                f"model must be an instance here, since the arguments of {name!r} were not saved; got the class. Pass"
                f" {name}(...)."
            )
    not_saved = {role: v for role, v in arguments.items() if isinstance(v, dict) and USER_CLASS in v}
    for role, value in not_saved.items():
        if role not in parts:
            raise TypeError(
                f"{role} must be given, since it is, or holds, an object of your own ({value[USER_CLASS]}); got none."
                f" Pass {role}=, made as it was."
            )
    try:
        with TensorBudget(tensors.values()):
            rebuilt = {role: rebuild(value) for role, value in arguments.items() if role not in parts}
        with _budget(tensors.values(), parts) if cls in BUILT_IN.values() else nullcontext():
            return cls(**(rebuilt | parts))
    except Exception as error:  # a description that was made up can lead to an error of any class
        raise ValueError(
            f"The saved arguments must fit {name!r}; got {sorted(arguments.keys() | parts)} in {str(file)!r}"
            f" ({_shortened(error) or type(error).__name__}). Save it again, or pass what was passed before."
        ) from error


def _budget(tensors: Iterable[Tensor], parts: dict[str, Any]) -> TensorBudget:
    """The limit while a model is made: a larger one where it tries modules of the user's."""
    tries_modules = any(isinstance(part, nn.Module) for part in parts.values())
    return TensorBudget(tensors, spare=SPARE_FOR_MODULES) if tries_modules else TensorBudget(tensors)
