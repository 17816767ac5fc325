"""Which guide? Five families of q(z | x) on two models whose posteriors are known, one correlated, one with two modes.

Two latents, z ~ N(0, I), and one observation each:

    sum       x ~ Normal(z1 + z2, 0.5)     codes on a line explain x: the posterior is normal with correlation -0.8
    product   x ~ Normal(z1 * z2, 0.3)     codes on a hyperbola do: two bent modes, z and -z, unless x is near 0

The models are fixed; only the guide is trained. log p(x) and the posterior are computed as sums over a grid of codes,
so that the gap of every guide is known:  log p(x) - ELBO = KL(q(z | x) || p(z | x)).

What to look for
- sum: the mean-field normal cannot be correlated. Its smallest gap is log(5/3) = 0.511 nats for every row, and its
  standard deviations are 0.6 times the posterior's: intervals from it are too short. A full covariance closes the gap,
  as do flows; a mixture of four mean-field normals closes part of it, by placing them along the line.
- product: a normal settles on one mode, since KL(q || p) penalizes mass where the posterior has little. It misses half
  of the posterior, which costs log 2 = 0.693 nats where the modes are apart. Flows reach both, some by a thin bridge.
- A family may contain the posterior and the guide still miss it: the mixture, which could have both modes, ends as a
  normal at one. Draws at one mode carry no information on the other: stochastic gradients do not move mass there.

Run it: `python guides.py` (three minutes); `--smoke` only checks that it runs.

References: *Variational Inference: A Review for Statisticians* (Blei, Kucukelbir, McAuliffe, 2017), JASA 112, on
short intervals; *Inference Suboptimality in Variational Autoencoders* (Cremer, Li, Duvenaud, 2018), arXiv 1801.03558
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from torch import Tensor, nn

import pyro_vae as pv


class Sum(nn.Module):
    def forward(self, z: Tensor) -> Tensor:
        return z.sum(-1, keepdim=True)


class Product(nn.Module):
    def forward(self, z: Tensor) -> Tensor:
        return z.prod(-1, keepdim=True)


MODELS = {"sum": (Sum(), 0.5, 1.5), "product": (Product(), 0.3, 1.0)}  # decoder, noise scale, the row x to plot
GUIDES = {
    "Normal": lambda: pv.guides.Normal(),
    "MultivariateNormal": lambda: pv.guides.MultivariateNormal(),
    "Mixture": lambda: pv.guides.Mixture(num_components=4),
    "Flow, affine (IAF)": lambda: pv.guides.Flow(layers=4),
    "Flow, spline": lambda: pv.guides.Flow(kind="spline_autoregressive", layers=3),
}
NAMES = {"sum": "$z_1 + z_2$", "product": "$z_1 z_2$"}
LEVELS = torch.linspace(0.02, 1.0001, 9)  # contour levels, as a share of the peak
SIDE, LIMIT = 241, 4.5  # the grid: points on a side, and its end


def vae_with(decoder: nn.Module, scale: float, guide: pv.guides.Guide) -> pv.VAE:
    likelihood = pv.likelihoods.Normal(1, scale="fixed", fixed_scale=scale, standardize=False)
    parts = {"prior": pv.priors.Normal(2), "encoder": pv.nets.MLP(hidden=(64, 64), activation="silu")}
    return pv.VAE(likelihood=likelihood, guide=guide, decoder=decoder, **parts, seed=0)


def exact(vae: pv.VAE, x: Tensor, grid: Tensor) -> tuple[Tensor, Tensor]:
    """log p(x) of each row, and the log-density of its posterior on the grid, (B,) and (B, G)."""
    joint = vae.prior().log_prob(grid) + vae.decode(grid).log_prob(x.unsqueeze(1))  # (G,) + (B, G)
    cell = math.log(2 * LIMIT / (SIDE - 1)) * 2
    evidence = joint.logsumexp(-1) + cell
    return evidence, joint - evidence.unsqueeze(-1)


def main(args: argparse.Namespace) -> None:
    rows, epochs, particles = (200, 2, 10) if args.smoke else (2000, 150, 1000)
    line = torch.linspace(-LIMIT, LIMIT, SIDE)
    grid = torch.cartesian_prod(line, line)  # (G, 2)
    rate = pv.schedules.Cosine(5e-3, 1e-5, epochs=epochs)
    print("\nNats per row, mean over 200 new rows; gap = log p(x) - ELBO +- standard error over rows")
    print(f"{'model':<10}{'guide':<20}{'log p(x)':>10}{'ELBO':>10}{'gap':>10}")
    figure, axes = plt.subplots(2, 1 + len(GUIDES), figsize=(15, 5.8), sharex=True, sharey=True, layout="constrained")
    for (name, (decoder, scale, one)), (first, *others) in zip(MODELS.items(), axes, strict=True):
        for ax, (family, make) in zip(others, GUIDES.items(), strict=True):
            vae = vae_with(decoder, scale, make())
            x, new, picked = vae.sample(rows, seed=1), vae.sample(200, seed=2), torch.tensor([[one]])
            vae.fit(x, epochs=epochs, batch_size=200, learning_rate=rate, seed=0)
            evidence, _ = exact(vae, new, grid)
            gap = evidence - vae.elbo(new, num_particles=particles, seed=3).bound
            print(f"{name:<10}{family:<20}{evidence.mean():10.3f}{(evidence - gap).mean():10.3f}", end="")
            print(f"{gap.mean():10.3f} +- {gap.std() / math.sqrt(len(gap)):.3f}")
            evidence, posterior = exact(vae, picked, grid)
            gap = evidence - vae.elbo(picked, num_particles=particles, seed=3).bound
            q = vae.encode(picked).log_prob(grid.unsqueeze(1)).exp().detach().reshape(SIDE, SIDE)
            p = posterior.exp().reshape(SIDE, SIDE)
            ax.contourf(line, line, p.T, levels=LEVELS * p.max(), cmap="Blues")
            ax.contour(line, line, q.T, levels=LEVELS[1:-1:2] * q.max(), colors="#d55e00", linewidths=1.1)
            ax.set_title(f"{family}: gap {abs(float(gap)):.2f} nats", fontsize=10)
        first.contourf(line, line, p.T, levels=LEVELS * p.max(), cmap="Blues")
        first.set_title(f"x = {NAMES[name]} + noise, x = {one:g}", fontsize=10)
        first.set_ylabel("$z_2$")
    for ax in axes.flat:
        ax.set(xlim=(-3, 3), ylim=(-3, 3), aspect="equal", xticks=(-2, 0, 2), yticks=(-2, 0, 2))
        ax.spines[:].set_visible(False)
        ax.tick_params(length=0)
    for ax in axes[1]:
        ax.set_xlabel("$z_1$")
    figure.suptitle("True posterior of one row (blue, left and beneath) and the guide's density (orange contours)")
    args.out.mkdir(parents=True, exist_ok=True)
    figure.savefig(args.out / "guides.png", dpi=120)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="a few seconds, to see whether it runs")
    parser.add_argument("--out", type=Path, default=Path("figures"), help="folder for the figure")
    main(parser.parse_args())
