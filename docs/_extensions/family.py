"""The directive `family`: a table of public names with their first paragraphs, then the docstring of each.

```{family} pyro_vae.priors
Normal
Laplace
```
"""

from __future__ import annotations

import inspect
from operator import attrgetter

from docstrings import escape
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

import pyro_vae


def documented(path: str) -> list[str]:
    """The lines, in reStructuredText, that document the object of this name."""
    value = attrgetter(path.removeprefix("pyro_vae."))(pyro_vae)
    if inspect.isclass(value):
        return [f".. autoclass:: {path}", "   :members:", ""]
    if inspect.isroutine(value):
        return [f".. autofunction:: {path}", ""]
    text = " ".join(repr(value).split())
    return [f".. py:data:: {path}", *([f"   :value: {text}"] if len(text) < 80 else []), ""]


def summary(path: str) -> list[str]:
    """A row of the table: the name, and the first paragraph of the docstring."""
    lines = (inspect.getdoc(attrgetter(path.removeprefix("pyro_vae."))(pyro_vae)) or "").split("\n\n")[0].split("\n")
    escape(lines)
    return [f"   * - :py:obj:`~{path}`", f"     - {' '.join(line.strip() for line in lines)}"]


class Family(SphinxDirective):
    required_arguments = 1
    has_content = True

    def run(self) -> list[nodes.Node]:
        paths = [f"{self.arguments[0]}.{name.strip()}" for name in self.content if name.strip()]
        described = [path for path in paths if callable(attrgetter(path.removeprefix("pyro_vae."))(pyro_vae))]
        table = [".. list-table::", "   :align: left", "", *(line for path in described for line in summary(path)), ""]
        lines = [*(table if len(described) > 1 else []), *(line for path in paths for line in documented(path))]
        return self.parse_text_to_nodes("````{eval-rst}\n" + "\n".join(lines) + "\n````\n")


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("family", Family)
    return {"parallel_read_safe": True}
