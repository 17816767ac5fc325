"""Covering arrays: few combinations in which every pair of choices occurs."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence

Row = tuple[str, ...]


def all_rows(factors: Sequence[Iterable[str]], fits: Callable[[Row], bool]) -> list[Row]:
    """The rows of the full product that fit."""
    return [row for row in itertools.product(*factors) if fits(row)]


def pairs(row: Row) -> set[tuple[int, str, int, str]]:
    """The pairs of choices that occur in a row."""
    return {(i, row[i], j, row[j]) for i, j in itertools.combinations(range(len(row)), 2)}


def pairwise(factors: Sequence[Iterable[str]], fits: Callable[[Row], bool]) -> list[Row]:
    """Rows that hold every pair that any fitting row holds, chosen greedily: each row covers the most new pairs."""
    rows = all_rows(factors, fits)
    holding: dict[tuple[int, str, int, str], list[int]] = {}
    for number, row in enumerate(rows):
        for pair in pairs(row):
            holding.setdefault(pair, []).append(number)
    uncovered, chosen = set(holding), []
    for pair in sorted(holding, key=lambda pair: (len(holding[pair]), pair)):
        if pair not in uncovered:
            continue
        best = max(holding[pair], key=lambda number: len(pairs(rows[number]) & uncovered))
        chosen.append(rows[best])
        uncovered -= pairs(rows[best])
    return chosen


def each_once(factors: Sequence[Iterable[str]], fits: Callable[[Row], bool]) -> list[Row]:
    """Rows that hold every choice, chosen greedily."""
    rows, chosen = all_rows(factors, fits), []
    missing = {(factor, choice) for row in rows for factor, choice in enumerate(row)}
    while missing:
        chosen.append(max(rows, key=lambda row: len(set(enumerate(row)) & missing)))
        missing -= set(enumerate(chosen[-1]))
    return chosen
