"""Missing cells drawn given the observed ones, or guessed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from pyro_vae.arguments import positive_integer
from pyro_vae.data.rows import Rows
from pyro_vae.fields import OBSERVED
from pyro_vae.imputation.guesses import GUESSES, guess
from pyro_vae.imputation.imputations import Imputations, joined, warn_if_unreliable
from pyro_vae.imputation.refits import check_refit, refits
from pyro_vae.inference.chunks import program_structure, row_chunks
from pyro_vae.inference.pair import ProgramPair
from pyro_vae.predictive import Candidates, draw_candidates, one_site, run_model
from pyro_vae.predictive.sites import data_of
from pyro_vae.runtime.isolation import evaluating
from pyro_vae.runtime.random import PREDICTIVE

__all__ = ["impute"]


def impute(
    model: ProgramPair,
    rows: Rows,
    *,
    num_imputations: int | None = None,
    num_candidates: int = 200,
    single: str | None = None,
    refit: str | None = None,
    refit_options: Mapping[str, Any] | None = None,
    seed: int | None = None,
    fields: tuple[str, ...] = (),
) -> Imputations:
    """Completed rows; see `LatentVariableModel.impute`."""
    check_refit(refit, refit_options, single=single is not None)
    if refit is not None and refit_options is not None:
        count = positive_integer("num_imputations", 5 if num_imputations is None else num_imputations)
        options: dict[str, Any] = {"num_imputations": 1, "num_candidates": num_candidates, "fields": fields}
        models = refits(model, rows, count, refit_options, fields, seed)
        generator = torch.Generator().manual_seed(0 if seed is None else seed)
        seeds = [None if seed is None else int(torch.randint(2**31, (), generator=generator)) for _ in range(count)]
        return joined([_impute(one, rows, **options, seed=own) for one, own in zip(models, seeds, strict=True)])
    result = _impute(
        model,
        rows,
        num_imputations=num_imputations,
        num_candidates=num_candidates,
        single=single,
        seed=seed,
        fields=fields,
    )
    warn_if_unreliable(result)
    return result


def _impute(
    model: ProgramPair,
    rows: Rows,
    *,
    num_imputations: int | None,
    num_candidates: int,
    single: str | None = None,
    seed: int | None,
    fields: tuple[str, ...],
) -> Imputations:
    """Completed rows by one model, without a warning."""
    if single is not None and num_imputations is not None:
        raise ValueError(
            f"num_imputations must be left out with single={single!r}, which is one best guess; got {num_imputations}."
            " Choose one of both."
        )
    if single is not None and (not isinstance(single, str) or single not in GUESSES):
        raise ValueError(f"single must be mean, median or mode; got {single!r}. Leave it out for draws.")
    count = 1 if single else positive_integer("num_imputations", 5 if num_imputations is None else num_imputations)
    positive_integer("num_candidates", num_candidates, count)
    _check_reads_pattern(model)
    if rows.transform is not None:
        raise ValueError(
            f"x must be rows without a transform to be imputed; got {rows.transform!r}, which would change observed"
            " cells. Pass rows that are transformed already."
        )
    structure = program_structure(model, rows, fields)
    if structure.joint:
        raise NotImplementedError("Rows must be independent to be imputed; got a global latent. Draw it by hand.")
    table = getattr(rows, "schema", None)
    x, observed = _cells(rows)
    out = x.expand(count, *x.shape).clone()
    khat, ess = x.new_full((len(rows),), -torch.inf), x.new_full((len(rows),), torch.nan)
    kl: list[Tensor] = []
    incomplete = (~observed).reshape(len(rows), -1).any(1).nonzero().flatten()
    if len(incomplete):
        done = 0
        with evaluating(model, seed=seed, stream=PREDICTIVE):
            part = rows.subset(incomplete)
            for batch in row_chunks(model, part, num_candidates, fields, structure=structure, at_once=num_candidates):
                index = incomplete[done : done + len(batch["x"])]
                done += len(index)
                candidates = draw_candidates(model, batch, num_candidates)
                if single is None:
                    drawn = _draw(model, batch, candidates, count)
                else:
                    drawn = _guess(model, batch, candidates, single)
                    drawn = drawn if table is None else table.nearest(drawn)
                out[:, index] = torch.where(observed[index], out[:, index], drawn.to(out))
                kl.append(candidates.kl)
                khat[index], ess[index] = candidates.khat.to(khat), candidates.ess.to(ess)
    mean_kl = float(torch.cat(kl).mean()) if kl else None
    return Imputations(out, observed, khat, ess, num_candidates, single, rows, mean_kl)


def _check_reads_pattern(model: ProgramPair) -> None:
    if OBSERVED not in model.fields:
        raise ValueError(
            "model must allow for missing cells to impute them; got one that was made without. Pass"
            " missing=pv.missing.AtRandom() to the VAE, or read `observed` in a program of your own."
        )


def _cells(rows: Rows) -> tuple[Tensor, Tensor]:
    """All cells as floating-point numbers, and which of them are observed."""
    batch = rows.take(slice(None), (OBSERVED,))
    x = batch["x"] if batch["x"].is_floating_point() else batch["x"].double()
    return x, batch[OBSERVED]


def _draw(model: ProgramPair, batch: dict[str, Tensor], candidates: Candidates, count: int) -> Tensor:
    """Draws of x given the observed cells, (count, B, *E)."""
    latents = candidates.resample(count)
    if (missing := model.site_of_missing) is not None:
        return latents[missing]
    drawn = one_site(data_of(model, run_model(model, latents, batch)))
    return drawn if count > 1 else drawn.unsqueeze(0)


def _guess(model: ProgramPair, batch: dict[str, Tensor], candidates: Candidates, kind: str) -> Tensor:
    """One best guess of x given the observed cells, (1, B, *E)."""
    trace = run_model(model, candidates.latents, batch)
    (name,) = data_of(model, trace)
    site = trace.nodes[name]
    draws = site["value"].detach() if len(candidates.weights) > 1 else site["value"].detach().unsqueeze(0)
    distribution, missing = site["fn"], model.site_of_missing
    if missing is not None:
        draws = candidates.latents[missing]
    return guess(distribution, draws, candidates.weights, kind, use_means=missing is None).unsqueeze(0)
