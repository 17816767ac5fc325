"""Walking from one digit to another: through latent space, straight or on a sphere, and through pixel space.

Pixel by pixel, the midpoint between a 0 and a 1 is both at once, each at half strength: not a digit. Data fill a thin,
curved part of pixel space, and straight lines leave it. The codes of a VAE fill N(0, I) fairly evenly, so that a path
between two codes passes over codes of other plausible digits, and the decoder means E[x | z] stay near data all along.

*Straight*: z_t = (1 - t) z_0 + t z_1. In D dimensions N(0, I) has nearly all its mass near the sphere of radius
sqrt(D), and a chord passes inside it. *Spherical*: the direction turns along the great circle while the length goes
from |z_0| to |z_1|, so that the path stays as far from the origin as its ends are.

What to look for
- The figure. Top line of each block: two digits on top of each other, one fading. Below: one shape that changes.
- The table, at the halfway points of many pairs. The cross-fade is farther from any training digit than the decoded
  codes are, which are about as near as decoded draws from the prior; and it is far less probable under the model.
- Straight or spherical: equally near to training digits; the spherical halfway points are a few nats more probable.
  Shorter codes decode to greyer pictures, in between digits.

Two cautions: decoder means are smoother than data, which brings them nearer to everything and makes them more probable
than real digits; and in the last column the VAE judges its own pictures. The distance does not depend on the VAE.

Run it: `python interpolation.py` (half a minute); `--smoke` only checks that it runs.

References: *Sampling Generative Networks* (White, 2016), arXiv 1609.04468
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

LATENTS, STEPS = 16, 9


def show(value: Tensor | None) -> str:
    """A mean over pictures and its standard error."""
    return f"{value.mean():11.2f} +- {value.std() / math.sqrt(len(value)):.2f}" if value is not None else " " * 19


def main(args: argparse.Namespace) -> None:
    epochs, num_particles = (2, 10) if args.smoke else (150, 500)
    digits = pv.datasets.load("digits")
    train, test, label = digits.train.x.float(), digits.test.x.float(), digits.test.fields["label"]
    vae = pv.VAE(likelihood=pv.likelihoods.Binomial(digits.event_shape, 16), prior=pv.priors.Normal(LATENTS), seed=0)
    vae.fit(digits.train, epochs=epochs, seed=0)

    # Pairs: neighbours in the (random) order of the test rows, if their digits differ.
    start = (label[:-1] != label[1:]).nonzero().squeeze(1)
    x0, x1 = test[start], test[start + 1]
    paths = {
        "cross-fade": torch.stack([(1 - t) * x0 + t * x1 for t in torch.linspace(0, 1, STEPS)]),  # (STEPS, B, 1, 8, 8)
        "straight": vae.interpolate(x0, x1, steps=STEPS),
        "spherical": vae.interpolate(x0, x1, steps=STEPS, path="spherical"),
    }

    z0, z1 = vae.encode(x0).mean, vae.encode(x1).mean
    halfway = {name: path[STEPS // 2] for name, path in paths.items()}
    lengths = {"straight": ((z0 + z1) / 2).norm(dim=-1), "spherical": (z0.norm(dim=-1) + z1.norm(dim=-1)) / 2}
    prior_draws = vae.sample(len(start), mean=True, seed=1)
    lines = {
        "real test digits": (x0, z0.norm(dim=-1)),
        "test digits, reconstructed": (vae.reconstruct(x0), z0.norm(dim=-1)),
        **{f"halfway, {name}": (pictures, lengths.get(name)) for name, pictures in halfway.items()},
        "decoded draws from the prior": (prior_draws, None),
    }
    print(f"\n{len(start)} pairs of test digits of different class (mean +- standard error). Length: of the code, |z|;")
    print(f"that of a draw from the prior is {math.sqrt(LATENTS - 0.5):.2f}. Distance: to the nearest training digit,")
    print("root mean square ink per pixel (0..16). log p(x): of the picture rounded to counts, nats per picture.")
    print(f"{'':<30}{'length':>19}{'distance':>19}{'log p(x)':>19}")
    for name, (pictures, length) in lines.items():
        distance = torch.cdist(pictures.flatten(1), train.flatten(1)).amin(1) / math.sqrt(train[0].numel())
        log_likelihood = vae.log_likelihood(pictures.round(), num_particles=num_particles, seed=2).estimate
        print(f"{name:<30}{show(length)}{show(distance)}{show(log_likelihood)}")

    figure, axes = plt.subplots(3, 2, figsize=(12, 6.6), layout="constrained")
    for pair, ax in zip(range(1, len(start), len(start) // 6), axes.flat, strict=False):
        plots.interpolation(torch.stack([path[:, pair] for path in paths.values()], 1), vmin=0, vmax=16, ax=ax)
        ax.set_yticks([0.5, 1.5, 2.5], list(paths))
        ax.set_title(f"from a {label[start[pair]]} to a {label[start[pair] + 1]}")
    args.out.mkdir(parents=True, exist_ok=True)
    figure.savefig(args.out / "interpolation.png", dpi=120)


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="a few seconds, to see whether it runs")
    parser.add_argument("--out", type=Path, default=Path("figures"), help="folder for the figure")
    return parser.parse_args(argv)


if __name__ == "__main__":
    main(parse())
