"""From a frame to a schema and numbers, and from a frame of the same columns to numbers under a schema."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from pyro_vae.covariates.covariates import check_name
from pyro_vae.data.tensors import as_names
from pyro_vae.tables.columns import Column, shown
from pyro_vae.tables.covariates import field_of
from pyro_vae.tables.infer import infer
from pyro_vae.tables.kinds import Constant, Identifier, Kind, as_kind
from pyro_vae.tables.libraries import DType, Library, library_of, sort_of
from pyro_vae.tables.schema import ColumnSchema, TableSchema

__all__ = ["read", "read_like"]


Fields = dict[str, Tensor]  # covariates by name, (N,) each


def read(frame: Any, kinds: Any, leave_out: Any, covariates: Any = None) -> tuple[TableSchema, np.ndarray, Fields]:
    """The schema of a frame, x, (N, D), and the covariates.

    Raises:
        TypeError: if it is no frame, or a column of a dtype without a kind.
        ValueError: if it has no rows, a column has no cell, or a name or a kind is wrong.
    """
    library = library_of(frame)
    labels = _labels(library, frame)
    names = [str(label) for label in labels]
    given = _checked_kinds(kinds, names)
    unused = set(_known(as_names(leave_out, "leave_out"), names, "leave_out"))
    both = sorted(unused & given.keys())
    if both:
        raise ValueError(f"leave_out must name columns without a kind; got {both[0]!r}, which has one. Choose.")
    given_fields = _checked_covariates(covariates, names, unused)
    columns, x, empty, fields = [], [], [], {}
    for place, (label, name) in enumerate(zip(labels, names, strict=True)):
        if name in unused or isinstance(given.get(name), Identifier):
            kind = Identifier("left out, as asked for") if name in unused else given[name]
            columns.append(ColumnSchema(label, kind))
            continue
        column, dtype = library.read(frame, place, name)
        if not column.observed.any():
            empty.append(name)
            continue
        kind = given[name].fit(column) if name in given else infer(column)
        dtype = None if dtype is None else library.with_levels(dtype, getattr(kind, "levels", ()))
        if name in given_fields and not kind.modelled:
            raise ValueError(
                f"column {name!r} must vary, and be of a kind that numbers stand for, to be a covariate; got"
                f" {kind.describe()}. Pass kinds={{{name!r}: ...}}, or leave it out of covariates=."
            )
        dtype = dtype if kind.modelled or isinstance(kind, Constant) else None
        columns.append(ColumnSchema(label, kind, dtype, name in given_fields))
        if name in given_fields:
            fields[name] = field_of(kind, column)
        elif kind.modelled:
            x.append(kind.encode(column))
    if empty:
        which = f"column {empty[0]!r}" if len(empty) == 1 else f"columns {shown(empty, 8)}"
        raise ValueError(f"{which} must have a cell that is not missing; got none. Pass leave_out={empty[:8]!r}.")
    schema = TableSchema(library.name, tuple(columns), library.axis(frame))
    return schema, np.column_stack(x), fields


def read_like(frame: Any, schema: TableSchema) -> tuple[TableSchema, np.ndarray, Fields]:
    """Another frame with the kinds of a schema: this schema with the library and dtypes of the frame, x, covariates.

    Raises:
        TypeError: if it is no frame, or a column is of another sort.
        ValueError: if it has no rows, lacks a column or has an unknown one, or has a cell that contradicts a kind.
    """
    library = library_of(frame)
    labels = _labels(library, frame)
    places = {str(label): place for place, label in enumerate(labels)}
    needed = [*schema.names, *(column.name for column in schema.covariates)]
    missing = [name for name in needed if name not in places]
    if missing:
        raise ValueError(f"frame must have the columns of the schema; got none named {shown(missing, 8)}. Add them.")
    known = {column.name for column in schema.columns}
    unknown = [name for name in places if name not in known]
    if unknown:
        raise ValueError(f"frame must have columns of the schema only; got {shown(unknown, 8)} besides. Drop them.")
    columns, x, fields = [], [], {}
    for own in schema.columns:
        place = places.get(own.name)
        if place is None:  # left out, or constant: it need not be there
            columns.append(own if library.name == schema.library else dataclasses.replace(own, dtype=None))
            continue
        if not own.kind.modelled and not isinstance(own.kind, Constant):
            columns.append(dataclasses.replace(own, label=labels[place]))
            continue
        column, dtype = library.read(frame, place, own.name)
        cells: Any = None if own.covariate else own.kind.encode(column)
        dtype = _dtype_for(own, column, dtype, library, library.name == schema.library)
        columns.append(ColumnSchema(labels[place], own.kind, dtype, own.covariate))
        if own.covariate:
            fields[own.name] = field_of(own.kind, column)
        elif own.kind.modelled:
            x.append(cells)
    columns = [own for own in columns if own.dtype is not None or not isinstance(own.kind, Constant)]
    return TableSchema(library.name, tuple(columns), library.axis(frame)), np.column_stack(x), fields


def _checked_covariates(covariates: Any, names: Sequence[str], unused: set[str]) -> list[str]:
    """The names of the columns that are covariates."""
    chosen = _known(() if covariates is None else as_names(covariates, "covariates"), names, "covariates")
    both = sorted(unused & set(chosen))
    if both:
        raise ValueError(f"leave_out must name no covariates; got {both[0]!r}, which is one. Choose.")
    return [check_name(name) for name in chosen]


def _dtype_for(own: ColumnSchema, column: Column, dtype: DType | None, library: Library, same: bool) -> DType | None:
    """The dtype of the frame, made to hold what a model of the schema may draw."""
    if not column.observed.any() and own.dtype is not None:
        sorts = {column.sort, sort_of(own.dtype)}
        if len(sorts) > 1 and sorts != {"int", "float"}:
            return own.dtype if same else None
    return None if dtype is None else library.with_levels(dtype, getattr(own.kind, "levels", ()))


def _labels(library: Library, frame: Any) -> list[Any]:
    """The names of the columns, checked, of a frame with rows."""
    labels = library.names(frame)
    wrong = [label for label in labels if isinstance(label, bool) or not isinstance(label, str | int)]
    if wrong:
        raise TypeError(f"columns must have names that are text or integers; got {wrong[0]!r}. Rename it.")
    names = [str(label) for label in labels]
    if len(set(names)) < len(names):
        twice = next(name for i, name in enumerate(names) if name in names[:i])
        raise ValueError(f"columns must have different names; got {twice!r} twice. Rename one.")
    if len(frame) == 0:
        raise ValueError("frame must have at least one row; got none. Check how it was read.")
    return labels


def _checked_kinds(kinds: Any, names: Sequence[str]) -> dict[str, Kind]:
    if kinds is None:
        return {}
    if not isinstance(kinds, Mapping):
        raise TypeError(f"kinds must be a dictionary; got {kinds!r}. Pass e.g. {{'visits': 'count'}}.")
    _known([str(name) for name in kinds], names, "kinds")
    return {str(name): as_kind(str(name), kind) for name, kind in kinds.items()}


def _known(chosen: Iterable[str], names: Sequence[str], what: str) -> list[str]:
    chosen, known = list(chosen), set(names)
    unknown = [name for name in chosen if name not in known]
    if unknown:
        raise ValueError(f"{what} must name columns of the frame ({shown(names, 20)}); got {unknown[0]!r}. Correct it.")
    return chosen
