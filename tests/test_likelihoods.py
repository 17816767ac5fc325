"""Every likelihood is a distribution: its mass is one, draws and mean follow the density, and it starts at the data."""

from __future__ import annotations

import itertools
import math
from collections import Counter

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import scipy.stats
import torch
from cases import EVENT, LIKELIHOODS, REFERENCES, UNSAVED, draw_data, small_vae
from scipy.integrate import quad
from scipy.special import expit
from torch.distributions import constraints

import pyro_vae as pv
from pyro_vae import distributions, likelihoods
from pyro_vae.likelihoods.proportions import inverse_mean
from pyro_vae.runtime.isolation import isolated
from pyro_vae.saving import description

ALL = LIKELIHOODS | UNSAVED
DRAWS, ALPHA = 20_000, 1e-3  # the number of draws and the level of each goodness-of-fit test
VECTORS = ("LowRankNormal", "MultivariateNormal")


def made(name: str, *, training: bool = False):
    """A likelihood of the table, in double precision, with its parameters moved from where they start."""
    likelihood = ALL[name]().double().train(training)
    with torch.no_grad():
        for parameter in likelihood.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return likelihood


def random_outputs(likelihood, *shape: int, size: float = 1.0) -> torch.Tensor:
    return size * torch.randn(*shape, *likelihood.output_shape, dtype=torch.float64)


def base(p):
    return getattr(p, "base_dist", p) if isinstance(p, torch.distributions.Independent) else p


def referenced(table) -> list[str]:
    """Cases whose class has a reference; those of other classes wrap one of these, or a distribution of the user's."""
    names = [name for name, make in table.items() if type(make()).__name__ in REFERENCES]
    assert {type(table[n]()).__name__ for n in set(table) - set(names)} <= {"Autoregressive", "Custom"}
    return names


@pytest.mark.parametrize("name", ALL)
def test_events_have_the_declared_shape_and_draws_lie_in_the_support(name: str) -> None:
    likelihood = made(name, training=True)
    outputs = (0.5 * random_outputs(likelihood, 4, 5)).requires_grad_()  # small, so that none is clamped
    p = likelihood(outputs)
    assert p.event_shape == likelihood.event_shape
    assert p.batch_shape == (4, 5)
    x = p.sample()
    rows = x.reshape(20, *likelihood.event_shape)
    likelihood.check(rows)
    assert p.support.check(x).all()
    assert likelihood(outputs[:, :1]).expand((2, 4, 5)).sample().shape == (2, *x.shape)
    assert p.sample((2,)).shape == (2, *x.shape)
    np.testing.assert_allclose(p.expand((3, 4, 5)).log_prob(x)[1].detach(), p.log_prob(x).detach(), rtol=1e-12)
    p.log_prob(x.double()).sum().backward()
    assert (outputs.grad != 0).all()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in likelihood.parameters())
    features = likelihood.features(rows.double())
    assert features.shape == (20, *likelihood.feature_shape)
    assert torch.isfinite(features).all()


@pytest.mark.parametrize("name", referenced(ALL))
def test_log_probabilities_agree_with_scipy(name: str) -> None:
    likelihood = made(name)
    p = likelihood(random_outputs(likelihood, 6))
    x = p.sample()
    expected = np.asarray(REFERENCES[type(likelihood).__name__](base(p), x.double().numpy()))
    np.testing.assert_allclose(p.log_prob(x).detach(), expected.reshape(6, -1).sum(1), rtol=1e-9, atol=1e-9)


def small(name: str):
    """A distribution of this case whose events can be enumerated or integrated over: one cell, or a short vector."""
    kind, arguments = type(ALL[name]()), ALL[name]().arguments()
    if name in VECTORS:
        likelihood = kind(**arguments | {"event_shape": 2})
    elif kind is likelihoods.Multinomial:
        likelihood = kind(3, total_count=4)
    elif kind is likelihoods.Product:
        likelihood = kind({"visits": likelihoods.Poisson(1), "age": likelihoods.Normal(1)})
    else:
        likelihood = kind(**arguments | {"event_shape": 1})
    likelihood = likelihood.double().eval()
    with torch.no_grad():
        for parameter in likelihood.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return likelihood(random_outputs(likelihood, size=0.5))


def mass(p, *cells) -> np.ndarray:
    """Density or mass of rows, given by their cells."""
    x = torch.stack(torch.broadcast_tensors(*(torch.as_tensor(c, dtype=torch.float64) for c in cells)), -1)
    return p.log_prob(x).detach().exp().numpy()


def ends(p) -> tuple[float, float]:
    support = p.support.base_constraint
    low = -np.inf if support is constraints.real else 0.0
    return low, 1.0 if hasattr(support, "upper_bound") else np.inf


def levels(p) -> np.ndarray:
    values = torch.arange(2000)
    return values[p.support.base_constraint.check(values)].numpy()


ENUMERATED = [n for n in referenced(ALL) if ALL[n]().discrete and type(ALL[n]()) is not likelihoods.Multinomial]
INTEGRATED = [n for n in referenced(ALL) if not ALL[n]().discrete and n not in (*VECTORS, "Product")]


@pytest.mark.parametrize("name", ENUMERATED)
def test_masses_sum_to_one_and_draws_follow_them(name: str) -> None:
    p = small(name)
    probabilities = mass(p, levels(p))
    assert probabilities.sum() == pytest.approx(1.0, abs=1e-9)
    counts = np.bincount(p.sample((DRAWS,)).long().flatten(), minlength=len(probabilities))
    assert fit(counts, probabilities) > ALPHA


@pytest.mark.parametrize("name", INTEGRATED)
def test_densities_integrate_to_one_and_draws_follow_them(name: str) -> None:
    p = small(name)
    low, high = ends(p)
    draws = p.sample((2 * DRAWS,)).numpy().flatten()
    edges = [low, *np.quantile(draws[:DRAWS], np.linspace(0.04, 0.96, 24)), high]
    parts = [quad(lambda x: mass(p, x), *pair, epsabs=1e-11, limit=200)[0] for pair in itertools.pairwise(edges)]
    assert sum(parts) == pytest.approx(1.0, abs=1e-8)
    assert fit(np.histogram(draws[DRAWS:], edges)[0], np.array(parts)) > ALPHA


@pytest.mark.parametrize("name", ["Multinomial", "Multinomial of seven"])
def test_masses_of_rows_of_a_multinomial_sum_to_one_and_draws_follow_them(name: str) -> None:
    p = small(name)
    rows = [row for row in itertools.product(range(5), repeat=3) if sum(row) == 4]
    probabilities = mass(p, *np.transpose(rows))
    assert probabilities.sum() == pytest.approx(1.0, abs=1e-12)
    counts = Counter(tuple(row) for row in p.sample((DRAWS,)).long().tolist())
    assert fit(np.array([counts[row] for row in rows]), probabilities) > ALPHA


@pytest.mark.parametrize("name", VECTORS)
def test_densities_of_normal_vectors_integrate_to_one_and_draws_follow_them(name: str) -> None:
    p = small(name)
    grid = np.linspace(-12, 12, 601)
    density = mass(p, *np.meshgrid(grid, grid))
    assert density.sum() * (grid[1] - grid[0]) ** 2 == pytest.approx(1.0, abs=1e-9)
    x = p.sample((DRAWS,))
    squares = 2 * (p.log_prob(p.mean) - p.log_prob(x)).detach().numpy()
    assert scipy.stats.kstest(squares, scipy.stats.chi2(2).cdf).pvalue > ALPHA
    products = (x - p.mean)[:, 0] * (x - p.mean)[:, 1]
    assert abs(products.mean() - p.covariance_matrix[0, 1]) < 5 * products.std() / DRAWS**0.5


def test_a_product_is_the_sum_of_its_blocks_and_draws_each_of_them() -> None:
    p = small("Product")
    grid = np.linspace(-12, 12, 601)
    density = mass(p, *np.meshgrid(np.arange(200), grid))
    assert density.sum() * (grid[1] - grid[0]) == pytest.approx(1.0, abs=1e-9)
    torch.manual_seed(1)
    x = p.sample((7,))
    torch.manual_seed(1)
    assert torch.equal(x, torch.cat([block.sample((7,)) for block in p.blocks], -1))
    likelihood = made("Product")
    outputs = random_outputs(likelihood, 3, 2)
    p, x = likelihood(outputs), draw_data(likelihood, 2)
    parts = zip(likelihood.split(x), outputs.split((2, 1, 3), -1), strict=True)
    terms = [block(output).log_prob(column) for (_, block, column), output in parts]
    np.testing.assert_allclose(p.log_prob(x).detach(), sum(terms).detach(), rtol=1e-12)


def fit(counts: np.ndarray, probabilities: np.ndarray) -> float:
    """The p-value of Pearson's chi-squared test; bins with few expected counts are pooled."""
    expected = probabilities / probabilities.sum() * counts.sum()
    rare = expected < 8
    pooled = [np.append(part[~rare], part[rare].sum()) for part in (counts, expected)]
    enough = pooled[1] > 1e-3
    return float(scipy.stats.chisquare(*(part[enough] for part in pooled)).pvalue)


def test_the_goodness_of_fit_rejects_another_distribution() -> None:
    p = torch.distributions.Poisson(torch.tensor(2.0))
    counts = np.bincount(p.sample((DRAWS,)).long(), minlength=40)
    assert fit(counts, scipy.stats.poisson.pmf(np.arange(len(counts)), 2.1)) < ALPHA


@pytest.mark.parametrize("name", referenced(ALL))
def test_means_are_those_of_draws(name: str) -> None:
    likelihood = made(name)
    p = likelihood(random_outputs(likelihood, size=0.3))
    x = p.sample((DRAWS,)).double()
    error = x.std(0) / DRAWS**0.5
    assert ((x.mean(0) - p.mean).abs() <= 5 * error).all()


def smoothed(likelihood, x):
    """The mean of each cell of categories, with half a count added to each category."""
    count = likelihood.num_categories
    extra = 0.5 * torch.arange(count, dtype=x.dtype).sum()
    return (x.sum(0) + extra) / (len(x) + 0.5 * count)


def test_data_are_drawn_from_a_likelihood_without_buffers() -> None:
    """The recipe of CONTRIBUTING.md leads to such a one."""

    class Plain(likelihoods.Likelihood):
        def forward(self, outputs: torch.Tensor, **batch: torch.Tensor) -> dist.TorchDistribution:
            return dist.Geometric(logits=outputs).to_event(1)

    assert draw_data(Plain(3), 5).shape == (5, 3)


STARTS = {  # the mean at zero output, where it is not that of the data
    "Bernoulli": lambda p, x: (x.sum(0) + 0.5) / (len(x) + 1),
    "BetaBinomial": lambda p, x: 5 * (x.sum(0) + 0.5) / (5 * len(x) + 1),
    "Binomial": lambda p, x: 5 * (x.sum(0) + 0.5) / (5 * len(x) + 1),
    "Categorical": smoothed,
    "LogNormal": lambda p, x: (x.log().mean(0) + p(torch.zeros(6).reshape(EVENT)).base_dist.scale ** 2 / 2).exp(),
    "Multinomial": lambda p, x: (
        (p.total_count or x.sum(-1).mean().round()) * (x.sum(0) + 0.5) / (x + 0.5 / len(x)).sum()
    ),
    "OrderedLogistic": smoothed,
    **dict.fromkeys(
        ("NegativeBinomial", "Poisson", "ZeroInflatedNegativeBinomial", "ZeroInflatedPoisson"),
        lambda p, x: (x.sum(0) + 0.5) / len(x),
    ),
}


@pytest.mark.parametrize("name", [n for n in referenced(ALL) if n not in ("Normal plain", "Product")])
def test_zero_output_has_the_mean_of_the_data(name: str) -> None:
    likelihood = ALL[name]().double()
    x = draw_data(likelihood, 300).double()
    likelihood.initialize(x)
    p = likelihood(torch.zeros(likelihood.output_shape, dtype=torch.float64))
    if isinstance(likelihood, likelihoods.DiscretizedLogistic):  # its mean is that of the levels within the range
        np.testing.assert_allclose(p.base_dist.loc, x.mean(0).unsqueeze(-1).expand_as(p.base_dist.loc))
        return
    start = STARTS.get(type(likelihood).__name__, lambda p, x: x.mean(0))
    np.testing.assert_allclose(p.mean.detach(), start(likelihood, x).detach(), rtol=1e-6)


def test_blocks_start_at_the_means_of_their_columns() -> None:
    likelihood = LIKELIHOODS["Product"]().double()
    x = draw_data(likelihood, 300)
    likelihood.initialize(x)
    mean = likelihood(torch.zeros(likelihood.output_shape, dtype=torch.float64)).mean
    expected = [(x[:, :2].sum(0) + 0.5) / 300, x[:, 2:3].mean(0), smoothed(likelihood.parts[2], x[:, 3:])]
    np.testing.assert_allclose(mean.detach(), torch.cat(expected), rtol=1e-7)


SPREAD = {
    "Beta": lambda: likelihoods.Beta(4, dispersion="per_dimension"),
    "BetaBinomial": lambda: likelihoods.BetaBinomial(4, 20, dispersion="per_dimension"),
    "Gamma": lambda: likelihoods.Gamma(4, dispersion="per_dimension"),
    "Laplace": lambda: likelihoods.Laplace(4, scale="per_dimension"),
    "LowRankNormal": lambda: likelihoods.LowRankNormal(4),
    "MultivariateNormal": lambda: likelihoods.MultivariateNormal(4),
    "NegativeBinomial": lambda: likelihoods.NegativeBinomial(4, dispersion="per_dimension"),
    "Normal": lambda: likelihoods.Normal(4, scale="predicted"),
    "StudentT": lambda: likelihoods.StudentT(4, scale="per_dimension"),
}


@pytest.mark.parametrize("name", SPREAD)
def test_zero_output_has_the_variance_of_the_data(name: str) -> None:
    likelihood = SPREAD[name]().double()
    p = likelihood(torch.randn(50_000, *likelihood.output_shape, dtype=torch.float64))
    x = p.sample()
    likelihood.initialize(x)
    variance = likelihood(torch.zeros(likelihood.output_shape, dtype=torch.float64)).variance
    rtol = 0.02 if name == "LowRankNormal" else 1e-4  # its factor starts at 0.1; else half a count in 50,000
    np.testing.assert_allclose(variance.detach(), x.var(0), rtol=rtol)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("training", [True, False])
def test_single_precision_stays_finite_at_extreme_outputs(name: str, training: bool) -> None:
    likelihood = ALL[name]().train(training)
    x = draw_data(likelihood, 64).float()
    likelihood.initialize(x)
    outputs = (60.0 * torch.randint(2, (64, *likelihood.output_shape)) - 30).requires_grad_()
    log_prob = likelihood(outputs).log_prob(x)
    assert log_prob.dtype == torch.float32
    assert torch.isfinite(log_prob).all()
    (gradient,) = torch.autograd.grad(log_prob.sum(), outputs)
    assert torch.isfinite(gradient).all()
    draws = likelihood(outputs.detach().clamp(-3, 3)).sample()
    likelihood.check(draws)


@pytest.mark.parametrize("name", ALL)
def test_constants_follow_the_device_and_no_value_is_read(name: str) -> None:
    likelihood = ALL[name]().to("meta")  # tensors without values; those of other devices are refused
    outputs = torch.empty(4, 5, *likelihood.output_shape, device="meta")
    x = torch.empty(5, *likelihood.event_shape, device="meta")
    with isolated():
        log_prob = likelihood(outputs).log_prob(x)
    assert log_prob.shape == (4, 5)
    assert log_prob.device.type == "meta"
    assert likelihood.features(x).shape == (5, *likelihood.feature_shape)


@pytest.mark.parametrize("name", ALL)
def test_single_precision_agrees_with_double(name: str) -> None:
    likelihood = made(name)
    x = draw_data(likelihood, 50)
    likelihood.initialize(x)
    outputs, x = random_outputs(likelihood, 50), x.float()
    if isinstance(likelihood, likelihoods.Beta):
        x = x.clamp_max(1 - 2.0**-24)
    double = likelihood(outputs).log_prob(x.double())
    single = likelihood.float()(outputs.float()).log_prob(x)
    np.testing.assert_allclose(single.detach(), double.detach(), rtol=1e-4, atol=1e-4)


def test_cutpoints_on_the_logistic_scale_give_the_levels_their_probabilities() -> None:
    likelihood = made("OrderedLogistic")
    outputs = random_outputs(likelihood, 7)
    probabilities = likelihood(outputs).base_dist.probs.detach().numpy()
    raw = likelihood.raw_steps.detach().numpy()
    gaps = likelihood.unit.numpy()[..., 1:] * (np.log1p(np.exp(raw[..., 1:] + math.log(math.e - 1))) + 1e-6)
    first = likelihood.unit.numpy()[..., :1] + raw[..., :1]
    cutpoints = np.concatenate([first, first + gaps.cumsum(-1)], -1)
    below = expit(cutpoints - outputs.numpy()[..., None])
    np.testing.assert_allclose(probabilities.cumsum(-1)[..., :-1], below, rtol=1e-9)


@pytest.mark.parametrize("components", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_256_levels_have_mass_one_wherever_the_logistic_lies(components: int, dtype: torch.dtype) -> None:
    likelihood = likelihoods.DiscretizedLogistic(1, num_components=components).to(dtype)
    outputs = 5 * torch.randn(200, *likelihood.output_shape, dtype=dtype)
    levels = torch.arange(256, dtype=dtype).reshape(256, 1, 1)
    total = likelihood(outputs).log_prob(levels).double().exp().sum(0)
    np.testing.assert_allclose(total.detach(), 1.0, atol=1e-12 if dtype == torch.float64 else 1e-4)


MEANS = [1e-5, 1e-3, 0.1, 0.49, 0.4999999, 0.5, 0.50001, 0.51, 0.73, 0.973, 0.999, 1 - 1e-5]


@pytest.mark.parametrize("mean", MEANS)
def test_the_continuous_bernoulli_has_the_mean_that_its_logits_are_found_for(mean: float) -> None:
    logits = float(inverse_mean(torch.tensor(mean, dtype=torch.float64)))
    size, width = abs(logits), min(0.4, 40 / max(abs(logits), 1e-3))
    nearer = min(mean, 1 - mean)  # the mean of a density that falls from 0 to 1

    def moment(power: int) -> float:
        return quad(lambda x: x**power * math.exp(-size * x), 0, 1, points=[width], epsabs=0, epsrel=1e-11)[0]

    assert moment(1) / moment(0) == pytest.approx(nearer, rel=1e-6)
    assert (logits < 0) == (mean < 0.5)
    assert float(distributions.ContinuousBernoulli(torch.tensor(logits, dtype=torch.float64)).mean) == pytest.approx(
        mean, rel=1e-9
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_continuous_bernoulli_is_precise_at_any_logits(dtype: torch.dtype) -> None:
    logits = torch.tensor(
        [-1e4, -300, -30, -2, -0.1001, -0.0999, -1e-3, 0, 1e-6, 0.0999, 0.1001, 5, 40, 1e4], dtype=dtype
    )
    exact = logits.double().numpy()
    safe = np.where(exact == 0, 1.0, np.abs(exact))
    normalizer = np.where(exact == 0, 0.0, np.maximum(exact, 0) + np.log(-np.expm1(-safe) / safe))
    p = distributions.ContinuousBernoulli(logits)
    rtol = 1e-12 if dtype == torch.float64 else 2e-6
    np.testing.assert_allclose(p.log_normalizer(), normalizer, rtol=rtol, atol=rtol)
    logits.requires_grad_()
    distributions.ContinuousBernoulli(logits).log_normalizer().sum().backward()
    np.testing.assert_allclose(logits.grad, p.mean.detach(), rtol=10 * rtol, atol=10 * rtol)


COUNTS = ["Poisson", "NegativeBinomial", "ZeroInflatedNegativeBinomial", "ZeroInflatedPoisson"]


@pytest.mark.parametrize("name", COUNTS)
def test_exposure_multiplies_the_mean(name: str) -> None:
    likelihood = made(name)
    outputs = random_outputs(likelihood, 3, 4)
    exposure = torch.tensor([0.5, 1.0, 2.0, 10.0], dtype=torch.float64)
    exposed = likelihood(outputs, offset=exposure.log(), other=exposure)
    assert exposed.batch_shape == (3, 4)
    expected = likelihood(outputs).mean * exposure.reshape(4, 1, 1)
    np.testing.assert_allclose(exposed.mean.detach(), expected.detach(), rtol=1e-12)
    assert small_vae(likelihood=likelihood).decode(torch.zeros(4, 3), offset=exposure.log()).batch_shape == (4,)


@pytest.mark.parametrize("name", COUNTS)
def test_the_start_divides_counts_by_their_exposure(name: str) -> None:
    likelihood = ALL[name]().double()
    exposure = torch.rand(20_000, dtype=torch.float64) * 100 + 1
    x = torch.poisson(exposure.reshape(-1, 1, 1) * 3.0 * torch.ones(EVENT, dtype=torch.float64))
    likelihood.initialize(x, offset=exposure.log())
    mean = likelihood(torch.zeros(likelihood.output_shape, dtype=torch.float64)).mean
    np.testing.assert_allclose(mean.detach(), (x.sum(0) + 0.5) / exposure.sum(), rtol=1e-12)


def test_rows_of_different_totals_are_scored_given_their_own_and_drawn_with_the_one_asked_for() -> None:
    likelihood = likelihoods.Multinomial(3).double()
    x = torch.tensor([[1.0, 2.0, 0.0], [40.0, 0.0, 60.0], [0.0, 0.0, 0.0]], dtype=torch.float64)
    likelihood.initialize(x)
    assert likelihood.mean_total == pytest.approx(103 / 3)
    outputs = random_outputs(likelihood, 5, 3)
    probabilities = (likelihood.offset + outputs).softmax(-1).numpy()
    rows = zip(x.numpy(), probabilities[2], strict=True)
    expected = [scipy.stats.multinomial.logpmf(row, row.sum(), p) for row, p in rows]
    np.testing.assert_allclose(likelihood(outputs).log_prob(x)[2], expected, rtol=1e-9, atol=1e-12)
    total = torch.tensor([7, 0, 3000])
    assert (likelihood(outputs, total_count=total).sample((4,)).sum(-1) == total).all()
    assert (likelihood(outputs).sample().sum(-1) == 34).all()


def test_a_multinomial_draw_of_millions_has_its_total_and_its_mean() -> None:
    p = distributions.Multinomial(torch.tensor([5_000_000.0, 3.0]), torch.tensor([0.2, 0.5, 0.3]).log())
    x = p.sample()
    assert x.sum(-1).tolist() == [5_000_000.0, 3.0]
    error = (p.mean[0] * (1 - p.mean[0] / 5e6)).sqrt()
    assert ((x[0] - p.mean[0]).abs() < 5 * error).all()


def test_draws_of_proportions_stay_inside_in_single_precision() -> None:
    likelihood = likelihoods.Beta(1)
    x = likelihood(torch.randn(100_000, 1)).sample()
    assert (x > 0.999999).any()
    likelihood.check(x)


def test_the_encoder_sees_indicators_of_categories() -> None:
    likelihood = likelihoods.Categorical((2, 3), num_categories=4)
    x = torch.tensor([[[0, 1, 2], [3, 0, 1]]])
    indicators = likelihood.features(x).reshape(4, 2, 3)
    assert likelihood.feature_shape == likelihood.output_shape == (8, 3)
    assert torch.equal(indicators.argmax(0), x[0])
    assert torch.equal(indicators.sum(0), torch.ones(2, 3))
    logits = likelihood(8 * likelihood.features(x)).base_dist.logits
    assert torch.equal(logits.argmax(-1), x)  # the encoder's channels and the decoder's are in one order


def test_the_optimal_scale_is_that_of_the_batch_and_later_the_running_average() -> None:
    likelihood = likelihoods.Normal(EVENT, scale="optimal").double()
    x = 3 + 2 * torch.randn(40, *EVENT, dtype=torch.float64)
    likelihood.initialize(x)
    start = float(likelihood.mean_square)
    assert start == pytest.approx(float(x.var(0, correction=0).mean()))
    outputs = random_outputs(likelihood, 5, 40).requires_grad_()
    buffer = likelihood.mean_square
    log_prob = likelihood(outputs).log_prob(x)
    loc = likelihood.shift + likelihood.unit * outputs
    mean_square = (x - loc).square().mean()
    found = mean_square.item()
    assert log_prob.sum().item() == pytest.approx(-x.numel() * 5 / 2 * (1 + math.log(2 * math.pi * found)))
    assert buffer is likelihood.mean_square
    assert float(buffer) == pytest.approx(0.9 * start + 0.1 * found)
    weights = torch.rand(5, 40, dtype=torch.float64)  # with equal weights the gradient through the scale vanishes
    by_hand = torch.distributions.Normal(loc, mean_square.sqrt()).log_prob(x).sum((-1, -2))
    expected = torch.autograd.grad((weights * by_hand).sum(), outputs, retain_graph=True)[0]
    np.testing.assert_allclose(torch.autograd.grad((weights * log_prob).sum(), outputs)[0], expected, rtol=1e-9)
    likelihood.eval()
    before = buffer.clone()
    log_prob = likelihood(outputs.detach()).log_prob(x)
    expected = scipy.stats.norm.logpdf(x, loc.detach(), float(before) ** 0.5).sum((-1, -2))
    np.testing.assert_allclose(log_prob, expected, rtol=1e-9)
    assert torch.equal(before, buffer)


def test_a_fit_finds_the_optimal_scale() -> None:
    vae = small_vae(likelihood=likelihoods.Normal(EVENT, scale="optimal"))
    x = 4 * torch.randn(500, 1, 1, dtype=torch.float64) + torch.randn(500, *EVENT, dtype=torch.float64)
    vae.fit(x, epochs=40, batch_size=50, learning_rate=0.01, seed=0, progress=False)
    assert 0.8 < float(vae.likelihood.mean_square) < 1.5  # 1 is the variance of the noise, 17 that of the data


def test_a_custom_likelihood_is_trained_drawn_from_and_given_to_load(tmp_path) -> None:
    vae = small_vae(likelihood=UNSAVED["Custom"]())
    x = draw_data(vae.likelihood, 30).double()
    vae.fit(x, epochs=1, seed=0, progress=False)
    assert vae.sample(3, seed=0).shape == (3, *EVENT)
    vae.save(tmp_path)
    with pytest.raises(
        TypeError, match="likelihood must be given, since it is, or holds, an object of your own .Custom."
    ):
        pv.load(tmp_path)
    again = pv.load(tmp_path, likelihood=UNSAVED["Custom"]())
    assert torch.equal(again.sample(3, seed=0), vae.sample(3, seed=0))


def test_saved_blocks_keep_their_order_and_any_name() -> None:
    product = likelihoods.Product(
        {"b": likelihoods.Normal(1), "class": likelihoods.Poisson(2), "a.b": likelihoods.Beta(1)}
    )
    again = description.rebuild(description.describe(product))
    assert again.names == ["b", "class", "a.b"]
    assert [type(part).__name__ for part in again.parts] == ["Normal", "Poisson", "Beta"]


def test_dispersion_and_dropout_are_recovered_from_zero_inflated_counts() -> None:
    """Dispersion 2 and dropout 0.3 are found within 4 standard errors: a failure rate of 2e-4."""
    torch.manual_seed(3)
    rows, held_out, size, dropout = 6000, 3000, 2.0, 0.3
    exposure = (torch.randn(rows + held_out, dtype=torch.float64) * 0.5).exp()
    counts = torch.poisson(torch.distributions.Gamma(size, size / (6.0 * exposure)).sample())
    x = (counts * torch.bernoulli(torch.full_like(exposure, 1 - dropout))).unsqueeze(-1)
    train, test = (x[:rows], exposure[:rows].log()), (x[rows:], exposure[rows:].log())

    def maximized(likelihood):
        """The maximum over parameters and one output for all rows, the inverse information, and held-out nats."""
        likelihood.initialize(train[0], offset=train[1])
        shapes = {name: p.shape for name, p in likelihood.named_parameters()}

        def log_prob(theta, data):
            outputs, rest = theta[: likelihood.output_shape[0]], theta[likelihood.output_shape[0] :]
            own = {name: rest[i].reshape(shape) for i, (name, shape) in enumerate(shapes.items())}
            call = torch.func.functional_call(likelihood, own, (outputs.expand(len(data[0]), -1),), {"offset": data[1]})
            return call.log_prob(data[0])

        theta = torch.zeros(likelihood.output_shape[0] + len(shapes), dtype=torch.float64, requires_grad=True)
        optimizer = torch.optim.LBFGS([theta], max_iter=200, tolerance_change=0.0, line_search_fn="strong_wolfe")

        def closure():
            optimizer.zero_grad()
            loss = -log_prob(theta, train).mean()
            loss.backward()
            return loss

        optimizer.step(closure)
        assert float(theta.grad.abs().max()) < 1e-6
        theta = theta.detach()
        information = torch.autograd.functional.hessian(lambda t: -log_prob(t, train).sum(), theta)
        return theta, torch.linalg.inv(information), log_prob(theta, test)

    likelihood = likelihoods.ZeroInflatedNegativeBinomial(1).double()
    theta, covariance, inflated = maximized(likelihood)

    def estimates(t):
        found = torch.func.functional_call(likelihood, {"raw_scale": t[2]}, (t[:2],)).base_dist
        return torch.stack((found.base_dist.total_count[0], found.gate_logits.sigmoid()[0], found.base_dist.mean[0]))

    jacobian = torch.autograd.functional.jacobian(estimates, theta)
    errors = (jacobian @ covariance @ jacobian.T).diagonal().sqrt()
    truth = torch.tensor([size, dropout, 6.0], dtype=torch.float64)
    assert ((estimates(theta) - truth).abs() < 4 * errors).all()
    assert (errors < 0.1 * truth).all()
    *_, poisson = maximized(likelihoods.Poisson(1).double())
    better = inflated - poisson
    assert better.mean() > 5 * better.std() / held_out**0.5


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


@pytest.mark.parametrize("scale", likelihoods.Normal.choices)
def test_constant_cells_keep_a_positive_unit(scale: str) -> None:
    likelihood = likelihoods.Normal(2, scale=scale)
    likelihood.initialize(torch.full((9, 2), 7.0))
    assert (likelihood.unit > 0).all()
    assert torch.isfinite(likelihood(torch.zeros(1, *likelihood.output_shape)).log_prob(torch.full((1, 2), 7.0))).all()


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
    r"x must lie in \{0, 1, 2, ...\} for Poisson; got -1 in row 0": (lambda: likelihoods.Poisson(1), [[-1]]),
    r"x must lie in \{0, 1\} for Categorical; got 2 in row 1": (lambda: likelihoods.Categorical(1, 2), [[1], [2]]),
    r"x must lie in \{0, 1, 2\} for OrderedLogistic; got 3": (lambda: likelihoods.OrderedLogistic(1, 3), [[3]]),
    r"x must lie in \{0, 1, ..., 255\} for DiscretizedLogistic; got 0.5": (
        lambda: likelihoods.DiscretizedLogistic(1),
        [[0.5]],
    ),
    r"x must lie in the positive numbers for Gamma; got 0 in row 0": (lambda: likelihoods.Gamma(1), [[0.0]]),
    r"x must lie in the open interval \(0, 1\) for Beta; got 1 in row 0": (lambda: likelihoods.Beta(1), [[1.0]]),
    r"x must lie in \[0, 1\] for ContinuousBernoulli; got 1.5": (lambda: likelihoods.ContinuousBernoulli(1), [[1.5]]),
    r"x must lie in the positive numbers for Custom; got -1 .* Correct support, or the data": (
        lambda: likelihoods.Custom(1, torch.distributions.Exponential, support=constraints.positive),
        [[-1.0]],
    ),
    r"x must sum to 3 in each row for Multinomial; got 4 in row 1": (
        lambda: likelihoods.Multinomial(2, total_count=3),
        [[1, 2], [2, 2]],
    ),
    r"In block 'visits': x must lie in \{0, 1, 2, ...\} for Poisson; got 0.5 in row 1": (
        lambda: likelihoods.Product({"age": likelihoods.Normal(1), "visits": likelihoods.Poisson(2)}),
        [[0.3, 1, 2], [0.1, 0, 0.5]],
    ),
    r"x must have shape \(rows, 2\) for Product; got \(1, 1\)": (
        lambda: likelihoods.Product({"age": likelihoods.Normal(2)}),
        [[1.5]],
    ),
    r"x must have shape \(rows, 3\) for Normal; got \(1, 2\)": (lambda: likelihoods.Normal(3), [[1.5, 1]]),
}


@pytest.mark.parametrize("message", OUTSIDE)
def test_data_outside_the_support_are_named_with_their_row(message: str) -> None:
    make, x = OUTSIDE[message]
    with pytest.raises(ValueError, match=message):
        make().check(torch.tensor(x))


def test_a_likelihood_of_the_users_without_a_support_is_refused() -> None:
    class Mine(likelihoods.Likelihood):
        def forward(self, outputs: torch.Tensor, **batch: torch.Tensor) -> pyro.distributions.TorchDistribution:
            return pyro.distributions.Normal(outputs, 1.0).to_event(1)

    with pytest.raises(TypeError, match=r"support of Mine must be one of pyro.distributions.constraints; got None"):
        pv.VAE(likelihood=Mine(3), prior=pv.priors.Normal(2))


@pytest.mark.parametrize("cls", [likelihoods.Normal, likelihoods.Laplace, likelihoods.StudentT])
def test_one_learned_scale_for_columns_of_different_units_is_warned_of(cls: type[likelihoods.Likelihood]) -> None:
    torch.manual_seed(0)
    x = torch.randn(50, 3) * torch.tensor([1.0, 200.0, 3.0])
    with pytest.warns(UserWarning, match=r"columns of one unit; their standard deviations are .* Pass scale='per_dim"):
        cls(3).initialize(x)
    cls(3, scale="per_dimension").initialize(x)
    cls(3, scale="fixed").initialize(x)
    cls(3).initialize(x / x.std(0))
    cls((1, 1, 3)).initialize(x[:, None, None])  # the cells of an image have one unit
    constant = torch.tensor([0.1, 123456.7]).expand(50, 2)  # whose standard deviations, rounded, are 1e-8 and .008
    cls(5).initialize(torch.cat([constant, x / x.std(0)], 1))
