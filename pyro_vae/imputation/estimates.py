"""Estimates and variances of several imputations as tensors, and the names of the parameters, if there are any."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_vae.data.tensors import as_tensor, check_finite

__all__ = ["read_estimates"]

TOLERANCE = 1e-6  # of the symmetry and of the eigenvalues of covariance matrices, once scaled to correlations

Names = tuple[str, ...]


def read_estimates(estimates: Any, variances: Any, names: Sequence[str] | None) -> tuple[Tensor, Tensor, Names | None]:
    """Estimates (m,) or (m, p), squared standard errors in the same shape or covariances (m, p, p), and names.

    Where both carry names, variances are brought into the order of the estimates. `names` replace those.

    Raises:
        TypeError: if the values are not numbers, or names are not text.
        ValueError: if they do not match, or cannot be estimates or variances.
    """
    read, carried = _read("estimates", estimates)
    _check_estimates(read)
    given = carried if names is None else _as_names(names, 1 if read.dim() == 1 else read.shape[1])
    squares, others = _read("variances", variances, carried)
    _check_shapes(read, squares)
    if carried and others and read.dim() == 2 and carried != others:
        raise ValueError(
            f"variances must have the names of the estimates, {list(carried)}; got {list(others)}. Rename them."
        )
    _check_variances(squares, given)
    return read, squares, given


def _check_estimates(estimates: Tensor) -> None:
    if estimates.dim() not in (1, 2) or estimates.shape[-1] == 0:
        raise ValueError(
            f"estimates must be a number or a vector of parameters for each imputation, (m,) or (m, p); got shape"
            f" {tuple(estimates.shape)}. Flatten the parameters of each imputation into a vector."
        )
    if len(estimates) < 2:
        raise ValueError(
            f"estimates must come from at least two imputations; got {len(estimates)}. One imputation does not show how"
            " much imputations differ: impute again, e.g. 20 times."
        )


def _check_shapes(estimates: Tensor, variances: Tensor) -> None:
    shape, found = tuple(estimates.shape), tuple(variances.shape)
    expected = [shape] if len(shape) == 1 else [shape, (*shape, shape[1])]
    if found not in expected:
        raise ValueError(
            f"variances must have shape {' or '.join(map(str, expected))} for estimates of shape {shape}; got shape"
            f" {found}. Give a squared standard error for each estimate, or a covariance matrix for each imputation."
        )


def _check_variances(values: Tensor, names: Names | None) -> None:
    """Raise a ValueError unless variances are not negative, covariances are possible, and no parameter is known."""
    variances = torch.diagonal(values, dim1=1, dim2=2) if values.dim() == 3 else values
    negative = (variances < 0).nonzero()
    if len(negative):
        first = tuple(int(i) for i in negative[0])
        raise ValueError(
            f"variances must not be negative; got {variances[first].item():g} in imputation {first[0]}. Pass squared"
            " standard errors."
        )
    if values.dim() == 3:
        _check_covariances(values, variances)
    constant = (variances.mean(0) == 0).reshape(-1).nonzero()
    if len(constant):
        place = int(constant[0])
        raise ValueError(
            f"variances must be positive in at least one imputation; got 0 in all for parameter"
            f" {names[place] if names else place!r}. Leave out parameters that are known."
        )


def _check_covariances(matrices: Tensor, variances: Tensor) -> None:
    """Raise a ValueError unless all matrices are symmetric and positive semidefinite, up to rounding."""
    scale = torch.where(variances > 0, variances, 1.0).sqrt()
    correlations = matrices / (scale[:, :, None] * scale[:, None, :])
    asymmetry = (correlations - correlations.mT).abs().amax((1, 2))
    if (asymmetry > TOLERANCE).any():
        i = int(asymmetry.argmax())
        largest = (matrices[i] - matrices[i].mT).abs().max().item()
        raise ValueError(
            f"variances must be symmetric matrices; got entries that differ by {largest:g} from their mirror images in"
            f" imputation {i}. Pass covariance matrices."
        )
    lowest = torch.linalg.eigvalsh(correlations)[:, 0]
    if (lowest < -TOLERANCE).any():
        i = int(lowest.argmin())
        raise ValueError(
            f"variances must be positive semidefinite matrices; got the eigenvalue {lowest[i].item():.3g}, scaled to"
            f" correlations, in imputation {i}. Pass covariance matrices."
        )


def _read(what: str, values: Any, order: Names | None = None) -> tuple[Tensor, Names | None]:
    """The values as finite double numbers, and the names that they carry, in the order `order` where these fit."""
    if isinstance(values, list | tuple) and any(_axes(one) for one in values):
        names = _in_order(next(axes for axes in map(_axes, values) if axes)[-1:], order)
        array: Any = np.stack([_aligned(what, one, names or (), i) for i, one in enumerate(values)])
    else:
        axes = _axes(values)
        names = _in_order(axes[1:] or _own_name(values), order)
        columns = [axes[1].index(name) for name in names] if len(axes) > 1 and names else None
        array = values if not axes else values.to_numpy()[:, columns] if columns else values.to_numpy()
    if isinstance(array, list | tuple) and array and all(isinstance(one, Tensor) for one in array):
        array = [one.detach().cpu().numpy() for one in array]
    tensor = as_tensor(array, what).detach().to("cpu", torch.float64)
    check_finite(what, tensor)
    return tensor, names


def _in_order(axes: Sequence[Names], order: Names | None) -> Names | None:
    """The names along an axis, or `order` if it has the same names; None without an axis."""
    if not axes:
        return None
    return order if order and sorted(order) == sorted(axes[0]) else _distinct(axes[0])


def _aligned(what: str, values: Any, names: Names, imputation: int) -> np.ndarray:
    """The entries of a series, or the rows and columns of a matrix, in the order of the names."""
    axes = _axes(values)
    for axis in axes or [()]:  # one without names beside others with names
        if sorted(axis) != sorted(names):
            raise ValueError(
                f"{what} must have the same names in all imputations, {list(names)}; got {list(axis)} in imputation"
                f" {imputation}. Fit the same model to each."
            )
    found: np.ndarray = values.to_numpy()[np.ix_(*([axis.index(name) for name in names] for axis in axes))]
    return found


def _axes(values: Any) -> list[Names]:
    """The names along each axis of a pandas series or frame; none for anything else."""
    if not (hasattr(values, "axes") and hasattr(values, "to_numpy")):
        return []
    return [tuple(str(name) for name in axis) for axis in values.axes]


def _own_name(values: Any) -> list[Names]:
    """The name of a series with a number for each imputation, which is that of the parameter."""
    name = getattr(values, "name", None) if _axes(values) else None
    return [] if name is None else [(str(name),)]


def _as_names(names: Sequence[str], count: int) -> Names:
    if not isinstance(names, Sequence) or isinstance(names, str) or not all(isinstance(name, str) for name in names):
        raise TypeError(f"names must be a sequence of text; got {names!r}. Pass e.g. names=['intercept', 'age'].")
    if len(names) != count:
        raise ValueError(f"names must be one for each of {count} parameters; got {len(names)}. Name each parameter.")
    return _distinct(tuple(names))


def _distinct(names: Names) -> Names:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"names must differ; got {twice} more than once. Rename these parameters.")
    return names
