"""Training curves, rate and distortion of models, and maps of the latents."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from pyro_vae.plots.style import (
    COLORS,
    INK,
    MARKERS,
    TRAIN,
    VALID,
    Array,
    array,
    axes,
    legend_beside,
    named,
    nonempty,
    plain,
)


class Table(Protocol):
    """The part of a `History` that is used here: columns by name."""

    def __getitem__(self, column: str) -> Sequence[float | None]: ...


def training_curve(history: Table, ax: Axes | None = None) -> Axes:
    """Bounds on training and validation rows against epochs, in nats per row.

    With more than ten epochs, the vertical axis starts at the 5 % quantile of the bounds, so that the low values of the
    first epochs do not flatten the rest.

    Args:
        history: columns `epoch`, `train_bound` and `valid_bound`; entries may be None.
        ax: where to draw.
    """
    ax = axes(ax, (6.4, 4.0))
    try:
        epochs, *bounds = (
            np.array([math.nan if value is None else value for value in history[column]], dtype=float)
            for column in ("epoch", "train_bound", "valid_bound")
        )
    except (TypeError, KeyError, IndexError, ValueError) as error:
        raise TypeError(
            f"history must be a table of epochs; got {history!r} ({error!r}). Pass what `fit` returns."
        ) from None
    shown = []
    for name, color, bound in zip(("train", "valid"), (TRAIN, VALID), bounds, strict=True):
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
    return plain(ax, "epoch", "bound (nats per row)")


def latent_map(
    points: Array, labels: Array | None = None, *, names: tuple[str, str] = ("z0", "z1"), ax: Axes | None = None
) -> Axes:
    """Points in a plane, coloured by label, with a legend for up to 20 different integers and a colour bar otherwise.

    Args:
        points: coordinates, (N, 2).
        labels: labels of the points, (N,).
        names: names of the two axes.
        ax: where to draw.

    Raises:
        ValueError: if a shape is wrong.
    """
    points = nonempty("points", points)
    if points.ndim != 2 or points.shape[1] != 2:
        raise ValueError(f"points must have shape (N, 2); got {points.shape}. Choose two coordinates.")
    first, second = named("names", names, 2, "z")
    ax = axes(ax, (6.4, 5.2))
    ax.set_aspect("equal", adjustable="datalim")
    style: dict[str, Any] = {"s": 20 if len(points) <= 1000 else 6, "linewidths": 0, "alpha": 0.85}
    if labels is None:
        ax.scatter(*points.T, color=TRAIN, **style)
        return plain(ax, first, second)
    values = array("labels", labels)
    if values.shape != points.shape[:1]:
        raise ValueError(f"labels must have shape ({len(points)},); got {values.shape}. Give one per point.")
    classes = np.unique(values)
    if values.dtype.kind in "biu" and len(classes) <= 20:
        for i, value in enumerate(classes):
            part, marker = points[values == value], MARKERS[i // len(COLORS)]
            ax.scatter(*part.T, color=COLORS[i % len(COLORS)], marker=marker, label=str(value), **style)
        legend = legend_beside(ax, title="label", handletextpad=0.2)
        for handle in legend.legend_handles:
            handle.set(sizes=[30], alpha=1)  # type: ignore[union-attr]
    else:
        drawn = ax.scatter(points[:, 0], points[:, 1], c=values, cmap="viridis", **style)
        ax.figure.colorbar(drawn, ax=ax, label="label")
    return plain(ax, first, second)


def rate_distortion(
    rates: Array, distortions: Array, labels: Sequence[str] | None = None, ax: Axes | None = None
) -> Axes:
    """Distortion, -E log p(x | z), against rate, KL(q(z | x) || p(z)); both in nats per row.

    Args:
        rates: rate of each model, (M,).
        distortions: distortion of each model, (M,).
        labels: text beside each point, (M,).
        ax: where to draw.

    Raises:
        ValueError: if the lengths differ.

    References:
        *Fixing a Broken ELBO* (Alemi et al., 2018), arXiv 1711.00464
    """
    rate, distortion = nonempty("rates", rates), nonempty("distortions", distortions)
    if rate.ndim != 1 or rate.shape != distortion.shape:
        raise ValueError(
            f"rates and distortions must have the same length; got {rate.shape} and {distortion.shape}."
            " Give one of each for every model."
        )
    texts = named("labels", labels, len(rate)) if labels is not None else []
    ax = axes(ax, (5.6, 4.2))
    order = np.argsort(rate)
    ax.plot(rate[order], distortion[order], color=TRAIN, marker="o", markersize=4, linewidth=1.2)
    for i, text in enumerate(texts):
        style: dict[str, Any] = {"color": INK, "fontsize": "small", "textcoords": "offset points"}
        ax.annotate(text, (rate[i], distortion[i]), xytext=(5, 5), **style)
    return plain(ax, "rate: KL (nats per row)", "distortion: -E log p(x | z) (nats per row)")
