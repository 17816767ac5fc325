"""DOC

"""

from __future__ import annotations

import argparse
import math
import warnings
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from torch import Tensor, nn

import pyro_vae as pv
from pyro_vae import plots

HOURS = torch.tensor([0.5, 1.5, 4.0, 10.0])  # when blood is taken after a dose of 100 mg
TYPICAL, SPREAD = torch.tensor([0.0, 1.2, 3.0]), torch.tensor([0.5, 0.4, 0.4])  # of the three logarithms
NAMES = ("absorption", "clearance", "volume")
GUIDES = {
    "Normal": lambda: pv.guides.Normal(),
    "MultivariateNormal": lambda: pv.guides.MultivariateNormal(),
    "Flow": lambda: pv.guides.Flow(3, layers=3),
}


class LogConcentration(nn.Module):
    """The curve of one compartment with first-order absorption, at HOURS: z (..., 3) -> (..., 4)."""

    def forward(self, z: Tensor) -> Tensor:
        absorption, clearance, volume = (TYPICAL + SPREAD * z).exp().unsqueeze(-1).unbind(-2)  # (..., 1) each
        lead = (absorption - clearance / volume) * HOURS
        lead = torch.where(lead.abs() < 1e-3, 1e-3, lead)  # the curve is smooth there, its formula is 0 / 0
        return (100 * absorption * HOURS / volume * -torch.expm1(-lead) / lead).log() - clearance / volume * HOURS


def exact_moments(vae: pv.VAE, x: Tensor, points: int) -> tuple[Tensor, Tensor]:
    """Means and deviations of p(z | x) by a sum over a grid, (B, 3) each."""
    grid = torch.cartesian_prod(*[torch.linspace(-4.5, 4.5, points)] * 3)  # (G, 3)
    joint = vae.prior().log_prob(grid) + vae.decode(grid).log_prob(x.unsqueeze(1))  # (G,) + (B, G)
    weights = joint.softmax(-1)
    mean = weights @ grid
    return mean, (weights @ grid.square() - mean.square()).sqrt()


def middle(ratio: Tensor) -> str:
    low, median, high = ratio.flatten().quantile(torch.tensor([0.05, 0.5, 0.95])).tolist()
    return f"{median:.2f} ({low:.2f}, {high:.2f})"


def main(args: argparse.Namespace) -> None:
    rows, epochs, simulated, few, particles = (400, 2, 100, 4, 100) if args.smoke else (10_000, 40, 1000, 40, 2000)
    figure, axes = plt.subplots(2, 3, figsize=(15, 8.4), layout="constrained")
    coverage, table = [], []
    print(f"\nRanks of latents behind {simulated} simulated rows among 99 draws of the guide. shape: variance of the ranks")
    print(f"over that of uniform ones, less 1 (standard error {math.sqrt(0.8 / simulated):.2f}); above 0: q is too narrow")
    print(f"{'guide':<20}{'shape:':>8}{NAMES[0]:>12}{NAMES[1]:>12}{NAMES[2]:>9}{'not uniform':>14}{'90 % interval covers':>23}")
    for (name, make), column in zip(GUIDES.items(), range(3)):
        vae = pv.VAE(
            likelihood=pv.likelihoods.Normal(4, scale="fixed", fixed_scale=0.2, standardize=False),
            prior=pv.priors.Normal(3),
            guide=make(),
            encoder=pv.nets.MLP(hidden=(64, 64), activation="silu"),
            decoder=LogConcentration(),
            seed=0,
        )
        x, new = vae.sample(rows, seed=1), vae.sample(200, seed=2)
        rate = pv.schedules.Cosine(5e-3, 1e-5, epochs=epochs)
        vae.fit(x, epochs=epochs, batch_size=250, learning_rate=rate, seed=0)
        ranks = pv.calibration.simulation_based_calibration(vae, num_rows=simulated, seed=3)
        coverage.append(ranks.coverage((0.5, 0.8, 0.9, 0.95)).mean(1))
        print(f"{name:<20}{'':>8}{ranks.shape()[0]:12.2f}{ranks.shape()[1]:12.2f}{ranks.shape()[2]:9.2f}", end="")
        print(f"{len(ranks.miscalibrated):>9} of 3{100 * coverage[-1][2]:21.1f} %")

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", pv.evaluation.UnreliableWarning)  # k-hat is in the table
            evidence = vae.log_likelihood(new, num_particles=particles, seed=4)
        gap = evidence.estimate - vae.elbo(new, num_particles=particles, seed=4).bound
        amortized = pv.calibration.amortization_gap(vae, new[:few], steps=200, learning_rate=0.02, seed=5)
        _, exact = exact_moments(vae, new[:few], 15 if args.smoke else 61)
        drawn = vae.posterior_draws(new[:few], num_samples=2000, seed=6)["z"].std(0)
        mended = vae.posterior_draws(new[:few], num_samples=2000, resample=10 * particles, seed=6)["z"].std(0)
        table.append(
            f"{name:<20}{gap.mean():8.3f} +- {gap.std() / math.sqrt(len(gap)):.3f}"
            f"{amortized.gap.estimate:10.3f} +- {math.hypot(amortized.gap.sampling_error, amortized.gap.monte_carlo_error):.3f}"
            f"{100 * evidence.unreliable.double().mean():10.1f} %{middle(drawn / exact):>20}{middle(mended / exact):>20}"
        )
        if column < 2:
            ranks.plot(axes[0, column]).set_title(f"guides.{name}: ranks")
            points = vae.encode(new).mean[:, [0, 2]]
            plots.khat_map(points, evidence.khat, evidence.threshold, ("absorption", "volume"), axes[1, column])
            axes[1, column].set_title(f"guides.{name}: k-hat by posterior mean")
        if column == 0:
            for values, label, color in ((drawn, "draws of q", plots.VALID), (mended, "resampled", plots.TRAIN)):
                axes[1, 2].plot(exact.flatten(), values.flatten(), ".", color=color, label=label)
    print(table)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="a few seconds, to see whether it runs")
    parser.add_argument("--out", type=Path, default=Path("figures"), help="folder for the figure")
    main(parser.parse_args())
