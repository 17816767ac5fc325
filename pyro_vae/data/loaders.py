"""Loaders of data that are not in memory: what they yield, how many rows an epoch visits, and in which order."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
)

from pyro_vae.data.rows import Batch, Rows
from pyro_vae.fields import OBSERVED
from pyro_vae.runtime import processes

__all__ = [
    "fields_of_item",
    "index_sampler",
    "name_elements",
    "name_item",
    "names_of_columns",
    "read_whole",
    "rows_per_epoch",
    "samplers",
]


def name_elements(elements: Sequence[Any], fields: Sequence[str]) -> dict[str, Any]:
    """Name a tuple's elements: the first is x, unless `fields` names them all.

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
    """A batch of what a loader yields: a tensor, a tuple, or a dictionary with `"x"`.

    Raises:
        ValueError: if a dictionary lacks a name.
    """
    if isinstance(item, Tensor):
        return {"x": item}
    if isinstance(item, Mapping):
        names = tuple(name for name in dict.fromkeys(("x", *fields)) if name != OBSERVED or name in item)
        missing = [name for name in names if name not in item]
        if missing:
            raise ValueError(f"batches must have {names}; got a dictionary of {tuple(item)}. Rename its entries.")
        return {name: item[name] for name in names}
    elements = list(item)
    if len(fields) != len(elements) or "x" not in fields:
        fields = [name for name in fields if name != OBSERVED]
    return name_elements(elements, fields)


def names_of_columns(data: Rows | DataLoader[Any]) -> list[str] | None:
    """The names of the columns of x, where the data have names."""
    columns: Any = data.columns if isinstance(data, Rows) else getattr(data.dataset, "columns", None)
    named = isinstance(columns, list | tuple) and all(isinstance(name, str) for name in columns)
    return list(columns) if named else None


def fields_of_item(item: Any) -> tuple[str, ...]:
    """The names of the fields of what a loader yields: those of a dictionary."""
    return tuple(str(name) for name in item if name != "x") if isinstance(item, Mapping) else ()


def rows_per_epoch(loader: DataLoader[Any]) -> int:
    """N, the number of rows that an epoch of all processes visits, from the lengths that data set and sampler state.

    Raises:
        ValueError: if there are none, or if a length that is needed is not stated.
    """
    count = _stated_rows(loader)
    if count is None:
        raise ValueError(
            "num_rows must be given for data without a length, and for samplers that do not say how many rows they"
            " visit; got None. Pass fit(num_rows=N), the number of rows that an epoch visits."
        )
    if count == 0:
        raise ValueError(
            "x must be at least one row; got none. Check the data set, its sampler, and batch_size if drop_last=True."
        )
    return count


def _stated_rows(loader: DataLoader[Any]) -> int | None:
    if isinstance(loader.dataset, IterableDataset):
        stated = getattr(loader.dataset, "num_rows", None)
        if isinstance(stated, int):
            return _without_rest(stated, loader.batch_size, loader.drop_last)
        length = _length(loader.dataset)  # of batches, where the data set makes them itself
        return None if loader.batch_size is None else _without_rest(length, loader.batch_size, loader.drop_last)
    source = _order_of(loader)
    count = _rows_of_batches(source) if loader.batch_sampler is not None or _makes_batches(source) else None
    if count is None and source is loader.sampler and type(source) is SequentialSampler:
        stated = getattr(loader.dataset, "num_rows", None)  # each item is a batch
        return stated if isinstance(stated, int) else None
    sampler = index_sampler(loader)
    if count is None or not isinstance(sampler, DistributedSampler):
        return count
    return min(count * processes.size(), len(sampler.dataset))  # type: ignore[arg-type]  # rows that fill up are no rows


def _rows_of_batches(source: Any) -> int | None:
    """The number of rows in what a sampler of batches gives in an epoch."""
    if isinstance(source, Sequence):
        return sum(map(len, source))
    if not _makes_batches(source):
        return None
    count = _without_rest(_length(source.sampler), source.batch_size, getattr(source, "drop_last", False))
    return count if count is not None and _length(source) == -(-count // source.batch_size) else None


def _makes_batches(source: Any) -> bool:
    """Whether this is a `BatchSampler`, or one that says what that says."""
    return isinstance(getattr(source, "batch_size", None), int) and hasattr(source, "sampler")


def _without_rest(count: int | None, size: int | None, drop_last: bool) -> int | None:
    return count if count is None or not drop_last or size is None else count - count % size


def _length(values: Any) -> int | None:
    try:
        return len(values)
    except (TypeError, NotImplementedError, AttributeError):
        return None


def _order_of(loader: DataLoader[Any]) -> Any:
    """What gives the loader the numbers of its rows: batch after batch, or one after the other."""
    return loader.sampler if loader.batch_sampler is None else loader.batch_sampler


def index_sampler(loader: Any) -> Any:
    """The sampler of single rows, also where the loader was given a sampler of batches; None where there is none."""
    return samplers(loader)[-1] if isinstance(loader, DataLoader) else None


def samplers(loader: DataLoader[Any]) -> list[Any]:
    """The samplers of batches and rows within a loader, the outer ones first."""
    found = [_order_of(loader)]
    while _makes_batches(found[-1]):
        found.append(found[-1].sampler)
    return found


def check_fixed_order(loader: DataLoader[Any]) -> None:
    """Raise a ValueError unless the loader gives every row of its data set once and in the order of the data set."""
    found = _other_order(loader)
    if found:
        raise ValueError(
            f"x must come in a fixed order; got {found}. Pass shuffle=False to the DataLoader, or to"
            " pv.datasets.parquet, with drop_last=False and without a sampler; for some of the rows pass a Subset."
        )


def _other_order(loader: DataLoader[Any]) -> str:
    """In what a loader differs from one that gives each row once, in the order of the data set; empty if in nothing."""
    if getattr(loader.dataset, "shuffle", False) is True:
        return "a loader with shuffle=True"
    if loader.num_workers > 0 and not getattr(loader, "in_order", True):
        return "a loader with in_order=False"
    if isinstance(loader.dataset, IterableDataset):
        return "a loader with drop_last=True" if loader.drop_last else ""
    *outer, sampler = samplers(loader)
    if type(sampler) is RandomSampler:
        return "a loader with shuffle=True"
    if type(sampler) is not SequentialSampler:
        return f"a loader with the sampler {type(sampler).__name__}"
    for source in outer:
        if type(source) is not BatchSampler:
            return f"a loader with the sampler {type(source).__name__}"
        if source.drop_last:
            return "a loader with drop_last=True"
    visited, there = _length(sampler), _length(loader.dataset)
    return "" if visited == there else f"a loader with a sampler of {visited} of {there} rows"


def read_whole(loader: DataLoader[Any], fields: Sequence[str], readable: Collection[str] = ()) -> Rows:
    """All rows of a loader in memory, in its order, with the fields that are named or that it has and are readable.

    Raises:
        ValueError: if that is not the order of the data, so that results could not be matched with rows.
    """
    check_fixed_order(loader)
    items: list[Batch] = []
    for item in loader:
        if not items:
            fields = (*fields, *(name for name in fields_of_item(item) if name in readable and name not in fields))
        items.append(name_item(item, fields))
    if not items:
        raise ValueError("x must be at least one row; got none. Check the data set.")
    named = {name: torch.cat([item[name] for item in items]) for name in items[0]}
    return Rows(named.pop("x"), named, columns=names_of_columns(loader))
