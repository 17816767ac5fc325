"""Folders of images, and the decoding of image files for all data sets."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_vae.data.batches import Rows
from pyro_vae.datasets.decompression import refuse_bomb
from pyro_vae.datasets.splits import Request, Splits, check_enough_rows, images_as_splits, reading, split_80_10_10

_FORMATS = ("BMP", "JPEG", "PNG", "WEBP")  # as the content of a file shows; for others, Pillow may run programs
_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".webp")


def read(folder: Path, request: Request) -> Splits:
    """Read all images in a folder, in order of path; if all lie in subfolders, these become the field `label`.

    Raises:
        ValueError: if there are fewer than 10 images, one is damaged or has more than 8 bits per channel, their sizes
            differ and `image_size` was not given, or they are a decompression bomb.
    """
    found = [path.relative_to(folder) for path in folder.rglob("*") if path.suffix.lower() in _SUFFIXES]
    found = sorted((path for path in found if not any(part.startswith(".") for part in path.parts)), key=Path.as_posix)
    if not found:
        raise ValueError(f"{folder} must hold images ({', '.join(_SUFFIXES)}); got none. Correct the path.")
    check_enough_rows(len(found), request)
    paths = [folder / path for path in found]
    x = decode(paths, _common_mode(folder, paths, request.image_size), request.image_size)
    return images_as_splits(request, split_80_10_10(Rows(x, _labels(found)), request), default="none")


def _labels(found: Sequence[Path]) -> dict[str, Any]:
    if any(len(path.parts) == 1 for path in found):
        return {}
    classes = {name: i for i, name in enumerate(sorted({path.parts[0] for path in found}))}
    return {"label": torch.tensor([classes[path.parts[0]] for path in found])}


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """Open an image of one of the allowed formats; Pillow's warning of a decompression bomb becomes an error."""
    from PIL import Image

    with reading(path), warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        with Image.open(path, formats=_FORMATS) as image:
            yield image


def _common_mode(folder: Path, paths: Sequence[Path], image_size: int | None) -> str:
    """The mode, "L" (grey) or "RGB", in which all images can be read, after a check that their headers agree."""
    modes, sizes = set(), []
    for path in paths:
        with _opened(path) as image:
            mode, size = image.mode, image.size
        if mode[0] in "IF":
            raise ValueError(f"{path} must have 8 bits per channel; got mode {mode!r}. Convert it first.")
        modes.add(mode)
        sizes.append(size)
    pixels = sum(width * height for width, height in sizes)
    refuse_bomb(folder, pixels * max(len(mode) for mode in modes), sum(path.stat().st_size for path in paths))
    (width, height), _ = Counter(sizes).most_common(1)[0]
    odd = [i for i, size in enumerate(sizes) if size != (width, height)]
    if odd and image_size is None:
        raise ValueError(
            f"images must have one size, {width}x{height} like most; got {sizes[odd[0]][0]}x{sizes[odd[0]][1]} in"
            f" {paths[odd[0]]} ({len(odd)} such files). Pass image_size to resize all, or correct these."
        )
    return "L" if modes <= {"1", "L", "LA"} else "RGB"


def decode(paths: Sequence[Path], mode: str, image_size: int | None, crop: int | None = None) -> Tensor:
    """Read images into one uint8 tensor (N, C, H, W).

    Args:
        paths: the image files.
        mode: Pillow's name of the result's mode: "L" (grey, C = 1) or "RGB" (C = 3).
        image_size: side of the square to which each image is cut and resized; None for the size that it has.
        crop: side of the square that is cut from the centre first, in pixels; None for all of the image.

    Raises:
        ValueError: if an image is damaged.
    """
    from PIL import Image, ImageOps

    levels = np.empty(0, np.uint8)
    for i, path in enumerate(paths):
        with _opened(path) as opened:
            image: Image.Image = opened.convert(mode)
        if crop is not None:
            left, top = (image.width - crop) // 2, (image.height - crop) // 2
            image = image.crop((left, top, left + crop, top + crop))
        if image_size is not None:
            image = ImageOps.fit(image, (image_size, image_size), Image.Resampling.BILINEAR)
        if i == 0:
            levels = np.empty((len(paths), image.height, image.width, len(mode)), np.uint8)
        levels[i] = np.asarray(image).reshape(levels.shape[1:])
    return torch.from_numpy(levels).movedim(-1, 1).contiguous()
