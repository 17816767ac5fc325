"""How noisy is the gradient? Signal-to-noise of every gradient estimator against the number of particles.

A tighter bound is not always easier to maximize. As the number of particles K grows, the importance-weighted bound
IWAE_K approaches log p(x), and the guide's gradient of it approaches zero faster than its noise does: the gradient's
signal-to-noise ratio (absolute mean over standard deviation of single-row gradients) *falls* like K^(-1/2), while that
of the model's gradient *rises* like K^(1/2). The doubly reparameterized gradient (DReG) has the same expectation, and
its ratio rises. The score-function estimators (VIMCO, RLOO) need no pathwise derivative, so that they also serve
discrete latents, at the price of more noise.

The model is z ~ N(mu, I), x | z ~ N(z, I) in two dimensions; the guide N(x/2 + shift, 2/3 I) is 0.5 off its optimum.
Every row has its own parameters `shift` (guide) and `mu` (model): one backward pass gives independent replicates.

What to look for: slopes of opposite sign in the left panel, equal ones in the middle; and that STL, which is unbiased
for the ELBO only, has little noise but a bias.

Run it: `python gradient_noise.py` (about a minute); `--smoke` only checks that it runs.

References: *Tighter Variational Bounds are Not Necessarily Better* (Rainforth et al., 2018); *Doubly Reparameterized
Gradient Estimators for Monte Carlo Objectives* (Tucker et al., 2018).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

import pyro_vae as pv

DIMENSIONS = 2
KINDS = ("reparameterized", "stl", "dreg", "vimco", "rloo")


class Toy(pv.LatentVariableModel):
    """The model above, with separate parameters for each of several replicates of one row."""

    def __init__(self, replicates: int) -> None:
        super().__init__()
        self.mu = nn.Parameter(torch.zeros(replicates, DIMENSIONS, dtype=torch.float64))
        self.shift = nn.Parameter(torch.full((replicates, DIMENSIONS), 0.5, dtype=torch.float64))

    def model(self, x: Tensor | None = None, *, rows: int | None = None, **batch: Tensor) -> Tensor:
        with pyro.plate("data", len(self.mu)):
            z = pyro.sample("z", dist.Normal(self.mu, 1.0).to_event(1))
            return pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    def guide(self, x: Tensor, **batch: Tensor) -> Tensor:
        with pyro.plate("data", len(x)):
            return pyro.sample("z", dist.Normal(x / 2 + self.shift, (2 / 3) ** 0.5).to_event(1))


def signal_to_noise(kind: str, particles: int, replicates: int) -> tuple[float, float, float]:
    """|mean| / standard deviation of single-row gradients, for guide and model, and the variance for the guide."""
    chunk = max(1, min(replicates, 100_000 // particles))  # replicates in one backward pass
    draws: list[list[Tensor]] = [[], []]
    for start in range(0, replicates, chunk):
        toy = Toy(min(chunk, replicates - start))
        x = torch.tensor([0.3, -0.8], dtype=torch.float64).expand(len(toy.mu), -1)
        estimator = pv.elbos.IWAE(num_particles=particles, gradient=kind)
        estimator.run(toy.model, toy.guide, x).objective.backward()
        draws[0].append(toy.shift.grad)
        draws[1].append(toy.mu.grad)
    guide, model = (torch.cat(each) for each in draws)
    ratios = [float((each.mean(0).abs() / each.std(0)).mean()) for each in (guide, model)]
    return ratios[0], ratios[1], float(guide.var(0).mean())


def slope(particles: list[int], ratios: list[float]) -> float:
    """The exponent of K: a least-squares slope."""
    return float(np.polyfit(np.log(particles), np.log(ratios), 1)[0])


def main(options: argparse.Namespace) -> None:
    particles = [4, 16, 64] if options.smoke else [4, 16, 64, 256]
    replicates = 500 if options.smoke else 20_000
    torch.manual_seed(0)
    table = {}
    for kind in KINDS:
        score = kind in ("vimco", "rloo")  # their baselines cost K^2
        counts = [k for k in particles if not score or k <= 64]
        ratios = [signal_to_noise(kind, k, replicates // 4 if score else replicates) for k in counts]
        pyro.clear_param_store()
        table[kind] = counts, *([line[i] for line in ratios] for i in (0, 1, 2))

    print(f"signal-to-noise ratio of IWAE's gradient, {replicates} replicates; slope: the exponent of K")
    print(f"{'gradient':16s}" + "".join(f"{who + ', K=4':>13s}{'K=64':>9s}{'slope':>7s}" for who in ("guide", "model")))
    for kind, (counts, *columns, _) in table.items():
        last = counts.index(64)
        cells = [f"{r[0]:13.3f}{r[last]:9.3f}{slope(counts, r):7.2f}" for r in columns]
        print(f"{kind:16s}" + "".join(cells))
    draw(table, options.out)


def draw(table: dict[str, tuple[list[float], ...]], folder: Path) -> None:
    figure, axes = plt.subplots(1, 3, figsize=(12, 3.8), layout="constrained")
    titles = "Signal-to-noise, guide", "Signal-to-noise, model", "Variance, guide"
    for column, (ax, title) in enumerate(zip(axes, titles, strict=True), 1):
        for kind, columns in table.items():
            ax.loglog(columns[0], columns[column], marker="o", label=kind)
        ax.set(title=title, xlabel="particles K", xticks=[4, 16, 64, 256], xticklabels=["4", "16", "64", "256"])
        ax.minorticks_off()
    axes[1].sharey(axes[0])
    axes[0].set_ylabel("|mean| / standard deviation of one row")
    axes[2].set_ylabel("variance of one row's gradient")
    axes[1].legend(title="gradient of IWAE", frameon=False)
    folder.mkdir(parents=True, exist_ok=True)
    figure.savefig(folder / "gradient_noise.png", dpi=150)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="a few seconds, to see whether it runs")
    parser.add_argument("--out", type=Path, default=Path("figures"), help="folder for the figure")
    main(parser.parse_args())
