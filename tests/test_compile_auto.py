"""What cannot be compiled is an error with `compile=True`; "auto" trains it uncompiled, and compiles where it pays."""

from __future__ import annotations

import copy
import re
from functools import partial

import pyro.infer
import pytest
import torch
from both_steps import (  # noqa: F401
    DATA,
    OPTIONS,
    RAN,
    REALS,
    Branching,
    Pair,
    assert_equal,
    assert_holds,
    assert_same,
    optimizer_options,
    owns_its_memory,
    recorded,
    snapshot,
    train,
    warnings_in,
)
from cases import ELBOS
from exact import Discrete
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader

import pyro_vae as pv
from pyro_vae import elbos
from pyro_vae.data.batches import Batches
from pyro_vae.graphs import graph as graphs
from pyro_vae.training import fitting
from pyro_vae.training.compiled import step as compiled_step
from pyro_vae.training.eager import EagerStep


@pytest.fixture
def always_pays(monkeypatch) -> None:
    monkeypatch.setattr(fitting, "pays", lambda eager, epochs: True)


class Counting(Pair):
    """The number of runs, as a plain attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def seen(self, x):
        self.calls += 1
        return x * (1 + 0.01 * self.calls)


class Keeping(Pair):
    """A running mean, as a plain attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.mean = torch.zeros((), dtype=torch.float64)

    def seen(self, x):
        self.mean = 0.9 * self.mean + 0.1 * x.mean()
        return x - self.mean


def two_kinds():
    model = Pair()
    model.bias = nn.Parameter(torch.zeros(4))
    model.loc = lambda z: z @ model.weight.T + model.bias
    return model


UNCOMPILABLE = {
    "chunks of particles": (Pair, ELBOS["IWAE in chunks"], "max_particles_at_once bounds memory, which a graph would"),
    "control flow": (Branching, elbos.ELBO, r"GuardOnDataDependentSymNode: \w+"),
    "an attribute": (Counting, elbos.ELBO, "the programs change attributes of the model as they run"),
    "an attribute that is a tensor": (Keeping, elbos.ELBO, "the programs change attributes of the model as they run"),
    "two kinds of parameters": (two_kinds, elbos.ELBO, "parameters have several dtypes or devices"),
    "an estimator of Pyro": (Pair, pyro.infer.TraceGraph_ELBO, "TraceGraph_ELBO runs as Pyro wrote it"),
    "enumeration": (
        Discrete,
        partial(pyro.infer.TraceEnum_ELBO, max_plate_nesting=1),
        "TraceEnum_ELBO runs as Pyro wrote it",
    ),
}


def data_of(make):
    return Discrete.rows.repeat(10, 1) if make is Discrete else REALS


@pytest.mark.parametrize("name", UNCOMPILABLE)
def test_what_cannot_be_compiled_is_named_and_nothing_is_left_changed(name: str) -> None:
    make, elbo, reason = UNCOMPILABLE[name]
    model = make()
    before = snapshot(model)
    with pytest.raises(RuntimeError, match=f"The step must be one that can be compiled; got {reason}"):
        model.fit(data_of(make), elbo=elbo(), **OPTIONS)
    assert_holds(model, before)
    assert all(owns_its_memory(parameter) and parameter.grad is None for parameter in model.parameters())
    assert not any(isinstance(value, FakeTensor) for value in vars(model).values())
    assert not RAN


def test_a_fit_that_cannot_be_compiled_leaves_the_training_state() -> None:
    fresh = Branching()
    trained = train(Branching, REALS, compile=False)
    state = copy.deepcopy(trained)
    for model in (fresh, trained):
        with pytest.raises(RuntimeError, match="must be one that can be compiled"):
            model.fit(REALS, **OPTIONS, learning_rate=0.5, optimizer=torch.optim.AdamW)
    assert fresh.training_state is None
    assert_equal(trained, state)
    assert type(trained.training_state.optimizer) is torch.optim.Adam
    assert optimizer_options(trained)["lr"] == 1e-3
    assert trained.training_state.learning_rate == 1e-3


@pytest.mark.parametrize("name", UNCOMPILABLE)
def test_auto_trains_uncompiled_what_cannot_be_compiled_and_says_so_once(name: str, caplog, always_pays) -> None:
    make, elbo, reason = UNCOMPILABLE[name]
    uncompiled, auto = (train(make, data_of(make), elbo=elbo, compile=way) for way in (False, "auto"))
    assert_equal(uncompiled, auto)
    (warning,) = warnings_in(caplog)
    assert re.match(f"Training is not compiled: {reason}", warning)


class Averaging(Keeping):
    """The running mean is a buffer that is set anew at each run."""

    def __init__(self) -> None:
        super().__init__()
        del self.mean
        self.register_buffer("mean", torch.zeros((), dtype=torch.float64))


class Seeding(Pair):
    """Noise that is the same at each run."""

    def loc(self, z):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return super().loc(z) + torch.randn(4).double()


class Generating(Pair):
    def loc(self, z):
        return super().loc(z) + torch.randn(4, generator=torch.Generator().manual_seed(0)).double()


class Checkpointed(Pair):
    """Dropout whose mask the backward pass draws again from the random state of the forward pass."""

    def loc(self, z):
        return checkpoint(lambda z: nn.functional.dropout(z @ self.weight.T, 0.3).tanh(), z, use_reentrant=False)


@pytest.mark.parametrize("make", [Averaging, Seeding, Generating, Checkpointed])
def test_what_a_graph_may_miss_equals_uncompiled_or_is_refused(make) -> None:
    uncompiled = train(make, REALS, compile=False)
    try:
        compiled = train(make, REALS)
    except RuntimeError as error:
        if "The step must be one that can be compiled" not in str(error):
            raise
        return
    assert_same(uncompiled, compiled)


def test_compile_is_true_false_or_auto() -> None:
    with pytest.raises(ValueError, match="compile must be True, False or 'auto'; got 'nonsense'"):
        Pair().fit(REALS, **(OPTIONS | {"compile": "nonsense"}))
    before = graphs.compilations
    train(Pair, REALS, compile=0)
    assert graphs.compilations == before


def test_compiling_pays_where_steps_are_many_or_large() -> None:
    parameters = [nn.Parameter(torch.zeros(2))]

    def pays(epochs: int, num_particles: int = 1, data=DATA, model=None) -> bool:
        batches = Batches(data, like=DATA, batch_size=10)
        estimator = elbos.IWAE(num_particles=num_particles)
        return compiled_step.pays(EagerStep(model, estimator, torch.optim.SGD(parameters, lr=1.0), batches), epochs)

    assert not pays(epochs=4)
    assert pays(epochs=10_000)
    assert pays(epochs=4, num_particles=10**7)
    counts, grades = (
        pv.VAE(likelihood=likelihood, prior=pv.priors.Normal(2))
        for likelihood in (pv.likelihoods.BetaBinomial(4, total_count=3), pv.likelihoods.Binomial(4, total_count=3))
    )
    assert pays(epochs=4, num_particles=10**6, model=counts)  # log-gamma functions gain more than others
    assert not pays(epochs=4, num_particles=10**6, model=grades)
    assert not pays(epochs=4, data=DataLoader(DATA, batch_size=10))
    assert pays(epochs=10_000, data=DataLoader(DATA, batch_size=10))


def test_auto_leaves_short_runs_uncompiled() -> None:
    before = graphs.compilations
    assert_equal(train(Pair, REALS, compile="auto"), train(Pair, REALS, compile=False))
    assert graphs.compilations == before
