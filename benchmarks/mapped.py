"""Training on a memory-mapped file in a process of its own, which measures how far its memory rises."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from measuring import measure

WAYS = ("np.load, uncompiled", "np.load, compiled", "pv.datasets.load")
CELLS = 256


class Found(NamedTuple):
    """By how many bytes anonymous memory rose, how many rows training saw, and the last bound."""

    peak: float
    num_rows: int
    bound: float


def write(path: Path, size: int) -> Path:
    """Write a .npy file of about `size` bytes, piece by piece: float32 rows in which most numbers are zero."""
    rows, piece, random = size // (4 * CELLS), 2**16, np.random.RandomState(0)
    with path.open("wb") as file:
        header = {"descr": "<f4", "fortran_order": False, "shape": (rows, CELLS)}
        np.lib.format.write_array_header_1_0(file, header)
        for start in range(0, rows, piece):
            x = np.zeros((min(piece, rows - start), CELLS), np.float32)
            x[:, :16] = random.randn(len(x), 16)
            file.write(x)
    return path


def run_apart(way: str, path: Path, seconds: float, sample: int | None = None) -> Found:
    """Train for an epoch, or for `seconds` if that is less.

    `sample`: number of cells from which the model takes its start, if not the usual one.
    """
    command = [sys.executable, __file__, way, str(path), str(seconds), *([] if sample is None else [str(sample)])]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(done.stderr)
    return Found(**json.loads(done.stdout.splitlines()[-1]))


def main(way: str, path: str, seconds: float, sample: int | None) -> None:
    import torch

    import pyro_vae as pv
    from pyro_vae.data import batches

    if sample is not None:
        batches.PARTIAL_SAMPLE = batches.WHOLE_SAMPLE = sample

    def train(x: Any, **options: Any) -> pv.History:
        vae = pv.VAE(
            likelihood=pv.likelihoods.Normal(CELLS),
            prior=pv.priors.Normal(4),
            encoder=pv.nets.MLP((32,)),
            decoder=pv.nets.MLP((32,)),
            seed=0,
        )
        return vae.fit(x, epochs=1, batch_size=4096, seed=0, progress=False, **options)

    torch.set_num_threads(1)
    compiled = way == "np.load, compiled"
    train(torch.randn(5000, CELLS), compile=compiled)  # loads what is loaded once
    seen, bound, end = 0, float("nan"), time.monotonic() + seconds

    def rate(*at: int) -> float:  # called at every step: ends a run that takes too long
        nonlocal seen
        seen += 4096
        if time.monotonic() > end and seen > 2 * 4096:
            raise KeyboardInterrupt
        return 1e-3

    def train_on_file() -> None:
        nonlocal bound
        x = pv.datasets.load(path).train if way == "pv.datasets.load" else np.load(path, mmap_mode="r")
        history = train(x, compile=compiled, learning_rate=rate)
        bound = history.rows[-1]["train_bound"] if history.rows else bound

    print(json.dumps({"peak": measure(train_on_file).peak, "num_rows": seen, "bound": bound}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], float(sys.argv[3]), int(sys.argv[4]) if len(sys.argv) > 4 else None)
