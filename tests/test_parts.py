"""Every prior, guide, likelihood and net keeps the promises of its kind."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from cases import EVENT, GUIDES, LIKELIHOODS, NETS, PRIORS, REFERENCES, draw_data, small_vae
from torch import nn

from pyro_vae import guides, likelihoods, nets, priors, saving

ROOMS = {"priors": (priors, PRIORS), "guides": (guides, GUIDES), "likelihoods": (likelihoods, LIKELIHOODS)}
PARTS = {f"{room}: {name}": make for room, (_, table) in ROOMS.items() for name, make in table.items()}


@pytest.mark.parametrize("room", ROOMS)
def test_every_part_has_a_case(room: str) -> None:
    module, table = ROOMS[room]
    made = {type(make()).__name__ for make in table.values()}
    assert made == set(module.__all__) - {"Prior", "Guide", "Likelihood"}


@pytest.mark.parametrize("make", PARTS.values(), ids=PARTS)
def test_a_part_is_rebuilt_from_plain_values(make) -> None:
    part = make()
    text = json.dumps(saving.describe(part))
    again = saving.rebuild(json.loads(text))
    assert type(again) is type(part)
    assert json.dumps(saving.describe(again)) == text
    assert {name: value.shape for name, value in again.state_dict().items()} == {
        name: value.shape for name, value in part.state_dict().items()
    }


@pytest.mark.parametrize("make", PRIORS.values(), ids=PRIORS)
def test_priors_declare_their_event(make) -> None:
    prior = make().double()
    p = prior()
    assert p.event_shape == (prior.latent_dim,)
    assert p.batch_shape == ()
    z = p.expand([5]).sample()
    p.log_prob(z).sum().backward() if list(prior.parameters()) else None
    assert torch.isfinite(p.log_prob(z)).all()
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in prior.parameters())


@pytest.mark.parametrize("make", GUIDES.values(), ids=GUIDES)
def test_guides_turn_any_leading_shape_into_a_batch(make) -> None:
    guide = make()
    parameters = torch.randn(4, 5, *guide.parameter_shape(3), dtype=torch.float64, requires_grad=True)
    q = guide(parameters)
    assert q.batch_shape == (4, 5)
    assert q.event_shape == (3,)
    z = q.rsample()
    (q.log_prob(z).sum() + z.square().sum()).backward()
    assert parameters.grad is not None
    assert (parameters.grad != 0).all()


def test_the_normal_guide_starts_at_the_standard_normal() -> None:
    q = guides.Normal()(torch.zeros(1, 4, dtype=torch.float64))
    np.testing.assert_allclose(q.mean, 0.0)
    np.testing.assert_allclose(q.stddev, 1.0, atol=2e-6)


@pytest.mark.parametrize("make", LIKELIHOODS.values(), ids=LIKELIHOODS)
def test_likelihoods_declare_their_event_and_stay_in_their_support(make) -> None:
    likelihood = make().double()
    outputs = torch.randn(4, 5, *likelihood.output_shape, dtype=torch.float64, requires_grad=True)
    p = likelihood(outputs)
    assert p.event_shape == likelihood.event_shape == EVENT
    assert p.batch_shape == (4, 5)
    x = p.sample()
    likelihood.check(x.reshape(20, *EVENT))
    p.log_prob(x).sum().backward()
    assert (outputs.grad != 0).all()
    assert all(parameter.grad is not None for parameter in likelihood.parameters())
    assert torch.isfinite(likelihood.features(x)).all()


@pytest.mark.parametrize("make", LIKELIHOODS.values(), ids=LIKELIHOODS)
def test_likelihoods_agree_with_scipy(make) -> None:
    likelihood = make().double()
    p = likelihood(torch.randn(6, *likelihood.output_shape, dtype=torch.float64))
    x = p.sample()
    expected = REFERENCES[type(likelihood).__name__](p.base_dist, x.numpy())
    np.testing.assert_allclose(p.log_prob(x).detach(), expected.sum((1, 2)), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ["Bernoulli", "Binomial"])
def test_counts_start_at_the_smoothed_marginal(name: str) -> None:
    likelihood = LIKELIHOODS[name]().double()
    x = draw_data(likelihood, 50)
    likelihood.initialize(x)
    trials = 50 * (1 if name == "Bernoulli" else 5)
    expected = (x.sum(0) + 0.5) / (trials + 1)
    start = likelihood(torch.zeros(1, *EVENT, dtype=torch.float64)).base_dist.probs[0]
    np.testing.assert_allclose(start, expected, rtol=1e-12)


@pytest.mark.parametrize("scale", ["shared", "per_dimension", "predicted"])
def test_the_normal_starts_at_the_marginal_on_the_original_scale(scale: str) -> None:
    likelihood = likelihoods.Normal(EVENT, scale=scale).double()
    x = 5.0 + 100.0 * torch.randn(400, *EVENT, dtype=torch.float64) * torch.tensor([1.0, 0.1, 3.0])
    likelihood.initialize(x)
    start = likelihood(torch.zeros(1, *likelihood.output_shape, dtype=torch.float64)).base_dist
    np.testing.assert_allclose(start.loc[0].detach(), x.mean(0))
    deviation = x.var(0, correction=0).mean().sqrt().expand(EVENT) if scale == "shared" else x.std(0, correction=0)
    np.testing.assert_allclose(start.scale.detach().expand(1, *EVENT)[0], deviation, rtol=1e-5)
    assert float(likelihood.features(x).square().mean()) == pytest.approx(1.0)


def test_a_fixed_scale_is_in_units_of_x_whatever_the_data() -> None:
    likelihood = likelihoods.Normal(3, scale="fixed", fixed_scale=0.5).double()
    likelihood.initialize(100 * torch.randn(20, 3, dtype=torch.float64))
    scale = likelihood(torch.zeros(1, 3, dtype=torch.float64)).base_dist.scale
    np.testing.assert_allclose(scale.expand(1, 3), 0.5)


@pytest.mark.parametrize("scale", ["fixed", "shared", "per_dimension", "predicted"])
def test_constant_cells_keep_a_positive_unit(scale: str) -> None:
    likelihood = likelihoods.Normal(2, scale=scale)
    likelihood.initialize(torch.full((9, 2), 7.0))
    assert (likelihood.unit > 0).all()
    assert torch.isfinite(likelihood(torch.zeros(1, *likelihood.output_shape)).log_prob(torch.full((1, 2), 7.0))).all()


@pytest.mark.parametrize("case", NETS.values(), ids=NETS)
def test_nets_map_shapes_and_take_any_leading_dimensions(case) -> None:
    make, in_shape, out_shape = case
    net = nets.build(make(), in_shape, out_shape, "encoder").double().eval()
    x = torch.randn(3, 5, *in_shape, dtype=torch.float64)
    y = net(x)
    assert y.shape == (3, 5, *out_shape)
    np.testing.assert_allclose(y[1].detach(), net(x[1]).detach(), atol=1e-12)
    y.sum().backward()
    assert all(parameter.grad is not None for parameter in net.parameters())


def test_a_users_module_serves_as_a_net() -> None:
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(6, 6))
    vae = small_vae(encoder=encoder)
    assert vae.encoder.module is encoder
    with pytest.raises(ValueError, match=r"encoder must map \(B, 2, 3\) to \(B, 6\); got \(2, 5\) for B = 2"):
        small_vae(encoder=nn.Sequential(nn.Flatten(), nn.Linear(6, 5)))
    with pytest.raises(ValueError, match=r"decoder must accept rows of shape \(3,\); got the error"):
        small_vae(decoder=nn.Linear(4, 6))
    with pytest.raises(TypeError, match="encoder must be a recipe"):
        small_vae(encoder=nets.MLP)


BAD = {
    "latent_dim must be a positive integer; got 0": lambda: priors.Normal(0),
    "event_shape must be positive integers": lambda: likelihoods.Bernoulli((3, 0)),
    "event_shape must be positive integers; got ()": lambda: likelihoods.Bernoulli(()),
    "total_count must be a positive integer; got 1.5": lambda: likelihoods.Binomial(3, total_count=1.5),
    "scale must be fixed, shared": lambda: likelihoods.Normal(3, scale="learned"),
    "fixed_scale must be positive; got 0": lambda: likelihoods.Normal(3, scale="fixed", fixed_scale=0),
    "hidden must be positive integers": lambda: nets.MLP(hidden=(3, 0)),
    "channels must be positive integers": lambda: nets.Conv(channels=(-1,)),
    "activation must be one of": lambda: nets.MLP(activation="step"),
    "dropout must lie in": lambda: nets.MLP(dropout=1.0),
    "Conv must map an image": lambda: nets.Conv().build((4,), (5,)),
}


@pytest.mark.parametrize("message", BAD)
def test_bad_arguments_are_named(message: str) -> None:
    with pytest.raises(ValueError, match=message.replace("(", r"\(").replace(")", r"\)")):
        BAD[message]()


def test_parts_of_the_wrong_kind_are_named() -> None:
    with pytest.raises(TypeError, match="prior must be a part of pv.priors"):
        small_vae(prior=guides.Normal())
    with pytest.raises(TypeError, match="likelihood must be a part of pv.likelihoods"):
        small_vae(likelihood="bce")


OUTSIDE = {
    r"x must lie in \{0, 1\} for Bernoulli; got 0.3 in row 2": (
        lambda: likelihoods.Bernoulli(2),
        [[0, 1], [1, 1], [0, 0.3]],
    ),
    r"x must lie in \{0, 1, ..., 16\} for Binomial; got 17 in row 1": (
        lambda: likelihoods.Binomial(2, 16),
        [[0, 1], [17, 1]],
    ),
    r"for Binomial; got 1.5 in row 0, and values from 1 up to 1.5": (lambda: likelihoods.Binomial(2, 16), [[1.5, 1]]),
    r"x must have shape \(rows, 3\) for Normal; got \(1, 2\)": (lambda: likelihoods.Normal(3), [[1.5, 1]]),
}


@pytest.mark.parametrize("message", OUTSIDE)
def test_data_outside_the_support_are_named(message: str) -> None:
    make, x = OUTSIDE[message]
    with pytest.raises(ValueError, match=message):
        make().check(torch.tensor(x))
