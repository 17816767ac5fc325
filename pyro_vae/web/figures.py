"""The report's figures as dictionaries for plotly.js: `data` and `layout`, from what was computed elsewhere.

They are plain values, so that they need no library here. Text that comes from the data is escaped, since plotly.js
reads a part of HTML in its texts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from html import escape
from typing import Any

import numpy as np

from pyro_vae.criticism.latents import LatentUse
from pyro_vae.evaluation import LogLikelihood
from pyro_vae.plots import COLORS, FAINT, GREY, INK, TRAIN, VALID
from pyro_vae.training.history import History
from pyro_vae.web.latents import Plane

__all__ = ["NOMINAL", "Figure", "khat", "kl", "latent_map", "layout", "numbers", "training"]

FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Noto Sans', sans-serif"
NOMINAL: dict[str, Any] = {"color": INK, "width": 1, "dash": "dash"}


@dataclass(frozen=True)
class Figure:
    """One figure of a page.

    Attributes:
        name: a name for the page's script, of letters and hyphens.
        title: its title.
        caption: what is drawn.
        alt: what it shows, in words and numbers, for those who do not see it.
        data: traces of plotly.js.
        layout: the layout of plotly.js.
    """

    name: str
    title: str
    caption: str
    alt: str
    data: list[dict[str, Any]]
    layout: dict[str, Any] = field(default_factory=dict)


def numbers(values: Any, digits: int = 5) -> list[float | None]:
    """Numbers as JSON has them, with few digits; what is not finite is None, a gap in the figure."""
    flat = np.asarray(values, dtype=float).reshape(-1).tolist()
    return [float(f"{value:.{digits}g}") if math.isfinite(value) else None for value in flat]


def layout(x: str, y: str, *, height: int = 300, **more: Any) -> dict[str, Any]:
    """The layout that all figures share, with the titles of the axes, already escaped."""
    axis: dict[str, Any] = {"gridcolor": FAINT, "zeroline": False, "automargin": True, "linecolor": GREY, "ticks": ""}
    made: dict[str, Any] = {
        "font": {"family": FONT, "size": 13, "color": INK},
        "margin": {"l": 56, "r": 12, "t": 12, "b": 44},
        "height": height,
        "paper_bgcolor": "white",
        "plot_bgcolor": "white",
        "xaxis": axis | {"title": {"text": x, "standoff": 6}},
        "yaxis": axis | {"title": {"text": y, "standoff": 6}},
        "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
        "barmode": "group",
        "hoverlabel": {"bgcolor": "white", "font": {"color": INK}},
    }
    for name, value in more.items():
        made[name] = {**made[name], **value} if isinstance(made.get(name), dict) else value
    return made


def training(history: History) -> Figure | None:
    """The bound on training and validation rows; None without an epoch."""
    data, ends, shown = [], [], []
    for column, name, color in (("train_bound", "training rows", TRAIN), ("valid_bound", "validation rows", VALID)):
        bounds = np.array([math.nan if value is None else value for value in history[column]], dtype=float)
        if not np.isfinite(bounds).any():
            continue
        shown.append(bounds[np.isfinite(bounds)])
        ends.append(f"{name}: {shown[-1][-1]:.2f} nats per row at the end, at best {shown[-1].max():.2f}")
        line: dict[str, Any] = {"type": "scatter", "name": name, "x": list(history["epoch"]), "y": numbers(bounds, 7)}
        hover = f"epoch %{{x}}: %{{y:.2f}} nats per row<extra>{name}</extra>"
        mode = "lines+markers" if len(history) <= 20 else "lines"
        data.append(line | {"mode": mode, "line": {"color": color}, "hovertemplate": hover})
    if not data:
        return None
    values = np.concatenate(shown)
    low = float(np.quantile(values, 0.05)) if len(history) > 10 else float(values.min())
    margin = 0.05 * (float(values.max()) - low) or 1.0
    look = layout("epoch", "bound (nats per row)", yaxis={"range": [low - margin, float(values.max()) + margin]})
    caption = "The bound that was trained, after each epoch; higher is better."
    if low > values.min():
        caption += " The lowest values of the first epochs lie below the axis: double-click to see all."
    return Figure("training", "Training", caption, "; ".join(ends) + ".", data, look)


def latent_map(plane: Plane, labels: np.ndarray | None, about: str) -> Figure:
    """The rows at their posterior means, with their numbers, coloured by label; their last trace rings one row."""
    place, row = plane.points.numpy(), np.arange(len(plane.points))
    dots: dict[str, Any] = {"type": "scatter", "mode": "markers"}
    data = []
    classes = [] if labels is None else list(np.unique(labels))
    if labels is not None and labels.dtype.kind in "biu" and len(classes) <= 20:
        for i, value in enumerate(classes):
            look = {"color": COLORS[i % len(COLORS)], "size": 7, "symbol": ("circle", "diamond")[i // len(COLORS)]}
            data.append(dots | {"name": str(value), "marker": look} | _of_rows(place, row, labels == value, "label"))
    else:
        look = {"color": TRAIN, "size": 7, "opacity": 0.8}
        if labels is not None:
            look |= {"color": numbers(labels), "colorscale": "Viridis", "showscale": True}
        data.append(dots | {"name": "rows", "marker": look, "showlegend": False} | _of_rows(place, row, row >= 0, ""))
    ring = {"color": "rgba(0,0,0,0)", "size": 16, "line": {"color": INK, "width": 2.5}}
    data.append(dots | {"x": [], "y": [], "name": "chosen", "marker": ring, "hoverinfo": "skip", "showlegend": False})
    first, second = (escape(name) for name in plane.names)
    vertical: dict[str, Any] = {"scaleanchor": "x"} if plane.names[1] else {"visible": False}
    look = layout(first, second, height=440 if plane.names[1] else 200, hovermode="closest", yaxis=vertical)
    alt = f"{len(place)} rows as points" + (f", in {len(classes)} labels" if classes else "") + "."
    return Figure("map", "Map of the latents", f"{plane.about} {about}", alt, data, look)


def _of_rows(place: np.ndarray, row: np.ndarray, part: np.ndarray, what: str) -> dict[str, Any]:
    named = f", {what} %{{fullData.name}}" if what else ""
    hover = f"row %{{customdata}}{named}<br>%{{x:.2f}}, %{{y:.2f}}<extra></extra>"
    points = {"x": numbers(place[part, 0], 4), "y": numbers(place[part, 1], 4)}
    return points | {"customdata": row[part].tolist(), "hovertemplate": hover}


def khat(score: LogLikelihood) -> Figure | None:
    """Pareto k-hat of each row; None where it is unknown in all."""
    k, marked = score.khat.double().numpy(), score.unreliable.numpy()
    if score.joint or not np.isfinite(k).any():
        return None
    threshold, row = float(np.max(np.asarray(score.threshold))), np.arange(len(k))
    data: list[dict[str, Any]] = []
    for part, color, name in ((~marked, TRAIN, "not flagged"), (marked, VALID, "flagged")):
        drawn = part & np.isfinite(k)
        dots = {"type": "scatter", "mode": "markers", "name": f"{int(part.sum())} {name}", "marker": {"color": color}}
        hover = "row %{x}: k-hat %{y:.2f}<extra></extra>"
        data.append(dots | {"x": row[drawn].tolist(), "y": numbers(k[drawn], 4), "hovertemplate": hover})
    rest = int((~np.isfinite(k)).sum())
    caption = (
        f"Pareto k-hat of the importance weights of each row. The line is the threshold, {threshold:.2f}: above it,"
        " with few effective draws, log p(x) by importance sampling is not to be relied on."
        + (f" {rest} rows without a finite k-hat are left out." if rest else "")
    )
    alt = f"{int(marked.sum())} of {len(k)} rows are flagged; the median of k-hat is {np.nanmedian(k):.2f}."
    shapes = [{"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": threshold, "y1": threshold, "line": NOMINAL}]
    return Figure("khat", "Reliability of log p(x)", caption, alt, data, layout("row", "Pareto k-hat", shapes=shapes))


def kl(use: LatentUse) -> list[Figure]:
    """KL of each latent of each site, where coordinates are independent given x."""
    found: list[Figure] = []
    for site_name, site in use.sites.items():
        if site.kl_per_dimension is None:
            continue
        nats, active = site.kl_per_dimension.double().numpy(), site.active.numpy()
        order = np.argsort(-nats, kind="stable")
        data = []
        names = [f"z{i}" for i in order]
        for part, color, name in ((active, TRAIN, "active"), (~active, GREY, "inactive")):
            bars = {"type": "bar", "name": f"{int(part.sum())} {name}", "marker": {"color": color}}
            shown = [n for n, on in zip(names, part[order], strict=True) if on]
            data.append(bars | {"x": shown, "y": numbers(nats[order][part[order]], 4)})
        look = layout("latent", "KL (nats per row)", xaxis={"type": "category", "categoryarray": names})
        alt = ", ".join(f"{name} {value:.2f}" for name, value in zip(names[:12], nats[order], strict=False))
        caption = "How much each latent tells of a row: KL(q(z | x) || p(z)), the largest first."
        found.append(Figure(f"kl-{len(found)}", f"Use of the latents at {site_name}", caption, f"{alt}.", data, look))
    return found
