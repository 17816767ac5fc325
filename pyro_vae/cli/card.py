"""The model card of a run: what was trained on what, how well it does, and how to use it, for people."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pyro_vae.cli import results

__all__ = ["model_card"]

LEFT_OUT = {
    "data_dir",
    "run_dir",
    "resume",
    "no_pictures",
    "command",
    "checkpoint_every",
}  # options that say nothing of the model


def model_card(config: dict[str, Any], summary: dict[str, Any]) -> str:
    """A card in Markdown.

    Args:
        config: the content of `config.json`.
        summary: the content of `summary.json`.
    """
    data, name = config["data"], Path(config["data"]["name"]).name  # a path says where the user's files are
    rows = {split: _count(indices) for split, indices in data["indices"].items()}
    sections = [
        f"# {config['model']} of {name}",
        "## Model",
        _table(("part", "class and arguments"), [(k, _part(v)) for k, v in (config["arguments"] or {}).items() if v]),
        f"{summary['num_parameters']:,} parameters.",
        "## Data",
        f"{name}" + (f", in {data['unit']}." if data.get("unit") else "."),
        _table(("rows", "number", "SHA-256"), [(s, f"{n:,}", f"`{data['sha256'][s]}`") for s, n in rows.items()]),
        *_columns(data.get("columns")),
        "## Training",
        f"{summary['epochs']:,} epochs"
        + (
            f"; the validation bound was highest after epoch {summary['best_epoch']}." if summary["best_epoch"] else "."
        ),
        _table(("option", "value"), [(k, _part(v)) for k, v in config["options"].items() if _is_told(k, v)]),
        "## Numbers",
        f"```text\n{results.report(summary)}\n```",
        "## Use",
        '```python\nimport pyro_vae as pv\n\nvae = pv.load("PATH OF THIS FOLDER")\n```',
        "The numbers hold for rows that come from where these come from. log p(x) is a lower bound. `pyro-vae evaluate"
        " RUN --report` examines the model on the test rows, and says what asks for action.",
        _table(("package", "version"), config["versions"].items()),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _columns(columns: dict[str, Any] | None) -> list[str]:
    if not columns:
        return []
    kinds = {name: dict(kind) for name, kind in columns.items()}
    lines = [(name, kind.pop("kind", ""), _part(kind)) for name, kind in kinds.items()]
    return [_table(("column", "kind", "more"), lines)]


def _is_told(option: str, value: Any) -> bool:
    return option not in LEFT_OUT and value is not None


def _part(value: Any) -> str:
    """A described part, {"class": "priors.Normal", "arguments": {"latent_dim": 2}}, as it is written in Python."""
    if isinstance(value, dict) and "class" in value:
        arguments = ", ".join(f"{k}={_part(v)}" for k, v in value.get("arguments", {}).items() if v is not None)
        return f"{value['class']}({arguments})"
    if isinstance(value, dict):
        return ", ".join(f"{k}={_part(v)}" for k, v in value.items())
    if isinstance(value, list) and len(value) > 20:
        return f"[{len(value):,} entries]"
    return f"[{', '.join(map(_part, value))}]" if isinstance(value, list) else str(value)


def _count(ranges: str) -> int:
    """The number of rows in "7,3-5"."""
    ends = [part.split("-") for part in ranges.split(",") if part]
    return sum(int(end[-1]) - int(end[0]) + 1 for end in ends)


def _table(head: tuple[str, ...], lines: Any) -> str:
    rows = [tuple(_cell(cell) for cell in line) for line in lines]
    if not rows:
        return ""
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, ("---",) * len(head), *rows))


def _cell(value: Any) -> str:
    """A cell of a Markdown table; names of columns are the user's, and may hold anything."""
    text = " ".join(str(value).split())
    return text.replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|")
