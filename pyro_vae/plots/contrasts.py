"""Contrasts of many cells, with their intervals."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes

from pyro_vae.arguments import positive_number
from pyro_vae.plots.style import GUIDE, INK, TRAIN, Array, axes, named, plain, shaped, within

__all__ = ["contrast"]


def contrast(
    names: Sequence[str],
    estimates: Array,
    lower: Array,
    upper: Array,
    threshold: float | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Estimates with intervals, one below the other in the order given.

    Args:
        names: names of the C contrasts.
        estimates: the contrasts, (C,).
        lower: the lower ends of their intervals, (C,).
        upper: the upper ends, (C,).
        threshold: the smallest contrast that matters, drawn on both sides of 0.
        ax: where to draw.

    Raises:
        ValueError: if the shapes differ, a number is not finite, an interval ends below its start, or the threshold is
            not positive.
    """
    each = "Give one for each contrast."
    count = len(names) if isinstance(names, Sequence) else 0
    labels = named("names", names, count)
    largest = np.finfo(np.float64).max
    estimate, low, high = (
        within(what, shaped(what, values, (count,), each), -largest, largest, "Give finite numbers.")
        for what, values in (("estimates", estimates), ("lower", lower), ("upper", upper))
    )
    if (high < low).any():
        i = int(np.argmax(high < low))
        raise ValueError(f"upper must be at least lower; got {high[i]:g} below {low[i]:g}. Exchange them.")
    ax = axes(ax, (6.4, 1.2 + 0.3 * count))
    ax.axvline(0, **GUIDE)
    if threshold is not None:
        for side in (-1, 1):
            ax.axvline(side * positive_number("threshold", threshold), **GUIDE | {"linewidth": 0.6})
    place = np.arange(count)
    ax.hlines(place, low, high, color=TRAIN)
    ax.plot(estimate, place, "o", color=TRAIN, markersize=5)
    ax.set_yticks(place, labels, color=INK)
    ax.set_ylim(count - 0.5, -0.5)
    return plain(ax, "contrast", "")
