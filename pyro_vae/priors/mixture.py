"""Mixtures as priors: of normals, and of the guide's distributions at learned pseudo-inputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyro_vae.arguments import positive_integer, true_or_false
from pyro_vae.parts import as_event_shape, as_scale
from pyro_vae.priors.base import Prior
from pyro_vae.runtime.random import INITIAL, seeded

__all__ = ["Mixture", "VampPrior"]


class Mixture(Prior):
    """A mixture of C normals with learned weights, means and standard deviations of each latent.

    At the start the weights are equal, the standard deviations are 1 and the means are standard normal draws.

    Args:
        latent_dim: D.
        num_components: C.

    Raises:
        ValueError: if a size is not a positive integer.

    References:
        *Unsupervised Clustering and Unsupervised Generative Models with Gaussian Mixture Variational Autoencoders*
        (Dilokthanakul et al., 2016), arXiv 1611.02648

    Example:
        >>> Mixture(2, num_components=5)().sample((3,)).shape
        torch.Size([3, 2])
    """

    def __init__(self, latent_dim: int, num_components: int = 10) -> None:
        super().__init__()
        self.latent_dim = positive_integer("latent_dim", latent_dim)
        self.num_components = positive_integer("num_components", num_components)
        self.logits = nn.Parameter(torch.zeros(num_components))
        with seeded(0, INITIAL):  # with seeded(0), noise of a call with seed=0 would be these very numbers
            self.loc = nn.Parameter(torch.randn(num_components, latent_dim))
        self.raw_scale = nn.Parameter(torch.zeros(num_components, latent_dim))

    def forward(self, **batch: Any) -> dist.TorchDistribution:
        components = dist.Normal(self.loc, as_scale(self.raw_scale)).to_event(1)
        return dist.MixtureSameFamily(dist.Categorical(logits=self.logits), components)


class VampPrior(Prior):
    """A weighted average of the guide at C pseudo-inputs u_c: p(z) = sum_c weight_c q(z | u_c).

    The prior with the highest ELBO is the aggregate posterior, the average of q(z | x) over the data; this prior
    approximates it at the cost of running the encoder on C more rows. Pseudo-inputs are inputs of the encoder,
    `likelihood.features(x)`, and start at random rows of the data. Any guide can be used.

    Args:
        latent_dim: D.
        event_shape: the shape of one pseudo-input: the `feature_shape` of the likelihood, for most likelihoods the
            shape of a row of x.
        num_components: C.
        learn: whether the pseudo-inputs are trained; otherwise they stay at the rows where they started.
        learn_weights: whether the weights are trained; otherwise they are equal.

    Raises:
        ValueError: if a size is not a positive integer.

    References:
        *VAE with a VampPrior* (Tomczak, Welling, 2017), arXiv 1705.07120
    """

    logits: Tensor
    pseudo_inputs: Tensor

    def __init__(
        self,
        latent_dim: int,
        event_shape: int | Sequence[int],
        num_components: int = 100,
        learn: bool = True,
        learn_weights: bool = False,
    ) -> None:
        super().__init__()
        self.latent_dim, self.event_shape = positive_integer("latent_dim", latent_dim), as_event_shape(event_shape)
        self.num_components = positive_integer("num_components", num_components)
        self.learn, self.learn_weights = true_or_false("learn", learn), true_or_false("learn_weights", learn_weights)
        with seeded(0):
            pseudo_inputs = torch.rand(num_components, *self.event_shape)
        if learn:
            self.pseudo_inputs = nn.Parameter(pseudo_inputs)
        else:
            self.register_buffer("pseudo_inputs", pseudo_inputs)
        logits = torch.zeros(num_components)
        if learn_weights:
            self.logits = nn.Parameter(logits)
        else:
            self.register_buffer("logits", logits)

    def forward(self, **batch: Any) -> dist.TorchDistribution:
        return dist.MixtureSameFamily(dist.Categorical(logits=self.logits), batch["posterior"](self.pseudo_inputs))

    def initialize(self, features: Tensor) -> None:
        chosen = torch.randint(len(features), (self.num_components,), device=features.device)
        if len(features) >= self.num_components:  # without replacement
            chosen = torch.randperm(len(features), device=features.device)[: self.num_components]
        self.pseudo_inputs.copy_(features[chosen])
