"""The pictures of a run: arrays from the model, figures from `plots`, PNG files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from pyro_vae import plots
from pyro_vae.batches import Rows
from pyro_vae.latents import principal_components
from pyro_vae.history import History
from pyro_vae.vae import VAE

__all__ = ["draws", "interpolation", "latents", "of_run", "reconstructions", "training"]

MAP_ROWS = 5000  # points on the map of the latents
NUM_DRAWS, NUM_RECONSTRUCTIONS, NUM_PAIRS = 64, 16, 5


def of_run(folder: Path, vae: VAE, rows: Rows, history: History, *, seed: int) -> None:
    """Write all the pictures of a run; `rows` are those that training has not seen."""
    training(folder / "training.png", history)
    reconstructions(folder / "reconstructions.png", vae, rows.subset(slice(0, NUM_RECONSTRUCTIONS)), seed=seed)
    for mean, name in ((True, "means"), (False, "draws")):
        x = vae.sample(NUM_DRAWS, mean=mean, seed=seed)  # the same latents for both
        draws(folder / f"prior_{name}.png", vae, x, mean=mean)
    interpolation(folder / "interpolation.png", vae, rows)
    latents(folder / "latents.png", vae, rows)


def training(file: Path, history: History) -> Path:
    """The training curve."""
    return _write(file, lambda ax: plots.training_curve(history, ax=ax), "Bound on training and validation rows")


def reconstructions(file: Path, vae: VAE, rows: Rows, *, seed: int) -> Path:
    """Rows, and the decoder's means at the means of their latents."""
    x, means = rows.take(slice(None), like=vae.like)["x"], vae.reconstruct(rows, seed=seed)
    limits = _limits(vae, x)
    title = "Test rows (data) and their reconstructions (model)"
    return _write(file, lambda ax: plots.reconstructions(x, means, **limits, ax=ax), title, size=(9.0, 3.0))


def draws(file: Path, vae: VAE, x: Tensor, *, mean: bool) -> Path:
    """Rows drawn from the model, or their means."""
    title = f"Decoder means at {len(x)} draws from the prior" if mean else f"{len(x)} draws from the prior predictive"
    return _write(file, lambda ax: plots.images(x, **_limits(vae, x), ax=ax), title)


def interpolation(
    file: Path,
    vae: VAE,
    rows: Rows,
    pairs: list[tuple[int, int]] | None = None,
    *,
    steps: int = 9,
    path: str = "linear",
) -> Path:
    """The decoder's means along paths between the latents of pairs of rows; of the first few without `pairs`."""
    if pairs is None:
        count = max(1, min(NUM_PAIRS, len(rows) // 2))
        pairs = [(i, (i + count) % len(rows)) for i in range(count)]
    x0, x1 = (rows.subset([pair[end] for pair in pairs]) for end in (0, 1))
    means = vae.interpolate(x0, x1, steps=steps, path=path)
    limits = _limits(vae, means.flatten(0, 1))
    title = f"Means between test rows, {path} path of the latents"
    return _write(file, lambda ax: plots.interpolation(means, **limits, ax=ax), title)


def latents(file: Path, vae: VAE, rows: Rows) -> Path:
    """The guide's means: both latents, or two principal components of more; mean and scale of a single one."""
    rows = rows.subset(slice(0, MAP_ROWS))
    posterior = vae.encode(rows)
    z, names = posterior.mean, ("z1", "z2")
    if z.shape[1] == 1:
        points, names = torch.cat([z, posterior.stddev], 1), ("mean of z", "scale of z")
    elif z.shape[1] == 2 or len(z) < 2:
        points = z[:, :2]
    else:
        points = principal_components(z)
        share = points.var(0) / z.var(0).sum()
        first, second = (f"principal component {i + 1} ({share[i]:.0%} of the variance)" for i in (0, 1))
        names = (first, second)
    label = rows.fields.get("label")
    label = label if label is not None and label.dim() == 1 else None
    title = f"Posterior means of {len(rows):,} test rows, {z.shape[1]} latents"
    return _write(file, lambda ax: plots.latent_map(points, label, names=names, ax=ax), title)


def _write(file: Path, plot: Callable[[Axes], Axes], title: str, size: tuple[float, float] = (6.4, 5.2)) -> Path:
    """Draw into a figure of its own, which pyplot does not know of, and write it (by Agg, no display needed)."""
    figure = Figure(figsize=size)
    plot(figure.subplots()).set_title(title, color=plots.INK, fontsize="medium")
    figure.savefig(file, dpi=150, bbox_inches="tight", metadata={"Title": title})
    return file


def _limits(vae: VAE, x: Tensor) -> dict[str, Any]:
    """The ends of the scale: the values possible; of real data the values seen, cell by cell where it is no image."""
    if vae.likelihood.discrete:
        return {"vmin": 0, "vmax": getattr(vae.likelihood, "total_count", 1)}
    if x.dim() == 4:
        return {"vmin": x.min(), "vmax": x.max()}
    return {"vmin": x.amin(0), "vmax": x.amax(0)}
