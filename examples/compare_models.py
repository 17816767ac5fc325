"""Which model is better? Held-out log p(x) of four models of the digits, and how far the numbers can be trusted.

`pv.compare` ranks models by log p(x) of rows that none was trained on, with differences paired by row. But log p(x) is
an integral over the latents. Importance sampling estimates it from draws of the guide and is too low on average, the
more so the worse the guide: a comparison of *models* becomes one of *encoders*. One model here has a poor encoder, an
affine map, with the same decoder as the others. Annealed importance sampling (AIS) moves draws from the guide to the
posterior by Hamiltonian Monte Carlo and depends far less on the guide; it is slower, so it is run on some rows only.

What to look for
- k-hat is above its threshold in nearly all rows, for 5000 particles as for 50. Monte Carlo error and `bias` come from
  the same weights and are then unreliable: they are one or two tenths of a nat, and scores are 0.5 to 7 nats too low.
- The same 40 rows by four methods: better methods raise the affine encoder's score most. With a hundred times more
  particles it is as far behind IWAE as before; AIS closes 3 of 8 nats: that part was a worse guide, not a worse model.
  The model with 8 latents has the best-fitting guide, and falls behind. Closer models might change their order.
- AIS has a high k-hat too, in about half of the rows: for 32 chains the threshold is strict, 0.34. Two facts support
  AIS: four times the steps add at most about half a nat, and the sandwich. For rows drawn from a model, exact posterior
  draws are known, so that AIS can also run backwards and give an upper estimate; it agrees with the lower to 0.1 nats.
  Importance sampling of the same rows with 5000 particles is 6 nats below, with a stated error of 0.1.

Run it: `python compare_models.py` (two minutes); `--smoke` is a quick test that it runs.

References: *On the Quantitative Analysis of Decoder-Based Generative Models* (Wu et al., 2017), arXiv 1611.04273;
*Sandwiching the Marginal Likelihood Using Bidirectional Monte Carlo* (Grosse et al., 2015), arXiv 1511.02543
"""

from __future__ import annotations

import argparse
import math
import warnings
from pathlib import Path

import matplotlib.pyplot as plt

import pyro_vae as pv
from pyro_vae import plots
from pyro_vae.evaluation import AIS

MODELS = {  # latents, hidden layer of the encoder, estimator
    "IWAE": (16, (256,), pv.elbos.IWAE(num_particles=10)),
    "ELBO": (16, (256,), pv.elbos.ELBO()),
    "ELBO, affine encoder": (16, (), pv.elbos.ELBO()),
    "ELBO, 8 latents": (8, (256,), pv.elbos.ELBO()),
}
POOR = "ELBO, affine encoder"


def fit(train: pv.Rows, latents: int, hidden: tuple[int, ...], elbo: pv.elbos.Estimator, epochs: int) -> pv.VAE:
    vae = pv.VAE(
        likelihood=pv.likelihoods.Binomial((1, 8, 8), total_count=16),
        prior=pv.priors.Normal(latents),
        encoder=pv.nets.MLP(hidden),
        decoder=pv.nets.MLP((256,), dropout=0.1),
        seed=0,
    )
    vae.fit(train, elbo=elbo, epochs=epochs, seed=0)
    return vae


def main(args: argparse.Namespace) -> None:
    warnings.simplefilter("ignore", pv.evaluation.UnreliableWarning)  # the tables count these rows
    epochs, count, particles, steps = (1, 10, 200, (2, 4)) if args.smoke else (60, 40, 5000, (20, 80))
    data = pv.datasets.load("digits")
    test = data.test.subset(slice(0, 2 * count if args.smoke else None))
    models = {name: fit(data.train, *parts, epochs) for name, parts in MODELS.items()}
    methods = {f"K = {k}": pv.compare(models, test, num_particles=k, seed=1) for k in (50, particles)}
    few = test.subset(slice(0, count))
    for t in steps:
        methods[f"AIS, {t} steps"] = pv.compare(models, few, num_particles=32, method=AIS(num_steps=t), seed=1)
    for name, found in methods.items():
        print(f"\n{name}\n{found}")

    values = {name: [found.results[name].estimate[:count] for found in methods.values()] for name in MODELS}
    print(f"\nThe first {count} test rows, log p(x) in nats per row")
    print(f"{'':<22}" + "".join(f"{method:>17}" for method in methods))
    for name, by_method in values.items():
        print(f"{name:<22}" + "".join(f"{value.mean():17.2f}" for value in by_method))
    print("Difference to IWAE +- standard error, paired by row")
    for name in list(MODELS)[1:]:
        gaps = [value - other for value, other in zip(values[name], values["IWAE"], strict=True)]
        print(f"{name:<22}" + "".join(f"{gap.mean():9.2f} +- {gap.std() / math.sqrt(count):.2f}" for gap in gaps))

    between = models[POOR].sandwich(count, num_particles=32, method=AIS(num_steps=steps[1]), seed=2)
    sampled = [models[POOR].log_likelihood(between.x, num_particles=k, seed=3) for k in (50, particles)]
    print(f"\nSandwich, {count} rows drawn from '{POOR}': mean log p(x) in nats per row, Monte Carlo error")
    lines = *zip(methods, sampled, strict=False), ("AIS, lower", between.lower), ("AIS, upper", between.upper)
    for name, result in lines:
        print(f"{name:<12}{result.mean().estimate:9.2f} +- {result.mean().monte_carlo_error:.2f}")

    figure, axes = plt.subplots(2, 3, figsize=(16, 8.5), layout="constrained")
    first, *_, last = methods
    for ax, name in zip(axes[0], (first, last), strict=False):
        num_rows = len(methods[name].results["IWAE"].estimate)
        methods[name].plot(ax=ax).set(title=f"{name}, {num_rows} rows", xlim=None if args.smoke else (-23, 1))
    for (name, by_method), color in zip(values.items(), plots.COLORS, strict=False):
        axes[0, 2].plot(list(methods), [value.mean() for value in by_method], "o-", color=color, label=name)
    axes[0, 2].set(ylabel="log p(x) (nats per row)", title=f"Better methods have less bias: first {count} rows")
    methods[f"K = {particles}"].results[POOR].plot(ax=axes[1, 0]).set_title(f"{POOR}, K = {particles}")
    for place, color, marker in ((0, plots.COLORS[1], "s"), (1, plots.COLORS[0], "o")):
        axes[1, 1].plot(values[POOR][-1], values[POOR][place], marker, color=color, label=list(methods)[place])
        order = between.lower.estimate.argsort()
        axes[1, 2].plot(sampled[place].estimate[order], marker, color=color, markersize=4, label=list(methods)[place])
    axes[1, 1].axline((-100, -100), slope=1, color="black", linewidth=0.8)
    axes[1, 1].set(xlabel=f"log p(x) by {last} (nats)", ylabel="by importance sampling (nats)", title=f"{POOR}: rows")
    between.plot(ax=axes[1, 2]).set_title(f"{POOR}: sandwich of {count} simulated rows")
    axes[1, 0].margins(y=0.2)  # room for the legend
    for ax, place in zip((axes[0, 2], *axes[1]), ((0.45, 0.2), *2 * ["upper left"], "lower right"), strict=True):
        ax.legend(frameon=False, loc=place)
        ax.spines[["top", "right"]].set_visible(False)
    axes[0, 2].tick_params(axis="x", labelsize="small")
    args.out.mkdir(parents=True, exist_ok=True)
    figure.savefig(args.out / "compare_models.png", dpi=120)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="a few seconds, to see whether it runs")
    parser.add_argument("--out", type=Path, default=Path("figures"), help="folder for the figure")
    main(parser.parse_args())
