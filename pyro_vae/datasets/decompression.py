"""Refuse decompression bombs: small files, made by mistake or to do harm, that unpack to more than memory holds.

A few kilobytes of compressed zeros can stand for many gigabytes. The sizes in a file's header say so beforehand.
"""

from __future__ import annotations

from pathlib import Path

from pyro_vae.datasets.splits import UnsuitableDataError

__all__ = ["refuse_bomb"]

ALWAYS_ALLOWED = 10**9  # unpacked bytes that are allowed whatever the size of the file
MAX_RATIO = 100  # more than these are allowed up to this many unpacked bytes for each byte of the file


def refuse_bomb(path: Path, unpacked: int, packed: int) -> None:
    """Raise if data would unpack to more than 1 GB and to more than 100 times the size of their file.

    Args:
        path: the file, or the folder of files.
        unpacked: bytes of the data in memory, as the headers state them.
        packed: bytes of the file, or of all files in the folder.

    Raises:
        ValueError: naming the file or folder.
    """
    if unpacked > ALWAYS_ALLOWED and unpacked > MAX_RATIO * packed:
        raise UnsuitableDataError(
            f"{path} must unpack to at most 1 GB, or {MAX_RATIO} times its size; got {packed} bytes that become"
            f" {unpacked}, a decompression bomb. Write the data again without compression, if they are your own."
        )
