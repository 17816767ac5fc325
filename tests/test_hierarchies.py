"""Hierarchies of latents, with both kinds of guides: the closed form of a linear model, training, draws and saving."""

from __future__ import annotations

import pytest
import torch
from both_steps import assert_same, both, recorded  # noqa: F401
from cases import EVENT, draw_data

import pyro_vae as pv
from pyro_vae import elbos, likelihoods, nets, priors
from pyro_vae.inference.weights import log_weights
from pyro_vae.models import hierarchical
from pyro_vae.runtime.isolation import isolated


def make(inference: str = "top_down", **options) -> pv.HierarchicalVAE:
    parts = {
        "likelihood": likelihoods.Bernoulli(EVENT),
        "latent_dims": (4, 3, 2),
        "encoder": nets.MLP((8,)),
        "decoder": nets.MLP((8,)),
        "between": nets.MLP((5,)),
        "width": 6,
    }
    return pv.HierarchicalVAE(inference=inference, seed=0, **(parts | options)).double()


DATA = draw_data(make().likelihood, 40)
INFERENCES = ("top_down", "bottom_up")


def linear(inference: str) -> pv.HierarchicalVAE:
    """z2 ~ N(0, I), z1 | z2 and x | z1 normal with linear means and constant scales."""
    affine = nets.MLP(())
    vae = make(
        inference,
        likelihood=likelihoods.Normal(3, scale="fixed", fixed_scale=0.7, standardize=False),
        latent_dims=(2, 1),
        encoder=affine,
        decoder=affine,
        between=affine,
    )
    with torch.no_grad():
        vae.down[0].module[0].weight[2:] = 0.0  # scales that do not depend on z2
    return vae


def evidence(vae: pv.HierarchicalVAE, x: torch.Tensor) -> torch.Tensor:
    down, out = vae.down[0].module[0], vae.decoder.module[0]
    loc, scale = hierarchical._moments(down(torch.zeros(1, 1).double()))
    weight = down.weight[:2]
    covariance = out.weight @ (weight @ weight.T + scale[0].square().diag()) @ out.weight.T + 0.49 * torch.eye(3)
    return torch.distributions.MultivariateNormal(out(loc[0]), covariance).log_prob(x)


@pytest.mark.parametrize("inference", INFERENCES)
def test_the_log_likelihood_of_a_linear_hierarchy_is_its_closed_form(inference: str) -> None:
    vae = linear(inference)
    x = vae.sample(25, seed=0)
    vae.down.requires_grad_(False)
    vae.decoder.requires_grad_(False)
    vae.fit(x, elbo=elbos.ELBO(num_particles=4), epochs=100, learning_rate=0.02, seed=0, progress=False)
    result = vae.log_likelihood(x, num_particles=4000, seed=0)
    difference = (result.estimate - evidence(vae, x).detach()).abs()
    assert (difference < 4.5 * result.standard_error).all()
    bound = vae.elbo(x, num_particles=500, seed=0)
    assert (bound.bound - evidence(vae, x) < 4 * bound.standard_error).all()
    assert bound.bound.mean() < evidence(vae, x).mean()


def test_a_precision_weighted_product_is_that_of_the_densities() -> None:
    one, two = torch.distributions.Normal(0.3, 0.8), torch.distributions.Normal(-1.0, 0.5)
    mean, scale = hierarchical._product_of_normals((one.loc, one.scale), (two.loc, two.scale))
    product = torch.distributions.Normal(mean, scale)
    z = torch.linspace(-2, 2, 9)
    ratio = product.log_prob(z) - one.log_prob(z) - two.log_prob(z)
    torch.testing.assert_close(ratio, ratio[:1].expand(9))


def test_the_ladder_multiplies_the_densities_of_the_path_and_of_the_model() -> None:
    vae = make()
    with isolated():
        weights = log_weights(vae.model, vae.guide, DATA, num_particles=2)
    q, p = (weights.guide["z1"].distribution.base_dist, weights.latent["z1"].distribution.base_dist)
    assert (q.scale < p.scale).all()  # a product is narrower than its factors
    features = [vae.encoder(DATA)]
    loc, scale = hierarchical._moments(vae.heads[0](features[0]))
    precision = scale**-2 + p.scale**-2
    torch.testing.assert_close(q.loc, (loc * scale**-2 + p.loc * p.scale**-2) / precision)
    torch.testing.assert_close(q.scale, precision**-0.5)


@pytest.mark.parametrize("inference", INFERENCES)
@pytest.mark.parametrize("prior", [priors.Mixture(2, 3), priors.Flow(2, hidden=(6,))], ids=["Mixture", "Flow"])
def test_a_hierarchy_trains_draws_reconstructs_and_is_loaded_as_saved(inference: str, prior, tmp_path) -> None:
    vae = make(inference, prior=prior)
    history = vae.fit(
        DATA, elbo=elbos.IWAE(num_particles=3, gradient="dreg"), epochs=20, learning_rate=0.01, seed=0, progress=False
    )
    assert history["train_bound"][-1] > history["train_bound"][0]
    assert list(vae.encode(DATA)) == (["z3", "z2", "z1"] if inference == "top_down" else ["z1", "z2", "z3"])
    assert vae.sample(5, seed=0).shape == (5, *EVENT)
    assert vae.posterior_predictive(DATA, num_samples=7).shape == (7, 40, *EVENT)
    assert vae.reconstruct(DATA).shape == DATA.shape
    result = vae.elbo(DATA, seed=0)
    torch.testing.assert_close(result.bound, result.reconstruction - result.kl)
    vae.save(tmp_path / "model")
    again = pv.load(tmp_path / "model")
    assert isinstance(again, pv.HierarchicalVAE)
    assert again.latent_dims == (4, 3, 2)
    torch.testing.assert_close(again.sample(5, seed=0), vae.sample(5, seed=0))


@pytest.mark.parametrize("inference", INFERENCES)
@pytest.mark.parametrize(
    "elbo", [elbos.ELBO, lambda: elbos.IWAE(num_particles=3, gradient="dreg")], ids=["ELBO", "DReG"]
)
def test_the_compiled_training_of_a_hierarchy_equals_the_eager_one(inference: str, elbo, recorded) -> None:  # noqa: F811
    assert_same(*both(lambda: make(inference), DATA, elbo=elbo))


BAD = {
    "latent_dims must be two sizes or more; got .4,.. For one layer use VAE": {"latent_dims": (4,)},
    "latent_dims must be two sizes or more; got .5,.": {"latent_dims": 5},
    "latent_dims must be a positive integer; got 0": {"latent_dims": (4, 0)},
    "inference must be top_down or bottom_up; got 'ladder'": {"inference": "ladder"},
    "prior must have 2 latents, as the highest layer; got 5": {"prior": priors.Normal(5)},
    "real numbers, since the guide is normal; got the probability simplex from LogisticNormal. Choose another": {
        "prior": priors.LogisticNormal(2)
    },
    "prior must draw real numbers by itself; got VampPrior. Choose another, e.g. priors.Mixture": {
        "prior": priors.VampPrior(2, EVENT)
    },
    "width must be a positive integer": {"width": 0},
}


@pytest.mark.parametrize("message", BAD)
def test_arguments_out_of_range_are_named(message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**BAD[message])


def test_parts_of_the_wrong_kind_are_named() -> None:
    with pytest.raises(TypeError, match="prior must be a part of pv.priors"):
        make(prior=torch.nn.Linear(1, 1))
