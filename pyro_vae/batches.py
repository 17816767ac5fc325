"""Data in: whatever the user holds becomes named per-row tensors, and batches come out.

A batch is a dictionary: `x` of shape (B, *E) and named per-row fields of shape (B, ...).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, RandomSampler, TensorDataset

__all__ = ["Batches", "Rows", "as_rows"]

Batch = dict[str, Tensor]


class Rows(Dataset[tuple[Tensor, ...]]):
    """Rows of data in memory: `x`, named per-row fields, and the names that came with them.

    An ordinary map-style data set (`rows[i]` is the tuple of x and the fields) that `fit` and every
    evaluation method also read in whole batches, which is much faster than row by row.

    Args:
        x: the data, (N, *E), any numeric dtype; cast to the parameters' dtype batch by batch.
        fields: named per-row fields, each of shape (N, ...).
        transform: applied to the cast `x` of a batch each time it is drawn, e.g. `torch.bernoulli`
            for a fresh binarisation.
        columns: names of the columns of `x`.
        index: names of the rows.

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
    ) -> None:
        fields = fields or {}
        reserved = sorted({"x", "rows", "self"} & set(fields))
        if reserved:
            raise ValueError(f"fields must have names that programs do not use; got {reserved}. Rename them.")
        if x.dim() == 0 or len(x) == 0:
            raise ValueError(
                f"x must be at least one row; got shape {tuple(x.shape)}. Check the data's first dimension."
            )
        for name, field in fields.items():
            if field.dim() == 0 or len(field) != len(x):
                raise ValueError(
                    f"field {name!r} must have one entry per row ({len(x)}); got shape {tuple(field.shape)}."
                    " Align it with x."
                )
        self.x = x.detach()
        self.fields = {name: field.detach() for name, field in fields.items()}
        self.transform = transform
        self.columns = None if columns is None else list(columns)
        self.index = None if index is None else list(index)
        self._check_finite()

    def _check_finite(self) -> None:
        if not (self.x.is_floating_point() or self.x.is_complex()):
            return
        bad = ~torch.isfinite(self.x.reshape(len(self.x), -1))
        if not bad.any():
            return
        row, column = (int(i) for i in bad.nonzero()[0])
        where = f"row {row}" + (f", column {self.columns[column]!r}" if self.columns else "")
        value = self.x.reshape(len(self.x), -1)[row, column].item()
        raise ValueError(
            f"x must be finite; got {value} in {where} ({int(bad.sum())} such cells)."
            " Drop those rows or impute the cells."
        )

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: Any) -> tuple[Tensor, ...]:
        x = self.x[index]
        return (x if self.transform is None else self.transform(x), *(field[index] for field in self.fields.values()))

    def take(self, index: Any, names: Sequence[str] = (), *, like: Tensor | None = None) -> Batch:
        """The rows at `index` as a batch: `x` and the fields in `names`, cast and moved to suit the tensor `like`."""
        return self.pick({"x": self.x} | {name: self.field(name) for name in names}, index, like)

    def pick(self, tensors: Batch, index: Any, like: Tensor | None) -> Batch:
        """The same from whole tensors that stand in for those of the data, e.g. copies on another device."""
        batch = {name: value[index] for name, value in tensors.items()}
        batch = batch if like is None else cast(batch, like)
        if self.transform is not None:
            batch["x"] = self.transform(batch["x"])
        return batch

    def drawn(self, like: Tensor) -> Rows:
        """These rows with the transform applied for good: where it is random, every question sees the same x."""
        if self.transform is None:
            return self
        return Rows(self.take(slice(None), like=like)["x"], self.fields, columns=self.columns, index=self.index)

    def field(self, name: str) -> Tensor:
        if name not in self.fields:
            raise ValueError(
                f"fields must name fields of the data ({sorted(self.fields)}); got {name!r}. Correct the name."
            )
        return self.fields[name]

    def subset(self, index: Any) -> Rows:
        """The rows at `index` (a slice or a 1-d tensor of positions), with all fields and names."""
        positions = torch.arange(len(self))[index]
        names = None if self.index is None else [self.index[i] for i in positions.tolist()]
        fields = {name: field[positions] for name, field in self.fields.items()}
        return Rows(self.x[positions], fields, transform=self.transform, columns=self.columns, index=names)


def as_rows(data: Any, fields: Sequence[str] = ()) -> Rows | DataLoader[Any]:
    """Read a tensor, array, frame, tuple, data set or loader; in memory where that is what it is.

    Args:
        data: a tensor or array (N, *E), a pandas frame, a tuple of them, `Rows`, a `Dataset` or a `DataLoader`.
        fields: names of a tuple's elements, `"x"` among them; of a frame's columns that are fields, not data.

    Raises:
        TypeError: for anything else, and for cells that are not numbers.
    """
    fields = (fields,) if isinstance(fields, str) else tuple(fields)
    if isinstance(data, Rows | DataLoader):
        return data
    if isinstance(data, TensorDataset):
        data = data.tensors
    if isinstance(data, tuple):
        named = name_elements([as_tensor(element) for element in data], fields)
        return Rows(named.pop("x"), named)
    if type(data).__module__.startswith("pandas"):
        return _from_frame(data, fields)
    if isinstance(data, IterableDataset):
        return DataLoader(data, batch_size=256)
    if isinstance(data, Dataset):
        return DataLoader(data, batch_size=256)
    return Rows(as_tensor(data))


def warn_of_lost_digits(data: Rows | DataLoader[Any], like: Tensor) -> None:
    """Warn where columns vary less than the digits that the cast to the parameters' dtype keeps of them."""
    if not isinstance(data, Rows) or torch.finfo(data.x.dtype if data.x.is_floating_point() else like.dtype).eps >= (
        torch.finfo(like.dtype).eps
    ):
        return
    x = data.x.reshape(len(data), -1)
    deviation = x.std(0, correction=0)
    lost = ((deviation > 0) & (deviation < 1e3 * torch.finfo(like.dtype).eps * x.mean(0).abs())).nonzero().flatten()
    if len(lost):
        names = [data.columns[i] if data.columns else str(i) for i in lost.tolist()]
        warnings.warn(
            f"Columns {', '.join(names[:8])} of x vary in digits that {like.dtype} does not hold. Subtract a constant,"
            " or train a model in float64: model.double().",
            stacklevel=4,
        )


def as_tensor(values: Any, what: str = "x") -> Tensor:
    """A tensor of numbers that shares no memory with a read-only or reversed array.

    Raises:
        TypeError: if the values are not numbers.
    """
    if isinstance(values, Tensor):
        tensor = values
    else:
        array = np.asarray(values)
        if array.dtype.kind not in "biuf" or array.dtype.itemsize > 8:
            raise TypeError(
                f"{what} must be a tensor, array, frame, Dataset or DataLoader of numbers; got {type(values).__name__}"
                f" of dtype {array.dtype}. Convert it first."
            )
        if array.dtype.kind == "u" and array.dtype.itemsize > 1:
            array = array.astype(np.int64)
        native = array.dtype.newbyteorder("=")
        tensor = torch.from_numpy(np.array(array, dtype=native, order="C", copy=True) if not _plain(array) else array)
    if tensor.is_complex():
        raise TypeError(f"{what} must be real; got dtype {tensor.dtype}. Split it into real and imaginary parts.")
    return tensor


def _plain(array: np.ndarray) -> bool:
    return array.flags.writeable and array.dtype.isnative and all(stride >= 0 for stride in array.strides)


def _from_frame(frame: Any, fields: Sequence[str]) -> Rows:
    frame = frame.to_frame() if frame.ndim == 1 else frame
    names = [str(column) for column in frame.columns]
    unknown = [name for name in fields if name != "x" and name not in names]
    if unknown:
        raise ValueError(f"fields must be columns of the frame; got {unknown}. The columns are {names}.")
    text = [name for name, kind in zip(names, frame.dtypes, strict=True) if kind.kind not in "biuf"]
    if text:
        raise TypeError(f"columns must be numbers; got text or other objects in {text}. Drop or encode these columns.")
    keep = [name not in fields for name in names]
    taken = {name: as_tensor(frame.iloc[:, i].to_numpy(), name) for i, name in enumerate(names) if not keep[i]}
    columns = [name for name, kept in zip(names, keep, strict=True) if kept]
    x = as_tensor(frame.loc[:, keep].to_numpy(dtype=np.float64))
    return Rows(x, taken, columns=columns, index=frame.index.tolist())


def name_elements(elements: Sequence[Tensor], fields: Sequence[str]) -> dict[str, Tensor]:
    """Name a tuple's elements: the first is x unless `fields` names them all.

    Raises:
        ValueError: if `fields` is given and does not name every element, `"x"` included.
    """
    if not fields:
        return {"x": elements[0]}
    if len(fields) != len(elements) or "x" not in fields:
        raise ValueError(
            f"fields must name all {len(elements)} elements, 'x' among them; got {tuple(fields)}."
            " E.g. fields=('x', 'label')."
        )
    return dict(zip(fields, elements, strict=True))


def name_item(item: Any, fields: Sequence[str]) -> Batch:
    """A batch from what a loader yields: a tensor, a tuple or a dictionary with `"x"`.

    Raises:
        ValueError: if a dictionary lacks a name.
    """
    if isinstance(item, Tensor):
        return {"x": item}
    if isinstance(item, Mapping):
        names = tuple(dict.fromkeys(("x", *fields)))
        missing = [name for name in names if name not in item]
        if missing:
            raise ValueError(f"batches must have {names}; got a dictionary of {tuple(item)}. Rename its entries.")
        return {name: item[name] for name in names}
    return name_elements(list(item), fields)


def read_whole(loader: DataLoader[Any], fields: Sequence[str]) -> Rows:
    """All rows of a loader in memory, in its order.

    Raises:
        ValueError: if the order is random: results could not be told apart by row.
    """
    if isinstance(getattr(loader, "sampler", None), RandomSampler):
        raise ValueError("x must come in a fixed order; got a DataLoader with shuffle=True. Pass shuffle=False.")
    items = [name_item(item, fields) for item in loader]
    if not items:
        raise ValueError("x must be at least one row; got none. Check the data set.")
    named = {name: torch.cat([item[name] for item in items]) for name in items[0]}
    return Rows(named.pop("x"), named)


def cast(batch: Batch, like: Tensor) -> Batch:
    """Move a batch to the device of `like`; x and real fields take its dtype, integer fields keep theirs."""

    def move(name: str, value: Tensor) -> Tensor:
        real = name == "x" or value.is_floating_point()
        return value.to(like.device, like.dtype if real else value.dtype, non_blocking=True)

    return {name: move(name, value) for name, value in batch.items()}


class Batches:
    """Batches of a data set, in a new random order each epoch, cast to suit the parameters.

    Args:
        data: what `as_rows` returns, or takes.
        like: a tensor whose dtype and device the batches take.
        fields: names of the fields that reach the programs.
        batch_size: rows per batch; a last row that would stand alone joins the batch before. A `DataLoader` brings its
            own.
        shuffle: whether the order is random (drawn from torch's global stream).
        num_rows: N, needed where the data cannot tell.

    Raises:
        ValueError: if the size of the data is unknown and `num_rows` is not given.
    """

    def __init__(
        self,
        data: Any,
        *,
        like: Tensor,
        fields: Sequence[str] = (),
        batch_size: int = 128,
        shuffle: bool = True,
        num_rows: int | None = None,
    ) -> None:
        if isinstance(data, Dataset) and not isinstance(data, Rows | TensorDataset | IterableDataset):
            data = DataLoader(data, batch_size=batch_size, shuffle=shuffle)
        elif isinstance(data, IterableDataset):
            data = DataLoader(data, batch_size=batch_size)
        fields = (fields,) if isinstance(fields, str) else tuple(fields)
        self.data = as_rows(data, fields)
        self.like, self.fields, self.batch_size, self.shuffle = like, tuple(fields), batch_size, shuffle
        self.num_rows = self._count() if num_rows is None else num_rows
        self._first: Any = None

    def _count(self) -> int:
        try:
            count = len(self.data) if isinstance(self.data, Rows) else len(self.data.dataset)  # type: ignore[arg-type]
        except TypeError:
            raise ValueError(
                "num_rows must be given for data without a length; got None. Pass fit(num_rows=N)."
            ) from None
        if count == 0:
            raise ValueError("x must be at least one row; got none. Check the data set.")
        return count

    def __len__(self) -> int:
        """The number of batches in an epoch; as if rows came `batch_size` at a time where a loader can't tell."""
        if isinstance(self.data, Rows):
            return -(-len(self.data) // self.batch_size)
        try:
            return len(self.data)
        except TypeError:
            return -(-self.num_rows // self.batch_size)

    @property
    def row_size(self) -> int:
        """The cells of one row; 1 where they are not in memory."""
        return self.data.x[0].numel() if isinstance(self.data, Rows) else 1

    def __iter__(self) -> Iterator[Batch]:
        return map(self.read, self.order())

    def order(self) -> Iterator[Any]:
        """What stands for each batch of an epoch: the numbers of its rows, or the loader's item."""
        if not isinstance(self.data, Rows):
            yield from self.data
            return
        order = torch.randperm(len(self.data)) if self.shuffle else torch.arange(len(self.data))
        parts = list(order.split(self.batch_size))
        if len(parts) > 1 and len(parts[-1]) == 1 < self.batch_size:
            parts[-2:] = [torch.cat(parts[-2:])]  # batch statistics need two rows
        yield from parts

    def read(self, key: Any) -> Batch:
        """The batch that a key stands for."""
        if isinstance(self.data, Rows):
            return self.data.take(key, self.names, like=self.like)
        return cast(name_item(key, self.fields), self.like)

    @property
    def names(self) -> list[str]:
        """The names of the fields that reach the programs."""
        return [name for name in self.fields if name != "x"]

    def first(self) -> Any:
        """What stands for the first rows, in the order of the data: what is checked at the door.

        A loader is read for it once only, since reading may change what comes next.

        Raises:
            ValueError: if there are no rows.
        """
        if self._first is None:
            if isinstance(self.data, Rows):
                self._first = torch.arange(min(self.batch_size, len(self.data)))
            else:
                self._first = next(iter(self.data), None)
        if self._first is None:
            raise ValueError("x must be at least one row; got none. Check the data set.")
        return self._first
