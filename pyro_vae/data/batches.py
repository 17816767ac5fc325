"""From what the user holds to batches.

A batch is a dictionary: `x` of shape (B, *E) and named per-row fields of shape (B, ...).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, DistributedSampler, IterableDataset, TensorDataset

from pyro_vae.data.frames import ReadField, check_alignment, from_frame
from pyro_vae.data.loaders import (
    fields_of_item,
    index_sampler,
    name_elements,
    name_item,
    rows_per_epoch,
    samplers,
)
from pyro_vae.data.rows import Batch, Rows, cast, check_finite_after_cast, fill_missing
from pyro_vae.data.tensors import as_names, check_finite
from pyro_vae.fields import OBSERVED
from pyro_vae.runtime import processes
from pyro_vae.runtime.random import preserved_rng

__all__ = ["Batches", "Rows", "as_rows"]

WHOLE_SAMPLE = 2**26  # cells: a model starts from all rows if they have at most this many
PARTIAL_SAMPLE = 2**24  # cells of the sample that it starts from if they have more


def as_rows(
    data: Any,
    fields: Sequence[str] = (),
    *,
    readable: Collection[str] = (),
    batch_size: int = 256,
    shuffle: bool = False,
    read_field: ReadField | None = None,
) -> Rows | DataLoader[Any]:
    """The rows of a tensor, array, frame or tuple; a loader of a data set that is not in memory.

    Args:
        data: a tensor or array (N, *E), a pandas frame, a tuple of them, `Rows`, a `Dataset` or a `DataLoader`.
        fields: names of a tuple's elements, `"x"` among them; or of a frame's columns that are fields and not data.
        readable: names of columns that are fields wherever a frame has them.
        batch_size: rows per batch of the loader that is made of a `Dataset`.
        shuffle: whether that loader draws a new order each time; an `IterableDataset` has its own.
        read_field: the function of a name and values by which a model turns its fields into tensors.

    Raises:
        TypeError: if `data` is none of these, or has cells that are not numbers.
    """
    fields = as_names(fields)
    if isinstance(data, Rows | DataLoader):
        return data
    if isinstance(data, TensorDataset):
        data = data.tensors
    if isinstance(data, tuple):
        named = name_elements(data, fields)
        x = named.pop("x")
        return Rows(x, named if read_field is None else {name: read_field(name, named[name]) for name in named})
    if type(data).__module__.startswith("pandas"):
        return from_frame(data, fields, readable, read_field)
    if isinstance(data, IterableDataset):
        return DataLoader(data, batch_size=batch_size)
    if isinstance(data, Dataset):
        return DataLoader(data, batch_size=batch_size, shuffle=shuffle)
    return Rows(data)


def _with_values(data: Rows | DataLoader[Any], values: Mapping[str, Any]) -> Rows:
    """Rows with further fields.

    Raises:
        TypeError: if the data are not in memory, so that fields can't be matched with rows.
    """
    if isinstance(data, Rows):
        return data.with_fields(values)
    raise TypeError(
        f"fields must be names for data that are read in batches; got values of {sorted(values)}. Put them into the"
        " batches, as dictionaries {'x': ..., 'label': ...}."
    )


class Batches:
    """Batches of a data set, in a new random order each epoch, of the dtype and device of the parameters.

    An epoch is a sequence of *keys*, each of which stands for a batch: the numbers of its rows, or, where the data are
    not in memory, what the loader yielded.

    Args:
        data: anything that `as_rows` reads.
        like: a tensor whose dtype and device the batches take.
        fields: names of the fields that reach the programs.
        batch_size: rows per batch; a last row that would be alone joins the batch before. A `DataLoader` brings its
            own.
        shuffle: whether the order is random (drawn from torch's global stream).
        num_rows: N, the number of rows that an epoch visits; needed where data or sampler do not state it.
        readable: names of the fields that are used wherever the data have them.
        values: further fields by name, for data in memory.
        read_field: as in `as_rows`.

    Raises:
        ValueError: if the data have no length and `num_rows` is not given.
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
        readable: Collection[str] = (),
        values: Mapping[str, Any] | None = None,
        read_field: ReadField | None = None,
    ) -> None:
        fields, self._new = as_names(fields), not isinstance(data, Rows)
        self.data = as_rows(
            data, fields, readable=readable, batch_size=batch_size, shuffle=shuffle, read_field=read_field
        )
        if values:
            check_alignment(values, getattr(self.data, "index", None))
            values = values if read_field is None else {name: read_field(name, values[name]) for name in values}
            fields, self.data = (*fields, *values), _with_values(self.data, values)
            self._new = False
        self.like, self.fields, self.batch_size, self.shuffle = like, fields, batch_size, shuffle
        self.num_rows = self._count() if num_rows is None else num_rows
        self._first: Any = None
        if readable:
            found = (*self._stored_fields(), OBSERVED)
            self.fields += tuple(name for name in found if name in readable and name not in self.fields)

    def _stored_fields(self) -> tuple[str, ...]:
        """The names of the fields that the data bring."""
        if isinstance(self.data, Rows):
            return self.data.field_names
        with preserved_rng():
            return fields_of_item(self.first())

    def _count(self) -> int:
        """The number of rows that an epoch visits.

        Raises:
            ValueError: if there are none, or the data have no length.
        """
        return len(self.data) if isinstance(self.data, Rows) else rows_per_epoch(self.data)

    def __len__(self) -> int:
        """The number of batches in an epoch; a loader without a length is taken to have batches of `batch_size`."""
        if isinstance(self.data, Rows):
            return -(-len(self.data) // self.batch_size)
        try:
            return len(self.data)
        except TypeError:
            return -(-self.num_rows // self.batch_size)

    @property
    def names(self) -> list[str]:
        """The names of the fields that reach the programs."""
        return [name for name in self.fields if name != "x"]

    @property
    def row_size(self) -> int:
        """The number of cells of a row; 1 where the data are not in memory."""
        return math.prod(self.data.event_shape) if isinstance(self.data, Rows) else 1

    def __iter__(self) -> Iterator[Batch]:
        return map(self.read, self.order())

    def order(self, epoch: int = 0) -> Iterator[Any]:
        """The keys of an epoch's batches. Whatever is random about the order is drawn before this returns."""
        if not isinstance(self.data, Rows):
            for sampler in samplers(self.data):
                if hasattr(sampler, "set_epoch"):
                    sampler.set_epoch(epoch)
            items = iter(self.data)
            return itertools.chain(list(itertools.islice(items, 1)), items)
        order = torch.randperm(len(self.data)) if self.shuffle else torch.arange(len(self.data))
        parts = list(order.split(self.batch_size))
        if len(parts) > 1 and len(parts[-1]) == 1 < self.batch_size:
            parts[-2:] = [torch.cat(parts[-2:])]  # batch statistics need two rows
        return iter(parts)

    def read(self, key: Any) -> Batch:
        """The batch that a key stands for."""
        if isinstance(self.data, Rows):
            return self.data.take(key, self.names, like=self.like)
        batch = cast(name_item(key, self.fields), self.like)
        if OBSERVED in self.fields:
            fill_missing(batch)
        return batch

    def share(self, key: Any) -> Batch:
        """This process's rows of the batch that a key stands for; all rows where one process trains."""
        if isinstance(self.data, Rows):
            return self.read(self.own(key))
        return {name: self.own(value) for name, value in self.read(key).items()}

    def own(self, values: Tensor) -> Tensor:
        """This process's share of values by row; all of them where the sampler has divided the rows already."""
        if processes.size() == 1 or isinstance(index_sampler(self.data), DistributedSampler):
            return values
        return values[processes.own()]

    def row_numbers(self, key: Any) -> list[int]:
        """The numbers of the rows of `share(key)`: in the data, or in the batch where the data are not in memory."""
        numbers = key if isinstance(self.data, Rows) else torch.arange(len(self.read(key)["x"]))
        return self.own(numbers).tolist()  # type: ignore[no-any-return]

    def sample(self) -> Batch:
        """The rows that a model starts from: all, or evenly spaced ones of very many, or a loader's first batch.

        Random state is left as it was.
        """
        with preserved_rng():
            if not isinstance(self.data, Rows):
                return self.read(self.first())
            count = len(self.data)
            if count > self.data.rows_at_once(WHOLE_SAMPLE):
                count = self.data.rows_at_once(PARTIAL_SAMPLE)
            step = -(-len(self.data) // count)
            return self.data.take(slice(None, None, step), self.names, like=self.like)

    def chunks(self) -> Iterator[tuple[int, Batch]]:
        """All rows in chunks, each with the number of its first row; of a loader the first batch.

        Random state is left as it was.

        Raises:
            ValueError: if a cell or a field is not finite.
        """
        with preserved_rng():
            if isinstance(self.data, Rows):
                yield from self.data.chunks(self.names, self.like, new=self._new)
                return
            batch = self.read(self.first())
            check_finite_after_cast(batch["x"])
            for name in self.names:
                check_finite(f"field {name!r}", batch[name])
            yield 0, batch

    @property
    def generators(self) -> list[torch.Generator]:
        """The generators that a loader and its sampler own and draw from."""
        owners = () if isinstance(self.data, Rows) else (self.data, *samplers(self.data))
        found = [getattr(owner, "generator", None) for owner in owners]
        return list(dict.fromkeys(generator for generator in found if generator is not None))

    def describe(self) -> dict[str, Any]:
        """What identifies these data, as plain values: digests of rows; the length and kind of a loader's data set."""
        if isinstance(self.data, Rows):
            transform = self.data.transform
            name = None if transform is None else getattr(getattr(transform, "func", transform), "__qualname__", "")
            return {"rows": len(self.data), "transform": name, "sha256": self.data.digests(self.names)}
        kind = type(self.data.dataset).__qualname__
        return {"rows": self.num_rows, "dataset": kind, "batch_size": self.data.batch_size}

    def first(self) -> Any:
        """The key of the first rows, in the order of the data, on which the programs are validated.

        A loader is asked for its first item once only, since reading may change what comes next.

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
