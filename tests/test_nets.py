"""Nets have the stated shapes, formulas and symmetries, and outputs depend on the stated inputs only."""

from __future__ import annotations

import itertools
import json
import math
import re

import numpy as np
import pytest
import scipy.stats
import torch
from cases import NETS, small_vae
from torch import nn

import pyro_vae as pv
from pyro_vae import likelihoods, nets
from pyro_vae.saving import description


@pytest.mark.parametrize("case", NETS.values(), ids=NETS)
def test_nets_have_the_stated_shapes_with_any_leading_dimensions(case) -> None:
    make, in_shape, out_shape = case
    net = nets.build(make(), in_shape, out_shape, "encoder").double().eval()
    x = torch.randn(3, 5, *in_shape, dtype=torch.float64)
    y = net(x)
    assert y.shape == (3, 5, *out_shape)
    np.testing.assert_allclose(y[1].detach(), net(x[1]).detach(), atol=1e-12)
    np.testing.assert_allclose(y[1, 2].detach(), net(x[1, 2]).detach(), atol=1e-12)
    y.sum().backward()
    assert all(parameter.grad is not None for parameter in net.parameters())


@pytest.mark.parametrize("case", NETS.values(), ids=NETS)
def test_a_recipe_is_rebuilt_from_its_description(case) -> None:
    recipe = case[0]()
    again = description.rebuild(json.loads(json.dumps(description.describe(recipe))))
    assert again == recipe
    assert hash(again) == hash(recipe)


def test_every_recipe_has_a_case() -> None:
    made = {type(make()).__name__ for make, _, _ in NETS.values()}
    assert made == {name for name in nets.__all__ if isinstance(getattr(nets, name), type)} - {"Recipe", "Rowwise"}


def test_a_module_of_the_user_can_be_a_net() -> None:
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(6, 6))
    vae = small_vae(encoder=encoder)
    assert vae.encoder.module is encoder
    with pytest.raises(ValueError, match=r"encoder must map \(B, 2, 3\) to \(B, 6\); got \(2, 5\) for B = 2"):
        small_vae(encoder=nn.Sequential(nn.Flatten(), nn.Linear(6, 5)))
    with pytest.raises(ValueError, match=r"decoder must accept rows of shape \(3,\); got the error"):
        small_vae(decoder=nn.Linear(4, 6))
    with pytest.raises(TypeError, match="encoder must be a recipe"):
        small_vae(encoder=nets.MLP)


def test_the_default_mlp_has_these_layers_and_initial_parameters() -> None:
    recipe = nets.MLP(hidden=(7, 6), activation="tanh", dropout=0.2)
    torch.manual_seed(3)
    net = recipe.build((2, 3), (4,))
    torch.manual_seed(3)
    expected = nn.Sequential(
        nn.Flatten(),
        nn.Linear(6, 7),
        nn.Tanh(),
        nn.Dropout(0.2),
        nn.Linear(7, 6),
        nn.Tanh(),
        nn.Dropout(0.2),
        nn.Linear(6, 4),
    )
    assert repr(net) == repr(expected)
    assert list(net.state_dict()) == list(expected.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), expected.parameters(), strict=True))


def test_dropout_keeps_its_share_of_units_and_scales_them_up() -> None:
    """In 10^6 units the share kept lies within 5 standard errors: a false alarm once in two million seeds."""
    net = nets.MLP(hidden=(1000,), dropout=0.3).build((2,), (1,))
    drop, x = net[2], torch.ones(1000, 1000)
    torch.manual_seed(0)
    y = drop(x)
    assert y.unique().tolist() == [0.0, pytest.approx(1 / 0.7)]
    assert float((y > 0).float().mean()) == pytest.approx(0.7, abs=5 * (0.3 * 0.7 / 1e6) ** 0.5)
    assert torch.equal(drop.eval()(x), x)


def test_gates_skips_and_normalization_follow_their_formulas() -> None:
    x = torch.randn(9, 4)
    gated = nets.MLP(hidden=(6,), gated=True).build((4,), (3,))
    h, g = (x @ gated[0].weight.T + gated[0].bias).chunk(2, -1)
    np.testing.assert_allclose(gated(x).detach(), gated[-1](h * torch.sigmoid(g)).detach(), atol=1e-6)

    residual = nets.MLP(hidden=(6, 6), residual=True).build((4,), (3,))
    first, second, last = residual
    assert first.skip.bias is None
    h = x @ first.skip.weight.T + torch.relu(first.body[0](x))
    h = h + torch.relu(second.body[0](h))
    np.testing.assert_allclose(residual(x).detach(), last(h).detach(), atol=1e-6)

    layer = nets.MLP(hidden=(6,), normalization="layer").build((4,), (3,))
    h = layer[0](x)
    h = (h - h.mean(-1, keepdim=True)) / (h.var(-1, correction=0, keepdim=True) + 1e-5).sqrt()
    np.testing.assert_allclose(layer(x).detach(), layer[-1](torch.relu(h)).detach(), atol=1e-6)

    batch = nets.MLP(hidden=(6,), normalization="batch").build((4,), (3,))
    assert batch[0].bias is None
    h = batch[0](x)
    h = (h - h.mean(0)) / (h.var(0, correction=0) + 1e-5).sqrt()
    np.testing.assert_allclose(batch(x).detach(), batch[-1](torch.relu(h)).detach(), atol=1e-6)


def test_a_residual_block_adds_to_its_input() -> None:
    net = nets.ResNet(channels=(4,), blocks=1).build((1, 8, 8), (3,))
    block, x = net[1], torch.randn(2, 4, 4, 4)
    norm, _, conv, norm2, _, conv2 = block
    silu = nn.functional.silu
    np.testing.assert_allclose(block(x).detach(), (x + conv2(silu(norm2(conv(silu(norm(x))))))).detach(), atol=1e-6)


@pytest.mark.parametrize("pool", ["mean", "sum", "max"])
def test_a_deep_set_does_not_depend_on_the_order_of_elements(pool: str) -> None:
    net = nets.DeepSet(features=5, pool=pool).build((7, 2), (4,)).double()
    x = torch.randn(3, 7, 2, dtype=torch.float64)
    np.testing.assert_allclose(net(x).detach(), net(x[:, torch.randperm(7)]).detach(), atol=1e-12)
    twice = torch.cat((x, x), 1)
    assert torch.allclose(net(twice), net(x)) == (pool != "sum")


def spatial(**options) -> nn.Module:
    return nets.Spatial(hidden=(16, 16), translation_scale=0.25, **options).build((6,), (2, 8, 8)).double()


def test_an_angle_of_a_quarter_turn_rotates_the_image() -> None:
    net, content = spatial(), torch.randn(3, 3, dtype=torch.float64)
    at = lambda angle: net(torch.cat((torch.full((3, 1), angle), torch.zeros(3, 2), content), -1)).detach()  # noqa: E731
    for turns in (1, 2, 3):
        np.testing.assert_allclose(at(turns / 2), torch.rot90(at(0.0), turns, (-2, -1)), atol=1e-6)


def test_a_translation_by_whole_pixels_shifts_the_image() -> None:
    net, content = spatial(), torch.randn(3, 3, dtype=torch.float64)
    shift = torch.tensor([2.0, 1.0]).expand(3, 2)  # 2 / 8 is a pixel, and the unit of this latent
    straight = net(torch.cat((torch.zeros(3, 3), content), -1)).detach()
    moved = net(torch.cat((torch.zeros(3, 1), shift, content), -1)).detach()
    np.testing.assert_allclose(moved[..., :-1, 2:], straight[..., 1:, :-2], atol=1e-6)  # 2 to the right and 1 up


def test_angle_scale_and_shift_follow_the_formula() -> None:
    net, z = spatial(scale=True), torch.randn(3, 6, dtype=torch.float64)
    seen, content = net.coordinates(z)
    assert torch.equal(content, z[:, 4:])
    for row in range(3):
        angle, size = math.pi * z[row, 0], (0.1 * z[row, 3]).exp()
        turn = torch.stack((torch.stack((angle.cos(), -angle.sin())), torch.stack((angle.sin(), angle.cos()))))
        np.testing.assert_allclose(size * seen[row] @ turn.T + 0.25 * z[row, 1:3], net.grid, atol=1e-12)


def test_latents_that_are_not_angle_scale_or_shift_are_content() -> None:
    net, z = spatial(rotation=False, scale=True), torch.randn(3, 6, dtype=torch.float64)
    seen, content = net.coordinates(z)
    assert torch.equal(content, z[:, 3:])
    expected = (net.grid - 0.25 * z[:, None, :2]) / (0.1 * z[:, 2]).exp()[:, None, None]
    np.testing.assert_allclose(seen, expected, atol=1e-12)
    none = spatial(rotation=False, translation=False)
    np.testing.assert_array_equal(none.coordinates(z)[0], net.grid.expand(3, -1, -1))


@pytest.mark.parametrize(("layers", "kernel"), [(4, 3), (2, 5), (1, 9)])
def test_a_pixel_depends_on_all_earlier_pixels_and_no_others(layers: int, kernel: int) -> None:
    height, width = 4, 5
    recipe = nets.PixelCNN(channels=6, layers=layers, kernel=kernel)
    net = recipe.build((2, height, width), (3, height, width)).double()
    jacobian = torch.func.jacrev(net)(torch.randn(1, 2, height, width, dtype=torch.float64))[0, :, :, :, 0]
    sees = (jacobian != 0).permute(1, 2, 4, 5, 0, 3).reshape(20, 20, 3 * 2)  # (to pixel, from pixel, channels)
    before = torch.ones(20, 20).tril(-1).bool()
    assert sees[before].all()
    assert not sees[~before].any()


def test_a_pixelcnn_of_one_layer_reaches_as_far_as_stated() -> None:
    net = nets.PixelCNN(channels=6, layers=1, kernel=3).build((1, 6, 6), (1, 6, 6)).double()
    x = torch.randn(1, 1, 6, 6, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(net(x)[0, 0, 3, 3], x)
    seen = {(int(i), int(j)) for i, j in gradient[0, 0].nonzero()}
    assert seen == {(i, j) for i in (1, 2) for j in (2, 3, 4)} | {(3, 1), (3, 2)}


def test_a_pixel_depends_on_the_context_at_its_own_place() -> None:
    net = nets.PixelCNN(channels=6, layers=2, kernel=3).build((1 + 2, 4, 4), (1, 4, 4), context_channels=2).double()
    jacobian = torch.func.jacrev(net)(torch.randn(1, 3, 4, 4, dtype=torch.float64))[0, 0, :, :, 0]
    own = jacobian.permute(2, 0, 1, 3, 4).reshape(3, 16, 16).diagonal(dim1=1, dim2=2)
    assert (own[0] == 0).all()
    assert (own[1:] != 0).all()


IMAGES = torch.tensor(list(itertools.product((0.0, 1.0), repeat=4)), dtype=torch.float64).reshape(16, 1, 2, 2)


def autoregressive(shape=(1, 2, 2)) -> likelihoods.Autoregressive:
    torch.manual_seed(5)
    net = nets.PixelCNN(channels=8, layers=2, kernel=3)
    likelihood = likelihoods.Autoregressive(likelihoods.Bernoulli(shape), net, context_channels=2).double()
    with torch.no_grad():
        for parameter in likelihood.parameters():
            parameter.mul_(2.0)  # away from independence
    return likelihood


def test_probabilities_of_all_images_sum_to_one() -> None:
    p = autoregressive()(3 * torch.randn(5, 2, 2, 2, dtype=torch.float64))
    total = p.log_prob(IMAGES.unsqueeze(1)).logsumexp(0)
    assert total.shape == (5,)
    np.testing.assert_allclose(total.detach(), 0.0, atol=1e-12)


def test_frequencies_of_draws_agree_with_the_density() -> None:
    p = autoregressive()(3 * torch.randn(2, 2, 2, dtype=torch.float64))
    draws = p.sample((20_000,)).reshape(-1, 4)
    counts = torch.bincount((draws @ torch.tensor([8.0, 4.0, 2.0, 1.0], dtype=torch.float64)).long(), minlength=16)
    probabilities = p.log_prob(IMAGES).exp().detach()
    assert 20_000 * probabilities.min() > 5
    pvalue = scipy.stats.chisquare(counts, 20_000 * probabilities).pvalue
    assert pvalue > 1e-3  # the rate of false alarms; the seed is fixed


def test_an_autoregressive_distribution_has_the_shapes_that_pyro_expects() -> None:
    likelihood = autoregressive((1, 3, 4))
    p = likelihood(torch.randn(5, 2, 3, 4, dtype=torch.float64))
    assert (p.batch_shape, p.event_shape) == ((5,), (1, 3, 4))
    assert p.support.check(p.sample()).shape == (5,)
    x = p.sample((3,))
    assert x.shape == (3, 5, 1, 3, 4)
    np.testing.assert_allclose(p.log_prob(x)[1].detach(), p.log_prob(x[1]).detach(), atol=1e-12)
    np.testing.assert_allclose(p.expand([3, 5]).log_prob(x[0])[2].detach(), p.log_prob(x[0]).detach(), atol=1e-12)
    assert p.expand([3, 5]).sample().shape == x.shape
    with pytest.raises(NotImplementedError, match=r"The mean .* must be estimated; got no closed form\. Average draws"):
        _ = p.mean


@pytest.mark.parametrize(
    "inner",
    [
        likelihoods.Binomial((2, 3, 3), total_count=5),
        likelihoods.Normal((2, 3, 3), scale="shared"),
        likelihoods.Normal((2, 3, 3), scale="predicted"),
        likelihoods.DiscretizedLogistic((2, 3, 3), levels=16, num_components=2),
        likelihoods.Categorical((2, 3, 3), num_categories=4),
        likelihoods.LogNormal((2, 3, 3)),
    ],
    ids=lambda inner: f"{type(inner).__name__} {getattr(inner, 'scale', '')}",
)
def test_any_likelihood_of_single_cells_can_be_made_autoregressive(inner) -> None:
    likelihood = likelihoods.Autoregressive(inner, nets.PixelCNN(4, 1, 3), context_channels=2).double()
    x = likelihood(torch.randn(30, *likelihood.output_shape, dtype=torch.float64)).sample()
    likelihood.check(x)
    likelihood.initialize(x)
    context = torch.randn(30, *likelihood.output_shape, dtype=torch.float64)
    p = likelihood(context)
    numbers = likelihood.module(torch.cat((inner.features(x), context), -3))
    np.testing.assert_allclose(p.log_prob(x).detach(), inner(numbers).log_prob(x).detach(), rtol=1e-12)
    with torch.no_grad():
        likelihood.module.module.head[-1].weight.zero_()
        likelihood.module.module.head[-1].bias.zero_()
    marginal = inner(torch.zeros(30, *inner.output_shape, dtype=torch.float64))
    np.testing.assert_allclose(p.log_prob(x).detach(), marginal.log_prob(x).detach(), rtol=1e-12)


def test_an_autoregressive_likelihood_learns_dependence_between_neighbours(tmp_path) -> None:
    """Most pixels equal their left neighbour: two latents cannot represent that, but dependence on the neighbour can.

    The entropy of a pixel given its neighbour is -.9 log .9 - .1 log .1 = .33 nats, so that of an image is
    4 log 2 + 12 * .33 = 6.7 nats; with independent pixels it would be 16 log 2 = 11.1.
    """
    flips = torch.cat((torch.full((400, 1, 4, 1), 0.5), torch.full((400, 1, 4, 3), 0.1)), -1).bernoulli()
    x = flips.cumsum(-1).remainder(2).double()
    entropy = 4 * math.log(2) - 12 * (0.9 * math.log(0.9) + 0.1 * math.log(0.1))
    bounds = []
    plain = likelihoods.Bernoulli((1, 4, 4))
    for likelihood in (plain, likelihoods.Autoregressive(plain, nets.PixelCNN(8, 2, 3), context_channels=2)):
        vae = small_vae(likelihood=likelihood, prior=pv.priors.Normal(2))
        options = {"epochs": 60, "batch_size": 100, "learning_rate": 1e-2, "seed": 0, "progress": False}
        bounds.append(vae.fit(x, compile=False, **options)["train_bound"][-1])
    assert bounds[1] > bounds[0] + 1.0
    assert bounds[1] == pytest.approx(-entropy, abs=0.5)

    vae.save(tmp_path)
    again = pv.load(tmp_path)
    assert again.likelihood.net == nets.PixelCNN(8, 2, 3)
    assert torch.equal(again.sample(3, seed=1), vae.sample(3, seed=1))


BAD = {
    "hidden must be positive integers": lambda: nets.MLP(hidden=(3, 0)),
    "channels must be positive integers": lambda: nets.Conv(channels=(-1,)),
    "activation must be one of": lambda: nets.MLP(activation="step"),
    "dropout must lie in": lambda: nets.MLP(dropout=1.0),
    "normalization must be one of [None, 'layer', 'batch']; got 'group'": lambda: nets.MLP(normalization="group"),
    "Conv must map an image": lambda: nets.Conv().build((4,), (5,)),
    "blocks must be a positive integer; got 0": lambda: nets.ResNet(blocks=0),
    "channels must be at least one width": lambda: nets.ResNet(channels=()),
    "normalization must be one of [None, 'group']; got 'batch'": lambda: nets.ResNet(normalization="batch"),
    "ResNet must map an image": lambda: nets.ResNet().build((4,), (5,)),
    "features must be a positive integer; got 0": lambda: nets.DeepSet(features=0),
    "pool must be one of ['mean', 'sum', 'max']; got 'median'": lambda: nets.DeepSet(pool="median"),
    "DeepSet must have rows of shape (n, d); got (3,)": lambda: nets.DeepSet().build((3,), (4,)),
    "translation_scale must be a positive number; got 0": lambda: nets.Spatial(translation_scale=0),
    "Spatial must map a vector to an image": lambda: nets.Spatial().build((4,), (5,)),
    "Spatial must have at least 3 latents; got 2": lambda: nets.Spatial().build((2,), (1, 4, 4)),
    "kernel must be odd and at least 3; got 4": lambda: nets.PixelCNN(kernel=4),
    "layers must be a positive integer; got 0": lambda: nets.PixelCNN(layers=0),
    "PixelCNN must map images": lambda: nets.PixelCNN().build((1, 4, 4), (1, 4, 5)),
    "likelihood must be one of images (C, H, W) with independent cells; got Bernoulli of rows (3,)": (
        lambda: likelihoods.Autoregressive(likelihoods.Bernoulli(3))
    ),
    "context_channels must be a positive integer; got 0": (
        lambda: likelihoods.Autoregressive(likelihoods.Bernoulli((1, 4, 4)), context_channels=0)
    ),
}


@pytest.mark.parametrize("message", BAD)
def test_errors_name_the_bad_argument(message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        BAD[message]()


def test_errors_name_a_wrapped_part_of_the_wrong_kind() -> None:
    with pytest.raises(TypeError, match="likelihood must be a Likelihood part; got 'bce'"):
        likelihoods.Autoregressive("bce")
    with pytest.raises(TypeError, match="net must be a PixelCNN part; got MLP"):
        likelihoods.Autoregressive(likelihoods.Bernoulli((1, 4, 4)), net=nets.MLP())
