"""Rows of data: `x` and named fields as tensors, in memory or in mapped files, however large."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from pyro_vae.arguments import positive_integer
from pyro_vae.data.tensors import as_names, as_tensor, check_fields

__all__ = ["Batch", "Rows", "cast"]

Batch = dict[str, Tensor]
CHUNK = 2**22  # cells that are looked at at once
LARGE = 2**26  # bytes of a tensor from which on picked rows are their numbers, not copies


class Rows(Dataset[tuple[Tensor, ...]]):
    """Rows of data in memory: `x`, named per-row fields, and the names that came with them.

    An ordinary map-style data set (`rows[i]` is the tuple of x and the fields) that `fit` and every
    evaluation method also read in whole batches, which is much faster than row by row. Tensors may lie in mapped
    files and be larger than memory: they are shared, not copied, and looked at in pieces.

    Args:
        x: the data, (N, *E), any numeric dtype; cast to the parameters' dtype batch by batch.
        fields: named per-row fields, each of shape (N, ...).
        transform: applied to the cast `x` of a batch each time it is drawn, e.g. `torch.bernoulli`
            for a fresh binarisation.
        columns: names of the columns of `x`.
        index: names of the rows.
        first_row: the number of the first of them, where they are a part of others, for messages.

    Raises:
        ValueError: if there are no rows, a field has another number of rows, or x is not finite.

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
        x = as_tensor(x)
        if x.dim() == 0 or len(x) == 0:
            raise ValueError(
                f"x must be at least one row; got shape {tuple(x.shape)}. Check the data's first dimension."
            )
        if x.numel() == 0:
            raise ValueError(f"x must have a cell in each row; got shape {tuple(x.shape)}. Leave some to x.")
        if transform is not None and not callable(transform):
            raise TypeError(f"transform must be a function of x; got {transform!r}. Pass e.g. torch.bernoulli.")
        self._stored = {"x": [x]} | _checked({} if fields is None else fields, len(x))
        self.transform = transform
        self.columns = None if columns is None else _as_many("columns", as_names(columns, "columns"), x[0].numel())
        self.index = None if index is None else _as_many("index", index, len(x))
        self._check_finite(positive_integer("first_row", first_row, 0))

    def _check_finite(self, start: int) -> None:
        if not self.dtype.is_floating_point:
            return
        found, count = "", 0
        for part in self.pieces():
            bad = ~torch.isfinite(part.reshape(len(part), -1))
            if bad.any() and not found:
                row, column = (int(i) for i in bad.nonzero()[0])
                where = f"row {start + row}" + (f", column {self.columns[column]!r}" if self.columns else "")
                found = f"{part.reshape(len(part), -1)[row, column].item()} in {where}"
            count, start = count + int(bad.sum()), start + len(part)
        if found:
            raise ValueError(
                f"x must be finite; got {found} ({count} such cells). Drop those rows or impute the cells."
            )

    @property
    def x(self) -> Tensor:
        """All cells, (N, *E), as they are stored; of rows that were picked from large data a copy."""
        return self._whole("x")

    @property
    def fields(self) -> dict[str, Tensor]:
        """The fields by name; those of rows that were picked from large data are copies."""
        return {name: self._whole(name) for name in self._stored if name != "x"}

    @property
    def dtype(self) -> torch.dtype:
        """The type of the cells."""
        return self._stored["x"][0].dtype

    @property
    def event_shape(self) -> tuple[int, ...]:
        """The shape of one row of x."""
        return tuple(self._stored["x"][0].shape[1:])

    def __len__(self) -> int:
        return len(self._stored["x"][-1])

    def __getitem__(self, index: Any) -> tuple[Tensor, ...]:
        x, *fields = (_at(tensors, index) for tensors in self._stored.values())
        return (x if self.transform is None else self.transform(x), *fields)

    def stored(self, names: Sequence[str] = ()) -> dict[str, list[Tensor]]:
        """x and the fields in `names` as they are stored, each followed by the numbers of these rows if not all."""
        return {"x": self._stored["x"]} | {name: self._known(name) for name in names}

    def _known(self, name: str) -> list[Tensor]:
        if name == "x" or name not in self._stored:
            known = sorted(self._stored.keys() - {"x"})
            raise ValueError(f"fields must name fields of the data ({known}); got {name!r}. Correct the name.")
        return self._stored[name]

    def _whole(self, name: str) -> Tensor:
        tensor, *rows = self._stored[name]
        return tensor[rows[0]] if rows else tensor

    def field(self, name: str) -> Tensor:
        """A field, (N, ...)."""
        self._known(name)
        return self._whole(name)

    def fitting(self, cells: int | None = None) -> int:
        """How many rows have so many cells, or as many as are looked at at once; at least one."""
        return max(1, (cells or CHUNK) // max(1, self._stored["x"][0][0].numel()))

    def pieces(self, name: str = "x") -> Iterator[Tensor]:
        """x, or a field, in order and in pieces that fit into memory."""
        size = max(1, CHUNK // max(1, self._stored[name][0][0].numel()))
        for start in range(0, len(self), size):
            yield _at(self._stored[name], slice(start, start + size))

    def take(self, index: Any, names: Sequence[str] = (), *, like: Tensor | None = None) -> Batch:
        """The rows at `index` as a batch: `x` and the fields in `names`, cast and moved to suit the tensor `like`."""
        return self.pick(self.stored(names), index, like)

    def pick(self, tensors: Mapping[str, list[Tensor]], index: Any, like: Tensor | None) -> Batch:
        """The same from what stands in for `stored`, e.g. copies on another device."""
        batch = {name: _at(parts, index) for name, parts in tensors.items()}
        batch = batch if like is None else cast(batch, like)
        if self.transform is not None:
            batch["x"] = self.transform(batch["x"])
        return batch

    def drawn(self, like: Tensor) -> Rows:
        """These rows with the transform applied for good: where it is random, every question sees the same x."""
        if self.transform is None:
            return self
        return Rows(self.take(slice(None), like=like)["x"], self.fields, columns=self.columns, index=self.index)

    def digests(self, names: Sequence[str] = ()) -> dict[str, str]:
        """SHA-256 of the stored cells, their type and shape, of x and of the fields in `names`."""
        return {name: self._digest(name) for name in self.stored(names)}

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
        """The rows at `index` (a slice or a 1-d tensor of positions), with all fields and names; large data stay put.

        Raises:
            ValueError: if there are none.
        """
        positions = torch.arange(len(self))[index]
        if len(positions) == 0:
            raise ValueError(f"index must name at least one of {len(self)} rows; got none. Check it.")
        rows = copy.copy(self)
        rows._stored = {name: _picked(tensors, index, positions) for name, tensors in self._stored.items()}
        rows.index = None if self.index is None else [self.index[i] for i in positions.tolist()]
        return rows

    def with_fields(self, fields: Mapping[str, Tensor]) -> Rows:
        """These rows with further fields, or others for those of the same names."""
        rows = copy.copy(self)
        rows._stored = self._stored | _checked(fields, len(self))
        return rows

    def shown(self, transform: Callable[[Tensor], Tensor] | None) -> Rows:
        """These rows with another transform."""
        rows = copy.copy(self)
        rows.transform = transform
        return rows


def _checked(fields: Any, count: int) -> dict[str, list[Tensor]]:
    if not isinstance(fields, Mapping):
        raise TypeError(f"fields must be a dictionary of tensors; got {fields!r}. Pass e.g. {{'label': labels}}.")
    reserved = sorted({"x", "rows", "self"} & set(as_names(list(fields))))
    if reserved:
        raise ValueError(f"fields must have names that programs do not use; got {reserved}. Rename them.")
    read = {name: as_tensor(field, name) for name, field in fields.items()}
    check_fields(read, count)
    return {name: [field] for name, field in read.items()}


def _as_many(what: str, names: Any, count: int) -> list[Any]:
    if not isinstance(names, Sequence) or isinstance(names, str) or len(names) != count:
        raise ValueError(f"{what} must be a list of {count} names; got {names!r}. Give one for each.")
    return list(names)


def _at(tensors: Sequence[Tensor], index: Any) -> Tensor:
    tensor, *rows = tensors
    return tensor[rows[0][index] if rows else index]


def _picked(tensors: Sequence[Tensor], index: Any, positions: Tensor) -> list[Tensor]:
    tensor, *rows = tensors
    if rows:
        return [tensor, rows[0][positions]]
    if isinstance(index, slice):
        return [tensor[index]]
    large = tensor.numel() * tensor.element_size() > LARGE
    return [tensor, positions] if large else [tensor[positions]]


def cast(batch: Batch, like: Tensor) -> Batch:
    """Move a batch to the device of `like`; x and real fields take its dtype, integer fields keep theirs."""

    def move(name: str, value: Tensor) -> Tensor:
        real = name == "x" or value.is_floating_point()
        return value.to(like.device, like.dtype if real else value.dtype, non_blocking=True)

    return {name: move(name, value) for name, value in batch.items()}
