"""The captured step: the same numbers as the interpreter's, whatever is trained, changed meanwhile, or goes wrong."""

from __future__ import annotations

import copy
import gc
import re
from functools import partial

import numpy as np
import pyro
import pyro.distributions as dist
import pyro.infer
import pytest
import torch
from cases import (
    ELBOS,
    GUIDES,
    IMAGE,
    LIKELIHOODS,
    PRIORS,
    BatchNormNet,
    by_class,
    combined_vae,
    draw_data,
    fits,
    small_vae,
)
from covering import each_once
from exact import Discrete
from pyro.distributions import constraints
from pyro.nn import PyroParam
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.fx.experimental.symbolic_shapes import ShapeEnv
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

import pyro_vae as pv
from pyro_vae import elbos, nets
from pyro_vae.data.batches import Batches
from pyro_vae.runtime.random import Noise
from pyro_vae.schedules import Cosine, Linear
from pyro_vae.training import fitting
from pyro_vae.training.compiled import graph as graphs
from pyro_vae.training.eager import EagerStep

DATA = draw_data(LIKELIHOODS["Bernoulli"]().double(), 50)
REALS = torch.randn(50, 4, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
WEIGHTS = torch.rand(50, generator=torch.Generator().manual_seed(6), dtype=torch.float64)
OPTIONS = {"epochs": 4, "batch_size": 10, "seed": 0, "progress": False, "compile": True}
COLUMNS = [column for column in pv.History.COLUMNS if column != "seconds"]
LEFT = "Training goes on without compiled steps: model, estimator or optimizer were changed."
INDUCTOR = graphs._compiled
RAN: list[int] = []  # the last size that each run of a graph saw: that of its batch


def run_graphs_by(compiler, monkeypatch) -> None:
    def compiled(*args):
        graph = compiler(*args)

        def run(*tensors):
            RAN.append(len(tensors[-1]))
            return graph(*tensors)

        return run

    monkeypatch.setattr(graphs, "_compiled", compiled)


@pytest.fixture(autouse=True)
def recorded(monkeypatch) -> None:
    """Graphs run as they were recorded, operation by operation, which takes a second to build and not twenty."""
    RAN.clear()
    run_graphs_by(lambda graph, fakes, num_threads: graph, monkeypatch)


@pytest.fixture
def inductor(monkeypatch, recorded) -> None:
    """Graphs are compiled."""
    run_graphs_by(INDUCTOR, monkeypatch)


@pytest.fixture
def always_pays(monkeypatch) -> None:
    monkeypatch.setattr(fitting, "pays", lambda eager, epochs: True)


class Pair(pv.LatentVariableModel):
    """The least that trains: x linear in z, and the mean of z linear in x."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.weight = nn.Parameter(torch.randn(4, 2, generator=generator, dtype=torch.float64))
        self.slope = nn.Parameter(0.1 * torch.randn(4, 2, generator=generator, dtype=torch.float64))

    def model(self, x=None, *, rows=None, **batch):
        with pyro.plate("data", len(x) if x is not None else rows):
            z = pyro.sample("z", dist.Normal(self.weight.new_zeros(2), 1.0).to_event(1))
            return pyro.sample("x", dist.Normal(self.loc(z), 1.0).to_event(1), obs=x)

    def guide(self, x, **batch):
        with pyro.plate("data", len(x)):
            return pyro.sample("z", dist.Normal(self.seen(x) @ self.slope, 0.5).to_event(1))

    def loc(self, z):
        return z @ self.weight.T

    def seen(self, x):
        return x


def train(make, data=DATA, *, elbo=elbos.ELBO, **options):
    """A new model, trained; `elbo`, and `data` where it is a function, are made anew too."""
    model = make()
    model.fit(data() if callable(data) else data, elbo=elbo(), **(OPTIONS | options))
    return model


def both(make, data=DATA, **options):
    """The same model trained by the interpreter and by the graph, which takes every step of a full batch."""
    eager = train(make, data, **(options | {"compile": False}))
    RAN.clear()
    before = graphs.compilations
    captured = train(make, data, **options)
    assert graphs.compilations == before + 1
    assert len(RAN) >= 0.75 * captured.training_state.step
    return eager, captured


def moments(model) -> list[torch.Tensor]:
    return [
        value
        for state in model.training_state.optimizer.state.values()
        for value in state.values()
        if isinstance(value, torch.Tensor)
    ]


def assert_same(first, second, atol: float = 1e-9, rtol: float = 0.0) -> None:
    """The same history, parameters, statistics and state of the optimizer."""
    compare = partial(np.testing.assert_allclose, atol=atol, rtol=rtol)
    assert len(first.history) == len(second.history)
    for column in COLUMNS:
        compare(*(np.array(model.history[column], dtype=float) for model in (first, second)), err_msg=column)
    tensors = zip(first.state_dict().items(), second.state_dict().items(), strict=True)
    for (name, a), (other, b) in tensors:
        assert name == other
        compare(a, b, err_msg=name)
    assert first.training_state.step == second.training_state.step
    for a, b in zip(moments(first), moments(second), strict=True):
        compare(a, b)


def assert_equal(first, second) -> None:
    assert_same(first, second, atol=0.0)


def snapshot(model) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def assert_holds(model, tensors) -> None:
    for name, tensor in model.state_dict().items():
        assert not isinstance(tensor, FakeTensor), name
        assert torch.equal(tensor, tensors[name]), name


def warnings_in(caplog) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "pyro_vae"]


def owns_its_memory(tensor: torch.Tensor) -> bool:
    return tensor.untyped_storage().nbytes() == tensor.nbytes


def batch_norm_vae(**parts):
    torch.manual_seed(7)
    net = BatchNormNet((6, 6))
    net.layers[0].bias.requires_grad_(False)  # BatchNorm removes it: its gradient is rounding noise, blown up by Adam
    return small_vae(encoder=net, **parts)


def conv_vae():
    net = nets.Conv(channels=(3, 4), hidden=(6,))
    return small_vae(likelihood=pv.likelihoods.Bernoulli(IMAGE), encoder=net, decoder=net)


# The same numbers.

ESTIMATORS = {name: make for name, make in ELBOS.items() if name != "IWAE in chunks"}
RAMP = Linear(0.0, 1.0, steps=15)
REGULARIZED = {
    "FreeBitsELBO": lambda: elbos.FreeBitsELBO(floor=0.1, kl_weight=RAMP),
    "KLBalancedELBO": lambda: elbos.KLBalancedELBO(kl_weight=RAMP),
    "CapacityELBO": lambda: elbos.CapacityELBO(capacity=RAMP),
    "BetaTCVAE": lambda: elbos.BetaTCVAE(),
    "InfoVAE": lambda: elbos.InfoVAE(),
    "DIPVAE": lambda: elbos.DIPVAE(),
    "TVO of steps": lambda: elbos.TVO(num_particles=3, points=lambda step: (0.0, 0.1 + 0.001 * step, 0.5)),
    "ELBO stl of epochs": lambda: elbos.ELBO(gradient="stl", kl_weight=Linear(0.0, 1.0, epochs=3)),
}


@pytest.mark.parametrize("name", [*ESTIMATORS, "KLBalancedELBO", "CapacityELBO", "TVO of steps"])
def test_every_estimator_is_captured(name: str) -> None:
    assert_same(*both(Pair, REALS, elbo=(ESTIMATORS | REGULARIZED)[name]))


@pytest.mark.slow
@pytest.mark.parametrize("name", ESTIMATORS | REGULARIZED)
def test_every_estimator_of_a_vae_is_captured(name: str) -> None:
    assert_same(*both(small_vae, DATA[:47], elbo=(ESTIMATORS | REGULARIZED)[name]))


PARTS = each_once([by_class(PRIORS), by_class(GUIDES)], fits)
UNCAPTURED = {"PowerSpherical"}  # the derivative of gamma draws has no form that torch can record


def compiled_as_eager(make) -> None:
    elbo = partial(elbos.ELBO, num_particles=2, gradient="rloo")
    assert_same(*both(make, draw_data(make().likelihood, 20), elbo=elbo, epochs=2))


@pytest.mark.slow
@pytest.mark.parametrize("parts", [parts for parts in PARTS if not UNCAPTURED & {*parts}], ids=", ".join)
def test_every_kind_of_prior_and_guide_is_compiled(parts, inductor) -> None:
    compiled_as_eager(lambda: combined_vae(*parts, "Bernoulli"))


def all_likelihoods() -> pv.likelihoods.Product:
    """Every kind of likelihood that has vectors, each for two columns."""
    made = {name: LIKELIHOODS[name]() for name in by_class(LIKELIHOODS)}
    vectors = {name: part for name, part in made.items() if "event_shape" in part.arguments()}
    return pv.likelihoods.Product(
        {name: type(part)(**(part.arguments() | {"event_shape": 2})) for name, part in vectors.items()}
    )


@pytest.mark.slow
def test_every_kind_of_likelihood_is_compiled(inductor) -> None:
    assert len(all_likelihoods().blocks) == len(by_class(LIKELIHOODS)) - 2  # all but Product and Autoregressive
    compiled_as_eager(lambda: small_vae(likelihood=all_likelihoods()))
    compiled_as_eager(lambda: combined_vae("Normal", "Normal", "Autoregressive Bernoulli"))


def test_dropout_and_running_statistics_are_captured() -> None:
    eager, captured = both(batch_norm_vae, DATA[:47], valid=DATA[:9])
    assert_same(eager, captured)
    assert int(captured.encoder.module.layers[1].num_batches_tracked) == 20


@pytest.mark.slow
def test_a_bias_without_influence_alone_moves_by_rounding() -> None:
    def make():
        model = batch_norm_vae()
        model.encoder.module.layers[0].bias.requires_grad_(True)
        return model

    eager, captured = both(make)
    for model in (eager, captured):  # what it is, and what it shifts
        model.encoder.module.layers[0].bias.detach().zero_()
        model.encoder.module.layers[1].running_mean.zero_()
        model.training_state.optimizer.state.clear()
    assert_same(eager, captured)


@pytest.mark.parametrize("name", ["MeanFieldELBO", "IWAE dreg"])
def test_single_precision_is_captured(name: str) -> None:
    assert_same(*both(lambda: Pair().float(), REALS, elbo=ELBOS[name]), atol=1e-6, rtol=1e-5)


def test_the_global_stream_gives_the_same_noise_and_is_left_the_same() -> None:
    runs, states = [], []
    for way in (False, True):
        torch.manual_seed(3)
        runs.append(train(Pair, REALS, seed=None, compile=way))
        states.append(torch.get_rng_state())
    assert_same(*runs)
    assert torch.equal(*states)


def test_the_same_seed_gives_the_same_captured_run() -> None:
    assert_equal(train(Pair, REALS), train(Pair, REALS))


OPTIMIZERS = {
    "SGD": torch.optim.SGD,
    "SGD momentum": partial(torch.optim.SGD, momentum=0.9),
    "Adam": torch.optim.Adam,
    "Adam decay": partial(torch.optim.Adam, weight_decay=0.1),
    "Adam amsgrad": partial(torch.optim.Adam, amsgrad=True),
    "AdamW": partial(torch.optim.AdamW, weight_decay=0.1, betas=(0.8, 0.95), eps=1e-6),
    "RMSprop": torch.optim.RMSprop,
    "groups": lambda p, lr: torch.optim.Adam([{"params": p[1:]}, {"params": p[:1], "betas": (0.5, 0.9)}], lr=lr),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_is_captured(name: str) -> None:
    rate = Cosine(2e-2, 1e-3, steps=15)
    runs = both(Pair, REALS[:47], optimizer=OPTIMIZERS[name], learning_rate=rate, grad_clip=0.5)
    assert_same(*runs)
    assert all(owns_its_memory(value) for value in (*runs[1].parameters(), *moments(runs[1])))


# Programs and data.


class Chain(pv.LatentVariableModel):
    """Two latents, constrained parameters, and the number of rows in the arithmetic."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Parameter(torch.tensor([0.5, -1.0, 0.3, 0.8], dtype=torch.float64))
        self.down = nn.Parameter(torch.tensor([0.1, 0.2, -0.1, 0.0], dtype=torch.float64))
        self.noise = PyroParam(torch.tensor(0.7, dtype=torch.float64), constraint=constraints.positive)
        self.mix = PyroParam(torch.tensor([0.3, 0.7], dtype=torch.float64), constraint=constraints.simplex)

    def model(self, x=None, *, rows=None, **batch):
        with pyro.plate("data", len(x) if x is not None else rows):
            high = pyro.sample("high", dist.Normal(self.up.new_zeros(()), 1.0))
            low = pyro.sample("low", dist.Normal(self.mix[0] * high, self.mix[1]))
            return pyro.sample("x", dist.Normal(low.unsqueeze(-1) * self.up, self.noise).to_event(1), obs=x)

    def guide(self, x, **batch):
        with pyro.plate("data", len(x)):
            high = pyro.sample("high", dist.Normal(x @ self.down, 0.5))
            pyro.sample("low", dist.Normal(0.3 * high + len(x) / 10 * x @ self.down, 0.5))


class Global(pv.LatentVariableModel):
    """A mean for the whole data set beside the latents of the rows."""

    def __init__(self) -> None:
        super().__init__()
        self.loc = nn.Parameter(torch.tensor(0.1, dtype=torch.float64))
        self.slope = nn.Parameter(torch.tensor(0.2, dtype=torch.float64))
        self.width = PyroParam(torch.tensor(0.5, dtype=torch.float64), constraint=constraints.positive)

    def model(self, x=None, *, rows=None, **batch):
        mean = pyro.sample("mean", dist.Normal(self.loc.new_zeros(()), 2.0))
        with pyro.plate("data", len(x) if x is not None else rows):
            z = pyro.sample("z", dist.Normal(mean, 1.0))
            return pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(self, x, **batch):
        mean = pyro.sample("mean", dist.Normal(self.loc, self.width))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(self.slope * x + 0.5 * mean, 0.6))


@pytest.mark.parametrize(("name", "rows"), [("ELBO", 47), ("IWAE dreg", 41)])
def test_a_program_with_two_latents_is_captured(name: str, rows: int) -> None:
    assert_same(*both(Chain, REALS[:rows], elbo=ELBOS[name]))


@pytest.mark.parametrize("name", ["ELBO K=3", "MeanFieldELBO"])
def test_a_program_with_a_global_latent_is_captured(name: str) -> None:
    assert_same(*both(Global, REALS[:47, 0], elbo=ELBOS[name]))


def test_discrete_latents_are_captured() -> None:
    assert_same(*both(Discrete, Discrete.rows.repeat(10, 1), elbo=ELBOS["IWAE vimco"]))


def test_parameters_in_two_places_are_captured() -> None:
    class Tied(Pair):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.one, self.two = nn.Linear(2, 4).double(), nn.Linear(2, 4).double()
            self.two.weight = self.one.weight

        def loc(self, z):
            return super().loc(z) + self.one(z) + self.two(z)

    eager, captured = both(Tied, REALS)
    assert_same(eager, captured)
    assert captured.one.weight is captured.two.weight


def shared_vae():
    torch.manual_seed(4)
    shared = nn.Linear(4, 4)
    decoder = nn.Sequential(nn.Linear(2, 4), shared)
    parts = {"likelihood": pv.likelihoods.Normal(4), "prior": pv.priors.Normal(2), "encoder": shared}
    return pv.VAE(decoder=decoder, **parts, seed=0).double()


@pytest.mark.parametrize("name", ["ELBO", "ELBO stl"])
def test_a_module_in_two_places_is_captured(name: str) -> None:
    assert_same(*both(shared_vae, REALS, elbo=ELBOS[name]))


def test_a_module_in_two_places_trains_with_a_stopped_guide() -> None:
    start = shared_vae().encoder.module.weight
    trained = train(shared_vae, REALS, elbo=ELBOS["ELBO stl"], compile=False).encoder.module.weight
    assert isinstance(trained, nn.Parameter)
    assert not torch.equal(trained, start)


def rows(count: int = 50, **fields):
    return pv.Rows(REALS[:count], {name: value[:count] for name, value in fields.items()})


WEIGHTED = {"fields": ("row_weights",)}
NAMED = {"fields": ("x", "row_weights")}
SOURCES = {
    "float32": (lambda: REALS.float(), {}),
    "booleans": (lambda: REALS > 0, {}),
    "num_rows": (lambda: REALS, {"num_rows": 1000}),
    "transform": (lambda: pv.Rows(torch.full((47, 4), 0.5), transform=torch.bernoulli), {}),
    "row weights": (lambda: rows(47, row_weights=WEIGHTS), WEIGHTED),
    "row weights MeanFieldELBO": (lambda: rows(row_weights=WEIGHTS), WEIGHTED | {"elbo": elbos.MeanFieldELBO}),
    "tuple": (lambda: (REALS, WEIGHTS), NAMED),
    "tuple, x last": (lambda: (WEIGHTS, REALS), {"fields": ("row_weights", "x")}),
    "loader": (lambda: DataLoader(TensorDataset(REALS[:47]), batch_size=10), {}),
    "shuffled loader": (lambda: DataLoader(REALS, batch_size=10, shuffle=True), {}),
    "loader with a generator": (
        lambda: DataLoader(REALS, batch_size=10, shuffle=True, generator=torch.Generator().manual_seed(3)),
        {},
    ),
    "loader of tuples": (lambda: DataLoader(TensorDataset(REALS, WEIGHTS), batch_size=10), NAMED),
    "loader of tuples, x last": (
        lambda: DataLoader(TensorDataset(WEIGHTS, REALS), batch_size=10),
        {"fields": ("row_weights", "x")},
    ),
    "loader of dictionaries": (
        lambda: DataLoader([{"row_weights": w, "x": x} for x, w in zip(REALS, WEIGHTS, strict=True)], batch_size=10),
        WEIGHTED,
    ),
    "stream that goes on": (lambda: Stream(), {"num_rows": 50}),
}


class Stream(IterableDataset):
    """Other rows each time it is read."""

    def __init__(self) -> None:
        self.reads = 0

    def __iter__(self):
        self.reads += 1
        return iter(REALS.roll(self.reads, 0))


@pytest.mark.parametrize("name", SOURCES)
def test_every_form_of_data_is_captured(name: str) -> None:
    data, options = SOURCES[name]
    assert_same(*both(Pair, data, **options))


def test_row_weights_are_captured_with_importance_weights() -> None:
    assert_same(*both(small_vae, pv.Rows(DATA, {"row_weights": WEIGHTS}), elbo=ELBOS["IWAE"], **WEIGHTED))


@pytest.mark.slow
@pytest.mark.parametrize("name", ESTIMATORS)
def test_row_weights_are_captured_with_every_estimator(name: str) -> None:
    assert_same(*both(small_vae, pv.Rows(DATA, {"row_weights": WEIGHTS}), elbo=ESTIMATORS[name], **WEIGHTED))


def test_fields_reach_a_captured_program() -> None:
    class Labelled(Pair):
        def __init__(self):
            super().__init__()
            self.shift = nn.Parameter(torch.zeros(3, 4, dtype=torch.float64))

        def model(self, x=None, *, rows=None, label, real, **batch):
            assert label.dtype == torch.int64 and real.dtype == torch.float64
            with pyro.plate("data", len(x) if x is not None else rows):
                z = pyro.sample("z", dist.Normal(self.weight.new_zeros(2), 1.0).to_event(1))
                loc = self.loc(z) + self.shift[label] * real.unsqueeze(-1)
                return pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=x)

    data = pv.Rows(REALS, {"label": torch.arange(50) % 3, "real": WEIGHTS.float()})
    eager, captured = both(Labelled, data, fields=("real", "label"))
    assert_same(eager, captured)
    assert (captured.shift != 0).all()


# The life of a compiled step.


def test_a_fit_compiles_once() -> None:
    before = graphs.compilations
    options = {"valid": REALS[:9], "learning_rate": Cosine(1e-2, 1e-3, steps=15)}
    model = train(Pair, REALS[:47], elbo=lambda: elbos.ELBO(kl_weight=RAMP), **options)
    assert graphs.compilations == before + 1
    assert RAN.count(10) == 16
    assert model.training_state.step == 20


def test_graphs_that_are_gone_leave_nothing() -> None:
    alive = []
    for _ in range(3):
        train(Pair, REALS, epochs=1)
        gc.collect()
        alive.append(sum(type(thing) is ShapeEnv for thing in gc.get_objects()))
    assert alive[2] == alive[1]  # that of the last one; what other tests left may go with the first two


def test_two_fits_in_turn_train_as_if_alone() -> None:
    alone = [train(Pair, REALS, epochs=2), train(Chain, REALS, epochs=2, seed=1)]
    other, turn = Chain(), OPTIONS | {"seed": 1, "epochs": 1}
    model = train(Pair, REALS, epochs=2, callbacks=[lambda model, history: other.fit(REALS, **turn) and None])
    assert_same(alone[0], model)
    assert_same(alone[1], other)


@pytest.mark.parametrize("order", [(False, True), (True, False), (True, True)])
def test_a_fit_goes_on_from_one_kind_of_step_to_the_other(order: tuple[bool, bool]) -> None:
    model = Pair()
    for way in order:
        model.fit(REALS, **(OPTIONS | {"epochs": 2, "compile": way}))
    assert_same(train(Pair, REALS, compile=False), model)


def test_after_a_fit_the_model_is_its_own(tmp_path) -> None:
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


def test_a_model_saved_in_a_callback_is_that_of_the_epoch(tmp_path) -> None:
    model = train(Pair, REALS, callbacks=[lambda model, history: model.save(tmp_path / str(len(history)))])
    assert_holds(pv.load(tmp_path / "4", Pair), model.state_dict())
    assert_holds(pv.load(tmp_path / "2", Pair), train(Pair, REALS, epochs=2).state_dict())


def test_a_copy_made_in_a_callback_goes_on_like_the_model() -> None:
    copies = []

    def keep(model, history) -> None:
        if len(history) == 2:
            copies.append(copy.deepcopy(model))

    model = train(Pair, REALS, callbacks=[keep])
    (twin,) = copies
    twin.fit(REALS, **(OPTIONS | {"epochs": 2, "compile": False}))
    assert_same(model, twin)


def test_early_stopping_restores_the_best_parameters() -> None:
    seen = []
    options = {"valid": REALS[20:], "epochs": 200, "patience": 3, "learning_rate": 5e-2}
    eager, captured = both(Pair, REALS[:20], callbacks=[lambda m, h: seen.append(snapshot(m))], **options)
    assert_same(eager, captured)
    bounds = captured.history["valid_bound"]
    assert len(bounds) < 200
    assert_holds(captured, seen[len(bounds) :][int(np.argmax(bounds))])


def test_a_callback_ends_a_captured_run() -> None:
    eager, captured = both(Pair, REALS, callbacks=[lambda model, history: len(history) == 2])
    assert_same(eager, captured)
    assert len(captured.history) == 2


def test_control_c_in_a_captured_run_leaves_a_usable_model() -> None:
    def interrupt(model, history) -> None:
        if len(history) == 2:
            raise KeyboardInterrupt

    eager, captured = both(Pair, REALS, callbacks=[interrupt])
    assert captured.history.interrupted
    assert_same(eager, captured)
    assert captured.sample(3).shape == (3, 4)
    for model in (eager, captured):
        model.fit(REALS, **(OPTIONS | {"compile": False}))
    assert_same(eager, captured)


def test_control_c_while_a_step_is_captured_leaves_the_model_as_it_was() -> None:
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


# What a callback changes.


class Adjustable(Pair):
    def __init__(self) -> None:
        super().__init__()
        self.temperature, self.squash, self.layer = 1.0, torch.tanh, nn.Tanh()
        self.table, self.scales = torch.ones((), dtype=torch.float64), np.ones(4)
        self.register_buffer("offset", torch.zeros((), dtype=torch.float64))

    def loc(self, z):
        factor = self.table * self.temperature * torch.from_numpy(self.scales)
        return factor * self.layer(self.squash(super().loc(z))) + self.offset


def group(model) -> dict:
    return model.training_state.optimizer.param_groups[0]


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
    "the optimizer's options": lambda model: group(model).update(betas=(0.5, 0.9)),
}
INPUTS = {
    "parameters in place": lambda model: model.weight.detach().mul_(0.9),
    "buffers in place": lambda model: model.offset.add_(0.1),
    "all that is saved": lambda model: model.load_state_dict({k: v * 0.9 for k, v in model.state_dict().items()}),
    "the learning rate": lambda model: group(model).update(lr=1e-2),
}


def after_two_epochs(change):
    def callback(model, history) -> None:
        if len(history) == 2:
            change(model)

    return callback


@pytest.mark.parametrize("name", CONSTANTS)
def test_training_goes_on_without_the_graph_where_a_callback_changes(name: str, caplog) -> None:
    options = {"callbacks": [after_two_epochs(CONSTANTS[name])]}
    eager = train(Adjustable, REALS, compile=False, **options)
    RAN.clear()
    captured = train(Adjustable, REALS, **options)
    assert_same(eager, captured)
    assert warnings_in(caplog) == [LEFT]
    assert len(RAN) == 10
    assert all(owns_its_memory(value) for value in (*captured.parameters(), *moments(captured)))


@pytest.mark.parametrize("name", INPUTS)
def test_the_graph_holds_where_a_callback_changes(name: str, caplog) -> None:
    assert_same(*both(Adjustable, REALS, callbacks=[after_two_epochs(INPUTS[name])]))
    assert not warnings_in(caplog)
    assert len(RAN) == 20


def test_a_callback_may_load_the_optimizers_state() -> None:
    def load(model) -> None:
        optimizer = model.training_state.optimizer
        state = copy.deepcopy(optimizer.state_dict())
        for moments in state["state"].values():
            moments["exp_avg"].zero_()
        optimizer.load_state_dict(state)

    runs = (train(Pair, REALS, callbacks=[after_two_epochs(load)], compile=way) for way in (False, True))
    assert_same(*runs)


def test_an_estimator_may_change_between_epochs(caplog) -> None:
    runs = []
    for way in (False, True):
        estimator = elbos.ELBO(kl_weight=0.5)
        change = after_two_epochs(lambda model, estimator=estimator: setattr(estimator, "kl_weight", 2.0))
        runs.append(train(Pair, REALS, elbo=lambda estimator=estimator: estimator, callbacks=[change], compile=way))
    assert_same(*runs)
    assert warnings_in(caplog) == [LEFT]


def test_an_interrupted_epoch_after_such_a_change_keeps_the_optimizers_count() -> None:
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


# What is not finite.


def raised(make, data, **options):
    """The message of a fit that fails, the model, and its parameters after each epoch."""
    seen: list[dict[str, torch.Tensor]] = []
    model = make()
    with pytest.raises(ValueError) as error:
        model.fit(data, callbacks=[lambda m, h: seen.append(snapshot(m))], **(OPTIONS | {"epochs": 40} | options))
    return str(error.value), model, seen


class Edge(Pair):
    """The gradient of the square root is NaN, and the loss finite, once the level falls below zero."""

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


@pytest.mark.parametrize("optimizer", [None, torch.optim.SGD])
@pytest.mark.parametrize("name", EXPLOSIONS)
def test_what_is_not_finite_stops_a_captured_run_before_the_step(name: str, optimizer) -> None:
    make, message, rate = EXPLOSIONS[name]
    options = {"batch_size": 50, "optimizer": optimizer, "learning_rate": rate}
    (expected, eager, _), (got, captured, seen) = (
        raised(make, REALS - 1.0, compile=way, **options) for way in (False, True)
    )
    assert got == expected
    assert re.match(message, got)
    assert_holds(captured, seen[-1])
    assert captured.training_state.step == len(captured.history) == len(seen)
    assert len(RAN) == len(seen) + 1
    assert_same(eager, captured, rtol=1e-9)


class Clock(Pair):
    """A buffer counts the runs; the run of one number is not finite."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("time", torch.zeros((), dtype=torch.float64))

    def seen(self, x):
        self.time.add_(1.0)
        return x + torch.where(self.time == 4, torch.nan, 0.0)


def test_buffers_move_once_where_a_captured_step_is_not_finite() -> None:
    (expected, eager, _), (got, captured, seen) = (
        raised(Clock, REALS, batch_size=50, compile=way) for way in (False, True)
    )
    assert got == expected
    assert all(torch.equal(parameter, seen[-1][name]) for name, parameter in captured.named_parameters())
    assert_same(eager, captured)


def test_a_buffer_that_a_callback_moved_stays_where_a_captured_step_is_not_finite() -> None:
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


# What can't be captured.


class Branching(Pair):
    def loc(self, z):
        return super().loc(z) if z.sum() > 0 else 2 * super().loc(z)


class Counting(Pair):
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


UNCAPTURABLE = {
    "chunks of particles": (Pair, ELBOS["IWAE in chunks"], "max_particles_at_once bounds memory, which a graph would"),
    "control flow": (Branching, elbos.ELBO, r"GuardOnDataDependentSymNode: \w+"),
    "an attribute": (Counting, elbos.ELBO, "the programs change attributes of the model as they run"),
    "an attribute that is a tensor": (Keeping, elbos.ELBO, "the programs change attributes of the model as they run"),
    "two kinds of parameters": (two_kinds, elbos.ELBO, "parameters are of several kinds"),
    "an estimator of Pyro": (Pair, pyro.infer.TraceGraph_ELBO, "TraceGraph_ELBO runs as Pyro wrote it"),
    "enumeration": (
        Discrete,
        partial(pyro.infer.TraceEnum_ELBO, max_plate_nesting=1),
        "TraceEnum_ELBO runs as Pyro wrote it",
    ),
}


def data_of(make):
    return Discrete.rows.repeat(10, 1) if make is Discrete else REALS


@pytest.mark.parametrize("name", UNCAPTURABLE)
def test_what_cannot_be_captured_is_named(name: str) -> None:
    make, elbo, reason = UNCAPTURABLE[name]
    model = make()
    before = snapshot(model)
    with pytest.raises(RuntimeError, match=f"The step must be one that can be compiled; got {reason}"):
        model.fit(data_of(make), elbo=elbo(), **OPTIONS)
    assert_holds(model, before)
    assert all(owns_its_memory(parameter) and parameter.grad is None for parameter in model.parameters())
    assert not any(isinstance(value, FakeTensor) for value in vars(model).values())
    assert not RAN


def test_a_fit_that_cannot_be_captured_leaves_the_training_state() -> None:
    fresh = Branching()
    trained = train(Branching, REALS, compile=False)
    state = copy.deepcopy(trained)
    for model in (fresh, trained):
        with pytest.raises(RuntimeError, match="must be one that can be compiled"):
            model.fit(REALS, **OPTIONS, learning_rate=0.5, optimizer=torch.optim.AdamW)
    assert fresh.training_state is None
    assert_equal(trained, state)
    assert type(trained.training_state.optimizer) is torch.optim.Adam
    assert group(trained)["lr"] == 1e-3
    assert trained.training_state.learning_rate == 1e-3


@pytest.mark.parametrize("name", UNCAPTURABLE)
def test_by_default_it_trains_uncompiled_and_says_so_once(name: str, caplog, always_pays) -> None:
    make, elbo, reason = UNCAPTURABLE[name]
    eager, fallen = (train(make, data_of(make), elbo=elbo, compile=way) for way in (False, "auto"))
    assert_equal(eager, fallen)
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
def test_what_a_graph_may_miss_is_captured_as_it_is_or_refused(make) -> None:
    eager = train(make, REALS, compile=False)
    try:
        captured = train(make, REALS)
    except RuntimeError as error:
        if "The step must be one that can be compiled" not in str(error):
            raise
        return
    assert_same(eager, captured)


def test_compile_is_true_false_or_auto() -> None:
    with pytest.raises(ValueError, match="compile must be True, False or 'auto'; got 'nonsense'"):
        Pair().fit(REALS, **(OPTIONS | {"compile": "nonsense"}))
    before = graphs.compilations
    train(Pair, REALS, compile=0)
    assert graphs.compilations == before


def test_compiling_pays_for_many_steps() -> None:
    parameters = [nn.Parameter(torch.zeros(2))]

    def pays(epochs: int, num_particles: int = 1, data=DATA) -> bool:
        batches = Batches(data, like=DATA, batch_size=10)
        estimator = elbos.IWAE(num_particles=num_particles)
        return pays(EagerStep(None, estimator, torch.optim.SGD(parameters, lr=1.0), batches), epochs)

    assert not pays(epochs=4)
    assert pays(epochs=10_000)
    assert pays(epochs=4, num_particles=10**7)
    assert not pays(epochs=4, data=DataLoader(DATA, batch_size=10))
    assert pays(epochs=10_000, data=DataLoader(DATA, batch_size=10))


def test_short_runs_are_not_compiled_by_default() -> None:
    before = graphs.compilations
    assert_equal(train(Pair, REALS, compile="auto"), train(Pair, REALS, compile=False))
    assert graphs.compilations == before


# What a fit leaves as it found it.


def process_state() -> tuple:
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
    """Settings that nobody has: threads, denormal numbers taken for zero, a parameter in the store, no validation."""
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
    "uncaptured": (Branching, {}, RuntimeError),
}


@pytest.mark.parametrize("end", ENDS)
def test_the_process_is_left_as_found_by_a_captured_fit_that_ends(end: str, unusual) -> None:
    make, options, error = ENDS[end]
    before = process_state()
    assert before[:6] == (3, True, False, False, False, ["mine"])
    if error is None:
        train(make, REALS, **options)
    else:
        with pytest.raises(error):
            train(make, REALS, **options)
    assert process_state() == before


# Noise that is repeated.


def draws() -> list[torch.Tensor]:
    return [
        nn.functional.dropout(torch.ones(50), 0.5),
        dist.Normal(torch.zeros(3), 1.0).rsample(),
        dist.Bernoulli(torch.full((20,), 0.5)).sample(),
        torch.empty(4).uniform_(),
        torch.randperm(10),
    ]


def test_noise_that_is_kept_comes_again() -> None:
    with Noise() as kept:
        first = draws()
    assert len(kept.kept) == 5
    before = torch.get_rng_state()
    with Noise(repeat=kept):
        second = draws()
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert torch.equal(torch.get_rng_state(), before)
    second[1].add_(1.0)
    with Noise(repeat=kept):
        assert torch.equal(draws()[1], first[1])


def test_more_noise_than_was_kept_is_refused() -> None:
    with Noise() as kept:
        draws()
    with Noise(repeat=kept):
        draws()
        with pytest.raises(ValueError, match="The guide must draw the same noise each time it runs; got more"):
            torch.randn(1)


# The compiler.


def test_a_compiled_fit_gives_the_numbers_of_the_interpreter(inductor) -> None:
    state = process_state()
    assert_same(*both(Pair, REALS[:47], grad_clip=5.0))
    assert process_state() == state


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
def test_the_compiler_gives_the_numbers_of_the_interpreter(name: str, inductor) -> None:
    make, data, options = COMPILED[name]
    assert_same(*both(make, data, **options))


@pytest.mark.slow
def test_the_same_seed_gives_the_same_compiled_run(inductor) -> None:
    assert_equal(train(small_vae, DATA[:47]), train(small_vae, DATA[:47]))


@pytest.mark.slow
def test_two_compiled_fits_in_turn_train_as_if_alone(inductor) -> None:
    test_two_fits_in_turn_train_as_if_alone()


@pytest.mark.slow
@pytest.mark.parametrize("name", EXPLOSIONS)
def test_what_is_not_finite_stops_a_compiled_run_before_the_step(name: str, inductor) -> None:
    test_what_is_not_finite_stops_a_captured_run_before_the_step(name, None)
