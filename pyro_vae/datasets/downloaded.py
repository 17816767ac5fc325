"""Data sets that torchvision finds on disk or downloads."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pyro_vae.data.batches import Rows
from pyro_vae.datasets.folders import decode
from pyro_vae.datasets.splits import Request, RowsBySplit, Splits, hold_out, images_as_splits


def mnist(request: Request, kind: str) -> Splits:
    """MNIST, or a data set in the same format; `kind` is the name of its class in torchvision."""
    request.refuse_options("image_size")
    emnist = kind == "EMNIST"
    prefixes = ("emnist-balanced-train", "emnist-balanced-test") if emnist else ("train", "t10k")
    files = [f"{prefix}-{part}-ubyte" for prefix in prefixes for part in ("images-idx3", "labels-idx1")]
    options = [{"train": train} | ({"split": "balanced"} if emnist else {}) for train in (True, False)]
    sets = _open(kind, request, request.root / kind / "raw", files, options)
    training_and_test = []
    for part in sets:
        x = part.data.transpose(1, 2).contiguous() if emnist else part.data  # EMNIST's files hold transposed images
        training_and_test.append(Rows(x[:, None], {"label": part.targets}))
    return images_as_splits(request, hold_out(*training_and_test))


def cifar10(request: Request) -> Splits:
    """CIFAR-10: photographs of ten things."""
    request.refuse_options("image_size")
    files = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch", "batches.meta"]
    folder = request.root / "cifar-10-batches-py"
    sets = _open("CIFAR10", request, folder, files, [{"train": True}, {"train": False}])
    data = [torch.from_numpy(part.data).movedim(-1, 1).contiguous() for part in sets]
    training, test = (Rows(x, {"label": torch.tensor(part.targets)}) for x, part in zip(data, sets, strict=True))
    return images_as_splits(request, hold_out(training, test))


def svhn(request: Request) -> Splits:
    """SVHN: photographs of house numbers, cut to single digits."""
    request.refuse_options("image_size")
    files = ["train_32x32.mat", "test_32x32.mat"]
    sets = _open("SVHN", request, request.root, files, [{"split": "train"}, {"split": "test"}])
    data = [torch.from_numpy(np.ascontiguousarray(part.data)) for part in sets]
    training, test = (Rows(x, {"label": torch.from_numpy(part.labels)}) for x, part in zip(data, sets, strict=True))
    return images_as_splits(request, hold_out(training, test))


def celeba(request: Request) -> Splits:
    """CelebA: faces, cut to the central 148x148 pixels; the field `label` holds 40 attributes, 0 or 1."""
    folder = request.root / "celeba"
    tables = [f"list_{table}_celeba.txt" for table in ("attr", "bbox", "landmarks_align")]
    files = ["img_align_celeba", *tables, "identity_CelebA.txt", "list_eval_partition.txt"]
    splits = ("train", "valid", "test")
    sets = _open("CelebA", request, folder, files, [{"split": split} for split in splits])
    rows = {}
    for split, part in zip(splits, sets, strict=True):
        paths = [folder / "img_align_celeba" / name for name in part.filename]
        rows[split] = Rows(decode(paths, "RGB", request.image_size or 64, crop=148), {"label": part.attr})
    return images_as_splits(request, RowsBySplit(rows, {split: list(range(len(part))) for split, part in rows.items()}))


def omniglot(request: Request) -> Splits:
    """Omniglot, with ink as 1; the field `label` is the character, and the test set holds other alphabets.

    Rows and labels are in order of path, since torchvision returns them in the order of the file system.
    """
    kinds = ("images_background", "images_evaluation")
    files = [*kinds, *(f"{kind}.zip" for kind in kinds)]
    options = [{"background": background, "loader": Path} for background in (True, False)]
    training_and_test = []
    for part in _open("Omniglot", request, request.root / "omniglot-py", files, options):
        paths = sorted((part[i][0] for i in range(len(part))), key=Path.as_posix)
        characters = {folder: i for i, folder in enumerate(dict.fromkeys(path.parent for path in paths))}
        label = torch.tensor([characters[path.parent] for path in paths])
        training_and_test.append(Rows(255 - decode(paths, "L", request.image_size or 28), {"label": label}))
    return images_as_splits(request, hold_out(*training_and_test))


def _open(
    kind: str, request: Request, folder: Path, files: Sequence[str], options: Sequence[dict[str, Any]]
) -> list[Any]:
    """One torchvision data set for each of `options`: from files on disk, or downloaded if there are none."""
    factory = getattr(_torchvision_datasets(), kind)
    reason: Exception | None = None
    for download in (False, True) if request.download else (False,):
        try:
            return [factory(str(request.root), download=download, **option) for option in options]
        except (ImportError, MemoryError):
            raise
        except Exception as error:  # each data set raises its own: RuntimeError, OSError, AssertionError, ...
            reason = error
    missing = [file for file in files if not (folder / file).exists()]
    cause = f"{type(reason).__name__}: {reason}"
    if missing:
        raise FileNotFoundError(
            f"the files of {request.name!r} must be in {folder}: {', '.join(files)}; got no {', '.join(missing)}"
            f" ({cause}). Put them there by hand, give another data_dir, or load with download=True and a network."
        ) from reason
    raise ValueError(
        f"the files of {request.name!r} in {folder} must be whole: {', '.join(files)}; got {cause}."
        " Remove the damaged ones, and load again with download=True or put whole ones there by hand."
    ) from reason


def _torchvision_datasets() -> Any:
    try:
        import torchvision.datasets
    except Exception as error:
        raise ImportError(
            f"torchvision must be the release that matches torch {torch.__version__} (with another one it says"
            f" 'operator torchvision::nms does not exist'); got {type(error).__name__}: {error}."
            " Install the pair together: pip install torch torchvision."
        ) from error
    return torchvision.datasets
