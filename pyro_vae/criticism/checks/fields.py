"""Fields that statistics read: those that their parameters besides x name, such as `group`."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_vae.data.rows import Rows
from pyro_vae.inference.pair import ProgramPair

__all__ = ["fields_for", "fields_read", "split_fields", "value_of"]


def fields_read(function: Callable[..., Any]) -> list[str]:
    """The names of the parameters of a statistic besides its first, except those that have a default.

    Example:
        >>> fields_read(lambda x, group, power=2: x)
        ['group']
    """
    try:
        parameters = list(inspect.signature(function).parameters.values())[1:]
    except (TypeError, ValueError):  # a function that is not written in Python
        return []
    named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    return [p.name for p in named if p.default is p.empty]


def fields_for(statistics: Mapping[str, Callable[..., Any]], rows: Rows) -> dict[str, dict[str, Tensor]]:
    """The fields of the rows that each statistic reads, by statistic.

    Raises:
        ValueError: if a statistic needs a field that the rows do not have.
    """
    found = {}
    for name, function in statistics.items():
        read = fields_read(function)
        absent = [field for field in read if field not in rows.field_names]
        if absent:
            raise ValueError(
                f"statistic {name!r} must have the fields that it reads; got rows without {absent[0]!r}. Pass"
                f" {absent[0]}= by keyword or as a field of Rows."
            )
        found[name] = {field: rows.field(field) for field in read}
    return found


def split_fields(model: ProgramPair, statistics: Any, fields: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The keyword fields of the model, and those that statistics alone read.

    Raises:
        TypeError: if `statistics` is no dictionary of functions.
    """
    if statistics is None:
        return fields, {}
    if not (isinstance(statistics, Mapping) and all(map(callable, statistics.values()))):
        raise TypeError(
            f"statistics must be a dictionary of functions of data; got {statistics!r}. Pass e.g."
            " {'mean': pv.statistics.mean}."
        )
    read = {field for function in statistics.values() for field in fields_read(function)} - model.fields.keys()
    own = {name: value for name, value in fields.items() if name in read}
    return {name: value for name, value in fields.items() if name not in own}, own


def value_of(name: str, statistic: Callable[..., Any], x: Tensor, fields: Mapping[str, Tensor]) -> Tensor:
    """The value of a statistic of these rows with these fields, as a tensor of finite numbers.

    Raises:
        TypeError: if it is not made of numbers.
        ValueError: if one is not finite.
    """
    found = statistic(x, **{field: values.to(x.device) for field, values in fields.items()})
    if not isinstance(found, Tensor | int | float | np.ndarray | np.number):
        raise TypeError(
            f"statistic {name!r} must return a tensor, an array or a number; got {type(found).__name__}. Some"
            " statistics are made by a call: statistics.quantile(0.9), statistics.correlation(0, 1)."
        )
    value = torch.as_tensor(found).double().to(x.device)
    if not torch.isfinite(value).all():
        raise ValueError(
            f"statistic {name!r} must be finite; got {value[~torch.isfinite(value)][0].item()}."
            " Define it for constant columns too."
        )
    return value
