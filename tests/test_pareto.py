"""Pareto smoothing: as defined, and equal to the results of Pyro and ArviZ."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import torch
from pyro.ops.stats import fit_generalized_pareto

from pyro_vae.inference import pareto


def pareto_weights(shape: float, count: int, rows: int) -> torch.Tensor:
    """log w of w ~ Pareto with tail index 1 / shape, whose excesses are generalised Pareto of this shape."""
    return -shape * torch.rand(count, rows, dtype=torch.float64).log()


@pytest.mark.parametrize("shape", [0.2, 0.5, 0.7, 1.0, 1.5])
def test_khat_estimates_the_shape_of_the_tail(shape: float) -> None:
    khat = pareto.smooth(pareto_weights(shape, 4000, 200))[1]
    tail = pareto.tail_length(4000)
    shrunk = (shape * tail + 5) / (tail + 10)  # the estimate is drawn a little towards 1/2
    error = khat.std() / 200**0.5
    assert abs(float(khat.mean()) - shrunk) < 5 * float(error) + 0.02  # the fit's bias is of order 1 / tail
    spread = (1 + shape) / tail**0.5  # asymptotic standard deviation of the shape's maximum-likelihood estimate
    assert 0.7 * spread < float(khat.std()) < 1.3 * spread


def test_the_fit_equals_pyros() -> None:
    excess = torch.rand(150, 4, dtype=torch.float64).pow(-0.6).sub(1).sort(0).values
    shapes, scales = pareto.fit(excess)
    for row in range(4):
        shape, scale = fit_generalized_pareto(excess[:, row])
        assert float(shapes[row]) == pytest.approx(shape, abs=1e-6)
        assert float(scales[row]) == pytest.approx(scale, rel=0.05)  # Pyro's scale follows its shrunk shape


def test_smoothed_weights_and_khat_equal_arvizs() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        arviz = pytest.importorskip("arviz")
        if not hasattr(arviz, "psislw"):
            pytest.skip("this arviz has no psislw")
        log_w = 3 * torch.randn(2000, 6, dtype=torch.float64)
        expected, expected_khat = arviz.psislw(log_w.T.numpy())
    smoothed, khat = pareto.smooth(log_w)
    np.testing.assert_allclose(khat, expected_khat, atol=1e-10)
    np.testing.assert_allclose((smoothed - smoothed.logsumexp(0)).T, expected, atol=1e-10)


def test_smoothing_changes_the_tail_only_and_keeps_its_order() -> None:
    log_w = 2 * torch.randn(1000, 5, dtype=torch.float64)
    smoothed, _ = pareto.smooth(log_w)
    tail = pareto.tail_length(1000)
    changed = smoothed != log_w
    assert (changed.sum(0) <= tail).all() and (changed.sum(0) > tail / 2).all()
    assert torch.equal(smoothed.argsort(0)[-tail:], log_w.argsort(0)[-tail:])
    assert (smoothed.amax(0) <= log_w.amax(0)).all()


def test_khat_does_not_depend_on_the_scale_of_weights_or_on_other_rows() -> None:
    log_w = 2 * torch.randn(500, 3, dtype=torch.float64)
    smoothed, khat = pareto.smooth(log_w)
    moved, same = pareto.smooth(log_w - 4000.0)
    np.testing.assert_allclose(moved + 4000.0, smoothed, atol=1e-9)
    np.testing.assert_allclose(same, khat, atol=1e-9)
    np.testing.assert_allclose(pareto.smooth(log_w[:, 1:2])[1], khat[1:2], rtol=1e-12)


def test_khat_is_infinite_for_weights_without_a_tail_and_nothing_is_smoothed() -> None:
    constant = torch.full((100,), -3.0, dtype=torch.float64)
    atoms = torch.where(torch.arange(100) % 2 == 0, 0.0, -1.0).double()  # the largest weight has half of the draws
    lonely = torch.where(torch.arange(100) < 3, 5.0, 0.0).double() + torch.arange(100) * 1e-3 * (torch.arange(100) < 3)
    smoothed, khat = pareto.smooth(torch.stack([constant, atoms, lonely], 1))
    assert khat.tolist() == [-math.inf, -math.inf, math.inf]
    np.testing.assert_array_equal(smoothed, torch.stack([constant, atoms, lonely], 1))


def test_one_weight_above_all_others_gives_finite_results() -> None:
    log_w = torch.randn(200, 2, dtype=torch.float64) * 500
    smoothed, khat = pareto.smooth(log_w)
    assert (khat > 1).all()
    assert torch.isfinite(smoothed).all()


def test_khat_is_nan_with_fewer_than_25_particles() -> None:
    khat = pareto.smooth(torch.stack([torch.randn(24), torch.zeros(24)], 1).double())[1]
    assert khat[0].isnan() and khat[1] == -math.inf
    assert pareto.smooth(torch.randn(25, 1).double())[1].isfinite().all()


def test_the_threshold_of_khat_is_the_published_one() -> None:
    assert pareto.threshold(100) == pytest.approx(0.5)
    assert pareto.threshold(1000) == pytest.approx(2 / 3)
    assert pareto.threshold(10_000) == pareto.threshold(10**6) == 0.7
