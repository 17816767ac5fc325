"""Fields that a user gives for draws: those to draw under, and those to decode under in place of a row's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from pyro_vae.data.frames import check_alignment
from pyro_vae.data.rows import cast
from pyro_vae.data.tensors import check_fields, check_finite
from pyro_vae.fields import choose_fields, split_fields
from pyro_vae.inference.pair import ProgramPair

__all__ = ["read_decode_as", "read_fields", "rows_of"]


def read_fields(model: ProgramPair, fields: dict[str, Any], num_rows: int | None = None) -> dict[str, Tensor]:
    """Named per-row fields as tensors, as the programs take them; a single value is that of every row.

    Args:
        model: the pair of programs.
        fields: the fields, in any form that can become a tensor.
        num_rows: the number of rows that all must have; by default that of the longest.

    Raises:
        ValueError: if a field has another number of rows, is not finite, or is none that the model reads; or if one is
            absent that is required or was used in `fit`.
    """
    names, given = split_fields(fields)
    if set(names) - {"x"}:
        raise ValueError(
            f"fields must be values by name where there are no rows to read them from; got the names {names}. Pass e.g."
            " fields={'label': labels}."
        )
    choose_fields(model.fields, tuple(given), (), seen=model.schema.fields)
    return _read(model, given, num_rows)


def read_decode_as(
    model: ProgramPair, decode_as: Any, num_rows: int, index: Sequence[Any] | None = None
) -> dict[str, Tensor]:
    """The fields of `decode_as=` as tensors, (num_rows, ...) each; none where it is None.

    Raises:
        TypeError: if it is no dictionary.
        ValueError: if a field has no part in p(x | z), has another number of rows or another index than x, or is not
            possible.
    """
    if decode_as is None:
        return {}
    if not isinstance(decode_as, Mapping) or not decode_as:
        raise TypeError(
            f"decode_as must be a dictionary of at least one field; got {decode_as!r}. Pass e.g. {{'site': 'B'}}."
        )
    for name in decode_as:
        if name not in model.decoded_fields:
            known = ", ".join(map(repr, model.decoded_fields)) or "none"
            raise ValueError(
                f"decode_as must name fields that the data depend on given the latents ({known}); got {name!r}."
                " Correct the name, or let the covariate into the decoder."
            )
    check_alignment(decode_as, index)
    return _read(model, decode_as, num_rows)


def rows_of(fields: dict[str, Tensor], start: int, count: int) -> dict[str, Tensor]:
    """`count` rows of fields, from this row on."""
    return {name: value[start : start + count] for name, value in fields.items()}


def _read(model: ProgramPair, given: Mapping[str, Any], num_rows: int | None) -> dict[str, Tensor]:
    read = cast({name: model.read_field(name, value) for name, value in given.items()}, model.like)
    if num_rows is None:
        num_rows = max((len(value) for value in read.values() if value.dim()), default=1) or 1
    read = {name: value if value.dim() else value.expand(num_rows) for name, value in read.items()}
    check_fields(read, num_rows)
    for name, value in read.items():
        check_finite(f"field {name!r}", value)
    model.check_fields(None, read)
    return read
