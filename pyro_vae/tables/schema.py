"""What the columns of a table are, as a value that is saved with a model."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_vae import likelihoods
from pyro_vae.covariates import Covariates
from pyro_vae.data.tensors import as_tensor
from pyro_vae.likelihoods import Likelihood
from pyro_vae.tables.covariates import codes_of, covariate_of
from pyro_vae.tables.kinds import Constant, Kind, read_kind
from pyro_vae.tables.kinds.numbers import TINY
from pyro_vae.tables.libraries import LIBRARIES, DType, Library, check_dtype, sort_of

__all__ = ["ColumnSchema", "TableSchema"]

VERSION = 2  # of the description; version 1 had no covariates


@dataclass(frozen=True)
class ColumnSchema:
    """One column of a table.

    Attributes:
        label: the name of the column in the frame: text, or in a pandas frame also an integer.
        kind: its kind.
        dtype: its dtype as JSON values; None of a column that is left out and not constant.
        covariate: whether the column is a covariate: a field of the rows, and no column of x.
    """

    label: str | int
    kind: Kind
    dtype: DType | None = field(default=None, hash=False)
    covariate: bool = False

    @property
    def name(self) -> str:
        """The name as text."""
        return str(self.label)


@dataclass(frozen=True)
class TableSchema:
    """The columns of a table: their names, kinds and dtypes, and the library of the frame that they came from.

    Attributes:
        library: "pandas", "polars" or "pyarrow".
        columns: all columns in the order of the frame, those that are left out too.
        axis: of a pandas frame, the name and the dtype of the axis of the column names, as JSON values.

    Raises:
        ValueError: if the library is unknown, a name occurs twice, or no column is modelled.

    Example:
        >>> import pandas
        >>> from pyro_vae.tables import Table
        >>> table = Table(pandas.DataFrame({"age": [31.5, 40.0, 62.25, None], "smokes": ["no", "yes", "no", "no"]}))
        >>> schema = TableSchema.from_plain(table.schema.to_plain())
        >>> schema == table.schema, schema.names
        (True, ['age', 'smokes'])
        >>> schema.frame([[50.5, 1.0]])
            age smokes
        0  50.5    yes
    """

    library: str
    columns: tuple[ColumnSchema, ...]
    axis: DType | None = field(default=None, hash=False)

    def __post_init__(self) -> None:
        if self.library not in LIBRARIES:
            raise ValueError(f"library must be one of {', '.join(LIBRARIES)}; got {self.library!r}. Choose one.")
        names = [column.name for column in self.columns]
        twice = sorted({name for name in names if names.count(name) > 1}) if len(set(names)) < len(names) else []
        if twice:
            raise ValueError(f"columns must have different names; got {twice[0]!r} twice. Rename one.")
        if not self.modelled:
            reasons = "; ".join(f"{column.name!r} is {column.kind.describe()}" for column in self.columns[:5])
            unsplit = len(names) == 1 and any(mark in names[0] for mark in ";,\t| ")
            advice = (
                "Read the file with its separator: read_csv(sep=...)." if unsplit else "Pass kinds={...}, or others."
            )
            if self.covariates:
                advice = "Leave a column out of covariates=."
            raise ValueError(
                f"frame must have a column to model; got {f'none: {reasons}' if reasons else 'no column'}. {advice}"
            )

    @property
    def modelled(self) -> tuple[ColumnSchema, ...]:
        """The columns of x, in order."""
        return tuple(column for column in self.columns if column.kind.modelled and not column.covariate)

    @property
    def covariates(self) -> tuple[ColumnSchema, ...]:
        """The columns that are covariates, in order."""
        return tuple(column for column in self.columns if column.covariate)

    @property
    def left_out(self) -> tuple[ColumnSchema, ...]:
        """The columns that are neither in x nor covariates, constant ones included."""
        return tuple(column for column in self.columns if not column.kind.modelled)

    @property
    def names(self) -> list[str]:
        """The names of the columns of x."""
        return [column.name for column in self.modelled]

    @property
    def kinds(self) -> dict[str, Kind]:
        """The kinds of the columns of x by name: what two tables must have in common to serve one model."""
        return {column.name: column.kind for column in self.modelled}

    def likelihood(self) -> Likelihood:
        """p(x given z) of rows with these columns: a `Product` of blocks of adjacent columns of one kind."""
        blocks: dict[str, Likelihood] = {}
        for _, run in itertools.groupby(self.modelled, lambda column: (type(column.kind), column.kind.group)):
            columns = list(run)
            name = columns[0].name if len(columns) == 1 else f"{columns[0].name}..{columns[-1].name}"
            unused = itertools.chain([name], (f"{name} ({i})" for i in itertools.count(2)))
            blocks[next(one for one in unused if one not in blocks)] = columns[0].kind.likelihood(len(columns))
        return likelihoods.Product(blocks, columns=self.names)

    def make_covariates(self, into: Sequence[str] = ("encoder", "decoder")) -> Covariates:
        """The covariates of a model of rows with these columns; see `pv.Covariates`."""
        return Covariates({column.name: covariate_of(column.kind) for column in self.covariates}, into)

    def holds_numbers(self, name: str) -> bool:
        """Whether a column of x holds numbers, or times, and no codes of levels."""
        return not hasattr(self.kinds[name], "levels")

    def check_shift(self, name: str, shift: float, cells: Tensor) -> None:
        """Raise a ValueError unless cells of a column, which were shifted, are cells that its kind can have."""
        kind = self.kinds[name]
        if getattr(kind, "whole", False) and shift != round(shift):
            raise ValueError(f"shift must be whole for column {name!r}, which holds whole numbers; got {shift:g}.")
        low, high = {"positive": (TINY, torch.inf), "count": (0, torch.inf), "share": (0, 1)}.get(
            kind.name, (-torch.inf, torch.inf)
        )
        outside = (cells < low) | (cells > high)
        if outside.any():
            raise ValueError(
                f"shift must leave cells of column {name!r} in the range of the kind {kind.name!r}; got"
                f" {cells[outside][0].item():g} after a shift of {shift:g} ({int(outside.sum())} such cells). Choose a"
                " smaller shift, or the kind 'real'."
            )

    def nearest(self, values: Tensor) -> Tensor:
        """Rows of x, (..., D), in which means of codes become the nearest code of a level."""
        codes = torch.tensor([not self.holds_numbers(name) for name in self.names], device=values.device)
        return torch.where(codes, values.round(), values)

    def decode(self, values: Any) -> dict[str, np.ndarray]:
        """The cells that rows of x stand for, by column.

        Args:
            values: rows of x, (M, D).

        Raises:
            ValueError: if the shape is another, or a number stands for no cell of its column.
        """
        x = as_tensor(values, "values").double().cpu().numpy()
        if x.ndim != 2 or x.shape[1] != len(self.modelled):
            raise ValueError(
                f"values must have shape (rows, {len(self.modelled)}), one column for each modelled one; got {x.shape}."
                " Pass rows of x."
            )
        if np.isinf(x).any():
            row, place = (int(i) for i in np.argwhere(np.isinf(x))[0])
            name = self.names[place]
            raise ValueError(f"values must be finite; got {x[row, place]} in row {row}, column {name!r}. Correct it.")
        decoded = {}
        for place, column in enumerate(self.modelled):
            try:
                decoded[column.name] = column.kind.decode(x[:, place])
            except ValueError as error:
                raise ValueError(f"In column {column.name!r}: {error}") from None
        return decoded

    def frame(self, values: Any, fields: Mapping[str, Any] | None = None) -> Any:
        """A frame of the library with these rows: dtypes and levels as they came, and a default index.

        Columns that are left out are absent, and constant ones are filled in. Whole numbers are rounded, and numbers
        and times beyond those that a dtype holds become the nearest that it holds.

        Args:
            values: rows of x, (M, D), NaN where a cell is missing.
            fields: covariates of these rows by name, (M,) each, as a model takes them; columns of those that are not
                given are absent.

        Raises:
            ValueError: if the shape is another, or a number stands for no cell of its column.
        """
        library, decoded = LIBRARIES[self.library], self.decode(values)
        num_rows = len(next(iter(decoded.values())))
        made = {}
        for column in self.columns:
            if column.covariate:
                if column.name in (fields or {}):
                    codes = codes_of(column.kind, (fields or {})[column.name])
                    made[column.label] = write(library, column, column.kind.decode(codes))
            elif column.kind.modelled:
                made[column.label] = write(library, column, decoded[column.name])
            elif isinstance(column.kind, Constant):
                made[column.label] = write(library, column, column.kind.decode(np.zeros(num_rows)))
        return library.make(made, self.axis)

    def to_plain(self) -> dict[str, Any]:
        """This schema as JSON values."""
        columns = [
            {"name": c.label, "kind": c.kind.to_plain(), "dtype": c.dtype, "covariate": c.covariate}
            for c in self.columns
        ]
        return {"version": VERSION, "library": self.library, "columns": columns, "axis": self.axis}

    @classmethod
    def from_plain(cls, plain: Any) -> TableSchema:
        """Make what `to_plain` described.

        Raises:
            ValueError: if the description is damaged, or of a kind that is not in `KINDS`.
        """
        entries = _entries(plain, "schema", ("version", "library", "columns", "axis"))
        if entries["version"] not in (1, VERSION):
            raise ValueError(
                f"A saved schema must be of version 1 or {VERSION}; got {entries['version']!r}. Update pyro-vae."
            )
        if not isinstance(entries["library"], str) or entries["library"] not in LIBRARIES:
            raise ValueError(f"A saved schema must name one of {', '.join(LIBRARIES)}; got {entries['library']!r}.")
        library = LIBRARIES[entries["library"]]
        if not isinstance(entries["columns"], list):
            raise ValueError(f"A saved schema must have a list of columns; got {type(entries['columns']).__name__}.")
        columns = tuple(_read_column(library, column) for column in entries["columns"])
        return cls(library.name, columns, _read_axis(library, entries["axis"]))


def write(library: Library, column: ColumnSchema, values: np.ndarray) -> Any:
    """A column of the library with these cells, with the dtype of the schema."""
    if column.dtype is None:
        raise ValueError(f"column {column.name!r} must have a dtype that holds values; got none. Give it one.")
    try:
        return library.write(values, column.dtype)
    except (TypeError, ValueError) as error:
        raise ValueError(f"In column {column.name!r}: {error}") from None


def _entries(plain: Any, what: str, names: Sequence[str]) -> dict[str, Any]:
    if not isinstance(plain, dict) or plain.keys() != set(names):
        found = sorted(map(str, plain))[:9] if isinstance(plain, dict) else type(plain).__name__
        raise ValueError(f"A saved {what} must have the entries {', '.join(names)}; got {found}. It is damaged.")
    return plain


def _read_column(library: Library, plain: Any) -> ColumnSchema:
    earlier = {"covariate": False} if isinstance(plain, dict) and "covariate" not in plain else {}
    entries = _entries(plain | earlier if earlier else plain, "column", ("name", "kind", "dtype", "covariate"))
    label, kind, dtype = entries["name"], read_kind(entries["kind"]), entries["dtype"]
    if isinstance(label, bool) or not isinstance(label, str | int):
        raise ValueError(f"A saved column must have a name; got {label!r}. The file is damaged.")
    if dtype is not None or kind.modelled or isinstance(kind, Constant):
        check_dtype(library, dtype)
        _check_fit(str(label), kind, dtype)
    if not isinstance(entries["covariate"], bool) or (entries["covariate"] and not kind.modelled):
        raise ValueError(f"A saved column {label!r} must say whether it is a covariate. The file is damaged.")
    return ColumnSchema(label, kind, dtype, entries["covariate"])


def _check_fit(name: str, kind: Kind, dtype: DType) -> None:
    """Raise a ValueError unless the dtype can hold cells of the kind."""
    levels = getattr(kind, "levels", ())
    if sort_of(dtype) not in kind.sorts or ("levels" in dtype and not {*levels} <= {*dtype["levels"]}):
        raise ValueError(f"A saved column {name!r} must have a dtype for its kind; got {dtype['name']}. It is damaged.")


def _read_axis(library: Library, plain: Any) -> DType | None:
    if plain is None:
        return None
    entries = _entries(plain, "axis", ("name", "dtype"))
    if entries["dtype"] is not None:
        check_dtype(library, entries["dtype"])
    if entries["name"] is not None and not isinstance(entries["name"], str | int):
        raise ValueError(
            f"A saved axis must have text or a number as its name; got {entries['name']!r}. The file is damaged."
        )
    return entries
