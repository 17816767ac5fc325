"""How much parts gain on MNIST: a learned prior, a flow guide, a second stochastic layer, a density for grey levels.

    python benchmarks/parts.py --data-dir DATA     # a short budget: about half an hour on 2 cores
    python benchmarks/parts.py --data-dir DATA --models standard "two layers" ladder --epochs 24 --warm-up 18
    python benchmarks/parts.py --data-dir DATA --epochs 1000 --warm-up 100 --hidden 300 300 --latents 40 \\
        --pseudo-inputs 500 --device cuda --workers 1     # about the papers' budget, for a GPU

1. Binary images: `datasets.load(..., binarize="static")` draws each pixel once, with its grey level as probability;
   these draws are the same every time. The standard model (normal prior, mean-field guide) stands beside four models
   that differ from it in one part: a VampPrior (its pseudo-inputs start as data), an IAF guide, and two layers of
   latents with bottom-up inference, or with that of the ladder. All have the same recipes for encoder and decoder, the
   same batches, steps, learning rates and KL warm-up. Those with two layers have the same number of latents next to the
   data and half as many above, and nets of one hidden layer between them. Reported is log p(x) by importance sampling,
   corrected by annealing on 100 random test rows, unless annealing is lower there: a lower bound in expectation. The
   difference is to the standard model of the same seed, +- its standard error over test rows. Published (Tomczak,
   Welling, 2017), by importance sampling alone: -88.6 with the standard prior, -85.57 with VampPrior.
2. Grey levels in [0, 1]: one model is trained with the continuous Bernoulli density, another with the Bernoulli's
   cross-entropy. The other model's p becomes the parameter of the density in two ways: as it is, and through the
   inverse of the density's mean. Reported for all three is the ELBO under the density with logits limited to +- 9.21,
   the likelihood's default; without a limit, the density at 0 is unbounded. Published (Loaiza-Ganem, Cunningham, 2019):
   1470; through the inverse mean 1416; as it is 1139.

Budget, sizes, and the scale of the continuous Bernoulli's logits were chosen by looking at seed 0. The seeds are 0, 1,
...; evaluation takes the first rows of the test set. Every worker has one thread. The minutes printed are those of
training (with compilation) and of evaluation.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import time
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from functools import cache, partial
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor

import pyro_vae as pv
from pyro_vae import distributions
from pyro_vae.likelihoods.proportions import inverse_mean

SHAPE, BATCH, BOUND_PARTICLES, AUDITED = (1, 28, 28), 100, 16, 100
STANDARD, VAMP, FLOW, LAYERS, LADDER = BINARY = ("standard", "VampPrior", "IAF guide", "two layers", "ladder")
CONTINUOUS, MASS = GREY = ("continuous Bernoulli", "Bernoulli")
LIMIT = 9.21  # largest absolute value of a logit: the likelihood's default

Results = list[tuple[str, Tensor, str]]  # name, estimate for each test row, further cells of the table


class CrossEntropy(dist.Bernoulli):
    """x log p + (1 - x) log(1 - p) for x in [0, 1]: not a normalized density."""

    support = constraints.unit_interval


class Levels(pv.likelihoods.Bernoulli):
    """The Bernoulli's cross-entropy for grey levels."""

    support = constraints.unit_interval
    support_advice = "Scale the data."
    discrete = False

    def forward(self, outputs: Tensor, **batch: Tensor) -> dist.TorchDistribution:
        return CrossEntropy(logits=self.offset + outputs).to_event(3)


def binary(name: str, seed: int, options: argparse.Namespace) -> Results:
    """Train one of the models of binary images and estimate log p(x)."""
    size, net = options.latents, pv.nets.MLP(hidden=tuple(options.hidden), gated=True)
    parts: dict[str, Any] = {"likelihood": pv.likelihoods.Bernoulli(SHAPE), "encoder": net, "decoder": net}
    if name in (LAYERS, LADDER):
        layers: dict[str, Any] = {"latent_dims": (size, size // 2), "between": pv.nets.MLP(hidden=options.hidden[-1:])}
        inference = "bottom_up" if name == LAYERS else "top_down"
        vae: Any = pv.HierarchicalVAE(**layers, inference=inference, seed=seed, **parts)
    else:
        prior = pv.priors.VampPrior(size, SHAPE, options.pseudo_inputs) if name == VAMP else pv.priors.Normal(size)
        flow = {"kind": "affine_autoregressive", "hidden": (2 * options.hidden[-1],), "context_dim": size}
        guide = pv.guides.Flow(**flow) if name == FLOW else pv.guides.Normal()
        vae = pv.VAE(prior=prior, guide=guide, seed=seed, **parts)
    data = pv.datasets.load("mnist", data_dir=options.data_dir, binarize="static")
    minutes = train(vae, data.train, seed, options)
    start = time.perf_counter()
    test = data.test.subset(slice(0, options.test_rows))
    result = vae.audited_log_likelihood(test, num_rows=AUDITED, num_particles=options.particles, seed=0)
    low, count = result.difference(), sum(parameter.numel() for parameter in vae.parameters())
    minutes = f"{minutes} + {(time.perf_counter() - start) / 60:.1f}"
    cells = f"{low.estimate:.2f} +- {low.monte_carlo_error:.2f} | {count:,} | {minutes}"
    return [(name, result.cheap.estimate.cpu() + (low.estimate if result.corrects else 0.0), cells)]


def grey(name: str, seed: int, options: argparse.Namespace) -> Results:
    """Train one of the two models of grey levels; evaluate the ELBO under the density for each way to read logits."""
    net = pv.nets.MLP(hidden=tuple(options.hidden), gated=True)
    likelihood: Any = pv.likelihoods.ContinuousBernoulli(SHAPE, LIMIT) if name == CONTINUOUS else Levels(SHAPE)
    prior = pv.priors.Normal(options.latents)
    vae = pv.VAE(likelihood=likelihood, prior=prior, encoder=net, decoder=net, seed=seed)
    data = pv.datasets.load("mnist", data_dir=options.data_dir, binarize="none")
    minutes = train(vae, data.train, seed, options)
    test = data.test.subset(slice(0, options.test_rows))
    readings: dict[str, Callable[[Tensor], Tensor] | None] = {name: None}
    if name == MASS:
        readings = {f"{MASS}, inverse mean": by_mean, f"{MASS}, as it is": torch.clone}
    results: Results = []
    for label, reading in readings.items():
        if reading is not None:
            read = partial(density, likelihood.offset, reading)
            vae.likelihood = pv.likelihoods.Custom(SHAPE, read, support=constraints.unit_interval).to(options.device)
        result = vae.elbo(test, num_particles=BOUND_PARTICLES, seed=0)
        numbers = f"{result.mean().monte_carlo_error:.2f} | {float(result.kl.mean()):.1f}"
        results.append((label, result.bound.cpu(), f"{numbers} | {minutes}"))
    return results


def density(offset: Tensor, reading: Callable[[Tensor], Tensor], outputs: Tensor) -> dist.TorchDistribution:
    """The continuous Bernoulli density whose logits are read from those of a Bernoulli."""
    logits = reading(offset + outputs).clamp(-LIMIT, LIMIT)
    return distributions.ContinuousBernoulli(logits).to_event(3)  # type: ignore[no-any-return]


def by_mean(logits: Tensor) -> Tensor:
    """Logits of the continuous Bernoulli distribution with the Bernoulli's mean, interpolated in a table."""
    table = inverse_means().to(logits)
    place = (logits.clamp(-24.999, 24.999) + 25) * 1000
    return torch.lerp(table[place.long()], table[place.long() + 1], place.frac())


@cache
def inverse_means() -> Tensor:
    return inverse_mean(torch.linspace(-25, 25, 50001, dtype=torch.float64).sigmoid())


def train(vae: Any, rows: pv.Rows, seed: int, options: argparse.Namespace) -> str:
    """Fit with KL warm-up and a falling learning rate, the same for all models; returns the minutes that it took."""
    rows, start = rows.subset(slice(0, options.rows)), time.perf_counter()
    warm_up = pv.schedules.Linear(0.0, 1.0, steps=max(1, options.warm_up * len(rows) // BATCH))
    vae.fit(
        rows,
        elbo=pv.elbos.ELBO(kl_weight=warm_up),
        epochs=options.epochs,
        batch_size=BATCH,
        learning_rate=pv.schedules.Cosine(1e-3, 1e-5, epochs=options.epochs),
        seed=seed,
        device=options.device,
        compile=True,
        progress=False,
    )
    return f"{(time.perf_counter() - start) / 60:.1f}"


def table(jobs: list[list[Future[Results]]], columns: list[str]) -> None:
    """Print a line for each model and seed, then means over seeds; differences are to the first model of a seed."""
    head = ["seed", "model", columns[0], "difference", *columns[1:]]
    print("", f"| {' | '.join(head)} |", "|" + " --- |" * len(head), sep="\n", flush=True)
    means: dict[str, list[float]] = {}
    gains: dict[str, list[float]] = {}
    for seed, futures in enumerate(jobs):
        first: Tensor | None = None
        for name, estimate, cells in (result for future in futures for result in future.result()):
            first = estimate if first is None else first
            gain = estimate - first
            means.setdefault(name, []).append(float(estimate.mean()))
            gains.setdefault(name, []).append(float(gain.mean()))
            difference = f"{gains[name][-1]:+.2f} +- {float(gain.std() / len(gain) ** 0.5):.2f}"
            print(f"| {seed} | {name} | {means[name][-1]:.2f} | {difference} | {cells} |", flush=True)
    for name in means:
        mean, gain_mean = statistics.mean(means[name]), statistics.mean(gains[name])
        print(f"| mean | {name} | {mean:.2f} | {gain_mean:+.2f}{' |' * len(columns)}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", required=True, help="folder of MNIST")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--warm-up", type=int, default=2, help="epochs in which the weight of the KL rises from 0 to 1")
    parser.add_argument("--rows", type=int, default=55000, help="number of training rows")
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds")
    parser.add_argument("--particles", type=int, default=5000, help="particles per estimate of log p(x)")
    parser.add_argument("--test-rows", type=int, default=1000, help="number of test rows")
    parser.add_argument("--models", nargs="+", choices=[*BINARY, *GREY], default=[*BINARY, *GREY])
    parser.add_argument("--hidden", type=int, nargs="+", default=[100, 100], help="widths of the gated layers")
    parser.add_argument("--latents", type=int, default=40)
    parser.add_argument("--pseudo-inputs", type=int, default=100)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--workers", type=int, default=2, help="number of processes, each with one thread")
    options = parser.parse_args()
    seeds, context = range(options.seeds), multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(options.workers, context, torch.set_num_threads, (1,)) as pool:
        binary_jobs, grey_jobs = (
            [[pool.submit(run, name, seed, options) for name in names if name in options.models] for seed in seeds]
            for run, names in ((binary, BINARY), (grey, GREY))
        )
        if any(binary_jobs):
            columns = ["log p(x), at least", "annealing above importance sampling", "parameters", "minutes"]
            table(binary_jobs, columns)
        if any(grey_jobs):
            table(grey_jobs, ["ELBO", "Monte Carlo error", "KL", "minutes"])


if __name__ == "__main__":
    main()
