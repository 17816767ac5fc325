"""What differs between two levels of a field: the door, where arguments and data are checked."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from pyro_vae.arguments import positive_integer
from pyro_vae.criticism.checks.fields import fields_read
from pyro_vae.criticism.checks.transforms import column_names, columns_of_statistics
from pyro_vae.criticism.contrasts.draws import Draws, LatentDraws, draws_of_means, draws_of_statistic, joined
from pyro_vae.criticism.contrasts.results import Contrast
from pyro_vae.criticism.contrasts.sides import Sides, check_design, read_sides
from pyro_vae.criticism.statistics import Statistic
from pyro_vae.data.frames import check_alignment
from pyro_vae.data.rows import Rows
from pyro_vae.evaluation import UnreliableWarning
from pyro_vae.evaluation.results import SMALL_SHARE
from pyro_vae.fields import split_fields
from pyro_vae.imputation.refits import check_refit, refits
from pyro_vae.inference.chunks import program_structure
from pyro_vae.model import LatentVariableModel, check_model
from pyro_vae.runtime.random import PREDICTIVE, seeded

__all__ = ["contrast"]


def contrast(
    model: LatentVariableModel,
    x: Any,
    field: str,
    levels: tuple[Any, Any],
    statistic: Statistic | None = None,
    *,
    rows: str | None = None,
    by: Any = None,
    scale: str = "difference",
    num_samples: int = 1000,
    num_candidates: int = 1000,
    refit: str | None = None,
    refit_options: Mapping[str, Any] | None = None,
    num_refits: int = 50,
    seed: int | None = None,
    **fields: Any,
) -> Contrast:
    """What differs between two levels (A, B) of a field, B - A or log(B / A), with draws that carry its uncertainty.

    Draws are over the posterior of the latents of all rows: each row's are resampled from draws of the guide by their
    importance weights. The parameters of the model are taken as known and the rows as given. With rows="all" most of
    what is unknown about an effect is in the parameters, and no interval holds it unless the model is fitted again.

    Args:
        model: the fitted model.
        x: rows (N, *E), in any form that `fit` takes; missing cells are allowed where the model allows for them.
        field: the name of a field with one value for each row: one that the model reads, such as a covariate; for
            rows="own" also any other that is passed by keyword, as text or numbers.
        levels: (A, B), two values of the field.
        statistic: what is compared in place of predictive means E[x | z]: a function of replicated data (rows, *E), as
            in `pv.check`, whose further parameters without a default name fields of the rows. One with a value for each
            row is averaged over rows. Replicated data have observation noise, which the draws then contain.
        rows: "all": every row is decoded under A and under B with the same draw of its latents, and the averages over
            the rows are compared (counterfactual, g-computation; standardized over the rows). That this is an effect of
            the field is an assumption about the world. "own": rows observed at B are compared with rows observed at A,
            each decoded under its own fields: what differs between them, not adjusted. By default "all" where the
            decoder reads the field, and else "own".
        by: the name of a field, or one label for each row: a contrast within each group of rows.
        scale: "difference", or "log ratio": the natural logarithm of the ratio of the two averages.
        num_samples: S, draws of the contrast, at least 2; as many of each refitted copy, rounded up.
        num_candidates: K, draws of the latents from the guide for each row, of which S are resampled.
        refit: "bootstrap" fits copies of the model on, each to as many rows drawn with replacement, and takes the draws
            from all of them, so that they carry an estimate of what is unknown about the parameters. The rows must be
            those of training.
        refit_options: arguments of `fit` for these copies, such as {"epochs": 50}.
        num_refits: the number of copies, at least 2. The ends of 95 % intervals need fifty or more.
        seed: seed of the draws.
        **fields: named per-row fields, as in `elbo`; also those that `field`, `by` or the statistic name.

    Raises:
        TypeError: if the model, the field's name or the statistic is of another type.
        ValueError: if the field or a level is unknown, levels are the same, one has no rows, rows="all" would have no
            effect, averages are not positive for a log ratio, or a statistic is not finite or changes its shape.
        NotImplementedError: if a latent is global, or cells have no mean in closed form and there is no statistic.

    References:
        *A New Approach to Causal Inference in Mortality Studies with a Sustained Exposure Period* (Robins, 1986), on
        g-computation; *Deep Generative Modeling for Single-Cell Transcriptomics* (Lopez et al., 2018), Nature Methods
        15, on contrasts of a VAE's rows
    """
    design = check_design(check_model(model), field, levels, rows)
    _check_options(statistic, scale, num_samples, num_candidates)
    check_refit(refit, refit_options, single=False)
    positive_integer("num_refits", num_refits, 2)
    read, names, outside = _read(model, x, field, by, statistic, fields)
    with seeded(seed, PREDICTIVE):
        read = read.drawn(model.like)
        sides = read_sides(model, _with_fields_of(read, statistic, outside), field, tuple(levels), design, outside, by)
        structure = program_structure(model, sides.rows, names)
        if structure.joint:
            raise NotImplementedError(
                "Rows must be independent to be contrasted; got a global latent. Draw from its posterior by hand."
            )
        copies, each = (iter([model]), num_samples)
        if refit is not None and refit_options is not None:
            copies = refits(model, read, num_refits, refit_options, names, seed)
            each = -(-num_samples // num_refits)
        columns = (
            [str(name) for name in column_names(read)] if statistic is None else columns_of_statistics(model, read)
        )
        parts = []
        for copy in copies:
            latents = LatentDraws(copy, sides.rows, names, structure, each, num_candidates)
            if statistic is None:
                parts.append(draws_of_means(latents, sides, columns))
            else:
                parts.append(draws_of_statistic(latents, sides, columns, statistic, _name_of(statistic)))
    drawn = joined(parts)
    _warn_without_effect(drawn, field, design)
    shown = (str(levels[0]), str(levels[1]))
    values = _compared(drawn, shown, scale, sides.groups)
    result = Contrast(
        draws=values.squeeze(1) if sides.groups is None else values,
        field=field,
        levels=shown,
        rows=design,
        scale=scale,
        quantity="predictive means" if statistic is None else _name_of(statistic),
        names=drawn.names,
        groups=sides.groups,
        counts=sides.counts,
        khat=drawn.khat,
        ess=drawn.ess,
        independent=_independent(drawn.ess, sides),
        num_candidates=num_candidates,
        num_refits=0 if refit is None else num_refits,
    )
    _warn_if_unreliable(result)
    return result


def _with_fields_of(rows: Rows, statistic: Statistic | None, outside: dict[str, Any]) -> Rows:
    """The rows with those fields that the statistic alone reads.

    Raises:
        ValueError: if one of its fields is neither there nor given.
    """
    read = [] if statistic is None else fields_read(statistic)
    absent = [name for name in read if name not in outside and name not in rows.field_names]
    if absent:
        raise ValueError(
            f"statistic must have the fields that it reads; got rows without {absent[0]!r}. Pass {absent[0]}= by"
            " keyword or as a field of Rows."
        )
    own = {name: outside[name] for name in read if name in outside}
    return rows.with_fields(own) if own else rows


def _check_options(statistic: Any, scale: Any, num_samples: Any, num_candidates: Any) -> None:
    if statistic is not None and not callable(statistic):
        raise TypeError(
            f"statistic must be a function of data; got {statistic!r}. Pass e.g. pv.statistics.variance, or leave it"
            " out for predictive means."
        )
    if not isinstance(scale, str) or scale not in ("difference", "log ratio"):
        raise ValueError(f"scale must be 'difference' or 'log ratio'; got {scale!r}. Choose one of these.")
    positive_integer("num_samples", num_samples, 2)
    positive_integer("num_candidates", num_candidates, 2)


def _read(
    model: LatentVariableModel, x: Any, field: str, by: Any, statistic: Statistic | None, fields: dict[str, Any]
) -> tuple[Rows, tuple[str, ...], dict[str, Any]]:
    """The rows, the names of the fields that the programs receive, and values of fields that they do not read."""
    names, given = split_fields(fields)
    read = [] if statistic is None else fields_read(statistic)
    wanted = {field, *read, *([by] if isinstance(by, str) else [])} - set(model.fields)
    outside = {name: given.pop(name) for name in wanted if name in given}
    rows, used = model.read_rows(x, given | ({"fields": names} if names else {}))
    check_alignment(outside | {"by": by}, rows.index)
    return rows, used, outside


def _name_of(statistic: Any) -> str:
    name = getattr(statistic, "__name__", "<lambda>")
    return "statistic" if name == "<lambda>" else str(name)


def _compared(drawn: Draws, levels: tuple[str, str], scale: str, groups: list[str] | None) -> Tensor:
    """Draws of the contrast, (S, G, *T)."""
    if scale == "difference":
        return drawn.values[1] - drawn.values[0]
    wrong = ~(drawn.values > 0)
    if wrong.any():
        side, _, group, *_ = wrong.nonzero()[0].tolist()
        cell = int(wrong[side].flatten(2).any(0)[group].nonzero()[0])
        where = "" if groups is None else f" in the group {groups[group]!r}"
        value = drawn.values[side, :, group].flatten(1)[:, cell].min().item()
        raise ValueError(
            f"averages must be positive for a log ratio; got {value:.4g} at {levels[side]!r} for {drawn.names[cell]!r}"
            f"{where}. Use scale='difference'."
        )
    return drawn.values[1].log() - drawn.values[0].log()


def _independent(ess: Tensor, sides: Sides) -> Tensor:
    """The harmonic mean of the effective numbers of candidates over the rows of each group, (G,)."""
    members = sides.members.any(0).double()
    return members.sum(0) / (members / ess[:, None]).sum(0)


def _warn_without_effect(drawn: Draws, field: str, design: str) -> None:
    """Warn where decoding under another level changed no draw at all."""
    if design == "all" and torch.equal(drawn.values[0], drawn.values[1]):
        warnings.warn(
            f"Every draw is exactly the same under both levels of {field!r}: what is compared does not depend on it"
            " given the latents. Pass rows='own' for what differs between the rows of either level.",
            stacklevel=3,
        )


def _warn_if_unreliable(result: Contrast) -> None:
    if result.flagged_share > SMALL_SHARE:
        warnings.warn(
            f"{result.flagged_share:.0%} of the rows have a Pareto k-hat above the threshold and too few effective"
            " candidates, or an unknown k-hat: draws follow the guide more than the posterior, and intervals may be"
            " wrong. Raise num_candidates, or train a more flexible guide.",
            UnreliableWarning,
            stacklevel=3,
        )
