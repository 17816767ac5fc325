"""Quadrants of MNIST given others: a conditional VAE beside a network that gives each pixel a probability of its own.

    python benchmarks/conditional.py --data-dir DATA                  # about 45 minutes on one core
    python benchmarks/conditional.py --data-dir DATA --quadrants 1 --epochs 5

MNIST is binarized once. With 1, 2 or 3 quadrants seen (lower left; upper left too; lower right too, as in Sohn et al.
2015 and Pyro's example) the others are x. Reported is log p(unseen | seen) in nats per row on the test rows: exact for
the network; for the conditional VAE a lower bound by importance sampling, with its error over rows. Both stop early on
validation rows, the last 5,000 training rows. Nothing was chosen on the test rows.
"""

from __future__ import annotations

import argparse
import time
import warnings

import torch
from torch import Tensor, nn

import pyro_vae as pv
from pyro_vae.reporting import table

HIDDEN = 500
ORDER = ((1, 0), (0, 0), (1, 1))  # row and column of the quadrants in the order in which they are seen


def split(images: Tensor, num_seen: int) -> tuple[Tensor, Tensor]:
    """The unseen and the seen pixels of images (N, 1, 28, 28), each (N, pixels)."""
    seen = torch.zeros(28, 28, dtype=torch.bool)
    for row, column in ORDER[:num_seen]:
        seen[14 * row : 14 * (row + 1), 14 * column : 14 * (column + 1)] = True
    flat = images.reshape(len(images), -1)
    return flat[:, ~seen.flatten()], flat[:, seen.flatten()]


class Network(nn.Module):
    """Pixels that are independent given the seen ones."""

    def __init__(self, num_seen: int, num_unseen: int, start: Tensor) -> None:
        super().__init__()
        self.net = pv.nets.MLP((HIDDEN, HIDDEN)).build((num_seen,), (num_unseen,))
        self.register_buffer("start", torch.logit(start.clamp(1e-3, 1 - 1e-3)))

    def log_likelihood(self, x: Tensor, seen: Tensor) -> Tensor:
        """log p(unseen | seen) of each row, (N,)."""
        logits = self.net(seen) + self.start
        return -nn.functional.binary_cross_entropy_with_logits(logits, x, reduction="none").sum(-1)


def train_network(data: dict[str, tuple[Tensor, Tensor]], options: argparse.Namespace) -> Network:
    """Adam with early stopping on the validation rows."""
    torch.manual_seed(options.seed)
    (x, seen), valid = data["train"], data["valid"]
    network = Network(seen.shape[1], x.shape[1], x.mean(0))
    adam = torch.optim.Adam(network.parameters(), lr=1e-3)
    best, kept, waited = -torch.inf, {}, 0
    for _ in range(options.epochs):
        for rows in torch.randperm(len(x)).split(128):
            adam.zero_grad()
            (-network.log_likelihood(x[rows], seen[rows]).mean()).backward()
            adam.step()
        with torch.no_grad():
            score = float(network.log_likelihood(*valid).mean())
        best, waited = max(best, score), 0 if score > best else waited + 1
        if waited == 0:
            kept = {name: value.clone() for name, value in network.state_dict().items()}
        if waited == options.patience:
            break
    network.load_state_dict(kept)
    return network


def train_conditional(data: dict[str, tuple[Tensor, Tensor]], options: argparse.Namespace) -> pv.VAE:
    """The conditional VAE: the seen pixels are covariates of encoder, decoder and prior."""
    (x, seen), (x_valid, seen_valid) = data["train"], data["valid"]
    kinds = {"seen": pv.covariates.Binary(seen.shape[1])}
    net = pv.nets.MLP((HIDDEN, HIDDEN))
    vae = pv.VAE(
        likelihood=pv.likelihoods.Bernoulli(x.shape[1]),
        prior=pv.priors.Normal(options.latent_dim),
        encoder=net,
        decoder=net,
        covariates=pv.Covariates(kinds, into=("encoder", "decoder", "prior"), prior_net=net),
        seed=options.seed,
    )
    steps = -(-len(x) // 128) * options.epochs
    vae.fit(
        pv.Rows(x, {"seen": seen}),
        valid=pv.Rows(x_valid, {"seen": seen_valid}),
        elbo=pv.elbos.IWAE(num_particles=options.num_particles),
        epochs=options.epochs,
        learning_rate=lambda step: 1e-3 * max(0.02, 1 - step / steps),
        patience=options.patience,
        seed=options.seed,
        progress=False,
    )
    return vae


def compare(num_seen: int, images: dict[str, Tensor], options: argparse.Namespace) -> dict[str, str]:
    """Both models with so many quadrants seen, as a line of the table."""
    data = {name: split(part, num_seen) for name, part in images.items()}
    x, seen = data["test"]
    start = time.perf_counter()
    network = train_network(data, options)
    with torch.no_grad():
        exact = network.log_likelihood(x, seen).double()
    between = time.perf_counter()
    vae = train_conditional(data, options)
    bound = vae.log_likelihood(pv.Rows(x, {"seen": seen}), num_particles=options.num_draws, seed=0)
    gain = bound.estimate.double() - exact
    return {
        "quadrants seen": str(num_seen),
        "network": f"{exact.mean():.2f}",
        "conditional VAE": f">= {bound.estimate.mean():.2f}",
        "gain": f"{gain.mean():.2f} +- {gain.std() / len(gain) ** 0.5:.2f}",
        "flagged": f"{bound.flagged_share:.0%}",
        "minutes": f"{(between - start) / 60:.1f}, {(time.perf_counter() - between) / 60:.1f}",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", required=True, help="folder of MNIST")
    parser.add_argument("--quadrants", type=int, nargs="+", choices=(1, 2, 3), default=[1, 2, 3])
    parser.add_argument("--epochs", type=int, default=40, help="largest number of epochs")
    parser.add_argument("--patience", type=int, default=8, help="epochs without a better validation bound")
    parser.add_argument("--latent-dim", type=int, default=32)
    parser.add_argument("--num-particles", type=int, default=3, help="of the IWAE bound that is trained")
    parser.add_argument("--num-draws", type=int, default=500, help="importance samples for each test row")
    parser.add_argument("--rows", type=int, help="the first N rows of each part, for a trial")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    splits = pv.datasets.load("mnist", data_dir=options.data_dir, binarize="static")
    parts = {"train": splits.train, "valid": splits.valid, "test": splits.test}
    images = {name: rows.x[: options.rows].float() for name, rows in parts.items()}
    lines = []
    for num_seen in options.quadrants:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", pv.evaluation.UnreliableWarning)  # the share of flagged rows is printed
            warnings.filterwarnings("ignore", "Columns .* of x are constant")  # pixels of the border
            lines.append(compare(num_seen, images, options))
        print(table(lines[-1:]), flush=True)
    print("log p(unseen | seen), nats per row; minutes of the network, and of the conditional VAE with its evaluation")
    print(table(lines))


if __name__ == "__main__":
    main()
