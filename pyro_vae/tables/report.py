"""What a table is, as text and as HTML."""

from __future__ import annotations

from html import escape

import numpy as np

from pyro_vae.runtime.display import html_table
from pyro_vae.tables.schema import ColumnSchema, TableSchema

__all__ = ["as_html", "as_text", "title"]

MOST_MODELLED, MOST_LEFT_OUT, WIDEST = 36, 16, 40  # lines, lines and characters
HEAD = ("column", "kind", "levels or range", "missing", "likelihood")


def title(schema: TableSchema, num_rows: int) -> str:
    """One line about a table."""
    left_out = len(schema.left_out)
    more = f"; {_counted(left_out, 'column')} left out" if left_out else ""
    covariates = len(schema.covariates)
    more = (f" and {_counted(covariates, 'covariate')}" if covariates else "") + f" ({schema.library}){more}"
    return f"Table of {_counted(num_rows, 'row')} and {_counted(len(schema.modelled), 'column')}{more}"


def as_text(schema: TableSchema, missing: np.ndarray, num_rows: int) -> str:
    """A report of at most sixty lines.

    Args:
        schema: the schema.
        missing: the share of missing cells of each modelled column, (D,).
        num_rows: the number of rows.
    """
    from pyro_vae.reporting import table

    modelled, left_out = _lines(schema, missing)
    text = title(schema, num_rows) + "\n\n" + table([dict(zip(HEAD, line, strict=True)) for line in modelled])
    text += _rest(_num_lines(schema), MOST_MODELLED)
    if left_out:
        text += "\n\nLeft out:\n" + "\n".join(f"  {name}: {why}" for name, why in left_out)
        text += _rest(len(schema.left_out), MOST_LEFT_OUT)
    return text


def as_html(schema: TableSchema, missing: np.ndarray, num_rows: int) -> str:
    """The same report as HTML; all that comes from the data is escaped."""
    modelled, left_out = _lines(schema, missing)
    text = f"<p>{escape(title(schema, num_rows))}</p>{html_table(HEAD, modelled)}"
    if _num_lines(schema) > MOST_MODELLED:
        text += f"<p>{escape(_rest(_num_lines(schema), MOST_MODELLED).strip())}</p>"
    if left_out:
        items = "".join(f"<li>{escape(name)}: {escape(why)}</li>" for name, why in left_out)
        text += f"<p>Left out:</p><ul>{items}</ul>"
    if len(schema.left_out) > MOST_LEFT_OUT:
        text += f"<p>{escape(_rest(len(schema.left_out), MOST_LEFT_OUT).strip())}</p>"
    return text


def _lines(schema: TableSchema, missing: np.ndarray) -> tuple[list[tuple[str, ...]], list[tuple[str, str]]]:
    shares = dict(zip(schema.names, missing, strict=True))
    shown = [column for column in schema.columns if column.covariate or column.kind.modelled][:MOST_MODELLED]
    modelled = [_line(column, float(shares.get(column.name, 0.0))) for column in shown]
    left_out = [(_short(column.name), _why(column)) for column in schema.left_out[:MOST_LEFT_OUT]]
    return modelled, left_out


def _num_lines(schema: TableSchema) -> int:
    """The number of lines of the report: of columns of x and covariates."""
    return len(schema.modelled) + len(schema.covariates)


def _line(column: ColumnSchema, missing: float) -> tuple[str, ...]:
    share = "0" if missing == 0 else f"{100 * missing:.1f} %" if missing >= 0.001 else "< 0.1 %"
    likelihood = "(covariate)" if column.covariate else type(column.kind.likelihood(1)).__name__
    return _short(column.name), column.kind.name, _short(column.kind.describe(), 60), share, likelihood


def _why(column: ColumnSchema) -> str:
    advice = getattr(column.kind, "advice", "")
    return _short(column.kind.describe(), 80) + (f" ({_short(advice, 120)})" if advice else "")


def _rest(count: int, most: int) -> str:
    return f"\n... and {count - most:,} more" if count > most else ""


def _counted(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def _short(text: str, most: int = WIDEST) -> str:
    """The text on one line, cut to so many characters."""
    line = "".join(letter if letter.isprintable() else " " for letter in text)
    return line if len(line) <= most else line[: most - 3] + "..."
