"""The same hand, another digit: a VAE given the label, draws under chosen labels, and counterfactuals.

`pv.Covariates({"label": [0, ..., 9]})` makes the model p(x | z, label): the latents need not say which digit it is, and
are left with how it was written. `decode_as={"label": 7}` encodes a digit under its own label and decodes it under
another: the same hand, another digit.

How much is the label worth? The mean of log p(x | label) - log p(x) is an estimate of the mutual information of image
and label, which is at most log 10 = 2.30 nats, and reaches that only if the image determines the digit. A conditional
model is also a classifier: by Bayes' rule p(label | x) is proportional to p(x | label) for equally frequent digits.
The model without labels has a mixture of ten normals as prior, as the other one has a normal for each label.

What to look for
- The table. Knowing the label gains about 2.3 nats. More than that means that one of the two models is the better one
  for other reasons; both estimates are lower bounds.
- The accuracy of Bayes' rule, on rows that were not trained on.
- The figure. First column: test digits. The others: the same latents under each label. Slant and thickness stay.

One caution: under a wrong label the guide meets what it was not trained on, and log p(x | label) is too low there. The
warnings about Pareto k-hat say so.

Run it: `python conditional.py` (two minutes); `--smoke` only checks that it runs.

References: *Learning Structured Output Representation using Deep Conditional Generative Models* (Sohn, Lee, Yan, 2015)
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import torch
from torch import Tensor

import pyro_vae as pv
from pyro_vae import plots

DIGITS = list(range(10))


def make(prior: pv.priors.Prior, **more: Any) -> pv.VAE:
    """A VAE of the digits."""
    return pv.VAE(
        likelihood=pv.likelihoods.BetaBinomial((1, 8, 8), 16),
        prior=prior,
        decoder=pv.nets.MLP((256, 256), dropout=0.2),
        seed=0,
        **more,
    )


def by_label(vae: pv.VAE, x: Tensor, num_particles: int) -> Tensor:
    """log p(x | label) of each row under each label, (10, N)."""
    return torch.stack(
        [
            vae.log_likelihood(x, label=torch.full((len(x),), digit), num_particles=num_particles, seed=1).estimate
            for digit in DIGITS
        ]
    )


def main(args: argparse.Namespace) -> None:
    epochs, num_particles = (2, 10) if args.smoke else (150, 500)
    digits = pv.datasets.load("digits")
    x, label = digits.test.x.float(), digits.test.fields["label"]
    covariates = pv.Covariates({"label": DIGITS}, into=("encoder", "decoder", "prior"))
    given = make(pv.priors.Normal(12), covariates=covariates)
    alone = make(pv.priors.Mixture(12, num_components=10))
    for vae in (given, alone):  # the label is a field of the rows, which the model without covariates does not read
        vae.fit(digits.train, elbo=pv.elbos.IWAE(num_particles=3), epochs=epochs, learning_rate=2e-3, seed=0)

    scores = by_label(given, x, num_particles)
    with_label = scores.gather(0, label.unsqueeze(0)).squeeze(0)
    without = alone.log_likelihood(x, num_particles=num_particles, seed=1).estimate
    gain = with_label - without
    right = (scores.argmax(0) == label).double()
    root = math.sqrt(len(x))
    print(f"\n{len(x)} test digits, nats per row (mean +- standard error over rows; lower bounds)")
    print(f"log p(x | label)   {with_label.mean():8.2f} +- {with_label.std() / root:.2f}")
    print(f"log p(x)           {without.mean():8.2f} +- {without.std() / root:.2f}")
    print(f"difference         {gain.mean():8.2f} +- {gain.std() / root:.2f}   (log 10 = {math.log(10):.2f})")
    print(f"Bayes' rule: {100 * right.mean():.1f} +- {100 * right.std() / root:.1f} % of the digits recognized")

    shown = digits.test.subset([int((label == digit).nonzero()[0]) for digit in (0, 1, 3, 5, 7, 8)])
    pictures = [shown.x.float()] + [given.reconstruct(shown, decode_as={"label": digit}) for digit in DIGITS]
    figure, ax = plt.subplots(figsize=(8, 4.6), layout="constrained")
    plots.interpolation(torch.stack(pictures), vmin=0, vmax=16, ax=ax)
    ax.set_xticks([place + 0.5 for place in range(11)], ["data", *map(str, DIGITS)])
    ax.set_title("Test digits, and their latents decoded under each label")
    args.out.mkdir(parents=True, exist_ok=True)
    figure.savefig(args.out / "conditional.png", dpi=120)


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="a few seconds, to see whether it runs")
    parser.add_argument("--out", type=Path, default=Path("figures"), help="folder for the figure")
    return parser.parse_args(argv)


if __name__ == "__main__":
    main(parse())
