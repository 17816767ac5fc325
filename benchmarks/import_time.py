"""What importing the package costs beside importing Pyro: medians of interleaved fresh processes.

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
    seconds("pyro_vae")  # fill the file cache
    pairs = [(seconds("pyro"), seconds("pyro_vae")) for _ in range(runs)]
    for name, column in zip(("pyro", "pyro_vae"), zip(*pairs, strict=True), strict=True):
        print(f"import {name:9s} median {statistics.median(column):.3f} s, {min(column):.3f} to {max(column):.3f}")
    ratios = [ours / pyros for pyros, ours in pairs]
    print(f"ratio            median {statistics.median(ratios):.3f}, {min(ratios):.3f} to {max(ratios):.3f}")


if __name__ == "__main__":
    main()
