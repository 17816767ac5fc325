"""What every source shares: the result, the ways to split rows, and the ways to show grey levels to a model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from pyro_vae.data.batches import Rows

_STREAMS = {"train": 1, "valid": 2, "test": 3}  # seeds of what is binarised once


@dataclass(frozen=True)
class Splits:
    """Train, valid and test rows with what a model needs to know about them.

    Args:
        name: the data set's name, or its path.
        train: rows to fit.
        valid: rows to watch while fitting.
        test: rows to report on.
        event_shape: the shape of one row of `x`.
        likelihood: a likelihood that suits the data: a class name in `pyro_vae.likelihoods`.
        likelihood_options: arguments of that class, beyond the event shape.
        unit: what a cell is.
        indices: row numbers of each split in the original data; where these bring their own test (or valid) set,
            row numbers within that set.
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


@dataclass(frozen=True)
class Request:
    """The arguments of `load`, checked, on their way to the function that reads the data."""

    name: str
    root: Path
    binarize: str | None
    image_size: int | None
    download: bool
    fields: tuple[str, ...]
    seed: int

    def refuse(self, *options: str) -> None:
        """Raise if an option that has no meaning for these data was given.

        Raises:
            ValueError: if one of `options` is neither None nor `"none"`.
        """
        for option in options:
            value = getattr(self, option)
            if value not in (None, "none"):
                raise ValueError(f"{option} must be None for {self.name!r}; got {value!r}. Leave it out.")


class Parts(NamedTuple):
    """Rows and row numbers by split."""

    rows: dict[str, Rows]
    indices: dict[str, list[int]]


def hold_out(training: Rows, test: Rows) -> Parts:
    """Cut valid, the last min(5000, N // 12) rows, from the training file of a set with its own test file."""
    count = len(training)
    cut = count - min(5000, count // 12)
    rows = {"train": training.subset(slice(0, cut)), "valid": training.subset(slice(cut, count)), "test": test}
    return Parts(rows, {"train": list(range(cut)), "valid": list(range(cut, count)), "test": list(range(len(test)))})


def shuffle(rows: Rows, seed: int, num_valid: int, num_test: int) -> Parts:
    """Split rows by a random permutation that depends on `seed` only."""
    order = torch.from_numpy(np.random.RandomState(seed).permutation(len(rows)))
    test, valid, train = order.split([num_test, num_valid, len(rows) - num_test - num_valid])
    picked = {"train": train, "valid": valid, "test": test}
    parts = {split: rows.subset(index) for split, index in picked.items()}
    return Parts(parts, {split: index.tolist() for split, index in picked.items()})


def enough(count: int, request: Request) -> None:
    """Raise if there are too few rows to split.

    Raises:
        ValueError: if there are fewer than 10 rows.
    """
    if count < 10:
        raise ValueError(f"{request.name} must hold at least 10 rows to split; got {count}. Add rows.")


def tenths(rows: Rows, request: Request) -> Parts:
    """Split the rows of a user's file 80/10/10.

    Raises:
        ValueError: if there are fewer than 10 rows.
    """
    enough(len(rows), request)
    return shuffle(rows, request.seed, len(rows) // 10, len(rows) // 10)


def describe(request: Request, parts: Parts, likelihood: str, options: dict[str, Any], unit: str) -> Splits:
    """Put rows and what is known about them together."""
    train, valid, test = (parts.rows[split] for split in ("train", "valid", "test"))
    return Splits(request.name, train, valid, test, train.event_shape, likelihood, options, unit, parts.indices)


def images(request: Request, parts: Parts, default: str = "dynamic", peak: int = 255) -> Splits:
    """Show images, uint8 levels 0..peak of shape (N, C, H, W), as `request.binarize` asks.

    Raises:
        ValueError: if colour images are to be binarised.
    """
    colour = parts.rows["train"].event_shape[0] > 1
    mode = request.binarize or ("none" if colour else default)
    if mode == "none":
        rows = {split: _levels(part, scale, peak) for split, part in parts.rows.items()}
        unit = "colour level 0..1" if colour else "grey level 0..1"
        return describe(request, Parts(rows, parts.indices), "Normal", {"scale": "shared"}, unit)
    if colour:
        raise ValueError(f"binarize must be 'none' for colour images; got {mode!r}. Leave it out, or use grey images.")
    rows = {split: _once(part, peak, _STREAMS[split]) for split, part in parts.rows.items()}
    if mode == "dynamic":
        rows["train"] = _levels(parts.rows["train"], draw, peak)
    return describe(request, Parts(rows, parts.indices), "Bernoulli", {}, "pixel on/off")


def scale(x: Tensor, peak: int) -> Tensor:
    """Levels 0..peak to [0, 1]."""
    return x / peak


def draw(x: Tensor, peak: int) -> Tensor:
    """A fresh binarisation of levels 0..peak, from torch's global stream."""
    return torch.bernoulli(x / peak)


def _levels(rows: Rows, show: Any, peak: int) -> Rows:
    return rows.with_transform(partial(show, peak=peak))


def _once(rows: Rows, peak: int, seed: int) -> Rows:
    """Binarise with P(1) = level / peak exactly: numpy's stream is the same on every machine, and local."""
    shape = (len(rows), *rows.event_shape)
    levels = np.random.RandomState(seed).randint(0, peak, shape, dtype=np.uint8)  # thresholds, then what is drawn
    start = 0
    for part in rows.pieces():
        drawn = levels[start : start + len(part)]
        drawn[:] = drawn < part.numpy()
        start += len(part)
    return Rows(torch.from_numpy(levels), rows.fields)


class UnsuitedError(ValueError):
    """What is wrong with a file that is whole; told as it is."""


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Make one error that names the file of whatever a reader raises for a damaged one.

    Raises:
        ValueError: if the file cannot be read.
        MemoryError: if it does not fit into memory.
        OSError: if the system does not let it be read.
    """
    try:
        yield
    except (ImportError, UnsuitedError):
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
            f" got {type(error).__name__}: {str(error)[:500]}. Write it anew, or remove it."
        ) from error
