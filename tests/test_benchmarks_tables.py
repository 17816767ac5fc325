"""Scores of the benchmark on incomplete tables: errors by hand, and calibration of draws that are right or wrong."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from table_cases import Case, authors_error, coverage, root_squared_error, squared_error, transforms, uniformity
from tables import CONTENDERS, Columns, mean

NAN = math.nan
COMPLETE = pd.DataFrame(
    {
        "weight": [1.0, 3.0, 5.0, 11.0],
        "visits": [0.0, 2.0, 4.0, 4.0],
        "grade": [1.0, 2.0, 5.0, NAN],  # one cell was never recorded
        "group": [1.0, 2.0, 2.0, 7.0],
        "whole": [1.0, 2.0, 3.0, 4.0],
    }
)
MISSING = pd.DataFrame(
    {
        "weight": [True, True, False, False],
        "visits": [False, False, True, False],
        "grade": [False, True, True, True],
        "group": [True, True, False, False],
        "whole": [False] * 4,
    }
)
KINDS = {"weight": "positive", "visits": "count", "grade": "ordinal", "group": "categorical", "whole": "real"}
CASE = Case("tiny", COMPLETE, COMPLETE.mask(MISSING), KINDS, {"grade": 5, "group": 7}, authors_error)


def test_the_authors_error_by_hand() -> None:
    """Errors of 3 and 4 over a range of 10; of 1 over 4; of 1 and 2 grades of 5 classes; one group of two."""
    filled = COMPLETE.copy()
    filled.loc[:1, "weight"] = [4.0, 7.0]
    filled.loc[2, "visits"] = 3.0
    filled.loc[1:, "grade"] = [1.0, 3.0, 5.0]
    filled.loc[:1, "group"] = [1.0, 7.0]
    parts = [math.sqrt(12.5) / 10, 0.25, 1.5 / 5, 0.5]
    assert CASE.score(CASE, filled) == pytest.approx(np.mean(parts))
    squares = [9, 16, 1, 1, 4, 0, 25]
    assert squared_error(CASE, filled) == pytest.approx(np.mean(squares))
    assert root_squared_error(CASE, filled) == pytest.approx(math.sqrt(np.mean(squares)))
    assert authors_error(CASE, COMPLETE) == 0


def test_cells_that_were_never_recorded_are_missing_and_not_scored() -> None:
    assert CASE.incomplete.isna()["grade"].tolist() == [False, True, True, True]
    assert CASE.asked["grade"].tolist() == [False, True, True, False]


@pytest.mark.parametrize("num_draws", [1, 4, 19])
@pytest.mark.parametrize("kind", ["count", "real"])
def test_transforms_of_right_draws_are_uniform_and_of_narrow_ones_are_not(kind: str, num_draws: int) -> None:
    rng, rows = np.random.default_rng(num_draws), 20_000
    rate = rng.gamma(1.0, 2.0, rows)
    draw = rng.poisson if kind == "count" else rng.normal
    complete = pd.DataFrame({"x": draw(rate).astype(float)})
    case = Case("draws", complete, complete * NAN, {"x": kind}, {}, squared_error)
    draws = [pd.DataFrame({"x": draw(rate).astype(float)}) for _ in range(num_draws)]
    values = transforms(case, draws, [kind], seed=0)
    assert values.min() >= 0 and values.max() < 1
    middle, p_value = uniformity(values)
    assert abs(middle - 0.5) < 4 / math.sqrt(12 * rows) and p_value > 1e-4
    assert abs(coverage(values) - 0.9) < 4 * math.sqrt(0.09 / rows)
    same = transforms(case, [complete * 0 + rate.mean()] * num_draws, [kind], seed=0)
    assert uniformity(same)[1] < 1e-10
    assert len(transforms(case, draws, ["ordinal"], seed=0)) == 0


def test_columns_of_numbers_give_the_table_back() -> None:
    columns = Columns(CASE)
    assert columns.values.shape == (4, 6)  # two groups are seen
    back = columns.frame(np.nan_to_num(columns.values))
    pd.testing.assert_frame_equal(back[CASE.incomplete.notna()], CASE.incomplete)
    assert back.notna().all(axis=None)
    fewer = Columns(CASE, reference=True)
    assert fewer.values.shape == (4, 5)
    pd.testing.assert_frame_equal(fewer.frame(np.nan_to_num(fewer.values))[CASE.incomplete.notna()], CASE.incomplete)


def test_means_and_modes() -> None:
    filled = mean(CASE, seed=0).single
    assert filled.loc[0, "weight"] == 8.0
    assert filled.loc[2, "visits"] == 2.0
    assert filled.loc[1, "grade"] == 1.0


@pytest.mark.parametrize("name", [name for name in CONTENDERS if name != "ours"])
def test_contenders_fill_every_gap_and_leave_other_cells(name: str) -> None:
    rng = np.random.default_rng(0)
    size = rng.normal(size=60)
    complete = pd.DataFrame({"a": np.exp(size), "b": size + rng.normal(size=60), "c": (size > 0) + 1.0})
    kinds = {"a": "positive", "b": "real", "c": "categorical"}
    case = Case("small", complete, complete.mask(rng.random((60, 3)) < 0.2), kinds, {"c": 2}, authors_error)
    filled = CONTENDERS[name](case, 0)
    for frame in (filled.single, *filled.draws):
        assert list(frame.columns) == list(complete.columns) and frame.notna().all(axis=None)
        pd.testing.assert_frame_equal(frame[case.incomplete.notna()], case.incomplete)
        assert set(frame["c"]) <= {1.0, 2.0}
