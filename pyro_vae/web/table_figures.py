"""The report's figures of tables: each column of the data beside draws from the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np

from pyro_vae.plots import VALID
from pyro_vae.plots.panels import observed_cells
from pyro_vae.web.figures import Figure, layout, numbers

__all__ = ["marginals"]

MOST_COLUMNS, MOST_LEVELS, BINS = 40, 12, 24
FILL = "rgba(0,114,178,0.35)"


def marginals(
    data: Mapping[str, np.ndarray], drawn: Mapping[str, np.ndarray], levels: Mapping[str, Sequence[Any]]
) -> list[Figure]:
    """A figure for each of the first 40 columns: shares of levels, or histograms; missing cells are left out.

    Args:
        data: cells of the data by column, as `TableSchema.decode` returns them.
        drawn: cells of draws from the model.
        levels: the levels of the columns that have any, in order.
    """
    found = []
    for i, name in enumerate(list(data)[:MOST_COLUMNS]):
        samples = [observed_cells(columns[name]) for columns in (data, drawn)]
        make = _bars if name in levels else _histogram
        if all(map(len, samples)):
            found.append(make(f"marginal-{i}", name, samples[0], samples[1], levels.get(name, ())))
    return found


def _bars(name: str, title: str, data: np.ndarray, drawn: np.ndarray, levels: Sequence[Any]) -> Figure:
    counted = [[sum(cell == level for cell in cells) for level in levels] for cells in (data, drawn)]
    shares = np.array([np.array(counts) / len(cells) for counts, cells in zip(counted, (data, drawn), strict=True)])
    kept = np.sort(np.argsort(-shares[0], kind="stable")[:MOST_LEVELS])
    texts = [escape(str(levels[i])) for i in kept]
    traces = []
    for share, color, sample in zip(shares, (FILL, VALID), ("data", "model"), strict=True):
        bars: dict[str, Any] = {"type": "bar", "name": sample, "x": texts, "y": numbers(share[kept], 4)}
        hover = f"%{{x}}: %{{y:.1%}} ({sample})<extra></extra>"
        traces.append(bars | {"marker": {"color": color}, "hovertemplate": hover})
    rest = len(levels) - len(kept)
    caption = "Share of each level." + (f" The {rest} rarest levels are left out." if rest else "")
    pairs = [f"{levels[i]} {shares[0, i]:.1%} and {shares[1, i]:.1%}" for i in kept]
    alt = f"In data and in draws: {', '.join(pairs)}."
    look = layout("", "share", height=220, xaxis={"type": "category"}, yaxis={"tickformat": ".0%"}, margin={"b": 28})
    return Figure(name, title, caption, alt, traces, look)


def _histogram(name: str, title: str, data: np.ndarray, drawn: np.ndarray, levels: Sequence[Any]) -> Figure:
    dates = data.dtype.kind == "M"
    own, other = (_as_numbers(cells) for cells in (data, drawn))
    low, high = min(own.min(), np.quantile(other, 0.01)), max(own.max(), np.quantile(other, 0.99))
    whole = not dates and bool((own == np.floor(own)).all()) and high - low < 2**53
    if whole:
        step = max(1, -(-int(high - low + 1) // BINS))
        edges = np.arange(np.floor(low), np.floor(high) + step + 1, step) - 0.5
    else:
        edges = np.linspace(low, high if high > low else low + 1.0, BINS + 1)
    middle = (edges[1:] + edges[:-1]) / 2
    x: list[Any] = [str(np.datetime64(int(t), "s")) for t in middle] if dates else numbers(middle, 7)
    width = float(edges[1] - edges[0]) * (1000 if dates else 1)  # of dates in milliseconds
    shares = [np.histogram(cells, edges)[0] / len(cells) for cells in (own, other)]
    bars: dict[str, Any] = {"type": "bar", "name": "data", "x": x, "y": numbers(shares[0], 4), "width": width}
    line: dict[str, Any] = {"type": "scatter", "mode": "lines", "name": "model", "x": x, "y": numbers(shares[1], 4)}
    hover = "%{x}: %{y:.1%}<extra></extra>"
    traces = [
        bars | {"marker": {"color": FILL}, "hovertemplate": hover},
        line | {"line": {"color": VALID, "shape": "hvh", "width": 2}, "hovertemplate": hover},
    ]
    means = [_in_words(cells.mean(), dates) for cells in (own, other)]
    alt = f"The mean is {means[0]} in the data and {means[1]} in draws from the model."
    kind = {"type": "date"} if dates else {}
    look = layout("", "share", height=220, xaxis=kind, yaxis={"tickformat": ".0%"}, margin={"b": 28}, bargap=0.05)
    return Figure(name, title, alt, alt, traces, look)


def _as_numbers(cells: np.ndarray) -> np.ndarray:
    """Numbers as they are, and times as seconds since 1970."""
    if cells.dtype.kind != "M":
        return cells.astype(float)
    return cells.astype("datetime64[s]").astype(np.int64).astype(float)


def _in_words(value: float, dates: bool) -> str:
    return str(np.datetime64(int(value), "s").astype("datetime64[D]")) if dates else f"{value:.4g}"
