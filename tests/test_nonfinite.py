"""Numbers that are not finite: errors name site, rows, step, cause and module; or steps are left out and counted."""

from __future__ import annotations

import math
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from cases import small_vae
from torch import nn

import pyro_vae as pv
from pyro_vae.training import nonfinite

DATA = (torch.rand(50, 2, 3, generator=torch.Generator().manual_seed(3)) < 0.4).double()
OPTIONS: dict[str, Any] = {"epochs": 3, "batch_size": 10, "seed": 0, "progress": False, "num_rows": 50}


class Breaks(nn.Module):
    """A net whose middle breaks from the fourth training step on: in its output, or in its gradient."""

    def __init__(self, how: str, first: int = 4) -> None:
        super().__init__()
        self.how, self.first, self.calls = how, first, 0
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(6, 5), Middle(self), nn.Linear(5, 6))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)


class Middle(nn.Module):
    def __init__(self, owner: Breaks) -> None:
        super().__init__()
        self.owner = [owner]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        (owner,) = self.owner
        if not self.training or not torch.is_grad_enabled():
            return x
        owner.calls += 1
        if owner.calls <= owner.first:
            return x
        if owner.how == "output":
            return x * torch.where(torch.arange(len(x)) == 3, torch.inf, 1.0).unsqueeze(-1)
        if owner.how == "gradient":
            return x + (x - x).abs().sqrt()
        return x


def fit(vae: Any, data: Any = DATA, **options: Any) -> pv.History:
    return vae.fit(data, **{"compile": False} | OPTIONS | options)


WHERE = {
    "output": r"It began in the output of encoder\S*layers.2 \(Middle\)\.$",
    "gradient": r"It began in the gradient that went back through encoder\S*layers.2 \(Middle\)\.$",
}


@pytest.mark.parametrize("how", WHERE)
def test_the_module_that_was_first_not_finite_is_named(how: str) -> None:
    vae = small_vae(encoder=Breaks(how))
    with pytest.raises(ValueError, match=WHERE[how]):
        fit(vae)
    with pytest.raises(ValueError, match=r"The parameters are those before this step\.$"):
        fit(small_vae(encoder=Breaks(how)), locate_nonfinite=False)
    assert all(torch.isfinite(parameter).all() for parameter in vae.parameters())
    assert not any(module._forward_hooks for module in vae.modules())
    assert not any(parameter._backward_hooks for parameter in vae.parameters())


def test_rows_are_named_by_their_place_in_the_data_with_the_likely_cause() -> None:
    x = torch.randn(50, 2, 3, dtype=torch.float64)
    x[[17, 31]] = 1e200
    vae = small_vae(likelihood=pv.likelihoods.Normal((2, 3), scale="fixed"))
    vae.initialized.fill_(True)
    with pytest.raises(
        ValueError, match=r"rows (17|31|17, 31|31, 17) of the data at step \d.*Likely cause: x reaches 1e\+200"
    ):
        fit(vae, x, batch_size=9)


class Scale(pv.LatentVariableModel):
    """A likelihood whose scale can be moved by a step of any length."""

    def __init__(self) -> None:
        super().__init__()
        self.raw, self.loc = nn.Parameter(torch.zeros(())), nn.Parameter(torch.zeros(1))

    def model(self, x=None, *, rows=None, **batch):
        with pyro.plate("data", len(x) if x is not None else rows):
            z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, self.raw.exp(), validate_args=False).to_event(1), obs=x)

    def guide(self, x, **batch):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(self.loc.expand(len(x), 1), 1.0).to_event(1))


def test_a_step_that_was_too_long_is_named_as_the_likely_cause() -> None:
    with pytest.raises(ValueError, match="Likely cause: scale of Normal .*. Lower learning_rate"):
        fit(Scale(), torch.randn(50, 1), learning_rate=1e3)


def test_parameters_that_were_not_finite_before_the_step_are_named() -> None:
    model = Scale()
    stop = lambda m, history: m.loc.data.fill_(math.nan) is None  # noqa: E731
    with pytest.raises(
        ValueError, match="The parameters loc were not finite before this step: start again from finite ones"
    ):
        fit(model, torch.randn(50, 1), callbacks=[stop])


class Rare(torch.utils.data.Dataset):
    """Rows of which one is NaN. They are not in memory, so that only the first batch is checked before training."""

    def __len__(self) -> int:
        return 50

    def __getitem__(self, index: int) -> torch.Tensor:
        return DATA[index] * (torch.nan if index == 23 else 1.0)


def loader() -> Any:
    return torch.utils.data.DataLoader(Rare(), batch_size=10)


@pytest.mark.parametrize("compile", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["uncompiled", "compiled"])
def test_steps_that_are_not_finite_can_be_left_out_and_are_counted(
    compile: bool, caplog: pytest.LogCaptureFixture
) -> None:
    vae = small_vae(encoder=pv.nets.MLP((8,), normalization="batch"))
    history = fit(vae, loader(), on_nonfinite="skip", compile=compile)
    assert history["skipped"] == [1, 1, 1]
    assert all(math.isfinite(bound) for bound in history["train_bound"])
    assert all(torch.isfinite(tensor).all() for tensor in vae.state_dict().values())
    left_out = "A step is left out: The term log q(z | x) must be finite; got nan at site 'z' in rows 0, 1"
    assert caplog.text.count(left_out) == 3
    same = small_vae(encoder=pv.nets.MLP((8,), normalization="batch"))
    with pytest.raises(ValueError, match=r"of the batch at step 2\. x itself is not finite in rows 3: drop these"):
        fit(same, loader(), compile=compile)


def test_a_step_that_is_left_out_changes_no_other_step() -> None:
    """The parameters are the same as without the batch, given the same noise and step numbers for the others."""
    rest = small_vae(encoder=pv.nets.MLP((8,), normalization="batch"))
    left = small_vae(encoder=pv.nets.MLP((8,), normalization="batch"))
    fit(left, loader(), on_nonfinite="skip", epochs=1)

    class Without(torch.utils.data.IterableDataset):
        def __iter__(self):
            for start in (0, 10, None, 30, 40):
                if start is None:  # the noise of the step that is left out
                    torch.randn(10, 3, dtype=torch.float64)
                else:
                    yield DATA[start : start + 10]

    fit(rest, torch.utils.data.DataLoader(Without(), batch_size=None), epochs=1)
    for a, b in zip(left.parameters(), rest.parameters(), strict=True):
        assert torch.equal(a, b)


def test_an_epoch_without_any_finite_step_is_an_error() -> None:
    vae = small_vae(encoder=Breaks("output", first=9))
    with pytest.raises(ValueError, match=r"Some step of an epoch must be finite; got none of 5 in epoch 3\. Lower"):
        fit(vae, epochs=9, on_nonfinite="skip")
    assert len(vae.history) == 2
    assert all(torch.isfinite(parameter).all() for parameter in vae.parameters())


class Factor(pv.LatentVariableModel):
    """A program whose terms overflow for large cells; with `root`, the gradient is NaN from the first step."""

    def __init__(self, *, root: bool = False) -> None:
        super().__init__()
        self.root, self.weight, self.loc = root, nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))

    def model(self, x=None, *, rows=None, **batch):
        with pyro.plate("data", len(x) if x is not None else rows):
            z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            scale = 1.0 + (self.weight * 0).sqrt() if self.root else 1.0
            pyro.sample("x", dist.Normal(z + self.weight, scale).to_event(1), obs=x)

    def guide(self, x, **batch):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(self.loc + 0.1 * x, 1.0).to_event(1))


def with_a_large_cell(value: float, row: int, columns: int = 1) -> torch.Tensor:
    x = torch.randn(200, columns, generator=torch.Generator().manual_seed(0))
    x[row, 0] = value
    return x


LARGE = {
    "statistics": (
        lambda: pv.VAE(likelihood=pv.likelihoods.Normal(5), prior=pv.priors.Normal(2)),
        with_a_large_cell(1e30, 170, 5),
        r"x must be of a size that can be squared in torch.float32; got 1e\+30 in row 170\. Look at that row",
    ),
    "first batch": (
        Factor,
        with_a_large_cell(1e30, 17),
        r"in row 17 of the first batch .* x reaches 1e\+30 in rows 17",
    ),
    "later": (Factor, with_a_large_cell(1e30, 170), r"rows 170 of the data at step . .* x reaches 1e\+30 in rows 170"),
    "first step": (
        lambda: Factor(root=True),
        with_a_large_cell(0, 0),
        r"weight at step 0, .* the programs at their initial parameters",
    ),
}


@pytest.mark.parametrize("case", LARGE)
def test_errors_tell_large_cells_from_programs_that_break_at_once(case: str) -> None:
    make, x, message = LARGE[case]
    vae = make()
    with pytest.raises(ValueError, match=f"(?s){message.replace('step . ', 'step .*')}"):
        fit(vae, x, batch_size=100, num_rows=None)
    assert all(torch.isfinite(value).all() for value in vae.state_dict().values())


def test_rows_far_from_the_others_are_named_as_the_likely_cause_of_a_gradient_that_is_too_large() -> None:
    found = nonfinite.cause(Factor(), with_a_large_cell(1e19, 170), list(range(200)), [], None, 9)
    assert found.startswith("Likely cause: x reaches 1e+19 in rows 170 and at most ")
    found = nonfinite.cause(Factor(), with_a_large_cell(1, 170), list(range(200)), [], None, 9)
    assert found.startswith("Likely cause: the step before this one was too long")


def test_a_bound_on_validation_rows_that_is_not_finite_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    fit(Factor(), torch.randn(50, 1), valid=with_a_large_cell(1e25, 3), epochs=1)
    assert "The bound on the validation rows is -inf: elbo(valid).bound shows for which rows." in caplog.text
    with pytest.raises(
        ValueError,
        match=r"valid must be rows like .*\. x must have no missing cells .*; got nan in row 3",
    ):
        fit(Factor(), torch.randn(50, 1), valid=with_a_large_cell(math.nan, 3))
