"""Run folders: what `train` leaves there, and how the other commands get it back."""

from __future__ import annotations

import argparse
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

import pyro_vae
from pyro_vae import datasets, loading
from pyro_vae.data.batches import Rows
from pyro_vae.datasets import Splits
from pyro_vae.runtime import processes
from pyro_vae.saving import description, files
from pyro_vae.training.checkpoints.folder import CheckpointFolder
from pyro_vae.training.history import History
from pyro_vae.vae import VAE

__all__ = [
    "FILES",
    "begun",
    "begun_here",
    "check_folder",
    "check_resumed",
    "read_model",
    "read_options",
    "read_splits",
    "settle",
    "write",
]

FILES = (
    *("model.safetensors", "config.json", "history.csv", "summary.json", "evaluation.json", "training.png"),
    *("reconstructions.png", "prior_means.png", "prior_draws.png", "interpolation.png", "latents.png", "samples.png"),
    *("report.txt", "report.json", "khat.png", "khat_map.png", "kl.png", "ranks.png", "guide_coverage.png", "pit.png"),
    *("coverage.png", "statistics.png", "traversal.png"),
)
CHECKPOINTS = "checkpoints/step-*"
EARLIER = ".earlier"  # where files of a run are that is being replaced, until the new one has a checkpoint


def check_folder(folder: Path, data: str, *, overwrite: bool) -> None:
    """Raise if the folder holds a run that is not to be replaced, or its pictures would join a folder of images.

    Raises:
        ValueError: naming the folder.
    """
    if data not in datasets.names() and folder.resolve().is_relative_to(Path(data).expanduser().resolve()):
        raise ValueError(f"--run-dir must lie outside of DATA, {data!r}; got {str(folder)!r}. Name another.")
    if not overwrite and any((folder / name).exists() for name in ("model.safetensors", "config.json")):
        raise ValueError(
            f"--run-dir must be a folder without a run; got {str(folder)!r}. Name another, --overwrite it,"
            " or go on with it by --resume."
        )


def check_resumed(options: argparse.Namespace) -> None:
    """Raise if options of `train` cannot go with `--resume`.

    Raises:
        ValueError: naming the option.
    """
    told = read_options(options.resume)["data"]
    if options.data != told and {options.data, told} & set(datasets.names()):
        raise ValueError(
            f"--resume must go on with the data of the run, {told!r}; got {options.data!r}. Leave DATA out, or begin"
            " another run."
        )
    for name in ("run_dir", "overwrite"):
        if getattr(options, name):
            raise ValueError(
                f"--resume must come without --{name.replace('_', '-')}; got both. A run goes on in its own folder."
            )


@contextmanager
def begun(folder: Path, vae: VAE, splits: Splits, options: argparse.Namespace, *, resume: bool) -> Iterator[None]:
    """Begin a run: the configuration is there from the start, so that it can be gone on with; files of an earlier go.

    If what is within raises before there is a checkpoint, all is left as it was; `settle` does so after a kill.

    Raises:
        OSError: if the folder can't be made or written.
    """
    new, config = not folder.exists(), folder / "config.json"
    folder.mkdir(parents=True, exist_ok=True)
    known, earlier = set(folder.glob(CHECKPOINTS)), None
    try:
        if resume and config.exists():
            earlier = _read_config(folder)
            _note_epochs(folder, earlier, options.epochs)
        else:
            _set_aside(folder)
            files.write_json(config, description.configuration(vae) | _facts(vae, splits, options))
        yield
        if (folder / EARLIER).exists() and not _has_checkpoints(folder):
            raise KeyboardInterrupt  # what there is does not replace a run
    except BaseException as error:
        if earlier is not None and isinstance(error, Exception) and known == set(folder.glob(CHECKPOINTS)):
            files.write_json(config, earlier)  # it was refused
        elif earlier is None and not _has_checkpoints(folder):
            config.unlink(missing_ok=True)
        raise
    finally:
        settle(folder)
        if new:
            with suppress(OSError):  # it is not empty
                folder.rmdir()


def settle(folder: Path) -> None:
    """Let an earlier run that was set aside go if the new one has a checkpoint, else put it back.

    Raises:
        RuntimeError: if another process trains there.
    """
    if (folder / "checkpoints").is_dir():
        CheckpointFolder(folder).close()
    aside = folder / EARLIER
    if not aside.is_dir():
        return
    if not (folder / "config.json").exists() or not _has_checkpoints(folder):
        (folder / "config.json").unlink(missing_ok=True)
        files = [path for path in aside.rglob("*") if path.is_file()]
        for file in sorted(files, key=lambda path: path.name == "config.json"):
            _move(file, folder / file.relative_to(aside))
    shutil.rmtree(aside)


def _set_aside(folder: Path) -> None:
    """Move the files of a run, its configuration first: where that is absent, the move is to be undone."""
    for file in [folder / "config.json", *(folder / name for name in FILES), *folder.glob(CHECKPOINTS)]:
        if file.exists():
            _move(file, folder / EARLIER / file.relative_to(folder))


def _move(file: Path, place: Path) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    file.replace(place)


def _has_checkpoints(folder: Path) -> bool:
    return any(folder.glob(CHECKPOINTS))


def begun_here(folder: Path) -> bool:
    """Whether the run in this folder was begun by the launch that these processes were started again by."""
    return (folder / "config.json").exists() and _read_config(folder).get("launch") == processes.launch()


def _note_epochs(folder: Path, config: dict[str, Any], epochs: int) -> None:
    """Let the configuration tell how long a run is to be now, also after another interruption."""
    if config["options"]["epochs"] != epochs:
        files.write_json(folder / "config.json", config | {"options": config["options"] | {"epochs": epochs}})


def write(folder: Path, vae: VAE, history: History, splits: Splits, options: argparse.Namespace) -> None:
    """Write model, configuration and history."""
    description.save(vae, folder, **_facts(vae, splits, options))
    files.write_text(folder / "history.csv", history.to_csv())


def _facts(vae: VAE, splits: Splits, options: argparse.Namespace) -> dict[str, Any]:
    """What the configuration tells beside the model: releases, data, options, seed."""
    named = options.data in datasets.names()
    data = {
        "name": splits.name,
        "path": None if named else str(Path(options.data).expanduser().resolve()),
        "data_dir": options.data_dir,
        "binarize": None if options.binarize == "auto" else options.binarize,
        "unit": splits.unit,
        "sha256": {split: rows.digests()["x"] for split, rows in _parts(splits).items()},
        "indices": {split: _compact(indices) for split, indices in splits.indices.items()},
    }
    elsewhere = ("command", "data", "data_dir", "binarize", "seed", "run_dir", "resume", "overwrite")
    kept = {name: value for name, value in vars(options).items() if name not in elsewhere}
    versions = description.configuration(vae)["versions"] | {"numpy": np.__version__, "pyro_vae": pyro_vae.__version__}
    told = {"versions": versions, "data": data, "options": kept, "seed": options.seed}
    return told | {"launch": processes.launch()}


def read_options(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """The options of `train` that a run was begun with.

    Raises:
        FileNotFoundError, ValueError: if they can't be read.
    """
    if "RANK" not in os.environ:  # one process
        settle(Path(folder))
    config = _read_config(folder)
    data, options = config.get("data"), config.get("options")
    if not isinstance(data, dict) or not isinstance(options, dict):
        raise ValueError(f"{folder} must hold the options of a run; got a config.json without. Train again.")
    told = {name: data.get(name) for name in ("data_dir", "binarize")}
    source = data.get("name") if data.get("path") is None else data["path"]
    texts, seed = [*told.values(), source or 0], config.get("seed")
    plain = all(text is None or isinstance(text, str) for text in texts) and isinstance(seed, int | None)
    if not plain or not all(map(_is_plain, options.values())) or {"command", "resume"} & options.keys():
        raise ValueError(f"{folder} must hold the options of a run; got a config.json with others. Train again.")
    return options | told | {"binarize": told["binarize"] or "auto", "data": source, "seed": config.get("seed")}


def _is_plain(value: Any) -> bool:
    values = value if isinstance(value, list) else [value]
    return all(part is None or isinstance(part, bool | int | float | str) for part in values)


def _read_config(folder: str | os.PathLike[str]) -> dict[str, Any]:
    file = Path(folder) / "config.json"
    if not file.is_file():
        raise FileNotFoundError(f"RUN must hold config.json; got {str(folder)!r} without it. Train again.")
    try:
        return dict(json.loads(file.read_text(encoding="utf-8")))
    except (ValueError, TypeError, RecursionError, MemoryError) as error:
        raise ValueError(f"{file} must tell which data the run had; got none that can be read. Train again.") from error


def read_model(folder: str | os.PathLike[str]) -> VAE:
    """The model of a run.

    Raises:
        FileNotFoundError, ValueError, TypeError: if there is none that can be read.
        NotImplementedError: if it is of a class that these commands cannot picture.
    """
    if not Path(folder).is_dir():
        raise FileNotFoundError(f"RUN must be a folder that `train` wrote; got {str(folder)!r}. Check the name.")
    if _has_checkpoints(Path(folder)) and not (Path(folder) / "model.safetensors").exists():
        raise FileNotFoundError(
            f"RUN must hold a run that has ended; got {str(folder)!r}, which has no model.safetensors yet."
            f" Go on with it: pyro-vae train --resume {folder}."
        )
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
    file, config = Path(folder) / "config.json", _read_config(folder)
    try:
        data = config["data"]
        name, path, sha256 = data["name"], data["path"], data["sha256"]
        old_dir, binarize, indices = data["data_dir"], data["binarize"], data["indices"]
        strange = not isinstance(sha256, dict) or not isinstance(indices, dict) or not isinstance(name, str)
        if strange or not all(text is None or isinstance(text, str) for text in (path, old_dir, binarize)):
            raise TypeError("values of other types")
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{file} must tell which data the run had; got none that can be read. Train again.") from error
    if path is not None:
        name = path if data_dir is None else str(Path(data_dir) / Path(path).name)
    splits = datasets.load(name, data_dir=old_dir if data_dir is None else data_dir, binarize=binarize)
    for split, rows in _parts(splits).items():
        if rows.digests()["x"] != sha256.get(split) or _compact(splits.indices[split]) != indices.get(split):
            raise ValueError(
                f"data must be those of the run, with the SHA-256 in {file}; got other {split} rows from {name!r}."
                " Restore the data, or say where they are with --data-dir."
            )
    return splits


def _parts(splits: Splits) -> dict[str, Rows]:
    return {"train": splits.train, "valid": splits.valid, "test": splits.test}


def _compact(indices: list[int]) -> str:
    """Row numbers on one line, consecutive ones as first-last: [7, 3, 4, 5] is "7,3-5"."""
    breaks = [0, *(i for i, (a, b) in enumerate(pairwise(indices), 1) if b != a + 1), len(indices)]
    runs = [(indices[start], indices[stop - 1]) for start, stop in pairwise(breaks) if stop > start]
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)
