"""Docstrings and pages as Sphinx reads them: asterisks, bars and underscores in formulas are plain characters."""

from __future__ import annotations

import re
from typing import Any

from sphinx.application import Sphinx

# In this order: code in backticks, a title in asterisks (which may span lines), a character that is markup in reST.
ONE_LETTER = re.compile(r"(?<=: )([A-Za-z])(?=\.(\s|$))", re.MULTILINE)  # "K." would be an item of a list
MARKS = re.compile(r"(``[^`]+``|`[^`]+`)|((?<!\S)\*[A-Z][-\w ][^*`]+\*(?!\w))|([*|]|_(?!\w))")


def plain(match: re.Match[str]) -> str:
    code, title, mark = match.groups()
    if code:
        return code if code.startswith("``") else f"`{code}`"
    return title or "\\" + mark


def escape(lines: list[str]) -> None:
    """Escape the lines of one docstring in place, except its examples."""
    pieces: list[tuple[bool, list[str]]] = []
    example = False
    for line in lines:
        example = bool(line.strip()) and (example or line.lstrip().startswith(">>>"))
        if not pieces or pieces[-1][0] != example:
            pieces.append((example, []))
        pieces[-1][1].append(line)
    lines[:] = [
        line
        for example, piece in pieces
        for line in (piece if example else ONE_LETTER.sub(r"\\\1", MARKS.sub(plain, "\n".join(piece))).split("\n"))
    ]


def on_docstring(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    escape(lines)


def on_page(app: Sphinx, name: str, source: list[str]) -> None:
    """Leave out the empty line that ends a block for doctest."""
    source[0] = re.sub(r"(```python\n.*?)\n+```\n", r"\1\n```\n", source[0], flags=re.DOTALL)


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("autodoc-process-docstring", on_docstring, priority=400)  # before napoleon, which has 500
    app.connect("source-read", on_page)
    return {"parallel_read_safe": True}
