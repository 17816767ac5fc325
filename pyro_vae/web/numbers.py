"""Estimates and their two errors in words; a number that is unknown, infinite or not computed is said to be so."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pyro_vae.evaluation.results import SIGNS

__all__ = ["NOT_COMPUTED", "number", "sentence"]

NOT_COMPUTED = "not computed"
INFINITE = {"Infinity": "infinite", "-Infinity": "minus infinity"}


def number(values: Mapping[str, Any], name: str, digits: int = 3) -> str:
    """An entry of a dictionary of JSON values in words: null is an unknown number, and an absent one not computed.

    Example:
        >>> [number({"a": 1.5, "b": None, "c": "-Infinity"}, name) for name in "abcd"]
        ['1.500', 'unknown', 'minus infinity', 'not computed']
    """
    if name not in values:
        return NOT_COMPUTED
    value = values[name]
    if value is None:
        return "unknown"
    return INFINITE.get(value, value) if isinstance(value, str) else f"{value:.{digits}f}"


def sentence(what: str, mean: Mapping[str, Any] | None, rows: int | None, unit: str = "nats per row") -> str:
    """A mean over rows as `evaluation.json` has it, with its errors, as sentences.

    Args:
        what: the name of the number.
        mean: `estimate`, `monte_carlo_error`, `sampling_error`, and of a bound `kind` and `error_holds`; None if it was
            not computed.
        rows: number of rows behind it.
        unit: its unit.

    Example:
        >>> mean = {"estimate": -2.0, "monte_carlo_error": 0.01, "sampling_error": None}
        >>> for line in sentence("test ELBO", mean, 9).split(". "):
        ...     print(line)
        Test ELBO: -2.000 nats per row, the mean over 9 rows
        Other random draws would change it by about 0.010 (Monte Carlo error)
        How much other rows would change it is unknown (sampling error).
    """
    begin = f"{what[:1].upper()}{what[1:]}"
    if not mean:
        return f"{begin}: {NOT_COMPUTED}."
    over = "" if rows is None else f", the mean over {rows:,} rows" if rows != 1 else ", of one row"
    estimate = f"{SIGNS[str(mean.get('kind', 'estimate'))]}{number(mean, 'estimate')}"
    return f"{begin}: {estimate} {unit}{over}. {_monte_carlo(mean)} {_sampling(mean)}"


def _monte_carlo(mean: Mapping[str, Any]) -> str:
    if not mean.get("error_holds", True):
        return "No Monte Carlo error is given, since it would be too small."
    if mean.get("monte_carlo_error") == 0:
        return "Its Monte Carlo error is zero."
    return _change("random draws", "Monte Carlo error", mean, "monte_carlo_error")


def _sampling(mean: Mapping[str, Any]) -> str:
    return _change("rows", "sampling error", mean, "sampling_error")


def _change(others: str, error: str, mean: Mapping[str, Any], name: str) -> str:
    size = number(mean, name)
    if isinstance(mean.get(name), int | float):
        return f"Other {others} would change it by about {size} ({error})."
    return f"How much other {others} would change it is {size} ({error})."
