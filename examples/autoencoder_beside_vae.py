"""Why not just an autoencoder? A deterministic autoencoder beside a variational one, with the same networks.

An autoencoder (AE) compresses each row x to a code z = encoder(x) and decodes it; it is trained on the reconstruction
alone, -log p(x | z). A VAE adds two things: the code is random, z ~ q(z | x), and the KL divergence from q(z | x) to
the prior p(z) = N(0, I), in nats, is added to the loss. Layers, number of latents (16) and Binomial(16) likelihood are
the same here. The AE reconstructs better, since its codes are unconstrained; but nothing says which codes are plausible
either: it is not a probability model of x, and cannot generate new data.

What to look for
- Reconstructions (top): both are good; in nats per test row the AE is better.
- Random codes, decoded (middle). The AE's codes do not follow N(0, I), and draws from it decode to grey stains. Draws
  from a normal with the codes' mean and standard deviations decode to blots, broken strokes and a few digits, since
  that normal ignores the gaps between codes. The VAE's draws from its prior are mostly digits, as it was trained for.
- The codes (bottom; two principal components of 16): the AE's lie on a scale of their own, with gaps; the VAE's, drawn
  from q(z | x), fill the prior; the circles hold 39, 86 and 99 % of N(0, I).
- The distance of pictures to the nearest training digit, and the share that is as near as 95 % of real test digits. It
  is a blunt measure (decoder means are smoother than data, hence nearer), but the same for all.

Run it: `python autoencoder_beside_vae.py` (about a minute); `--smoke` only checks that it runs.

References: *Auto-Encoding Variational Bayes* (Kingma, Welling, 2013), arXiv 1312.6114; *From Variational to
Deterministic Autoencoders* (Ghosh et al., 2020), arXiv 1903.12436
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from torch import Tensor

import pyro_vae as pv
from pyro_vae import plots

LATENTS, BATCH_SIZE = 16, 128
NETS = pv.nets.MLP(hidden=(256, 256))  # the same recipe for all four networks


def train_autoencoder(x: Tensor, likelihood: pv.likelihoods.Likelihood, epochs: int) -> tuple[torch.nn.Module, ...]:
    """Plain PyTorch, no distributions over codes: minimize -log p(x | z = encoder(x)) by Adam."""
    torch.manual_seed(0)
    encoder = NETS.build(likelihood.event_shape, (LATENTS,))
    decoder = NETS.build((LATENTS,), likelihood.event_shape)
    optimizer = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], lr=1e-3)
    for _ in range(epochs):
        for batch in x[torch.randperm(len(x))].split(BATCH_SIZE):
            optimizer.zero_grad()
            (-likelihood(decoder(encoder(likelihood.features(batch)))).log_prob(batch).mean()).backward()
            optimizer.step()
    return encoder.requires_grad_(False), decoder.requires_grad_(False)


def nearest(pictures: Tensor, x: Tensor) -> Tensor:
    """Root mean square difference in ink per pixel to the nearest training digit, (B,)."""
    return torch.cdist(pictures.flatten(1), x.flatten(1)).amin(1) / math.sqrt(x[0].numel())


def show(value: Tensor, digits: int = 2) -> str:
    """Mean over rows or pictures and its standard error."""
    return f"{value.mean():9.{digits}f} +- {value.std() / math.sqrt(len(value)):.{digits}f}"


def main(args: argparse.Namespace) -> None:
    epochs, num_draws = (2, 20) if args.smoke else (200, 1000)
    digits = pv.datasets.load("digits")
    train, test, label = digits.train.x.float(), digits.test.x.float(), digits.test.fields["label"]

    likelihood = pv.likelihoods.Binomial(digits.event_shape, total_count=16)
    vae = pv.VAE(likelihood=likelihood, prior=pv.priors.Normal(LATENTS), encoder=NETS, decoder=NETS, seed=0)
    vae.fit(train, epochs=epochs, batch_size=BATCH_SIZE, seed=0)  # starts the likelihood at the training rows' mean
    encoder, decoder = train_autoencoder(train, likelihood, epochs)

    codes = {"AE": encoder(likelihood.features(test)), "VAE": vae.encode(test).mean}
    decode = {"AE": lambda z: likelihood(decoder(z)), "VAE": vae.decode}
    noise, fitted = torch.randn(num_draws, LATENTS), encoder(likelihood.features(train))
    drawn = {
        "AE, codes from N(0, I)": decode["AE"](noise).mean,
        "AE, codes from a fitted normal": decode["AE"](fitted.mean(0) + fitted.std(0) * noise).mean,
        "VAE, codes from its prior N(0, I)": decode["VAE"](noise).mean,
    }

    print("\nReconstruction of test rows at the code's mean, log p(x | z), nats per row (mean +- standard error)")
    for name, z in codes.items():
        print(f"  {name:<34}{show(decode[name](z).log_prob(test))}")
    print("Distance to the nearest training digit, root mean square ink per pixel (0..16); share as near as data")
    limit = nearest(test, train).quantile(0.95)
    for name, pictures in {"real test digits": test, **drawn}.items():
        distance = nearest(pictures, train)
        print(f"  {name:<34}{show(distance)}{show(100.0 * (distance <= limit), 1)} %")
    print(f"ELBO of the VAE, nats per test row:{show(vae.elbo(test, seed=2).bound)}; the AE has none")
    figure = plt.figure(figsize=(13, 11), layout="constrained")
    top, middle, bottom = figure.subfigures(3, 1, height_ratios=(1.8, 3, 5.5))
    for ax, (name, z) in zip(top.subplots(1, 2), codes.items(), strict=True):
        plots.reconstructions(test[:10], decode[name](z[:10]).mean, vmin=0, vmax=16, ax=ax)
        ax.set_title(f"{name}: test digits reconstructed")
    for ax, (name, pictures) in zip(middle.subplots(1, 3), drawn.items(), strict=True):
        plots.images(pictures[:40], columns=8, vmin=0, vmax=16, ax=ax).set_title(name)
    codes["VAE"] = vae.encode(test).sample()  # draws, as the prior describes them; the AE's codes are points
    for ax, (name, z) in zip(bottom.subplots(1, 2), codes.items(), strict=True):
        mean, axis = z.mean(0), torch.pca_lowrank(z, LATENTS)[2][:, :2]
        plots.latent_map((z - mean) @ axis, label, names=("first principal component", "second"), ax=ax)
        for radius in (1, 2, 3):  # N(0, I) stays a standard normal under an orthogonal projection
            ax.add_patch(plt.Circle((-mean @ axis).tolist(), radius, fill=False, linewidth=1.5))
        ax.set_title(f"{name}: codes of test digits; circles: N(0, I)")
    args.out.mkdir(parents=True, exist_ok=True)
    figure.savefig(args.out / "autoencoder_beside_vae.png", dpi=120)


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="a few seconds, to see whether it runs")
    parser.add_argument("--out", type=Path, default=Path("figures"), help="folder for the figure")
    return parser.parse_args(argv)


if __name__ == "__main__":
    main(parse())
