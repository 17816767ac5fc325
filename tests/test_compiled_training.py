"""Whole fits by compiled steps: callbacks, interruption, changes on the way, numbers that are not finite."""

from __future__ import annotations

import copy
import re

import numpy as np
import pytest
import torch
from both_steps import (  # noqa: F401
    OPTIONS,
    RAN,
    REALS,
    Chain,
    Clock,
    Pair,
    after_two_epochs,
    assert_holds,
    assert_same,
    both,
    inductor,
    moments,
    optimizer_options,
    owns_its_memory,
    recorded,
    snapshot,
    train,
    warnings_in,
)
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor

import pyro_vae as pv
from pyro_vae import elbos

LEFT = "Training continues without compiled steps: model, estimator or optimizer were changed."


def train_two_in_turn() -> None:
    """A model that is trained within the callback of another: both end as if they had been trained alone."""
    alone = [train(Pair, REALS, epochs=2), train(Chain, REALS, epochs=2, seed=1)]
    other, turn = Chain(), OPTIONS | {"seed": 1, "epochs": 1}
    model = train(Pair, REALS, epochs=2, callbacks=[lambda model, history: other.fit(REALS, **turn) and None])
    assert_same(alone[0], model)
    assert_same(alone[1], other)


def test_two_compiled_fits_in_turn_train_as_if_alone() -> None:
    train_two_in_turn()


@pytest.mark.slow
def test_two_fits_in_turn_train_as_if_alone_with_inductor(inductor) -> None:  # noqa: F811
    train_two_in_turn()


def test_a_model_saved_in_a_callback_has_the_parameters_of_its_epoch(tmp_path) -> None:
    model = train(Pair, REALS, callbacks=[lambda model, history: model.save(tmp_path / str(len(history)))])
    assert_holds(pv.load(tmp_path / "4", Pair), model.state_dict())
    assert_holds(pv.load(tmp_path / "2", Pair), train(Pair, REALS, epochs=2).state_dict())


def test_a_copy_made_in_a_callback_trains_on_like_the_model() -> None:
    copies = []

    def keep(model, history) -> None:
        if len(history) == 2:
            copies.append(copy.deepcopy(model))

    model = train(Pair, REALS, callbacks=[keep])
    (twin,) = copies
    twin.fit(REALS, **(OPTIONS | {"epochs": 2, "compile": False}))
    assert_same(model, twin)


def test_early_stopping_of_a_compiled_run_restores_the_best_parameters() -> None:
    seen = []
    options = {"valid": REALS[20:], "epochs": 200, "patience": 3, "learning_rate": 5e-2}
    uncompiled, compiled = both(Pair, REALS[:20], callbacks=[lambda m, h: seen.append(snapshot(m))], **options)
    assert_same(uncompiled, compiled)
    bounds = compiled.history["valid_bound"]
    assert len(bounds) < 200
    assert_holds(compiled, seen[len(bounds) :][int(np.argmax(bounds))])


def test_a_callback_ends_a_compiled_run() -> None:
    uncompiled, compiled = both(Pair, REALS, callbacks=[lambda model, history: len(history) == 2])
    assert_same(uncompiled, compiled)
    assert len(compiled.history) == 2


def test_control_c_in_a_compiled_run_leaves_a_usable_model() -> None:
    def interrupt(model, history) -> None:
        if len(history) == 2:
            raise KeyboardInterrupt

    uncompiled, compiled = both(Pair, REALS, callbacks=[interrupt])
    assert compiled.history.interrupted
    assert_same(uncompiled, compiled)
    assert compiled.sample(3).shape == (3, 4)
    for model in (uncompiled, compiled):
        model.fit(REALS, **(OPTIONS | {"compile": False}))
    assert_same(uncompiled, compiled)


def test_control_c_while_a_step_is_recorded_leaves_the_model_as_it_was() -> None:
    class Interrupted(Pair):
        def seen(self, x):
            if isinstance(x, FakeTensor):
                raise KeyboardInterrupt
            return x

    model = Interrupted()
    before = snapshot(model)
    with pytest.raises(KeyboardInterrupt):
        model.fit(REALS, **OPTIONS)
    assert_holds(model, before)
    assert all(owns_its_memory(parameter) for parameter in model.parameters())


# Changes between steps: the graph holds some numbers as constants, and takes others as inputs.


class Adjustable(Pair):
    def __init__(self) -> None:
        super().__init__()
        self.temperature, self.squash, self.layer = 1.0, torch.tanh, nn.Tanh()
        self.table, self.scales = torch.ones((), dtype=torch.float64), np.ones(4)
        self.register_buffer("offset", torch.zeros((), dtype=torch.float64))

    def loc(self, z):
        factor = self.table * self.temperature * torch.from_numpy(self.scales)
        return factor * self.layer(self.squash(super().loc(z))) + self.offset


CONSTANTS = {
    "a number": lambda model: setattr(model, "temperature", 1.5),
    "a function": lambda model: setattr(model, "squash", torch.sin),
    "a module": lambda model: setattr(model, "layer", nn.Sigmoid()),
    "an array": lambda model: setattr(model, "scales", np.full(4, 1.5)),
    "a tensor": lambda model: setattr(model, "table", torch.tensor(2.0, dtype=torch.float64)),
    "a tensor in place": lambda model: model.table.mul_(2.0),
    "a frozen parameter": lambda model: model.slope.requires_grad_(False),
    "a new parameter": lambda model: setattr(model, "weight", nn.Parameter(0.5 * model.weight.detach())),
    "the mode": lambda model: model.eval(),
    "the optimizer's options": lambda model: optimizer_options(model).update(betas=(0.5, 0.9)),
}
INPUTS = {
    "parameters in place": lambda model: model.weight.detach().mul_(0.9),
    "buffers in place": lambda model: model.offset.add_(0.1),
    "all that is saved": lambda model: model.load_state_dict({k: v * 0.9 for k, v in model.state_dict().items()}),
    "the learning rate": lambda model: optimizer_options(model).update(lr=1e-2),
}


@pytest.mark.parametrize("name", CONSTANTS)
def test_training_continues_uncompiled_where_a_callback_changes_a_constant_of_the_graph(name: str, caplog) -> None:
    options = {"callbacks": [after_two_epochs(CONSTANTS[name])]}
    uncompiled = train(Adjustable, REALS, compile=False, **options)
    RAN.clear()
    compiled = train(Adjustable, REALS, **options)
    assert_same(uncompiled, compiled)
    assert warnings_in(caplog) == [LEFT]
    assert len(RAN) == 10
    assert all(owns_its_memory(value) for value in (*compiled.parameters(), *moments(compiled)))


@pytest.mark.parametrize("name", INPUTS)
def test_training_stays_compiled_where_a_callback_changes_an_input_of_the_graph(name: str, caplog) -> None:
    assert_same(*both(Adjustable, REALS, callbacks=[after_two_epochs(INPUTS[name])]))
    assert not warnings_in(caplog)
    assert len(RAN) == 20


def test_training_continues_uncompiled_where_a_callback_changes_the_estimator(caplog) -> None:
    runs = []
    for way in (False, True):
        estimator = elbos.ELBO(kl_weight=0.5)
        change = after_two_epochs(lambda model, estimator=estimator: setattr(estimator, "kl_weight", 2.0))
        runs.append(train(Pair, REALS, elbo=lambda estimator=estimator: estimator, callbacks=[change], compile=way))
    assert_same(*runs)
    assert warnings_in(caplog) == [LEFT]


def test_an_interrupted_epoch_after_such_a_change_keeps_the_count_of_steps() -> None:
    class Impatient(Adjustable):
        def seen(self, x):
            if self.temperature != 1.0:
                runs.append(x)
            if len(runs) == 4:
                raise KeyboardInterrupt
            return x

    models = []
    for way in (False, True):
        runs: list[torch.Tensor] = []
        change = after_two_epochs(CONSTANTS["a number"])
        models.append(train(Impatient, REALS, callbacks=[change], compile=way))
    assert models[1].training_state.step == 13
    assert_same(*models)


# Numbers that are not finite.


class Edge(Pair):
    """Once the level falls below zero, the gradient of the square root is NaN and the loss is finite."""

    def __init__(self) -> None:
        super().__init__()
        self.level = nn.Parameter(torch.tensor(0.05, dtype=torch.float64))

    def loc(self, z):
        return super().loc(z) + 5 * self.level

    def seen(self, x):
        return x + 1e-3 * (self.level + self.level.abs()).sqrt()


def exploding(step: int) -> float:
    return 1e-3 if step < 12 else 1e200


EXPLOSIONS = {
    "the loss": (Pair, r"The term log p\(z\) must be", exploding),
    "the gradient": (Edge, "Gradients must be finite; got NaN or infinity for level at step", 1e-2),
}


def raised(make, data, **options):
    """The message of a fit that fails, the model, and its parameters after each epoch."""
    seen: list[dict[str, torch.Tensor]] = []
    model = make()
    with pytest.raises(ValueError) as error:
        model.fit(data, callbacks=[lambda m, h: seen.append(snapshot(m))], **(OPTIONS | {"epochs": 40} | options))
    return str(error.value), model, seen


def assert_a_run_stops_before_the_step(name: str, optimizer=None) -> None:
    """A compiled run that is no longer finite ends with the error and the parameters of the uncompiled run."""
    make, message, rate = EXPLOSIONS[name]
    options = {"batch_size": 50, "optimizer": optimizer, "learning_rate": rate}
    (expected, uncompiled, _), (got, compiled, seen) = (
        raised(make, REALS - 1.0, compile=way, **options) for way in (False, True)
    )
    assert got == expected
    assert re.match(message, got)
    assert_holds(compiled, seen[-1])
    assert compiled.training_state.step == len(compiled.history) == len(seen)
    assert len(RAN) == len(seen) + 1
    assert_same(uncompiled, compiled, rtol=1e-9)


@pytest.mark.parametrize("optimizer", [None, torch.optim.SGD])
@pytest.mark.parametrize("name", EXPLOSIONS)
def test_a_compiled_run_stops_before_a_step_that_is_not_finite(name: str, optimizer) -> None:
    assert_a_run_stops_before_the_step(name, optimizer)


@pytest.mark.slow
@pytest.mark.parametrize("name", EXPLOSIONS)
def test_a_run_stops_before_a_step_that_is_not_finite_with_inductor(name: str, inductor) -> None:  # noqa: F811
    assert_a_run_stops_before_the_step(name)


def test_buffers_move_once_where_a_compiled_step_is_not_finite() -> None:
    (expected, uncompiled, _), (got, compiled, seen) = (
        raised(Clock, REALS, batch_size=50, compile=way) for way in (False, True)
    )
    assert got == expected
    assert all(torch.equal(parameter, seen[-1][name]) for name, parameter in compiled.named_parameters())
    assert_same(uncompiled, compiled)


def test_a_buffer_that_a_callback_moved_stays_moved_where_a_compiled_step_is_not_finite() -> None:
    class Offset(Clock):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("offset", torch.zeros((), dtype=torch.float64))

        def loc(self, z):
            return super().loc(z) + self.offset

    model = Offset()
    with pytest.raises(ValueError, match="must be finite"):
        model.fit(REALS, callbacks=[lambda m, h: m.offset.add_(0.1) and None], **(OPTIONS | {"batch_size": 50}))
    assert float(model.offset) == pytest.approx(0.3)
