"""Files in the format .parquet: read as a whole, or one group of rows at a time while a model trains."""

from __future__ import annotations

import importlib
import itertools
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from pyro_vae.arguments import as_path, positive_integer
from pyro_vae.data.batches import Rows
from pyro_vae.data.frames import UNNAMED, refuse_row_names
from pyro_vae.data.tensors import as_tensor
from pyro_vae.datasets.decompression import refuse_bomb
from pyro_vae.datasets.splits import reading

__all__ = ["ParquetBatches", "parquet", "read"]

INDEX = re.compile(r"__index_level_\d+__")  # a column of names of rows, as DataFrame.to_parquet calls it


def parquet(
    path: Any,
    *,
    batch_size: int = 128,
    columns: Sequence[str] | None = None,
    fields: Sequence[str] = (),
    shuffle: bool = True,
) -> DataLoader[dict[str, Tensor]]:
    """A loader for `fit` and evaluation that reads a .parquet file one group of rows at a time, to save memory.

    A .parquet file consists of groups of rows, whose size is chosen when it is written.

    Args:
        path: the file.
        batch_size: the number of rows in a batch; the last batch of an epoch may have fewer.
        columns: names of the columns that make up x; by default all that are not fields.
        fields: names of the columns that are fields; name them in `fit(fields=...)`, too.
        shuffle: whether the groups, and the rows within each group, come in random order, drawn anew in each epoch from
            torch's global random state. Rows of different groups are not mixed, so write the file in random order.
            Evaluation of single rows needs shuffle=False.

    Raises:
        FileNotFoundError: if there is no file at this path.
        ValueError: if the file is damaged, lacks a column, or has a group of rows that is a decompression bomb.
        TypeError: if a column does not hold numbers.
        ImportError: if pyarrow is not installed.

    Example:
        >>> import pandas, tempfile
        >>> file = tempfile.NamedTemporaryFile(suffix=".parquet")
        >>> pandas.DataFrame({"a": range(300), "b": 0.5, "label": 1}).to_parquet(file.name)
        >>> loader = parquet(file.name, fields=["label"])
        >>> len(loader), [tuple(batch["x"].shape) for batch in loader]
        (3, [(128, 2), (128, 2), (44, 2)])
    """
    file = as_path("path", path)
    return DataLoader(ParquetBatches(file, batch_size, columns, fields, shuffle), batch_size=None)


class ParquetBatches(IterableDataset[dict[str, Tensor]]):
    """The batches that come out of the loader that `parquet` returns.

    Attributes:
        num_rows: N, as the file states it.
        first_rows: for each group, the number of its first row.
    """

    def __init__(
        self,
        path: Path,
        batch_size: int = 128,
        columns: Sequence[str] | None = None,
        fields: Sequence[str] = (),
        shuffle: bool = True,
    ) -> None:
        self.path, self.shuffle = path, shuffle
        self.batch_size = positive_integer("batch_size", batch_size)
        if not path.is_file():
            raise FileNotFoundError(f"path must be a .parquet file; got {str(path)!r}. Correct the name.")
        with _open(path) as file, reading(path):
            schema, metadata = file.schema_arrow, file.metadata
            group_sizes = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
        *self.first_rows, self.num_rows = itertools.accumulate(group_sizes, initial=0)
        self.columns, self.fields = _choose_columns(path, schema, columns, fields)
        _refuse_bomb(path, schema, max(group_sizes, default=0), [*self.columns, *self.fields])
        if self.num_rows == 0:
            raise ValueError(f"{path} must hold at least one row; got none. Check the file.")

    def __len__(self) -> int:
        return -(-self.num_rows // self.batch_size)

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        generator = torch.Generator()  # an epoch draws only its seed from torch's global state, as it begins
        if self.shuffle:
            generator.manual_seed(int(torch.randint(2**62, ())))
        return self._batches(generator)

    def _batches(self, generator: torch.Generator) -> Iterator[dict[str, Tensor]]:
        rest: dict[str, Tensor] = {}  # rows at the end of the groups so far, too few for a batch
        for group in self._groups(generator):
            ready = {name: torch.cat([rest[name], value]) if rest else value for name, value in group.items()}
            end = len(ready["x"]) - len(ready["x"]) % self.batch_size
            for start in range(0, end, self.batch_size):
                yield {name: value[start : start + self.batch_size] for name, value in ready.items()}
            rest = {name: value[end:].clone() for name, value in ready.items()}
        if rest and len(rest["x"]):
            yield rest

    def _groups(self, generator: torch.Generator) -> Iterator[dict[str, Tensor]]:
        with _open(self.path) as file:
            num_groups = file.num_row_groups
            order = torch.randperm(num_groups, generator=generator) if self.shuffle else torch.arange(num_groups)
            for i in order.tolist():
                with reading(self.path):
                    table = file.read_row_group(i, columns=[*self.columns, *self.fields], use_threads=False)
                if table.num_rows == 0:
                    continue
                rows = _to_rows(table, self.columns, self.fields, self.first_rows[i])
                index: Any = torch.randperm(len(rows), generator=generator) if self.shuffle else slice(None)
                yield rows.take(index, self.fields)


def read(path: Path) -> Any:
    """Read a .parquet file as a frame of pandas, with names of rows as its index.

    Whole numbers and truth values beside missing cells, and dates, keep their types.

    Raises:
        ValueError: if the file is damaged or a decompression bomb, or its first column holds names of rows.
        ImportError: if pandas or pyarrow is not installed.
    """
    with _open(path) as file, reading(path):
        schema, metadata = file.schema_arrow, file.metadata
    types = _module("pyarrow.types", path)
    text = [name for name, kind in zip(schema.names, schema.types, strict=True) if _is_text(kind)]
    fixed = [kind.bit_width // 8 + 1 for kind in schema.types if types.is_primitive(kind)]
    stated = sum(metadata.row_group(i).total_byte_size for i in range(metadata.num_row_groups))
    size = metadata.num_rows * (sum(max(8, one) for one in fixed) + 8 * (len(schema.types) - len(fixed))) + stated
    refuse_bomb(path, size, path.stat().st_size)
    with _open(path, read_dictionary=text) as file, reading(path):
        table = file.read(use_threads=False)
        size += sum(_size_of_text(table.column(place)) for place, name in enumerate(table.column_names) if name in text)
        refuse_bomb(path, size, path.stat().st_size)
        frame = _to_pandas(path, table.cast(schema), schema)
    if frame.shape[1] and UNNAMED.fullmatch(str(frame.columns[0])) and frame.dtypes.iloc[0].kind in "iu":
        refuse_row_names(str(frame.columns[0]))
    return frame


def _module(name: str, path: Path) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        package = name.partition(".")[0]
        raise ImportError(
            f"{package} must be installed to read {path}; got {error}. Run: pip install {package}."
        ) from error


def _is_text(kind: Any) -> bool:
    from pyarrow import types

    return bool(types.is_string(kind) or types.is_large_string(kind))


def _size_of_text(column: Any) -> int:
    """The bytes of all cells of a column of text, which is read as numbers of texts so that it takes little memory."""
    from pyarrow import compute

    lengths = (compute.binary_length(part.dictionary).take(part.indices) for part in column.chunks)
    return sum(compute.sum(part).as_py() or 0 for part in lengths)


def _to_pandas(path: Path, table: Any, schema: Any) -> Any:
    """The frame, with the index that the file describes."""
    from pyarrow import types

    pandas = _module("pandas", path)
    options: dict[str, Any] = {"date_as_object": False, "use_threads": False}
    try:
        frame = table.to_pandas(**options)
    except (ValueError, TypeError, KeyError, AttributeError):  # what describes the index may be damaged
        frame = table.to_pandas(**options, ignore_metadata=True)
    for place, label in enumerate(frame.columns):
        if schema.names.count(str(label)) != 1:
            continue
        column = table.column(str(label))
        kind, dtype = column.type, None
        if types.is_date(kind):
            dtype = pandas.ArrowDtype(kind)
        elif column.null_count and types.is_boolean(kind):
            dtype = pandas.BooleanDtype()
        elif column.null_count and types.is_integer(kind):
            dtype = pandas.array([], str(kind).capitalize().replace("Ui", "UI")).dtype
        if dtype is not None:
            frame.isetitem(place, column.to_pandas(types_mapper={kind: dtype}.get).set_axis(frame.index))
    names = [label for label in frame.columns if INDEX.fullmatch(str(label))]
    return frame.set_index(names) if names else frame


def _described_index(schema: Any) -> list[Any]:
    """The index of the frame that was written, level by level, as pandas describes it in the file."""
    with suppress(ValueError, TypeError, AttributeError):  # what describes it may be damaged
        return list(schema.pandas_metadata["index_columns"])
    return []


def _index_columns(schema: Any) -> list[str]:
    """The names of the columns that hold names of rows."""
    described = [name for name in _described_index(schema) if isinstance(name, str)]
    return [name for name in schema.names if name in described or INDEX.fullmatch(name)]


def _open(path: Path, **options: Any) -> Any:
    try:
        from pyarrow import parquet as arrow
    except ImportError as error:
        raise ImportError(
            f"pyarrow must be installed to read {path}; got {error}. Run: pip install 'pyro-vae[parquet]'."
        ) from error
    with reading(path):
        return arrow.ParquetFile(path, page_checksum_verification=True, **options)


def _choose_columns(
    path: Path, schema: Any, columns: Sequence[str] | None, fields: Sequence[str]
) -> tuple[list[str], list[str]]:
    """The names of the columns of x and of the fields, after a check that they are there and hold numbers."""
    given, fields = [columns] if isinstance(columns, str) else columns, [fields] if isinstance(fields, str) else fields
    fields = [name for name in fields if name != "x"]
    no_data = {*fields, *_index_columns(schema)}
    chosen = [name for name in schema.names if name not in no_data] if given is None else list(given)
    unknown = [name for name in (*chosen, *fields) if schema.names.count(name) != 1]
    if unknown or not chosen:
        raise ValueError(f"columns must be in {path}, once; got {unknown or 'none'}. Choose among {schema.names}.")
    text = [name for name in (*chosen, *fields) if not _is_number(schema.field(name).type)]
    if text:
        raise TypeError(f"columns must be numbers; got text or other objects in {text}. Drop or encode these columns.")
    if given is None and UNNAMED.fullmatch(chosen[0]) and str(schema.field(chosen[0]).type) == "int64":
        refuse_row_names(chosen[0])
    return chosen, fields


def _is_number(kind: Any) -> bool:
    from pyarrow import types

    return bool(types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind))


def _refuse_bomb(path: Path, schema: Any, num_rows: int, columns: Sequence[str]) -> None:
    row_size = sum(max(8, schema.field(name).type.bit_width) // 8 for name in columns)  # bytes
    refuse_bomb(path, num_rows * row_size, path.stat().st_size)


def _to_rows(table: Any, columns: Sequence[str], fields: Sequence[str], first_row: int = 0) -> Rows:
    cells = [_column(table, name) for name in columns]
    x = np.empty((table.num_rows, len(cells)), np.result_type(*cells) if cells else np.float64)
    for i, column in enumerate(cells):
        x[:, i] = column
    by_name = {name: as_tensor(_column(table, name), name) for name in fields}
    return Rows(as_tensor(x), by_name, columns=list(columns), first_row=first_row)


def _column(table: Any, name: str) -> np.ndarray:
    """The numbers in a column; a missing cell is NaN."""
    column: np.ndarray = table.column(name).to_numpy()
    return np.asarray(column, np.float64) if column.dtype == object else column
