"""Images whose pixels depend on each other given the latents."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_vae import distributions
from pyro_vae.arguments import positive_integer
from pyro_vae.likelihoods.base import Likelihood
from pyro_vae.nets import PixelCNN, Rowwise
from pyro_vae.runtime.random import seeded

__all__ = ["Autoregressive"]


class Autoregressive(Likelihood):
    """Images pixel by pixel: p(x | z) = prod_i p(x_i | x_<i, z), where each factor belongs to another likelihood.

    A masked net gives the parameters of that likelihood. It sees the pixels before, in the form of
    `likelihood.features`, and an image of context that the decoder makes of z. The latents carry what the neighbours of
    a pixel do not tell of it; if the net reaches far, they may carry nothing. A draw takes one pass of the net per
    pixel, and the mean has no closed form.

    Args:
        likelihood: a likelihood of images (C, H, W) with independent cells. The channels of a pixel stay independent
            given the pixels before.
        net: the masked net, `nets.PixelCNN()` by default.
        context_channels: number of channels of the image of context.

    Raises:
        TypeError: if likelihood or net are not of their kind.
        ValueError: if events are not images, or `context_channels` is not a positive integer.

    References:
        *Conditional Image Generation with PixelCNN Decoders* (van den Oord et al., 2016), arXiv 1606.05328;
        *PixelVAE: A Latent Variable Model for Natural Images* (Gulrajani et al., 2016), arXiv 1611.05013

    Example:
        >>> from pyro_vae import likelihoods
        >>> likelihood = Autoregressive(likelihoods.Bernoulli((1, 8, 8)), context_channels=4)
        >>> likelihood(torch.zeros(5, 4, 8, 8)).sample().shape
        torch.Size([5, 1, 8, 8])
    """

    def __init__(self, likelihood: Likelihood, net: PixelCNN | None = None, context_channels: int = 16) -> None:
        net = PixelCNN() if net is None else net
        for role, part, kind in (("likelihood", likelihood, Likelihood), ("net", net, PixelCNN)):
            if not isinstance(part, kind):
                raise TypeError(f"{role} must be a {kind.__name__} part; got {part!r}. Pass an object.")
        shapes = likelihood.event_shape, likelihood.feature_shape, likelihood.output_shape
        if any(len(shape) != 3 or shape[1:] != shapes[0][1:] for shape in shapes):
            raise ValueError(
                f"likelihood must be one of images (C, H, W) with independent cells; got {type(likelihood).__name__} of"
                f" rows {shapes[0]}. Change its event_shape."
            )
        super().__init__(likelihood.event_shape)
        self.likelihood, self.net = likelihood, net
        self.context_channels = positive_integer("context_channels", context_channels)
        self.discrete = likelihood.discrete
        self.support, self.support_advice = likelihood.support, likelihood.support_advice
        features = (likelihood.feature_shape[0] + context_channels, *self.event_shape[1:])
        with seeded(0):  # so that every model starts at the same parameters
            self.module = Rowwise(self.net.build(features, likelihood.output_shape, context_channels), 3)

    @property
    def output_shape(self) -> tuple[int, ...]:
        return (self.context_channels, *self.event_shape[1:])

    @property
    def feature_shape(self) -> tuple[int, ...]:
        return self.likelihood.feature_shape

    def forward(self, outputs: Tensor, **batch: Tensor) -> dist.TorchDistribution:
        conditional = partial(self._conditional, batch)
        return distributions.Autoregressive(conditional, outputs, self.event_shape, self.support)

    def _conditional(self, batch: dict[str, Tensor], x: Tensor | None, context: Tensor) -> dist.TorchDistribution:
        if x is None:
            features = context.new_zeros(*context.shape[:-3], *self.feature_shape)
        else:
            features = self.likelihood.features(x)
        return self.likelihood(self.module(torch.cat((features, context), -3)), **batch)  # type: ignore[no-any-return]

    def features(self, x: Tensor) -> Tensor:
        return self.likelihood.features(x)

    def unbounded_at(self, constant: Tensor) -> Tensor:
        return self.likelihood.unbounded_at(constant)  # type: ignore[no-any-return]

    def initialize(self, x: Tensor, **batch: Tensor) -> None:
        self.likelihood.initialize(x, **batch)

    def check_fields(self, x: Tensor | None, fields: Mapping[str, Tensor], first_row: int = 0) -> None:
        self.likelihood.check_fields(x, fields, first_row)

    def check(self, x: Tensor, first_row: int = 0) -> None:
        self.likelihood.check(x, first_row)
