"""Cells that look like marks of missing cells: -999, 99, "?"."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from pyro_vae.tables.kinds import Count, Positive, Real
from pyro_vae.tables.schema import TableSchema

__all__ = ["find_stand_ins"]

NUMBERS = (-9.0, *(sign * (10.0**digits - 1) for digits in range(2, 6) for sign in (-1, 1)))  # 99, -99, ..., -99999
WORDS = {"?", ".", "-", "--", "na", "n/a", "n.a.", "nan", "null", "missing"}


def find_stand_ins(schema: TableSchema, x: np.ndarray, stated: Collection[str]) -> list[tuple[str, str, int]]:
    """Columns with a value that probably stands for a missing cell, that value, and in how many rows it is.

    A number is -9, or one of 99, ..., 99999 or of their negatives, is in two rows or more, and is as far from all other
    numbers of its column as these are from each other. A level is a word such as "?" or "n/a".

    Args:
        schema: the columns.
        x: their cells, (N, D).
        stated: the columns whose kinds the user has chosen, which are left out.
    """
    found = []
    for (name, kind), cells in zip(schema.kinds.items(), x.T, strict=True):
        if name in stated:
            continue
        if isinstance(kind, Real | Count | Positive):
            value = _far_number(cells[~np.isnan(cells)])
            if value is not None:
                found.append((name, f"{value:g}", int((cells == value).sum())))
        for code, level in enumerate(getattr(kind, "levels", ())):
            if isinstance(level, str) and level.strip().lower() in WORDS and (cells == code).any():
                found.append((name, repr(level), int((cells == code).sum())))
    return found


def _far_number(cells: np.ndarray) -> float | None:
    low, high = float(cells.min()), float(cells.max())
    for value in (low, high):
        others = cells[cells != value]
        if value in NUMBERS and 1 < len(cells) - len(others) < len(cells) and len(others):
            nearest, spread = np.abs(others - value).min(), others.max() - others.min()
            if nearest >= spread > 0:
                return value
    return None
