"""Figures of data and of training: what they show, for every shape of data."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import matplotlib
import numpy as np
import pytest
import torch

matplotlib.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PathCollection

from pyro_vae import History, plots
from pyro_vae.criticism.latents import principal_components


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    before = dict(matplotlib.rcParams)
    yield
    plt.close("all")
    assert dict(matplotlib.rcParams) == before


def history(train: list[float | None], valid: list[float | None]) -> History:
    table = History()
    for epoch, (a, b) in enumerate(zip(train, valid, strict=True), 1):
        table.append(epoch=epoch, train_bound=a, valid_bound=b)
    return table


def drawn(ax: Axes) -> Any:
    """Draw the figure; returns its first image, if there is one."""
    ax.figure.canvas.draw()
    return ax.images[0].get_array() if ax.images else None


def test_training_curve_shows_both_bounds_with_units() -> None:
    train: list[float | None] = [-1000.0, *np.linspace(-120, -80, 99)]
    valid: list[float | None] = [-900.0, *np.linspace(-125, -90, 98), -95.0]
    ax = plots.training_curve(history(train, valid))
    drawn(ax)
    curves = {line.get_label(): line for line in ax.lines}
    assert curves["train"].get_ydata().tolist() == train
    assert curves["valid, best -90.0 at epoch 99"].get_ydata().tolist() == valid
    assert ax.get_xlabel() == "epoch" and ax.get_ylabel() == "bound (nats per row)"
    low, high = ax.get_ylim()
    assert -140 < low < -110 and -80 < high < -75


def test_the_training_curve_is_drawn_without_validation_rows_and_with_one_epoch() -> None:
    ax = plots.training_curve(history([-5.0, -4.0, -3.0], [None, None, None]))
    drawn(ax)
    assert [line.get_label() for line in ax.lines] == ["train"]
    assert ax.get_ylim()[0] < -5

    ax = plots.training_curve(history([-5.0], [-6.0]))
    drawn(ax)
    assert all(line.get_marker() == "o" for line in ax.lines)
    assert all(float(tick).is_integer() for tick in ax.get_xticks())


def test_the_training_curve_is_drawn_with_missing_epochs_and_without_any() -> None:
    ax = plots.training_curve(history([None, -4.0, None], [None, -7.0, -6.0]))
    drawn(ax)
    assert np.isnan(ax.lines[0].get_ydata()).tolist() == [True, False, True]
    assert "valid, best -6.0 at epoch 3" in [line.get_label() for line in ax.lines]
    ax = plots.training_curve(History())
    drawn(ax)
    assert not ax.lines and ax.get_xlabel() == "epoch"


def test_every_figure_is_drawn_into_the_axes_given() -> None:
    _, ax = plt.subplots()
    number = len(plt.get_fignums())
    assert plots.images(np.zeros((2, 3, 3)), ax=ax) is ax
    assert plots.latent_map(np.zeros((2, 2)), ax=ax) is ax
    assert plots.training_curve(history([-1.0], [None]), ax=ax) is ax
    assert len(plt.get_fignums()) == number


@pytest.mark.parametrize("shape", [(5, 8, 8), (5, 1, 8, 8), (5, 3, 8, 6), (1, 1, 28, 28), (5, 1, 90, 100)])
def test_images_are_laid_out_in_a_grid(shape: tuple[int, ...]) -> None:
    x = np.random.RandomState(0).rand(*shape)
    ax = plots.images(torch.from_numpy(x), title="Five")
    picture = drawn(ax)
    columns = math.ceil(math.sqrt(shape[0]))
    lines = math.ceil(shape[0] / columns)
    assert ax.get_xlim() == (0, columns) and ax.get_ylim() == (lines, 0)
    assert ax.get_title() == "Five" and not len(ax.get_xticks()) and not len(ax.get_yticks())
    assert picture.shape[0] % lines == 0 and picture.shape[1] % columns == 0 and picture.shape[2] == 4
    if shape[0] < columns * lines:
        assert not picture[-1, -1].any()  # the last cell is blank


def test_grey_is_dark_where_x_is_large_and_colour_is_colour() -> None:
    x = np.zeros((1, 1, 4, 4))
    x[..., 0] = 2.0
    picture = drawn(plots.images(x, vmin=0, vmax=2))
    middle = picture.shape[0] // 2
    assert picture[middle, picture.shape[1] // 5, :3].max() < 0.05  # first column: ink
    assert picture[middle, 3 * picture.shape[1] // 4, :3].min() > 0.95  # last column: paper

    x = np.zeros((1, 3, 4, 4))
    x[:, 0] = 1.0
    picture = drawn(plots.images(x, vmin=0, vmax=1))
    assert picture[middle, middle].tolist() == [1, 0, 0, 1]


def test_limits_of_the_scale_are_those_given_or_those_of_the_data() -> None:
    x = np.array([2.0, 4.0]).reshape(2, 1, 1) * np.ones((2, 4, 4))
    for limits, expected in (({}, (1.0, 0.0)), ({"vmin": 0, "vmax": 8}, (0.75, 0.5))):
        picture = drawn(plots.images(x, columns=2, **limits))
        height, width = picture.shape[:2]
        values = [picture[height // 2, width // 4, 0], picture[height // 2, 3 * width // 4, 0]]
        assert values == pytest.approx(expected, abs=0.01), limits
    drawn(plots.images(np.ones((2, 4, 4))))  # nothing varies


@pytest.mark.parametrize(("shape", "segments"), [((6, 1), 6), ((6, 10), 60), ((6, 200), 6), ((6, 2, 5, 5), 300)])
def test_rows_that_are_not_images_are_stems_or_lines(shape: tuple[int, ...], segments: int) -> None:
    x = np.random.RandomState(0).randn(*shape)
    ax = plots.images(x, columns=3)
    assert drawn(ax) is None
    baseline, marks = (part for part in ax.collections if isinstance(part, LineCollection))
    assert len(marks.get_segments()) == segments and len(baseline.get_segments()) == 6
    points = np.concatenate(marks.get_segments())
    assert points[:, 0].min() > 0 and points[:, 0].max() < 3  # within the cells
    assert points[:, 1].min() > 0 and points[:, 1].max() < 2


def test_each_cell_of_a_vector_may_have_its_own_scale() -> None:
    x = np.array([[0.0, 0.0], [1.0, 100.0]])
    ax = plots.images(x, columns=1, vmin=x.min(0), vmax=x.max(0))
    ends = [segment[-1, 1] for segment in ax.collections[1].get_segments()]
    assert ends[0] == ends[1] > 0.8 and ends[2] == ends[3] < 1.2  # lowest of the first cell, highest of the second


@pytest.mark.parametrize("shape", [(3, 1, 8, 8), (20, 1, 8, 8), (33, 5), (4, 3, 6, 6)])
def test_reconstructions_are_beneath_their_rows(shape: tuple[int, ...]) -> None:
    x = torch.zeros(shape)
    ax = plots.reconstructions(x, x + 1, vmin=0, vmax=1)
    picture = drawn(ax)
    pairs = math.ceil(shape[0] / 16)
    assert [label.get_text() for label in ax.get_yticklabels()] == ["data", "model"] * pairs
    assert ax.get_ylim() == (2 * pairs, 0)
    if len(shape) == 4 and shape[1] == 1:
        height, width = picture.shape[0] // (2 * pairs), picture.shape[1] // math.ceil(shape[0] / pairs)
        assert picture[height // 2, width // 2, 0] > 0.95  # paper
        assert picture[height + height // 2, width // 2, 0] < 0.05  # ink


def test_interpolation_goes_from_left_to_right() -> None:
    path = np.linspace(0, 1, 5).reshape(5, 1, 1, 1, 1) * np.ones((5, 3, 1, 8, 8))
    ax = plots.interpolation(path, vmin=0, vmax=1)
    picture = drawn(ax)
    assert ax.get_xlim() == (0, 5) and ax.get_ylim() == (3, 0)
    assert [label.get_text() for label in ax.get_xticklabels()] == ["from", "to"]
    width, height = picture.shape[1] // 5, picture.shape[0] // 3
    shades = picture[height // 2, width // 2 :: width, 0]
    assert (np.diff(shades) < 0).all()
    assert np.array_equal(picture[:height], picture[height : 2 * height])
    drawn(plots.interpolation(torch.rand(4, 2, 7)))


def test_latent_map_has_a_legend_for_few_labels() -> None:
    points = torch.randn(60, 2, generator=torch.Generator().manual_seed(0))
    ax = plots.latent_map(points)
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("z0", "z1")
    ax = plots.latent_map(points, torch.arange(60) % 12, names=("first", "second"))
    drawn(ax)
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("first", "second")
    legend = ax.get_legend()
    assert legend is not None and [text.get_text() for text in legend.get_texts()] == [str(i) for i in range(12)]
    parts = [part for part in ax.collections if isinstance(part, PathCollection)]
    looks = {(tuple(part.get_facecolor()[0]), len(part.get_paths()[0].vertices)) for part in parts}
    assert len(parts) == 12 and len(looks) == 12


def test_latent_map_has_a_colour_bar_for_many_labels_and_none_without() -> None:
    points = np.random.RandomState(0).randn(60, 2)
    for labels in (np.arange(60), points[:, 0]):
        ax = plots.latent_map(points, labels)
        drawn(ax)
        assert ax.get_legend() is None and len(ax.figure.axes) == 2
    ax = plots.latent_map(points)
    drawn(ax)
    assert len(ax.figure.axes) == 1 and len(ax.collections) == 1
    assert np.array_equal(np.asarray(ax.collections[0].get_offsets()), points)


def test_rate_distortion_is_a_curve_with_a_name_at_each_point() -> None:
    ax = plots.rate_distortion([20.0, 5.0, 12.0], torch.tensor([60.0, 80.0, 68.0]), ["a", "b", "c"])
    drawn(ax)
    assert ax.lines[0].get_xdata().tolist() == [5, 12, 20] and ax.lines[0].get_ydata().tolist() == [80, 68, 60]
    assert {(text.get_text(), text.xy) for text in ax.texts} == {("a", (20, 60)), ("b", (5, 80)), ("c", (12, 68))}
    assert "nats per row" in ax.get_xlabel() and "nats per row" in ax.get_ylabel()


def test_wrong_shapes_are_refused() -> None:
    x = np.zeros((2, 4, 4))
    with pytest.raises(ValueError, match="x must be at least one row; got shape"):
        plots.images(x[:0])
    with pytest.raises(ValueError, match="columns must be a positive integer; got 0"):
        plots.images(x, columns=0)
    with pytest.raises(ValueError, match="means must have the shape of x"):
        plots.reconstructions(x, x[:1])
    with pytest.raises(ValueError, match="path must have shape"):
        plots.interpolation(np.zeros((3, 4)))
    with pytest.raises(ValueError, match="points must have shape"):
        plots.latent_map(np.zeros((3, 4)))
    with pytest.raises(ValueError, match="labels must have shape"):
        plots.latent_map(np.zeros((3, 2)), [1, 2])
    with pytest.raises(ValueError, match="rates and distortions must have the same length"):
        plots.rate_distortion([1.0, 2.0], [1.0])
    with pytest.raises(ValueError, match="labels must have length 2; got 1 names"):
        plots.rate_distortion([1.0, 2.0], [1.0, 2.0], ["a"])


def test_principal_components_keep_the_most_variance() -> None:
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(200, 5, generator=generator, dtype=torch.float64) * torch.tensor([1.0, 5.0, 0.1, 3.0, 0.5])
    projected = principal_components(z + 7.0)
    values = torch.linalg.eigvalsh(z.T.cov()).flip(0)
    torch.testing.assert_close(projected.T.cov(), torch.diag(values[:2]), rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(projected.mean(0), torch.zeros(2).double(), rtol=0, atol=1e-10)
    torch.testing.assert_close(principal_components(z, 1)[:, 0], projected[:, 0])
    with pytest.raises(ValueError, match="z must have shape"):
        principal_components(z, 6)
