"""Seconds that importing this package takes, beside importing Pyro alone; each import runs in a new process.

python benchmarks/import_time.py
"""

from __future__ import annotations

import statistics
import subprocess
import sys

CODE = "import time; start = time.perf_counter(); import {}; print(time.perf_counter() - start)"


def seconds(module: str) -> float:
    done = subprocess.run([sys.executable, "-c", CODE.format(module)], capture_output=True, text=True, check=True)
    return float(done.stdout)


def main(runs: int = 15) -> None:
    seconds("pyro_vae")  # fills the file cache
    pairs = [(seconds("pyro"), seconds("pyro_vae")) for _ in range(runs)]
    for name, column in zip(("pyro", "pyro_vae"), zip(*pairs, strict=True), strict=True):
        median, low, high = statistics.median(column), min(column), max(column)
        print(f"import {name:9s} median {median:.3f} s, range {low:.3f} to {high:.3f} s")
    ratios = [ours / pyros for pyros, ours in pairs]
    print(f"ratio            median {statistics.median(ratios):.3f}, range {min(ratios):.3f} to {max(ratios):.3f}")


if __name__ == "__main__":
    main()
