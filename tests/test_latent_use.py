"""What latents hold and what can be read off them, against closed forms, enumeration and quadrature."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from cases import EVENT, BatchNormNet, combined_vae, draw_data, small_vae
from exact import Discrete, GlobalMean, LinearGaussian
from pyro import poutine
from scipy import integrate, stats
from test_predictive import TwoLayers
from torch import Tensor, nn

import pyro_vae as pv
from pyro_vae import evaluation, latents, likelihoods, nets, priors
from pyro_vae.inference import chunks
from pyro_vae.runtime.isolation import evaluating


class Coded(pv.LatentVariableModel):
    """x | z ~ N(z, 1) cell by cell; q(z_d | x) = N(slope_d x_d, scale_d^2)."""

    def __init__(self, slope: list[float], scale: list[float], prior: Any = dist.Normal) -> None:
        super().__init__()
        self.register_buffer("slope", torch.tensor(slope, dtype=torch.float64))
        self.register_buffer("scale", torch.tensor(scale, dtype=torch.float64))
        self.prior = prior

    def model(self, x: Tensor | None = None, *, rows: int | None = None, **batch: Tensor) -> Tensor:
        with pyro.plate("data", len(x) if x is not None else rows):
            zero = torch.zeros_like(self.slope)
            z = pyro.sample("z", self.prior(zero, torch.ones_like(zero)).to_event(1))
            return pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    def guide(self, x: Tensor, **batch: Tensor) -> Tensor:
        with pyro.plate("data", len(x)):
            return pyro.sample("z", dist.Normal(self.slope * x, self.scale).to_event(1))


class Plates(pv.LatentVariableModel):
    """Two independent latents of a row in a plate of their own, left of the rows: z (2, B); q(z_d | x) as in Coded."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("slope", torch.tensor([[1.5], [0.0]], dtype=torch.float64))
        self.register_buffer("scale", torch.tensor([[0.4], [0.9]], dtype=torch.float64))

    def model(self, x: Tensor | None = None, *, rows: int | None = None, **batch: Tensor) -> Tensor:
        with pyro.plate("data", len(x) if x is not None else rows):
            with pyro.plate("latents", 2):
                z = pyro.sample("z", dist.Normal(torch.zeros_like(self.slope), 1.0))
            return pyro.sample("x", dist.Normal(z.sum(-2, keepdim=True), 1.0), obs=x)

    def guide(self, x: Tensor, **batch: Tensor) -> Tensor:
        with pyro.plate("data", len(x)), pyro.plate("latents", 2):
            return pyro.sample("z", dist.Normal(self.slope * x, self.scale))


class Layers(TwoLayers):
    """TwoLayers in float64: q(b | x) = N(x_0, 1), q(a | b) = N(3 b, 1) against N(0, 1) and N(b, 1)."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("unit", torch.ones((), dtype=torch.float64))


X = torch.randn(40, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
SLOPE, SCALE = [1.2, 0.0, -0.3], [0.5, 0.8, 1.3]


def hierarchy(inference: str) -> pv.HierarchicalVAE:
    return pv.HierarchicalVAE(
        likelihood=likelihoods.Bernoulli(EVENT),
        latent_dims=(3, 2),
        inference=inference,
        encoder=nets.MLP((8,)),
        decoder=nets.MLP((8,)),
        between=nets.MLP((5,)),
        width=6,
        seed=0,
    ).double()


def normal_kl(loc: Tensor, scale: Tensor) -> Tensor:
    """KL(N(loc, scale^2) || N(0, 1))."""
    return 0.5 * (loc.square() + scale.square() - 1) - scale.log()


def information_of(loc: Tensor, scale: float) -> float:
    """I(row; z) of rows with q(z | x) = N(loc, scale^2), z a number, by quadrature."""
    z = np.linspace(float(loc.min()) - 10 * scale, float(loc.max()) + 10 * scale, 20_001)
    q = stats.norm.pdf(z[:, None], loc.numpy(), scale)
    mixture = q.mean(1)
    terms = np.where(mixture > 0, -mixture * np.log(np.where(mixture > 0, mixture, 1.0)), 0.0)
    return float(integrate.simpson(terms, x=z)) - 0.5 * math.log(2 * math.pi * math.e * scale**2)


def error_of(*means: evaluation.Mean) -> float:
    return math.hypot(*(mean.monte_carlo_error for mean in means))


# The KL, by site and by coordinate


def test_the_kl_of_independent_normals_is_its_closed_form() -> None:
    result = latents.use(Coded(SLOPE, SCALE), X, num_particles=200, seed=0)
    expected = normal_kl(torch.tensor(SLOPE) * X, torch.tensor(SCALE).double().expand_as(X))
    site = result.sites["z"]
    np.testing.assert_allclose(site.kl_per_dimension, expected.mean(0), rtol=1e-6)
    assert abs(result.kl.estimate - float(expected.sum(1).mean())) < 4.5 * result.kl.monte_carlo_error
    assert result.kl.monte_carlo_error < 0.05
    assert site.kl == result.kl
    spread = float(expected.sum(1).std() / 40**0.5)
    assert result.kl.sampling_error == pytest.approx(spread, rel=0.1)


@pytest.mark.parametrize(
    ("prior", "reference"),
    [(lambda loc, scale: dist.StudentT(4.0, loc, scale), stats.t(4.0)), (dist.Laplace, stats.laplace())],
    ids=["StudentT", "Laplace"],
)
def test_a_kl_to_heavier_tails_is_that_of_quadrature(prior: Any, reference: Any) -> None:
    result = latents.use(Coded(SLOPE, SCALE, prior), X, num_particles=2000, seed=0)
    z = np.linspace(-15, 15, 6001)
    expected = []
    for slope, scale, x in zip(SLOPE, SCALE, X.T.numpy(), strict=True):
        q = stats.norm(slope * x[:, None], scale)
        expected.append(integrate.simpson(q.pdf(z) * (q.logpdf(z) - reference.logpdf(z)), x=z).mean())
    error = result.kl.monte_carlo_error  # independent coordinates: larger than that of each
    assert (np.abs(result.sites["z"].kl_per_dimension.numpy() - expected) < 4.5 * error).all()
    assert abs(result.kl.estimate - sum(expected)) < 4.5 * error
    assert error < 0.02
    if prior is dist.Laplace:
        np.testing.assert_allclose(result.sites["z"].kl_per_dimension, expected, rtol=1e-4)  # in closed form
    else:
        assert float(result.sites["z"].kl_per_dimension.sum()) == pytest.approx(result.kl.estimate)  # of the same draws


def test_dependent_coordinates_have_no_kl_per_dimension() -> None:
    program = LinearGaussian(width=0.8)
    x = program.draw(50)
    result = latents.use(program, x, num_particles=500, seed=0)
    assert result.sites["z"].kl_per_dimension is None
    mean_map, covariance = program.posterior_parameters()
    q = dist.MultivariateNormal((x - program.bias) @ mean_map.T, 0.64 * covariance)
    p = dist.MultivariateNormal(torch.zeros(2, dtype=torch.float64), torch.eye(2, dtype=torch.float64))
    expected = float(torch.distributions.kl_divergence(q, p).mean().detach())
    assert abs(result.kl.estimate - expected) < 4.5 * result.kl.monte_carlo_error
    with pytest.raises(ValueError, match="Coordinates must be independent given x to have a KL each"):
        result.sites["z"].plot()


@pytest.mark.parametrize("prior", [priors.Mixture(1, 3), priors.VampPrior(1, EVENT, 3)], ids=["Mixture", "VampPrior"])
def test_the_kl_to_a_mixture_is_that_of_quadrature(prior: priors.Prior) -> None:
    vae = small_vae(prior=prior)
    with torch.no_grad():
        vae.encoder.module[-1].weight[0] *= 5
    x = draw_data(vae.likelihood, 30)
    result = latents.use(vae, x, num_particles=2000, seed=0)
    assert result.sites["z"].kl_per_dimension is None
    z = torch.linspace(-12, 12, 6001, dtype=torch.float64)
    with torch.no_grad():
        q = vae.encode(x).log_prob(z.reshape(-1, 1, 1))  # (points, rows)
        p = vae.prior(posterior=vae._posterior).log_prob(z.unsqueeze(-1))
    terms = q.exp() * (q - p.unsqueeze(-1))
    expected = float(integrate.simpson(terms.numpy(), x=z.numpy(), axis=0).mean())
    assert abs(result.kl.estimate - expected) < 4.5 * result.kl.monte_carlo_error
    assert result.kl.monte_carlo_error < 0.1 * expected


def test_the_kl_of_each_binary_latent_is_its_closed_form() -> None:
    vae = combined_vae("Bernoulli learned", "Bernoulli", "Bernoulli")
    for rows in (20, 3):  # three rows of three latents: shapes alone don't tell them apart
        x = draw_data(vae.likelihood, rows)
        q, p = vae.encode(x).mean.clamp(1e-9), vae.prior().mean.detach()
        expected = q * (q / p).log() + (1 - q) * ((1 - q) / (1 - p)).log()
        result = latents.use(vae, x, seed=0)
        np.testing.assert_allclose(result.sites["z"].kl_per_dimension, expected.mean(0).detach(), rtol=1e-6)
        np.testing.assert_allclose(result.sites["z"].mean_variance, q.var(0).detach(), rtol=1e-6)


CASES: dict[str, Callable[[], tuple[Any, Tensor]]] = {
    "VAE": lambda: (small_vae(), draw_data(small_vae().likelihood, 30)),
    "full covariance": lambda: (combined_vae("Laplace", "MultivariateNormal", "Bernoulli"), ROWS),
    "VampPrior": lambda: (combined_vae("VampPrior weighted", "Mixture", "Bernoulli"), ROWS),
    "Mixture": lambda: (combined_vae("Mixture", "StudentT", "Bernoulli"), ROWS),
    "Flow": lambda: (combined_vae("Flow", "Flow", "Bernoulli"), ROWS),
    "simplex": lambda: (combined_vae("LogisticNormal", "LogisticNormal", "Bernoulli"), ROWS),
    "sphere": lambda: (combined_vae("PowerSpherical", "PowerSpherical", "Bernoulli"), ROWS),
    "one of several": lambda: (combined_vae("Categorical", "Categorical", "Bernoulli"), ROWS),
    "Discrete": lambda: (Discrete(), Discrete.rows),
    "top_down": lambda: (hierarchy("top_down"), ROWS),
    "bottom_up": lambda: (hierarchy("bottom_up"), ROWS),
    "two sites": lambda: (Layers(), X),
}
ROWS = draw_data(likelihoods.Bernoulli(EVENT).double(), 30)


@pytest.mark.parametrize("case", CASES)
def test_the_kl_is_that_of_the_bound_and_the_parts_add_up(case: str) -> None:
    program, x = CASES[case]()
    result = latents.use(program, x, num_particles=400, seed=0)
    expected = program.elbo(x, num_particles=400, seed=1).mean("kl")
    assert abs(result.kl.estimate - expected.estimate) < 4.5 * error_of(result.kl, expected)
    assert sum(site.kl.estimate for site in result.sites.values()) == pytest.approx(result.kl.estimate)
    for site in result.sites.values():
        assert len(site.active) == len(site.mean_variance)
        if site.kl_per_dimension is not None:
            assert site.kl_per_dimension.shape == site.active.shape
            difference = float(site.kl_per_dimension.sum()) - site.kl.estimate
            # in closed form given the sites before it, the rest of the noise is that of these sites
            assert abs(difference) < 4.5 * math.hypot(*(s.kl.monte_carlo_error for s in result.sites.values())) + 1e-9
    information, n = result.mutual_information, len(x)
    assert result.information_rows == n
    assert -4.5 * error_of(information) < information.estimate < math.log(n) + 1e-9
    assert result.aggregate_kl == pytest.approx(result.kl.estimate - information.estimate)


def test_layers_drawn_in_the_models_order_have_closed_forms() -> None:
    result = latents.use(Layers(), X, num_particles=2000, seed=0)
    assert list(result.sites) == ["b", "a"]
    square = float(X[:, 0].square().mean())
    a, b = result.sites["a"], result.sites["b"]
    np.testing.assert_allclose(b.kl_per_dimension, [square / 2], rtol=1e-6)
    assert abs(b.kl.estimate - square / 2) < 4.5 * b.kl.monte_carlo_error
    expected = 2 * (1 + square)  # of N(3 b, 1) and N(b, 1) at b ~ N(x_0, 1)
    assert abs(a.kl.estimate - expected) < 4.5 * a.kl.monte_carlo_error
    assert abs(float(a.kl_per_dimension[0]) - expected) < 4.5 * a.kl.monte_carlo_error
    variance = float(X[:, 0].var())
    assert float(b.mean_variance[0]) == pytest.approx(variance)
    assert float(a.mean_variance[0]) == pytest.approx(9 * variance, rel=0.05)
    information = information_of(X[:, 0], 1.0)  # a tells no more than b does
    found = result.mutual_information
    assert abs(found.estimate - information) < 4.5 * found.monte_carlo_error


def test_the_kl_of_layers_drawn_in_another_order_is_by_monte_carlo() -> None:
    """Bottom-up, z2 depends on z1: KL(q(z1 | x) || p(z1 | z2)) at draws of z2 would be another number."""
    vae = hierarchy("bottom_up")
    result = latents.use(vae, ROWS, num_particles=50, seed=0)
    for site in result.sites.values():
        assert float(site.kl_per_dimension.sum()) == pytest.approx(site.kl.estimate)


def test_latents_in_their_own_plate_have_closed_forms() -> None:
    program, x = Plates(), X[:, 0]
    result = latents.use(program, x, num_particles=100, seed=0)
    expected = normal_kl(program.slope.T * x.unsqueeze(1), program.scale.T.expand(40, 2)).mean(0)
    site = result.sites["z"]
    np.testing.assert_allclose(site.kl_per_dimension, expected, rtol=1e-6)
    np.testing.assert_allclose(site.mean_variance, [2.25 * float(x.var()), 0.0], atol=1e-12)
    assert site.active.tolist() == [True, False]
    found = result.mutual_information
    assert abs(found.estimate - information_of(1.5 * x, 0.4)) < 4.5 * found.monte_carlo_error


# Information


def test_the_information_of_rows_far_apart_is_the_log_of_their_number() -> None:
    program = Coded([1.0], [1e-3])
    x = torch.arange(12, dtype=torch.float64).unsqueeze(1)
    result = latents.use(program, x, num_particles=300, seed=0)
    assert result.mutual_information.estimate == pytest.approx(math.log(12), abs=1e-9)
    assert result.mutual_information.monte_carlo_error < 1e-9
    assert result.information_rows == 12
    assert result.aggregate_kl == pytest.approx(result.kl.estimate - math.log(12))
    some = latents.use(program, x, information_rows=7, num_particles=300, seed=0)
    assert some.information_rows == 7
    assert some.mutual_information.estimate == pytest.approx(math.log(7), abs=1e-9)
    expected = float(normal_kl(x[:7], program.scale).mean()) - math.log(7)  # the first rows alone
    assert abs(some.aggregate_kl - expected) < 4.5 * some.kl.monte_carlo_error * 12 / 7
    assert "in 7 rows it is the sum" in str(some) and f"number of rows, {math.log(7):.2f}" in str(some)
    alone = latents.use(program, x, information_rows=1, seed=0)
    assert alone.mutual_information.estimate == pytest.approx(0, abs=1e-12)


def test_a_guide_that_ignores_x_has_no_information_and_is_collapsed() -> None:
    result = latents.use(Coded([0.0, 0.0], [0.7, 1.1]), X[:, :2], seed=0)
    assert result.mutual_information.estimate == pytest.approx(0, abs=1e-12)
    assert result.aggregate_kl == pytest.approx(result.kl.estimate)
    assert result.collapsed == ["z"]
    assert result.sites["z"].mean_variance.tolist() == [0.0, 0.0]
    text = str(result)
    assert "z: 0 of 2 units active, KL 0.1" in text
    assert "Collapsed: z. " in text
    for remedy in ("kl_weight=schedules.Linear", "FreeBitsELBO", "weaker decoder", "fewer latents"):
        assert remedy in text


def test_an_aggregate_kl_of_0_is_not_printed_as_a_negative_number_and_its_error_covers() -> None:
    """100 repeats of a true KL of 0, 4.5 standard errors: the guide is the prior."""
    program = Coded([0.0], [1.0])
    results = [latents.use(program, X[:30, :1], num_particles=2, seed=seed) for seed in range(100)]
    assert all(result.aggregate_kl == pytest.approx(0, abs=1e-9) for result in results)
    wide = Coded([1.2], [0.5])
    results = [latents.use(wide, X[:30, :1], num_particles=4, seed=seed) for seed in range(100)]
    found = np.array([result.aggregate_kl for result in results])
    expected = float(normal_kl(1.2 * X[:30, 0], torch.tensor(0.5)).mean()) - information_of(1.2 * X[:30, 0], 0.5)
    stated = np.sqrt(np.mean([result.aggregate_kl_error**2 for result in results]))
    assert abs(found.mean() - expected) < 4.5 * stated / 10
    assert abs(found.std() / stated - 1) < 4.5 / math.sqrt(2 * 100)
    for result in results:
        sure = result.aggregate_kl > 2 * result.aggregate_kl_error
        assert ("not above noise (Monte Carlo error" in str(result)) == (not sure)
        assert "KL(q(z) || p(z)) -" not in str(result)
    assert not all(result.aggregate_kl > 2 * result.aggregate_kl_error for result in results)


class Shifted(Coded):
    """Coded, with the prior N(shift_i, 1) of the row's own field."""

    def model(self, x=None, *, rows=None, shift, **batch):
        with pyro.plate("data", len(shift)):
            z = pyro.sample("z", dist.Normal(shift.unsqueeze(-1), torch.ones_like(self.slope)).to_event(1))
            return pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    def guide(self, x, *, shift, **batch):
        return super().guide(x)


def test_a_prior_that_depends_on_fields_has_no_aggregate_kl() -> None:
    program, x = Shifted([1.0], [0.5]), X[:, :1]
    result = latents.use(program, x, shift=X[:, 1], seed=0)
    assert math.isnan(result.aggregate_kl) and math.isnan(result.aggregate_kl_error)
    assert "KL(q(z) || p(z)) not computed (the prior differs between rows" in str(result)
    found = pv.diagnose(program, x, shift=X[:, 1], num_samples=5, num_particles=20, verbose=False)
    assert "not computed (the prior differs" in str(found) and "nan" not in str(found)
    same = latents.use(program, x, shift=torch.full((40,), 0.3, dtype=torch.float64), seed=0)  # one prior for all
    assert math.isfinite(same.aggregate_kl) and math.isfinite(same.aggregate_kl_error)


def test_a_latent_that_follows_its_prior_alone_is_not_active_however_the_prior_varies() -> None:
    class Collapsed(Shifted):
        """The guide is the prior: z says nothing of x beyond its field."""

        def guide(self, x, *, shift, **batch):
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Normal(shift.unsqueeze(-1), torch.ones_like(self.slope)).to_event(1))

    result = latents.use(Collapsed([1.0], [0.5]), X[:, :1], shift=X[:, 1], seed=0)
    assert result.kl.estimate == pytest.approx(0, abs=1e-9) and result.collapsed == ["z"]
    assert float(result.sites["z"].mean_variance) == pytest.approx(0, abs=1e-12)
    informed = latents.use(Shifted([1.0], [0.5]), X[:, :1], shift=X[:, 1], seed=0)
    assert float(informed.sites["z"].mean_variance) == pytest.approx(float((X[:, 0] - X[:, 1]).var()))


def test_the_information_of_a_discrete_latent_is_that_of_enumeration() -> None:
    program = Discrete()
    x = program.rows.repeat(150, 1)
    result = latents.use(program, x, num_particles=100, seed=0)
    q = program.guide_logits[program.rows[:, 0].long(), program.rows[:, 1].long()].softmax(-1).detach()
    p, aggregate = program.prior_logits.softmax(-1).detach(), q.mean(0)
    kl = float((q * (q / p).log()).sum(1).mean())
    information = float((q * (q / aggregate).log()).sum(1).mean())
    excess = float((aggregate * (aggregate / p).log()).sum())
    found = result.mutual_information
    np.testing.assert_allclose(result.sites["z"].kl_per_dimension, [kl], rtol=1e-6)
    assert abs(result.kl.estimate - kl) < 4.5 * result.kl.monte_carlo_error
    assert abs(found.estimate - information) < 4.5 * found.monte_carlo_error
    assert abs(result.aggregate_kl - excess) < 4.5 * error_of(result.kl, found)
    assert found.monte_carlo_error < 0.02


def test_the_information_is_that_of_quadrature_and_its_error_covers() -> None:
    """100 repeats: their mean is right, and their standard error is the stated one, both within 4.5 standard errors."""
    program, x = Coded([1.2], [0.5]), X[:30, :1]
    results = [latents.use(program, x, num_particles=2, seed=seed) for seed in range(100)]
    expected = information_of(1.2 * x[:, 0], 0.5)
    found = np.array([result.mutual_information.estimate for result in results])
    stated = np.sqrt(np.mean([result.mutual_information.monte_carlo_error**2 for result in results]))
    assert abs(found.mean() - expected) < 4.5 * stated / 10
    ratio = np.sqrt(np.mean((found - expected) ** 2)) / stated
    assert abs(ratio - 1) < 4.5 / math.sqrt(2 * 100)


@pytest.mark.parametrize("inference", ["top_down", "bottom_up"])
def test_the_information_of_layers_is_that_of_brute_force(inference: str) -> None:
    vae, rows, draws = hierarchy(inference), 6, 2000
    with torch.no_grad():
        vae.encoder.module[-1].weight.mul_(8)
        for head in getattr(vae, "heads", []):
            head.weight.mul_(8)
    x = draw_data(vae.likelihood, rows)

    def log_q(row: Tensor, values: dict[str, Tensor] | None) -> tuple[Tensor, dict[str, Tensor]]:
        guide = vae.guide if values is None else poutine.condition(vae.guide, values)
        trace = poutine.trace(guide).get_trace(row.expand(draws, *row.shape))
        trace.compute_log_prob()
        sites = {name: site for name, site in trace.nodes.items() if name in ("z1", "z2")}
        return sum(site["log_prob"] for site in sites.values()), {name: site["value"] for name, site in sites.items()}

    terms = []
    with evaluating(vae, seed=1):
        for i in range(rows):
            own, values = log_q(x[i], None)
            pairs = torch.stack([log_q(x[j], values)[0] for j in range(rows)])
            terms.append(own - (pairs.logsumexp(0) - math.log(rows)))
    expected = torch.stack(terms)
    error = float(expected.var(1).mean() / rows / draws) ** 0.5
    found = [latents.use(vae, x, num_particles=2, seed=seed).mutual_information for seed in range(40)]
    mean = sum(one.estimate for one in found) / 40
    assert abs(mean - float(expected.mean())) < 4.5 * math.hypot(error, error_of(*found) / 40)
    assert float(expected.mean()) > 0.1


# Units in use


def test_units_that_do_not_follow_x_are_not_active() -> None:
    vae = small_vae()
    with torch.no_grad():
        last = vae.encoder.module[-1]
        last.weight[[0, 2]] *= 8
        last.weight[1] = 0.0
    result = latents.use(vae, ROWS, seed=0)
    site = result.sites["z"]
    np.testing.assert_allclose(site.mean_variance, vae.encode(ROWS).mean.var(0), atol=1e-12)
    assert site.active.tolist() == [True, False, True]
    assert result.collapsed == []
    assert "z: 2 of 3 units active" in str(result)
    assert "Collapsed" not in str(result)


def test_monte_carlo_noise_of_means_does_not_count_as_active() -> None:
    """A flow has no mean; the average of 64 draws varies by more than 0.01, the threshold for active units."""
    vae = combined_vae("Normal", "Flow", "Bernoulli")
    with torch.no_grad():
        vae.encoder.module[-1].weight.zero_()
    x = draw_data(vae.likelihood, 400)
    result = latents.use(vae, x, num_particles=64, information_rows=2, seed=0)
    assert result.collapsed == ["z"]
    variance = vae.encode(x[:1]).sample((4000,)).var(0).mean(0) / 64
    assert variance.max() > 0.01
    assert (result.sites["z"].mean_variance < 4.5 * variance * (2 / 400) ** 0.5).all()
    with pytest.raises(ValueError, match="x must be at least two rows to be compared; got 1"):
        latents.use(vae, x[:1], seed=0)


@pytest.mark.parametrize("inference", ["top_down", "bottom_up"])
def test_a_layer_that_collapsed_is_named(inference: str) -> None:
    vae = hierarchy(inference)
    with torch.no_grad():
        if inference == "top_down":
            vae.heads[1].weight.zero_()
            vae.heads[0].weight.mul_(20)
        else:
            vae.up[0].module[-1].weight.zero_()
            vae.encoder.module[-1].weight.mul_(20)
    result = latents.use(vae, draw_data(vae.likelihood, 200), information_rows=2, seed=0)
    assert result.collapsed == ["z2"]
    assert "Collapsed: z2." in str(result)


def test_a_global_latent_is_refused() -> None:
    with pytest.raises(NotImplementedError, match="measured row by row; got a global latent"):
        latents.use(GlobalMean(), torch.randn(6, dtype=torch.float64))


@pytest.mark.parametrize("make", [lambda: Coded(SLOPE, SCALE), Plates, Layers], ids=["event", "plates", "two sites"])
def test_results_do_not_depend_on_chunks(make: Callable[[], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    program = make()
    x = 100.0 * torch.arange(13, dtype=torch.float64)  # far apart
    x = x if isinstance(program, Plates) else x.unsqueeze(1).expand(13, 3)
    whole = latents.use(program, x, num_particles=16, seed=0)
    monkeypatch.setattr(chunks, "CELLS", 3 * 16 * 4)
    sizes = [len(batch["x"]) for batch in chunks.row_chunks(program, program.read_rows(x, {})[0], 16, (), at_once=16)]
    assert len(sizes) > 1
    for cells in (3 * 16 * 4, 1):
        monkeypatch.setattr(chunks, "CELLS", cells)
        part = latents.use(program, x, num_particles=16, seed=0)
        first = next(iter(whole.sites))
        np.testing.assert_allclose(part.sites[first].kl_per_dimension, whole.sites[first].kl_per_dimension)
        np.testing.assert_allclose(part.sites[first].mean_variance, whole.sites[first].mean_variance)
        assert part.mutual_information.estimate == pytest.approx(math.log(13), abs=1e-9)
        assert whole.mutual_information.estimate == pytest.approx(math.log(13), abs=1e-9)


def test_fields_reach_the_programs() -> None:
    class Labelled(Coded):
        def model(self, x=None, *, rows=None, label, **batch):
            return super().model(x, rows=rows)

        def guide(self, x, *, label, **batch):
            return super().guide(x + label.unsqueeze(-1))

    program, label = Labelled(SLOPE, SCALE), torch.arange(40)
    expected = latents.use(Coded(SLOPE, SCALE), X + label.unsqueeze(-1), seed=0)
    for data, options in ((X, {"label": label}), ((X, label), {"fields": ("x", "label")})):
        result = latents.use(program, data, seed=0, **options)
        np.testing.assert_allclose(result.sites["z"].kl_per_dimension, expected.sites["z"].kl_per_dimension)
        assert result.mutual_information.estimate == pytest.approx(expected.mutual_information.estimate)


BAD = {
    "num_particles must be an integer of at least 2; got 1": {"num_particles": 1},
    "information_rows must be a positive integer; got 0": {"information_rows": 0},
}


@pytest.mark.parametrize("message", BAD)
def test_bad_counts_are_refused(message: str) -> None:
    with pytest.raises(ValueError, match=message):
        latents.use(Coded(SLOPE, SCALE), X, **BAD[message])


# Probes

LABELS = np.arange(600) % 4
NOISE = np.random.default_rng(0).normal(size=(600, 3))


@pytest.mark.parametrize("kind", ["linear", "knn"])
def test_a_code_that_holds_the_label_predicts_it_perfectly(kind: str) -> None:
    result = latents.probe(torch.tensor(np.eye(4)[LABELS]), torch.tensor(LABELS), kind=kind)
    assert (result.score, result.standard_error, result.baseline, result.kind) == (1.0, 0.0, 0.25, kind)
    assert str(result) == f"{kind} probe: 1.000 +- 0.000 (without codes 0.250)"


@pytest.mark.parametrize("kind", ["linear", "knn"])
def test_a_code_of_noise_predicts_at_chance(kind: str) -> None:
    result = latents.probe(NOISE, LABELS, kind=kind)
    assert abs(result.score - 0.25) < 4.5 * (0.25 * 0.75 / 600) ** 0.5
    assert result.standard_error > 0
    numbers = latents.probe(NOISE, np.random.default_rng(1).normal(size=600), kind=kind)
    assert numbers.score < 4.5 * numbers.standard_error  # below 0 where the noise was fitted
    assert numbers.baseline == 0.0


def test_a_constant_code_scores_the_baseline() -> None:
    unequal = np.r_[LABELS, np.zeros(400, dtype=int)]
    result = latents.probe(np.ones((1000, 2)), unequal)
    assert result.score == pytest.approx(0.55)
    assert result.baseline == pytest.approx(0.55)
    assert latents.probe(np.ones((600, 2)), NOISE[:, 0]).score < 1e-12


def test_real_labels_are_scored_by_r_squared() -> None:
    result = latents.probe(NOISE, NOISE @ np.array([1.0, -2.0, 0.5]))
    assert result.score > 1 - 1e-6
    noise = np.random.default_rng(1).normal(size=600)
    half = latents.probe(NOISE[:, :1], NOISE[:, 0] + noise)
    assert abs(half.score - 0.5) < 4.5 * math.sqrt(0.5 / 600)  # about that of a squared correlation, 4 r^2 (1 - r^2)^2
    assert half.standard_error < 0.1


def test_neighbours_predict_what_a_linear_probe_cannot() -> None:
    inside = np.square(NOISE[:, :2]).sum(1) < 2 * math.log(2)
    line, near = (latents.probe(NOISE[:, :2], inside, kind=kind) for kind in ("linear", "knn"))
    assert near.score - line.score > 4.5 * math.hypot(near.standard_error, line.standard_error)


def test_folds_are_reproduced_by_the_seed() -> None:
    first, again, other = (latents.probe(NOISE, LABELS, seed=seed) for seed in (0, 0, 1))
    assert first == again
    assert first != other


BAD_PROBES = {
    r"codes and labels must have shapes \(N, D\) and \(N,\) with N at least 5; got \(600, 3\) and \(599,\)": (
        lambda: latents.probe(NOISE, LABELS[1:])
    ),
    r"got \(600,\) and \(600,\)": lambda: latents.probe(NOISE[:, 0], LABELS),
    r"with N at least 5; got \(4, 3\) and \(4,\)": lambda: latents.probe(NOISE[:4], LABELS[:4]),
    "kind must be linear or knn; got 'tree'": lambda: latents.probe(NOISE, LABELS, kind="tree"),
    "folds must be an integer of at least 2; got 1": lambda: latents.probe(NOISE, LABELS, folds=1),
    "labels must be two classes or more of at least 5 rows each; got 1, the smallest of size 600": (
        lambda: latents.probe(NOISE, 0 * LABELS)
    ),
    "got 5, the smallest of size 1. Leave rare classes out": lambda: latents.probe(NOISE, np.r_[LABELS[:-1], 9]),
    "labels must be at least 10 numbers; got 9": lambda: latents.probe(NOISE[:9], NOISE[:9, 0]),
}


@pytest.mark.parametrize("message", BAD_PROBES)
def test_bad_arguments_of_probes_are_refused(message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BAD_PROBES[message]()


# Traversals, rates and distortions


def test_traversals_move_one_latent_at_a_time() -> None:
    vae, x = small_vae(), ROWS[:1]
    means = latents.traverse(vae, x, steps=5, span=2.0)
    assert means.shape == (5, 3, *EVENT)
    code = vae.encode(x).mean[0]
    for dim in range(3):
        for step, value in enumerate((-2.0, -1.0, 0.0, 1.0, 2.0)):
            z = code.clone()
            z[dim] = value
            np.testing.assert_allclose(means[step, dim], vae.decode(z).mean, atol=1e-12)
    torch.testing.assert_close(latents.traverse(vae, x, steps=5, span=2.0, dims=[2, 0]), means[:, [2, 0]])
    assert latents.traverse(vae, x).shape == (9, 3, *EVENT)
    assert not means.requires_grad


BAD_TRAVERSALS = {
    r"x must be one row; got codes of shape \(2, 3\)": (2, {}),
    "steps must be an integer of at least 2; got 1": (1, {"steps": 1}),
    r"dims must be numbers of latents, 0 to 2; got \[3\]": (1, {"dims": [3]}),
    r"dims must be numbers of latents, 0 to 2; got \[\]": (1, {"dims": []}),
}


@pytest.mark.parametrize("message", BAD_TRAVERSALS)
def test_bad_arguments_of_traversals_are_refused(message: str) -> None:
    rows, options = BAD_TRAVERSALS[message]
    with pytest.raises(ValueError, match=message):
        latents.traverse(small_vae(), ROWS[:rows], **options)


def test_rate_and_distortion_add_up_to_the_bound() -> None:
    models = {f"width {width}": LinearGaussian(width=width) for width in (1.5, 0.3, 1.0)}
    x = LinearGaussian().draw(50)
    result = latents.rate_distortion(models, x, num_particles=300, seed=0)
    assert result.names == ["width 1.5", "width 1.0", "width 0.3"]
    assert [rate.estimate for rate in result.rates] == sorted(rate.estimate for rate in result.rates)
    for name, rate, distortion in zip(result.names, result.rates, result.distortions, strict=True):
        bound = models[name].elbo(x, num_particles=300, seed=0)
        assert rate == bound.mean("kl")
        assert distortion.estimate == pytest.approx(-float(bound.reconstruction.mean()))
        assert rate.estimate + distortion.estimate == pytest.approx(-float(bound.bound.mean()))
        exact = -float(models[name].exact_elbo(x).mean().detach())
        error = bound.mean().monte_carlo_error + 1e-9
        assert abs(rate.estimate + distortion.estimate - exact) < 4.5 * error
        for part in (rate, distortion):
            assert 0 < part.monte_carlo_error < 0.1
            assert part.sampling_error > 0
    first = result.names[0]
    assert str(result).startswith(f"{first}: rate {result.rates[0]}, distortion {result.distortions[0]} nats per row")
    with pytest.raises(ValueError, match="models must be a dictionary of models; got {}"):
        latents.rate_distortion({}, x)


# Side effects

CALLS: dict[str, Callable[[Any, Tensor, int | None], Any]] = {
    "use": lambda m, x, s: vars(latents.use(m, x, num_particles=3, seed=s)) | {"sites": None},
    "rate_distortion": lambda m, x, s: latents.rate_distortion({"a": m}, x, num_particles=3, seed=s),
    "traverse": lambda m, x, s: latents.traverse(m, x[:1], steps=2).tolist(),
}


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.usefixtures("plain_pyro")
def test_evaluation_leaves_models_and_global_state_unchanged(name: str) -> None:
    encoder, decoder = BatchNormNet((6, 6)), nn.Sequential(BatchNormNet((3, 6)), nn.Unflatten(1, (2, 3)))
    vae = small_vae(encoder=encoder, decoder=decoder)
    vae.train()
    vae.decoder.module[0].layers[2].eval()
    pyro.param("mine", torch.ones(2))
    before, modes = copy.deepcopy(vae.state_dict()), [part.training for part in vae.modules()]
    random, store = torch.get_rng_state(), sorted(pyro.get_param_store())
    first, again = (CALLS[name](vae, ROWS, 0) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), random)
    assert first == again
    assert modes == [part.training for part in vae.modules()]
    assert all(torch.equal(value, before[key]) for key, value in vae.state_dict().items())
    assert all(parameter.grad is None for parameter in vae.parameters())
    assert sorted(pyro.get_param_store()) == store
    if name != "traverse":
        assert CALLS[name](vae, ROWS, None) != CALLS[name](vae, ROWS, None)
