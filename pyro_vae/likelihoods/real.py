"""Real cells."""

from __future__ import annotations

from collections.abc import Sequence

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyro_vae import distributions
from pyro_vae.arguments import positive_number
from pyro_vae.likelihoods.scales import LocationScale
from pyro_vae.parts import as_scale

__all__ = ["Laplace", "Normal", "StudentT"]


class Normal(LocationScale):
    """Real cells: x ~ Normal(loc, scale^2), with the scale fixed, learned, predicted or at its optimum.

    The network works on standardized cells, and the distribution is on the original scale. Where `scale` is
    "per_dimension" or "predicted", every cell is divided by its own standard deviation. Otherwise all are divided by
    one number, since with a scale in common and units of their own the distributions would be others. For columns in
    very different units choose "per_dimension" or "predicted".

    Args:
        event_shape: E.
        scale: where the standard deviation comes from: "shared" (one learned number, as in probabilistic PCA),
            "per_dimension" (one learned for each cell), "predicted" (by the decoder, for each row and cell), "fixed",
            or "optimal" (sigma-VAE). With "optimal", scale^2 in training is the mean squared residual of the batch,
            over rows, cells and particles, and the gradient passes through it; a row's term then depends on the other
            rows of its batch. Evaluation and draws use a running average, so that rows are independent.
        fixed_scale: the standard deviation, in units of x, where `scale` is "fixed".
        standardize: whether the network works on standardized cells.

    Raises:
        ValueError: if `scale` is unknown or `fixed_scale` not positive.

    References:
        *Simple and Effective VAE Training with Calibrated Decoders* (Rybkin et al., 2021), arXiv 2006.13202

    Example:
        >>> Normal(3, scale="predicted").output_shape
        (6,)
    """

    choices = (*LocationScale.choices, "optimal")
    mean_square: Tensor

    def __init__(
        self,
        event_shape: int | Sequence[int],
        scale: str = "shared",
        fixed_scale: float = 1.0,
        standardize: bool = True,
    ) -> None:
        super().__init__(event_shape, scale, fixed_scale, standardize)
        if scale == "optimal":
            self.register_buffer("mean_square", torch.ones(()))

    def family(self, loc: Tensor, scale: Tensor) -> dist.TorchDistribution:
        if self.scale == "optimal":
            return distributions.OptimalNormal(loc, self.mean_square, fitted=self.training)
        return dist.Normal(loc, scale)

    def initialize(self, x: Tensor, **batch: Tensor) -> None:
        super().initialize(x)
        if self.scale == "optimal":
            mean_square = (x - self.shift).square().mean()
            self.mean_square.copy_(torch.where(mean_square > 0, mean_square, torch.ones_like(mean_square)))


class Laplace(LocationScale):
    """Real cells with heavier tails than the normal: p(x) = exp(-|x - loc| / scale) / (2 scale).

    The location is the median: training minimizes absolute errors, not squared ones.

    Args:
        event_shape: E.
        scale: "shared", "per_dimension", "predicted" or "fixed"; see `Normal`.
        fixed_scale: the scale, in units of x, where `scale` is "fixed".
        standardize: whether the network works on standardized cells.

    Raises:
        ValueError: if `scale` is unknown or `fixed_scale` not positive.
    """

    ratio = 0.5**0.5

    def family(self, loc: Tensor, scale: Tensor) -> dist.TorchDistribution:
        return dist.Laplace(loc, scale)


class StudentT(LocationScale):
    """Real cells with outliers: (x - loc) / scale has Student's t distribution.

    Args:
        event_shape: E.
        scale: "shared", "per_dimension", "predicted" or "fixed"; see `Normal`.
        df: the degrees of freedom. With None, one number above 1 is learned, which starts at 5.
        fixed_scale: the scale, in units of x, where `scale` is "fixed".
        standardize: whether the network works on standardized cells.

    Raises:
        ValueError: if `scale` is unknown, or `df` or `fixed_scale` not positive.

    References:
        *Student-t Variational Autoencoder for Robust Density Estimation* (Takahashi et al., 2018), IJCAI
    """

    def __init__(
        self,
        event_shape: int | Sequence[int],
        scale: str = "shared",
        df: float | None = 5.0,
        fixed_scale: float = 1.0,
        standardize: bool = True,
    ) -> None:
        super().__init__(event_shape, scale, fixed_scale, standardize)
        self.df = None if df is None else positive_number("df", df)
        if df is None:
            self.raw_df = nn.Parameter(torch.zeros(()))
        start = 5.0 if df is None else df
        self.ratio = (1 - 2 / start) ** 0.5 if start > 2 else 1.0  # at 2 and below, the standard deviation is infinite

    def family(self, loc: Tensor, scale: Tensor) -> dist.TorchDistribution:
        df = 1 + 4 * as_scale(self.raw_df) if self.df is None else self.df
        return distributions.StudentT(df, loc, scale)
