"""The arguments of each command; the help shows every default."""

from __future__ import annotations

import argparse
from functools import partial
from typing import Any, NoReturn

import pyro_vae
from pyro_vae.cli import commands, shared_options, table_commands
from pyro_vae.cli.scoring import METHODS
from pyro_vae.cli.train_options import add_train
from pyro_vae.cli.values import count, index, port
from pyro_vae.imputation.guesses import GUESSES

__all__ = ["parser"]

MOVED = "folder of the data, if they have moved since training (default: where they were)"


class _Formatter(argparse.ArgumentDefaultsHelpFormatter):
    """Appends the default to each help text that does not mention it."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if "default:" in (action.help or "") else super()._get_help_string(action)


class _Parser(argparse.ArgumentParser):
    """Prints an error as one line and exits with code 2."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"pyro-vae: error: {' '.join(message.split())}\n")


def parser(resumed: dict[str, Any] | None = None) -> argparse.ArgumentParser:
    """The parser of the whole command line; the attribute `command` of its result is the function to call with it.

    Args:
        resumed: options of the run that `train --resume` continues; they replace the defaults of `train`.
    """
    options: dict[str, Any] = {"formatter_class": _Formatter, "allow_abbrev": False}
    top = _Parser(prog="pyro-vae", description=pyro_vae.__doc__, **options)
    top.add_argument("--version", action="version", version=f"pyro-vae {pyro_vae.__version__}")
    subparsers = top.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for add, name, command, text in (
        (add_train, "train", commands.train, "train a variational autoencoder and write a run folder"),
        (_evaluate, "evaluate", commands.evaluate, "estimate the ELBO and the log-likelihood of a run's test rows"),
        (_sample, "sample", commands.sample, "draw new rows from a run's model"),
        (_predict, "predict", table_commands.predict, "draw replicates of a table's rows, also under other covariates"),
        (_impute, "impute", table_commands.impute, "impute the missing cells of a table by a run's model"),
        (_reconstruct, "reconstruct", commands.reconstruct, "reconstruct a run's test rows"),
        (_interpolate, "interpolate", commands.interpolate, "interpolate between test rows of a run in latent space"),
        (_explore, "explore", commands.explore, "open a page in which the latents of one run, or of two, can be moved"),
        (_datasets, "datasets", commands.list_datasets, "list the data sets that can be loaded by name"),
    ):
        sub = subparsers.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.", **options)
        sub.set_defaults(command=command)
        add(sub)
        if add is add_train:
            sub.set_defaults(**(resumed or {}))
    return top


def _evaluate(sub: argparse.ArgumentParser) -> None:
    _run(sub)
    sub.add_argument(
        "--method",
        choices=tuple(METHODS),
        help="how log p(x) is estimated: importance sampling from the guide, from a guide refined row by row"
        " (semi_amortized), or annealed from the guide to the posterior (ais) (default: importance sampling for all"
        " rows, corrected by ais on random ones)",
    )
    sub.add_argument(
        "--num-particles",
        type=count,
        metavar="K",
        help=f"draws for each row, or chains of --method ais {shared_options.DRAWS[:-1]}; 32 chains)",
    )
    sub.add_argument(
        "--rows",
        type=partial(count, at_least=2),
        metavar="N",
        help="random test rows that ais corrects, or that --method scores (default: 50, and as many more as a minute"
        " allows; all of them with --method)",
    )
    sub.add_argument(
        "--report",
        action="store_true",
        help="also diagnose the model (Pareto k-hat, calibration of the encoder, use of the latents, predictive checks)"
        " and write the findings as text, JSON, pictures and one page for a browser, report.html (which needs"
        " pip install 'pyro-vae[report]')",
    )
    shared_options.seed(sub)
    shared_options.data_dir(sub, MOVED)


def _sample(sub: argparse.ArgumentParser) -> None:
    _run(sub)
    sub.add_argument("--rows", type=count, default=64, metavar="N", help="number of rows to draw")
    sub.add_argument(
        "--mean", action="store_true", help="give E[x | z] at draws of the latents z, without observation noise"
    )
    shared_options.field(
        sub,
        "--field",
        "a covariate to draw under, as in --field site=B --field age=50; a model with any needs all (default: none)",
    )
    shared_options.seed(sub)
    sub.add_argument(
        "--out",
        metavar="FILE",
        help="also write the rows to this file: .npy, or .csv or .parquet for a table (default: the picture only)",
    )


def _predict(sub: argparse.ArgumentParser) -> None:
    _run(sub)
    shared_options.rows_of_file(sub)
    shared_options.field(
        sub,
        "--decode-as",
        "a covariate that takes the place of the rows' own once their latents are drawn, as in --decode-as site=B: what"
        " the rows would look like there, if the covariate alone changed (default: none)",
    )
    sub.add_argument("--draws", type=count, default=1, metavar="S", help="replicates of each row")
    sub.add_argument(
        "--num-candidates",
        type=count,
        default=200,
        metavar="K",
        help="draws of the latents for each row, from which those of the replicates are taken by their weights",
    )
    shared_options.seed(sub)
    sub.add_argument(
        "--out",
        metavar="FILE",
        help="the .csv or .parquet file to write: all replicates below each other, with the columns .draw and .id"
        " (default: predictions.csv in the run folder)",
    )
    shared_options.csv(sub, "FILE, if it is .csv, and of the file to write")
    shared_options.data_dir(sub, MOVED)


def _impute(sub: argparse.ArgumentParser) -> None:
    _run(sub)
    shared_options.rows_of_file(sub)
    sub.add_argument(
        "--num-imputations",
        type=count,
        metavar="M",
        help="number of completed data sets (default: 5; 1 with --single)",
    )
    sub.add_argument(
        "--single",
        choices=GUESSES,
        help="one best guess of each cell in place of draws, from which no spread may be estimated (default: draws)",
    )
    sub.add_argument(
        "--num-candidates",
        type=count,
        default=200,
        metavar="K",
        help="draws of the latents for each row, of which those that fit its observed cells are kept",
    )
    shared_options.seed(sub)
    sub.add_argument(
        "--out",
        metavar="FILE",
        help="the .csv or .parquet file to write: all completed data sets below each other, with the columns .imp and"
        " .id (default: imputations.csv in the run folder, or completed.csv, one table, with --single; with FILE its"
        " name is added)",
    )
    shared_options.csv(sub, "FILE, if it is .csv, and of the file to write")
    shared_options.data_dir(sub, MOVED)


def _reconstruct(sub: argparse.ArgumentParser) -> None:
    _run(sub)
    sub.add_argument("--rows", type=count, default=16, metavar="N", help="number of test rows, the first N")
    shared_options.seed(sub)
    shared_options.data_dir(sub, MOVED)


def _interpolate(sub: argparse.ArgumentParser) -> None:
    _run(sub)
    sub.add_argument(
        "--between",
        type=index,
        nargs=2,
        metavar=("I", "J"),
        help="indices of two test rows, counted from 0 (default: up to five pairs)",
    )
    sub.add_argument(
        "--steps", type=count, default=9, metavar="S", help="number of points on the path, both ends included"
    )
    sub.add_argument(
        "--path", choices=("linear", "spherical"), default="linear", help="shape of the path in latent space"
    )
    shared_options.data_dir(sub, MOVED)


def _explore(sub: argparse.ArgumentParser) -> None:
    _run(sub)
    sub.add_argument(
        "other",
        metavar="RUN2",
        nargs="?",
        help="another run on the same test rows, to be shown beside the first (default: none)",
    )
    sub.add_argument(
        "--port",
        type=port,
        default=8050,
        metavar="P",
        help="port of this computer at which the page is served; 0 for one that is free",
    )
    sub.add_argument("--no-browser", action="store_true", help="open no browser; the address is printed")
    shared_options.data_dir(sub, MOVED)


def _datasets(sub: argparse.ArgumentParser) -> None:
    """`datasets` has no options."""


def _run(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("run", metavar="RUN", help="the folder that `pyro-vae train` wrote")
