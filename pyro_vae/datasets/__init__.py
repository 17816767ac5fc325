"""Data sets by name, or from the user's files: train, valid and test rows with what a model needs to know about them.

To add one, write a function `Request -> Splits` (`splits` has the pieces) and give it a row in `_SETS`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Literal

from pyro_vae.arguments import as_path, is_integer
from pyro_vae.data.tensors import as_names
from pyro_vae.datasets import downloaded, embedded, files, folders
from pyro_vae.datasets.splits import Request, Splits
from pyro_vae.datasets.tables import ParquetBatches, parquet

__all__ = ["ParquetBatches", "Splits", "load", "names", "parquet"]

_SETS: dict[str, tuple[str, Callable[[Request], Splits]]] = {
    "digits": ("1,797 handwritten digits, 8x8, ink 0..16; comes with scikit-learn, no download", embedded.digits),
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
    return {name: description for name, (description, _) in _SETS.items()}


def load(
    name: str | os.PathLike[str],
    *,
    data_dir: str | os.PathLike[str] | None = None,
    binarize: Literal["dynamic", "static", "none"] | None = None,
    image_size: int | None = None,
    download: bool = True,
    fields: Sequence[str] = (),
    seed: int = 0,
) -> Splits:
    """Read a data set by name, or from a path, and split it into train, valid and test.

    Images are kept as uint8; a batch has them as floats. A set with its own test set gives the last min(5000, N // 12)
    rows of its training file to valid (celeba brings its own). Rows without a test set are shuffled and split 80/10/10
    (digits: 1257/180/360) by `np.random.RandomState(seed)`, a stream that numpy keeps frozen.

    Args:
        name: one of `names()`, or a path to a `.npy`, `.npz`, `.csv` or `.parquet` file or a folder of images; a
            string that is both is the name. A large `.npy` is mapped, not read. In a `.npz`, `x` (or the only array) is
            the data, and other arrays of as many rows are fields. A `.csv` has a header line. A folder's subfolders,
            sorted, are the integer field `label`. (`parquet` reads a `.parquet` file larger than memory.)
        data_dir: where the files of a named set lie; without it the environment variable `PYRO_VAE_DATA`, else
            `.cache/pyro_vae` in the home folder.
        binarize: `"dynamic"`: train is drawn anew, with the grey level as probability, each time a row is taken; valid
            and test are drawn once. `"static"`: all three are drawn once (not Larochelle's file). `"none"`: levels in
            [0, 1]. The default is dynamic for named one-channel images; none for colour, folders and digits. What is
            drawn once is the same for every `seed`.
        image_size: side of the square that celeba (64), omniglot (28) and folders (as they are) are resized to, after
            a cut to the central square.
        download: whether to fetch files that are absent.
        fields: names of fields that must be there; columns of a `.csv` or `.parquet` that are fields.
        seed: of the permutation that splits rows without a test set.

    Raises:
        ValueError: for an unknown name, an option that does not suit the data, a damaged file, one that unpacks to very
            much, too few rows.
        TypeError: for data that are not numbers.
        FileNotFoundError: if the files of a named set are absent and are not, or cannot be, downloaded.
        ImportError: if torchvision does not match torch, or pandas or pyarrow is absent.

    Example:
        >>> digits = load("digits")
        >>> len(digits.train), digits.event_shape, digits.likelihood, digits.likelihood_options
        (1257, (1, 8, 8), 'Binomial', {'total_count': 16})
    """
    if not isinstance(name, str | os.PathLike):
        raise TypeError(f"name must be a name or a path; got {type(name).__name__}. The names are {list(_SETS)}.")
    fields = tuple(field for field in as_names(fields) if field != "x")
    request = Request(os.fspath(name), _root(data_dir), binarize, image_size, download, fields, seed)
    _check(request)
    named = isinstance(name, str) and name in _SETS
    splits = (_SETS[request.name][1] if named else _from_path)(request)
    for field in fields:
        splits.train.field(field)
    return splits


def _root(data_dir: str | os.PathLike[str] | None) -> Path:
    chosen = os.environ.get("PYRO_VAE_DATA") or None if data_dir is None else data_dir
    return Path.home() / ".cache" / "pyro_vae" if chosen is None else as_path("data_dir", chosen)


def _check(request: Request) -> None:
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
    if path.is_file() and path.suffix.lower() in files.READERS:
        return files.read(path, request)
    raise ValueError(
        f"name must be one of {list(_SETS)}, or a path to a .npy, .npz, .csv or .parquet file or a folder of images;"
        f" got {request.name!r}{'' if path.exists() else ', which does not exist'}. Correct the name or the path."
    )
