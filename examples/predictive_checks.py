"""Predictive checks find what is wrong with a model, and show that it is corrected: counts with too many zeros.

The data are simulated shopping baskets: eight columns of negative binomial counts depend on two factors, and 10 %
(bread) to 40 % (toys) of the counts are lost and recorded as zeros. Three models differ in the likelihood alone; each
is trained on 3000 rows and checked by `pv.check` on 1000 others. Two predictives answer two questions. *Prior*
predictive: could the model have generated these new rows? If it is true, tail probabilities are uniform. *Posterior*
predictive: can it generate each row again, given the row? That uses rows twice: tail probabilities are nearer 1/2.

What to look for
- Poisson: nearly every statistic is wrong. The model has less than half of the variances and a quarter of the zeros,
  and its 90 % intervals hold 75 % of new counts. All spread comes from the factors: bread and milk are too correlated.
- Negative binomial: 90 % intervals hold 90 %, and PIT values are nearly uniform. They examine one column at a time,
  where a large spread can make up for zeros. The share of zeros, the correlation and row totals show the fault;
  `evenness` of rows, a statistic of our own, does not. Each statistic detects some faults only: use several.
- Zero-inflated negative binomial: 3 of 27 tail probabilities are below 5 % or above 95 %, as expected by chance.
- The last table has the share of rows whose tail probability is below 5 % or above 95 %: 10 % in the true model. The
  corrected model has 10 % for new rows, and less given the row. Only a true model is conservative: Poisson has more.

Run it: `python predictive_checks.py` (a minute); `--smoke` is a quick test that it runs.

References: *Visualization in Bayesian Workflow* (Gabry et al., 2019), arXiv 1709.01449
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import matplotlib.pyplot as plt
import pyro.distributions as dist
import torch
from torch import Tensor

import pyro_vae as pv
from pyro_vae import plots

NAMES = ("bread", "milk", "fruit", "coffee", "fish", "wine", "books", "toys")
MODELS = ("Poisson", "NegativeBinomial", "ZeroInflatedNegativeBinomial")


def simulate(num_rows: int) -> pv.Rows:
    """Rows drawn from the true model, with names of the columns."""
    angle = torch.arange(8) * (torch.pi / 4)
    log_mean = torch.linspace(2.5, 0.7, 8) + 0.6 * torch.randn(num_rows, 2) @ torch.stack([angle.cos(), angle.sin()])
    counts = dist.ZeroInflatedNegativeBinomial(2.0, logits=log_mean - math.log(2.0), gate=torch.linspace(0.1, 0.4, 8))
    return pv.Rows(counts.sample(), columns=NAMES)


def log_correlation(x: Tensor) -> Tensor:
    """A statistic of the data set: the correlation of bread and milk, on the scale of log(1 + x)."""
    return pv.statistics.correlation(0, 1)(x.log1p())


def evenness(x: Tensor) -> Tensor:
    """A statistic of rows, (N, 8) -> (N,): the entropy of the shares of a basket, in nats."""
    share = x / x.sum(1, keepdim=True).clamp_min(1)
    return -torch.xlogy(share, share).sum(1)


STATISTICS = {
    "mean": pv.statistics.mean,
    "variance": pv.statistics.variance,
    "zero fraction": pv.statistics.zero_fraction,
    "correlation of logs": log_correlation,
    "row total": pv.statistics.row_total,
    "evenness": evenness,
}


def fit(name: str, rows: pv.Rows, epochs: int) -> pv.VAE:
    parts = {"prior": pv.priors.Normal(2), "encoder": pv.nets.MLP((64, 64)), "decoder": pv.nets.MLP(())}  # affine
    vae = pv.VAE(likelihood=getattr(pv.likelihoods, name)(len(NAMES)), **parts, seed=0)
    vae.fit(rows, epochs=epochs, batch_size=200, learning_rate=pv.schedules.Cosine(1e-2, 1e-4, epochs=epochs), seed=0)
    return vae


def main(args: argparse.Namespace) -> None:
    num_rows, epochs, num_samples = (100, 2, 20) if args.smoke else (1000, 60, 200)
    torch.manual_seed(0)
    train, new = simulate(3 * num_rows), simulate(num_rows)
    checks = {}
    for name in MODELS:
        checks[name] = pv.check(fit(name, train, epochs), new, STATISTICS, num_samples=num_samples, seed=1)
        print(f"\n{name}: {num_rows} new rows, tail probabilities P(replicated >= observed)\n{checks[name]}")

    print("\nPer cent of cells in intervals, and of rows with extreme tail probabilities, +- standard error")
    heads = "in 90 % intervals", "row total, new", "given the row", "evenness, new", "given the row"
    print(f"{'':<30}" + "".join(f"{head:>21}" for head in heads))
    for name, found in checks.items():
        (covered,) = found.pit.overall([0.9])
        shares = [(covered["coverage"], covered["standard error"])]
        for statistic in ("row total", "evenness"):
            for p in (found.statistics[statistic].prior, found.statistics[statistic].posterior):
                share = float(((p < 0.05) | (p > 0.95)).double().mean())
                shares.append((share, math.sqrt(share * (1 - share) / num_rows)))
        print(f"{name:<30}" + "".join(f"{100 * share:14.1f} +- {100 * error:.1f}" for share, error in shares))

    figure = plt.figure(figsize=(15, 8), layout="constrained")
    top, bottom = figure.subfigures(2, 1)
    for column, (name, found) in enumerate(checks.items()):
        ax = found.statistics["correlation of logs"].plot(ax=top.add_subplot(1, 3, column + 1))
        ax.set(title=f"{name}\n{ax.get_title()}", xlim=(-0.1, 0.5))
        ax.legend(frameon=False)
        ax = found.pit.plot(ax=bottom.add_subplot(1, 4, column + 1))
        ax.set(title=name, ylim=(0, 3.5))
    levels = (0.3, 0.5, 0.7, 0.8, 0.9, 0.95)
    held = torch.stack([found.pit.coverage(levels).mean(1) for found in checks.values()], -1)
    ax = plots.coverage(levels, held, names=MODELS, ax=bottom.add_subplot(1, 4, 4))
    ax.set(title="central intervals", xlim=(0, 1), ylim=(0, 1.3), yticks=(0, 0.5, 1))
    ax.legend(frameon=False, fontsize="small", loc="upper left")
    args.out.mkdir(parents=True, exist_ok=True)
    figure.savefig(args.out / "predictive_checks.png", dpi=120)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="a few seconds, to see whether it runs")
    parser.add_argument("--out", type=Path, default=Path("figures"), help="folder for the figure")
    main(parser.parse_args())
