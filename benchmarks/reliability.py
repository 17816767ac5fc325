"""What happens when files are damaged, when data are larger than memory, and when a process runs for long.

    python benchmarks/reliability.py files --models 2000 --data 500    # minutes
    python benchmarks/reliability.py memory --gigabytes 4
    python benchmarks/reliability.py soak --minutes 30                 # --compile for compiled steps

- files: reads saved models and data files with seeded damage (`mutations.py`) and files made by hand (`hostile.py`).
  Printed are the number of files with each outcome, the seconds of the slowest, and how far memory rose. No file may
  crash the reader, hang it, run code, or load other numbers where it has a checksum.
- memory: trains for an epoch, or for --seconds if that is less, on a memory-mapped .npy file, and on the same file
  loaded by `pv.datasets.load`. Printed is how far anonymous memory (RssAnon, read every 10 ms) rose above its level
  after the imports. Each way runs in a process of its own.
- soak: repeats fits, evaluation, draws, saving and loading in one process. Printed is the slope of anonymous memory
  over the last four fifths of the time; its standard error is computed from the slopes of five parts of that time.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
import warnings
from collections import Counter
from pathlib import Path

import mapped
import mutations
from measuring import anonymous_memory


def files(args: argparse.Namespace) -> None:
    for kind, count in (("models", args.models), ("data", args.data)):
        found = mutations.run_apart(kind, count, args.seed)
        print(f"{kind}: {len(found.trials)} files, slowest {max(t.seconds for t in found.trials):.2f} s,", end=" ")
        print(f"memory rose by {found.peak / 1e6:.0f} MB, code from a file was run: {found.code_run}")
        for (expected, outcome), number in sorted(Counter((t.kind, t.outcome) for t in found.trials).items()):
            print(f"  {expected:32s} {outcome:44s} {number:6d}")
        for trial in found.trials:
            if trial.problem:
                print(f"  PROBLEM {trial.name}: {trial.problem}")


def memory(args: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory(dir=args.scratch) as folder:
        path = mapped.write(Path(folder) / "x.npy", int(args.gigabytes * 1e9))
        print(f"a file of {path.stat().st_size / 1e9:.2f} GB, at most {args.seconds:.0f} s of training")
        for way in mapped.WAYS:
            found = mapped.run_apart(way, path, args.seconds)
            rise = f"RssAnon rises by {found.peak / 1e6:6.0f} MB"
            print(f"  {way:24s} {rise}; rows trained on: {found.num_rows:,}", flush=True)


def soak(args: argparse.Namespace) -> None:
    import numpy as np
    import torch

    import pyro_vae as pv

    warnings.simplefilter("ignore", pv.evaluation.UnreliableWarning)
    data, old, seen = pv.datasets.load("digits"), None, []
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        while (minutes := (time.perf_counter() - start) / 60) < args.minutes:
            vae = pv.VAE(
                likelihood=pv.likelihoods.Binomial(data.event_shape, total_count=16),
                prior=pv.priors.Normal(8),
                encoder=pv.nets.MLP((64,), normalization="batch"),
                decoder=pv.nets.MLP((64,)),
            )
            old = vae if old is None else old  # one model is trained in every cycle, beside a new one
            for model in (vae, old):
                run = Path(folder) / f"run{len(seen)}{model is old}"
                options = {"epochs": 2, "valid": data.valid, "progress": False, "compile": args.compile, "run_dir": run}
                model.fit(data.train, elbo=pv.elbos.IWAE(num_particles=3), **options)
                model.log_likelihood(data.test, num_particles=100)
                model.elbo(data.test, num_particles=8)
                model.posterior_predictive(data.test.subset(slice(0, 50)), num_samples=20)
                model.sample(100)
                shutil.rmtree(run)
            pv.check(vae, data.test, {"mean": pv.statistics.mean}, num_samples=10)
            vae.save(Path(folder) / "saved")
            pv.load(Path(folder) / "saved").encode(data.test)
            seen.append((minutes, anonymous_memory() / 1e6))
            if len(seen) % args.every == 1:
                print(f"  {minutes:5.1f} min, cycle {len(seen):5d}: RssAnon {seen[-1][1]:.1f} MB", flush=True)
    late = np.array([point for point in seen if point[0] > args.minutes / 5])
    if len(late) < 10:
        sys.exit(f"--minutes must allow for 10 cycles in the last four fifths of the time; got {len(late)}. Give more.")
    slopes = [np.polyfit(*part.T, 1)[0] for part in np.array_split(late, 5)]
    error = np.std(slopes, ddof=1) / 5**0.5
    low, high = late[:, 1].min(), late[:, 1].max()
    print(f"{len(seen)} cycles, torch {torch.__version__}: RssAnon {low:.1f} to {high:.1f} MB;", end=" ")
    print(f"slope {np.polyfit(*late.T, 1)[0]:+.3f} MB per minute (standard error {error:.3f})")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    sub = commands.add_parser("files")
    sub.add_argument("--models", type=int, default=2000, help="number of damaged model files")
    sub.add_argument("--data", type=int, default=500, help="number of damaged data files")
    sub.add_argument("--seed", type=int, default=0)
    sub.set_defaults(command=files)
    sub = commands.add_parser("memory")
    sub.add_argument("--gigabytes", type=float, default=4.0, help="size of the file")
    sub.add_argument("--seconds", type=float, default=60.0, help="the longest time of training, for each way")
    sub.add_argument("--scratch", help="folder for the file; by default that of temporary files")
    sub.set_defaults(command=memory)
    sub = commands.add_parser("soak")
    sub.add_argument("--minutes", type=float, default=30.0)
    sub.add_argument("--compile", action="store_true", help="train by compiled steps")
    sub.add_argument("--every", type=int, default=25, help="number of cycles between two printed lines")
    sub.set_defaults(command=soak)
    args = parser.parse_args()
    args.command(args)
