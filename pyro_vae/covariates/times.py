"""Covariates that are dates or times."""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_vae.covariates.base import as_cells
from pyro_vae.covariates.numbers import Real

__all__ = ["Time"]

DAY = np.timedelta64(1, "D")


class Time(Real):
    """Dates and times, as days since `origin`, which are standardized as `Real` numbers are.

    Values are those of pandas, NumPy and datetime, or ISO text with a day, such as "2020-05-01". Times with a time zone
    count in UTC. Numbers, and tensors, are days since `origin`.

    Args:
        origin: a time in ISO form.

    Raises:
        ValueError: if the origin is no time.

    Example:
        >>> Time("2020-01-01").read("seen", ["2020-01-02", "2020-01-02T12:00"])
        tensor([1.0000, 1.5000], dtype=torch.float64)
    """

    def __init__(self, origin: str = "1970-01-01") -> None:
        super().__init__()
        if not isinstance(origin, str):
            raise ValueError(f"origin must be the text of a date or time; got {origin!r}. Write e.g. '2020-05-01'.")
        self.origin = origin
        self._start = _as_time("origin", origin)

    def read(self, name: str, values: Any) -> Tensor:
        times = None if isinstance(values, Tensor) else np.asarray(values)
        if times is not None and times.dtype.kind == "M":
            cells = times.astype("datetime64[us]").astype(object)  # None where it is no time
        else:
            cells = as_cells(values)
        self.refuse_missing(name, cells)
        if isinstance(cells, Tensor) or cells.dtype.kind != "O" or not _are_times(cells):
            return super().read(name, cells)
        found = [_as_time(f"covariate {name!r}", cell) for cell in cells.reshape(-1)]
        days = (np.array(found, "datetime64[us]") - self._start) / DAY
        return torch.tensor(days).reshape(cells.shape)


def _are_times(cells: np.ndarray) -> bool:
    """Whether a cell is a time or text."""
    return any(isinstance(cell, date | np.datetime64 | str) for cell in cells.reshape(-1))


def _as_time(what: str, cell: Any) -> np.ndarray:
    """A time of Python, pandas or NumPy, or in ISO form with year, month and day, in UTC."""
    try:
        time = datetime.fromisoformat(cell) if isinstance(cell, str) else cell
    except ValueError:
        time = None
    if not isinstance(time, date | np.datetime64):
        raise ValueError(f"{what} must be a date or time; got {cell!r}. Write e.g. '2020-05-01'.")
    if isinstance(time, datetime) and time.tzinfo is not None:
        time = time.astimezone(UTC).replace(tzinfo=None)
    return np.array(time, "datetime64[us]")
