"""Distributions of images."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor
from torch.distributions.utils import broadcast_all
from torch.nn.functional import logsigmoid

__all__ = ["Autoregressive", "DiscretizedLogistic"]


class DiscretizedLogistic(dist.TorchDistribution):
    """A mixture of C logistic distributions, rounded to the levels 0 to L - 1; the outer levels include the tails.

    Args:
        loc: locations of the components, (..., C), in levels.
        scale: scales of the components, (..., C), in levels.
        logits: logits of the weights, (..., C).
        levels: L.

    References:
        *PixelCNN++* (Salimans et al., 2017), arXiv 1701.05517
    """

    arg_constraints: ClassVar = {
        "loc": constraints.real_vector,
        "scale": constraints.independent(constraints.positive, 1),
        "logits": constraints.real_vector,
    }

    def __init__(
        self, loc: Tensor, scale: Tensor, logits: Tensor, levels: int, validate_args: bool | None = None
    ) -> None:
        self.loc, self.scale, self.logits = broadcast_all(loc, scale, logits)
        self.levels = levels
        super().__init__(self.loc.shape[:-1], validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> DiscretizedLogistic:
        loc, scale, logits = (part.expand(*batch_shape, -1) for part in (self.loc, self.scale, self.logits))
        return DiscretizedLogistic(loc, scale, logits, self.levels, validate_args=False)

    @constraints.dependent_property(is_discrete=True, event_dim=0)
    def support(self) -> Any:
        return constraints.integer_interval(0, self.levels - 1)

    @property
    def mean(self) -> Tensor:
        """The sum of P(x > k) over the levels k, one term at a time to bound memory."""
        weights, total = self.logits.softmax(-1), torch.zeros_like(self.loc)
        for level in range(self.levels - 1):
            total = total + torch.sigmoid((self.loc - level - 0.5) / self.scale)
        return (weights * total).sum(-1)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        with torch.no_grad():
            component = dist.Categorical(logits=self.logits).sample(torch.Size(sample_shape)).unsqueeze(-1)
            shape = (*component.shape[:-1], self.loc.shape[-1])
            loc, scale = (part.expand(shape).gather(-1, component).squeeze(-1) for part in (self.loc, self.scale))
            u = torch.rand_like(loc).clamp(torch.finfo(loc.dtype).tiny, 1 - torch.finfo(loc.dtype).eps)
            return (loc + scale * u.logit()).round().clamp(0, self.levels - 1)

    def log_prob(self, value: Tensor) -> Tensor:
        # F(b) - F(a) = F(b) (1 - F(a)) (1 - exp(a - b)) for the logistic F: a product, so that nothing cancels
        value = value.unsqueeze(-1)
        z, half = (value - self.loc) / self.scale, 0.5 / self.scale
        first, last = value == 0, value == self.levels - 1
        below = torch.where(last, 0.0, logsigmoid(half + z))
        above = torch.where(first, 0.0, logsigmoid(half - z))
        inside = torch.where(first | last, 0.0, (-torch.expm1(-2 * half)).log())
        return (self.logits.log_softmax(-1) + below + above + inside).logsumexp(-1)


class Autoregressive(dist.TorchDistribution):
    """Images x with density prod_i p(x_i | x_<i, context), with pixels ordered row by row.

    The log-probability takes one run of the network, a draw takes one for each pixel.

    Args:
        conditional: a function from images x (..., C, H, W), or None at the start of a draw, and a context
            (..., c, H, W) to a distribution of images with independent pixels, each of which depends on earlier pixels
            of x only.
        context: (..., c, H, W); its leading dimensions are the batch shape.
        event_shape: (C, H, W).
        support: the constraint on a single cell of x.

    References:
        *Pixel Recurrent Neural Networks* (van den Oord, Kalchbrenner, Kavukcuoglu, 2016), arXiv 1601.06759
    """

    arg_constraints: ClassVar = {}

    def __init__(
        self,
        conditional: Callable[[Tensor | None, Tensor], dist.TorchDistribution],
        context: Tensor,
        event_shape: tuple[int, ...],
        support: Any = constraints.real,
        validate_args: bool | None = None,
    ) -> None:
        self.conditional, self.context, self.cell_support = conditional, context, support
        super().__init__(context.shape[:-3], torch.Size(event_shape), validate_args=validate_args)

    @constraints.dependent_property(event_dim=3)
    def support(self) -> Any:
        return constraints.independent(self.cell_support, 3)

    def expand(self, batch_shape: Any, _instance: Any = None) -> Autoregressive:
        context = self.context.expand(*batch_shape, *self.context.shape[-3:])
        return Autoregressive(self.conditional, context, self.event_shape, self.cell_support, validate_args=False)

    @property
    def mean(self) -> Tensor:
        raise NotImplementedError(
            "The mean of an autoregressive distribution must be estimated; got no closed form."
            " Average draws: .sample((100,)).mean(0)."
        )

    def log_prob(self, value: Tensor) -> Tensor:
        lead = torch.broadcast_shapes(value.shape[:-3], self.batch_shape)
        value = value.expand(*lead, *self.event_shape)
        context = self.context.expand(*lead, *self.context.shape[-3:])
        return self.conditional(value, context).log_prob(value)  # type: ignore[no-any-return]

    @torch.no_grad()
    def sample(self, sample_shape: Any = ()) -> Tensor:
        context = self.context.expand(*sample_shape, *self.context.shape)
        x = self.conditional(None, context).sample().clone()
        for row in range(self.event_shape[-2]):
            for column in range(self.event_shape[-1]):
                x[..., row, column] = self.conditional(x, context).sample()[..., row, column]
        return x
