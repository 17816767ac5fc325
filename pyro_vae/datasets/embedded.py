"""Data sets that come with a dependency, so that nothing is downloaded."""

from __future__ import annotations

import numpy as np
import torch

from pyro_vae.data.batches import Rows
from pyro_vae.datasets.splits import Request, Splits, as_splits, images_as_splits, split_randomly


def digits(request: Request) -> Splits:
    """scikit-learn's handwritten digits: counts of inked pixels, from 0 to 16, in the cells of an 8x8 grid."""
    from sklearn.datasets import load_digits

    request.refuse_options("image_size")
    raw = load_digits()
    x = torch.from_numpy(raw.images.astype(np.uint8))[:, None]
    rows = Rows(x, {"label": torch.from_numpy(raw.target).long()})
    data = split_randomly(rows, request.seed, num_valid=180, num_test=360)
    if request.binarize in ("dynamic", "static"):
        return images_as_splits(request, data, peak=16)
    options = {"total_count": 16, "dispersion": "predicted"}
    return as_splits(request, data, "BetaBinomial", options, "ink 0..16")
