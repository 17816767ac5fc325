"""Predictives: draws have the moments of closed forms, and means do not vary."""

from __future__ import annotations

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from cases import LIKELIHOODS, draw_data, small_vae
from exact import Discrete, GlobalMean, LinearGaussian

import pyro_vae as pv
from pyro_vae.inference import chunks


def test_the_prior_predictive_has_the_moments_of_p_x_with_observation_noise() -> None:
    program = LinearGaussian()
    x = program.sample(20_000, seed=0)
    marginal = program.marginal()
    error = marginal.stddev / 20_000**0.5
    assert ((x.mean(0) - marginal.mean).abs() < 5 * error).all()
    # The variance of a sample covariance of normals: (s_ii s_jj + s_ij^2) / n.
    s = marginal.covariance_matrix
    spread = ((s.diag().outer(s.diag()) + s**2) / 20_000).sqrt()
    assert ((torch.cov(x.T) - s).abs() < 5 * spread).all()
    means = program.sample(20_000, seed=0, mean=True)
    assert ((torch.cov(means.T) - (s - program.log_scale.mul(2).exp() * torch.eye(4))).abs() < 5 * spread).all()


def test_the_posterior_predictive_has_the_moments_of_the_closed_form() -> None:
    program = LinearGaussian()
    x = program.draw(3)
    draws = program.posterior_predictive(x, num_samples=20_000, seed=0)
    assert draws.shape == (20_000, 3, 4)
    mean_map, covariance = program.posterior_parameters()
    mean = (x - program.bias) @ mean_map.T @ program.weight.T + program.bias
    variance = (program.weight @ covariance @ program.weight.T).diag() + program.log_scale.mul(2).exp()
    assert ((draws.mean(0) - mean).abs() < 5 * (variance / 20_000).sqrt()).all()
    assert ((draws.var(0) - variance).abs() < 5 * variance * (2 / 20_000) ** 0.5).all()


def test_the_reconstruction_averages_draws_and_warns_if_rows_have_no_mean() -> None:
    vae = small_vae(likelihood=LIKELIHOODS["Autoregressive Bernoulli"]())
    x = draw_data(vae.likelihood, 6)
    with pytest.warns(UserWarning, match="has no mean here"):
        means = vae.reconstruct(x, num_samples=400, seed=0)
    draws = vae.posterior_predictive(x, num_samples=400, seed=1)
    error = (draws.var(0) * 2 / 400).sqrt()
    assert ((means - draws.mean(0)).abs() <= 5 * error + 1e-12).all()
    with pytest.raises(NotImplementedError, match="Average draws"):
        vae.sample(3, mean=True)


@pytest.mark.parametrize("likelihood", [name for name in LIKELIHOODS if not name.startswith("Autoregressive")])
def test_draws_lie_in_the_support_and_means_do_not_vary(likelihood: str) -> None:
    vae = small_vae(likelihood=LIKELIHOODS[likelihood]())
    x = draw_data(vae.likelihood, 6)
    vae.likelihood.check(vae.sample(50, seed=0))
    vae.likelihood.check(vae.posterior_predictive(x, num_samples=5, seed=0).flatten(0, 1))
    assert torch.equal(vae.reconstruct(x), vae.reconstruct(x))
    np.testing.assert_allclose(vae.reconstruct(x), vae.decode(vae.encode(x).mean).mean)
    assert torch.equal(vae.encode(x).mean, vae.encode(x).mean)
    assert not torch.equal(vae.encode(x).sample(), vae.encode(x).sample())


def test_chunks_cover_every_row_and_every_draw_once(monkeypatch: pytest.MonkeyPatch) -> None:
    program = LinearGaussian()
    with torch.no_grad():
        program.log_scale.fill_(-12.0)
        program.tril.mul_(1e-6)
    x = program.draw(11)
    monkeypatch.setattr(chunks, "CELLS", 30)
    draws = program.posterior_predictive(x, num_samples=9, seed=0)
    expected = (x - program.bias) @ program.mean_map.T @ program.weight.T + program.bias
    np.testing.assert_allclose(draws, expected.detach().expand(9, 11, 4), atol=1e-3)
    assert program.sample(11, seed=0).shape == (11, 4)
    assert program.sample(11, seed=0).unique(dim=0).shape == (11, 4)


def test_results_are_streamed_to_disk_or_into_the_users_array(tmp_path) -> None:
    program = LinearGaussian()
    x = program.draw(5)
    expected = program.posterior_predictive(x, num_samples=7, seed=0)
    program.posterior_predictive(x, num_samples=7, seed=0, out=tmp_path / "draws.npy")
    np.testing.assert_array_equal(np.load(tmp_path / "draws.npy"), expected)
    array = np.zeros((7, 5, 4))
    assert program.posterior_predictive(x, num_samples=7, seed=0, out=array) is array
    np.testing.assert_array_equal(array, expected)
    with pytest.raises(ValueError, match=r"out must have shape \(7, 5, 4\); got \(7, 5\)"):
        program.posterior_predictive(x, num_samples=7, out=np.zeros((7, 5)))


def test_global_latents_are_shared_by_the_rows_of_a_draw() -> None:
    program = GlobalMean(prior_scale=1000.0)
    x = program.sample(50, seed=0)
    assert x.shape == (50,)
    assert x.std() < 2
    draws = program.posterior_predictive(torch.randn(6, dtype=torch.float64), num_samples=4, seed=0)
    assert draws.shape == (4, 6)


def test_resampled_draws_have_the_moments_of_the_posterior_if_those_of_the_guide_are_wrong() -> None:
    program = LinearGaussian(width=1.4, shift=0.2)
    x = program.draw(4)
    mean_map, covariance = program.posterior_parameters()
    mean, variance = ((x - program.bias) @ mean_map.T).detach(), covariance.diag().detach()
    plain = program.posterior_draws(x, num_samples=4000, seed=0)["z"]
    drawn = program.posterior_draws(x, num_samples=4000, num_candidates=20_000, seed=0)["z"]
    assert drawn.shape == plain.shape == (4000, 4, 2)
    ess = program.log_likelihood(x, num_particles=20_000, seed=0).ess.min()
    error = (variance * (1 / 4000 + 1 / ess)).sqrt()
    assert ((drawn.mean(0) - mean).abs() < 5 * error).all()
    assert ((plain.mean(0) - mean).abs() > 5 * error).all()
    assert ((drawn.var(0) / variance - 1).abs() < 5 * (2 / 4000 + 4 / ess) ** 0.5).all()
    replicated = program.posterior_predictive(x, num_samples=4000, num_candidates=20_000, seed=0)
    expected = mean @ program.weight.T + program.bias
    spread = (program.weight @ covariance @ program.weight.T).diag() + program.log_scale.mul(2).exp()
    assert ((replicated.mean(0) - expected).abs() < 5 * (spread * (1 / 4000 + 1 / ess)).sqrt()).all()


def test_resampled_discrete_latents_have_the_posterior_probabilities() -> None:
    program = Discrete()
    drawn = program.posterior_draws(program.rows, num_samples=4000, num_candidates=20_000, seed=0)["z"]
    posterior = program.log_joint(program.rows).softmax(-1).detach()
    for z in range(3):
        share = (drawn == z).double().mean(0)
        assert ((share - posterior[:, z]).abs() < 5 * (0.25 * (1 / 4000 + 1 / 5000)) ** 0.5).all()


def test_resampled_global_latents_have_the_mean_of_the_posterior() -> None:
    program, x = GlobalMean(), torch.randn(6, dtype=torch.float64)
    with torch.no_grad():
        program.slope.fill_(0.8)
    drawn = program.posterior_draws(x, num_samples=3000, num_candidates=20_000, seed=0)["mu"].flatten()
    exact = float(x.sum()) / program.precision
    assert abs(float(drawn.mean()) - exact) < 5 * (2 / program.precision / 3000) ** 0.5
    assert program.posterior_predictive(x, num_samples=3, num_candidates=10, seed=0).shape == (3, 6)
    for count in (1, 7):
        for num_candidates in (None, 50):
            assert program.posterior_draws(x, num_samples=count, num_candidates=num_candidates, seed=0)["mu"].shape == (
                count,
            )


def test_quantiles_are_those_of_the_draws(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    program = LinearGaussian()
    x = program.draw(5)
    draws = program.posterior_predictive(x, num_samples=101, seed=0)
    levels = (0.05, 0.5, 0.95)
    found = program.posterior_predictive(x, num_samples=101, quantiles=levels, seed=0)
    expected = torch.quantile(draws, torch.tensor(levels, dtype=torch.float64), dim=0)
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    program.posterior_predictive(x, num_samples=101, quantiles=levels, seed=0, out=tmp_path / "quantiles.npy")
    np.testing.assert_allclose(np.load(tmp_path / "quantiles.npy"), expected, rtol=1e-12)
    mean_map, covariance = program.posterior_parameters()
    mean = (x - program.bias) @ mean_map.T @ program.weight.T + program.bias
    scale = ((program.weight @ covariance @ program.weight.T).diag() + program.log_scale.mul(2).exp()).sqrt()
    wide = program.posterior_predictive(x, num_samples=20_000, quantiles=(0.05, 0.95), seed=0)
    error = 5 * scale * (0.05 * 0.95 / 20_000) ** 0.5 / 0.1031  # the normal density at the quantile
    assert ((wide[0] - mean + 1.6449 * scale).abs() < error).all()
    assert ((wide[1] - mean - 1.6449 * scale).abs() < error).all()
    monkeypatch.setattr(chunks, "CELLS", 40)
    assert program.posterior_predictive(x, num_samples=101, quantiles=levels, seed=0).shape == (3, 5, 4)


def test_simulated_rows_are_returned_with_the_latents_they_were_drawn_from() -> None:
    program = LinearGaussian()
    drawn = program.simulate(20_000, seed=0)
    assert {name: tuple(value.shape) for name, value in drawn.items()} == {"z": (20_000, 2), "x": (20_000, 4)}
    noise = drawn["x"] - drawn["z"] @ program.weight.T - program.bias
    scale = float(program.log_scale.detach().exp())
    assert ((noise.std(0) / scale - 1).abs() < 5 * (0.5 / 20_000) ** 0.5).all()
    assert ((drawn["z"].mean(0)).abs() < 5 / 20_000**0.5).all()
    assert torch.equal(program.simulate(7, seed=0)["x"], program.sample(7, seed=0))
    assert GlobalMean().simulate(5, seed=0)["mu"].shape == ()


def test_the_predictive_at_given_latents_has_the_moments_of_p_x_given_z() -> None:
    program = LinearGaussian()
    z = torch.tensor([[0.5, -1.0], [2.0, 0.0], [0.0, 0.0]], dtype=torch.float64)
    draws = program.predictive(z, num_samples=4000, seed=0)
    assert draws.shape == (4000, 3, 4)
    scale = float(program.log_scale.detach().exp())
    assert ((draws.mean(0) - z @ program.weight.T - program.bias).abs() < 5 * scale / 4000**0.5).all()
    assert ((draws.std(0) / scale - 1).abs() < 5 * (0.5 / 4000) ** 0.5).all()
    assert torch.equal(draws, program.predictive({"z": z}, num_samples=4000, seed=0))
    levels = program.predictive(z, num_samples=4000, quantiles=(0.5,), seed=0)
    np.testing.assert_allclose(levels[0], draws.median(0).values, atol=0.01)
    layers = TwoLayers()
    drawn = layers.predictive({"b": torch.tensor([0.0, 3.0])}, num_samples=4000, seed=0)  # a is drawn given b
    assert set(drawn) == {"x", "y"}
    assert ((drawn["x"].mean(0) - torch.tensor([0.0, 3.0])).abs() < 5 * (2 / 4000) ** 0.5).all()
    assert ((drawn["y"].var(0) / 5 - 1).abs() < 5 * (2 / 4000) ** 0.5).all()
    with pytest.raises(ValueError, match=r"latents must be a dictionary of values at sites of \['b', 'a'\]; got a t"):
        layers.predictive(torch.zeros(3))
    with pytest.raises(ValueError, match=r"at sites of \['z'\]; got \['w'\]. Name the sites"):
        program.predictive({"w": z})
    for wrong in (z[:, :1], z[0], torch.zeros(3, 7)):
        with pytest.raises(ValueError, match=r"latents at 'z' must have shape \(rows, 2\); got \("):
            program.predictive(wrong)


def test_draws_of_a_hierarchical_vae_have_their_shapes_by_site() -> None:
    vae = pv.HierarchicalVAE(likelihood=LIKELIHOODS["Bernoulli"](), latent_dims=(3, 2), width=8, seed=0)
    x = draw_data(vae.likelihood, 5)
    drawn = vae.posterior_draws(x, num_samples=4, num_candidates=20, seed=0)
    assert {name: tuple(value.shape) for name, value in drawn.items()} == {"z1": (4, 5, 3), "z2": (4, 5, 2)}
    assert vae.posterior_predictive(x, num_samples=4, num_candidates=20, seed=0).shape == (4, 5, 2, 3)
    assert vae.predictive({"z2": torch.zeros(6, 2)}, num_samples=2, seed=0).shape == (2, 6, 2, 3)
    assert set(vae.simulate(3, seed=0)) == {"z1", "z2", "x"}


class TwoLayers(pv.LatentVariableModel):
    """b ~ N(0, 1), a ~ N(b, 1), with two data sites."""

    data_sites = ("x", "y")

    def model(self, x=None, *, rows=None, **batch):
        with pyro.plate("data", len(x) if x is not None else rows):
            b = pyro.sample("b", dist.Normal(0.0, 1.0))
            a = pyro.sample("a", dist.Normal(b, 1.0))
            pyro.sample("y", dist.Normal(2 * a, 1.0), obs=None if x is None else x[:, 1])
            return pyro.sample("x", dist.Normal(a, 1.0), obs=None if x is None else x[:, 0])

    def guide(self, x, **batch):
        with pyro.plate("data", len(x)):
            b = pyro.sample("b", dist.Normal(x[:, 0], 1.0))
            pyro.sample("a", dist.Normal(3 * b, 1.0))


def test_values_of_several_sites_are_returned_by_name() -> None:
    program, x = TwoLayers(), torch.tensor([[1.0, 0.0], [-2.0, 0.0]])
    assert set(program.encode(x)) == {"a", "b"}
    np.testing.assert_allclose(program.encode(x)["b"].mean, x[:, 0])
    decoded = program.decode({"a": x[:, 0], "b": x[:, 0]})
    np.testing.assert_allclose(decoded["y"].mean, 2 * x[:, 0])
    means = program.reconstruct(x)
    np.testing.assert_allclose(means["x"], 3 * x[:, 0])
    np.testing.assert_allclose(means["y"], 6 * x[:, 0])
    assert {name: tuple(value.shape) for name, value in program.sample(5).items()} == {"x": (5,), "y": (5,)}
    draws = program.posterior_predictive(x, num_samples=3)
    assert draws["y"].shape == (3, 2)
    assert program.log_likelihood(x, num_particles=4).estimate.shape == (2,)


def test_the_reconstruction_averages_draws_and_warns_if_the_guide_has_no_mean() -> None:
    program = Discrete()
    with pytest.warns(UserWarning, match="has no mean here"):
        means = program.reconstruct(program.rows, num_samples=4000, seed=0)
    probabilities = program.guide_logits[program.rows[:, 0].long(), program.rows[:, 1].long()].softmax(-1)
    expected = (probabilities @ program.cell_logits.sigmoid()).detach()
    assert float((means - expected).abs().max()) < 5 * 0.5 / 4000**0.5


def test_a_data_site_of_another_name_raises_an_error_that_says_what_to_set() -> None:
    class Renamed(LinearGaussian):
        data_sites = ("y",)

    with pytest.raises(ValueError, match=r"data_sites must name the model's observed sites; got \('y',\)"):
        Renamed().sample(2)


def test_interpolation_starts_and_ends_at_the_means() -> None:
    vae = small_vae()
    x = draw_data(vae.likelihood, 8)
    for path in ("linear", "spherical"):
        steps = vae.interpolate(x[:4], x[4:], steps=5, path=path)
        assert steps.shape == (5, 4, 2, 3)
        np.testing.assert_allclose(steps[0], vae.reconstruct(x[:4]), atol=1e-6)
        np.testing.assert_allclose(steps[-1], vae.reconstruct(x[4:]), atol=1e-6)
    middle = vae.decode((vae.encode(x[:4]).mean + vae.encode(x[4:]).mean) / 2).mean
    np.testing.assert_allclose(vae.interpolate(x[:4], x[4:], steps=3)[1], middle, atol=1e-9)
    np.testing.assert_allclose(
        vae.interpolate(x[:4], x[:4], path="spherical"), vae.reconstruct(x[:4]).expand(9, 4, 2, 3)
    )


def test_the_spherical_path_keeps_the_norm() -> None:
    from pyro_vae.models.paths import spherical

    z0, z1 = torch.tensor([[3.0, 0.0]]), torch.tensor([[0.0, 3.0]])
    t = torch.linspace(0, 1, 7).reshape(-1, 1, 1)
    path = spherical(z0, z1, t)
    np.testing.assert_allclose(path.norm(dim=-1), 3.0, rtol=1e-6)
    np.testing.assert_allclose(path[3, 0], [3 / 2**0.5, 3 / 2**0.5], rtol=1e-6)


BAD = {
    "steps must be at least 2; got 1": lambda vae, x: vae.interpolate(x, x, steps=1),
    "path must be linear or spherical; got 'curved'": lambda vae, x: vae.interpolate(x, x, path="curved"),
    r"z must have shape \(..., 3\); got \(4, 2\)": lambda vae, x: vae.decode(torch.zeros(4, 2)),
    "x1 must have as many rows as x0, 4; got 2": lambda vae, x: vae.interpolate(x, x[:2]),
    "num_rows must be a positive integer; got 0": lambda vae, x: vae.sample(0),
    "num_candidates must be an integer of at least 10; got 5": lambda vae, x: vae.posterior_predictive(
        x, num_samples=10, num_candidates=5
    ),
    "quantiles must be numbers from 0 to 1; got 0.5": lambda vae, x: vae.posterior_predictive(x, quantiles=0.5),
    "num_candidates must be an integer of at least 100; got -1": lambda vae, x: vae.posterior_draws(
        x, num_candidates=-1
    ),
    "out must hold real numbers for these draws; got dtype int64": lambda vae, x: small_vae(
        likelihood=LIKELIHOODS["Normal shared"]()
    ).posterior_predictive(x, num_samples=2, out=np.zeros((2, 4, 2, 3), np.int64)),
    "out must be the path of a new .npy file in a folder that exists; got 'draws.txt'": (
        lambda vae, x: vae.posterior_predictive(x, out="draws.txt")
    ),
    r"quantiles must be numbers from 0 to 1; got \(95,\)": lambda vae, x: vae.posterior_predictive(x, quantiles=(95,)),
    "num_samples must be a positive integer; got -1": lambda vae, x: vae.posterior_predictive(x, num_samples=-1),
    r"x must have shape \(rows, 2, 3\) for Bernoulli; got \(4, 3\)": lambda vae, x: vae.encode(x[:, 0]),
    "x must have no missing cells for this model; got nan in row 0": lambda vae, x: vae.elbo(x * torch.nan),
    "seed must be zero or more; got -1": lambda vae, x: vae.sample(3, seed=-1),
}


@pytest.mark.parametrize("message", BAD)
def test_an_impossible_argument_raises_an_error_that_names_it(message: str) -> None:
    vae = small_vae()
    with pytest.raises(ValueError, match=message):
        BAD[message](vae, draw_data(vae.likelihood, 4))


def test_latents_may_be_an_array() -> None:
    vae = small_vae()
    assert torch.equal(vae.decode(np.zeros((2, 3))).mean, vae.decode(torch.zeros(2, 3)).mean)
    nested = [[[0, 1, 0], [1, 1, 0]]]
    assert torch.equal(vae.encode(nested).mean, vae.encode(torch.tensor(nested)).mean)


def test_a_seed_that_is_no_integer_raises() -> None:
    with pytest.raises(TypeError, match="seed must be an integer or None; got '0'"):
        small_vae().sample(3, seed="0")


class WithoutRows(LinearGaussian):
    """A model as in Pyro's tutorial."""

    def model(self, x):
        return super().model(x)


class NeedsX(LinearGaussian):
    def model(self, x, *, rows=None):
        return super().model(x, rows=rows)


@pytest.mark.parametrize("kind", [WithoutRows, NeedsX])
@pytest.mark.parametrize(
    "draw",
    [
        lambda m, x: m.sample(3),
        lambda m, x: m.simulate(3),
        lambda m, x: m.posterior_predictive(x),
        lambda m, x: m.predictive(torch.zeros(3, 2)),
        lambda m, x: m.reconstruct(x),
        lambda m, x: m.decode(torch.zeros(3, 2)),
    ],
)
def test_models_that_do_not_draw_rows_are_refused_with_what_to_write(kind, draw) -> None:
    program = kind()
    with pytest.raises(TypeError, match=r"model must take rows=.*Write model\(self, x=None, \*, rows=None"):
        draw(program, program.draw(5))


def test_draws_that_do_not_fit_into_memory_are_refused_with_their_size() -> None:
    vae, program = small_vae(), LinearGaussian()
    with pytest.raises(ValueError, match=r"got .* GB, of shape \(1000000000000, 5, 2, 3\). .*out='draws.npy'"):
        vae.posterior_predictive(torch.ones(5, 2, 3), num_samples=10**12)
    with pytest.raises(ValueError, match="Draw fewer rows at a time"):
        vae.sample(10**13)
    with pytest.raises(ValueError, match="Lower num_samples"):
        program.predictive(torch.zeros(5, 2), num_samples=10**13)
