"""Cells that are missing because of their value, by a mechanism that is part of the model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyro
import torch
from torch import Tensor

from pyro_vae import distributions
from pyro_vae.distributions.masked import masked
from pyro_vae.missing.base import Missing
from pyro_vae.missing.mechanisms import FromFunction, Mechanism, SelfMasking

__all__ = ["NotAtRandom"]


class NotAtRandom(Missing):
    """Missing not at random: which cells are observed depends on the values of the missing ones, by a mechanism.

    The model has two more sites: the missing cells are latent, "x_missing", drawn from the decoder by model and guide
    alike, and the pattern is observed, "observed", given the complete row. `log_likelihood` is then that of the
    observed cells *and* of the pattern. Data say little about the mechanism without assumptions: state what is known
    about it.

    Args:
        mechanism: p(observed | x): an object of `pv.missing`, or a function (or module) from complete rows to logits of
            being observed. `SelfMasking()` by default.

    Raises:
        TypeError: if the mechanism is none of these.

    References:
        *not-MIWAE: Deep Generative Modelling with Missing not at Random Data* (Ipsen, Mattei, Frellsen, 2020), arXiv
        2006.12871
    """

    site = "x_missing"

    def __init__(self, mechanism: Mechanism | Callable[[Tensor], Tensor] | None = None) -> None:
        super().__init__()
        if mechanism is not None and not isinstance(mechanism, Mechanism):
            if isinstance(mechanism, type) or not callable(mechanism):
                raise TypeError(
                    f"mechanism must be an object of pv.missing or a function of complete rows; got {mechanism!r}. Pass"
                    " e.g. pv.missing.SelfMasking(known_sign=1)."
                )
            mechanism = FromFunction(mechanism)
        self.mechanism = SelfMasking() if mechanism is None else mechanism

    def prepare(self, likelihood: Any) -> None:
        super().prepare(likelihood)
        self.mechanism.prepare(likelihood)

    def start_pattern(self, observed: Tensor) -> None:
        self.mechanism.initialize(observed)

    def sample_guide(self, distribution: Any, observed: Tensor) -> None:
        pyro.sample(self.site, masked(distribution, ~observed))

    def sample_row(self, distribution: Any, x: Tensor, observed: Tensor, likelihood: Any) -> Tensor:
        missing = pyro.sample(self.site, masked(distribution, ~observed))
        complete = torch.where(observed, x, missing)
        pyro.sample("x", masked(distribution, observed), obs=x)
        pattern = distributions.Bernoulli(logits=self.mechanism(complete, likelihood))
        pyro.sample("observed", pattern.to_event(len(likelihood.event_shape)), obs=observed.to(x))
        return complete
