"""Probabilities of labels compared with how often they were right."""

from __future__ import annotations

from matplotlib.axes import Axes

from pyro_vae.plots.style import GUIDE, TRAIN, Array, axes, plain, shaped, within

__all__ = ["reliability"]


def reliability(confidence: Array, share: Array, errors: Array | None = None, ax: Axes | None = None) -> Axes:
    """The share of right guesses against the mean confidence in them; below the diagonal they are overconfident.

    Args:
        confidence: mean confidence of each group of rows, in [0, 1], (G,).
        share: the share of right guesses in each group, in [0, 1], (G,).
        errors: standard errors of these shares, (G,), drawn as two either way.
        ax: where to draw.

    Raises:
        ValueError: if the shapes differ, or a share is not in [0, 1].

    References:
        *On Calibration of Modern Neural Networks* (Guo et al., 2017), arXiv 1706.04599
    """
    advice = "Give shares, not per cent."
    x = within("confidence", shaped("confidence", confidence, ("G",), "Give one for each group."), 0, 1, advice)
    y = within("share", shaped("share", share, x.shape, "Give one for each group."), 0, 1, advice)
    ax = axes(ax, (5.2, 4.4))
    ax.plot([0, 1], [0, 1], **GUIDE)
    ax.plot(x, y, "o-", color=TRAIN, linewidth=1.4, markersize=4)
    if errors is not None:
        error = within("errors", shaped("errors", errors, x.shape, "Give one for each group."), 0, 1, advice)
        ax.vlines(x, y - 2 * error, y + 2 * error, color=TRAIN, linewidth=1)
    ax.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")
    return plain(ax, "confidence in the guess", "share of right guesses")
