"""What stands in the report, from what `evaluate` found, and the page that it is written into."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyro_vae.criticism.diagnosis import Diagnosis
from pyro_vae.criticism.latents.conditions import at_random
from pyro_vae.datasets import Splits
from pyro_vae.models import VAE
from pyro_vae.reporting import cell_text
from pyro_vae.saving import files
from pyro_vae.web import check_figures, figures, table_figures
from pyro_vae.web.covariates import under
from pyro_vae.web.figures import Figure
from pyro_vae.web.latent_part import LatentPart, latent_part
from pyro_vae.web.numbers import sentence
from pyro_vae.web.trained import what_was_trained

__all__ = ["Content", "render", "write"]

TEMPLATES = Path(__file__).parent / "templates"
NAMES = {"log_likelihood": "log-likelihood", "elbo": "ELBO", "reconstruction": "reconstruction", "kl": "KL"}
SPLITS = {"test": "test", "valid": "validation", "train": "training"}
TABLE_ROWS, TABLE_DRAWS = 5000, 2000  # of the data, and from the model, in figures of columns


@dataclass(frozen=True)
class Content:
    """What a report is made of.

    Attributes:
        run: the name of the run.
        vae: the model.
        splits: its data.
        found: the diagnosis on test rows.
        numbers: means over rows by split, "test", "valid" and "train", as `evaluation.json` and `summary.json` have
            them; a split that is absent was not computed.
        lines: the table that the terminal shows, a dictionary for each line.
        notes: the lines beneath it.
        config: the content of `config.json`.
        seed: the seed of the evaluation.
    """

    run: str
    vae: VAE
    splits: Splits
    found: Diagnosis
    numbers: Mapping[str, Mapping[str, Any]]
    lines: list[dict[str, Any]]
    notes: list[str]
    config: Mapping[str, Any]
    seed: int


def write(file: Path, content: Content) -> Path:
    """Write the report as one HTML file that loads nothing from elsewhere.

    Raises:
        ImportError: if plotly or jinja2 is not installed.
    """
    files.write_text(file, render(content))
    return file


def render(content: Content) -> str:
    """The report as HTML: all text that comes from the data or the run is escaped.

    Raises:
        ImportError: if plotly or jinja2 is not installed.
    """
    jinja2, markup, plotly_js = _libraries()
    part, groups = _figures(content)
    drawn = {figure.name: figure for group in groups.values() for figure in group}
    page: dict[str, Any] = {
        "figures": {name: {"data": one.data, "layout": one.layout} for name, one in drawn.items()},
        "map": part.rows,
        "traversal": part.traversal,
    }
    found = content.found
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    checks = None if found.checks is None else found.checks.lines()
    text: str = environment.get_template("report.html.j2").render(
        run=content.run,
        data=Path(content.splits.name).name,
        found=found,
        others=[finding for finding in found.findings if not finding.advice],
        sentences=_sentences(content.numbers),
        table_of_numbers=_as_text(content.lines),
        notes=content.notes,
        checks=None if not checks else _as_text(checks),
        about_checks=None if found.checks is None else str(found.checks).splitlines()[-3:],
        trained=what_was_trained(content.vae, content.splits, content.config),
        groups=groups,
        under=under(content.vae, "rows of the data chosen at random"),
        part=part,
        page=markup(_as_json(page)),
        plotly=markup(plotly_js),
        seed=content.seed,
    )
    return text


def _libraries() -> tuple[Any, Any, str]:
    """jinja2, the class of texts that it does not escape, and the code of plotly.js."""
    try:
        import jinja2
        from markupsafe import Markup
        from plotly.offline import get_plotlyjs
    except ImportError as error:
        raise ImportError(
            f"report.html must be made with plotly and jinja2; got {error}. Install them: pip install"
            " 'pyro-vae[report]'."
        ) from error
    return jinja2, Markup, get_plotlyjs()


def _as_json(page: dict[str, Any]) -> str:
    """The page's data as JSON that can stand within a script element, whatever texts it holds."""
    text = json.dumps(page, separators=(",", ":"), allow_nan=False)
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _figures(content: Content) -> tuple[LatentPart, dict[str, list[Figure]]]:
    """The part about latents, and the figures by group."""
    found, part = content.found, latent_part(content.vae, content.splits.test)
    curve = figures.training(content.vae.history)
    reliable = figures.khat(found.log_likelihood)
    groups = {
        "training": [] if curve is None else [curve],
        "latents": [] if part.figure is None else [part.figure],
        "use": [] if found.use is None else figures.kl(found.use),
        "columns": _of_columns(content),
        "checks": [] if found.checks is None else check_figures.predictive_checks(found.checks),
        "calibration": check_figures.calibration(found.checks, found.calibration),
        "evidence": [] if reliable is None else [reliable],
    }
    return part, groups


def _of_columns(content: Content) -> list[Figure]:
    """Each column of a table beside draws from the model."""
    table = content.splits.table
    if table is None:
        return []
    rows, schema = table.subset(slice(0, TABLE_ROWS)), table.schema
    given = at_random(content.vae, rows, TABLE_DRAWS, content.seed)
    drawn = schema.decode(content.vae.sample(TABLE_DRAWS, seed=content.seed, fields=given))
    levels = {name: getattr(kind, "levels", ()) for name, kind in schema.kinds.items() if hasattr(kind, "levels")}
    return table_figures.marginals(schema.decode(rows.x), drawn, levels)


def _sentences(numbers: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The numbers of each split in words: all of the test rows, and the ELBO of the others."""
    test, found = numbers.get("test", {}), []
    for name, words in NAMES.items():
        rows = test.get("likelihood", {}).get("rows") if name == "log_likelihood" else test.get("rows")
        found.append(sentence(f"test {words}", test.get(name), rows))
    for split in ("valid", "train"):
        known = numbers.get(split, {})
        found.append(sentence(f"{SPLITS[split]} ELBO", known.get("elbo"), known.get("rows")))
    return found


def _as_text(lines: list[dict[str, Any]]) -> list[list[str]]:
    """A table as the terminal shows it, cell by cell, names of the columns first."""
    return [list(lines[0]), *([cell_text(value) for value in line.values()] for line in lines)]
