"""Semi-amortized inference and priors fitted to the aggregate posterior."""

from __future__ import annotations

import math

import pytest
import scipy.stats
import torch
from both_steps import assert_same, both, recorded  # noqa: F401
from cases import ELBOS, draw_data, small_vae

import pyro_vae as pv
from pyro_vae import guides, likelihoods, nets, priors
from pyro_vae.inference.refinement import Refinement
from pyro_vae.parts import as_unbounded
from pyro_vae.runtime.random import seeded


def linear_vae(guide: guides.Guide) -> pv.VAE:
    """x = W z + noise, with a given decoder, and an encoder that is zero everywhere."""
    vae = small_vae(
        likelihood=likelihoods.Normal(3, scale="fixed", standardize=False),
        prior=priors.Normal(2),
        guide=guide,
        encoder=nets.MLP(()),
        decoder=nets.MLP(()),
    )
    with torch.no_grad():
        for parameter in vae.encoder.parameters():
            parameter.zero_()
        vae.decoder.module[0].weight.copy_(torch.tensor([[1.0, 0.5], [0.0, 1.0], [-1.0, 0.3]]))
    return vae


def evidence(vae: pv.VAE, x: torch.Tensor) -> torch.Tensor:
    out = vae.decoder.module[0]
    covariance = out.weight @ out.weight.T + torch.eye(3).double()
    return torch.distributions.MultivariateNormal(out.bias, covariance).log_prob(x).detach()


def test_refinement_finds_the_posterior_that_the_encoder_does_not_know() -> None:
    vae = linear_vae(guides.MultivariateNormal())
    x = vae.sample(12, seed=0)
    plain = vae.elbo(x, num_particles=400, seed=0)
    with vae.refined(steps=400, learning_rate=0.03):
        refined = vae.elbo(x, num_particles=400, seed=0)
        weights = vae.log_likelihood(x, num_particles=400, seed=0)
    assert vae.refinement is None
    gap = float((evidence(vae, x) - refined.bound).mean())
    assert float((evidence(vae, x) - plain.bound).mean()) > 0.5
    assert -0.01 < gap < 0.03  # what the noise of the gradient steps leaves
    assert (weights.ess > 300).all()
    assert ((weights.estimate - evidence(vae, x)).abs() < 5 * weights.standard_error + 1e-3).all()


def test_refinement_leaves_the_exact_posterior_where_it_is() -> None:
    vae = linear_vae(guides.MultivariateNormal())
    x = vae.sample(12, seed=0)
    with vae.refined(steps=600, learning_rate=0.05):
        once = vae.elbo(x, num_particles=50, seed=0)
    out = vae.decoder.module[0]
    covariance = torch.linalg.inv(torch.eye(2).double() + out.weight.T @ out.weight)
    with torch.no_grad():
        gain = covariance @ out.weight.T
        factor = torch.linalg.cholesky(covariance)
        encoder = vae.encoder.module[0]
        encoder.weight[:2], encoder.bias[:2] = gain, -gain @ out.bias
        encoder.bias[2:4], encoder.bias[4] = as_unbounded(factor.diagonal()), factor[1, 0]
    exact = evidence(vae, x)
    torch.testing.assert_close(vae.elbo(x, num_particles=5, seed=0).bound, exact, atol=1e-6, rtol=0)
    with vae.refined(steps=20):
        torch.testing.assert_close(vae.elbo(x, num_particles=5, seed=0).bound, exact, atol=1e-3, rtol=0)
    assert float((exact - once.bound).mean()) < 0.01


def test_the_gradient_passes_through_all_steps_of_refinement() -> None:
    refinement = Refinement(steps=3, learning_rate=0.1)
    curvature = torch.tensor([0.5, 2.0], dtype=torch.float64, requires_grad=True)
    start = torch.tensor([[1.0, -0.5], [0.3, 2.0]], dtype=torch.float64, requires_grad=True)

    def objective(parameters: torch.Tensor) -> torch.Tensor:
        return -(curvature * parameters.square()).sum(-1) - parameters[:, 0] ** 4

    def first_moment_only(start: torch.Tensor, curvature: torch.Tensor, sizes: list[torch.Tensor]) -> torch.Tensor:
        """The same steps by hand; their sizes are given."""
        parameters, first = start, torch.zeros_like(start)
        for step, size in enumerate(sizes, 1):
            slope = -2 * curvature * parameters
            slope = slope - torch.stack((4 * parameters[:, 0] ** 3, torch.zeros(2).double()), -1)
            first = 0.9 * first + 0.1 * slope
            parameters = parameters + 0.1 * (4 - step) / 3 * first / (1 - 0.9**step) / size
        return parameters

    sizes, parameters, first, second = [], start.detach(), torch.zeros(2, 2), torch.zeros(2, 2)
    for step in range(1, 4):
        slope = -2 * curvature.detach() * parameters
        slope[:, 0] -= 4 * parameters[:, 0] ** 3
        first, second = 0.9 * first + 0.1 * slope, 0.999 * second + 0.001 * slope.square()
        sizes.append((second / (1 - 0.999**step)).sqrt() + 0.01)
        parameters = parameters + 0.1 * (4 - step) / 3 * first / (1 - 0.9**step) / sizes[-1]
    result = refinement(objective, start, differentiable=True)
    torch.testing.assert_close(result, parameters, rtol=1e-9, atol=1e-9)
    ours = torch.autograd.grad(result.square().sum(), (start, curvature))
    by_hand = torch.autograd.grad(first_moment_only(start, curvature, sizes).square().sum(), (start, curvature))
    for one, other in zip(ours, by_hand, strict=True):
        torch.testing.assert_close(one, other)
    assert not refinement(objective, start, differentiable=False).requires_grad


def test_training_with_refinement_reaches_a_higher_bound_where_the_encoder_is_poor() -> None:
    bounds = {}
    truth = linear_vae(guides.Normal())
    x = truth.sample(200, seed=0)
    for steps in (0, 25):
        vae = linear_vae(guides.Normal())
        vae.encoder.requires_grad_(False)  # as poor as it can be
        options = {"epochs": 15, "learning_rate": 0.05, "seed": 0, "progress": False}
        if steps:
            with vae.refined(steps, learning_rate=0.3):
                vae.fit(x, **options)
                bounds[steps] = float(vae.elbo(x, seed=0).bound.mean())
        else:
            vae.fit(x, **options)
            bounds[steps] = float(vae.elbo(x, seed=0).bound.mean())
    assert bounds[25] > bounds[0] + 0.3


@pytest.mark.parametrize("name", ["ELBO", "ELBO stl", "IWAE dreg"])
def test_compiled_training_with_refinement_equals_the_eager_one(name: str, recorded) -> None:  # noqa: F811
    def make() -> pv.VAE:
        vae = small_vae()
        vae.refinement = Refinement(steps=2)
        return vae

    x = draw_data(make().likelihood, 40)
    assert_same(*both(make, x, elbo=ELBOS[name], epochs=2))


def test_evaluation_with_refinement_leaves_the_model_as_it_was() -> None:
    vae = linear_vae(guides.Normal())
    x = vae.sample(6, seed=0)
    before = {name: value.clone() for name, value in vae.state_dict().items()}
    with vae.refined(steps=3):
        vae.posterior_predictive(x, num_samples=3)
        assert not torch.equal(vae.encode(x, seed=0).mean, torch.zeros(6, 2).double())
    assert all(torch.equal(value, before[name]) for name, value in vae.state_dict().items())
    assert all(parameter.grad is None for parameter in vae.parameters())


def test_refinement_refuses_sizes_out_of_range_and_discrete_draws() -> None:
    with (
        pytest.raises(ValueError, match="steps must be a positive integer; got 0"),
        linear_vae(guides.Normal()).refined(0),
    ):
        pass
    with pytest.raises(ValueError, match="learning_rate must be a positive number"):
        Refinement(learning_rate=-1.0)
    discrete = small_vae(prior=priors.Bernoulli(3), guide=guides.Bernoulli())
    with pytest.raises(NotImplementedError, match="guide must have draws with derivatives"), discrete.refined():
        pass


def two_clusters() -> tuple[pv.VAE, torch.Tensor]:
    """An encoder that sends two thirds of the rows to -3 and one third to 3, with standard deviation 0.5."""
    vae = small_vae(
        likelihood=likelihoods.Normal(1, scale="fixed", standardize=False), prior=priors.Normal(2), encoder=nets.MLP(())
    )
    with torch.no_grad():
        vae.encoder.module[0].weight.copy_(torch.tensor([[3.0], [0.0], [0.0], [0.0]]))
        vae.encoder.module[0].bias.copy_(torch.tensor([0.0, 0.0, -0.9741, -0.9741]))  # softplus: scales of 0.5
    x = torch.where(torch.arange(900) % 3 == 0, 1.0, -1.0).double().unsqueeze(-1)
    return vae, x


@pytest.mark.parametrize("family", ["mixture", "flow"])
def test_the_aggregate_posterior_becomes_a_prior(family: str, tmp_path) -> None:
    vae, x = two_clusters()
    options = {"num_components": 2} if family == "mixture" else {"epochs": 40}
    state = torch.get_rng_state()
    prior = vae.fit_aggregate_posterior(x, family=family, num_draws=3, seed=0, **options)
    assert torch.equal(state, torch.get_rng_state())
    with seeded(5), torch.no_grad():
        z = vae.encode(x).sample()
        p = prior()
        draws = p.expand([4000]).sample()
        truth = torch.logsumexp(
            torch.stack(
                [
                    math.log(share) + torch.distributions.Normal(torch.tensor([at, 0.0]), 0.5).log_prob(z).sum(-1)
                    for share, at in ((1 / 3, 3.0), (2 / 3, -3.0))
                ]
            ),
            0,
        )
        shortfall = truth - p.log_prob(z)
        gain = p.log_prob(z) - vae.prior().log_prob(z)
    assert float(shortfall.mean()) < (0.02 if family == "mixture" else 0.25)
    assert float(gain.mean()) > 1
    if family == "mixture":
        share = int((draws[:, 0] > 0).sum())
        assert scipy.stats.binomtest(share, 4000, 1 / 3).pvalue > 1e-3
    before = vae.log_likelihood(x[:20], num_particles=200, seed=0).estimate.mean()
    vae.prior = prior
    assert vae.log_likelihood(x[:20], num_particles=200, seed=0).estimate.mean() != before
    vae.save(tmp_path / "model")
    torch.testing.assert_close(pv.load(tmp_path / "model").sample(5, seed=0), vae.sample(5, seed=0))


def test_fit_aggregate_posterior_refuses_unknown_families_and_discrete_latents() -> None:
    vae, x = two_clusters()
    with pytest.raises(ValueError, match="family must be mixture or flow; got 'gmm'"):
        vae.fit_aggregate_posterior(x, family="gmm")
    discrete = small_vae(prior=priors.Bernoulli(3), guide=guides.Bernoulli())
    with pytest.raises(ValueError, match="latents must be real numbers; got Bernoulli"):
        discrete.fit_aggregate_posterior(draw_data(discrete.likelihood, 5))
