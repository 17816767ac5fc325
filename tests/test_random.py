"""Noise that is kept and repeated."""

from __future__ import annotations

import pyro.distributions as dist
import pytest
import torch
from torch import nn

from pyro_vae.runtime.random import Noise


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
