"""Every prior goes with every guide that draws from its support, and both with every likelihood and estimator.

One case of each class is taken into a pairwise covering array, which is trained uncompiled. `pytest -m slow` compiles
an array of priors, guides and gradient estimators in which every likelihood occurs, and every case of the tables once.
The full product takes hours: `COMBINATIONS=all pytest tests/test_combinations.py`.
"""

from __future__ import annotations

import itertools
import math
import os
from functools import partial

import pytest
import torch
from both_steps import assert_same, both, recorded  # noqa: F401
from cases import ELBOS, GUIDES, LIKELIHOODS, PRIORS, by_class, combined_vae, draw_data, fits
from covering import all_rows, each_once, pairs, pairwise

from pyro_vae import elbos

ESTIMATORS = [name for name in ELBOS if not name.startswith("WakeSleep")]
FACTORS = [by_class(PRIORS), by_class(GUIDES), by_class(LIKELIHOODS), ESTIMATORS]


ROWS = all_rows(FACTORS, fits) if os.environ.get("COMBINATIONS") == "all" else pairwise(FACTORS, fits)
IDS = [", ".join(row) for row in ROWS]


@pytest.mark.parametrize("row", ROWS, ids=IDS)
def test_a_combination_trains_draws_and_is_scored(row) -> None:
    *parts, estimator = row
    vae = combined_vae(*parts)
    x = draw_data(vae.likelihood, 20)
    history = vae.fit(x, elbo=ELBOS[estimator](), epochs=1, batch_size=10, seed=0, progress=False, compile=False)
    assert math.isfinite(history["train_bound"][0])  # `fit` raises where a parameter receives no gradient
    draws = vae.sample(4, seed=0)
    assert draws.shape == (4, *vae.likelihood.event_shape)
    vae.likelihood.check(draws)
    assert torch.isfinite(vae.log_likelihood(x, num_particles=5, seed=0).estimate).all()


def test_the_covering_array_holds_every_pair_of_choices_that_fit() -> None:
    possible = {pair for row in all_rows(FACTORS, fits) for pair in pairs(row)}
    assert {pair for row in ROWS for pair in pairs(row)} == possible
    assert {name for row in ROWS for name in row} == {name for factor in FACTORS for name in factor}
    print(f"{len(ROWS)} combinations hold all {len(possible)} pairs of {[len(factor) for factor in FACTORS]} choices")


COMPILED = ["ELBO", "MeanFieldELBO", "ELBO stl", "IWAE dreg", "IWAE vimco"]  # one for each gradient estimator


def compiled_rows() -> list[tuple[str, ...]]:
    """Every pair among priors, guides and gradient estimators, and every likelihood."""
    priors_, guides_, likelihoods_, _ = FACTORS
    rows = pairwise([priors_, guides_, COMPILED], lambda row: fits((row[0], row[1], "", row[2])))
    rows = [row for row in rows if "PowerSpherical" not in row]  # whose draws have a derivative that can't be compiled
    assert len(rows) >= len(likelihoods_)
    return [(p, q, x, e) for (p, q, e), x in zip(rows, itertools.cycle(likelihoods_), strict=False)]


@pytest.mark.slow
@pytest.mark.parametrize("row", compiled_rows(), ids=", ".join)
def test_compiled_training_of_a_combination_equals_the_eager_one(row, recorded) -> None:  # noqa: F811
    *parts, estimator = row
    x = draw_data(combined_vae(*parts).likelihood, 20)
    assert_same(*both(lambda: combined_vae(*parts), x, elbo=ELBOS[estimator], epochs=1))


COMPILABLE = [[name for name in table if "PowerSpherical" not in name] for table in (PRIORS, GUIDES, LIKELIHOODS)]
EVERY_CASE = each_once(COMPILABLE, fits)


@pytest.mark.slow
@pytest.mark.parametrize("parts", EVERY_CASE, ids=", ".join)
def test_compiled_training_of_every_case_equals_the_eager_one(parts, recorded) -> None:  # noqa: F811
    elbo = partial(elbos.ELBO, num_particles=2, gradient="rloo")
    assert_same(*both(lambda: combined_vae(*parts), draw_data(combined_vae(*parts).likelihood, 50), elbo=elbo))


def test_directions_refuse_to_be_compiled(recorded) -> None:  # noqa: F811
    vae = combined_vae("PowerSpherical", "PowerSpherical", "Bernoulli")
    with pytest.raises(RuntimeError, match="_standard_gamma"):
        vae.fit(draw_data(vae.likelihood, 20), epochs=1, progress=False, compile=True)
