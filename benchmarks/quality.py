"""Held-out quality on scikit-learn's digits beside classical models, paired by row.

    python benchmarks/quality.py

1. Counts: the default VAE, with a BetaBinomial(16) likelihood, beside a mixture of 20 products of binomials, fitted by
   EM.
2. Real values: a VAE with a Normal likelihood beside probabilistic PCA with the same number of latents, both on the
   same dequantized data (x + u) / 17 with u uniform.

Log-likelihoods are in nats per row; those of the VAE are by annealed importance sampling on all rows, and lower bounds
in expectation. The difference is the mean over the 360 test rows of the VAE's log-likelihood minus
the other model's, and its standard error is that of this mean.
"""

from __future__ import annotations

import argparse
import math
import tempfile

import torch
from sklearn.decomposition import PCA
from torch import Tensor

import pyro_vae as pv
from pyro_vae import cli
from pyro_vae.evaluation import AuditedLogLikelihood

COMPONENTS, LATENTS = 20, 10


def mixture_of_binomials(
    train: Tensor, test: Tensor, total: int = 16, iterations: int = 200, restarts: int = 5
) -> Tensor:
    """Log-likelihood of each test row under a mixture of products of binomials.

    It is fitted by EM with Jeffreys smoothing; of the restarts, the one with the best training likelihood counts.
    """
    best, best_score = torch.zeros(()), -math.inf
    for restart in range(restarts):
        generator = torch.Generator().manual_seed(restart)
        start = train[torch.randperm(len(train), generator=generator)[:COMPONENTS]]
        probs, weights = (start + 1) / (total + 2), torch.full((COMPONENTS,), 1 / COMPONENTS)
        for _ in range(iterations):
            joint = _log_joint(train, probs, weights, total)
            share = joint.softmax(1)
            mass = share.sum(0)
            probs = (share.T @ train + 0.5) / (total * mass[:, None] + 1)
            weights = mass / len(train)
        score = float(_log_joint(train, probs, weights, total).logsumexp(1).mean())
        if score > best_score:
            best, best_score = _log_joint(test, probs, weights, total).logsumexp(1), score
    return best


def _log_joint(x: Tensor, probs: Tensor, weights: Tensor, total: int) -> Tensor:
    """log p(x, component): (N, COMPONENTS)."""
    top = torch.tensor(float(total)).to(x)
    choose = (torch.lgamma(top + 1) - torch.lgamma(x + 1) - torch.lgamma(top - x + 1)).sum(1, keepdim=True)
    return choose + x @ probs.log().T + (total - x) @ (1 - probs).log().T + weights.log()


def report(name: str, vae: AuditedLogLikelihood, other_name: str, other: Tensor) -> None:
    scores = vae.better.estimate if vae.corrects else vae.cheap.estimate[vae.index]
    difference = scores - other[vae.index]
    paired = float(difference.std() / len(difference) ** 0.5)
    print(f"{name:34s} {vae.mean()} nats per row; importance sampling alone: {vae.cheap.mean().estimate:.2f}")
    print(f"{other_name:34s} {float(other.mean()):9.2f}")
    found = f"{float(difference.mean()):9.2f} +- {paired:.2f} (paired standard error, {len(difference)} rows)"
    print(f"{'difference':34s} {found}\n")


def score(vae: pv.LatentVariableModel, test: pv.Rows | Tensor) -> AuditedLogLikelihood:
    return vae.audited_log_likelihood(test, num_rows=len(test), seed=0)


def counts() -> None:
    data = pv.datasets.load("digits")
    with tempfile.TemporaryDirectory() as folder:
        cli.main(["train", "--run-dir", folder, "--overwrite", "--no-pictures"])
        result = score(pv.load(folder), data.test)
    train, valid, test = (part.x.double().flatten(1) for part in (data.train, data.valid, data.test))
    other = mixture_of_binomials(torch.cat([train, valid]), test)
    report("VAE, defaults, BetaBinomial(16)", result, f"mixture of {COMPONENTS} binomials", other)


def dequantize(x: Tensor) -> Tensor:
    """(x + u) / 17 for counts x from 0 to 16, with new uniform noise u at each call."""
    return (x + torch.rand_like(x)) / 17


def real_values() -> None:
    data = pv.datasets.load("digits")
    generator = torch.Generator().manual_seed(0)
    fixed = {
        name: (part.x + torch.rand(part.x.shape, generator=generator)) / 17
        for name, part in (("train", data.train), ("valid", data.valid), ("test", data.test))
    }
    classical = PCA(LATENTS).fit(torch.cat([fixed["train"], fixed["valid"]]).flatten(1).double().numpy())
    other = torch.from_numpy(classical.score_samples(fixed["test"].flatten(1).double().numpy()))
    for scale in ("shared", "predicted"):
        vae = pv.VAE(
            likelihood=pv.likelihoods.Normal((1, 8, 8), scale=scale),
            prior=pv.priors.Normal(LATENTS),
            encoder=pv.nets.MLP(hidden=(512,)),
            decoder=pv.nets.MLP(hidden=(512,)),
            seed=0,
        )
        rows = pv.Rows(data.train.x, transform=dequantize)
        vae.fit(rows, valid=fixed["valid"], epochs=400, patience=40, seed=0)
        result = score(vae, fixed["test"])
        name = f"VAE, Normal({scale}), {LATENTS} latents"
        report(name, result, f"probabilistic PCA, {LATENTS} latents", other)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    counts()
    real_values()


if __name__ == "__main__":
    main()
