"""The commands that read rows of a table and write a table."""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path
from typing import Any

from pyro_vae import datasets
from pyro_vae.cli import runs, tables
from pyro_vae.cli.commands import print_written
from pyro_vae.models import VAE
from pyro_vae.tables import Table

__all__ = ["impute", "predict"]


def impute(options: argparse.Namespace) -> int:
    """Impute the missing cells of a file, or of the run's own rows, and write the completed data."""
    vae = runs.read_model(options.run)
    out = tables.check_out(options.out, tables.FORMATS)
    tables.schema_of(vae)  # raises for other data
    if options.single is not None and options.num_imputations is not None:
        raise ValueError(
            f"--num-imputations must be left out with --single, which is one best guess; got {options.num_imputations}."
            " Choose one of both."
        )
    if vae.missing is None:
        raise ValueError(
            "RUN must hold a model that allows for missing cells; got one trained on complete data. Train on a file"
            " with missing cells."
        )
    rows, what, of_file, given = _rows(options, vae)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = vae.impute(
            rows,
            num_imputations=options.num_imputations,
            num_candidates=options.num_candidates,
            single=options.single,
            seed=options.seed,
        )
    print(f"{what}: {found}")
    for warning in caught:
        print(f"Warning: {warning.message}")
    name = "imputations" if options.single is None else "completed"
    out = out or Path(options.run) / f"{name}{of_file}.csv"
    tables.write_frame(out, found.long() if options.single is None else found[0], **given)
    print_written([out])
    return 0


def predict(options: argparse.Namespace) -> int:
    """Draw replicates of the rows of a file, or of the run's own, given their latents; also under other covariates."""
    import pandas

    vae = runs.read_model(options.run)
    schema, out = tables.schema_of(vae), tables.check_out(options.out, tables.FORMATS)
    decode_as = tables.read_fields(vae, "--decode-as", options.decode_as)
    data, what, of_file, given = _rows(options, vae)
    rows, names = vae.read_rows(data, {})
    draws = vae.posterior_predictive(
        rows,
        num_samples=options.draws,
        num_candidates=max(options.draws, options.num_candidates),
        seed=options.seed,
        decode_as=decode_as or None,
    )
    fields = {name: rows.field(name) for name in names if name in {column.name for column in schema.covariates}}
    fields |= {name: vae.read_field(name, value).expand(len(rows)) for name, value in decode_as.items()}
    ids = rows.index or range(len(rows))
    parts = []
    for number, draw in enumerate(draws, 1):
        frame = _as_pandas(schema.frame(draw, fields))
        frame.insert(0, ".draw", number)
        frame.insert(1, ".id", list(ids))
        parts.append(frame)
    under = f", decoded under {', '.join(options.decode_as)}" if options.decode_as else ""
    print(f"{what}: {options.draws} replicate{'s' if options.draws > 1 else ''} of {len(rows):,} rows{under}")
    out = out or Path(options.run) / f"predictions{of_file}.csv"
    tables.write_frame(out, pandas.concat(parts, ignore_index=True), **given | {"header": None})
    print_written([out])
    return 0


def _as_pandas(frame: Any) -> Any:
    return frame.to_pandas() if hasattr(frame, "to_pandas") else frame


def _rows(options: argparse.Namespace, vae: VAE) -> tuple[Any, str, str, dict[str, Any]]:
    """The rows of FILE, or those of the run: these, what they are, the end of a file's name, and how files are written.

    Raises:
        ValueError: if an option about FILE is given without it.
    """
    given = {name: tables.reading_options(vars(options))[name] for name in ("sep", "decimal", "header")}
    if options.file is not None:
        rows = datasets.read_frame(options.file, schema=vae.table_schema, **given)
        return rows, options.file, f"_{Path(options.file).stem}", given
    for name, value in given.items():
        if value is not None:
            raise ValueError(f"--{name} must be given with FILE only; got {value!r}. Leave it out.")
    table: Table = tables.rows_of(runs.read_splits(options.run, options.data_dir))
    return table, "the run's own rows, in the order of their file", "", runs.format_of(options.run)
