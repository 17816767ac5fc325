"""Figures of diagnostics: what they show, with which labels, units and counts."""

from __future__ import annotations

import math
from collections.abc import Iterator

import matplotlib
import numpy as np
import pytest
import torch

matplotlib.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PathCollection, PolyCollection
from matplotlib.colors import to_rgba
from matplotlib.container import BarContainer
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from pyro_vae import plots


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    before = dict(matplotlib.rcParams)
    yield
    plt.close("all")
    assert dict(matplotlib.rcParams) == before


def entries(ax: Axes) -> list[str]:
    ax.figure.canvas.draw()
    legend = ax.get_legend()
    return [] if legend is None else [text.get_text() for text in legend.get_texts()]


def labels(ax: Axes) -> tuple[str, str]:
    return ax.get_xlabel(), ax.get_ylabel()


def ticks(ax: Axes, axis: str) -> list[str]:
    return [label.get_text() for label in getattr(ax, f"get_{axis}ticklabels")()]


def dots(ax: Axes, color: str, marker: str = "o") -> list[tuple[float, float]]:
    found = [line for line in ax.lines if line.get_marker() == marker and to_rgba(line.get_color()) == to_rgba(color)]
    return [(float(x), float(y)) for line in found for x, y in line.get_xydata()]


def segments(ax: Axes) -> list[list[list[float]]]:
    parts = [part for part in ax.collections if isinstance(part, LineCollection)]
    return [np.asarray(segment).round(6).tolist() for part in parts for segment in part.get_segments()]


def line(ax: Axes, label: str) -> Line2D:
    return next(line for line in ax.lines if line.get_label() == label)


def bars(ax: Axes, index: int) -> list[Rectangle]:
    part = ax.containers[index]
    assert isinstance(part, BarContainer)
    return list(part)


def test_khat_is_drawn_for_every_row() -> None:
    values = torch.tensor([0.1, 0.9, -math.inf, math.inf, math.nan, 0.75])
    ax = plots.khat(values, 0.75)
    assert entries(ax) == ["3 at most 0.75", "2 above 0.75", "1 NaN, left out"]
    assert labels(ax) == ("row", "Pareto k-hat")
    assert dots(ax, plots.TRAIN) == [(0, pytest.approx(0.1)), (5, 0.75)]  # on the threshold is not above it
    assert dots(ax, plots.VALID) == [(1, pytest.approx(0.9))]
    edges = dots(ax, plots.TRAIN, "v"), dots(ax, plots.VALID, "^")
    assert edges == ([(2, 0)], [(3, 1)])  # in heights of the axes
    assert all(line.get_transform() == ax.get_xaxis_transform() for line in ax.lines if line.get_marker() in ("v", "^"))
    assert [0.75, 0.75] in [np.asarray(line.get_ydata()).tolist() for line in ax.lines]
    assert entries(plots.khat([math.nan], 0.7)) == ["0 at most 0.70", "0 above 0.70", "1 NaN, left out"]


def test_khat_plots_mark_the_rows_that_are_flagged() -> None:
    """A row above the threshold with many effective draws is not flagged."""
    values, flagged = [0.9, 0.9, 0.2, math.nan], [True, False, False, True]
    assert entries(plots.khat(values, 0.7, flagged=flagged)) == ["2 not flagged", "1 flagged", "1 NaN, left out"]
    ax = plots.khat_map(np.arange(8.0).reshape(4, 2), values, 0.7, flagged=flagged)
    _, rings = (part for part in ax.collections if isinstance(part, PathCollection))
    assert np.asarray(rings.get_offsets()).tolist() == [[0.0, 1.0]]
    assert ax.figure.axes[1].get_ylabel() == "Pareto k-hat (1 of 3 flagged: ringed)"
    with pytest.raises(ValueError, match="flagged must"):
        plots.khat(values, 0.7, flagged=[True])


def test_khat_map_rings_rows_above_the_threshold() -> None:
    points = np.arange(10.0).reshape(5, 2)
    ax = plots.khat_map(points, [0.9, 0.2, math.nan, -math.inf, math.inf], 0.7, names=("first", "second"))
    drawn, rings = (part for part in ax.collections if isinstance(part, PathCollection))
    assert np.asarray(drawn.get_offsets()).tolist() == points[[3, 1, 0, 4]].tolist()  # the highest on top
    assert np.asarray(drawn.get_array()).tolist() == [0.2, 0.2, 0.9, 0.9]
    assert np.asarray(rings.get_offsets()).tolist() == points[[0, 4]].tolist()
    assert to_rgba(plots.VALID) == tuple(rings.get_edgecolor()[0])
    assert labels(ax) == ("first", "second")
    bar = ax.figure.axes[1]
    ax.figure.canvas.draw()
    assert bar.get_ylabel() == "Pareto k-hat (2 of 4 above 0.70: ringed)"
    assert bar.get_ylim() == pytest.approx((0.2, 0.9))
    for value in (-math.inf, math.nan, 0.7):  # nothing varies
        plots.khat_map(points, np.full(5, value), 0.7).figure.canvas.draw()


@pytest.mark.parametrize("sign", [-1, 1])
def test_comparison_has_the_best_at_the_top_without_a_bar(sign: int) -> None:
    differences = sign * torch.tensor([3.0, 0.0, 1.0])
    ax = plots.comparison(["a", "b", "c"], differences, [0.5, math.nan, 0.25], [False, False, True])
    assert entries(ax) == ["may be due to the guides"]
    assert ticks(ax, "y") == ["b", "c", "a"] and ax.get_ylim() == (2.5, -0.5)
    assert "nats per row" in ax.get_xlabel()
    assert sorted(dots(ax, plots.TRAIN)) == sorted([(0, 0), (sign * 3, 2)])
    assert dots(ax, plots.VALID) == [(sign, 1)]
    assert segments(ax) == [[[sign * 3 - 1, 2], [sign * 3 + 1, 2]], [[sign - 0.5, 1], [sign + 0.5, 1]]]
    assert entries(plots.comparison(["a", "b"], [-1.0, 0.0], [0.1, 0.0])) == []
    assert entries(plots.comparison(["only"], [0.0], [0.0])) == []


def test_rank_ecdf_names_the_curves_outside_the_band() -> None:
    points = np.arange(0, 11) / 10
    uniform = np.arange(100) % 10
    ranks = np.stack([uniform, np.zeros(100, int), uniform, np.full(100, 4)], 1)
    ax = plots.rank_ecdf(torch.from_numpy(ranks), 9, np.full(11, -0.2), np.full(11, 0.2), points)
    assert entries(ax) == ["simultaneous band", "z1", "z3", "2 inside the band"]
    assert labels(ax) == ("normalized rank", "ECDF - uniform")
    (band,) = (part for part in ax.collections if isinstance(part, PolyCollection))
    corners = band.get_paths()[0].get_extents()
    assert (corners.x0, corners.x1, corners.y0, corners.y1) == pytest.approx((0, 1, -0.2, 0.2))
    np.testing.assert_allclose(line(ax, "2 inside the band").get_ydata(), 0, atol=1e-12)
    np.testing.assert_allclose(line(ax, "z1").get_ydata(), (points > 0) - points)
    np.testing.assert_allclose(line(ax, "z3").get_ydata(), (points > 0.4) - points)
    looks = {name: line(ax, name).get_color() for name in ("z1", "z3", "2 inside the band")}
    assert len(set(looks.values())) == 3 and looks["2 inside the band"] == plots.GREY

    on_the_band = plots.rank_ecdf(ranks[:, :1], 9, np.zeros(11), np.zeros(11), points, names=["only"])
    assert entries(on_the_band) == ["simultaneous band", "1 inside the band"]


@pytest.mark.parametrize("within", [0, 3])
def test_rank_ecdf_names_the_furthest_of_many(within: int) -> None:
    points, names = np.arange(0, 11) / 10, [f"theta {i}" for i in range(9)] + ["fine"] * within
    ranks = np.concatenate([np.tile(np.arange(9), (50, 1)), np.tile(np.arange(50)[:, None] % 10, (1, within))], 1)
    ax = plots.rank_ecdf(ranks, 9, np.full(11, -0.1), np.full(11, 0.1), points, names)
    named = entries(ax)[1:6]
    assert named[0] == "theta 0" and set(named) < set(names) and "theta 4" not in named
    assert entries(ax)[6:] == ["4 more outside", "3 inside the band"][: 1 + (within > 0)]
    assert len(ax.lines) == 9 + within + 1


def test_coverage_is_drawn_against_the_diagonal() -> None:
    ax = plots.coverage([0.5, 0.9], torch.tensor([0.4, 0.8], dtype=torch.float64), errors=[0.05, 0.025])
    assert entries(ax) == []
    assert labels(ax) == ("nominal level", "observed coverage (share of rows)")
    assert ax.lines[0].get_xydata().tolist() == [[0, 0], [1, 1]]
    assert dots(ax, plots.TRAIN) == [(0.5, 0.4), (0.9, 0.8)]
    assert segments(ax) == [[[0.5, 0.3], [0.5, 0.5]], [[0.9, 0.75], [0.9, 0.85]]]
    assert ax.get_aspect() == 1

    several = np.array([[0.4, 0.5, 0.6], [0.8, 0.9, 1.0]])
    ax = plots.coverage([0.5, 0.9], several, names=["a", "b", "c"])
    assert entries(ax) == ["a", "b", "c"]
    assert [line.get_ydata().tolist() for line in ax.lines[1:]] == several.T.tolist()
    assert len({line.get_color() for line in ax.lines[1:]}) == 3
    assert entries(plots.coverage([0.5, 0.9], several)) == []


def test_pit_is_a_histogram_of_density() -> None:
    values = np.repeat([0.1, 0.9], [30, 10])
    ax = plots.pit(values.reshape(4, 10), bins=4, band=(0.7, 1.3))
    assert entries(ax) == ["uniform", "range if uniform"]
    assert [bar.get_height() for bar in bars(ax, 0)] == [3, 0, 0, 1]
    assert labels(ax) == ("probability integral transform", "density") and ax.get_xlim() == (0, 1)
    assert list(line(ax, "uniform").get_ydata()) == [1, 1]
    band = next(part for part in ax.patches if part.get_label() == "range if uniform").get_extents()
    low, high = ax.transData.inverted().transform(band)[:, 1]
    assert (low, high) == pytest.approx((0.7, 1.3))
    ax = plots.pit(values)
    assert entries(ax) == [] and len(bars(ax, 0)) == 20


def test_statistic_has_a_line_at_the_observed_value() -> None:
    ax = plots.statistic(2.5, torch.linspace(0, 3, 90), "skewness", 0.125)
    assert ax.get_title() == "skewness: tail probability 0.125"
    assert entries(ax) == ["replicated", "observed: 2.5"] and labels(ax) == (
        "skewness",
        "number of replicated data sets",
    )
    assert list(line(ax, "observed: 2.5").get_xdata()) == [2.5, 2.5]
    assert [bar.get_height() for bar in bars(ax, 0)] == [3] * 30
    assert plots.statistic(2.5, [1.0], "skewness").get_title() == "skewness"


@pytest.mark.parametrize(("high", "width"), [(0, 1), (5, 1), (60, 1), (61, 3), (1000, 34)])
def test_statistics_that_are_whole_numbers_have_bins_around_them(high: int, width: int) -> None:
    values = torch.arange(high + 1)
    ax = plots.statistic(3, values, "largest count")
    ax.figure.canvas.draw()
    parts = bars(ax, 0)
    assert parts[0].get_x() == -0.5 and {round(bar.get_width(), 9) for bar in parts} == {width}
    assert sum(bar.get_height() for bar in parts) == len(values)
    assert all(float(tick).is_integer() for tick in ax.get_xticks())


def test_kl_is_in_decreasing_order_and_active_units_are_counted() -> None:
    ax = plots.kl_per_dimension(torch.tensor([0.25, 3.0, 0.5, 1.0]), [False, True, False, True])
    assert entries(ax) == ["2 active", "2 inactive"]
    assert labels(ax) == ("latent, sorted by KL", "KL (nats per row)")
    heights = [{round(bar.get_x() + bar.get_width() / 2): bar.get_height() for bar in bars(ax, i)} for i in (0, 1)]
    assert heights == [{0: 3.0, 1: 1.0}, {2: 0.5, 3: 0.25}]
    assert ticks(ax, "x") == ["1", "3", "2", "0"]
    assert bars(ax, 0)[0].get_facecolor() != bars(ax, 1)[0].get_facecolor()
    ax = plots.kl_per_dimension(np.linspace(1, 2, 100), np.ones(100, bool))
    assert entries(ax) == ["100 active", "0 inactive"] and ticks(ax, "x") == []


def test_sandwich_joins_both_estimates_of_a_row() -> None:
    ax = plots.sandwich(torch.tensor([-80.0, -90.0, -85.0]), [-79.0, -88.0, -85.5])
    assert entries(ax) == ["upper", "lower"]
    assert labels(ax) == ("row, sorted by the lower estimate", "log p(x) (nats)")
    assert dots(ax, plots.TRAIN) == [(0, -90), (1, -85), (2, -80)]
    assert dots(ax, plots.VALID) == [(0, -88), (1, -85.5), (2, -79)]
    assert segments(ax) == [[[0, -90], [0, -88]], [[1, -85], [1, -85.5]], [[2, -80], [2, -79]]]
    plots.sandwich([-math.inf, -90.0], [-80.0, math.nan]).figure.canvas.draw()


def test_moments_have_bars_in_both_directions_and_a_diagonal() -> None:
    ax = plots.moments(torch.tensor([[0.0], [2.0]]), [[0.5], [0.25]], [[1.0], [2.0]], [[1.0], [0.5]], name="HMC")
    ax.figure.canvas.draw()
    assert ax.get_xlabel() == "guide: mean \N{PLUS-MINUS SIGN} 1 standard deviation"
    assert ax.get_ylabel() == "HMC: mean \N{PLUS-MINUS SIGN} 1 standard deviation"
    assert dots(ax, plots.TRAIN) == [(0, 1), (2, 2)] and ax.get_aspect() == 1
    assert segments(ax)[:2] == [[[-0.5, 1], [0.5, 1]], [[1.75, 2], [2.25, 2]]]
    assert segments(ax)[2:] == [[[0, 0], [0, 2]], [[2, 1.5], [2, 2.5]]]
    assert ax.lines[0].get_xydata().tolist() == [[-0.5, -0.5], [2.5, 2.5]]


def test_importance_is_a_heat_map_with_its_values() -> None:
    matrix = torch.tensor([[0.75, 0.0], [0.125, 1.0], [0.125, 0.0]])
    ax = plots.importance(matrix, factor_names=["shape", "x position"])
    ax.figure.canvas.draw()
    assert np.array_equal(ax.images[0].get_array(), matrix) and ax.images[0].get_clim() == (0, 1)
    written = {text.get_position(): text.get_text() for text in ax.texts}
    assert written[(0, 0)] == "0.75" and written[(1, 1)] == "1.00" and written[(0, 2)] == "0.12" and len(written) == 6
    assert ticks(ax, "y") == ["z0", "z1", "z2"] and ticks(ax, "x") == ["shape", "x position"]
    assert labels(ax) == ("factor", "code") and ax.figure.axes[1].get_ylabel() == "share of importance"
    ax = plots.importance(np.zeros((1, 2)), ["size"])
    ax.figure.canvas.draw()
    assert ticks(ax, "y") == ["size"] and ticks(ax, "x") == ["factor 0", "factor 1"]


def test_predictive_intervals_are_nested_beneath_the_cells() -> None:
    levels = [0.05, 0.25, 0.5, 0.75, 0.95]
    quantiles = torch.tensor([[-2.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [1.0, 2.0], [2.0, 4.0]])
    ax = plots.predictive_intervals([0.5, 5.0], quantiles, levels, names=["age", "bmi"])
    assert set(entries(ax)) == {"90% interval", "50% interval", "median", "observed"}
    assert ticks(ax, "x") == ["age", "bmi"] and labels(ax) == ("cell", "value")
    assert dots(ax, plots.VALID) == [(0, 0.5), (1, 5)]
    reach = [[(bar.get_y(), bar.get_y() + bar.get_height()) for bar in bars(ax, i)] for i in (0, 1)]
    assert reach == [[(-2, 2), (0, 4)], [(-1, 1), (0, 2)]]
    outer, inner = (bars(ax, i)[0].get_alpha() for i in (0, 1))
    assert outer is not None and inner is not None and outer < inner
    assert [segment[0][1] for segment in segments(ax)] == [0, 1]
    ax = plots.predictive_intervals([0.5, 5.0], quantiles[[0, -1]], torch.tensor([0.05, 0.95]))
    assert set(entries(ax)) == {"90% interval", "observed"} and segments(ax) == []


def test_every_figure_is_drawn_into_the_axes_given() -> None:
    figure, ax = plt.subplots()
    one, two = np.ones(1), np.full((2, 1), 0.5)
    given = {
        "khat": (one, 0.7),
        "khat_map": (np.ones((1, 2)), one, 0.7),
        "comparison": (["a"], [0.0], [0.0]),
        "rank_ecdf": (one[:, None], 1, one, one, one),
        "coverage": (one, one),
        "pit": (one,),
        "statistic": (1.0, one, "mean"),
        "kl_per_dimension": (one, one),
        "sandwich": (one, one),
        "moments": (one, one, one, one),
        "importance": (two,),
        "predictive_intervals": (one, two, [0.1, 0.9]),
    }
    for name, arguments in given.items():
        assert getattr(plots, name)(*arguments, ax=ax) is ax
    figure.canvas.draw()
    assert plt.get_fignums() == [figure.number]


def test_wrong_shapes_are_refused() -> None:
    two, three = np.ones(2), np.ones(3)
    with pytest.raises(ValueError, match=r"values must have shape \(N,\), not empty; got \(0,\). Give one k-hat"):
        plots.khat([], 0.7)
    with pytest.raises(ValueError, match=r"points must have shape \(N, 2\), not empty; got \(3,\)"):
        plots.khat_map(three, three, 0.7)
    with pytest.raises(ValueError, match=r"values must have shape \(3,\), not empty; got \(2,\)"):
        plots.khat_map(np.ones((3, 2)), two, 0.7)
    for what, arguments in (
        ("differences", (three, two)),
        ("errors", (0 * two, three)),
        ("flagged", (0 * two, two, three)),
    ):
        with pytest.raises(ValueError, match=rf"{what} must have shape \(2,\), not empty; got \(3,\)"):
            plots.comparison(["a", "b"], *arguments)
    with pytest.raises(ValueError, match=r"ranks must have shape \(N, D\), not empty; got \(3,\)"):
        plots.rank_ecdf(three, 9, two, two, two / 2)
    for what, arguments in (("lower", (three, two)), ("upper", (two, three))):
        with pytest.raises(ValueError, match=rf"{what} must have shape \(2,\), not empty; got \(3,\)"):
            plots.rank_ecdf(np.ones((3, 1)), 9, *arguments, two / 2)
    with pytest.raises(ValueError, match=r"points must have shape \(P,\), not empty; got \(0,\)"):
        plots.rank_ecdf(np.ones((3, 1)), 9, two, two, [])
    with pytest.raises(ValueError, match=r"levels must have shape \(L,\), not empty; got \(\)"):
        plots.coverage(0.5, two)
    with pytest.raises(ValueError, match=r"observed must have shape \(2,\), not empty; got \(3,\)"):
        plots.coverage(two, three)
    with pytest.raises(ValueError, match=r"observed must have shape \(2, D\), not empty; got \(3, 1\)"):
        plots.coverage(two, three[:, None])
    with pytest.raises(ValueError, match=r"errors must have shape \(2,\), not empty; got \(3,\)"):
        plots.coverage(two, two, three)
    with pytest.raises(ValueError, match=r"values must have shape \(N,\), not empty; got \(0,\)"):
        plots.pit(np.ones((0, 4)))
    with pytest.raises(ValueError, match=r"replicated must have shape \(S,\), not empty; got \(1, 2\)"):
        plots.statistic(1.0, two[None], "mean")
    with pytest.raises(ValueError, match=r"kl must have shape \(D,\), not empty; got \(1, 2\)"):
        plots.kl_per_dimension(two[None], two)
    with pytest.raises(ValueError, match=r"active must have shape \(2,\), not empty; got \(3,\)"):
        plots.kl_per_dimension(two, three)
    with pytest.raises(ValueError, match=r"lower must have shape \(N,\), not empty; got \(1, 2\)"):
        plots.sandwich(two[None], two)
    with pytest.raises(ValueError, match=r"upper must have shape \(2,\), not empty; got \(3,\)"):
        plots.sandwich(two, three)
    for i, what in enumerate(("guide_scale", "reference_mean", "reference_scale"), 1):
        with pytest.raises(ValueError, match=rf"{what} must have shape \(2,\), not empty; got \(3,\)"):
            plots.moments(*(three if j == i else two for j in range(4)))
    with pytest.raises(ValueError, match=r"guide_mean must have shape .*, not empty; got \(0, 2\)"):
        plots.moments(*[np.ones((0, 2))] * 4)
    with pytest.raises(ValueError, match=r"matrix must have shape \(D, F\), not empty; got \(2,\)"):
        plots.importance(two)
    with pytest.raises(ValueError, match=r"x must have shape \(E,\), not empty; got \(1, 2\)"):
        plots.predictive_intervals(two[None], np.ones((2, 2)), [0.1, 0.9])
    with pytest.raises(ValueError, match=r"levels must have shape \(Q,\), not empty; got \(1, 2\)"):
        plots.predictive_intervals(two, np.ones((2, 2)), [[0.1, 0.9]])
    with pytest.raises(ValueError, match=r"quantiles must have shape \(2, 3\), not empty; got \(2, 2\)"):
        plots.predictive_intervals(three, np.ones((2, 2)), [0.1, 0.9])


def test_wrong_values_are_refused() -> None:
    one, two = np.ones(1), np.ones(2)
    for differences in ([-1.0, 2.0], [1.0, 2.0], [0.0, math.nan], [0.0, math.inf]):
        with pytest.raises(ValueError, match="differences must be 0 for the best model and of one sign"):
            plots.comparison(["a", "b"], differences, two)
    with pytest.raises(ValueError, match=r"errors must lie in \[0, inf\]; got -1. Give standard errors"):
        plots.comparison(["a", "b"], [0.0, -1.0], [0.0, -1.0])
    with pytest.raises(ValueError, match=r"ranks must lie in \[0, 9\]; got 10. Count the draws"):
        plots.rank_ecdf([[3], [10]], 9, one, one, one)
    with pytest.raises(ValueError, match=r"points must lie in \[0, 1\]; got 1.5"):
        plots.rank_ecdf([[3]], 9, one, one, 1.5 * one)
    for what, arguments in (
        ("levels", (95 * one, one)),
        ("observed", (one, 95 * one)),
        ("errors", (one, one, 95 * one)),
    ):
        with pytest.raises(ValueError, match=rf"{what} must lie in \[0, 1\]; got 95. Give shares, not per cent"):
            plots.coverage(*arguments)
    with pytest.raises(ValueError, match=r"errors must be left out for observed of shape \(L, D\); got both"):
        plots.coverage(one, one[:, None], one)
    with pytest.raises(ValueError, match=r"values must lie in \[0, 1\]; got nan"):
        plots.pit([0.5, math.nan])
    with pytest.raises(ValueError, match="bins must be a positive integer; got 0"):
        plots.pit([0.5], bins=0)
    for arguments in ((math.nan, two), (1.0, math.nan * two)):
        with pytest.raises(
            ValueError, match="observed and replicated must be finite; got nan. Choose another statistic"
        ):
            plots.statistic(*arguments, "mean")
    for i, what in ((1, "guide_scale"), (3, "reference_scale")):
        with pytest.raises(ValueError, match=rf"{what} must lie in \[0, inf\]; got -1. Give standard deviations"):
            plots.moments(*(-one if j == i else one for j in range(4)))
    with pytest.raises(ValueError, match=r"matrix must lie in \[0, inf\]; got -1. Give shares"):
        plots.importance([[-1.0]])
    with pytest.raises(ValueError, match=r"levels must lie in \[0, 1\]; got 5. Give probabilities"):
        plots.predictive_intervals(one, np.ones((2, 1)), [5, 95])
    for levels in ([0.9, 0.1], [0.1, 0.8]):
        with pytest.raises(ValueError, match="levels must be increasing, and symmetric about 1/2; got"):
            plots.predictive_intervals(one, np.ones((2, 1)), levels)


def test_a_wrong_number_of_names_is_refused() -> None:
    one = np.ones(1)
    with pytest.raises(ValueError, match="names must have length 1; got 2 names. Give one for each"):
        plots.rank_ecdf([[3]], 9, one, one, one, names=["a", "b"])
    with pytest.raises(ValueError, match="names must have length 1; got 2 names"):
        plots.coverage(one, one, names=["a", "b"])
    with pytest.raises(ValueError, match="code_names must have length 1; got 2 names"):
        plots.importance([[1.0]], ["a", "b"])
    with pytest.raises(ValueError, match="factor_names must have length 1; got 2 names"):
        plots.importance([[1.0]], None, ["a", "b"])
    with pytest.raises(ValueError, match="names must have length 1; got 2 names"):
        plots.predictive_intervals(one, np.ones((2, 1)), [0.1, 0.9], names=["a", "b"])
