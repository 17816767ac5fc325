"""A table with missing cells: imputed many times, analysed, pooled, and analysed again under another assumption.

The table is scikit-learn's diabetes data, 442 patients, in the units in which it was measured; the ratio of total
cholesterol to HDL is graded. A fifth of all cells are removed at random, so that their values are known. The analysis
is a regression of the progression of the disease on body mass index (bmi) and four other columns. The model has an
affine decoder: it is factor analysis with a likelihood for each kind of column. `KINDS` says which whole numbers are
measurements, since they would be taken for counts.

What to look for
- Errors of removed cells: a best guess (conditional mean, or most probable level) is nearer the truth than the mean of
  the column (or its most frequent level). An imputation is farther off than that: it has the noise of a real cell.
- Standard deviations show what that noise is for: columns completed by means or best guesses vary too little.
- The coefficient of bmi: fewer than a quarter of the patients have all cells of the regression. The pooled standard
  error lies between those of all cells and of complete rows; column means and best guesses have one as if no cell had
  been missing. One removal is one experiment: which estimate is nearest to that of all cells is partly luck.
- Sensitivity: were patients whose bmi is missing heavier, by 2 to 6 units, than patients with the same other cells, the
  coefficient would be smaller. Here they are not; in real data only knowledge from elsewhere can tell.

Run it: `python incomplete_table.py` (under a minute); `--smoke` only checks that it runs.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from sklearn.datasets import load_diabetes

import pyro_vae as pv
from pyro_vae import plots

KINDS = {"hdl": "real", "glucose": "real", "progression": "real", "triglycerides": "positive"}
PREDICTORS = ["bmi", "age", "pressure", "hdl", "sex"]


def diabetes() -> pd.DataFrame:
    raw = load_diabetes(as_frame=True, scaled=False).frame
    raw["sex"] = raw["sex"].map({1.0: "code 1", 2.0: "code 2"})
    raw["ratio"] = pd.cut(raw["s4"], [0, 3.5, 5, np.inf], labels=["low", "middle", "high"])  # ordered levels
    raw["triglycerides"] = np.exp(raw["s5"]).round()
    frame = raw.rename(columns={"bp": "pressure", "s2": "ldl", "s3": "hdl", "s6": "glucose", "target": "progression"})
    return frame.drop(columns=["s1", "s4", "s5"])  # s1, total cholesterol, is nearly a function of other columns


def analysis(frame: pd.DataFrame) -> tuple[pd.Series, pd.DataFrame]:
    """Least squares: coefficients and their covariance matrix."""
    table = frame[PREDICTORS].assign(sex=frame["sex"] == "code 2", constant=1.0)
    x, y = table.to_numpy(float), frame["progression"].to_numpy(float)
    estimates = np.linalg.lstsq(x, y)[0]
    covariance = np.square(y - x @ estimates).sum() / (len(x) - x.shape[1]) * np.linalg.inv(x.T @ x)
    return pd.Series(estimates, table.columns), pd.DataFrame(covariance, table.columns, table.columns)


def compare_cells(full: pd.DataFrame, gone: pd.DataFrame, ways: dict[str, pd.DataFrame]) -> None:
    print(f"{'':<14}" + "".join(f"{way:>14}" for way in ways) + "".join(f"{'sd, ' + way:>18}" for way in ways))
    for name, truth in full.items():
        numeric = pd.api.types.is_numeric_dtype(truth)
        pairs = [(one[name][gone[name]], truth[gone[name]]) for one in ways.values()]
        wrong = [np.mean((a - b) ** 2) ** 0.5 / truth.std() if numeric else np.mean(a != b) for a, b in pairs]
        spread = [one[name].std() / truth.std() for one in ways.values() if numeric]
        print(f"{name:<14}" + "".join(f"{v:14.2f}" for v in wrong) + "".join(f"{v:18.2f}" for v in spread))


def main(args: argparse.Namespace) -> None:
    epochs, m, candidates = (2, 3, 50) if args.smoke else (300, 20, 1000)
    full = diabetes()
    gone = pd.DataFrame(np.random.default_rng(0).random(full.shape) < 0.2, full.index, full.columns)
    frame = full.mask(gone)
    print(table := pv.Table(frame, kinds=KINDS))
    vae = pv.VAE.for_table(table, latent_dim=4, decoder=pv.nets.MLP(()), seed=0)
    rate = pv.schedules.Cosine(1e-2, 1e-4, epochs=epochs)
    vae.fit(table, elbo=pv.elbos.IWAE(num_particles=5), epochs=epochs, learning_rate=rate, seed=0)
    imputations = vae.impute(table, num_imputations=m, num_candidates=candidates, seed=1)
    (guess,) = vae.impute(table, single="mean", num_candidates=candidates, seed=1)

    numbers = list(full.select_dtypes("number"))
    means = frame.fillna({**frame.mode().iloc[0], **frame[numbers].mean()})
    print(f"\n{imputations}\nRemoved cells: root mean square error; of levels, the share of errors. Completed columns:")
    print("standard deviation (sd). Numbers are relative to the standard deviation of the column before the removal.")
    compare_cells(full, gone, {"column mean": means, "best guess": guess, "imputation 1": imputations[0]})
    draws = {name: np.sort([one[name][gone[name]] for one in imputations], 0) for name in numbers}
    share = np.concatenate([full[name][gone[name]].between(c[0], c[-1]) for name, c in draws.items()]).mean()
    print(f"Removed numbers within the range of their {m} imputations: {share:.1%}; expected {(m - 1) / (m + 1):.1%}")

    options = {"num_imputations": m, "num_candidates": candidates, "complete_df": len(full) - 6, "seed": 1}
    moved = pv.missing.sensitivity(vae, table, shift={"bmi": (0.0, 2.0, 4.0, 6.0)}, analysis=analysis, **options)
    print(f"\nRegression of progression\n{imputations.pool(analysis, complete_df=len(full) - 6)}")
    lines, complete = {}, frame.dropna(subset=[*PREDICTORS, "progression"])
    for name, one in {"all cells": full, "complete rows": complete, "column means": means, "best guess": guess}.items():
        estimates, covariance = analysis(one)
        lines[f"{name}, {len(one)} rows"] = estimates["bmi"], covariance.loc["bmi", "bmi"] ** 0.5
    for shift, pooled in zip(moved.shifts, moved.results, strict=True):
        lines[f"{m} imputations, missing bmi + {shift:g}"] = pooled.estimate[0].item(), pooled.standard_error[0].item()
    print(f"\n{'Coefficient of bmi':<32}estimate  standard error")
    print("\n".join(f"{name:<32}{estimate:8.2f}{error:16.2f}" for name, (estimate, error) in lines.items()))
    args.out.mkdir(parents=True, exist_ok=True)
    figure, axes = plt.subplots(1, 3, figsize=(15, 4.6), layout="constrained")
    for ax, name in zip(axes, ("hdl", "glucose", "progression"), strict=True):
        truth = full[name][gone[name]]
        ax.vlines(truth, draws[name][0], draws[name][-1], color=plots.TRAIN, alpha=0.4)
        ax.plot(truth, draws[name].mean(0), ".", color=plots.TRAIN)
        ax.axline([truth.mean()] * 2, slope=1, color=plots.INK, linewidth=1, linestyle="--")
        ax.set(title=f"removed cells of {name}", xlabel="value that stood there", ylabel="imputations: mean and range")
    figure.savefig(args.out / "incomplete_table.png", dpi=120)
    figure, ax = plt.subplots(figsize=(8, 4), layout="constrained")
    estimates, errors = np.array(list(lines.values())).T
    ax.errorbar(estimates, list(lines), xerr=2 * errors, fmt="o", color=plots.TRAIN)
    ax.axvline(estimates[0], color=plots.INK, linewidth=1, linestyle="--")
    ax.set(xlabel="coefficient of bmi, and two standard errors", ylim=(len(lines) - 0.5, -0.5))
    figure.savefig(args.out / "incomplete_table_sensitivity.png", dpi=120)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="a few seconds, to see whether it runs")
    parser.add_argument("--out", type=Path, default=Path("figures"), help="folder for the figures")
    main(parser.parse_args())
