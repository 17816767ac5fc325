"""Arguments that several commands have."""

from __future__ import annotations

import argparse

from pyro_vae.cli.values import index

__all__ = ["DRAWS", "csv", "data_dir", "field", "rows_of_file", "seed"]

DRAWS = "(default: 1000; with more than 1000 rows a million in all, but at least 100 a row)"


def csv(group: argparse._ActionsContainer, what: str) -> None:
    """How a .csv file is read or written."""
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


def seed(group: argparse._ActionsContainer, text: str = "seed of all draws") -> None:
    """The seed."""
    group.add_argument("--seed", type=index, default=0, metavar="S", help=text)


def data_dir(
    group: argparse._ActionsContainer,
    text: str = "folder of the named data sets and of downloads (default: $PYRO_VAE_DATA, else ~/.cache/pyro_vae)",
) -> None:
    """The folder of the data."""
    group.add_argument("--data-dir", metavar="DIR", help=text)


def field(group: argparse._ActionsContainer, name: str, text: str) -> None:
    """An option NAME=VALUE that can be given several times."""
    group.add_argument(name, action="append", default=[], metavar="NAME=VALUE", help=text)


def rows_of_file(sub: argparse.ArgumentParser) -> None:
    """The file whose rows a command reads in place of the run's own."""
    sub.add_argument(
        "file",
        metavar="FILE",
        nargs="?",
        help="a .csv or .parquet file with the columns of the run's table (default: the run's own rows, all of them in"
        " the order of their file)",
    )
