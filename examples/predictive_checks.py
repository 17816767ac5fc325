"""A model that is wrong, found out by predictive checks, and mended: shopping baskets as counts with too many zeros.

The baskets are simulated: eight columns of counts depend on two factors, are negative binomial, and 10 % (bread) to
40 % (toys) of them are lost and written down as zeros. Three models differ in the likelihood alone; each is trained on
2000 rows and checked by `pv.check` on 500 others. Two predictives answer two questions. *Prior* predictive: could the
model have drawn such a set of new rows? For the true model tail probabilities are uniform. *Posterior* predictive: can
it draw each row again, once it has seen it? The row is used twice, so that they are conservative, nearer 1/2.

What to look for
- Poisson: nearly everything is wrong. Variances are a quarter of the observed, zeros a third, and 90 % intervals hold
  fewer than 80 % of new counts; PIT values pile up at the ends. So counts vary more: the negative binomial.
- Negative binomial: intervals now cover what they claim, and PIT values are flat. Those look at one column at a time,
  and extra variance can stand in for zeros. Zeros themselves, and a user's own statistic of rows (`evenness`), tell.
- Zero-inflated negative binomial: nothing stands out. Of some thirty tail probabilities a few are below 0.05 or above
  0.95 by chance; and the model is an estimate, which they do not allow for.
- The last table, rows with a tail probability beyond 5 % or 95 %: 10 % are due under the true model. Of new rows the
  mended model has about as many, of rows that were replicated given themselves about half: conservative.

Run it: `python predictive_checks.py` (a minute or two); `--smoke` only tries whether it runs.

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

NAMES = ("bread", "milk", "fruit", "coffee", "fish", "wine", "books", "toys")
MODELS = ("Poisson", "NegativeBinomial", "ZeroInflatedNegativeBinomial")


def simulate(rows: int) -> pv.Rows:
    """Rows of the true model, with names of the columns."""
    angle = torch.arange(8) * (torch.pi / 4)
    log_mean = torch.linspace(2.5, 0.7, 8) + 0.8 * torch.randn(rows, 2) @ torch.stack([angle.cos(), angle.sin()])
    counts = dist.ZeroInflatedNegativeBinomial(2.0, logits=log_mean - math.log(2.0), gate=torch.linspace(0.1, 0.4, 8))
    return pv.Rows(counts.sample(), columns=NAMES)


def evenness(x: Tensor) -> Tensor:
    """A statistic of rows of one's own, (N, 8) -> (N,): entropy of the shares of a basket, in nats."""
    share = x / x.sum(1, keepdim=True).clamp_min(1)
    return -torch.xlogy(share, share).sum(1)


STATISTICS = {
    "mean": pv.statistics.mean,
    "variance": pv.statistics.variance,
    "zero fraction": pv.statistics.zero_fraction,
    "correlation, bread and milk": pv.statistics.correlation(0, 1),
    "row total": pv.statistics.row_total,
    "evenness of a row": evenness,
}


def fit(name: str, rows: pv.Rows, epochs: int) -> pv.VAE:
    vae = pv.VAE(
        likelihood=getattr(pv.likelihoods, name)(len(NAMES)),
        prior=pv.priors.Normal(2),
        encoder=pv.nets.MLP((64, 64)),
        decoder=pv.nets.MLP(()),  # affine: factor analysis of log-means
        seed=0,
    )
    rate = pv.schedules.Cosine(1e-2, 1e-4, epochs=epochs)
    vae.fit(rows, epochs=epochs, batch_size=200, learning_rate=rate, seed=0)
    return vae


def main(args: argparse.Namespace) -> None:
    rows, epochs, num_samples = (100, 2, 20) if args.smoke else (500, 60, 400)
    torch.manual_seed(0)
    train, new = simulate(4 * rows), simulate(rows)
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
        for statistic in ("row total", "evenness of a row"):
            for p in (found.statistics[statistic].prior, found.statistics[statistic].posterior):
                share = float(((p < 0.05) | (p > 0.95)).double().mean())
                shares.append((share, math.sqrt(share * (1 - share) / rows)))
        print(f"{name:<30}" + "".join(f"{100 * share:14.1f} +- {100 * error:.1f}" for share, error in shares))

    figure, axes = plt.subplots(3, 3, figsize=(14, 10.5), layout="constrained")
    for column, (name, found) in zip(axes.T, checks.items(), strict=True):
        found.statistics["zero fraction"].plot(NAMES.index("coffee"), ax=column[0])
        found.pit.plot(ax=column[1])
        found.pit.plot_coverage(ax=column[2])
        column[0].set_title(f"{name}\n{column[0].get_title()}", fontsize="medium")
    args.out.mkdir(parents=True, exist_ok=True)
    figure.savefig(args.out / "predictive_checks.png", dpi=120)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="a few seconds, to see whether it runs")
    parser.add_argument("--out", type=Path, default=Path("figures"), help="folder for the figure")
    main(parser.parse_args())
