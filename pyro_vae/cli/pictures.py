"""The pictures of a run: arrays are computed from the model, drawn by `plots` and written as PNG files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from pyro_vae import plots
from pyro_vae.cli import table_pictures
from pyro_vae.cli.table_pictures import sampled
from pyro_vae.criticism.diagnosis import Diagnosis
from pyro_vae.criticism.latents import principal_components, traverse
from pyro_vae.criticism.latents.conditions import at_random
from pyro_vae.data.batches import Rows
from pyro_vae.datasets import Splits
from pyro_vae.models import VAE
from pyro_vae.training.history import History
from pyro_vae.web.covariates import under

__all__ = ["draws", "interpolation", "latents", "of_report", "of_run", "reconstructions", "sampled", "training"]

MAP_ROWS = 5000  # largest number of points in the scatter plot of the latents
NUM_DRAWS, NUM_RECONSTRUCTIONS, NUM_PAIRS = 64, 16, 5
NUM_TRAVERSED = 10  # latents in the traversal: those whose posterior means vary most


def of_run(folder: Path, vae: VAE, splits: Splits, history: History, *, seed: int) -> list[Path]:
    """Write all pictures of a run, of rows that were not trained on, but of a table of all rows; returns the files."""
    rows = splits.test
    if splits.table is not None:
        files = [training(folder / "training.png", history)]
        files += table_pictures.of_run(folder, vae, splits.table, seed=seed)
        return [*files, latents(folder / "latents.png", vae, rows)]
    shown = rows.subset(slice(0, NUM_RECONSTRUCTIONS))
    files = [training(folder / "training.png", history)]
    files.append(reconstructions(folder / "reconstructions.png", vae, shown, seed=seed))
    given = at_random(vae, rows, NUM_DRAWS, seed)
    about = under(vae, "test rows chosen at random")
    for mean, name in ((True, "means"), (False, "draws")):
        x = vae.sample(NUM_DRAWS, mean=mean, seed=seed, fields=given)  # one seed: the latents are the same for both
        files.append(draws(folder / f"prior_{name}.png", vae, x, mean=mean, about=about))
    files.append(interpolation(folder / "interpolation.png", vae, rows))
    files.append(latents(folder / "latents.png", vae, rows))
    return files


def training(file: Path, history: History) -> Path:
    """The training curve."""
    return _write(file, lambda ax: plots.training_curve(history, ax=ax), "Bound on training and validation rows")


def reconstructions(file: Path, vae: VAE, rows: Rows, *, seed: int) -> Path:
    """Rows above their reconstructions, the decoder means at the posterior means of the latents."""
    x, means = rows.take(slice(None), like=vae.like)["x"], vae.reconstruct(rows, seed=seed)
    limits = _limits(vae, x)
    title = "Test rows (data) and their reconstructions (model)"
    return _write(file, lambda ax: plots.reconstructions(x, means, **limits, ax=ax), title, size=(9.0, 3.0))


def draws(file: Path, vae: VAE, x: Tensor, *, mean: bool, about: str = "") -> Path:
    """Rows drawn from the prior predictive, or decoder means at draws from the prior; `about` ends the title."""
    title = f"Decoder means at {len(x)} draws from the prior" if mean else f"{len(x)} draws from the prior predictive"
    return _write(file, lambda ax: plots.images(x, **_limits(vae, x), ax=ax), f"{title}{about}")


def interpolation(
    file: Path,
    vae: VAE,
    rows: Rows,
    pairs: list[tuple[int, int]] | None = None,
    *,
    steps: int = 9,
    path: str = "linear",
) -> Path:
    """Decoder means along paths between the latents of pairs of rows; by default between a few of the first rows."""
    if pairs is None:
        num_pairs = max(1, min(NUM_PAIRS, len(rows) // 2))
        pairs = [(i, (i + num_pairs) % len(rows)) for i in range(num_pairs)]
    x0, x1 = (rows.subset([pair[end] for pair in pairs]) for end in (0, 1))
    means = vae.interpolate(x0, x1, steps=steps, path=path)
    limits = _limits(vae, means.flatten(0, 1))
    title = f"Decoder means between test rows, {path} path in latent space{under(vae, 'the first one')}"
    return _write(file, lambda ax: plots.interpolation(means, **limits, ax=ax), title)


def latents(file: Path, vae: VAE, rows: Rows) -> Path:
    """Posterior means of the rows: two latents, or two principal components of more; one latent's mean and scale."""
    rows = rows.subset(slice(0, MAP_ROWS))
    points, names = _plane(vae, rows)
    label = rows.fields.get("label")
    label = label if label is not None and label.dim() == 1 else None
    title = f"Posterior means of {len(rows):,} test rows, {vae.prior.latent_dim} latents"
    return _write(file, lambda ax: plots.latent_map(points, label, names=names, ax=ax), title)


def of_report(folder: Path, vae: VAE, rows: Rows, found: Diagnosis) -> list[Path]:
    """Write the pictures of a diagnosis; returns the files."""
    seen = rows.subset(slice(0, found.num_rows))
    score = found.log_likelihood
    points, names = _plane(vae, seen)
    drawn: dict[str, tuple[Callable[[Axes], Any], str]] = {
        "khat": (lambda ax: score.plot(ax), "Reliability of log p(x): Pareto k-hat of each row"),
        "khat_map": (
            lambda ax: plots.khat_map(
                points, score.khat, float(score.threshold), names, ax=ax, flagged=score.unreliable
            ),
            "Where the guide fits badly: Pareto k-hat at the posterior means",
        ),
    }
    for site in found.use.sites.values() if found.use is not None else ():
        if site.kl_per_dimension is not None:
            drawn["kl"] = (lambda ax, site=site: site.plot(ax), "KL of each latent")  # type: ignore[misc]
    if found.calibration is not None:
        sbc = found.calibration
        drawn["ranks"] = (lambda ax: sbc.plot(ax), "Simulation-based calibration of the guide")
        drawn["guide_coverage"] = (lambda ax: sbc.plot_coverage(ax), "Intervals of the guide on simulated rows")
    files = []
    if found.checks is not None:
        pit = found.checks.pit
        drawn["pit"] = (lambda ax: pit.plot(ax), "PIT values of all cells under the prior predictive")
        drawn["coverage"] = (lambda ax: pit.plot_coverage(ax=ax), "Coverage of predictive intervals of a cell")
        statistics = list(found.checks.statistics.values())
        height = -(-len(statistics) // 3)  # lines of three panels
        figure = Figure(figsize=(16.8, 3.6 * height), layout="constrained")
        panels = [figure.add_subplot(height, 3, place) for place in range(1, len(statistics) + 1)]
        for ax, one in zip(panels, statistics, strict=True):
            one.plot(ax=ax)
        files.append(folder / "statistics.png")
        figure.savefig(files[-1], dpi=100, metadata={"Title": "Predictive checks"})
    if vae.table_schema is None:
        drawn["traversal"] = _traversal(vae, seen, found)
    return files + [_write(folder / f"{name}.png", draw, title) for name, (draw, title) in drawn.items()]


def _traversal(vae: VAE, rows: Rows, found: Diagnosis) -> tuple[Callable[[Axes], Any], str]:
    """Decoder means along single latents, as a picture and its title. Means of a table's levels would mean nothing."""
    use = None if found.use is None else next(iter(found.use.sites.values()))
    dims = [0] if use is None else use.mean_variance.argsort(descending=True)[:NUM_TRAVERSED].tolist()
    path = traverse(vae, rows.subset(slice(0, 1)), dims=dims)
    limits = _limits(vae, path.flatten(0, 1))

    def traversal(ax: Axes) -> Axes:
        plots.interpolation(path, **limits, ax=ax)
        ax.set_xticks(ax.get_xticks(), ["-3", "3"])
        ax.set_yticks([line + 0.5 for line in range(len(dims))], [f"z{dim}" for dim in dims])
        return ax

    about = "Decoder means as one latent moves from -3 to 3, the others as in the first test row"
    return traversal, f"{about}{under(vae, 'that row')}"


def _plane(vae: VAE, rows: Rows) -> tuple[Tensor, tuple[str, str]]:
    """Two coordinates of each row for a scatter plot, (B, 2), and the names of the axes."""
    posterior = vae.encode(rows)
    z, names = posterior.mean, ("z0", "z1")
    if z.shape[1] == 1:
        points, names = torch.cat([z, posterior.stddev], 1), ("mean of z", "scale of z")
    elif z.shape[1] == 2 or len(z) < 2:
        points = z[:, :2]
    else:
        points = principal_components(z)
        share = points.var(0) / z.var(0).sum()
        first, second = (f"principal component {i + 1} ({share[i]:.0%} of the variance)" for i in (0, 1))
        names = (first, second)
    return points, names


def _write(file: Path, plot: Callable[[Axes], Axes], title: str, size: tuple[float, float] = (6.4, 5.2)) -> Path:
    """Plot into a new figure and write it. The figure is not registered with pyplot, so that no display is needed."""
    figure = Figure(figsize=size)
    plot(figure.subplots()).set_title(title, color=plots.INK, fontsize="medium")
    figure.savefig(file, dpi=150, bbox_inches="tight", metadata={"Title": title})
    return file


def _limits(vae: VAE, x: Tensor) -> dict[str, Any]:
    """The ends of the grey scale: of discrete data all possible values, of real data the range of x.

    The range is taken over all cells of images, and cell by cell of vectors, whose cells may have different units.
    """
    if vae.likelihood.discrete:
        return {"vmin": 0, "vmax": getattr(vae.likelihood, "total_count", 1)}
    if x.dim() == 4:
        return {"vmin": x.min(), "vmax": x.max()}
    return {"vmin": x.amin(0), "vmax": x.amax(0)}
