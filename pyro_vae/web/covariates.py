"""Covariates on a page: their kinds, what they reach, and their values in words."""

from __future__ import annotations

from torch import Tensor

from pyro_vae.covariates import Covariate, Levels
from pyro_vae.data.rows import Rows
from pyro_vae.models import VAE
from pyro_vae.tables import Kind
from pyro_vae.tables.covariates import codes_of
from pyro_vae.web.views import text_of

__all__ = ["cells_of", "in_words", "kinds_of_columns", "lines_of", "reached", "under"]

MOST_WORDS = 8  # covariates of a row that are named, in words
ROLES = {"encoder": "the encoder", "decoder": "the decoder", "prior": "the prior"}


def reached(vae: VAE) -> str:
    """What the covariates of a model reach, in words."""
    return " and ".join(", ".join(ROLES[role] for role in vae.covariates.into).rsplit(", ", 1))


def under(vae: VAE, rows: str) -> str:
    """Words about the covariates under which something was drawn, such as " under the covariates of ..."; or none."""
    names = [] if vae.covariates is None else vae.covariates.names
    return f", under the covariate{'s' if len(names) > 1 else ''} of {rows}" if names else ""


def lines_of(vae: VAE) -> list[tuple[str, str, str]]:
    """Name, kind, and levels or range of each covariate."""
    if vae.covariates is None:
        return []
    columns = kinds_of_columns(vae)
    return [
        (name, columns[name].name, columns[name].describe()) if name in columns else (name, *_described(kind))
        for name, kind in vae.covariates.kinds
    ]


def _described(kind: Covariate) -> tuple[str, str]:
    """The name of a kind of covariate, and its levels or the shape of its values."""
    if isinstance(kind, Levels):
        return "levels", f"levels {', '.join(map(str, kind.levels))} ({len(kind.levels)})"
    shape = " x ".join(map(str, kind.shape))
    return type(kind).__name__.lower(), f"an array {shape} in each row" if shape else ""


def in_words(vae: VAE, rows: Rows) -> list[str]:
    """The covariates of each row, such as "age 41, site B"; empty where the model has none."""
    if vae.covariates is None:
        return [""] * len(rows)
    columns, shown = kinds_of_columns(vae), vae.covariates.kinds[:MOST_WORDS]
    cells = [
        [f"{name} {cell}" for cell in cells_of(kind, columns.get(name), rows.field(name))]
        for name, kind in shown
        if not kind.shape
    ]
    rest = len(vae.covariates.kinds) - len(cells)
    more = [f"{rest} more"] if rest and cells else []
    return [", ".join([*row, *more]) for row in zip(*cells, strict=True)] or [f"{rest} covariates"] * len(rows)


def kinds_of_columns(vae: VAE) -> dict[str, Kind]:
    """The kinds of the columns of a table that are covariates, by name."""
    schema = vae.table_schema
    return {} if schema is None else {column.name: column.kind for column in schema.covariates}


def cells_of(kind: Covariate, column: Kind | None, values: Tensor) -> list[str]:
    """Values (N,) of a covariate in words."""
    if column is not None:
        return [text_of(cell) for cell in column.decode(codes_of(column, values))]
    if isinstance(kind, Levels):
        names = dict(zip(kind.numbers.tolist(), map(str, kind.levels), strict=True))
        return [names.get(int(value), str(int(value))) for value in values.tolist()]
    return [text_of(value) for value in values.double().tolist()]
