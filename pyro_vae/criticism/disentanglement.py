"""How well single coordinates of a code tell known factors of variation apart: MIG, SAP, DCI, the FactorVAE score.

Each takes `codes` (N, D), e.g. the guide's means `vae.encode(x).mean`, and `factors` (N, F), or (N,) for one: the
number of the value that each factor takes in a row. V is the number of values of a factor. All are made for
factors that vary independently of each other; where those are correlated, a code of one is partly a code of the other.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_vae.arguments import positive_integer
from pyro_vae.data.tensors import as_tensor

__all__ = ["DCI", "Gap", "dci", "factor_vae_score", "mig", "sap"]

LEAF = 0.1  # the least weight of a leaf, of that of one value: what a tree may fit does not shrink as rows are added


@dataclass(frozen=True)
class Gap:
    """By how much the best code of each factor is ahead of the second best; `float()` of it is the score.

    Attributes:
        score: the mean gap over factors.
        per_factor: the gap of each factor, (F,).
        table: what was compared, (D, F): mutual information in nats (`mig`), held-out accuracy (`sap`).
    """

    score: float
    per_factor: Tensor
    table: Tensor

    def __float__(self) -> float:
        return self.score


@dataclass(frozen=True)
class DCI:
    """Disentanglement, completeness, informativeness; each between 0 and 1.

    Attributes:
        disentanglement: 1 if each code matters for one factor only.
        completeness: 1 if for each factor one code only matters.
        informativeness: how well all codes together predict a factor: the mean held-out balanced accuracy.
        importance: the importance of each code for each factor, (D, F); a column sums to 1, or to 0 if no code helps.
    """

    disentanglement: float
    completeness: float
    informativeness: float
    importance: Tensor


def mig(codes: Any, factors: Any, *, num_bins: int = 20) -> Gap:
    """Mutual information gap: how much more the best code of a factor tells about it than the second best.

        mean over k of (I(z_(1); v_k) - I(z_(2); v_k)) / H(v_k), codes sorted by I, cut into bins of equal width

    A perfect code, one coordinate a factor, has 1; two codes that tell the same have 0. Use it to ask for one code per
    factor. Not for codes with outliers (they leave most bins empty), nor for few rows: plug-in mutual information is
    biased upward. Of an unrelated code 2N I is about chi-square with (bins - 1)(V - 1) degrees of freedom, so I is
    (bins - 1)(V - 1) / (2N) nats in the mean, and the MIG of unrelated codes, the gap of the largest two of D such I
    over H, is small but above 0. Compare models at the same N and `num_bins`. One code of
    several factors costs nothing.

    Args:
        codes: (N, D), D at least 2.
        factors: (N, F) or (N,) integers.
        num_bins: bins between the least and the largest number of a code.

    Returns:
        A `Gap`: score, gap per factor, mutual information in nats (D, F).

    Raises:
        ValueError: if shapes or numbers of rows do not fit, codes are not finite, factors are not integers or have one
            value, or there is one code only.
        TypeError: if codes or factors are not numbers.

    References:
        *Isolating Sources of Disentanglement in Variational Autoencoders* (Chen et al., 2018), arXiv 1802.04942

    Example:
        >>> factors = torch.cartesian_prod(torch.arange(3), torch.arange(4))
        >>> round(mig(factors, factors).score, 6)
        1.0
    """
    positive_integer("num_bins", num_bins, at_least=2)
    z, v = _read(codes, factors, min_codes=2)
    span = np.ptp(z, axis=0)
    bins = ((z - z.min(0)) / np.where(span > 0, span, 1.0) * num_bins).astype(int).clip(0, num_bins - 1)
    information = np.array([[_information(code, factor) for factor in v.T] for code in bins.T])
    return _gap(information, np.array([_entropy(np.bincount(factor) / len(factor)) for factor in v.T]))


def sap(codes: Any, factors: Any, *, test_share: float = 0.5, seed: int = 0) -> Gap:
    """Separated attribute predictability: how much better the best code predicts a factor than the second best.

        mean over k of A(z_(1), v_k) - A(z_(2), v_k), codes sorted by A

    A is the balanced accuracy (the mean over values of the share found) on rows held out. The paper classifies by a
    linear support vector machine, which on one number cannot single out a value between two others; here it is a small
    decision tree (values weighted equally, no leaf lighter than a tenth of one value), so that a code may number the
    values in any order. A code unrelated to the factor has accuracy 1 / V whatever the shares of the values. So a
    perfect code has SAP 1 - 1 / V, and unrelated codes the gap between the best two of D accuracies around 1 / V, each
    with a standard error of at most sqrt((V - 1) / (V^3 n)), n the fewest held-out rows of a value. Use it where codes
    are skewed or heavy-tailed: only the ranks of a code count. Not to compare factors of different V, nor to see
    whether one code holds several factors, which costs nothing.

    Args:
        codes: (N, D), D at least 2.
        factors: (N, F) or (N,) integers.
        test_share: the share of each value's rows that is held out.
        seed: of the split into rows to learn from and rows held out.

    Returns:
        A `Gap`: score, gap per factor, balanced accuracy (D, F).

    Raises:
        ValueError: as `mig`; also if a value has one row only, or `test_share` is not between 0 and 1.
        TypeError: if codes or factors are not numbers.

    References:
        *Variational Inference of Disentangled Latent Concepts from Unlabeled Observations* (Kumar, Sattigeri,
        Balakrishnan, 2017), arXiv 1711.00848
    """
    from sklearn.tree import DecisionTreeClassifier

    rng = _generator(seed, test_share)
    z, v = _read(codes, factors, min_codes=2, min_rows=2)
    ranks, accuracy = _ranks(z), np.empty((z.shape[1], v.shape[1]))
    for k, factor in enumerate(v.T):
        train, test = _split(factor, test_share, rng)
        tree = DecisionTreeClassifier(**_tree_options(factor), random_state=0)
        for d in range(z.shape[1]):
            tree.fit(ranks[train, d : d + 1], factor[train])
            accuracy[d, k] = _balanced_accuracy(tree.predict(ranks[test, d : d + 1]), factor[test])
    return _gap(accuracy, np.ones(v.shape[1]))


def dci(codes: Any, factors: Any, *, test_share: float = 0.5, num_trees: int = 100, seed: int = 0) -> DCI:
    """Disentanglement, completeness and informativeness, from what forests that predict the factors make use of.

        R (D, F): impurity importance of code d in a random forest for factor k, its columns summing to 1
        disentanglement = sum_d w_d (1 - H_F(R_d. / sum_k R_dk)), w_d = sum_k R_dk / sum R, entropy to the base F
        completeness    = mean_k (1 - H_D(R_.k)), entropy to the base D

    A perfect code has 1, 1, 1. One code of two factors is complete and not disentangled; two codes of one factor are
    disentangled and not complete. Unrelated codes have nearly 0, 0 (as importances differ by chance, not quite) and the
    mean of 1 / V. Use it to see which of the three fails. Not with nearly equal codes: of two that tell the same, the
    one with slightly less noise takes the importance. Trees see the ranks of codes, weight values equally, choose among
    all codes at each split, and have no leaf lighter than a tenth of one value, so that noise gets little importance.

    Args:
        codes: (N, D), D at least 2.
        factors: (N, F) integers, F at least 2.
        test_share: the share of each value's rows that is held out.
        num_trees: trees in the forest of each factor.
        seed: of the splits and the forests.

    Returns:
        A `DCI`.

    Raises:
        ValueError: as `sap`; also if there is one factor only.
        TypeError: if codes or factors are not numbers.

    References:
        *A Framework for the Quantitative Evaluation of Disentangled Representations* (Eastwood, Williams, 2018),
        ICLR, openreview By-7dz-AZ
    """
    from sklearn.ensemble import RandomForestClassifier

    positive_integer("num_trees", num_trees)
    rng = _generator(seed, test_share)
    z, v = _read(codes, factors, min_codes=2, min_factors=2, min_rows=2)
    ranks = _ranks(z)
    order = sorted(range(z.shape[1]), key=lambda d: ranks[:, d].tobytes())  # so that ties don't go by the user's order
    importance, accuracy = np.empty((z.shape[1], v.shape[1])), np.empty(v.shape[1])
    for k, factor in enumerate(v.T):
        train, test = _split(factor, test_share, rng)
        options = _tree_options(factor) | {"max_features": None, "random_state": int(rng.integers(2**31))}
        forest = RandomForestClassifier(num_trees, **options).fit(ranks[train][:, order], factor[train])
        importance[order, k] = forest.feature_importances_
        accuracy[k] = _balanced_accuracy(forest.predict(ranks[test][:, order]), factor[test])
    total = importance.sum()
    of_code = importance.sum(1, keepdims=True)
    by_code = 1 - _entropy(importance / np.where(of_code > 0, of_code, 1.0), axis=1) / math.log(v.shape[1])
    by_factor = (1 - _entropy(importance, axis=0) / math.log(z.shape[1])) * (importance.sum(0) > 0)
    disentanglement = float(of_code[:, 0] @ by_code / total) if total > 0 else 0.0
    return DCI(disentanglement, float(by_factor.mean()), float(accuracy.mean()), torch.from_numpy(importance))


def factor_vae_score(codes: Any, factors: Any, *, num_votes: int = 800, group_size: int = 64, seed: int = 0) -> float:
    """The FactorVAE score: does the coordinate that varies least tell which factor was held fixed?

        vote: factor k, value v ~ uniform; rows with v_k = v; d = argmin_d Var(z_d of these rows) / Var(z_d)
        score: how often the factor that has most votes of code d is the right one, over votes held out

    The votes held out come from the half of the rows that the others do not use. A perfect code has 1, unrelated codes
    1 / F in expectation (if all values have `group_size` rows in each half). Codes that do not vary are left out. Use
    it where factors have many values: nothing is cut into bins, and no classifier is tuned. Not to ask for one code
    per factor: a factor that several codes share costs nothing.

    Args:
        codes: (N, D).
        factors: (N, F) integers, F at least 2.
        num_votes: votes to learn from, and as many held out.
        group_size: rows per vote, drawn without replacement; all that there are if they are fewer.
        seed: of the split and the votes.

    Returns:
        The share of held-out votes that are right.

    Raises:
        ValueError: as `mig`, for one factor instead of one code; also if no code varies, or a value has fewer than 2
            rows in a half.
        TypeError: if codes or factors are not numbers.

    References:
        *Disentangling by Factorising* (Kim, Mnih, 2018), arXiv 1802.05983

    Example:
        >>> factors = torch.cartesian_prod(torch.arange(3), torch.arange(4)).repeat(20, 1)
        >>> factor_vae_score(factors, factors)
        1.0
    """
    positive_integer("num_votes", num_votes)
    positive_integer("group_size", group_size, at_least=2)
    z, v = _read(codes, factors, min_factors=2)
    varies = np.ptp(z, axis=0) > 0
    if not varies.any():
        raise ValueError("codes must vary in at least one column; got constants only. The guide ignores its data.")
    z = z[:, varies] / z[:, varies].std(0)
    rng = _generator(seed)
    halves = np.array_split(rng.permutation(len(z)), 2)
    learned, held_out = (_votes(z, v, half, num_votes, group_size, rng) for half in halves)
    right = held_out[np.arange(len(held_out)), learned.argmax(1)]
    return float(right.sum() / num_votes)


def _read(
    codes: Any, factors: Any, *, min_codes: int = 1, min_factors: int = 1, min_rows: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """Checked codes (N, D) in float64, and for each factor the positions of its values among those that occur."""
    z, labels = as_tensor(codes, "codes").detach().cpu().double(), as_tensor(factors, "factors").detach().cpu()
    labels = labels.double() if labels.is_floating_point() else labels.long()
    labels = labels.unsqueeze(1) if labels.dim() == 1 else labels
    for what, cells, least in (("codes", z, min_codes), ("factors", labels, min_factors)):
        if cells.dim() != 2 or len(cells) == 0 or cells.shape[1] < least:
            raise ValueError(
                f"{what} must be a matrix of at least one row and {least} column(s); got shape {tuple(cells.shape)}."
                " Pass rows by columns."
            )
    if len(z) != len(labels):
        raise ValueError(f"factors must have one row per code ({len(z)}); got {len(labels)}. Align them.")
    _check_cells("codes", "finite", z, torch.isfinite(z), "Drop those rows.")
    whole = torch.isfinite(labels) & (labels == labels.floor())
    _check_cells("factors", "integers", labels, whole, "Number the values of each factor; bin a continuous one.")
    positions = [_positions(label, k, min_rows) for k, label in enumerate(labels.numpy().T)]
    return z.numpy(), np.stack(positions, 1)


def _check_cells(what: str, expected: str, cells: Tensor, good: Tensor, advice: str) -> None:
    if not good.all():
        row, column = (int(i) for i in (~good).nonzero()[0])
        where = f"row {row}, column {column} ({int((~good).sum())} such cells)"
        raise ValueError(f"{what} must be {expected}; got {cells[row, column].item()} in {where}. {advice}")


def _positions(label: np.ndarray, column: int, min_rows: int) -> np.ndarray:
    values, positions, counts = np.unique(label, return_inverse=True, return_counts=True)
    if len(values) < 2:
        raise ValueError(f"factors must take at least 2 values; got {values[0]} only in column {column}. Leave it out.")
    if counts.min() < min_rows:
        raise ValueError(
            f"every value of a factor must have at least {min_rows} rows; got {counts.min()} for value"
            f" {values[counts.argmin()]} in column {column}. Pass more rows, or merge rare values."
        )
    return positions


def _generator(seed: int, test_share: float = 0.5) -> np.random.Generator:
    if isinstance(test_share, bool) or not isinstance(test_share, int | float) or not 0 < test_share < 1:
        raise ValueError(f"test_share must lie between 0 and 1; got {test_share!r}. Pass e.g. test_share=0.5.")
    return np.random.default_rng(positive_integer("seed", seed, at_least=0))


def _entropy(p: np.ndarray, axis: int | None = None) -> Any:
    return -(p * np.log(np.where(p > 0, p, 1.0))).sum(axis)


def _information(a: np.ndarray, b: np.ndarray) -> float:
    """Plug-in mutual information of two columns of small integers, in nats."""
    shape = a.max() + 1, b.max() + 1
    joint = np.bincount(a * shape[1] + b, minlength=shape[0] * shape[1]).reshape(shape) / len(a)
    return float(_entropy(joint.sum(1)) + _entropy(joint.sum(0)) - _entropy(joint))


def _gap(table: np.ndarray, scale: np.ndarray) -> Gap:
    """The gap between the largest two entries of each column, over the column's scale."""
    second, first = np.sort(table, axis=0)[-2:]
    gap = (first - second) / scale
    return Gap(float(gap.mean()), torch.from_numpy(gap), torch.from_numpy(table))


def _ranks(z: np.ndarray) -> np.ndarray:
    """Each code as ranks, equal numbers alike: what a tree sees does not depend on units, nor on float32."""
    return np.stack([np.unique(code, return_inverse=True)[1] for code in z.T], 1)


def _tree_options(factor: np.ndarray) -> dict[str, Any]:
    return {"class_weight": "balanced", "min_weight_fraction_leaf": LEAF / (factor.max() + 1)}


def _split(factor: np.ndarray, test_share: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Rows to learn from and rows held out, as masks; both have every value."""
    order, test = rng.permutation(len(factor)), np.zeros(len(factor), dtype=bool)
    for value in range(factor.max() + 1):
        rows = order[factor[order] == value]
        test[rows[: min(max(round(test_share * len(rows)), 1), len(rows) - 1)]] = True
    return ~test, test


def _balanced_accuracy(predicted: np.ndarray, factor: np.ndarray) -> float:
    return float(np.mean([(predicted[factor == value] == value).mean() for value in range(factor.max() + 1)]))


def _votes(
    z: np.ndarray, v: np.ndarray, half: np.ndarray, num_votes: int, group_size: int, rng: np.random.Generator
) -> np.ndarray:
    """How often each code varies least while each factor is fixed, (D, F), among some of the rows."""
    groups = [[half[factor[half] == value] for value in range(factor.max() + 1)] for factor in v.T]
    fewest = [min(len(rows) for rows in of_factor) for of_factor in groups]
    if min(fewest) < 2:
        raise ValueError(
            f"every value of a factor must have at least 2 rows in each half of the rows; got {min(fewest)} for a value"
            f" in column {np.argmin(fewest)}. Pass more rows, or merge rare values."
        )
    table = np.zeros((z.shape[1], len(groups)), dtype=int)
    for factor in rng.integers(len(groups), size=num_votes):
        rows = groups[factor][rng.integers(len(groups[factor]))]
        drawn = rng.choice(rows, min(group_size, len(rows)), replace=False)
        table[z[drawn].var(0).argmin(), factor] += 1
    return table
