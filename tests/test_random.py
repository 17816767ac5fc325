"""Noise that is kept and repeated, and streams that must differ."""

from __future__ import annotations

import pyro.distributions as dist
import pytest
import torch
from cases import PRIORS
from torch import nn

import pyro_vae as pv
from pyro_vae.runtime.random import Noise, seeded


def draws() -> list[torch.Tensor]:
    return [
        nn.functional.dropout(torch.ones(50), 0.5),
        dist.Normal(torch.zeros(3), 1.0).rsample(),
        dist.Bernoulli(torch.full((20,), 0.5)).sample(),
        torch.empty(4).uniform_(),
        torch.randperm(10),
    ]


def test_noise_that_was_kept_is_repeated_and_moves_no_random_state() -> None:
    with Noise() as kept:
        first = draws()
    assert len(kept.kept) == 5
    before = torch.get_rng_state()
    with Noise(repeat=kept):
        second = draws()
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert torch.equal(torch.get_rng_state(), before)
    second[1].add_(1.0)
    with Noise(repeat=kept):
        assert torch.equal(draws()[1], first[1])


def test_more_noise_than_was_kept_is_refused() -> None:
    with Noise() as kept:
        draws()
    with Noise(repeat=kept):
        draws()
        with pytest.raises(ValueError, match="The guide must draw the same noise each time it runs; got more"):
            torch.randn(1)


@pytest.mark.parametrize("name", PRIORS)
def test_initial_parameters_of_priors_are_not_the_noise_of_calls_with_a_seed(name: str) -> None:
    """Means that equal the noise of a guide near N(0, I) would give its first draws weights without measure."""
    with seeded(0):
        noise = torch.randn(1000)
    for parameter in PRIORS[name]().parameters():
        values = parameter.detach().flatten()[:1000]
        if len(values) >= 4 and values.std() > 0:
            assert not torch.allclose(values, noise[: len(values)], atol=1e-3)


def test_seed_0_has_no_higher_log_likelihood_than_other_seeds_under_a_mixture() -> None:
    """It is the lowest or the highest of 50 with probability .04."""
    vae = pv.VAE(likelihood=pv.likelihoods.Normal(3), prior=pv.priors.Mixture(16, 20), seed=4)
    x = torch.linspace(-1, 1, 30).reshape(10, 3)
    vae.fit(x, epochs=1, seed=4, progress=False)
    found = [vae.log_likelihood(x, num_particles=100, seed=seed).estimate.mean() for seed in range(50)]
    assert torch.stack(found[1:]).min() < found[0] < torch.stack(found[1:]).max()
