"""What a page shows of the latents: a plane with the rows in it, intervals of the posterior, and traversals."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from pyro.distributions import constraints
from torch import Tensor

from pyro_vae import priors
from pyro_vae.criticism.latents import principal_components
from pyro_vae.criticism.latents.conditions import repeated
from pyro_vae.data.rows import Rows
from pyro_vae.fields import OBSERVED
from pyro_vae.models import VAE
from pyro_vae.parts import support_name
from pyro_vae.runtime.isolation import evaluating
from pyro_vae.runtime.random import seeded
from pyro_vae.web.views import View, mean_of

__all__ = [
    "Plane",
    "Traversal",
    "check_real_latents",
    "labels_of",
    "plane_of",
    "posterior",
    "prior_moments",
    "traverse",
]

NUM_DRAWS = 1000  # of the prior, for its moments; and of the posterior, for its intervals
LEVELS = (0.05, 0.95)  # of the ends of the intervals
SPAN = 3.0  # standard deviations of the prior that a latent moves either way


def check_real_latents(vae: VAE, what: str) -> None:
    """Raise a NotImplementedError unless latents are one vector of real numbers, and no field but covariates is read.

    Args:
        vae: the model.
        what: the name of what needs it, with which the message begins.
    """
    used = vae.schema.fields or ()
    known = (OBSERVED, *(() if vae.covariates is None else vae.covariates.names))
    fields = [name for name, one in vae.fields.items() if name not in known and (one.required or name in used)]
    if fields:
        raise NotImplementedError(
            f"{what} must be of a model that reads no field of a row but covariates; got one that reads"
            f" {', '.join(fields)}."
            " Use `vae.encode` and `vae.decode` from Python."
        )
    support = support_name(vae.family.support)
    if support != support_name(constraints.real):
        raise NotImplementedError(
            f"{what} must be of a model whose latents are real numbers; got latents in {support}. Use `vae.encode` and"
            " `vae.decode` from Python."
        )


@dataclass(frozen=True)
class Plane:
    """A plane in which latents are drawn.

    Attributes:
        points: the posterior means of the rows, (N, 2).
        names: the names of both axes.
        about: what the axes are, in words.
        centre: the point of the latent space that lies at the origin of the plane, (D,).
        directions: the axes as directions in the latent space, (D, 2).
    """

    points: Tensor
    names: tuple[str, str]
    about: str
    centre: Tensor
    directions: Tensor

    def project(self, z: Tensor) -> Tensor:
        """Latents (M, D) in the plane, (M, 2)."""
        return (z.double() - self.centre) @ self.directions


def plane_of(means: Tensor) -> Plane:
    """The plane of posterior means (N, D): two latents themselves, or the first two principal components of more.

    One latent is drawn along the horizontal axis, with zero along the other.
    """
    z = means.detach().double().cpu()
    size = z.shape[1]
    if size == 1:
        points = torch.cat([z, torch.zeros_like(z)], 1)
        return Plane(points, ("z0", ""), "The only latent.", torch.zeros(1).double(), torch.eye(1, 2).double())
    if size == 2 or len(z) < 3:
        about = "The two latents." if size == 2 else "The first two latents."
        return Plane(z[:, :2], ("z0", "z1"), about, torch.zeros(size).double(), torch.eye(size, 2).double())
    points, centre = principal_components(z), z.mean(0)
    # the columns of points are orthogonal, so each direction is found by itself
    squares = points.square().sum(0)
    directions = (z - centre).T @ points / torch.where(squares > 0, squares, 1.0)
    share = points.var(0) / z.var(0).sum().clamp_min(1e-300)
    first, second = (f"component {i + 1} ({share[i]:.0%})" for i in (0, 1))
    about = f"The first two principal components of the means of {size} latents, with their shares of the variance."
    return Plane(points, (first, second), about, centre, directions)


def posterior(vae: VAE, rows: Rows, num_draws: int = NUM_DRAWS) -> tuple[Tensor, Tensor]:
    """The posterior means of rows, (N, D), and draws of their latents, (S, N, D), from a stream with seed 0."""
    q: Any = vae.encode(rows, seed=0)
    with seeded(0), torch.no_grad():
        draws = q.sample((num_draws,)).double().cpu()
        return mean_of(q).detach().double().cpu(), draws


def prior_moments(vae: VAE, fields: dict[str, Tensor] | None = None) -> tuple[Tensor, Tensor]:
    """The mean and the standard deviation of each latent under the prior, (D,): by draws unless it is normal.

    Args:
        vae: the model.
        fields: the covariates of rows, (N, ...) each: the moments are those of all N rows together.
    """
    fields = fields or {}
    if isinstance(vae.prior, priors.Normal):
        with evaluating(vae), torch.no_grad():
            p: Any = vae.prior_of(fields)
        means, variances = (
            part.detach().double().cpu().reshape(-1, vae.prior.latent_dim) for part in (p.mean, p.variance)
        )
        return means.mean(0), (variances.mean(0) + means.var(0, correction=0)).sqrt()
    rows = max((len(value) for value in fields.values()), default=1)
    place = torch.arange(NUM_DRAWS) % rows
    z = vae.simulate(NUM_DRAWS, seed=0, **{name: value[place] for name, value in fields.items()})["z"].double().cpu()
    return z.mean(0), z.std(0)


def labels_of(rows: Rows) -> np.ndarray | None:
    """The labels of rows, (N,), where these have a field of that name with one number each."""
    label = rows.fields.get("label")
    return None if label is None or label.dim() != 1 else label.cpu().numpy()


@dataclass(frozen=True)
class Traversal:
    """E[x | z] as one latent moves and the others stay.

    Attributes:
        dims: numbers of the latents, most variable posterior means first.
        steps: places of the latent in standard deviations of the prior from its mean, (S,).
        values: the values of the latent at these places, one list for each latent.
        shown: what is shown, by latent and place.
    """

    dims: list[int]
    steps: list[float]
    values: list[list[float]]
    shown: list[list[Any]]


def traverse(
    vae: VAE,
    view: View,
    start: Tensor,
    spread: Tensor,
    *,
    budget: int,
    most: int = 10,
    fields: dict[str, Tensor] | None = None,
) -> Traversal:
    """E[x | z] along single latents, from -3 to 3 standard deviations of the prior around its mean.

    Args:
        vae: the model.
        view: how rows are shown.
        start: the latents that the others keep, (D,).
        spread: the variance of the posterior means of each latent, (D,), by which they are ordered.
        budget: largest number of characters of all that is shown; there are fewer places and latents if need be.
        most: largest number of latents.
        fields: the covariates of the row, (1, ...) each, that all places keep.
    """
    mean, scale = prior_moments(vae, fields)
    order = spread.argsort(descending=True, stable=True).tolist()
    for num_steps, num_dims in ((25, most), (13, most), (13, 5), (7, 5), (7, 2)):
        dims = order[:num_dims]
        steps = torch.linspace(-SPAN, SPAN, num_steps, dtype=torch.float64)
        codes = start.double().expand(len(dims), num_steps, -1).clone()
        for line, dim in enumerate(dims):
            codes[line, :, dim] = mean[dim] + steps * scale[dim]
        places = codes.flatten(0, 1)
        shown = view.show_means(vae.decode(places, **repeated(fields or {}, len(places))))
        if sum(len(str(one)) for one in shown) <= budget:
            break
    lines = [shown[i : i + num_steps] for i in range(0, len(shown), num_steps)]
    values = [[float(f"{v:.3g}") for v in codes[line, :, dim].tolist()] for line, dim in enumerate(dims)]
    return Traversal(dims, [round(step, 4) for step in steps.tolist()], values, lines)
