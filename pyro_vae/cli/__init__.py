"""The command line: train a model on data, ask it questions, look at it.

`options` parses, `commands` has one function per command, `runs` reads and writes run folders, `results` makes their
numbers and `pictures` their pictures. To add a command, write its function and give it a parser in `options`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from pyro_vae.cli import runs
from pyro_vae.cli.options import parser

__all__ = ["main"]

INTERRUPTED = 130  # what shells report for Ctrl-C

# RuntimeError and MemoryError: what torch and numpy raise for sizes that no memory holds.
EXPECTED = (ValueError, TypeError, OSError, ImportError, RuntimeError, MemoryError)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        argv: the arguments; those of the process by default.

    Returns:
        The exit code: 0, 2 after an error (one line on stderr), 130 after Ctrl-C.
    """
    try:
        arguments = parser().parse_args(argv)
        if getattr(arguments, "resume", None) is not None:
            arguments = parser(runs.read_options(arguments.resume)).parse_args(argv)
        return int(arguments.command(arguments))
    except SystemExit as stop:  # argparse: help, version, a wrong option
        return int(stop.code or 0)
    except KeyboardInterrupt:
        print("pyro-vae: interrupted", file=sys.stderr)
        return INTERRUPTED
    except EXPECTED as error:
        message = " ".join(str(error).split()) or type(error).__name__
        print(f"pyro-vae: error: {message}", file=sys.stderr)
        return 2
