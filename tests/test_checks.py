"""Tail probabilities, PIT values and coverage: uniform where they should be, and the closed form elsewhere."""

from __future__ import annotations

from functools import partial

import numpy as np
import pandas
import pytest
import torch
from cases import LIKELIHOODS, draw_data, small_vae
from exact import Discrete, GlobalMean, LinearGaussian
from scipy.stats import kstest

import pyro_vae as pv
from pyro_vae import checks, statistics
from pyro_vae.criticism.checks.ready import ready_statistics
from pyro_vae.evaluation import UnreliableWarning

STANDARD = torch.distributions.Normal(0.0, 1.0)
RATE = 1e-4  # level of each test of uniformity: how often it fails although all is right


def first(x):
    return x[:, 0]


def test_tail_probabilities_of_fresh_rows_are_uniform() -> None:
    program = LinearGaussian()
    found = pv.check(program, program.draw(1000), {"first": first, "spread": statistics.row_standard_deviation}, seed=0)
    for one in found.statistics.values():
        assert one.of_rows and one.prior.shape == (1000,)
        assert kstest(one.prior.numpy(), "uniform").pvalue > RATE
        assert one.uniformity == pytest.approx(kstest(one.prior.numpy(), "uniform").pvalue)


def test_tail_probabilities_of_fresh_data_sets_are_uniform_ties_included() -> None:
    program, p = Discrete(), []
    for seed in range(150):  # shares of zeros in 12 rows: many ties
        x = program.sample(12, seed=1000 + seed)
        found = pv.check(program, x, {"zeros": statistics.zero_fraction}, num_samples=19, seed=seed)
        p.append(found.statistics["zeros"].prior)
    for column in torch.stack(p).T:
        assert kstest(column.numpy(), "uniform").pvalue > RATE


def test_a_model_with_twice_the_noise_fails_its_checks() -> None:
    program = LinearGaussian()
    x = program.draw(300)
    with torch.no_grad():
        program.log_scale.add_(0.7)  # twice the noise
    found = pv.check(program, x, {"variance": statistics.variance, "spread": statistics.row_standard_deviation}, seed=0)
    assert (found.statistics["variance"].prior > 0.95).all()
    assert found.statistics["spread"].uniformity < 1e-6
    assert found.pit.overall((0.9,))[0]["coverage"] > 0.93


def test_posterior_tail_probabilities_match_their_closed_form() -> None:
    program = LinearGaussian()
    x = program.draw(200)
    one = pv.check(program, x, {"first": first}, num_samples=500, seed=0).statistics["first"]
    mean_map, covariance = program.posterior_parameters()
    mean = ((x - program.bias) @ mean_map.T @ program.weight.T + program.bias).detach()[:, 0]
    variance = (program.weight @ covariance @ program.weight.T).diag() + program.log_scale.mul(2).exp()
    exact = 1 - STANDARD.cdf((x[:, 0] - mean) / variance.detach()[0].sqrt())
    error = (exact * (1 - exact) / 500 + 1 / 500**2).sqrt()
    assert ((one.posterior - exact).abs() < 5 * error).all()
    assert float(one.posterior.std()) < 0.9 * float(one.prior.std())  # conservative
    wide = LinearGaussian(width=1.5)  # the same model; resampling corrects its guide
    corrected = pv.check(wide, x, {"first": first}, num_samples=500, num_candidates=5000, seed=0).statistics["first"]
    assert ((corrected.posterior - exact).abs() < 6 * error).all()


def conditional_pit(program, x):
    """P(x_ij <= observed | the other cells of the row) where rows are normal vectors."""
    precision = torch.linalg.inv(program.marginal().covariance_matrix.detach())
    weighted = (x - program.bias.detach()) @ precision  # precision_jj (x_j - its conditional mean)
    return STANDARD.cdf(weighted / precision.diag().sqrt())


def test_pit_values_by_row_and_by_cell_match_their_closed_forms() -> None:
    program = LinearGaussian(event=12, latent=2)
    x = program.draw(150)
    marginal = program.marginal()
    by_row = checks.pit(program, x, num_samples=2000, seed=0)
    exact = STANDARD.cdf((x - marginal.mean) / marginal.stddev).detach()
    assert ((by_row.values - exact).abs() < 5 * (exact * (1 - exact) / 2000 + 1 / 2000**2).sqrt()).all()
    by_cell = checks.pit(program, x, unit="cell", num_particles=4000, seed=0)
    exact = conditional_pit(program, x)
    fair = by_cell.khat < 0.5
    assert float(fair.double().mean()) > 0.9
    error = (exact * (1 - exact) / 500 + 1 / 500**2).sqrt()  # at least 500 of 4,000 draws count
    assert ((by_cell.values - exact).abs() < 5 * error)[fair].all()
    assert float((by_cell.values - by_row.values).abs().mean()) > 0.1  # they answer different questions


def test_coverage_is_nominal_for_the_true_model_ties_included() -> None:
    program = LinearGaussian(event=12, latent=2)
    for found in (
        checks.pit(program, program.draw(600), seed=0),
        checks.pit(program, program.draw(600), unit="cell", num_particles=2000, seed=0),
        checks.pit(Discrete(), Discrete().sample(600, seed=5), seed=0),
    ):
        for line in found.overall():
            assert abs(line["coverage"] - line["level"]) < 5 * line["standard error"]
        by_column = found.coverage((0.5, 0.9))
        assert by_column.shape == (2, *found.values.shape[1:])
        for level, shares in zip((0.5, 0.9), by_column, strict=True):
            assert ((shares - level).abs() < 5 * (level * (1 - level) / 600) ** 0.5).all()


def test_prior_and_posterior_checks_see_the_same_draw_of_a_random_transform() -> None:
    program = LinearGaussian()
    with torch.no_grad():
        program.log_scale.fill_(-3.0)
        mean_map, covariance = program.posterior_parameters()
        program.mean_map.copy_(mean_map)
        program.tril.copy_(torch.linalg.cholesky(covariance))
    column = program.weight.detach()[:, :1].T
    rows = pv.Rows(program.draw(200), transform=lambda x: x + 3 * torch.randn(len(x), 1).double() @ column)
    found = pv.check(program, rows, {"first": first}, num_samples=50, seed=0).statistics["first"]
    middle = ((found.posterior > 0.02) & (found.posterior < 0.98)).double().mean()
    assert float(middle) > 0.8  # replicates of other draws of x would lie far to one side of it


def test_cells_that_determine_the_posterior_of_their_row_have_a_high_khat() -> None:
    program = LinearGaussian(event=2, latent=2)
    with torch.no_grad():
        program.log_scale.fill_(-2.0)
        mean_map, covariance = program.posterior_parameters()
        program.mean_map.copy_(mean_map)
        program.tril.copy_(torch.linalg.cholesky(covariance))
    with pytest.warns(UnreliableWarning, match="of the cells have a Pareto k-hat above the threshold when they"):
        found = checks.pit(program, program.draw(50), unit="cell", num_particles=300, seed=0)
    assert float((found.khat > 0.7).double().mean()) > 0.3


def test_statistics_of_rows_and_of_data_sets_are_told_apart() -> None:
    vae = small_vae()
    x = draw_data(vae.likelihood, 6)  # as many rows as cells
    found = pv.check(
        vae,
        x,
        {
            "cells": lambda x: x.flatten(1).mean(0),
            "rows": statistics.on_cells,
            "number": lambda x: x.mean(),
            "matrix": lambda x: torch.cov(x.flatten(1).T),
        },
        num_samples=5,
        seed=0,
    ).statistics
    assert [found[name].of_rows for name in ("cells", "rows", "number", "matrix")] == [False, True, False, False]
    assert found["matrix"].replicated.shape == (5, 6, 6)
    assert found["number"].replicated.shape == (5,)
    assert found["rows"].uniformity is not None and found["cells"].uniformity is None


def test_columns_keep_their_names_in_results_and_in_the_report() -> None:
    program = LinearGaussian()
    frame = pandas.DataFrame(program.draw(50).numpy(), columns=["age", "weight", "height", "pulse"])
    found = pv.check(program, frame, num_samples=20, seed=0)
    assert {line["entry"] for line in found.statistics["mean"].lines(4)} == set(frame.columns)
    assert found.pit.columns == list(frame.columns)
    text = str(found)
    assert "posterior p (conservative)" in text and "Coverage of central intervals (row): 50%:" in text
    assert set(found.statistics) == {"mean", "variance", "row total", "row standard deviation"}


ALWAYS, OF_ROWS = {"mean", "variance"}, {"row total", "row standard deviation"}


@pytest.mark.parametrize("name", sorted(LIKELIHOODS))
def test_default_statistics_mean_something_for_the_columns(name: str) -> None:
    """Real columns have no share of zeros, and columns of several kinds no total."""
    vae = small_vae(likelihood=LIKELIHOODS[name]())
    found = set(ready_statistics(vae, {"x": draw_data(vae.likelihood, 2)}))
    zeros = {"zero fraction"} if vae.likelihood.discrete or name == "Product" else set()
    assert found == ALWAYS | zeros | (set() if name == "Product" else OF_ROWS)


def test_the_share_of_zeros_of_mixed_columns_is_that_of_the_discrete_ones() -> None:
    vae = small_vae(likelihood=LIKELIHOODS["Product"]())
    frame = pandas.DataFrame(draw_data(vae.likelihood, 30).numpy(), columns=["a", "b", "age", "class"])
    one = pv.check(vae, frame, num_samples=5, seed=0).statistics["zero fraction"]
    assert one.names == ["a", "b", "class"]
    np.testing.assert_allclose(one.observed, (frame[["a", "b", "class"]] == 0).mean())


@pytest.mark.parametrize("columns", [1, 4, 64])
def test_all_statistics_together_have_one_rate(columns: int) -> None:
    """Smallest adjusted p-value of 400 true data sets, far from normal and dependent: below .1 in a tenth of them."""
    random, small = torch.Generator().manual_seed(0), 0
    for _ in range(400):
        sets = torch.rand(20, columns, generator=random).pow(-0.4) + torch.rand(20, 1, generator=random)
        one = partial(checks.StatisticCheck, of_rows=False, uniformity=None, names=[])
        empty = torch.empty(0)
        found = checks.Checks(
            {
                "a": one("a", observed=sets[0], replicated=sets[1:], prior=empty, posterior=empty),
                "b": one("b", observed=sets[0].log(), replicated=sets[1:].log(), prior=empty, posterior=empty),
            },
            checks.PIT(empty, "row", []),
            num_samples=19,
        )
        small += min(found.adjusted_p_values().values()) < 0.101
    assert abs(small / 400 - 0.1) < 4.5 * (0.1 * 0.9 / 400) ** 0.5


def test_statistics_that_disagree_have_the_smallest_p_values_and_constant_ones_none() -> None:
    program = LinearGaussian()
    given = {
        "variance": statistics.variance,
        "spread": statistics.row_standard_deviation,
        "one": lambda x: torch.ones(3),
        "rows of ones": lambda x: torch.ones(len(x)),
    }
    p = pv.check(program, program.draw(300) * 1.5, given, num_samples=49, seed=0).adjusted_p_values()
    assert p["variance"] == 1 / 50 and p["spread"] < 1e-6
    assert p["one"] == 1 and p["rows of ones"] > 1e-4


def test_rows_that_share_a_latent_are_not_tested_for_uniformity() -> None:
    program = GlobalMean()
    found = pv.check(program, torch.randn(6, dtype=torch.float64), {"row": lambda x: x}, num_samples=5, seed=0)
    assert found.statistics["row"].of_rows and found.statistics["row"].uniformity is None


def test_per_row_fields_reach_the_model() -> None:
    vae = small_vae(likelihood=pv.likelihoods.Poisson((2, 3)))
    offset = torch.linspace(0, 3, 40, dtype=torch.float64)
    x = vae.sample(40, offset=offset, seed=1)
    found = pv.check(vae, x, {"total": statistics.row_total}, num_samples=50, seed=0, offset=offset)
    assert kstest(found.statistics["total"].prior.numpy(), "uniform").pvalue > RATE


READY = {
    "mean": (statistics.mean, lambda x: x.mean(0)),
    "variance": (statistics.variance, lambda x: x.var(0, ddof=1)),
    "zero_fraction": (statistics.zero_fraction, lambda x: (x == 0).mean(0)),
    "largest": (statistics.largest, lambda x: x.max(0)),
    "quantile": (statistics.quantile(0.3), lambda x: np.quantile(x, 0.3, axis=0)),
    "quantile of 1": (statistics.quantile(1.0), lambda x: x.max(0)),
    "correlation": (
        statistics.correlation(0, 4),
        lambda x: np.corrcoef(x.reshape(len(x), -1)[:, 0], x.reshape(len(x), -1)[:, 4])[0, 1],
    ),
    "row_total": (statistics.row_total, lambda x: x.sum((1, 2))),
    "row_mean": (statistics.row_mean, lambda x: x.mean((1, 2))),
    "row_standard_deviation": (statistics.row_standard_deviation, lambda x: x.std((1, 2))),
    "row_largest": (statistics.row_largest, lambda x: x.max((1, 2))),
    "on_cells": (statistics.on_cells, lambda x: (x > 0).sum((1, 2))),
}


@pytest.mark.parametrize("name", READY)
def test_ready_statistics_equal_those_of_numpy(name: str) -> None:
    ours, numpys = READY[name]
    x = torch.poisson(torch.full((11, 2, 3), 1.5, dtype=torch.float64))
    np.testing.assert_allclose(ours(x), numpys(x.numpy()), rtol=1e-12)


def test_every_ready_statistic_is_tested() -> None:
    assert {name.split()[0] for name in READY} == set(statistics.__all__) - {"Statistic"}


BAD = {
    "x must be at least two rows to be checked; got 1": lambda vae, x: pv.check(vae, x[:1]),
    "statistic 'log' must be finite; got -inf": lambda vae, x: pv.check(
        vae, x, {"log": lambda x: x.mean(0).mul(0).log()}
    ),
    "unit must be row or cell; got 'pixel'": lambda vae, x: checks.pit(vae, x, unit="pixel"),
    "num_samples must be an integer of at least 2; got 1": lambda vae, x: pv.check(vae, x, num_samples=1),
    "level must be a number from 0 to 1; got 90": lambda vae, x: statistics.quantile(90),
}


@pytest.mark.parametrize("message", BAD)
def test_bad_arguments_are_refused(message: str) -> None:
    vae = small_vae()
    with pytest.raises(ValueError, match=message):
        BAD[message](vae, draw_data(vae.likelihood, 4))


def test_what_is_not_a_statistic_is_refused() -> None:
    vae = small_vae()
    x = draw_data(vae.likelihood, 4)
    with pytest.raises(TypeError, match="statistics must be a dictionary of functions of data; got 'mean'"):
        pv.check(vae, x, "mean")
    with pytest.raises(TypeError, match=r"statistic 'q' must return a tensor, an array or a number; got func"):
        pv.check(vae, x, {"q": lambda x: statistics.quantile(0.5)})


def test_models_with_several_data_sites_are_refused() -> None:
    from test_predictive import TwoLayers

    with pytest.raises(NotImplementedError, match=r"The model must have one data site here; got \['x', 'y'\]"):
        pv.check(TwoLayers(), torch.randn(5, 2), {"mean": statistics.mean})


def between_groups(x: torch.Tensor, group: torch.Tensor) -> np.ndarray:
    """The variance of the means of groups, by NumPy."""
    cells, labels = x.numpy(), group.numpy()
    return np.var([cells[labels == one].mean(0) for one in np.unique(labels)], axis=0)


def test_statistics_read_fields_and_find_what_differs_between_groups() -> None:
    program = LinearGaussian(2, 1)
    group = torch.arange(200) % 4
    alike = program.draw(200)
    apart = alike + torch.tensor([-1.0, 0.0, 0.0, 1.0], dtype=alike.dtype)[group].unsqueeze(1)
    statistics = {"between groups": between_groups, "mean": pv.statistics.mean}
    for x, differs in ((alike, False), (apart, True)):
        found = pv.check(program, x, statistics, num_samples=200, seed=0, group=group)
        one = found.statistics["between groups"]
        assert one.observed.shape == (2,) and not one.of_rows
        torch.testing.assert_close(one.observed, torch.as_tensor(between_groups(x, group)))
        assert bool((one.prior < 0.01).all()) == differs
        again = pv.check(program, pv.Rows(x, {"group": group}), statistics, num_samples=200, seed=0)
        assert torch.equal(again.statistics["between groups"].prior, one.prior)


def test_a_field_that_a_statistic_reads_must_be_there_and_one_that_nothing_reads_is_refused() -> None:
    program = LinearGaussian(2, 1)
    x = program.draw(20)
    with pytest.raises(ValueError, match="statistic 'between' must have the fields that it reads; got rows"):
        pv.check(program, x, {"between": between_groups}, num_samples=4, seed=0)
    with pytest.raises(ValueError, match="group"):
        pv.check(program, x, {"mean": pv.statistics.mean}, num_samples=4, seed=0, group=torch.arange(20))
    scaled = pv.check(program, x, {"mean": lambda x, power=2: (x**power).mean()}, num_samples=4, seed=0)
    assert float(scaled.statistics["mean"].observed) == pytest.approx(float((x**2).mean()))


def test_a_group_of_one_row_is_a_group() -> None:
    program = LinearGaussian(2, 1)
    x, group = program.draw(20), torch.tensor([*[0, 1] * 9, 1, 2])
    largest = {"largest mean": lambda x, group: torch.stack([x[group == k].mean() for k in range(3)]).max()}
    by_group = {"means": lambda x, group: torch.stack([x[group == k].mean() for k in range(3)])}
    for statistics_of_groups in (largest, by_group):
        pv.check(program, x, statistics_of_groups, num_samples=4, seed=0, group=group)
    found = pv.diagnose(program, x, statistics=by_group, num_samples=4, num_particles=20, verbose=False, group=group)
    assert list(found.checks.statistics) == ["means"]
