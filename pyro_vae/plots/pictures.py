"""Rows of data as pictures, stems or lines."""

from __future__ import annotations

import math

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection

from pyro_vae.arguments import positive_integer
from pyro_vae.plots.style import FAINT, INK, TRAIN, Array, array, axes, nonempty

Limit = float | Array | None

FINE = 40  # width of an image over the width of the margin around it
GAP = 0.06  # margin around lines and stems, in widths of their place in the grid
STEMS = 64  # longest vector that is drawn as stems


def images(
    x: Array,
    *,
    columns: int | None = None,
    vmin: Limit = None,
    vmax: Limit = None,
    title: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Rows of data side by side: images as pictures, dark where x is large; other rows as stems or lines.

    Args:
        x: grey or colour images (N, C, H, W) with C = 1 or 3, images (N, H, W), or rows of any other shape (N, *E).
        columns: pictures in each line; by default the grid is about square.
        vmin: the value drawn in white (in a colour channel: black; in a line: lowest); the smallest value by default.
            An array of shape E gives each cell its own.
        vmax: the value at the other end; the largest value by default.
        title: title of the figure.
        ax: where to draw.

    Raises:
        ValueError: if there are no rows, or `columns` is less than 1.
    """
    x = nonempty("x", x)
    columns = positive_integer("columns", columns) if columns is not None else math.ceil(math.sqrt(len(x)))
    lines = math.ceil(len(x) / columns)
    scaled, zero = _scaled(x, vmin, vmax)
    channels = scaled[:, None] if x.ndim == 3 else scaled
    is_image = channels.ndim == 4 and channels.shape[1] in (1, 3)
    height, width = channels.shape[2:] if is_image else (2, 3)
    inches = min(1.0, 9.0 / columns, 9.0 / (lines * height / width))  # width of one picture
    ax = axes(ax, (max(columns * inches, 2.0), max(lines * inches * height / width, 1.0) + 0.4))
    if is_image:
        ax.imshow(_tiles(channels, columns, lines), extent=(0, columns, lines, 0), interpolation="nearest")
    else:
        segments, baseline = _segments(scaled.reshape(len(x), -1), zero.reshape(-1), columns)
        ax.add_collection(LineCollection(list(baseline), colors=FAINT, linewidths=0.8))
        ax.add_collection(LineCollection(list(segments), colors=TRAIN, linewidths=1.2))
    ax.set(xlim=(0, columns), ylim=(lines, 0), aspect=height / width, xticks=[], yticks=[])
    for spine in ax.spines.values():
        spine.set_visible(False)
    if title is not None:
        ax.set_title(title, color=INK, fontsize="medium")
    return ax


def reconstructions(x: Array, means: Array, *, vmin: Limit = None, vmax: Limit = None, ax: Axes | None = None) -> Axes:
    """Rows of data, each with its reconstruction beneath it, at most 16 side by side.

    Args:
        x: rows (N, *E), as `images` takes them.
        means: reconstructions of these rows, (N, *E).
        vmin: as in `images`; the smallest value of both by default.
        vmax: as in `images`; the largest value of both by default.
        ax: where to draw.

    Raises:
        ValueError: if the shapes differ or there are no rows.
    """
    x, means = nonempty("x", x), nonempty("means", means)
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
        path: B paths, (steps, B, *E), as `VAE.interpolate` returns them.
        vmin: as in `images`.
        vmax: as in `images`.
        ax: where to draw.

    Raises:
        ValueError: if there are no steps or paths.
    """
    values = nonempty("path", path)
    if values.ndim < 3 or values.shape[1] == 0:
        raise ValueError(f"path must have shape (steps, B, *E); got {values.shape}. Pass what `interpolate` returns.")
    steps = len(values)
    ax = images(values.swapaxes(0, 1).reshape(-1, *values.shape[2:]), columns=steps, vmin=vmin, vmax=vmax, ax=ax)
    ax.set_xticks([0.5, steps - 0.5], ["from", "to"], color=INK)
    ax.tick_params(length=0)
    return ax


def _scaled(x: np.ndarray, vmin: Limit, vmax: Limit) -> tuple[np.ndarray, np.ndarray]:
    """x (N, *E) with vmin..vmax mapped to 0..1, and the place of zero on that scale, (*E); both clipped to 0..1."""
    x = x.astype(float)
    finite = x[np.isfinite(x)]
    low = _limit("vmin", finite.min(initial=math.inf) if len(finite) else 0.0, vmin, x.shape[1:])
    high = _limit("vmax", finite.max(initial=-math.inf) if len(finite) else 1.0, vmax, x.shape[1:])
    span = np.where(high > low, high - low, 1.0)
    return ((x - low) / span).clip(0, 1), np.broadcast_to((-low / span).clip(0, 1), x.shape[1:])


def _limit(what: str, default: float, limit: Limit, shape: tuple[int, ...]) -> np.ndarray:
    """The limit as a number, or as an array with one number for each cell."""
    found = array(what, default if limit is None else limit).astype(float)
    if found.shape not in ((), shape) or not np.isfinite(found).all():
        raise ValueError(f"{what} must be a finite number, or an array of shape {shape}; got {limit!r}. Correct it.")
    return found


def _tiles(x: np.ndarray, columns: int, lines: int) -> np.ndarray:
    """Images (N, C, H, W) in 0..1 as one picture (height, width, RGBA), with thin gaps; images of NaN are blank."""
    colored = matplotlib.colormaps["gray_r"](x[:, 0]) if x.shape[1] == 1 else np.moveaxis(x, 1, -1)
    if colored.shape[-1] == 3:
        colored = np.concatenate([colored, np.ones_like(colored[..., :1])], -1)
    zoom = math.ceil(FINE / min(x.shape[2:]))  # gaps can then be thinner than a pixel of an image
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
    """Rows (N, D) in 0..1 in a grid, as lines or as stems that start at zero; and for each row the line of zero."""
    count, size = x.shape
    left = (np.arange(count) % columns + 2 * GAP)[:, None]
    bottom = (np.arange(count) // columns + 1 - 2 * GAP)[:, None]
    across = (np.arange(size) + 0.5) / size * (1 - 4 * GAP)
    points = np.stack(np.broadcast_arrays(left + across, bottom - x * (1 - 4 * GAP)), -1)  # (N, D, 2)
    baseline = np.stack(np.broadcast_arrays(left + across, bottom - zero * (1 - 4 * GAP)), -1)
    return (points if size > STEMS else np.stack([baseline, points], -2).reshape(-1, 2, 2)), baseline
