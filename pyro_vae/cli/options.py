"""The arguments of each command; the help shows every default."""

from __future__ import annotations

import argparse
import math
from functools import partial
from typing import Any, NoReturn

import pyro_vae
from pyro_vae.cli import choices, commands
from pyro_vae.cli.scoring import METHODS
from pyro_vae.inference.gradients import GRADIENTS
from pyro_vae.runtime.precision import PRECISIONS

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
        (_reconstruct, "reconstruct", commands.reconstruct, "reconstruct a run's test rows"),
        (_interpolate, "interpolate", commands.interpolate, "interpolate between test rows of a run in latent space"),
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
        help="a name (see `pyro-vae datasets`), a .npy, .npz, .csv or .parquet file, or a folder of images",
    )
    _data_dir(data)
    data.add_argument(
        "--binarize",
        choices=("auto", "dynamic", "static", "none"),
        default="auto",
        help="how grey levels become 0 or 1: drawn at random anew for each batch (dynamic), drawn once (static), or not"
        " at all (none); auto is dynamic for grey images loaded by name, except digits, and none for all other data",
    )
    data.add_argument(
        "--sep",
        metavar="C",
        help="character between the fields of a .csv file (default: a comma, or a semicolon with --decimal ,)",
    )
    data.add_argument("--decimal", choices=(".", ","), help="decimal point of a .csv file (default: .)")
    data.add_argument(
        "--header",
        action=argparse.BooleanOptionalAction,
        help="whether the first line of a .csv file holds names (default: it must; a line of numbers is refused)",
    )


def _model(model: argparse._ArgumentGroup) -> None:
    model.add_argument(
        "--latent-dim",
        type=_count,
        metavar="D",
        help="number of latent variables of a row (default: 12 for rows of at most 64 cells, else 16)",
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
        default="student-t",
        help="distribution of the latents given a row: independent normals, a normal with correlations (full-normal),"
        " or independent Student-t's, whose heavy tails keep importance weights bounded",
    )
    model.add_argument(
        "--net",
        choices=("mlp", "conv"),
        default="mlp",
        help="kind of networks: mlp has fully connected layers only, conv also convolutions, for images",
    )
    model.add_argument(
        "--hidden",
        type=_count,
        nargs="+",
        default=[512],
        metavar="W",
        help="widths of the encoder's fully connected hidden layers; the decoder has them in reverse (default: 512)",
    )
    model.add_argument(
        "--dropout",
        type=_probability,
        default=0.2,
        metavar="P",
        help="probability of dropping a hidden unit of an mlp decoder in training; 0 may be better with many rows",
    )
    model.add_argument(
        "--likelihood",
        choices=("auto", *choices.LIKELIHOODS),
        default="auto",
        help="distribution of a cell given the latents; auto chooses by the data",
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
        type=_count,
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
        "--epochs", type=_count, default=300, metavar="N", help="largest number of passes over the training rows"
    )
    training.add_argument("--batch-size", type=_count, default=128, metavar="B", help="rows in a training step")
    training.add_argument("--learning-rate", type=_rate, default=4e-3, metavar="R", help="learning rate of Adam")
    training.add_argument(
        "--ridge",
        type=_penalty,
        default=0.4,
        metavar="L",
        help="ridge penalty: L/2 times the sum of squares of all parameters is taken off the bound of all training rows"
        " together, as by a normal prior with variance 1/L for each parameter; 0 for none",
    )
    training.add_argument(
        "--patience",
        type=_count,
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
        type=_rate,
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
        type=_count,
        metavar="K",
        help=f"draws from the guide that estimate a test row's log-likelihood {DRAWS}",
    )
    output.add_argument(
        "--num-likelihood-rows",
        type=partial(_count, at_least=2),
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
        type=_count,
        metavar="K",
        help=f"draws for each row, or chains of --method ais {DRAWS[:-1]}; 32 chains)",
    )
    sub.add_argument(
        "--rows",
        type=partial(_count, at_least=2),
        metavar="N",
        help="random test rows that ais corrects, or that --method scores (default: 50, and as many more as a minute"
        " allows; all of them with --method)",
    )
    sub.add_argument(
        "--report",
        action="store_true",
        help="also diagnose the model (Pareto k-hat, calibration of the encoder, use of the latents, predictive checks)"
        " and write the findings as text, JSON and pictures",
    )
    _seed(sub)
    _data_dir(sub, MOVED)


def _sample(sub: argparse.ArgumentParser) -> None:
    _run(sub)
    sub.add_argument("--rows", type=_count, default=64, metavar="N", help="number of rows to draw")
    sub.add_argument(
        "--mean", action="store_true", help="give E[x | z] at draws of the latents z, without observation noise"
    )
    _seed(sub)
    sub.add_argument("--out", metavar="FILE.npy", help="also write the rows to this file (default: the picture only)")


def _reconstruct(sub: argparse.ArgumentParser) -> None:
    _run(sub)
    sub.add_argument("--rows", type=_count, default=16, metavar="N", help="number of test rows, the first N")
    _seed(sub)
    _data_dir(sub, MOVED)


def _interpolate(sub: argparse.ArgumentParser) -> None:
    _run(sub)
    sub.add_argument(
        "--between",
        type=_index,
        nargs=2,
        metavar=("I", "J"),
        help="indices of two test rows, counted from 0 (default: up to five pairs)",
    )
    sub.add_argument(
        "--steps", type=_count, default=9, metavar="S", help="number of points on the path, both ends included"
    )
    sub.add_argument(
        "--path", choices=("linear", "spherical"), default="linear", help="shape of the path in latent space"
    )
    _data_dir(sub, MOVED)


def _datasets(sub: argparse.ArgumentParser) -> None:
    """`datasets` has no options."""


def _run(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("run", metavar="RUN", help="the folder that `pyro-vae train` wrote")


def _seed(group: argparse._ActionsContainer, text: str = "seed of all draws") -> None:
    group.add_argument("--seed", type=_index, default=0, metavar="S", help=text)


def _data_dir(
    group: argparse._ActionsContainer,
    text: str = "folder of the named data sets and of downloads (default: $PYRO_VAE_DATA, else ~/.cache/pyro_vae)",
) -> None:
    group.add_argument("--data-dir", metavar="DIR", help=text)


def _count(text: str, at_least: int = 1) -> int:
    if not text.isdecimal() or int(text) < at_least:
        kind = "a positive integer" if at_least == 1 else f"an integer of at least {at_least}"
        raise argparse.ArgumentTypeError(f"must be {kind}; got {text}. Pass e.g. 100.")
    return int(text)


def _index(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"must be an integer, zero or more; got {text}. Pass e.g. 0.")
    return int(text)


def _rate(text: str) -> float:
    value = _number(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"must be a positive number; got {text}. Pass e.g. 1e-3.")
    return value


def _penalty(text: str) -> float:
    value = _number(text)
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"must be a number, zero or more; got {text}. Pass e.g. 0.4.")
    return value


def _probability(text: str) -> float:
    value = _number(text)
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"must be 0 or more and less than 1; got {text}. Pass e.g. 0.2.")
    return value


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
