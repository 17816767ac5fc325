"""Which likelihood? Counts with too many zeros under four likelihoods, and mixed columns under a product of three.

Counts: rows of 12 negative binomial counts are simulated given two factors; 30 % of the counts are then lost and
recorded as zeros. Four likelihoods get the same networks; the decoder is affine, as in factor analysis of log-means.

Mixed columns: each handwritten digit is described by its ink (a count), the width and the slant of its stroke (real
numbers) and its label (a category); `likelihoods.Product` gives each block of columns its own likelihood, and two
latents make them dependent. The reference is the same likelihood without latents.

What to look for
- Held-out log-likelihood: only the zero-inflated negative binomial comes near that of the true model, the ceiling.
- Predictive checks (top) on draws from the fitted models say why: the Poisson has too few zeros, the negative binomial
  too few in columns that have few. The zero-inflated Poisson gets the zeros right, but not the spread.
- Mixed columns (bottom): draws have labels roughly where the data have them; without latents labels are shuffled.

Run it: `python likelihoods.py` (a minute); `--smoke` only checks that it runs.
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

COLUMNS = 12
NAMES = ("Poisson", "ZeroInflatedPoisson", "NegativeBinomial", "ZeroInflatedNegativeBinomial")
STATISTICS = {"zeros (% of rows)": lambda x: 100 * (x == 0).float().mean(0), "standard deviation": lambda x: x.std(0)}


def truth(z: Tensor) -> dist.TorchDistribution:
    """p(x | z) of the simulation: log-linear means."""
    angle = torch.arange(COLUMNS) * (2 * torch.pi / COLUMNS)
    log_mean = torch.linspace(0.7, 3.4, COLUMNS) + 0.7 * z @ torch.stack([angle.cos(), angle.sin()])
    lost = torch.full((COLUMNS,), 0.3)
    return dist.ZeroInflatedNegativeBinomial(2.0, logits=log_mean - math.log(2.0), gate=lost).to_event(1)


def describe(rows: pv.Rows) -> Tensor:
    """Ink, width of the stroke (standard deviation across, in cells), slant (cells to the right per cell up), label."""
    ink = rows.x[:, 0].float()
    share, cells = ink / ink.sum((1, 2), keepdim=True), torch.arange(8.0)
    x = cells - (share.sum(1) @ cells)[:, None, None]  # (N, 1, 8)
    y = (share.sum(2) @ cells)[:, None, None] - cells[:, None]  # (N, 8, 1)
    xx, xy, yy = ((share * product).sum((1, 2)) for product in (x * x, x * y, y * y))
    return torch.stack([ink.sum((1, 2)), xx.sqrt(), xy / yy, rows.fields["label"]], -1)


def fit(likelihood: pv.likelihoods.Likelihood, hidden: tuple[int, ...], x: Tensor, epochs: int) -> pv.VAE:
    parts = {"prior": pv.priors.Normal(2), "encoder": pv.nets.MLP((64, 64)), "decoder": pv.nets.MLP(hidden)}
    vae = pv.VAE(likelihood=likelihood, **parts, seed=0)
    vae.fit(x, epochs=epochs, learning_rate=pv.schedules.Cosine(1e-2, 1e-4, epochs=epochs), seed=0)
    return vae


def show(name: str, value: Tensor, reference: Tensor, x: Tensor | None = None) -> None:
    """Mean nats per row, the paired difference from the reference, and the statistics of x, averaged over columns."""
    gap, root = value - reference, math.sqrt(len(value))
    statistics = [f"{f(x).mean():20.2f}" for f in STATISTICS.values() if x is not None]
    print(f"  {name:<30}{value.mean():9.2f} +- {value.std() / root:.2f}", end="")
    print(f"{gap.mean():10.2f} +- {gap.std() / root:.2f}", *statistics, sep="")


def main(args: argparse.Namespace) -> None:
    rows, epochs, particles = (200, 2, 20) if args.smoke else (1000, 150, 1000)
    torch.manual_seed(0)
    x, new = (truth(torch.randn(rows, 2)).sample() for _ in range(2))
    z = torch.cartesian_prod(*2 * [torch.linspace(-5, 5, 61)])  # log p(x) of the true model: a sum over a grid of codes
    weight = dist.Normal(0, 1).log_prob(z).sum(-1).log_softmax(0)
    best = torch.stack([(weight + truth(z).log_prob(row)).logsumexp(0) for row in new])
    heading = f"  {'':<30}{'log-likelihood':>17}{'minus reference':>18}"
    print(f"\nNats per row +- standard error over rows. Counts, {rows} new rows; statistics are means over columns")
    print(heading + "".join(f"{name:>20}" for name in STATISTICS))
    show("truth (reference), data", best, best, new)
    figure, (top, bottom) = plt.subplots(2, 3, figsize=(14, 8.6), layout="constrained")
    style = {"bins": [k - 0.5 for k in range(32)], "density": True}
    top[2].hist(new[:, -1].numpy(), color=plots.FAINT, label="data", **style)
    for name, color, marker in zip(NAMES, (plots.COLORS[i] for i in (0, 1, 4, 2)), "os^D", strict=True):
        vae = fit(getattr(pv.likelihoods, name)(COLUMNS), (), x, epochs)
        drawn = vae.sample(20 * rows, seed=2)
        show(name, vae.log_likelihood(new, num_particles=particles, seed=1).estimate, best, drawn)
        for ax, (what, f) in zip(top, STATISTICS.items(), strict=False):
            ax.plot(f(new), f(drawn), marker, color=color)
            ax.axline((20, 20), slope=1, color="black", linewidth=0.5, zorder=0)
            ax.set(xlabel=f"{what}, data", ylabel=f"{what}, draws", title=f"Counts, each column: {what}")
        top[2].hist(drawn[:, -1].numpy(), color=color, label=name, histtype="step", linewidth=1.6, **style)
    top[2].set(xlabel="count", ylabel="share of rows up to 30", title="Counts: the last column")
    top[1].set(xscale="log", yscale="log", xlim=(1, 100), ylim=(1, 200))
    top[2].legend(frameon=False)
    digits = pv.datasets.load("digits")
    train, test = describe(digits.train), describe(digits.test)
    ink, shape = pv.likelihoods.NegativeBinomial(1), pv.likelihoods.Normal(2, scale="predicted")
    product = pv.likelihoods.Product({"ink": ink, "shape": shape, "label": pv.likelihoods.Categorical(1, 10)})
    product.initialize(train)
    without = product(torch.zeros(len(test), *product.output_shape))  # output 0 gives the marginal of each column
    reference, alone = without.log_prob(test).detach(), without.sample()
    vae = fit(product, (64, 64), train, epochs)
    print(f"Mixed columns, {len(test)} test digits\n{heading}")
    show("independent columns (reference)", reference, reference)
    show("Product, two latents", vae.log_likelihood(test, num_particles=particles, seed=1).estimate, reference)
    clouds = ("test digits", test), ("draws", vae.sample(len(test), seed=2)), ("draws without latents", alone)
    for ax, (name, value) in zip(bottom, clouds, strict=True):
        plots.latent_map(value[:, 1:3], value[:, 3].long(), names=("width (cells)", "slant"), ax=ax)
        ax.set(title=f"Mixed columns: {name}", xlim=(0.4, 1.8), ylim=(-0.5, 0.5), aspect="auto")
    args.out.mkdir(parents=True, exist_ok=True)
    figure.savefig(args.out / "likelihoods.png", dpi=120)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="a few seconds, to see whether it runs")
    parser.add_argument("--out", type=Path, default=Path("figures"), help="folder for the figure")
    main(parser.parse_args())
