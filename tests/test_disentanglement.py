"""Constructed codes: each metric gives the value that its definition has for them, chance included."""

from __future__ import annotations

import dataclasses
import math
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy import integrate, stats

from pyro_vae.criticism.disentanglement import dci, factor_vae_score, mig, sap

V = 4  # values of a factor, unless a test says otherwise


def draw(rows: int, *values: int, seed: int = 0) -> np.ndarray:
    """Independent uniform factors, (rows, len(values))."""
    return np.random.default_rng(seed).integers(values, size=(rows, len(values)))


def noise(rows: int, columns: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, 1]).normal(size=(rows, columns))


GRID = np.stack(np.meshgrid(range(V), range(V)), -1).reshape(-1, 2).repeat(10, 0)  # every pair equally often
ROWS = draw(2000, V, V)
NOISY = np.c_[ROWS + 0.5 * noise(2000, 2), noise(2000, 2, seed=1)]

# Every metric as a list of its results; a result with one line for each coordinate of the code comes last.
METRICS: dict[str, Callable[..., list[Any]]] = {
    "mig": lambda z, v, **options: [(g := mig(z, v)).score, g.per_factor, g.table],
    "sap": lambda z, v, **options: [(g := sap(z, v, **options)).score, g.per_factor, g.table],
    "dci": lambda z, v, **options: list(vars(dci(z, v, num_trees=5, **options)).values()),
    "factor_vae_score": lambda z, v, **options: [factor_vae_score(z, v, num_votes=100, **options)],
}
SEEDED = [name for name in METRICS if name != "mig"]


def assert_same(one: list[Any], other: list[Any]) -> None:
    for a, b in zip(one, other, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12)


def standard_error(values: int, rows_per_value: int) -> float:
    """The largest standard error of a balanced accuracy whose predictions do not depend on the value."""
    return math.sqrt((values - 1) / (values**3 * rows_per_value))


# Perfect codes, with coordinates and values in another order.


def perfect(v: np.ndarray) -> np.ndarray:
    return np.array([2, 0, 3, 1])[v[:, ::-1]]


def test_a_perfect_code_has_mig_one() -> None:
    result = mig(perfect(GRID), GRID)
    np.testing.assert_allclose(result.per_factor, [1, 1], atol=1e-12)
    np.testing.assert_allclose(result.table, math.log(V) * np.array([[0, 1], [1, 0]]), atol=1e-12)
    assert float(result) == result.score == pytest.approx(1)


def test_a_perfect_code_has_the_sap_of_one_minus_chance() -> None:
    v = draw(4000, 3, V)
    result = sap(perfect(v), v)
    np.testing.assert_array_equal(result.table.numpy()[[1, 0], [0, 1]], 1)
    for gap, values in zip(result.per_factor.tolist(), (3, V), strict=True):
        fewest = min(np.bincount(column).min() for column in v.T if column.max() + 1 == values) // 2
        assert abs(gap - (1 - 1 / values)) < 5 * standard_error(values, fewest)
    assert result.score == pytest.approx(result.per_factor.mean())


def test_a_perfect_code_is_disentangled_complete_and_informative() -> None:
    result = dci(np.c_[perfect(ROWS), noise(2000, 1)], ROWS, num_trees=10)
    np.testing.assert_allclose(result.importance, [[0, 1], [1, 0], [0, 0]], atol=1e-12)
    np.testing.assert_allclose([result.disentanglement, result.completeness, result.informativeness], 1, atol=1e-12)


def test_a_perfect_code_has_the_factor_vae_score_one() -> None:
    assert factor_vae_score(np.c_[perfect(ROWS), noise(2000, 3), np.zeros(2000)], ROWS) == 1


# A sum and a difference of two factors.


def mixed(v: np.ndarray) -> np.ndarray:
    return np.c_[v[:, 0] + v[:, 1], v[:, 0] - v[:, 1]]


def test_a_mixed_code_has_no_mig() -> None:
    result = mig(mixed(GRID), GRID)
    assert result.score == pytest.approx(0, abs=1e-12)
    assert (result.table > 0.1).all()  # each coordinate tells, and both the same


def test_a_mixed_code_has_no_sap() -> None:
    """A sum s of two factors of V = 4 values leaves the best guess right in one of 16 cells for each of 7 sums."""
    result = sap(mixed(ROWS), ROWS)
    error = math.sqrt(0.25 / 1000)  # the largest there is
    np.testing.assert_allclose(result.table, 7 / 16, atol=5 * error)
    assert result.score < 5 * error * math.sqrt(2)


def test_a_mixed_code_informs_and_is_not_disentangled() -> None:
    """Of V = 2, a tree takes 1/6 of the impurity 1/2 from the code it splits first and 1/3 from the other.

    So a code has between 1/3 and 2/3 of the importance, up to errors in the shares of the cells.
    """
    v = draw(4000, 2, 2)
    result = dci(mixed(v), v, num_trees=10)
    share = 1 / 3 - 5 * math.sqrt(0.25 / 2000)
    most = 1 - stats.entropy([share, 1 - share], base=2)
    assert 0 <= result.disentanglement < most < 0.2
    assert 0 <= result.completeness < most
    assert result.informativeness == 1


def test_a_mixed_code_has_the_factor_vae_score_of_chance() -> None:
    score = factor_vae_score(mixed(ROWS), ROWS, num_votes=800)
    assert abs(score - 1 / 2) < 5 * math.sqrt(0.25 / 800)


# One code of two factors; two codes of one.


def test_one_code_of_two_factors_is_complete_and_not_disentangled() -> None:
    both = np.c_[ROWS[:, 0] + V * ROWS[:, 1], np.zeros(2000)]
    result = dci(both, ROWS, num_trees=10)
    np.testing.assert_allclose(result.importance, [[1, 1], [0, 0]], atol=1e-12)
    assert result.completeness == pytest.approx(1)
    assert result.disentanglement == pytest.approx(0, abs=1e-12)
    assert result.informativeness == 1
    assert mig(both, ROWS).score == pytest.approx(1)  # neither gap asks how many factors a code holds
    np.testing.assert_allclose(sap(both, ROWS).per_factor, 1 - 1 / V, atol=1e-12)
    score = factor_vae_score(both[:, :1], ROWS, num_votes=800)
    assert abs(score - 1 / 2) < 5 * math.sqrt(0.25 / 800)


def test_two_codes_of_one_factor_are_disentangled_and_not_complete() -> None:
    """Of two equal codes each tree takes one at random: a share of 1/2 with error 1/2 per root of the trees at most.

    The entropy of shares 1/2 + e is at least 1 - 4 e^2 bits, and half of that to the base 4.
    """
    twice = ROWS[:, [0, 0, 1, 1]]
    result = dci(twice, ROWS, num_trees=100)
    assert result.disentanglement == pytest.approx(1)
    assert 0.5 <= result.completeness < 0.5 + 2 * (5 * 0.5 / math.sqrt(100)) ** 2
    assert result.informativeness == 1
    assert mig(twice, ROWS).score == sap(twice, ROWS).score == 0
    assert factor_vae_score(twice, ROWS) == 1


def test_a_code_of_half_the_values_has_half_the_score() -> None:
    """A code that tells {0, 1} from {2, 3} has log 2 of log 4 nats, and finds 2 of 4 values."""
    half = GRID // 2
    assert mig(half, GRID).score == pytest.approx(0.5)
    assert sap(half, GRID).table.diagonal().tolist() == [0.5, 0.5]
    error = math.sqrt(0.25 / 1000) / math.sqrt(2)
    assert abs(dci(ROWS // 2, ROWS, num_trees=10).informativeness - 0.5) < 5 * error


def test_mig_divides_by_the_entropy_of_the_factor() -> None:
    v = np.repeat([0, 1, 2], [700, 200, 100])
    result = mig(np.c_[v, np.zeros(1000)], v)
    assert result.score == pytest.approx(1)
    assert result.table[0, 0] == pytest.approx(stats.entropy([0.7, 0.2, 0.1]))
    assert result.table[1, 0] == pytest.approx(0, abs=1e-12)


def test_mig_depends_on_the_number_of_bins() -> None:
    z = np.c_[GRID[:, 0], np.zeros(len(GRID))]
    assert mig(z, GRID[:, 0], num_bins=4).score == pytest.approx(1)
    assert mig(z, GRID[:, 0], num_bins=2).score == pytest.approx(0.5)


# Unrelated codes.


def test_the_mig_of_unrelated_codes_is_the_bias_of_plug_in_information() -> None:
    """2N times the information is chi-square of (bins - 1)(V - 1) degrees of freedom; the best is ahead by a spacing.

    The mean gap of the largest two of D numbers of distribution function P is the integral of D P^(D - 1) (1 - P).
    """
    rows, bins, columns, repeats = 4000, 10, 8, 50
    free = (bins - 1) * (V - 1)
    rng = np.random.default_rng(0)
    results = [
        mig(rng.uniform(size=(rows, columns)), rng.integers(V, size=rows), num_bins=bins) for _ in range(repeats)
    ]
    table = np.stack([result.table for result in results])
    error = math.sqrt(2 * free) / (2 * rows) / math.sqrt(table.size)
    assert abs(table.mean() - free / (2 * rows)) < 5 * error
    gaps = np.array([result.score for result in results]) * math.log(V)
    below = stats.chi2(free).cdf
    spacing, _ = integrate.quad(lambda x: columns * below(x) ** (columns - 1) * (1 - below(x)), 0, 200)
    assert abs(gaps.mean() - spacing / (2 * rows)) < 5 * gaps.std(ddof=1) / math.sqrt(repeats)


def test_sap_predicts_a_skewed_factor_from_unrelated_codes_by_chance() -> None:
    v = np.repeat([0, 1, 2], [1400, 400, 200])
    result = sap(noise(2000, 40), v)
    error = standard_error(3, 100)
    np.testing.assert_allclose(result.table, 1 / 3, atol=5 * error)
    assert abs(float(result.table.mean()) - 1 / 3) < 5 * error / math.sqrt(40)


def test_dci_of_unrelated_codes_is_the_chance_in_the_importances() -> None:
    """Importances are (1 + e) / D; to second order, 1 - H is (F - 1) / (2 F log F) or 1 / (2 log D) times mean e^2."""
    columns, repeats = 4, 20
    results = [dci(noise(400, columns, seed=r), draw(400, 2, 2, seed=r), num_trees=20) for r in range(repeats)]
    accuracy = np.mean([result.informativeness for result in results])
    fewest = min(np.bincount(column).min() for r in range(repeats) for column in draw(400, 2, 2, seed=r).T) // 2
    assert abs(accuracy - 1 / 2) < 5 * standard_error(2, fewest) / math.sqrt(2 * repeats)
    importance = np.stack([result.importance for result in results])
    np.testing.assert_allclose(importance.sum(1), 1)
    mean, spread = importance.mean(0), importance.std(0, ddof=1)
    assert (abs(mean - 1 / columns) < 5 * spread / math.sqrt(repeats)).all()
    square = np.mean((importance * columns - 1) ** 2)
    assert square < 0.1  # so that third-order terms, about a third of e, are below a tenth
    completeness = np.mean([result.completeness for result in results])
    assert completeness == pytest.approx(square / (2 * math.log(columns)), rel=0.1)
    disentanglement = np.array([result.disentanglement for result in results])
    error = disentanglement.std(ddof=1) / math.sqrt(repeats)
    assert abs(disentanglement.mean() - square / (4 * math.log(2))) < 5 * error


def test_the_factor_vae_score_of_unrelated_codes_is_chance_where_rows_are_few() -> None:
    """Groups of all rows there are: votes learnt from the rows they are tested on would be right too often."""
    scores = np.array(
        [
            factor_vae_score(noise(300, 6, seed=r), draw(300, 3, 3, 3, seed=r), num_votes=200, group_size=300, seed=r)
            for r in range(40)
        ]
    )
    assert abs(scores.mean() - 1 / 3) < 5 * scores.std(ddof=1) / math.sqrt(len(scores))


def test_the_factor_vae_score_draws_every_value() -> None:
    """A code that is fixed for one of two values wins for that one: 1/2 of one factor's votes, and all of the other's.

    For its other value it varies twice as much as overall, the code of the other factor as ever.
    """
    v = draw(4000, 2, 2)
    z = np.c_[v[:, 0] * noise(4000, 1)[:, 0], v[:, 1]]
    assert abs(factor_vae_score(z, v) - 3 / 4) < 5 * math.sqrt(0.75 * 0.25 / 800)


def test_the_factor_vae_score_takes_whole_groups_where_they_are_small() -> None:
    """Then each of the four groups gives the same vote every time: a multiple of 1/4, up to how often each is drawn."""
    for seed in range(3):
        score = factor_vae_score(noise(60, 6), draw(60, 2, 2), num_votes=5000, group_size=60, seed=seed)
        assert abs(4 * score - round(4 * score)) < 4 * 5 * math.sqrt(0.25 / 5000)


def test_constant_codes_score_zero_or_chance() -> None:
    constants = np.ones((len(GRID), 3))
    assert mig(constants, GRID).score == sap(constants, GRID).score == 0
    result = dci(constants, GRID, num_trees=2)
    assert (result.disentanglement, result.completeness, result.informativeness) == (0, 0, 1 / V)
    assert (result.importance == 0).all()


# What the results do not depend on, and what they do.


@pytest.mark.parametrize("name", METRICS)
def test_the_order_of_codes_does_not_matter(name: str) -> None:
    order = [2, 1, 3, 0]
    expected = METRICS[name](NOISY, ROWS)
    if name != "factor_vae_score":
        expected[-1] = expected[-1][order]
    assert_same(METRICS[name](NOISY[:, order], ROWS), expected)


@pytest.mark.parametrize("name", METRICS)
def test_the_names_of_values_and_the_kind_of_array_do_not_matter(name: str) -> None:
    expected = METRICS[name](NOISY, ROWS)
    assert_same(METRICS[name](NOISY, 3 * ROWS - 7), expected)
    assert_same(METRICS[name](NOISY, ROWS**2 + 0.0), expected)
    assert_same(METRICS[name](torch.tensor(NOISY, requires_grad=True), torch.tensor(ROWS)), expected)


@pytest.mark.parametrize("name", METRICS)
def test_the_units_of_codes_do_not_matter(name: str) -> None:
    assert_same(METRICS[name](NOISY * [1, 2, 0.5, 1024], ROWS), METRICS[name](NOISY, ROWS))


@pytest.mark.parametrize("name", ["sap", "dci"])
def test_sap_and_dci_depend_on_the_ranks_of_a_code_alone(name: str) -> None:
    """A shift by 2^30 would leave nothing of the codes in float32, to which scikit-learn's trees cast."""
    expected = METRICS[name](NOISY, ROWS)
    assert_same(METRICS[name](np.exp(3 * NOISY), ROWS), expected)
    assert_same(METRICS[name](NOISY + 2.0**30, ROWS), expected)


@pytest.mark.parametrize("name", SEEDED)
def test_the_same_seed_gives_the_same_score_and_another_does_not(name: str) -> None:
    first, again, other = (METRICS[name](noise(2000, 4), ROWS, seed=seed)[0] for seed in (3, 3, 4))
    assert first == again != other


@pytest.mark.parametrize("name", METRICS)
def test_global_random_states_are_neither_changed_nor_used(name: str) -> None:
    expected = METRICS[name](NOISY, ROWS)
    state = np.random.get_state()
    try:
        np.random.seed(7)
        before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
        assert_same(METRICS[name](NOISY, ROWS), expected)
        after = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    finally:
        np.random.set_state(state)
    assert torch.equal(before[0], after[0]) and before[1:] == after[1:]


def test_test_share_num_votes_and_group_size_are_used() -> None:
    tenths = 10 * V * sap(noise(50 * V, 4), np.repeat(range(V), 50), test_share=0.2).table
    np.testing.assert_allclose(tenths, tenths.round(), atol=1e-10)  # 10 rows of a value are held out
    few = factor_vae_score(NOISY, ROWS, num_votes=3)
    assert few * 3 == pytest.approx(round(few * 3))
    groups = [factor_vae_score(np.c_[ROWS + 2.0 * noise(2000, 2)], ROWS, group_size=size) for size in (2, 200)]
    assert groups[0] < groups[1]  # a variance of two rows is mostly noise


@pytest.mark.parametrize("share", [0.01, 0.99])
def test_each_value_has_a_row_in_both_parts(share: float) -> None:
    v = np.repeat([0, 1, 2], [50, 40, 2])
    assert sap(np.c_[v, np.zeros(92)], v, test_share=share).table[0, 0] == 1


def test_one_factor_may_be_a_vector() -> None:
    assert_same(METRICS["mig"](NOISY, ROWS[:, 0]), METRICS["mig"](NOISY, ROWS[:, :1]))
    assert_same(METRICS["sap"](NOISY, ROWS[:, 0]), METRICS["sap"](NOISY, ROWS[:, :1]))


def test_results_print_their_scores() -> None:
    assert str(mig(GRID, GRID)) == "gap 1.000 (by factor: 1.000, 1.000)"
    perfect_scores = "disentanglement 1.000, completeness 1.000, informativeness 1.000"
    assert str(dci(ROWS, ROWS, num_trees=10)) == perfect_scores


def test_results_are_frozen() -> None:
    for result in (mig(NOISY, ROWS), dci(NOISY, ROWS, num_trees=1)):
        with pytest.raises(dataclasses.FrozenInstanceError):
            result.score = 1.0  # type: ignore[misc, union-attr]


# Errors.


def with_cell(values: np.ndarray, cell: float) -> np.ndarray:
    changed = values.astype(float)
    changed[3, 1] = cell
    return changed


BAD: dict[str, tuple[Any, Any, type[Exception], str]] = {
    "codes of one dimension": (NOISY[:, 0], ROWS, ValueError, r"codes must be a matrix .* got shape \(2000,\)\. Pass"),
    "codes of three": (NOISY[:, None], ROWS, ValueError, r"codes must be a matrix .* got shape \(2000, 1, 4\)\. Pass"),
    "no rows": (NOISY[:0], ROWS[:0], ValueError, r"codes must be a matrix .* got shape \(0, 4\)\. Pass"),
    "no codes": (NOISY[:, :0], ROWS, ValueError, r"codes must be a matrix .* got shape \(2000, 0\)\. Pass"),
    "factors of three": (NOISY, ROWS[None], ValueError, r"factors must be a matrix .* got shape \(1, 2000, 2\)\. Pass"),
    "rows": (NOISY, ROWS[1:], ValueError, r"factors must have one row per code \(2000\); got 1999\. Align"),
    "NaN codes": (
        with_cell(NOISY, math.nan),
        ROWS,
        ValueError,
        r"codes must be finite; got nan in row 3, column 1 \(1",
    ),
    "infinite": (with_cell(NOISY, math.inf), ROWS, ValueError, r"codes must be finite; got inf in row 3, column 1 \(1"),
    "real factors": (NOISY, with_cell(ROWS, 0.5), ValueError, r"factors must be integers; got 0\.5 in row 3, column 1"),
    "NaN factors": (NOISY, with_cell(ROWS, math.nan), ValueError, r"factors must be integers; got nan in row 3"),
    "infinite factors": (NOISY, with_cell(ROWS, math.inf), ValueError, r"factors must be integers; got inf in row 3"),
    "one value": (NOISY, ROWS * [1, 0], ValueError, r"factors must take at least 2 values; got 0 only in column 1\."),
    "text": (NOISY, np.full((2000, 2), "a"), TypeError, r"factors must be .* of numbers; got ndarray of dtype <U1"),
    "complex codes": (torch.zeros(5, 2, dtype=torch.cfloat), ROWS, TypeError, r"codes must be real; got dtype"),
}


@pytest.mark.parametrize("case", BAD)
@pytest.mark.parametrize("name", METRICS)
def test_bad_arrays_are_refused(name: str, case: str) -> None:
    codes, factors, kind, message = BAD[case]
    with pytest.raises(kind, match=message):
        METRICS[name](codes, factors)


@pytest.mark.parametrize("name", ["mig", "sap", "dci"])
def test_gaps_and_dci_need_two_codes(name: str) -> None:
    with pytest.raises(ValueError, match=r"codes must be a matrix .* 2 column\(s\); got shape \(2000, 1\)\. Pass"):
        METRICS[name](NOISY[:, :1], ROWS)


@pytest.mark.parametrize("name", ["dci", "factor_vae_score"])
def test_dci_and_the_factor_vae_score_need_two_factors(name: str) -> None:
    with pytest.raises(ValueError, match=r"factors must be a matrix .* 2 column\(s\); got shape \(2000, 1\)\. Pass"):
        METRICS[name](NOISY, ROWS[:, 0])


@pytest.mark.parametrize("name", ["sap", "dci"])
def test_held_out_rows_need_a_second_row_of_each_value(name: str) -> None:
    message = r"every value of a factor must have at least 2 rows; got 1 for value 9\.0 in column 1\. Pass more rows"
    with pytest.raises(ValueError, match=message):
        METRICS[name](NOISY, with_cell(ROWS, 9))


def test_each_half_needs_two_rows_of_each_value() -> None:
    message = r"at least 2 rows in each half of the rows; got [01] for a value in column 1\. Pass more rows"
    with pytest.raises(ValueError, match=message):
        factor_vae_score(NOISY, with_cell(ROWS, 9))


def test_constant_codes_have_no_factor_vae_score() -> None:
    with pytest.raises(ValueError, match=r"codes must vary in at least one column; got constants only\. The guide"):
        factor_vae_score(np.ones((2000, 3)), ROWS)


@pytest.mark.parametrize("share", [0, 1.0, -0.5, math.nan, True, "half"])
@pytest.mark.parametrize("name", ["sap", "dci"])
def test_bad_shares_are_refused(name: str, share: Any) -> None:
    with pytest.raises(ValueError, match=rf"test_share must lie between 0 and 1; got {share!r}\. Pass e\.g\."):
        METRICS[name](NOISY, ROWS, test_share=share)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: mig(NOISY, ROWS, num_bins=1), r"num_bins must be an integer of at least 2; got 1\."),
        (lambda: dci(NOISY, ROWS, num_trees=0), r"num_trees must be a positive integer; got 0\."),
        (lambda: factor_vae_score(NOISY, ROWS, num_votes=0), r"num_votes must be a positive integer; got 0\."),
        (lambda: factor_vae_score(NOISY, ROWS, group_size=1), r"group_size must be an integer of at least 2; got 1\."),
        *(
            (lambda name=name: METRICS[name](NOISY, ROWS, seed=-1), r"seed must be an integer of at least 0; got -1\.")
            for name in SEEDED
        ),
    ],
)
def test_bad_numbers_are_refused(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
