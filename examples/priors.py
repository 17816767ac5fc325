"""Which prior? One VAE of the digits with six priors over two latents, so that their densities can be plotted.

In the ELBO, averaged over the data, the prior occurs in one term only (Hoffman, Johnson):

    E_q log p(x | z)  -  I(row; z)  -  KL(q(z) || p(z)),        q(z) = average of q(z | x) over the rows,

so that the best prior is the *aggregate posterior* q(z), the distribution of the codes of all rows. With ten digits it
has clusters; N(0, I) has none. Laplace and Student-t are other fixed shapes; a mixture of 20 normals, the VampPrior
(the guide averaged over 50 learned pseudo-inputs) and a flow (normal noise transformed by splines) are learned.

What to look for
- The table: log p(x) of test rows by importance sampling, and its difference from that of N(0, I), paired by row.
  Compare a difference with its standard error, and with the last line, another seed: with two latents the networks can
  fit the codes to any prior, and no prior stands out. Learning a prior does change KL(q(z) || p(z)) (training rows).
- The figure: the densities of the prior and of the codes (square roots; numbers: median codes of the digits). A learned
  prior moves towards the codes; a fixed one has mass between them, where decoded draws are not digits.

Run it: `python priors.py` (two minutes); `--smoke` only checks that it runs.

References: *ELBO Surgery* (Hoffman, Johnson, 2016); *VAE with a VampPrior* (Tomczak, Welling, 2017), arXiv 1705.07120
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pyro.distributions as dist
import torch
from matplotlib.patheffects import withStroke
from torch import Tensor

import pyro_vae as pv
from pyro_vae import plots

WHITE = {"color": "white", "weight": "bold", "path_effects": [withStroke(linewidth=2.5, foreground="black")]}
Density = dist.TorchDistribution
PRIORS = {
    "Normal": lambda: pv.priors.Normal(2),
    "Laplace": lambda: pv.priors.Laplace(2),
    "StudentT": lambda: pv.priors.StudentT(2, df=5.0),
    "Mixture": lambda: pv.priors.Mixture(2, num_components=20),
    "VampPrior": lambda: pv.priors.VampPrior(2, (1, 8, 8), num_components=50),
    "Flow": lambda: pv.priors.Flow(2, kind="spline_coupling"),
}

AGAIN = ("Normal, seed 1", PRIORS["Normal"], 1)  # shows how much the results vary from one training run to another


def train(data: pv.datasets.Splits, prior: pv.priors.Prior, epochs: int, seed: int = 0) -> pv.VAE:
    vae = pv.VAE(
        likelihood=pv.likelihoods.Binomial(data.event_shape, total_count=16),
        prior=prior,
        encoder=pv.nets.MLP(hidden=(256, 256)),
        decoder=pv.nets.MLP(hidden=(256, 256), dropout=0.1),
        seed=seed,
    )
    vae.fit(data.train, epochs=epochs, seed=seed)
    return vae


def densities(vae: pv.VAE, x: Tensor) -> tuple[Density, Density]:
    """The prior p(z), and the aggregate posterior q(z) of rows x: a mixture with one component for each row."""
    prior = vae.prior(posterior=lambda pseudo_inputs: vae.family(vae.encoder(pseudo_inputs)))  # for the VampPrior
    return prior, dist.MixtureSameFamily(dist.Categorical(logits=torch.zeros(len(x))), vae.encode(x))


def draw(axes: np.ndarray, vae: pv.VAE, p: Density, q: Density, codes: Tensor, label: Tensor, side: int) -> None:
    """One column of the figure: prior, codes, and decoded draws."""
    limit = 1.15 * float(codes.abs().quantile(0.99))
    line, square = torch.linspace(-limit, limit, side), (-limit, limit, -limit, limit)
    grid = torch.cartesian_prod(line, line)
    for ax, density in zip(axes[:2], (p, q), strict=True):
        root = torch.cat([density.log_prob(part) / 2 for part in grid.split(2000)]).exp()  # makes tails visible
        ax.imshow(root.reshape(side, side).T.numpy(), origin="lower", extent=square, cmap="magma")
        ax.set(xticks=[], yticks=[])
    for digit in range(10):
        place = codes[label == digit].median(0).values
        axes[1].text(*place.tolist(), str(digit), ha="center", va="center", **WHITE)
    torch.manual_seed(2)
    plots.images(vae.decode(p.sample((49,))).mean, columns=7, vmin=0, vmax=16, ax=axes[2])


@torch.no_grad()
def main(args: argparse.Namespace) -> None:
    epochs, particles, side = (1, 20, 30) if args.smoke else (100, 2000, 120)
    data = pv.datasets.load("digits")
    train_x, test, label = data.train.x.float(), data.test.x.float(), data.test.fields["label"]
    root, estimates = math.sqrt(len(test)), []
    print(f"\n{len(test)} test rows, nats per row +- standard error over rows; in brackets the Monte Carlo error")
    print(f"{'prior':<17}{'log-likelihood':>25}{'minus Normal, paired':>24}{'KL(q(z) || p(z))':>20}")
    figure, axes = plt.subplots(3, len(PRIORS), figsize=(15, 8), layout="constrained")
    for column, (name, make, seed) in enumerate([*((*item, 0) for item in PRIORS.items()), AGAIN]):
        with torch.enable_grad():
            vae = train(data, make(), epochs, seed)
        result = vae.log_likelihood(test, num_particles=particles, seed=1)
        estimates.append(result.estimate)
        gap, (p, q) = estimates[-1] - estimates[0], densities(vae, train_x)
        torch.manual_seed(1)
        kl = torch.cat([q.log_prob(z) - p.log_prob(z) for z in q.sample((5 * particles,)).split(1000)])
        m, kl_error = result.mean(), kl.std() / math.sqrt(len(kl))
        cell = f"{m.estimate:.2f} +- {m.sampling_error:.2f} ({m.monte_carlo_error:.2f})"
        print(f"{name:<17}{cell:>25}{gap.mean():15.2f} +- {gap.std() / root:.2f}{kl.mean():14.2f} +- {kl_error:.2f}")
        if column < len(PRIORS):
            draw(axes[:, column], vae, p, q, vae.encode(test).mean, label, side)
            axes[0, column].set_title(name)
    for ax, what in zip(axes[:, 0], ("prior p(z)", "codes of the data, q(z)", "prior draws, decoded"), strict=True):
        ax.set_ylabel(what, fontsize=12)
    args.out.mkdir(parents=True, exist_ok=True)
    figure.savefig(args.out / "priors.png", dpi=120)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="a few seconds, to see whether it runs")
    parser.add_argument("--out", type=Path, default=Path("figures"), help="folder for the figure")
    main(parser.parse_args())
