"""What all data sets share: the result of `load`, ways to split rows, and ways to turn grey levels into model input."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from pyro_vae.data.batches import Rows
from pyro_vae.runtime.display import Shown
from pyro_vae.tables import Table

_BINARIZATION_SEEDS = {"train": 1, "valid": 2, "test": 3}  # fixed, so that a test set is the same for everyone


@dataclass(frozen=True, repr=False)
class Splits(Shown):
    """Training, validation and test rows of a data set, and what a model needs to know about them.

    Args:
        name: the name of the data set, or its path.
        train: rows to fit a model to.
        valid: rows on which the bound is monitored during training.
        test: rows for final results.
        event_shape: the shape of one row of `x`.
        likelihood: the name of a class in `pyro_vae.likelihoods` that suits the data. That of a table is "Product":
            `VAE.for_table(splits.train)` makes the model, with a likelihood for each kind of column.
        likelihood_options: arguments of that class besides the event shape; none for a table.
        unit: what the number in a cell is, e.g. "ink 0..16".
        indices: for each split, the row numbers in the original data. If these came with a test (or validation) set of
            their own, its row numbers count within that set.
        table: all rows of a .csv or .parquet file, in its order; None for other data. Its parts are `train`, `valid`
            and `test`.
    """

    name: str
    train: Rows
    valid: Rows
    test: Rows
    event_shape: tuple[int, ...]
    likelihood: str
    likelihood_options: dict[str, Any]
    unit: str
    indices: dict[str, list[int]]
    table: Table | None = None

    def __str__(self) -> str:
        counts = f"{len(self.train):,} training, {len(self.valid):,} validation and {len(self.test):,} test rows"
        return f"{self.name}: {counts} of shape {self.event_shape}"


@dataclass(frozen=True)
class Request:
    """The checked arguments of `load`, as they are passed to the function that reads the data."""

    name: str
    root: Path
    binarize: str | None
    image_size: int | None
    download: bool
    fields: tuple[str, ...]
    seed: int
    sep: str | None = None
    decimal: str | None = None
    header: bool | None = None
    kinds: Mapping[str, Any] | None = None
    covariates: tuple[str, ...] | None = None

    def refuse_options(self, *options: str) -> None:
        """Raise if an option was given that has no meaning for these data.

        Raises:
            ValueError: if one of the `options`, given by name, is neither None nor `"none"`.
        """
        for option in options:
            value = getattr(self, option)
            if value not in (None, "none"):
                raise ValueError(f"{option} must be None for {self.name!r}; got {value!r}. Leave it out.")


class RowsBySplit(NamedTuple):
    """Rows, and their numbers in the original data, for "train", "valid" and "test"."""

    by_split: dict[str, Rows]
    indices: dict[str, list[int]]


def hold_out(training: Rows, test: Rows) -> RowsBySplit:
    """Split data that have a test set: the last min(5000, N // 12) rows of the training set are for validation."""
    num_rows = len(training)
    cut = num_rows - min(5000, num_rows // 12)
    by_split = {"train": training.subset(slice(0, cut)), "valid": training.subset(slice(cut, num_rows)), "test": test}
    indices = {"train": list(range(cut)), "valid": list(range(cut, num_rows)), "test": list(range(len(test)))}
    return RowsBySplit(by_split, indices)


def split_randomly(rows: Rows, seed: int, num_valid: int, num_test: int) -> RowsBySplit:
    """Split rows by a random permutation that depends on `seed` and the number of rows alone."""
    order = torch.from_numpy(np.random.RandomState(seed).permutation(len(rows)))
    test, valid, train = order.split([num_test, num_valid, len(rows) - num_test - num_valid])
    chosen = {"train": train, "valid": valid, "test": test}
    by_split = {split: rows.subset(index) for split, index in chosen.items()}
    return RowsBySplit(by_split, {split: index.tolist() for split, index in chosen.items()})


def check_enough_rows(num_rows: int, request: Request) -> None:
    """Raise if there are too few rows to split.

    Raises:
        ValueError: if there are fewer than 10 rows.
    """
    if num_rows < 10:
        raise ValueError(f"{request.name} must hold at least 10 rows to split; got {num_rows}. Add rows.")


def split_80_10_10(rows: Rows, request: Request) -> RowsBySplit:
    """Split the rows of a user's file randomly: 80 % for training, 10 % for validation, 10 % for the test.

    Raises:
        ValueError: if there are fewer than 10 rows.
    """
    check_enough_rows(len(rows), request)
    return split_randomly(rows, request.seed, len(rows) // 10, len(rows) // 10)


def as_splits(request: Request, data: RowsBySplit, likelihood: str, options: dict[str, Any], unit: str) -> Splits:
    """The result of `load`: the rows with a likelihood that suits them, its options, and the unit of a cell."""
    train, valid, test = (data.by_split[split] for split in ("train", "valid", "test"))
    return Splits(request.name, train, valid, test, train.event_shape, likelihood, options, unit, data.indices)


def images_as_splits(request: Request, data: RowsBySplit, default: str = "dynamic", peak: int = 255) -> Splits:
    """The result of `load` for images, binarized as the request asks.

    Args:
        request: the arguments of `load`.
        data: images (N, C, H, W) of integer levels from 0 to `peak`.
        default: how images of one channel are binarized if the request does not say so.
        peak: the highest level.

    Raises:
        ValueError: if colour images are to be binarized.
    """
    in_colour = data.by_split["train"].event_shape[0] > 1
    mode = request.binarize or ("none" if in_colour else default)
    if mode == "none":
        by_split = {split: _with_transform(part, scale, peak) for split, part in data.by_split.items()}
        unit = "colour level 0..1" if in_colour else "grey level 0..1"
        return as_splits(request, RowsBySplit(by_split, data.indices), "Normal", {"scale": "shared"}, unit)
    if in_colour:
        raise ValueError(f"binarize must be 'none' for colour images; got {mode!r}. Leave it out, or use grey images.")
    by_split = {split: _binarized_once(part, peak, _BINARIZATION_SEEDS[split]) for split, part in data.by_split.items()}
    if mode == "dynamic":
        by_split["train"] = _with_transform(data.by_split["train"], draw, peak)
    return as_splits(request, RowsBySplit(by_split, data.indices), "Bernoulli", {}, "pixel on/off")


# A run that is resumed compares the names of these two functions with those in its checkpoint: do not rename them.


def scale(x: Tensor, peak: int) -> Tensor:
    """Map levels from 0 to `peak` to [0, 1]."""
    return x / peak


def draw(x: Tensor, peak: int) -> Tensor:
    """Binarize levels from 0 to `peak` at random, with torch's global random state."""
    return torch.bernoulli(x / peak)


def _with_transform(rows: Rows, transform: Any, peak: int) -> Rows:
    return rows.with_transform(partial(transform, peak=peak))


def _binarized_once(rows: Rows, peak: int, seed: int) -> Rows:
    """Binarize rows for good, with P(1) = level / peak exactly.

    A NumPy generator of its own draws the same numbers on every machine and leaves global random states alone.
    """
    shape = (len(rows), *rows.event_shape)
    thresholds = np.random.RandomState(seed).randint(0, peak, shape, dtype=np.uint8)
    start = 0
    for levels in rows.pieces():
        drawn = thresholds[start : start + len(levels)]
        drawn[:] = drawn < levels.numpy()  # in place, to need no second array of this size
        start += len(levels)
    return Rows(torch.from_numpy(thresholds), rows.fields)


class UnsuitableDataError(ValueError):
    """An undamaged file that cannot be used; its message says why, so `reading` leaves it as it is."""


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """A context in which a file is read: the many errors that readers raise for damaged files become one that names it.

    Raises:
        ValueError: if the file cannot be read.
        MemoryError: if it does not fit into memory.
        OSError: if the system does not allow it to be read.
    """
    try:
        yield
    except (ImportError, UnsuitableDataError):
        raise
    except MemoryError as error:
        raise MemoryError(
            f"{path} must fit into memory; got {error or 'too much'}. Write it as a .npy or .parquet file, or in parts."
        ) from error
    except PermissionError as error:
        message = f"{path} must be a file that you may read; got {error.strerror}. Change its permissions."
        raise PermissionError(error.errno, message) from error
    except Exception as error:
        raise ValueError(
            f"{path} must be a whole {path.suffix} file of plain numbers or pixels;"
            f" got {type(error).__name__}: {str(error)[:500]}. Write it again, or remove it."
        ) from error
