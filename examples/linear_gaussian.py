"""A VAE that can be checked by hand: a linear-Gaussian model against probabilistic PCA.

With an affine decoder and one noise level, z ~ N(0, I), x | z ~ N(W z + b, s^2 I), a VAE *is* probabilistic PCA. Its
evidence is known, x ~ N(b, W W' + s^2 I); the maximum likelihood estimate has a closed form, from the eigenvalues and
eigenvectors of the sample covariance; the posterior of z is normal, with a mean affine in x. Everything that a VAE
approximates can therefore be compared with the exact answer:

1. Training is stochastic: does the evidence reach its maximum? (First, second and third line of the table. The true
   parameters lie below the maximum by about free parameters / (2 N) = 38 / 2000 = 0.019 nats per row.)
2. `log_likelihood` is importance sampling: does it agree with the exact evidence of the trained weights? (Fourth line.)
3. `elbo` is a lower bound: how large is the gap? It is the KL from q(z | x) to the exact posterior. The latents are
   independent under q and, for a general W, correlated under the posterior. The gap closes all the same, since training
   rotates W until its columns are orthogonal, and a rotation does not change the evidence. (Fifth line. Left picture:
   the quick rise is the fit, the slow rise the rotation; the jitter comes from training with one draw of z per row.)

Run it: `python linear_gaussian.py` (half a minute); `--smoke` only checks that it runs.

References: *Probabilistic Principal Component Analysis* (Tipping, Bishop, 1999), JRSS B 61(3); *Don't Blame the ELBO! A
Linear VAE Perspective on Posterior Collapse* (Lucas et al., 2019), arXiv 1911.02469
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

import pyro_vae as pv
from pyro_vae import plots

CELLS, LATENTS = 10, 3


def evidence(loadings: Tensor, shift: Tensor, scale: Tensor) -> MultivariateNormal:
    """p(x) = N(b, W W' + s^2 I), in double precision."""
    w, b, s = loadings.double(), shift.double(), scale.double()
    return MultivariateNormal(b, w @ w.T + s.square() * torch.eye(len(b), dtype=b.dtype))


def maximum_likelihood(x: Tensor) -> MultivariateNormal:
    """W from the leading eigenvectors, s^2 the mean of the remaining eigenvalues (Tipping and Bishop, eq. 7 and 8)."""
    values, vectors = torch.linalg.eigh(torch.cov(x.double().T, correction=0))
    noise = values[:-LATENTS].mean()
    return evidence(vectors[:, -LATENTS:] * (values[-LATENTS:] - noise).sqrt(), x.double().mean(0), noise.sqrt())


def show(name: str, per_row: Tensor, best: Tensor) -> None:
    """A mean over rows, and how far it is below the best, with the standard error of the *paired* difference."""
    gap = best - per_row
    print(f"  {name:<42}{per_row.mean():9.4f}{gap.mean():11.4f} +- {gap.std() / math.sqrt(len(gap)):.4f}")


def main(args: argparse.Namespace) -> None:
    rows, epochs, particles = (200, 3, 20) if args.smoke else (1000, 500, 1000)
    torch.manual_seed(0)
    true = {"loadings": torch.randn(CELLS, LATENTS), "shift": torch.randn(CELLS), "scale": torch.tensor(0.7)}
    x = true["shift"] + torch.randn(rows, LATENTS) @ true["loadings"].T + true["scale"] * torch.randn(rows, CELLS)

    affine = pv.nets.MLP(hidden=())  # no hidden layers
    likelihood = pv.likelihoods.Normal(CELLS, scale="shared")
    vae = pv.VAE(likelihood=likelihood, prior=pv.priors.Normal(LATENTS), encoder=affine, decoder=affine, seed=0)

    def rate(step: int) -> float:  # falls to zero along half a cosine: at a constant rate the parameters never settle
        return 1e-5 + 0.01 * (1 + math.cos(math.pi * min(100 * step / (rows * epochs), 1)))

    history = vae.fit(x, elbo=pv.elbos.MeanFieldELBO(), epochs=epochs, batch_size=100, learning_rate=rate, seed=0)

    # W, b and s of the trained decoder: p(x | z) at the origin and at the unit vectors.
    decoded = vae.decode(torch.cat([torch.zeros(1, LATENTS), torch.eye(LATENTS)]))
    shift, scale = decoded.mean[0], decoded.stddev[0, 0]
    loadings = (decoded.mean[1:] - shift).T
    best = maximum_likelihood(x).log_prob(x.double())
    importance = vae.log_likelihood(x, num_particles=particles, seed=1)
    elbo = vae.elbo(x, num_particles=particles, seed=1)
    print(f"\nLog evidence of {rows} rows, nats per row; how far below the best, with the standard error over rows")
    show("maximum likelihood, closed form", best, best)
    show("true parameters, closed form", evidence(**true).log_prob(x.double()), best)
    show("trained VAE, closed form", evidence(loadings, shift, scale).log_prob(x.double()), best)
    show(f"trained VAE, importance sampling, K = {particles}", importance.estimate, best)
    show("trained VAE, ELBO", elbo.bound, best)
    print(f"Monte Carlo standard error: importance sampling {importance.mean().monte_carlo_error:.5f}", end="")
    print(f", ELBO {elbo.mean().monte_carlo_error:.5f} nats per row")

    # The exact posterior: z | x ~ N(P W' (x - b) / s^2, P) with P = (I + W' W / s^2)^-1.
    covariance = torch.linalg.inv(torch.eye(LATENTS) + loadings.T @ loadings / scale**2)
    exact, mean = (x - shift) @ loadings @ covariance / scale**2, vae.encode(x).mean
    deviation = covariance.diagonal().sqrt()
    correlation = (covariance / torch.outer(deviation, deviation) - torch.eye(LATENTS)).abs().max()
    print(f"Encoder's mean - exact posterior mean: root mean square {(mean - exact).square().mean().sqrt():.4f}")
    print(f"Standard deviations of the exact posterior: {deviation.min():.2f} to {deviation.max():.2f}")
    print(f"Largest correlation of two latents in the exact posterior: {correlation:.3f}")

    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.5), layout="constrained")
    plots.training_curve(history, ax=left).set_title("the ELBO climbs to the maximum of the evidence")
    left.axhline(best.mean(), color="black", linestyle="--", label="maximum of the evidence")
    left.set_ylim(float(best.mean()) - 1, float(best.mean()) + 0.25)
    left.legend(frameon=False, loc="lower right")
    for latent in range(LATENTS):
        right.plot(exact[:, latent], mean[:, latent], ".", alpha=0.5, label=f"latent {latent + 1}")
    right.axline((0, 0), slope=1, color="black", linewidth=0.8)
    right.set(xlabel="exact posterior mean", ylabel="encoder's mean", title="the encoder finds the posterior mean")
    right.legend(frameon=False)
    args.out.mkdir(parents=True, exist_ok=True)
    figure.savefig(args.out / "linear_gaussian.png", dpi=120)


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="a few seconds, to see whether it runs")
    parser.add_argument("--out", type=Path, default=Path("figures"), help="folder for the figure")
    return parser.parse_args(argv)


if __name__ == "__main__":
    main(parse())
