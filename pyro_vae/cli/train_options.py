"""The arguments of `train`."""

from __future__ import annotations

import argparse
from functools import partial

from pyro_vae.cli import choices, shared_options
from pyro_vae.cli.values import Once, count, penalty, probability, rate
from pyro_vae.inference.gradients import GRADIENTS
from pyro_vae.runtime.precision import PRECISIONS
from pyro_vae.tables import KINDS

__all__ = ["add_train"]


def add_train(sub: argparse.ArgumentParser) -> None:
    """The arguments of `train`, in four groups."""
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
    shared_options.data_dir(data)
    data.add_argument(
        "--binarize",
        choices=("auto", "dynamic", "static", "none"),
        default="auto",
        help="how grey levels become 0 or 1: drawn at random anew for each batch (dynamic), drawn once (static), or not"
        " at all (none); auto is dynamic for grey images loaded by name, except digits, and none for all other data",
    )
    shared_options.csv(data, "a .csv file")
    data.add_argument(
        "--kinds",
        action=Once,
        metavar="COLUMN=KIND,...",
        help=f"kinds of columns of a table: {', '.join(KINDS)}, or leave_out for a column that is not modelled;"
        " ordinal columns of text need their levels in order, as in grade=ordinal:low:middle:high (default: by rules"
        " from the cells, and printed)",
    )
    data.add_argument(
        "--covariates",
        action=Once,
        metavar="COLUMN,...",
        help="columns of a table that are covariates: the model is one of the other columns given these, which must"
        " have no missing cells (default: none)",
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
        "--covariates-into",
        metavar="PART,...",
        help="what depends on the covariates: some of encoder, decoder and prior (default: encoder,decoder)",
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
    shared_options.seed(
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
        help=f"draws from the guide that estimate a test row's log-likelihood {shared_options.DRAWS}",
    )
    output.add_argument(
        "--num-likelihood-rows",
        type=partial(count, at_least=2),
        metavar="N",
        help="random test rows on which annealed importance sampling corrects the log-likelihood (default: 50, and as"
        " many more as a minute allows)",
    )
