"""Tensors and plain dictionaries, to and from files, atomically; nothing here can run code."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

__all__ = ["FORMAT", "load_tensors", "save_tensors", "write_json", "write_text"]

FORMAT = 1


def write_bytes(path: str | os.PathLike[str], data: bytes) -> None:
    """Write a file that is either whole or not there: temporary file, fsync, rename."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write text as UTF-8, atomically."""
    write_bytes(path, text.encode())


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Write plain values as indented JSON, atomically."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def save_tensors(path: str | os.PathLike[str], tensors: dict[str, Tensor], config: dict[str, Any]) -> None:
    """Write tensors and a plain dictionary into one safetensors file, atomically.

    Raises:
        TypeError: if the dictionary holds anything but plain values.
    """
    whole = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    text = json.dumps({"format": FORMAT, **config})
    write_bytes(path, save(whole, metadata={"pyro_vae": text}))


def load_tensors(path: str | os.PathLike[str]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `save_tensors` wrote.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is no such file, is damaged, or was written by a newer release.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"path must be a saved model; got {str(path)!r}, which does not exist. Check the name.")
    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get("pyro_vae")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        config = None if text is None else json.loads(text)
    except (SafetensorError, ValueError, RecursionError) as error:
        raise ValueError(
            f"path must be a whole safetensors file; got {str(path)!r}, which cannot be read ({error})."
            " Save the model again; pickles are not read."
        ) from error
    if not isinstance(config, dict) or not isinstance(config.get("format"), int):
        raise ValueError(
            f"path must be a model saved by pyro_vae; got {str(path)!r} without its description. Save it again."
        )
    if config["format"] > FORMAT:
        raise ValueError(
            f"path must be of format {FORMAT} or older; got format {config['format']} in {str(path)!r}."
            " Upgrade pyro_vae."
        )
    return tensors, config
