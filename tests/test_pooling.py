"""Rubin's rules: by hand, against formulas written differently, by simulation, and what is refused."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

from pyro_vae.imputation import Pooled, pool

RNG = np.random.default_rng(1)
ESTIMATES = RNG.normal([1.0, -2.0, 0.5], 0.3, (6, 3))
FACTORS = RNG.normal(size=(6, 3, 8)) / 10
COVARIANCES = FACTORS @ FACTORS.transpose(0, 2, 1)
VARIANCES = np.diagonal(COVARIANCES, axis1=1, axis2=2).copy()
NAMES = ("intercept", "age", "dose")


def numbers(value: Any) -> np.ndarray:
    return np.asarray(value, dtype=float)


def test_three_imputations_by_hand() -> None:
    """Estimates 1, 2, 3 with variance 2: between 1, total 2 + 4/3 = 10/3, r = 2/3, lambda = 2/5, df 2 / (2/5)^2."""
    pooled = pool([1.0, 2.0, 3.0], [1.0, 2.0, 3.0])
    assert float(pooled.estimate) == 2.0
    assert float(pooled.within) == 2.0
    assert float(pooled.between) == 1.0
    assert float(pooled.total) == pytest.approx(10 / 3)
    assert float(pooled.standard_error) == pytest.approx(math.sqrt(10 / 3))
    assert float(pooled.relative_increase) == pytest.approx(2 / 3)
    assert float(pooled.share_due_to_missing) == pytest.approx(0.4)
    assert float(pooled.df) == pytest.approx(12.5)
    assert float(pooled.fraction_missing) == pytest.approx((2 / 3 + 2 / 15.5) / (5 / 3))
    small = pool([1.0, 2.0, 3.0], [1.0, 2.0, 3.0], complete_df=10)
    assert float(small.df) == pytest.approx(1 / (1 / 12.5 + 1 / (11 / 13 * 10 * 0.6)))
    assert float(small.estimate) == 2.0
    assert small.num_imputations == 3


@pytest.mark.parametrize("complete_df", [None, 7, 250.0, np.int64(40), math.inf])
def test_degrees_of_freedom_and_intervals_are_those_of_formulas_written_differently(complete_df: Any) -> None:
    pooled, m = pool(ESTIMATES, VARIANCES, complete_df=complete_df), len(ESTIMATES)
    for j in range(3):
        mean, within = ESTIMATES[:, j].mean(), VARIANCES[:, j].mean()
        spread = sum((q - mean) ** 2 for q in ESTIMATES[:, j]) / (m - 1)
        error = math.sqrt(within + spread + spread / m)
        df = (m - 1) * (1 + m * within / ((m + 1) * spread)) ** 2
        if complete_df is not None and complete_df < math.inf:
            v, g = float(complete_df), (1 + 1 / m) * spread / error**2
            tail = (1 - g) * v * (v + 1)
            df = (m - 1) * tail / ((v + 3) * (m - 1) + g**2 * tail)
        assert float(pooled.df[j]) == pytest.approx(df)
        assert float(pooled.standard_error[j]) == pytest.approx(error)
        for level in (0.5, 0.95):
            expected = stats.t(df, loc=mean, scale=error).interval(level)
            assert [float(end[j]) for end in pooled.interval(level)] == pytest.approx(expected)
        for null in (0.0, 1.0):
            t = stats.t(df, loc=null, scale=error)
            assert float(pooled.p_value(null)[j]) == pytest.approx(2 * min(t.cdf(mean), t.sf(mean)))
    assert numbers(pooled.fraction_missing) == pytest.approx(
        1 - (numbers(pooled.df) + 1) / (numbers(pooled.df) + 3) * (1 - numbers(pooled.share_due_to_missing))
    )


def test_the_p_value_is_one_minus_the_level_at_the_end_of_an_interval() -> None:
    pooled = pool(ESTIMATES, VARIANCES, complete_df=30)
    for level in (0.8, 0.99):
        for end in pooled.interval(level):
            assert numbers(pooled.p_value(end)) == pytest.approx(1 - level)


@pytest.mark.parametrize("complete_df", [None, 12])
def test_imputations_that_agree_are_complete_data(complete_df: float | None) -> None:
    """Also up to rounding: 0.1 + 0.2 is not 0.3. Beside it, a parameter for which they do not agree."""
    estimates = np.array([[0.3, 0.0, 1.0], [0.1 + 0.2, 0.0, 2.0], [0.3, 0.0, 3.0]])
    pooled = pool(estimates, np.ones((3, 3)) * 4, complete_df=complete_df)
    assert pooled.df[:2].tolist() == [complete_df or math.inf] * 2
    assert pooled.fraction_missing[:2].tolist() == pooled.relative_increase[:2].tolist() == [0.0, 0.0]
    assert 0 < float(pooled.fraction_missing[2]) < 1
    reference = stats.norm() if complete_df is None else stats.t(complete_df)
    assert float(pooled.interval()[1][1]) == pytest.approx(2 * reference.isf(0.025))
    assert float(pooled.p_value()[0]) == pytest.approx(2 * reference.sf(0.15))
    assert "nan" not in str(pooled).lower()
    same = pool(np.ones((3, 2)), np.stack([np.eye(2)] * 3), complete_df=complete_df).wald()
    assert same.statistic == pytest.approx(1.0)
    assert same.df2 == (complete_df or math.inf)
    expected = stats.chi2(2).sf(2.0) if complete_df is None else stats.f(2, 12).sf(1.0)
    assert same.p_value == pytest.approx(expected)


def test_many_equal_imputations_almost_agree() -> None:
    """A between-variance near rounding gives numbers near those of complete data, none of them NaN."""
    for size in (1e-13, 1e-9, 1e-5):
        pooled = pool([1.0, 1.0 + size], [1.0, 1.0], complete_df=20)
        assert float(pooled.df) == pytest.approx(21 / 23 * 20, rel=1e-3)
        assert float(pooled.total) == pytest.approx(1.0)


def test_covariances_give_the_same_as_their_diagonals_and_a_covariance() -> None:
    pooled, alone = pool(ESTIMATES, COVARIANCES, complete_df=30), pool(ESTIMATES, VARIANCES, complete_df=30)
    for name in ("estimate", "standard_error", "df", "total", "fraction_missing"):
        assert numbers(getattr(pooled, name)) == pytest.approx(numbers(getattr(alone, name)))
    expected = COVARIANCES.mean(0) + 7 / 6 * np.cov(ESTIMATES, rowvar=False)
    assert numbers(pooled.covariance) == pytest.approx(expected)
    assert numbers(pooled.covariance).diagonal() == pytest.approx(numbers(pooled.total))


@pytest.mark.parametrize("null", [None, 0.5, [1.0, -2.0, 0.4]])
@pytest.mark.parametrize("m", [2, 6])
def test_the_test_of_all_parameters_is_that_of_li_raghunathan_and_rubin(m: int, null: Any) -> None:
    found = pool(ESTIMATES[:m], COVARIANCES[:m]).wald(null)
    inverse = np.linalg.inv(COVARIANCES[:m].mean(0))
    distance = ESTIMATES[:m].mean(0) - (0.0 if null is None else np.array(null))
    r = (1 + 1 / m) * np.trace(np.cov(ESTIMATES[:m].T) @ inverse) / 3
    t = 3 * (m - 1)
    df2 = t * (4 / 3) * (1 + 1 / r) ** 2 / 2 if t <= 4 else 4 + (t - 4) * (1 + (1 - 2 / t) / r) ** 2
    statistic = distance @ inverse @ distance / 3 / (1 + r)
    assert found.statistic == pytest.approx(statistic)
    assert (found.df1, found.df2) == (3, pytest.approx(df2))
    assert found.relative_increase == pytest.approx(r)
    assert found.p_value == pytest.approx(1 - stats.f(3, df2).cdf(statistic), abs=1e-12)
    assert str(found).startswith("F(3, ")


def test_one_parameter_is_tested_as_by_t() -> None:
    """The square of t with Rubin's degrees of freedom, which D1 has for up to five imputations."""
    estimates, variances = ESTIMATES[:5, :1], VARIANCES[:5, :1]
    pooled = pool(estimates, variances[:, :, None])
    found = pooled.wald(0.3)
    assert found.statistic == pytest.approx(float(((pooled.estimate - 0.3) / pooled.standard_error).square()))
    assert found.df2 == pytest.approx(float(pooled.df))
    assert found.p_value == pytest.approx(float(pooled.p_value(0.3)))


def test_units_do_not_change_the_test_of_all_parameters() -> None:
    scale = np.array([1e-8, 1.0, 1e8])
    there = pool(ESTIMATES * scale, COVARIANCES * np.outer(scale, scale), complete_df=40).wald()
    here = pool(ESTIMATES, COVARIANCES, complete_df=40).wald()
    assert numbers([there.statistic, there.df2]) == pytest.approx(numbers([here.statistic, here.df2]))


def test_the_small_sample_test_joins_that_of_large_samples_and_that_of_complete_data() -> None:
    """Reiter's degrees of freedom: those of Li and others for many rows, those of the data where nothing is missing."""
    large = pool(ESTIMATES, COVARIANCES).wald().df2
    found = [pool(ESTIMATES, COVARIANCES, complete_df=df).wald().df2 for df in (5, 20, 60, 1000, 1e9)]
    assert found == sorted(found)
    assert found[-1] == pytest.approx(large, rel=1e-4)
    centre = ESTIMATES.mean(0)
    near = pool(centre + 1e-4 * (ESTIMATES - centre), COVARIANCES, complete_df=40).wald().df2
    assert near == pytest.approx(41 / 43 * 40, rel=1e-3)
    assert pool(ESTIMATES[:2], COVARIANCES[:2], complete_df=3).wald().df2 <= 4 / 6 * 3


def test_statistic_of_reiter_by_hand() -> None:
    """p = 2, m = 5, so t = 8; r = 3/4 gives a = 1; 47 complete degrees of freedom give 45.12, hence 41.12 and 37.12."""
    shift = np.array([-2.0, -1.0, 0.0, 1.0, 2.0]) / math.sqrt(4)  # variance 5/8, times 6/5 is 3/4
    pooled = pool(np.stack([shift, shift], 1), np.stack([np.eye(2)] * 5), complete_df=47)
    v = 48 / 50 * 47
    b, c = v - 4, v - 8
    inner = b / (4 * c) + 4 * b / c**2 + 2 / c + 4 / (c * b) + 16 * b / c**3 + 8 / c**2
    assert pooled.wald().relative_increase == pytest.approx(0.75)
    assert pooled.wald().df2 == pytest.approx(4 + 1 / (1 / c + inner / 4))


@pytest.mark.parametrize(("rows", "m"), [(20, 5), (100, 5), (100, 20)])
def test_intervals_of_a_mean_cover_what_they_state(rows: int, m: int) -> None:
    """Proper imputations of a normal mean, half of the cells missing completely at random.

    Of 4,000 replications, coverage of 95 % must be within four standard errors of 95 %, two-sided, which fails with
    a probability of 6e-5 where it is exact; 1.5 % are added, since the t distribution is an approximation.
    Intervals from the within-variance alone, as if imputed cells were data, cover less than 86 %.
    """
    rng, repeats, seen = np.random.default_rng(rows + m), 4000, rows // 2
    data = rng.normal(1.0, 2.0, (repeats, seen))
    centre, variance = data.mean(1), data.var(1, ddof=1)
    estimates, variances = [], []
    for _ in range(m):
        sigma = np.sqrt((seen - 1) * variance / rng.chisquare(seen - 1, repeats))
        mu = rng.normal(centre, sigma / math.sqrt(seen))
        filled = np.concatenate([data, rng.normal(mu, sigma, (rows - seen, repeats)).T], 1)
        estimates.append(filled.mean(1))
        variances.append(filled.var(1, ddof=1) / rows)
    pooled = pool(estimates, variances, complete_df=rows - 1)
    low, high = pooled.interval()
    covered = float(((low < 1) & (high > 1)).double().mean())
    assert abs(covered - 0.95) < 4 * math.sqrt(0.95 * 0.05 / repeats) + 0.015
    naive = stats.t.isf(0.025, rows - 1) * pooled.within.sqrt()
    assert float(((pooled.estimate - 1).abs() < naive).double().mean()) < 0.86
    assert float(pooled.share_due_to_missing.mean()) == pytest.approx(0.5, abs=0.1)


FRAME = pd.DataFrame(ESTIMATES, columns=list(NAMES))
MATRICES = [pd.DataFrame(matrix, index=list(NAMES), columns=list(NAMES)) for matrix in COVARIANCES]
SQUARES = pd.DataFrame(VARIANCES, columns=list(NAMES))
OTHER = ["dose", "intercept", "age"]  # another order of the names
CAPITALS = [name.upper() for name in NAMES]
FORMS: dict[str, tuple[Any, Any, Any]] = {
    "lists": (ESTIMATES.tolist(), VARIANCES.tolist(), NAMES),
    "tensors": (torch.as_tensor(ESTIMATES).requires_grad_(), torch.as_tensor(VARIANCES), NAMES),
    "lists of tensors": ([*torch.as_tensor(ESTIMATES)], [*torch.as_tensor(COVARIANCES)], NAMES),
    "lists of arrays": ([*ESTIMATES], [*COVARIANCES], list(NAMES)),
    "frames": (FRAME, SQUARES, None),
    "frames, another order": (FRAME, SQUARES[OTHER], None),
    "frame and array": (FRAME, COVARIANCES, None),
    "frame renamed": (FRAME.set_axis(CAPITALS, axis=1), SQUARES.set_axis(CAPITALS, axis=1)[CAPITALS[::-1]], NAMES),
    "series": ([row for _, row in FRAME.iterrows()], [row for _, row in SQUARES.iterrows()], None),
    "series and matrices": ([row for _, row in FRAME.iterrows()], MATRICES, None),
    "one series in another order": (
        [FRAME.iloc[0], FRAME.iloc[1][OTHER], *(row for _, row in FRAME.iloc[2:].iterrows())],
        [MATRICES[0].loc[OTHER, ["age", "dose", "intercept"]], *MATRICES[1:]],
        None,
    ),
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_numbers_and_names(form: str) -> None:
    estimates, variances, names = FORMS[form]
    pooled = pool(estimates, variances, names=names)
    expected = pool(ESTIMATES, VARIANCES)
    assert pooled.names == NAMES
    for name in ("estimate", "standard_error", "df"):
        value = getattr(pooled, name)
        assert value.dtype == torch.float64 and not value.requires_grad
        assert numbers(value) == pytest.approx(numbers(getattr(expected, name)))
    if pooled.within_covariance is not None:
        assert numbers(pooled.covariance) == pytest.approx(numbers(pool(ESTIMATES, COVARIANCES).covariance))


def test_a_series_of_one_number_for_each_imputation_keeps_its_name() -> None:
    pooled = pool(FRAME["age"], SQUARES["dose"])
    assert pooled.names == ("age",) and pooled.estimate.shape == ()
    assert pool(FRAME["age"], SQUARES["age"], names=["years"]).names == ("years",)
    assert pool(FRAME["age"].tolist(), [0.1] * 6).names is None


def test_the_table_has_a_line_for_each_parameter() -> None:
    pooled = pool(FRAME, SQUARES, complete_df=30)
    lines = str(pooled).splitlines()
    assert [line.split()[0] for line in lines[1:4]] == list(NAMES)
    assert lines[4].startswith("Rubin's rules over 6 imputations") and "30 degrees" in lines[4]
    frame = pooled.to_pandas()
    assert list(frame.index) == list(NAMES)
    assert frame["estimate"].to_numpy() == pytest.approx(ESTIMATES.mean(0))
    assert frame["total"].to_numpy() == pytest.approx(frame["standard error"].to_numpy() ** 2)
    assert [title for title in frame if title.endswith("from")] == ["95 % from"]
    low = numbers(pooled.interval(0.8)[0])
    assert [line["80 % from"] for line in pooled.lines(0.8)] == pytest.approx(low)


def test_small_numbers_are_shown_with_the_digits_of_their_errors() -> None:
    text = str(pool([[1.5e-5, 3e7], [2.5e-5, 5e7]], [[4e-12, 1e12]] * 2)).splitlines()
    assert text[1].split()[1].startswith("0.0000200") and text[2].split()[1] == "40000000"


REFUSED: list[tuple[Any, Any, dict[str, Any], str]] = [
    ([1.0], [1.0], {}, r"at least two imputations; got 1.*impute again"),
    (ESTIMATES[:1], COVARIANCES[:1], {}, r"at least two imputations; got 1"),
    (2.0, 1.0, {}, r"estimates must be a number or a vector.*got shape \(\)"),
    (COVARIANCES, COVARIANCES, {}, r"estimates must be.*\(6, 3, 3\)"),
    (np.ones((3, 0)), np.ones((3, 0)), {}, r"estimates must be.*\(3, 0\)"),
    ([1.0, 2.0], [1.0, -0.5], {}, r"variances must not be negative; got -0.5 in imputation 1.*squared"),
    (ESTIMATES, -COVARIANCES, {}, r"variances must not be negative"),
    ([1.0, math.nan], [1.0, 1.0], {}, r"estimates must be finite; got nan in row 1"),
    ([1.0, 2.0], [math.inf, 1.0], {}, r"variances must be finite; got inf in row 0"),
    ([1.0, 2.0], [1.0, 1.0, 1.0], {}, r"shape \(2,\) for estimates of shape \(2,\); got shape \(3,\)"),
    ([1.0, 2.0], np.ones((2, 1, 1)), {}, r"shape \(2,\) for.*got shape \(2, 1, 1\)"),
    (ESTIMATES, VARIANCES.T, {}, r"shape \(6, 3\) or \(6, 3, 3\) for estimates of shape \(6, 3\); got shape \(3, 6\)"),
    (ESTIMATES, np.ones(6), {}, r"got shape \(6,\)"),
    (ESTIMATES, COVARIANCES + np.triu(np.ones((3, 3)), 1), {}, r"symmetric matrices; got entries that differ by 1"),
    ([[1.0, 2.0]] * 2, [[[1.0, 0.0], [0.0, 1.0]], [[1.0, 2.0], [2.0, 1.0]]], {}, r"semidefinite.*value -1, .*ation 1"),
    ([1.0, 2.0], [0.0, 0.0], {}, r"positive in at least one imputation; got 0 in all for parameter 0"),
    (FRAME, SQUARES * [1, 0, 1], {}, r"positive in at least one imputation; got 0 in all for parameter 'age'"),
    ([1.0, 2.0], [1.0, 1.0], {"complete_df": 0}, r"complete_df must be a positive number; got 0"),
    ([1.0, 2.0], [1.0, 1.0], {"complete_df": -3.5}, r"complete_df must be a positive number; got -3.5"),
    ([1.0, 2.0], [1.0, 1.0], {"complete_df": math.nan}, r"complete_df must be a positive number; got nan"),
    ([1.0, 2.0], [1.0, 1.0], {"complete_df": True}, r"complete_df must be a positive number; got True"),
    ([1.0, 2.0], [1.0, 1.0], {"complete_df": "9"}, r"complete_df must be a positive number; got '9'"),
    (ESTIMATES, VARIANCES, {"names": ["a", "b"]}, r"names must be one for each of 3 parameters; got 2"),
    (ESTIMATES, VARIANCES, {"names": ["a", "b", "a"]}, r"names must differ; got \['a'\] more than once"),
    (FRAME, SQUARES.rename(columns={"age": "sex"}), {}, r"names of the estimates, .*'age'.*; got .*'sex'"),
    ([FRAME.iloc[0], FRAME.iloc[1].drop("age")], SQUARES[:2], {}, r"same names in all imputations.*imputation 1"),
    ([FRAME.iloc[0], ESTIMATES[1]], SQUARES[:2], {}, r"same names in all imputations.*got \[\] in imputation 1"),
]  # fmt: skip


@pytest.mark.parametrize(("estimates", "variances", "options", "message"), REFUSED)
def test_what_cannot_be_pooled_is_refused(
    estimates: Any, variances: Any, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        pool(estimates, variances, **options)


@pytest.mark.parametrize(
    ("estimates", "options", "message"),
    [
        (["a", "b"], {}, "estimates must be"),
        ([torch.ones(2), torch.ones(3)], {}, "estimates must be an array of numbers"),
        ([1.0, 2.0], {"names": "x"}, "names must be a sequence of text; got 'x'"),
        ([1.0, 2.0], {"names": [3]}, r"names must be a sequence of text; got \[3\]"),
    ],
)
def test_what_are_not_numbers_or_names_is_refused(estimates: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(TypeError, match=message):
        pool(estimates, [1.0, 1.0], **options)


def test_questions_that_a_result_cannot_answer_are_refused() -> None:
    alone: Pooled = pool(ESTIMATES, VARIANCES)
    with pytest.raises(ValueError, match=r"variances must be covariance matrices .* got squared standard errors of 3"):
        alone.wald()
    with pytest.raises(ValueError, match="variances must be covariance matrices"):
        _ = alone.covariance
    for level in (0, 1, 95, math.nan, "0.9"):
        with pytest.raises(ValueError, match="level must lie between 0 and 1; got"):
            alone.interval(level)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"null must be one number.*shape \(3,\); got shape \(2,\)"):
        alone.p_value([0.0, 1.0])
    with pytest.raises(ValueError, match="null must be finite"):
        pool(ESTIMATES, COVARIANCES).wald(math.nan)
    with pytest.raises(ValueError, match="matrix of full rank for a test of all parameters"):
        pool([[1.0, 2.0], [1.5, 2.0]], np.ones((2, 2, 2))).wald()


def test_rounding_in_single_precision_is_no_reason_to_refuse() -> None:
    matrix = torch.as_tensor(COVARIANCES[:2], dtype=torch.float32)
    matrix[0, 0, 1] *= 1 + 3e-7
    singular = torch.ones(2, 3, 3)
    for one in (matrix, singular):
        assert pool(torch.as_tensor(ESTIMATES[:2], dtype=torch.float32), one).estimate.dtype == torch.float64
