"""How far a posterior, a prediction or a comparison can be trusted."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from pyro_vae.plots.style import (
    COLORS,
    FAINT,
    GREY,
    INK,
    MARKERS,
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

BAND: dict[str, Any] = {"color": TRAIN, "alpha": 0.15, "linewidth": 0}
GUIDE: dict[str, Any] = {"color": INK, "linewidth": 1, "linestyle": "--"}  # a line to compare with
APART = tuple(COLORS[i] for i in (2, 0, 1, 4, 5))  # on grey lines


def khat(values: Array, threshold: float, ax: Axes | None = None) -> Axes:
    """Pareto k-hat of each row: -inf at the bottom edge, inf at the top edge, NaN left out.

    Args:
        values: (N,).
        threshold: above it, a row's importance weights are not to be trusted.
        ax: where to draw.

    Raises:
        ValueError: if the shape is another.

    References:
        *Pareto Smoothed Importance Sampling* (Vehtari et al., 2024), arXiv 1507.02646
    """
    k = shaped("values", values, ("N",), "Give one k-hat for each row.")
    ax = axes(ax, (7.2, 4.0))
    row = np.arange(len(k))
    style: dict[str, Any] = {"linestyle": "none", "markersize": 4 if len(k) <= 1000 else 2, "markeredgewidth": 0}
    for part, color, edge, word in ((k <= threshold, TRAIN, 0, "at most"), (k > threshold, VALID, 1, "above")):
        inside, beyond = part & np.isfinite(k), part & np.isinf(k)
        ax.plot(row[inside], k[inside], "o", color=color, label=f"{part.sum()} {word} {threshold:.2f}", **style)
        at_edge = {**style, "transform": ax.get_xaxis_transform(), "clip_on": False, "zorder": 3, "markersize": 6}
        if beyond.any():  # an empty line that is not clipped would count as one at the corner of the figure
            ax.plot(row[beyond], np.full(beyond.sum(), edge), "v^"[edge], color=color, **at_edge)
    if np.isnan(k).any():
        ax.plot([], [], " ", label=f"{np.isnan(k).sum()} NaN, left out")
    ax.axhline(threshold, **GUIDE)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    legend_beside(ax, title="rows", markerscale=4 / style["markersize"])
    return plain(ax, "row", "Pareto k-hat")


def khat_map(
    points: Array, values: Array, threshold: float, names: tuple[str, str] = ("z1", "z2"), ax: Axes | None = None
) -> Axes:
    """Points of a plane, coloured by Pareto k-hat, ringed above the threshold; NaN left out.

    Args:
        points: (N, 2).
        values: (N,); infinite ones take the colour at the end of the scale.
        threshold: as in `khat`.
        names: of the axes.
        ax: where to draw.

    Raises:
        ValueError: if the shapes are others.

    References:
        *Pareto Smoothed Importance Sampling* (Vehtari et al., 2024), arXiv 1507.02646
    """
    place = shaped("points", points, ("N", 2), "Choose two coordinates.")
    k = shaped("values", values, (len(place),), "Give one k-hat for each point.")
    order = np.argsort(k)[: np.isfinite(k).sum() + np.isinf(k).sum()]  # the highest on top, NaN (last) left out
    place, k = place[order], k[order]
    finite, above = k[np.isfinite(k)], k > threshold
    low, high = finite.min(initial=threshold), finite.max(initial=threshold)
    ax = axes(ax, (6.4, 5.2))
    ax.set_aspect("equal", adjustable="datalim")
    size = 20 if len(k) <= 1000 else 6
    style: dict[str, Any] = {"vmin": low, "vmax": high + (low == high), "cmap": "viridis", "linewidths": 0}
    drawn = ax.scatter(place[:, 0], place[:, 1], s=size, c=k.clip(low, high), **style)
    ax.scatter(place[above, 0], place[above, 1], s=3 * size, facecolors="none", edgecolors=VALID, linewidths=1.2)
    bar = ax.figure.colorbar(
        drawn, ax=ax, label=f"Pareto k-hat ({above.sum()} of {len(k)} above {threshold:.2f}: ringed)"
    )
    bar.ax.axhline(threshold, color=VALID, linewidth=1.5)
    return plain(ax, *names)


def comparison(
    names: Sequence[str], differences: Array, errors: Array, flagged: Array | None = None, ax: Axes | None = None
) -> Axes:
    """Each model's difference to the best with two standard errors either way, in nats per row; the best at the top.

    Args:
        names: of the M models.
        differences: (M,); 0 for the best, and of one sign for the others.
        errors: (M,), standard errors of the differences; the best model's is not read.
        flagged: (M,), true where the difference is within the bias of the Monte Carlo estimates.
        ax: where to draw.

    Raises:
        ValueError: if the shapes differ, no difference is 0, or they have both signs.
    """
    each = "Give one for each model."
    names = named("names", names, len(names))
    difference = shaped("differences", differences, (len(names),), each)
    error = shaped("errors", errors, (len(names),), each)
    flag = shaped("flagged", flagged if flagged is not None else np.zeros(len(names)), (len(names),), each).astype(bool)
    low, high = difference.min(), difference.max()
    if not ((low == 0 or high == 0) and math.isfinite(high - low)):
        raise ValueError(
            f"differences must be 0 for the best model and of one sign for the others; got {low:g} to {high:g}."
            " Subtract the best model's value from each."
        )
    order = np.argsort(np.abs(difference), kind="stable")
    rest = order[1:]
    within("errors", error[rest], 0, math.inf, "Give standard errors.")
    ax = axes(ax, (9.2 if flag.any() else 7.2, 1.2 + 0.35 * len(names)))
    place = np.argsort(order)  # of each model, from the top
    ax.axvline(0, **GUIDE)
    for part, color, label in ((~flag, TRAIN, None), (flag, VALID, "within the Monte Carlo bias")):
        barred = rest[part[rest]]
        ax.hlines(place[barred], *(difference[barred] + sign * 2 * error[barred] for sign in (-1, 1)), color=color)
        if part.any():
            ax.plot(difference[part], place[part], "o", color=color, markersize=5, label=label)
    ax.set_yticks(np.arange(len(names)), [names[i] for i in order], color=INK)
    ax.set_ylim(len(names) - 0.5, -0.5)
    if flag.any():
        legend_beside(ax)
    return plain(ax, "difference to the best \N{PLUS-MINUS SIGN} 2 standard errors (nats per row)", "")


def rank_ecdf(
    ranks: Array,
    num_draws: int,
    lower: Array,
    upper: Array,
    points: Array,
    names: Sequence[str] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Simulation-based calibration: the ECDF of each coordinate's normalised ranks, minus that of a uniform.

    Ranks r are normalised to (r + 1/2) / (num_draws + 1): at multiples of 1 / (num_draws + 1) the expected difference
    is 0. Curves that leave the band are coloured and named, those furthest out first.

    Args:
        ranks: (N, D), in {0, ..., num_draws}.
        num_draws: how many draws each true value was ranked among.
        lower: (P,), of the simultaneous band of the difference.
        upper: (P,).
        points: (P,), increasing, in [0, 1]: where the band is given and the curves are drawn.
        names: of the D coordinates.
        ax: where to draw.

    Raises:
        ValueError: if the shapes differ, or ranks or points lie elsewhere.

    References:
        *Validating Bayesian Inference Algorithms with Simulation-Based Calibration* (Talts et al., 2018), arXiv
        1804.06788; *Graphical Test for Discrete Uniformity and its Applications* (Säilynoja et al., 2022), arXiv
        2103.10522
    """
    rank = shaped("ranks", ranks, ("N", "D"), "Give one row for each simulation, one column for each coordinate.")
    within("ranks", rank, 0, num_draws, "Count the draws below the true value.")
    at = shaped("points", points, ("P",), "Give the points of the band.")
    within("points", at, 0, 1, "Normalised ranks lie there.")
    low, high = (
        shaped(what, band, at.shape, "Give one for each of the points.")
        for what, band in (("lower", lower), ("upper", upper))
    )
    names = named("names", names, rank.shape[1], "z")
    normalised = np.sort((rank + 0.5) / (num_draws + 1), axis=0)
    curves = np.stack([np.searchsorted(column, at, "right") / len(rank) - at for column in normalised.T])  # (D, P)
    beyond = np.maximum(curves - high, low - curves).max(1)
    order = np.argsort(-beyond, kind="stable")
    count = int((beyond > 1e-9).sum())  # on the band is within it
    ax = axes(ax, (7.2, 4.0))
    ax.fill_between(at, low, high, label="simultaneous band", **BAND)
    ax.axhline(0, **GUIDE)
    for place, i in enumerate(order):
        label = names[i] if place < min(count, len(APART)) else None
        if place == count:  # one entry for all of those within
            label = f"{len(order) - count} within"
        elif place == len(APART) and place < count:
            label = f"{count - place} more outside"
        color = GREY if place >= count else INK if place >= len(APART) else APART[place]
        style: dict[str, Any] = {"linewidth": 1.6 if place < count else 0.8, "zorder": 3 - place / len(order)}
        ax.plot(at, curves[i], color=color, label=label, **style)
    legend_beside(ax)
    return plain(ax, "normalised rank", "ECDF - uniform")


def coverage(
    levels: Array,
    observed: Array,
    errors: Array | None = None,
    names: Sequence[str] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Observed coverage of central intervals against their nominal level; above the diagonal they are too wide.

    Args:
        levels: (L,), in [0, 1].
        observed: (L,), or (L, D) for several coordinates, in [0, 1].
        errors: (L,), standard errors, drawn twice either way; for observed of shape (L,) only.
        names: of the D coordinates; without them, several curves look alike.
        ax: where to draw.

    Raises:
        ValueError: if the shapes differ, or a share is not in [0, 1].

    References:
        *A Trust Crisis In Simulation-Based Inference? Your Posterior Approximations Can Be Unfaithful* (Hermans et al.,
        2022), arXiv 2110.06581
    """
    shares = "Give shares, not per cent."
    level = within("levels", shaped("levels", levels, ("L",), "Give the nominal levels."), 0, 1, shares)
    single = array(observed).ndim == 1
    shape = (len(level),) if single else (len(level), "D")
    share = within("observed", shaped("observed", observed, shape, "Give one for each level."), 0, 1, shares)
    labels = named("names", names, 1 if single else share.shape[1])
    ax = axes(ax, (5.2, 4.4))
    ax.plot([0, 1], [0, 1], **GUIDE)
    style: dict[str, Any] = {"linewidth": 1.4, "markersize": 4}
    for i, (column, label) in enumerate(zip(share.reshape(len(level), -1).T, labels, strict=True)):
        color = TRAIN if names is None or single else COLORS[i % len(COLORS)]
        look = {**style, "color": color, "marker": MARKERS[i // len(COLORS) % len(MARKERS)]}
        ax.plot(level, column, label=None if names is None else label, **look)
    if errors is not None:
        if not single:
            raise ValueError("errors must be left out for observed of shape (L, D); got both. Draw one coordinate.")
        error = within("errors", shaped("errors", errors, level.shape, "Give one for each level."), 0, 1, shares)
        ax.vlines(level, share - 2 * error, share + 2 * error, color=TRAIN, linewidth=1)
    ax.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")
    if names is not None:
        legend_beside(ax)
    return plain(ax, "nominal level (share of rows)", "observed coverage (share of rows)")


def pit(values: Array, bins: int = 20, band: tuple[float, float] | None = None, ax: Axes | None = None) -> Axes:
    """Density of probability integral transforms: flat where predictions are calibrated, a hump where too wide.

    Args:
        values: of any shape, in [0, 1].
        bins: how many.
        band: lowest and highest density to expect of a uniform sample.
        ax: where to draw.

    Raises:
        ValueError: if there are no values, one is not in [0, 1], or there is no bin.

    References:
        *Probabilistic Forecasts, Calibration and Sharpness* (Gneiting et al., 2007), JRSS B 69
    """
    value = shaped("values", array(values).reshape(-1), ("N",), "Give values of the predictive distribution function.")
    within("values", value, 0, 1, "Give values of the predictive distribution function.")
    if bins < 1:
        raise ValueError(f"bins must be 1 or more; got {bins}. Leave it out for 20.")
    ax = axes(ax, (6.4, 4.0))
    ax.hist(value, bins=bins, range=(0, 1), density=True, color=FAINT, edgecolor=GREY, linewidth=0.8)
    ax.axhline(1, label="uniform", **GUIDE)
    if band is not None:
        ax.axhspan(*band, label="range if uniform", **BAND)
        legend_beside(ax)
    ax.set_xlim(0, 1)
    return plain(ax, "probability integral transform", "density")


def statistic(
    observed: float, replicated: Array, name: str, p_value: float | None = None, ax: Axes | None = None
) -> Axes:
    """Predictive check of one statistic: its values on replicated data, and a line where the observed data lie.

    Whole numbers have bins of whole width around them, of width 1 for a range of at most 60.

    Args:
        observed: the statistic of the data.
        replicated: (S,), of each replicated data set.
        name: of the statistic.
        p_value: the tail probability, for the title.
        ax: where to draw.

    Raises:
        ValueError: if the shape is another, or a value is not finite.

    References:
        *Posterior Predictive Assessment of Model Fitness via Realized Discrepancies* (Gelman et al., 1996), Statistica
        Sinica 6
    """
    values = shaped("replicated", replicated, ("S",), "Give one value for each replicated data set.")
    both = np.append(values, float(observed))
    if not np.isfinite(both).all():
        wrong = both[~np.isfinite(both)][0]
        raise ValueError(f"observed and replicated must be finite; got {wrong:g}. Choose another statistic.")
    bins: Any = 30
    whole = bool((both == both.round()).all())
    if whole:
        low, high = values.min(), values.max()
        step = 1 if high - low <= 60 else math.ceil((high - low + 1) / 30)
        bins = np.arange(low - 0.5, high + step, step)
    ax = axes(ax, (6.4, 4.0))
    ax.hist(values, bins=bins, color=GREY, edgecolor="white", linewidth=0.5, label="replicated")
    ax.xaxis.set_major_locator(MaxNLocator(5, integer=whole))
    ax.axvline(float(observed), color=VALID, linewidth=2, label=f"observed: {float(observed):.4g}")
    ax.set_title(name if p_value is None else f"{name}: tail probability {p_value:.2g}", color=INK, fontsize="medium")
    legend_beside(ax)
    return plain(ax, name, "replicated data sets")


def kl_per_dimension(kl: Array, active: Array, ax: Axes | None = None) -> Axes:
    """KL of each latent in nats, sorted downward, active units in a colour.

    Args:
        kl: (D,), means over rows.
        active: (D,), true for active units.
        ax: where to draw.

    Raises:
        ValueError: if the shapes differ.

    References:
        *Importance Weighted Autoencoders* (Burda et al., 2015), arXiv 1509.00519
    """
    nats = shaped("kl", kl, ("D",), "Give one KL for each latent.")
    on = shaped("active", active, nats.shape, "Give one for each latent.").astype(bool)
    order = np.argsort(-nats, kind="stable")
    ax = axes(ax, (7.2, 4.0))
    for part, color, word in ((on[order], TRAIN, "active"), (~on[order], GREY, "inactive")):
        ax.bar(np.flatnonzero(part), nats[order][part], color=color, label=f"{part.sum()} {word}")
    if len(nats) <= 32:
        ax.set_xticks(np.arange(len(nats)), [str(i) for i in order], fontsize="small")
    else:
        ax.set_xticks([])
    ax.grid(visible=False, axis="x")
    legend_beside(ax, title="latents")
    return plain(ax, "latent, sorted by KL", "KL (nats per row)")


def sandwich(lower: Array, upper: Array, ax: Axes | None = None) -> Axes:
    """Lower and upper estimate of log p(x) of each row, joined by a line; rows sorted by the lower.

    Args:
        lower: (N,), in nats.
        upper: (N,).
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
        guide_mean: of any shape, one for each latent.
        guide_scale: standard deviations, of the same shape.
        reference_mean: likewise.
        reference_scale: likewise.
        name: of the reference.
        ax: where to draw.

    Raises:
        ValueError: if the shapes differ, or a scale is below 0.
    """
    shape = array(guide_mean).shape
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
    return plain(ax, "guide: mean \N{PLUS-MINUS SIGN} 1 scale", f"{name}: mean \N{PLUS-MINUS SIGN} 1 scale")


def importance(
    matrix: Array,
    code_names: Sequence[str] | None = None,
    factor_names: Sequence[str] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Heat map of how much each code says of each factor, with the values written in.

    Args:
        matrix: (D, F), 0 or more: a row for each code, a column for each factor.
        code_names: of the D codes.
        factor_names: of the F factors.
        ax: where to draw.

    Raises:
        ValueError: if there is no code or factor, a value is below 0, or the number of names is another.

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


def predictive_intervals(
    x: Array, quantiles: Array, levels: Array, names: Sequence[str] | None = None, ax: Axes | None = None
) -> Axes:
    """One row: the value of each cell over its central predictive intervals, and the median if it is given.

    Args:
        x: (E,).
        quantiles: (Q, E), predictive quantiles of each cell.
        levels: (Q,), of the quantiles: increasing and symmetric, as 0.05, 0.25, 0.5, 0.75, 0.95.
        names: of the E cells.
        ax: where to draw.

    Raises:
        ValueError: if the shapes differ, or `levels` are not increasing and symmetric in [0, 1].
    """
    value = shaped("x", x, ("E",), "Give the cells of one row.")
    level = shaped("levels", levels, ("Q",), "Give the levels of the quantiles.")
    quantile = shaped("quantiles", quantiles, (len(level), len(value)), "Give a line for each level.")
    within("levels", level, 0, 1, "Give probabilities.")
    if (np.diff(level) <= 0).any() or not np.allclose(level + level[::-1], 1, atol=1e-4):
        raise ValueError(
            f"levels must be increasing, and symmetric about 1/2; got {level.tolist()}."
            " Give, say, 0.05, 0.25, 0.5, 0.75, 0.95."
        )
    cells = named("names", names, len(value))
    ax = axes(ax, (min(2.6 + 0.35 * len(value), 12.0), 4.0))
    ax.use_sticky_edges = False  # a margin below the lowest bar too
    cell, pairs = np.arange(len(value)), len(level) // 2
    for i in range(pairs):  # from the outermost inward
        low, high, label = quantile[i], quantile[-1 - i], f"{level[-1 - i] - level[i]:.0%} interval"
        style: dict[str, Any] = {"color": TRAIN, "alpha": 0.6 * (i + 1) / (pairs + 1), "linewidth": 1}
        ax.bar(cell, high - low, bottom=low, width=0.7, label=label, **style)
    if len(level) % 2:
        ax.hlines(quantile[pairs], cell - 0.35, cell + 0.35, color=TRAIN, linewidth=1.4, label="median")
    ax.plot(cell, value, "o", color=VALID, markersize=5, markeredgecolor="white", markeredgewidth=0.5, label="observed")
    if names is not None:
        turned: dict[str, Any] = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"}
        ax.set_xticks(cell, cells, **(turned if max(map(len, cells)) > 3 else {}))
    else:
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    legend_beside(ax)
    return plain(ax, "cell", "value")
