"""Priors and guides as distributions: mass one, draws that follow the density, closed forms, gradients."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pyro.distributions as dist
import pytest
import scipy.stats
import torch
from cases import EVENT, GUIDES, PRIORS, draw_data, small_vae
from pyro.distributions import constraints
from torch import Tensor

import pyro_vae as pv
from pyro_vae import distributions, elbos, guides, likelihoods, nets, priors
from pyro_vae.nets import flows
from pyro_vae.parts import support_name, support_of
from pyro_vae.runtime.random import seeded
from pyro_vae.saving import description, files

FAILURE_RATE = 1e-3  # of a goodness-of-fit test if its seed were drawn at random
REAL, SIMPLEX, SPHERE, BINARY, ONE_HOT = map(
    support_name,
    (constraints.real, constraints.simplex, constraints.sphere, constraints.boolean, constraints.one_hot),
)
DIM = {REAL: 2, SIMPLEX: 3, SPHERE: 3, BINARY: 3, ONE_HOT: 3}  # of the latents whose mass is summed, by support


def grid(start: float, stop: float, cells: int) -> Tensor:
    """The midpoints of two lines' cells, (cells ** 2, 2)."""
    line = start + (stop - start) * (torch.arange(cells, dtype=torch.float64) + 0.5) / cells
    return torch.cartesian_prod(line, line)


def quadrature(kind: str, reach: int = 20) -> tuple[Tensor, Tensor]:
    """Points that fill a support, (N, D), and the volume that each stands for."""
    if kind == REAL:
        return grid(-reach, reach, 640), torch.full((640**2,), (2 * reach / 640) ** 2, dtype=torch.float64)
    if kind == SIMPLEX:
        first, share = grid(0, 1, 800).unbind(-1)
        points = torch.stack((first, share * (1 - first), (1 - share) * (1 - first)), -1)
        return points, (1 - first) / 800**2
    if kind == SPHERE:
        height, turn = grid(-1, 1, 400).unbind(-1)
        r, angle = (1 - height.square()).sqrt(), math.pi * turn
        return torch.stack((height, r * angle.cos(), r * angle.sin()), -1), torch.full_like(r, 4 * math.pi / 400**2)
    values = torch.tensor(list(itertools.product([0.0, 1.0], repeat=3)), dtype=torch.float64)
    values = values if kind == BINARY else torch.eye(3, dtype=torch.float64)
    return values, torch.ones(len(values), dtype=torch.float64)


def bins(kind: str, z: Tensor) -> Tensor:
    """The number of the bin that each point lies in; edges of bins are edges of the grid's cells."""
    if kind == SIMPLEX:
        z = torch.stack((z[:, 0], z[:, 1] / (1 - z[:, 0])), -1)
    if kind == SPHERE:
        z = torch.stack((z[:, 0], torch.atan2(z[:, 2], z[:, 1]) / math.pi), -1)
    edges = {REAL: torch.linspace(-3, 3, 7), SPHERE: torch.linspace(-0.75, 0.75, 7)}
    edge = edges.get(kind, torch.linspace(0.25, 0.75, 3)).double()
    return (torch.bucketize(z.contiguous(), edge) * 10 ** torch.arange(z.shape[-1])).sum(-1)


def shaken(module):
    """The module in double precision, with its parameters moved from where they start."""
    with seeded(3), torch.no_grad():
        for parameter in module.parameters():
            parameter += 0.08 * torch.randn_like(parameter)
    return module.double()


def prior_distribution(name: str):
    prior = PRIORS[name]()
    arguments = prior.arguments()
    if isinstance(prior, priors.Distribution):
        return priors.Distribution(dist.Gumbel(torch.zeros(2), 1.0).to_event(1)).double()()
    if support_of_prior(prior) == REAL:
        arguments["latent_dim"] = 2
    guide = guides.Normal()

    def posterior(u: Tensor):
        return guide(u.flatten(1)[:, :4])

    return shaken(type(prior)(**arguments))(posterior=posterior)


def support_of_prior(prior) -> str:
    return REAL if isinstance(prior, priors.VampPrior) else support_name(support_of(prior()))


def prepared(name: str, dim: int) -> guides.Guide:
    """A guide of the table for this number of latents, as a VAE makes it."""
    guide = GUIDES[name]()
    guide.prepare(dim)
    return guide.double()


def guide_distribution(name: str):
    dim = DIM[support_name(GUIDES[name]().support)]
    guide = shaken(prepared(name, dim))
    with seeded(1):
        return guide(0.7 * torch.randn(guide.parameter_shape(dim), dtype=torch.float64))


MAKERS = {f"prior {name}": (prior_distribution, name) for name in PRIORS}
MAKERS |= {f"guide {name}": (guide_distribution, name) for name in GUIDES}


@pytest.mark.parametrize("case", MAKERS)
def test_the_mass_is_one_and_draws_follow_the_density(case: str) -> None:
    make, name = MAKERS[case]
    p = make(name)
    kind = support_name(p.support)
    points, volume = quadrature(kind, 8 if "Flow" in case else 20)  # splines bend within a small box
    assert points.shape[-1:] == p.event_shape
    with torch.no_grad():
        mass = p.log_prob(points).exp() * volume
        assert float(mass.sum()) == pytest.approx(1.0, abs=1e-3)
        with seeded(0):
            draws = p.expand([20_000]).sample()
    assert p.support.check(draws).all()
    cells = bins(kind, torch.cat((points, draws)))
    _, cells = cells.unique(return_inverse=True)
    expected = torch.zeros(int(cells.max()) + 1, dtype=torch.float64)
    observed = expected.clone()
    expected.index_add_(0, cells[: len(points)], mass / mass.sum() * len(draws))
    observed.index_add_(0, cells[len(points) :], torch.ones(len(draws), dtype=torch.float64))
    rare = expected < 5
    expected, observed = (torch.cat((part[~rare], part[rare].sum(0, keepdim=True))) for part in (expected, observed))
    expected, observed = expected[expected > 1e-9], observed[expected > 1e-9]
    assert len(expected) >= 3
    assert scipy.stats.chisquare(observed, expected).pvalue > FAILURE_RATE


@pytest.mark.parametrize("name", PRIORS)
def test_priors_have_latent_dim_as_event_no_batch_and_gradients_for_all_parameters(name: str) -> None:
    prior = PRIORS[name]().double()
    q = guides.Normal()
    p = prior(posterior=lambda u: q(u.flatten(1)))
    assert p.event_shape == (prior.latent_dim,)
    assert p.batch_shape == ()
    with seeded(0):
        z = p.expand([5]).sample()
    assert z.dtype == torch.float64
    assert torch.isfinite(p.log_prob(z)).all()
    parameters = list(prior.parameters())
    p.log_prob(z).sum().backward() if parameters else None
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in parameters)


@pytest.mark.parametrize("name", GUIDES)
def test_guides_turn_any_leading_shape_into_a_batch(name: str) -> None:
    guide = prepared(name, 3)
    with seeded(0):
        parameters = torch.randn(4, 5, *guide.parameter_shape(3), dtype=torch.float64, requires_grad=True)
        q = guide(parameters)
        assert q.batch_shape == (4, 5)
        assert q.event_shape == (3,)
        assert support_name(q.support) == support_name(guide.support)
        z = q.rsample() if q.has_rsample else q.sample()
    assert torch.isfinite(q.log_prob(z)).all()
    torch.testing.assert_close(q.log_prob(z), q.log_prob(z.clone()))  # nothing is remembered for a copy
    torch.testing.assert_close(q.log_prob(z)[2], guide(parameters[2]).log_prob(z[2]))
    assert q.sample((2, 6)).shape == (2, 6, 4, 5, 3)
    (q.log_prob(z).sum() + z.square().sum() + z[..., 0].sum()).backward()
    assert (parameters.grad != 0).all()
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in guide.parameters())


@pytest.mark.parametrize("name", [name for name in GUIDES if guide_distribution(name).has_rsample])
def test_derivatives_through_draws_agree_with_the_score_function(name: str) -> None:
    """The derivative of E f(z) along a direction of the parameters: pathwise against the score function."""
    dim = DIM[support_name(GUIDES[name]().support)]
    guide = prepared(name, dim)
    count = 40_000
    with seeded(2):
        start, direction = torch.randn(2, *guide.parameter_shape(dim), dtype=torch.float64) * 0.5
        weights = torch.randn(dim, dtype=torch.float64)
        t = torch.zeros(count, dtype=torch.float64, requires_grad=True)  # a copy of the same step for each draw
        q = guide(start + t.unsqueeze(-1) * direction)
        z = q.rsample()
        f = (z @ weights).sin()
        (pathwise,) = torch.autograd.grad(f.sum(), t)
        (score,) = torch.autograd.grad(guide(start + t.unsqueeze(-1) * direction).log_prob(z.detach()).sum(), t)
    score = (f.detach() - f.detach().mean()) * score
    difference = pathwise - score
    assert abs(float(difference.mean())) < 4 * float(difference.std()) / math.sqrt(count)
    assert float(pathwise.std()) > 0


def test_the_normal_guide_starts_at_the_standard_normal() -> None:
    q = guides.Normal()(torch.zeros(1, 4, dtype=torch.float64))
    np.testing.assert_allclose(q.mean, 0.0)
    np.testing.assert_allclose(q.stddev, 1.0, atol=2e-6)


SCIPY = {
    "Normal": scipy.stats.norm(),
    "Laplace": scipy.stats.laplace(),
    "StudentT": scipy.stats.t(4.0),
}


@pytest.mark.parametrize("name", SCIPY)
def test_priors_agree_with_scipy(name: str) -> None:
    z = torch.linspace(-4, 4, 30, dtype=torch.float64).reshape(10, 3)
    expected = SCIPY[name].logpdf(z.numpy()).sum(-1)
    np.testing.assert_allclose(PRIORS[name]().double()().log_prob(z), expected, rtol=1e-12)


def test_correlated_normals_have_the_covariance_they_say() -> None:
    with seeded(0):
        full, low = (
            guide(torch.randn(guide.parameter_shape(4), dtype=torch.float64))
            for guide in (guides.MultivariateNormal(), guides.LowRankNormal(2))
        )
    assert (full.scale_tril.diagonal() > 0).all()
    assert torch.equal(full.scale_tril, full.scale_tril.tril())
    covariance = low.cov_factor @ low.cov_factor.T + low.cov_diag.diag()
    z = torch.randn(5, 4, dtype=torch.float64)
    expected = scipy.stats.multivariate_normal(low.loc.numpy(), covariance.numpy()).logpdf(z.numpy())
    np.testing.assert_allclose(low.log_prob(z), expected, rtol=1e-9)
    assert guides.MultivariateNormal()(torch.zeros(2)).event_shape == (1,)


@pytest.mark.parametrize("kind", flows.KINDS)
@pytest.mark.parametrize("context", [None, 2])
def test_maps_have_the_inverse_and_the_jacobian_that_they_state(kind: str, context: int | None) -> None:
    maps = flows.Maps(3, kind=kind, layers=3, hidden=(8,), context_dim=context or 0).double()
    with seeded(1):
        x = torch.randn(5, 3, dtype=torch.float64)
        seen = None if context is None else torch.randn(5, context, dtype=torch.float64)
    chain = maps(seen)
    y = x
    total = torch.zeros(5, dtype=torch.float64)
    for step in chain:
        before, y = y, step(y)
        total = total + step.log_abs_det_jacobian(before, y)

    def run(row: Tensor, number: int) -> Tensor:
        for step in maps(None if seen is None else seen[number]):
            row = step(row)
        return row

    for number in range(5):
        jacobian = torch.autograd.functional.jacobian(lambda row, number=number: run(row, number), x[number])
        assert float(total[number].detach()) == pytest.approx(float(jacobian.det().abs().log()), abs=1e-9)
    back = y
    for step in reversed(maps(seen)):
        back = step.inv(back)
    np.testing.assert_allclose(back.detach(), x, atol=1e-9)


def test_the_context_of_a_flow_matters_and_broadcasts() -> None:
    guide = prepared("Flow spline coupling", 3)
    with seeded(0):
        parameters = torch.randn(4, *guide.parameter_shape(3), dtype=torch.float64)
        z = torch.randn(7, 1, 3, dtype=torch.float64)
    both = guide(parameters).log_prob(z)
    assert both.shape == (7, 4)
    for row in range(4):
        torch.testing.assert_close(both[:, row], guide(parameters[row]).log_prob(z[:, 0]))
    other = parameters.clone()
    other[:, -1] += 1.0
    assert (guide(other).log_prob(z) != both).all()


def test_flow_parts_start_at_the_same_parameters_and_leave_the_random_state() -> None:
    state = torch.get_rng_state()
    for make in (lambda: priors.Flow(3), lambda: prepared("Flow", 3)):
        first, second = make().state_dict(), make().state_dict()
        assert len(first) > 1
        assert all(map(torch.equal, first.values(), second.values()))
    assert torch.equal(state, torch.get_rng_state())


def test_a_flow_guide_takes_the_number_of_latents_of_the_prior_and_keeps_it() -> None:
    guide = guides.Flow(hidden=(6,))
    with pytest.raises(ValueError, match="guide must know the number of latents; got a new Flow. Call prepare"):
        guide(torch.zeros(1, 20))
    first = small_vae(guide=guide)
    second = small_vae(guide=guide, prior=priors.Laplace(3))
    assert first.family.maps is second.family.maps is not None
    with pytest.raises(ValueError, match="guide must be a Flow for 2 latents, .*; got one that is in use for 3. Make"):
        small_vae(guide=guide, prior=priors.Normal(2))


def test_a_flow_guide_of_an_earlier_file_that_names_its_latents_is_loaded(tmp_path) -> None:
    vae = small_vae(guide=guides.Flow(hidden=(6,)))
    config = description.configuration(vae)
    config["arguments"]["guide"]["arguments"]["latent_dim"] = 3
    files.save_tensors(tmp_path / "model.safetensors", vae.state_dict(), config)
    x = draw_data(vae.likelihood, 5)
    assert torch.equal(pv.load(tmp_path).elbo(x, seed=0).bound, vae.elbo(x, seed=0).bound)


def test_log_ratios_and_proportions_are_inverse_with_the_right_volume() -> None:
    transform = distributions.AdditiveLogRatio()
    with seeded(0):
        y = torch.randn(6, 3, dtype=torch.float64)
    z = transform(y)
    np.testing.assert_allclose(z.sum(-1), 1.0)
    np.testing.assert_allclose(transform.inv(z), y)
    for row in range(6):
        jacobian = torch.autograd.functional.jacobian(lambda y: transform(y)[:-1], y[row])
        assert float(transform.log_abs_det_jacobian(y, z)[row]) == pytest.approx(float(jacobian.det().log()))


def test_the_logistic_normal_is_the_laplace_approximation_of_a_dirichlet() -> None:
    a = torch.tensor([0.5, 1.0, 2.0, 3.5], dtype=torch.float64)
    transform, p = distributions.AdditiveLogRatio(), priors.LogisticNormal(4, a.tolist()).double()()

    def log_density(y: Tensor) -> Tensor:
        z = transform(y)
        return dist.Dirichlet(a, validate_args=False).log_prob(z) + transform.log_abs_det_jacobian(y, z)

    mode = p.base_dist.loc
    np.testing.assert_allclose(torch.autograd.functional.jacobian(log_density, mode), 0.0, atol=1e-7)
    curvature = torch.autograd.functional.hessian(log_density, mode)
    np.testing.assert_allclose((-curvature).inverse(), p.base_dist.covariance_matrix, rtol=1e-6)


@pytest.mark.parametrize("dim", [2, 3, 5])
def test_power_spherical_moments_entropy_and_kl_agree_with_closed_forms(dim: int) -> None:
    with seeded(0):
        loc = torch.nn.functional.normalize(torch.randn(dim, dtype=torch.float64), dim=-1)
        p = distributions.PowerSpherical(loc, torch.tensor(2.5, dtype=torch.float64))
        z = p.rsample((40_000,))
    np.testing.assert_allclose(z.norm(dim=-1), 1.0, rtol=1e-9)
    error = (z.std(0) / math.sqrt(len(z))).numpy()
    assert (np.abs((z.mean(0) - p.mean).numpy()) < 4 * error).all()
    surprise = -p.log_prob(z)
    assert abs(float(surprise.mean() - p.entropy())) < 4 * float(surprise.std()) / math.sqrt(len(z))
    uniform = distributions.PowerSpherical(loc, torch.zeros((), dtype=torch.float64))
    area = 2 * math.pi ** (dim / 2) / math.gamma(dim / 2)
    assert float(uniform.log_prob(z[0])) == pytest.approx(-math.log(area))
    assert float(uniform.entropy()) == pytest.approx(math.log(area))
    kl = torch.distributions.kl_divergence(p, uniform)
    assert float(kl) == pytest.approx(math.log(area) - float(p.entropy()))
    with pytest.raises(NotImplementedError):
        torch.distributions.kl_divergence(uniform, p)
    opposite = distributions.PowerSpherical(-loc, torch.tensor(2.5, dtype=torch.float64))
    assert torch.isfinite(opposite.log_prob(loc))
    axis = distributions.PowerSpherical(torch.eye(dim)[0].double(), torch.tensor(3.0).double())
    assert torch.isfinite(axis.sample((100,))).all()


def vamp_vae(**options):
    return small_vae(prior=priors.VampPrior(3, EVENT, num_components=5, **options))


def test_the_vamp_prior_is_the_guide_at_rows_of_the_data() -> None:
    vae = vamp_vae()
    x = draw_data(vae.likelihood, 40)
    with torch.no_grad():
        vae.initialize(x)
    rows = [any(torch.equal(u, row) for row in x) for u in vae.prior.pseudo_inputs]
    assert all(rows)
    z = torch.randn(7, 3, dtype=torch.float64)
    q = vae.encode(vae.prior.pseudo_inputs.detach())
    expected = torch.stack([q.log_prob(row.expand(5, 3)) for row in z]).logsumexp(1) - math.log(5)
    p = vae.prior(posterior=lambda u: vae.family(vae.encoder(u)))
    np.testing.assert_allclose(p.log_prob(z).detach(), expected)
    with torch.no_grad():
        vae.initialize(x[:3])  # fewer rows than pseudo-inputs
    assert vae.prior.pseudo_inputs.shape == (5, *EVENT)


def test_the_vamp_prior_draws_components_in_proportion_to_their_weights() -> None:
    prior = priors.VampPrior(1, 1, num_components=3, learn_weights=True).double()
    weights = torch.tensor([0.6, 0.3, 0.1], dtype=torch.float64)
    with torch.no_grad():
        prior.logits.copy_(weights.log())
        prior.pseudo_inputs.copy_(torch.tensor([[-100.0], [0.0], [100.0]]))
    p = prior(posterior=lambda u: dist.Normal(u, 1.0).to_event(1))
    with seeded(0):
        z = p.sample((5000,))
    observed = torch.bucketize(z[:, 0], torch.tensor([-50.0, 50.0]).double()).bincount(minlength=3)
    assert scipy.stats.chisquare(observed, 5000 * weights).pvalue > FAILURE_RATE


def test_pseudo_inputs_are_trained_and_a_seeded_fit_repeats_itself() -> None:
    fits = []
    for _ in range(2):
        vae = vamp_vae(learn_weights=True)
        x = draw_data(vae.likelihood, 40)
        fits.append(vae.fit(x, epochs=2, seed=0, progress=False)["train_bound"])
        with torch.no_grad():
            assert not any(torch.equal(u, row) for u in vae.prior.pseudo_inputs for row in x)
    assert fits[0] == fits[1]


def test_pseudo_inputs_that_are_not_learned_stay_rows_of_the_data() -> None:
    vae = vamp_vae(learn=False)
    x = draw_data(vae.likelihood, 40)
    vae.fit(x, epochs=2, seed=0, progress=False)
    assert all(any(torch.equal(u, row) for row in x) for u in vae.prior.pseudo_inputs)


def test_any_pyro_distribution_is_a_prior_and_given_to_load_again(tmp_path) -> None:
    given = dist.Gumbel(torch.tensor([0.0, 1.0, 2.0]), 0.5).to_event(1)
    vae = small_vae(prior=given)
    assert vae.prior.latent_dim == 3
    z = torch.randn(5, 3)
    np.testing.assert_allclose(vae.prior().log_prob(z.double()), given.log_prob(z), rtol=1e-5)
    assert vae.prior.float()().sample().dtype == torch.float32
    assert vae.prior.double()().sample().dtype == torch.float64
    x = draw_data(vae.likelihood, 20)
    vae.fit(x, epochs=1, seed=0, progress=False)
    vae.save(tmp_path / "model")
    with pytest.raises(
        TypeError, match="prior must be given, since it is, or holds, an object of your own .Distribution."
    ):
        pv.load(tmp_path / "model")
    again = pv.load(tmp_path / "model", prior=given)
    assert torch.equal(again.sample(3, seed=0), vae.sample(3, seed=0))
    nested = dist.MixtureSameFamily(
        dist.Categorical(torch.ones(2)), dist.MultivariateNormal(torch.zeros(2, 3), torch.eye(3))
    )
    moved = small_vae(prior=nested).prior()
    np.testing.assert_allclose(moved.log_prob(z.double()), nested.log_prob(z), rtol=1e-5)


BAD = {
    "latent_dim must be an integer of at least 2; got 1": lambda: priors.Flow(1),
    "kind must be one of affine_coupling, .*; got 'iaf'": lambda: guides.Flow(kind="iaf"),
    "hidden must be widths of at least 3, the number of latents; got .2,": lambda: small_vae(
        guide=guides.Flow(hidden=(2,))
    ),
    "hidden must be positive integers; got .0,": lambda: guides.Flow(hidden=(0,)),
    "layers must be a positive integer": lambda: priors.Flow(3, layers=0),
    "prior must have at least 2 latents for guides.Flow; got 1. ": lambda: small_vae(
        prior=priors.Normal(1), guide=guides.Flow()
    ),
    "df must be a positive number; got 0": lambda: priors.StudentT(3, df=0),
    "num_components must be a positive integer": lambda: priors.Mixture(3, num_components=0),
    "concentration must be one number or 3 numbers; got 2": lambda: priors.LogisticNormal(3, (1.0, 2.0)),
    "concentration must be a positive number; got -1.0": lambda: priors.LogisticNormal(2, (1.0, -1.0)),
    "rank must be a positive integer": lambda: guides.LowRankNormal(0),
    "event shape .D,. and no batch shape; got .. and .3,.": lambda: small_vae(prior=dist.Normal(torch.zeros(3), 1.0)),
    "LogisticNormal, the probability simplex; got the real numbers from Normal. Choose guides.LogisticNormal, or": (
        lambda: small_vae(prior=priors.LogisticNormal(3))
    ),
    "Choose guides.LogisticNormal, or another prior": lambda: small_vae(prior=dist.Dirichlet(torch.ones(3))),
    "the real numbers; got the probability simplex from LogisticNormal. Choose guides.Flow or guides.LowRankNormal": (
        lambda: small_vae(guide=guides.LogisticNormal())
    ),
    "Choose another prior, or subclass guides.Guide": lambda: small_vae(
        prior=dist.Exponential(torch.ones(3)).to_event(1)
    ),
    "event_shape of the VampPrior must be the likelihood.s feature_shape, .2, 3.; got .5,.": lambda: small_vae(
        prior=priors.VampPrior(3, 5)
    ),
}


@pytest.mark.parametrize(
    "prior",
    [priors.Normal(4), priors.PowerSpherical(3), priors.Bernoulli(3), priors.VampPrior(3, 5), dist.Normal(0.0, 1.0)],
    ids=["size", "support", "discrete", "pseudo-inputs", "no event"],
)
def test_a_prior_that_is_set_later_is_checked_too(prior) -> None:
    vae = small_vae()
    earlier = vae.prior
    with pytest.raises(ValueError, match="must"):
        vae.prior = prior
    assert vae.prior is earlier
    with pytest.raises(TypeError, match="prior must be a part of pv.priors"):
        vae.prior = torch.nn.Linear(1, 1)
    vae.prior = dist.Gumbel(torch.zeros(3), 1.0).to_event(1)
    assert isinstance(vae.prior, priors.Distribution)
    assert vae.sample(2).dtype == torch.float64
    vae.prior = priors.Laplace(3)
    assert vae.prior.loc.dtype == torch.float64


@pytest.mark.parametrize("message", BAD)
def test_parts_that_do_not_fit_are_named(message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BAD[message]()


@pytest.mark.parametrize("name", ["Bernoulli", "Categorical"])
def test_discrete_latents_refuse_the_reparameterized_gradient(name: str) -> None:
    vae = small_vae(prior=PRIORS[name](), guide=GUIDES[name]())
    x = draw_data(vae.likelihood, 20)
    with pytest.raises(ValueError, match="rloo"):
        vae.fit(x, elbo=elbos.IWAE(num_particles=3), epochs=1, progress=False)


def test_the_log_likelihood_with_a_discrete_latent_is_the_sum_over_its_values() -> None:
    """log p(x) of a model with a categorical latent is a finite sum."""
    vae = small_vae(prior=priors.Categorical(3, learn=True), guide=guides.Categorical())
    x = draw_data(vae.likelihood, 6)
    vae.fit(x, elbo=elbos.ELBO(num_particles=2, gradient="rloo"), epochs=3, seed=0, progress=False)
    with torch.no_grad():
        z = torch.eye(3, dtype=torch.float64)
        terms = vae.decode(z.unsqueeze(1)).log_prob(x) + vae.prior().log_prob(z).unsqueeze(1)
    result = vae.log_likelihood(x, num_particles=4000, seed=0)
    assert ((result.estimate - terms.logsumexp(0)).abs() < 4 * result.standard_error).all()


def test_a_correlated_guide_reaches_the_evidence_where_mean_field_does_not() -> None:
    """One step of a linear model: two latents with the same weights have a correlated posterior."""
    x = draw_data(likelihoods.Normal(2, scale="fixed", standardize=False).double(), 200)
    gaps = {}
    for name in ("Normal", "MultivariateNormal"):
        vae = small_vae(
            likelihood=likelihoods.Normal(2, scale="fixed", standardize=False),
            prior=priors.Normal(2),
            guide=GUIDES[name](),
            encoder=nets.MLP(()),
            decoder=nets.MLP(()),
        )
        weight = torch.tensor([[1.0, 1.0], [1.0, 0.8]], dtype=torch.float64)
        with torch.no_grad():
            vae.decoder.module[0].weight.copy_(weight)
            vae.decoder.module[0].bias.zero_()
        vae.decoder.requires_grad_(False)
        vae.fit(x, elbo=elbos.ELBO(num_particles=8), epochs=150, learning_rate=0.02, seed=0, progress=False)
        evidence = dist.MultivariateNormal(torch.zeros(2).double(), weight @ weight.T + torch.eye(2).double()).log_prob(
            x
        )
        gaps[name] = float((evidence - vae.elbo(x, num_particles=200, seed=0).bound).mean())
    # the least that independent latents lose: half the log of the ratio of the precisions' diagonal to determinant
    precision = weight.T @ weight + torch.eye(2).double()
    least = 0.5 * float(precision.diagonal().log().sum() - precision.logdet())
    assert gaps["Normal"] > 0.9 * least > 0.1
    assert gaps["MultivariateNormal"] < 0.1 * least


def test_a_flow_that_a_vae_could_not_take_is_free_for_another() -> None:
    flow = guides.Flow(hidden=(8,))
    with pytest.raises(ValueError, match="guide must draw z from the support of prior Bernoulli"):
        small_vae(prior=priors.Bernoulli(3), guide=flow)
    assert small_vae(prior=priors.Normal(2), guide=flow).encode(torch.zeros(1, 2, 3)).event_shape == (2,)
    with pytest.raises(ValueError, match="a Flow for 3 latents, those of the prior; got one that is in use for 2"):
        small_vae(prior=priors.Normal(3), guide=flow)
    with pytest.raises(ValueError, match=r"prior must have at least 2 latents for guides.Flow; got 1"):
        small_vae(prior=priors.Normal(1), guide=guides.Flow())
