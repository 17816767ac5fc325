"""Working memory of evaluation: how far anonymous memory rises during large calls.

    python benchmarks/memory.py --data-dir DATA                   # as on the site: minutes to an hour on 2 cores
    python benchmarks/memory.py --rows 200 --particles 500 --draws 50

The model has sizes 784-400-20, a Bernoulli likelihood and random weights. The rows are MNIST's test rows, or random and
binary without --data-dir.

- Log-likelihood: rows x particles, with k-hat and smoothed values.
- Predictive: draws for every row, written by `out=` to a file of bytes, which is removed afterwards.

Anonymous memory (RssAnon) is read every 10 ms; pages of the file are not part of it.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
import torch
from evaluation import vae
from measuring import measure

import pyro_vae as pv


def rows_of(args: argparse.Namespace) -> torch.Tensor:
    """Binary rows (N, 784)."""
    if args.data_dir is None:
        return torch.rand(args.rows, 784, generator=torch.Generator().manual_seed(0)).round()
    test = pv.datasets.load("mnist", data_dir=args.data_dir, binarize="static").test
    return test.take(slice(0, args.rows))["x"].reshape(-1, 784)


def main(args: argparse.Namespace) -> None:
    model, x = vae(), rows_of(args)
    model.log_likelihood(x[:20], num_particles=100, seed=0)  # loads what is loaded once
    model.posterior_predictive(x[:20], num_samples=2, seed=0)
    with tempfile.TemporaryDirectory(dir=args.scratch) as folder:
        shape = args.draws, len(x), 784
        out = np.lib.format.open_memmap(Path(folder) / "draws.npy", mode="w+", dtype=np.uint8, shape=shape)
        calls = {
            f"log-likelihood, {len(x):,} rows x {args.particles:,} particles": lambda: model.log_likelihood(
                x, num_particles=args.particles, seed=0
            ),
            f"predictive, {args.draws:,} draws of {len(x):,} rows to disk": lambda: model.posterior_predictive(
                x, num_samples=args.draws, seed=0, out=out
            ),
        }
        print(f"{'':60s} {'seconds':>9s} {'peak (MB)':>10s}")
        for name, call in calls.items():
            seconds, peak = measure(call)
            print(f"{name:60s} {seconds:9.1f} {peak / 1e6:10.1f}", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", help="folder of MNIST")
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--particles", type=int, default=5000)
    parser.add_argument("--draws", type=int, default=1000)
    parser.add_argument("--scratch", help="folder for the file of draws; by default that of temporary files")
    main(parser.parse_args())
