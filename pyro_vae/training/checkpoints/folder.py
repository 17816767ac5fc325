"""The checkpoints in a run folder: each file is whole or absent, and the last two are kept."""

from __future__ import annotations

import logging
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from torch import Tensor

from pyro_vae.saving import description, files

__all__ = ["CheckpointFolder", "refuse_differences"]

ADDED = {"precision": "float32"}  # options that checkpoints of version 0.1 do not have, and what they were

logger = logging.getLogger("pyro_vae")
KEPT = 2  # checkpoints


class CheckpointFolder:
    """The folder `checkpoints` of a run; while this object is open, no other process can train there.

    Args:
        run_dir: the run folder; it is made if it does not exist.

    Raises:
        OSError: if it can't be made or written.
        RuntimeError: if another process uses it.
    """

    def __init__(self, run_dir: str | os.PathLike[str]) -> None:
        self.run_dir, self.folder = Path(run_dir), Path(run_dir) / "checkpoints"
        self._made = not self.run_dir.exists()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise type(error)(
                error.errno,
                f"run_dir must be a folder that can be written; got {error.strerror} for {str(run_dir)!r}."
                " Choose another",
            ) from error
        self._take_lock()
        for unfinished in self.folder.glob(".step-*"):  # left by a process that was killed while it wrote
            unfinished.unlink(missing_ok=True)

    def _take_lock(self) -> None:
        try:
            import fcntl
        except ImportError:
            logger.warning("This system cannot lock %s: let no other process train there.", self.folder)
            return
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            owner = os.read(self._lock, 32).decode(errors="replace") or "another one"
            os.close(self._lock)
            raise RuntimeError(
                f"run_dir must be used by one process at a time; got {str(self.run_dir)!r}, where process {owner}"
                " trains. Wait for it, or choose another folder."
            ) from None
        os.ftruncate(self._lock, 0)
        os.write(self._lock, str(os.getpid()).encode())

    def close(self) -> None:
        """Unlock the folder, and remove it if nothing was written."""
        os.close(self._lock)
        if not self.files():
            (self.folder / "lock").unlink(missing_ok=True)
            for folder in (self.folder, *([self.run_dir] if self._made else [])):
                with suppress(OSError):
                    folder.rmdir()

    def files(self) -> list[Path]:
        """The checkpoints, newest first."""
        return sorted(self.folder.glob("step-*.safetensors"), reverse=True)

    def write(self, step: int, tensors: dict[str, Tensor], record: dict[str, Any]) -> None:
        """Write a checkpoint, and remove all but the last two.

        Raises:
            OSError: if the file can't be written; earlier checkpoints are intact then.
        """
        try:
            files.save_tensors(self.folder / f"step-{step:012d}.safetensors", tensors, {"checkpoint": record})
        except OSError as error:
            raise type(error)(
                error.errno,
                f"run_dir must take a checkpoint at step {step}; got {os.strerror(error.errno or 0)} in"
                f" {str(self.run_dir)!r}. Make room, and continue from the last one with resume=True",
            ) from error
        for old in self.files()[KEPT:]:
            old.unlink(missing_ok=True)

    def newest(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """The tensors and the record of the newest checkpoint that is whole; None if there are no checkpoints.

        Raises:
            ValueError: if there are checkpoints and none can be read.
        """
        problem: Exception | None = None
        for file in self.files():
            try:
                tensors, config = files.load_tensors(file)
                return tensors, config["checkpoint"]
            except (ValueError, KeyError) as error:
                logger.warning("%s is damaged and is left out: %s", file, error)
                problem = error
        if problem is not None:
            raise ValueError(
                f"run_dir must hold a whole checkpoint; got only damaged ones in {str(self.folder)!r}."
                " Start again in another folder."
            ) from problem
        return None


def refuse_differences(then: dict[str, Any], now: dict[str, Any]) -> None:
    """Raise unless two descriptions of a run are the same.

    Raises:
        ValueError: showing every difference.
    """
    then = ADDED | description.without_former(then)
    found = description.differences(then, now, "then", "now")
    if found:
        raise ValueError(f"resume must continue the same run; got {found}. Restore these, or start in another run_dir.")
