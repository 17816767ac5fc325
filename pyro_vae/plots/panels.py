"""What the figures of tables are made of: columns as arrays, panels, axes and names."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.dates
import numpy as np
from matplotlib.axes import Axes
from matplotlib.dates import DAILY, HOURLY, MINUTELY, MONTHLY, SECONDLY
from matplotlib.ticker import MaxNLocator, PercentFormatter

from pyro_vae.plots.style import INK, TRAIN, VALID

MOST_BARS, MOST_WHOLE, BINS = 8, 24, 24  # bars of levels, different whole numbers with a bar each, bars of others
WIDEST = 22  # characters of a name
COLORS = (TRAIN, VALID)


def checked_samples(samples: Any) -> dict[str, dict[str, np.ndarray]]:
    """The samples, with each column as an array (N,)."""
    advice = "Pass e.g. {'data': schema.decode(x)}."
    if not isinstance(samples, Mapping) or len(samples) not in (1, 2):
        raise ValueError(f"samples must be one or two by name; got {samples!r:.80}. {advice}")
    found = {str(name): checked_columns(f"sample {str(name)!r}", columns) for name, columns in samples.items()}
    names, *others = (sorted(columns) for columns in found.values())
    if not names or any(names != other for other in others):
        raise ValueError(f"samples must have the same columns; got {names} and {others}. Draw from the same table.")
    return found


def checked_columns(what: str, columns: Any) -> dict[str, np.ndarray]:
    advice = "Pass e.g. schema.decode(x)."
    if not isinstance(columns, Mapping):
        raise TypeError(f"{what} must be columns by name; got {type(columns).__name__}. {advice}")
    found = {}
    for name, cells in columns.items():
        ready = isinstance(cells, np.ndarray | Sequence) and not isinstance(cells, str | bytes)
        kept = cells if isinstance(cells, np.ndarray) or not ready else _as_array(cells)
        if not ready or kept.ndim != 1 or kept.dtype.kind not in "fiubMOU":
            kind = f"shape {kept.shape} of {kept.dtype}" if isinstance(kept, np.ndarray) else type(cells).__name__
            raise TypeError(f"{what} must have cells (N,) in column {str(name)!r}; got {kind}. {advice}")
        found[str(name)] = kept
    return found


def _as_array(cells: Sequence[Any]) -> np.ndarray:
    try:
        return np.asarray(cells)
    except (ValueError, TypeError):  # lists of other lengths, and the like
        return np.empty((0, 0))


def checked_levels(levels: Any) -> dict[str, list[Any]]:
    if levels is None:
        return {}
    wrong = not isinstance(levels, Mapping) or [v for v in levels.values() if not isinstance(v, list | tuple)]
    if wrong:
        raise TypeError(f"levels must be lists of levels by column; got {levels!r:.80}. Pass {{'site': ['a', 'b']}}.")
    return {str(name): list(known) for name, known in levels.items()}


def observed_cells(cells: Any) -> np.ndarray:
    """The cells that are not missing."""
    found = np.asarray(cells)
    if found.dtype.kind == "O":
        return found[[cell is not None and cell == cell for cell in found]]
    return found[~np.isnan(found.astype(float) if found.dtype.kind == "b" else found)]


def as_numbers(cells: Any, *, keep: bool = False) -> np.ndarray:
    """Numbers, or times as days as matplotlib counts them; without missing cells, or with NaN for these."""
    found = np.asarray(cells) if keep else observed_cells(cells)
    if found.dtype.kind != "M":
        return found.astype(float)
    return np.where(np.isnat(found), np.nan, matplotlib.dates.date2num(found))


def panel(ax: Axes, name: str, samples: dict[str, np.ndarray], levels: Sequence[Any] | None) -> None:
    ax.set_title(short(name), color=INK, fontsize="small")
    bare(ax)
    if levels is not None or any(cells.dtype.kind in "OUb" for cells in samples.values()):
        _bars(ax, list(samples.values()), levels)
        return
    numbers = [as_numbers(cells) for cells in samples.values()]
    if not any(map(len, numbers)):
        ax.set_axis_off()
        return
    low, high = range_of(*numbers)
    edges, logarithmic = _edges(numbers[0], low, high), _is_skewed(numbers[0], low, high)
    widths = np.diff(np.log(edges) if logarithmic else edges)
    for cells, color in zip(numbers, COLORS, strict=False):
        if len(cells):
            shares = np.histogram(cells, edges)[0] / len(cells) / widths
            ax.stairs(
                shares, edges, fill=color is TRAIN, color=color, alpha=0.35 if color is TRAIN else 1, linewidth=1.4
            )
    ax.set(xlim=(edges[0], edges[-1]), yticks=[], ylim=(0, None))
    if logarithmic:
        ax.set_xscale("log")
    else:
        _ticks(ax.xaxis, next(iter(samples.values())), 4)
    ax.spines["left"].set_visible(False)


def _bars(ax: Axes, samples: list[np.ndarray], levels: Sequence[Any] | None) -> None:
    """Shares of levels, with the samples below each other; rare levels together."""
    found = [list(cells) for cells in samples]
    known = list(levels) if levels is not None else sorted({cell for cells in found for cell in cells}, key=str)
    shares = np.array([[cells.count(level) / max(1, len(cells)) for level in known] for cells in found])
    labels = [short(str(level), 17) for level in known]
    if len(known) > MOST_BARS:
        kept = np.sort(np.argsort(-shares[0], kind="stable")[: MOST_BARS - 1])
        rest = 1 - shares[:, kept].sum(1, keepdims=True)
        labels = [labels[i] for i in kept] + [f"{len(known) - len(kept)} others"]
        shares = np.concatenate([shares[:, kept], rest], 1)
    height = 0.8 / len(samples)
    for i, (share, color) in enumerate(zip(shares, COLORS, strict=False)):
        look: dict[str, Any] = {"color": color, "alpha": 0.5 if i == 0 else 1}
        ax.barh(np.arange(len(labels)) - 0.4 + height * (i + 0.5), share, height, **look)
    ax.set_yticks(range(len(labels)), labels, color=INK, fontsize="x-small")
    ax.set_ylim(len(labels) - 0.4, -0.6)
    ax.xaxis.set_major_locator(MaxNLocator(3))
    ax.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    ax.tick_params(axis="y", length=0)


def range_of(first: np.ndarray, *others: np.ndarray) -> tuple[float, float]:
    """The range of the first sample, and of others all but the outer per cent either side."""
    first, others = first[np.isfinite(first)], tuple(cells[np.isfinite(cells)] for cells in others)
    ends = [(first.min(), first.max())] if len(first) else []
    ends += [tuple(np.quantile(cells, (0.01, 0.99))) for cells in others if len(cells)]
    low, high = min(float(a) for a, _ in ends), max(float(b) for _, b in ends)
    half = max(0.5, 1e-6 * abs(low))
    return (low, high) if high > low else (low - half, high + half)


def scale(ax: Axes, axis: Any, cells: Any, limits: tuple[float, float]) -> None:
    """The limits and the ticks of an axis, logarithmic for positive numbers that are skewed."""
    numbers = as_numbers(cells)
    if np.asarray(cells).dtype.kind != "M" and _is_skewed(numbers, *limits):
        (ax.set_xscale if axis is ax.xaxis else ax.set_yscale)("log")
        limits = math.log(limits[0]), math.log(limits[1])
        low, high = (math.exp(end) for end in wider(limits))
    else:
        _ticks(axis, cells, 3)
        low, high = wider(limits)
    (ax.set_xlim if axis is ax.xaxis else ax.set_ylim)(low, high)


def wider(limits: tuple[float, float]) -> tuple[float, float]:
    margin = 0.05 * (limits[1] - limits[0])
    return limits[0] - margin, limits[1] + margin


def _is_skewed(first: np.ndarray, low: float, high: float) -> bool:
    """Whether numbers, all positive, are drawn on a logarithmic axis."""
    return low > 0 and high > 50 * low and not _are_whole(first)


def _are_whole(cells: np.ndarray) -> bool:
    return bool(((cells == np.floor(cells)) & (np.abs(cells) < 2**53)).all())


def _edges(first: np.ndarray, low: float, high: float) -> np.ndarray:
    """The edges of the bars of a histogram: a bar for each whole number where there are few of these."""
    if len(first) and _are_whole(first):
        step = max(1, math.ceil((math.floor(high) - math.floor(low) + 1) / MOST_WHOLE))
        return np.arange(math.floor(low), math.floor(high) + step + 1, step) - 0.5
    if _is_skewed(first, low, high):
        return np.geomspace(low, high, BINS + 1)
    return np.linspace(low, high, BINS + 1)


def _ticks(axis: Any, cells: Any, count: int) -> None:
    """Few ticks, of dates where the cells are times."""
    if np.asarray(cells).dtype.kind == "M":
        locator = matplotlib.dates.AutoDateLocator(minticks=2, maxticks=count)
        for unit, longest in ((MONTHLY, 12), (DAILY, 31), (HOURLY, 24), (MINUTELY, 60), (SECONDLY, 60)):
            locator.intervald[unit] = [*locator.intervald[unit], longest]  # without it some ranges have too many ticks
        axis.set_major_locator(locator)
        axis.set_major_formatter(matplotlib.dates.ConciseDateFormatter(locator))
    else:
        whole = _are_whole(as_numbers(cells))
        axis.set_major_locator(MaxNLocator(count, min_n_ticks=1 if whole else 2, integer=whole))


def bare(ax: Axes) -> None:
    ax.spines[["top", "right"]].set_visible(False)
    ax.tick_params(labelsize="x-small", colors=INK)
    for axis in (ax.xaxis, ax.yaxis):
        axis.offsetText.set_fontsize("x-small")


def short(name: str, most: int = WIDEST) -> str:
    """The name on one line, cut in the middle, without mathematics of matplotlib."""
    line, end = "".join(letter if letter.isprintable() else " " for letter in name), (most - 1) // 2
    if len(line) > most:
        line = f"{line[: most - end - 1]}\N{HORIZONTAL ELLIPSIS}{line[-end:]}"
    return line.replace("$", r"\$")
