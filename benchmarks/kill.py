"""Kill training with SIGKILL at random moments, go on each time, and compare with a run that was never interrupted.

    python benchmarks/kill.py --times 20            # steps by the interpreter
    python benchmarks/kill.py --times 20 --compile  # compiled steps

Checkpoints are written every hundredth of a second, so that kills fall into their writing too. Parameters,
buffers, history (without its seconds) must be the same bit for bit; the exit code tells.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

EPOCHS = {False: 40, True: 400}


def train(run_dir: str, compile: bool) -> None:
    """Train a small VAE, or what is left of it, with all that a checkpoint holds, and print a digest of the end."""
    import torch

    import pyro_vae as pv

    x = (torch.rand(640, 20, generator=torch.Generator().manual_seed(1)) < 0.3).float()
    vae = pv.VAE(
        likelihood=pv.likelihoods.Bernoulli(20),
        prior=pv.priors.Normal(3),
        encoder=pv.nets.MLP((32,), normalization="batch"),
        decoder=pv.nets.MLP((32,), dropout=0.2),
        seed=0,
    )
    history = vae.fit(
        x,
        elbo=pv.elbos.ELBO(kl_weight=pv.schedules.Linear(0.0, 1.0, steps=500)),
        epochs=EPOCHS[compile],
        batch_size=16,
        learning_rate=pv.schedules.Cosine(3e-3, 1e-4, epochs=EPOCHS[compile]),
        valid=x[:100],
        patience=EPOCHS[compile],
        seed=0,
        compile=compile,
        run_dir=run_dir,
        resume=True,
        checkpoint_every=0.01,
        progress=False,
    )
    rows = [{name: value for name, value in row.items() if name != "seconds"} for row in history]
    digest = hashlib.sha256(json.dumps(rows).encode())
    for name, value in sorted(vae.state_dict().items()):
        digest.update(name.encode() + value.numpy().tobytes())
    print(digest.hexdigest())


def started(run_dir: Path, compile: bool) -> subprocess.Popen[str]:
    command = [sys.executable, __file__, "--train", str(run_dir), *(["--compile"] if compile else [])]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def ended(process: subprocess.Popen[str]) -> str:
    """The digest that a process printed; empty where it was killed."""
    out, errors = process.communicate()
    if process.returncode not in (0, -9):
        sys.exit(f"training failed with {process.returncode}:\n{errors}")
    return out.strip().rpartition("\n")[2]


def kill(process: subprocess.Popen[str], run_dir: Path, after: float) -> bool:
    """Kill a process so long after its first checkpoint; returns whether it was still at work."""
    known = set(run_dir.glob("checkpoints/step-*"))
    while process.poll() is None and not set(run_dir.glob("checkpoints/step-*")) - known:
        time.sleep(0.002)
    time.sleep(after)
    alive = process.poll() is None
    process.kill()
    return alive


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=20)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--train", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.train:
        train(options.train, options.compile)
        return 0
    stream = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        whole = ended(started(Path(folder) / "whole", options.compile))
        print(f"uninterrupted: {whole[:16]} in {time.perf_counter() - start:.1f} s", flush=True)
        kills = same = runs = unfinished = 0
        while kills < options.times:
            runs += 1
            run_dir, digest = Path(folder) / f"killed{runs}", ""
            while not digest:
                process = started(run_dir, options.compile)
                if kills < options.times:
                    kills += kill(process, run_dir, stream.uniform(0.0, 0.5))
                    unfinished += bool(list(run_dir.glob("checkpoints/.step-*")))
                digest = ended(process)
            same += digest == whole
            print(
                f"{kills} kills, {unfinished} of them within a checkpoint; run {runs} ended at {digest[:16]}",
                flush=True,
            )
    print(f"{same} of {runs} interrupted runs ended as the uninterrupted one, bit for bit")
    return 0 if same == runs else 1


if __name__ == "__main__":
    sys.exit(main())
