"""Objectives that change the KL: identities with the ELBO, closed forms, and the plain ELBO reported beside them."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from cases import draw_data, small_vae
from exact import GlobalMean, LinearGaussian

from pyro_vae import elbos, schedules
from pyro_vae.elbos.regularized import BetaTCVAE, _mmd, kl_per_dimension

pytestmark = pytest.mark.usefixtures("plain_pyro")


def run(estimator, vae, x, **options):
    torch.manual_seed(0)
    return estimator.run(vae.model, vae.guide, x, **options)


def value(terms) -> float:
    return float(terms.objective.detach())


def analytic_kl(vae, x) -> torch.Tensor:
    q = vae.encode(x).base_dist
    return 0.5 * (q.loc**2 + q.scale**2 - 1) - q.scale.log()  # (B, D)


OBJECTIVES = {
    "FreeBits": lambda **o: elbos.FreeBitsELBO(floor=0.3, **o),
    "KLBalanced": lambda **o: elbos.KLBalancedELBO(kl_weight=0.5, **o),
    "Capacity": lambda **o: elbos.CapacityELBO(capacity=2.0, **o),
    "BetaTC": lambda **o: elbos.BetaTCVAE(**o),
    "InfoVAE": lambda **o: elbos.InfoVAE(**o),
    "DIPVAE": lambda **o: elbos.DIPVAE(**o),
    "beta": lambda **o: elbos.MeanFieldELBO(kl_weight=4.0, **o),
}


@pytest.mark.parametrize("make", OBJECTIVES.values(), ids=OBJECTIVES)
def test_the_reported_bound_is_the_plain_elbo(make) -> None:
    vae = small_vae()
    x = draw_data(vae.likelihood, 7)
    plain, bent = run(elbos.MeanFieldELBO(), vae, x), run(make(), vae, x)
    np.testing.assert_allclose(bent.bound.detach(), plain.bound.detach(), atol=1e-12)
    assert value(bent) != pytest.approx(value(plain))
    assert type(make().unweighted()) is elbos.MeanFieldELBO
    assert run(make().unweighted(), vae, x).objective == plain.objective


@pytest.mark.parametrize("make", OBJECTIVES.values(), ids=OBJECTIVES)
def test_objectives_scale_to_all_rows_and_train(make) -> None:
    vae = small_vae()
    x = draw_data(vae.likelihood, 20)
    if make is not OBJECTIVES["BetaTC"]:  # its estimate of the aggregate posterior depends on N itself
        one, many = run(make(), vae, x), run(make(), vae, x, num_rows=2000)
        assert value(many) == pytest.approx(100 * value(one), rel=1e-10)
    history = vae.fit(x, elbo=make(), valid=x, epochs=5, batch_size=10, seed=0, progress=False)
    assert math.isfinite(history["valid_bound"][-1])


def test_objectives_equal_the_elbo_where_their_penalties_vanish() -> None:
    vae = small_vae()
    x = draw_data(vae.likelihood, 7)
    plain = value(run(elbos.MeanFieldELBO(), vae, x))
    assert value(run(elbos.FreeBitsELBO(floor=0.0), vae, x)) == pytest.approx(plain, rel=1e-12)
    assert value(run(elbos.KLBalancedELBO(), vae, x)) == pytest.approx(plain, rel=1e-12)
    assert value(run(elbos.KLBalancedELBO(kl_weight=1e-9), vae, x)) == pytest.approx(
        value(run(elbos.MeanFieldELBO(kl_weight=1e-9), vae, x)), rel=1e-9
    )
    assert value(run(elbos.DIPVAE(off_diagonal=0, diagonal=0), vae, x)) == pytest.approx(plain, rel=1e-12)
    assert value(run(elbos.InfoVAE(alpha=0.0, weight=1.0), vae, x)) == pytest.approx(plain, rel=1e-12)
    capacity = elbos.CapacityELBO(capacity=0.0, weight=1.0)
    assert value(run(capacity, vae, x)) == pytest.approx(plain, rel=1e-12)
    monte_carlo = value(run(elbos.ELBO(), vae, x))
    for sampling in ("weighted", "stratified"):
        ones = elbos.BetaTCVAE(total_correlation=1.0, sampling=sampling)
        assert value(run(ones, vae, x)) == pytest.approx(monte_carlo, rel=1e-12)  # the split telescopes


def test_free_bits_have_a_floor_for_each_dimension_or_site() -> None:
    vae = small_vae()
    x = draw_data(vae.likelihood, 7)
    kl = analytic_kl(vae, x).mean(0)
    floor = float(kl.median())
    terms = run(elbos.FreeBitsELBO(floor=floor), vae, x)
    expected = terms.reconstruction.sum() - 7 * kl.clamp_min(floor).sum()
    assert value(terms) == pytest.approx(float(expected.detach()), rel=1e-12)
    q, p = terms.weights.guide["z"], terms.weights.latent["z"]
    np.testing.assert_allclose(kl_per_dimension(q, p, True).detach(), kl, atol=1e-12)
    per_site = run(elbos.FreeBitsELBO(floor=100.0, per="site"), vae, x)
    assert value(per_site) == pytest.approx(float((terms.reconstruction.sum() - 700).detach()), rel=1e-12)


def test_capacity_penalizes_the_distance_of_the_kl_from_its_schedule() -> None:
    vae = small_vae()
    x = draw_data(vae.likelihood, 7)
    estimator = elbos.CapacityELBO(capacity=schedules.Linear(0.0, 10.0, steps=10), weight=3.0)
    kl = float(analytic_kl(vae, x).sum(1).mean())
    for step in (0, 5, 50):
        estimator.step = step
        terms = run(estimator, vae, x)
        expected = float(terms.reconstruction.sum().detach()) - 7 * 3.0 * abs(kl - min(step, 10))
        assert value(terms) == pytest.approx(expected, rel=1e-10)


def test_the_parts_of_the_kl_equal_direct_sums() -> None:
    """Weighted sampling takes mean_j q(z_i | x_j) / N for q(z_i): checked term by term."""
    vae = small_vae()
    x = draw_data(vae.likelihood, 6)
    terms = run(elbos.ELBO(), vae, x)
    q, p = terms.weights.guide["z"], terms.weights.latent["z"]
    z, base = q.value[0], q.distribution.base_dist
    log_q = torch.stack([base.log_prob(z[i]) for i in range(6)])  # (i, j, D)
    joint = torch.logsumexp(log_q.sum(-1), 1) - math.log(6 * 60)
    product = (torch.logsumexp(log_q, 1) - math.log(6 * 60)).sum(-1)
    parts = (
        (base.log_prob(z).sum(-1) - joint).mean(),
        (joint - product).mean(),
        (product - p.distribution.log_prob(z)).mean(),
    )
    for mine, expected in zip(BetaTCVAE(sampling="weighted")._decompose(q, p, 60), parts, strict=True):
        assert float(mine.detach()) == pytest.approx(float(expected.detach()), abs=1e-5)


def test_stratified_sampling_is_unbiased_for_the_aggregate_posterior() -> None:
    """Over all ordered batches of 3 of 6 rows that begin with row 0, the mean is the mean over all rows."""
    densities = torch.tensor([0.3, 1.7, 0.2, 5.0, 0.9, 2.2])
    share = BetaTCVAE()._log_shares(3, 6).exp()[0]
    batches = [(0, *rest) for rest in itertools.permutations(range(1, 6), 2)]
    estimates = torch.stack([(share * densities[list(batch)]).sum() for batch in batches])
    assert float(estimates.mean()) == pytest.approx(float(densities.mean()), rel=1e-6)


def test_the_discrepancy_vanishes_between_equal_samples_and_grows_with_distance() -> None:
    x, y = torch.randn(200, 3), torch.randn(200, 3)
    assert float(_mmd(x, x)) == pytest.approx(0.0, abs=1e-6)
    assert 0 < float(_mmd(x, y)) < float(_mmd(x, y + 1)) < float(_mmd(x, y + 3))


def test_dip_penalizes_the_covariance_of_the_means_or_of_the_draws() -> None:
    vae = small_vae()
    x = draw_data(vae.likelihood, 9)
    q = vae.encode(x).base_dist
    plain = value(run(elbos.MeanFieldELBO(), vae, x))
    for of in ("means", "draws"):
        covariance = np.cov(q.loc.T.numpy(), bias=True)
        covariance = covariance + np.diag((q.scale**2).mean(0).numpy()) * (of == "draws")
        off = (covariance**2).sum() - (np.diag(covariance) ** 2).sum()
        penalty = 2.0 * off + 3.0 * ((np.diag(covariance) - 1) ** 2).sum()
        got = value(run(elbos.DIPVAE(off_diagonal=2.0, diagonal=3.0, of=of), vae, x))
        assert got == pytest.approx(plain - 9 * penalty, rel=1e-9)


def test_dimensions_that_are_not_independent_are_refused() -> None:
    program = LinearGaussian()
    with pytest.raises(NotImplementedError, match="Site 'z' must have independent dimensions; got MultivariateNormal"):
        elbos.FreeBitsELBO().loss(program.model, program.guide, program.draw(3))
    joint = GlobalMean()
    with pytest.raises(NotImplementedError, match="FreeBitsELBO must have every site in the row plate"):
        elbos.FreeBitsELBO(per="site").loss(joint.model, joint.guide, torch.randn(6, dtype=torch.float64))


def test_schedules_of_the_kl_weight_advance_with_training_steps_only() -> None:
    vae = small_vae()
    x = draw_data(vae.likelihood, 20)
    estimator = elbos.ELBO(kl_weight=schedules.Linear(0.0, 1.0, steps=8))
    seen = []

    class Watched(elbos.ELBO):
        def terms(self, weights, path=None):
            seen.append((torch.is_grad_enabled(), self.beta()))
            return super().terms(weights, path)

    watched = Watched(kl_weight=schedules.Linear(0.0, 1.0, steps=8))
    vae.fit(x, elbo=watched, valid=x, epochs=2, batch_size=5, seed=0, progress=False)
    assert [beta for trained, beta in seen if trained][-8:] == [i / 8 for i in range(8)]
    vae.fit(x, elbo=estimator, epochs=1, batch_size=5, seed=0, progress=False)
    assert estimator.step == 11  # the run goes on where it was

    plain = elbos.ELBO(kl_weight=schedules.Linear(0.0, 1.0, steps=8))
    for _ in range(3):
        plain.loss_and_grads(vae.model, vae.guide, x)
        plain.loss(vae.model, vae.guide, x)
    assert plain.beta() == 3 / 8


def test_schedules_have_their_values_and_set_the_learning_rate() -> None:
    assert [schedules.Linear(0.0, 1.0, epochs=4)(99, epoch) for epoch in (0, 1, 4, 9)] == [0.0, 0.25, 1.0, 1.0]
    cosine = schedules.Cosine(2.0, 0.0, steps=10)
    assert [cosine(0), cosine(5), cosine(10), cosine(99)] == pytest.approx([2.0, 1.0, 0.0, 0.0])
    cyclical = schedules.Cyclical(0.0, 1.0, steps=10, share=0.5)
    assert [cyclical(step) for step in (0, 1, 5, 9, 10, 11, 16)] == pytest.approx([0, 0.2, 1, 1, 0, 0.2, 1])
    assert schedules.Constant(0.3)(5, 5) == 0.3
    for bad in ({}, {"steps": 0}, {"steps": 2, "epochs": 2}, {"epochs": 1.5}):
        with pytest.raises(ValueError, match="length must be a positive number of steps or of epochs"):
            schedules.Linear(0.0, 1.0, **bad)
    assert [schedules.value_at(rate, 5, 2) for rate in (0.1, lambda step: step / 10)] == [0.1, 0.5]
    assert schedules.value_at(schedules.Linear(0.0, 1.0, epochs=4), 99, 2) == 0.5
    vae = small_vae()
    by_epoch = vae.fit(
        draw_data(vae.likelihood, 10), epochs=3, learning_rate=schedules.Linear(1e-2, 0.0, epochs=4), progress=False
    )["learning_rate"]
    assert by_epoch == pytest.approx([1e-2, 0.75e-2, 0.5e-2])
    vae = small_vae()
    rates = vae.fit(
        draw_data(vae.likelihood, 10), epochs=3, learning_rate=schedules.Cosine(1e-2, 0.0, steps=3), progress=False
    )["learning_rate"]
    assert rates == pytest.approx([1e-2, 0.75e-2, 0.25e-2])
