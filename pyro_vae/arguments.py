"""Checks of arguments: each returns the value or raises an error that names the argument and says what to pass."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from numbers import Integral
from pathlib import Path
from typing import Any

__all__ = [
    "as_path",
    "check_compile",
    "check_kind",
    "finite_number",
    "is_integer",
    "is_number",
    "positive_integer",
    "positive_number",
    "positive_numbers",
    "true_or_false",
]


def as_path(what: str, value: Any) -> Path:
    """Return the name of a file or folder as a path, with `~` replaced by the home folder.

    Raises:
        TypeError: naming the argument `what`, if `value` is not the name of a path.
        ValueError: if no path can have this name.
    """
    if not isinstance(value, str | os.PathLike):
        raise TypeError(f"{what} must be the name of a folder or file; got {value!r}. Pass e.g. {what}='runs/mine'.")
    try:
        if "\0" not in os.fspath(value):
            return Path(value).expanduser()
    except (TypeError, RuntimeError):  # a name in bytes; `~` with a user that does not exist
        pass
    raise ValueError(f"{what} must be the name of a folder or file; got {value!r}. Correct it.")


def check_compile(value: Any) -> None:
    """Raise a ValueError unless `value` says whether something is compiled: True, False or "auto"."""
    if not isinstance(value, int | str) or value not in (True, False, "auto"):
        raise ValueError(f"compile must be True, False or 'auto'; got {value!r}. 'auto' compiles where it pays.")


def check_kind(role: str, part: Any, kind: Any) -> Any:
    """Return a part of the class `kind`, e.g. `Prior`; raise a TypeError that names its role for anything else."""
    if not isinstance(part, kind):
        package = kind.__module__.split(".")[1]
        raise TypeError(f"{role} must be a part of pv.{package}; got {part!r}. Pass an object.")
    return part


def positive_integer(what: str, value: Any, at_least: int = 1) -> int:
    """Return an integer of at least `at_least`; raise a ValueError that names `what` for anything else."""
    if not is_integer(value) or value < at_least:
        kind = "a positive integer" if at_least == 1 else f"an integer of at least {at_least}"
        raise ValueError(f"{what} must be {kind}; got {value!r}. Pass e.g. {what}={max(16, at_least)}.")
    return int(value)


def is_integer(value: Any) -> bool:
    """Whether `value` is an integer of Python or NumPy; True and False do not count as integers."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def is_number(value: Any) -> bool:
    """Whether `value` is a finite Python number; True and False do not count as numbers."""
    return isinstance(value, int | float) and not isinstance(value, bool) and -math.inf < value < math.inf


def finite_number(what: str, value: Any) -> float:
    """Return a finite number; raise a ValueError that names `what` for anything else."""
    if not is_number(value):
        raise ValueError(f"{what} must be a finite number; got {value!r}. Pass e.g. {what}=1.0.")
    return value  # type: ignore[no-any-return]


def positive_number(what: str, value: Any) -> float:
    """Return a finite number above 0; raise a ValueError that names `what` for anything else."""
    if not is_number(value) or not value > 0:
        raise ValueError(f"{what} must be a positive number; got {value!r}. Pass e.g. {what}=1.0.")
    return value  # type: ignore[no-any-return]


def true_or_false(what: str, value: Any) -> bool:
    """Return True or False; raise a TypeError that names `what` for anything else."""
    if not isinstance(value, bool):
        raise TypeError(f"{what} must be True or False; got {value!r}. Pass one of these.")
    return value


def positive_numbers(what: str, value: Any, count: int) -> float | tuple[float, ...]:
    """Return one positive number or a tuple of `count`; raise a ValueError that names `what` for anything else."""
    if not isinstance(value, Sequence) or isinstance(value, str):
        return positive_number(what, value)
    if len(value) != count:
        raise ValueError(f"{what} must be one number or {count} numbers; got {len(value)}. Give one for each.")
    return tuple(positive_number(what, part) for part in value)
