"""Gradient estimators against the gradient of the bound's expectation, and against each other.

Noise is judged by 5 standard errors of independent replicates at fixed seeds; with fewer than 1,000 comparisons in
this file the family-wise failure rate, were the seeds drawn anew, is below 6e-4.
"""

from __future__ import annotations

import itertools
import runpy
from pathlib import Path

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from exact import Discrete, LinearGaussian
from torch import nn

import pyro_vae as pv
from pyro_vae import bounds, elbos

pytestmark = pytest.mark.usefixtures("plain_pyro")


def gradient(estimator, program, x) -> torch.Tensor:
    """The gradient of the mean over rows, all parameters in one vector; zeros where none arrives."""
    program.zero_grad()
    terms = estimator.run(program.model, program.guide, x)
    (terms.objective / len(x)).backward()
    parts = [torch.zeros_like(p) if p.grad is None else p.grad for p in program.parameters()]
    return torch.cat([part.flatten() for part in parts])


def replicates(estimator, program, x, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard error of independent gradients."""
    draws = torch.stack([gradient(estimator, program, x) for _ in range(count)])
    return draws.mean(0), draws.std(0) / count**0.5


def assert_equal_in_expectation(first, second) -> None:
    (mean_1, error_1), (mean_2, error_2) = first, second
    assert ((mean_1 - mean_2).abs() < 5 * (error_1**2 + error_2**2).sqrt() + 1e-8).all()


def guide_parameters(program) -> list[nn.Parameter]:
    return [program.mean_map, program.mean_shift, program.tril]


EXACT = {
    "ELBO stl": lambda: elbos.ELBO(num_particles=2, gradient="stl"),
    "ELBO dreg": lambda: elbos.ELBO(num_particles=2, gradient="dreg"),
    "IWAE stl": lambda: elbos.IWAE(num_particles=3, gradient="stl"),
    "IWAE dreg": lambda: elbos.IWAE(num_particles=3, gradient="dreg"),
    "TVO dreg": lambda: elbos.TVO(num_particles=3, gradient="dreg"),
    "Renyi dreg": lambda: elbos.Renyi(num_particles=3, gradient="dreg"),
    "PIWAE dreg": lambda: elbos.PIWAE(num_particles=4, groups=2, gradient="dreg"),
    "WakeSleep dreg": lambda: elbos.WakeSleep(num_particles=3, gradient="dreg"),
}


@pytest.mark.parametrize("make", EXACT.values(), ids=EXACT)
def test_at_the_exact_posterior_the_guides_gradient_vanishes(make) -> None:
    program, x = LinearGaussian(), LinearGaussian().draw(4)
    gradient(make(), program, x)
    for parameter in guide_parameters(program):
        assert parameter.grad is None or parameter.grad.abs().max() < 1e-7
    assert program.weight.grad.abs().max() > 1e-3
    reparameterized = gradient(elbos.IWAE(num_particles=3), program, x)
    assert reparameterized[-4:].abs().max() > 1e-3  # where it does not vanish


def test_dreg_is_stl_with_one_particle_and_differs_with_several() -> None:
    """With one particle DReG is STL; with several they differ, the model's gradient being the same."""
    program, x = LinearGaussian(width=1.3), LinearGaussian().draw(4)
    for particles, same in ((1, True), (3, False)):
        gradients = []
        for kind in ("stl", "dreg"):
            torch.manual_seed(0)
            gradients.append(gradient(elbos.IWAE(num_particles=particles, gradient=kind), program, x))
        model = program.weight.numel() + program.bias.numel() + 1
        np.testing.assert_allclose(gradients[0][:model], gradients[1][:model], atol=1e-12)
        assert torch.allclose(*gradients, atol=1e-10) == same


UNBIASED = {
    f"{name} {kind}": (lambda make=make, kind=kind: make(gradient=kind), make)
    for name, make, kinds in (
        ("ELBO", lambda **o: elbos.ELBO(num_particles=3, **o), ("stl", "rloo")),
        ("beta-ELBO", lambda **o: elbos.ELBO(num_particles=3, kl_weight=2.5, **o), ("stl", "rloo")),
        ("IWAE", lambda **o: elbos.IWAE(num_particles=3, **o), ("dreg", "rloo", "vimco")),
        ("CIWAE", lambda **o: elbos.CIWAE(num_particles=3, **o), ("dreg", "vimco")),
        ("Renyi", lambda **o: elbos.Renyi(num_particles=3, alpha=0.3, **o), ("dreg", "rloo")),
        ("TVO", lambda **o: elbos.TVO(num_particles=3, points=(0.0, 0.3), **o), ("dreg", "vimco")),
        ("MIWAE", lambda **o: elbos.MIWAE(num_particles=4, groups=2, **o), ("dreg",)),
        ("PIWAE", lambda **o: elbos.PIWAE(num_particles=4, groups=2, **o), ("dreg",)),
        ("CUBO", lambda **o: elbos.CUBO(num_particles=3, **o), ("dreg", "rloo")),
    )
    for kind in kinds
}


@pytest.mark.parametrize("case", UNBIASED.values(), ids=UNBIASED)
def test_estimators_have_the_expectation_of_the_pathwise_gradient(case) -> None:
    program = LinearGaussian(event=3, width=1.4, shift=0.2)
    x = program.draw(1).expand(400, -1)  # 400 independent replicates of one row in a batch
    estimates = [replicates(make(), program, x, 40) for make in case]
    assert_equal_in_expectation(*estimates)


def test_the_pathwise_gradient_of_one_particle_is_the_closed_form() -> None:
    program = LinearGaussian(event=3, width=1.4, shift=0.2)
    x = program.draw(1).expand(400, -1)
    exact = torch.autograd.grad(program.exact_elbo(x).mean(), list(program.parameters()))
    closed = torch.cat([part.flatten() for part in exact])
    for kind in ("reparameterized", "stl"):
        mean, error = replicates(elbos.ELBO(gradient=kind), program, x, 40)
        assert ((mean - closed).abs() < 5 * error + 1e-8).all()


def test_gradients_of_two_particles_have_the_expectation_found_by_quadrature() -> None:
    """The gradient of E[IWAE_2] in the guide's mean and scale by Gauss-Hermite, for every gradient estimator."""
    program = LinearGaussian(event=2, latent=1, width=1.6, shift=0.3)
    x = program.draw(1)
    nodes, node_weights = np.polynomial.hermite_e.hermegauss(80)
    nodes, node_weights = torch.tensor(nodes), torch.tensor(node_weights / node_weights.sum())
    loc = ((x - program.bias.detach()) @ program.mean_map.T + program.mean_shift).squeeze()
    z = loc + program.tril.squeeze() * nodes
    log_q = dist.Normal(loc, program.tril.squeeze()).log_prob(z)
    means = z.unsqueeze(-1) * program.weight.squeeze(-1) + program.bias
    log_p = dist.Normal(means, program.log_scale.exp()).log_prob(x).sum(-1) + dist.Normal(0.0, 1.0).log_prob(z)
    log_w = log_p - log_q
    pairs = bounds.iwae(torch.stack([log_w.unsqueeze(0).expand(80, 80), log_w.unsqueeze(1).expand(80, 80)]))
    expectation = (node_weights.unsqueeze(0) * node_weights.unsqueeze(1) * pairs).sum()
    exact = torch.autograd.grad(expectation, list(program.parameters()))
    closed = torch.cat([part.flatten() for part in exact])
    for kind in ("reparameterized", "dreg", "rloo", "vimco"):
        estimator = elbos.IWAE(num_particles=2, gradient=kind)
        mean, error = replicates(estimator, program, x.expand(500, -1), 60)
        assert ((mean - closed).abs() < 5 * error + 1e-7).all(), kind


@pytest.mark.parametrize("kind", ["rloo", "vimco"])
@pytest.mark.parametrize("name", ["ELBO", "IWAE"])
def test_gradients_of_discrete_latents_have_the_expectation_found_by_enumeration(name: str, kind: str) -> None:
    """The gradient of E[bound of K = 3 draws], summed over all 27 triples."""
    program = Discrete()
    x = program.rows[:4]
    log_q = program.guide_logits[x[:, 0].long(), x[:, 1].long()].log_softmax(-1)
    log_w = program.log_joint(x) - log_q
    bound = {"ELBO": bounds.elbo, "IWAE": bounds.iwae}[name]
    total = torch.zeros((), dtype=torch.float64)
    for triple in itertools.product(range(3), repeat=3):
        probability = log_q[:, triple].sum(-1).exp()
        total = total + (probability * bound(log_w[:, triple].T)).mean()
    exact = torch.autograd.grad(total, list(program.parameters()))
    closed = torch.cat([part.flatten() for part in exact])
    estimator = getattr(elbos, name)(num_particles=3, gradient=kind)
    mean, error = replicates(estimator, program, x.repeat(300, 1), 60)
    assert ((mean - closed).abs() < 5 * error + 1e-8).all()


def test_reweighted_wake_sleep_has_its_published_gradient() -> None:
    program, x = LinearGaussian(width=1.3), LinearGaussian().draw(3)
    torch.manual_seed(0)
    wake = gradient(elbos.WakeSleep(num_particles=4), program, x)
    torch.manual_seed(0)
    weights = pv.log_weights(program.model, program.guide, x, num_particles=4)
    z, share = weights.guide["z"].value.detach(), weights.log_w.detach().softmax(0)
    loc = (x - program.bias.detach()) @ program.mean_map.T + program.mean_shift
    log_q = dist.MultivariateNormal(loc, scale_tril=program.tril.tril()).log_prob(z)
    prior = dist.Normal(0.0, 1.0).log_prob(z).sum(-1)
    log_p = dist.Normal(z @ program.weight.T + program.bias, program.log_scale.exp()).log_prob(x).sum(-1) + prior
    expected = torch.autograd.grad((share * (log_q + log_p)).sum(0).mean(), list(program.parameters()))
    np.testing.assert_allclose(wake, torch.cat([part.flatten() for part in expected]), atol=1e-10)


def test_wake_sleep_with_dreg_has_the_expectation_of_wake_sleep() -> None:
    program = LinearGaussian(event=3, width=1.4, shift=0.2)
    x = program.draw(1).expand(400, -1)
    estimates = [
        replicates(elbos.WakeSleep(num_particles=3, gradient=kind), program, x, 40) for kind in ("score", "dreg")
    ]
    assert_equal_in_expectation(*estimates)


def test_wake_and_sleep_phases_bring_the_guide_to_the_posterior() -> None:
    program = LinearGaussian(width=1.5, shift=0.8)
    x = program.draw(300)
    program.requires_grad_(False)
    for parameter in guide_parameters(program):
        parameter.requires_grad_(True)
    before = float(program.exact_elbo(x).mean().detach())
    for phase in ("wake", "sleep"):
        learner = LinearGaussian(width=1.5, shift=0.8).requires_grad_(False)
        for parameter in guide_parameters(learner):
            parameter.requires_grad_(True)
        estimator = elbos.WakeSleep(num_particles=10, phase=phase)
        learner.fit(x, elbo=estimator, epochs=60, batch_size=100, learning_rate=1e-2, seed=0, progress=False)
        gap = float((learner.log_evidence(x) - learner.exact_elbo(x)).mean().detach())
        assert gap < 0.02, phase
        assert float(learner.exact_elbo(x).mean().detach()) > before + 0.1


class SharedPrior(pv.LatentVariableModel):
    """A prior that shares the guide's parameters, as a VampPrior does: p(z) = q(z | u) at a pseudo-input u."""

    def __init__(self) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.tensor(0.7, dtype=torch.float64))
        self.shift = nn.Parameter(torch.tensor(0.2, dtype=torch.float64))

    def model(self, x=None, *, rows=None, **batch):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(self.slope * 0.5 + self.shift, 1.3))
            return pyro.sample("x", dist.Normal(z, 0.8), obs=x)

    def guide(self, x, **batch):
        with pyro.plate("data", len(x)):
            return pyro.sample("z", dist.Normal(self.slope * x + self.shift, 0.9))


@pytest.mark.parametrize("kind", ["stl", "dreg", "vimco"])
def test_gradients_are_unbiased_if_the_prior_shares_the_guides_parameters(kind: str) -> None:
    """The weights act on the path through z only: explicit parameters of log p keep the model's coefficient."""
    program = SharedPrior()
    x = torch.tensor([1.1], dtype=torch.float64).expand(2000)
    make = elbos.ELBO if kind == "stl" else elbos.IWAE
    estimates = [replicates(make(num_particles=3, gradient=g), program, x, 60) for g in ("reparameterized", kind)]
    assert_equal_in_expectation(*estimates)


class Hierarchy(pv.LatentVariableModel):
    """Two latents, the second's guide depending on the first: paths inside the guide are passed once."""

    def __init__(self) -> None:
        super().__init__()
        self.lower = nn.Parameter(torch.tensor([0.6, 0.1], dtype=torch.float64))
        self.upper = nn.Parameter(torch.tensor([0.5, -0.3], dtype=torch.float64))

    def model(self, x=None, *, rows=None, **batch):
        with pyro.plate("data", len(x)):
            b = pyro.sample("b", dist.Normal(torch.zeros((), dtype=torch.float64), 1.0))
            a = pyro.sample("a", dist.Normal(0.9 * b, 0.7))
            return pyro.sample("x", dist.Normal(a, 0.5), obs=x)

    def guide(self, x, **batch):
        with pyro.plate("data", len(x)):
            b = pyro.sample("b", dist.Normal(self.upper[0] * x + self.upper[1], 0.8))
            return pyro.sample("a", dist.Normal(self.lower[0] * x + self.lower[1] + 0.3 * b, 0.6))


@pytest.mark.parametrize("kind", ["stl", "dreg", "vimco"])
def test_gradients_are_unbiased_if_one_latent_depends_on_another_in_the_guide(kind: str) -> None:
    program = Hierarchy()
    x = torch.tensor([1.1], dtype=torch.float64).expand(2000)
    make = elbos.ELBO if kind == "stl" else elbos.IWAE
    estimates = [replicates(make(num_particles=3, gradient=g), program, x, 60) for g in ("reparameterized", kind)]
    assert_equal_in_expectation(*estimates)


def test_the_second_run_of_the_guide_repeats_dropout_and_moves_statistics_once() -> None:
    """The stopped guide sees the same dropout masks, and running statistics move once."""

    class Dropped(LinearGaussian):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm1d(4).double()
            self.drop = nn.Dropout(0.5)

        def guide(self, x, **batch):
            with pyro.plate("data", len(x)):
                loc = self.drop(self.norm(x)) @ self.mean_map.T
                return pyro.sample("z", dist.Normal(loc, 0.5).to_event(1))

    program = Dropped()
    x = program.draw(6)
    from pyro_vae.inference.gradients import GradientPath

    before = torch.get_rng_state()
    plain = pv.log_weights(program.model, program.guide, x, num_particles=2)
    after = torch.get_rng_state()
    torch.set_rng_state(before)
    program.norm.reset_running_stats()
    stopped = pv.log_weights(program.model, program.guide, x, num_particles=2, path=GradientPath(detached_log_q=True))
    assert torch.equal(torch.get_rng_state(), after)
    np.testing.assert_allclose(stopped.log_w.detach(), plain.log_w.detach(), atol=1e-12)
    assert int(program.norm.num_batches_tracked) == 1


def test_impossible_options_raise_when_the_estimator_is_made() -> None:
    for make, message in (
        (
            lambda: elbos.IWAE(num_particles=1, gradient="vimco"),
            "num_particles must be at least 2 for gradient='vimco'",
        ),
        (lambda: elbos.ELBO(gradient="rloo"), "num_particles must be at least 2 for gradient='rloo'"),
        (lambda: elbos.ELBO(gradient="reinforce"), "gradient must be one of .* for ELBO; got 'reinforce'"),
        (lambda: elbos.MeanFieldELBO(gradient="stl"), "gradient must be one of .* for MeanFieldELBO; got 'stl'"),
        (lambda: elbos.BetaTCVAE(num_particles=2), "num_particles must be 1 for BetaTCVAE; got 2"),
        (lambda: elbos.IWAE(kl_weight=0.5), "kl_weight must be left out for IWAE, which has no KL term; got 0.5"),
        (lambda: elbos.MIWAE(num_particles=5, groups=2), "groups must divide num_particles"),
        (lambda: elbos.TVO(points=(0.1, 0.5)), "points must increase from 0"),
        (lambda: elbos.TVO(points=(0.0, 0.5, 0.5)), "points must increase from 0"),
        (lambda: elbos.CUBO(order=1.0), "order must be above 1; got 1.0"),
        (lambda: elbos.CIWAE(beta=1.5), r"beta must lie in \[0, 1\]; got 1.5"),
        (lambda: elbos.WakeSleep(phase="sleep", gradient="dreg"), "phase must be wake or sleep"),
        (lambda: elbos.FreeBitsELBO(per="row"), "floor must be zero or more"),
    ):
        with pytest.raises(ValueError, match=message):
            make()
    with pytest.raises(NotImplementedError, match="baselines within each group"):
        elbos.MIWAE(gradient="vimco")


@pytest.mark.parametrize("kind", ["reparameterized", "stl", "dreg"])
def test_pathwise_estimators_refuse_discrete_latents(kind: str) -> None:
    program = Discrete()
    with pytest.raises(ValueError, match=f"gradient='{kind}' must have guide sites with a pathwise derivative"):
        elbos.IWAE(gradient=kind).loss_and_grads(program.model, program.guide, program.rows)


def test_stl_refuses_a_guide_that_is_no_method_of_a_module() -> None:
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        loc = pyro.param("loc", torch.tensor(0.1))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc, 1.0))

    with pytest.raises(
        TypeError, match=r"The guide must be a method of an nn.Module for its parameters to be held constant"
    ):
        elbos.ELBO(gradient="stl").loss_and_grads(model, guide, torch.zeros(3))


@pytest.mark.parametrize("kind", ["reparameterized", "stl", "dreg", "vimco"])
@pytest.mark.parametrize("make", [elbos.ELBO, elbos.IWAE, elbos.TVO])
def test_chunks_of_particles_are_combined_into_the_same_estimator(make, kind: str) -> None:
    """The same draws give the same estimator, and chunks the same expectation."""
    program, x = LinearGaussian(width=1.3), LinearGaussian().draw(3)
    chunked = make(num_particles=6, gradient=kind, max_particles_at_once=4)
    torch.manual_seed(0)
    first = gradient(chunked, program, x)
    torch.manual_seed(0)
    assert torch.equal(first, gradient(chunked, program, x))
    whole = replicates(make(num_particles=6, gradient=kind), program, x[:1].expand(400, -1), 30)
    parts = replicates(chunked, program, x[:1].expand(400, -1), 30)
    assert_equal_in_expectation(whole, parts)
    # At the exact posterior there is no noise in the model's gradient's weights: values agree exactly.
    exact = LinearGaussian()
    terms = make(num_particles=6, max_particles_at_once=4).run(exact.model, exact.guide, x)
    np.testing.assert_allclose(terms.bound.detach(), exact.log_evidence(x).detach(), atol=1e-8)
    assert terms.weights.num_particles == 6
    assert terms.weights.guide["z"].value.shape == (6, 3, 2)


def test_chunks_of_particles_bound_the_memory_of_the_backward_pass() -> None:
    """Bytes saved for the backward pass: a chunked run keeps none of the decoder's activations."""
    vae = pv.VAE(likelihood=pv.likelihoods.Bernoulli(50), prior=pv.priors.Normal(2), seed=0)
    x = torch.bernoulli(torch.full((20, 50), 0.5))

    def saved(estimator) -> int:
        total = 0

        def pack(tensor):
            nonlocal total
            total += tensor.numel() * tensor.element_size()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            estimator.run(vae.model, vae.guide, x)
        return total

    assert saved(elbos.IWAE(num_particles=64, max_particles_at_once=8)) < saved(elbos.IWAE(num_particles=64)) / 20


def test_signal_to_noise_falls_for_the_guide_of_iwae_and_rises_with_dreg() -> None:
    """Exponents of K over K = 4, 16, 64: -1/2 and +1/2 within .15 (Rainforth et al., 2018; Tucker et al., 2018)."""
    example = runpy.run_path(str(Path(__file__).parents[1] / "examples" / "gradient_noise.py"))
    particles = [4, 16, 64]
    for kind, expected in (("reparameterized", -0.5), ("dreg", 0.5)):
        ratios = [example["signal_to_noise"](kind, k, 20_000)[0] for k in particles]
        assert example["slope"](particles, ratios) == pytest.approx(expected, abs=0.15)
