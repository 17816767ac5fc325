"""Train on a memory-mapped file in a new process, and measure how much memory this takes beyond the file."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

WAYS = ("np.load, eager", "np.load, compiled", "pv.datasets.load")
CELLS = 256


class Found(NamedTuple):
    """By how many bytes anonymous memory rose at most, how many rows training used, and the bound."""

    peak: int
    num_rows: int
    bound: float


def write(path: Path, size: int) -> Path:
    """Write a .npy file of `size` bytes in pieces: rows of float32 numbers, most of which are zero."""
    num_rows, piece, random = size // (4 * CELLS), 2**16, np.random.RandomState(0)
    with path.open("wb") as file:
        header = {"descr": "<f4", "fortran_order": False, "shape": (num_rows, CELLS)}
        np.lib.format.write_array_header_1_0(file, header)
        for start in range(0, num_rows, piece):
            x = np.zeros((min(piece, num_rows - start), CELLS), np.float32)
            x[:, :16] = random.randn(len(x), 16)
            file.write(x)
    return path


def run_apart(way: str, path: Path, seconds: float, sample: int | None = None) -> Found:
    """Train in a new process until an epoch or the time is over.

    Args:
        way: one of `WAYS`: how the file is opened, and whether steps are compiled.
        path: the file.
        seconds: the longest time.
        sample: how many cells initial values are computed from; None for the default.
    """
    command = [sys.executable, __file__, way, str(path), str(seconds), *([] if sample is None else [str(sample)])]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(done.stderr)
    return Found(**json.loads(done.stdout.splitlines()[-1]))


def anonymous() -> int:
    """Bytes of memory of this process that are not pages of a file."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("RssAnon"))) * 1024


def main(way: str, path: str, seconds: float, sample: int | None) -> None:
    import torch

    import pyro_vae as pv
    from pyro_vae.data import batches

    if sample is not None:
        batches.SAMPLE = batches.WHOLE = sample

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
    compiled = "compiled" in way
    train(torch.randn(5000, CELLS), compile=compiled)  # loads libraries
    peak = before = anonymous()
    done = False

    def watch() -> None:
        nonlocal peak
        while not done:
            peak = max(peak, anonymous())
            time.sleep(0.01)

    watcher = threading.Thread(target=watch)
    watcher.start()
    seen, end = 0, time.monotonic() + seconds

    def rate(*at: int) -> float:  # called at every step; ends a run that takes too long
        nonlocal seen
        seen += 4096
        if time.monotonic() > end and seen > 2 * 4096:
            raise KeyboardInterrupt
        return 1e-3

    try:
        mapped = pv.datasets.load(path) if way == "pv.datasets.load" else np.load(path, mmap_mode="r")
        x = mapped.train if way == "pv.datasets.load" else mapped
        history = train(x, compile=compiled, learning_rate=rate)
    finally:
        done = True
        watcher.join()
    bound = history.epochs[-1]["train_bound"] if history.epochs else float("nan")
    print(json.dumps({"peak": peak - before, "num_rows": seen, "bound": bound}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], float(sys.argv[3]), int(sys.argv[4]) if len(sys.argv) > 4 else None)
