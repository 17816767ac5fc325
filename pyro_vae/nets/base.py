"""The base of recipes, modules that act on single rows, and checks of arguments that recipes share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from pyro_vae.arguments import is_integer

__all__ = [
    "ACTIVATIONS",
    "Dropout",
    "ImageRecipe",
    "Recipe",
    "Rowwise",
    "Shape",
    "as_widths",
    "build",
    "check_activation",
    "check_choice",
    "halvings",
    "reads_pattern",
]

Shape = tuple[int, ...]

ACTIVATIONS = {
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "relu": nn.ReLU,
    "silu": nn.SiLU,
    "softplus": nn.Softplus,
    "tanh": nn.Tanh,
}


class Dropout(nn.Dropout):
    """torch's module of this name, in less time: uniform draws cost less than Bernoulli draws."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.p == 0:
            return x
        kept = torch.rand_like(x, dtype=torch.float32) >= self.p  # narrower numbers would have too few values
        return x * kept / (1 - self.p)


class Recipe(ABC):
    """A network whose sizes of input and output are not stated yet.

    To add one, write a frozen dataclass of plain values with a `build` method.

    Attributes:
        reads_any_shape: whether a row of any shape is read as a vector, beside which covariates can be put.
    """

    reads_any_shape: ClassVar[bool] = False

    @abstractmethod
    def build(self, in_shape: Shape, out_shape: Shape) -> nn.Module:
        """A new module that maps (B, *in_shape) to (B, *out_shape)."""


class ImageRecipe(Recipe):
    """A network from images (C, H, W) to a vector, or from a vector to images."""

    def build(self, in_shape: Shape, out_shape: Shape) -> nn.Module:
        if len(in_shape) == 3 and len(out_shape) == 1:
            return self.encoder(in_shape, out_shape)
        if len(in_shape) == 1 and len(out_shape) == 3:
            return self.decoder(in_shape, out_shape)
        raise ValueError(
            f"{type(self).__name__} must map an image (C, H, W) to a vector or back; got {in_shape} to {out_shape}."
            " Use MLP for other events."
        )

    @abstractmethod
    def encoder(self, in_shape: Shape, out_shape: Shape) -> nn.Module:
        """A new module from images to a vector."""

    @abstractmethod
    def decoder(self, in_shape: Shape, out_shape: Shape) -> nn.Module:
        """A new module from a vector to images."""


class Rowwise(nn.Module):
    """A module applied to each row, whatever dimensions come before: these are merged into one and restored.

    Nets that take dimension 0 for the batch, such as convolutions and batch normalization, so work with a dimension of
    particles in front.

    Args:
        module: a module from (B, *E) to (B, *out).
        event_dim: the number of dimensions of E.

    Shapes:
        (..., *E) -> (..., *out)

    Attributes:
        reads_pattern: whether the module takes, beside x, the pattern of missing features, of the same shape.
    """

    def __init__(self, module: nn.Module, event_dim: int) -> None:
        super().__init__()
        self.module, self.event_dim = module, event_dim
        self.reads_pattern = reads_pattern(module)

    def __repr__(self) -> str:
        text, count = super().__repr__(), sum(parameter.numel() for parameter in self.parameters())
        return text if len(text) < 2000 else f"Rowwise({type(self.module).__name__} with {count:,} parameters)"

    def forward(self, x: Tensor, pattern: Tensor | None = None) -> Tensor:
        inputs = [x]
        if self.reads_pattern:
            inputs.append(torch.ones_like(x) if pattern is None else pattern.expand_as(x))
        lead = x.shape[: x.dim() - self.event_dim]
        if len(lead) == 1:
            return self.module(*inputs)  # type: ignore[no-any-return]
        y: Tensor = self.module(*(part.reshape(-1, *part.shape[len(lead) :]) for part in inputs))
        return y.reshape(*lead, *y.shape[1:])


def reads_pattern(net: Recipe | nn.Module) -> bool:
    """Whether a recipe or a module takes the pattern of missing features beside the features."""
    return bool(getattr(net, "reads_pattern", False))


def build(net: Recipe | nn.Module, in_shape: Shape, out_shape: Shape, role: str) -> Rowwise:
    """Build a recipe with these sizes, or check that a module has them.

    Args:
        net: a recipe or a module.
        in_shape: the shape of one row of input.
        out_shape: the shape of one row of output.
        role: the name of the net in error messages, e.g. "encoder".

    Raises:
        ValueError: if the module does not take such rows, or maps them to another shape.
        TypeError: if `net` is neither a recipe nor a module.
    """
    if isinstance(net, Recipe):
        return Rowwise(net.build(in_shape, out_shape), len(in_shape))
    if not isinstance(net, nn.Module):
        raise TypeError(f"{role} must be a recipe such as nets.MLP() or an nn.Module; got {net!r}. Pass an instance.")
    like = next(net.parameters(), torch.zeros(()))
    modes = [(part, part.training) for part in net.modules()]
    try:
        with torch.no_grad():
            zeros = torch.zeros(2, *in_shape, dtype=like.dtype, device=like.device)
            got = Rowwise(net.eval(), len(in_shape))(zeros).shape
    except RuntimeError as error:
        raise ValueError(
            f"{role} must accept rows of shape {in_shape}; got the error: {error}. Change its first layer."
        ) from error
    finally:
        for part, training in modes:
            part.training = training
    if tuple(got) != (2, *out_shape):
        raise ValueError(
            f"{role} must map (B, {_join(in_shape)}) to (B, {_join(out_shape)}); got {tuple(got)} for B = 2."
            " Change its last layer."
        )
    return Rowwise(net, len(in_shape))


def _join(shape: Shape) -> str:
    return ", ".join(map(str, shape))


def as_widths(what: str, sizes: Sequence[int]) -> tuple[int, ...]:
    """Return widths of layers as a tuple of integers; raise an error that names `what` unless all are positive."""
    if not isinstance(sizes, Sequence) or isinstance(sizes, str):
        raise TypeError(f"{what} must be a sequence of widths; got {sizes!r}. Pass e.g. {what}=(64,).")
    sizes = tuple(sizes)
    if any(not is_integer(size) or size < 1 for size in sizes):
        raise ValueError(f"{what} must be positive integers; got {sizes}. Pass e.g. {what}=(64, 64).")
    return tuple(int(size) for size in sizes)


def check_choice(what: str, name: str | None, choices: Sequence[str | None]) -> None:
    """Raise a ValueError that names `what` unless `name` is one of the choices."""
    if not isinstance(name, str | None) or name not in choices:
        raise ValueError(f"{what} must be one of {list(choices)}; got {name!r}. Choose one of these.")


def check_activation(name: str) -> None:
    """Raise a ValueError unless there is an activation of this name."""
    check_choice("activation", name, sorted(ACTIVATIONS))


def halvings(size: Shape, count: int) -> list[Shape]:
    """Height and width before the first of `count` strided layers and after each: a layer halves both, rounding up."""
    sizes = [size]
    for _ in range(count):
        sizes.append(tuple((length + 1) // 2 for length in sizes[-1]))
    return sizes
