"""The checks before the first step: wrong data, options and programs are errors that name them, and nothing trains."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pyro.infer
import pytest
import torch
from cases import draw_data, small_vae
from exact import LinearGaussian
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

import pyro_vae as pv
from pyro_vae import likelihoods
from pyro_vae.data.batches import as_rows

GOOD = torch.bernoulli(torch.full((12, 2, 3), 0.5))


class Endless(IterableDataset):
    def __iter__(self):
        return iter(GOOD)


DATA = {
    "wrong shape": (GOOD[:, 0], ValueError, r"x must have shape \(rows, 2, 3\) for Bernoulli; got \(12, 3\)"),
    "grey pixels": (GOOD * 255, ValueError, r"x must lie in \{0, 1\} for Bernoulli; got 255 in row .* up to 255"),
    "NaN": (GOOD * torch.nan, ValueError, "x must have no missing cells for this model; got nan in row 0"),
    "infinity": (GOOD / 0.0, ValueError, "x must be finite; got"),
    "no rows": (GOOD[:0], ValueError, r"x must be at least one row; got shape \(0, 2, 3\)"),
    "a number": (torch.tensor(1.0), ValueError, r"x must be at least one row; got shape \(\)"),
    "no rows in a data set": (DataLoader(TensorDataset(GOOD[:0])), ValueError, "x must be at least one row; got none"),
    "text": (
        np.array(["a", "b"]),
        TypeError,
        "x must be a tensor, array, frame, Dataset or DataLoader of numbers; got ndarray",
    ),
    "objects": (np.array([None, 1]), TypeError, "of numbers; got ndarray of dtype object"),
    "a string": ("digits", TypeError, "of numbers; got str"),
    "complex": (GOOD * 1j, TypeError, "x must be real; got dtype torch.complex64"),
    "no length": (Endless(), ValueError, "num_rows must be given for data without a length"),
    "text columns": (
        pd.DataFrame({"a": [1.0], "b": ["x"]}),
        TypeError,
        r"columns must be numbers; got text .* \['b'\]",
    ),
    "a missing cell": (
        pd.DataFrame({"a": [1.0, 2.0], "b": [1.0, np.nan]}),
        ValueError,
        "x must have no missing cells for this model; got nan in row 1, column 'b'",
    ),
}


@pytest.mark.parametrize("name", DATA)
def test_wrong_data_are_an_error_and_leave_the_model_unchanged(name: str) -> None:
    data, error, message = DATA[name]
    vae = small_vae()
    before = {key: value.clone() for key, value in vae.state_dict().items()}
    with pytest.raises(error, match=message):
        vae.fit(data, epochs=1, progress=False)
    assert all(torch.equal(value, before[key]) for key, value in vae.state_dict().items())
    assert len(vae.history) == 0


def test_a_count_above_the_total_is_an_error_with_its_row() -> None:
    vae = small_vae(likelihood=likelihoods.Binomial((2, 3), total_count=16))
    x = 16 * GOOD
    x[4, 1, 2] = 17
    with pytest.raises(ValueError, match=r"x must lie in \{0, 1, ..., 16\} for Binomial; got 17 in row 4"):
        vae.fit(x, epochs=1, progress=False)


def test_wrong_validation_rows_are_an_error_before_training() -> None:
    vae = small_vae()
    with pytest.raises(ValueError, match="x must lie in"):
        vae.fit(GOOD, valid=GOOD + 0.5, epochs=1, progress=False)
    assert len(vae.history) == 0


OPTIONS = {
    "batch_size must be a positive integer; got 0": {"batch_size": 0},
    "epochs must be a positive integer; got -1": {"epochs": -1},
    "epochs must be a positive integer; got 2.0": {"epochs": 2.0},
    "learning_rate must be positive; got 0": {"learning_rate": 0},
    "learning_rate must be positive; got nan": {"learning_rate": float("nan")},
    "grad_clip must be positive; got 0": {"grad_clip": 0},
    "valid must be given where patience is": {"patience": 3},
    "patience must be a positive integer; got 0": {"patience": 0, "valid": GOOD},
    "seed must be zero or more; got -3": {"seed": -3},
    r"field 'label' must be one that the model reads \(it reads none\); got a name that is no option": {
        "fields": ("label",)
    },
}


@pytest.mark.parametrize("message", OPTIONS)
def test_wrong_values_of_options_are_errors(message: str) -> None:
    vae = small_vae()
    with pytest.raises(ValueError, match=message):
        vae.fit(GOOD, progress=False, **({"epochs": 1} | OPTIONS[message]))
    assert len(vae.history) == 0


def test_options_of_a_wrong_type_are_errors() -> None:
    with pytest.raises(TypeError, match=r"valid must be rows, in any form that data takes; got 0.1"):
        small_vae().fit(GOOD, valid=0.1, epochs=1, progress=False)
    with pytest.raises(TypeError, match="learning_rate must be a number, a schedule or a function; got '1e-3'"):
        small_vae().fit(GOOD, learning_rate="1e-3", epochs=1, progress=False)
    with pytest.raises(TypeError, match="optimizer must make a first-order"):
        small_vae().fit(GOOD, optimizer=torch.optim.LBFGS, epochs=1, progress=False)
    with pytest.raises(TypeError, match="elbo must be a pyro.infer.ELBO object; got 'iwae'"):
        small_vae().fit(GOOD, elbo="iwae", epochs=1, progress=False)
    with pytest.raises(TypeError, match="optimizer must make a first-order torch.optim.Optimizer"):
        small_vae().fit(GOOD, optimizer=lambda parameters, lr: None, epochs=1, progress=False)


def test_fields_of_a_tuple_must_name_every_element() -> None:
    vae = small_vae()
    with pytest.raises(ValueError, match=r"fields must name all 2 elements, 'x' among them; got \('label',\)"):
        vae.fit((GOOD, torch.arange(12)), fields=("label",), epochs=1, progress=False)
    with pytest.raises(ValueError, match=r"field 'label' must have one entry per row \(12\); got shape \(3,\)"):
        vae.fit((GOOD, torch.arange(3)), fields=("x", "label"), epochs=1, progress=False)
    with pytest.raises(ValueError, match=r"fields must have names that programs do not use; got \['rows'\]"):
        pv.Rows(GOOD, {"rows": torch.arange(12)})


def test_a_frame_keeps_its_names_and_named_columns_become_fields() -> None:
    frame = pd.DataFrame({"a": [1, 2], "group": [0, 1], "b": [3.5, 4.5]}, index=["r", "s"])
    rows = as_rows(frame, fields=("group",))
    assert rows.columns == ["a", "b"]
    assert rows.index == ["r", "s"]
    assert rows.fields["group"].tolist() == [0, 1]
    assert rows.x.tolist() == [[1.0, 3.5], [2.0, 4.5]]
    with pytest.raises(ValueError, match=r"fields must be columns of the frame; got \['c'\]"):
        as_rows(frame, fields=("c",))


class Program(LinearGaussian):
    """The linear-Gaussian model with one fault."""

    def __init__(self, fault: str) -> None:
        super().__init__()
        self.fault = fault
        if fault == "unused":
            self.unused = nn.Linear(2, 3)

    def model(self, x=None, *, rows=None, **batch):
        if self.fault == "loose parameter":
            pyro.param("loose", torch.tensor(1.0))
        with pyro.plate("data", len(x) if self.fault != "plate size" else 1):
            z = pyro.sample("z", dist.Normal(torch.zeros(2, dtype=torch.float64), 1.0).to_event(1))
            loc = z @ self.weight.T + self.bias
            if self.fault == "support":
                return pyro.sample("x", dist.Gamma(loc.exp(), 1.0).to_event(1), obs=x)
            if self.fault == "infinite":
                loc = loc * torch.where(
                    torch.arange(len(x)) == 2, torch.tensor(1e200, dtype=torch.float64), 1.0
                ).unsqueeze(-1)
            fn = dist.Normal(loc, self.log_scale.exp())
            return pyro.sample("x", fn if self.fault == "event" else fn.to_event(1), obs=x)

    def guide(self, x, **batch):
        if self.fault == "no plate":
            return pyro.sample("z", dist.Normal(x[:, :2], 1.0).to_event(1))
        with pyro.plate("data", len(x)):
            if self.fault == "site":
                return pyro.sample("code", dist.Normal(x[:, :2], 1.0).to_event(1))
            loc = (x - self.bias.detach()) @ self.mean_map.T + self.mean_shift
            if self.fault == "nan":
                loc = loc * torch.nan
            return pyro.sample("z", dist.MultivariateNormal(loc, scale_tril=self.tril.tril()))


PROGRAMS = {
    "site": r"got \['z'\] only in the model and \['code'\] only in the guide",
    "plate size": "Plate 'data' must have the same size in model and guide; got 1 in the model and 12 in the guide",
    "unused": "Every parameter must receive a gradient; got none for unused.weight, unused.bias",
    "loose parameter": "Parameter 'loose' must belong to the module",
    "support": r"x must lie in the support of Gamma, .*; got values from .* in row \d+",
    "infinite": "The term of site 'x' must be finite; got -inf in row 2 of the first batch",
    "event": "Shape mismatch inside plate",
    "nan": "to satisfy the constraint",
}


@pytest.mark.parametrize("fault", PROGRAMS)
def test_programs_with_a_fault_are_errors_and_stay_unchanged(fault: str) -> None:
    program, x = Program(fault), LinearGaussian().draw(12)
    before = [parameter.detach().clone() for parameter in program.parameters()]
    with pytest.raises(ValueError, match=PROGRAMS[fault]):
        program.fit(x, epochs=1, progress=False)
    assert all(torch.equal(a, b) for a, b in zip(before, program.parameters(), strict=True))
    assert all(parameter.grad is None for parameter in program.parameters())


def test_initialization_from_the_data_is_undone_where_the_first_batch_fails() -> None:
    vae = small_vae()
    vae.spare = nn.Parameter(torch.zeros(1, dtype=torch.float64))
    with pytest.raises(ValueError, match="got none for spare"):
        vae.fit(GOOD, epochs=1, progress=False)
    assert not vae.initialized
    assert (vae.likelihood.offset == 0).all()
    assert vae.training_state is None


def test_a_guide_without_plate_is_an_error() -> None:
    program, x = Program("no plate"), LinearGaussian().draw(12)
    with pytest.raises(ValueError, match="z"):
        program.fit(x, epochs=1, progress=False)


def test_a_model_without_trainable_parameters_is_an_error() -> None:
    program = LinearGaussian().requires_grad_(False)
    with pytest.raises(ValueError, match="must have a trainable parameter; got none"):
        program.fit(program.draw(5), epochs=1, progress=False)


def test_the_checks_change_no_random_state_statistic_or_gradient() -> None:
    vae = small_vae(encoder=nn.Sequential(nn.Flatten(), nn.Linear(6, 6), nn.BatchNorm1d(6)))
    x = draw_data(vae.likelihood, 10)
    random = torch.get_rng_state()
    statistics = vae.encoder.module[2].running_mean.clone()
    from pyro_vae.elbos import ELBO
    from pyro_vae.training import first_batch

    vae.train()
    first_batch.check_programs(vae, x, {})
    first_batch.check_gradients(vae, ELBO(), x)
    assert torch.equal(random, torch.get_rng_state())
    assert torch.equal(statistics, vae.encoder.module[2].running_mean)
    assert int(vae.encoder.module[2].num_batches_tracked) == 0
    assert all(parameter.grad is None for parameter in vae.parameters())


def test_frozen_parameters_do_not_move() -> None:
    program = LinearGaussian(width=1.5)
    program.weight.requires_grad_(False)
    vae = small_vae()
    vae.encoder.requires_grad_(False)
    before = program.weight.clone(), [parameter.clone() for parameter in vae.encoder.parameters()]
    program.fit(program.draw(20), epochs=2, progress=False)
    vae.fit(GOOD, epochs=2, progress=False)
    assert not program.weight.requires_grad
    assert torch.equal(program.weight, before[0])
    assert all(torch.equal(a, b) for a, b in zip(before[1], vae.encoder.parameters(), strict=True))


class PerRow(pv.LatentVariableModel):
    """A guide with parameters of single rows, each kind of a user's own."""

    def __init__(self, kind: str, num_rows: int = 12) -> None:
        super().__init__()
        self.kind = kind
        self.weight = nn.Parameter(torch.tensor([[0.1, -0.1, 0.1]]))
        shapes = {"transposed": (1, num_rows), "list": (1,), "flat": (2 * num_rows,), "embedding": (1,)}
        self.loc = nn.Parameter(torch.zeros(shapes.get(kind, (num_rows, 1))))
        self.locs = nn.ParameterList([nn.Parameter(torch.zeros(1)) for _ in range(num_rows if kind == "list" else 0)])
        self.table = nn.Embedding(num_rows, 1) if kind == "embedding" else None
        self.encoder = nn.Linear(3, 1) if kind in ("encoder", "global") else None

    def model(self, x=None, *, rows=None, **batch):
        weight = self.weight
        if self.kind == "global":
            weight = pyro.sample("w", dist.Normal(torch.zeros(1, 3), 1.0).to_event(2))
        with pyro.plate("data", len(x) if x is not None else rows):
            z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            effect = self.loc if self.kind == "model" else 0.0
            return pyro.sample("x", dist.Normal((z + effect) * weight.squeeze(-2), 0.3).to_event(1), obs=x)

    def guide(self, x, number=None, **batch):
        size = len(x)
        loc = {
            "rows": lambda: self.loc,
            "first rows": lambda: self.loc[:size],
            "scale": lambda: torch.zeros(size, 1),
            "transposed": lambda: self.loc.T,
            "list": lambda: torch.stack(list(self.locs)) + self.loc,
            "flat": lambda: self.loc.reshape(size, 2)[:, :1],
            "embedding": lambda: self.table(torch.arange(size)) + self.loc,
            "looked up": lambda: self.loc[number.long()],
            "encoder": lambda: self.encoder(x) + self.loc.mean(),
            "global": lambda: self.encoder(x) + self.loc.mean(),
            "model": lambda: x.mean(-1, keepdim=True),
        }[self.kind]()
        if self.kind == "global":
            pyro.sample("w", dist.Normal(self.weight + x.mean(0), 0.1).to_event(2))
        with pyro.plate("data", size):
            scale = 0.2 * self.loc.exp() if self.kind == "scale" else 0.2
            pyro.sample("z", dist.Normal(loc, scale).to_event(1))


PER_ROW = ["rows", "first rows", "scale", "transposed", "list", "flat", "embedding", "model"]


@pytest.mark.parametrize("kind", PER_ROW)
def test_parameters_of_single_rows_are_refused_where_rows_are_shuffled(kind: str) -> None:
    program, x = PerRow(kind), torch.randn(12, 3)
    with pytest.raises(ValueError, match="must treat a row alike wherever it stands in a batch.*DataLoader"):
        program.fit(x, epochs=1, progress=False)
    assert len(program.history) == 0


@pytest.mark.parametrize("kind", ["rows", "list"])
def test_parameters_of_single_rows_train_where_all_rows_keep_their_order(kind: str) -> None:
    z = torch.randn(40, 1, generator=torch.Generator().manual_seed(0))
    x = z * torch.tensor([1.0, -1.0, 0.5])
    program = PerRow(kind, 40)
    program.fit(DataLoader(TensorDataset(x), batch_size=40), epochs=60, learning_rate=0.05, seed=0, progress=False)
    loc = program.loc if kind == "rows" else torch.stack(list(program.locs))
    assert abs(float(torch.corrcoef(torch.cat([loc.detach(), z], 1).T)[0, 1])) > 0.9


@pytest.mark.parametrize("kind", ["looked up", "encoder", "global"])
def test_programs_that_do_not_depend_on_the_place_of_a_row_pass(kind: str) -> None:
    program, rows = PerRow(kind), pv.Rows(torch.randn(12, 3), {"number": torch.arange(12)})
    program.weight.requires_grad_(kind != "encoder")
    assert len(program.fit(rows, fields=("number",), epochs=1, progress=False)) == 1


class Coupled(pv.LatentVariableModel):
    """A Gaussian process over the rows: one latent outside the plate, with an entry for each row."""

    def __init__(self, amortized: bool, num_rows: int = 12) -> None:
        super().__init__()
        self.noise = nn.Parameter(torch.zeros(()))
        self.net = nn.Linear(1, 1) if amortized else None
        self.loc = None if amortized else nn.Parameter(torch.zeros(num_rows))

    def model(self, x=None, *, rows=None, time, **batch):
        covariance = (-((time - time.T) ** 2)).exp() + 0.1 * torch.eye(len(time))
        f = pyro.sample("f", dist.MultivariateNormal(torch.zeros(len(time)), covariance))
        with pyro.plate("data", len(time)):
            return pyro.sample("x", dist.Normal(f.unsqueeze(-1), self.noise.exp()).to_event(1), obs=x)

    def guide(self, x, time, **batch):
        loc = self.loc if self.net is None else self.net(x).squeeze(-1)
        pyro.sample("f", dist.Normal(loc, 0.3).to_event(1))


def test_a_process_over_rows_passes_unless_its_guide_has_parameters_of_single_rows() -> None:
    rows = pv.Rows(torch.randn(12, 1), {"time": torch.randn(12, 1)})
    options = {"fields": ("time",), "elbo": pyro.infer.Trace_ELBO(), "epochs": 1, "progress": False}
    assert len(Coupled(amortized=True).fit(rows, **options)) == 1
    with pytest.raises(ValueError, match=r"must treat a row alike.*got other gradients for loc \(12,\)"):
        Coupled(amortized=False).fit(rows, **options)
