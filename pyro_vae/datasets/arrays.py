"""NumPy's files: .npy, mapped where it is large, and .npz; headers are checked before anything is allocated."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import numpy as np

from pyro_vae.datasets.bombs import refuse_bomb

__all__ = ["read_array", "read_arrays"]

LARGE = 2**26  # bytes: files that are larger are mapped, and read as their rows are taken
MEMBERS = 10**4


def read_array(path: Path) -> np.ndarray:
    """The array of a .npy file.

    Raises:
        ValueError: if it is damaged, or holds pickled objects.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        _check_header(file, size)
        file.seek(0)
        if size <= LARGE:
            return np.lib.format.read_array(file, allow_pickle=False)
    return np.lib.format.open_memmap(path, mode="c")


def read_arrays(path: Path, wanted: Callable[[dict[str, tuple[int, ...]]], list[str]]) -> dict[str, np.ndarray]:
    """Arrays of a .npz file.

    Args:
        path: the file.
        wanted: chooses names among all, by their shapes; these alone are read.

    Raises:
        ValueError: if it is damaged, holds pickled objects, or unpacks to very much.
    """
    with zipfile.ZipFile(path) as archive:
        members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
        if len(members) > MEMBERS:
            raise ValueError(f"{len(members)} arrays, where at most {MEMBERS} are read")
        refuse_bomb(path, sum(info.file_size for info in archive.infolist()), path.stat().st_size)
        shapes = {}
        for name, info in members.items():
            with archive.open(info) as file:
                shapes[name] = _check_header(file, info.file_size)
        arrays = {}
        for name in wanted(shapes):
            with archive.open(members[name]) as file:
                arrays[name] = np.lib.format.read_array(file, allow_pickle=False)
                if file.read(1):
                    raise ValueError(f"more than an array in {name!r}")
        return arrays


def _check_header(file: IO[bytes], size: int) -> tuple[int, ...]:
    """The shape that a header tells, once it is the size of what follows."""
    readers: dict[Any, Any] = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    version = np.lib.format.read_magic(file)
    if version not in readers:
        raise ValueError(f"version {version} of the format")
    shape, _, dtype = readers[version](file)
    told = math.prod(shape) * dtype.itemsize
    if dtype.hasobject or min(shape, default=0) < 0 or told != size - file.tell():
        raise ValueError(f"{size - file.tell()} bytes of numbers for shape {shape} of dtype {dtype}")
    return tuple(shape)
