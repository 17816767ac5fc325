"""Data that come with a dependency: no files, no download."""

from __future__ import annotations

import numpy as np
import torch

from pyro_vae.data.batches import Rows
from pyro_vae.datasets.splits import Request, Splits, describe, images, shuffle


def digits(request: Request) -> Splits:
    """scikit-learn's handwritten digits: counts of inked pixels, 0..16, in the cells of a grid of 8x8."""
    from sklearn.datasets import load_digits

    request.refuse("image_size")
    raw = load_digits()
    x = torch.from_numpy(raw.images.astype(np.uint8))[:, None]
    parts = shuffle(Rows(x, {"label": torch.from_numpy(raw.target).long()}), request.seed, num_valid=180, num_test=360)
    if request.binarize in ("dynamic", "static"):
        return images(request, parts, peak=16)
    return describe(request, parts, "Binomial", {"total_count": 16}, "ink 0..16")
