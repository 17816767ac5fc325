"""Mechanisms: the probability that a cell is observed, given the complete row."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from pyro_vae.parts import Part

__all__ = ["FromFunction", "Logistic", "Mechanism", "SelfMasking"]

SLOPE = math.log(math.expm1(1.0))  # where softplus is 1


class Mechanism(Part):
    """Base of the mechanisms: `forward` maps complete rows to logits of being observed, one for each cell.

    Attributes:
        intercept: the logit of the share of observed cells, from the data, to which the mechanism adds.
    """

    intercept: Tensor

    def prepare(self, likelihood: Any) -> None:
        """Make parameters whose shapes depend on the row; the constructor of a model calls this."""
        self.register_buffer("intercept", torch.zeros(likelihood.event_shape))

    def initialize(self, observed: Tensor) -> None:
        """Set the intercept from the pattern of the data, (N, *E)."""
        self.intercept.copy_(((observed.sum(0) + 0.5) / (len(observed) + 1)).logit())

    @abstractmethod
    def forward(self, x: Tensor, likelihood: Any) -> Tensor:
        """Logits of being observed, (..., *E), for complete rows x, (..., *E)."""


class SelfMasking(Mechanism):
    """Whether a cell is missing depends on its own value: logit p(observed_j) = a_j + b_j - w_j * feature_j.

    The features are those that the encoder sees, such as standardized values. a_j comes from the data; b and w are
    learned. A cell with several features, such as the indicators of a category, has a slope for each.

    Args:
        known_sign: +1 if larger values are missing more often, -1 if smaller ones are, None if that is not known; one
            for all cells, or a list with one for each. The sign can rarely be learned from data: state it where it is
            known.

    Raises:
        ValueError: if `known_sign` is another value, or has another number of entries than a row has cells.

    References:
        *not-MIWAE: Deep Generative Modelling with Missing not at Random Data* (Ipsen, Mattei, Frellsen, 2020), arXiv
        2006.12871
    """

    sign: Tensor

    def __init__(self, known_sign: int | Sequence[int | None] | None = None) -> None:
        super().__init__()
        signs = list(known_sign) if isinstance(known_sign, list | tuple) else [known_sign]
        if not signs or any(sign not in (None, 1, -1) or isinstance(sign, bool) for sign in signs):
            raise ValueError(
                f"known_sign must be None, +1 or -1, or a list of these; got {known_sign!r}. Choose one of these."
            )
        self.known_sign = known_sign

    def prepare(self, likelihood: Any) -> None:
        super().prepare(likelihood)
        known, shape = self.known_sign, likelihood.event_shape
        signs: list[Any] = list(known) if isinstance(known, list | tuple) else [known] * math.prod(shape)
        if len(signs) != math.prod(shape):
            raise ValueError(
                f"known_sign must have one entry for each of {math.prod(shape)} cells; got {len(signs)}. Give a list in"
                " the order of the columns, or one sign for all."
            )
        cells = torch.tensor([float(sign or 0) for sign in signs]).reshape(shape)
        self.register_buffer("sign", likelihood.feature_pattern(cells), persistent=False)
        self.slope = nn.Parameter(torch.where(self.sign == 0, 0.0, SLOPE))
        self.shift = nn.Parameter(torch.zeros(shape))

    def forward(self, x: Tensor, likelihood: Any) -> Tensor:
        slope = torch.where(self.sign == 0, self.slope, self.sign * softplus(self.slope))
        raised = likelihood.sum_features(slope * likelihood.features(x))
        return self.intercept + self.shift - raised  # type: ignore[no-any-return]


class Logistic(Mechanism):
    """Whether a cell is missing depends on all cells: logits of being observed are affine in the row's features."""

    def prepare(self, likelihood: Any) -> None:
        super().prepare(likelihood)
        self.map = nn.Linear(math.prod(likelihood.feature_shape), math.prod(likelihood.event_shape))
        nn.init.zeros_(self.map.weight)
        nn.init.zeros_(self.map.bias)

    def forward(self, x: Tensor, likelihood: Any) -> Tensor:
        features = likelihood.features(x).flatten(-len(likelihood.feature_shape))
        return self.intercept + self.map(features).unflatten(-1, likelihood.event_shape)  # type: ignore[no-any-return]


class FromFunction(Mechanism):
    """A function or module of the user's own, from complete rows (..., *E) to logits of being observed, (..., *E).

    It is not saved: pass `missing=` to `pv.load` again. If it is a module, its parameters are trained.

    Args:
        function: the function.
    """

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor, likelihood: Any) -> Tensor:
        logits = self.function(x)
        if logits.shape != x.shape:
            raise ValueError(
                f"mechanism must return a logit for each cell, {tuple(x.shape)}; got {tuple(logits.shape)}. Keep the"
                " shape of x."
            )
        return logits
