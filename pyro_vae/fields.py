"""Named per-row fields: which of them programs and parts read, and checks of those that were given.

A row is `x` and named fields. A field that nothing reads, or one that is left out, would change numbers in silence.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

__all__ = [
    "OBSERVED",
    "RESERVED",
    "ROW_WEIGHTS",
    "Field",
    "ReadsFields",
    "Schema",
    "check_one_per_row",
    "choose_fields",
    "keyword_fields",
    "merge_fields",
    "refuse_unread",
    "split_fields",
]

ROW_WEIGHTS = "row_weights"  # the field that `fit` itself reads
OBSERVED = "observed"  # which cells of x are not missing, (rows, *E): made from x where the data do not bring it
RESERVED = ("x", "rows", "self", "posterior")  # names of arguments of programs and parts that are not fields


@dataclass(frozen=True)
class Field:
    """A named per-row field that a program or a part reads.

    Attributes:
        required: whether the program cannot run without it.
        one_per_row: whether it is one number per row, of shape (rows,); other fields have any shape (rows, ...).
        meaning: what it is, in words.
        unknown: whether it may be unknown: absent in later calls though `fit` used it.
    """

    required: bool = True
    one_per_row: bool = False
    meaning: str = ""
    unknown: bool = False


class ReadsFields:
    """Base of programs and parts that read fields: those of their keyword parameters, or of a class attribute `fields`.

    The class attribute is a sequence of names, which are then required, or a dictionary of names and `Field` objects
    (or truth values: whether the field is required).
    """

    stated_fields: ClassVar[dict[str, Field] | None] = None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        stated = cls.__dict__.get("fields")
        if stated is not None and not isinstance(stated, property):
            cls.stated_fields = _as_fields(stated, cls.__qualname__)
            del cls.fields  # type: ignore[attr-defined]  # the property of the base class answers from now on


def _as_fields(stated: Any, owner: str) -> dict[str, Field]:
    """Fields by name, from what a class states."""
    named = (
        stated if isinstance(stated, Mapping) else dict.fromkeys((stated,) if isinstance(stated, str) else stated, True)
    )
    fields = {name: field if isinstance(field, Field) else Field(required=field) for name, field in named.items()}
    if not all(isinstance(name, str) and isinstance(field.required, bool) for name, field in fields.items()):
        raise TypeError(
            f"fields of {owner} must be names, or a dictionary of names and truth values; got {stated!r}. Write e.g."
            " fields = ('label',)."
        )
    return fields


def keyword_fields(function: Callable[..., Any]) -> dict[str, Field]:
    """The fields that a function takes as keyword parameters: all but its first one, reserved names and `**batch`."""
    taken = list(inspect.signature(function).parameters.values())
    while taken and taken[0].name == "self":
        taken = taken[1:]
    if taken and taken[0].kind in (taken[0].POSITIONAL_ONLY, taken[0].POSITIONAL_OR_KEYWORD):
        taken = taken[1:]  # x, or the outputs of the decoder
    named = [p for p in taken if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY) and p.name not in RESERVED]
    return {p.name: Field(required=p.default is p.empty) for p in named}


def merge_fields(groups: Iterable[Mapping[str, Field]]) -> dict[str, Field]:
    """The fields of several readers together: required where one of them requires it."""
    merged: dict[str, Field] = {}
    for group in groups:
        for name, field in group.items():
            other = merged.get(name, Field(required=False))
            merged[name] = Field(
                field.required or other.required,
                field.one_per_row or other.one_per_row,
                other.meaning or field.meaning,
                field.unknown or other.unknown,
            )
    return merged


def split_fields(fields: Mapping[str, Any]) -> tuple[tuple[str, ...], dict[str, Any]]:
    """The names of `fields=`, and the values that are given by keyword, or by a dictionary `fields=`.

    Raises:
        TypeError: if `fields=` is neither names nor a dictionary.
        ValueError: if a field is given in both ways.
    """
    given = {name: value for name, value in fields.items() if name != "fields"}
    named = fields.get("fields", ())
    if isinstance(named, Mapping):
        twice = sorted(set(given) & set(named))
        if twice:
            raise ValueError(f"field {twice[0]!r} must be given once; got it by keyword and in fields=. Leave one out.")
        return (), given | dict(named)
    names = (named,) if isinstance(named, str) else tuple(named) if isinstance(named, Sequence) else (named,)
    if not all(isinstance(name, str) for name in names):
        raise TypeError(
            f"fields must be a sequence of names, or a dictionary of values by name; got {named!r}. Pass e.g."
            " fields=('x', 'label')."
        )
    return names, given


@dataclass(frozen=True)
class Schema:
    """The names that the data of `fit` had, which later data must have too; part of a model and of its file.

    Attributes:
        columns: names of the columns of x; None where no data had names.
        fields: names of the fields that were used; None where the model was never fitted, or by an earlier version.
        table: the kinds of the columns of a table, as JSON values; None where the data were no table.
    """

    columns: tuple[str, ...] | None = None
    fields: tuple[str, ...] | None = None
    table: dict[str, Any] | None = None

    @classmethod
    def read(cls, saved: Any) -> Schema:
        """The schema in a saved description; an empty one where the description has none."""
        saved = saved if isinstance(saved, dict) else {}
        table = saved.get("table")
        return cls(
            _names_or_none(saved.get("columns")),
            _names_or_none(saved.get("fields")),
            table if isinstance(table, dict) else None,
        )

    def after_fit(
        self, columns: Sequence[str] | None, fields: Sequence[str], table: dict[str, Any] | None = None
    ) -> Schema:
        """This schema with the names of data of a `fit`: the first names of columns, and the first table, stay."""
        kept = self.columns if self.columns is not None or columns is None else tuple(columns)
        return Schema(kept, tuple(dict.fromkeys((*(self.fields or ()), *fields))), self.table or table)

    def check_columns(self, columns: Sequence[str]) -> None:
        """Raise a ValueError if columns of these names are not those of `fit` in the same order."""
        known, given = self.columns, tuple(columns)
        if known is None or given == known:
            return
        if sorted(given) == sorted(known):
            place = next(i for i, (one, other) in enumerate(zip(given, known, strict=True)) if one != other)
            raise ValueError(
                f"columns must come in the same order as in fit; got {given[place]!r} in place of {known[place]!r} as"
                f" column {place}. Reorder them: frame[{_shown(known, 'list')}]."
            )
        if _counted(given) or _counted(known):  # pandas counts columns that were given no names
            return
        unseen, missing = [n for n in given if n not in known], [n for n in known if n not in given]
        raise ValueError(
            f"columns must have the same names as in fit; got {_shown(unseen)} that fit had not, and without"
            f" {_shown(missing)} that it had. Select the columns of fit, or rename them."
        )


def _names_or_none(names: Any) -> tuple[str, ...] | None:
    """The names of a saved list; None for anything else."""
    return tuple(names) if isinstance(names, list) and all(isinstance(name, str) for name in names) else None


def _counted(names: Sequence[str]) -> bool:
    return all(name == str(i) for i, name in enumerate(names))


def _shown(names: Sequence[str], kind: str = "") -> str:
    """At most eight names, in quotes."""
    more = ", ..." if len(names) > 8 else ""
    inside = ", ".join(map(repr, names[:8])) + more
    return f"[{inside}]" if kind else inside or "none"


def choose_fields(
    readable: Mapping[str, Field],
    named: Collection[str],
    stored: Collection[str],
    *,
    seen: Collection[str] | None = None,
    training: bool = False,
) -> tuple[str, ...]:
    """The names of the fields that the programs receive: those that were named, and stored ones that are read.

    Args:
        readable: what the model reads.
        named: names that the user gave, by keyword or `fields=`; `"x"` is left out.
        stored: names of the fields that the data bring.
        seen: names that were used in `fit`.
        training: whether this is `fit`, which also reads `row_weights`.

    Raises:
        ValueError: if a field is named that nothing reads, or one is absent that is required or was used in `fit`.
    """
    refuse_unread(readable, named, training=training)
    used = dict.fromkeys(name for name in named if name != "x")
    used |= dict.fromkeys(name for name in stored if name in readable or (training and name == ROW_WEIGHTS))
    given = _shown(list(used))
    if OBSERVED in readable:
        used[OBSERVED] = None
    for name, field in readable.items():
        if field.required and name not in used:
            raise ValueError(
                f"field {name!r} must be given, since the model requires it; got {given}. Pass {name}= by"
                f" keyword or in fields=, or as a field of Rows."
            )
    for name in seen or ():
        may_lack = name in readable and readable[name].unknown
        if name not in used and not may_lack and (training or name != ROW_WEIGHTS):
            neutral = " Pass ones for rows that count alike." if name == ROW_WEIGHTS else ""
            raise ValueError(
                f"field {name!r} must be given, since fit used it; got {given}. Pass {name}= by keyword or"
                f" in fields=, or as a field of Rows.{neutral}"
            )
    return tuple(used)


def refuse_unread(readable: Mapping[str, Field], named: Collection[str], *, training: bool = False) -> None:
    """Raise a ValueError if a field is named that nothing reads; the arguments are those of `choose_fields`."""
    for name in named:
        if name not in readable and name != "x" and not (training and name == ROW_WEIGHTS):
            raise ValueError(_unread(name, readable))


def _unread(name: str, readable: Mapping[str, Field]) -> str:
    """The message about a field that nothing reads."""
    known = f"({_shown(list(readable))})" if readable else "(it reads none)"
    if name == ROW_WEIGHTS:
        return (
            f"field {name!r} must be left out here; got it in a call that weights no rows: it multiplies the bound of"
            " each row in fit alone. Weight the results by hand."
        )
    return (
        f"field {name!r} must be one that the model reads {known}; got a name that is no option of this call, and that"
        " no part or program takes, so that it would have no effect. Correct the name or leave it out; in a program of"
        " your own, make it a keyword"
        f" parameter of model, guide or forward, or state the class attribute fields = ({name!r},)."
    )


def check_one_per_row(name: str, values: Tensor, num_rows: int) -> None:
    """Raise a ValueError unless values are one number per row: others broadcast along the wrong dimension."""
    if tuple(values.shape) != (num_rows,):
        one_column = values.dim() > 1 and values.numel() == num_rows
        advice = "Pass one number per row: values.squeeze(1)." if one_column else "Give one number per row."
        raise ValueError(
            f"field {name!r} must have shape (rows,), here ({num_rows},); got {tuple(values.shape)}. {advice}"
        )
