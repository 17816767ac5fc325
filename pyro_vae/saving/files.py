"""Write tensors and plain dictionaries to files, atomically, and read them; reading a file never runs code from it."""

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

FORMAT = 2  # format 1 had no checksum
MAX_HEADER = 10**8  # bytes of names, shapes and description
MAX_VALUES = 4 * 10**6  # values in a description
MAX_TENSORS = 10**5


def write_bytes(path: str | os.PathLike[str], data: bytes) -> None:
    """Write a file so that it is never seen half written: temporary file, fsync, rename, fsync of the folder.

    Raises:
        OSError: if the file cannot be written, with the class and number of the system's own error; an earlier file of
            this name is intact then.
    """
    path = Path(path)
    try:
        _write_and_rename(path, data)
    except OSError as error:
        raise _write_error(path, error) from error


def _write_error(path: Path, error: OSError) -> OSError:
    """An error of the same class and number that names the file and says what to do."""
    message = (
        f"path must be a file that can be written; got {error.strerror or error} for {str(path)!r}."
        " Make room, or choose another folder; an earlier file is unchanged."
    )
    return type(error)(message) if error.errno is None else type(error)(error.errno, message)


def _write_and_rename(path: Path, data: bytes) -> None:
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
    with suppress(OSError):  # not every system can synchronize a folder
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _umask() -> int:
    """The permissions that new files of this process do not get; the system returns them only when they are set."""
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
    """Write tensors and a plain dictionary into one safetensors file, with a checksum of both, atomically.

    Raises:
        TypeError: if the dictionary holds anything but plain values.
        ValueError: if there is more than `load_tensors` reads.
        OSError: if the file cannot be written; an earlier one is intact then.
    """
    saved = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    text = json.dumps({"format": FORMAT, **config})
    if len(text) > MAX_HEADER // 2 or _max_values(text) > MAX_VALUES or len(saved) > MAX_TENSORS:
        raise ValueError(
            f"config must have at most {MAX_VALUES} values in {MAX_HEADER // 2} characters, and {MAX_TENSORS} tensors;"
            f" got {_max_values(text)} values in {len(text)} characters, and {len(saved)} tensors. Save less at once."
        )
    write_bytes(path, save(saved, metadata={"pyro_vae": text, "sha256": _checksum(text, saved)}))


def _max_values(text: str) -> int:
    """An upper bound on the number of values in JSON text, found without parsing it."""
    return text.count(",") + text.count("[") + text.count("{")


def _checksum(text: str, tensors: dict[str, Tensor]) -> str:
    """SHA-256 of the description and of each tensor's name, dtype, shape and bytes, in order of name."""
    found = hashlib.sha256(json.dumps(text).encode())
    for name, tensor in sorted(tensors.items()):
        found.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        found.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


def load_tensors(path: str | os.PathLike[str]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read the tensors and the dictionary that `save_tensors` wrote; the tensors are copies, independent of the file.

    Raises:
        FileNotFoundError: if there is no file of this name.
        ValueError: if `save_tensors` did not write it, it is damaged, or a newer release wrote it.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"path must be a saved model; got {str(path)!r}, which does not exist. Check the name.")
    try:
        tensors, metadata = _read_safetensors(path)
        config = json.loads(metadata["pyro_vae"]) if "pyro_vae" in metadata else None
    except OSError:
        raise
    except Exception as error:  # SafetensorError, and any other that a damaged file leads to
        raise ValueError(
            f"path must be a whole safetensors file; got {str(path)!r}, which cannot be read ({str(error)[:200]})."
            " Save the model again; pickles are not read."
        ) from error
    version = config.get("format") if isinstance(config, dict) else None
    if not isinstance(config, dict) or type(version) is not int or version < 1:
        raise ValueError(
            f"path must be a model saved by pyro_vae; got {str(path)!r}, which has no description. Save it again."
        )
    if version > FORMAT:
        raise ValueError(
            f"path must be of format {FORMAT} or older; got format {version} in {str(path)!r}. Upgrade pyro_vae."
        )
    if ("sha256" in metadata or version > 1) and metadata.get("sha256") != _checksum(metadata["pyro_vae"], tensors):
        raise ValueError(
            f"path must be a file as it was saved; got {str(path)!r}, whose checksum differs: it was changed or"
            " damaged afterwards. Save the model again."
        )
    return tensors, config


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and the metadata, after a check that reading them takes little time and memory."""
    with path.open("rb") as file:
        header = int.from_bytes(file.read(8), "little")
    if header > MAX_HEADER:
        raise ValueError(f"a header of {header} bytes")
    with safe_open(path, framework="pt") as file:
        metadata, names = file.metadata() or {}, file.keys()
        values = _max_values(metadata.get("pyro_vae", ""))
        if len(names) > MAX_TENSORS or values > MAX_VALUES:
            raise ValueError(f"{len(names)} tensors and {values} values")
        return {name: file.get_tensor(name).clone() for name in names}, metadata
