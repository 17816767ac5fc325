"""A test of several parameters together, from several imputations."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from pyro_vae.runtime.display import Shown

__all__ = ["ROUNDING", "WaldTest", "observed_df", "wald_test"]

ROUNDING = 1e-14  # imputations whose estimates differ by less than this, relative to their size, agree


@dataclass(frozen=True, repr=False)
class WaldTest(Shown):
    """A test of all parameters together: a statistic that has an F distribution if the hypothesis is true.

    Attributes:
        statistic: D1 of Li, Raghunathan and Rubin (1991).
        df1: degrees of freedom of the numerator: the number of parameters.
        df2: degrees of freedom of the denominator; infinity if all imputations agree and `complete_df` is not given.
        p_value: the probability of a statistic at least as large.
        relative_increase: the relative increase of the variance that is due to missing cells, an average over the
            parameters.
    """

    statistic: float
    df1: int
    df2: float
    p_value: float
    relative_increase: float

    def __str__(self) -> str:
        return f"F({self.df1}, {self.df2:.1f}) = {self.statistic:.3f}, p = {self.p_value:.3g}"


def wald_test(distance: Tensor, within: Tensor, between: Tensor, num_imputations: int, complete_df: float) -> WaldTest:
    """D1 of distances (p,) from a hypothesis, with covariance matrices (p, p) within and between imputations.

    Raises:
        ValueError: if the matrix within imputations is singular.
    """
    from scipy.stats import chi2, f

    scale, count = within.diagonal().sqrt(), len(within)  # units of the parameters must not matter
    within, between = (matrix / torch.outer(scale, scale) for matrix in (within, between))
    if torch.linalg.matrix_rank(within, hermitian=True) < count:
        raise ValueError(
            "variances must be, on average, a matrix of full rank for a test of all parameters; got parameters that"
            " determine each other. Leave some of them out."
        )
    distance = distance / scale
    increase = (1 + 1 / num_imputations) * float(torch.linalg.solve(within, between).trace()) / count
    statistic = float(distance @ torch.linalg.solve(within, distance)) / (count * (1 + increase))
    df2 = _denominator_df(increase, count, num_imputations, complete_df)
    p_value = chi2.sf(count * statistic, count) if math.isinf(df2) else f.sf(statistic, count, df2)
    return WaldTest(statistic, count, df2, float(p_value), increase)


def observed_df(complete_df: float) -> float:
    """Degrees of freedom of complete data as Barnard and Rubin (1999) count them."""
    return (complete_df + 1) / (complete_df + 3) * complete_df


def _denominator_df(increase: float, count: int, num_imputations: int, complete_df: float) -> float:
    """Degrees of freedom of the denominator of D1, from the average relative increase of the variance.

    Those of Reiter (2007) exist if t = count (m - 1) > 4 and data have more than 4 (1 + a) degrees of freedom.
    """
    if increase < ROUNDING:
        return complete_df
    t = count * (num_imputations - 1)
    if t > 4:
        large = 4 + (t - 4) * (1 + (1 - 2 / t) / increase) ** 2
    else:
        large = t * (1 + 1 / count) * (1 + 1 / increase) ** 2 / 2
    if math.isinf(complete_df):
        return large
    observed = observed_df(complete_df)
    a = increase * t / (t - 2) if t > 4 else math.inf
    two, four = observed - 2 * (1 + a), observed - 4 * (1 + a)
    if not four > 0:
        return min(large, observed)
    terms = (
        a**2 * two / ((1 + a) ** 2 * four)
        + 8 * a**2 * two / ((1 + a) * four**2)
        + 4 * a**2 / ((1 + a) * four)
        + 4 * a**2 / (four * two)
        + 16 * a**2 * two / four**3
        + 8 * a**2 / four**2
    )
    return 4 + 1 / (1 / four + terms / (t - 4))
