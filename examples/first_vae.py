"""A first variational autoencoder: from data to pictures, numbers and a saved model.

A variational autoencoder (VAE) is a latent variable model whose parts are neural networks. Here each row x is a
handwritten digit: 8x8 counts of inked pixels, 0..16. The *model* says how a row comes about,

    z ~ Normal(0, I)  (8 latents: the *code*),    x | z ~ Binomial(16, decoder(z)) in each of the 64 cells,

and the *guide* (encoder, inference network) gives for each x an approximate posterior q(z | x), a normal whose mean and
scale are the output of a second network. Both are trained at once by maximising the evidence lower bound (ELBO),

    log p(x)  >=  E_q log p(x | z) - KL(q(z | x) || p(z))  =  reconstruction - KL,

by stochastic gradients: approximate maximum likelihood for the decoder, variational inference for the codes.

What to look for
- In the table: ELBO <= log-likelihood; the gap is the price of the approximate posterior. Test rows have lower values
  than training rows: networks overfit like any flexible regression, so report test rows. The standard deviation of
  each latent over the codes of the test rows is near 1, as under the prior; one near 0 would mean an unused latent.
- In the figure: reconstructions resemble the digits that they were made from. Decoded draws from the prior resemble
  digits, though their codes belong to no digit in the data. Both are a little blurred, since they are means, E[x | z].

Run it: `python first_vae.py` (about a minute); `--smoke` only checks that it runs.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib.pyplot as plt

import pyro_vae as pv
from pyro_vae import plots


def main(args: argparse.Namespace) -> None:
    epochs, num_particles = (2, 20) if args.smoke else (150, 1000)
    digits = pv.datasets.load("digits")  # 1,257 training, 180 validation and 360 test rows

    vae = pv.VAE(
        likelihood=pv.likelihoods.Binomial(digits.event_shape, total_count=16),
        prior=pv.priors.Normal(8),
        encoder=pv.nets.MLP(hidden=(256, 256)),
        decoder=pv.nets.MLP(hidden=(256, 256)),
        seed=0,
    )
    history = vae.fit(digits.train, epochs=epochs, valid=digits.valid, seed=0)

    x = digits.test.x
    codes = vae.encode(x).mean  # q(z | x) is a distribution; its mean is the code of each row, (360, 8)
    means = vae.reconstruct(x)  # E[x | z] at that code, (360, 1, 8, 8)
    draws = vae.sample(48, mean=True, seed=1)  # E[x | z] at codes drawn from the prior; without mean=True, draws of x

    # log p(x) integrates over all codes: importance sampling with the guide as proposal.
    print(f"\nNats per row, {num_particles} draws per row; in brackets two standard errors: Monte Carlo, over rows")
    for name, rows in (("train", digits.train), ("test", digits.test)):
        elbo = vae.elbo(rows, num_particles=num_particles, seed=2)
        log_likelihood = vae.log_likelihood(rows, num_particles=num_particles, seed=2)
        for what, mean in (("ELBO", elbo.mean()), ("log-likelihood", log_likelihood.mean())):
            print(f"{name:<6} {what:<15}{mean.estimate:9.2f} ({mean.monte_carlo_error:.3f}, {mean.sampling_error:.2f})")
        print(f"{name:<6} reconstruction {elbo.reconstruction.mean():9.2f}, KL {elbo.kl.mean():.2f}")
    print(f"Standard deviation of the codes over test rows, by latent: {', '.join(f'{s:.2f}' for s in codes.std(0))}")

    args.out.mkdir(parents=True, exist_ok=True)
    vae.save(args.out / "first_vae")  # safetensors and JSON: plain data that cannot run code
    again = pv.load(args.out / "first_vae")
    print(f"Saved and loaded; largest difference of a reconstruction: {(again.reconstruct(x) - means).abs().max():.1e}")

    figure = plt.figure(figsize=(10, 6.2), layout="constrained")
    axes = figure.subplot_mosaic([["top", "top"], ["curve", "draws"]], height_ratios=(2, 4))
    plots.reconstructions(x[:14], means[:14], vmin=0, vmax=16, ax=axes["top"]).set_title("test digits, reconstructed")
    plots.training_curve(history, ax=axes["curve"]).set_title("the ELBO by epoch")
    plots.images(draws, columns=8, vmin=0, vmax=16, ax=axes["draws"]).set_title("draws from the prior, decoded")
    figure.savefig(args.out / "first_vae.png", dpi=120)


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="a few seconds, to see whether it runs")
    parser.add_argument("--out", type=Path, default=Path("figures"), help="folder for the figure")
    return parser.parse_args(argv)


if __name__ == "__main__":
    main(parse())
