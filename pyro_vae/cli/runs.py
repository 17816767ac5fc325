"""Run folders: `train` writes them, the other commands read them."""

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
from pyro_vae.cli import tables
from pyro_vae.data.batches import Rows
from pyro_vae.datasets import Splits
from pyro_vae.models import VAE
from pyro_vae.runtime import processes
from pyro_vae.saving import description, files
from pyro_vae.tables import Table
from pyro_vae.training.checkpoints.folder import CheckpointFolder

__all__ = [
    "FILES",
    "belongs_to_this_launch",
    "check_data",
    "check_folder",
    "check_options_of_resume",
    "format_of",
    "open_for_training",
    "read_config",
    "read_model",
    "read_options",
    "read_splits",
    "settle_replacement",
    "write",
]

FILES = (
    *("model.safetensors", "config.json", "history.csv", "summary.json", "model_card.md", "evaluation.json"),
    *("reconstructions.png", "prior_means.png", "prior_draws.png", "interpolation.png", "latents.png", "samples.png"),
    *("report.txt", "report.json", "khat.png", "khat_map.png", "kl.png", "ranks.png", "guide_coverage.png", "pit.png"),
    *("coverage.png", "statistics.png", "traversal.png", "marginals.png", "pairs.png", "missing.png", "imputed.png"),
    *("imputations.csv", "completed.csv", "predictions.csv", "report.html", "training.png"),
)
CHECKPOINTS = "checkpoints/step-*"
REPLACED = ".earlier"  # subfolder with the files of a run that is being replaced, until the new one has a checkpoint


def check_folder(folder: Path, data: str, *, overwrite: bool) -> None:
    """Raise if the folder holds a run and `overwrite` is false, or if it lies within the folder of images of the data.

    Raises:
        ValueError: naming the folder.
    """
    if data not in datasets.names() and folder.resolve().is_relative_to(Path(data).expanduser().resolve()):
        raise ValueError(f"--run-dir must lie outside of DATA, {data!r}; got {str(folder)!r}. Name another.")
    if not overwrite and any((folder / name).exists() for name in ("model.safetensors", "config.json")):
        raise ValueError(
            f"--run-dir must be a folder without a run; got {str(folder)!r}. Name another, replace the run with"
            " --overwrite, or continue it with --resume."
        )


def check_options_of_resume(options: argparse.Namespace) -> None:
    """Raise if an option of `train` contradicts `--resume`.

    Raises:
        ValueError: naming the option.
    """
    recorded = read_options(options.resume)
    data = recorded["data"]
    for name in ("kinds", "covariates"):
        then, now = recorded.get(name), getattr(options, name)
        if now != then:
            raise ValueError(
                f"--{name} must be as in the run that is resumed, {then}; got {now}. Leave it out, or start a new run."
            )
    if options.data != data and {options.data, data} & set(datasets.names()):
        raise ValueError(
            f"DATA must be the data of the run that is resumed, {data!r}; got {options.data!r}. Leave DATA out, or"
            " start a new run."
        )
    for name in ("run_dir", "overwrite"):
        if getattr(options, name):
            option = f"--{name.replace('_', '-')}"
            raise ValueError(
                f"--resume must be given without {option}; got both. Leave {option} out: a run continues in its folder."
            )


@contextmanager
def open_for_training(
    folder: Path, vae: VAE, splits: Splits, options: argparse.Namespace, *, resume: bool
) -> Iterator[None]:
    """Make the folder ready for training within this context.

    A new run gets its `config.json` at once, so that it can be resumed, and the files of an earlier run are set aside.
    If training raises before its first checkpoint, the folder is left as it was; after a kill, `settle_replacement`
    does the same.

    Raises:
        OSError: if the folder can't be made or written.
    """
    new, config = not folder.exists(), folder / "config.json"
    folder.mkdir(parents=True, exist_ok=True)
    old_checkpoints, resumed = set(folder.glob(CHECKPOINTS)), None
    try:
        if resume and config.exists():
            resumed = read_config(folder)
            _record_epochs(folder, resumed, options.epochs)
        else:
            _set_aside(folder)
            files.write_json(config, description.configuration(vae) | _record(vae, splits, options))
        yield
        if (folder / REPLACED).exists() and not _has_checkpoints(folder):
            raise KeyboardInterrupt  # interrupted before the first checkpoint: the earlier run is put back
    except BaseException as error:
        if resumed is not None and isinstance(error, Exception) and old_checkpoints == set(folder.glob(CHECKPOINTS)):
            files.write_json(config, resumed)  # `fit` refused the options: forget the new number of epochs
        elif resumed is None and not _has_checkpoints(folder):
            config.unlink(missing_ok=True)
        raise
    finally:
        settle_replacement(folder)
        if new:
            with suppress(OSError):  # a folder with files stays
                folder.rmdir()


def settle_replacement(folder: Path) -> None:
    """Finish the replacement of a run if the new one has a checkpoint: delete the earlier files. Else put them back.

    Raises:
        RuntimeError: if another process trains there.
    """
    if (folder / "checkpoints").is_dir():
        CheckpointFolder(folder).close()
    aside = folder / REPLACED
    if not aside.is_dir():
        return
    if not (folder / "config.json").exists() or not _has_checkpoints(folder):
        (folder / "config.json").unlink(missing_ok=True)
        files = [path for path in aside.rglob("*") if path.is_file()]
        for file in sorted(files, key=lambda path: path.name == "config.json"):
            _move(file, folder / file.relative_to(aside))
    shutil.rmtree(aside)


def _set_aside(folder: Path) -> None:
    """Move a run into a subfolder, `config.json` first: where that is absent, `settle_replacement` undoes the move."""
    for file in [folder / "config.json", *(folder / name for name in FILES), *folder.glob(CHECKPOINTS)]:
        if file.exists():
            _move(file, folder / REPLACED / file.relative_to(folder))


def _move(file: Path, place: Path) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    file.replace(place)


def _has_checkpoints(folder: Path) -> bool:
    return any(folder.glob(CHECKPOINTS))


def belongs_to_this_launch(folder: Path) -> bool:
    """Whether the run in this folder was started by the same launch of processes (by `torchrun`) as this process."""
    return (folder / "config.json").exists() and read_config(folder).get("launch") == processes.launch()


def _record_epochs(folder: Path, config: dict[str, Any], epochs: int) -> None:
    """Write the number of epochs into the configuration, for a later resume without `--epochs`."""
    if config["options"]["epochs"] != epochs:
        files.write_json(folder / "config.json", config | {"options": config["options"] | {"epochs": epochs}})


def write(folder: Path, vae: VAE, splits: Splits, options: argparse.Namespace) -> None:
    """Write model, configuration and history."""
    description.save(vae, folder, **_record(vae, splits, options))


def _record(vae: VAE, splits: Splits, options: argparse.Namespace) -> dict[str, Any]:
    """What `config.json` records beside the model: versions of packages, data, options, seed and launch."""
    named = options.data in datasets.names()
    data = {
        "name": splits.name,
        "path": None if named else str(Path(options.data).expanduser().resolve()),
        "data_dir": options.data_dir,
        "binarize": None if options.binarize == "auto" else options.binarize,
        "unit": splits.unit,
        "columns": tables.columns_of(splits),
        "sha256": {split: _digest(rows) for split, rows in _rows_by_split(splits).items()},
        "indices": {split: _ranges(indices) for split, indices in splits.indices.items()},
    }
    left_out = ("command", "data", "data_dir", "binarize", "seed", "run_dir", "resume", "overwrite")
    kept = {name: value for name, value in vars(options).items() if name not in left_out}
    versions = description.configuration(vae)["versions"] | {"numpy": np.__version__, "pyro_vae": pyro_vae.__version__}
    return {
        "versions": versions,
        "data": data,
        "options": kept,
        "seed": options.seed,
        "launch": processes.launch(),
    }


def read_options(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """The options of `train` that a run was started with.

    Raises:
        FileNotFoundError, ValueError: if they can't be read.
    """
    if "RANK" not in os.environ:  # one process
        settle_replacement(Path(folder))
    config = read_config(folder)
    data, options = config.get("data"), config.get("options")
    if not isinstance(data, dict) or not isinstance(options, dict):
        raise ValueError(f"{folder} must hold the options of a run; got a config.json without them. Train again.")
    about_data = {name: data.get(name) for name in ("data_dir", "binarize")}
    source = data.get("name") if data.get("path") is None else data["path"]
    texts, seed = [*about_data.values(), source or 0], config.get("seed")
    plain = all(text is None or isinstance(text, str) for text in texts) and isinstance(seed, int | None)
    if not plain or not all(map(_is_option, options.values())) or {"command", "resume"} & options.keys():
        raise ValueError(f"{folder} must hold the options of a run; got a config.json with other values. Train again.")
    options = {"ridge": 0.0} | options
    if "prior" not in options:
        options = options | _options_of_version_0_1(config, options)
    return options | about_data | {"binarize": about_data["binarize"] or "auto", "data": source, "seed": seed}


def _options_of_version_0_1(config: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
    """What its defaults were: prior, guide, the particles of IWAE, and the likelihood where the data chose it."""
    chosen: dict[str, Any] = {"prior": "normal", "guide": "normal"}
    if options.get("elbo") == "iwae" and options.get("num_particles") is None:
        chosen["num_particles"] = 5
    with suppress(KeyError, TypeError):
        if options["likelihood"] == "auto" and config["arguments"]["likelihood"]["class"] == "likelihoods.Binomial":
            chosen["likelihood"] = "binomial"
    return chosen


def _is_option(value: Any) -> bool:
    """Whether this can be the value of an option of `train`: a plain value or a flat list of plain values."""
    values = value if isinstance(value, list) else [value]
    return all(description.is_plain(part) and not isinstance(part, list) for part in values)


def read_config(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """The content of `config.json`.

    Raises:
        FileNotFoundError, ValueError: if it is absent, or can't be read.
    """
    file = Path(folder) / "config.json"
    if not file.is_file():
        raise FileNotFoundError(f"RUN must hold config.json; got {str(folder)!r} without it. Train again.")
    try:
        return dict(json.loads(file.read_text(encoding="utf-8")))
    except (ValueError, TypeError, RecursionError, MemoryError) as error:
        raise ValueError(f"{file} must name the data of the run; got nothing that can be read. Train again.") from error


def read_model(folder: str | os.PathLike[str]) -> VAE:
    """The model of a run.

    Raises:
        FileNotFoundError, ValueError, TypeError: if there is none that can be read.
        NotImplementedError: if it is not a `VAE`; the commands handle no other model.
    """
    if not Path(folder).is_dir():
        raise FileNotFoundError(f"RUN must be a folder that `train` wrote; got {str(folder)!r}. Check the name.")
    if _has_checkpoints(Path(folder)) and not (Path(folder) / "model.safetensors").exists():
        raise FileNotFoundError(
            f"RUN must hold a run that has ended; got {str(folder)!r}, which has no model.safetensors yet."
            f" Continue the run: pyro-vae train --resume {folder}."
        )
    model = loading.load(folder)
    if not isinstance(model, VAE):
        raise NotImplementedError(f"RUN must hold a VAE; got {type(model).__name__}. Use it from Python.")
    return model


def read_splits(folder: str | os.PathLike[str], data_dir: str | None) -> Splits:
    """The data that a run was trained and tested on.

    Args:
        folder: the run folder.
        data_dir: folder of the data, if they have moved since training; else None.

    Raises:
        FileNotFoundError: if the configuration or the data are absent.
        ValueError: if the configuration names no data, or the data are not those of the run.
    """
    file, config = Path(folder) / "config.json", read_config(folder)
    try:
        data = config["data"]
        name, path, sha256 = data["name"], data["path"], data["sha256"]
        old_dir, binarize, indices = data["data_dir"], data["binarize"], data["indices"]
        table = tables.reading_options(dict(config.get("options", {})))
        malformed = not isinstance(sha256, dict) or not isinstance(indices, dict) or not isinstance(name, str)
        if malformed or not all(text is None or isinstance(text, str) for text in (path, old_dir, binarize)):
            raise TypeError("values of other types")
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{file} must name the data of the run; got nothing that can be read. Train again.") from error
    if path is not None:
        name = path if data_dir is None else str(Path(data_dir) / Path(path).name)
    splits = tables.load(name, data_dir=old_dir if data_dir is None else data_dir, binarize=binarize, **table)
    tables.check_columns(data.get("columns"), splits)
    for split, rows in _rows_by_split(splits).items():
        if _digest(rows) != sha256.get(split) or _ranges(splits.indices[split]) != indices.get(split):
            raise ValueError(
                f"data must be those of the run, with the SHA-256 in {file}; got other {split} rows from {name!r}."
                " Restore the data, or give the folder where they are now as --data-dir."
            )
    return splits


def _digest(rows: Rows) -> str:
    """The SHA-256 of the cells of x, and of each covariate of a table."""
    names = [column.name for column in rows.schema.covariates] if isinstance(rows, Table) else []
    found = rows.digests(names)
    return "\n".join([found["x"], *(f"{name} {found[name]}" for name in names)])


def check_data(folder: str | os.PathLike[str], splits: Splits) -> None:
    """Raise a ValueError if the table of a run that is resumed has other columns; `fit` compares their cells."""
    data = read_config(folder).get("data")
    tables.check_columns(data.get("columns") if isinstance(data, dict) else None, splits)


def format_of(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """How the .csv file of a run was read, which is how such files are written."""
    kept = tables.reading_options({**dict(read_config(folder).get("options", {})), "kinds": None, "covariates": None})
    return {name: kept[name] for name in ("sep", "decimal", "header")}


def _rows_by_split(splits: Splits) -> dict[str, Rows]:
    return {"train": splits.train, "valid": splits.valid, "test": splits.test}


def _ranges(indices: list[int]) -> str:
    """Row indices as text, consecutive ones as a range: [7, 3, 4, 5] is "7,3-5"."""
    breaks = [0, *(i for i, (a, b) in enumerate(pairwise(indices), 1) if b != a + 1), len(indices)]
    ranges = [(indices[start], indices[stop - 1]) for start, stop in pairwise(breaks) if stop > start]
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in ranges)
