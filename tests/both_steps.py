"""The same fit by uncompiled and by compiled steps, and whether both give the same numbers.

Where a test module imports the fixture `recorded`, graphs run as they were recorded, operation by operation; such a
graph is built in a second. Tests that ask for `inductor` compile theirs with torch's compiler, in some twenty seconds.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from cases import ELBOS, LIKELIHOODS, BatchNormNet, draw_data, small_vae
from pyro.distributions import constraints
from pyro.nn import PyroParam
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor

import pyro_vae as pv
from pyro_vae import elbos
from pyro_vae.graphs import graph as graphs
from pyro_vae.schedules import Linear

DATA = draw_data(LIKELIHOODS["Bernoulli"]().double(), 50)
REALS = torch.randn(50, 4, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
WEIGHTS = torch.rand(50, generator=torch.Generator().manual_seed(6), dtype=torch.float64)
OPTIONS = {"epochs": 4, "batch_size": 10, "seed": 0, "progress": False, "compile": True}
COLUMNS = [column for column in pv.History.COLUMNS if column != "seconds"]
RAMP = Linear(0.0, 1.0, steps=15)
ESTIMATORS = {name: make for name, make in ELBOS.items() if name != "IWAE in chunks"}
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
INDUCTOR = graphs._compiled
RAN: list[int] = []  # for each run of a graph, the number of rows in its batch


def run_graphs_by(compiler, monkeypatch) -> None:
    """Let `compiler` turn recorded graphs into functions, and note each call of those in `RAN`."""

    def compiled(*args):
        graph = compiler(*args)

        def run(*tensors):
            RAN.append(len(tensors[-1]))
            return graph(*tensors)

        return run

    monkeypatch.setattr(graphs, "_compiled", compiled)


@pytest.fixture(autouse=True)
def recorded(monkeypatch) -> None:
    """Graphs run as they were recorded, operation by operation."""
    RAN.clear()
    run_graphs_by(lambda graph, fakes, num_threads: graph, monkeypatch)


@pytest.fixture
def inductor(monkeypatch, recorded) -> None:
    """Graphs are compiled by Inductor."""
    run_graphs_by(INDUCTOR, monkeypatch)


class Pair(pv.LatentVariableModel):
    """The smallest model that trains: x is linear in z, and the mean of z is linear in x."""

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
    """Make and train a model; `elbo`, and `data` where it is a function, are made anew too."""
    model = make()
    model.fit(data() if callable(data) else data, elbo=elbo(), **(OPTIONS | options))
    return model


def both(make, data=DATA, **options):
    """The same model trained by uncompiled and by compiled steps; one graph takes every step of a full batch."""
    uncompiled = train(make, data, **(options | {"compile": False}))
    RAN.clear()
    before = graphs.compilations
    compiled = train(make, data, **options)
    assert graphs.compilations == before + 1
    assert len(RAN) >= 0.75 * compiled.training_state.step
    return uncompiled, compiled


def moments(model) -> list[torch.Tensor]:
    """The tensors that the optimizer keeps."""
    return [
        value
        for state in model.training_state.optimizer.state.values()
        for value in state.values()
        if isinstance(value, torch.Tensor)
    ]


def assert_same(first, second, atol: float = 1e-9, rtol: float = 0.0) -> None:
    """Two trained models have the same history, parameters, running statistics and state of the optimizer."""
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
    """Whether a tensor is no view of a larger one."""
    return tensor.untyped_storage().nbytes() == tensor.nbytes


def batch_norm_vae(**parts):
    torch.manual_seed(7)
    net = BatchNormNet((6, 6))
    net.layers[0].bias.requires_grad_(False)  # BatchNorm removes it: its gradient is rounding noise, blown up by Adam
    return small_vae(encoder=net, **parts)


class Chain(pv.LatentVariableModel):
    """Two latents, constrained parameters, and a guide that computes with the number of rows."""

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


class Clock(Pair):
    """A buffer counts the runs of the guide; what the fourth run gives is not finite."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("time", torch.zeros((), dtype=torch.float64))

    def seen(self, x):
        self.time.add_(1.0)
        return x + torch.where(self.time == 4, torch.nan, 0.0)


def after_two_epochs(change):
    """A callback that changes the model after its second epoch."""

    def callback(model, history) -> None:
        if len(history) == 2:
            change(model)

    return callback


class Branching(Pair):
    """A program whose operations depend on the numbers that it draws."""

    def loc(self, z):
        return super().loc(z) if z.sum() > 0 else 2 * super().loc(z)


def optimizer_options(model) -> dict:
    return model.training_state.optimizer.param_groups[0]
