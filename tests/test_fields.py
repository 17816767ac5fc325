"""The contract of fields and of column names: what is unread, absent, misshapen or out of order is refused."""

from __future__ import annotations

import itertools
from typing import Any, ClassVar

import pandas as pd
import pytest
import torch
from test_hard_cases import Conditional
from torch.utils.data import DataLoader, Dataset

import pyro_vae as pv
from pyro_vae.fields import Field

L = pv.likelihoods
QUICK: dict[str, Any] = {"epochs": 1, "seed": 0, "compile": False, "progress": False}
N = 40
OFFSET = torch.linspace(-1.0, 1.0, N)
COUNTS = torch.poisson(torch.exp(OFFSET)[:, None].expand(N, 3) * 4, generator=torch.Generator().manual_seed(0))
COUNT_LIKELIHOODS = [L.Poisson, L.NegativeBinomial, L.ZeroInflatedPoisson, L.ZeroInflatedNegativeBinomial]


def counting(likelihood: Any = None) -> pv.VAE:
    return pv.VAE(likelihood=likelihood or L.Poisson(3), prior=pv.priors.Normal(1), seed=0)


@pytest.fixture(scope="module")
def fitted() -> pv.VAE:
    vae = counting()
    vae.fit(COUNTS, fields={"offset": OFFSET}, **QUICK)
    return vae


class Shifted(L.Normal):
    """A user's part with a keyword of its own."""

    def forward(self, outputs, *, shift, **batch):
        return super().forward(outputs + shift[..., None], **batch)


class Stated(L.Normal):
    """A user's part that reads a field through `**batch` and says so."""

    fields: ClassVar = {"shift": False}

    def forward(self, outputs, **batch):
        return super().forward(outputs + batch.get("shift", torch.zeros(1))[..., None])


class Positional(pv.LatentVariableModel):
    fields = ("label", "size")


class Subclass(pv.VAE):
    def guide(self, x, *, age=None, **batch):
        return super().guide(x, **batch)


def test_models_say_which_fields_they_read() -> None:
    def vae(likelihood):
        return pv.VAE(likelihood=likelihood, prior=pv.priors.Normal(2)).fields

    for cls in COUNT_LIKELIHOODS:
        assert vae(cls(3)) == {"offset": Field(False, True, "the logarithm of the exposure")}
    assert vae(L.Multinomial(3)) == {"total_count": Field(False, True, "the sum of the row")}
    assert vae(L.Multinomial(3, total_count=4)) == {}
    assert vae(L.Normal(3)) == {}
    assert set(vae(L.Product({"a": L.Poisson(1), "b": L.Normal(1), "c": L.Multinomial(2)}))) == {
        "offset",
        "total_count",
    }
    assert vae(Shifted(2)) == {"shift": Field(True)}
    assert vae(Stated(2)) == {"shift": Field(False)}
    hierarchical = pv.HierarchicalVAE(likelihood=L.Poisson(3), latent_dims=(2, 2))
    assert set(hierarchical.fields) == {"offset"}
    assert Conditional().fields == {"label": Field(True)}
    assert Positional().fields == {"label": Field(True), "size": Field(True)}
    subclass = Subclass(likelihood=L.Poisson(3), prior=pv.priors.Normal(1))
    assert {name: field.required for name, field in subclass.fields.items()} == {"age": False, "offset": False}
    with pytest.raises(TypeError, match=r"fields of Bad must be names, or a dictionary of names and truth values; got"):
        type("Bad", (pv.LatentVariableModel,), {"fields": {"a": "yes"}})


DOORS = {
    "elbo": lambda vae, x, **f: vae.elbo(x, num_particles=2, seed=0, **f).bound,
    "log_likelihood": lambda vae, x, **f: vae.log_likelihood(x, num_particles=5, seed=0, **f).estimate,
    "conditional_log_likelihood": lambda vae, x, **f: (
        vae.conditional_log_likelihood(x, torch.tensor([True, False, False]), num_particles=5, seed=0, **f).estimate
    ),
    "posterior_predictive": lambda vae, x, **f: vae.posterior_predictive(x, num_samples=2, seed=0, **f),
    "posterior_draws": lambda vae, x, **f: vae.posterior_draws(x, num_samples=2, seed=0, **f)["z"],
    "reconstruct": lambda vae, x, **f: vae.reconstruct(x, seed=0, **f),
    "encode": lambda vae, x, **f: vae.encode(x, **f).mean,
    "interpolate": lambda vae, x, **f: vae.interpolate(x, x, steps=2, **f),
    "check": lambda vae, x, **f: torch.as_tensor(pv.check(vae, x, num_samples=3, seed=0, **f).lines()[0]["observed"]),
    "compare": lambda vae, x, **f: (
        pv.compare({"a": vae, "b": vae}, x, num_particles=2, seed=0, **f).results["a"].estimate
    ),
    "fit again": lambda vae, x, **f: torch.tensor(
        counting_copy(vae).fit(x, **QUICK, fields=f.pop("fields", f)).rows[-1]["train_bound"]
    ),
    "valid": lambda vae, x, **f: torch.tensor(
        counting_copy(vae)
        .fit(pv.Rows(COUNTS, {"offset": OFFSET}, columns=list("abc")), valid=with_fields(x, f), **QUICK)
        .rows[-1]["valid_bound"]
    ),
}
DRAWS = {
    "sample": lambda vae, **f: vae.sample(N, seed=0, **f),
    "simulate": lambda vae, **f: vae.simulate(N, seed=0, **f)["x"],
    "predictive": lambda vae, **f: vae.predictive(torch.zeros(N, 1), num_samples=2, seed=0, **f),
    "decode": lambda vae, **f: vae.decode(torch.zeros(N, 1), **f).mean,
    "sandwich": lambda vae, **f: (
        vae.sandwich(N, num_particles=2, method=pv.evaluation.AIS(num_steps=2), seed=0, **f).lower.estimate
    ),
}


def counting_copy(vae: pv.VAE) -> pv.VAE:
    copy = counting()
    copy.load_state_dict(vae.state_dict())
    copy.schema = vae.schema
    return copy


def with_fields(x: Any, fields: dict[str, Any]) -> Any:
    values = fields.get("fields", fields)
    if isinstance(values, dict) and values:
        return pv.Rows(x, values)
    return x


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("door", DOORS)
def test_every_door_keeps_the_contract_of_fields(fitted: pv.VAE, door: str) -> None:
    call = DOORS[door]
    right = call(fitted, COUNTS, offset=OFFSET)
    again = [call(fitted, COUNTS, fields={"offset": OFFSET.numpy()}), call(fitted, pv.Rows(COUNTS, {"offset": OFFSET}))]
    frame = pd.DataFrame(COUNTS.numpy(), columns=list("abc")).assign(offset=OFFSET.numpy())
    again.append(call(fitted, frame))
    for other in again:
        torch.testing.assert_close(other, right)
    with pytest.raises(ValueError, match=r"field 'offset' must be given, since fit used it; got none\. Pass offset="):
        call(fitted, COUNTS)
    if door != "valid":
        with pytest.raises(ValueError, match=r"field 'exposure' must be one that the model reads \('offset'\); got"):
            call(fitted, COUNTS, offset=OFFSET, exposure=OFFSET)
    with pytest.raises(ValueError, match=r"field 'offset' must have shape \(rows,\).*\(40, 1\)\. .*squeeze\(1\)"):
        call(fitted, COUNTS, offset=OFFSET[:, None])
    with pytest.raises(
        ValueError, match=r"must be logarithms of exposures, from -50 to 50; got 500 in row 3\. Pass the"
    ):
        call(fitted, COUNTS, offset=OFFSET.where(torch.arange(N) != 3, torch.tensor(500.0)))


@pytest.mark.parametrize("door", DRAWS)
def test_every_draw_keeps_the_contract_of_fields(fitted: pv.VAE, door: str) -> None:
    call = DRAWS[door]
    torch.testing.assert_close(call(fitted, fields={"offset": OFFSET}), call(fitted, offset=OFFSET))
    for wrong, message in (
        ({}, "field 'offset' must be given, since fit used it"),
        ({"offset": OFFSET, "exposure": OFFSET}, "field 'exposure' must be one that the model reads"),
        ({"offset": OFFSET[:, None]}, r"field 'offset' must have shape \(rows,\)"),
        ({"offset": 1000 + OFFSET}, "field 'offset' must be logarithms of exposures"),
    ):
        with pytest.raises(ValueError, match=message):
            call(fitted, **wrong)


class Dictionaries(Dataset):
    def __len__(self) -> int:
        return N

    def __getitem__(self, i):
        return {"x": COUNTS[i], "offset": OFFSET[i], "label": i}


@pytest.mark.parametrize(
    "data",
    [
        (COUNTS, OFFSET),
        pv.Rows(COUNTS, {"offset": OFFSET, "label": torch.arange(N)}),
        pd.DataFrame(COUNTS.numpy()).assign(offset=OFFSET.numpy()),
        Dictionaries(),
        DataLoader(Dictionaries(), batch_size=128),
    ],
    ids=["tuple", "Rows", "frame", "Dataset", "DataLoader"],
)
def test_fields_that_data_bring_are_used(fitted: pv.VAE, data: Any) -> None:
    options = {"fields": ("x", "offset")} if isinstance(data, tuple) else {}
    vae = counting()
    vae.fit(data, **options, **QUICK)
    assert vae.schema.fields == ("offset",)
    torch.testing.assert_close(vae.likelihood.log_mean, fitted.likelihood.log_mean)
    if not isinstance(data, Dictionaries | DataLoader):  # these have another order
        torch.testing.assert_close(
            vae.elbo(data, seed=0, **options).bound,
            fitted.elbo(COUNTS, offset=OFFSET, seed=0).bound,
            rtol=1e-4,
            atol=1e-4,
        )


def test_a_required_field_must_be_given() -> None:
    model, x = (
        Conditional(),
        torch.randn(9, Conditional().event if hasattr(Conditional(), "event") else 3, dtype=torch.float64),
    )
    for call in (
        lambda: model.fit(x, **QUICK),
        lambda: model.elbo(x),
        lambda: model.sample(3),
        lambda: model.encode(x),
    ):
        with pytest.raises(ValueError, match="field 'label' must be given, since the model requires it; got none"):
            call()


@pytest.mark.parametrize("cls", COUNT_LIKELIHOODS)
def test_raw_exposures_are_refused(cls: Any) -> None:
    with pytest.raises(ValueError, match="field 'offset' must be logarithms of exposures"):
        counting(cls(3)).fit(COUNTS, fields={"offset": torch.linspace(500, 5000, N)}, **QUICK)


def test_start_values_that_are_not_finite_name_the_field() -> None:
    class Divided(L.Normal):
        def forward(self, outputs, *, size, **batch):
            return super().forward(outputs)

        def initialize(self, x, *, size, **batch):
            super().initialize(x / size[:, None])

    vae = pv.VAE(likelihood=Divided(3), prior=pv.priors.Normal(1), seed=0)
    with pytest.raises(ValueError, match=r"Start values must be finite; got others: .* the fields 'size' from 0 to 0"):
        vae.fit(COUNTS, fields={"size": torch.zeros(N)}, **QUICK)
    assert vae.schema.fields is None


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (torch.ones(N, 1), r"field 'row_weights' must have shape \(rows,\), here \(40,\); got \(40, 1\).*squeeze\(1\)"),
        (torch.ones(1, N).expand(N, N), r"must have shape \(rows,\), here \(40,\); got \(40, 40\)"),
        (-torch.ones(N), "field 'row_weights' must be at least 0; got -1 in row 0"),
        (torch.zeros(N), "field 'row_weights' must be positive for some row; got zeros alone"),
        (torch.full((N,), torch.inf), "field 'row_weights' must be finite; got inf"),
        (torch.full((N,), torch.nan), "field 'row_weights' must be finite; got nan"),
        (torch.ones(N - 1), r"field 'row_weights' must have one entry per row \(40\)"),
    ],
)
def test_row_weights_must_be_weights(weights: torch.Tensor, message: str) -> None:
    for data, fields in ((COUNTS, {"row_weights": weights}), ((COUNTS, weights), ("x", "row_weights"))):
        with pytest.raises(ValueError, match=message):
            counting().fit(data, fields=fields, **QUICK)


@pytest.mark.usefixtures("plain_pyro")
def test_row_weights_belong_to_fit() -> None:
    vae = counting()
    weights = torch.arange(N) % 2
    vae.fit(pv.Rows(COUNTS, {"row_weights": weights}), **QUICK)
    assert vae.schema.fields == ("row_weights",)
    assert vae.elbo(COUNTS).bound.shape == (N,)
    with pytest.raises(ValueError, match="field 'row_weights' must be left out here; got it in a call that weights no"):
        vae.elbo(COUNTS, row_weights=weights)
    with pytest.raises(
        ValueError, match=r"'row_weights' must be given, since fit used it.*Pass ones for rows that count"
    ):
        vae.fit(COUNTS, **QUICK)
    with pytest.raises(ValueError, match=r"field 'row_weights' must have shape \(rows,\)"):  # in plain Pyro, too
        pv.elbos.ELBO().loss(vae.model, vae.guide, COUNTS, row_weights=torch.ones(N, 1))


def test_total_counts_must_be_those_of_the_rows() -> None:
    total = COUNTS.sum(1)
    for wrong, message in (
        (total[:, None], r"field 'total_count' must have shape \(rows,\), here \(40,\); got \(40, 1\).*squeeze\(1\)"),
        (total - 1, r"field 'total_count' must be whole numbers, at least the sum of the row; got .* whose sum is"),
        (total + 0.5, "must be whole numbers"),
    ):
        for likelihood in (L.Multinomial(3), L.Product({"a": L.Multinomial(3)})):
            with pytest.raises(ValueError, match=message):
                counting(likelihood).fit(COUNTS, fields={"total_count": wrong}, **QUICK)
    vae = counting(L.Multinomial(3))
    vae.fit(COUNTS, fields={"total_count": total}, **QUICK)
    assert torch.equal(vae.sample(N, total_count=total, seed=0).sum(1), total)
    with pytest.raises(
        ValueError, match="must be whole numbers, at least the sum of the row; got -1 in row 0. Correct it"
    ):
        vae.sample(2, total_count=torch.tensor([-1, 2]))


def test_fields_are_part_of_the_file(tmp_path: Any, fitted: pv.VAE) -> None:
    fitted.save(tmp_path)
    again = pv.load(tmp_path)
    assert again.schema == fitted.schema
    with pytest.raises(ValueError, match="field 'offset' must be given, since fit used it"):
        again.log_likelihood(COUNTS)
    counting().save(tmp_path / "new")  # never fitted, or of an earlier version: no names are known
    assert pv.load(tmp_path / "new").log_likelihood(COUNTS, num_particles=3).estimate.shape == (N,)


def test_values_cannot_be_given_for_data_that_are_read_in_batches() -> None:
    with pytest.raises(TypeError, match="fields must be names for data that are read in batches; got values of"):
        counting().fit(Dictionaries(), fields={"offset": OFFSET}, **QUICK)
    with pytest.raises(TypeError, match="fields must be a sequence of names, or a dictionary of values by name; got 3"):
        counting().fit(COUNTS, fields=3, **QUICK)


FRAME = pd.DataFrame(COUNTS.numpy(), columns=list("abc"))


@pytest.fixture(scope="module")
def named() -> pv.VAE:
    vae = counting()
    vae.fit(FRAME, **QUICK)
    return vae


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("door", [*DOORS, "diagnose", "aggregate"])
def test_every_door_keeps_the_names_of_columns(named: pv.VAE, door: str) -> None:
    call: Any = DOORS.get(door)
    if door == "diagnose":
        call = lambda vae, x: pv.diagnose(vae, x, seed=0)  # noqa: E731
    if door == "aggregate":
        call = lambda vae, x: vae.fit_aggregate_posterior(x, num_components=2)  # noqa: E731
    if door == "valid":
        call = lambda vae, x: counting().fit(FRAME, valid=x, **QUICK)  # noqa: E731
    for order in itertools.permutations("abc"):
        if order != ("a", "b", "c"):
            with pytest.raises(
                ValueError, match=r"columns must come in the same order as in fit; got .*frame\[\['a', 'b', 'c'\]\]"
            ):
                call(named, FRAME[list(order)])
    with pytest.raises(ValueError, match=r"columns must have the same names as in fit; got 'd' .* without 'b' that"):
        call(named, FRAME.rename(columns={"b": "d"}))
    if door not in ("diagnose", "aggregate"):
        call(named, FRAME)
        call(named, COUNTS)


def test_names_of_columns_are_found_wherever_data_have_them(named: pv.VAE, tmp_path: Any) -> None:
    other = FRAME[["c", "b", "a"]]
    other.to_parquet(tmp_path / "other.parquet")
    for data in (
        pv.Rows(COUNTS, columns=["c", "b", "a"]),
        pv.Rows(other),
        pv.datasets.parquet(tmp_path / "other.parquet", shuffle=False),
    ):
        with pytest.raises(ValueError, match="columns must come in the same order as in fit"):
            named.log_likelihood(data, num_particles=2)
    weighted = counting()
    weighted.fit((FRAME, torch.ones(N)), fields=("x", "row_weights"), **QUICK)
    assert weighted.schema.columns == ("a", "b", "c")


def test_names_of_columns_are_part_of_the_file(named: pv.VAE, tmp_path: Any) -> None:
    named.save(tmp_path)
    for again in (pv.load(tmp_path), pv.load(tmp_path, counting())):
        with pytest.raises(ValueError, match="columns must come in the same order as in fit"):
            again.elbo(FRAME[["b", "a", "c"]])


def test_columns_that_pandas_numbers_have_no_names(named: pv.VAE) -> None:
    plain = pd.DataFrame(COUNTS.numpy())
    assert named.elbo(plain).bound.shape == (N,)
    numbered = counting()
    numbered.fit(plain, **QUICK)
    assert numbered.elbo(FRAME).bound.shape == (N,)
    with pytest.raises(ValueError, match="columns must come in the same order as in fit; got '2' in place of '0'"):
        numbered.elbo(plain[[2, 0, 1]])


def test_a_fit_that_fails_leaves_no_names() -> None:
    vae = counting()
    with pytest.raises(ValueError, match="learning_rate"):
        vae.fit(FRAME, learning_rate=-1.0, **QUICK)
    assert vae.schema.columns is None


def test_an_option_that_does_not_exist_is_named_as_one_that_nothing_reads() -> None:
    vae = pv.VAE(likelihood=pv.likelihoods.Normal(2), prior=pv.priors.Normal(1), seed=0)
    with pytest.raises(ValueError, match="field 'resample' must be one that the model reads"):
        vae.posterior_draws(torch.randn(5, 2), resample=10)
