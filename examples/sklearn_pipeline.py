"""scikit-learn's pipelines and grid searches with a VAE inside: features, missing cells, outliers.

Features: the handwritten digits go through `LatentTransformer` to a logistic regression. A grid search chooses the
number of latents and, with it, the likelihood of the pixels: normal or Laplace for pixels that a scaler standardized,
binomial for the counts 0 to 16 that they are. Principal components of the same numbers stand beside them.

Missing cells: a fifth of the cells of the wine data are removed at random. `Imputer` fills them in, as scikit-learn's
imputers do; a grid search chooses the number of latents by log p of the observed cells of other rows.

Outliers: `DensityEstimator`, trained on digits, is shown other digits, and these mirrored from left to right. Pareto
k-hat flags most of their log-densities, and warnings would say so: they are lower bounds, which order rows well enough.

What to look for
- Few latents separate the digits better than as many components; with many, components do as well.
- Accuracy is that of other folds than those of the fit, transformer included: the pipeline trains anew in each fold.
- Cells: errors of both imputers that use other columns are below those of column means (SimpleImputer).
- 2 % of the digits of training lie below the threshold by its choice, and most of the mirrored ones.

Run it: `python sklearn_pipeline.py` (two to four minutes); `--smoke` only checks that it runs.
"""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from sklearn.datasets import load_digits, load_wine
from sklearn.decomposition import PCA
from sklearn.experimental import enable_iterative_imputer  # noqa: F401
from sklearn.impute import IterativeImputer, SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, KFold, cross_val_score, train_test_split
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

import pyro_vae as pv
from pyro_vae import plots
from pyro_vae.sklearn import DensityEstimator, Imputer, LatentTransformer


def features(x: np.ndarray, y: np.ndarray, epochs: int | None, sizes: list[int]) -> pd.DataFrame:
    latents, last = LatentTransformer(epochs=epochs, random_state=0), LogisticRegression(max_iter=2000)
    pipeline = Pipeline([("scale", StandardScaler()), ("latents", latents), ("classify", last)])
    pixels = x.shape[1]
    real, counts = pv.likelihoods.Laplace(pixels, scale="per_dimension"), pv.likelihoods.Binomial(pixels, 16)
    grid = [
        {"latents__latent_dim": sizes, "latents__likelihood": [None, real]},
        {"latents__latent_dim": sizes, "latents__likelihood": [counts], "scale": ["passthrough"]},
        {"latents": [PCA(size, random_state=0) for size in sizes]},
    ]
    search = GridSearchCV(pipeline, grid, cv=3, error_score="raise").fit(x, y)
    rows = []
    for chosen, accuracy in zip(search.cv_results_["params"], search.cv_results_["mean_test_score"], strict=True):
        pca = chosen.get("latents")
        name = type(chosen.get("latents__likelihood") or pv.likelihoods.Normal(1)).__name__
        rows.append(("PCA", pca.n_components, accuracy) if pca else (name, chosen["latents__latent_dim"], accuracy))
    return pd.DataFrame(rows, columns=["features", "number", "accuracy"]).pivot(index="features", columns="number")


def missing_cells(epochs: int | None, sizes: list[int]) -> pd.DataFrame:
    full, y = load_wine(return_X_y=True, as_frame=True)
    full = (full - full.mean()) / full.std()
    frame = full.mask(np.random.default_rng(0).random(full.shape) < 0.2)
    gone, folds = frame.isna().to_numpy(), KFold(3, shuffle=True, random_state=0)  # the data are sorted by y
    search = GridSearchCV(LatentTransformer(epochs=epochs, random_state=0), {"latent_dim": sizes}, cv=folds).fit(frame)
    print("Log p of the observed cells, in nats per row of other folds")
    for size, score in zip(sizes, search.cv_results_["mean_test_score"], strict=True):
        print(f"{size:3} latents{score:10.2f}")
    imputers = [SimpleImputer(), IterativeImputer(max_iter=50, tol=1e-2, random_state=0)]
    imputers.append(Imputer(search.best_params_["latent_dim"], epochs=epochs, random_state=0))
    found = {}
    for imputer in imputers:
        error = np.sqrt(np.mean((np.asarray(imputer.fit_transform(frame)) - full.to_numpy())[gone] ** 2))
        classifier = make_pipeline(imputer, StandardScaler(), LogisticRegression(max_iter=2000))
        accuracy = cross_val_score(classifier, frame, y, cv=folds).mean()
        found[type(imputer).__name__] = {"error of cells": error, "accuracy": accuracy}
    return pd.DataFrame(found).T


def main(args: argparse.Namespace) -> None:
    warnings.simplefilter("ignore", pv.evaluation.UnreliableWarning)  # as said above
    epochs, sizes, num_rows = (2, [2, 3], 300) if args.smoke else (None, [2, 4, 8, 16], 1797)
    x, y = (part[:num_rows] for part in load_digits(return_X_y=True))
    x = x[:, (x > 0).mean(0) > 0.05]  # pixels that are nearly always empty say little
    accuracies = features(x, y, epochs, sizes)
    print(f"Accuracy of a logistic regression on features of {num_rows} digits\n{accuracies.round(3)}\n")
    cells = missing_cells(epochs, sizes)
    print(f"\nWine, 20 % of the cells missing (errors in standard deviations)\n{cells.round(3)}\n")

    train, test = train_test_split(load_digits().images[:num_rows], random_state=0)
    rows = {"training": train, "other digits": test, "mirrored": test[:, :, ::-1]}
    used = (train > 0).mean(0) > 0.05
    used &= used[:, ::-1]  # pixels that vary, also in mirrored pictures
    density = DensityEstimator(8, contamination=0.02, epochs=epochs, random_state=0).fit(train[:, used])
    scores = {name: density.score_samples(pictures[:, used]) for name, pictures in rows.items()}
    for name, score in scores.items():
        print(f"{name:<14}{np.mean(score < density.offset_):8.1%} outliers, median of log p(x){np.median(score):9.2f}")

    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 4.5), layout="constrained")
    for name, line in accuracies["accuracy"].iterrows():
        left.plot(line.index, line, "o--" if name == "PCA" else "o-", label=name)
    left.set(title="digits", xlabel="number of features", ylabel="accuracy in other folds")
    for name, score in scores.items():
        right.hist(score, bins=40, density=True, histtype="step", label=name)
    right.axvline(density.offset_, color=plots.INK, linestyle="--", linewidth=1)
    right.set(title="digits, and mirrored digits", xlabel="log p(x), nats", ylabel="density of rows")
    left.legend(), right.legend()
    args.out.mkdir(parents=True, exist_ok=True)
    figure.savefig(args.out / "sklearn_pipeline.png", dpi=120)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="a few seconds, to see whether it runs")
    parser.add_argument("--out", type=Path, default=Path("figures"), help="folder for the figures")
    main(parser.parse_args())
