"""The pages for a browser: the report of a run, and the latent explorer of one or two runs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pyro_vae.cli import results, runs
from pyro_vae.criticism.diagnosis import Diagnosis
from pyro_vae.datasets import Splits
from pyro_vae.models import VAE

__all__ = ["explore", "report"]


def report(
    folder: Path, vae: VAE, splits: Splits, evaluation: dict[str, Any], found: Diagnosis
) -> tuple[list[Path], str]:
    """Write `report.html`; returns the files, and one line on what is missing where it could not be made."""
    from pyro_vae.web.report import Content, write

    content = Content(
        run=folder.resolve().name,
        vae=vae,
        splits=splits,
        found=found,
        numbers=_of_training(folder) | {"test": evaluation["test"]},
        lines=results.lines(evaluation),
        notes=results.notes(evaluation),
        config=runs.read_config(folder),
        seed=evaluation["seed"],
    )
    try:
        return [write(folder / "report.html", content)], ""
    except ImportError as error:
        return [], str(error)


def _of_training(folder: Path) -> dict[str, Any]:
    """The numbers of training and validation rows, which `train` computed; none where its summary can't be read."""
    try:
        summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
        return {split: summary[split] for split in ("valid", "train") if "elbo" in summary[split]}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def explore(names: Sequence[str], port: int, data_dir: str | None, *, browser: bool) -> int:
    """Serve the latent explorer of these runs until Ctrl-C.

    Raises:
        ImportError: if dash is not installed.
        NotImplementedError: if the latents of a model are not one vector of real numbers for each row.
        ValueError: if the runs have other test rows.
        OSError: if the port is in use.
    """
    from pyro_vae.web import server

    server.check_installed()  # before data are read
    explored = []
    for name in names:
        vae, splits = runs.read_model(name), runs.read_splits(name, data_dir)
        explored.append((Path(name).resolve().name, vae, splits))
    return server.serve(explored, port, browser=browser)
