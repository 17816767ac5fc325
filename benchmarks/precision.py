"""What `fit(precision="bf16-mixed")` costs in nats, and what it gains in time, beside float32.

    python benchmarks/precision.py                # three seeds, 100 epochs each: minutes
    python benchmarks/precision.py --epochs 300

A VAE of sizes 64-256-16 with a beta-binomial likelihood is trained on scikit-learn's digits, with the same seed in both
precisions. log p(x) of the validation rows is estimated in float32 by annealing, from the same noise, so that the
difference is that of the two models; its error is the standard error over rows. Times are those of `fit`; where the
processor has no instructions for bfloat16, as the first line says, products in it are slower.
"""

from __future__ import annotations

import argparse
import logging
import math
import time
import warnings

import torch

import pyro_vae as pv
from pyro_vae import datasets, likelihoods, nets, priors
from pyro_vae.evaluation import UnreliableWarning
from pyro_vae.runtime.precision import PRECISIONS, has_bfloat16


def train(precision: str, seed: int, epochs: int) -> tuple[torch.Tensor, float]:
    """log p(x) of each validation row, and the seconds of training."""
    splits = datasets.load("digits")
    net = nets.MLP(hidden=(256,))
    likelihood = likelihoods.BetaBinomial(splits.event_shape, total_count=16)
    vae = pv.VAE(likelihood=likelihood, prior=priors.Normal(16), encoder=net, decoder=net, seed=seed)
    start = time.perf_counter()
    vae.fit(splits.train, epochs=epochs, learning_rate=2e-3, precision=precision, seed=seed, progress=False)
    seconds = time.perf_counter() - start
    return vae.log_likelihood(splits.valid, method="ais", seed=seed).estimate, seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    warnings.simplefilter("ignore", UnreliableWarning)  # both models are scored with the same noise
    logging.getLogger("pyro_vae").setLevel(logging.ERROR)  # the table says it
    has = "has" if has_bfloat16(torch.device("cpu")) else "has no"
    print(f"This processor {has} instructions for bfloat16.\n")
    print("| seed | log p(x), float32 | log p(x), bf16-mixed | difference, nats | standard error | time, ratio |")
    print("| --- | --- | --- | --- | --- | --- |")
    for seed in range(options.seeds):
        (whole, slow), (mixed, fast) = (train(precision, seed, options.epochs) for precision in PRECISIONS)
        difference = mixed - whole
        error = float(difference.std()) / math.sqrt(len(difference))
        values = (f"{float(value.mean()):.2f}" for value in (whole, mixed, difference))
        print(f"| {seed} | {' | '.join(values)} | {error:.2f} | {fast / slow:.1f} |", flush=True)


if __name__ == "__main__":
    main()
