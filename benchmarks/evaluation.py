"""Time and memory of held-out log-likelihood and predictive draws, beside pythae and `pyro.infer.Predictive`.

    python benchmarks/evaluation.py                         # rounds of 100 rows x 5,000 particles: minutes on 2 cores
    python benchmarks/evaluation.py --rows 1000 --rounds 1  # a whole evaluation as in the literature

The model has sizes 784-400-20, a Bernoulli likelihood and random weights; the rows are random and binary. Contenders
take turns, and ratios are formed within rounds.

- Log-likelihood: `vae.log_likelihood`, beside `get_nll` of pythae's VAE with the same nets, which runs on a tenth of
  the rows, with its own batch size of 100 particles.
- Annealing: `vae.log_likelihood(method="ais")` on rows of 64 counts under a beta-binomial likelihood (64-512-16), 100
  temperatures, 3 leapfrog steps and 10 chains, compiled and uncompiled; compiling is done before.
- Posterior predictive: `vae.posterior_predictive`, beside `pyro.infer.Predictive`, 100 draws per row.

Times are microseconds per draw: per row and particle, or per predictive draw of a row. Peak memory is the rise of
anonymous memory during the call, read every 10 ms (NaN where there is no /proc).
"""

from __future__ import annotations

import argparse
import importlib
import statistics
import warnings
from collections.abc import Callable
from typing import Any

import pyro
import torch
from measuring import measure
from pyro import poutine
from pyro.infer import Predictive
from torch import Tensor, nn

import pyro_vae as pv

Contenders = dict[str, tuple[Callable[[], Any], int]]  # a call, and the number of draws that it makes


def vae() -> pv.VAE:
    net = pv.nets.MLP(hidden=(400,))
    return pv.VAE(
        likelihood=pv.likelihoods.Bernoulli(784), prior=pv.priors.Normal(20), encoder=net, decoder=net, seed=0
    )


def pythae_vae() -> Any:
    """pythae's VAE with the same nets; None where pythae is not installed."""
    try:
        models, nets, base = map(
            importlib.import_module, ("pythae.models", "pythae.models.nn", "pythae.models.base.base_utils")
        )
    except ImportError:
        return None

    class Encoder(nets.BaseEncoder):  # type: ignore[name-defined,misc]
        def __init__(self) -> None:
            super().__init__()
            self.hidden, self.loc, self.log_variance = nn.Linear(784, 400), nn.Linear(400, 20), nn.Linear(400, 20)

        def forward(self, x: Tensor) -> Any:
            h = self.hidden(x).relu()
            return base.ModelOutput(embedding=self.loc(h), log_covariance=self.log_variance(h))

    class Decoder(nets.BaseDecoder):  # type: ignore[name-defined,misc]
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.Sequential(nn.Linear(20, 400), nn.ReLU(), nn.Linear(400, 784), nn.Sigmoid())

        def forward(self, z: Tensor) -> Any:
            return base.ModelOutput(reconstruction=self.layers(z))

    config = models.VAEConfig(input_dim=(784,), latent_dim=20, reconstruction_loss="bce")
    return models.VAE(config, encoder=Encoder(), decoder=Decoder())


def likelihood_contenders(x: Tensor, particles: int) -> Contenders:
    model, theirs = vae(), pythae_vae()
    calls: Contenders = {"ours": (lambda: model.log_likelihood(x, num_particles=particles, seed=0), len(x) * particles)}
    if theirs is not None:
        few = x[: max(1, len(x) // 10)]
        calls["pythae, get_nll"] = (lambda: theirs.get_nll(few, n_samples=particles), len(few) * particles)
    return calls


def annealing_contenders(num_rows: int) -> Contenders:
    net = pv.nets.MLP(hidden=(512,))
    likelihood = pv.likelihoods.BetaBinomial(64, total_count=16)
    model = pv.VAE(likelihood=likelihood, prior=pv.priors.Normal(16), encoder=net, decoder=net, seed=0)
    x = model.sample(num_rows, seed=0)
    calls: Contenders = {}
    for name, compiled in (("ours, compiled", True), ("ours, uncompiled", False)):
        method = pv.evaluation.AIS(num_chains=10, compile=compiled).prepared(model, num_rows, 10, 64)
        model.log_likelihood(x[:20], method=method, seed=0)
        calls[name] = (lambda method=method: model.log_likelihood(x, method=method, seed=0), 10 * num_rows)
    return calls


def predictive_contenders(x: Tensor, draws: int) -> Contenders:
    model = vae()
    few = x[: max(1, len(x) // 10)]

    def predictive() -> None:
        Predictive(poutine.uncondition(model.model), guide=model.guide, num_samples=draws)(few)
        pyro.clear_param_store()

    ours = (lambda: model.posterior_predictive(x, num_samples=draws, seed=0), len(x) * draws)
    return {"ours": ours, "pyro.infer.Predictive": (predictive, len(few) * draws)}


def compare(title: str, contenders: Contenders, rounds: int) -> None:
    """Print a table: microseconds per draw, ratios to the first contender (median and range of rounds), peak memory."""
    times: dict[str, list[float]] = {name: [] for name in contenders}
    peaks = dict.fromkeys(contenders, 0.0)
    for number in range(rounds):
        order = list(contenders) if number % 2 == 0 else list(contenders)[::-1]
        for name in order:
            call, count = contenders[name]
            with torch.no_grad():
                seconds, peak = measure(call)
            times[name].append(1e6 * seconds / count)
            peaks[name] = max(peaks[name], peak / 1e6)
    first = next(iter(contenders))
    print(f"\n{title}\n\n| contender | microseconds per draw | relative to {first} | peak memory, MB |")
    print("| --- | --- | --- | --- |")
    for name, values in times.items():
        ratios = [value / own for value, own in zip(values, times[first], strict=True)]
        ratio = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        print(f"| {name} | {statistics.median(values):.2f} | {ratio} | {peaks[name]:.0f} |", flush=True)


def main() -> None:
    warnings.simplefilter("ignore", pv.evaluation.UnreliableWarning)  # the weights are random
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100)
    parser.add_argument("--particles", type=int, default=5000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.manual_seed(0)
    x = (torch.rand(options.rows, 784) < 0.3).float()
    title = f"log-likelihood, {options.rows} rows x {options.particles} particles"
    compare(title, likelihood_contenders(x, options.particles), options.rounds)
    few = min(options.rows, 360)
    compare(f"annealing, {few} rows x 10 chains", annealing_contenders(few), options.rounds)
    compare("posterior predictive, 100 draws per row", predictive_contenders(x, 100), options.rounds)


if __name__ == "__main__":
    main()
