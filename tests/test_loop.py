"""The loop: epochs, validation, early stopping, callbacks, and a later fit that continues where the last one ended."""

from __future__ import annotations

import copy
import math
from functools import partial

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from cases import LIKELIHOODS, BatchNormNet, draw_data, small_vae
from exact import LinearGaussian
from measuring import STATUS, anonymous_memory
from torch import nn

import pyro_vae as pv
from pyro_vae import elbos

DATA = draw_data(LIKELIHOODS["Bernoulli"]().double(), 50)


def parameters(model) -> list[torch.Tensor]:
    return [parameter.detach().clone() for parameter in model.parameters()]


def equal(first, second) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.skipif(not STATUS.exists(), reason="memory is read from /proc")
def test_memory_does_not_grow_over_epochs() -> None:
    vae = small_vae()
    vae.fit(DATA, epochs=20, batch_size=5, seed=0, progress=False)
    before = anonymous_memory()
    vae.fit(DATA, epochs=100, batch_size=5, seed=0, progress=False)
    assert anonymous_memory() - before < 4000 * 1024  # over a thousand steps; a step's tensors take some kilobytes


def test_the_same_seed_gives_the_same_run_and_leaves_the_global_random_state() -> None:
    runs = []
    for seed in (5, 5, 6):
        vae = small_vae()
        random = torch.get_rng_state()
        runs.append(vae.fit(DATA, valid=DATA[:9], epochs=3, batch_size=16, seed=seed, progress=False)["train_bound"])
        assert torch.equal(random, torch.get_rng_state())
    assert runs[0] == runs[1] != runs[2]
    vae = small_vae()
    random = torch.get_rng_state()
    vae.fit(DATA, epochs=1, progress=False)
    assert not torch.equal(random, torch.get_rng_state())


def test_a_later_fit_continues_where_the_last_one_ended() -> None:
    whole, parts = small_vae(), small_vae()
    options = {"batch_size": 16, "seed": 3, "progress": False, "learning_rate": lambda step: 1e-2 / (1 + step)}
    one = whole.fit(DATA, epochs=4, **options)
    parts.fit(DATA, epochs=1, **options)
    two = parts.fit(DATA, epochs=3, batch_size=16, seed=3, progress=False)
    assert one["train_bound"] == two["train_bound"]
    assert one["epoch"] == two["epoch"] == [1, 2, 3, 4]
    assert equal(parameters(whole), parameters(parts))
    assert one["learning_rate"][-1] == pytest.approx(1e-2 / 16)
    assert parts.history is two


def test_a_later_fit_may_change_the_learning_rate() -> None:
    vae = small_vae()
    vae.fit(DATA, epochs=1, seed=0, progress=False)
    optimizer = vae.training_state.optimizer
    assert vae.fit(DATA, epochs=1, learning_rate=1e-5, seed=0, progress=False)["learning_rate"] == [1e-3, 1e-5]
    assert vae.fit(DATA, epochs=1, seed=0, progress=False)["learning_rate"][-1] == 1e-5
    assert vae.training_state.optimizer is optimizer


def test_two_models_train_as_if_alone() -> None:
    alone = []
    for seed in (0, 1):
        vae = small_vae()
        vae.fit(DATA, epochs=3, batch_size=16, seed=seed, progress=False)
        alone.append(parameters(vae))
    together = [small_vae(), small_vae()]
    for _ in range(3):
        for seed, vae in enumerate(together):
            vae.fit(DATA, epochs=1, batch_size=16, seed=seed, progress=False)
    assert all(equal(parameters(vae), trained) for vae, trained in zip(together, alone, strict=True))
    assert len(pyro.get_param_store()) == 0


def test_the_order_of_rows_is_random_and_every_row_is_seen_once() -> None:
    seen = []

    class Watch(LinearGaussian):
        def model(self, x=None, *, rows=None, **batch):
            seen.append(x)
            return super().model(x, rows=rows)

        def guide(self, x, **batch):
            return super().guide(x)

    x = LinearGaussian().draw(23)
    Watch().fit(x, epochs=1, batch_size=10, seed=0, progress=False)
    epoch = torch.cat(seen[-3:])
    assert [len(batch) for batch in seen[-3:]] == [10, 10, 3]
    assert not torch.equal(epoch, x)
    assert torch.equal(epoch.sort(0).values, x.sort(0).values)


def test_early_stopping_restores_the_best_parameters() -> None:
    vae = small_vae()
    calls = []
    history = vae.fit(
        DATA[:20],
        valid=DATA[20:],
        elbo=elbos.MeanFieldELBO(),
        epochs=400,
        batch_size=20,
        learning_rate=2e-2,
        patience=5,
        seed=0,
        progress=False,
        callbacks=[lambda model, table: calls.append(len(table))],
    )
    assert len(history) < 400
    best = int(np.argmax(history["valid_bound"]))
    assert best == len(history) - 6
    assert calls == list(range(1, len(history) + 1))
    result = vae.elbo(DATA[20:], num_particles=2000, seed=1)
    assert result.mean().estimate == pytest.approx(history["valid_bound"][best], abs=0.3)


def test_patience_counts_anew_in_a_later_fit() -> None:
    vae = small_vae()
    options = {"valid": DATA[20:], "batch_size": 20, "patience": 3, "progress": False, "learning_rate": 2e-2}
    first = len(vae.fit(DATA[:20], epochs=200, seed=0, **options))
    assert first < 200
    assert len(vae.fit(DATA[:20], epochs=2, seed=1, **options)) == first + 2


def test_validation_uses_common_random_numbers_and_no_kl_weight() -> None:
    vae = small_vae()
    options = {"valid": DATA, "epochs": 2, "batch_size": 50, "seed": 0, "progress": False}
    frozen = vae.fit(DATA, optimizer=partial(torch.optim.SGD), learning_rate=1e-12, **options)
    assert frozen["valid_bound"][0] == pytest.approx(frozen["valid_bound"][1], abs=1e-7)
    assert frozen["train_bound"][0] != frozen["train_bound"][1]
    heavy = small_vae().fit(
        DATA, elbo=elbos.ELBO(kl_weight=100.0), optimizer=torch.optim.SGD, learning_rate=1e-12, **options
    )
    np.testing.assert_allclose(heavy["valid_bound"], frozen["valid_bound"], atol=1e-6)
    np.testing.assert_allclose(heavy["train_bound"], frozen["train_bound"], atol=1e-6)
    np.testing.assert_allclose(frozen["train_objective"], frozen["train_bound"], atol=1e-9)
    weighted = np.array(heavy["train_reconstruction"]) - 100 * np.array(heavy["train_kl"])
    np.testing.assert_allclose(heavy["train_objective"], weighted, rtol=1e-9)


def test_a_callback_ends_the_run() -> None:
    history = small_vae().fit(DATA, epochs=9, seed=0, progress=False, callbacks=[lambda model, table: len(table) == 2])
    assert len(history) == 2


def test_control_c_returns_the_history_and_a_usable_model() -> None:
    def interrupt(model, table):
        if len(table) == 2:
            raise KeyboardInterrupt

    vae = small_vae()
    history = vae.fit(DATA, epochs=9, seed=0, progress=False, callbacks=[interrupt])
    assert len(history) == 2
    assert history.interrupted
    assert vae.sample(3).shape == (3, 2, 3)
    assert len(vae.fit(DATA, epochs=1, seed=0, progress=False)) == 3


def test_gradients_are_clipped_to_the_norm() -> None:
    moved = []
    for clip in (1e-3, None):
        vae = small_vae()
        before = torch.cat([parameter.flatten() for parameter in parameters(vae)])
        vae.fit(
            DATA,
            epochs=1,
            batch_size=50,
            optimizer=torch.optim.SGD,
            learning_rate=1.0,
            grad_clip=clip,
            seed=0,
            progress=False,
        )
        moved.append(float((torch.cat([parameter.flatten() for parameter in parameters(vae)]) - before).norm()))
    assert moved[0] == pytest.approx(1e-3, rel=1e-3)
    assert moved[1] > 1e-2


class Explosive(pv.LatentVariableModel):
    """A guide whose mean for one row, or whose gradient, becomes NaN after some steps."""

    def __init__(self, where: str) -> None:
        super().__init__()
        self.where, self.calls = where, 0
        self.loc = nn.Parameter(torch.zeros(1))

    def model(self, x=None, *, rows=None, **batch):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    def guide(self, x, **batch):
        self.calls += self.training  # checks of the first batch run in evaluation mode
        loc = self.loc.expand(len(x), 1)
        if self.calls > 6 and self.where == "term":
            loc = loc + torch.where(torch.arange(len(x)).unsqueeze(-1) == 3, torch.nan, 0.0)
        if self.calls > 6 and self.where == "gradient":
            loc = loc + (self.loc - self.loc).abs().sqrt()
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc, 1.0).to_event(1))


@pytest.mark.parametrize(
    ("where", "message"),
    [
        (
            "term",
            r"The term log q\(z \| x\) must be finite; got nan at site 'z' in rows 5 of the data at step 4. .* loc of",
        ),
        ("gradient", "Gradients must be finite; got NaN or infinity for loc at step 4, while the loss is finite"),
    ],
)
def test_training_stops_before_a_step_that_is_not_finite_and_names_it(where: str, message: str) -> None:
    model, before = Explosive(where), []
    x = torch.randn(10, 1)
    with pytest.raises(ValueError, match=message):
        model.fit(x, epochs=9, batch_size=10, progress=False, callbacks=[lambda m, h: before.append(m.loc.item())])
    assert math.isfinite(model.loc.item())
    assert model.loc.item() == before[-1]
    assert len(model.history) == len(before) == 4


def test_nets_are_in_training_mode_and_running_statistics_move_once_a_step() -> None:
    encoder = BatchNormNet((6, 6))
    vae = small_vae(encoder=encoder)
    vae.eval()
    vae.fit(DATA, valid=DATA[:9], epochs=2, batch_size=25, seed=0, progress=False)
    assert int(encoder.layers[1].num_batches_tracked) == 4
    assert not vae.training


def test_a_random_transform_is_drawn_anew_each_epoch() -> None:
    seen = []

    class Watch(LinearGaussian):
        def model(self, x=None, *, rows=None, **batch):
            seen.append(x)
            return super().model(x, rows=rows)

        def guide(self, x, **batch):
            return super().guide(x)

    rows = pv.Rows(torch.full((6, 4), 0.5), transform=torch.bernoulli)
    Watch().fit(rows, epochs=2, batch_size=6, seed=0, progress=False)
    assert set(seen[-1].unique().tolist()) == {0.0, 1.0}
    assert not torch.equal(seen[-1], seen[-2])


def test_a_copy_of_a_model_trains_by_itself() -> None:
    vae = small_vae()
    vae.fit(DATA, epochs=1, seed=0, progress=False)
    twin = copy.deepcopy(vae)
    vae.fit(DATA, epochs=1, seed=0, progress=False)
    assert not equal(parameters(vae), parameters(twin))
    twin.fit(DATA, epochs=1, seed=0, progress=False)
    assert equal(parameters(vae), parameters(twin))


def test_the_history_is_a_table() -> None:
    vae = small_vae()
    history = vae.fit(DATA, valid=DATA, epochs=2, seed=0, progress=False)
    frame = history.to_pandas()
    assert list(frame.columns) == list(pv.History.COLUMNS)
    assert frame["train_bound"].tolist() == history["train_bound"]
    lines = history.to_csv().splitlines()
    assert len(lines) == 3
    assert float(lines[1].split(",")[1]) == history["train_bound"][0]
    assert "2 epochs" in repr(history)
    assert small_vae().history.rows == []
