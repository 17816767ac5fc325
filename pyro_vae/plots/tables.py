"""Tables of typed columns: data beside draws, patterns of missing cells, imputed cells.

Columns are what `TableSchema.decode` returns, by name: floating-point numbers, times (datetime64) or objects (levels);
NaN, NaT and None are missing. Each function draws several panels, into `figure` or a new one, and returns the figure.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator, PercentFormatter

from pyro_vae.plots.panels import (
    COLORS,
    as_numbers,
    bare,
    checked_columns,
    checked_levels,
    checked_samples,
    observed_cells,
    panel,
    range_of,
    scale,
    short,
)
from pyro_vae.plots.style import FAINT, INK, TRAIN, VALID, Array, array, named, shaped

__all__ = ["imputed", "marginals", "missing_pattern", "pairs"]

Columns = Mapping[str, Any]
Levels = Mapping[str, Sequence[Any]]

MOST_PANELS, ACROSS = 40, 4
MOST_PAIRED, MOST_POINTS = 4, 1000


def marginals(
    samples: Mapping[str, Columns],
    *,
    levels: Levels | None = None,
    title: str | None = None,
    figure: Figure | None = None,
) -> Figure:
    """Each column of one or two samples, such as data and draws from a model: histograms, or shares of levels.

    Missing cells are left out. Histograms cover the first sample, and of the second all but the outer per cent either
    side. At most 40 columns are drawn, the first ones, and of a column at most 8 levels, the most frequent ones.

    Args:
        samples: for each sample its name and its columns, such as {"data": ..., "model": ...}.
        levels: the levels of columns, in order; by default sorted.
        title: title of the figure.
        figure: where to draw; a new figure by default.

    Raises:
        ValueError: if there are other than one or two samples, no column, or the names of the columns differ.
    """
    read, known = checked_samples(samples), checked_levels(levels)
    names = list(next(iter(read.values())))
    figure, shown = _figure(figure, title), names[:MOST_PANELS]
    lines, across = -(-len(shown) // ACROSS), min(ACROSS, len(shown))
    figure.set_size_inches(max(2.6 * across, 5.2), 1.75 * lines + 0.8)
    axes = figure.subplots(lines, across, squeeze=False).flatten()
    for ax in axes[len(shown) :]:
        ax.remove()
    for ax, name in zip(axes, shown, strict=False):
        panel(ax, name, {sample: observed_cells(columns[name]) for sample, columns in read.items()}, known.get(name))
    rest = f" (the first {len(shown)} of {len(names)} columns)" if len(names) > len(shown) else ""
    _finish(figure, None if title is None else title + rest, list(read) if len(read) > 1 else [])
    return figure


def imputed(
    observed: Columns,
    drawn: Columns,
    *,
    levels: Levels | None = None,
    title: str | None = None,
    figure: Figure | None = None,
) -> Figure:
    """Imputed cells against observed ones, in each column with missing cells.

    They may differ although the imputations are right: if cells are missing more often in rows of some sort.

    Args:
        observed: the columns with missing cells.
        drawn: what was imputed, by column; columns in which nothing was may be absent or empty.
        levels: as in `marginals`.
        title: title of the figure.
        figure: where to draw; a new figure by default.

    Raises:
        ValueError: if nothing was imputed.
    """
    seen, new = checked_columns("observed", observed), checked_columns("drawn", drawn)
    names = [name for name in seen if name in new and len(observed_cells(new[name]))]
    if not names:
        raise ValueError("drawn must hold imputed cells of a column; got none. Draw data with missing cells.")
    samples = {"observed": {n: seen[n] for n in names}, "imputed": {n: new[n] for n in names}}
    return marginals(samples, levels=levels, title=title, figure=figure)


def pairs(
    samples: Mapping[str, Columns],
    *,
    names: Sequence[str] | None = None,
    title: str | None = None,
    figure: Figure | None = None,
) -> Figure:
    """Scatter plots of all pairs of up to four columns of numbers or times; one sample beside the other.

    Of each sample as many rows are drawn as the smaller one has, at most 1,000, the first ones; of these, rows in which
    one of both cells is missing are left out. The axes cover the first sample, and of the second all but the outer per
    cent either side.

    Args:
        samples: as in `marginals`.
        names: the columns, two to four; by default the first four that hold numbers or times.
        title: title of the figure.
        figure: where to draw; a new figure by default.

    Raises:
        ValueError: if there are fewer than two such columns, or more than four are named.
    """
    read = checked_samples(samples)
    first = next(iter(read.values()))
    numeric = [name for name, cells in first.items() if cells.dtype.kind in "fiuM" and len(observed_cells(cells))]
    chosen: list[Any] = numeric[:MOST_PAIRED]
    if names is not None:
        chosen = list(names) if isinstance(names, list | tuple) else [names]
    if not 2 <= len(chosen) <= MOST_PAIRED or any(name not in numeric for name in chosen):
        raise ValueError(
            f"names must be two to {MOST_PAIRED} columns of numbers or times; got {chosen}. The columns are {numeric}."
        )
    figure, side = _figure(figure, title), len(chosen) - 1
    figure.set_size_inches(len(read) * (1.9 * side + 0.9), 1.75 * side + 1.0)
    limits = {name: range_of(*(as_numbers(columns[name]) for columns in read.values())) for name in chosen}
    num_rows = min(MOST_POINTS, *(len(columns[chosen[0]]) for columns in read.values()))
    parts = figure.subfigures(1, len(read), squeeze=False)[0]
    for part, (sample, columns), color in zip(parts, read.items(), COLORS, strict=False):
        axes = part.subplots(side, side, squeeze=False)
        part.suptitle(sample, color=color, fontsize="medium")
        cells = {name: as_numbers(columns[name], keep=True)[:num_rows] for name in chosen}
        look: dict[str, Any] = {"s": 9 if num_rows <= 300 else 4, "alpha": 0.45, "linewidths": 0}
        for i, j in np.ndindex(side, side):
            ax, x, y = axes[i, j], chosen[j], chosen[i + 1]
            if j > i:
                ax.remove()
                continue
            ax.scatter(cells[x], cells[y], color=color, **look)
            bare(ax)
            for axis, name in ((ax.xaxis, x), (ax.yaxis, y)):
                axis.set_label_text(short(name, 20), color=INK, fontsize="small")
                scale(ax, axis, first[name], limits[name])
            ax.label_outer()
    _finish(figure, title, [])
    return figure


def missing_pattern(
    missing: Array, names: Sequence[str], *, title: str | None = None, figure: Figure | None = None
) -> Figure:
    """Which cells are missing: rows sorted by their pattern, the most frequent first, below the shares of the columns.

    Args:
        missing: whether each cell is missing, (N, D).
        names: the names of the columns.
        title: title of the figure.
        figure: where to draw; a new figure by default.

    Raises:
        ValueError: if the shapes differ or there are no cells.
    """
    cells = shaped("missing", array("missing", missing), ("N", "D"), "Pass one truth value for each cell.") != 0
    names, (num_rows, count) = named("names", names, cells.shape[1]), cells.shape
    patterns, place, counts = np.unique(cells, axis=0, return_inverse=True, return_counts=True)
    order = np.lexsort((patterns.sum(1), -counts))  # the most frequent first; of equal ones the most complete
    rank = np.argsort(order)
    figure = _figure(figure, title)
    figure.set_size_inches(min(16.0, max(5.0, 2.0 + 0.3 * count)), 5.6)
    top, ax = figure.subplots(2, 1, sharex=True, height_ratios=(1, 3))
    top.bar(np.arange(count), cells.mean(0), color=VALID, width=0.8)
    top.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0 if cells.mean(0).max() > 0.03 else 1))
    top.yaxis.set_major_locator(MaxNLocator(3))
    top.set_ylabel("missing", color=INK, fontsize="small")
    top.tick_params(axis="x", length=0, labelbottom=False)
    bare(top)
    picture = cells[np.argsort(rank[place.reshape(-1)], kind="stable")]
    look = ListedColormap([FAINT, VALID])
    extent = (-0.5, count - 0.5, num_rows, 0)
    ax.imshow(picture, aspect="auto", interpolation="nearest", cmap=look, vmin=0, vmax=1, extent=extent)
    ax.vlines(np.arange(1, count) - 0.5, 0, num_rows, color="white", linewidth=0.8)
    ends = np.cumsum(counts[order])
    for start, end in zip(ends - counts[order], ends, strict=True):
        if end - start >= 0.05 * num_rows:
            text = f"{end - start:,} ({(end - start) / num_rows:.0%})"
            ax.annotate(
                text, (count - 0.5, (start + end) / 2), (4, 0), textcoords="offset points", **_SMALL, va="center"
            )
            ax.hlines(end, -0.5, count - 0.5, color="white", linewidth=0.8)
    every = math.ceil(count / 48)
    ax.set_xticks(range(0, count, every), [short(name) for name in names[::every]], rotation=90, **_SMALL)
    ax.tick_params(labelsize="small", colors=INK)
    ax.set_ylabel(f"{num_rows:,} rows, {len(counts):,} pattern{'' if len(counts) == 1 else 's'}", **_SMALL)
    for spine in ax.spines.values():
        spine.set_visible(False)
    _finish(figure, title, [])
    return figure


_SMALL: dict[str, Any] = {"color": INK, "fontsize": "small"}


def _figure(figure: Figure | None, title: str | None) -> Figure:
    if title is not None and not isinstance(title, str):
        raise TypeError(f"title must be text; got {title!r}. Leave it out for none.")
    if figure is not None and not isinstance(figure, Figure):
        raise TypeError(f"figure must be a matplotlib figure; got {figure!r}. Leave it out for a new one.")
    figure = plt.figure() if figure is None else figure
    figure.set_layout_engine("constrained")
    return figure


def _finish(figure: Figure, title: str | None, samples: list[str]) -> None:
    if title is not None:
        figure.suptitle(title, color=INK, fontsize="medium")
    if samples:
        fills = [(TRAIN, 0.35), (VALID, 1.0)]
        handles = [Patch(color=color, alpha=alpha) for color, alpha in fills[: len(samples)]]
        figure.legend(handles, samples, loc="outside lower center", ncols=2, frameon=False, fontsize="small")
