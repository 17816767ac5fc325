"""Small files that unpack to very much are refused before they are unpacked."""

from __future__ import annotations

from pathlib import Path

from pyro_vae.datasets.splits import UnsuitedError

__all__ = ["refuse_bomb"]

ENOUGH, RATIO = 10**9, 100  # bytes; times the size of the file


def refuse_bomb(path: Path, unpacked: int, packed: int) -> None:
    """Raise if a file, or a folder of them, would unpack to more than 1 GB and more than 100 times its size.

    Raises:
        ValueError: naming it.
    """
    if unpacked > ENOUGH and unpacked > RATIO * packed:
        raise UnsuitedError(
            f"{path} must unpack to at most 1 GB, or {RATIO} times its size; got {packed} bytes that become {unpacked},"
            " a decompression bomb. Write it anew without compression, if it is yours."
        )
