"""How often the checks of a model are wrong: a report on a true model, wrong models, sandwiches and ranks.

    python benchmarks/trust.py report --columns 4 --repeats 300
    python benchmarks/trust.py sandwich
    python benchmarks/trust.py ranks

`report`: data sets of 300 rows from a linear-Gaussian model with two latents and its exact guide. The share of reports
that ask for action should be at most 5 %. Then data whose scale is 1.5 times as large, counts whose variance is twice
that of the model, and a guide of half the width: the shares of reports that find each.

`sandwich`: 500 runs of 200 rows, at 5, 20 and 100 temperatures. The share of runs whose estimate +- 1.96 stated errors
holds the mean of 2,000 other runs should be 95 %.

`ranks`: 2,000 replicates of simulation-based calibration with ranks of an exact guide, at six pairs of numbers of rows
and of draws. The share of p-values below .05 should be 5 %. Then the power at a guide of half the width.
"""

from __future__ import annotations

import argparse
import time
import warnings
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

import pyro_vae as pv
from pyro_vae.criticism.intervals import rank_p_value
from pyro_vae.evaluation import LogLikelihood, Summary, annealing
from pyro_vae.evaluation.results import as_sandwich

ROWS = 300
PAIRS = ((53, 9), (101, 19), (149, 99), (200, 99), (331, 127), (500, 199))  # rows and draws


class Linear(pv.LatentVariableModel):
    """z ~ N(0, I), x | z ~ N(W z, 1), with two latents; the guide is the posterior, `width` times as wide."""

    def __init__(self, columns: int, width: float = 1.0) -> None:
        super().__init__()
        weight = torch.randn(columns, 2, generator=torch.Generator().manual_seed(columns), dtype=torch.float64)
        covariance = torch.linalg.inv(torch.eye(2, dtype=torch.float64) + weight.T @ weight)
        self.weight = torch.nn.Parameter(weight)
        self.register_buffer("mean_map", weight @ covariance)
        self.register_buffer("tril", width * torch.linalg.cholesky(covariance))

    def model(self, x: Tensor | None = None, *, rows: int | None = None, **batch: Tensor) -> Tensor:
        with pyro.plate("data", rows if x is None else len(x)):
            z = pyro.sample("z", dist.Normal(self.weight.new_zeros(2), 1.0).to_event(1))
            return pyro.sample("x", dist.Normal(z @ self.weight.T, 1.0).to_event(1), obs=x)  # type: ignore[no-any-return]

    def marginal(self) -> Any:
        covariance = self.weight @ self.weight.T + torch.eye(len(self.weight), dtype=torch.float64)
        return dist.MultivariateNormal(self.weight.new_zeros(len(self.weight)), covariance.detach())

    def guide(self, x: Tensor, **batch: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.MultivariateNormal(x @ self.mean_map, scale_tril=self.tril))


class Counts(pv.LatentVariableModel):
    """Counts x ~ Poisson(4), which say nothing about the latent z ~ N(0, 1)."""

    def __init__(self, columns: int) -> None:
        super().__init__()
        self.rate = torch.nn.Parameter(torch.full((columns,), 4.0))

    def model(self, x: Tensor | None = None, *, rows: int | None = None, **batch: Tensor) -> Tensor:
        with pyro.plate("data", rows if x is None else len(x)):
            pyro.sample("z", dist.Normal(0.0, 1.0))
            return pyro.sample("x", dist.Poisson(self.rate).to_event(1), obs=x)  # type: ignore[no-any-return]

    def guide(self, x: Tensor, **batch: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(0.0, 1.0))


def concerns(model: Any, x: Tensor, seed: int) -> list[str]:
    """What the report asks for action about."""
    found = pv.diagnose(model, x, seed=seed, num_particles=100, verbose=False)
    return [finding.about for finding in found.concerns]


def report(columns: int, repeats: int) -> None:
    true, narrow, counts = Linear(columns), Linear(columns, width=0.5), Counts(columns)
    start = time.perf_counter()
    raised = [bool(concerns(true, true.sample(ROWS, seed=seed), seed)) for seed in range(repeats)]
    print(f"{columns} columns, a true model: {sum(raised)} of {repeats} reports ask for action")
    found = {"scale 1.5 times as large": 0, "variance of counts twice as large": 0, "guide of half the width": 0}
    some = min(repeats, 100)
    for seed in range(some):
        x = true.sample(ROWS, seed=seed)
        generator = torch.Generator().manual_seed(seed)
        noise = torch.randn(x.shape, generator=generator, dtype=x.dtype)
        torch.manual_seed(seed)
        twofold = torch.distributions.NegativeBinomial(4.0, probs=torch.full((columns,), 0.5)).sample((ROWS,))
        wrong = concerns(true, x + (1.5**2 - 1) ** 0.5 * noise, seed), concerns(counts, twofold, seed)
        found["scale 1.5 times as large"] += "predictive checks" in wrong[0]
        found["variance of counts twice as large"] += "predictive checks" in wrong[1]
        found["guide of half the width"] += "encoder on simulated rows" in concerns(narrow, x, seed)
    for what, times in found.items():
        print(f"{columns} columns, {what}: found in {times} of {some}")
    print(f"{time.perf_counter() - start:.0f} s", flush=True)


def sandwich(temperatures: list[int], runs: int, others: int, rows: int = 200) -> None:
    model = Linear(8, width=0.8)
    for num_steps in temperatures:
        method = pv.evaluation.AIS(num_steps=num_steps)
        with patch.object(annealing, "as_sandwich", lambda *sides: sides):
            lower, reverse, x = model.sandwich((runs + others) * rows, method=method, seed=0)
        exact = model.marginal().log_prob(x)
        misses = {"lower": lower.estimate - exact, "upper": -reverse.estimate - exact}  # of each row, with its noise
        held = dict.fromkeys(misses, 0)
        for run in range(runs):
            index = slice(run * rows, (run + 1) * rows)
            both = as_sandwich(_rows(lower, index), _rows(reverse, index), x[index])
            for side, miss in misses.items():
                error = getattr(both, side).mean().monte_carlo_error
                held[side] += bool(abs(miss[index].mean() - miss[runs * rows :].mean()) <= 1.96 * error)
        shares = ", ".join(f"{side} {count / runs:.3f}" for side, count in held.items())
        print(f"sandwich, {num_steps} temperatures: share of {runs} intervals that hold the mean: {shares}", flush=True)


def _rows(side: LogLikelihood, index: slice) -> LogLikelihood:
    columns: dict[str, Any] = {name: getattr(side, name)[index] for name in Summary._fields}
    return replace(side, **columns)


def ranks(repeats: int = 2000) -> None:
    generator = torch.Generator().manual_seed(0)
    for num_rows, num_draws in PAIRS:
        many = torch.randint(0, num_draws + 1, (repeats, num_rows), generator=generator)
        share = sum(rank_p_value(column, num_draws) < 0.05 for column in many) / repeats
        print(f"ranks, {num_rows} rows, {num_draws} draws: share of p-values below .05: {share:.3f}", flush=True)
    latent = torch.randn(repeats, 200, generator=generator)
    drawn = torch.randn(99, repeats, 200, generator=generator)
    narrow = (0.5 * drawn < latent).sum(0)
    share = sum(rank_p_value(column, 99) < 0.05 for column in narrow) / repeats
    print(f"ranks, 200 rows, 99 draws, a guide of half the width: found in {share:.3f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("report", "sandwich", "ranks"))
    parser.add_argument("--columns", type=int, nargs="+", default=[4, 30, 64])
    parser.add_argument("--repeats", type=int, default=300)
    parser.add_argument("--temperatures", type=int, nargs="+", default=[5, 20, 100])
    parser.add_argument("--others", type=int, default=2000, help="runs whose mean the intervals should hold")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    if options.what == "report":
        for columns in options.columns:
            report(columns, options.repeats)
    elif options.what == "sandwich":
        sandwich(options.temperatures, 500, options.others)
    else:
        ranks()


if __name__ == "__main__":
    main()
