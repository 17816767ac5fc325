"""Time and memory of a large table: 1,000,000 rows of 20 mixed columns, a fifth of the cells missing.

    python benchmarks/large_table.py                 # a minute on 2 cores
    python benchmarks/large_table.py --rows 100000

Eight columns are real, four are counts, four have four levels and four have two; all depend on three factors. Printed
are the seconds of reading the frame, of one call of `fit` with one epoch (checks, start from the data and compilation
included; a second run takes the compiled code from torch's cache), those of the epoch alone, and the peak of memory.
"""

from __future__ import annotations

import argparse
import resource
import time

import numpy as np
import pandas as pd

import pyro_vae as pv


def mixed_table(num_rows: int) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    factors = rng.normal(size=(num_rows, 3))

    def linear() -> np.ndarray:
        return factors @ rng.normal(size=3)

    columns = {f"real{i}": linear() + rng.normal(size=num_rows) for i in range(8)}
    columns |= {f"count{i}": rng.poisson(np.exp(0.4 * linear())).astype(float) for i in range(4)}
    columns |= {f"level{i}": np.array([*"abcd"])[np.clip((linear() + 2).astype(int), 0, 3)] for i in range(4)}
    columns |= {f"binary{i}": np.where(linear() > 0, "yes", "no") for i in range(4)}
    frame = pd.DataFrame(columns)
    return frame.mask(rng.random(frame.shape) < 0.2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    frame = mixed_table(parser.parse_args().rows)
    start = time.perf_counter()
    table = pv.Table(frame)
    read = time.perf_counter() - start
    hidden = pv.nets.MLP((128,))
    vae = pv.VAE.for_table(table, encoder=pv.nets.Masked(hidden), decoder=hidden, seed=0)
    start = time.perf_counter()
    history = vae.fit(table, epochs=1, batch_size=1000, compile=True, seed=0, progress=False)
    whole = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(
        f"{len(table):,} x {frame.shape[1]}: read {read:.1f} s, fit {whole:.1f} s, of which the epoch"
        f" {history['seconds'][0]:.1f} s; {peak:.1f} GB"
    )


if __name__ == "__main__":
    main()
