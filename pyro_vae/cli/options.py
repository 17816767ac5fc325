"""What the commands take: parsers, with every default in the help."""

from __future__ import annotations

import argparse
import math
from typing import Any, NoReturn

import pyro_vae
from pyro_vae.cli import commands
from pyro_vae.inference.gradients import GRADIENTS

__all__ = ["parser"]


class _Formatter(argparse.ArgumentDefaultsHelpFormatter):
    """Appends the default where the help does not tell it."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if "default:" in (action.help or "") else super()._get_help_string(action)


class _Parser(argparse.ArgumentParser):
    """One line per error, exit code 2."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"pyro-vae: error: {' '.join(message.split())}\n")


def parser(resumed: dict[str, Any] | None = None) -> argparse.ArgumentParser:
    """The parser of the whole command line; `command` is the function to call with the arguments.

    Args:
        resumed: options of a run to go on with, which are defaults of `train` then.
    """
    options: dict[str, Any] = {"formatter_class": _Formatter, "allow_abbrev": False}
    top = _Parser(prog="pyro-vae", description=pyro_vae.__doc__, **options)
    top.add_argument("--version", action="version", version=f"pyro-vae {pyro_vae.__version__}")
    subparsers = top.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for add, name, command, text in (
        (_train, "train", commands.train, "train a variational autoencoder and write a run folder"),
        (_evaluate, "evaluate", commands.evaluate, "ELBO and log-likelihood of a run's test rows"),
        (_sample, "sample", commands.sample, "draw rows from a run's model"),
        (_reconstruct, "reconstruct", commands.reconstruct, "reconstruct a run's test rows"),
        (_interpolate, "interpolate", commands.interpolate, "walk between a run's test rows"),
        (_datasets, "datasets", commands.list_datasets, "list the data sets that have names"),
    ):
        sub = subparsers.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.", **options)
        sub.set_defaults(command=command)
        add(sub)
        if add is _train:
            sub.set_defaults(**(resumed or {}))
    return top


def _train(sub: argparse.ArgumentParser) -> None:
    data = sub.add_argument_group("data")
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
        help="how grey levels become 0 and 1: drawn anew for each batch, once, or not; auto: as is usual for the data",
    )
    model = sub.add_argument_group("model")
    model.add_argument("--latent-dim", type=_count, default=24, metavar="D", help="number of latents of a row")
    model.add_argument("--net", choices=("mlp", "conv"), default="mlp", help="networks; conv is for images")
    model.add_argument(
        "--hidden",
        type=_count,
        nargs="+",
        default=[512],
        metavar="W",
        help="widths of the fully connected layers of the encoder, mirrored in the decoder (default: 512)",
    )
    model.add_argument(
        "--dropout",
        type=_probability,
        default=0.2,
        metavar="P",
        help="probability of leaving out a hidden unit of an mlp decoder in a step; 0 may be better for many rows",
    )
    model.add_argument(
        "--likelihood",
        choices=("auto", "bernoulli", "binomial", "normal"),
        default="auto",
        help="distribution of a cell given the latents; auto: what suits the data",
    )
    training = sub.add_argument_group("training")
    training.add_argument(
        "--elbo",
        choices=tuple(commands.ESTIMATORS),
        default="elbo",
        help="the bound to maximise; meanfield is the ELBO with its KL in closed form",
    )
    training.add_argument(
        "--num-particles",
        type=_count,
        metavar="K",
        help="draws from the guide for each row and step (default: 1 for elbo, meanfield; 8 for miwae, piwae; else 5)",
    )
    training.add_argument(
        "--gradient",
        choices=(*GRADIENTS, "score"),
        help="gradient estimator (default: score for wake-sleep, else reparameterized)",
    )
    training.add_argument("--epochs", type=_count, default=500, metavar="N", help="passes over the data, at most")
    training.add_argument("--batch-size", type=_count, default=128, metavar="B", help="rows per step")
    training.add_argument("--learning-rate", type=_rate, default=2e-3, metavar="R", help="step size of Adam")
    training.add_argument(
        "--patience",
        type=_count,
        default=50,
        metavar="P",
        help="stop after so many epochs without a better bound on the validation rows, and go back to the best",
    )
    training.add_argument(
        "--compile",
        action=argparse.BooleanOptionalAction,
        default="auto",
        help="compile the training step, or never do (default: where the steps to come repay the time it takes)",
    )
    _seed(training, "of initial parameters, order of rows and all draws; the split of the data does not depend on it")
    output = sub.add_argument_group("output")
    training.add_argument(
        "--on-nonfinite",
        choices=("raise", "skip"),
        default="raise",
        help="end a run at a step whose loss or gradient is not finite, or leave such steps out and count them",
    )
    training.add_argument(
        "--checkpoint-every",
        type=_rate,
        default=300.0,
        metavar="S",
        help="seconds between checkpoints in an epoch; one is written after each (of short ones, every two seconds),"
        " and on SIGTERM or Ctrl-C",
    )
    output.add_argument("--run-dir", metavar="DIR", help="where to write (default: runs/ and the name of the data)")
    output.add_argument(
        "--resume",
        metavar="DIR",
        help="go on with the run in this folder, with its own options; --epochs may be larger (default: a new run)",
    )
    output.add_argument("--overwrite", action="store_true", help="replace an earlier run in that folder")
    output.add_argument("--no-pictures", action="store_true", help="write numbers only")
    _likelihood_particles(output, "--num-likelihood-particles")


def _evaluate(sub: argparse.ArgumentParser) -> None:
    _run(sub)
    _likelihood_particles(sub, "--num-particles")
    sub.add_argument(
        "--report",
        action="store_true",
        help="ask all questions of the model (k-hat, calibration, latents, predictive checks): text, JSON and pictures",
    )
    _seed(sub)
    _data_dir(sub, "where the data are now (default: where they were)")


def _sample(sub: argparse.ArgumentParser) -> None:
    _run(sub)
    sub.add_argument("-n", type=_count, default=64, metavar="N", help="how many rows")
    sub.add_argument("--mean", action="store_true", help="the decoder's means at draws of the latents, without noise")
    _seed(sub)
    sub.add_argument("--out", metavar="FILE.npy", help="write the numbers too (default: the picture only)")


def _reconstruct(sub: argparse.ArgumentParser) -> None:
    _run(sub)
    sub.add_argument("-n", type=_count, default=16, metavar="N", help="how many test rows, at most all of them")
    _seed(sub)
    _data_dir(sub, "where the data are now (default: where they were)")


def _interpolate(sub: argparse.ArgumentParser) -> None:
    _run(sub)
    sub.add_argument(
        "--rows",
        type=_index,
        nargs=2,
        metavar=("I", "J"),
        help="numbers of two test rows, from 0 (default: up to five pairs)",
    )
    sub.add_argument("--steps", type=_count, default=9, metavar="S", help="points on the path, both ends included")
    sub.add_argument("--path", choices=("linear", "spherical"), default="linear", help="in the space of the latents")
    _data_dir(sub, "where the data are now (default: where they were)")


def _datasets(sub: argparse.ArgumentParser) -> None:
    """No options."""


def _run(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("run", metavar="RUN", help="the folder that `pyro-vae train` wrote")


def _likelihood_particles(group: argparse._ActionsContainer, name: str) -> None:
    group.add_argument(name, type=_count, default=1000, metavar="K", help="draws per test row for its log-likelihood")


def _seed(group: argparse._ActionsContainer, text: str = "of all draws") -> None:
    group.add_argument("--seed", type=_index, default=0, metavar="S", help=text)


def _data_dir(
    group: argparse._ActionsContainer,
    text: str = "where the files of a named data set are, or go (default: $PYRO_VAE_DATA, else ~/.cache/pyro_vae)",
) -> None:
    group.add_argument("--data-dir", metavar="DIR", help=text)


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a positive integer; got {text}. Pass e.g. 100.")
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
