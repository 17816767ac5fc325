"""Cells that are missing at random."""

from __future__ import annotations

from typing import Any

import pyro
from torch import Tensor

from pyro_vae.distributions.masked import masked
from pyro_vae.missing.base import Missing

__all__ = ["AtRandom"]


class AtRandom(Missing):
    """Missing at random: given the observed cells, whether a cell is missing does not depend on its value.

    The likelihood of a row is then that of its observed cells, log p(x_observed | z), cell by cell, and the reason why
    others are missing can be left out of the model. The assumption cannot be tested with the data at hand; see
    `pv.missing.sensitivity` for what depends on it.

    References:
        *MIWAE: Deep Generative Modelling and Imputation of Incomplete Data Sets* (Mattei, Frellsen, 2019), arXiv
        1812.02633; *Inference and Missing Data* (Rubin, 1976), Biometrika 63(3)
    """

    def sample_row(self, distribution: Any, x: Tensor, observed: Tensor, likelihood: Any) -> Tensor:
        return pyro.sample("x", masked(distribution, observed), obs=x)
