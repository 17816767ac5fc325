"""The log-weights of a run: closed forms, shapes, scales and the sites that count."""

from __future__ import annotations

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from exact import Discrete, GlobalMean, LinearGaussian
from pyro import poutine
from torch import Tensor

import pyro_vae as pv
from pyro_vae import bounds
from pyro_vae.elbos import ELBO, IWAE

pytestmark = pytest.mark.usefixtures("plain_pyro")


@pytest.mark.parametrize("num_particles", [1, 2, 7])
def test_with_the_exact_posterior_every_weight_is_the_evidence(num_particles: int) -> None:
    program, x = LinearGaussian(), LinearGaussian().draw(5)
    weights = pv.log_weights(program.model, program.guide, x, num_particles=num_particles)
    assert weights.log_w.shape == (num_particles, 5)
    np.testing.assert_allclose(
        weights.log_w.detach(), program.log_evidence(x).detach().expand(num_particles, 5), atol=1e-8
    )
    for bound in (bounds.elbo, bounds.iwae, lambda w: bounds.renyi(w, 0.3), lambda w: bounds.renyi(w, -2.0)):
        np.testing.assert_allclose(bound(weights.log_w).detach(), program.log_evidence(x).detach(), atol=1e-8)


def test_log_weights_are_the_sum_of_their_terms_at_the_values_recorded() -> None:
    program, x = LinearGaussian(width=1.3), LinearGaussian().draw(5)
    weights = pv.log_weights(program.model, program.guide, x, num_particles=3)
    z = weights.guide["z"].value
    assert z.shape == (3, 5, 2)
    prior = dist.Normal(0.0, 1.0).log_prob(z).sum(-1)
    np.testing.assert_allclose(weights.log_prior.detach(), prior.detach(), atol=1e-12)
    np.testing.assert_allclose(
        weights.log_w.detach(), (weights.log_likelihood + weights.log_prior - weights.log_guide).detach(), atol=1e-12
    )
    assert weights.num_rows == weights.total_rows == 5
    assert not weights.joint


def test_discrete_weights_are_those_of_the_enumerated_table() -> None:
    program = Discrete()
    weights = pv.log_weights(program.model, program.guide, program.rows, num_particles=4)
    z = weights.guide["z"].value
    expected = program.log_joint(program.rows).expand(4, -1, -1).gather(-1, z.unsqueeze(-1)).squeeze(-1)
    np.testing.assert_allclose((weights.log_likelihood + weights.log_prior).detach(), expected.detach(), atol=1e-12)


class Nested(pv.LatentVariableModel):
    """Rows in a plate left of a plate over cells, with a latent per row and one per cell."""

    def model(self, x: Tensor | None = None, *, rows: int | None = None, **batch: Tensor) -> Tensor:
        with pyro.plate("data", len(x) if x is not None else rows, dim=-2):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            with pyro.plate("cells", 4, dim=-1):
                u = pyro.sample("u", dist.Normal(0.0, 1.0))
                return pyro.sample("x", dist.Normal(z + u, 1.0), obs=x)

    def guide(self, x: Tensor, **batch: Tensor) -> None:
        with pyro.plate("data", len(x), dim=-2):
            pyro.sample("z", dist.Normal(x.mean(-1, keepdim=True), 1.0))
            with pyro.plate("cells", 4, dim=-1):
                pyro.sample("u", dist.Normal(0.1 * x, 1.0))


@pytest.mark.parametrize("num_particles", [1, 3])
def test_terms_are_summed_over_all_plates_but_that_of_rows(num_particles: int) -> None:
    program, x = Nested(), torch.randn(5, 4)
    weights = pv.log_weights(program.model, program.guide, x, num_particles=num_particles)
    z, u = weights.guide["z"].value, weights.guide["u"].value
    assert weights.log_w.shape == (num_particles, 5)
    expected = dist.Normal(z + u, 1.0).log_prob(x).sum(-1)
    np.testing.assert_allclose(weights.log_likelihood, expected, rtol=1e-5)


def test_a_latent_outside_the_rows_makes_the_weights_joint() -> None:
    program, x = GlobalMean(), torch.randn(6, dtype=torch.float64)
    weights = pv.log_weights(program.model, program.guide, x, num_particles=3)
    assert weights.joint
    np.testing.assert_allclose(weights.log_w.detach(), program.log_evidence(x).expand(3, 1), atol=1e-9)


def test_joint_weights_of_a_subsample_are_refused_and_the_elbo_is_allowed() -> None:
    program, x = GlobalMean(), torch.randn(6, dtype=torch.float64)
    with pytest.raises(NotImplementedError, match="must see all rows, unscaled; got a subsample"):
        IWAE(num_particles=3, num_rows=60).loss(program.model, program.guide, x)
    # N/B inside the terms: (60/6) sum_i log p(x_i | mu) - KL, in expectation; here against the same draw.
    pyro.set_rng_seed(3)
    weights = pv.log_weights(program.model, program.guide, x)
    pyro.set_rng_seed(3)
    loss = ELBO(num_rows=60).loss(program.model, program.guide, x)
    likelihood, rest = (
        weights.observed["x"].log_prob.sum(),
        weights.latent["mu"].log_prob - weights.guide["mu"].log_prob,
    )
    assert -loss == pytest.approx(float((10 * likelihood + rest).detach()), rel=1e-12)


@pytest.mark.parametrize("num_particles", [1, 5])
@pytest.mark.parametrize("make", [ELBO, IWAE])
def test_a_hundredfold_subsample_scales_the_loss_and_leaves_the_bound(make, num_particles: int) -> None:
    program, x = LinearGaussian(width=1.5), LinearGaussian().draw(4)
    terms = []
    for num_rows in (None, 400):
        torch.manual_seed(0)
        terms.append(make(num_particles=num_particles).run(program.model, program.guide, x, num_rows=num_rows))
    assert torch.equal(terms[0].bound, terms[1].bound)
    assert float(terms[1].objective.detach()) == pytest.approx(100 * float(terms[0].objective.detach()), rel=1e-12)
    assert terms[1].num_rows == 400


def test_a_program_that_subsamples_itself_is_scaled_once() -> None:
    class Subsampled(LinearGaussian):
        def model(self, x=None, *, rows=None, **batch):
            with pyro.plate("data", 40, subsample_size=len(x)):
                z = pyro.sample("z", dist.Normal(torch.zeros(2, dtype=torch.float64), 1.0).to_event(1))
                pyro.sample("x", dist.Normal(z @ self.weight.T + self.bias, self.log_scale.exp()).to_event(1), obs=x)

        def guide(self, x, **batch):
            with pyro.plate("data", 40, subsample_size=len(x)):
                loc = (x - self.bias.detach()) @ self.mean_map.T
                pyro.sample("z", dist.MultivariateNormal(loc, scale_tril=self.tril.tril()))

    program, x = Subsampled(), LinearGaussian().draw(4)
    for num_rows in (None, 40):
        terms = IWAE(num_particles=2).run(program.model, program.guide, x, num_rows=num_rows)
        np.testing.assert_allclose(terms.bound.detach(), program.log_evidence(x).detach(), atol=1e-8)
        assert float(terms.objective.detach()) == pytest.approx(10 * float(terms.bound.sum().detach()))
        assert terms.num_rows == 40


def test_scales_apply_after_the_logarithm_and_masks_before() -> None:
    class Scaled(LinearGaussian):
        def model(self, x=None, *, rows=None, **batch):
            with poutine.scale(scale=3.0):
                super().model(x, rows=rows)

        def guide(self, x, **batch):
            with poutine.scale(scale=3.0):
                super().guide(x)

    plain, scaled, x = LinearGaussian(width=1.4), Scaled(width=1.4), LinearGaussian().draw(5)
    terms = []
    for program in (plain, scaled):
        torch.manual_seed(1)
        terms.append(IWAE(num_particles=6).run(program.model, program.guide, x))
    np.testing.assert_allclose(terms[0].bound.detach(), terms[1].bound.detach(), atol=1e-12)
    assert float(terms[1].objective.detach()) == pytest.approx(3 * float(terms[0].objective.detach()))

    class Masked(LinearGaussian):
        def model(self, x=None, *, rows=None, **batch):
            with poutine.mask(mask=torch.tensor([True, False, True, True, False])):
                super().model(x, rows=rows)

        def guide(self, x, **batch):
            with poutine.mask(mask=torch.tensor([True, False, True, True, False])):
                super().guide(x)

    masked = Masked(width=1.4)
    weights = pv.log_weights(masked.model, masked.guide, x, num_particles=3)
    assert (weights.log_w[:, [1, 4]] == 0).all()
    assert (weights.log_w[:, [0, 2, 3]] != 0).all()


def test_sites_scaled_differently_form_no_weight() -> None:
    class Odd(LinearGaussian):
        def guide(self, x, **batch):
            with poutine.scale(scale=0.5):
                super().guide(x)

    program, x = Odd(), LinearGaussian().draw(3)
    with pytest.raises(ValueError, match="scale of all sites must be the same"):
        IWAE(num_particles=2).loss(program.model, program.guide, x)
    assert np.isfinite(ELBO().loss(program.model, program.guide, x))


def test_row_weights_multiply_the_bound_after_the_logarithm() -> None:
    program, x = LinearGaussian(width=1.4), LinearGaussian().draw(3)
    row_weights = torch.tensor([2.0, 0.0, 0.5], dtype=torch.float64)
    for make in (ELBO, IWAE):
        terms = make(num_particles=4).run(program.model, program.guide, x, row_weights=row_weights)
        assert float(terms.objective.detach()) == pytest.approx(float((row_weights * terms.bound).sum().detach()))


def test_latent_sites_of_one_program_only_are_named_in_the_error() -> None:
    class Renamed(LinearGaussian):
        def guide(self, x, **batch):
            with pyro.plate("data", len(x)):
                pyro.sample("code", dist.Normal(torch.zeros(2), 1.0).to_event(1))

    program = Renamed()
    with pytest.raises(ValueError, match=r"got \['z'\] only in the model and \['code'\] only in the guide"):
        pv.log_weights(program.model, program.guide, program.draw(2))


def test_auxiliary_guide_sites_count_in_log_q_and_need_no_site_in_the_model() -> None:
    class Auxiliary(LinearGaussian):
        def guide(self, x, **batch):
            with pyro.plate("data", len(x)):
                pyro.sample(
                    "noise", dist.Normal(torch.tensor(0.0, dtype=torch.float64), 1.0), infer={"is_auxiliary": True}
                )
                loc = (x - self.bias.detach()) @ self.mean_map.T
                pyro.sample("z", dist.MultivariateNormal(loc, scale_tril=self.tril.tril()))

    program = Auxiliary()
    weights = pv.log_weights(program.model, program.guide, program.draw(2))
    assert set(weights.guide) == {"noise", "z"}
    assert not torch.allclose(weights.log_guide, weights.guide["z"].log_prob)


def test_a_site_that_the_model_alone_has_is_summed_out() -> None:
    class Enumerated(Discrete):
        def model(self, x=None, *, rows=None, **batch):
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Categorical(logits=self.prior_logits), infer={"enumerate": "parallel"})
                pyro.sample("x", dist.Bernoulli(logits=self.cell_logits[z]).to_event(1), obs=x)

        def guide(self, x, **batch):
            pass

    program = Enumerated()
    weights = pv.log_weights(program.model, program.guide, program.rows)
    np.testing.assert_allclose(weights.log_w[0].detach(), program.log_evidence(program.rows).detach(), atol=1e-12)


def test_counting_plates_uses_no_random_numbers() -> None:
    program, x = Nested(), torch.randn(5, 4)
    torch.manual_seed(0)
    first = pv.log_weights(program.model, program.guide, x, num_particles=2).log_w
    torch.manual_seed(0)
    second = pv.log_weights(program.model, program.guide, x, num_particles=2).log_w
    assert torch.equal(first, second)
