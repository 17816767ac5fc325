"""Bounds on dynamically binarized MNIST with the one-layer model of Burda et al. (2015), at a short or the full budget.

    python benchmarks/burda.py --data-dir DATA                      # 10 epochs, 3 seeds: hours on 2 cores
    python benchmarks/burda.py --data-dir DATA --full --device cuda # 3,280 epochs with the published rates: for a GPU

The estimators are the VAE (K = 1 and 50), IWAE-5, IWAE-50 and DReG-50. z has 50 dimensions; encoder and decoder have
two tanh layers of 200 units; a batch has 20 rows; Adam has eps 1e-4 on the gradient summed over the batch; the output
starts at the logit of the mean pixel. Reported is log p(x) in nats per row by 5,000 importance samples, on the first
1,000 test rows, binarized once: for every seed, then the mean and the standard deviation over seeds. Published values
of -log p(x) after 3,280 epochs: VAE 86.76 and 86.35, IWAE-5 85.54, IWAE-50 84.78 (84.32 in a rerun with DReG-50).
"""

from __future__ import annotations

import argparse
import statistics
import time
from functools import partial

import torch

import pyro_vae as pv

ESTIMATORS = {
    "VAE, K = 1": partial(pv.elbos.ELBO, num_particles=1),
    "VAE, K = 50": partial(pv.elbos.ELBO, num_particles=50),
    "IWAE-5": partial(pv.elbos.IWAE, num_particles=5),
    "IWAE-50": partial(pv.elbos.IWAE, num_particles=50),
    "DReG-50": partial(pv.elbos.IWAE, num_particles=50, gradient="dreg"),
}
BATCH = 20


def summed_adam(parameters: list[torch.nn.Parameter], lr: float) -> torch.optim.Optimizer:
    """Adam on the gradient averaged over the batch; its eps makes the steps those of the summed gradient."""
    return torch.optim.Adam(parameters, lr=lr, eps=1e-4 / BATCH)


def published_rate(step: int, steps_per_epoch: int) -> float:
    """The learning rate 1e-3 * 10^(-i / 7) for 3^i epochs, i = 0, ..., 7."""
    epoch, stage = step // steps_per_epoch, 0
    while stage < 7 and epoch >= sum(3**i for i in range(stage + 1)):
        stage += 1
    return 1e-3 * 10 ** (-stage / 7)


def model(seed: int) -> pv.VAE:
    net = pv.nets.MLP(hidden=(200, 200), activation="tanh")
    vae = pv.VAE(
        likelihood=pv.likelihoods.Bernoulli((1, 28, 28)),
        prior=pv.priors.Normal(50),
        encoder=net,
        decoder=net,
        seed=seed,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for name, parameter in vae.named_parameters():
            torch.nn.init.xavier_uniform_(parameter) if name.endswith("weight") else torch.nn.init.zeros_(parameter)
    return vae


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", required=True, help="folder of MNIST")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds")
    parser.add_argument("--estimators", nargs="+", choices=list(ESTIMATORS), default=list(ESTIMATORS))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--full", action="store_true", help="3,280 epochs with the published learning rates")
    options = parser.parse_args()
    data = pv.datasets.load("mnist", data_dir=options.data_dir)
    test = data.test.subset(slice(0, 1000))
    steps = -(-len(data.train) // BATCH)
    rate = partial(published_rate, steps_per_epoch=steps) if options.full else 1e-3
    epochs = 3280 if options.full else options.epochs
    for name in options.estimators:
        scores, start = [], time.perf_counter()
        for seed in range(options.seeds):
            vae = model(seed)
            vae.fit(
                data.train,
                elbo=ESTIMATORS[name](),
                epochs=epochs,
                batch_size=BATCH,
                learning_rate=rate,
                optimizer=summed_adam,
                seed=seed,
                device=options.device,
            )
            result = vae.log_likelihood(test, num_particles=5000, seed=0).mean()
            scores.append(result.estimate)
            print(f"{name:12s} seed {seed}: {result}", flush=True)
        deviation = statistics.stdev(scores) if len(scores) > 1 else float("nan")
        minutes = (time.perf_counter() - start) / 60
        summary = f"mean {statistics.mean(scores):.2f}, standard deviation over seeds {deviation:.2f}"
        print(f"{name:12s} {summary}, {minutes:.0f} min", flush=True)


if __name__ == "__main__":
    main()
