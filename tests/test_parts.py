"""Every prior, guide and likelihood has a case, is rebuilt from plain values, and names arguments that are wrong."""

from __future__ import annotations

import json

import pytest
import torch
from cases import GUIDES, LIKELIHOODS, PRIORS, UNSAVED, small_vae

from pyro_vae import guides, likelihoods, priors
from pyro_vae.models import VAE
from pyro_vae.saving import description

ROOMS = {"priors": (priors, PRIORS), "guides": (guides, GUIDES), "likelihoods": (likelihoods, LIKELIHOODS | UNSAVED)}
PARTS = {f"{room}: {name}": make for room, (_, table) in ROOMS.items() for name, make in table.items()}
YOURS = {"priors: Distribution", "likelihoods: Custom"}  # they hold an object of the user's


@pytest.mark.parametrize("room", ROOMS)
def test_every_public_part_has_a_case_in_the_tables(room: str) -> None:
    module, table = ROOMS[room]
    made = {type(make()).__name__ for make in table.values()}
    assert made == set(module.__all__) - {"Prior", "Guide", "Likelihood"}


@pytest.mark.parametrize("name", sorted(set(PARTS) - YOURS))
def test_a_part_is_rebuilt_from_plain_values(name: str) -> None:
    part = PARTS[name]()
    text = json.dumps(description.describe(part))
    again = description.rebuild(json.loads(text))
    assert type(again) is type(part)
    assert json.dumps(description.describe(again)) == text
    assert {name: value.shape for name, value in again.state_dict().items()} == {
        name: value.shape for name, value in part.state_dict().items()
    }


@pytest.mark.parametrize("name", sorted(YOURS))
def test_a_part_that_holds_an_object_of_the_user_is_saved_by_name_only(name: str) -> None:
    part = PARTS[name]()
    assert description.describe(part) == {"yours": type(part).__name__}
    if isinstance(part, likelihoods.Likelihood):
        around = likelihoods.Product(
            {"a": likelihoods.Custom(2, torch.distributions.Poisson), "b": likelihoods.Normal(1)}
        )
        assert description.describe(around) == {"yours": "Product"}


BAD = {
    "latent_dim must be a positive integer; got 0": lambda: priors.Normal(0),
    "event_shape must be positive integers": lambda: likelihoods.Bernoulli((3, 0)),
    "event_shape must be positive integers; got ()": lambda: likelihoods.Bernoulli(()),
    "total_count must be a positive integer; got 1.5": lambda: likelihoods.Binomial(3, total_count=1.5),
    "scale must be fixed, shared, per_dimension, predicted or optimal; got 'learned'": (
        lambda: likelihoods.Normal(3, scale="learned")
    ),
    "scale must be fixed, shared, per_dimension or predicted; got 'optimal'": (
        lambda: likelihoods.Laplace(3, scale="optimal")
    ),
    "fixed_scale must be a positive number; got 0": lambda: likelihoods.Normal(3, scale="fixed", fixed_scale=0),
    "df must be a positive number; got -1": lambda: likelihoods.StudentT(3, df=-1),
    "dispersion must be shared, per_dimension or predicted; got 'none'": (
        lambda: likelihoods.NegativeBinomial(3, dispersion="none")
    ),
    "num_categories must be an integer of at least 2; got 1": lambda: likelihoods.Categorical(3, 1),
    "levels must be an integer of at least 2; got 1": lambda: likelihoods.DiscretizedLogistic(3, levels=1),
    "event_shape must be that of a vector; got (2, 3)": lambda: likelihoods.MultivariateNormal((2, 3)),
    "rank must be at most the number of columns, 3; got 4": lambda: likelihoods.LowRankNormal(3, rank=4),
    "blocks must be likelihoods of vectors": lambda: likelihoods.Product({"a": likelihoods.Normal((2, 3))}),
    "blocks must be a dictionary of likelihoods; got {}": lambda: likelihoods.Product({}),
}


@pytest.mark.parametrize("message", BAD)
def test_arguments_out_of_range_are_named(message: str) -> None:
    with pytest.raises(ValueError, match=message.replace("(", r"\(").replace(")", r"\)")):
        BAD[message]()


def test_parts_of_the_wrong_kind_are_named() -> None:
    with pytest.raises(TypeError, match="prior must be a part of pv.priors"):
        small_vae(prior=guides.Normal())
    with pytest.raises(TypeError, match="likelihood must be a part of pv.likelihoods"):
        small_vae(likelihood="bce")


def test_a_prior_of_torch_itself_is_refused_before_it_is_trained() -> None:
    given = torch.distributions.Independent(torch.distributions.Laplace(torch.zeros(2), 1.0), 1)
    with pytest.raises(TypeError, match=r"prior must be a distribution of Pyro; got torch.distributions.*Independent"):
        VAE(likelihood=likelihoods.Normal(3), prior=given)
