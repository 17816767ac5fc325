"""The compiled step: the same numbers as the uncompiled step, for every estimator, program and form of data."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch
from both_steps import (  # noqa: F401
    DATA,
    ESTIMATORS,
    RAMP,
    REALS,
    WEIGHTS,
    Chain,
    Pair,
    assert_equal,
    assert_same,
    batch_norm_vae,
    both,
    recorded,
    train,
)
from cases import ELBOS, small_vae
from exact import Discrete
from pyro.distributions import constraints
from pyro.nn import PyroParam
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

import pyro_vae as pv
from pyro_vae import elbos
from pyro_vae.schedules import Linear

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
def test_compiled_equals_uncompiled_with_every_estimator(name: str) -> None:
    assert_same(*both(Pair, REALS, elbo=(ESTIMATORS | REGULARIZED)[name]))


@pytest.mark.slow
@pytest.mark.parametrize("name", ESTIMATORS | REGULARIZED)
def test_compiled_equals_uncompiled_with_every_estimator_of_a_vae(name: str) -> None:
    assert_same(*both(small_vae, DATA[:47], elbo=(ESTIMATORS | REGULARIZED)[name]))


def test_compiled_equals_uncompiled_with_dropout_and_running_statistics() -> None:
    uncompiled, compiled = both(batch_norm_vae, DATA[:47], valid=DATA[:9])
    assert_same(uncompiled, compiled)
    assert int(compiled.encoder.module.layers[1].num_batches_tracked) == 20


@pytest.mark.slow
def test_only_a_bias_without_influence_differs_by_rounding() -> None:
    def make():
        model = batch_norm_vae()
        model.encoder.module.layers[0].bias.requires_grad_(True)
        return model

    uncompiled, compiled = both(make)
    for model in (uncompiled, compiled):  # the bias, and the running mean that it shifts
        model.encoder.module.layers[0].bias.detach().zero_()
        model.encoder.module.layers[1].running_mean.zero_()
        model.training_state.optimizer.state.clear()
    assert_same(uncompiled, compiled)


@pytest.mark.parametrize("name", ["MeanFieldELBO", "IWAE dreg"])
def test_compiled_equals_uncompiled_in_single_precision(name: str) -> None:
    assert_same(*both(lambda: Pair().float(), REALS, elbo=ELBOS[name]), atol=1e-6, rtol=1e-5)


def test_compiled_steps_take_the_same_noise_from_the_global_stream() -> None:
    runs, states = [], []
    for way in (False, True):
        torch.manual_seed(3)
        runs.append(train(Pair, REALS, seed=None, compile=way))
        states.append(torch.get_rng_state())
    assert_same(*runs)
    assert torch.equal(*states)


def test_the_same_seed_gives_the_same_compiled_run() -> None:
    assert_equal(train(Pair, REALS), train(Pair, REALS))


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
def test_compiled_equals_uncompiled_with_two_latents(name: str, rows: int) -> None:
    assert_same(*both(Chain, REALS[:rows], elbo=ELBOS[name]))


@pytest.mark.parametrize("name", ["ELBO K=3", "MeanFieldELBO"])
def test_compiled_equals_uncompiled_with_a_global_latent(name: str) -> None:
    assert_same(*both(Global, REALS[:47, 0], elbo=ELBOS[name]))


def test_compiled_equals_uncompiled_with_discrete_latents() -> None:
    assert_same(*both(Discrete, Discrete.rows.repeat(10, 1), elbo=ELBOS["IWAE vimco"]))


def test_compiled_equals_uncompiled_with_a_parameter_in_two_places() -> None:
    class Tied(Pair):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.one, self.two = nn.Linear(2, 4).double(), nn.Linear(2, 4).double()
            self.two.weight = self.one.weight

        def loc(self, z):
            return super().loc(z) + self.one(z) + self.two(z)

    uncompiled, compiled = both(Tied, REALS)
    assert_same(uncompiled, compiled)
    assert compiled.one.weight is compiled.two.weight


def shared_vae():
    torch.manual_seed(4)
    shared = nn.Linear(4, 4)
    decoder = nn.Sequential(nn.Linear(2, 4), shared)
    parts = {"likelihood": pv.likelihoods.Normal(4), "prior": pv.priors.Normal(2), "encoder": shared}
    return pv.VAE(decoder=decoder, **parts, seed=0).double()


@pytest.mark.parametrize("name", ["ELBO", "ELBO stl"])
def test_compiled_equals_uncompiled_with_a_module_in_two_places(name: str) -> None:
    assert_same(*both(shared_vae, REALS, elbo=ELBOS[name]))


def test_a_module_in_two_places_trains_with_the_stl_gradient() -> None:
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
    "stream that differs each time": (lambda: Stream(), {"num_rows": 50}),
}


class Stream(IterableDataset):
    """Other rows each time it is read."""

    def __init__(self) -> None:
        self.reads = 0

    def __iter__(self):
        self.reads += 1
        return iter(REALS.roll(self.reads, 0))


@pytest.mark.parametrize("name", SOURCES)
def test_compiled_equals_uncompiled_with_every_form_of_data(name: str) -> None:
    data, options = SOURCES[name]
    assert_same(*both(Pair, data, **options))


def test_compiled_equals_uncompiled_with_row_weights_and_importance_weights() -> None:
    assert_same(*both(small_vae, pv.Rows(DATA, {"row_weights": WEIGHTS}), elbo=ELBOS["IWAE"], **WEIGHTED))


@pytest.mark.slow
@pytest.mark.parametrize("name", ESTIMATORS)
def test_compiled_equals_uncompiled_with_row_weights_and_every_estimator(name: str) -> None:
    assert_same(*both(small_vae, pv.Rows(DATA, {"row_weights": WEIGHTS}), elbo=ESTIMATORS[name], **WEIGHTED))


def test_fields_reach_a_compiled_program() -> None:
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
    uncompiled, compiled = both(Labelled, data, fields=("real", "label"))
    assert_same(uncompiled, compiled)
    assert (compiled.shift != 0).all()
