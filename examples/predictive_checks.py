"""A model that is wrong, found out by predictive checks, and mended: shopping baskets as counts with too many zeros.

The baskets are simulated: eight columns of counts depend on two factors, are negative binomial, and 10 % (bread) to
40 % (toys) of them are lost and written down as zeros. Three models differ in the likelihood alone; each is trained on
3000 rows and checked by `pv.check` on 1000 others. Two predictives answer two questions. *Prior* predictive: could the
model have drawn such a set of new rows? For the true model tail probabilities are uniform. *Posterior* predictive: can
it draw each row again, once it has seen it? The row is used twice: in a true model they are nearer 1/2, conservative.

What to look for
- Poisson: nearly all is wrong. It has less than half of the variances, a quarter of the zeros, and its 90 % intervals
  hold 75 % of new counts. All spread must come from the factors, so that bread and milk go together far too much.
- Negative binomial: 90 % intervals hold 90 %, and PIT values are nearly flat. They see one column at a time, and spread
  can stand in for zeros there. Zeros themselves, the correlation and row totals tell. Another statistic, one's own
  `evenness` of rows, does not: each statistic sees some faults only, and that is why one asks several.
- Zero-inflated negative binomial: of 27 tail probabilities three lie beyond 5 or 95 %, which is what chance gives.
- The last table, rows whose tail probability is beyond 5 or 95 %: 10 % are due in the true model. The mended model has
  as many of new rows, and fewer of rows replicated given themselves. In a wrong model the latter protect from nothing.

Run it: `python predictive_checks.py` (a minute); `--smoke` only tries whether it runs.

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


def simulate(rows: int) -> pv.Rows:
    """Rows of the true model, with names of the columns."""
    angle = torch.arange(8) * (torch.pi / 4)
    log_mean = torch.linspace(2.5, 0.7, 8) + 0.6 * torch.randn(rows, 2) @ torch.stack([angle.cos(), angle.sin()])
    counts = dist.ZeroInflatedNegativeBinomial(2.0, logits=log_mean - math.log(2.0), gate=torch.linspace(0.1, 0.4, 8))
    return pv.Rows(counts.sample(), columns=NAMES)


def log_correlation(x: Tensor) -> Tensor:
    """A statistic of the data, made of a ready one: bread and milk, on the scale of log(1 + x)."""
    return pv.statistics.correlation(0, 1)(x.log1p())


def evenness(x: Tensor) -> Tensor:
    """A statistic of rows, (N, 8) -> (N,), from scratch: entropy of the shares of a basket, in nats."""
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
    rows, epochs, num_samples = (100, 2, 20) if args.smoke else (1000, 60, 200)
    torch.manual_seed(0)
    train, new = simulate(3 * rows), simulate(rows)
    checks = {}
    for name in MODELS:
        checks[name] = pv.check(fit(name, train, epochs), new, STATISTICS, num_samples=num_samples, seed=1)
        print(f"\n{name}: {rows} new rows, tail probabilities P(replicated >= observed)\n{checks[name]}")

    print("\nPer cent +- standard error over rows")
    heads = "90 % intervals hold", "row total, new", "row given itself", "evenness, new", "row given itself"
    print(f"{'':<30}" + "".join(f"{head:>21}" for head in heads))
    for name, found in checks.items():
        (covered,) = found.pit.overall([0.9])
        shares = [(covered["coverage"], covered["its error"])]
        for statistic in ("row total", "evenness"):
            for p in (found.statistics[statistic].prior, found.statistics[statistic].posterior):
                share = float(((p < 0.05) | (p > 0.95)).double().mean())
                shares.append((share, math.sqrt(share * (1 - share) / rows)))
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
