"""One function for each command: it takes the options, writes files, prints results and returns the exit code."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np

from pyro_vae import datasets, reporting
from pyro_vae.cli import choices, pages, results, runs, tables
from pyro_vae.cli.card import model_card
from pyro_vae.cli.scoring import Scoring
from pyro_vae.criticism.diagnosis import FEWEST_ROWS, diagnose
from pyro_vae.datasets import Splits
from pyro_vae.model import LatentVariableModel
from pyro_vae.models import VAE
from pyro_vae.runtime import processes
from pyro_vae.saving import files
from pyro_vae.training.history import History

__all__ = [
    "INTERRUPTED",
    "evaluate",
    "explore",
    "interpolate",
    "list_datasets",
    "print_written",
    "reconstruct",
    "sample",
    "train",
]

INTERRUPTED = 130  # exit code after Ctrl-C, as shells have it


def train(options: argparse.Namespace) -> int:
    """Train a model, and write it with its numbers and pictures into the run folder."""
    with processes.launched():
        return _train(options)


def _train(options: argparse.Namespace) -> int:
    folder = Path(options.resume or options.run_dir or Path("runs") / Path(options.data).resolve().stem)
    resume, writes = options.resume is not None, processes.rank() == 0  # process 0 alone writes files and prints
    if resume:
        runs.check_options_of_resume(options)
    if writes:
        runs.settle_replacement(folder)
        resume = resume or (processes.restarted() and runs.belongs_to_this_launch(folder))
        if not resume:
            runs.check_folder(folder, options.data, overwrite=options.overwrite)
    resume = processes.agree_on(resume)
    binarize = None if options.binarize == "auto" else options.binarize
    reading = tables.reading_options(vars(options))
    splits = tables.load(options.data, data_dir=options.data_dir, binarize=binarize, **reading)
    if resume and writes:
        runs.check_data(folder, splits)
    vae, chosen = choices.model(options, splits), choices.training(options, splits)
    if splits.table is not None and writes:
        print(f"{splits.table}\n\nOther kinds: --kinds COLUMN=KIND,... (leave_out: not modelled)\n", flush=True)
    start = time.perf_counter()
    with runs.open_for_training(folder, vae, splits, options, resume=resume) if writes else nullcontext():
        history = vae.fit(
            splits.train,
            **chosen,
            callbacks=[] if sys.stderr.isatty() or not writes else [_print_epochs(options.epochs)],
            run_dir=folder,
            resume=resume,
        )
    seconds = time.perf_counter() - start
    if writes:
        runs.write(folder, vae, splits, options)
        _print_training_ended(len(history), history.interrupted, len(splits.test))
    summary = results.summarize(vae, splits, history, options.elbo, chosen["elbo"], options, seconds)
    if writes:
        _finish(folder, vae, splits, history, summary, options)
    return INTERRUPTED if history.interrupted else 0


def _finish(
    folder: Path, vae: VAE, splits: Splits, history: History, summary: dict[str, Any], options: argparse.Namespace
) -> None:
    """Write and print the numbers, draw the pictures, and print where all of it is."""
    files.write_json(folder / "summary.json", summary)
    files.write_text(folder / "model_card.md", model_card(vae, splits, runs.read_config(folder), summary))
    names = ("model.safetensors", "config.json", "history.csv", "summary.json", "model_card.md")
    written = [folder / name for name in names]
    if not options.no_pictures:
        from pyro_vae.cli import pictures  # matplotlib is slow to import

        written += pictures.of_run(folder, vae, splits, history, seed=options.seed)
    print(results.report(summary))
    print_written(written)


def evaluate(options: argparse.Namespace) -> int:
    """Evaluate a run on its test rows and write `evaluation.json`; with `--report`, diagnose the model as well."""
    vae, splits = _reload(options)
    if options.report and len(splits.test) < FEWEST_ROWS:
        raise ValueError(f"--report must have at least {FEWEST_ROWS} test rows; got {len(splits.test)}. Leave it out.")
    with processes.launched():
        scoring = Scoring(options.num_particles, options.method, options.rows)
        numbers = results.evaluate(vae, splits.test, options.seed, scoring)
        if processes.rank() > 0:
            return 0
    evaluation = results.flatten(vae, numbers) | {"seed": options.seed, "test": numbers}
    files.write_json(Path(options.run) / "evaluation.json", evaluation)
    print(results.report(evaluation))
    written = [Path(options.run) / "evaluation.json"]
    if options.report:
        from pyro_vae.cli import pictures

        found = diagnose(vae, splits.test, seed=options.seed, num_particles=options.num_particles or 1000)
        files.write_text(Path(options.run) / "report.txt", f"{found}\n")
        files.write_json(Path(options.run) / "report.json", results.as_plain(found))
        written += [Path(options.run) / "report.txt", Path(options.run) / "report.json"]
        written += pictures.of_report(Path(options.run), vae, splits.test, found)
        page, missing = pages.report(Path(options.run), vae, splits, evaluation, found)
        written += page
    print_written(written)
    if options.report and missing:
        print(missing)
    return 0


def explore(options: argparse.Namespace) -> int:
    """Serve the latent explorer of one run, or of two beside each other, until Ctrl-C."""
    names = [options.run] if options.other is None else [options.run, options.other]
    return pages.explore(names, options.port, options.data_dir, browser=not options.no_browser)


def sample(options: argparse.Namespace) -> int:
    """Draw rows from the prior predictive and plot them; with `--mean`, decoder means at draws from the prior."""
    from pyro_vae.cli import pictures

    vae = runs.read_model(options.run)
    schema = vae.table_schema
    out = tables.check_out(options.out, (".npy",) if schema is None else tables.FORMATS)
    if schema is not None and options.mean:
        raise ValueError("--mean must be left out for a table, whose levels have no mean; got --mean. Leave it out.")
    given = tables.read_fields(vae, "--field", options.field)
    absent = [] if vae.covariates is None else [name for name in vae.covariates.names if name not in given]
    if absent:
        raise ValueError(
            f"--field must give each covariate a value ({', '.join(vae.covariates.names)}); got none of {absent[0]!r}."
            f" Add --field {absent[0]}=VALUE."
        )
    x = vae.sample(options.rows, mean=options.mean, seed=options.seed, fields=given)
    if out is not None and schema is None:
        np.save(out, x.numpy())
    elif out is not None and schema is not None:
        fields = {name: vae.read_field(name, value).expand(len(x)) for name, value in given.items()}
        tables.write_frame(out, schema.frame(x, fields), **runs.format_of(options.run))
    file = Path(options.run) / "samples.png"
    if schema is None:
        written = [pictures.draws(file, vae, x, mean=options.mean)]
    else:
        written = [pictures.sampled(file, schema, x)]
    print_written(written if out is None else [*written, out])
    return 0


def reconstruct(options: argparse.Namespace) -> int:
    """Plot test rows and their reconstructions."""
    from pyro_vae.cli import pictures

    vae = runs.read_model(options.run)
    instead = "Use `pyro-vae impute` for missing cells, or `vae.posterior_predictive` from Python."
    tables.refuse_table(vae, "reconstruct", instead)
    splits = runs.read_splits(options.run, options.data_dir)
    rows = splits.test.subset(slice(0, options.rows))
    print_written([pictures.reconstructions(Path(options.run) / "reconstructions.png", vae, rows, seed=options.seed)])
    return 0


def interpolate(options: argparse.Namespace) -> int:
    """Plot decoder means on the path between two test rows in latent space."""
    from pyro_vae.cli import pictures

    vae = runs.read_model(options.run)
    instead = "Use `pyro-vae sample` for new rows, or `vae.encode` and `vae.decode` from Python."
    tables.refuse_table(vae, "interpolate", instead)
    splits = runs.read_splits(options.run, options.data_dir)
    num_rows = len(splits.test)
    if options.between and max(options.between) >= num_rows:
        given = " ".join(map(str, options.between))
        raise ValueError(
            f"--between must be two integers less than {num_rows}, the number of test rows; got {given}."
            " Choose two such rows."
        )
    pairs = [tuple(options.between)] if options.between else None
    file = Path(options.run) / "interpolation.png"
    print_written([pictures.interpolation(file, vae, splits.test, pairs, steps=options.steps, path=options.path)])
    return 0


def list_datasets(options: argparse.Namespace) -> int:
    """Print the data sets that have names, with a description of each."""
    print(reporting.table([{"name": name, "data": text} for name, text in datasets.names().items()]))
    print("DATA can also be a path: a .npy or .npz file, a .csv or .parquet file with a table, or a folder of images.")
    return 0


def _print_epochs(epochs: int) -> Callable[[Any, History], None]:
    """A callback that prints a line for every tenth of the epochs: without a terminal there is no progress bar."""
    every = max(1, epochs // 10)

    def report(model: LatentVariableModel, history: History) -> None:
        *_, last = history
        if last["epoch"] % every == 0:
            bounds = f"{last['train_bound']:.2f} (train), {last['valid_bound']:.2f} (validation) nats per row"
            print(f"epoch {last['epoch']}/{epochs}: bound {bounds}", file=sys.stderr, flush=True)

    return report


def _print_training_ended(epochs: int, interrupted: bool, num_rows: int) -> None:
    """Say what happens next: the evaluation of a large test set takes a while."""
    ended = f"{'Interrupted after' if interrupted else 'Trained for'} {epochs} epoch{'' if epochs == 1 else 's'}."
    again = " (Ctrl-C again skips the summary and the pictures)" if interrupted else ""
    print(f"{ended} Evaluating {num_rows:,} test rows, for a minute or two{again} ...", flush=True)


def _reload(options: argparse.Namespace) -> tuple[VAE, Splits]:
    return runs.read_model(options.run), runs.read_splits(options.run, options.data_dir)


def print_written(files: list[Path]) -> None:
    """Print the files that a command wrote, by folder."""
    folders = dict.fromkeys(file.parent for file in files)
    for folder in folders:
        print(f"Written to {folder}: {', '.join(file.name for file in files if file.parent == folder)}")
