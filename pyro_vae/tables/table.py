"""Frames whose columns are of different kinds, as rows of numbers."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from pyro_vae.arguments import true_or_false
from pyro_vae.covariates import Covariates
from pyro_vae.data.rows import Rows
from pyro_vae.data.tensors import as_names, as_tensor
from pyro_vae.likelihoods import Likelihood
from pyro_vae.tables import report
from pyro_vae.tables.kinds import Identifier, Kind, Time
from pyro_vae.tables.libraries import LIBRARIES, is_frame, library_of
from pyro_vae.tables.libraries.base import ticks_in
from pyro_vae.tables.reading import read, read_like
from pyro_vae.tables.schema import ColumnSchema, TableSchema, write
from pyro_vae.tables.stand_ins import find_stand_ins

__all__ = ["Table", "matching"]


class Table(Rows):
    """The rows of a frame as numbers, with what is needed to make frames of numbers again.

    Each modelled column is one column of x, (N, D) in float64, in the order of the frame, with NaN where a cell is
    missing: None, NaN, NA, NaT and null are all missing. `print(table)` shows what was made of each column.

    Args:
        frame: a frame of pandas or polars, or a table of pyarrow.
        kinds: kinds by column, as a name ("real", "positive", "count", "binary", "ordinal", "categorical", "share",
            "time", "identifier") or an object, such as `Ordinal(["low", "high"])`. Those of other columns are inferred;
            `pyro_vae.tables.infer.infer` has the rules.
        leave_out: names of columns that are not modelled.
        covariates: names of columns that are covariates: fields of the rows, of which the others depend, and no columns
            of x. They must have no missing cells.
        id: planned.
        time: planned.

    Attributes:
        schema: the names, kinds and dtypes of the columns.

    Raises:
        TypeError: if it is no frame, or a column is of a dtype that no kind reads, or not of the kind that is given.
        ValueError: if there is no row or no column to model, a column has no cell, an infinite one or one that
            contradicts its kind, or a name is unknown or occurs twice.

    Example:
        >>> import pandas
        >>> frame = pandas.DataFrame({"age": [31.5, 40.0, 62.25, None], "smokes": ["no", "yes", "no", "no"]})
        >>> table = Table(frame)
        >>> table.x[:, 1]
        tensor([0., 1., 0., 0.], dtype=torch.float64)
        >>> print(table)
        Table of 4 rows and 2 columns (pandas)
        <BLANKLINE>
        column  kind    levels or range     missing  likelihood
        age     real    31.5 to 62.25       25.0 %   Normal
        smokes  binary  levels no, yes (2)  0        Bernoulli
    """

    schema: TableSchema
    _picked: Tensor | None
    _chosen: dict[str, str]  # the kinds that the user stated, by column

    def __init__(
        self,
        frame: Any,
        *,
        kinds: Mapping[str, str | Kind] | None = None,
        leave_out: Sequence[str] = (),
        covariates: Sequence[str] | None = None,
        id: Any = None,  # noqa: A002
        time: Any = None,
    ) -> None:
        for what, given in {"id": id, "time": time}.items():
            if given is not None:
                raise NotImplementedError(f"{what} must be None, since it is planned; got {given!r}. Leave it out.")
        self._fill(frame, *read(frame, kinds, leave_out, covariates))
        self._chosen = {name: self.schema.kinds[name].name for name in kinds or {} if name in self.schema.kinds}
        asked = {*as_names(leave_out, "leave_out"), *(kinds or {})}
        unasked = [c for c in self.schema.left_out if isinstance(c.kind, Identifier) and c.name not in asked]
        if unasked:
            listed = "; ".join(f"{c.name!r} ({c.kind.describe()})" for c in unasked[:5])
            warnings.warn(
                f"Columns are left out: {listed}{'; ...' if len(unasked) > 5 else ''} ({len(unasked)} of"
                f" {len(self.schema.columns)}). Pass kinds={{{unasked[0].name!r}: 'identifier'}} (and so on) to say"
                " that it is meant, or other kinds to model them.",
                stacklevel=_level_of_user(),
            )
        for name, value, count in find_stand_ins(self.schema, self.x.numpy(), self._chosen):
            warnings.warn(
                f"column {name!r} holds {value} in {count:,} of {len(self):,} rows, which looks like a mark of missing"
                f" cells and is modelled as data. Replace it by missing cells (in a .csv file: empty fields), or pass"
                f" kinds={{{name!r}: {self.schema.kinds[name].name!r}}} to say that it is meant.",
                stacklevel=_level_of_user(),
            )

    @classmethod
    def like(cls, frame: Any, schema: TableSchema) -> Self:
        """Another frame, read with the kinds and the levels of a schema, e.g. that of the training data.

        Columns are matched by their names, so they may come in another order; x has the order of the schema. Columns
        that the schema leaves out may be absent. The frame may be one of another library: frames that `frame` returns
        are then of that library.

        Args:
            frame: a frame of pandas or polars, or a table of pyarrow.
            schema: the schema.

        Raises:
            TypeError: if it is no frame, or a column is of another sort than in the schema.
            ValueError: if the frame has no row, lacks a column of the schema or has another one, or a cell contradicts
                the kind of its column, such as an unknown level.
        """
        table = cls.__new__(cls)
        table._fill(frame, *read_like(frame, schema))
        return table

    def _fill(self, frame: Any, schema: TableSchema, x: np.ndarray, fields: Mapping[str, Tensor]) -> None:
        library = library_of(frame)
        super().__init__(torch.from_numpy(x), fields, columns=schema.names, index=library.index(frame))
        self.schema, self._frame, self._picked = schema, library.kept(frame), None
        self._chosen = {}

    def read_by(self, schema: TableSchema) -> Table:
        """These rows with the kinds and levels of another schema: that of the data that a model was trained on.

        Raises:
            TypeError, ValueError: as `like`; also if a kind that was chosen for a column is another there.
        """
        if self.schema == schema:
            return self
        for name, kind in self._chosen.items():
            there = schema.kinds.get(name)
            if there is not None and there.name != kind:
                raise ValueError(
                    f"column {name!r} must be of the kind {there.name!r}, as in the data of training; got {kind!r}."
                    " Make a new model for the other kind."
                )
        rows = type(self).like(self.frame(), schema)
        read = {column.name for column in schema.covariates}
        more = {name: self.field(name) for name in self.field_names if name not in read}
        return rows.with_fields(more) if more else rows  # type: ignore[return-value]

    @property
    def library(self) -> str:
        """The library of the frame: "pandas", "polars" or "pyarrow"."""
        return self.schema.library

    def likelihood(self) -> Likelihood:
        """p(x given z) with a block for each run of adjacent columns of one kind; see `TableSchema.likelihood`."""
        return self.schema.likelihood()

    def covariates(self, into: Sequence[str] = ("encoder", "decoder")) -> Covariates:
        """The covariates for a model of these rows, and what depends on them; see `pv.Covariates`."""
        return self.schema.make_covariates(into)

    def subset(self, index: Any) -> Table:
        positions = torch.arange(len(self))[index]
        rows: Table = super().subset(index)  # type: ignore[assignment]
        rows._picked = positions if self._picked is None else self._picked[positions]
        return rows

    def frame(self, values: Any = None, *, own_rows: bool | None = None) -> Any:
        """A frame of the library that the table came from, with its dtypes, levels, and names and order of columns.

        Args:
            values: rows of x, (M, D), such as draws; NaN where a cell is missing. By default the table's own, so that
                the frame is the one that the table came from.
            own_rows: whether the values are those of the table's rows, in order, such as imputations. Then the index
                and the columns that are left out come back as they were, and so does each cell with an unchanged
                value. Otherwise the index is a new one, columns that are left out are absent, and constant ones are
                filled in. By default whether `values` is None.

        Raises:
            ValueError: if the shape of the values is another, or a number stands for no cell of its column.

        Example:
            >>> import pandas
            >>> table = Table(pandas.DataFrame({"age": [31.5, 40.25, None], "smokes": ["no", "yes", "no"]}))
            >>> table.frame([[31.5, 0.0], [40.25, 1.0], [50.0, 0.0]], own_rows=True)
                age smokes
            0  31.50     no
            1  40.25    yes
            2  50.00     no
        """
        own = values is None if own_rows is None else true_or_false("own_rows", own_rows)
        if not own:
            return self.schema.frame(self.x if values is None else values)
        library = LIBRARIES[self.library]
        frame = self._frame if self._picked is None else library.taken(self._frame, self._picked.numpy())
        if values is None:
            return library.kept(frame)
        given, decoded = as_tensor(values, "values").double().cpu(), self.schema.decode(values)
        if len(given) != len(self):
            raise ValueError(
                f"values must be {len(self):,} rows, those of the table, for own_rows=True; got {len(given):,}. Pass"
                " own_rows=False for other rows."
            )
        changed = self._changed(given)
        places = {str(label): place for place, label in enumerate(library.names(frame))}
        new = {}
        for column, cells in zip(self.schema.modelled, changed.unbind(1), strict=True):
            if cells.any():
                place = places[column.name]
                found = self._kept_times(frame, place, column, decoded[column.name], cells.numpy())
                new[place] = write(library, column, found)
        return library.kept(library.replaced(frame, new) if new else frame)

    def _changed(self, values: Tensor) -> Tensor:
        """Which cells are not those of the table, (N, D) bool."""
        own = self.x
        return (values != own) & ~(values.isnan() & own.isnan())

    def _kept_times(
        self, frame: Any, place: int, column: ColumnSchema, decoded: np.ndarray, changed: np.ndarray
    ) -> np.ndarray:
        """The decoded cells; times that are unchanged to all their digits, of which days in float64 lose some."""
        if not isinstance(column.kind, Time):
            return decoded
        own, _ = LIBRARIES[self.library].read(frame, place, column.name)
        if own.sort != "time":
            return decoded
        return np.where(changed, ticks_in(decoded, own.unit), own.numbers).view(f"datetime64[{own.unit}]")

    def missing_shares(self) -> np.ndarray:
        """The share of missing cells of each modelled column, (D,)."""
        missing = torch.zeros(len(self.schema.modelled), dtype=torch.float64)
        for part in self.pieces():
            missing += part.isnan().sum(0)
        return (missing / len(self)).numpy()

    def __repr__(self) -> str:
        return f"<{report.title(self.schema, len(self))}>"

    def __str__(self) -> str:
        return report.as_text(self.schema, self.missing_shares(), len(self))

    def _repr_html_(self) -> str:
        return report.as_html(self.schema, self.missing_shares(), len(self))


def _level_of_user() -> int:
    """The `stacklevel` of a warning of the caller that names the first line outside of this package."""
    level, frame = 1, sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith("pyro_vae."):
        level, frame = level + 1, frame.f_back
    return level


def matching(data: Any, plain: Any) -> Any:
    """Data for a model that was trained on a table: frames are read by its schema, other data are left as they are.

    Args:
        data: what the user passed.
        plain: the schema of the table as JSON values; None where the model was not trained on one.

    Raises:
        TypeError, ValueError: if a frame does not have such columns.
    """
    if plain is None:
        return data
    schema = TableSchema.from_plain(plain)
    if isinstance(data, Table):
        return data.read_by(schema)
    return Table.like(data, schema) if is_frame(data) else data
