"""Whether training had converged: the slope of the bound against its noise, and the gain still to be expected."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pyro_vae.runtime.display import Shown

__all__ = ["NEGLIGIBLE", "Convergence", "convergence_of"]

Array = NDArray[np.float64]

FEWEST = 10  # epochs: with fewer, a trend cannot be told from noise
BATCHES = 5  # means of consecutive epochs, between which noise is taken to be independent
CRITICAL = 3.482  # 98 % point of Student's distribution with BATCHES - 2 degrees of freedom
STILL = 1.638  # 90 % point of it: by so much the second half of the window must still rise
NEGLIGIBLE = 0.05  # nats per row: a smaller gain is not worth as many epochs again
FALLEN = 0.1  # share of the largest learning rate below which a flat bound may be the learning rate's doing
POINTS = 12  # means of consecutive epochs to which curves are fitted
NAMES = {"valid_bound": "validation bound", "train_bound": "training bound"}


@dataclass(frozen=True, repr=False)
class Convergence(Shown):
    """What the last epochs of a run say about its convergence; `print` it.

    Attributes:
        converged: False if the bound rises by more than its noise and as many epochs again are expected to add more
            than a negligible gain; None if that is unknown.
        slope: nats per row by which the bound rises in an epoch, over the last epochs; None if it is unknown.
        slope_error: the standard error of the slope; None likewise.
        expected_gain: nats per row that as many epochs again are expected to add; None likewise.
        num_epochs: number of epochs that were judged.
        column: the bound that decides, "valid_bound" or "train_bound".
        best_epoch: the epoch with the highest bound; None if there is no bound.
        leveled: whether the bound rose over the last epochs, but no longer over the second half of them.
        note: why convergence is unknown, or what limits the verdict; empty where there is nothing to say.

    Example:
        >>> print(convergence_of([-10 / epoch for epoch in range(1, 41)]))
        Training had not converged: over the last 13 of 40 epochs the training bound rose by 0.0087
        (standard error 0.0004) nats per row in each, and 40 more epochs are expected to add about 0.13 nats per row.
    """

    converged: bool | None
    slope: float | None
    slope_error: float | None
    expected_gain: float | None
    num_epochs: int
    column: str
    best_epoch: int | None
    leveled: bool = False
    note: str = ""

    @property
    def trend(self) -> str:
        """Whether the bound is still "rising", or "falling", by more than its noise, or "flat"; else "unknown"."""
        if self.slope is None or self.slope_error is None:
            return "unknown"
        limit = CRITICAL * self.slope_error
        if self.slope > limit:
            return "flat" if self.leveled else "rising"
        return "falling" if self.slope < -limit else "flat"

    @property
    def undetected_gain(self) -> float | None:
        """The largest gain of as many epochs again, in nats per row, that a slope within its noise is compatible with.

        It is the upper 98 % limit of the slope times the number of epochs; None if the slope is unknown.
        """
        if self.slope is None or self.slope_error is None:
            return None
        return max(0.0, self.slope + CRITICAL * self.slope_error) * self.num_epochs

    @property
    def advice(self) -> str:
        """What to do about it; empty where training had converged."""
        if self.converged is False:
            return (
                f"Train for {self.num_epochs} more epochs before acting on anything else: another call of fit continues"
                " from where the last one stopped. If early stopping ended it, pass a larger patience."
            )
        if self.converged is None and self.num_epochs < FEWEST:
            return f"Train for at least {FEWEST - self.num_epochs} more epochs: another call of fit continues."
        return "Look at the bounds by epoch: history.plot()." if self.converged is None else ""

    def __str__(self) -> str:
        if self.slope is None or self.slope_error is None or self.expected_gain is None:
            return f"Whether training had converged is unknown: {self.note}."
        window, bound = window_of(self.num_epochs), NAMES[self.column]
        moved = (
            f"{'fell' if self.slope < 0 else 'rose'} by {abs(self.slope):.2g} (standard error {self.slope_error:.1g})"
        )
        seen = f"over the last {window} of {self.num_epochs} epochs the {bound} {moved} nats per row in each"
        more = f"{self.num_epochs} more epochs are expected to add"
        if not self.converged:
            text = f"Training had not converged: {seen}, and {more} about {self.expected_gain:.2g} nats per row."
        elif self.trend == "rising":
            text = f"Training had converged: {seen}, but {more} no more than {self.expected_gain:.1g} nats per row."
        elif self.trend == "falling":
            text = f"Training no longer raised the bound: {seen}; it was highest after epoch {self.best_epoch}."
        elif self.leveled:
            text = f"Training had converged: {seen}, but no longer over the last {late_window_of(self.num_epochs)}."
        else:
            unseen = f"a gain of up to {self.undetected_gain:.2g} nats per row in {self.num_epochs} more epochs"
            text = f"No sign that training had not converged: {seen}, within its noise; {unseen} would not show."
        return f"{text} {self.note}".rstrip()


def convergence_of(
    bounds: Sequence[float | None],
    column: str = "train_bound",
    *,
    negligible: float = NEGLIGIBLE,
    rates: Sequence[float | None] = (),
    first: int = 1,
) -> Convergence:
    """Judge the convergence of a run from its bounds, one for each epoch.

    The last third of the run is judged, at least ten epochs. The slope is that of a line through the means of five
    batches of epochs; its error comes from their scatter around the line, so that noise may be correlated over a few
    epochs. A bound rises if that slope is positive at the 2 % level and that of the second half of these epochs at the
    10 % level, since a run that has just ended by early stopping rose before. A bound without a trend is called rising
    with probability .02 at most where noise is independent; with correlated noise, up to .03 from 60 epochs on, and up
    to .09 in 20 epochs whose neighbours have a correlation of .8.

    The gain of as many epochs again, y(2T) - y(T), is a weighted mean over curves of three families that are fitted by
    least squares: a power law of the number of epochs, an exponential, and a parabola up to its top (steps of constant
    length, as Adam takes them, move along one). Weights are the inverse cubes of the residual standard deviations. They
    are flatter than likelihoods, since no curve is quite true; this predicts real runs better than the best curve does
    (`benchmarks/convergence.py`). Where a run turns later than any of its epochs shows, as when a further latent comes
    into use or over-fitting begins, no such prediction can be right.

    Args:
        bounds: the bound after each epoch, in nats per row; None where there is none. The trailing epochs that have a
            bound are used.
        column: the name of the bound, "valid_bound" or "train_bound".
        negligible: gain, in nats per row, up to which a run is called converged though its bound rises.
        rates: the learning rate of each epoch, if it is known.
        first: the number of the first epoch in `bounds`.

    Example:
        >>> convergence_of([-1 / epoch for epoch in range(1, 41)]).expected_gain  # exactly 1/40 - 1/80
        0.0125...
        >>> convergence_of([-1.0] * 40).converged
        True
        >>> convergence_of([-1.0, -0.5]).converged is None
        True
    """
    known = [value is not None for value in bounds]
    missing = max((epoch for epoch, here in enumerate(known, 1) if not here), default=0)
    values = np.array(list(bounds[missing:]), dtype=np.float64)
    num_epochs, best = len(bounds), None
    if np.isfinite(values).any():
        best = first + missing + int(np.where(np.isfinite(values), values, -math.inf).argmax())

    def unknown(reason: str) -> Convergence:
        return Convergence(None, None, None, None, num_epochs, column, best, note=reason)

    window = window_of(num_epochs)
    if len(values) < window:
        count = f"{len(values)} epoch{'' if len(values) == 1 else 's'}"
        return unknown(f"there is a {NAMES[column]} of {count}, and at least {window} are needed")
    last = values[-window:]
    if not np.isfinite(last).all():
        bad = int((~np.isfinite(last)).sum())
        return unknown(f"the {NAMES[column]} is not finite in {bad} of the last {len(last)} epochs")
    slope, error = _slope(last)
    gain = _expected_gain(last, num_epochs)
    late_slope, late_error = _slope(last[-late_window_of(num_epochs) :])
    rose, leveled = slope > CRITICAL * error, late_slope <= STILL * late_error
    converged = not rose or leveled or gain <= negligible
    return Convergence(converged, slope, error, gain, num_epochs, column, best, rose and leveled, _note(rates))


def _note(rates: Sequence[float | None]) -> str:
    """A sentence about the learning rate, if it has fallen to less than a tenth: then a flat bound means little."""
    known = [rate for rate in rates if rate is not None]
    if not known or known[-1] >= FALLEN * max(known):
        return ""
    return (
        f"The learning rate had fallen from {max(known):.2g} to {known[-1]:.2g} by then, which flattens the bound"
        " whether or not training had converged."
    )


def window_of(num_epochs: int) -> int:
    """The number of last epochs that are judged: a third of all, but no fewer than ten."""
    return max(FEWEST, num_epochs // 3)


def late_window_of(num_epochs: int) -> int:
    """The number of last epochs over which a rise must go on: a sixth of all, but no fewer than ten."""
    return max(FEWEST, num_epochs // 6)


def _means(values: Array, count: int) -> Array:
    """Means of `count` batches of consecutive values along the last axis: (..., n) -> (..., count)."""
    return np.stack([part.mean(-1) for part in np.array_split(values, count, axis=-1)], -1)


def _slope(values: Array) -> tuple[float, float]:
    """The slope per epoch of a line through the means of batches, and its standard error."""
    times = _means(np.arange(len(values), dtype=np.float64), BATCHES)
    times, means = times - times.mean(), _means(values, BATCHES)
    slope = float(times @ means / (times @ times))
    residuals = means - means.mean() - slope * times
    return slope, math.sqrt(float(residuals @ residuals) / (BATCHES - 2) / float(times @ times))


def _expected_gain(values: Array, num_epochs: int) -> float:
    """The gain of as many epochs again: the mean over fitted curves a + b f(t / T); none of them falls.

    Args:
        values: the bounds of the last epochs.
        num_epochs: the number of all epochs, T.
    """
    times = np.arange(num_epochs - len(values) + 1, num_epochs + 1) / num_epochs  # 1 is the end of the run
    powers, rates, tops = np.geomspace([0.05, 0.3, 0.05], [8.0, 30.0, 8.0], 40).T[..., None]

    def curves(t: Array) -> Array:
        power, exponential = -(t**-powers), -np.exp(-rates * (t - 1))
        return np.concatenate([power, exponential, -np.square(np.maximum(1 - (t - 1) / tops, 0))])

    count = min(POINTS, len(values))
    shapes, means = _means(curves(times), count), _means(values, count)
    shapes, means = shapes - shapes.mean(-1, keepdims=True), means - means.mean()
    scales = shapes @ means / np.square(shapes).sum(-1)
    residuals = np.square(means - scales[:, None] * shapes).sum(-1)
    weights = (residuals / max(float(means @ means), 1e-30) + 1e-9) ** -1.5
    ends = curves(np.array([1.0, 2.0]))
    gains = np.maximum(scales * (ends[:, 1] - ends[:, 0]), 0)
    return float(weights @ gains / weights.sum())
