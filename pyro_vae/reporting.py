"""Reports and tables in plain text."""

from __future__ import annotations

from typing import Any

__all__ = ["show", "table"]


def show(text: str) -> None:
    """Print a report."""
    print(text)


def table(rows: list[dict[str, Any]]) -> str:
    """Rows of a table as aligned text: names to the left, numbers to the right."""
    columns = list(rows[0])
    text = [[_cell(row[column]) for column in columns] for row in rows]
    widths = [max(len(line[i]) for line in [columns, *text]) for i in range(len(columns))]
    left = [isinstance(rows[0][column], str) for column in columns]
    return "\n".join(
        "  ".join(
            cell.ljust(w) if flush else cell.rjust(w) for cell, w, flush in zip(line, widths, left, strict=True)
        ).rstrip()
        for line in [columns, *text]
    )


def _cell(value: Any) -> str:
    return "" if value is None else f"{value:.3f}" if isinstance(value, float) else str(value)
