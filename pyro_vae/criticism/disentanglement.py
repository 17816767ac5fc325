"""Whether single coordinates of the latents match known factors of variation: MIG, SAP, DCI, the FactorVAE score.

Each metric takes `codes` (N, D), e.g. the guide's means `vae.encode(x).mean`, and `factors` (N, F), or (N,) for one
factor: integers that say which of its values each factor takes in a row. "A code" is one of the D columns; V is the
number of values of a factor. The metrics assume that factors vary independently of each other: where they are
correlated, a code of one is partly a code of the other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_vae.arguments import positive_integer
from pyro_vae.data.tensors import as_tensor
from pyro_vae.runtime.display import Shown

__all__ = ["DCI", "Gap", "dci", "factor_vae_score", "mig", "sap"]

LEAF = 0.1  # least weight of a leaf over the weight of one value: how finely trees may split does not grow with N


@dataclass(frozen=True, repr=False)
class Gap(Shown):
    """By how much the best code of each factor is ahead of the second best; `float(gap)` is the score.

    Attributes:
        score: the mean gap over factors.
        per_factor: the gap of each factor, (F,).
        table: what is compared, (D, F): mutual information in nats (`mig`) or held-out balanced accuracy (`sap`).
    """

    score: float
    per_factor: Tensor
    table: Tensor

    def __float__(self) -> float:
        return self.score

    def __str__(self) -> str:
        by_factor = ", ".join(f"{gap:.3f}" for gap in self.per_factor.tolist())
        return f"gap {self.score:.3f} (by factor: {by_factor})"


@dataclass(frozen=True, repr=False)
class DCI(Shown):
    """Disentanglement, completeness and informativeness, each between 0 and 1.

    Attributes:
        disentanglement: 1 if each code is important for one factor only.
        completeness: 1 if one code only is important for each factor.
        informativeness: how well all codes together predict a factor: held-out balanced accuracy, mean over factors.
        importance: the importance of each code for each factor, (D, F); a column sums to 1, or to 0 if no code helps.
    """

    disentanglement: float
    completeness: float
    informativeness: float
    importance: Tensor

    def __str__(self) -> str:
        return (
            f"disentanglement {self.disentanglement:.3f}, completeness {self.completeness:.3f},"
            f" informativeness {self.informativeness:.3f}"
        )


def mig(codes: Any, factors: Any, *, num_bins: int = 20) -> Gap:
    """Mutual information gap: how much more the best code of a factor tells about it than the second best.

        mean over k of (I(z_(1); v_k) - I(z_(2); v_k)) / H(v_k), codes sorted by I, cut into bins of equal width

    The score is 1 if each factor has one code of its own that determines it, and 0 if two codes hold the same. Use it
    to ask whether each factor has a single code; a code that holds several factors is not penalized. Do not use it for
    codes with outliers (they leave most bins empty), nor for few rows, since plug-in mutual information is biased
    upward: for an unrelated code, 2N I is about chi-square with (bins - 1)(V - 1) degrees of freedom, so that I is
    (bins - 1)(V - 1) / (2N) nats on average. The MIG of unrelated codes, the gap between the largest two of D such I
    over H, is therefore small but above 0: compare models at the same N and `num_bins`.

    Args:
        codes: (N, D), D at least 2.
        factors: (N, F) or (N,) integers.
        num_bins: bins between the smallest and the largest value of a code.

    Returns:
        A `Gap`: score, gap per factor, mutual information in nats (D, F).

    Raises:
        ValueError: if shapes or numbers of rows do not fit, codes are not finite, factors are not integers or have one
            value only, or there is one code only.
        TypeError: if codes or factors are not numbers.

    References:
        *Isolating Sources of Disentanglement in Variational Autoencoders* (Chen et al., 2018), arXiv 1802.04942

    Example:
        >>> factors = torch.cartesian_prod(torch.arange(3), torch.arange(4))
        >>> round(mig(factors, factors).score, 6)
        1.0
    """
    from scipy.stats import entropy

    positive_integer("num_bins", num_bins, at_least=2)
    z, v = _checked(codes, factors, min_codes=2)
    span = np.ptp(z, axis=0)
    bins = ((z - z.min(0)) / np.where(span > 0, span, 1.0) * num_bins).astype(int).clip(0, num_bins - 1)
    information = np.array([[_information(code, factor) for factor in v.T] for code in bins.T])
    return _gap(information, np.array([entropy(np.bincount(factor)) for factor in v.T]))


def sap(codes: Any, factors: Any, *, test_share: float = 0.5, seed: int = 0) -> Gap:
    """Separated attribute predictability: how much better the best code predicts a factor than the second best.

        mean over k of A(z_(1), v_k) - A(z_(2), v_k), codes sorted by A

    A is the balanced accuracy (the share of rows predicted correctly, averaged over values) on rows held out. The paper
    classifies by a linear support vector machine, which cannot separate a middle value from those on both sides of it;
    here it is a small decision tree (values weighted equally, no leaf lighter than a tenth of one value), so that a
    code may hold the values in any order. A code unrelated to the factor has accuracy 1 / V, whatever the shares of the
    values. So a perfect code has SAP 1 - 1 / V; unrelated codes have the gap between the best two of D accuracies
    around 1 / V, each with a standard error of at most sqrt((V - 1) / (V^3 n)), where n is the smallest number of
    held-out rows of a value. Use it where codes are skewed or heavy-tailed: only the ranks of a code matter. Do not use
    it to compare factors of different V, nor to see whether one code holds several factors, which is not penalized.

    Args:
        codes: (N, D), D at least 2.
        factors: (N, F) or (N,) integers.
        test_share: the share of each value's rows that is held out.
        seed: seed of the split into training and held-out rows.

    Returns:
        A `Gap`: score, gap per factor, balanced accuracy (D, F).

    Raises:
        ValueError: as `mig`; also if a value has one row only, or `test_share` is not between 0 and 1.
        TypeError: if codes or factors are not numbers.

    References:
        *Variational Inference of Disentangled Latent Concepts from Unlabeled Observations* (Kumar, Sattigeri,
        Balakrishnan, 2017), arXiv 1711.00848
    """
    from sklearn.metrics import balanced_accuracy_score
    from sklearn.tree import DecisionTreeClassifier

    rng = _generator(seed, test_share)
    z, v = _checked(codes, factors, min_codes=2, min_rows=2)
    ranks, accuracy = _ranks(z), np.empty((z.shape[1], v.shape[1]))
    for k, factor in enumerate(v.T):
        train, test = _split(factor, test_share, rng)
        tree = DecisionTreeClassifier(**_tree_options(factor), random_state=0)
        for d in range(z.shape[1]):
            tree.fit(ranks[train, d : d + 1], factor[train])
            accuracy[d, k] = balanced_accuracy_score(factor[test], tree.predict(ranks[test, d : d + 1]))
    return _gap(accuracy, np.ones(v.shape[1]))


def dci(codes: Any, factors: Any, *, test_share: float = 0.5, num_trees: int = 100, seed: int = 0) -> DCI:
    """Disentanglement, completeness and informativeness: which codes do forests use that predict the factors?

        R (D, F): impurity importance of code d in a random forest for factor k, its columns summing to 1
        disentanglement = sum_d w_d (1 - H_F(R_d. / sum_k R_dk)), w_d = sum_k R_dk / sum R, entropy to the base F
        completeness    = mean_k (1 - H_D(R_.k)), entropy to the base D

    A perfect code has 1, 1, 1. One code of two factors is complete and not disentangled; two codes of one factor are
    disentangled and not complete. Unrelated codes have the mean of 1 / V, and nearly 0, 0 (a little more, since
    importances differ by chance). Use it to see which of the three fails. Do not use it where two codes are nearly
    equal: the one with slightly less noise takes all the importance. Trees see the ranks of codes, weight values
    equally, choose among all codes at each split, and have no leaf lighter than a tenth of one value, so that noise
    gets little importance.

    Args:
        codes: (N, D), D at least 2.
        factors: (N, F) integers, F at least 2.
        test_share: the share of each value's rows that is held out.
        num_trees: trees in the forest of each factor.
        seed: seed of the splits and the forests.

    Returns:
        A `DCI`.

    Raises:
        ValueError: as `sap`; also if there is one factor only.
        TypeError: if codes or factors are not numbers.

    References:
        *A Framework for the Quantitative Evaluation of Disentangled Representations* (Eastwood, Williams, 2018),
        ICLR, openreview By-7dz-AZ
    """
    from scipy.stats import entropy
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.metrics import balanced_accuracy_score

    positive_integer("num_trees", num_trees)
    rng = _generator(seed, test_share)
    z, v = _checked(codes, factors, min_codes=2, min_factors=2, min_rows=2)
    ranks = _ranks(z)
    order = sorted(range(z.shape[1]), key=lambda d: ranks[:, d].tobytes())  # results do not depend on the user's order
    importance, accuracy = np.empty((z.shape[1], v.shape[1])), np.empty(v.shape[1])
    for k, factor in enumerate(v.T):
        train, test = _split(factor, test_share, rng)
        options = _tree_options(factor) | {"max_features": None, "random_state": int(rng.integers(2**31))}
        forest = RandomForestClassifier(num_trees, **options).fit(ranks[train][:, order], factor[train])
        importance[order, k] = forest.feature_importances_
        accuracy[k] = balanced_accuracy_score(factor[test], forest.predict(ranks[test][:, order]))
    # Entropies normalize their shares; those of a code or a factor without any importance are NaN, and count as 0.
    by_code = np.nan_to_num(1 - entropy(importance, base=v.shape[1], axis=1))
    by_factor = np.nan_to_num(1 - entropy(importance, base=z.shape[1], axis=0))
    weight, total = importance.sum(1), importance.sum()
    disentanglement = float(weight @ by_code / total) if total > 0 else 0.0
    return DCI(disentanglement, float(by_factor.mean()), float(accuracy.mean()), torch.from_numpy(importance))


def factor_vae_score(codes: Any, factors: Any, *, num_votes: int = 800, group_size: int = 64, seed: int = 0) -> float:
    """The FactorVAE score: does the coordinate that varies least tell which factor was held fixed?

        vote: factor k, value v ~ uniform; rows with v_k = v; d = argmin_d Var(z_d of these rows) / Var(z_d)
        score: how often the factor that has most votes of code d is the right one, over votes held out

    Votes are counted in one half of the rows; the votes held out come from the other half. A perfect code has score 1,
    unrelated codes 1 / F in expectation (if all values have `group_size` rows in each half). Codes that do not vary
    are left out. Use it where factors have many values: nothing is cut into bins, and no classifier is tuned. Do not
    use it to ask whether each factor has a single code: a factor that several codes share is not penalized.

    Args:
        codes: (N, D).
        factors: (N, F) integers, F at least 2.
        num_votes: number of votes that are counted, and the same number held out.
        group_size: rows per vote, drawn without replacement; all rows of the value if there are fewer.
        seed: seed of the split and the votes.

    Returns:
        The share of held-out votes that are right.

    Raises:
        ValueError: as `mig`, but one code is enough and one factor is not; also if no code varies, or a value has fewer
            than 2 rows in a half.
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
    z, v = _checked(codes, factors, min_factors=2)
    varies = np.ptp(z, axis=0) > 0
    if not varies.any():
        raise ValueError("codes must vary in at least one column; got constants only. The guide ignores its data.")
    z = z[:, varies] / z[:, varies].std(0)
    rng = _generator(seed)
    halves = np.array_split(rng.permutation(len(z)), 2)
    learned, held_out = (_votes(z, v, half, num_votes, group_size, rng) for half in halves)
    right = held_out[np.arange(len(held_out)), learned.argmax(1)]
    return float(right.sum() / num_votes)


def _checked(
    codes: Any, factors: Any, *, min_codes: int = 1, min_factors: int = 1, min_rows: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """Checked codes (N, D) in float64, and factors (N, F) whose values are renumbered 0 to V - 1."""
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
    positions = [_renumbered(label, k, min_rows) for k, label in enumerate(labels.numpy().T)]
    return z.numpy(), np.stack(positions, 1)


def _check_cells(what: str, expected: str, cells: Tensor, good: Tensor, advice: str) -> None:
    if not good.all():
        row, column = (int(i) for i in (~good).nonzero()[0])
        where = f"row {row}, column {column} ({int((~good).sum())} such cells)"
        raise ValueError(f"{what} must be {expected}; got {cells[row, column].item()} in {where}. {advice}")


def _renumbered(label: np.ndarray, column: int, min_rows: int) -> np.ndarray:
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


def _information(code: np.ndarray, factor: np.ndarray) -> float:
    """Plug-in mutual information of two columns of whole numbers, in nats."""
    from scipy.stats.contingency import crosstab
    from sklearn.metrics import mutual_info_score

    return float(mutual_info_score(None, None, contingency=crosstab(code, factor).count))


def _gap(table: np.ndarray, scale: np.ndarray) -> Gap:
    """The gap between the largest two entries of each column, over the column's scale."""
    second, first = np.sort(table, axis=0)[-2:]
    gap = (first - second) / scale
    return Gap(float(gap.mean()), torch.from_numpy(gap), torch.from_numpy(table))


def _ranks(z: np.ndarray) -> np.ndarray:
    """The rank of each number within its code, from 0, ties alike: trees then see neither units nor float32."""
    from scipy.stats import rankdata

    return rankdata(z, method="dense", axis=0).astype(int) - 1


def _tree_options(factor: np.ndarray) -> dict[str, Any]:
    return {"class_weight": "balanced", "min_weight_fraction_leaf": LEAF / (factor.max() + 1)}


def _split(factor: np.ndarray, test_share: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Training and held-out rows, as masks, stratified by value.

    Both have at least one row of each value, which the stratified splits of scikit-learn do not ensure.
    """
    order, test = rng.permutation(len(factor)), np.zeros(len(factor), dtype=bool)
    for value in range(factor.max() + 1):
        members = order[factor[order] == value]
        test[members[: min(max(round(test_share * len(members)), 1), len(members) - 1)]] = True
    return ~test, test


def _votes(
    z: np.ndarray, v: np.ndarray, half: np.ndarray, num_votes: int, group_size: int, rng: np.random.Generator
) -> np.ndarray:
    """How often each code varies least while each factor is fixed, (D, F), in one half of the rows."""
    groups = [[half[factor[half] == value] for value in range(factor.max() + 1)] for factor in v.T]
    fewest = [min(len(members) for members in of_factor) for of_factor in groups]
    if min(fewest) < 2:
        raise ValueError(
            f"every value of a factor must have at least 2 rows in each half of the rows; got {min(fewest)} for a value"
            f" in column {np.argmin(fewest)}. Pass more rows, or merge rare values."
        )
    table = np.zeros((z.shape[1], len(groups)), dtype=int)
    for factor in rng.integers(len(groups), size=num_votes):
        members = groups[factor][rng.integers(len(groups[factor]))]
        drawn = rng.choice(members, min(group_size, len(members)), replace=False)
        table[z[drawn].var(0).argmin(), factor] += 1
    return table
