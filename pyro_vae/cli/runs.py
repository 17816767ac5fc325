"""Run folders: what `train` leaves there, and how the other commands get it back."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
from itertools import pairwise
from pathlib import Path

import numpy as np

import pyro_vae
from pyro_vae import datasets, loading, saving, storage
from pyro_vae.batches import Rows
from pyro_vae.datasets import Splits
from pyro_vae.history import History
from pyro_vae.vae import VAE

__all__ = ["FILES", "check_folder", "make_folder", "read_model", "read_splits", "write"]

FILES = (
    *("model.safetensors", "config.json", "history.csv", "summary.json", "evaluation.json", "training.png"),
    *("reconstructions.png", "prior_means.png", "prior_draws.png", "interpolation.png", "latents.png", "samples.png"),
    *("report.txt", "report.json", "khat.png", "khat_map.png", "kl.png", "ranks.png", "guide_coverage.png", "pit.png"),
    *("coverage.png", "statistics.png", "traversal.png"),
)


def check_folder(folder: Path, data: str, *, overwrite: bool) -> None:
    """Raise if the folder holds a run that is not to be replaced, or its pictures would join a folder of images.

    Raises:
        ValueError: naming the folder.
    """
    if data not in datasets.names() and folder.resolve().is_relative_to(Path(data).expanduser().resolve()):
        raise ValueError(f"--run-dir must lie outside of DATA, {data!r}; got {str(folder)!r}. Name another.")
    if not overwrite and any((folder / name).exists() for name in ("model.safetensors", "config.json")):
        raise ValueError(f"--run-dir must be a folder without a run; got {str(folder)!r}. Name another or --overwrite.")


def make_folder(folder: Path) -> None:
    """Create the folder, before the time to fill it is spent.

    Raises:
        OSError: if that is impossible.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if not os.access(folder, os.W_OK):
        raise PermissionError(f"--run-dir must be a folder that can be written; got {str(folder)!r}. Choose another.")


def write(folder: Path, vae: VAE, history: History, splits: Splits, options: argparse.Namespace) -> None:
    """Write model, configuration and history; files of an earlier run go."""
    for name in FILES:
        (folder / name).unlink(missing_ok=True)
    named = options.data in datasets.names()
    data = {
        "name": splits.name,
        "path": None if named else str(Path(options.data).expanduser().resolve()),
        "data_dir": options.data_dir,
        "binarize": None if options.binarize == "auto" else options.binarize,
        "unit": splits.unit,
        "sha256": {split: _digest(rows) for split, rows in _parts(splits).items()},
        "indices": {split: _compact(indices) for split, indices in splits.indices.items()},
    }
    elsewhere = ("command", "data", "data_dir", "binarize", "seed", "run_dir", "overwrite")
    kept = {name: value for name, value in vars(options).items() if name not in elsewhere}
    versions = saving.configuration(vae)["versions"] | {"numpy": np.__version__, "pyro_vae": pyro_vae.__version__}
    saving.save(vae, folder, versions=versions, data=data, options=kept, seed=options.seed)
    storage.write_text(folder / "history.csv", history.to_csv())


def read_model(folder: str | os.PathLike[str]) -> VAE:
    """The model of a run.

    Raises:
        FileNotFoundError, ValueError, TypeError: if there is none that can be read.
        NotImplementedError: if it is of a class that these commands cannot picture.
    """
    if not Path(folder).is_dir():
        raise FileNotFoundError(f"RUN must be a folder that `train` wrote; got {str(folder)!r}. Check the name.")
    model = loading.load(folder)
    if not isinstance(model, VAE):
        raise NotImplementedError(f"RUN must hold a VAE; got {type(model).__name__}. Use it from Python.")
    return model


def read_splits(folder: str | os.PathLike[str], data_dir: str | None) -> Splits:
    """The data that a run was trained and tested on.

    Args:
        folder: the run folder.
        data_dir: where the data are now, if not where they were.

    Raises:
        FileNotFoundError: if configuration or data are absent.
        ValueError: if the configuration tells of no data, or the data are not those of the run.
    """
    file = Path(folder) / "config.json"
    if not file.is_file():
        raise FileNotFoundError(f"RUN must hold config.json; got {str(folder)!r} without it. Train again.")
    try:
        data = json.loads(file.read_text(encoding="utf-8"))["data"]
        name, path, sha256 = data["name"], data["path"], data["sha256"]
        old_dir, binarize, indices = data["data_dir"], data["binarize"], data["indices"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{file} must tell which data the run had; got none that can be read. Train again.") from error
    if path is not None:
        name = path if data_dir is None else str(Path(data_dir) / Path(path).name)
    splits = datasets.load(name, data_dir=old_dir if data_dir is None else data_dir, binarize=binarize)
    for split, rows in _parts(splits).items():
        if _digest(rows) != sha256.get(split) or _compact(splits.indices[split]) != indices.get(split):
            raise ValueError(
                f"data must be those of the run, with the SHA-256 in {file}; got other {split} rows from {name!r}."
                " Restore the data, or say where they are with --data-dir."
            )
    return splits


def _parts(splits: Splits) -> dict[str, Rows]:
    return {"train": splits.train, "valid": splits.valid, "test": splits.test}


def _digest(rows: Rows) -> str:
    """SHA-256 of the stored cells, their type and shape."""
    x = rows.x.contiguous().numpy()
    return hashlib.sha256(f"{x.dtype.str} {x.shape}".encode() + x.tobytes()).hexdigest()


def _compact(indices: list[int]) -> str:
    """Row numbers on one line, consecutive ones as first-last: [7, 3, 4, 5] is "7,3-5"."""
    breaks = [0, *(i for i, (a, b) in enumerate(pairwise(indices), 1) if b != a + 1), len(indices)]
    runs = [(indices[start], indices[stop - 1]) for start, stop in pairwise(breaks) if stop > start]
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)
