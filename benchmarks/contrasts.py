"""Contrasts: coverage of their intervals, and false discovery rates of lists beside a t-test.

    python benchmarks/contrasts.py                       # 50 data sets of 2,000 columns
    python benchmarks/contrasts.py --smoke               # the same in small, to see that it runs

Coverage: 1,000 data sets of 10 rows from a linear-Gaussian model whose effect depends on the latents, at its own
parameters, with the exact guide. 95 % intervals should cover the effect in 95 %.

Lists: data sets of 50 rows, half of them at either level of c, with counts x ~ Poisson(exp(b + W z + c (A + V z))) in
2,000 columns and 10 standard normal latents. The effect of a column is the log ratio of the averages over the rows of
its means under c = 1 and under c = 0, at the latents that the rows were drawn from. Half of the columns have none, a
quarter a small one that is the same for all latents, and a quarter one that depends on the latents, so that it differs
between data sets; some 260 are beyond .25 either way. Lists of columns with |log ratio| > .25 at an expected false
discovery rate of 5 % come from

- the model at its own parameters, with a guide that is normal about the mode of each row's posterior, and weights;
- a VAE that is fitted to these rows alone, or to `--train-rows`, among which they are; with `--refits 50`, also with as
  many bootstrap refits of the first one;
- Welch's t-test of log(1 + x) between the two halves with the rule of Benjamini and Hochberg, which asks for a
  difference and not for one beyond .25: its second line counts any column with an effect as a true discovery.

Standard errors: those of bootstrap refits beside those of a regression, for the 600 patients of the guide's page on
contrasts, with few steps of each copy and with more.

Printed of lists are means over data sets with their standard errors: the share of listed columns that are not beyond
the threshold (0 for an empty list), the rate that the list itself states, the share of columns beyond it that are
listed, and the coverage of 95 % intervals over columns with an effect that depends on the latents.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import scipy.stats
import torch
from torch import Tensor, nn

import pyro_vae as pv

LATENTS, THRESHOLD, FDR = 10, 0.25, 0.05


class Slopes(pv.LatentVariableModel):
    """x | z, c ~ N(alpha + beta c + W z + c V z, s^2 I) with c in {0, 1} and z ~ N(0, I); the guide is the posterior.

    Args:
        columns: the number of columns of x.
        latents: the number of latents.
        scale: s.
    """

    def __init__(self, columns: int = 3, latents: int = 2, scale: float = 0.8) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        shapes = {"alpha": (columns,), "beta": (columns,), "w": (columns, latents), "v": (columns, latents)}
        for name, shape in shapes.items():
            setattr(self, name, nn.Parameter(torch.randn(*shape, generator=generator, dtype=torch.float64)))
        self.scale = scale

    def posterior(self, x: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        """Means (N, D) and covariances (N, D, D) of the latents given x."""
        loadings = self.w + c[:, None, None] * self.v
        covariance = torch.linalg.inv(torch.eye(self.w.shape[1]).to(x) + loadings.mT @ loadings / self.scale**2)
        residual = (x - self.alpha - c[:, None] * self.beta)[..., None]
        return (covariance @ loadings.mT @ residual / self.scale**2).squeeze(-1), covariance

    def model(self, x: Tensor | None = None, *, rows: int | None = None, c: Tensor) -> Tensor:
        with pyro.plate("data", len(x) if x is not None else rows):
            z = pyro.sample("z", dist.Normal(self.w.new_zeros(self.w.shape[1]), 1.0).to_event(1))
            loc = self.alpha + c[:, None] * self.beta + z @ self.w.T + c[:, None] * (z @ self.v.T)
            return pyro.sample("x", dist.Normal(loc, self.scale).to_event(1), obs=x)  # type: ignore[no-any-return]

    def guide(self, x: Tensor, c: Tensor) -> None:
        mean, covariance = self.posterior(x, c)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.MultivariateNormal(mean, covariance))


def coverage_of_slopes(num_sets: int, seed: int = 0, num_rows: int = 10) -> Tensor:
    """The share of simulated data sets in which a 95 % interval holds the effect, by column."""
    model = Slopes()
    c = (torch.arange(num_sets * num_rows) % 2).double()
    simulated = model.simulate(num_sets * num_rows, c=c, seed=seed)
    truth = model.beta + simulated["z"].reshape(num_sets, num_rows, -1).mean(1) @ model.v.T
    by = torch.arange(num_sets).repeat_interleave(num_rows)  # each data set is a group of rows
    found = pv.contrast(model, simulated["x"], "c", (0, 1), by=by, c=c, num_samples=500, num_candidates=500, seed=seed)
    low, high = found.interval()
    return ((low < truth) & (truth < high)).double().mean(0)


def errors_of_refits(num_rows: int, num_refits: int) -> None:
    """Print standard errors of the effect of a site given age: of a regression, and of refits by number of steps."""
    random = np.random.default_rng(0)
    site = np.where(random.random(num_rows) < 0.5, "A", "B")
    age = 50 + 10 * (site == "B") + 8 * random.standard_normal(num_rows)
    x = random.standard_normal((num_rows, 1)) * [1, 1, -1] + 0.05 * (age[:, None] - 50) * [1, 1, 0]
    x += 0.5 * random.standard_normal((num_rows, 3)) + 1.0 * (site == "B")[:, None] * [1, 0, 0]
    design = np.stack([np.ones(num_rows), site == "B", age], 1)
    residual = x - design @ np.linalg.lstsq(design, x, rcond=None)[0]
    exact = np.sqrt(np.linalg.inv(design.T @ design)[1, 1] * (residual**2).sum(0) / (num_rows - 3))
    vae = pv.VAE(
        likelihood=pv.likelihoods.Normal(3, scale="per_dimension"),
        prior=pv.priors.Normal(1),
        encoder=pv.nets.MLP((32,), "tanh"),
        decoder=pv.nets.MLP(()),
        covariates=pv.Covariates({"site": ["A", "B"], "age": "real"}),
        seed=0,
    )
    known: dict[str, Any] = {"site": site, "age": age}
    rows = torch.tensor(x)
    vae.fit(rows, fields=known, epochs=40, batch_size=100, learning_rate=0.02, seed=0, progress=False)
    print(f"standard errors of three effects, {num_rows} rows: a regression {', '.join(f'{e:.3f}' for e in exact)}")
    for steps, learning_rate in ((30, 0.02), (60, 0.1), (200, 0.1)):
        again: dict[str, Any] = {"epochs": steps, "batch_size": num_rows, "learning_rate": learning_rate}
        sizes = {"num_refits": num_refits, "num_samples": num_refits, "num_candidates": 50}
        options: dict[str, Any] = {"refit": "bootstrap", "refit_options": again, "seed": 0, "fields": known} | sizes
        found = pv.contrast(vae, rows, "site", ("A", "B"), **options).standard_error
        what = f"{num_refits} refits of {steps} steps with a learning rate of {learning_rate}"
        print(f"  {what}: {', '.join(f'{e:.3f}' for e in found)}", flush=True)


class Counts(pv.LatentVariableModel):
    """x | z, c ~ Poisson(exp(b + W z + c (A + V z))); the guide is normal about modes that are fields of the rows."""

    def __init__(self, columns: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator)

        quarter = columns // 4
        base, w = normal(columns) - 1.8, 0.15 * normal(columns, LATENTS)
        effect, v = torch.zeros(columns), torch.zeros(columns, LATENTS)
        effect[:quarter] = 0.2 * (2 * torch.rand(quarter, generator=generator) - 1)
        direction = normal(quarter, LATENTS)
        v[quarter : 2 * quarter] = 1.4 * direction / direction.norm(dim=1, keepdim=True)
        mean = v.square().sum(1) / 2 + (v * w).sum(1)  # the log ratio of averages over infinitely many rows
        effect[quarter : 2 * quarter] = 0.2 * normal(quarter) - mean[quarter : 2 * quarter]
        for name, value in {"base": base, "w": w, "effect": effect, "v": v}.items():
            setattr(self, name, nn.Parameter(value))

    def log_rate(self, z: Tensor, c: Tensor) -> Tensor:
        return self.base + z @ self.w.T + c[:, None] * (self.effect + z @ self.v.T)

    def model(self, x: Tensor | None = None, *, rows: int | None = None, c: Tensor, **batch: Tensor) -> Tensor:
        with pyro.plate("data", len(x) if x is not None else rows):
            z = pyro.sample("z", dist.Normal(self.base.new_zeros(LATENTS), 1.0).to_event(1))
            rate = self.log_rate(z, c).exp()
            return pyro.sample("x", dist.Poisson(rate).to_event(1), obs=x)  # type: ignore[no-any-return]

    def guide(self, x: Tensor, *, mode: Tensor, tril: Tensor, **batch: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.MultivariateNormal(mode, scale_tril=tril))

    def modes(self, x: Tensor, c: Tensor, steps: int = 30) -> tuple[Tensor, Tensor]:
        """The modes of the posteriors of rows, (N, D), by Newton's steps of length 1 at most, and scales, (N, D, D)."""
        loadings, z = self.w + c[:, None, None] * self.v, x.new_zeros(len(x), LATENTS)
        for _ in range(steps):
            rate = self.log_rate(z, c).exp()
            precision = torch.eye(LATENTS) + loadings.mT @ (rate[..., None] * loadings)
            slope = ((x - rate)[:, None] @ loadings).squeeze(1) - z
            step = torch.linalg.solve(precision, slope)
            z = z + step / step.norm(dim=1, keepdim=True).clamp_min(1.0)
        return z, torch.linalg.cholesky(torch.linalg.inv(precision))


@dataclass
class DataSet:
    """Rows with their level, and the effects at the latents that they were drawn from."""

    x: Tensor
    c: Tensor
    truth: Tensor


@dataclass
class Score:
    """One list of one data set: realised and stated rates, power, and the coverage of intervals."""

    listed: float
    realized: float
    stated: float
    power: float
    coverage: float


def simulate(model: Counts, num_rows: int, seed: int) -> DataSet:
    c = (torch.arange(num_rows) % 2).float()
    unused = {"mode": torch.zeros(num_rows, LATENTS), "tril": torch.eye(LATENTS).expand(num_rows, -1, -1)}
    drawn = model.simulate(num_rows, c=c, seed=seed, **unused)
    with torch.no_grad():
        means = [model.log_rate(drawn["z"], torch.full_like(c, level)).double().exp().mean(0) for level in (0, 1)]
    return DataSet(drawn["x"], c, (means[1] / means[0]).log())


def scored(listed: Tensor, true: Tensor, stated: float = float("nan"), coverage: float = float("nan")) -> Score:
    """The score of a list, given as numbers of columns, where `true` says which columns belong into it."""
    right = true[listed].double()
    realized = float(1 - right.mean()) if len(listed) else 0.0
    return Score(float(len(listed)), realized, stated, float(right.sum() / true.sum()), coverage)


def by_contrast(found: pv.Contrast, data: DataSet, varying: slice) -> Score:
    listed = found.discoveries(THRESHOLD, FDR)
    low, high = found.interval()
    inside = ((low < data.truth) & (data.truth < high))[varying].double().mean()
    return scored(listed.index, data.truth.abs() > THRESHOLD, listed.expected_fdr, float(inside))


def at_own_parameters(model: Counts, data: DataSet, seed: int, options: argparse.Namespace) -> Score:
    with torch.no_grad():
        mode, tril = model.modes(data.x, data.c)
    fields = {"c": data.c, "mode": mode, "tril": tril}
    found = pv.contrast(model, data.x, "c", (0.0, 1.0), scale="log ratio", **sizes(options), seed=seed, fields=fields)
    return by_contrast(found, data, varying(options.columns))


def fitted(
    model: Counts, data: DataSet, seed: int, options: argparse.Namespace, more: int = 0, refits: int = 0
) -> Score:
    """A VAE that is fitted to the rows and to `more` others, with a tenth of new ones for early stopping."""
    size = len(data.x) + more
    others = simulate(model, more + size // 10 + 2, seed=10_000 + seed)
    x, c = torch.cat([data.x, others.x]), torch.cat([data.c, others.c])
    vae = pv.VAE(
        likelihood=pv.likelihoods.Poisson(options.columns),
        prior=pv.priors.Normal(LATENTS),
        encoder=pv.nets.MLP((64,), dropout=0.2),
        decoder=pv.nets.MLP((64,), dropout=0.2),
        covariates=pv.Covariates({"c": [0, 1]}),
        seed=seed,
    )
    train, valid = (pv.Rows(x[part], {"c": c[part].long()}) for part in (slice(size), slice(size, None)))
    steps = {"batch_size": 50, "learning_rate": 3e-3, "compile": False}
    vae.fit(train, valid=valid, patience=10, epochs=options.epochs, seed=seed, progress=False, **steps)
    again: dict[str, Any] = sizes(options)
    if refits:
        again = {"refit": "bootstrap", "refit_options": steps | {"epochs": 20}, "num_refits": refits}
        again |= {"num_samples": max(options.samples, refits), "num_candidates": 50}
    found = pv.contrast(vae, data.x, "c", (0, 1), scale="log ratio", **again, seed=seed, c=data.c.long())
    return by_contrast(found, data, varying(options.columns))


def t_test(data: DataSet, true: Tensor) -> Score:
    values = data.x.log1p().numpy()
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # columns without any count
        p = scipy.stats.ttest_ind(values[data.c.numpy() == 0], values[data.c.numpy() == 1], equal_var=False).pvalue
    adjusted = scipy.stats.false_discovery_control(np.nan_to_num(p, nan=1.0))
    return scored(torch.tensor(np.flatnonzero(adjusted <= FDR)), true, FDR)


def varying(columns: int) -> slice:
    """The columns whose effect depends on the latents."""
    return slice(columns // 4, 2 * (columns // 4))


def sizes(options: argparse.Namespace) -> dict[str, int]:
    return {"num_samples": options.samples, "num_candidates": options.candidates}


def line(name: str, scores: list[Score], seconds: float) -> str:
    numbers = torch.tensor([[s.listed, s.realized, s.stated, s.power, s.coverage] for s in scores], dtype=torch.float64)
    mean, error = numbers.mean(0), numbers.std(0) / len(scores) ** 0.5
    shares = "  ".join(
        f"{100 * m:5.2f} ({100 * e:4.2f})" if not m.isnan() else "            -"
        for m, e in zip(mean[1:], error[1:], strict=True)
    )
    return f"{name:44}  {len(scores):4}  {mean[0]:6.1f}  {shares}  {seconds:7.0f}"


def main(args: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", type=int, default=50, help="data sets at the model's own parameters")
    parser.add_argument("--fitted-sets", type=int, default=5, help="data sets to which VAEs are fitted")
    parser.add_argument("--columns", type=int, default=2000)
    parser.add_argument("--rows", type=int, default=50)
    parser.add_argument("--train-rows", type=int, default=1000, help="of the larger training set")
    parser.add_argument("--epochs", type=int, default=100, help="at most, of each fit")
    parser.add_argument("--refits", type=int, default=0, help="bootstrap refits of each VAE; 50 take minutes for each")
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--candidates", type=int, default=300)
    parser.add_argument("--error-refits", type=int, default=50, help="refits beside a regression; 0 for none")
    parser.add_argument("--coverage-sets", type=int, default=1000, help="linear-Gaussian data sets")
    parser.add_argument("--smoke", action="store_true", help="small sizes")
    options = parser.parse_args(args)
    if options.smoke:
        small = {"sets": 2, "fitted_sets": 2, "columns": 40, "rows": 20, "train_rows": 40, "epochs": 2}
        vars(options).update(
            small | {"samples": 50, "candidates": 100, "refits": 2, "coverage_sets": 20, "error_refits": 2}
        )
    warnings.simplefilter("ignore", pv.evaluation.UnreliableWarning)
    warnings.filterwarnings("ignore", "Columns .* are constant in the training rows")
    covered = coverage_of_slopes(options.coverage_sets)
    error = (0.05 * 0.95 / options.coverage_sets) ** 0.5
    print(
        f"linear-Gaussian, {options.coverage_sets} data sets: 95 % intervals cover"
        f" {', '.join(f'{100 * share:.1f}' for share in covered)} % by column (Monte Carlo error {100 * error:.1f})"
    )
    if options.error_refits:
        errors_of_refits(600, options.error_refits)
    model = Counts(options.columns)
    sets = [simulate(model, options.rows, seed) for seed in range(options.sets)]
    beyond = [float((data.truth.abs() > THRESHOLD).sum()) for data in sets]
    spread = torch.stack([data.truth for data in sets])[:, varying(options.columns)].std(0).mean()
    print(
        f"counts, {options.columns} columns, {options.rows} rows: {np.mean(beyond):.0f} columns beyond {THRESHOLD} on"
        f" average ({min(beyond):.0f} to {max(beyond):.0f}); standard deviation of an effect between data sets"
        f" {spread:.2f}"
    )
    print(f"{'':44}  sets  listed      false, %     stated, %      power, %    covered, %  seconds")
    more = options.train_rows - options.rows
    some = sets[: options.fitted_sets]
    ways: list[tuple[str, list[DataSet], Callable[[DataSet, int], Score]]] = [
        (
            "contrast, the model's own parameters",
            sets,
            lambda data, seed: at_own_parameters(model, data, seed, options),
        ),
        (f"contrast, fitted to {options.rows} rows", some, lambda data, seed: fitted(model, data, seed, options)),
        (
            f"contrast, fitted to {options.train_rows} rows",
            some,
            lambda data, seed: fitted(model, data, seed, options, more),
        ),
        ("t-test, effects beyond the threshold", sets, lambda data, seed: t_test(data, data.truth.abs() > THRESHOLD)),
        ("t-test, any effect", sets, lambda data, seed: t_test(data, data.truth.abs() > 1e-9)),
    ]
    if options.refits:
        name = f"the same, {options.refits} bootstrap refits"
        ways.insert(2, (name, some, lambda data, seed: fitted(model, data, seed, options, refits=options.refits)))
    for name, chosen, way in [one for one in ways if one[1]]:
        start = time.perf_counter()
        scores = [way(data, seed) for seed, data in enumerate(chosen)]
        print(line(name, scores, time.perf_counter() - start), flush=True)


if __name__ == "__main__":
    main()
