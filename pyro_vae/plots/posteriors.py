"""How far the encoder, and estimates that rely on it, can be trusted."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from pyro_vae.arguments import finite_number, positive_integer
from pyro_vae.plots.style import (
    BAND,
    COLORS,
    GREY,
    GUIDE,
    INK,
    TRAIN,
    VALID,
    Array,
    array,
    axes,
    legend_beside,
    named,
    plain,
    shaped,
    within,
)

HIGHLIGHTS = tuple(COLORS[i] for i in (2, 0, 1, 4, 5))  # distinct from each other and from grey


def khat(values: Array, threshold: float, ax: Axes | None = None, *, flagged: Array | None = None) -> Axes:
    """Pareto k-hat of each row: -inf is drawn at the bottom edge, inf at the top edge, and NaN is left out.

    Args:
        values: k-hat of each row, (N,).
        threshold: value above which the importance weights of a row are unreliable.
        ax: where to draw.
        flagged: which rows are marked, boolean (N,), as `LogLikelihood.unreliable`; by default those above the
            threshold, however many effective draws they have.

    Raises:
        ValueError: if a shape is wrong.

    References:
        *Pareto Smoothed Importance Sampling* (Vehtari et al., 2024), arXiv 1507.02646
    """
    k = shaped("values", values, ("N",), "Give one k-hat for each row.")
    finite_number("threshold", threshold)
    marked = _marked(k, threshold, flagged)
    words = [f"at most {threshold:.2f}", f"above {threshold:.2f}"] if flagged is None else ["not flagged", "flagged"]
    ax = axes(ax, (7.2, 4.0))
    row = np.arange(len(k))
    style: dict[str, Any] = {"linestyle": "none", "markersize": 4 if len(k) <= 1000 else 2, "markeredgewidth": 0}
    for part, color, word in ((~marked, TRAIN, words[0]), (marked, VALID, words[1])):
        part = part & ~np.isnan(k)
        inside = part & np.isfinite(k)
        ax.plot(row[inside], k[inside], "o", color=color, label=f"{part.sum()} {word}", **style)
        at_edge = {**style, "transform": ax.get_xaxis_transform(), "clip_on": False, "zorder": 3, "markersize": 6}
        for edge in (0, 1):
            beyond = part & (k == (-np.inf, np.inf)[edge])
            if beyond.any():  # an empty unclipped line would be laid out at the corner of the figure
                ax.plot(row[beyond], np.full(beyond.sum(), edge), "v^"[edge], color=color, **at_edge)
    if np.isnan(k).any():
        ax.plot([], [], " ", label=f"{np.isnan(k).sum()} NaN, left out")
    ax.axhline(threshold, **GUIDE)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    legend_beside(ax, title="rows", markerscale=4 / style["markersize"])
    return plain(ax, "row", "Pareto k-hat")


def _marked(k: Any, threshold: float, flagged: Array | None) -> Any:
    if flagged is None:
        return k > threshold
    return shaped("flagged", flagged, (len(k),), "Say of each row whether it is flagged.").astype(bool)


def khat_map(
    points: Array,
    values: Array,
    threshold: float,
    names: tuple[str, str] = ("z0", "z1"),
    ax: Axes | None = None,
    *,
    flagged: Array | None = None,
) -> Axes:
    """Points in a plane, coloured by Pareto k-hat, with a ring around those that are flagged; NaN is left out.

    Args:
        points: coordinates, (N, 2).
        values: k-hat of each point, (N,); infinite values have the colour at the end of the scale.
        threshold: as in `khat`.
        names: names of the two axes.
        ax: where to draw.
        flagged: as in `khat`.

    Raises:
        ValueError: if a shape is wrong.

    References:
        *Pareto Smoothed Importance Sampling* (Vehtari et al., 2024), arXiv 1507.02646
    """
    finite_number("threshold", threshold)
    first, second = named("names", names, 2, "z")
    place = shaped("points", points, ("N", 2), "Choose two coordinates.")
    k = shaped("values", values, (len(place),), "Give one k-hat for each point.")
    order = np.argsort(k)[: np.isfinite(k).sum() + np.isinf(k).sum()]  # the highest on top, NaN (last) left out
    above = _marked(k, threshold, flagged)[order]
    place, k = place[order], k[order]
    finite = k[np.isfinite(k)]
    low, high = finite.min(initial=threshold), finite.max(initial=threshold)
    ax = axes(ax, (6.4, 5.2))
    ax.set_aspect("equal", adjustable="datalim")
    size = 20 if len(k) <= 1000 else 6
    style: dict[str, Any] = {"vmin": low, "vmax": high + (low == high), "cmap": "viridis", "linewidths": 0}
    drawn = ax.scatter(place[:, 0], place[:, 1], s=size, c=k.clip(low, high), **style)
    ax.scatter(place[above, 0], place[above, 1], s=3 * size, facecolors="none", edgecolors=VALID, linewidths=1.2)
    rings = f"above {threshold:.2f}" if flagged is None else "flagged"
    bar = ax.figure.colorbar(drawn, ax=ax, label=f"Pareto k-hat ({above.sum()} of {len(k)} {rings}: ringed)")
    bar.ax.axhline(threshold, color=VALID, linewidth=1.5)
    return plain(ax, first, second)


def kl_per_dimension(kl: Array, active: Array, ax: Axes | None = None) -> Axes:
    """KL of each latent in nats, in decreasing order, with active units in colour.

    Args:
        kl: KL of each latent, mean over rows, (D,).
        active: whether each latent is active, (D,).
        ax: where to draw.

    Raises:
        ValueError: if the shapes differ.

    References:
        *Importance Weighted Autoencoders* (Burda et al., 2015), arXiv 1509.00519
    """
    nats = shaped("kl", kl, ("D",), "Give one KL for each latent.")
    on = shaped("active", active, nats.shape, "Give one truth value for each latent.").astype(bool)
    order = np.argsort(-nats, kind="stable")
    ax, handles = axes(ax, (7.2, 4.0)), []
    for part, color, word in ((on[order], TRAIN, "active"), (~on[order], GREY, "inactive")):
        ax.bar(np.flatnonzero(part), nats[order][part], color=color)
        handles.append(Patch(color=color, label=f"{part.sum()} {word}"))  # no bars would have no colour of their own
    if len(nats) <= 32:
        ax.set_xticks(np.arange(len(nats)), [str(i) for i in order], fontsize="small")
    else:
        ax.set_xticks([])
    ax.grid(visible=False, axis="x")
    legend_beside(ax, title="latents", handles=handles)
    return plain(ax, "latent, sorted by KL", "KL (nats per row)")


def importance(
    matrix: Array,
    code_names: Sequence[str] | None = None,
    factor_names: Sequence[str] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Heat map of the importance of each code for each factor, with the values written in.

    Args:
        matrix: importances of at least 0, (D, F): a row for each code, a column for each factor.
        code_names: names of the D codes.
        factor_names: names of the F factors.
        ax: where to draw.

    Raises:
        ValueError: if there is no code or factor, a value is below 0, or the number of names is wrong.

    References:
        *A Framework for the Quantitative Evaluation of Disentangled Representations* (Eastwood and Williams, 2018),
        ICLR 2018
    """
    share = shaped("matrix", matrix, ("D", "F"), "Give a row for each code, a column for each factor.")
    within("matrix", share, 0, math.inf, "Give shares of importance.")
    codes = named("code_names", code_names, share.shape[0], "z")
    factors = named("factor_names", factor_names, share.shape[1], "factor ")
    ax = axes(ax, (2.4 + 0.6 * len(factors), max(1.6 + 0.32 * len(codes), 3.2)))
    top = share.max() or 1.0
    drawn = ax.imshow(share, cmap="Blues", vmin=0, vmax=top, aspect="auto")
    for (i, j), value in np.ndenumerate(share):
        color = "white" if value > 0.6 * top else INK
        ax.text(j, i, f"{value:.2f}", ha="center", va="center", color=color, fontsize="small")
    ax.set_yticks(np.arange(len(codes)), codes)
    turned: dict[str, Any] = {"rotation": 30, "ha": "right", "rotation_mode": "anchor"}
    ax.set_xticks(np.arange(len(factors)), factors, **(turned if max(map(len, factors)) > 6 else {}))
    ax.figure.colorbar(drawn, ax=ax, label="share of importance")
    plain(ax, "factor", "code").grid(visible=False)
    return ax


def moments(
    guide_mean: Array,
    guide_scale: Array,
    reference_mean: Array,
    reference_scale: Array,
    name: str = "NUTS",
    ax: Axes | None = None,
) -> Axes:
    """Posterior means of the guide against those of a reference, with one standard deviation either way.

    Args:
        guide_mean: means under the guide, of any shape.
        guide_scale: standard deviations under the guide, of the same shape.
        reference_mean: means under the reference, of the same shape.
        reference_scale: standard deviations under the reference, of the same shape.
        name: name of the reference.
        ax: where to draw.

    Raises:
        ValueError: if the shapes differ, or a scale is below 0.
    """
    shape = array("guide_mean", guide_mean).shape
    x, x_scale, y, y_scale = (
        shaped(what, values, shape or (1,), "Give one for each latent.").reshape(-1)
        for what, values in (
            ("guide_mean", guide_mean),
            ("guide_scale", guide_scale),
            ("reference_mean", reference_mean),
            ("reference_scale", reference_scale),
        )
    )
    within("guide_scale", x_scale, 0, math.inf, "Give standard deviations.")
    within("reference_scale", y_scale, 0, math.inf, "Give standard deviations.")
    ax = axes(ax, (5.2, 5.0))
    ends = np.concatenate([x - x_scale, x + x_scale, y - y_scale, y + y_scale])
    ax.plot([ends.min(), ends.max()], [ends.min(), ends.max()], **GUIDE)
    style: dict[str, Any] = {"color": GREY, "linewidth": 0.8}
    ax.hlines(y, x - x_scale, x + x_scale, **style)
    ax.vlines(x, y - y_scale, y + y_scale, **style)
    ax.plot(x, y, "o", color=TRAIN, markersize=4, markeredgewidth=0)
    ax.set_aspect("equal", adjustable="datalim")
    bar = "mean \N{PLUS-MINUS SIGN} 1 standard deviation"
    return plain(ax, f"guide: {bar}", f"{name}: {bar}")


def rank_ecdf(
    ranks: Array,
    num_draws: int,
    lower: Array,
    upper: Array,
    points: Array,
    names: Sequence[str] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Simulation-based calibration: the ECDF of the normalized ranks of each coordinate, minus the uniform one.

    Ranks r are normalized to (r + 1/2) / (num_draws + 1): at multiples of 1 / (num_draws + 1) the expected difference
    is 0. The curves that leave the band furthest are coloured and named.

    Args:
        ranks: ranks in {0, ..., num_draws}, (N, D).
        num_draws: number of draws among which each true value was ranked.
        lower: lower end of the simultaneous band of the difference, (P,).
        upper: upper end of the band, (P,).
        points: increasing points in [0, 1] at which the band is given and the curves are drawn, (P,).
        names: names of the D coordinates.
        ax: where to draw.

    Raises:
        ValueError: if the shapes differ, or ranks or points are out of range.

    References:
        *Validating Bayesian Inference Algorithms with Simulation-Based Calibration* (Talts et al., 2018), arXiv
        1804.06788; *Graphical Test for Discrete Uniformity and its Applications* (Säilynoja et al., 2022), arXiv
        2103.10522
    """
    rank = shaped("ranks", ranks, ("N", "D"), "Give one row for each simulation, one column for each coordinate.")
    within("ranks", rank, 0, positive_integer("num_draws", num_draws), "Count the draws below the true value.")
    at = shaped("points", points, ("P",), "Give the points of the band.")
    within("points", at, 0, 1, "Normalized ranks lie there.")
    low, high = (
        shaped(what, band, at.shape, "Give one for each of the points.")
        for what, band in (("lower", lower), ("upper", upper))
    )
    names = named("names", names, rank.shape[1], "z")
    normalized = np.sort((rank + 0.5) / (num_draws + 1), axis=0)
    curves = np.stack([np.searchsorted(column, at, "right") / len(rank) - at for column in normalized.T])  # (D, P)
    beyond = np.maximum(curves - high, low - curves).max(1)
    order = np.argsort(-beyond, kind="stable")
    count = int((beyond > 1e-9).sum())  # the edge belongs to the band
    ax = axes(ax, (7.2, 4.0))
    ax.fill_between(at, low, high, label="simultaneous band", **BAND)
    ax.axhline(0, **GUIDE)
    for place, i in enumerate(order):
        label = names[i] if place < min(count, len(HIGHLIGHTS)) else None
        if place == count:  # one entry of the legend for all curves inside
            label = f"{len(order) - count} inside the band"
        elif place == len(HIGHLIGHTS) and place < count:
            label = f"{count - place} more outside"
        color = GREY if place >= count else INK if place >= len(HIGHLIGHTS) else HIGHLIGHTS[place]
        style: dict[str, Any] = {"linewidth": 1.6 if place < count else 0.8, "zorder": 3 - place / len(order)}
        ax.plot(at, curves[i], color=color, label=label, **style)
    legend_beside(ax)
    return plain(ax, "normalized rank", "ECDF - uniform")


def sandwich(lower: Array, upper: Array, ax: Axes | None = None) -> Axes:
    """Lower and upper estimate of log p(x) of each row, joined by a line; rows are sorted by the lower estimate.

    Args:
        lower: lower estimates in nats, (N,).
        upper: upper estimates in nats, (N,).
        ax: where to draw.

    Raises:
        ValueError: if the shapes differ.

    References:
        *Sandwiching the Marginal Likelihood Using Bidirectional Monte Carlo* (Grosse et al., 2015), arXiv 1511.02543
    """
    low = shaped("lower", lower, ("N",), "Give one for each row.")
    high = shaped("upper", upper, low.shape, "Give one for each row.")
    order = np.argsort(low, kind="stable")
    row, size = np.arange(len(low)), 4 if len(low) <= 200 else 2
    ax = axes(ax, (7.2, 4.0))
    ax.vlines(row, low[order], high[order], color=GREY, linewidth=1)
    for values, color, label in ((high, VALID, "upper"), (low, TRAIN, "lower")):
        ax.plot(row, values[order], "o", color=color, markersize=size, markeredgewidth=0, label=label)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    legend_beside(ax, title="estimate", markerscale=4 / size)
    return plain(ax, "row, sorted by the lower estimate", "log p(x) (nats)")
