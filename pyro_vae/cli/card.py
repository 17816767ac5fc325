"""The model card of a run: what was trained on what, how well it does, and how to use it, for people."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from pyro_vae.cli import results
from pyro_vae.datasets import Splits
from pyro_vae.models import VAE
from pyro_vae.web.trained import what_was_trained

__all__ = ["model_card"]


def model_card(vae: VAE, splits: Splits, config: dict[str, Any], summary: dict[str, Any]) -> str:
    """A card in Markdown, which says of the run what the report for a browser says.

    Args:
        vae: the model.
        splits: its data.
        config: the content of `config.json`.
        summary: the content of `summary.json`.
    """
    trained = what_was_trained(vae, splits, config)
    trained["Data"] += [(f"SHA-256 of the {split} rows", digest) for split, digest in config["data"]["sha256"].items()]
    name = dict(trained["Data"])["name"]
    sections = [f"# {config['model']} of {_escaped(name)}"]
    for heading, lines in trained.items():
        sections += [f"## {heading}", _table(("", ""), lines)]
    if splits.table is not None:
        columns = [column for column in splits.table.schema.columns if not column.covariate]
        kinds = [(column.name, column.kind.name, column.kind.describe()) for column in columns]
        sections += ["## Columns", _table(("column", "kind", "levels or range"), kinds)]
    sections += [
        "## Numbers",
        f"```text\n{results.report(summary)}\n```",
        "## Use",
        '```python\nimport pyro_vae as pv\n\nvae = pv.load("PATH OF THIS FOLDER")\n```',
        f"The numbers hold for rows that come from where these come from. {_density(vae)} is a lower bound. `pyro-vae"
        " evaluate RUN --report` examines the model on the test rows, and says what asks for action.",
    ]
    return "\n\n".join(sections) + "\n"


def _density(vae: VAE) -> str:
    return "log p(x)" if vae.covariates is None else "log p(x given the covariates)"


def _table(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    rows = [[_escaped(cell) for cell in line] for line in lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, ("---",) * len(head), *rows))


def _escaped(text: str) -> str:
    """A text in Markdown; names of columns are the user's, and may hold anything."""
    return " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|").replace("`", "\\`")
