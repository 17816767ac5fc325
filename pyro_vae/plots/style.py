"""Colours, axes and checks of arrays that all figures share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.legend import Legend
from numpy.typing import ArrayLike
from torch import Tensor

from pyro_vae.data.tensors import as_tensor

Array = ArrayLike | Tensor

INK, FAINT, GREY = "#20262c", "#dfe3e6", "#94a4a2"
TRAIN, VALID = "#0072b2", "#d55e00"  # of Okabe and Ito's palette: distinct with any colour vision
# Petroff's ten colours, arXiv 2107.02270; labels 11 to 20 repeat them with the second marker.
COLORS = (
    *("#3f90da", "#ffa90e", "#bd1f01", "#94a4a2", "#832db6"),
    *("#a96b59", "#e76300", "#b9ac70", "#717581", "#92dadd"),
)
MARKERS = ("o", "^")
BAND: dict[str, Any] = {"color": TRAIN, "alpha": 0.15, "linewidth": 0}
GUIDE: dict[str, Any] = {"color": INK, "linewidth": 1, "linestyle": "--"}  # a reference line


def axes(ax: Axes | None, size: tuple[float, float]) -> Axes:
    """The axes given, or those of a new figure of this size in inches."""
    if ax is not None and not isinstance(ax, Axes):
        raise TypeError(f"ax must be matplotlib axes; got {ax!r}. Leave it out for a new figure.")
    return ax if ax is not None else plt.subplots(figsize=size, layout="constrained")[1]


def grid(count: int, columns: int = 3) -> np.ndarray:
    """Axes of one new figure, in a flat array.

    Args:
        count: number of axes.
        columns: largest number of axes side by side.
    """
    lines, columns = -(-count // columns), min(count, columns)
    size = 5.6 * columns, 3.6 * lines
    axes = plt.subplots(lines, columns, figsize=size, squeeze=False, layout="constrained")[1].flatten()
    for ax in axes[count:]:
        ax.remove()
    return axes[:count]


def plain(ax: Axes, xlabel: str, ylabel: str) -> Axes:
    """Set the labels of the axes, draw a faint grid and remove the box."""
    ax.set_xlabel(xlabel, color=INK)
    ax.set_ylabel(ylabel, color=INK)
    ax.grid(color=FAINT, linewidth=0.6)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def legend_beside(ax: Axes, **options: Any) -> Legend:
    """A legend to the right of the axes, where it hides nothing; inside them if other axes share the figure."""
    if len([other for other in ax.figure.axes if other.get_label() != "<colorbar>"]) > 1:
        look: dict[str, Any] = {"facecolor": "white", "framealpha": 0.8, "edgecolor": "none"}  # readable over bars
        return ax.legend(fontsize="small", alignment="left", **look, **options)
    return ax.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5), alignment="left", **options)


def array(what: str, values: Array) -> np.ndarray:
    """The values as a NumPy array; `what` is their name in error messages."""
    return as_tensor(values, what).cpu().numpy()  # type: ignore[no-any-return]


def nonempty(what: str, values: Array) -> np.ndarray:
    """The values as an array with at least one row."""
    found = array(what, values)
    if found.ndim == 0 or found.size == 0:
        raise ValueError(f"{what} must be at least one row; got shape {found.shape}. Pass rows of data.")
    return found


def shaped(what: str, values: Array, shape: tuple[int | str, ...], advice: str) -> np.ndarray:
    """The values as floats of this shape, in which a letter stands for any size of at least 1."""
    numbers = array(what, values)
    sizes = zip(numbers.shape, shape, strict=False)
    fits = all(size > 0 and (isinstance(wanted, str) or size == wanted) for size, wanted in sizes)
    if numbers.ndim != len(shape) or not fits:
        wanted = ", ".join(map(str, shape)) + ("," if len(shape) == 1 else "")
        raise ValueError(f"{what} must have shape ({wanted}), not empty; got {numbers.shape}. {advice}")
    return numbers.astype(float)


def within(what: str, values: np.ndarray, low: float, high: float, advice: str) -> np.ndarray:
    """The values, all of which must lie in [low, high]."""
    wrong = np.atleast_1d(values[~((values >= low) & (values <= high))])
    if len(wrong):
        raise ValueError(f"{what} must lie in [{low:g}, {high:g}]; got {wrong[0]:g}. {advice}")
    return values


def named(what: str, names: Sequence[str] | None, count: int, default: str = "") -> list[str]:
    """The names, which must be `count` in number; `default` followed by 0, 1, ... if there are none."""
    if names is None:
        return [f"{default}{i}" for i in range(count)]
    if not isinstance(names, Sequence) or isinstance(names, str | bytes):
        raise TypeError(f"{what} must be a sequence of names; got {names!r}. Give one for each.")
    if len(names) != count:
        raise ValueError(f"{what} must have length {count}; got {len(names)} names. Give one for each.")
    return [str(name) for name in names]
