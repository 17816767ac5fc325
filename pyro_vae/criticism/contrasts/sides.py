"""The two sides of a contrast: which rows take part in each, and under which values of the field they are decoded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_vae.criticism.contrasts.labels import Labels, labels_of_field, read_labels, shown
from pyro_vae.data.rows import Rows, cast
from pyro_vae.fields import OBSERVED
from pyro_vae.inference.pair import ProgramPair

__all__ = ["Sides", "check_design", "read_sides"]


@dataclass(frozen=True)
class Sides:
    """The rows of a contrast and their part in its two sides.

    Attributes:
        rows: the rows that take part, N.
        members: which rows of each group belong to either side, (2, N, G) bool.
        groups: names of the groups, G; None for all rows together.
        decoded: values of fields under which the rows are decoded: one dictionary for each side, or an empty one for
            both where every row keeps its own.
        counts: how many of the rows that were given have either level.
    """

    rows: Rows
    members: Tensor
    groups: list[str] | None
    decoded: tuple[dict[str, Tensor], ...]
    counts: tuple[int, int]

    @property
    def version(self) -> tuple[int, int]:
        """The place in `decoded` of what either side is decoded under."""
        return (0, len(self.decoded) - 1)

    @property
    def weights(self) -> Tensor:
        """The weights by which averages over the rows of each side and group are sums over rows, (2, N, G)."""
        members = self.members.double()
        return members / members.sum(1, keepdim=True)


def check_design(model: ProgramPair, field: Any, levels: Any, design: Any) -> str:
    """The design: "all", or "own"; by default "all" where decoding under other values has an effect.

    Raises:
        TypeError: if the field is not named by text.
        ValueError: if levels are not two, or the design is unknown or has no effect.
    """
    if not isinstance(field, str):
        raise TypeError(f"field must be the name of a field; got {field!r}. Pass e.g. field='group'.")
    if not isinstance(levels, Sequence) or isinstance(levels, str) or len(levels) != 2:
        raise ValueError(f"levels must be two, (A, B), for B - A; got {levels!r}. Pass e.g. ('control', 'treated').")
    decoded = field in model.decoded_fields
    if design is None:
        return "all" if decoded else "own"
    if not isinstance(design, str) or design not in ("all", "own"):
        raise ValueError(f"rows must be 'all' or 'own'; got {design!r}. Choose one of these.")
    if design == "all" and not decoded:
        raise ValueError(
            f"rows must be 'own' for the field {field!r}, which does not reach the decoder, so that every row would"
            f" stay as it is under another level; got 'all'. Pass rows='own', or let the field into the decoder."
        )
    return design


def read_sides(
    model: ProgramPair, rows: Rows, field: str, levels: Sequence[Any], design: str, given: dict[str, Any], by: Any
) -> Sides:
    """The sides of a contrast of these rows.

    Args:
        model: the pair of programs.
        rows: the rows.
        field: the name of the field.
        levels: the two levels.
        design: "all" or "own".
        given: values of fields that the model does not read.
        by: the name of a field, labels of the rows, or None.

    Raises:
        ValueError: if the field or a level is unknown, levels are the same, or one has no rows in a group.
    """
    labels = _labels(model, rows, field, given, "field")
    if field in model.fields:
        values = _read_levels(model, field, levels)
        own = rows.field(field)
        at = [own == (value.to(own.dtype) if own.is_floating_point() else value) for value in values]
    else:
        values = []
        at = [labels.codes == _place(field, labels, level) for level in levels]
        _refuse_equal(field, levels, bool((at[0] == at[1]).all()))
    inside = torch.stack([one.cpu() for one in at])
    counts = (int(inside[0].sum()), int(inside[1].sum()))
    groups = None if by is None else _groups(model, rows, given, by)
    codes = torch.zeros(len(rows), dtype=torch.int64) if groups is None else groups.codes
    members = codes[:, None] == torch.arange(1 if groups is None else len(groups.names))  # (N, G)
    names = None if groups is None else groups.names
    if design == "all":
        decoded = tuple(cast({field: value.expand(len(rows))}, model.like) for value in values)
        return Sides(rows, members.expand(2, *members.shape), names, decoded, counts)
    both = members & inside[..., None]
    _refuse_empty(field, levels, both, names)
    taken = inside.any(0)
    return Sides(rows.subset(taken.nonzero().flatten()), both[:, taken], names, ({},), counts)


def _labels(model: ProgramPair, rows: Rows, name: str, given: dict[str, Any], what: str) -> Labels:
    """The labels of rows by the name of a field."""
    if name in given:
        return read_labels(f"field {name!r}", given[name], len(rows))
    if name in rows.field_names:
        return labels_of_field(model, rows, name)
    known = [name for name in dict.fromkeys((*model.fields, *rows.field_names, *given)) if name != OBSERVED]
    raise ValueError(
        f"{what} must name a field of the rows ({shown(known) or 'they have none'}); got {name!r}. Correct the"
        f" name, or pass the values of the rows by keyword: {name}=..."
    )


def _groups(model: ProgramPair, rows: Rows, given: dict[str, Any], by: Any) -> Labels:
    if isinstance(by, str):
        return _labels(model, rows, by, given, "by")
    return read_labels("by", by, len(rows))


def _read_levels(model: ProgramPair, field: str, levels: Sequence[Any]) -> list[Tensor]:
    """The levels of a field that the model reads, as tensors ()."""
    values = []
    for level in levels:
        value = model.read_field(field, level)
        if value.dim() != 0:
            raise ValueError(
                f"levels must be single values of the field {field!r}; got shape {tuple(value.shape)}. Pass two numbers"
                " or names."
            )
        if not torch.isfinite(value):
            raise ValueError(f"levels must be finite; got {level!r}. Correct it.")
        model.check_fields(None, cast({field: value.reshape(1)}, model.like))
        values.append(value)
    _refuse_equal(field, levels, bool(values[0] == values[1]))
    return values


def _refuse_equal(field: str, levels: Sequence[Any], same: bool) -> None:
    if same:
        raise ValueError(f"levels must be two different ones of the field {field!r}; got {levels!r}. Name another.")


def _place(field: str, labels: Labels, level: Any) -> int:
    """The place of a level among the labels of a field that the model does not read."""
    comparable = str if labels.values and isinstance(labels.values[0], str) else (int, float, np.number)
    if isinstance(level, comparable) and level in labels.values:
        return labels.values.index(level)
    raise ValueError(f"levels must be those of the field {field!r}, {shown(labels.values)}; got {level!r}. Correct it.")


def _refuse_empty(field: str, levels: Sequence[Any], members: Tensor, groups: list[str] | None) -> None:
    """Raise a ValueError if a side has no rows in a group."""
    empty = ~members.any(1)  # (2, G)
    if not empty.any():
        return
    side, group = (int(i) for i in empty.nonzero()[0])
    where = "" if groups is None else f" in the group {groups[group]!r}"
    raise ValueError(
        f"levels must both have rows for rows='own'; got no row with {field!r} at {levels[side]!r}{where}. Choose other"
        " levels, or other groups."
    )
