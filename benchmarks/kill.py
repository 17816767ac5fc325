"""Kill training with SIGKILL at random moments, resume it each time, and compare with a run that was never interrupted.

    python benchmarks/kill.py --times 20            # uncompiled steps
    python benchmarks/kill.py --times 20 --compile  # compiled steps

Checkpoints are written every hundredth of a second, so that some kills interrupt the writing of one. Parameters,
buffers and history (without its seconds) must be the same bit for bit; otherwise the exit code is 1.
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
    """Train a small VAE, or resume its training, and print a digest of its final parameters, buffers and history."""
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


def start_training(run_dir: Path, compile: bool) -> subprocess.Popen[str]:
    command = [sys.executable, __file__, "--train", str(run_dir), *(["--compile"] if compile else [])]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def final_digest(process: subprocess.Popen[str]) -> str:
    """The digest that a training process printed; empty if it was killed."""
    out, errors = process.communicate()
    if process.returncode not in (0, -9):
        sys.exit(f"training failed with {process.returncode}:\n{errors}")
    return out.strip().rpartition("\n")[2]


def kill(process: subprocess.Popen[str], run_dir: Path, after: float) -> bool:
    """Kill a process `after` seconds after its next checkpoint; returns whether it was still running."""
    known = set(run_dir.glob("checkpoints/step-*"))
    while process.poll() is None and not set(run_dir.glob("checkpoints/step-*")) - known:
        time.sleep(0.002)
    time.sleep(after)
    alive = process.poll() is None
    process.kill()
    return alive


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=20, help="number of kills")
    parser.add_argument("--compile", action="store_true", help="train by compiled steps")
    parser.add_argument("--seed", type=int, default=0, help="seed of the moments of the kills")
    parser.add_argument("--train", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.train:
        train(options.train, options.compile)
        return 0
    stream = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        whole = final_digest(start_training(Path(folder) / "whole", options.compile))
        print(f"uninterrupted: {whole[:16]} in {time.perf_counter() - start:.1f} s", flush=True)
        kills = same = runs = unfinished = 0
        while kills < options.times:
            runs += 1
            run_dir, digest = Path(folder) / f"killed{runs}", ""
            while not digest:
                process = start_training(run_dir, options.compile)
                if kills < options.times:
                    kills += kill(process, run_dir, stream.uniform(0.0, 0.5))
                    unfinished += bool(list(run_dir.glob("checkpoints/.step-*")))
                digest = final_digest(process)
            same += digest == whole
            print(
                f"{kills} kills, {unfinished} of them while a checkpoint was written; run {runs}: {digest[:16]}",
                flush=True,
            )
    print(f"{same} of {runs} interrupted runs ended as the uninterrupted one, bit for bit")
    return 0 if same == runs else 1


if __name__ == "__main__":
    sys.exit(main())
