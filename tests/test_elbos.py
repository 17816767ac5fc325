"""Estimators: equal to Pyro's on the same draws, equal to closed forms, and consistent with each other."""

from __future__ import annotations

import itertools

import numpy as np
import pyro
import pyro.infer
import pytest
import torch
from cases import ELBOS, LIKELIHOODS, draw_data, small_vae
from exact import Discrete, LinearGaussian

import pyro_vae as pv
from pyro_vae import bounds, elbos, priors

pytestmark = pytest.mark.usefixtures("plain_pyro")


def vectorized(kind, **options):
    return kind(vectorize_particles=True, max_plate_nesting=1, **options)


PAIRS = {
    "ELBO": (lambda k: elbos.ELBO(num_particles=k), lambda k: vectorized(pyro.infer.Trace_ELBO, num_particles=k)),
    "MeanFieldELBO": (
        lambda k: elbos.MeanFieldELBO(num_particles=k),
        lambda k: vectorized(pyro.infer.TraceMeanField_ELBO, num_particles=k),
    ),
    "Renyi": (
        lambda k: elbos.Renyi(alpha=0.3, num_particles=k),
        lambda k: vectorized(pyro.infer.RenyiELBO, alpha=0.3, num_particles=k),
    ),
    "IWAE": (
        lambda k: elbos.IWAE(num_particles=k),
        lambda k: vectorized(pyro.infer.RenyiELBO, alpha=0.0, num_particles=k),
    ),
}


@pytest.mark.parametrize("num_particles", [1, 4])
@pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS)
@pytest.mark.parametrize("likelihood", ["Bernoulli", "Normal predicted"])
def test_loss_and_gradients_equal_pyros_on_the_same_draws(pair, likelihood: str, num_particles: int) -> None:
    if pair is PAIRS["IWAE"] and num_particles == 1:
        num_particles = 2  # RenyiELBO with one particle divides by zero
    vae = small_vae(likelihood=LIKELIHOODS[likelihood](), prior=priors.Normal(3, learn=True))
    x = draw_data(vae.likelihood, 6)
    losses, gradients = [], []
    for make in pair:
        vae.zero_grad()
        torch.manual_seed(4)
        losses.append(make(num_particles).loss_and_grads(vae.model, vae.guide, x))
        gradients.append([parameter.grad.clone() for parameter in vae.parameters()])
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    for ours, theirs in zip(*gradients, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("make", ELBOS.values(), ids=ELBOS)
def test_loss_and_differentiable_loss_and_loss_and_grads_agree(make) -> None:
    program, x = LinearGaussian(width=1.2), LinearGaussian().draw(5)
    values = []
    for method in ("loss", "differentiable_loss", "loss_and_grads"):
        torch.manual_seed(2)
        value = getattr(make(), method)(program.model, program.guide, x)
        values.append(value if isinstance(value, float) else float(value.detach()))
    assert values[0] == pytest.approx(values[1], rel=1e-14)
    assert values[1] == values[2]
    torch.manual_seed(2)
    terms = make().run(program.model, program.guide, x)
    assert -float(terms.objective.detach()) == values[1]
    assert -float(terms.bound.sum().detach()) == pytest.approx(values[0])


@pytest.mark.parametrize("make", ELBOS.values(), ids=ELBOS)
def test_with_the_exact_posterior_as_guide_the_bound_is_the_log_evidence(make) -> None:
    program, x = LinearGaussian(), LinearGaussian().draw(8)
    terms = make().run(program.model, program.guide, x)
    evidence = program.log_evidence(x).detach()
    if isinstance(make(), elbos.MeanFieldELBO):  # only in expectation: the reconstruction is still a draw
        assert terms.analytic_sites == ()  # no closed form for full covariance against a diagonal prior
    np.testing.assert_allclose(terms.bound.detach(), evidence, atol=1e-8)


def test_the_bound_with_analytic_kl_has_the_log_evidence_as_expectation_at_the_posterior() -> None:
    """One latent, x | z ~ N(z, 1), the exact posterior N(x / 2, 1 / 2) as guide: the KL is exact, the rest a draw."""

    class One(pv.LatentVariableModel):
        def model(self, x=None, *, rows=None, **batch):
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", pyro.distributions.Normal(torch.zeros(1, dtype=torch.float64), 1.0).to_event(1))
                pyro.sample("x", pyro.distributions.Normal(z, 1.0).to_event(1), obs=x)

        def guide(self, x, **batch):
            with pyro.plate("data", len(x)):
                pyro.sample("z", pyro.distributions.Normal(x / 2, 0.5**0.5).to_event(1))

    one, x = One(), torch.tensor([[0.3], [-2.0], [1.1]], dtype=torch.float64)
    draws = torch.stack([elbos.MeanFieldELBO(num_particles=50).run(one.model, one.guide, x).bound for _ in range(200)])
    evidence = pyro.distributions.Normal(0.0, 2**0.5).log_prob(x).squeeze(-1)
    assert ((draws.mean(0) - evidence).abs() < 5 * draws.std(0) / 200**0.5).all()
    assert elbos.MeanFieldELBO().run(one.model, one.guide, x).analytic_sites == ("z",)


def test_the_analytic_kl_is_the_closed_form_and_its_site_is_named() -> None:
    vae = small_vae()
    x = draw_data(vae.likelihood, 4)
    terms = elbos.MeanFieldELBO(num_particles=3).run(vae.model, vae.guide, x)
    q = vae.encode(x).base_dist
    expected = 0.5 * (q.loc**2 + q.scale**2 - 1) - q.scale.log()
    assert terms.analytic_sites == ("z",)
    np.testing.assert_allclose(terms.kl.detach(), expected.sum(-1), atol=1e-12)
    np.testing.assert_allclose(terms.bound.detach(), (terms.reconstruction - terms.kl).detach(), atol=1e-12)


def test_no_kl_is_analytic_where_the_programs_order_their_sites_differently() -> None:
    class TwoLayers(pv.LatentVariableModel):
        """p(a) p(b | a) with a guide q(b | x) q(a | b): KL(q(b) || p(b | a)) at a drawn given b would be wrong."""

        def model(self, x=None, *, rows=None, **batch):
            with pyro.plate("data", len(x)):
                a = pyro.sample("a", pyro.distributions.Normal(0.0, 1.0))
                b = pyro.sample("b", pyro.distributions.Normal(0.8 * a, 1.0))
                pyro.sample("x", pyro.distributions.Normal(b, 1.0), obs=x)

        def guide(self, x, **batch):
            with pyro.plate("data", len(x)):
                b = pyro.sample("b", pyro.distributions.Normal(0.5 * x, 0.7))
                pyro.sample("a", pyro.distributions.Normal(0.4 * b, 0.8))

    program, x = TwoLayers(), torch.randn(3)
    assert elbos.MeanFieldELBO().run(program.model, program.guide, x).analytic_sites == ()
    # Against the closed form: E_q[log p(x, a, b)] - E_q[log q] with b ~ N(x/2, .49), a | b ~ N(.4 b, .64).
    m, v = 0.5 * x, 0.49
    log_2pi = float(np.log(2 * np.pi))
    likelihood = -0.5 * (log_2pi + (x - m) ** 2 + v)
    prior_a = -0.5 * (log_2pi + 0.16 * (m**2 + v) + 0.64)
    prior_b = -0.5 * (log_2pi + (1 - 0.32) ** 2 * (m**2 + v) + 0.64 * 0.64)
    entropy = 0.5 * (2 * log_2pi + 2 + np.log(0.49) + np.log(0.64))
    result = program.elbo(x, num_particles=20_000, seed=0)
    difference = result.bound - (likelihood + prior_a + prior_b + entropy)
    assert (difference.abs() < 5 * result.standard_error).all()


@pytest.mark.parametrize("make", [elbos.ELBO, elbos.MeanFieldELBO])
def test_the_elbos_gradient_is_the_closed_form(make) -> None:
    """Averaged over many draws, within 5 standard errors of the mean of 40 independent estimates."""
    program = LinearGaussian(width=1.5, shift=0.3)
    x = program.draw(3)
    exact = torch.autograd.grad(program.exact_elbo(x).sum(), list(program.parameters()))
    estimates = []
    for _ in range(40):
        terms = make(num_particles=500).run(program.model, program.guide, x)
        estimates.append(
            torch.cat([g.flatten() for g in torch.autograd.grad(terms.objective, list(program.parameters()))])
        )
    draws = torch.stack(estimates)
    error = draws.std(0) / len(draws) ** 0.5
    difference = draws.mean(0) - torch.cat([gradient.flatten() for gradient in exact])
    assert (
        difference.abs() < 5 * error + 1e-8
    ).all()  # 21 parameters: family-wise failure rate below 1e-4 at a fixed seed


def test_bounds_are_ordered_on_the_same_weights() -> None:
    log_w = torch.randn(7, 50, dtype=torch.float64) * 3
    orders = [bounds.renyi(log_w, alpha) for alpha in (-3.0, -1.0, 0.0, 0.5, 0.9, 1.0, 2.0)]
    for higher, lower in itertools.pairwise(orders):
        assert (higher >= lower - 1e-12).all()
    assert torch.equal(bounds.renyi(log_w, 1.0), bounds.elbo(log_w))
    np.testing.assert_allclose(bounds.renyi(log_w, 0.0), bounds.iwae(log_w))
    np.testing.assert_allclose(bounds.renyi(log_w, 1 - 1e-7), bounds.elbo(log_w), atol=1e-5)
    np.testing.assert_allclose(bounds.iwae(log_w[:1]), bounds.elbo(log_w[:1]))


def test_kl_weight_changes_the_objective_and_never_the_bound() -> None:
    vae = small_vae()
    x = draw_data(vae.likelihood, 4)
    runs = []
    for beta in (0.0, 1.0, 4.0):
        torch.manual_seed(0)
        runs.append(elbos.MeanFieldELBO(kl_weight=beta).run(vae.model, vae.guide, x))
    for beta, terms in zip((0.0, 1.0, 4.0), runs, strict=True):
        assert torch.equal(terms.bound, runs[0].bound)
        objective = float((terms.reconstruction - beta * terms.kl).sum().detach())
        assert float(terms.objective.detach()) == pytest.approx(objective, rel=1e-12)
    assert elbos.ELBO(kl_weight=4.0, num_particles=3).unweighted().kl_weight == 1.0
    assert elbos.ELBO(kl_weight=4.0, num_particles=3).unweighted().num_particles == 3


def test_estimators_of_pyro_are_replaced_by_ours_of_the_same_value() -> None:
    assert isinstance(elbos.from_pyro(pyro.infer.Trace_ELBO(num_particles=3)), elbos.ELBO)
    assert isinstance(elbos.from_pyro(pyro.infer.TraceMeanField_ELBO()), elbos.MeanFieldELBO)
    renyi = elbos.from_pyro(pyro.infer.RenyiELBO(alpha=0.25, num_particles=6))
    assert (renyi.alpha, renyi.num_particles) == (0.25, 6)
    assert isinstance(elbos.from_pyro(pyro.infer.TraceGraph_ELBO()), elbos.PyroEstimator)
    assert isinstance(elbos.from_pyro(pyro.infer.Trace_ELBO(), reparameterized=False), elbos.PyroEstimator)
    ours = elbos.IWAE()
    assert elbos.from_pyro(ours) is ours
    with pytest.raises(TypeError, match="elbo must be a pyro.infer.ELBO object; got 'iwae'"):
        elbos.from_pyro("iwae")


def test_discrete_latents_are_refused_by_pathwise_estimators() -> None:
    program = Discrete()
    with pytest.raises(
        ValueError, match="must have guide sites with a pathwise derivative; got site 'z' drawn from Categorical"
    ):
        elbos.ELBO().loss_and_grads(program.model, program.guide, program.rows)


def test_pyros_enumeration_gives_the_exact_elbo_and_gradient() -> None:
    program = Discrete()
    wrapped = elbos.from_pyro(pyro.infer.TraceEnum_ELBO(max_plate_nesting=1))
    terms = wrapped.run(program.model, program.guide, program.rows)
    exact = program.exact_elbo(program.rows).sum()
    assert float(terms.objective.detach()) == pytest.approx(float(exact.detach()), rel=1e-12)
    wrapped.backward(program.parameters(), program.model, program.guide, program.rows)
    expected = torch.autograd.grad(-exact / 5, list(program.parameters()))
    for parameter, gradient in zip(program.parameters(), expected, strict=True):
        np.testing.assert_allclose(parameter.grad, gradient, atol=1e-12)


def test_an_estimator_of_pyro_without_differentiable_loss_gives_the_same_gradient() -> None:
    vae = small_vae()
    x = draw_data(vae.likelihood, 5)
    gradients = []
    for elbo in (elbos.ELBO(), elbos.from_pyro(pyro.infer.TraceGraph_ELBO())):
        vae.zero_grad()
        torch.manual_seed(0)
        elbo.backward(list(vae.parameters()), vae.model, vae.guide, x, num_rows=50)
        gradients.append([parameter.grad.clone() for parameter in vae.parameters()])
    for ours, theirs in zip(*gradients, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: elbos.ELBO(num_particles=0), "num_particles must be a positive integer; got 0"),
        (lambda: elbos.IWAE(num_particles=2.5), "num_particles must be a positive integer; got 2.5"),
        (lambda: elbos.ELBO(kl_weight=-1.0), "kl_weight must be zero or more; got -1.0"),
        (lambda: elbos.ELBO(kl_weight=float("nan")), "kl_weight must be zero or more; got nan"),
    ],
)
def test_an_impossible_option_raises_an_error_that_names_it(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def _fit_from_far(elbo: elbos.Estimator, learning_rate: float, epochs: int, shift: float) -> pv.VAE:
    vae = pv.VAE(likelihood=pv.likelihoods.Normal(6, "fixed", standardize=False), prior=pv.priors.Normal(2), seed=0)
    x = torch.randn(60, 6, generator=torch.Generator().manual_seed(0)) * torch.tensor([3.0, 2.0, 1.0, 1.0, 1.0, 1.0])
    vae.fit(
        x + shift,
        elbo=elbo,
        epochs=epochs,
        batch_size=20,
        learning_rate=learning_rate,
        seed=0,
        compile=False,
        progress=False,
    )
    return vae


@pytest.mark.parametrize("name", ELBOS)
def test_no_run_from_a_bad_start_is_taken_for_one_that_diverges(name: str, monkeypatch) -> None:
    monkeypatch.setattr(elbos.Estimator, "guide_may_diverge", True)
    vae = _fit_from_far(ELBOS[name](), 1e-3, 8, shift=50.0)
    assert len(vae.history) == 8


@pytest.mark.parametrize("learning_rate", [1e-2, 3e-3])
def test_a_guide_that_runs_away_stops_training_and_the_best_parameters_are_restored(learning_rate: float) -> None:
    vae = pv.VAE(likelihood=pv.likelihoods.Bernoulli(40), prior=pv.priors.Normal(8), seed=0)
    x = (torch.rand(200, 40, generator=torch.Generator().manual_seed(0)) < 0.3).float()
    with pytest.raises(RuntimeError, match=r"must not fall without limit.*CUBO.*Start from a model trained"):
        vae.fit(
            x,
            elbo=elbos.CUBO(num_particles=3),
            epochs=60,
            batch_size=20,
            learning_rate=learning_rate,
            seed=0,
            compile=False,
            progress=False,
        )
    assert len(vae.history) < 60
    bounds = vae.history["train_bound"]
    assert bounds[-1] < max(bounds) - 20
    assert float(vae.elbo(x, seed=0).bound.mean()) > bounds[-1]


SHARING = {
    "ladder": lambda: pv.HierarchicalVAE(
        likelihood=pv.likelihoods.Normal(3), latent_dims=(2, 2), inference="top_down", seed=0
    ),
    "VampPrior": lambda: pv.VAE(
        likelihood=pv.likelihoods.Normal(3), prior=pv.priors.VampPrior(2, 3, num_components=4), seed=0
    ),
    "nothing": lambda: pv.VAE(likelihood=pv.likelihoods.Normal(3), prior=pv.priors.Normal(2), seed=0),
}


@pytest.mark.parametrize("name", SHARING)
def test_parameters_that_model_and_guide_share_are_named_where_their_gradient_belongs_to_no_bound(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    x = torch.randn(20, 3, generator=torch.Generator().manual_seed(0))
    for elbo, one_bound in (
        (pv.elbos.IWAE(num_particles=3, gradient="stl"), False),
        (pv.elbos.WakeSleep(num_particles=3), False),
        (pv.elbos.IWAE(num_particles=3, gradient="dreg"), True),
        (pv.elbos.ELBO(num_particles=3, gradient="stl"), True),
    ):
        caplog.clear()
        SHARING[name]().fit(x, elbo=elbo, epochs=1, seed=0, progress=False)
        assert ("Model and guide share the parameters" in caplog.text) == (name != "nothing" and not one_bound)
