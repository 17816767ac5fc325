"""The difference estimator of mean log p(x): closed forms, its error, and what it does with extreme estimates."""

from __future__ import annotations

import math

import pytest
import torch
from exact import GlobalMean, LinearGaussian

import pyro_vae as pv
from pyro_vae.evaluation import AuditedLogLikelihood, Importance, LogLikelihood


def estimates(values: list[float], error: float) -> LogLikelihood:
    x = torch.tensor(values, dtype=torch.float64)
    return LogLikelihood(x, torch.full_like(x, error), x, x, x, 100, False, discrete=True, num_cells=2)


def test_mean_and_errors_are_those_of_the_formula() -> None:
    cheap, better = estimates([-4.0, -5.0, -6.0, -7.0], 9.0), estimates([-3.0, -4.5], 0.2)
    found = AuditedLogLikelihood(cheap, better, torch.tensor([1, 2]))  # differences 2 and 1.5
    assert found.mean().estimate == pytest.approx(-5.5 + 1.75)
    expected = math.sqrt((1 - 2 / 4) * 0.125 / 2 + 0.04 / 4)
    assert found.mean().monte_carlo_error == pytest.approx(expected)
    assert found.mean().sampling_error == pytest.approx(math.sqrt(5 / 3) / 2)  # of the cheap estimates of all rows
    assert found.mean().kind == "lower bound" and str(found.mean()).startswith(">= -3.750 (Monte Carlo error 0.203")
    bits = found.mean("bits")
    assert bits.estimate == pytest.approx(3.75 / (2 * math.log(2))) and bits.kind == "upper bound"
    assert found.difference().estimate == pytest.approx(1.75)


def test_with_all_rows_audited_the_better_estimates_decide() -> None:
    cheap, better = estimates([-4.0, -5.0], 9.0), estimates([-3.5, -4.0], 0.2)
    found = AuditedLogLikelihood(cheap, better, torch.tensor([1, 0]))
    assert found.mean().estimate == pytest.approx(-3.75)
    assert found.mean().monte_carlo_error == pytest.approx(0.2 / math.sqrt(2))


def test_a_cheap_estimate_of_minus_infinity_leaves_the_mean_over_the_audited_rows() -> None:
    cheap, better = estimates([-4.0, -math.inf, -6.0], 9.0), estimates([-3.0, -5.0], 0.2)
    found = AuditedLogLikelihood(cheap, better, torch.tensor([1, 2]))
    assert found.mean().estimate == pytest.approx(-4.0)
    assert found.mean().monte_carlo_error == pytest.approx(math.sqrt((1 - 2 / 3) * 2.0 / 2 + 0.04 / 3))


@pytest.mark.parametrize("audited", [2, 5, 49, 50, 500])
def test_the_sampling_error_is_that_of_all_rows_however_few_are_audited(audited: int) -> None:
    """Within a factor that the standard deviation of 50 numbers leaves with probability 1e-4."""
    draws = torch.randn(500, generator=torch.Generator().manual_seed(audited), dtype=torch.float64)
    found = AuditedLogLikelihood(
        estimates(draws.tolist(), 0.1), estimates(draws[:audited].tolist(), 0.1), torch.arange(audited)
    )
    assert 0.65 < found.mean().sampling_error * math.sqrt(500) < 1.4


def test_no_error_is_stated_where_a_row_of_minus_infinity_was_not_audited() -> None:
    cheap = estimates([-4.0, -math.inf, -6.0, -5.0], 9.0)
    audited = AuditedLogLikelihood(cheap, estimates([-3.0, -5.0], 0.2), torch.tensor([1, 2]))
    missed = AuditedLogLikelihood(cheap, estimates([-3.0, -5.0], 0.2), torch.tensor([0, 2]))
    assert audited.mean().error_holds and audited.difference().estimate == math.inf
    assert not missed.mean().error_holds and "Monte Carlo error" not in str(missed)
    both = AuditedLogLikelihood(cheap, estimates([-math.inf, -5.0], 0.2), torch.tensor([1, 2]))
    assert both.difference().estimate == 0.5 and both.mean().estimate == -math.inf


def test_stated_errors_cover_the_exact_mean_where_importance_sampling_alone_does_not() -> None:
    """With 10 draws from a guide that is too wide, importance sampling is too low by several stated errors.

    The 400 repetitions hold the exact mean in 95 % of intervals; fewer than 92 % or more than 98 % occur with
    probability .01.
    """
    model = LinearGaussian(3, 2, width=3.0)
    x = model.sample(60, seed=0)
    exact = model.log_evidence(x).mean().item()
    hits = alone = 0
    for seed in range(400):
        found = model.audited_log_likelihood(x, num_rows=20, num_particles=10, method=_Wider(), seed=3 * seed)
        mean, cheap = found.mean(), found.cheap.mean()
        hits += abs(mean.estimate - exact) <= 1.96 * mean.monte_carlo_error
        alone += abs(cheap.estimate - exact) <= 1.96 * cheap.monte_carlo_error
    assert 0.92 * 400 <= hits <= 0.98 * 400
    assert alone < 0.8 * 400


class _Wider(Importance):
    """Importance sampling with many draws, which has next to no bias here."""

    @property
    def default_particles(self) -> int:
        return 400


def test_annealing_corrects_to_the_exact_evidence() -> None:
    model = LinearGaussian(3, 2, width=0.5)
    x = model.sample(40, seed=0)
    found = model.audited_log_likelihood(x, num_rows=30, num_particles=50, seed=0)
    mean, exact = found.mean(), model.log_evidence(x).mean().item()
    assert abs(mean.estimate - exact) < 4 * mean.monte_carlo_error < 0.5
    assert found.better.method == "ais" and len(found.index.unique()) == 30
    assert "is 0." in str(found) or "is -0." in str(found)


def test_a_method_that_is_lower_does_not_lower_the_mean() -> None:
    cheap = estimates([-4.0, -5.0, -6.0], 0.3)
    found = AuditedLogLikelihood(cheap, estimates([-6.0, -6.5], 0.1), torch.tensor([0, 1]))
    low, expected = found.difference(), math.sqrt((1 - 2 / 3) * 0.125 / 2 + (0.01 + 0.09) / 3)
    assert low.estimate == -1.75 and low.monte_carlo_error == pytest.approx(expected)
    assert not found.corrects and found.mean() == cheap.mean() and found.mean("bits") == cheap.mean("bits")
    noisy = AuditedLogLikelihood(cheap, estimates([-6.0, -5.5], 2.0), torch.tensor([0, 1]))
    assert noisy.corrects and noisy.mean().estimate == pytest.approx(-5.0 - 1.25)
    zero = AuditedLogLikelihood(cheap, estimates([-math.inf, -5.0], 0.1), torch.tensor([0, 1]))
    assert not zero.corrects and zero.mean() == cheap.mean()
    apart = estimates([-2.0, -40.0, -math.inf], 0.1)  # there is no finite mean to fall back on
    assert AuditedLogLikelihood(apart, estimates([-4.0, -42.0], 0.1), torch.tensor([0, 1])).corrects


def test_noise_alone_seldom_keeps_annealing_from_correcting() -> None:
    """By more than three standard errors, on one side, in .13 % of 20,000 audits: 44 at most with probability .9997."""
    generator = torch.Generator().manual_seed(0)
    kept = 0
    for _ in range(20_000):
        noise = torch.randn(2, 5, generator=generator, dtype=torch.float64)
        cheap, better = estimates((0.5 * noise[0]).tolist(), 0.5), estimates((0.05 * noise[1]).tolist(), 0.05)
        kept += not AuditedLogLikelihood(cheap, better, torch.arange(5)).corrects
    assert 0 < kept <= 44


@pytest.mark.parametrize("model", [LinearGaussian(3, 2), GlobalMean(rows=200)], ids=["rows", "joint"])
def test_a_warning_says_that_annealing_is_lower(model: pv.LatentVariableModel) -> None:
    """From the prior, in two steps; importance sampling is exact for both."""
    x, poor = model.sample(200, seed=0), pv.evaluation.AIS(2, 1, start="prior", num_chains=4)
    with pytest.warns(pv.evaluation.UnreliableWarning, match="ais is .* lower than importance .* Take more steps"):
        found = model.audited_log_likelihood(x, num_rows=200, method=poor, seed=0)
    assert found.mean() == found.cheap.mean() and str(found).endswith("so that importance counts")


def test_a_seed_repeats_the_rows_and_the_numbers_and_the_number_of_rows_may_be_given() -> None:
    model = LinearGaussian(3, 2, width=1.5)
    x = model.sample(80, seed=0)
    ais = pv.evaluation.AIS(num_steps=3, num_chains=4)
    afforded = model.audited_log_likelihood(x, method=ais, num_particles=20, seed=1)
    assert len(afforded.index) == 80
    again = model.audited_log_likelihood(x, method=ais, num_particles=20, seed=1, num_rows=80)
    assert torch.equal(afforded.better.estimate, again.better.estimate) and torch.equal(afforded.index, again.index)
    least = model.audited_log_likelihood(x, method=ais, num_particles=20, seed=1, seconds=1e-6)
    assert torch.equal(least.index, afforded.index[:50])
    assert torch.equal(least.better.estimate, afforded.better.estimate[:50])
    assert torch.equal(least.cheap.estimate, model.log_likelihood(x, num_particles=20, seed=1).estimate)


def test_wrong_options_are_refused() -> None:
    model = LinearGaussian(3, 2)
    x = model.sample(10, seed=0)
    with pytest.raises(ValueError, match="num_rows must be an integer of at least 2; got 1"):
        model.audited_log_likelihood(x, num_rows=1)
    with pytest.raises(ValueError, match="seconds must be"):
        model.audited_log_likelihood(x, seconds=0.0)
    with pytest.raises(ValueError, match="method must be"):
        model.audited_log_likelihood(x, method="annealing")
    ais = pv.evaluation.AIS(num_steps=3)
    assert model.audited_log_likelihood(x, method=ais, seed=0).mean().monte_carlo_error < 1e-3  # the guide is exact
