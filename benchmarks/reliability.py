"""What happens when files are damaged, and when data are larger than memory.

    python benchmarks/reliability.py files --models 2000 --data 500     # minutes
    python benchmarks/reliability.py memory --gigabytes 4
    python benchmarks/reliability.py soak --minutes 30               # --compile for compiled steps

- files: saved models and data files with seeded damage (benchmarks/mutations.py); a count for each outcome, the slowest, and
  how far memory rose. Nothing may crash, hang, run code, or load other numbers where there is a checksum.
- memory: an epoch, or as much of it as fits the time, on a mapped .npy, and on the same by `pv.datasets.load`; how far
  anonymous memory (RssAnon, sampled every 10 ms) rose above that after the imports. Each runs in a fresh process.
- soak: fits, evaluation, draws, saving and loading, again and again in one process; the slope of anonymous memory over
  the last four fifths of the time, and its standard error from five parts of it.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
import warnings
from collections import Counter
from pathlib import Path

import mapped
import mutations


def files(args: argparse.Namespace) -> None:
    for kind, count in (("models", args.models), ("data", args.data)):
        found = mutations.run_apart(kind, count, args.seed)
        print(f"{kind}: {len(found.trials)} files, slowest {max(t.seconds for t in found.trials):.2f} s,", end=" ")
        print(f"peak of memory {found.peak / 1e6:.0f} MB above the start, code run: {found.code_run}")
        for (expected, outcome), number in sorted(Counter((t.kind, t.outcome) for t in found.trials).items()):
            print(f"  {expected:32s} {outcome:44s} {number:6d}")
        for trial in found.trials:
            if trial.problem:
                print(f"  PROBLEM {trial.name}: {trial.problem}")


def memory(args: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory(dir=args.scratch) as folder:
        path = mapped.write(Path(folder) / "x.npy", int(args.gigabytes * 1e9))
        print(f"{path.stat().st_size / 1e9:.2f} GB, {args.seconds:.0f} s of training")
        for way in mapped.WAYS:
            found = mapped.run_apart(way, path, args.seconds)
            print(f"  {way:24s} RssAnon rises by {found.peak / 1e6:6.0f} MB; {found.num_rows:,} rows seen", flush=True)


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
            old = vae if old is None else old  # one model that is trained all the time, and new ones
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
            seen.append((minutes, mapped.anonymous() / 1e6))
            if len(seen) % args.every == 1:
                print(f"  {minutes:5.1f} min, cycle {len(seen):5d}: RssAnon {seen[-1][1]:.1f} MB", flush=True)
    late = np.array([point for point in seen if point[0] > args.minutes / 5])
    slopes = [np.polyfit(*part.T, 1)[0] for part in np.array_split(late, 5)]
    error = np.std(slopes, ddof=1) / 5**0.5
    print(
        f"{len(seen)} cycles, torch {torch.__version__}: {late[:, 1].min():.1f} to {late[:, 1].max():.1f} MB;", end=" "
    )
    print(f"slope {np.polyfit(*late.T, 1)[0]:+.3f} MB per minute (standard error {error:.3f})")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    sub = commands.add_parser("files")
    sub.add_argument("--models", type=int, default=2000)
    sub.add_argument("--data", type=int, default=500)
    sub.add_argument("--seed", type=int, default=0)
    sub.set_defaults(command=files)
    sub = commands.add_parser("memory")
    sub.add_argument("--gigabytes", type=float, default=4.0)
    sub.add_argument("--seconds", type=float, default=60.0)
    sub.add_argument("--scratch", help="folder for the file")
    sub.set_defaults(command=memory)
    sub = commands.add_parser("soak")
    sub.add_argument("--minutes", type=float, default=30.0)
    sub.add_argument("--compile", action="store_true")
    sub.add_argument("--every", type=int, default=25, help="cycles between lines")
    sub.set_defaults(command=soak)
    args = parser.parse_args()
    args.command(args)
