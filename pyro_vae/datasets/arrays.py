"""Read .npy files, memory-mapped if large, and .npz files; headers are checked before memory is allocated."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import numpy as np

from pyro_vae.datasets.decompression import refuse_bomb

__all__ = ["read_array", "read_arrays"]

MAP_ABOVE = 2**26  # bytes: a larger file is memory-mapped, and its rows are read when they are used
MAX_ARRAYS = 10**4


def read_array(path: Path) -> np.ndarray:
    """Read or map the array in a .npy file.

    Raises:
        ValueError: if it is damaged, or holds pickled objects.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        _check_header(file, size)
        file.seek(0)
        if size <= MAP_ABOVE:
            return np.lib.format.read_array(file, allow_pickle=False)
    return np.lib.format.open_memmap(path, mode="c")


def read_arrays(path: Path, wanted: Callable[[dict[str, tuple[int, ...]]], list[str]]) -> dict[str, np.ndarray]:
    """Read some of the arrays in a .npz file.

    Args:
        path: the file.
        wanted: a function from the shapes of all arrays, by name, to the names of those to read.

    Raises:
        ValueError: if the file is damaged, holds pickled objects, or is a decompression bomb.
    """
    with zipfile.ZipFile(path) as archive:
        members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
        if len(members) > MAX_ARRAYS:
            raise ValueError(f"{len(members)} arrays, where at most {MAX_ARRAYS} are read")
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
                    raise ValueError(f"more bytes than the array {name!r} has")
        return arrays


def _check_header(file: IO[bytes], size: int) -> tuple[int, ...]:
    """The shape in the header of an array, after a check that as many bytes follow as it states."""
    readers: dict[Any, Any] = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    version = np.lib.format.read_magic(file)
    if version not in readers:
        raise ValueError(f"version {version} of the format")
    shape, _, dtype = readers[version](file)
    stated = math.prod(shape) * dtype.itemsize
    if dtype.hasobject or min(shape, default=0) < 0 or stated != size - file.tell():
        raise ValueError(f"{size - file.tell()} bytes of numbers for shape {shape} of dtype {dtype}")
    return tuple(shape)
