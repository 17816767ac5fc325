"""Priors of latents that are proportions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyro_vae.arguments import positive_integer, positive_numbers, true_or_false
from pyro_vae.distributions import AdditiveLogRatio
from pyro_vae.priors.base import Prior

__all__ = ["LogisticNormal"]


class LogisticNormal(Prior):
    """Proportions of D kinds, e.g. topics: the Laplace approximation of a Dirichlet distribution by normal log-ratios.

    The log-ratios log(z_i / z_D) are jointly normal with means log(a_i / a_D), variances 1/a_i + 1/a_D and covariances
    1/a_D, which match the mode and the curvature of Dirichlet(a) in these coordinates. To be used with
    `guides.LogisticNormal`.

    Args:
        latent_dim: D, the number of kinds, at least 2.
        concentration: a, one number or D numbers. Small ones favour rows of few kinds.
        learn: whether the concentrations are trained with the model.

    Raises:
        ValueError: if `latent_dim` is below 2 or a concentration is not positive.

    References:
        *Autoencoding Variational Inference for Topic Models* (Srivastava, Sutton, 2017), arXiv 1703.01488

    Example:
        >>> round(LogisticNormal(3)().sample().sum().item(), 4)
        1.0
    """

    log_concentration: Tensor

    def __init__(self, latent_dim: int, concentration: float | Sequence[float] = 1.0, learn: bool = False) -> None:
        super().__init__()
        self.latent_dim = positive_integer("latent_dim", latent_dim, at_least=2)
        self.concentration = positive_numbers("concentration", concentration, self.latent_dim)
        self.learn = true_or_false("learn", learn)
        start = torch.tensor(self.concentration, dtype=torch.float64).expand(self.latent_dim).log().float()
        if learn:
            self.log_concentration = nn.Parameter(start.clone())
        else:
            self.register_buffer("log_concentration", start.clone())

    def forward(self, **batch: Any) -> dist.TorchDistribution:
        a = self.log_concentration
        factor = torch.cat(((-a[:-1] / 2).exp().diag(), (-a[-1:] / 2).exp().expand(len(a) - 1, 1)), -1)
        ratios = dist.MultivariateNormal(a[:-1] - a[-1], covariance_matrix=factor @ factor.T)
        return dist.TransformedDistribution(ratios, [AdditiveLogRatio()])
