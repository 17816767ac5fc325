"""Figures from arrays: nothing here evaluates a model, reads a file or trains.

Every function draws into `ax`, or into a new figure without it, and returns the axes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Protocol

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike
from torch import Tensor

__all__ = ["images", "interpolation", "latent_map", "rate_distortion", "reconstructions", "training_curve"]

Array = ArrayLike | Tensor
Limit = float | Array | None

INK, FAINT = "#20262c", "#dfe3e6"
TRAIN, VALID = "#0072b2", "#d55e00"  # Okabe and Ito, told apart with any colour vision
# Petroff's ten colours, arXiv 2107.02270; a second ten labels take another marker.
COLORS = (
    *("#3f90da", "#ffa90e", "#bd1f01", "#94a4a2", "#832db6"),
    *("#a96b59", "#e76300", "#b9ac70", "#717581", "#92dadd"),
)
MARKERS = ("o", "^")
FINE = 40  # an image is this many times as wide as the margin around it
GAP = 0.06  # around lines and stems, in cells
STEMS = 64  # longest vector that is drawn cell by cell


class Table(Protocol):
    """What is read of a `History`: columns by name."""

    def __getitem__(self, column: str) -> Sequence[float | None]: ...


def training_curve(history: Table, ax: Axes | None = None) -> Axes:
    """Bounds on training and validation rows against epochs, in nats per row.

    Where there are many epochs, the axis leaves out the depth from which the first of them rise.

    Args:
        history: columns `epoch`, `train_bound` and `valid_bound`; entries may be None.
        ax: where to draw.
    """
    ax = _axes(ax, (6.4, 4.0))
    epochs = np.array(history["epoch"], dtype=float)
    shown = []
    for name, color in (("train", TRAIN), ("valid", VALID)):
        bound = np.array([math.nan if value is None else value for value in history[f"{name}_bound"]], dtype=float)
        known = np.isfinite(bound)
        if not known.any():
            continue
        label = name
        if name == "valid":
            best = int(np.nanargmax(np.where(known, bound, math.nan)))
            label = f"valid, best {bound[best]:.1f} at epoch {epochs[best]:.0f}"
            ax.plot(epochs[best], bound[best], "o", color=color, markersize=5, zorder=3)
        marker = "o" if len(epochs) <= 20 else None
        ax.plot(epochs, bound, color=color, linewidth=1.4, marker=marker, markersize=3, label=label)
        shown.append(bound[known])
    if shown:
        values = np.concatenate(shown)
        low = np.quantile(values, 0.05) if len(epochs) > 10 else values.min()
        margin = 0.05 * (values.max() - low) or 1.0
        ax.set_ylim(low - margin, values.max() + margin)
        ax.legend(frameon=False, loc="lower right")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1, steps=[1, 2, 5, 10]))
    return _plain(ax, "epoch", "bound (nats per row)")


def images(
    x: Array,
    *,
    columns: int | None = None,
    vmin: Limit = None,
    vmax: Limit = None,
    title: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Rows of data side by side: pictures, dark where x is large; other events as stems or lines.

    Args:
        x: grey or colour images (N, C, H, W) with C = 1 or 3, images (N, H, W), or rows of any other shape (N, *E).
        columns: pictures per line; about as many as there are lines by default.
        vmin: the value that is drawn white (black in a colour channel, lowest in a line); the smallest by default. An
            array of shape E gives each cell its own.
        vmax: the value at the other end; the largest by default.
        title: a title.
        ax: where to draw.

    Raises:
        ValueError: if there are no rows, or `columns` is less than 1.
    """
    x = _rows("x", x)
    if columns is not None and columns < 1:
        raise ValueError(f"columns must be 1 or more; got {columns}. Leave it out for a square.")
    columns = columns or math.ceil(math.sqrt(len(x)))
    lines = math.ceil(len(x) / columns)
    scaled, zero = _scaled(x, vmin, vmax)
    channels = scaled[:, None] if x.ndim == 3 else scaled
    is_image = channels.ndim == 4 and channels.shape[1] in (1, 3)
    height, width = channels.shape[2:] if is_image else (2, 3)
    inches = min(1.0, 9.0 / columns, 9.0 / (lines * height / width))  # of a cell's width
    ax = _axes(ax, (max(columns * inches, 2.0), max(lines * inches * height / width, 1.0) + 0.4))
    if is_image:
        ax.imshow(_tiles(channels, columns, lines), extent=(0, columns, lines, 0), interpolation="nearest")
    else:
        segments, ground = _segments(scaled.reshape(len(x), -1), zero.reshape(-1), columns)
        ax.add_collection(LineCollection(list(ground), colors=FAINT, linewidths=0.8))
        ax.add_collection(LineCollection(list(segments), colors=TRAIN, linewidths=1.2))
    ax.set(xlim=(0, columns), ylim=(lines, 0), aspect=height / width, xticks=[], yticks=[])
    for spine in ax.spines.values():
        spine.set_visible(False)
    if title is not None:
        ax.set_title(title, color=INK, fontsize="medium")
    return ax


def reconstructions(x: Array, means: Array, *, vmin: Limit = None, vmax: Limit = None, ax: Axes | None = None) -> Axes:
    """Rows of data, and beneath each its reconstruction; lines of at most 16 pairs.

    Args:
        x: rows (N, *E), as `images` takes them.
        means: their reconstructions, (N, *E).
        vmin: as in `images`; over both by default.
        vmax: likewise.
        ax: where to draw.

    Raises:
        ValueError: if the shapes differ or there are no rows.
    """
    x, means = _rows("x", x), _rows("means", means)
    if x.shape != means.shape:
        raise ValueError(f"means must have the shape of x, {x.shape}; got {means.shape}. Pass one for each row.")
    columns = math.ceil(len(x) / math.ceil(len(x) / 16))
    blank = np.full((-len(x) % columns, *x.shape[1:]), math.nan)
    lines = [np.concatenate([part, blank]).reshape(-1, columns, *x.shape[1:]) for part in (x, means)]
    pairs = np.stack(lines, 1)  # (L, 2, columns, *E)
    ax = images(pairs.reshape(-1, *x.shape[1:]), columns=columns, vmin=vmin, vmax=vmax, ax=ax)
    count = 2 * len(pairs)
    ax.set_yticks(np.arange(count) + 0.5, ["data", "model"] * len(pairs), color=INK)
    ax.tick_params(length=0)
    return ax


def interpolation(path: Array, *, vmin: Limit = None, vmax: Limit = None, ax: Axes | None = None) -> Axes:
    """Paths between rows of data, one beneath the other.

    Args:
        path: (steps, B, *E), as `VAE.interpolate` returns it.
        vmin: as in `images`.
        vmax: likewise.
        ax: where to draw.

    Raises:
        ValueError: if there are no steps or paths.
    """
    values = _rows("path", path)
    if values.ndim < 3 or values.shape[1] == 0:
        raise ValueError(f"path must have shape (steps, B, *E); got {values.shape}. Pass what `interpolate` returns.")
    steps = len(values)
    ax = images(values.swapaxes(0, 1).reshape(-1, *values.shape[2:]), columns=steps, vmin=vmin, vmax=vmax, ax=ax)
    ax.set_xticks([0.5, steps - 0.5], ["from", "to"], color=INK)
    ax.tick_params(length=0)
    return ax


def latent_map(
    points: Array, labels: Array | None = None, *, names: tuple[str, str] = ("z1", "z2"), ax: Axes | None = None
) -> Axes:
    """Points of a plane, coloured by label: a legend for up to 20 whole numbers, a colour bar for others.

    Args:
        points: (N, 2).
        labels: (N,).
        names: of the axes.
        ax: where to draw.

    Raises:
        ValueError: if the shapes are others.
    """
    points = _rows("points", points)
    if points.ndim != 2 or points.shape[1] != 2:
        raise ValueError(f"points must have shape (N, 2); got {points.shape}. Choose two coordinates.")
    ax = _axes(ax, (6.4, 5.2))
    ax.set_aspect("equal", adjustable="datalim")
    style: dict[str, Any] = {"s": 20 if len(points) <= 1000 else 6, "linewidths": 0, "alpha": 0.85}
    if labels is None:
        ax.scatter(*points.T, color=TRAIN, **style)
        return _plain(ax, *names)
    values = _array(labels)
    if values.shape != points.shape[:1]:
        raise ValueError(f"labels must have shape ({len(points)},); got {values.shape}. Give one per point.")
    classes = np.unique(values)
    if values.dtype.kind in "biu" and len(classes) <= 20:
        for i, value in enumerate(classes):
            part, marker = points[values == value], MARKERS[i // len(COLORS)]
            ax.scatter(*part.T, color=COLORS[i % len(COLORS)], marker=marker, label=str(value), **style)
        legend = ax.legend(title="label", frameon=False, loc="center left", bbox_to_anchor=(1, 0.5), handletextpad=0.2)
        for handle in legend.legend_handles:
            handle.set(sizes=[30], alpha=1)  # type: ignore[union-attr]
    else:
        drawn = ax.scatter(points[:, 0], points[:, 1], c=values, cmap="viridis", **style)
        ax.figure.colorbar(drawn, ax=ax, label="label")
    return _plain(ax, *names)


def rate_distortion(
    rates: Array, distortions: Array, labels: Sequence[str] | None = None, ax: Axes | None = None
) -> Axes:
    """Distortion, -E log p(x | z), against rate, KL(q(z | x) || p(z)); both in nats per row.

    Args:
        rates: (M,), one for each model.
        distortions: (M,).
        labels: what to write beside each point.
        ax: where to draw.

    Raises:
        ValueError: if the lengths differ.

    References:
        *Fixing a Broken ELBO* (Alemi et al., 2018), arXiv 1711.00464
    """
    rate, distortion = _rows("rates", rates), _rows("distortions", distortions)
    if rate.ndim != 1 or rate.shape != distortion.shape or (labels is not None and len(labels) != len(rate)):
        raise ValueError(
            f"rates, distortions and labels must have one length; got {rate.shape}, {distortion.shape}"
            f" and {None if labels is None else len(labels)}. Give one of each for every model."
        )
    ax = _axes(ax, (5.6, 4.2))
    order = np.argsort(rate)
    ax.plot(rate[order], distortion[order], color=TRAIN, marker="o", markersize=4, linewidth=1.2)
    for i, text in enumerate(labels or ()):
        style: dict[str, Any] = {"color": INK, "fontsize": "small", "textcoords": "offset points"}
        ax.annotate(str(text), (rate[i], distortion[i]), xytext=(5, 5), **style)
    return _plain(ax, "rate: KL (nats per row)", "distortion: -E log p(x | z) (nats per row)")


def _axes(ax: Axes | None, size: tuple[float, float]) -> Axes:
    return ax if ax is not None else plt.subplots(figsize=size, layout="constrained")[1]


def _plain(ax: Axes, xlabel: str, ylabel: str) -> Axes:
    """Labels, a faint grid, no box."""
    ax.set_xlabel(xlabel, color=INK)
    ax.set_ylabel(ylabel, color=INK)
    ax.grid(color=FAINT, linewidth=0.6)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def _array(values: Array) -> np.ndarray:
    return values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)


def _rows(what: str, values: Array) -> np.ndarray:
    rows = _array(values)
    if rows.ndim == 0 or len(rows) == 0:
        raise ValueError(f"{what} must be at least one row; got shape {rows.shape}. Pass rows of data.")
    return rows


def _scaled(x: np.ndarray, vmin: Limit, vmax: Limit) -> tuple[np.ndarray, np.ndarray]:
    """x (N, *E) with vmin..vmax mapped to 0..1, and where zero lies, (*E): both kept within these."""
    x = x.astype(float)
    finite = x[np.isfinite(x)]
    low = _array(vmin if vmin is not None else finite.min(initial=math.inf) if len(finite) else 0.0).astype(float)
    high = _array(vmax if vmax is not None else finite.max(initial=-math.inf) if len(finite) else 1.0).astype(float)
    span = np.where(high > low, high - low, 1.0)
    return ((x - low) / span).clip(0, 1), np.broadcast_to((-low / span).clip(0, 1), x.shape[1:])


def _tiles(x: np.ndarray, columns: int, lines: int) -> np.ndarray:
    """Images (N, C, H, W) in 0..1 as one picture (rows, columns, RGBA), thin gaps between, NaN left blank."""
    colored = matplotlib.colormaps["gray_r"](x[:, 0]) if x.shape[1] == 1 else np.moveaxis(x, 1, -1)
    if colored.shape[-1] == 3:
        colored = np.concatenate([colored, np.ones_like(colored[..., :1])], -1)
    zoom = math.ceil(FINE / min(x.shape[2:]))  # so that gaps can be thinner than a pixel of the image
    colored = colored.repeat(zoom, 1).repeat(zoom, 2)
    height, width = colored.shape[1:3]
    margin = round(min(height, width) / FINE)
    canvas = np.zeros((lines * (height + 2 * margin), columns * (width + 2 * margin), 4))
    for i, tile in enumerate(colored):
        if np.isnan(x[i]).all():
            continue
        top, left = (i // columns) * (height + 2 * margin), (i % columns) * (width + 2 * margin)
        canvas[top : top + height + 2 * margin, left : left + width + 2 * margin] = matplotlib.colors.to_rgba(FAINT)
        canvas[top + margin : top + margin + height, left + margin : left + margin + width] = tile
    return canvas


def _segments(x: np.ndarray, zero: np.ndarray, columns: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows (N, D) in 0..1, each in its cell of a grid: lines, or stems from where zero is, and the lines of zero."""
    count, size = x.shape
    left = (np.arange(count) % columns + 2 * GAP)[:, None]
    bottom = (np.arange(count) // columns + 1 - 2 * GAP)[:, None]
    across = (np.arange(size) + 0.5) / size * (1 - 4 * GAP)
    points = np.stack(np.broadcast_arrays(left + across, bottom - x * (1 - 4 * GAP)), -1)  # (N, D, 2)
    ground = np.stack(np.broadcast_arrays(left + across, bottom - zero * (1 - 4 * GAP)), -1)
    return (points if size > STEMS else np.stack([ground, points], -2).reshape(-1, 2, 2)), ground
