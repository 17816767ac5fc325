"""Predictions of a model compared with the data, and models compared with each other."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from pyro_vae.arguments import is_number, positive_integer
from pyro_vae.plots.style import (
    BAND,
    COLORS,
    FAINT,
    GREY,
    GUIDE,
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


def comparison(
    names: Sequence[str], differences: Array, errors: Array, flagged: Array | None = None, ax: Axes | None = None
) -> Axes:
    """Difference of each model to the best, with two standard errors either way, in nats per row; the best at the top.

    Args:
        names: names of the M models.
        differences: differences to the best model, (M,): 0 for the best, and of one sign for the others.
        errors: standard errors of the differences, (M,); that of the best model is not used.
        flagged: whether each difference may be due to the guides rather than the models, (M,).
        ax: where to draw.

    Raises:
        ValueError: if the shapes differ, no difference is 0, or they have both signs.
    """
    each = "Give one for each model."
    names = named("names", names, len(names) if isinstance(names, Sequence) else 0)
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
    for part, color, label in ((~flag, TRAIN, None), (flag, VALID, "may be due to the guides")):
        barred = rest[part[rest]]
        ax.hlines(place[barred], *(difference[barred] + sign * 2 * error[barred] for sign in (-1, 1)), color=color)
        if part.any():
            ax.plot(difference[part], place[part], "o", color=color, markersize=5, label=label)
    ax.set_yticks(np.arange(len(names)), [names[i] for i in order], color=INK)
    ax.set_ylim(len(names) - 0.5, -0.5)
    if flag.any():
        legend_beside(ax)
    return plain(ax, "difference to the best \N{PLUS-MINUS SIGN} 2 standard errors (nats per row)", "")


def coverage(
    levels: Array,
    observed: Array,
    errors: Array | None = None,
    names: Sequence[str] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Observed coverage of central intervals against their nominal level; above the diagonal they are too wide.

    Args:
        levels: nominal levels in [0, 1], (L,).
        observed: coverage in [0, 1], (L,), or (L, D) for D coordinates.
        errors: standard errors of the coverage, (L,), drawn as two either way; only if `observed` has shape (L,).
        names: names of the D coordinates; without them all curves have one colour.
        ax: where to draw.

    Raises:
        ValueError: if the shapes differ, or a share is not in [0, 1].

    References:
        *A Trust Crisis In Simulation-Based Inference? Your Posterior Approximations Can Be Unfaithful* (Hermans et al.,
        2022), arXiv 2110.06581
    """
    shares = "Give shares, not per cent."
    level = within("levels", shaped("levels", levels, ("L",), "Give the nominal levels."), 0, 1, shares)
    single = array("observed", observed).ndim == 1
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
    return plain(ax, "nominal level", "observed coverage (share of rows)")


def pit(values: Array, bins: int = 20, band: tuple[float, float] | None = None, ax: Axes | None = None) -> Axes:
    """Density of probability integral transforms: flat if predictions are calibrated, a hump if they are too wide.

    Args:
        values: transforms in [0, 1], of any shape.
        bins: number of bins of the histogram.
        band: lowest and highest density to expect in a uniform sample.
        ax: where to draw.

    Raises:
        ValueError: if there are no values, one is not in [0, 1], or there is no bin.

    References:
        *Probabilistic Forecasts, Calibration and Sharpness* (Gneiting et al., 2007), JRSS B 69
    """
    advice = "Give values of the predictive distribution function."
    value = within("values", shaped("values", array("values", values).reshape(-1), ("N",), advice), 0, 1, advice)
    positive_integer("bins", bins)
    if band is not None and (not isinstance(band, Sequence) or len(band) != 2 or not all(map(is_number, band))):
        raise ValueError(f"band must be two densities; got {band!r}. Give the lowest and the highest.")
    ax = axes(ax, (6.4, 4.0))
    ax.hist(value, bins=bins, range=(0, 1), density=True, color=FAINT, edgecolor=GREY, linewidth=0.8)
    ax.axhline(1, label="uniform", **GUIDE)
    if band is not None:
        ax.axhspan(*band, label="range if uniform", **BAND)
        legend_beside(ax)
    ax.set_xlim(0, 1)
    return plain(ax, "probability integral transform", "density")


def predictive_intervals(
    x: Array, quantiles: Array, levels: Array, names: Sequence[str] | None = None, ax: Axes | None = None
) -> Axes:
    """One row: the value of each cell over its central predictive intervals, and the predictive median if it is given.

    Args:
        x: observed values of the cells, (E,).
        quantiles: predictive quantiles of each cell, (Q, E).
        levels: levels of the quantiles, (Q,), increasing and symmetric about 1/2, e.g. 0.05, 0.25, 0.5, 0.75, 0.95.
        names: names of the E cells.
        ax: where to draw.

    Raises:
        ValueError: if the shapes differ, or `levels` are not increasing and symmetric in [0, 1].
    """
    value = shaped("x", x, ("E",), "Give the cells of one row.")
    level = shaped("levels", levels, ("Q",), "Give the levels of the quantiles.")
    quantile = shaped("quantiles", quantiles, (len(level), len(value)), "Give one row for each level.")
    within("levels", level, 0, 1, "Give probabilities.")
    if (np.diff(level) <= 0).any() or not np.allclose(level + level[::-1], 1, atol=1e-4):
        raise ValueError(
            f"levels must be increasing, and symmetric about 1/2; got {level.tolist()}."
            " Give, say, 0.05, 0.25, 0.5, 0.75, 0.95."
        )
    cells = named("names", names, len(value))
    ax = axes(ax, (min(2.6 + 0.35 * len(value), 12.0), 4.0))
    ax.use_sticky_edges = False  # leave a margin below the lowest bar too
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


def statistic(
    observed: float, replicated: Array, name: str, p_value: float | None = None, ax: Axes | None = None
) -> Axes:
    """Predictive check of one statistic: a histogram of its replicated values, and a line at the observed value.

    If all values are integers, so are the widths of the bins: 1 for a range of at most 60.

    Args:
        observed: value of the statistic on the observed data.
        replicated: value on each replicated data set, (S,).
        name: name of the statistic.
        p_value: tail probability, for the title.
        ax: where to draw.

    Raises:
        ValueError: if a shape is wrong, or a value is not finite.

    References:
        *Posterior Predictive Assessment of Model Fitness via Realized Discrepancies* (Gelman et al., 1996), Statistica
        Sinica 6
    """
    if p_value is not None:
        within("p_value", shaped("p_value", p_value, (), "Give one number."), 0, 1, "Give a probability.")
    values = shaped("replicated", replicated, ("S",), "Give one value for each replicated data set.")
    seen = array("observed", observed)
    if seen.size != 1:
        raise ValueError(f"observed must be one number; got shape {seen.shape}. Choose one entry.")
    observed = float(seen.reshape(()))
    both = np.append(values, observed)
    if not np.isfinite(both).all():
        wrong = both[~np.isfinite(both)][0]
        raise ValueError(f"observed and replicated must be finite; got {wrong:g}. Choose another statistic.")
    bins: Any = 30
    whole = bool((both == both.round()).all()) and np.abs(both).max() < 2**53
    if whole:
        low, high = values.min(), values.max()
        step = 1 if high - low <= 60 else math.ceil((high - low + 1) / 30)
        bins = np.arange(low - 0.5, high + step, step)
    elif np.ptp(values) <= 1e-9 * np.abs(values).max():
        bins = 1  # 30 bins would be narrower than the spacing of floating-point numbers
    ax = axes(ax, (6.4, 4.0))
    ax.hist(values, bins=bins, color=GREY, edgecolor="white", linewidth=0.5, label="replicated")
    ax.xaxis.set_major_locator(MaxNLocator(5, integer=whole))
    ax.axvline(observed, color=VALID, linewidth=2, label=f"observed: {observed:.4g}")
    title = str(name) if p_value is None else f"{name}: tail probability {float(p_value):.3f}"
    ax.set_title(title, color=INK, fontsize="medium")
    legend_beside(ax)
    return plain(ax, name, "number of replicated data sets")
