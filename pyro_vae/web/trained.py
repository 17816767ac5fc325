"""What was trained: data, parts, estimator, options, versions and seed, as names and texts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pyro_vae.datasets import Splits
from pyro_vae.likelihoods import Product
from pyro_vae.models import VAE
from pyro_vae.web.covariates import lines_of, reached

__all__ = ["what_was_trained"]

MOST = 400  # characters of a text
OMITTED = ("no_pictures", "num_likelihood_particles", "num_likelihood_rows", "checkpoint_every")  # not about the model
Lines = list[tuple[str, str]]


def what_was_trained(vae: VAE, splits: Splits, config: Mapping[str, Any]) -> dict[str, Lines]:
    """Lines under "Data", "Model", "Covariates", "Training" and "Versions"; folders of files are left out.

    Args:
        vae: the model.
        splits: the data.
        config: the content of `config.json`; entries that are absent are left out.
    """
    parts = {"Data": _data(splits), "Model": _model(vae)}
    known = [(name, _text(f"{kind}, {range_of}" if range_of else kind)) for name, kind, range_of in lines_of(vae)]
    if known:
        parts["Covariates"] = [*known, ("they reach", reached(vae))]
    parts["Training"] = _training(config)
    versions = config.get("versions")
    if isinstance(versions, Mapping):
        parts["Versions"] = [(str(name), _text(value)) for name, value in versions.items()]
    return {heading: lines for heading, lines in parts.items() if lines}


def _data(splits: Splits) -> Lines:
    rows = {"training": splits.train, "validation": splits.valid, "test": splits.test}
    counts = ", ".join(f"{len(part):,} {name}" for name, part in rows.items())
    cells = " x ".join(map(str, splits.event_shape))
    lines = [("name", Path(splits.name).name), ("rows", counts), ("cells of a row", cells), ("unit", splits.unit)]
    if splits.table is not None:
        schema, missing = splits.table.schema, splits.table.x.isnan().double().mean()
        lines += [("missing cells", f"{float(missing):.1%}")]
        kinds = [f"{c.name} ({c.kind.name})" for c in schema.modelled]
        left_out = [f"{c.name} ({c.kind.describe()})" for c in schema.left_out]
        lines += [("columns", _text(", ".join(kinds))), ("left out", _text(", ".join(left_out)))]
    return [(name, text) for name, text in lines if text]


def _model(vae: VAE) -> Lines:
    count = sum(parameter.numel() for parameter in vae.parameters())
    parts = {name: part for name, part in vae.made_of().items() if part is not None and name != "covariates"}
    lines = [(name, _blocks(part) if isinstance(part, Product) else _text(part)) for name, part in parts.items()]
    return [*lines, ("parameters", f"{count:,}")]


def _blocks(likelihood: Product) -> str:
    """The kinds of a product's blocks with their columns."""
    return _text("; ".join(f"{type(block).__name__} of {name}" for name, block in likelihood.blocks))


def _training(config: Mapping[str, Any]) -> Lines:
    options = config.get("options")
    if not isinstance(options, Mapping):
        return []
    first = [("estimator", _text(options.get("elbo")))] if options.get("elbo") is not None else []
    rest = [
        (str(name).replace("_", " "), _text(value))
        for name, value in options.items()
        if name not in (*OMITTED, "elbo") and value is not None
    ]
    return [*first, *rest, ("seed", _text(config.get("seed")))]


def _text(value: Any) -> str:
    """A value in words, not longer than 400 characters."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        value = ", ".join(map(str, value))
    text = " ".join(str(value).split())
    return text if len(text) <= MOST else f"{text[: MOST - 3]}..."
