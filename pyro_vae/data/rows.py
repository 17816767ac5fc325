"""Rows of data: `x` and named fields as tensors, in memory or in mapped files, of any size."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from pyro_vae.arguments import positive_integer
from pyro_vae.data.tensors import as_names, as_tensor, check_fields, check_finite
from pyro_vae.fields import OBSERVED

__all__ = ["Batch", "Rows", "cast", "check_finite_after_cast", "fill_missing", "with_gaps"]

Batch = dict[str, Tensor]
ALLOW_MISSING = (
    "Allow for them by VAE(missing=pv.missing.AtRandom()), or in a program of your own by a keyword parameter"
    " `observed`; or drop those rows, or impute the cells."
)
CHUNK = 2**22  # cells that are read at once
PICKED_BY_NUMBER = 2**26  # bytes: of larger tensors, picked rows are kept as row numbers and not copied


class Rows(Dataset[tuple[Tensor, ...]]):
    """Rows of data in memory: `x`, named per-row fields, and the names that came with them.

    This is an ordinary map-style data set (`rows[i]` is the tuple of x and the fields). `fit` and every evaluation
    method read it in whole batches, which is much faster than row by row. Tensors may lie in mapped files and be
    larger than memory: they are shared and not copied, and are read piece by piece.

    Args:
        x: the data, (N, *E), of any numeric dtype; it is cast to the parameters' dtype batch by batch. NaN marks a
            missing cell, which only models that allow for missing cells read.
        fields: named per-row fields, each of shape (N, ...). The field `observed`, boolean of the shape of x, says
            which cells count; the others are missing, whatever x holds there.
        transform: a function of the cast `x` of a batch, applied each time the batch is read, e.g. `torch.bernoulli`
            for a fresh binarization.
        columns: names of the columns of `x`.
        index: names of the rows.
        first_row: the number of the first row, where these rows are a part of others; it is used in messages.

    Raises:
        ValueError: if there are no rows, a field has another number of rows, x holds an infinite number, or `observed`
            is not boolean of the shape of x, or true where x is NaN.

    Example:
        >>> rows = Rows(torch.zeros(4, 2), {"label": torch.arange(4)})
        >>> len(rows), rows[2][1].item()
        (4, 2)
    """

    def __init__(
        self,
        x: Tensor,
        fields: Mapping[str, Tensor] | None = None,
        *,
        transform: Callable[[Tensor], Tensor] | None = None,
        columns: Sequence[str] | None = None,
        index: Sequence[Any] | None = None,
        first_row: int = 0,
    ) -> None:
        if columns is None and type(x).__module__.startswith("pandas") and getattr(x, "ndim", 0) == 2:
            columns = [str(column) for column in x.columns]  # type: ignore[attr-defined]
        x = as_tensor(x)
        if x.dim() == 0 or len(x) == 0:
            raise ValueError(
                f"x must be at least one row; got shape {tuple(x.shape)}. Check the data's first dimension."
            )
        if x.numel() == 0:
            raise ValueError(
                f"x must have a cell in each row; got shape {tuple(x.shape)}. Leave at least one column to x."
            )
        if transform is not None and not callable(transform):
            raise TypeError(f"transform must be a function of x; got {transform!r}. Pass e.g. torch.bernoulli.")
        self._stored = {"x": [x]} | _read_fields({} if fields is None else fields, len(x))
        self.transform = transform
        self.columns = None if columns is None else _check_names("columns", as_names(columns, "columns"), x[0].numel())
        self.index = None if index is None else _check_names("index", index, len(x))
        self._missing = ""  # the first cell that is missing, in words
        self._largest = self._check_cells(positive_integer("first_row", first_row, 0))
        if OBSERVED in self._stored:
            self._check_observed()

    def _check_cells(self, first_row: int) -> float:
        """The largest absolute value; a ValueError names the first cell that is infinite, if there is one."""
        if not self.dtype.is_floating_point:
            return 1.0 if self.dtype == torch.bool else float(torch.iinfo(self.dtype).max)
        largest, missing, count, infinite, bad_count = 0.0, "", 0, "", 0
        for part in self.pieces():
            cells = part.reshape(len(part), -1)
            gaps = torch.isnan(cells)
            if gaps.any():
                missing = missing or self._name_cell(gaps, first_row)
                count += int(gaps.sum())
                cells = cells.masked_fill(gaps, 0.0)
            low, high = cells.aminmax()
            largest = max(largest, -float(low), float(high))
            if largest == torch.inf:
                bad = torch.isinf(cells)
                if bad.any():
                    infinite = infinite or f"{cells[bad][0].item()} in {self._name_cell(bad, first_row)}"
                    bad_count += int(bad.sum())
            first_row += len(part)
        if infinite:
            raise ValueError(
                f"x must be finite; got {infinite} ({bad_count} such cells). Drop those rows, or mark the cells as"
                " missing by NaN."
            )
        self._missing = f"nan in {missing} ({count} such cells)" if missing else ""
        return largest

    def _name_cell(self, chosen: Tensor, first_row: int) -> str:
        """Row and column of the first of the cells (rows, cells) that are chosen."""
        row, column = (int(i) for i in chosen.nonzero()[0])
        return f"row {first_row + row}" + (f", column {self.columns[column]!r}" if self.columns else "")

    def _check_observed(self) -> None:
        """Raise unless the field `observed` is boolean, of the shape of x, and false where x is NaN."""
        observed = self._stored[OBSERVED][0]
        shape = (len(self), *self.event_shape)
        if observed.dtype != torch.bool or tuple(observed.shape) != shape:
            raise ValueError(
                f"field {OBSERVED!r} must be boolean of shape {shape}, that of x; got {observed.dtype} of shape"
                f" {tuple(observed.shape)}. Mark the cells that are known."
            )
        row = 0
        for x, seen in zip(self.pieces(), self.pieces(OBSERVED), strict=True):
            wrong = (torch.isnan(x) & seen).reshape(len(x), -1)
            if wrong.any():
                raise ValueError(
                    f"field {OBSERVED!r} must be false where x is nan; got true in {self._name_cell(wrong, row)}."
                    " Correct the mask or the data."
                )
            row += len(x)

    @property
    def has_missing(self) -> bool:
        """Whether a cell is missing: NaN, or marked by the field `observed`."""
        marked = OBSERVED in self._stored and not all(bool(part.all()) for part in self.pieces(OBSERVED))
        return marked or bool(self._missing)

    def check_complete(self) -> None:
        """Raise a ValueError if a cell is missing: for models that do not allow for missing cells."""
        if OBSERVED in self._stored and not all(bool(part.all()) for part in self.pieces(OBSERVED)):
            raise ValueError(f"x must have no missing cells for this model; got false in {OBSERVED!r}. {ALLOW_MISSING}")
        if self._missing:
            raise ValueError(f"x must have no missing cells for this model; got {self._missing}. {ALLOW_MISSING}")

    @property
    def x(self) -> Tensor:
        """All cells, (N, *E), as they are stored; a copy if the rows were picked from large data."""
        return self._whole("x")

    @property
    def fields(self) -> dict[str, Tensor]:
        """The fields by name; copies if the rows were picked from large data."""
        return {name: self._whole(name) for name in self._stored if name != "x"}

    @property
    def field_names(self) -> tuple[str, ...]:
        """The names of the fields."""
        return tuple(name for name in self._stored if name != "x")

    @property
    def dtype(self) -> torch.dtype:
        """The type of the cells."""
        return self._stored["x"][0].dtype

    @property
    def event_shape(self) -> tuple[int, ...]:
        """The shape of one row of x."""
        return tuple(self._stored["x"][0].shape[1:])

    def __repr__(self) -> str:
        fields = f", fields {', '.join(self.field_names)}" if self.field_names else ""
        return f"<{type(self).__name__}: {len(self):,} rows of shape {self.event_shape}{fields}>"

    def __len__(self) -> int:
        return len(self._stored["x"][-1])

    def __getitem__(self, index: Any) -> tuple[Tensor, ...]:
        x, *fields = (_at(tensors, index) for tensors in self._stored.values())
        return (x if self.transform is None else self.transform(x), *fields)

    def stored(self, names: Sequence[str] = ()) -> dict[str, list[Tensor]]:
        """x and the fields in `names` as they are stored: a tensor, and the numbers of these rows in it if not all.

        For the field `observed` nothing is stored where the data do not bring it: it is made from x.
        """
        made: dict[str, list[Tensor]] = {OBSERVED: []} if OBSERVED in names and OBSERVED not in self._stored else {}
        return {"x": self._stored["x"]} | {name: self._stored_field(name) for name in names if name not in made} | made

    def _stored_field(self, name: str) -> list[Tensor]:
        if name == "x" or name not in self._stored:
            known = sorted(self._stored.keys() - {"x"})
            raise ValueError(f"fields must name fields of the data ({known}); got {name!r}. Correct the name.")
        return self._stored[name]

    def _whole(self, name: str) -> Tensor:
        tensor, *numbers = self._stored[name]
        return tensor[numbers[0]] if numbers else tensor

    def field(self, name: str) -> Tensor:
        """A field, (N, ...)."""
        self._stored_field(name)
        return self._whole(name)

    def rows_at_once(self, cells: int | None = None) -> int:
        """The number of rows with this many cells, by default as many as are read at once; at least one."""
        return max(1, (cells or CHUNK) // max(1, self._stored["x"][0][0].numel()))

    def pieces(self, name: str = "x") -> Iterator[Tensor]:
        """x, or a field, as it is stored, in order and in pieces that fit into memory."""
        size = max(1, CHUNK // max(1, self._stored[name][0][0].numel()))
        for start in range(0, len(self), size):
            yield _at(self._stored[name], slice(start, start + size))

    def take(self, index: Any, names: Sequence[str] = (), *, like: Tensor | None = None) -> Batch:
        """The rows at `index` as a batch: `x` and the fields in `names`, cast and moved to match the tensor `like`."""
        return self.pick(self.stored(names), index, like)

    def pick(self, tensors: Mapping[str, list[Tensor]], index: Any, like: Tensor | None) -> Batch:
        """As `take`, from other tensors than `stored` returns, e.g. copies on another device."""
        batch = {name: _at(parts, index) for name, parts in tensors.items() if parts}
        batch = batch if like is None else cast(batch, like)
        if OBSERVED in tensors:
            fill_missing(batch)
        if self.transform is not None:
            batch["x"] = self.transform(batch["x"])
            if OBSERVED in batch:  # a function such as the logarithm is not finite where a missing cell was set to 0
                batch["x"] = torch.where(batch[OBSERVED], batch["x"], 0.0)
        return batch

    def chunks(self, names: Sequence[str], like: Tensor, *, new: bool = False) -> Iterator[tuple[int, Batch]]:
        """All rows in order, in batches that fit into memory, each with the number of its first row.

        Args:
            names: the fields to read.
            like: a tensor whose dtype and device the batches take.
            new: whether these rows were made, and so checked, a moment ago. Otherwise their memory, which they may
                share with the user, may have changed since.

        Raises:
            ValueError: if a cell or a field is not finite, after the cast and the transform.
        """
        if OBSERVED not in names:
            self.check_complete()
        size = self.rows_at_once()
        safe = new and self.transform is None and self._largest <= torch.finfo(like.dtype).max
        for start in range(0, len(self), size):
            batch = self.take(slice(start, start + size), names, like=like)
            if not safe:
                check_finite_after_cast(batch["x"], start)
            for name in names:
                check_finite(f"field {name!r}", batch[name], start)
            yield start, batch

    def drawn(self, like: Tensor) -> Rows:
        """These rows with the transform applied once, so that every question sees the same x if it is random."""
        if self.transform is None:
            return self
        batch = self.take(slice(None), (OBSERVED,), like=like)
        x = batch["x"].masked_fill(~batch[OBSERVED], torch.nan)
        return Rows(x, self.fields, columns=self.columns, index=self.index)

    def digests(self, names: Sequence[str] = ()) -> dict[str, str]:
        """SHA-256 of the stored cells, their type and shape, of x and of the fields in `names`."""
        return {name: self._digest(name) for name, tensors in self.stored(names).items() if tensors}

    def _digest(self, name: str) -> str:
        tensor = self._stored[name][0]
        kind = str(tensor.dtype)
        if tensor.dtype != torch.bfloat16:
            kind = torch.empty(0, dtype=tensor.dtype).numpy().dtype.str
        found = hashlib.sha256(f"{kind} {(len(self), *tensor.shape[1:])}".encode())
        for part in self.pieces(name):
            found.update(part.contiguous().cpu().reshape(-1).view(torch.uint8).numpy().data)
        return found.hexdigest()

    def subset(self, index: Any) -> Rows:
        """The rows at `index` (a slice or a 1-d tensor of positions), with all fields and names.

        Raises:
            ValueError: if there are none.
        """
        positions = torch.arange(len(self))[index]
        if len(positions) == 0:
            raise ValueError(f"index must name at least one of {len(self)} rows; got none. Check it.")
        rows = copy.copy(self)
        rows._stored = {name: _picked(tensors, index, positions) for name, tensors in self._stored.items()}
        rows.index = None if self.index is None else [self.index[i] for i in positions.tolist()]
        if self._missing:
            rows._largest = rows._check_cells(0)
        return rows

    def with_fields(self, fields: Mapping[str, Any]) -> Rows:
        """These rows with further fields; a field of a name that is there is replaced."""
        rows = copy.copy(self)
        rows._stored = self._stored | _read_fields(fields, len(self))
        if OBSERVED in fields:
            rows._check_observed()
        return rows

    def with_transform(self, transform: Callable[[Tensor], Tensor] | None) -> Rows:
        """These rows with another transform."""
        rows = copy.copy(self)
        rows.transform = transform
        return rows


def with_gaps(x: Tensor, batch: Batch) -> Tensor:
    """The cells x, or a replicate of them, (N, *E), with NaN where those of the batch are missing."""
    return x.masked_fill(~batch[OBSERVED], torch.nan) if OBSERVED in batch else x


def fill_missing(batch: Batch) -> None:
    """Add the field `observed` to a batch, where it is absent, and set the cells of x that are missing to 0."""
    x = batch["x"]
    observed = ~torch.isnan(x)
    if OBSERVED in batch:
        observed = observed & batch[OBSERVED]
    batch["x"], batch[OBSERVED] = torch.where(observed, x, 0.0), observed


def check_finite_after_cast(x: Tensor, first_row: int = 0) -> None:
    """Raise a ValueError unless x, after it was cast and transformed, is finite."""
    cells = x.reshape(len(x), -1)
    bad = ~torch.isfinite(cells)
    if bad.any():
        row, column = (int(i) for i in bad.nonzero()[0])
        value = cells[row, column].item()
        advice = "Rescale it, or use model.double()." if value in (torch.inf, -torch.inf) else "Look at that row."
        raise ValueError(f"x must be finite in {x.dtype}; got {value} in row {first_row + row}. {advice}")


def _read_fields(fields: Any, num_rows: int) -> dict[str, list[Tensor]]:
    """Fields as tensors, checked."""
    if not isinstance(fields, Mapping):
        raise TypeError(f"fields must be a dictionary of tensors; got {fields!r}. Pass e.g. {{'label': labels}}.")
    reserved = sorted({"x", "rows", "self"} & set(as_names(list(fields))))
    if reserved:
        raise ValueError(f"fields must have names that programs do not use; got {reserved}. Rename them.")
    read = {name: as_tensor(field, name) for name, field in fields.items()}
    check_fields(read, num_rows)
    return {name: [field] for name, field in read.items()}


def _check_names(what: str, names: Any, count: int) -> list[Any]:
    """Return the names as a list; raise a ValueError unless there are `count`."""
    if not isinstance(names, Sequence) or isinstance(names, str) or len(names) != count:
        raise ValueError(f"{what} must be a list of {count} names; got {names!r}. Give one for each.")
    return list(names)


def _at(tensors: Sequence[Tensor], index: Any) -> Tensor:
    tensor, *numbers = tensors
    return tensor[numbers[0][index] if numbers else index]


def _picked(tensors: Sequence[Tensor], index: Any, positions: Tensor) -> list[Tensor]:
    """The rows at these positions, as they are stored; of large tensors the row numbers alone."""
    tensor, *numbers = tensors
    if numbers:
        return [tensor, numbers[0][positions]]
    if isinstance(index, slice):
        return [tensor[index]]
    large = tensor.numel() * tensor.element_size() > PICKED_BY_NUMBER
    return [tensor, positions] if large else [tensor[positions]]


def cast(batch: Batch, like: Tensor) -> Batch:
    """Move a batch to the device of `like`; x and real fields take its dtype, integer fields keep theirs."""

    def move(name: str, value: Tensor) -> Tensor:
        real = name == "x" or value.is_floating_point()
        return value.to(like.device, like.dtype if real else value.dtype, non_blocking=True)

    return {name: move(name, value) for name, value in batch.items()}
