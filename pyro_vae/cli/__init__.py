"""The command line: train a model, evaluate it, draw from it.

`options` parses the arguments (`values` their texts), `commands` has one function for each command, `choices` makes
what the options of `train` choose, `runs` reads and writes run folders, `results` computes the numbers of a run,
`scoring` its log-likelihood, `tables` has what is particular to tables, and `pictures` draws the figures
(`table_pictures` those of tables). `pages` writes the report for a browser and serves the explorer. To add a command,
write its function in `commands` and its parser in `options`.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from typing import Any

from pyro_vae.cli import commands, runs
from pyro_vae.cli.options import parser

__all__ = ["main"]

# Errors of the user, printed as one line. torch and numpy raise RuntimeError or MemoryError where sizes exceed memory.
EXPECTED = (ValueError, TypeError, OSError, ImportError, RuntimeError, MemoryError)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: the arguments; by default those of the process.

    Returns:
        The exit code: 0 after success, 2 after an error (one line on stderr), 130 after Ctrl-C.
    """
    shown, warnings.formatwarning = warnings.formatwarning, _as_line
    try:
        arguments = parser().parse_args(argv)
        if getattr(arguments, "resume", None) is not None:
            arguments = parser(runs.read_options(arguments.resume)).parse_args(argv)
        return int(arguments.command(arguments))
    except SystemExit as stop:  # from argparse, after --help, --version or a wrong option
        return int(stop.code or 0)
    except KeyboardInterrupt:
        print("pyro-vae: interrupted", file=sys.stderr)
        return commands.INTERRUPTED
    except EXPECTED as error:
        message = " ".join(str(error).split()) or type(error).__name__
        print(f"pyro-vae: error: {message}", file=sys.stderr)
        return 2
    finally:
        warnings.formatwarning = shown


def _as_line(message: Warning | str, *place: Any, **more: Any) -> str:
    """A warning as one line, without the place in the code that it came from."""
    return f"pyro-vae: warning: {' '.join(str(message).split())}\n"
