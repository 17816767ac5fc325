"""Kinds of columns, one class each. To add one, write a class and a line in `KINDS`."""

from __future__ import annotations

import dataclasses
from typing import Any

from pyro_vae.tables.columns import shown
from pyro_vae.tables.kinds.base import Kind
from pyro_vae.tables.kinds.left_out import Constant, Identifier
from pyro_vae.tables.kinds.levels import Binary, Categorical, Ordinal
from pyro_vae.tables.kinds.numbers import Count, Positive, Real, Share
from pyro_vae.tables.kinds.times import Time

__all__ = [
    "KINDS",
    "Binary",
    "Categorical",
    "Constant",
    "Count",
    "Identifier",
    "Kind",
    "Ordinal",
    "Positive",
    "Real",
    "Share",
    "Time",
    "as_kind",
    "read_kind",
]

KINDS: dict[str, type[Kind]] = {
    "real": Real,
    "positive": Positive,
    "count": Count,
    "binary": Binary,
    "ordinal": Ordinal,
    "categorical": Categorical,
    "share": Share,
    "time": Time,
    "constant": Constant,
    "identifier": Identifier,
}


def as_kind(name: str, given: Any) -> Kind:
    """The kind that the user gives for a column, an object or a name.

    Raises:
        ValueError: if no kind has this name.
        TypeError: if it is neither.
    """
    if isinstance(given, Kind):
        return given
    if not isinstance(given, str):
        raise TypeError(f"kinds[{name!r}] must be the name of a kind, or a kind; got {given!r}. Pass e.g. 'count'.")
    if given not in KINDS:
        raise ValueError(f"kinds[{name!r}] must be one of {', '.join(KINDS)}; got {given!r}. Choose one.")
    return KINDS[given]()


def read_kind(plain: Any) -> Kind:
    """Make what `Kind.to_plain` described.

    Raises:
        ValueError: if the description is damaged, or of a kind that is not in `KINDS`.

    Example:
        >>> read_kind(Ordinal(["low", "high"]).to_plain())
        Ordinal(levels=('low', 'high'))
    """
    name = plain.get("kind") if isinstance(plain, dict) else None
    if not isinstance(name, str) or name not in KINDS:
        raise ValueError(f"A saved kind must be one of {', '.join(KINDS)}; got {name!r}. Add yours to KINDS.")
    cls, given = KINDS[name], {key: value for key, value in plain.items() if key != "kind"}
    fields = {field.name for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    if given.keys() != fields:
        raise ValueError(
            f"A saved kind {name!r} must have the entries {shown(sorted(fields), 9)}; got"
            f" {shown(sorted(map(str, given)), 9)}. The file is damaged, or of another version."
        )
    try:
        return cls(**{key: tuple(value) if isinstance(value, list) else value for key, value in given.items()})
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"A saved kind {name!r} must have possible entries; got damaged ones: {error}") from None
