"""What the commands do for tables: kinds of columns, and frames in files."""

from __future__ import annotations

import argparse
import csv
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pyro_vae import datasets
from pyro_vae.covariates import Time
from pyro_vae.datasets import Splits
from pyro_vae.models import VAE
from pyro_vae.tables import KINDS, Binary, Categorical, Ordinal, Table, TableSchema

__all__ = [
    "FORMATS",
    "check_columns",
    "check_options",
    "check_out",
    "columns_of",
    "load",
    "needs_missing",
    "read_fields",
    "read_kinds",
    "read_names",
    "reading_options",
    "refuse_table",
    "rows_of",
    "schema_of",
    "write_frame",
]

FORMATS = (".csv", ".parquet")
TRUTH = {"true": "1", "false": "0"}  # levels of a column of truth values
LEVELS: dict[str, Any] = {"binary": Binary, "ordinal": Ordinal, "categorical": Categorical}


def read_kinds(text: str | None) -> dict[str, Any] | None:
    """The option `--kinds`: "visits=count,grade=ordinal:low:high" is {"visits": "count", "grade": Ordinal(...)}.

    Raises:
        ValueError: if it is not such a list, names a column twice, or a value is no kind.
    """
    if text is None:
        return None
    kinds: dict[str, Any] = {}
    for entry in next(csv.reader([text])):
        name, equals, kind = entry.rpartition("=")
        if not (name and equals and kind):
            raise ValueError(
                f"--kinds must be COLUMN=KIND, separated by commas; got {entry!r}. Pass e.g. visits=count,id=leave_out."
            )
        if name in kinds:
            raise ValueError(f"--kinds must name each column once; got {name!r} twice. Choose one kind.")
        kind, *levels = kind.split(":")
        if kind not in (*KINDS, "leave_out"):
            known = ", ".join((*KINDS, "leave_out"))
            raise ValueError(f"--kinds must give {name!r} one of the kinds {known}; got {kind!r}. Choose one.")
        if levels and kind not in LEVELS:
            raise ValueError(
                f"--kinds must give levels to the kinds {', '.join(LEVELS)} only; got {entry!r}. Leave them out."
            )
        kinds[name] = LEVELS[kind](_numbers_or_text(levels)) if levels else kind
    return kinds


def _numbers_or_text(levels: list[str]) -> Sequence[Any]:
    """Levels as whole numbers if all are, as a column that holds them is read."""
    return [int(level) for level in levels] if all(level.isdecimal() for level in levels) else levels


def load(name: str, **options: Any) -> Splits:
    """The data; that columns are left out is said by the table, which `train` prints, and so not by a warning."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Columns are left out", UserWarning)
        return datasets.load(name, **options)


def check_options(options: argparse.Namespace) -> None:
    """Raise a ValueError if an option of `train` has no meaning for tables."""
    if options.likelihood != "auto":
        raise ValueError(
            f"--likelihood must be auto for a table, whose columns have likelihoods by their kinds; got"
            f" {options.likelihood}. Choose kinds: --kinds COLUMN=KIND."
        )
    if options.net != "mlp":
        raise ValueError(f"--net must be mlp for a table, which is no image; got {options.net}. Leave it out.")


def needs_missing(splits: Splits) -> bool:
    """Whether a cell is missing in any row."""
    return any(rows.has_missing for rows in (splits.train, splits.valid, splits.test))


def columns_of(splits: Splits) -> dict[str, Any] | None:
    """The kinds of the columns of a table as JSON values, by name; None for other data."""
    if splits.table is None:
        return None
    schema = splits.table.schema
    plain: dict[str, Any] = {name: kind.to_plain() for name, kind in schema.kinds.items()}
    return plain | {column.name: column.kind.to_plain() | {"covariate": True} for column in schema.covariates}


def check_columns(recorded: Any, splits: Splits) -> None:
    """Raise a ValueError if the table of a run has columns of other kinds now, such as other levels.

    Args:
        recorded: what `columns_of` returned when the run was new; runs of earlier versions have no record.
        splits: the data as they are now.
    """
    found = columns_of(splits) or {}
    if isinstance(recorded, dict) and (recorded != found or list(recorded) != list(found)):
        first = next((n for n in (*recorded, *found) if recorded.get(n) != found.get(n)), "in another order")
        raise ValueError(
            f"data must have the columns that they had when the run was new; got another column {first!r} from"
            f" {splits.name!r}. Restore the data, or give the folder where they are now as --data-dir."
        )


def reading_options(options: dict[str, Any]) -> dict[str, Any]:
    """The options of `train`, those recorded by earlier versions too, that say how a table is read."""
    sep = options.get("sep")
    return {
        "sep": "\t" if sep == "\\t" else sep,  # as a shell passes it
        "decimal": options.get("decimal"),
        "header": options.get("header"),
        "kinds": read_kinds(options.get("kinds")),
        "covariates": read_names(options.get("covariates")),
    }


def read_names(text: str | None) -> tuple[str, ...] | None:
    """The option `--covariates`: "age,site" is ("age", "site")."""
    return None if text is None else tuple(next(csv.reader([text])))


def read_fields(vae: VAE, option: str, entries: Sequence[str]) -> dict[str, Any]:
    """Values of options NAME=VALUE, as covariates take them: ["site=B", "age=50"] is {"site": "B", "age": 50.0}.

    Raises:
        ValueError: if an entry is no such pair, or names no covariate, or one twice, or a number is needed.
    """
    kinds = {} if vae.covariates is None else dict(vae.covariates.kinds)
    found: dict[str, Any] = {}
    for entry in entries:
        name, equals, text = entry.partition("=")
        if not equals or name not in kinds:
            known = ", ".join(kinds) or "the run has none"
            raise ValueError(f"{option} must be NAME=VALUE for a covariate ({known}); got {entry!r}. Correct it.")
        if name in found:
            raise ValueError(f"{option} must name each covariate once; got {name!r} twice. Choose one value.")
        takes_text = isinstance(kinds[name], Time) or kinds[name].level_names is not None
        found[name] = text if takes_text else _number(option, entry, text)
    return found


def _number(option: str, entry: str, text: str) -> float:
    try:
        return float(TRUTH.get(text.lower(), text))
    except ValueError:
        raise ValueError(f"{option} must give this covariate a number; got {entry!r}. Correct it.") from None


def rows_of(splits: Splits) -> Table:
    """All rows of a run on a table.

    Raises:
        ValueError: if the run is on other data.
    """
    if splits.table is None:
        raise ValueError(f"the data of the run must be a .csv or .parquet file; got {splits.name!r}. Train on a table.")
    return splits.table


def schema_of(vae: VAE) -> TableSchema:
    """The columns of the table that a model was trained on.

    Raises:
        ValueError: if it was trained on other data.
    """
    if vae.table_schema is None:
        raise ValueError(
            "RUN must hold a model of a table; got one of other data. Train on a .csv or .parquet file, or use"
            " `vae.impute` from Python."
        )
    return vae.table_schema


def refuse_table(vae: VAE, command: str, instead: str) -> None:
    """Raise a ValueError if the model is one of a table, for which a command has no meaning."""
    if vae.table_schema is not None:
        raise ValueError(f"RUN of {command} must be on images or vectors; got one on a table. {instead}")


def check_out(out: str | None, formats: Sequence[str]) -> Path | None:
    """The file of `--out`, which must be a new one of one of these formats, in a folder that exists."""
    file = None if out is None else Path(out)
    if file is not None and (file.suffix.lower() not in formats or not file.parent.is_dir()):
        raise ValueError(
            f"--out must be a {' or '.join(formats)} file in a folder that exists; got {out!r}. Change the name."
        )
    if file is not None and file.exists():
        raise ValueError(f"--out must be a new file; got {out!r}, which exists. Name another, or remove it first.")
    return file


def write_frame(file: Path, frame: Any, *, sep: str | None, decimal: str | None, header: bool | None) -> None:
    """Write a frame of pandas into a .csv or .parquet file; names of rows come first, unless they count from 0.

    Args:
        file: the file.
        frame: the frame.
        sep: as in `load`; a .csv file is written as one was read.
        decimal: as in `load`.
        header: as in `load`; imputations in long form have a header in any case.
    """
    import pandas

    counted = isinstance(frame.index, pandas.RangeIndex) and frame.index.equals(pandas.RangeIndex(len(frame)))
    if file.suffix.lower() == ".parquet":
        frame.to_parquet(file)
        return
    decimal = decimal or "."
    sep = sep or (";" if decimal == "," else ",")
    frame.to_csv(file, sep=sep, decimal=decimal, header=header is not False or ".imp" in frame, index=not counted)
