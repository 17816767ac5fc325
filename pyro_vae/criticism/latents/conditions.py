"""Under which fields of the rows is decoded: those of each row, of one row, or of rows chosen at random."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pyro_vae.data.rows import Rows, cast
from pyro_vae.fields import OBSERVED
from pyro_vae.model import LatentVariableModel

__all__ = ["at_random", "conditions", "repeated"]


def conditions(model: LatentVariableModel, x: Any, **fields: Any) -> dict[str, Tensor]:
    """The fields of rows that the model reads, such as covariates, (N, ...) each; which cells are missing is left out.

    Args:
        model: the model.
        x: rows (N, *E), in any form that `fit` takes.
        **fields: named per-row fields, as in `elbo`.
    """
    rows, names = model.read_rows(x, fields)
    return cast({name: rows.field(name) for name in names if name != OBSERVED}, model.like)


def repeated(fields: dict[str, Tensor], count: int) -> dict[str, Tensor]:
    """The fields of one row, (1, ...) each, for `count` rows."""
    return {name: value.expand(count, *value.shape[1:]) for name, value in fields.items()}


def at_random(model: LatentVariableModel, rows: Rows, count: int, seed: int) -> dict[str, Tensor]:
    """The fields of `count` rows that are chosen at random, with replacement; empty where the model reads none.

    Draws under these fields are draws of x for rows like the given ones.
    """
    if not set(model.fields) & set(rows.field_names) - {OBSERVED}:
        return {}
    chosen = torch.randint(len(rows), (count,), generator=torch.Generator().manual_seed(seed))
    return conditions(model, rows.subset(chosen))
