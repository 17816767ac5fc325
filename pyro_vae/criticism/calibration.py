"""Is the encoder calibrated? Ranks and coverage on simulated rows, the amortization gap, NUTS on a few rows."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from pyro import poutine
from torch import Tensor

from pyro_vae import predictive
from pyro_vae.arguments import is_number, positive_integer
from pyro_vae.criticism.intervals import LEVELS, rank_coverage, rank_p_value
from pyro_vae.data.tensors import check_finite
from pyro_vae.evaluation import Importance, Mean, SemiAmortized, UnreliableWarning, mean_over_rows
from pyro_vae.inference.chunks import program_structure, row_chunks
from pyro_vae.inference.pair import ProgramPair
from pyro_vae.model import LatentVariableModel, check_model
from pyro_vae.runtime.display import Shown
from pyro_vae.runtime.isolation import evaluating
from pyro_vae.runtime.random import seeded

__all__ = [
    "AgainstNUTS",
    "AmortizationGap",
    "Calibration",
    "against_nuts",
    "amortization_gap",
    "band_of_uniform_ecdf",
    "simulation_based_calibration",
]


@dataclass(frozen=True, repr=False)
class Calibration(Shown):
    """Simulation-based calibration: the rank of each simulated latent among draws from the guide given its row.

    Ranks are uniform if q(z | x) is the exact posterior. If their histogram has a U shape, q is too narrow; if it has a
    hump, too wide; if it has a slope, q is shifted.

    Attributes:
        ranks: ranks from 0 to L, (N, C), of the C coordinates of all latent sites.
        num_draws: L, draws among which each latent is ranked.
        names: names of the coordinates, e.g. "z[0]", (C,).
        p_values: p-value of a chi-square test of uniform ranks for each coordinate, (C,), in 8 to 20 bins where there
            are enough rows and draws.
    """

    ranks: Tensor
    num_draws: int
    names: list[str]
    p_values: Tensor

    @property
    def miscalibrated(self) -> list[str]:
        """Coordinates whose ranks are not uniform, at level 0.01 for all tests together (Bonferroni)."""
        return [name for name, p in zip(self.names, self.p_values.tolist(), strict=True) if p < 0.01 / len(self.names)]

    def coverage(self, levels: Sequence[float] = LEVELS) -> Tensor:
        """Share of rows whose latents lie in central intervals of the guide, (levels, C); unbiased for every L.

        Intervals that end between two draws count the rows at the end in part, as randomized ranks do on average.
        """
        return rank_coverage(self.ranks, self.num_draws, levels)

    def shape(self) -> Tensor:
        """Variance of the ranks over the variance of uniform ranks, minus 1, for each coordinate, (C,).

        Above 0 (a U shape) the guide is too narrow, below 0 too wide. The standard error is about sqrt(0.8 / N).
        """
        variance = self.ranks.double().var(0, correction=0)
        return variance / ((self.num_draws + 1) ** 2 - 1) * 12 - 1

    def __str__(self) -> str:
        count, total = len(self.miscalibrated), len(self.names)
        covered = ", ".join(
            f"{level:.0%}: {share:.1%}" for level, share in zip(LEVELS, self.coverage().mean(1).tolist(), strict=True)
        )
        return (
            f"{count} of {total} coordinates have ranks that are not uniform."
            f" Coverage of the guide's central intervals: {covered}."
        )

    def plot(self, ax: Any = None) -> Any:
        """ECDF of the ranks minus the uniform one, with a simultaneous 95 % band; returns matplotlib axes."""
        from pyro_vae import plots

        points, lower, upper = band_of_uniform_ecdf(len(self.ranks), self.num_draws)
        return plots.rank_ecdf(self.ranks, self.num_draws, lower, upper, points, self.names, ax=ax)

    def plot_coverage(self, ax: Any = None) -> Any:
        """Observed against nominal coverage, of each coordinate if there are at most eight, else their mean; returns
        matplotlib axes."""
        from pyro_vae import plots

        many = len(self.names) > 8
        covered = self.coverage().mean(1) if many else self.coverage()
        ax = plots.coverage(LEVELS, covered, names=None if many else self.names, ax=ax)
        ax.set_title("central intervals of the guide, simulated rows")
        return ax


def simulation_based_calibration(
    model: LatentVariableModel, *, num_rows: int = 500, num_draws: int = 99, seed: int | None = None, **fields: Any
) -> Calibration:
    """Draw latents and rows from the model, and rank each latent among draws from the guide given its row.

    Args:
        model: the fitted model, with one data site and independent rows.
        num_rows: N, rows to simulate.
        num_draws: L, draws from the guide per row.
        seed: seed of all draws.
        **fields: named per-row fields to simulate under, one entry per row.

    Raises:
        NotImplementedError: if x is made of several data sites or a latent is global.

    References:
        *Validating Bayesian Inference Algorithms with Simulation-Based Calibration* (Talts et al., 2018), arXiv
        1804.06788; bands: *Graphical Test for Discrete Uniformity and its Applications* (Sailynoja, Buerkner, Vehtari,
        2022), arXiv 2103.10522
    """
    positive_integer("num_draws", num_draws, 3)
    _refuse_mechanism(check_model(model), "Simulated rows have the patterns of the data and not of the mechanism")
    with seeded(seed):
        drawn, rows = predictive.simulated_rows(check_model(model), positive_integer("num_rows", num_rows, 2), **fields)
        structure = program_structure(model, rows, rows.field_names)
        if structure.joint:
            raise NotImplementedError("Rows must be independent to be ranked one by one; got a global latent.")
        draws = predictive.posterior_draws(
            model, rows, num_samples=num_draws, fields=rows.field_names, structure=structure
        )
        by_site, names = [], []
        for name, value in drawn.items():
            truth, samples = value.reshape(num_rows, -1), draws[name].reshape(num_draws, num_rows, -1)
            equal = (samples == truth).sum(0)
            ties = (torch.rand(equal.shape) * (equal + 1)).floor().long()  # draws of a discrete latent may be equal
            by_site.append((samples < truth).sum(0) + ties)
            names += coordinates(name, truth.shape[1])
    ranks = torch.cat(by_site, 1)
    p_values = [rank_p_value(column, num_draws) for column in ranks.T]
    return Calibration(ranks, num_draws, names, torch.tensor(p_values, dtype=torch.float64))


def _refuse_mechanism(model: LatentVariableModel, why: str) -> None:
    """Raise a NotImplementedError for a model of cells that are not missing at random."""
    if model.site_of_missing is not None:
        raise NotImplementedError(
            f"missing must be AtRandom for this check. {why}. Check the model by its predictions."
        )


def coordinates(site: str, width: int) -> list[str]:
    """Names of a site's coordinates."""
    return [f"{site}[{i}]" for i in range(width)] if width > 1 else [site]


def band_of_uniform_ecdf(
    num_rows: int, num_draws: int, *, level: float = 0.95, simulations: int = 2000, seed: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    """A simultaneous band for the ECDF of uniform ranks minus the diagonal.

    The whole curve lies in the band with probability `level`: pointwise binomial intervals are widened until
    simulated curves lie in all of them that often.

    Args:
        num_rows: N, ranks behind the ECDF.
        num_draws: L; ranks are 0 to L.
        level: probability that the band holds the whole curve.
        simulations: number of simulated curves.
        seed: seed of the simulation.

    Returns:
        Points in (0, 1), the lower and the upper end of the band at these points.
    """
    from scipy.stats import binom

    positive_integer("num_rows", num_rows)
    positive_integer("num_draws", num_draws)
    positive_integer("simulations", simulations)
    positive_integer("seed", seed, 0)
    if not is_number(level) or not 0 < level < 1:
        raise ValueError(f"level must lie between 0 and 1; got {level!r}. Pass e.g. level=0.95.")
    count = min(num_draws, 100)
    cuts = np.unique(np.linspace(1, num_draws, count).astype(int))  # the ECDF is the share of ranks below a cut
    points = cuts / (num_draws + 1)
    draws = np.random.default_rng(seed).integers(0, num_draws + 1, (simulations, num_rows))
    below = np.stack([(draws < cut).sum(1) for cut in cuts], 1)
    tails = np.minimum(binom.cdf(below, num_rows, points), binom.sf(below - 1, num_rows, points))
    tail = float(np.quantile(tails.min(1), 1 - level))
    lower = binom.ppf(tail, num_rows, points) / num_rows - points
    upper = binom.isf(tail, num_rows, points) / num_rows - points
    return torch.from_numpy(points), torch.from_numpy(lower), torch.from_numpy(upper)


@dataclass(frozen=True, repr=False)
class AmortizationGap(Shown):
    """By how much the ELBO of each row rises, in nats, if q is optimized for that row instead of encoded.

    Attributes:
        amortized: the ELBO with the encoder's q, (B,); (1,) if a latent is global.
        optimized: the ELBO with q optimized row by row within the same family, of the same shape.
        gap: the mean of `optimized` - `amortized`, with its errors.
    """

    amortized: Tensor
    optimized: Tensor
    gap: Mean

    def __str__(self) -> str:
        return f"amortization gap {self.gap} nats per row"


def amortization_gap(
    model: LatentVariableModel,
    x: Any,
    *,
    steps: int = 100,
    learning_rate: float = 0.05,
    num_particles: int = 200,
    seed: int | None = None,
    **fields: Any,
) -> AmortizationGap:
    """Compare the ELBO of the encoder's q(z | x) with that of the best q of the same family, found row by row.

    The optimization is stochastic: a gap that is slightly below 0 says that the encoder leaves nothing to gain.

    Args:
        model: the fitted model.
        x: rows (B, *E).
        steps: gradient steps per row.
        learning_rate: learning rate of the first step.
        num_particles: draws per row for each of the two bounds, at least 2.
        seed: seed of the draws.
        **fields: named per-row fields, as in `elbo`.

    Raises:
        NotImplementedError: if the guide cannot be refined.

    References:
        *Inference Suboptimality in Variational Autoencoders* (Cremer, Li, Duvenaud, 2018), arXiv 1801.03558
    """
    positive_integer("num_particles", num_particles, 2)
    rows, names = check_model(model).read_rows(x, fields)
    methods, bounds = (Importance(), SemiAmortized(steps, learning_rate)), []
    with evaluating(model, seed=seed):
        for batch in row_chunks(model, rows, num_particles, names):
            draws = [method.log_weights(model, batch, num_particles)[0].double() for method in methods]
            bounds.append([part.mean(0) for part in draws] + [part.std(0) / num_particles**0.5 for part in draws])
    amortized, optimized, *errors = (torch.cat(column) for column in zip(*bounds, strict=True))
    for bound in (amortized, optimized):
        check_finite("The ELBO", bound)
    error = (errors[0].square() + errors[1].square()).sqrt()
    return AmortizationGap(amortized, optimized, mean_over_rows(optimized - amortized, error))


@dataclass(frozen=True, repr=False)
class AgainstNUTS(Shown):
    """Moments of the latents of a few rows under the guide, and under the posterior by NUTS, each (B, C).

    Attributes:
        guide_mean: means under q(z | x).
        guide_scale: standard deviations under q(z | x).
        nuts_mean: means under p(z | x).
        nuts_scale: standard deviations under p(z | x).
        rhat: split R-hat of the NUTS draws; above 1.05 they have not converged and are no reference.
        names: names of the C coordinates.
        guide_draws: draws from the guide, (S, B, C).
        nuts_draws: draws by NUTS, (S, B, C).
    """

    guide_mean: Tensor
    guide_scale: Tensor
    nuts_mean: Tensor
    nuts_scale: Tensor
    rhat: Tensor
    names: list[str]
    guide_draws: Tensor
    nuts_draws: Tensor

    @property
    def scale_ratio(self) -> Tensor:
        """Standard deviations under the guide over those under the posterior, (B, C); below 1 q is too narrow."""
        return self.guide_scale / self.nuts_scale

    @property
    def shift(self) -> Tensor:
        """Mean under the guide minus mean under the posterior, in posterior standard deviations, (B, C)."""
        return (self.guide_mean - self.nuts_mean) / self.nuts_scale

    def __str__(self) -> str:
        return (
            f"guide against NUTS on {len(self.shift)} rows: median ratio of standard deviations"
            f" {float(self.scale_ratio.median()):.2f}, median distance of means"
            f" {float(self.shift.abs().median()):.2f} posterior standard deviations, largest R-hat"
            f" {float(self.rhat.max()):.3f}"
        )

    def plot(self, ax: Any = None) -> Any:
        """Means and standard deviations under the guide against those by NUTS; returns matplotlib axes."""
        from pyro_vae import plots

        return plots.moments(self.guide_mean, self.guide_scale, self.nuts_mean, self.nuts_scale, ax=ax)


CONVERGED = 1.05  # the largest split R-hat of draws that are a reference


def against_nuts(
    model: LatentVariableModel,
    x: Any,
    *,
    num_samples: int = 300,
    warmup: int = 200,
    max_tree_depth: int = 6,
    seed: int | None = None,
    **fields: Any,
) -> AgainstNUTS:
    """Draw the latents of a few rows from their posterior by the No-U-Turn Sampler, one row after the other.

    This takes seconds to a minute per row: pass two or three. A global latent is drawn given all rows at once.

    Args:
        model: the fitted model.
        x: a few rows (B, *E).
        num_samples: draws that are kept per row.
        warmup: warmup draws per row, which are not kept.
        max_tree_depth: maximum depth of the trees of NUTS.
        seed: seed of all draws.
        **fields: named per-row fields, as in `elbo`.

    Raises:
        NotImplementedError: if a latent is discrete.

    References:
        *The No-U-Turn Sampler* (Hoffman, Gelman, 2014), arXiv 1111.4246
    """
    from pyro.infer import MCMC, NUTS
    from pyro.ops.stats import split_gelman_rubin

    positive_integer("num_samples", num_samples, 4)
    positive_integer("warmup", warmup)
    positive_integer("max_tree_depth", max_tree_depth)
    _refuse_mechanism(check_model(model), "Missing cells are latent, and NUTS would move observed ones too")
    rows, names = model.read_rows(x, fields)
    structure = program_structure(model, rows, names)
    first = rows.take(slice(0, 1), names, like=model.like)
    sites = predictive.encode(model, seed=0, **first)
    discrete = sorted(name for name, q in sites.items() if not q.has_rsample)
    if discrete:
        raise NotImplementedError(f"NUTS needs continuous latents; got discrete {discrete}. Sum them out by hand.")
    by_row: list[tuple[Tensor, Tensor, Tensor]] = []
    labels: list[str] = []
    with seeded(seed):
        draws = predictive.posterior_draws(
            model, rows, num_samples=max(1000, num_samples), fields=names, structure=structure
        )
        for part in [slice(None)] if structure.joint else [slice(i, i + 1) for i in range(len(rows))]:
            batch = rows.take(part, names, like=model.like)
            with _sampling(model):
                kernel = NUTS(model.model, max_tree_depth=max_tree_depth)
                chain = MCMC(kernel, num_samples, warmup_steps=warmup, disable_progbar=True, num_chains=1)
                try:
                    chain.run(batch.pop("x"), **batch)
                except ValueError as error:
                    raise ValueError(
                        f"log p(x, z) must be finite somewhere near z = 0; got no such z for row {part.start}"
                        f" ({error}). Check the row and the parameters."
                    ) from error
            of_nuts = chain.get_samples()
            of_guide = {name: value if structure.joint else value[:, part] for name, value in draws.items()}
            shared = [name for name in of_guide if name in of_nuts]
            guide, nuts = (
                torch.cat([values[name].reshape(len(values[name]), -1) for name in shared], 1)
                for values in (of_guide, of_nuts)
            )
            labels = [label for name in shared for label in coordinates(name, of_nuts[name][0].numel())]
            rhat = split_gelman_rubin(nuts.unsqueeze(0), chain_dim=0, sample_dim=1)
            by_row.append((guide, nuts, rhat))
    guide, nuts = (torch.stack([part[i] for part in by_row], 1) for i in (0, 1))
    rhat = torch.stack([part[2] for part in by_row])
    largest = float(rhat.max())  # NaN if one is
    if not largest <= CONVERGED:
        warnings.warn(
            f"NUTS has not converged: the largest R-hat is {largest:.3f}, above {CONVERGED}, for"
            f" {int((~(rhat <= CONVERGED)).sum())} of {rhat.numel()} coordinates of rows. Its draws are no reference:"
            " raise warmup and num_samples, or max_tree_depth.",
            UnreliableWarning,
            stacklevel=2,
        )
    return AgainstNUTS(guide.mean(0), guide.std(0), nuts.mean(0), nuts.std(0), rhat, labels, guide, nuts)


@contextlib.contextmanager
def _sampling(model: ProgramPair) -> Iterator[None]:
    """Evaluation mode, but with gradients, which NUTS needs; the parameters are held fixed."""
    flags = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        for parameter, _ in flags:
            parameter.requires_grad_(False)
        with evaluating(model), torch.enable_grad(), poutine.block(hide_types=["param"]):
            yield
    finally:
        for parameter, flag in flags:
            parameter.requires_grad_(flag)
