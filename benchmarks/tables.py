"""Missing cells of tables, filled by several methods side by side: errors, seconds, and whether draws are calibrated.

    python benchmarks/tables.py --data-dir DATA                                    # Wine, three masks
    python benchmarks/tables.py --data-dir DATA --cases adult --masks 1 --contenders mean ridge boosting ours
    python benchmarks/tables.py --data-dir DATA --cases breast-cancer --seeds 3
    python benchmarks/tables.py --data-dir DATA --cases white-wine

DATA is a folder that holds `tables/wine` and `tables/adult`: the tables of HI-VAE (Nazabal and others, 2020) with the
authors' masks. The cases:

- `wine` (6,497 x 13) and `adult` (32,561 x 12) without a fifth of the cells, completely at random; the authors' error,
  a mean over columns (`table_cases.authors_error`). Cells that were never recorded are missing and not scored;
- `breast-cancer` (569 x 30), standardised, without half of the cells, completely at random: mean squared error;
- `white-wine` (4,898 x 11), standardised, the first five columns missing where above their mean, so not at random: root
  mean squared error.

The contenders fill in the best single value that they know: means, or the most probable class. `mean` is the mean of
the column, and the most frequent class. `ridge` is scikit-learn's `IterativeImputer(BayesianRidge())` on one-hot
columns and log(1 + x) of positive columns, all standardised; there, the columns of one category determine each other
and are missing together, so that it hardly learns categories. `ridge draws` has a column for each class but the
first, which mends this; beside the single values, it draws 20 times (`sample_posterior=True`); its seconds include
the draws. `knn` is `KNNImputer` on the same columns; it compares all pairs of rows, which takes long on Adult.
`boosting` is `HistGradientBoosting*`, 100 iterations, for each column on all others with their gaps.

Of contenders with draws, two things more are printed. "90 %" is the share of missing cells in continuous columns (real
or positive), all together, that lie in the central 90 % interval of their own draws. "PIT" describes the discrete
columns (counts, ordered and unordered classes): the mean of the randomised probability integral transforms, which is
0.5 if draws are right, and the p-value of a chi-square test that they are uniform (`table_cases.transforms`).
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.exceptions import ConvergenceWarning
from sklearn.experimental import enable_iterative_imputer  # noqa: F401  (makes IterativeImputer importable)
from sklearn.impute import IterativeImputer, KNNImputer
from sklearn.linear_model import BayesianRidge
from table_cases import CASES, CATEGORICAL, CONTINUOUS, DISCRETE, Case, cases, coverage, transforms, uniformity

NUM_DRAWS = 20  # of `ridge draws`
NUM_IMPUTATIONS = 100  # of ours
NUM_CANDIDATES = 1000  # draws of the latents for each row, of ours
# Sizes and budgets of our model: latents, particles, epochs, rows in a batch, activation.
BUDGETS = {
    "wine": (8, 20, 120, 256, "relu"),
    "adult": (10, 5, 24, 256, "relu"),
    "breast-cancer": (10, 20, 320, 32, "tanh"),
    "white-wine": (10, 20, 100, 16, "tanh"),
}


@dataclass(frozen=True)
class Filled:
    """A table without gaps, and draws of such tables from methods that have them."""

    single: pd.DataFrame
    draws: list[pd.DataFrame] = field(default_factory=list)


class Columns:
    """A table as columns of real numbers, and back: one-hot classes, log(1 + x) of positive columns, standardised."""

    def __init__(self, case: Case, reference: bool = False) -> None:
        """With `reference`, the first class of a column has no column of its own: the others leave it what remains."""
        self.case, self.first = case, int(reference)
        self.classes = {name: np.unique(case.incomplete[name].dropna()) for name in case.columns(CATEGORICAL)}
        raw = np.column_stack([self._encoded(name) for name in case.incomplete.columns])
        self.mean, spread = np.nanmean(raw, 0), np.nanstd(raw, 0)
        self.scale = np.where(spread > 0, spread, 1.0)
        self.values = (raw - self.mean) / self.scale

    def _encoded(self, name: str) -> np.ndarray:
        column = self.case.incomplete[name].to_numpy(float)
        if name in self.classes:
            hot = column[:, None] == self.classes[name][self.first :]
            return np.where(np.isnan(column)[:, None], np.nan, hot)
        return (np.log1p(column) if self.case.kinds[name] == "positive" else column)[:, None]

    def frame(self, values: np.ndarray, whole: Sequence[str] = ("ordinal",)) -> pd.DataFrame:
        """The table of filled columns: the class of the largest value, or a number, rounded in kinds `whole`.

        Numbers stay within the range that was seen, since exponentials run away; those of real columns need not.
        """
        raw, result, start = values * self.scale + self.mean, {}, 0
        for name, observed in self.case.incomplete.items():
            width = len(self.classes[name]) - self.first if name in self.classes else 1
            part, start = raw[:, start : start + width], start + width
            if name in self.classes:
                rest = 1 - part.sum(1, keepdims=True)
                column = self.classes[name][np.hstack([rest, part][1 - self.first :]).argmax(1)]
            else:
                column = np.expm1(part[:, 0]) if self.case.kinds[name] == "positive" else part[:, 0]
                column = np.round(column) if self.case.kinds[name] in whole else column
                column = column if self.case.kinds[name] == "real" else column.clip(observed.min(), observed.max())
            result[name] = observed.fillna(pd.Series(column, index=observed.index))
        return pd.DataFrame(result)


def mean(case: Case, seed: int) -> Filled:
    """The mean of each column, or its most frequent class."""
    discrete = {"ordinal", "categorical"}
    values = {name: c.mode()[0] if case.kinds[name] in discrete else c.mean() for name, c in case.incomplete.items()}
    return Filled(case.incomplete.fillna(values))


def ridge(case: Case, seed: int, reference: bool = False) -> Filled:
    """Chained linear regressions."""
    columns = Columns(case, reference)
    return Filled(columns.frame(_chained(seed, sample_posterior=False).fit_transform(columns.values)))


def ridge_draws(case: Case, seed: int) -> Filled:
    """Chained linear regressions, with draws from their predictive distributions; each class but the first a column."""
    columns = Columns(case, reference=True)
    chains = [_chained(NUM_DRAWS * seed + i, sample_posterior=True) for i in range(NUM_DRAWS)]
    draws = [columns.frame(chain.fit_transform(columns.values), whole=("ordinal", "count")) for chain in chains]
    return Filled(ridge(case, seed, reference=True).single, draws)


def _chained(seed: int, sample_posterior: bool) -> IterativeImputer:
    return IterativeImputer(BayesianRidge(), sample_posterior=sample_posterior, random_state=seed)


def knn(case: Case, seed: int) -> Filled:
    """The mean of the five nearest rows that have the cell."""
    columns = Columns(case)
    return Filled(columns.frame(KNNImputer().fit_transform(columns.values)))


def boosting(case: Case, seed: int) -> Filled:
    """Boosted trees for each column, on all others with their gaps."""
    result = case.incomplete.copy()
    for name in result.columns[case.incomplete.isna().any()]:
        column, others = case.incomplete[name], case.incomplete.drop(columns=name)
        gaps = column.isna()
        tree = HistGradientBoostingClassifier if case.kinds[name] in CATEGORICAL else HistGradientBoostingRegressor
        fitted = tree(max_iter=100, random_state=seed).fit(others[~gaps], column[~gaps])
        guess = fitted.predict(others[gaps])
        result.loc[gaps, name] = np.round(guess) if case.kinds[name] == "ordinal" else guess
    return Filled(result)


def ours(case: Case, seed: int) -> Filled:
    """A variational autoencoder for the table's kinds of columns, with draws of the missing cells."""
    import pyro_vae as pv

    name = case.name.split(",")[0]
    latents, particles, epochs, batch, activation = BUDGETS[name]
    stated = ("real", "ordinal", "categorical")  # positive columns and counts are found
    kinds = {column: kind for column, kind in case.kinds.items() if kind in stated}
    table = pv.Table(case.incomplete, kinds=kinds)
    net = pv.nets.MLP((128, 128), activation)
    parts: dict[str, Any] = {"encoder": pv.nets.Masked(net), "decoder": net, "seed": seed}
    if name == "white-wine":  # larger values are missing more often in the first five columns; a linear decoder
        mechanism = pv.missing.SelfMasking(known_sign=[1] * 5 + [None] * 6)
        parts |= {"missing": pv.missing.NotAtRandom(mechanism), "decoder": pv.nets.MLP(())}
    vae = pv.VAE.for_table(table, latent_dim=latents, **parts)
    elbo = pv.elbos.IWAE(num_particles=particles)
    vae.fit(table, elbo=elbo, epochs=epochs, batch_size=batch, seed=seed, progress=False)
    single = vae.impute(table, single="mean", num_candidates=NUM_CANDIDATES, seed=seed)
    draws = vae.impute(table, num_imputations=NUM_IMPUTATIONS, num_candidates=NUM_CANDIDATES, seed=seed)
    return Filled(single[0].astype(float), [draw.astype(float) for draw in draws])


CONTENDERS: dict[str, Callable[[Case, int], Filled]] = {
    "mean": mean,
    "ridge": ridge,
    "ridge draws": ridge_draws,
    "knn": knn,
    "boosting": boosting,
    "ours": ours,
}


def calibration(case: Case, draws: list[pd.DataFrame], seed: int) -> list[str]:
    """The cells of a line that describe the draws; empty without draws, or without columns of the kind."""
    if not draws:
        return ["", "", ""]
    covered = coverage(transforms(case, draws, CONTINUOUS, seed))
    middle, p_value = uniformity(transforms(case, draws, DISCRETE, seed))
    texts = [f"{100 * covered:.1f}", f"{middle:.3f}", f"{p_value:.2g}"]
    return ["" if np.isnan(x) else text for x, text in zip((covered, middle, p_value), texts, strict=True)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, required=True, help="folder that holds tables/wine and tables/adult")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=["wine"])
    parser.add_argument("--contenders", nargs="+", choices=list(CONTENDERS), default=list(CONTENDERS))
    parser.add_argument("--masks", type=int, nargs="+", choices=[1, 2, 3], default=[1, 2, 3], help="of Wine and Adult")
    parser.add_argument("--seeds", type=int, default=1, help="number of seeds; that of breast-cancer draws its gaps")
    options = parser.parse_args()
    warnings.simplefilter("ignore", ConvergenceWarning)  # ten rounds are scikit-learn's default
    print("| case | contender | seed | error | seconds | 90 % | PIT mean | PIT p |")
    print("| --- " * 8 + "|", flush=True)
    errors: dict[tuple[str, str], list[float]] = {}
    for case, seed in cases(options.cases, options.data_dir, options.masks, range(options.seeds)):
        for name in options.contenders:
            start = time.perf_counter()
            filled = CONTENDERS[name](case, seed)
            seconds, error = time.perf_counter() - start, case.score(case, filled.single)
            errors.setdefault((case.name.split(",")[0], name), []).append(error)
            cells = [case.name, name, str(seed), f"{error:.4f}", f"{seconds:.1f}"]
            print(f"| {' | '.join([*cells, *calibration(case, filled.draws, seed)])} |", flush=True)
    for (case_name, name), found in errors.items():
        print(f"| {case_name}, mean of {len(found)} | {name} | | {np.mean(found):.4f} | | | | |", flush=True)


if __name__ == "__main__":
    main()
