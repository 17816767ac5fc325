"""A page for each script of `examples/`: its docstring, the figures and tables of a run, and its code.

Every example runs as a reader runs it, as a script of its own with `--out`; the figures are the PNG files that it saves
there. An example that fails fails the build. Results are kept in `docs/gallery/smoke` and `docs/gallery/full` until the
text of the example changes: remove these folders to run everything again.
"""

from __future__ import annotations

import ast
import hashlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from sphinx.application import Sphinx
from sphinx.errors import ExtensionError
from sphinx.util import logging
from sphinx.util.display import status_iterator

logger = logging.getLogger(__name__)
COMMAND = "PYRO_VAE_GALLERY=full sphinx-build -W --keep-going docs build/site"
SMOKE = f"""\
:::{{note}}
This copy of the site was built in smoke mode: examples ran for a few seconds, to see whether they work, so that figures
and numbers say nothing. `{COMMAND}` runs them in full.
:::
"""


def run(path: Path, folder: Path, mode: str) -> str | None:
    """Run an example, unless this has been done; the end of its output if it failed."""
    key = hashlib.sha256(path.read_bytes()).hexdigest()
    stamp = folder / "key.txt"
    if stamp.exists() and stamp.read_text() == key:
        return None
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    command = [sys.executable, str(path), "--out", str(folder), *(["--smoke"] if mode == "smoke" else [])]
    environment = os.environ | {"MPLBACKEND": "Agg"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        return f"{path.name} failed:\n{done.stdout[-1000:]}{done.stderr[-3000:]}"
    (folder / "printed.txt").write_text(done.stdout)
    stamp.write_text(key)
    return None


def title_and_text(path: Path) -> tuple[str, str]:
    """The first sentence of a docstring as a title, up to a colon or question mark; and the rest."""
    text = ast.get_docstring(ast.parse(path.read_text())) or ""
    title, mark, rest = re.split(r"(\? |: |\.\n)", text, maxsplit=1)
    return title + mark.strip(": .\n"), (rest[:1].upper() + rest[1:]).strip()


def page(path: Path, folder: Path, mode: str, source: str) -> str:
    """The page of one example, in Markdown."""
    title, text = title_and_text(path)
    kept = f"{mode}/{path.stem}"
    text = text.replace("What to look for\n", "**What to look for**\n\n")
    # A figure links to itself, so that it can be enlarged on a phone.
    figures = [f"[![{figure.name}]({kept}/{figure.name})]({kept}/{figure.name})\n" for figure in figures_of(folder)]
    printed = f"## What it prints\n\n```{{literalinclude}} {kept}/printed.txt\n:language: text\n```\n"
    first = (ast.parse(path.read_text()).body[0].end_lineno or 0) + 2
    code = f"## The code\n\n{{download}}`{path.name} <{source}>`\n"
    code += f"\n```{{literalinclude}} {source}\n:lines: {first}-\n```\n"
    return "\n".join([f"# {title}\n", text, "", *([SMOKE] if mode == "smoke" else []), *figures, printed, code])


def figures_of(folder: Path) -> list[Path]:
    """The figures of an example, the one that is named like it first."""
    return sorted(folder.glob("*.png"), key=lambda figure: (figure.stem != folder.name, figure.name))


def card(path: Path, folder: Path, mode: str) -> str:
    title, _ = title_and_text(path)
    figure = f"{mode}/{path.stem}/{figures_of(folder)[0].name}"
    return f"::::{{grid-item-card}} {title}\n:link: {path.stem}\n:link-type: doc\n:img-top: {figure}\n::::\n"


def make_pages(app: Sphinx) -> None:
    """Run the examples and write `gallery/index.md` and the page of each."""
    mode, folder = app.config.gallery_mode, Path(app.srcdir) / "gallery"
    if mode not in ("smoke", "full"):
        raise ExtensionError(f"PYRO_VAE_GALLERY must be smoke or full; got {mode!r}.")
    examples = {path.stem: path for path in sorted((Path(app.srcdir) / app.config.gallery_examples).glob("*.py"))}
    groups = dict(app.config.gallery_groups)
    listed = {name for names in groups.values() for name in names}
    if unknown := listed - set(examples):
        raise ExtensionError(f"gallery_groups must name files of {app.config.gallery_examples}; got {sorted(unknown)}.")
    if others := [name for name in examples if name not in listed]:
        groups["More"] = others
    failures = [
        failure
        for path in status_iterator(examples.values(), f"running examples ({mode}) ", length=len(examples))
        if (failure := run(path, folder / mode / path.stem, mode))
    ]
    if failures:
        raise ExtensionError("\n\n".join(failures))
    lines = [
        "# Examples\n",
        "Each example is a script of at most 120 lines that takes at most a few minutes on two cores. It prints its",
        "numbers and saves its figures to `figures/`: for instance `python examples/first_vae.py`.\n",
        *([SMOKE] if mode == "smoke" else []),
    ]
    for group, names in groups.items():
        cards = "\n".join(card(examples[name], folder / mode / name, mode) for name in names)
        lines.append(f"## {group}\n\n:::::{{grid}} 1 2 2 2\n:gutter: 3\n\n{cards}\n:::::\n")
        lines.append("```{toctree}\n:hidden:\n\n" + "\n".join(names) + "\n```\n")
    write(folder / "index.md", "\n".join(lines))
    for name, path in examples.items():
        source = os.path.relpath(path, folder)
        write(folder / f"{name}.md", page(path, folder / mode / name, mode, source))


def write(path: Path, text: str) -> None:
    """Write a page if it changed, so that Sphinx does not read it again for nothing."""
    if not path.exists() or path.read_text() != text:
        path.write_text(text)


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_config_value("gallery_examples", "../examples", "env")
    app.add_config_value("gallery_mode", "smoke", "env")
    app.add_config_value("gallery_groups", {}, "env")
    app.connect("builder-inited", make_pages)
    return {"parallel_read_safe": True}
