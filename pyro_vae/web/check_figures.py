"""The report's figures of predictive checks and of calibration, from what `criticism` computed."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np

from pyro_vae.criticism.calibration import Calibration, band_of_uniform_ecdf
from pyro_vae.criticism.checks import Checks
from pyro_vae.criticism.checks.tails import StatisticCheck
from pyro_vae.criticism.intervals import LEVELS
from pyro_vae.plots import COLORS, GREY, TRAIN, VALID
from pyro_vae.web.figures import NOMINAL, Figure, layout, numbers

__all__ = ["calibration", "predictive_checks"]

BINS, MOST_CURVES = 20, 12


def predictive_checks(checks: Checks) -> list[Figure]:
    """The most extreme entry of each statistic: its replicated values, and the observed one as a line."""
    return [_statistic(f"statistic-{i}", one) for i, one in enumerate(checks.statistics.values())]


def _statistic(name: str, one: StatisticCheck) -> Figure:
    if one.of_rows:
        caption = "Tail probabilities P(replicated >= observed) of the rows: uniform if the model is true."
        bars = _uniform_histogram(one.prior.double().numpy())
        tested = "not computed" if one.uniformity is None else f"{one.uniformity:.3f}"
        alt = f"The test that they are uniform has the p-value {tested}."
        look = layout("P(replicated >= observed)", "share of rows", height=260, shapes=[_uniform_line()])
        return Figure(name, f"{one.name}, row by row", f"{caption} {alt}", alt, [bars], look)
    entry = one.extreme()[0]
    observed = float(one.observed.reshape(-1)[entry])
    replicated = one.replicated.reshape(len(one.replicated), -1)[:, entry].double().numpy()
    title = one.name if one.observed.dim() == 0 else f"{one.name}, {one.names[entry]}"
    p = float(one.prior.reshape(-1)[entry])
    alt = (
        f"Observed {observed:.4g}; replicated {replicated.min():.4g} to {replicated.max():.4g}, mean"
        f" {replicated.mean():.4g}; tail probability {p:.3f}."
    )
    most = "" if one.observed.numel() == 1 else f" The most extreme of {one.observed.numel()} entries."
    data: list[dict[str, Any]] = [
        {
            "type": "histogram",
            "x": numbers(replicated, 6),
            "nbinsx": 24,
            "name": "replicated",
            "marker": {"color": GREY, "line": {"color": "white", "width": 0.5}},
        }
    ]
    line = {"color": VALID, "width": 3}
    shapes = [{"type": "line", "x0": observed, "x1": observed, "yref": "paper", "y0": 0, "y1": 1, "line": line}]
    ends = [min(observed, float(replicated.min())), max(observed, float(replicated.max()))]
    side = "right" if observed > (ends[0] + ends[1]) / 2 else "left"  # the text stays inside
    note = {"x": observed, "y": 1, "yref": "paper", "text": "observed", "showarrow": False, "yanchor": "bottom"}
    note |= {"xanchor": side, "font": {"color": "#a34400"}}
    margin = 0.06 * (ends[1] - ends[0]) or 0.5
    look = layout(escape(title), "replicated data sets", height=260, shapes=shapes, annotations=[note])
    look["xaxis"]["range"] = [ends[0] - margin, ends[1] + margin]
    look["margin"]["t"] = 28
    return Figure(name, title, f"{alt}{most}", alt, data, look)


def calibration(checks: Checks | None, sbc: Calibration | None) -> list[Figure]:
    """Coverage of predictive intervals and PIT values; coverage and ranks of the guide."""
    found = []
    if checks is not None:
        lines = checks.pit.overall(LEVELS)
        covered, errors = ([line[key] for line in lines] for key in ("coverage", "standard error"))
        about = "Central predictive intervals of cells: what share of the cells lies in them."
        found.append(_coverage("coverage", "Coverage of predictive intervals", about, np.array([covered]).T, errors))
        values = checks.pit.values.double().numpy().reshape(-1)
        values = values[np.isfinite(values)]
        caption = "PIT values of all cells under the prior predictive: uniform if the model is true."
        alt = f"{len(values):,} values with mean {values.mean():.3f} and standard deviation {values.std():.3f}."
        look = layout("PIT value", "share of cells", height=260, shapes=[_uniform_line()])
        found.append(Figure("pit", "PIT values", caption, alt, [_uniform_histogram(values)], look))
    if sbc is not None:
        names = sbc.names if len(sbc.names) <= 8 else None
        shares = sbc.coverage().numpy() if names else sbc.coverage().mean(1, keepdim=True).numpy()
        about = "Central intervals of q(z | x) on rows drawn from the model: what share of their latents lies in them."
        about += "" if names else f" The mean over {len(sbc.names)} coordinates."
        found.append(_coverage("guide-coverage", "Coverage of the guide", about, shares, None, names))
        found.append(_ranks(sbc))
    return found


def _coverage(
    name: str, title: str, about: str, shares: Any, errors: Sequence[float] | None, names: list[str] | None = None
) -> Figure:
    """Observed (L, C) against nominal coverage of intervals."""
    data: list[dict[str, Any]] = [
        {"type": "scatter", "x": [0, 1], "y": [0, 1], "mode": "lines", "line": NOMINAL, "name": "nominal"}
    ]
    for i, share in enumerate(np.asarray(shares).T):
        called = escape(names[i]) if names else "observed"
        line: dict[str, Any] = {"type": "scatter", "mode": "lines+markers"}
        line |= {"name": called, "x": list(LEVELS), "y": numbers(share, 4)}
        line |= {"line": {"color": TRAIN if not names else COLORS[i % len(COLORS)]}}
        if errors is not None:
            line["error_y"] = {"type": "data", "array": numbers([2 * e for e in errors], 3), "thickness": 1.2}
        data.append(line | {"hovertemplate": "nominal %{x:.0%}, observed %{y:.1%}<extra></extra>"})
    percent: dict[str, Any] = {"tickformat": ".0%", "range": [0.4, 1.01]}
    mean = np.asarray(shares).mean(1)
    alt = "; ".join(f"{level:.0%} intervals cover {share:.1%}" for level, share in zip(LEVELS, mean, strict=True))
    bars = " Bars are two standard errors either way." if errors is not None else ""
    caption = f"{about} Below the diagonal they are too narrow.{bars}"
    look = layout("nominal coverage", "observed coverage", xaxis=percent, yaxis=dict(percent))
    look["yaxis"]["range"] = [min(0.4, float(np.nanmin(shares)) - 0.05), 1.01]
    return Figure(name, title, caption, f"{alt}.", data, look)


def _ranks(sbc: Calibration) -> Figure:
    """The ECDF of ranks minus the uniform one, of the coordinates furthest from it, with a simultaneous band."""
    points, lower, upper = (part.numpy() for part in band_of_uniform_ecdf(len(sbc.ranks), sbc.num_draws))
    ranks = np.sort((sbc.ranks.double().numpy() + 0.5) / (sbc.num_draws + 1), axis=0)
    curves = np.stack([np.searchsorted(column, points, "right") / len(ranks) - points for column in ranks.T])
    order = np.argsort(-np.abs(curves).max(1), kind="stable")[:MOST_CURVES]
    band: dict[str, Any] = {"type": "scatter", "mode": "lines", "line": {"width": 0}, "hoverinfo": "skip"}
    data = [
        band | {"x": numbers(points), "y": numbers(lower)},
        band | {"x": numbers(points), "y": numbers(upper), "fill": "tonexty", "fillcolor": "rgba(0,114,178,0.15)"},
    ]
    for place, i in enumerate(order):
        line = {"color": COLORS[place % len(COLORS)], "width": 1.4, "dash": "solid" if place < len(COLORS) else "dot"}
        named = {"type": "scatter", "mode": "lines", "name": escape(sbc.names[i]), "line": line}
        hover = f"{escape(sbc.names[i])}: %{{y:.3f}} at rank %{{x:.2f}}<extra></extra>"
        data.append(named | {"x": numbers(points), "y": numbers(curves[i], 4), "hovertemplate": hover})
    wrong = sbc.miscalibrated
    which = f": {', '.join(wrong[:8])}{' and others' if len(wrong) > 8 else ''}" if wrong else ""
    alt = f"{len(wrong)} of {len(sbc.names)} coordinates have ranks that are not uniform{which}."
    shown = "" if len(order) == len(sbc.names) else f" The {len(order)} of {len(sbc.names)} that differ most are drawn."
    caption = (
        "Ranks of the latents of simulated rows among draws from q(z | x): distribution function minus the uniform one."
        " Curves that leave the simultaneous 95 % band are not calibrated; hover over one for its name."
        f"{shown} {alt}"
    )
    look = layout("normalized rank", "ECDF - uniform", showlegend=False)
    return Figure("ranks", "Ranks of the guide", caption, alt, data, look)


def _uniform_histogram(values: np.ndarray) -> dict[str, Any]:
    counts, edges = np.histogram(values, np.linspace(0, 1, BINS + 1))
    shares = counts / max(1, len(values))
    bars: dict[str, Any] = {"type": "bar", "x": numbers((edges[1:] + edges[:-1]) / 2), "y": numbers(shares, 4)}
    look = {"color": GREY, "line": {"color": "white", "width": 0.5}}
    hover = "%{x:.3f}: %{y:.1%}<extra></extra>"
    return bars | {"width": 1 / BINS, "marker": look, "hovertemplate": hover, "showlegend": False}


def _uniform_line() -> dict[str, Any]:
    return {"type": "line", "x0": 0, "x1": 1, "y0": 1 / BINS, "y1": 1 / BINS, "line": NOMINAL}
