"""Draws of both sides of a contrast: averages of predictive means, or statistics of replicated data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyro_vae import predictive
from pyro_vae.criticism.checks.fields import fields_read, value_of
from pyro_vae.criticism.contrasts.means import WithoutData, cell_names, predictive_means, refuse_without_mean
from pyro_vae.criticism.contrasts.sides import Sides
from pyro_vae.criticism.statistics import Statistic
from pyro_vae.data.rows import Rows
from pyro_vae.inference.chunks import ProgramStructure, particle_counts, row_chunks
from pyro_vae.inference.pair import ProgramPair
from pyro_vae.predictive.candidates import Latents
from pyro_vae.predictive.draws import replicate
from pyro_vae.predictive.memory import check_memory
from pyro_vae.predictive.sites import data_of
from pyro_vae.runtime.isolation import evaluating

__all__ = ["Draws", "LatentDraws", "draws_of_means", "draws_of_statistic", "joined"]


@dataclass(frozen=True)
class Draws:
    """Draws of what is compared.

    Attributes:
        values: by side, draw and group, (2, S, G, *T).
        names: names of the entries of T, in order.
        khat: Pareto k-hat of each row, (N,).
        ess: effective number of candidates of each row, (N,).
    """

    values: Tensor
    names: list[str]
    khat: Tensor
    ess: Tensor


def joined(parts: Sequence[Draws]) -> Draws:
    """The draws from several models as one, with the median k-hat and effective number of candidates of each row."""
    khat, ess = (torch.stack([getattr(part, name) for part in parts]).median(0).values for name in ("khat", "ess"))
    return Draws(torch.cat([part.values for part in parts], 1), parts[0].names, khat, ess)


class LatentDraws:
    """Draws of the latents of all rows, resampled from draws of the guide by their importance weights.

    Args:
        model: the pair of programs.
        rows: the rows, N.
        fields: names of the fields that the programs receive.
        structure: that of the programs.
        num_samples: S, draws of each row.
        num_candidates: K, draws from the guide for each row.
    """

    def __init__(
        self,
        model: ProgramPair,
        rows: Rows,
        fields: tuple[str, ...],
        structure: ProgramStructure,
        num_samples: int,
        num_candidates: int,
    ) -> None:
        self.model, self.rows, self.fields, self.structure = model, rows, fields, structure
        self.num_samples, self.num_candidates = num_samples, num_candidates
        self._khat: list[Tensor] = []
        self._ess: list[Tensor] = []

    def __iter__(self) -> Iterator[tuple[slice, dict[str, Tensor], Latents]]:
        """The numbers of the rows of a batch, the batch, and S draws of its latents."""
        start, self._khat, self._ess = 0, [], []
        chunks = row_chunks(self.model, self.rows, self.num_candidates, self.fields, structure=self.structure)
        for batch in chunks:
            candidates = predictive.draw_candidates(self.model, batch, self.num_candidates)
            self._khat.append(candidates.khat.double().cpu())
            self._ess.append(candidates.ess.double().cpu())
            yield slice(start, start + len(batch["x"])), batch, candidates.resample(self.num_samples)
            start += len(batch["x"])

    def together(self) -> Latents:
        """The draws of all rows, by site, (S, N, ...)."""
        with evaluating(self.model):
            parts = [drawn for _, _, drawn in self]
        return {site: torch.cat([part[site] for part in parts], 1) for site in parts[0]}

    def with_values(self, values: Tensor, names: list[str]) -> Draws:
        """Draws with the k-hat and the effective number of candidates of each row, once all rows have been drawn."""
        return Draws(values, names, torch.cat(self._khat), torch.cat(self._ess))


def draws_of_means(latents: LatentDraws, sides: Sides, columns: list[str]) -> Draws:
    """Averages over rows of E[x | z] cell by cell, for each draw of the latents of all rows; T is E.

    Of cells with levels in no order the probabilities are averaged, and T is then the number of all entries.

    Args:
        latents: the draws of the latents.
        sides: the part of the rows in either side.
        columns: names of the cells of a row.
    """
    model, weights, totals, names = latents.model, sides.weights, torch.zeros(()), columns
    with evaluating(model):
        for part, batch, drawn in latents:
            done = 0
            for count in particle_counts(batch, latents.num_samples):
                some = {name: value[done : done + count] for name, value in drawn.items()}
                for version, decoded in enumerate(sides.decoded):
                    own = {name: value[part].to(batch["x"].device) for name, value in decoded.items()}
                    distribution = _distribution(model, some, batch | own)
                    means = predictive_means(distribution, columns).reshape(count, len(batch["x"]), -1)
                    if totals.dim() == 0:
                        names = cell_names(distribution, sides.rows, columns)
                        totals = _room(latents.num_samples, weights.shape[2], len(names))
                    for side in [side for side in (0, 1) if sides.version[side] == version]:
                        sums = torch.einsum("sbc,bg->sgc", means.cpu().double(), weights[side, part])
                        totals[side, done : done + count] += sums
                done += count
    without = ~totals.isfinite().flatten(0, 2).all(0)
    if without.any():
        refuse_without_mean(names[int(without.nonzero()[0])])
    shape = sides.rows.event_shape if len(names) == len(columns) else (len(names),)
    return latents.with_values(totals.unflatten(-1, shape), names)


def draws_of_statistic(
    latents: LatentDraws, sides: Sides, columns: list[str], statistic: Statistic, name: str
) -> Draws:
    """A statistic of data that are replicated from each draw of the latents of all rows.

    A statistic with one value for each row is averaged over rows.

    Args:
        latents: the draws of the latents.
        sides: the part of the rows in either side.
        columns: names of the cells of a row.
        statistic: the statistic.
        name: its name.
    """
    whole = latents.together()
    versions = [sides.rows.with_fields(decoded) for decoded in sides.decoded]
    read = [{field: versions[v].field(field) for field in fields_read(statistic)} for v in sides.version]
    sets = [_replicated(latents, rows, whole) for rows in versions]
    values: list[Tensor] = []
    of_rows = False
    for replicated in zip(*sets, strict=True):
        data = [replicated[v] for v in sides.version]
        if not values:
            side, group = divmod(int(sides.members.sum(1).argmax()), sides.members.shape[2])  # the one with most rows
            of_rows = _is_of_rows(name, statistic, *_rows_of(data[side], read[side], sides.members[side, :, group]))
        both = [
            [_average(value_of(name, statistic, *_rows_of(x, own, index)), of_rows) for index in members.T]
            for x, own, members in zip(data, read, sides.members, strict=True)
        ]
        _check_shapes(name, both, values)
        values.append(torch.stack([torch.stack(groups) for groups in both]))
    found = torch.stack(values, 1)  # (2, S, G, *T)
    size, single = found[0, 0, 0].numel(), found.dim() == 3
    names = [name] if single else columns if size == len(columns) else [str(i) for i in range(size)]
    return latents.with_values(found.unsqueeze(-1) if single else found, names)


def _replicated(latents: LatentDraws, rows: Rows, drawn: Latents) -> Iterator[Tensor]:
    """Replicated data of all rows, (N, *E), one for each of S draws of their latents."""
    model = latents.model
    with evaluating(model):
        batches = list(row_chunks(model, rows, 1, latents.fields, structure=latents.structure))
    if len(batches) > 1:
        replicates = predictive.replicates(model, rows, drawn, latents.fields, latents.structure)
        yield from map(predictive.one_site, replicates)
        return
    done = 0
    for count in particle_counts(batches[0], latents.num_samples):
        some = {name: value[done : done + count] for name, value in drawn.items()}
        done += count
        with evaluating(model):
            data = predictive.one_site(replicate(model, batches[0], count, some))
        yield from data


def _distribution(model: ProgramPair, latents: Latents, batch: dict[str, Tensor]) -> Any:
    """The distribution of the data at S values of the latents, with batch shape (S, B), or (B,) for one."""
    with WithoutData(model.data_sites):
        trace = predictive.run_model(model, latents, batch)
    name = next(iter(data_of(model, trace)))
    return trace.nodes[name]["fn"]


def _room(num_samples: int, groups: int, cells: int) -> Tensor:
    """A tensor of zeros for draws of both sides, (2, S, G, C)."""
    shape, like = (2, num_samples, groups, cells), torch.zeros((), dtype=torch.float64)
    check_memory({"draws": (shape, like)}, "Lower num_samples, or make fewer groups.")
    return like.new_zeros(shape)


def _is_of_rows(name: str, statistic: Statistic, x: Tensor, fields: Mapping[str, Tensor]) -> bool:
    """Whether the statistic has one value for each row: with a row less, it has a value less."""
    if len(x) < 2 or value_of(name, statistic, x, fields).shape != (len(x),):
        return False
    fewer = {field: values[:-1] for field, values in fields.items()}
    return value_of(name, statistic, x[:-1], fewer).shape == (len(x) - 1,)


def _rows_of(x: Tensor, fields: Mapping[str, Tensor], members: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """The rows that are members, and their fields."""
    index = members.nonzero().flatten()
    return x[index.to(x.device)], {field: values[index.to(values.device)] for field, values in fields.items()}


def _average(value: Tensor, of_rows: bool) -> Tensor:
    """A statistic, of one value for each row its average."""
    return value.mean(0).cpu() if of_rows else value.cpu()


def _check_shapes(name: str, both: list[list[Tensor]], earlier: list[Tensor]) -> None:
    """Raise a ValueError unless values have one shape, whatever the rows are."""
    expected = earlier[0].shape[2:] if earlier else both[0][0].shape
    for value in [value for groups in both for value in groups]:
        if value.shape != expected:
            raise ValueError(
                f"statistic {name!r} must have one shape for all sets of rows; got {tuple(expected)} and"
                f" {tuple(value.shape)}. Return one value, one for each column, or one for each row."
            )
