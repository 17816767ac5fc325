"""Priors of discrete latents, which need a gradient estimator for draws without derivatives, e.g. "rloo" or "vimco"."""

from __future__ import annotations

from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyro_vae.arguments import positive_integer, true_or_false
from pyro_vae.priors.base import Prior

__all__ = ["Bernoulli", "Categorical"]


class _Logits(Prior):
    """Base class of priors with fixed or learned logits."""

    logits: Tensor

    def __init__(self, latent_dim: int, learn: bool = False) -> None:
        super().__init__()
        self.latent_dim, self.learn = positive_integer("latent_dim", latent_dim), true_or_false("learn", learn)
        if learn:
            self.logits = nn.Parameter(torch.zeros(latent_dim))
        else:
            self.register_buffer("logits", torch.zeros(latent_dim))


class Bernoulli(_Logits):
    """D independent binary latents with probabilities 1/2, or learned ones; to be used with `guides.Bernoulli`.

    Args:
        latent_dim: D.
        learn: whether the probabilities are trained with the model.

    Raises:
        ValueError: if `latent_dim` is not a positive integer.

    References:
        *Neural Variational Inference and Learning in Belief Networks* (Mnih, Gregor, 2014), arXiv 1402.0030
    """

    def forward(self, **batch: Any) -> dist.TorchDistribution:
        return dist.Bernoulli(logits=self.logits).to_event(1)


class Categorical(_Logits):
    """One latent with D values, coded as a unit vector, with equal or learned probabilities.

    To be used with `guides.Categorical`. With a decoder of one layer, the model is a finite mixture.

    Args:
        latent_dim: D, the number of values.
        learn: whether the probabilities are trained with the model.

    Raises:
        ValueError: if `latent_dim` is not a positive integer.
    """

    def forward(self, **batch: Any) -> dist.TorchDistribution:
        return dist.OneHotCategorical(logits=self.logits)
