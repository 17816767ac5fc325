"""Numbers about a fitted model against closed forms, with errors that cover."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from cases import LIKELIHOODS, BatchNormNet, draw_data, small_vae
from exact import Discrete, GlobalMean, LinearGaussian
from torch import nn

from pyro_vae import chunks, evaluation


def test_log_likelihood_is_exact_under_the_exact_posterior() -> None:
    program, x = LinearGaussian(), LinearGaussian().draw(20)
    result = program.log_likelihood(x, num_particles=30, seed=0)
    np.testing.assert_allclose(result.estimate, program.log_evidence(x).detach(), atol=1e-8)
    np.testing.assert_allclose(result.ess, 30, rtol=1e-8)
    np.testing.assert_allclose(result.standard_error, 0, atol=1e-7)
    assert result.num_particles == 30
    assert not result.joint


def test_log_likelihood_lies_within_four_standard_errors() -> None:
    program, x = LinearGaussian(width=1.3, shift=0.2), LinearGaussian().draw(100)
    result = program.log_likelihood(x, num_particles=4000, seed=0)
    difference = (result.estimate - program.log_evidence(x).detach()).abs()
    assert (difference < 4 * result.standard_error + 1e-8).all()
    assert ((result.ess > 500) & (result.ess < 4000)).all()


def test_the_stated_error_covers() -> None:
    """200 rows x 20 repeats: the 95 % interval covers at a rate within 5 standard errors of .95."""
    program, x = LinearGaussian(width=1.2), LinearGaussian().draw(200)
    evidence = program.log_evidence(x).detach()
    hits = []
    for repeat in range(20):
        result = program.log_likelihood(x, num_particles=1000, seed=repeat)
        hits.append((result.estimate - evidence).abs() < 1.96 * result.standard_error)
    rate = float(torch.stack(hits).double().mean())
    assert abs(rate - 0.95) < 5 * (0.95 * 0.05 / 4000) ** 0.5


def test_log_likelihood_of_a_discrete_latent() -> None:
    program = Discrete()
    result = program.log_likelihood(program.rows, num_particles=20_000, seed=0)
    difference = (result.estimate - program.log_evidence(program.rows).detach()).abs()
    assert (difference < 5 * result.standard_error).all()
    assert (result.standard_error < 0.02).all()


def test_the_summary_of_log_weights() -> None:
    log_w = torch.tensor([[0.0, 5.0], [0.0, -1e9]], dtype=torch.float64)
    estimate, error, ess, *_ = evaluation.summarize(log_w)
    np.testing.assert_allclose(estimate, [0.0, 5.0 - np.log(2)])
    np.testing.assert_allclose(ess, [2.0, 1.0])
    np.testing.assert_allclose(error, [0.0, 1.0])  # weights 1, 0: coefficient of variation sqrt 2, over sqrt 2
    assert evaluation.summarize(torch.full((5, 1), -3.7, dtype=torch.float64))[1:4] == (0.0, 5.0, -np.inf)


@pytest.mark.usefixtures("plain_pyro")
def test_chunks_change_nothing_but_the_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    program, x = LinearGaussian(), LinearGaussian().draw(23)
    whole = program.log_likelihood(x, num_particles=17, seed=0)
    monkeypatch.setattr(chunks, "CELLS", 4 * 10)
    chunked = program.log_likelihood(x, num_particles=17, seed=0)
    np.testing.assert_allclose(whole.estimate, chunked.estimate, atol=1e-8)  # exact guide: no noise
    assert chunked.estimate.shape == (23,)
    shapes = [len(batch["x"]) for batch in chunks.row_chunks(program, program._rows(x, {})[0], 17, ())]
    assert max(shapes) == 1
    assert sum(shapes) == 23


def test_the_elbo_and_its_parts() -> None:
    vae = small_vae()
    x = draw_data(vae.likelihood, 9)
    result = vae.elbo(x, num_particles=50, seed=0)
    assert torch.equal(result.bound, result.reconstruction - result.kl)
    assert result.bound.shape == (9,)
    assert result.analytic_sites == ("z",)
    likelihood = vae.log_likelihood(x, num_particles=2000, seed=0)
    assert (result.bound < likelihood.estimate + 5 * (result.standard_error + likelihood.standard_error)).all()
    assert vae.elbo(x, num_particles=1, seed=0).standard_error.isnan().all()


def test_the_elbo_lies_within_five_standard_errors_of_the_closed_form() -> None:
    program = LinearGaussian(width=0.7, shift=0.4)
    x = program.draw(50)
    result = program.elbo(x, num_particles=2000, seed=0)
    difference = (result.bound - program.exact_elbo(x).detach()).abs()
    assert (difference < 5 * result.standard_error).all()


def test_joint_programs_say_so() -> None:
    program, x = GlobalMean(), torch.randn(6, dtype=torch.float64)
    result = program.log_likelihood(x, num_particles=5, seed=0)
    assert result.joint
    np.testing.assert_allclose(result.estimate, program.log_evidence(x).reshape(1), atol=1e-9)
    bound = program.elbo(x, num_particles=5, seed=0)
    assert bound.joint
    assert bound.bound.shape == (1,)


def test_means_carry_two_errors() -> None:
    program, x = LinearGaussian(width=1.3), LinearGaussian().draw(400)
    result = program.log_likelihood(x, num_particles=200, seed=0)
    mean = result.mean()
    assert mean.estimate == pytest.approx(float(result.estimate.mean()))
    assert mean.sampling_error == pytest.approx(float(result.estimate.std() / 20))
    assert mean.monte_carlo_error == pytest.approx(float(result.standard_error.square().sum().sqrt() / 400))
    assert "Monte Carlo error" in str(mean)


def test_parts_of_the_bound_carry_their_own_errors() -> None:
    vae = small_vae()
    x = draw_data(vae.likelihood, 9)
    result = vae.elbo(x, num_particles=50, seed=0)
    np.testing.assert_allclose(result.kl_error, 0.0, atol=1e-15)  # in closed form
    np.testing.assert_allclose(result.reconstruction_error, result.standard_error)
    assert result.mean("kl").estimate == pytest.approx(float(result.kl.mean()))
    assert result.mean("reconstruction").monte_carlo_error > 0
    with pytest.raises(ValueError, match="part must be bound, reconstruction or kl; got 'prior'"):
        result.mean("prior")
    program = LinearGaussian()
    by_draws = program.elbo(program.draw(5), num_particles=50, seed=0)
    assert (by_draws.kl_error > 0).all()  # a full covariance against independent latents has no closed form
    np.testing.assert_allclose(by_draws.standard_error, 0.0, atol=1e-8)  # while the errors cancel at the posterior


def test_a_random_transform_draws_from_the_seed_alone() -> None:
    import pyro_vae as pv

    vae = small_vae()
    rows = pv.Rows(torch.full((6, 2, 3), 0.5), transform=torch.bernoulli)
    random = torch.get_rng_state()
    first, second = vae.elbo(rows, seed=0).bound, vae.elbo(rows, seed=0).bound
    vae.reconstruct(rows, seed=0)
    assert torch.equal(first, second)
    assert torch.equal(random, torch.get_rng_state())


def test_real_data_are_scored_on_the_original_scale() -> None:
    """Rescaling data and model alike moves the density by the Jacobian."""
    x = torch.randn(30, *(2, 3), dtype=torch.float64)
    scores = []
    for factor in (1.0, 1000.0):
        vae = small_vae(likelihood=LIKELIHOODS["Normal shared"]())
        vae.initialize(factor * x)
        scores.append(vae.log_likelihood(factor * x, num_particles=20, seed=0).estimate)
    np.testing.assert_allclose(scores[1], scores[0] - 6 * np.log(1000.0), rtol=1e-6)


def methods(x):
    return {
        "elbo": lambda m, s: m.elbo(x, num_particles=3, seed=s).bound,
        "log_likelihood": lambda m, s: m.log_likelihood(x, num_particles=3, seed=s).estimate,
        "sample": lambda m, s: m.sample(5, seed=s),
        "posterior_predictive": lambda m, s: m.posterior_predictive(x, num_samples=3, seed=s),
        "reconstruct": lambda m, s: m.reconstruct(x, seed=s),
        "encode": lambda m, s: m.encode(x).mean,
        "decode": lambda m, s: m.decode(torch.zeros(4, 3)).mean,
        "interpolate": lambda m, s: m.interpolate(x[:2], x[2:4]),
    }


@pytest.mark.parametrize("name", methods(None))
def test_evaluation_changes_nothing(name: str) -> None:
    encoder, decoder = BatchNormNet((6, 6)), nn.Sequential(BatchNormNet((3, 6)), nn.Unflatten(1, (2, 3)))
    vae = small_vae(encoder=encoder, decoder=decoder)
    x = draw_data(vae.likelihood, 8)
    vae.train()
    vae.decoder.module[0].layers[2].eval()  # a mode of its own, which must come back
    before = copy.deepcopy(vae.state_dict())
    modes = [part.training for part in vae.modules()]
    random = torch.get_rng_state()
    call = methods(x)[name]
    first, second = call(vae, 0), call(vae, 0)
    assert torch.equal(torch.get_rng_state(), random)
    assert torch.equal(first, second)
    assert not first.requires_grad
    assert modes == [part.training for part in vae.modules()]
    assert all(torch.equal(value, before[key]) for key, value in vae.state_dict().items())
    assert all(parameter.grad is None for parameter in vae.parameters())


@pytest.mark.parametrize("name", ["elbo", "log_likelihood", "sample", "posterior_predictive"])
def test_unseeded_calls_differ(name: str) -> None:
    vae = small_vae()
    call = methods(draw_data(vae.likelihood, 8))[name]
    assert not torch.equal(call(vae, None), call(vae, None))


@pytest.mark.parametrize("call", ["elbo", "log_likelihood"])
def test_bad_counts_are_named(call: str) -> None:
    vae = small_vae()
    with pytest.raises(ValueError, match="num_particles must be a positive integer; got 0"):
        getattr(vae, call)(draw_data(vae.likelihood, 3), num_particles=0)
