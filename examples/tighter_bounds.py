"""Tighter bounds: what importance weights buy, on one fitted model and in training.

For one fitted model every curve below bounds, or estimates, the same log p(x). They differ in how much of the gap
between guide and posterior they close with K draws per row:

- the ELBO keeps the whole gap, KL(q || p(z | x)), whatever K;
- CIWAE, the mean of ELBO and IWAE, keeps half of it; IWAE closes it as K grows;
- TVO is a Riemann sum along a path from q to the posterior: the left sum lies below its limit, the right sum above;
- the jackknife removes the largest part of IWAE's bias, and is no longer a bound.

Training with a tighter bound gives a better model, but also a more diffuse guide, so that its ELBO is lower. The
doubly reparameterized gradient (DReG) preserves the signal of the guide's gradient at large K.

What to look for: on the left, ELBO < CIWAE < IWAE and TVO left < IWAE < TVO right at every K; on the right, the test
log-likelihood rises from the ELBO to IWAE, while the ELBO of the same models falls.

Run it: `python tighter_bounds.py` (three minutes); `--smoke` only checks that it runs.

References: *Importance Weighted Autoencoders* (Burda et al., 2015); *Tighter Variational Bounds are Not Necessarily
Better* (Rainforth et al., 2018); *The Thermodynamic Variational Objective* (Masrani et al., 2019); *Debiasing Evidence
Approximations* (Nowozin, 2018).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from torch import Tensor

import pyro_vae as pv
from pyro_vae import bounds

POINTS = (0.0, 0.05, 0.15, 0.4)
CURVES = {
    "ELBO": bounds.elbo,
    "TVO, left": lambda log_w: bounds.tvo(log_w, POINTS),
    "CIWAE": lambda log_w: bounds.ciwae(log_w, 0.5),
    "IWAE": bounds.iwae,
    "jackknife": bounds.jackknife,
    "TVO, right": lambda log_w: bounds.tvo(log_w, POINTS, "right"),
}
TRAINED = {
    "ELBO": pv.elbos.ELBO(),
    "IWAE, K = 5": pv.elbos.IWAE(num_particles=5),
    "IWAE, K = 20": pv.elbos.IWAE(num_particles=20),
    "DReG, K = 20": pv.elbos.IWAE(num_particles=20, gradient="dreg"),
}


def log_weights(vae: pv.VAE, x: Tensor, particles: int) -> Tensor:
    """Log-weights of K draws for each row, (K, B)."""
    vae.eval()  # no dropout
    torch.manual_seed(1)
    with torch.no_grad():
        return pv.log_weights(vae.model, vae.guide, x, num_particles=particles).log_w.double()


def train(data: pv.datasets.Splits, elbo: pv.elbos.Estimator, epochs: int) -> pv.VAE:
    vae = pv.VAE(
        likelihood=pv.likelihoods.Binomial(data.event_shape, total_count=16),
        prior=pv.priors.Normal(16),
        encoder=pv.nets.MLP(hidden=(256,)),
        decoder=pv.nets.MLP(hidden=(256,), dropout=0.2),
        seed=0,
    )
    vae.fit(data.train, elbo=elbo, epochs=epochs, seed=0)
    return vae


def main(options: argparse.Namespace) -> None:
    data = pv.datasets.load("digits")
    rows = data.test.subset(slice(0, 40)) if options.smoke else data.test
    particles = [2, 8] if options.smoke else [2, 4, 8, 16, 32, 64, 128, 256]
    models = {name: train(data, elbo, 1 if options.smoke else 200) for name, elbo in TRAINED.items()}

    log_w = log_weights(models["ELBO"], rows.x.float(), particles[-1])
    curves = {name: [float(bound(log_w[:k]).mean()) for k in particles] for name, bound in CURVES.items()}
    print("One model, trained with the ELBO: mean over test rows, nats per row")
    print("K          " + "".join(f"{k:9d}" for k in particles))
    for name, values in curves.items():
        print(f"{name:11s}" + "".join(f"{value:9.2f}" for value in values))

    print("\nModels trained with different bounds: test rows, nats per row (Monte Carlo error, sampling error)")
    scores = {}
    for name, vae in models.items():
        likelihood = vae.log_likelihood(rows, num_particles=50 if options.smoke else 2000, seed=0)
        scores[name] = likelihood, vae.elbo(rows, num_particles=64, seed=0)
        means = [result.mean() for result in scores[name]]
        shown = [f"{m.estimate:8.2f} ({m.monte_carlo_error:.2f}, {m.sampling_error:.2f})" for m in means]
        print(f"{name:13s} log-likelihood {shown[0]}   ELBO {shown[1]}")
    gain = scores["IWAE, K = 20"][0].estimate - scores["ELBO"][0].estimate
    error = float(gain.std() / len(gain) ** 0.5)
    print(f"IWAE, K = 20, minus ELBO, paired by row: {float(gain.mean()):.2f} +- {error:.2f} (standard error)")
    draw(particles, curves, {name: [r.mean().estimate for r in pair] for name, pair in scores.items()}, options.out)


def draw(particles: list[int], curves: dict[str, list[float]], scores: dict[str, list[float]], folder: Path) -> None:
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for name, values in curves.items():
        left.plot(particles, values, marker=".", label=name)
    left.set(xscale="log", xlabel="particles K", ylabel="nats per row", title="One model, several bounds")
    left.legend(frameon=False, ncols=2, loc="lower right", bbox_to_anchor=(1.0, 0.08))
    for column, (name, marker) in enumerate((("log-likelihood", "o"), ("ELBO", "s"))):
        right.plot(list(scores), [pair[column] for pair in scores.values()], marker, label=f"test {name}")
    right.set(ylabel="nats per row", title="Several models, by the bound they were trained with")
    right.legend(frameon=False)
    folder.mkdir(parents=True, exist_ok=True)
    figure.savefig(folder / "tighter_bounds.png", dpi=150)
    plt.close(figure)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="a few seconds, to see whether it runs")
    parser.add_argument("--out", type=Path, default=Path("figures"), help="folder for the figure")
    main(parser.parse_args())
