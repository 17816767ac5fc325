"""The arguments of each command; the help shows every default."""

from __future__ import annotations

import argparse
from functools import partial
from typing import Any, NoReturn

import pyro_vae
from pyro_vae.cli import choices, commands
from pyro_vae.cli.scoring import METHODS
from pyro_vae.cli.values import Once, count, index, penalty, port, probability, rate
from pyro_vae.imputation.guesses import GUESSES
from pyro_vae.inference.gradients import GRADIENTS
from pyro_vae.runtime.precision import PRECISIONS
from pyro_vae.tables import KINDS

__all__ = ["parser"]

DRAWS = "(default: 1000; with more than 1000 rows a million in all, but at least 100 a row)"
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
        (_train, "train", commands.train, "train a variational autoencoder and write a run folder"),
        (_evaluate, "evaluate", commands.evaluate, "estimate the ELBO and the log-likelihood of a run's test rows"),
        (_sample, "sample", commands.sample, "draw new rows from a run's model"),
        (_impute, "impute", commands.impute, "impute the missing cells of a table by a run's model"),
        (_reconstruct, "reconstruct", commands.reconstruct, "reconstruct a run's test rows"),
        (_interpolate, "interpolate", commands.interpolate, "interpolate between test rows of a run in latent space"),
        (_explore, "explore", commands.explore, "open a page in which the latents of one run, or of two, can be moved"),
        (_datasets, "datasets", commands.list_datasets, "list the data sets that can be loaded by name"),
    ):
        sub = subparsers.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.", **options)
        sub.set_defaults(command=command)
        add(sub)
        if add is _train:
            sub.set_defaults(**(resumed or {}))
    return top


def _train(sub: argparse.ArgumentParser) -> None:
    _data(sub.add_argument_group("data"))
    _model(sub.add_argument_group("model"))
    _training(sub.add_argument_group("training"))
    _output(sub.add_argument_group("output"))


def _data(data: argparse._ArgumentGroup) -> None:
    data.add_argument(
        "data",
        metavar="DATA",
        nargs="?",
        default="digits",
        help="a name (see `pyro-vae datasets`), a .npy or .npz file, a .csv or .parquet file with a table, whose"
        " columns may hold text, dates and missing cells, or a folder of images",
    )
    _data_dir(data)
    data.add_argument(
        "--binarize",
        choices=("auto", "dynamic", "static", "none"),
        default="auto",
        help="how grey levels become 0 or 1: drawn at random anew for each batch (dynamic), drawn once (static), or not"
        " at all (none); auto is dynamic for grey images loaded by name, except digits, and none for all other data",
    )
    _csv(data, "a .csv file")
    data.add_argument(
        "--kinds",
        action=Once,
        metavar="COLUMN=KIND,...",
        help=f"kinds of columns of a table: {', '.join(KINDS)}, or leave_out for a column that is not modelled;"
        " ordinal columns of text need their levels in order, as in grade=ordinal:low:middle:high (default: by rules"
        " from the cells, and printed)",
    )


def _csv(group: argparse._ActionsContainer, what: str) -> None:
    group.add_argument(
        "--sep",
        metavar="C",
        help=f"character between the fields of {what} (default: a comma, or a semicolon with --decimal ,)",
    )
    group.add_argument("--decimal", choices=(".", ","), help=f"decimal point of {what} (default: .)")
    group.add_argument(
        "--header",
        action=argparse.BooleanOptionalAction,
        help=f"whether the first line of {what} holds names (default: it must; a line of numbers is refused)",
    )


def _model(model: argparse._ArgumentGroup) -> None:
    model.add_argument(
        "--latent-dim",
        type=count,
        metavar="D",
        help="number of latent variables of a row (default: 12 for rows of at most 64 cells, else 16; for a table half"
        " the number of its columns, from 2 to 16)",
    )
    model.add_argument(
        "--prior",
        choices=tuple(choices.PRIORS),
        default="mixture",
        help="distribution of the latents: a standard normal, a mixture of 20 normals, a VampPrior of 100"
        " pseudo-rows, or a normalizing flow",
    )
    model.add_argument(
        "--guide",
        choices=tuple(choices.GUIDES),
        help="distribution of the latents given a row: independent normals, a normal with correlations (full-normal),"
        " or independent Student-t's, whose heavy tails keep importance weights bounded (default: student-t; normal for"
        " a table, where a predicted scale makes the ELBO of such tails noisy)",
    )
    model.add_argument(
        "--net",
        choices=("mlp", "conv"),
        default="mlp",
        help="kind of networks: mlp has fully connected layers only, conv also convolutions, for images",
    )
    model.add_argument(
        "--hidden",
        type=count,
        nargs="+",
        default=[512],
        metavar="W",
        help="widths of the encoder's fully connected hidden layers; the decoder has them in reverse (default: 512)",
    )
    model.add_argument(
        "--dropout",
        type=probability,
        default=0.2,
        metavar="P",
        help="probability of dropping a hidden unit of an mlp decoder in training; 0 may be better with many rows",
    )
    model.add_argument(
        "--likelihood",
        choices=("auto", *choices.LIKELIHOODS),
        default="auto",
        help="distribution of a cell given the latents; auto chooses by the data, and must be left for a table",
    )


def _training(training: argparse._ArgumentGroup) -> None:
    training.add_argument(
        "--elbo",
        choices=tuple(choices.ESTIMATORS),
        default="iwae",
        help="bound to train with; meanfield is the ELBO with its KL in closed form",
    )
    training.add_argument(
        "--num-particles",
        type=count,
        metavar="K",
        help="draws from the guide for each row of a training step (default: 1 for elbo and meanfield, 3 for iwae, 8"
        " for miwae and piwae, else 5)",
    )
    training.add_argument(
        "--gradient",
        choices=(*GRADIENTS, "score"),
        help="estimator of the gradient (default: score for wake-sleep, else reparameterized)",
    )
    training.add_argument(
        "--epochs", type=count, default=300, metavar="N", help="largest number of passes over the training rows"
    )
    training.add_argument("--batch-size", type=count, default=128, metavar="B", help="rows in a training step")
    training.add_argument("--learning-rate", type=rate, default=4e-3, metavar="R", help="learning rate of Adam")
    training.add_argument(
        "--ridge",
        type=penalty,
        default=0.6,
        metavar="L",
        help="ridge penalty: L/2 times the sum of squares of all parameters is taken off the bound of all training rows"
        " together, as by a normal prior with variance 1/L for each parameter; 0 for none",
    )
    training.add_argument(
        "--patience",
        type=count,
        default=50,
        metavar="P",
        help="stop after P epochs without a better bound on the validation rows; the best epoch's parameters are kept",
    )
    training.add_argument(
        "--compile",
        action=argparse.BooleanOptionalAction,
        default="auto",
        help="compile the training step, or do not (default: compile if the run is long enough to repay it)",
    )
    training.add_argument(
        "--precision",
        choices=PRECISIONS,
        default="float32",
        help="bf16-mixed computes the products of layers in bfloat16: faster on GPUs and processors that have such"
        " instructions, and less exact",
    )
    _seed(
        training,
        "seed of the initial parameters, the order of rows and all draws; the split of the data does not depend on it",
    )
    training.add_argument(
        "--on-nonfinite",
        choices=("raise", "skip"),
        default="raise",
        help="what to do at a step whose loss or gradient is not finite: end the run with an error, or skip the step"
        " and count it in history.csv",
    )
    training.add_argument(
        "--checkpoint-every",
        type=rate,
        default=300.0,
        metavar="S",
        help="seconds between checkpoints within an epoch; there is also one at the end of each epoch (at most every"
        " two seconds), and one on SIGTERM or Ctrl-C",
    )


def _output(output: argparse._ArgumentGroup) -> None:
    output.add_argument("--run-dir", metavar="DIR", help="folder to write to (default: runs/ and the name of the data)")
    output.add_argument(
        "--resume",
        metavar="DIR",
        help="continue the run in this folder with the options it was started with; --epochs counts from its start and"
        " may be larger (default: start a new run)",
    )
    output.add_argument("--overwrite", action="store_true", help="replace an earlier run in the folder")
    output.add_argument("--no-pictures", action="store_true", help="draw no pictures")
    output.add_argument(
        "--num-likelihood-particles",
        type=count,
        metavar="K",
        help=f"draws from the guide that estimate a test row's log-likelihood {DRAWS}",
    )
    output.add_argument(
        "--num-likelihood-rows",
        type=partial(count, at_least=2),
        metavar="N",
        help="random test rows on which annealed importance sampling corrects the log-likelihood (default: 50, and as"
        " many more as a minute allows)",
    )


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
        help=f"draws for each row, or chains of --method ais {DRAWS[:-1]}; 32 chains)",
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
    _seed(sub)
    _data_dir(sub, MOVED)


def _sample(sub: argparse.ArgumentParser) -> None:
    _run(sub)
    sub.add_argument("--rows", type=count, default=64, metavar="N", help="number of rows to draw")
    sub.add_argument(
        "--mean", action="store_true", help="give E[x | z] at draws of the latents z, without observation noise"
    )
    _seed(sub)
    sub.add_argument(
        "--out",
        metavar="FILE",
        help="also write the rows to this file: .npy, or .csv or .parquet for a table (default: the picture only)",
    )


def _impute(sub: argparse.ArgumentParser) -> None:
    _run(sub)
    sub.add_argument(
        "file",
        metavar="FILE",
        nargs="?",
        help="a .csv or .parquet file with the columns of the run's table (default: the run's own rows, all of them in"
        " the order of their file)",
    )
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
    _seed(sub)
    sub.add_argument(
        "--out",
        metavar="FILE",
        help="the .csv or .parquet file to write: all completed data sets below each other, with the columns .imp and"
        " .id (default: imputations.csv in the run folder, or completed.csv, one table, with --single; with FILE its"
        " name is added)",
    )
    _csv(sub, "FILE, if it is .csv, and of the file to write")
    _data_dir(sub, MOVED)


def _reconstruct(sub: argparse.ArgumentParser) -> None:
    _run(sub)
    sub.add_argument("--rows", type=count, default=16, metavar="N", help="number of test rows, the first N")
    _seed(sub)
    _data_dir(sub, MOVED)


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
    _data_dir(sub, MOVED)


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
    _data_dir(sub, MOVED)


def _datasets(sub: argparse.ArgumentParser) -> None:
    """`datasets` has no options."""


def _run(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("run", metavar="RUN", help="the folder that `pyro-vae train` wrote")


def _seed(group: argparse._ActionsContainer, text: str = "seed of all draws") -> None:
    group.add_argument("--seed", type=index, default=0, metavar="S", help=text)


def _data_dir(
    group: argparse._ActionsContainer,
    text: str = "folder of the named data sets and of downloads (default: $PYRO_VAE_DATA, else ~/.cache/pyro_vae)",
) -> None:
    group.add_argument("--data-dir", metavar="DIR", help=text)
