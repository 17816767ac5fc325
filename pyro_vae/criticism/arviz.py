"""Draws of latents and data by group, as plain dictionaries or for ArviZ."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_vae import predictive
from pyro_vae.arguments import positive_integer
from pyro_vae.data.batches import Rows
from pyro_vae.data.rows import with_gaps
from pyro_vae.evaluation.likelihood import log_likelihood
from pyro_vae.inference.chunks import chunk_weights, fields_of, row_chunks
from pyro_vae.inference.pair import ProgramPair
from pyro_vae.model import LatentVariableModel, check_model
from pyro_vae.runtime.display import Shown
from pyro_vae.runtime.isolation import evaluating

__all__ = ["Draws", "draws"]


@dataclass(frozen=True, repr=False)
class Draws(Shown):
    """Draws of latents and data for given rows, by group and site.

    Attributes:
        groups: tensors by group and site. "posterior", "posterior_predictive", "prior" and "prior_predictive" hold
            draws (S, N, ...); "log_likelihood" holds log p(x) with the latents integrated out, (N,); "observed_data"
            holds the values at the data sites, (N, *E). A global latent has no dimension of rows; with one,
            "log_likelihood" is one number.
        columns: names of the cells of a row; None if they have no names.
        index: names of the rows; None if they have no names.
        attributes: the numbers of draws, and the number of rows with k-hat above the threshold.
        in_rows: for each site, whether it has a dimension of rows.
    """

    groups: dict[str, dict[str, Tensor]]
    columns: list[str] | None
    index: list[Any] | None
    attributes: dict[str, Any]
    in_rows: dict[str, bool] = field(default_factory=dict)

    def __str__(self) -> str:
        return "\n".join(
            f"{group}: " + ", ".join(f"{name} {tuple(value.shape)}" for name, value in sites.items())
            for group, sites in self.groups.items()
        )

    def to_dict(self) -> dict[str, dict[str, np.ndarray]]:
        """NumPy arrays by group and site."""
        return {
            group: {name: value.cpu().numpy() for name, value in sites.items()} for group, sites in self.groups.items()
        }

    def to_datatree(self) -> Any:
        """An `xarray.DataTree` in ArviZ's schema (needs xarray); dimensions are chain, draw, row and those of the site.

        The group log_likelihood holds log p(x) with the latents integrated out. It is the same in every draw, since
        parameters do not vary, and its sum is the log predictive density of these rows. `arviz.loo` returns it before
        version 1.0 of ArviZ, which refuses draws that do not vary. The Pareto k that it prints is that of constant
        draws and means nothing; use `log_likelihood(x).khat`.

        Raises:
            ImportError: if xarray is not installed.
        """
        try:
            import xarray
        except ImportError as error:
            raise ImportError(
                "xarray must be installed for to_datatree; got none. Run pip install 'pyro-vae[arviz]'."
            ) from error
        tree = {}
        for group, sites in self.groups.items():
            variables = {name: self._variable(group, name, value) for name, value in sites.items()}
            dims = {dim for names, _ in variables.values() for dim in names}
            coords: dict[str, Any] = {}
            if "row" in dims and self.index is not None:
                coords["row"] = self.index
            if "column" in dims and self.columns is not None:
                coords["column"] = self.columns
            for names, value in variables.values():
                for dim, size in zip(names, value.shape, strict=True):
                    coords.setdefault(dim, np.arange(size))
            tree[f"/{group}"] = xarray.Dataset(variables, coords, attrs=self.attributes)
        return xarray.DataTree.from_dict(tree)

    def _variable(self, group: str, name: str, value: Tensor) -> tuple[list[str], np.ndarray]:
        """Names of the dimensions of one site, and its values."""
        array = value.cpu().numpy()
        if group == "log_likelihood":
            array = np.broadcast_to(array, (self.attributes["num_samples"], *array.shape))
        lead = [] if group == "observed_data" else ["chain", "draw"]
        array = array if group == "observed_data" else array[None]
        rows = ["row"] if self.in_rows.get(name, True) and array.ndim > len(lead) else []
        rest = array.ndim - len(lead) - len(rows)
        is_data = group in ("posterior_predictive", "prior_predictive", "observed_data")
        named = is_data and rest == 1 and self.columns is not None and array.shape[-1] == len(self.columns)
        return [*lead, *rows, *(["column"] if named else [f"{name}_dim_{i}" for i in range(rest)])], array


def draws(
    model: LatentVariableModel,
    x: Any,
    *,
    num_samples: int = 100,
    num_candidates: int | None = None,
    num_particles: int = 1000,
    seed: int | None = None,
    **fields: Any,
) -> Draws:
    """Draw latents and data for the rows of x, from posterior and prior, and add the log-likelihood and the rows.

    Args:
        model: the fitted model.
        x: rows (N, *E), in any form that `fit` takes.
        num_samples: S, draws in each group.
        num_candidates: as in `posterior_predictive`.
        num_particles: draws per row for the log-likelihood.
        seed: seed of the draws.
        **fields: named per-row fields, as in `elbo`.

    References:
        *ArviZ: a unified library for exploratory analysis of Bayesian models* (Kumar et al., 2019), JOSS 4(33)

    Example:
        >>> import pyro_vae as pv
        >>> vae = pv.VAE(likelihood=pv.likelihoods.Bernoulli(3), prior=pv.priors.Normal(2), seed=0)
        >>> found = pv.draws(vae, torch.ones(4, 3), num_samples=5, num_particles=10, seed=0)
        >>> found.groups["posterior"]["z"].shape, found.groups["prior_predictive"]["x"].shape
        (torch.Size([5, 4, 2]), torch.Size([5, 4, 3]))
    """
    positive_integer("num_samples", num_samples)
    rows, names = check_model(model).read_rows(x, fields)
    with evaluating(model, seed=seed):
        rows = rows.drawn(model.like)
        batch = rows.take(slice(None), names, like=model.like)
        simulated = [predictive.simulate(model, len(rows), **fields_of(batch)) for _ in range(num_samples)]
        prior = {name: torch.stack([one[name] for one in simulated]) for name in simulated[0]}
        latents = predictive.posterior_draws(
            model, rows, num_samples=num_samples, num_candidates=num_candidates, fields=names
        )
        latents = {name: value.reshape(prior[name].shape) for name, value in latents.items() if name in prior}
        replicated = [_by_site(model, one) for one in predictive.replicates(model, rows, latents, names)]
        predicted = {name: torch.stack([one[name] for one in replicated]) for name in replicated[0]}
        observed, in_rows = _observed(model, rows, names)
        score = log_likelihood(model, rows, num_particles=num_particles, fields=names)
    data = list(model.data_sites)
    site = data[0] if len(data) == 1 else "x"
    return Draws(
        groups={
            "posterior": latents,
            "posterior_predictive": predicted,
            "prior": {name: value for name, value in prior.items() if name not in data},
            "prior_predictive": {name: prior[name] for name in data},
            "log_likelihood": {site: score.estimate.squeeze(0) if score.joint else score.estimate},
            "observed_data": observed,
        },
        columns=rows.columns,
        index=rows.index,
        attributes={
            "inference_library": "pyro_vae",
            "num_samples": num_samples,
            "num_particles": num_particles,
            "unreliable_rows": int(score.unreliable.sum()),
        },
        in_rows=in_rows,
    )


def _by_site(model: ProgramPair, values: Any) -> dict[str, Tensor]:
    return values if isinstance(values, dict) else {model.data_sites[0]: values}


def _observed(model: ProgramPair, rows: Rows, fields: tuple[str, ...]) -> tuple[dict[str, Tensor], dict[str, bool]]:
    """The values at the data sites, and whether each site of the model has a dimension of rows."""
    parts = []
    for batch in row_chunks(model, rows, 1, fields):
        record = chunk_weights(model, batch, 1)
        values = {name: record.observed[name].value.squeeze(0) for name in model.data_sites}
        parts.append({name: with_gaps(x, batch) if x.shape == batch["x"].shape else x for name, x in values.items()})
        in_rows = {name: site.in_rows for name, site in [*record.latent.items(), *record.observed.items()]}
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}, in_rows
