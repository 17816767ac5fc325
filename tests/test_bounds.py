"""Bounds on the same log-weights: their order, identities between them, their moments and their derivatives."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from exact import LinearGaussian

from pyro_vae import bounds
from pyro_vae.inference.gradients import baselines, curvature, slope

LOG_W = 3 * torch.randn(6, 200, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
POINTS = (0.0, 0.1, 0.3, 0.7)
ROUNDING = 1e-12

ALL = {
    "elbo": bounds.elbo,
    "iwae": bounds.iwae,
    "ciwae": lambda w: bounds.ciwae(w, 0.3),
    "cubo": bounds.cubo,
    "jackknife": bounds.jackknife,
    "miwae": lambda w: bounds.miwae(w, 3),
    "renyi": lambda w: bounds.renyi(w, 0.5),
    "renyi -inf": lambda w: bounds.renyi(w, -math.inf),
    "tvo left": lambda w: bounds.tvo(w, POINTS),
    "tvo right": lambda w: bounds.tvo(w, POINTS, "right"),
}


def test_every_bound_is_in_the_table_of_this_file() -> None:
    assert {name.split()[0] for name in ALL} == set(bounds.__all__) - {"leave_one_out"}


@pytest.mark.parametrize("name", ALL)
def test_a_bound_of_constant_weights_is_the_constant_and_moves_with_the_weights(name: str) -> None:
    bound = ALL[name]
    np.testing.assert_allclose(bound(torch.full((6, 2), -7.3, dtype=torch.float64)), -7.3, atol=1e-12)
    np.testing.assert_allclose(bound(LOG_W + 2.5), bound(LOG_W) + 2.5, atol=1e-10)
    assert bound(LOG_W).shape == (200,)
    assert torch.isfinite(bound(LOG_W.float() * 1000)).all()


def ordered(*values: torch.Tensor) -> bool:
    return all((low <= high + ROUNDING).all() for low, high in itertools.pairwise(values))


def test_bounds_on_the_same_weights_have_their_known_order() -> None:
    iwae = bounds.iwae(LOG_W)
    assert ordered(bounds.elbo(LOG_W), bounds.ciwae(LOG_W, 0.5), iwae)
    alphas = (2.0, 1.0, 0.9, 0.5, 0.0, -1.0, -5.0, -math.inf)
    assert ordered(*(bounds.renyi(LOG_W, alpha) for alpha in alphas))
    assert ordered(bounds.tvo(LOG_W, POINTS), iwae, bounds.tvo(LOG_W, POINTS, "right"))
    assert ordered(iwae, bounds.cubo(LOG_W, 2.0), bounds.cubo(LOG_W, 4.0))
    for groups in (2, 3):
        assert ordered(bounds.elbo(LOG_W), bounds.miwae(LOG_W, groups), iwae)
    others = bounds.iwae(bounds.leave_one_out(LOG_W)).mean(0)
    assert ordered(others, iwae, bounds.jackknife(LOG_W))


def test_bounds_coincide_where_their_formulas_do() -> None:
    iwae, elbo = bounds.iwae(LOG_W), bounds.elbo(LOG_W)
    pairs = {
        "IWAE(1) = ELBO": (bounds.iwae(LOG_W[:1]), bounds.elbo(LOG_W[:1])),
        "MIWAE(M, 1) = mean of M ELBOs": (bounds.miwae(LOG_W, 6), elbo),
        "MIWAE(1, K) = IWAE": (bounds.miwae(LOG_W, 1), iwae),
        "CIWAE(0) = IWAE": (bounds.ciwae(LOG_W, 0.0), iwae),
        "CIWAE(1) = ELBO": (bounds.ciwae(LOG_W, 1.0), elbo),
        "Renyi(0) = IWAE": (bounds.renyi(LOG_W, 0.0), iwae),
        "Renyi(1) = ELBO": (bounds.renyi(LOG_W, 1.0), elbo),
        "CUBO(n) = Renyi(1 - n)": (bounds.cubo(LOG_W, 3.0), bounds.renyi(LOG_W, -2.0)),
        "TVO(1 point) = ELBO": (bounds.tvo(LOG_W, (0.0,)), elbo),
    }
    for name, (left, right) in pairs.items():
        np.testing.assert_allclose(left, right, atol=1e-12, err_msg=name)


def test_leave_one_out_omits_each_weight_once() -> None:
    others = bounds.leave_one_out(torch.arange(4.0).unsqueeze(1)).squeeze(-1)
    for k in range(4):
        assert sorted(others[:, k].tolist()) == [float(j) for j in range(4) if j != k]


def test_tvo_tends_to_iwae_as_its_points_become_dense() -> None:
    fine = torch.linspace(0, 1, 2001, dtype=torch.float64)[:-1].tolist()
    np.testing.assert_allclose(bounds.tvo(LOG_W, fine), bounds.iwae(LOG_W), atol=0.02)


def test_bounds_grow_with_particles_in_expectation_toward_the_evidence() -> None:
    """Paired over 20,000 replicates of 1 row; a step down by more than 5 standard errors fails."""
    program = LinearGaussian(width=1.4, shift=0.3)
    x = program.draw(1)
    with torch.no_grad():
        log_w = program_weights(program, x.expand(20_000, -1), 4)
    evidence = program.log_evidence(x).detach()
    steps = [bounds.elbo(log_w), *(bounds.iwae(log_w[:k]) for k in (2, 3, 4))]
    # The ELBO of all particles has less noise than, and the expectation of, IWAE_1.
    for lower, higher in itertools.pairwise(steps):
        difference = higher - lower
        assert difference.mean() > -5 * difference.std() / 20_000**0.5
        assert difference.mean() > 0
    assert steps[-1].mean() < evidence + 5 * steps[-1].std() / 20_000**0.5


def program_weights(program, x, num_particles):
    from pyro_vae import log_weights
    from pyro_vae.runtime.isolation import isolated
    from pyro_vae.runtime.random import seeded

    with isolated(), seeded(0):
        return log_weights(program.model, program.guide, x, num_particles=num_particles).log_w


def test_the_chi_moment_is_unbiased_for_a_wide_guide() -> None:
    """E[w^2] under q = N(m, C s^2) in closed form, against the mean of w^2, with the guide wider than the posterior."""
    program = LinearGaussian(width=1.5)
    x = program.draw(1)
    with torch.no_grad():
        log_w = program_weights(program, x.expand(40_000, -1), 5)
    # q = N(m, s^2 C), posterior N(m, C): E_q[(p / q)^2] = prod over D of s / sqrt(2 / s^2 ... ) -> per dimension
    # integral N(z; 0, 1)^2 / N(z; 0, s^2) dz = s / sqrt(2 - 1 / s^2).
    ratio = (1.5 / math.sqrt(2 - 1 / 1.5**2)) ** 2
    exact = float(2 * program.log_evidence(x).detach()) + math.log(ratio)
    moments = torch.exp(2 * log_w - exact).mean(0)
    assert abs(float(moments.mean()) - 1) < 5 * float(moments.std()) / 40_000**0.5
    assert float(bounds.cubo(log_w).mean()) < exact / 2  # the logarithm at finite K is biased downward


@pytest.mark.parametrize("name", ALL)
def test_slope_and_curvature_are_first_and_second_derivatives(name: str) -> None:
    bound, log_w = ALL[name], LOG_W[:, :3].clone()
    hessian = torch.autograd.functional.hessian(lambda w: bound(w).sum(), log_w)
    expected = torch.stack([hessian[k, :, k, :].diag() for k in range(6)])
    np.testing.assert_allclose(curvature(bound, log_w), expected, atol=1e-10)
    gradient = torch.autograd.functional.jacobian(lambda w: bound(w).sum(), log_w)
    np.testing.assert_allclose(slope(bound, log_w), gradient, atol=1e-12)


def test_iwaes_doubly_reparameterized_coefficient_is_the_squared_weight() -> None:
    weights = LOG_W.softmax(0)
    np.testing.assert_allclose(slope(bounds.iwae, LOG_W) - curvature(bounds.iwae, LOG_W), weights**2, atol=1e-12)


def test_the_baseline_of_a_particle_depends_on_the_others_only() -> None:
    for kind in ("rloo", "vimco"):
        base = baselines(bounds.iwae, LOG_W, kind)
        changed = LOG_W.clone()
        changed[2] += 100.0
        again = baselines(bounds.iwae, changed, kind)
        np.testing.assert_allclose(again[2], base[2])
        assert not torch.allclose(again[3], base[3])
    np.testing.assert_allclose(baselines(bounds.elbo, LOG_W, "rloo"), baselines(bounds.elbo, LOG_W, "vimco"))
    np.testing.assert_allclose(baselines(bounds.iwae, LOG_W, "rloo")[0], bounds.iwae(LOG_W[1:]))
    geometric = torch.cat([LOG_W[1:], LOG_W[1:].mean(0, keepdim=True)])
    np.testing.assert_allclose(baselines(bounds.iwae, LOG_W, "vimco")[0], bounds.iwae(geometric))
