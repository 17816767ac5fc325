"""Cases of `tables.py`: complete tables, the cells taken from them, and numbers that say how well these were filled."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import chisquare
from sklearn.datasets import load_breast_cancer

KINDS = {"pos": "positive", "real": "real", "count": "count", "cat": "categorical", "ordinal": "ordinal"}
CONTINUOUS = ("real", "positive")
CATEGORICAL = ("categorical",)
DISCRETE = ("count", "ordinal", "categorical")
NUM_BINS = 10
WHITE = 2.0  # the value of Wine's last column for white wine


@dataclass(frozen=True)
class Case:
    """A table whose missing cells are known.

    Attributes:
        name: what the results are printed under.
        complete: the table before cells were taken out of it; NaN in cells that were never recorded.
        incomplete: the table that contenders receive, NaN in each missing cell.
        kinds: the kind of each column: "real", "positive", "count", "ordinal" or "categorical".
        num_classes: the number of classes of ordinal columns.
        score: the error of a filled table; see `authors_error`, `squared_error` and `root_squared_error`.
    """

    name: str
    complete: pd.DataFrame
    incomplete: pd.DataFrame
    kinds: dict[str, str]
    num_classes: dict[str, int]
    score: Callable[[Case, pd.DataFrame], float]

    @property
    def asked(self) -> pd.DataFrame:
        """Which cells are scored: those that are missing and whose value is known."""
        return self.incomplete.isna() & self.complete.notna()

    def columns(self, kinds: Sequence[str]) -> list[str]:
        """The columns of these kinds."""
        return [name for name, kind in self.kinds.items() if kind in kinds]


def authors_error(case: Case, filled: pd.DataFrame) -> float:
    """The error of Nazabal and others (2020), the authors of HI-VAE: a mean over columns with missing cells.

    Of a categorical column, it is the share of missing cells that are wrong; of an ordinal one, the mean absolute
    difference divided by the number of classes; of any other, the root mean squared error divided by the range of the
    complete column.
    """
    errors = []
    for name, kind in case.kinds.items():
        asked = case.asked[name].to_numpy()
        if not asked.any():
            continue
        truth = case.complete[name].to_numpy(float)
        difference = (filled[name].to_numpy(float) - truth)[asked]
        if kind == "categorical":
            errors.append(float((difference != 0).mean()))
        elif kind == "ordinal":
            errors.append(float(np.abs(difference).mean()) / case.num_classes[name])
        else:
            errors.append(float(np.sqrt((difference**2).mean()) / (np.nanmax(truth) - np.nanmin(truth))))
    return float(np.mean(errors))


def squared_error(case: Case, filled: pd.DataFrame) -> float:
    """The mean squared error over all missing cells."""
    difference = (filled - case.complete).to_numpy(float)[case.asked.to_numpy()]
    return float((difference**2).mean())


def root_squared_error(case: Case, filled: pd.DataFrame) -> float:
    """The root of the mean squared error over all missing cells."""
    return float(np.sqrt(squared_error(case, filled)))


def transforms(case: Case, draws: Sequence[pd.DataFrame], kinds: Sequence[str], seed: int) -> np.ndarray:
    """Randomised probability integral transforms of all asked cells in columns of these kinds, one number a cell.

    With L of m draws below the true value and E equal to it, the transform is (L + V (E + 1)) / (m + 1), V uniform on
    [0, 1): the rank of the truth among the draws, ties broken at random, and spread over its step. If the truth and
    the draws of a cell are independent draws from one distribution, the transform is exactly uniform on [0, 1), for
    every m and for discrete cells as well. Classes without an order count in the order of their numbers.
    """
    noise, found = np.random.default_rng(seed), []
    for name in case.columns(kinds):
        asked = case.asked[name].to_numpy()
        truth = case.complete[name].to_numpy(float)[asked]
        drawn = np.stack([draw[name].to_numpy(float)[asked] for draw in draws])
        below, equal = (drawn < truth).sum(0), (drawn == truth).sum(0)
        found.append((below + noise.random(len(truth)) * (equal + 1)) / (len(draws) + 1))
    return np.concatenate(found) if found else np.empty(0)


def coverage(values: np.ndarray, level: float = 0.9) -> float:
    """The share of cells inside their central interval of this level, from transforms; NaN without cells."""
    return float((np.abs(values - 0.5) < level / 2).mean()) if len(values) else np.nan


def uniformity(values: np.ndarray) -> tuple[float, float]:
    """The mean of transforms, 0.5 if they are uniform, and the p-value of a chi-square test over ten equal bins.

    The test takes cells for independent. Those of one row share what was drawn for it, and all share the fitted model,
    so that a small p-value is a sign and not a proof.
    """
    if not len(values):
        return np.nan, np.nan
    counts = np.bincount(np.minimum((values * NUM_BINS).astype(int), NUM_BINS - 1), minlength=NUM_BINS)
    return float(values.mean()), float(chisquare(counts).pvalue)


def published(folder: Path, name: str, mask: int) -> Case:
    """Wine or Adult, without the cells of one of the published masks; `folder` holds the folder `tables`."""
    place = folder / "tables" / name
    types = pd.read_csv(place / "data_types.csv")
    names = [f"{kind}{i}" for i, kind in enumerate(types["type"])]
    complete = pd.read_csv(place / "data.csv", header=None, names=names).astype(float)
    hidden = _listed(place / f"Missing20_{mask}.csv", complete.shape)
    if (place / "MissingTrue.csv").exists():
        never = _listed(place / "MissingTrue.csv", complete.shape)
        complete, hidden = complete.mask(never), hidden | never
    kinds = {column: KINDS[kind] for column, kind in zip(names, types["type"], strict=True)}
    classes = {
        column: int(count)
        for column, count in zip(names, types["nclass"], strict=True)
        if kinds[column] in ("ordinal", "categorical")
    }
    return Case(f"{name}, mask {mask}", complete, complete.mask(hidden), kinds, classes, authors_error)


def _listed(file: Path, shape: tuple[int, int]) -> np.ndarray:
    """Which cells of a table a file lists, by row and column counted from 1."""
    rows, columns = pd.read_csv(file, header=None).to_numpy(int).T - 1
    found = np.zeros(shape, dtype=bool)
    found[rows, columns] = True
    return found


def breast_cancer(seed: int) -> Case:
    """scikit-learn's breast cancer data, standardised, without half of the cells, chosen completely at random."""
    data = load_breast_cancer()
    complete = _standardised(pd.DataFrame(data.data, columns=[str(name) for name in data.feature_names]))
    hidden = np.zeros(complete.size, dtype=bool)
    hidden[np.random.default_rng(seed).choice(complete.size, complete.size // 2, replace=False)] = True
    incomplete = complete.mask(hidden.reshape(complete.shape))
    kinds = dict.fromkeys(complete.columns, "real")
    return Case(f"breast-cancer, seed {seed}", complete, incomplete, kinds, {}, squared_error)


def white_wine(folder: Path) -> Case:
    """White wine, standardised; the first five columns are missing where above their mean, so not at random."""
    table = pd.read_csv(folder / "tables" / "wine" / "data.csv", header=None)
    complete = _standardised(table[table.iloc[:, -1] == WHITE].iloc[:, :-2].reset_index(drop=True).add_prefix("x"))
    hidden = complete.gt(complete.mean()).to_numpy() & (np.arange(complete.shape[1]) < 5)
    kinds = dict.fromkeys(complete.columns, "real")
    return Case("white-wine", complete, complete.mask(hidden), kinds, {}, root_squared_error)


def _standardised(frame: pd.DataFrame) -> pd.DataFrame:
    return (frame - frame.mean()) / frame.std(ddof=0)


CASES = ("wine", "adult", "breast-cancer", "white-wine")


def cases(names: Sequence[str], folder: Path, masks: Sequence[int], seeds: Sequence[int]) -> Iterator[tuple[Case, int]]:
    """Each case with a seed for its contenders; `masks` are those of Wine and Adult."""
    for name in names:
        if name in ("wine", "adult"):
            yield from ((published(folder, name, mask), seed) for mask in masks for seed in seeds)
        elif name == "breast-cancer":
            yield from ((breast_cancer(seed), seed) for seed in seeds)
        else:
            yield from ((white_wine(folder), seed) for seed in seeds)
