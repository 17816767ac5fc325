"""Graphs: one for each fit, nothing left behind, and the same numbers once the compiler Inductor has compiled them."""

from __future__ import annotations

import gc
from functools import partial

import pyro
import pytest
import torch
from both_steps import (  # noqa: F401
    DATA,
    OPTIMIZERS,
    RAMP,
    RAN,
    REALS,
    Branching,
    Chain,
    Clock,
    Pair,
    assert_equal,
    assert_same,
    batch_norm_vae,
    both,
    inductor,
    recorded,
    train,
)
from cases import ELBOS, GUIDES, IMAGE, LIKELIHOODS, PRIORS, by_class, combined_vae, draw_data, fits, small_vae
from covering import each_once
from torch.fx.experimental.symbolic_shapes import ShapeEnv
from torch.utils.data import DataLoader, TensorDataset

import pyro_vae as pv
from pyro_vae import elbos, nets
from pyro_vae.graphs import graph as graphs
from pyro_vae.schedules import Cosine


def test_a_fit_compiles_once() -> None:
    before = graphs.compilations
    options = {"valid": REALS[:9], "learning_rate": Cosine(1e-2, 1e-3, steps=15)}
    model = train(Pair, REALS[:47], elbo=lambda: elbos.ELBO(kl_weight=RAMP), **options)
    assert graphs.compilations == before + 1
    assert RAN.count(10) == 16
    assert model.training_state.step == 20


def test_graphs_of_fits_that_are_over_are_freed() -> None:
    alive = []
    for _ in range(3):
        train(Pair, REALS, epochs=1)
        gc.collect()
        alive.append(sum(type(thing) is ShapeEnv for thing in gc.get_objects()))
    assert alive[2] == alive[1]  # that of the last fit; what other tests left may go with the first two


def process_state() -> tuple:
    """Settings of the process: threads, denormal numbers, validation, Pyro's parameters, the random state."""
    return (
        torch.get_num_threads(),
        bool(torch.tensor([1e-40]).mul(1.0) == 0.0),
        pyro.distributions.is_validation_enabled(),
        pyro.infer.is_validation_enabled(),
        pyro.poutine.is_validation_enabled(),
        sorted(pyro.get_param_store()),
        torch.get_rng_state().tolist(),
    )


@pytest.fixture
def unusual():
    """Unusual settings: three threads, denormal numbers taken for zero, a parameter in the store, no validation."""
    threads = torch.get_num_threads()
    torch.set_num_threads(3)
    torch.set_flush_denormal(True)
    pyro.param("mine", torch.ones(2))
    with pyro.validation_enabled(False):
        yield
    pyro.get_param_store().clear()
    torch.set_num_threads(threads)
    torch.set_flush_denormal(False)


def stop(model, history) -> None:
    raise ZeroDivisionError


ENDS = {
    "with its last epoch": (Pair, {}, None),
    "by a callback's error": (Pair, {"callbacks": [stop]}, ZeroDivisionError),
    "by a loss that is not finite": (Clock, {"epochs": 9, "batch_size": 50}, ValueError),
    "by a step that cannot be compiled": (Branching, {}, RuntimeError),
}


@pytest.mark.parametrize("end", ENDS)
def test_settings_of_the_process_are_as_before_after_a_compiled_fit_that_ends(end: str, unusual) -> None:
    make, options, error = ENDS[end]
    before = process_state()
    assert before[:6] == (3, True, False, False, False, ["mine"])
    if error is None:
        train(make, REALS, **options)
    else:
        with pytest.raises(error):
            train(make, REALS, **options)
    assert process_state() == before


# The compiler.


def test_compiled_equals_uncompiled_with_inductor(inductor) -> None:  # noqa: F811
    state = process_state()
    assert_same(*both(Pair, REALS[:47], grad_clip=5.0))
    assert process_state() == state


def conv_vae():
    net = nets.Conv(channels=(3, 4), hidden=(6,))
    return small_vae(likelihood=pv.likelihoods.Bernoulli(IMAGE), encoder=net, decoder=net)


def predicted():
    return small_vae(likelihood=LIKELIHOODS["Normal predicted"]())


COMPILED = {
    "ELBO": (small_vae, lambda: DATA[:47], {}),
    "IWAE dreg, BatchNorm": (batch_norm_vae, lambda: DATA[:47], {"elbo": ELBOS["IWAE dreg"], "valid": DATA[:9]}),
    "predicted scale": (predicted, lambda: draw_data(predicted().likelihood, 47), {}),
    "sleep": (small_vae, lambda: DATA[:47], {"elbo": ELBOS["WakeSleep sleep"]}),
    "transform": (small_vae, lambda: pv.Rows(torch.full((47, 2, 3), 0.5), transform=torch.bernoulli), {}),
    "SGD": (small_vae, lambda: DATA[:47], {"optimizer": torch.optim.SGD, "learning_rate": 0.05, "grad_clip": 0.5}),
    "AdamW": (
        small_vae,
        lambda: DATA[:47],
        {
            "optimizer": OPTIMIZERS["AdamW"],
            "learning_rate": Cosine(1e-2, 1e-3, steps=15),
            "grad_clip": 0.5,
            "elbo": lambda: elbos.MeanFieldELBO(kl_weight=RAMP),
        },
    ),
    "Conv": (conv_vae, lambda: draw_data(conv_vae().likelihood, 47), {}),
    "loader": (small_vae, lambda: DataLoader(TensorDataset(DATA[:47]), batch_size=10), {}),
    "two latents": (Chain, lambda: REALS[:47], {"elbo": ELBOS["IWAE"]}),
    "dropout": (
        lambda: small_vae(encoder=nets.MLP(hidden=(8,), dropout=0.3), decoder=nets.MLP(hidden=(8,), dropout=0.3)),
        lambda: DATA[:47],
        {"elbo": ELBOS["ELBO stl"]},
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", COMPILED)
def test_compiled_equals_uncompiled_with_inductor_for_many_kinds_of_fit(name: str, inductor) -> None:  # noqa: F811
    make, data, options = COMPILED[name]
    assert_same(*both(make, data, **options))


@pytest.mark.slow
def test_the_same_seed_gives_the_same_run_with_inductor(inductor) -> None:  # noqa: F811
    assert_equal(train(small_vae, DATA[:47]), train(small_vae, DATA[:47]))


PARTS = each_once([by_class(PRIORS), by_class(GUIDES)], fits)
UNCOMPILED = {"PowerSpherical"}  # torch cannot record the derivative of gamma draws


def assert_compiled_equals_uncompiled(make) -> None:
    elbo = partial(elbos.ELBO, num_particles=2, gradient="rloo")
    assert_same(*both(make, draw_data(make().likelihood, 20), elbo=elbo, epochs=2))


@pytest.mark.slow
@pytest.mark.parametrize("parts", [parts for parts in PARTS if not UNCOMPILED & {*parts}], ids=", ".join)
def test_compiled_equals_uncompiled_with_every_kind_of_prior_and_guide(parts, inductor) -> None:  # noqa: F811
    assert_compiled_equals_uncompiled(lambda: combined_vae(*parts, "Bernoulli"))


def all_likelihoods() -> pv.likelihoods.Product:
    """Every kind of likelihood that has vectors, each for two columns."""
    made = {name: LIKELIHOODS[name]() for name in by_class(LIKELIHOODS)}
    vectors = {name: part for name, part in made.items() if "event_shape" in part.arguments()}
    return pv.likelihoods.Product(
        {name: type(part)(**(part.arguments() | {"event_shape": 2})) for name, part in vectors.items()}
    )


@pytest.mark.slow
def test_compiled_equals_uncompiled_with_every_kind_of_likelihood(inductor) -> None:  # noqa: F811
    assert len(all_likelihoods().blocks) == len(by_class(LIKELIHOODS)) - 2  # all but Product and Autoregressive
    assert_compiled_equals_uncompiled(lambda: small_vae(likelihood=all_likelihoods()))
    assert_compiled_equals_uncompiled(lambda: combined_vae("Normal", "Normal", "Autoregressive Bernoulli"))
