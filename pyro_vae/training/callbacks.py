"""Callbacks of `fit` that write the history elsewhere, epoch by epoch."""

from __future__ import annotations

import csv
import os
from typing import Any

from pyro_vae.arguments import as_path
from pyro_vae.runtime import processes
from pyro_vae.saving import files
from pyro_vae.training.history import History

__all__ = ["CSVLogger", "TensorBoard"]


class CSVLogger:
    """Write the history to a .csv file after each epoch; `History.from_csv` reads it.

    The file holds the whole history of the model, the epochs of earlier calls of `fit` too, and is never half written.
    Of several processes the first one writes.

    Args:
        path: the file. A file that is there already must hold epochs of this history: those before, or, after a crash,
            some that are trained again.

    Raises:
        ValueError: when an epoch ends, if the file holds something else.

    Example:
        >>> import pathlib, tempfile, torch, pyro_vae as pv
        >>> vae = pv.VAE(likelihood=pv.likelihoods.Bernoulli(2), prior=pv.priors.Normal(1), seed=0)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     log = pathlib.Path(folder) / "log.csv"
        ...     history = vae.fit(torch.eye(2).repeat(5, 1), epochs=2, callbacks=[CSVLogger(log)], progress=False)
        ...     pv.History.from_csv(log.read_text())["epoch"]
        [1, 2]
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = as_path("path", path)

    def __call__(self, model: Any, history: History) -> None:
        """Write the file."""
        if processes.rank() > 0:
            return
        if self.path.exists() and not self._holds(history):
            raise ValueError(
                f"path must be a new file or hold epochs of this history; got {str(self.path)!r}, which holds something"
                " else. Name another file, or remove it first."
            )
        files.write_text(self.path, history.to_csv())

    def _holds(self, history: History) -> bool:
        """Whether the file and the history agree on their common epochs, apart from the seconds that these took."""
        try:
            before = History.from_csv(self.path.read_text(encoding="utf-8"))
        except (ValueError, csv.Error):
            return False
        same = zip(before.rows, history.rows, strict=False)
        return all(one | {"seconds": None} == other | {"seconds": None} for one, other in same)


class TensorBoard:
    """Write bounds, their parts, the learning rate and seconds of each epoch for TensorBoard.

    Of several processes the first one writes.

    Args:
        folder: the folder of the event files, as `tensorboard --logdir` takes it.

    Raises:
        ImportError: if tensorboard is not installed.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ImportError(
                f"tensorboard must be installed for this callback; got {error}. Run: pip install tensorboard."
            ) from error
        self.writer: Any = SummaryWriter(str(as_path("folder", folder)))

    def __call__(self, model: Any, history: History) -> None:
        """Write the last epoch."""
        if processes.rank() > 0:
            return
        last = history.rows[-1]
        for name, value in last.items():
            if name != "epoch" and value is not None:
                self.writer.add_scalar(name, value, last["epoch"])
        self.writer.flush()
