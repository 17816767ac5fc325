"""Held-out log-likelihood and predictive draws timed side by side, per particle drawn, with peak memory.

    python benchmarks/evaluation.py                        # rounds of 100 rows x 5,000 particles: minutes on 2 cores
    python benchmarks/evaluation.py --rows 1000 --rounds 1 # a whole evaluation as in the literature

784-400-20 with a Bernoulli likelihood and random weights, random binary rows. Contenders take turns; ratios are
formed within rounds.

- ours: `vae.log_likelihood`.
- pythae: `get_nll` of its VAE with the same nets, on a tenth of the rows, at its own batch size of 100 particles.
- posterior predictive: `vae.posterior_predictive` beside `pyro.infer.Predictive`, 100 draws per row.

Peak memory is the growth of anonymous memory during the call, sampled every 10 ms ("-" where /proc is absent).
"""

from __future__ import annotations

import argparse
import importlib
import statistics
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.infer import Predictive
from torch import Tensor, nn

import pyro_vae as pv


def anonymous_memory() -> float:
    """In MB."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("RssAnon")), float("nan"))


def measure(call: Callable[[], Any]) -> tuple[float, float]:
    """Seconds, and the growth of memory at its peak in MB."""
    start, peak, done = anonymous_memory(), [0.0], threading.Event()

    def watch() -> None:
        while not done.wait(0.01):
            peak[0] = max(peak[0], anonymous_memory() - start)

    watcher = threading.Thread(target=watch)
    watcher.start()
    begin = time.perf_counter()
    call()
    seconds = time.perf_counter() - begin
    done.set()
    watcher.join()
    return seconds, peak[0]


def vae() -> pv.VAE:
    net = pv.nets.MLP(hidden=(400,))
    return pv.VAE(
        likelihood=pv.likelihoods.Bernoulli(784), prior=pv.priors.Normal(20), encoder=net, decoder=net, seed=0
    )


def pythae_vae() -> Any:
    """pythae's VAE with the same nets; None where it is not installed."""
    try:
        models, nets, base = map(
            importlib.import_module, ("pythae.models", "pythae.models.nn", "pythae.models.base.base_utils")
        )
    except ImportError:
        return None

    class Encoder(nets.BaseEncoder):  # type: ignore[name-defined,misc]
        def __init__(self) -> None:
            super().__init__()
            self.hidden, self.loc, self.spread = nn.Linear(784, 400), nn.Linear(400, 20), nn.Linear(400, 20)

        def forward(self, x: Tensor) -> Any:
            h = self.hidden(x).relu()
            return base.ModelOutput(embedding=self.loc(h), log_covariance=self.spread(h))

    class Decoder(nets.BaseDecoder):  # type: ignore[name-defined,misc]
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.Sequential(nn.Linear(20, 400), nn.ReLU(), nn.Linear(400, 784), nn.Sigmoid())

        def forward(self, z: Tensor) -> Any:
            return base.ModelOutput(reconstruction=self.layers(z))

    config = models.VAEConfig(input_dim=(784,), latent_dim=20, reconstruction_loss="bce")
    return models.VAE(config, encoder=Encoder(), decoder=Decoder())


def likelihood_contenders(x: Tensor, particles: int) -> dict[str, tuple[Callable[[], Any], int]]:
    """Calls, and the number of particles that each draws."""
    model, theirs = vae(), pythae_vae()

    ours = (lambda: model.log_likelihood(x, num_particles=particles, seed=0), len(x) * particles)
    calls: dict[str, tuple[Callable[[], Any], int]] = {"ours": ours}
    if theirs is not None:
        few = x[: max(1, len(x) // 10)]
        calls["pythae, get_nll"] = (lambda: theirs.get_nll(few, n_samples=particles), len(few) * particles)
    return calls


def predictive_contenders(x: Tensor, draws: int) -> dict[str, tuple[Callable[[], Any], int]]:
    model = vae()
    few = x[: max(1, len(x) // 10)]

    def pyros() -> None:
        Predictive(poutine.uncondition(model.model), guide=model.guide, num_samples=draws)(few)
        pyro.clear_param_store()

    ours = (lambda: model.posterior_predictive(x, num_samples=draws, seed=0), len(x) * draws)
    return {"ours": ours, "pyro.infer.Predictive": (pyros, len(few) * draws)}


def compare(what: str, contenders: dict[str, tuple[Callable[[], Any], int]], rounds: int) -> None:
    """Print a table: microseconds per draw, ratio to the first contender, peak memory."""
    times: dict[str, list[float]] = {name: [] for name in contenders}
    peaks = dict.fromkeys(contenders, 0.0)
    for number in range(rounds):
        order = list(contenders) if number % 2 == 0 else list(contenders)[::-1]
        for name in order:
            call, count = contenders[name]
            with torch.no_grad():
                seconds, peak = measure(call)
            times[name].append(1e6 * seconds / count)
            peaks[name] = max(peaks[name], peak)
    first = next(iter(contenders))
    print(f"\n{what}\n\n| contender | us per draw | against {first} | peak memory, MB |\n| --- | --- | --- | --- |")
    for name, values in times.items():
        ratios = [value / own for value, own in zip(values, times[first], strict=True)]
        spread = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        print(f"| {name} | {statistics.median(values):.2f} | {spread} | {peaks[name]:.0f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100)
    parser.add_argument("--particles", type=int, default=5000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.manual_seed(0)
    x = (torch.rand(options.rows, 784) < 0.3).float()
    title = f"log-likelihood, {options.rows} rows x {options.particles} particles"
    compare(title, likelihood_contenders(x, options.particles), options.rounds)
    compare("posterior predictive, 100 draws per row", predictive_contenders(x, 100), options.rounds)


if __name__ == "__main__":
    main()
