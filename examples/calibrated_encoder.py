"""Is the encoder's q(z | x) the posterior? Ranks, coverage, gaps and k-hat of three guides, and resampled draws.

Four blood samples after a dose carry information about a patient's absorption rate, clearance and volume of
distribution. The latents are their standardized logarithms, z ~ N(0, I). The decoder is the known curve, only the guide
is trained, and a sum over a grid gives the exact posterior. It is correlated: fast absorption and a large volume nearly
cancel in the early samples. "SD" stands for the standard deviation of a latent.

What to look for
- Normal: ranks form a U, since q is too narrow: its 90 % intervals hold 74 % of the latents. It loses half a nat, not
  by the encoder but because the family has no correlations. Its SDs are 0.63 of the exact ones (median), those after
  resampling 0.89: half of the rows have a k-hat above 0.7, and weights cannot make up for what q hardly ever draws.
- MultivariateNormal: 88 % are covered, 0.09 nats lost, since posteriors are skewed. Resampling corrects the SDs.
- Flow: calibrated. Some rows still have a high k-hat, which depends on the tails; ranks hardly do.
- The gap of the encoder, the gain from optimizing q for each row, is stochastic: a value below 0 means no gain.

Run it: `python calibrated_encoder.py` (about a minute); `--smoke` is a quick test that it runs.
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
LEVELS = (0.5, 0.8, 0.9, 0.95)


class LogConcentration(nn.Module):
    """The curve of one compartment with first-order absorption, at HOURS: z (..., 3) -> (..., 4)."""

    def forward(self, z: Tensor) -> Tensor:
        absorption, clearance, volume = (TYPICAL + SPREAD * z).exp().unsqueeze(-1).unbind(-2)  # (..., 1) each
        lead = (absorption - clearance / volume) * HOURS
        lead = torch.where(lead.abs() < 1e-3, 1e-3, lead)  # the curve is smooth there, its formula is 0 / 0
        return (100 * absorption * HOURS / volume * -torch.expm1(-lead) / lead).log() - clearance / volume * HOURS


def exact_scales(vae: pv.VAE, x: Tensor, points: int) -> Tensor:
    """Standard deviations of p(z | x), by a sum over a grid, (B, 3)."""
    grid = torch.cartesian_prod(*[torch.linspace(-4.5, 4.5, points)] * 3)  # (G, 3)
    weights = (vae.prior().log_prob(grid) + vae.decode(grid).log_prob(x.unsqueeze(1))).softmax(-1)  # (B, G)
    return (weights @ grid.square() - (weights @ grid).square()).sqrt()


def middle(ratio: Tensor) -> str:
    low, median, high = ratio.flatten().quantile(torch.tensor([0.05, 0.5, 0.95])).tolist()
    return f"{median:.2f} ({low:.2f}, {high:.2f})"


def main(args: argparse.Namespace) -> None:
    num_rows, epochs, simulated, steps, draws = (400, 2, 100, 5, 100) if args.smoke else (10_000, 30, 1000, 100, 2000)
    warnings.simplefilter("ignore", pv.evaluation.UnreliableWarning)  # k-hat is in the table
    figure, axes = plt.subplots(2, 3, figsize=(16, 8), layout="constrained")
    rate = pv.schedules.Cosine(5e-3, 1e-5, epochs=epochs)
    guides = pv.guides.Normal(), pv.guides.MultivariateNormal(), pv.guides.Flow(layers=3)
    names, covered, lines = [type(guide).__name__ for guide in guides], [], []
    print(f"\nRanks of the latents of {simulated} simulated rows among 99 draws from q. shape: their variance over")
    print(f"that of uniform ranks, minus 1 (standard error {math.sqrt(0.8 / simulated):.2f}); above 0 q is too narrow")
    print(f"{'guide':<20}{'shape, by latent':>22}{'not uniform':>14}{'90 % intervals cover':>23}")
    for name, guide, top, low in zip(names, guides, *axes, strict=True):
        likelihood = pv.likelihoods.Normal(4, scale="fixed", fixed_scale=0.2, standardize=False)
        parts = {"prior": pv.priors.Normal(3), "encoder": pv.nets.MLP(hidden=(64, 64), activation="silu")}
        vae = pv.VAE(likelihood=likelihood, guide=guide, decoder=LogConcentration(), **parts, seed=0)
        vae.fit(vae.sample(num_rows, seed=1), epochs=epochs, batch_size=250, learning_rate=rate, seed=0)
        ranks = pv.calibration.simulation_based_calibration(vae, num_rows=simulated, seed=3)
        covered.append(ranks.coverage(LEVELS).mean(1))
        shape = "".join(f"{value:8.2f}" for value in ranks.shape())
        print(f"{name:<18}{shape}{len(ranks.miscalibrated):>9} of 3{100 * covered[-1][2]:21.1f} %")

        new = vae.sample(200, seed=2)
        few = new[:40]
        evidence = vae.log_likelihood(new, num_particles=draws, seed=4)
        gap = evidence.estimate - vae.elbo(new, num_particles=draws, seed=4).bound
        gained = pv.calibration.amortization_gap(vae, few, steps=steps, learning_rate=0.02, seed=5).gap
        error = math.hypot(gained.sampling_error, gained.monte_carlo_error)
        exact = exact_scales(vae, few, 15 if args.smoke else 61)
        plain = vae.posterior_draws(few, num_samples=draws, seed=6)["z"].std(0)
        better = vae.posterior_draws(few, num_samples=draws, num_candidates=10 * draws, seed=6)["z"].std(0)
        lines.append(
            f"{name:<20}{gap.mean():7.3f} +- {gap.std() / math.sqrt(len(gap)):.3f}{gained.estimate:9.3f} +- {error:.3f}"
            f"{100 * evidence.unreliable.double().mean():8.1f} %{middle(plain / exact):>20}{middle(better / exact):>20}"
        )
        if name != "Flow":
            ranks.plot(top).set(ylim=(-0.15, 0.2), title=f"ranks, guides.{name}")
            top.legend(frameon=False)
            place = vae.encode(new).mean[:, [0, 2]]
            plots.khat_map(place, evidence.khat, evidence.threshold, ("log absorption, z[0]", "log volume, z[2]"), low)
            low.set_title(f"means of q, guides.{name}")
        if name == "Normal":
            for values, label, color in ((plain, "draws of q", plots.VALID), (better, "resampled", plots.TRAIN)):
                axes[1, 2].plot(exact.flatten(), values.flatten(), ".", color=color, label=label)

    print("\nGaps in nats per row +- standard error; SD of draws over the exact SD: median (5 %, 95 %)")
    print(f"{'guide':<20}{'log p(x) - ELBO':>16}{'of the encoder':>18}{'high k-hat':>12}{'draws':>18}{'resampled':>20}")
    print("\n".join(lines))
    plots.coverage(LEVELS, torch.stack(covered, 1), names=names, ax=axes[0, 2])
    axes[0, 2].set_title("central intervals of q")
    axes[0, 2].legend(frameon=False)
    axes[1, 2].axline((0.5, 0.5), slope=1, color="black", linewidth=0.8)
    axes[1, 2].set(xlabel="exact SD of p(z | x)", ylabel="SD of draws", title="standard deviations, guides.Normal")
    axes[1, 2].legend(frameon=False)
    args.out.mkdir(parents=True, exist_ok=True)
    figure.savefig(args.out / "calibrated_encoder.png", dpi=120)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="a few seconds, to see whether it runs")
    parser.add_argument("--out", type=Path, default=Path("figures"), help="folder for the figure")
    main(parser.parse_args())
