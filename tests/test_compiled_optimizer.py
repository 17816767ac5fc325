"""The optimizer in the compiled step: the same numbers as torch's, and a state that torch's optimizer can take over."""

from __future__ import annotations

import copy

import pytest
from both_steps import (  # noqa: F401
    OPTIMIZERS,
    OPTIONS,
    REALS,
    Pair,
    after_two_epochs,
    assert_holds,
    assert_same,
    both,
    moments,
    owns_its_memory,
    recorded,
    snapshot,
    train,
)

import pyro_vae as pv
from pyro_vae.schedules import Cosine


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_compiled_equals_uncompiled_with_every_optimizer(name: str) -> None:
    rate = Cosine(2e-2, 1e-3, steps=15)
    runs = both(Pair, REALS[:47], optimizer=OPTIMIZERS[name], learning_rate=rate, grad_clip=0.5)
    assert_same(*runs)
    assert all(owns_its_memory(value) for value in (*runs[1].parameters(), *moments(runs[1])))


@pytest.mark.parametrize("order", [(False, True), (True, False), (True, True)])
def test_a_later_fit_may_change_from_one_kind_of_step_to_the_other(order: tuple[bool, bool]) -> None:
    model = Pair()
    for way in order:
        model.fit(REALS, **(OPTIONS | {"epochs": 2, "compile": way}))
    assert_same(train(Pair, REALS, compile=False), model)


def test_after_a_fit_parameters_and_moments_own_their_memory(tmp_path) -> None:
    model = train(Pair, REALS)
    assert all(owns_its_memory(value) for value in (*model.parameters(), *moments(model)))
    assert all(parameter.grad is None and parameter.is_leaf for parameter in model.parameters())
    twin = copy.deepcopy(model)
    model.save(tmp_path / "m")
    assert_holds(pv.load(tmp_path / "m", Pair), model.state_dict())
    before = snapshot(model)
    twin.fit(REALS, **OPTIONS)
    assert_holds(model, before)
    model.fit(REALS, **(OPTIONS | {"compile": False}))
    assert_same(model, twin)


def test_a_callback_may_load_the_optimizers_state() -> None:
    def load(model) -> None:
        optimizer = model.training_state.optimizer
        state = copy.deepcopy(optimizer.state_dict())
        for tensors in state["state"].values():
            tensors["exp_avg"].zero_()
        optimizer.load_state_dict(state)

    runs = (train(Pair, REALS, callbacks=[after_two_epochs(load)], compile=way) for way in (False, True))
    assert_same(*runs)
