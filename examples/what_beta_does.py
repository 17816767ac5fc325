"""What the weight on the KL does: a range of beta, from an autoencoder to a model that ignores its latents.

The ELBO is -(distortion + rate). The *rate*, KL(q(z | x) || p(z)), is the cost of the code: on average, at least the
nats of information that it carries about a row. The *distortion*, -E_q log p(x | z), is how badly the row is then
reconstructed. Training with

    ELBO(kl_weight=beta):   maximize  E_q log p(x | z) - beta * KL

sets the price of a nat of rate, and each beta gives one point of the rate-distortion curve. For beta < 1 the objective
is no lower bound on log p(x), for beta > 1 a looser one; the weight belongs to the estimator, so `vae.elbo` is always
the ELBO.

What to look for
- The curve is decreasing and convex: the first nats of rate save many nats of distortion, the last save almost none. At
  the point trained with beta the slope is about -beta. The line rate + distortion = constant, on which the ELBO is
  constant, touches the curve at beta = 1: there the ELBO is largest, on test rows too unless the model overfits.
- Active units, latents whose posterior mean varies over rows, Var_x(E_q[u | x]) > 0.01: a high price switches latents
  off one by one, in the end all (*posterior collapse*). That is the optimum here, not a failure of the optimizer.
- Draws from the prior: with a small beta the codes of the data are far from N(0, I), and draws from it are pale and
  broken; with a large beta draws are smooth and of few kinds, in the end the mean picture. Reconstructions and draws
  are two aims. Last column: distance of draws to the nearest training digit, in ink per pixel, 0..16 (test rows: 2.2).
- The linear probe, the accuracy on test rows of a logistic regression of the label on the posterior mean, hardly
  changes until the code is nearly empty: log 10 = 2.3 nats tell ten digits apart. The ELBO says little about such uses.

Run it: `python what_beta_does.py` (two minutes); `--smoke` is a quick test that it runs.

References: *beta-VAE* (Higgins et al., 2017), ICLR; *Fixing a Broken ELBO* (Alemi et al., 2018), arXiv 1711.00464;
*Importance Weighted Autoencoders* (Burda, Grosse, Salakhutdinov, 2015), arXiv 1509.00519, for active units
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from sklearn.linear_model import LogisticRegression

import pyro_vae as pv
from pyro_vae import plots

LATENTS = 16


def train(digits: pv.datasets.Splits, beta: float, epochs: int) -> pv.VAE:
    vae = pv.VAE(
        likelihood=pv.likelihoods.Binomial(digits.event_shape, total_count=16),
        prior=pv.priors.Normal(LATENTS),
        encoder=pv.nets.MLP(hidden=(256, 256)),
        decoder=pv.nets.MLP(hidden=(256, 256)),
        seed=0,  # the same initial networks for every beta
    )
    vae.fit(digits.train, elbo=pv.elbos.MeanFieldELBO(kl_weight=beta), epochs=epochs, seed=0)
    return vae


def probe(vae: pv.VAE, digits: pv.datasets.Splits) -> float:
    """Accuracy on test rows of a logistic regression of the label on the posterior means."""
    codes = [vae.encode(rows).mean.numpy() for rows in (digits.train, digits.test)]
    labels = [rows.fields["label"].numpy() for rows in (digits.train, digits.test)]
    return float(LogisticRegression(max_iter=5000).fit(codes[0], labels[0]).score(codes[1], labels[1]))


def main(args: argparse.Namespace) -> None:
    betas, epochs = ((0.2, 1.0, 5.0), 2) if args.smoke else ((0.05, 0.2, 0.5, 1.0, 2.0, 5.0, 20.0, 80.0), 100)
    digits = pv.datasets.load("digits")
    train_x, num_rows = digits.train.x.float().flatten(1), len(digits.test)

    print(f"\n{num_rows} test rows; ELBO, rate and distortion in nats per row (standard error over rows)")
    print(f"{'beta':>6}{'ELBO':>17}{'rate':>14}{'distortion':>16}{'active units':>15}{'linear probe':>18}{'draws':>14}")
    results, draws = [], []
    for beta in betas:
        vae = train(digits, beta, epochs)
        elbo = vae.elbo(digits.test, seed=1)
        active = int((vae.encode(digits.test).mean.var(0) > 0.01).sum())
        accuracy = probe(vae, digits)
        results.append((float(elbo.kl.mean()), float(-elbo.reconstruction.mean())))
        draws.append(vae.sample(500, mean=True, seed=2))  # the same codes for every beta
        distance = torch.cdist(draws[-1].flatten(1), train_x).amin(1) / 8  # root mean square over 8x8 pixels
        terms = (elbo.bound, elbo.kl, -elbo.reconstruction)
        cells = [f"{term.mean():9.2f} ({term.std() / math.sqrt(num_rows):.2f})" for term in terms]
        print(f"{beta:6.2f}{cells[0]:>17}{cells[1]:>14}{cells[2]:>16}{active:>9} of {LATENTS}", end="")
        print(f"{100 * accuracy:11.1f} % ({100 * math.sqrt(accuracy * (1 - accuracy) / num_rows):.1f})", end="")
        print(f"{distance.mean():8.2f} ({distance.std() / math.sqrt(len(distance)):.2f})")

    figure = plt.figure(figsize=(13, 6.5), layout="constrained")
    left, right = figure.subfigures(1, 2)
    rates, distortions = zip(*results, strict=True)
    ax = plots.rate_distortion(rates, distortions, [f"$\\beta$ = {beta:g}" for beta in betas], ax=left.subplots())
    best = results[betas.index(1.0)]
    ax.axline(best, slope=-1, color="black", linestyle=":", label=f"rate + distortion = {sum(best):.1f}")
    ax.set(xlim=(-3, 1.15 * max(rates)), ylim=(0.8 * min(distortions), None), title=f"{num_rows} test digits")
    ax.legend(frameon=False)
    right.suptitle("the same 12 draws from the prior, decoded")
    for beta, pictures, ax in zip(betas, draws, right.subplots(len(betas)), strict=True):
        plots.images(pictures[:12], columns=12, vmin=0, vmax=16, ax=ax)
        ax.set_title(f"$\\beta$ = {beta:g}", loc="left", fontsize=10)
    args.out.mkdir(parents=True, exist_ok=True)
    figure.savefig(args.out / "what_beta_does.png", dpi=120)


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="a few seconds, to see whether it runs")
    parser.add_argument("--out", type=Path, default=Path("figures"), help="folder for the figure")
    return parser.parse_args(argv)


if __name__ == "__main__":
    main(parse())
