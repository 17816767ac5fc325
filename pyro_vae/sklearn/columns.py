"""From the X of an estimator to the rows of its model, and back: one class for arrays, one for tables."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_vae.data.rows import Rows
from pyro_vae.imputation import Imputations
from pyro_vae.tables import Constant, Identifier, Table, TableSchema
from pyro_vae.tables.columns import Column
from pyro_vae.tables.covariates import field_of
from pyro_vae.tables.libraries import library_of
from pyro_vae.tables.schema import write

__all__ = ["ArrayColumns", "Columns", "TableColumns", "as_array", "in_library", "with_columns"]


def as_array(values: Tensor) -> np.ndarray:
    """A tensor of any device as an array, one row of numbers for each row."""
    return values.detach().cpu().reshape(len(values), -1).numpy()  # type: ignore[no-any-return]


class Columns(ABC):
    """What an estimator keeps of the columns of its training data."""

    @abstractmethod
    def rows(self, x: Any) -> Any:
        """Data (N, D), validated, in a form that the model takes."""

    @abstractmethod
    def impossible(self, x: Any) -> np.ndarray:
        """The rows that have another value in a column that was constant in training, (N,) bool."""

    @abstractmethod
    def missing(self, x: Any) -> np.ndarray:
        """Which cells are missing and can be imputed, (N, D) bool."""

    @abstractmethod
    def covariates(self, frame: Any) -> dict[str, Tensor]:
        """The covariates of the rows of a frame by name, (N,) each; empty for a model without any.

        Raises:
            TypeError: if it is no frame.
            ValueError: if it lacks a covariate, or the model has none.
        """

    @abstractmethod
    def back(self, values: Tensor, fields: Mapping[str, Tensor]) -> Any:
        """Draws or means of rows of the model, (N, *E), with these covariates, in the form of the training data."""

    @abstractmethod
    def completed(self, x: Any, found: Imputations) -> Any:
        """The data with their missing cells filled in, in the form of `x`."""


class ArrayColumns(Columns):
    """The columns of an array.

    Args:
        constants: the value of each column that was constant in training and is no part of the model, NaN of others.
        event_shape: the shape of a row of the model.
    """

    def __init__(self, constants: np.ndarray, event_shape: tuple[int, ...]) -> None:
        self.constants, self.event_shape = constants, event_shape
        self.varies = np.isnan(constants)

    def rows(self, x: np.ndarray) -> np.ndarray:
        cells = x if self.varies.all() else x[:, self.varies]
        cells = cells if cells.flags.writeable else cells.copy()  # torch warns of arrays that can't be written
        return cells.reshape(len(x), *self.event_shape)

    def impossible(self, x: np.ndarray) -> np.ndarray:
        cells, constants = x[:, ~self.varies], self.constants[~self.varies]
        coarser = min(cells.dtype, constants.dtype, key=lambda dtype: dtype.itemsize)  # .1 is one number in both
        found: np.ndarray = ((cells.astype(coarser) != constants.astype(coarser)) & ~np.isnan(cells)).any(1)
        return found

    def missing(self, x: np.ndarray) -> np.ndarray:
        return np.isnan(x)

    def covariates(self, frame: Any) -> dict[str, Tensor]:
        return _none(frame)

    def back(self, values: Tensor, fields: Mapping[str, Tensor]) -> np.ndarray:
        numbers = as_array(values)
        numbers = numbers if numbers.dtype.kind == "f" else numbers.astype(np.float64)
        x = np.tile(self.constants.astype(numbers.dtype), (len(numbers), 1))
        x[:, self.varies] = numbers
        return x

    def completed(self, x: np.ndarray, found: Imputations) -> np.ndarray:
        return np.where(np.isnan(x), self.back(found.values[0], {}), x).astype(x.dtype)


class TableColumns(Columns):
    """The columns of a frame.

    Args:
        schema: the schema of the training data.
    """

    def __init__(self, schema: TableSchema) -> None:
        self.schema = schema

    def rows(self, x: Any) -> Any:
        """A table; of an array, whose columns are those of the frame in order, rows with covariates as fields."""
        if not isinstance(x, np.ndarray):
            return x.read_by(self.schema) if isinstance(x, Table) else Table.like(x, self.schema)
        cells, fields = [], {}
        for place, own in enumerate(self.schema.columns):
            if own.covariate:
                fields[own.name] = self._encoded(x[:, place], own.name, partial(field_of, own.kind))
            elif own.kind.modelled or isinstance(own.kind, Constant):
                encoded = self._encoded(x[:, place], own.name, own.kind.encode)
                cells += [encoded] if own.kind.modelled else []
        return Rows(torch.from_numpy(np.column_stack(cells)), fields)

    def _encoded(self, cells: np.ndarray, name: str, encode: Callable[[Column], Any]) -> Any:
        try:
            return encode(Column(name, "float", cells.astype(np.float64)))
        except TypeError as error:
            raise TypeError(f"X must be a frame, as in fit; got an array. {error}") from None

    def impossible(self, x: Any) -> np.ndarray:
        return np.zeros(len(x), dtype=bool)  # a table refuses such rows

    def missing(self, x: Any) -> np.ndarray:
        if isinstance(x, np.ndarray):
            return np.isnan(x) & np.array([not isinstance(own.kind, Identifier) for own in self.schema.columns])
        frame = x.frame() if isinstance(x, Table) else x
        library = library_of(frame)
        found = np.zeros((len(frame), len(self.schema.columns)), dtype=bool)
        places = {str(label): place for place, label in enumerate(library.names(frame))}
        for j, own in enumerate(self.schema.columns):
            if own.name in places and not isinstance(own.kind, Identifier):
                found[:, j] = ~library.read(frame, places[own.name], own.name)[0].observed
        return found

    def covariates(self, frame: Any) -> dict[str, Tensor]:
        wanted = self.schema.covariates
        if not wanted:
            return _none(frame)
        names = [column.name for column in wanted]
        if frame is None:
            raise ValueError(
                f"covariates must be a frame with the columns {', '.join(names)}; got None. Pass one, with a row for"
                " each row that is asked for."
            )
        library = library_of(frame)
        places = {str(label): place for place, label in enumerate(library.names(frame))}
        absent = [name for name in names if name not in places]
        if absent:
            raise ValueError(f"covariates must have the column {absent[0]!r}; got {', '.join(places)}. Add it.")
        return {c.name: field_of(c.kind, library.read(frame, places[c.name], c.name)[0]) for c in wanted}

    def back(self, values: Tensor, fields: Mapping[str, Tensor]) -> Any:
        return self.schema.frame(self.schema.nearest(values), fields)

    def completed(self, x: Any, found: Imputations) -> Any:
        missing = self.missing(x)
        if not isinstance(x, np.ndarray):
            return self._with_constants(found[0], missing)
        decoded, filled = self.schema.decode(self.schema.nearest(found.values[0])), x.copy()
        for place, own in enumerate(self.schema.columns):
            if missing[:, place].any():
                new = decoded.get(own.name)
                new = own.kind.decode(np.zeros(len(x))) if new is None else new
                filled[missing[:, place], place] = new[missing[:, place]].astype(x.dtype)
        return filled

    def _with_constants(self, frame: Any, missing: np.ndarray) -> Any:
        """A completed frame, in which missing cells of constant columns become the constant."""
        library = library_of(frame)
        places = {str(label): place for place, label in enumerate(library.names(frame))}
        new = {
            places[own.name]: write(library, own, own.kind.decode(np.zeros(len(frame))))
            for own, gaps in zip(self.schema.columns, missing.T, strict=True)
            if isinstance(own.kind, Constant) and gaps.any()
        }
        return library.kept(library.replaced(frame, new)) if new else frame


def _none(frame: Any) -> dict[str, Tensor]:
    """No covariates; a ValueError if some are given."""
    if frame is not None:
        raise ValueError(f"covariates must be None for a model without any; got {type(frame).__name__}. Leave it out.")
    return {}


def with_columns(frame: Any, columns: Mapping[str, np.ndarray]) -> Any:
    """A frame of any library with further columns at its end."""
    library = library_of(frame).name
    if library == "pandas":
        return frame.assign(**columns)
    if library == "polars":
        import polars

        return frame.with_columns([polars.Series(name, values) for name, values in columns.items()])
    for name, values in columns.items():
        frame = frame.append_column(name, [values])
    return frame


def in_library(frame: Any, wanted: str) -> Any:
    """A frame as one of the library "pandas" or "polars"; the frame itself for another word, such as "default"."""
    own = library_of(frame).name
    if wanted == "pandas" and own != wanted:
        return frame.to_pandas()
    if wanted == "polars" and own != wanted:
        import polars

        return polars.from_pandas(frame) if own == "pandas" else polars.from_arrow(frame)
    return frame
