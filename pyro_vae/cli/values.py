"""The values of options, each a function from the text that was given; argparse prints its error."""

from __future__ import annotations

import argparse
import math
from typing import Any

__all__ = ["Once", "count", "index", "penalty", "port", "probability", "rate"]


class Once(argparse.Action):
    """Stores a value, and refuses a second one on the same command line."""

    given = False

    def __call__(self, parser: Any, namespace: Any, values: Any, option: str | None = None) -> None:
        if self.given:
            raise argparse.ArgumentError(self, f"must be given once; got {values} besides. Separate columns by commas.")
        self.given = True
        setattr(namespace, self.dest, values)


def count(text: str, at_least: int = 1) -> int:
    if not text.isdecimal() or int(text) < at_least:
        kind = "a positive integer" if at_least == 1 else f"an integer of at least {at_least}"
        raise argparse.ArgumentTypeError(f"must be {kind}; got {text}. Pass e.g. 100.")
    return int(text)


def index(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"must be an integer, zero or more; got {text}. Pass e.g. 0.")
    return int(text)


def port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"must be a port, 0 to 65535; got {text}. Pass e.g. 8050.")
    return int(text)


def rate(text: str) -> float:
    value = _number(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"must be a positive number; got {text}. Pass e.g. 1e-3.")
    return value


def penalty(text: str) -> float:
    value = _number(text)
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"must be a number, zero or more; got {text}. Pass e.g. 0.4.")
    return value


def probability(text: str) -> float:
    value = _number(text)
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"must be 0 or more and less than 1; got {text}. Pass e.g. 0.2.")
    return value


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
