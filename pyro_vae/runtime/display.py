"""How objects show themselves in a console, on one line, and in a notebook, as tables."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["Shown", "html_table", "model_line", "model_table", "one_line", "summary"]

WIDEST = 300  # characters of a line
MOST_OF_PARTS = 1500  # characters about the parts of a model
LONGEST = 20_000  # characters of a text in a notebook


class Shown:
    """A dataclass made with `repr=False`, whose `str` is a report: `repr` is one line, and a notebook shows the fields.

    A report of one's own is a method `__str__`.
    """

    def __str__(self) -> str:
        return ", ".join(f"{name}={value}" for name, value in self._summaries())

    def __repr__(self) -> str:
        return f"<{one_line(f'{type(self).__name__}: {self._headline()}')}>"

    def _headline(self) -> str:
        """What `repr` says: the first line of the report, unless that is the head of a table."""
        return str(self).strip().partition("\n")[0]

    def _repr_html_(self) -> str:
        text = str(self)
        text = text if len(text) <= LONGEST else text[:LONGEST] + "\n..."
        table = html_table(("field", "value"), self._summaries())
        return f"<pre>{escape(text)}</pre><details><summary>{type(self).__name__}: fields</summary>{table}</details>"

    def _summaries(self) -> list[tuple[str, str]]:
        names = [f.name for f in dataclasses.fields(self)]  # type: ignore[arg-type]
        return [(name, summary(getattr(self, name))) for name in names]


def one_line(text: str) -> str:
    """The text on one line of at most 300 characters."""
    line = " ".join(text.split())
    return line if len(line) <= WIDEST else f"{line[: WIDEST - 3]}..."


def html_table(head: Sequence[str], lines: Iterable[Sequence[Any]]) -> str:
    """A table in HTML; cells are escaped."""
    top = "".join(f"<th>{escape(str(name))}</th>" for name in head)
    rows = "".join("<tr>" + "".join(f"<td>{escape(str(cell))}</td>" for cell in line) + "</tr>" for line in lines)
    return f"<table><thead><tr>{top}</tr></thead><tbody>{rows}</tbody></table>"


def summary(value: Any) -> str:
    """A value in a few words: a tensor by its shape, dtype and range, a collection by its length.

    Example:
        >>> summary(torch.tensor([1.0, 2.5])), summary({"a": 1})
        ('(2,) float32, 1 to 2.5', '1 entry')
    """
    if isinstance(value, Tensor):
        if value.numel() == 1:
            return f"{value.item():.4g}"
        kind = f"{tuple(value.shape)} {str(value.dtype).removeprefix('torch.')}"
        known = value[~value.isnan()] if value.dtype.is_floating_point else value
        if not known.numel() or value.dtype in (torch.bool, torch.complex64, torch.complex128):
            return kind
        gaps = value.numel() - known.numel()
        return f"{kind}, {known.min().item():.4g} to {known.max().item():.4g}" + (f", {gaps:,} NaN" if gaps else "")
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, Mapping | list) or (isinstance(value, tuple) and len(value) > 5):
        return f"{len(value):,} {'entry' if len(value) == 1 else 'entries'}"
    return one_line(str(value))


def model_line(model: nn.Module, parts: Mapping[str, Any] | None) -> str:
    """A model on one line: its class, the parts that it was made of, and the number of its parameters."""
    made_of = ", ".join(f"{name}={_part(part)}" for name, part in (parts or {}).items() if part is not None)
    made_of = made_of if len(made_of) <= MOST_OF_PARTS else f"{made_of[: MOST_OF_PARTS - 3]}..."
    return f"{type(model).__name__}({made_of}) with {_count(model):,} parameters"


def model_table(model: nn.Module, parts: Mapping[str, Any] | None) -> str:
    """A model as a table in HTML: its parts, and each module that it holds with the number of its parameters."""
    made_of = [(name, _part(part)) for name, part in (parts or {}).items() if part is not None]
    children = [(name, type(child).__name__, f"{_count(child):,}") for name, child in model.named_children()]
    tables = [html_table(("part", "given as"), made_of)] if made_of else []
    tables += [html_table(("module", "class", "parameters"), children)] if children else []
    return f"<p>{type(model).__name__} with {_count(model):,} parameters</p>{''.join(tables)}"


def _part(part: Any) -> str:
    """A part by its constructor's arguments; without the modules that it holds."""
    if isinstance(part, nn.Module):
        return summary(f"{type(part).__name__}({part.extra_repr()})")
    return summary(part)


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
