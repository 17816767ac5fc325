"""The pictures of a run on a table: data beside draws from the model, missing cells and what is imputed for them."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from pyro_vae import plots
from pyro_vae.criticism.latents.conditions import at_random
from pyro_vae.inference.pareto import UnreliableWarning
from pyro_vae.models import VAE
from pyro_vae.tables import Table, TableSchema
from pyro_vae.web.covariates import under

__all__ = ["of_run", "sampled"]

MOST_ROWS = 5000  # of the data in a picture, the first ones
NUM_DRAWS = 2000
MOST_IMPUTED, NUM_IMPUTATIONS = 1000, 5
PAIRED = 4  # columns in the scatter plots


def of_run(folder: Path, vae: VAE, table: Table, *, seed: int) -> list[Path]:
    """Write the pictures of a table; returns the files."""
    rows = table.subset(slice(0, MOST_ROWS))
    schema, x = rows.schema, rows.x
    drawn = vae.sample(NUM_DRAWS, seed=seed, fields=at_random(vae, rows, NUM_DRAWS, seed))
    samples, given = {"data": schema.decode(x), "model": schema.decode(drawn)}, under(vae, "rows chosen at random")
    about = f"{len(rows):,} rows of data (observed cells) and {NUM_DRAWS:,} draws from the model{given}"
    levels = _levels(schema)
    files = [_write(folder / "marginals.png", lambda f: plots.marginals(samples, levels=levels, title=about, figure=f))]
    paired = _most_related(schema, x.numpy())
    if len(paired) > 1:
        title = f"Rows of data, and as many draws from the model{given}"
        files.append(_write(folder / "pairs.png", lambda f: plots.pairs(samples, names=paired, title=title, figure=f)))
    missing = x.isnan()
    if missing.any() and vae.missing is not None:
        share = f"Missing cells: {missing.double().mean():.1%}"
        draw = partial(plots.missing_pattern, missing, schema.names, title=share)
        files.append(_write(folder / "missing.png", lambda f: draw(figure=f)))
        files.append(_imputed(folder / "imputed.png", vae, rows, levels, seed))
    return files


def sampled(file: Path, schema: TableSchema, x: Tensor) -> Path:
    """Draws from the model of a table, column by column."""
    title, samples = f"{len(x):,} draws from the model", {"model": schema.decode(x)}
    return _write(file, lambda f: plots.marginals(samples, levels=_levels(schema), title=title, figure=f))


def _imputed(file: Path, vae: VAE, rows: Table, levels: dict[str, Any], seed: int) -> Path:
    """Observed cells beside imputed ones."""
    incomplete = rows.x.isnan().any(1).nonzero().flatten()[:MOST_IMPUTED]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnreliableWarning)  # `impute` says it
        found = vae.impute(rows.subset(incomplete), num_imputations=NUM_IMPUTATIONS, seed=seed)
    values = found.values.double().masked_fill(found.observed, np.nan).flatten(0, 1)
    title = f"Observed cells, and {NUM_IMPUTATIONS} imputations of missing ones ({len(incomplete):,} incomplete rows)"
    observed, drawn = rows.schema.decode(rows.x), rows.schema.decode(values)
    return _write(file, lambda f: plots.imputed(observed, drawn, levels=levels, title=title, figure=f))


def _levels(schema: TableSchema) -> dict[str, Any]:
    """The levels of the columns that have any, in order."""
    return {name: kind.levels for name, kind in schema.kinds.items() if hasattr(kind, "levels")}


def _most_related(schema: TableSchema, x: np.ndarray) -> Sequence[str]:
    """Up to four columns of numbers or times, in order, whose ranks are most correlated with one of the others."""
    places = [i for i, name in enumerate(schema.names) if schema.holds_numbers(name) and not np.isnan(x[:, i]).all()]
    if len(places) <= PAIRED:
        return [schema.names[i] for i in places]
    ranks = np.stack([_ranks(x[:, i]) for i in places])
    related = np.abs(np.corrcoef(ranks)) - np.eye(len(places))
    chosen = sorted(np.argsort(-np.nan_to_num(related).max(1), kind="stable")[:PAIRED].tolist())
    return [schema.names[places[i]] for i in chosen]


def _ranks(cells: np.ndarray) -> np.ndarray:
    """Ranks, with the mean rank where a cell is missing."""
    ranks, known = np.zeros(len(cells)), ~np.isnan(cells)
    _, place, counts = np.unique(cells[known], return_inverse=True, return_counts=True)
    middle = np.cumsum(counts) - (counts - 1) / 2
    ranks[known] = middle[place] - middle[place].mean()
    return ranks


def _write(file: Path, draw: Callable[[Figure], Any]) -> Path:
    """Draw into a new figure that is not registered with pyplot, so that no display is needed, and write it."""
    figure = Figure()
    draw(figure)
    figure.savefig(file, dpi=150, metadata={"Title": file.stem})
    return file
