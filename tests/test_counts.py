"""Counts from 0 to 1e8: log-probabilities and derivatives against mpmath at the same parameters, and draws."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import mpmath
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

import pyro_vae as pv
from pyro_vae import distributions, likelihoods
from pyro_vae.likelihoods.scales import concentrations

mpmath.mp.dps = 40
LARGEST = 2**24
lg, mlog = mpmath.loggamma, mpmath.log


def numbers(value: Tensor) -> list[mpmath.mpf]:
    return [mpmath.mpf(float(number)) for number in value.detach().flatten()]


def log_sigmoid(logit: Any) -> Any:
    return -mpmath.log1p(mpmath.exp(-logit)) if logit > 0 else logit - mpmath.log1p(mpmath.exp(logit))


def log_choose(n: Any, k: Any) -> Any:
    return lg(n + 1) - lg(k + 1) - lg(n - k + 1)


def log_beta(a: Any, b: Any) -> Any:
    return lg(a) + lg(b) - lg(a + b)


def negative_binomial(x: Any, size: Any, logit: Any) -> Any:
    return lg(x + size) - lg(x + 1) - lg(size) + size * log_sigmoid(-logit) + x * log_sigmoid(logit)


def poisson(x: Any, rate: Any) -> Any:
    return x * mlog(rate) - rate - lg(x + 1)


def binomial(x: Any, n: Any, logit: Any) -> Any:
    return log_choose(n, x) + x * log_sigmoid(logit) + (n - x) * log_sigmoid(-logit)


def beta_binomial(x: Any, n: Any, a: Any, b: Any) -> Any:
    return log_choose(n, x) + log_beta(a + x, b + n - x) - log_beta(a, b)


def student(x: Any, df: Any, loc: Any, scale: Any) -> Any:
    kernel = -(df + 1) / 2 * mpmath.log1p(((x - loc) / scale) ** 2 / df)
    return lg((df + 1) / 2) - lg(df / 2) - mlog(df * mpmath.pi) / 2 - mlog(scale) + kernel


def gamma(x: Any, shape: Any, rate: Any) -> Any:
    return shape * mlog(rate) + (shape - 1) * mlog(x) - rate * x - lg(shape)


def beta(x: Any, a: Any, b: Any) -> Any:
    return (a - 1) * mlog(x) + (b - 1) * mpmath.log1p(-x) - log_beta(a, b)


def counts_up_to(largest: float, dtype: torch.dtype) -> Tensor:
    some = [0, 1, 2, 5, 17, 100, 999, 12_345, 10**5, 10**6, 9_999_999, 10**7, LARGEST - 1, LARGEST, 10**8 - 1, 10**8]
    return torch.tensor([x for x in some if x <= largest], dtype=dtype)


def near(x: Tensor) -> Tensor:
    """Means about two standard deviations from the counts, and some far from them."""
    return torch.cat((x + 2 * x.sqrt() + 0.3, 0.7 * x + 0.1, 3 * x + 10))


# By name: from counts x, three times over, to the distribution as a function of parameters, the reference, and these.
Case = tuple[Callable[..., Any], Callable[..., Any], list[Tensor]]


def _totals(x: Tensor) -> Tensor:
    return torch.cat((x, x + 1, 3 * x + 5)).clamp(max=LARGEST if x.dtype == torch.float32 else 1e8)


def _negative_binomial(x: Tensor, size: float) -> Case:
    return (
        lambda size, logits: distributions.NegativeBinomial(size, logits=logits),
        negative_binomial,
        [torch.full_like(near(x), size), near(x).log() - np.log(size)],
    )


def _binomial(x: Tensor) -> Case:
    logits = torch.linspace(-30, 30, 3 * len(x), dtype=x.dtype)
    return lambda n, logits: distributions.Binomial(n, logits=logits), binomial, [_totals(x), logits]


def _beta_binomial(x: Tensor, concentration: float) -> Case:
    a = torch.linspace(0.01, 0.9, 3 * len(x), dtype=x.dtype) * concentration
    return (
        lambda n, a, b: distributions.BetaBinomial(a, b, n),
        beta_binomial,
        [_totals(x), a, concentration - a],
    )


def _student(x: Tensor) -> Case:
    df = torch.cat((x + 0.5, 1e3 * x + 3, 1e7 * x + 1))
    return distributions.StudentT, student, [df, torch.full_like(df, 0.3), torch.full_like(df, 4.0)]


CASES: dict[str, Callable[[Tensor], Case]] = {
    "NegativeBinomial of size 0.01": lambda x: _negative_binomial(x, 0.01),
    "NegativeBinomial of size 2": lambda x: _negative_binomial(x, 2.0),
    "NegativeBinomial of size 1e4": lambda x: _negative_binomial(x, 1e4),
    "NegativeBinomial of size 1e7": lambda x: _negative_binomial(x, 1e7),
    "Poisson": lambda x: (distributions.Poisson, poisson, [near(x)]),
    "Binomial": _binomial,
    "BetaBinomial of concentration 1e-6": lambda x: _beta_binomial(x, 1e-6),
    "BetaBinomial of concentration 3": lambda x: _beta_binomial(x, 3.0),
    "BetaBinomial of concentration 1e6": lambda x: _beta_binomial(x, 1e6),
    "StudentT": _student,
    "Gamma": lambda x: (distributions.Gamma, gamma, [near(x), torch.full_like(near(x), 0.9)]),
    "Beta": lambda x: (distributions.Beta, beta, [near(x), near(x).flip(0)]),
}


def tolerance(expected: np.ndarray, dtype: torch.dtype) -> np.ndarray:
    """1e-4, or 4 units in the last place where that is more."""
    kind = np.float32 if dtype == torch.float32 else np.float64
    return np.maximum(1e-4, 4 * np.spacing(np.abs(expected).astype(kind)).astype(np.float64))


def slope(reference: Callable[..., Any], row: tuple[Any, ...], place: int) -> float:
    """The derivative with respect to one argument, by central differences in 40 digits."""
    step = mpmath.mpf(10) ** -12 * max(abs(row[place]), mpmath.mpf(10) ** -20)
    up, down = (reference(*row[:place], row[place] + sign * step, *row[place + 1 :]) for sign in (1, -1))
    return float((up - down) / (2 * step))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", CASES)
def test_log_probabilities_and_derivatives_hold_from_0_to_the_largest_count(name: str, dtype: torch.dtype) -> None:
    x = counts_up_to(LARGEST if dtype == torch.float32 else 1e8, dtype)
    kind, reference, parameters = CASES[name](x)
    values = {"Gamma": x + 1, "Beta": torch.linspace(0.001, 0.999, len(x), dtype=dtype)}.get(name, x).repeat(3)
    leaves = [parameter.detach().requires_grad_() for parameter in parameters]
    found = kind(*leaves).log_prob(values)
    rows = list(zip(numbers(values), *map(numbers, parameters), strict=True))
    expected = np.array([float(reference(*row)) for row in rows])
    off = np.abs(found.detach().double().numpy() - expected)
    assert found.dtype == dtype
    assert (off <= tolerance(expected, dtype)).all(), (off.max(), values[off.argmax()])
    found.sum().backward()
    first = 1 if "Binomial" in name and "Negative" not in name else 0  # total_count has no derivative
    for place, leaf in list(enumerate(leaves, 1))[first:]:
        assert leaf.grad is not None
        assert leaf.grad.isfinite().all()
        some = range(0, len(rows), 4)
        relative = np.array([slope(reference, rows[i], place) * float(rows[i][place]) for i in some])
        found_relative = (leaf.grad.double() * leaf.detach().double()).numpy()[list(some)]
        terms = np.array([float(rows[i][0]) for i in some])  # derivatives are differences of terms of this size
        np.testing.assert_array_less(
            np.abs(found_relative - relative), 1e-5 + 1e-6 * np.abs(relative) + 1e-14 * terms + 1e-6
        )


def test_the_entropy_of_a_concentrated_power_spherical_distribution() -> None:
    concentration, b = torch.tensor([0.0, 3.0, 1e4, 1e7], requires_grad=True), mpmath.mpf(1.5)
    p = distributions.PowerSpherical(torch.tensor([0.6, 0.0, 0.8, 0.0]).expand(4, 4), concentration)
    expected = []
    for k in numbers(concentration):
        a = b + k
        constant = (a + b) * mlog(2) + b * mlog(mpmath.pi) + lg(a) - lg(a + b)
        expected.append(float(constant - k * (mlog(2) + mpmath.digamma(a) - mpmath.digamma(a + b))))
    np.testing.assert_allclose(p.entropy().detach(), expected, rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("df", [1e5, 1e9])
def test_a_prior_and_a_guide_of_many_degrees_of_freedom_are_nearly_normal(df: float) -> None:
    z = torch.linspace(-3, 3, 7).reshape(7, 1)
    expected = dist.Normal(0.0, 1.0).log_prob(z[:, 0])
    for p in (pv.priors.StudentT(1, df=df)(), pv.guides.StudentT(df=df)(torch.zeros(2))):
        scale = p.base_dist.scale.squeeze()
        np.testing.assert_allclose(p.log_prob(z * scale) + scale.log(), expected, atol=5e-4)


def test_a_multinomial_of_large_counts() -> None:
    x = torch.tensor([[10_000_000.0, 6_000_000.0, 3.0, 0.0], [0.0, 16_000_000.0, 0.0, 16_000_000.0]])
    logits = torch.tensor([0.3, 0.1, -15.0, -60.0], requires_grad=True)
    p = distributions.Multinomial(torch.tensor(7.0), logits)
    weights = [mpmath.exp(logit) for logit in numbers(logits)]
    shares = [weight / sum(weights) for weight in weights]
    rows = [numbers(row) for row in x]
    expected = np.array(
        [
            float(lg(sum(row) + 1) + sum(k * mlog(q) - lg(k + 1) for k, q in zip(row, shares, strict=True)))
            for row in rows
        ]
    )
    off = np.abs(p.log_prob(x).detach().double().numpy() - expected)
    assert (off <= tolerance(expected, torch.float32)).all()
    p.log_prob(x)[0].backward()
    slopes = [float(k - sum(rows[0]) * q) for k, q in zip(rows[0], shares, strict=True)]
    np.testing.assert_allclose(logits.grad, slopes, rtol=1e-6, atol=1e-6)


MADE: dict[str, Callable[[], likelihoods.Likelihood]] = {
    "Binomial": lambda: likelihoods.Binomial(3, 16_000_000),
    "BetaBinomial": lambda: likelihoods.BetaBinomial(3, 16_000_000),
    "BetaBinomial predicted": lambda: likelihoods.BetaBinomial(3, 16_000_000, dispersion="predicted"),
    "Multinomial": lambda: likelihoods.Multinomial(3),
    "NegativeBinomial": lambda: likelihoods.NegativeBinomial(3, dispersion="per_dimension"),
    "Poisson": lambda: likelihoods.Poisson(3),
    "ZeroInflatedNegativeBinomial": lambda: likelihoods.ZeroInflatedNegativeBinomial(3),
    "ZeroInflatedPoisson": lambda: likelihoods.ZeroInflatedPoisson(3),
}
SIZES = torch.tensor([[3.0, 2e5, 0.0], [9.0, 1e6, 7e6], [0.0, 4e5, 1.2e7], [6.0, 3e5, 8e6]])


@pytest.mark.parametrize("name", MADE)
def test_a_float32_likelihood_gives_what_its_float64_copy_gives(name: str) -> None:
    single = MADE[name]()
    single.initialize(SIZES)
    outputs = 0.2 * torch.randn((4, *single.output_shape), generator=torch.Generator().manual_seed(0))
    double = copy.deepcopy(single).double()
    one, two = outputs.requires_grad_(), outputs.detach().double().requires_grad_()
    p, q = single(one), double(two)
    found, expected = p.log_prob(SIZES), q.log_prob(SIZES.double())
    assert (found.dtype, p.sample().dtype, p.mean.dtype) == (torch.float32,) * 3
    size = expected.detach().abs().numpy()
    off = (found.double() - expected).detach().abs().numpy()
    assert (off <= 3 * tolerance(size, torch.float32)).all()  # a row is a sum of three cells
    found.sum().backward()
    expected.sum().backward()
    np.testing.assert_allclose(one.grad, two.grad, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", MADE)
def test_counts_that_float32_does_not_hold_are_refused(name: str) -> None:
    likelihood = MADE[name]()
    if hasattr(likelihood, "total_count"):
        likelihood = type(likelihood)(3) if name == "Multinomial" else type(likelihood)(3, 10**8)
    x = torch.tensor([[1.0, 2.0, 2.0**24], [1.0, 2.0, 2.0**24 + 2]])
    likelihood.check(x[:1])
    message = r"x must be at most 16777216 for \w+ in torch.float32.*got 16777218 in row 5. Use float64: model.double()"
    with pytest.raises(ValueError, match=message):
        likelihood.check(x, first_row=4)
    likelihood.double().check(x.double() + 8e7)


def test_a_model_in_float64_takes_larger_counts_than_one_in_float32() -> None:
    x = np.random.default_rng(0).poisson(9e7, size=(20, 2))
    with pytest.raises(ValueError, match=r"model\.double\(\)"):
        pv.VAE(likelihood=likelihoods.Poisson(2), prior=pv.priors.Normal(1), seed=0).fit(x, epochs=1, progress=False)
    vae = pv.VAE(likelihood=likelihoods.Poisson(2), prior=pv.priors.Normal(1), seed=0).double()
    vae.fit(x, epochs=1, seed=0, compile=False, progress=False)
    assert np.isfinite(vae.log_likelihood(x, num_particles=5, seed=0).mean().estimate)


EDGES: dict[str, tuple[Callable[[Tensor], Any], list[float]]] = {
    "Binomial": (lambda logit: distributions.Binomial(16_000_000, logits=logit), [0.0, 1.0, 16e6]),
    "BetaBinomial": (
        lambda logit: distributions.BetaBinomial(*concentrations(logit, torch.tensor(1e-4)), 16_000_000),
        [0.0, 1.0, 16e6],
    ),
    "NegativeBinomial": (
        lambda logit: distributions.NegativeBinomial(torch.tensor(0.01), logits=logit),
        [0.0, 1.0, 16e6],
    ),
    "Multinomial": (
        lambda logit: distributions.Multinomial(torch.tensor(3.0), torch.stack((logit, -logit), -1)),
        [0.0, 1.0],
    ),
}


@pytest.mark.parametrize("name", EDGES)
def test_derivatives_are_finite_at_the_edges(name: str) -> None:
    kind, counts = EDGES[name]
    for logit in (-1e4, -100.0, -40.0, 0.0, 40.0, 100.0, 1e4):
        leaf = torch.tensor(logit, requires_grad=True)
        for count in counts:
            value = torch.tensor([count, 0.0]) if name == "Multinomial" else torch.tensor(count)
            (slope,) = torch.autograd.grad(kind(leaf).log_prob(value), leaf)
            assert slope.isfinite(), (logit, count)


DRAWN: dict[str, Callable[[], Any]] = {
    "Binomial": lambda: distributions.Binomial(10_000_000, logits=torch.tensor(0.4)),
    "BetaBinomial": lambda: distributions.BetaBinomial(torch.tensor(30.0), torch.tensor(70.0), 10_000_000),
    "NegativeBinomial": lambda: distributions.NegativeBinomial(torch.tensor(50.0), logits=torch.tensor(12.0)),
    "Poisson": lambda: distributions.Poisson(torch.tensor(1e7)),
    "BetaBinomial tiny": lambda: distributions.BetaBinomial(torch.tensor(1e-6), torch.tensor(1e-4), 16),
    "BetaBinomial of concentration 0.01": lambda: distributions.BetaBinomial(
        torch.tensor(0.004), torch.tensor(0.006), 16
    ),
    "Beta tiny": lambda: distributions.Beta(torch.tensor(1e-5), torch.tensor(3e-5)),
}


@pytest.mark.parametrize("name", DRAWN)
def test_draws_have_the_mean_and_the_variance(name: str) -> None:
    """Within 4.5 standard errors each: fails for one of these in 10,000 seeds or so."""
    torch.manual_seed(0)
    p, number = DRAWN[name](), 50_000
    x = p.sample((number,)).double()
    mean, variance = p.mean.double(), p.variance.double()
    squares = (x - mean).square()
    assert (x.mean() - mean).abs() < 4.5 * (variance / number).sqrt()
    assert (squares.mean() - variance).abs() < 4.5 * squares.std() / number**0.5


def test_a_multinomial_draw_counts_beyond_what_float32_adds_up() -> None:
    torch.manual_seed(0)
    p = distributions.Multinomial(torch.tensor(2.0**24 + 2e6), torch.tensor([0.0, -60.0]))
    assert p.sample().tolist() == [2.0**24 + 2e6, 0.0]


@pytest.mark.parametrize(
    "name", ["Poisson", "NegativeBinomial", "Binomial", "BetaBinomial", "StudentT", "Gamma", "Beta"]
)
def test_small_values_score_as_in_torch_and_are_drawn_from_the_same_numbers(name: str) -> None:
    torch.manual_seed(0)
    a, b, x = torch.rand(50) * 3 + 0.2, torch.rand(50) * 3 + 0.2, torch.poisson(torch.full((50,), 3.0)).clamp(max=12)
    if name in ("StudentT", "Gamma", "Beta"):
        x = (x + 0.5) / 13
    arguments = {
        "Poisson": (a,),
        "NegativeBinomial": (a, None, b),
        "Binomial": (12, None, b),
        "BetaBinomial": (a, b, 12),
    }
    given = arguments.get(name, (a, b))
    ours, theirs = getattr(distributions, name)(*given), getattr(dist, name)(*given)
    np.testing.assert_allclose(ours.log_prob(x), theirs.log_prob(x), rtol=1e-5, atol=3e-6)
    np.testing.assert_allclose(ours.expand((3, 50)).log_prob(x)[2], ours.log_prob(x))
    if "Beta" not in name:
        torch.manual_seed(1)
        drawn = ours.expand((3, 50)).sample((2,))
        torch.manual_seed(1)
        np.testing.assert_allclose(drawn, theirs.expand((3, 50)).sample((2,)), rtol=1e-5)


@pytest.mark.parametrize("name", MADE)
def test_log_probabilities_are_captured_as_one_graph(name: str) -> None:
    likelihood = MADE[name]()
    outputs = torch.randn((4, *likelihood.output_shape), generator=torch.Generator().manual_seed(0))

    def score(outputs: Tensor, x: Tensor) -> Tensor:
        return likelihood(outputs).log_prob(x)

    with pyro.validation_enabled(False):
        captured = make_fx(score)(outputs, torch.ones(4, 3))
    np.testing.assert_array_equal(captured(outputs, SIZES).detach(), score(outputs, SIZES).detach())
