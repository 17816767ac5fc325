"""Learned invertible maps of vectors, for normalizing flows.

Each map transforms the elements of a vector one by one; a net computes the parameters of these elementwise maps from
other elements of the vector and from a context.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
from pyro.distributions import constraints
from pyro.distributions.transforms.spline import ConditionedSpline
from pyro.nn import ConditionalAutoRegressiveNN
from torch import Tensor, nn
from torch.distributions import AffineTransform, Transform

from pyro_vae.arguments import positive_integer
from pyro_vae.nets import MLP
from pyro_vae.nets.base import as_widths
from pyro_vae.parts import as_scale
from pyro_vae.runtime.random import seeded

__all__ = ["KINDS", "Maps", "check_arguments"]

BINS, BOUND = 8, 5.0  # of the splines: the number of pieces, and the absolute value beyond which they are the identity
ReadMap = Callable[[Tensor], Transform]  # from the elements that are given to the elementwise map of the others


class Maps(nn.Module):
    """A chain of learned invertible maps of vectors of D numbers.

    Initial parameters are drawn with a fixed seed, so they are the same each time.

    Args:
        dim: D, at least 2.
        kind: one of `KINDS`: the elementwise map, and how elements depend on each other.
        layers: the number of maps; every second one takes the elements in reverse order.
        hidden: widths of the hidden layers of the net in each map; at least D for autoregressive maps.
        context_dim: C, the size of the context on which the maps depend too.

    Raises:
        ValueError: if the kind is unknown or a size is out of range.
    """

    def __init__(self, dim: int, *, kind: str, layers: int, hidden: Sequence[int], context_dim: int = 0) -> None:
        super().__init__()
        kind, layers, hidden = check_arguments(kind, layers, hidden)
        family, structure = kind.split("_")
        self.elementwise, num_parameters = {"affine": (_affine, 2), "spline": (_spline, 4 * BINS - 1)}[family]
        self.autoregressive = structure == "autoregressive"
        if self.autoregressive and (not hidden or min(hidden) < dim):
            raise ValueError(f"hidden must be widths of at least {dim}, the number of latents; got {hidden}. Widen it.")

        def net(layer: int) -> nn.Module:
            if not self.autoregressive:
                return MLP(hidden).build((dim // 2 + context_dim,), (num_parameters, dim - dim // 2))
            order: Any = torch.arange(dim) if layer % 2 == 0 else torch.arange(dim).flip(0)
            return ConditionalAutoRegressiveNN(dim, context_dim, list(hidden), [num_parameters], order)

        with seeded(0):
            self.nets = nn.ModuleList(map(net, range(layers)))

    def forward(self, context: Tensor | None = None) -> list[Transform]:
        """The maps, (..., D) to (..., D), given a context (..., C): new objects each time, since they keep values."""
        return [self._map(net, bool(layer % 2), context) for layer, net in enumerate(self.nets)]

    def _map(self, net: nn.Module, flip: bool, context: Tensor | None) -> Transform:
        def read(given: Tensor) -> Transform:
            condition = given.new_zeros(0) if context is None else context
            condition = condition.expand(*given.shape[:-1], condition.shape[-1])
            if self.autoregressive:
                return self.elementwise(net(given, condition))
            inputs = torch.cat((given, condition), -1)
            parameters = net(inputs.reshape(-1, inputs.shape[-1]))
            return self.elementwise(parameters.reshape(*inputs.shape[:-1], *parameters.shape[1:]))

        batch = torch.Size() if context is None else context.shape[:-1]
        return _Autoregressive(read, batch) if self.autoregressive else _Coupling(read, batch, flip)


KINDS = ("affine_coupling", "affine_autoregressive", "spline_coupling", "spline_autoregressive")


def check_arguments(kind: str, layers: int, hidden: Sequence[int]) -> tuple[str, int, tuple[int, ...]]:
    """Return the kind, the number and the widths of maps, or raise an error that names what is out of range."""
    if not isinstance(kind, str) or kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}; got {kind!r}. Choose one of these.")
    return kind, positive_integer("layers", layers), as_widths("hidden", hidden)


class _Map(Transform):
    """A map that keeps its last x and y and the log of the Jacobian determinant there.

    The cache of torch does the same, but returns an x that was computed without gradients where they are needed.
    """

    domain = constraints.real_vector
    codomain = constraints.real_vector
    bijective = True

    def __init__(self, read: ReadMap, batch: torch.Size) -> None:
        super().__init__()
        self.read, self.batch = read, batch
        self.last: tuple[Tensor, Tensor, Tensor, bool] | None = None

    @abstractmethod
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """y, and log |det dy/dx|."""

    @abstractmethod
    def backward(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """x, and log |det dy/dx| there."""

    def _expand(self, x: Tensor) -> Tensor:
        return x.expand(*torch.broadcast_shapes(self.batch, x.shape[:-1]), -1)

    def _is_last(self, position: int, value: Tensor) -> bool:
        """Whether this was the last x (position 0) or y (position 1), computed with gradients if these are needed."""
        return self.last is not None and self.last[position] is value and (self.last[3] or not torch.is_grad_enabled())

    def _call(self, x: Tensor) -> Tensor:
        y, log_det = self.forward(self._expand(x))
        self.last = x, y, log_det, torch.is_grad_enabled()
        return y

    def _inverse(self, y: Tensor) -> Tensor:
        if not self._is_last(1, y):
            x, log_det = self.backward(self._expand(y))
            self.last = x, y, log_det, torch.is_grad_enabled()
        return self.last[0]  # type: ignore[index]

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        if not self._is_last(0, x):
            self._call(x)
        return self.last[2]  # type: ignore[index]


class _Autoregressive(_Map):
    """y_i = f(x_i; parameters from the earlier elements of x): forward takes one run of the net, backward takes D."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        transform = self.read(x)
        y = transform(x)
        return y, transform.log_abs_det_jacobian(x, y).sum(-1)

    def backward(self, y: Tensor) -> tuple[Tensor, Tensor]:
        x = torch.zeros_like(y)
        for _ in range(y.shape[-1]):
            transform = self.read(x)
            x = transform.inv(y)
        return x, transform.log_abs_det_jacobian(x, y).sum(-1)


class _Coupling(_Map):
    """One half stays, and the parameters of the map of the other half come from it: one run of the net both ways."""

    def __init__(self, read: ReadMap, batch: torch.Size, flip: bool) -> None:
        super().__init__(read, batch)
        self.flip = flip

    def _halves(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = x.flip(-1) if self.flip else x
        return x[..., : x.shape[-1] // 2], x[..., x.shape[-1] // 2 :]

    def _whole(self, *halves: Tensor) -> Tensor:
        x = torch.cat(halves, -1)
        return x.flip(-1) if self.flip else x

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        given, rest = self._halves(x)
        transform = self.read(given)
        mapped = transform(rest)
        return self._whole(given, mapped), transform.log_abs_det_jacobian(rest, mapped).sum(-1)

    def backward(self, y: Tensor) -> tuple[Tensor, Tensor]:
        given, mapped = self._halves(y)
        transform = self.read(given)
        rest = transform.inv(mapped)
        return self._whole(given, rest), transform.log_abs_det_jacobian(rest, mapped).sum(-1)


def _affine(parameters: Tensor) -> Transform:
    """Location and scale from parameters (..., 2, D); zeros give the identity."""
    loc, raw = parameters.unbind(-2)
    return AffineTransform(loc, as_scale(raw))


def _spline(parameters: Tensor) -> Transform:
    """A monotone spline of linear rational pieces, the identity beyond `BOUND`; parameters (..., 4 * BINS - 1, D)."""
    widths, heights, slopes, places = parameters.transpose(-1, -2).split((BINS, BINS, BINS - 1, BINS), -1)
    shape = widths.softmax(-1), heights.softmax(-1), as_scale(slopes), places.sigmoid()
    return ConditionedSpline(lambda: shape, bound=BOUND, order="linear")  # type: ignore[no-any-return]
