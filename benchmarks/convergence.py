"""Does a run that is stopped early say so, and what a further run would bring? Three kinds of model, 34 seeds of each.

    python benchmarks/convergence.py                         # about half an hour on one core
    python benchmarks/convergence.py --seeds 2               # two minutes
    python benchmarks/convergence.py --curves FOLDER         # keep the bounds there, and judge those that are there

1. Probabilistic PCA: a VAE with linear nets, three latents and a shared scale, on 600 rows of 12 columns drawn from
   such a model anew for each seed; learning rate 1e-3. A line says how far below the validation log-likelihood of the
   maximum-likelihood fit, which has a closed form, the runs ended.
2. A VAE for scikit-learn's digits: Binomial(16) cells, four latents, nets of one hidden layer of 32; learning rate
   5e-3.
3. A HierarchicalVAE for the same digits with latents of 4 and 2.

A run *ends* when its validation bound has not improved for 100 epochs, as with `fit(patience=100)`; T is its number
of epochs. It is trained on to 2 T epochs (at most 2,000) without restoring the best parameters, so that the true gain
of as many epochs again is known: the difference of the validation bound between means of 8 % of the epochs around T and
2 T. `History.convergence` judges the first 10 %, the first 30 % and all of the T epochs, from those epochs alone.
Printed are the numbers of runs that are reported as not converged; the median of the true gain; and the expected gain
divided by the true one: the median, the 5 % and 95 % quantiles and the share within a factor of two. Where the 2,000
epochs are fewer than 2 T, the true gain at T is unknown and left out of its median.

The second table is the size of the test: the share of bounds without a trend that are called rising, 4,000 series of
autoregressive noise of order 1 for each length and correlation of neighbouring epochs.
"""

from __future__ import annotations

import argparse
import functools
import logging
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.decomposition import PCA

import pyro_vae as pv
from pyro_vae import reporting
from pyro_vae.training.convergence import convergence_of

KINDS = ("probabilistic PCA", "VAE, digits", "HierarchicalVAE, digits")
PATIENCE, LONGEST = 100, 2000
SHARES = (0.1, 0.3, 1.0)


def model_and_rows(kind: str, seed: int) -> tuple[Any, Any, Any, float]:
    """A new model, its training and validation rows, and the learning rate."""
    if kind == KINDS[0]:
        noise = torch.Generator().manual_seed(seed)
        loadings = torch.randn(3, 12, generator=noise)
        train, valid = (
            torch.randn(600, 3, generator=noise) @ loadings + 0.5 * torch.randn(600, 12, generator=noise)
            for _ in range(2)
        )
        nets: dict[str, Any] = {"encoder": pv.nets.MLP(()), "decoder": pv.nets.MLP(())}
        likelihood = pv.likelihoods.Normal(12, scale="shared")
        return pv.VAE(likelihood=likelihood, prior=pv.priors.Normal(3), **nets, seed=seed), train, valid, 1e-3
    digits = pv.datasets.load("digits")
    parts: dict[str, Any] = {
        "likelihood": pv.likelihoods.Binomial(digits.event_shape, total_count=16),
        "encoder": pv.nets.MLP((32,)),
        "decoder": pv.nets.MLP((32,)),
        "seed": seed,
    }
    if kind == KINDS[1]:
        return pv.VAE(prior=pv.priors.Normal(4), **parts), digits.train, digits.valid, 5e-3
    return pv.HierarchicalVAE(latent_dims=(4, 2), **parts), digits.train, digits.valid, 5e-3


def ended(bounds: Any) -> int | None:
    """The epoch after which patience would have ended the run; None if it had not."""
    best = 0
    for epoch, bound in enumerate(bounds):
        if bound > bounds[best]:
            best = epoch
        elif epoch - best >= PATIENCE:
            return epoch + 1
    return None


@functools.cache
def curve(kind: str, seed: int, folder: Path | None) -> np.ndarray:
    """The validation bound by epoch, up to twice the epoch at which the run ends."""
    file = None if folder is None else folder / f"{KINDS.index(kind)}-{seed}.npy"
    if file is not None and file.exists():
        return np.asarray(np.load(file))
    vae, train, valid, learning_rate = model_and_rows(kind, seed)
    end: list[int] = []

    def stop(_: Any, history: pv.History) -> bool:
        if not end and (found := ended(history["valid_bound"])) is not None:
            end.append(found)
        return bool(end) and len(history) >= 2 * end[0] + end[0] // 25 + 1

    options: dict[str, Any] = {"learning_rate": learning_rate, "callbacks": [stop], "compile": True, "progress": False}
    history = vae.fit(train, valid=valid, epochs=LONGEST, seed=seed, **options)
    bounds = np.array(history["valid_bound"])
    if file is not None:
        np.save(file, bounds)
    return bounds


def true_gain(bounds: np.ndarray, epochs: int) -> float:
    """How much the smoothed bound rose from `epochs` to twice as many; NaN if the run is shorter."""
    around = max(2, epochs // 25)
    if 2 * epochs > len(bounds):
        return float("nan")
    now, later = (float(bounds[n - around : n + around].mean()) for n in (epochs, 2 * epochs))
    return later - now


def below_the_optimum(seeds: int, folder: Path | None) -> str:
    """How far the runs of probabilistic PCA ended below the fit in closed form, on the validation rows."""
    gaps = []
    for seed in range(seeds):
        _, train, valid, _ = model_and_rows(KINDS[0], seed)
        bounds = curve(KINDS[0], seed, folder)
        end = ended(bounds) or len(bounds)
        gaps.append(PCA(3).fit(train.numpy()).score(valid.numpy()) - bounds[end - 10 : end].mean())
    return f"{KINDS[0]} ended {np.median(gaps):.3f} (largest: {max(gaps):.3f}) nats per row below the closed form."


def table_of_runs(seeds: int, folder: Path | None) -> list[dict[str, Any]]:
    lines = []
    for kind in KINDS:
        curves = [curve(kind, seed, folder) for seed in range(seeds)]
        ends = [ended(bounds) or len(bounds) // 2 for bounds in curves]
        for share in SHARES:
            epochs = [round(share * end) for end in ends]
            found = [convergence_of(list(b[:n]), "valid_bound") for b, n in zip(curves, epochs, strict=True)]
            true = np.array([true_gain(b, n) for b, n in zip(curves, epochs, strict=True)])
            ratio = np.array([c.expected_gain for c in found], dtype=float) / true
            line = {
                "model": kind,
                "stopped at": f"{share:.0%}",
                "epochs, median": int(np.median(epochs)),
                "not converged": f"{sum(c.converged is False for c in found)} of {seeds}",
                "true gain": f"{np.nanmedian(true):.2f}",
            }
            quantiles = [f"{q:.2f}" for q in np.nanquantile(ratio, [0.5, 0.05, 0.95])]
            within = f"{np.mean((ratio >= 0.5) & (ratio <= 2)):.0%}"
            shown = [*quantiles, within] if share < 1 else [""] * 4
            names = ("expected / true", "5 %", "95 %", "within a factor of two")
            lines.append(line | dict(zip(names, shown, strict=True)))
    return lines


def table_of_sizes() -> list[dict[str, Any]]:
    noise, lines = np.random.default_rng(0), []
    for epochs in (20, 60, 200, 500):
        line: dict[str, Any] = {"epochs": epochs}
        for correlation in (0.0, 0.3, 0.6, 0.8):
            y = noise.normal(size=(4000, epochs + 50))
            for t in range(1, epochs + 50):
                y[:, t] += correlation * y[:, t - 1]
            rising = sum(convergence_of(list(row)).trend == "rising" for row in y[:, 50:])
            line[f"correlation {correlation}"] = f"{rising / 4000:.3f}"
        lines.append(line)
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=34, help="runs of each kind of model")
    parser.add_argument("--curves", type=Path, help="a folder of validation bounds, written and read")
    options = parser.parse_args()
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    if options.curves is not None:
        options.curves.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    print(reporting.table(table_of_runs(options.seeds, options.curves)))
    print(below_the_optimum(options.seeds, options.curves))
    print(f"{(time.perf_counter() - start) / 60:.0f} minutes\n")
    print(reporting.table(table_of_sizes()))


if __name__ == "__main__":
    main()
