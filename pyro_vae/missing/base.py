"""What assumptions about missing cells have in common."""

from __future__ import annotations

import copy
from abc import abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor

from pyro_vae.distributions.masked import value_inside
from pyro_vae.nets import MLP, Masked, Recipe
from pyro_vae.parts import Part

__all__ = ["Missing", "default_encoder", "prepare_missing"]


class Missing(Part):
    """Base of the assumptions about why cells are missing.

    Attributes:
        marginal: the mean of each input of the encoder over the observed cells; it stands there for missing cells.
        inside: a value of each cell that is possible under the likelihood: the median of the observed cells. It stands
            where x is missing, and its log-probability does not count.
    """

    marginal: Tensor
    inside: Tensor
    site: ClassVar[str | None] = None  # the latent site whose draws are the missing cells, where there is one

    def prepare(self, likelihood: Any) -> None:
        """Make what depends on the shape of a row; the constructor of a model calls this with its likelihood."""
        self.register_buffer("marginal", torch.zeros(likelihood.feature_shape))
        self.register_buffer("inside", value_inside(likelihood.support, likelihood.event_shape))

    @abstractmethod
    def sample_row(self, distribution: Any, x: Tensor, observed: Tensor, likelihood: Any) -> Tensor:
        """The statements of the model about rows x of which some cells are missing, within the plate of rows.

        Args:
            distribution: p(x | z).
            x: (B, *E); what stands in missing cells is possible under the likelihood and has no meaning.
            observed: which cells are observed, boolean (B, *E).
            likelihood: the likelihood, with the features of a row.
        """

    def sample_guide(self, distribution: Any, observed: Tensor) -> None:
        """The statements of the guide after z, given p(x | z); by default there are none."""

    def start_pattern(self, observed: Tensor) -> None:
        """Set initial values from the pattern of the data, (N, *E); by default there are none."""

    def fill(self, x: Tensor, observed: Tensor) -> Tensor:
        """The rows with values in missing cells that are possible under the likelihood and have no meaning."""
        return torch.where(observed, x, self.inside.to(x))

    def initialize(self, x: Tensor, features: Tensor) -> None:
        """Set the buffers from rows without gaps, (N, *E), and the inputs of the encoder, (N, *feature_shape)."""
        self.inside.copy_(x.median(0).values)
        self.marginal.copy_(features.mean(0))

    def complete(self, x: Tensor, observed: Tensor) -> Tensor:
        """The rows with each gap filled from evenly spaced quantiles of the observed cells of its column.

        The marginal distribution of each column is kept; a model starts from it. A column without an observed cell, as
        the first batch of a loader may have one, gets a value that is possible under the likelihood.
        """
        if observed.all():
            return x
        cells, seen = self.fill(x, observed).reshape(len(x), -1).clone(), observed.reshape(len(x), -1)
        for j in (~seen.all(0)).nonzero().flatten().tolist():
            known = cells[seen[:, j], j].sort().values
            gaps = (~seen[:, j]).nonzero().flatten()
            if not len(known):
                continue
            level = (torch.arange(len(gaps), device=x.device) + 0.5) * len(known) / len(gaps)
            cells[gaps, j] = known[level.long().clamp_max(len(known) - 1)]
        return cells.reshape(x.shape)


def prepare_missing(missing: Any, likelihood: Any) -> Missing | None:
    """A copy of the assumption for a model with this likelihood; None where no cell may be missing.

    Raises:
        TypeError: if it is not an assumption about missing cells.
    """
    if missing is None:
        return None
    if not isinstance(missing, Missing):
        raise TypeError(
            f"missing must be None or an object of pv.missing; got {missing!r}. Pass e.g. pv.missing.AtRandom()."
        )
    prepared = copy.deepcopy(missing)  # of its own: it holds what it learns from the data of this model
    prepared.prepare(likelihood)
    return prepared


def default_encoder(missing: Any) -> Recipe:
    """The recipe of the encoder where none is given."""
    return MLP() if missing is None else Masked()
