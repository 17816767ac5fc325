"""Tensors and plain dictionaries, to and from files, atomically; nothing here can run code."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

__all__ = ["FORMAT", "load_tensors", "save_tensors", "write_json", "write_text"]

FORMAT = 2  # 1 had no checksum
HEADER = 10**8  # bytes of names, shapes and description, at most
PIECES = 4 * 10**6  # values in a description, at most
TENSORS = 10**5


def write_bytes(path: str | os.PathLike[str], data: bytes) -> None:
    """Write a file that is either whole or not there: temporary file, fsync, rename, fsync of the folder.

    Raises:
        OSError: if that is impossible, of the system's class and number; an earlier file is intact then.
    """
    path = Path(path)
    try:
        _write(path, data)
    except OSError as error:
        raise _told(path, error) from error


def _told(path: Path, error: OSError) -> OSError:
    message = (
        f"path must be a file that can be written; got {error.strerror or error} for {str(path)!r}."
        " Make room, or choose another folder; an earlier file is as it was."
    )
    return type(error)(message) if error.errno is None else type(error)(error.errno, message)


def _write(path: Path, data: bytes) -> None:
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
    with suppress(OSError):  # not every system can
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


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
    """Write tensors and a plain dictionary into one safetensors file, with a checksum of all, atomically.

    Raises:
        TypeError: if the dictionary holds anything but plain values.
        ValueError: if there is more than `load_tensors` takes.
        OSError: if the file can't be written; an earlier one is intact then.
    """
    whole = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    text = json.dumps({"format": FORMAT, **config})
    if len(text) > HEADER // 2 or _pieces(text) > PIECES or len(whole) > TENSORS:
        raise ValueError(
            f"config must have at most {PIECES} values in {HEADER // 2} letters, and {TENSORS} tensors; got"
            f" {_pieces(text)} values in {len(text)} letters, and {len(whole)} tensors. Save less at once."
        )
    write_bytes(path, save(whole, metadata={"pyro_vae": text, "sha256": _checksum(text, whole)}))


def _pieces(text: str) -> int:
    """How many values JSON text holds, at most."""
    return text.count(",") + text.count("[") + text.count("{")


def _checksum(text: str, tensors: dict[str, Tensor]) -> str:
    """SHA-256 of the description and of each tensor's name, type, shape and bytes, in order of name."""
    found = hashlib.sha256(json.dumps(text).encode())
    for name, tensor in sorted(tensors.items()):
        found.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        found.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


def load_tensors(path: str | os.PathLike[str]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `save_tensors` wrote; the tensors have memory of their own.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is no such file, is damaged, or was written by a newer release.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"path must be a saved model; got {str(path)!r}, which does not exist. Check the name.")
    try:
        tensors, metadata = _read(path)
        config = json.loads(metadata["pyro_vae"]) if "pyro_vae" in metadata else None
    except OSError:
        raise
    except Exception as error:  # SafetensorError, and whatever else damage leads to
        raise ValueError(
            f"path must be a whole safetensors file; got {str(path)!r}, which cannot be read ({str(error)[:200]})."
            " Save the model again; pickles are not read."
        ) from error
    version = config.get("format") if isinstance(config, dict) else None
    if not isinstance(config, dict) or type(version) is not int or version < 1:
        raise ValueError(
            f"path must be a model saved by pyro_vae; got {str(path)!r} without its description. Save it again."
        )
    if version > FORMAT:
        raise ValueError(
            f"path must be of format {FORMAT} or older; got format {version} in {str(path)!r}. Upgrade pyro_vae."
        )
    if ("sha256" in metadata or version > 1) and metadata.get("sha256") != _checksum(metadata["pyro_vae"], tensors):
        raise ValueError(
            f"path must be a file as it was saved; got {str(path)!r}, whose checksum differs: it was changed or"
            " damaged since. Save the model again."
        )
    return tensors, config


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata, once it is sure that these are few enough to read."""
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
    if size > HEADER:
        raise ValueError(f"a header of {size} bytes")
    with safe_open(path, framework="pt") as file:
        metadata, names = file.metadata() or {}, file.keys()
        pieces = _pieces(metadata.get("pyro_vae", ""))
        if len(names) > TENSORS or pieces > PIECES:
            raise ValueError(f"{len(names)} tensors and {pieces} values")
        return {name: file.get_tensor(name).clone() for name in names}, metadata
