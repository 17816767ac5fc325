"""Figures of tables: what they draw, read back from the artists, and what they refuse."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import matplotlib
import matplotlib.dates
import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.figure import Figure

from pyro_vae import plots
from pyro_vae.plots import panels

matplotlib.use("Agg")
RNG = np.random.RandomState(0)


@pytest.fixture(autouse=True)
def closed_figures() -> Iterator[None]:
    yield
    plt.close("all")


def columns(count: int = 50, seed: int = 0) -> dict[str, Any]:
    numbers = np.random.RandomState(seed)
    real = numbers.randn(count)
    real[3] = np.nan
    times = np.datetime64("2024-01-01") + numbers.randint(0, 99, count)
    times[5] = np.datetime64("NaT")
    level = numbers.choice(np.array(["a", "b", "c"], object), count)
    level[7] = None
    income = np.exp(3 * numbers.randn(count))
    visits = numbers.poisson(2, count).astype(float)
    return {"real": real, "seen": times, "site": level, "income": income, "visits": visits}


def panel(figure: Figure, title: str) -> Any:
    (ax,) = (ax for ax in figure.axes if ax.get_title() == title)
    return ax


def test_marginals_draw_shares_of_the_observed_cells_of_each_sample() -> None:
    data, model = columns(), columns(400, seed=1)
    figure = plots.marginals({"data": data, "model": model}, levels={"site": ["c", "a", "b", "d"]}, title="A table")
    assert [ax.get_title() for ax in figure.axes] == list(data)
    bars = [bar.get_width() for bar in panel(figure, "site").patches]
    for part, sample in ((bars[:4], data), (bars[4:], model)):
        found = [cell for cell in sample["site"] if cell is not None]
        assert part == pytest.approx([found.count(level) / len(found) for level in "cabd"])
    assert [label.get_text() for label in panel(figure, "site").get_yticklabels()] == ["c", "a", "b", "d"]
    whole = panel(figure, "visits").patches[0].get_data()
    np.testing.assert_array_equal(whole.edges[:3], [-0.5, 0.5, 1.5])
    assert whole.values[0] == (data["visits"] == 0).mean()
    assert panel(figure, "income").get_xscale() == "log"
    for name in ("real", "seen"):
        values, edges, _ = panel(figure, name).patches[0].get_data()
        assert (values * np.diff(edges)).sum() == pytest.approx(1)
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["data", "model"]


def test_marginals_of_one_sample_many_columns_and_many_levels_stay_readable() -> None:
    names = {f"a very long name of a question, number {i} with $x_{i}": RNG.randn(20) for i in range(45)}
    figure = plots.marginals({"model": names}, title="Draws", figure=Figure())
    assert len(figure.axes) == 40 and figure.legends == []
    assert figure._suptitle.get_text() == "Draws (the first 40 of 45 columns)"  # type: ignore[attr-defined]
    assert all(len(ax.get_title()) <= 24 for ax in figure.axes)
    figure.draw_without_rendering()
    cells = np.array([f"level {i}" for i in range(30) for _ in range(i + 1)], object)
    (ax,) = plots.marginals({"data": {"x": cells}}).axes
    labels = [label.get_text() for label in ax.get_yticklabels()]
    assert len(labels) == 8 and labels[-1] == "23 others" and "level 29" in labels
    assert sum(bar.get_width() for bar in ax.patches) == pytest.approx(1)


def test_pairs_draw_each_pair_of_numeric_columns_on_the_same_axes_for_both_samples() -> None:
    data, model = columns(), columns(400, seed=1)
    figure = plots.pairs({"data": data, "model": model})
    assert len(figure.axes) == 12  # of real, seen, income and visits: 6 pairs, twice
    for one, other in zip(figure.axes[:6], figure.axes[6:], strict=True):
        assert one.get_xlim() == other.get_xlim() and one.get_ylim() == other.get_ylim()
        assert [len(ax.collections[0].get_offsets()) for ax in (one, other)] == [50, 50]
    named = plots.pairs({"data": data}, names=["income", "real"], title="Two")
    (ax,) = named.axes
    assert (ax.get_xlabel(), ax.get_ylabel(), ax.get_xscale(), ax.get_yscale()) == ("income", "real", "log", "linear")
    points, expected = ax.collections[0].get_offsets(), np.stack([data["income"], data["real"]], 1)
    np.testing.assert_array_equal(np.ma.compress_rows(points), expected[~np.isnan(expected).any(1)])


@pytest.mark.parametrize("count", [3, 4])
def test_times_of_any_range_have_few_ticks(count: int) -> None:
    """matplotlib warns where it finds no interval that makes few ticks."""
    for seconds in np.geomspace(2, 3e9, 60):
        (ax,) = Figure().subplots(1, 1, squeeze=False)[0]
        times = np.datetime64("2021-03-04T05:06:07") + np.array([0, int(seconds)], "timedelta64[s]")
        ax.set_xlim(*matplotlib.dates.date2num(times))
        panels._ticks(ax.xaxis, times, count)
        assert len(ax.get_xticks()) <= count + 1, seconds
        ax.figure.draw_without_rendering()


def test_missing_pattern_sorts_rows_by_pattern_below_the_shares_of_the_columns() -> None:
    missing = np.array([[0, 1, 0]] * 3 + [[0, 0, 0]] * 6 + [[1, 1, 0]])
    top, ax = plots.missing_pattern(missing, ["a", "b", "c"], title="Gaps").axes
    assert [bar.get_height() for bar in top.patches] == [0.1, 0.4, 0.0]
    np.testing.assert_array_equal(ax.images[0].get_array(), [[0, 0, 0]] * 6 + [[0, 1, 0]] * 3 + [[1, 1, 0]])
    assert [text.get_text() for text in ax.texts] == ["6 (60%)", "3 (30%)", "1 (10%)"]
    assert [label.get_text() for label in ax.get_xticklabels()] == ["a", "b", "c"]
    wide = plots.missing_pattern(RNG.rand(9, 200) < 0.1, [f"column {i}" for i in range(200)]).axes[1]
    assert len(wide.get_xticks()) <= 48


def test_imputed_draws_the_columns_with_imputed_cells_alone() -> None:
    drawn = {"real": np.array([np.nan, 0.5, 0.6]), "site": np.array([None, None, "a"], object), "visits": [np.nan] * 3}
    figure = plots.imputed(columns(), drawn, levels={"site": ["a", "b", "c"]})
    assert [ax.get_title() for ax in figure.axes] == ["real", "site"]
    assert [bar.get_width() for bar in panel(figure, "site").patches[3:]] == [1, 0, 0]


def test_other_arguments_are_refused() -> None:
    data = columns()
    with pytest.raises(ValueError, match="samples must be one or two by name; got {}"):
        plots.marginals({})
    with pytest.raises(ValueError, match=r"samples must have the same columns; got .*'real'.* and \[\['a'\]\]"):
        plots.marginals({"data": data, "model": {"a": data["real"]}})
    with pytest.raises(ValueError, match=r"names must be two to 4 columns of numbers or times; got \['real', 'site'\]"):
        plots.pairs({"data": data}, names=["real", "site"])
    with pytest.raises(ValueError, match="names must be two to 4 columns .*; got .*. The columns are"):
        plots.pairs({"data": {"a": data["site"], "b": data["real"]}})
    with pytest.raises(ValueError, match=r"names must have length 3; got 2 names"):
        plots.missing_pattern(np.zeros((4, 3)), ["a", "b"])
    with pytest.raises(ValueError, match=r"missing must have shape \(N, D\), not empty; got \(4,\)"):
        plots.missing_pattern(np.zeros(4), ["a"])
    with pytest.raises(ValueError, match="drawn must hold imputed cells of a column; got none"):
        plots.imputed(data, {"real": [np.nan]})
    with pytest.raises(TypeError, match="figure must be a matplotlib figure; got 3. Leave it out"):
        plots.marginals({"data": data}, figure=3)  # type: ignore[arg-type]
