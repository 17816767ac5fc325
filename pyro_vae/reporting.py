"""Reports and tables in plain text."""

from __future__ import annotations

from typing import Any

__all__ = ["cell_text", "show", "table"]


def show(text: str) -> None:
    """Print a report."""
    print(text)


def table(lines: list[dict[str, Any]]) -> str:
    """A table as aligned text, names to the left and numbers to the right.

    Args:
        lines: a dictionary for each line of the table, from column name to value; None leaves a cell empty.

    Example:
        >>> print(table([{"guide": "Normal", "gap": 0.5}, {"guide": "Flow", "gap": 0.125}]))
        guide     gap
        Normal  0.500
        Flow    0.125
    """
    columns = list(lines[0])
    text = [[cell_text(line[column]) for column in columns] for line in lines]
    widths = [max(len(cells[i]) for cells in [columns, *text]) for i in range(len(columns))]
    left = [_is_name(lines[0][column]) for column in columns]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if is_name else cell.rjust(width)
            for cell, width, is_name in zip(cells, widths, left, strict=True)
        ).rstrip()
        for cells in [columns, *text]
    )


def _is_name(value: Any) -> bool:
    """Whether this is text, and not a bound, such as ">= -85.672"."""
    return isinstance(value, str) and not value.startswith((">= ", "<= "))


def cell_text(value: Any) -> str:
    """The text of a cell: floating-point numbers with three digits, and nothing for None."""
    return "" if value is None else f"{value:.3f}" if isinstance(value, float) else str(value)
