"""The encoder against the exact posterior: ranks, coverage, the amortization gap, NUTS."""

from __future__ import annotations

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from cases import small_vae
from exact import Discrete, GlobalMean, LinearGaussian
from torch import nn

import pyro_vae as pv
from pyro_vae import calibration
from pyro_vae.criticism.intervals import rank_bins, rank_coverage, rank_p_value


class MeanField(LinearGaussian):
    """The best product of normals under KL(q || p): exact means, and standard deviations of the conditionals."""

    def guide(self, x, **batch):
        mean_map, covariance = self.posterior_parameters()
        scale = torch.linalg.inv(covariance).diag().rsqrt()
        with pyro.plate("data", len(x)):
            loc = (x - self.bias.detach()) @ mean_map.detach().T + 0 * self.mean_shift
            return pyro.sample("z", dist.Normal(loc, scale.detach()).to_event(1))


def correlated(kind=LinearGaussian):
    """Two latents that x hardly tells apart: their posterior correlation is about -0.9."""
    program = kind(event=4, latent=2)
    with torch.no_grad():
        program.weight.copy_(torch.tensor([[1.0, 0.8], [1.0, 1.1], [1.0, 0.9], [1.0, 1.2]]) * 1.5)
        mean_map, covariance = program.posterior_parameters()
        program.mean_map.copy_(mean_map)
        program.tril.copy_(torch.linalg.cholesky(covariance))
    return program


def test_an_exact_guide_has_uniform_ranks_and_nominal_coverage() -> None:
    found = calibration.simulation_based_calibration(correlated(), num_rows=2000, seed=0)
    assert found.ranks.shape == (2000, 2) and found.names == ["z[0]", "z[1]"]
    assert (found.p_values > 1e-4).all()
    assert found.miscalibrated == [n for n, p in zip(found.names, found.p_values, strict=True) if p < 0.005]
    assert (found.shape().abs() < 5 * (0.8 / 2000) ** 0.5).all()
    for level, covered in zip((0.5, 0.8, 0.9, 0.95), found.coverage(), strict=True):
        assert ((covered - level).abs() < 5 * (level * (1 - level) / 2000) ** 0.5).all()


def test_ranks_of_a_mean_field_guide_of_a_correlated_posterior_form_a_u() -> None:
    found = calibration.simulation_based_calibration(correlated(MeanField), num_rows=1000, num_draws=99, seed=0)
    assert (found.p_values < 1e-6).all() and found.miscalibrated == ["z[0]", "z[1]"]
    counts = torch.stack([torch.bincount(column // 10, minlength=10) for column in found.ranks.T])
    assert (counts[:, [0, -1]] > 2 * counts[:, 4:6].max(1, keepdim=True).values).all()
    assert (found.shape() > 0.3).all()
    assert (found.coverage((0.9,)) < 0.7).all()
    assert "2 of 2 coordinates have ranks that are not uniform" in str(found)


def test_a_wide_and_a_shifted_guide_are_told_apart() -> None:
    wide = calibration.simulation_based_calibration(LinearGaussian(width=2.0), num_rows=500, seed=0)
    assert (wide.shape() < -0.3).all() and len(wide.miscalibrated) == 2
    shifted = calibration.simulation_based_calibration(LinearGaussian(shift=0.5), num_rows=500, seed=0)
    assert (shifted.ranks.double().mean(0) < 45).all() and len(shifted.miscalibrated) == 2


def test_ties_of_discrete_latents_are_broken_at_random() -> None:
    class Exact(Discrete):
        def guide(self, x, **batch):
            with pyro.plate("data", len(x)):
                return pyro.sample(
                    "z", dist.Categorical(logits=self.log_joint(x).detach() + 0 * self.guide_logits.sum())
                )

    found = calibration.simulation_based_calibration(Exact(), num_rows=2000, num_draws=19, seed=0)
    assert found.names == ["z"] and float(found.p_values) > 1e-4
    wrong = calibration.simulation_based_calibration(Discrete(), num_rows=2000, num_draws=19, seed=0)
    assert float(wrong.p_values) < 1e-4


def test_ranks_cover_all_layers_depend_on_fields_and_need_independent_rows() -> None:
    vae = pv.HierarchicalVAE(likelihood=pv.likelihoods.Bernoulli(3), latent_dims=(2, 1), width=4, seed=0)
    found = calibration.simulation_based_calibration(vae, num_rows=20, num_draws=9, seed=0)
    assert sorted(found.names) == ["z1[0]", "z1[1]", "z2"]
    vae = small_vae(likelihood=pv.likelihoods.Poisson((2, 3)))
    offset = torch.zeros(20, dtype=torch.float64)
    assert calibration.simulation_based_calibration(vae, num_rows=20, offset=offset, seed=0).ranks.shape == (20, 3)
    with pytest.raises(NotImplementedError, match="Rows must be independent to be ranked one by one; got a global"):
        calibration.simulation_based_calibration(GlobalMean(), num_rows=6)


# Ranks made here instead of by a model: numbers of rows and draws are primes, multiples of each other, and neither


def width_p_values(num_rows: int, num_draws: int, width: float, repeats: int) -> np.ndarray:
    """p-values where x says nothing: the latent is N(0, 1), and draws from the guide are N(0, width^2)."""
    random = np.random.default_rng(0)
    latent = random.normal(size=(repeats, num_rows, 1))
    ranks = (width * random.normal(size=(repeats, num_rows, num_draws)) < latent).sum(2)
    return np.array([rank_p_value(torch.from_numpy(column), num_draws) for column in ranks])


def test_every_number_of_rows_and_draws_has_bins_that_see_a_width() -> None:
    for num_rows in range(2, 520):
        for num_draws in range(3, 200, 1 if num_rows % 50 == 21 else 7):
            bins = rank_bins(num_rows, num_draws)
            sizes = np.bincount(bins)
            assert len(bins) == num_draws + 1 and (np.diff(bins) >= 0).all() and (sizes > 0).all()
            assert sizes.max() - sizes.min() <= 1 and len(sizes) >= 3
            if num_rows >= 40:
                assert len(sizes) >= min(8, num_draws + 1) - 1


def test_ranks_of_every_number_of_rows_and_draws_have_a_p_value() -> None:
    random = np.random.default_rng(0)
    for num_rows in range(20, 520):
        num_draws = 9 + num_rows * 7 % 191  # 7 and 191 are prime: every number of draws from 9 to 199 occurs
        p = rank_p_value(torch.from_numpy(random.integers(0, num_draws + 1, num_rows)), num_draws)
        assert 0 < p <= 1
        end = torch.full((num_rows,), num_draws)
        assert rank_p_value(end, num_draws) < 1e-4 and rank_p_value(0 * end, num_draws) < 1e-4


@pytest.mark.parametrize(
    ("num_rows", "num_draws"), [(20, 9), (53, 96), (101, 100), (200, 99), (211, 106), (500, 99), (509, 193)]
)
def test_a_uniform_rank_is_rejected_at_the_stated_rate(num_rows: int, num_draws: int) -> None:
    """2,000 repeats: the bounds are 4 standard errors from the level, .0005."""
    random = np.random.default_rng(0)
    ranks = torch.from_numpy(random.integers(0, num_draws + 1, (2000, num_rows)))
    p = np.array([rank_p_value(one, num_draws) for one in ranks])
    assert 0.03 < (p < 0.05).mean() < 0.07


@pytest.mark.parametrize("num_draws", [19, 96, 99, 100, 106])
def test_a_guide_of_half_the_width_is_seen_at_every_number_of_draws(num_draws: int) -> None:
    assert (width_p_values(200, num_draws, 0.5, 100) < 0.05).mean() > 0.9


@pytest.mark.parametrize("num_draws", [9, 19, 96, 99])
def test_coverage_is_unbiased_for_every_number_of_draws(num_draws: int) -> None:
    each = torch.arange(num_draws + 1).unsqueeze(1)  # every rank once: the mean under uniform ranks, exactly
    levels = (0.0, 0.1, 0.5, 0.8, 0.9, 0.95, 1.0)
    np.testing.assert_allclose(rank_coverage(each, num_draws, levels)[:, 0], levels, atol=1e-12)
    random = np.random.default_rng(0)
    ranks = random.integers(0, num_draws + 1, (4000, 1))
    inside = np.abs((ranks + random.uniform(size=ranks.shape)) / (num_draws + 1) - 0.5) <= 0.45
    found = float(rank_coverage(torch.from_numpy(ranks), num_draws, (0.9,)))
    assert abs(found - inside.mean()) < 4.5 * (0.9 * 0.1 / 4000) ** 0.5


@pytest.mark.parametrize(("num_rows", "num_draws"), [(20, 9), (101, 99), (97, 100), (53, 96), (2, 3)])
def test_calibration_takes_any_number_of_rows_and_draws(num_rows: int, num_draws: int) -> None:
    found = calibration.simulation_based_calibration(LinearGaussian(), num_rows=num_rows, num_draws=num_draws, seed=0)
    assert ((found.p_values > 1e-5) & (found.p_values <= 1)).all()


def test_the_band_holds_whole_curves_with_the_stated_probability() -> None:
    points, lower, upper = calibration.band_of_uniform_ecdf(200, 49, level=0.9)
    ranks = torch.randint(0, 50, (2000, 200))
    below = torch.stack([(ranks < round(float(point) * 50)).double().mean(1) for point in points], 1) - points
    inside = ((below >= lower - 1e-12) & (below <= upper + 1e-12)).all(1).double().mean()
    assert abs(float(inside) - 0.9) < 5 * (0.9 * 0.1 * 2 / 2000) ** 0.5 + 0.02  # two simulations; integer ranks
    assert ((lower < 0) & (upper > 0)).all()


def test_the_amortization_gap_of_a_bad_encoder_is_that_of_the_closed_form() -> None:
    torch.manual_seed(0)
    program = LinearGaussian(event=6, latent=2)
    x = program.draw(40)
    vae = pv.VAE(
        likelihood=pv.likelihoods.Normal(
            6, scale="fixed", fixed_scale=float(program.log_scale.detach().exp()), standardize=False
        ),
        prior=pv.priors.Normal(2),
        guide=pv.guides.MultivariateNormal(),
        decoder=nn.Linear(2, 6),
        seed=0,
    ).double()
    with torch.no_grad():
        vae.decoder.module.weight.copy_(program.weight)
        vae.decoder.module.bias.copy_(program.bias)
    found = calibration.amortization_gap(vae, x, steps=400, num_particles=500, seed=0)
    truth = program.log_evidence(x).detach()
    left = truth - found.optimized
    error = float(left.std()) / 40**0.5
    assert float(left.mean()) < 0.1 + 5 * error  # the family holds the exact posterior, so no gap remains
    assert found.gap.estimate == pytest.approx(float((found.optimized - found.amortized).mean()))
    assert found.gap.estimate > 1 and "amortization gap" in str(found)
    shifted = LinearGaussian(event=6, latent=2, width=0.7, shift=0.5)  # a user's own program
    own = calibration.amortization_gap(shifted, x, steps=200, learning_rate=0.1, seed=0)
    exact = (shifted.log_evidence(x) - shifted.exact_elbo(x)).mean().detach()
    assert abs(own.gap.estimate - float(exact)) < 5 * own.gap.monte_carlo_error + 0.05
    with pytest.raises(NotImplementedError, match="Guides are refined by moving the parameters"):
        calibration.amortization_gap(Discrete(), Discrete.rows)


def test_nuts_and_guide_have_the_moments_of_the_closed_form() -> None:
    program = correlated(MeanField)
    x = program.draw(2)
    found = calibration.against_nuts(program, x, num_samples=200, warmup=100, seed=0)
    mean_map, covariance = program.posterior_parameters()
    mean, scale = ((x - program.bias) @ mean_map.T).detach(), covariance.diag().sqrt().detach()
    assert ((found.nuts_mean - mean).abs() < 5 * scale / 40**0.5).all()  # 40 effective draws at least
    assert ((found.nuts_scale / scale - 1).abs() < 5 * (0.5 / 40) ** 0.5).all()
    exact = torch.linalg.inv(covariance).diag().rsqrt().detach()
    assert ((found.guide_scale / exact - 1).abs() < 5 * (0.5 / 1000) ** 0.5).all()
    assert (found.scale_ratio < 0.8).all()
    assert (found.rhat < 1.2).all() and found.names == ["z[0]", "z[1]"]
    assert "guide against NUTS on 2 rows" in str(found)
    assert found.nuts_draws.shape == (200, 2, 2) and torch.equal(found.nuts_draws.mean(0), found.nuts_mean)
    assert torch.equal(found.guide_draws.std(0), found.guide_scale)
    assert all(parameter.requires_grad for parameter in program.parameters())


def test_nuts_draws_a_global_latent_given_all_rows_and_refuses_a_discrete_one() -> None:
    program, x = GlobalMean(), torch.randn(6, dtype=torch.float64)
    found = calibration.against_nuts(program, x, num_samples=300, warmup=100, seed=0)
    assert found.nuts_mean.shape == (1, 1)
    scale = program.precision**-0.5
    assert abs(float(found.nuts_mean) - float(x.sum()) / program.precision) < 5 * scale / 50**0.5
    with pytest.raises(NotImplementedError, match="NUTS needs continuous latents"):
        calibration.against_nuts(Discrete(), Discrete.rows[:1], num_samples=10, warmup=5)


def test_results_are_plotted_with_their_labels() -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    found = calibration.simulation_based_calibration(correlated(MeanField), num_rows=100, seed=0)
    assert found.plot().get_ylabel() == "ECDF - uniform"
    assert "coverage" in found.plot_coverage().get_ylabel()
    program = correlated()
    against = calibration.against_nuts(program, program.draw(1), num_samples=20, warmup=20, seed=0)
    assert "NUTS" in against.plot().get_ylabel()
    plt.close("all")
