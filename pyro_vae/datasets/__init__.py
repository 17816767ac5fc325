"""Data sets by name or from the user's files, split into training, validation and test rows.

To add one, write a function from a `Request` to `Splits`, with the helpers in `splits.py`, and add it to `_DATA_SETS`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from pyro_vae.arguments import as_path, is_integer
from pyro_vae.data.tensors import as_names
from pyro_vae.datasets import delimited, downloaded, embedded, files, folders, frames
from pyro_vae.datasets.frames import read_frame
from pyro_vae.datasets.splits import Request, Splits
from pyro_vae.datasets.tables import ParquetBatches, parquet

__all__ = ["ParquetBatches", "Splits", "load", "names", "parquet", "read_frame"]

_DATA_SETS: dict[str, tuple[str, Callable[[Request], Splits]]] = {
    "digits": ("1,797 handwritten digits, 8x8, ink 0..16; part of scikit-learn, no download", embedded.digits),
    "mnist": ("70,000 handwritten digits, 28x28, one channel", partial(downloaded.mnist, kind="MNIST")),
    "fashion-mnist": (
        "70,000 articles of clothing, 28x28, one channel",
        partial(downloaded.mnist, kind="FashionMNIST"),
    ),
    "kmnist": ("70,000 cursive Japanese characters, 28x28, one channel", partial(downloaded.mnist, kind="KMNIST")),
    "emnist": ("131,600 letters and digits (balanced), 28x28, one channel", partial(downloaded.mnist, kind="EMNIST")),
    "omniglot": ("32,460 characters of 50 alphabets, 28x28, one channel", downloaded.omniglot),
    "cifar10": ("60,000 photographs of ten things, 32x32, colour", downloaded.cifar10),
    "svhn": ("99,289 house numbers, 32x32, colour", downloaded.svhn),
    "celeba": ("202,599 faces with 40 attributes, 64x64, colour", downloaded.celeba),
}


def names() -> dict[str, str]:
    """The names that `load` takes, each with a one-line description."""
    return {name: description for name, (description, _) in _DATA_SETS.items()}


def load(
    name: str | os.PathLike[str],
    *,
    data_dir: str | os.PathLike[str] | None = None,
    binarize: Literal["dynamic", "static", "none"] | None = None,
    image_size: int | None = None,
    download: bool = True,
    fields: Sequence[str] = (),
    seed: int = 0,
    sep: str | None = None,
    decimal: Literal[".", ","] | None = None,
    header: bool | None = None,
    kinds: Mapping[str, Any] | None = None,
    covariates: Sequence[str] | None = None,
) -> Splits:
    """Read a data set by name or from a path, and split it into training, validation and test rows.

    - If a data set has a test set, the last min(5000, N // 12) rows of its training set become the validation rows
      (celeba has its own). Otherwise the rows are split 80/10/10 (digits: 1257/180/360) by a random permutation, which
      a `seed` gives alike on every machine.
    - Images are stored as uint8; batches of them are floating-point numbers.

    Args:
        name: one of `names()`, or a path to a `.npy`, `.npz`, `.csv` or `.parquet` file or a folder of images; a
            string that is both is taken for the name.

            - A large `.npy` file is memory-mapped, so it may be larger than memory; for such a `.parquet` file use
              `parquet`.
            - In a `.npz` file, `x` (or the only array) is the data; other arrays with as many rows are fields.
            - A `.csv` or `.parquet` file is a table, always: train, valid and test are each a `pv.Table`, whose columns
              may hold text, times and missing cells. The kinds of columns are inferred from all rows, by the rules of
              `pyro_vae.tables.infer.infer`. `VAE.for_table(splits.train)` makes the model.
            - A `.csv` file has a header line, unless `header` is False. Leading columns without a name of their own,
              as pandas writes them, hold names of rows. Empty fields and those that pandas takes for missing, such as
              NA, NaN, null and None, are missing cells. Columns in which all cells are ISO dates or times, such as
              2024-03-31 or 2024-03-31T08:30, hold times.
            - Subfolders of a folder of images, in order of name, become the integer field `label`.
        data_dir: the folder with the files of named data sets; by default the environment variable `PYRO_VAE_DATA`,
            else `.cache/pyro_vae` in the home folder.
        binarize: how grey levels become 0 and 1, where the level is the probability of 1. `"dynamic"`: training rows
            are drawn anew in every batch, validation and test rows once. `"static"`: all rows are drawn once (this is
            not Larochelle's binarized MNIST). `"none"`: not at all; levels are scaled to [0, 1]. The default is
            "dynamic" for named images of one channel, and "none" for colour images, folders and digits. What is drawn
            once does not depend on `seed`.
        image_size: side of the square to which images are cut and resized, in pixels; by default 64 for celeba, 28 for
            omniglot, and the size of the files for a folder. Other data sets have one size only.
        download: whether to download the files of a named data set that are not there.
        fields: names of fields that the data must have; for a `.csv` or `.parquet` file, the columns that are fields,
            and no part of the table. They must hold numbers without gaps.
        seed: seed of the permutation that splits rows without a test set.
        sep: the character between the fields of a `.csv` file: by default ",", or ";" where `decimal` is ",".
        decimal: the decimal point of a `.csv` file: by default ".".
        header: whether the first line of a `.csv` file holds the names of the columns; False names them "0", "1", ...
            By default it must, and a first line of numbers is refused.
        kinds: of a `.csv` or `.parquet` file, kinds by column, as a name or an object of `pv.tables`, e.g.
            {"visits": "count", "id": "leave_out"}; a column of "leave_out" is not modelled. Other kinds are inferred.
        covariates: of a `.csv` or `.parquet` file, names of the columns that are covariates, as in `pv.Table`.

    Raises:
        ValueError: if the name is unknown, an option has no meaning for the data, or a file is damaged, is a
            decompression bomb or has fewer than 10 rows.
        TypeError: if the cells of arrays are not numbers, or a column of a table is of a type without a kind.
        FileNotFoundError: if files of a named data set are not there and are not, or cannot be, downloaded.
        ImportError: if torchvision does not match torch, or pandas or pyarrow is needed and not installed.

    Example:
        >>> digits = load("digits")
        >>> len(digits.train), digits.event_shape, digits.likelihood, digits.likelihood_options
        (1257, (1, 8, 8), 'BetaBinomial', {'total_count': 16, 'dispersion': 'predicted'})
    """
    if not isinstance(name, str | os.PathLike):
        raise TypeError(f"name must be a name or a path; got {type(name).__name__}. Choose among {list(_DATA_SETS)}.")
    fields = tuple(field for field in as_names(fields) if field != "x")
    request = Request(os.fspath(name), _data_folder(data_dir), binarize, image_size, download, fields, seed)
    _check_options(request)
    delimited.check_options(sep, decimal, header)
    request = replace(request, sep=sep, decimal=decimal, header=header, kinds=frames.as_kinds(kinds))
    request = replace(request, covariates=None if covariates is None else as_names(covariates, "covariates"))
    is_name = isinstance(name, str) and name in _DATA_SETS
    if is_name or Path(request.name).is_dir():
        request.refuse_options("sep", "decimal", "header", "kinds", "covariates")
    splits = (_DATA_SETS[request.name][1] if is_name else _from_path)(request)
    for field in fields:
        splits.train.field(field)  # raises where there is none
    return splits


def _data_folder(data_dir: str | os.PathLike[str] | None) -> Path:
    chosen = os.environ.get("PYRO_VAE_DATA") or None if data_dir is None else data_dir
    return Path.home() / ".cache" / "pyro_vae" if chosen is None else as_path("data_dir", chosen)


def _check_options(request: Request) -> None:
    mode, size = request.binarize, request.image_size
    if not isinstance(mode, str | None) or mode not in (None, "dynamic", "static", "none"):
        raise ValueError(f"binarize must be 'dynamic', 'static', 'none' or None; got {mode!r}. Choose one of these.")
    if size is not None and (not is_integer(size) or size < 1):
        raise ValueError(f"image_size must be a positive integer; got {size!r}. Give the side in pixels, e.g. 64.")
    if not is_integer(request.seed) or not 0 <= request.seed < 2**32:
        raise ValueError(f"seed must lie in 0..2**32 - 1; got {request.seed!r}. Choose another one.")


def _from_path(request: Request) -> Splits:
    path = as_path("name", request.name)
    if path.is_dir():
        return folders.read(path, request)
    if path.is_file() and path.suffix.lower() in files.SUFFIXES:
        return files.read(path, request)
    absent = "" if path.exists() else ", which does not exist"
    raise ValueError(
        f"name must be one of {list(_DATA_SETS)}, or a path to a .npy, .npz, .csv or .parquet file or a folder of"
        f" images; got {request.name!r}{absent}. Correct the name or the path."
    )
