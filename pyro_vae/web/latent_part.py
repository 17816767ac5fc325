"""The report's part about latents: the map with each row's picture or cells, and the traversal."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

from pyro_vae.criticism.latents.conditions import conditions
from pyro_vae.data.rows import Rows
from pyro_vae.models import VAE
from pyro_vae.web.covariates import in_words
from pyro_vae.web.figures import Figure, latent_map, numbers
from pyro_vae.web.latents import check_real_latents, labels_of, plane_of, posterior, traverse
from pyro_vae.web.views import View, view_of

__all__ = ["LatentPart", "latent_part"]

MAP_ROWS = 1000  # points of the map, the first test rows
MAP_SIZE, TRAVERSAL_SIZE = 1_200_000, 1_000_000  # largest numbers of characters of pictures or cells


@dataclass(frozen=True)
class LatentPart:
    """What the page has of the latents.

    Attributes:
        figure: the map; None where there is none.
        rows: for the page's script, the rows of the map.
        traversal: for the page's script, the traversal.
        refused: why there is neither; empty where there are both.
        moved: about the traversal, in words.
    """

    figure: Figure | None = None
    rows: dict[str, Any] | None = None
    traversal: dict[str, Any] | None = None
    refused: str = ""
    moved: str = ""


def latent_part(vae: VAE, rows: Rows) -> LatentPart:
    """The map and the traversal of test rows.

    Args:
        vae: the model.
        rows: the test rows, of which the first 1,000 are drawn.
    """
    try:
        check_real_latents(vae, "The map and the traversal of the latents")
    except NotImplementedError as error:
        return LatentPart(refused=str(error))
    drawn = rows.subset(slice(0, MAP_ROWS)).drawn(vae.like)
    view, labels = view_of(vae, drawn), labels_of(drawn)
    means, _ = posterior(vae, drawn, num_draws=1)
    plane = plane_of(means)
    shown = _shown(vae, view, drawn, means)
    what = "picture and its reconstruction" if view.kind == "picture" else "cells"
    first = "" if len(rows) == len(drawn) else f"the first {len(drawn):,} of "
    about = f"A point is the posterior mean of a test row ({first}{len(rows):,}): hover to see the row's {what}."
    if len(shown) < len(drawn):
        about += f" To keep this file small, only the first {len(shown):,} rows have theirs."
    names = None if labels is None else [str(label) for label in labels.tolist()]
    own = conditions(vae, drawn.subset([0]))
    traversal = asdict(traverse(vae, view, means[0], means.var(0, correction=0), budget=TRAVERSAL_SIZE, fields=own))
    count = len(traversal["dims"])
    kept = "" if count == means.shape[1] else f" The {count} of {means.shape[1]} latents whose means vary most."
    given = in_words(vae, drawn)
    moved = (
        "E[x | z] as one latent moves from -3 to 3 standard deviations of the prior, the others as in the first test"
        f" row{f', under its covariates ({given[0]})' if given[0] else ''}.{kept}"
    )
    points = {"x": numbers(plane.points[:, 0]), "y": numbers(plane.points[:, 1])}
    return LatentPart(
        latent_map(plane, labels, about),
        {"kind": view.kind, "columns": view.columns, "shown": shown, "labels": names, "given": given, **points},
        {"kind": view.kind, "columns": view.columns, **traversal},
        moved=moved,
    )


def _shown(vae: VAE, view: View, rows: Rows, means: Any) -> list[list[Any]]:
    """Of each row what is shown: the row, and for pictures its reconstruction, as many as the size allows."""
    pieces = [view.show(rows.take(slice(None), like=vae.like)["x"])]
    if view.kind == "picture":
        pieces.append(view.show_means(vae.decode(means, **conditions(vae, rows))))
    found, left = [], MAP_SIZE
    for row in zip(*pieces, strict=True):
        left -= len(json.dumps(row))
        if left < 0:
            break
        found.append(list(row))
    return found
