"""Covariates: from the user's values to the inputs of encoder, decoder and prior; what is wrong is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.stats
import torch
from both_steps import recorded  # noqa: F401
from test_hard_cases import Conditional, LinearGaussian

import pyro_vae as pv
from pyro_vae import nets, priors
from pyro_vae.covariates import Binary, Levels, Real, Time

N = 60
QUICK: dict[str, Any] = {"epochs": 2, "seed": 0, "compile": False, "progress": False}
GENERATOR = torch.Generator().manual_seed(0)
AGE = 50 + 10 * torch.randn(N, generator=GENERATOR, dtype=torch.float64)
SITE = ["A", "B", "C"] * (N // 3)
SEX = [0, 1] * (N // 2)
YEAR = [2019, 2020, 2021, 2022] * (N // 4)
X = torch.randn(N, 3, generator=GENERATOR)
KINDS: dict[str, Any] = {"age": "real", "site": ["A", "B", "C"], "sex": "binary", "year": [2019, 2020, 2021, 2022]}
FIELDS: dict[str, Any] = {"age": AGE, "site": SITE, "sex": SEX, "year": YEAR}
EVERYWHERE = ("encoder", "decoder", "prior")


def conditional(into: Any = EVERYWHERE, event: Any = 3, **parts: Any) -> pv.VAE:
    return pv.VAE(
        likelihood=parts.pop("likelihood", pv.likelihoods.Normal(event)),
        prior=parts.pop("prior", priors.Normal(2)),
        encoder=parts.pop("encoder", nets.MLP((8,))),
        decoder=parts.pop("decoder", nets.MLP((8,))),
        covariates=parts.pop("covariates", pv.Covariates(KINDS, into)),
        seed=0,
        **parts,
    )


@pytest.fixture(scope="module")
def fitted() -> pv.VAE:
    vae = conditional()
    vae.fit(X, fields=FIELDS, **QUICK)
    return vae


# From values to inputs of nets

INPUTS = {
    "binary": (Binary(), [0, 1, 1], [[0.0], [1.0], [1.0]]),
    "truth values": (Binary(), [False, True], [[0.0], [1.0]]),
    "binary image": (Binary((2, 2)), [[[0, 1], [1, 0]]], [[0.0, 1.0, 1.0, 0.0]]),
    "text": (Levels(["b", "a"]), ["a", "b"], [[0.0, 1.0], [1.0, 0.0]]),
    "a pandas category": (Levels(["b", "a"]), pd.Series(["a", "b"], dtype="category"), [[0.0, 1.0], [1.0, 0.0]]),
    "codes of text": (Levels(["b", "a"]), torch.tensor([1, 0]), [[0.0, 1.0], [1.0, 0.0]]),
    "years": (Levels([2020, 2021]), [2021.0, 2020.0], [[0.0, 1.0], [1.0, 0.0]]),
    "large numbers": (Levels([20240100, 20240101]), [20240101.0, 20240100.0], [[0.0, 1.0], [1.0, 0.0]]),
    "years in a tensor": (Levels([2020, 2021]), torch.tensor([2021, 2020]), [[0.0, 1.0], [1.0, 0.0]]),
    "other text": (Levels(["a", "rest"], other="rest"), ["new", "a"], [[0.0, 1.0], [1.0, 0.0]]),
    "other years": (Levels([2020, 2021], other=2020), [1999, 2021], [[1.0, 0.0], [0.0, 1.0]]),
    "dates": (Time("2020-01-01"), ["2020-01-02", "2020-01-03T12:00"], [[1.0], [2.5]]),
    "times of pandas, in UTC": (
        Time("2020-01-01"),
        pd.Series(pd.to_datetime(["2020-01-02T01:00+01:00"])),
        [[1.0]],
    ),
    "dates without hyphens": (Time("2020-01-01"), ["20200103"], [[2.0]]),
    "a name of the kind": (pv.Covariates({"c": "time"}).kind("c"), ["1970-01-03"], [[2.0]]),
    "times of NumPy": (Time("2020-01-01"), np.array(["2020-01-03"], "datetime64[ns]"), [[2.0]]),
    "days since the origin": (Time("2020-01-01"), [3.0], [[3.0]]),
    "real, before any data": (Real(), [1.0, 2.0], [[1.0], [2.0]]),
}


@pytest.mark.parametrize("name", INPUTS)
def test_values_become_inputs_of_nets(name: str) -> None:
    kind, values, expected = INPUTS[name]
    read = kind.read("c", values)
    kind.check("c", read)
    assert kind(read).tolist() == expected and kind.size == len(expected[0])


def test_reals_are_standardized_by_the_training_rows(fitted: pv.VAE) -> None:
    inputs = fitted.covariates(**fitted.read_rows(X, FIELDS)[0].take(slice(None), KINDS, like=fitted.like))
    torch.testing.assert_close(inputs[:, 0].double(), torch.tensor(scipy.stats.zscore(AGE.numpy())), atol=1e-5, rtol=0)
    assert inputs.shape == (N, 1 + 3 + 1 + 4)


def test_embedded_levels_are_learned() -> None:
    vae = conditional(covariates=pv.Covariates({"site": Levels(["A", "B", "C"], embed=2)}))
    before = vae.covariates.parts[0].vectors.detach().clone()
    vae.fit(X, fields={"site": SITE}, **QUICK)
    assert not torch.equal(before, vae.covariates.parts[0].vectors)


# The model


@pytest.mark.parametrize("part", EVERYWHERE)
def test_a_covariate_reaches_the_parts_that_it_is_let_into_alone(part: str) -> None:
    vae = conditional((part,))
    one, two = ({"age": 1.0, "site": site, "sex": 0, "year": 2019} for site in "AB")
    rows = [{name: [value] * 4 for name, value in fields.items()} for fields in (one, two)]
    z = torch.zeros(1, 2)
    encoded, decoded = (
        [getattr(vae, f)(v, **c).mean for c in w] for f, v, w in (("encode", X[:4], rows), ("decode", z, (one, two)))
    )
    drawn = [vae.simulate(4, seed=0, fields=fields)["z"] for fields in (one, two)]
    changed = {"encoder": encoded, "decoder": decoded, "prior": drawn}
    assert {role: not torch.equal(*pair) for role, pair in changed.items()} == {
        role: role == part for role in EVERYWHERE
    }


PRIORS = {
    "normal": (lambda: priors.Normal(2), scipy.stats.norm()),
    "Laplace": (lambda: priors.Laplace(2), scipy.stats.laplace()),
    "Student-t": (lambda: priors.StudentT(2, df=5), scipy.stats.t(5)),
    "flow": (lambda: priors.Flow(2), None),
    "mixture": (lambda: priors.Mixture(2, num_components=3), None),
}


@pytest.mark.parametrize("name", PRIORS)
def test_a_prior_is_shifted_and_stretched_by_covariates(name: str) -> None:
    make, reference = PRIORS[name]
    covariates = pv.Covariates({"c": "real"}, ("prior",), prior_net=nets.MLP(()))
    vae = conditional(prior=make(), covariates=covariates).double()
    with torch.no_grad():
        layer = vae.covariates.shift.module[0]
        layer.weight.copy_(torch.tensor([[2.0], [0.0], [0.0], [0.0]]))
        layer.bias.copy_(torch.tensor([0.0, 1.0, 0.0, 0.7]))
    z, c = torch.randn(5, 2, dtype=torch.float64, generator=GENERATOR), torch.linspace(-1, 1, 5, dtype=torch.float64)
    scale = pv.parts.as_scale(torch.tensor([0.0, 0.7], dtype=torch.float64))
    u = (z - torch.stack([2 * c, torch.ones(5)], 1)) / scale
    expected = vae.prior().log_prob(u) if reference is None else torch.tensor(reference.logpdf(u.numpy())).sum(1)
    found = vae.prior_of({"c": c}, posterior=vae._posterior).log_prob(z)
    torch.testing.assert_close(found, expected - scale.log().sum())


NETS: dict[str, Any] = {
    "MLP": ((1, 4, 4), nets.MLP((8,)), {}),
    "convolutions": ((1, 8, 8), nets.Conv((4,), hidden=(8,)), {}),
    "residual": ((1, 8, 8), nets.ResNet((4,)), {}),
    "masked": ((3,), nets.Masked(nets.MLP((8,))), {"missing": pv.missing.AtRandom()}),
    "masked convolutions": ((1, 8, 8), nets.Masked(nets.Conv((4,), hidden=(8,))), {"missing": pv.missing.AtRandom()}),
    "set of cells": ((3,), nets.CellSet(4), {"missing": pv.missing.AtRandom()}),
}


@pytest.mark.parametrize("name", NETS)
def test_covariates_stand_beside_the_input_of_every_net(name: str) -> None:
    event, encoder, parts = NETS[name]
    vae = conditional(("encoder",), event, encoder=encoder, **parts)
    x = torch.randn(4, *event, generator=GENERATOR)
    if parts:
        x[0].view(-1)[1] = torch.nan
    one = {"age": [1.0] * 4, "site": list("AAAA"), "sex": [0] * 4, "year": [2019] * 4}
    first, second = vae.encode(x, **one), vae.encode(x, **one | {"site": list("BBBB")})
    assert first.mean.shape == (4, 2) and not torch.equal(first.mean, second.mean)
    vae.log_likelihood(x, num_particles=30, seed=0, **one)


@pytest.mark.parametrize("inference", ["bottom_up", "top_down"])
def test_hierarchies_have_covariates(inference: str) -> None:
    vae = pv.HierarchicalVAE(
        likelihood=pv.likelihoods.Normal(3),
        latent_dims=(3, 2),
        inference=inference,
        seed=0,
        covariates=pv.Covariates(KINDS, EVERYWHERE),
    )
    vae.fit(X, fields=FIELDS, **QUICK)
    chosen = {"age": 50.0, "sex": 0, "year": 2020}
    drawn = [vae.sample(5, seed=0, fields=chosen | {"site": site}) for site in "AB"]
    assert not torch.equal(*drawn)
    assert vae.log_likelihood(X, seed=0, **FIELDS).estimate.isfinite().all()


def test_compiled_steps_are_those_of_uncompiled_ones(recorded: None) -> None:  # noqa: F811
    parts = []
    for compiled in (False, True):
        vae = conditional().double()
        vae.fit(X, fields=FIELDS, **QUICK | {"compile": compiled})
        parts.append(vae.state_dict())
    for name, value in parts[0].items():
        torch.testing.assert_close(parts[1][name], value, msg=name)


def test_a_saved_model_has_its_covariates(fitted: pv.VAE, tmp_path: Any) -> None:
    fitted.save(tmp_path)
    loaded = pv.load(tmp_path)
    assert loaded.covariates.arguments().keys() == fitted.covariates.arguments().keys()
    assert [n for n, _ in loaded.covariates.kinds] == list(KINDS) and loaded.covariates.into == EVERYWHERE
    found, expected = (vae.log_likelihood(X, seed=0, **FIELDS).estimate for vae in (loaded, fitted))
    assert torch.equal(found, expected)
    for seed in (0, 1):
        assert torch.equal(*(vae.sample(2, seed=seed, age=1.0, site="B", sex=1, year=2022) for vae in (loaded, fitted)))


@pytest.mark.parametrize("name", ["normal", "Laplace", "mixture"])
def test_numbers_given_covariates_agree_with_quadrature(name: str) -> None:
    """log p(x | c) and means under another level, within four standard errors: by chance 1 of 600 seeds fails."""
    prior = {"normal": priors.Normal, "Laplace": priors.Laplace, "mixture": priors.Mixture}[name](1)
    vae = conditional(event=2, likelihood=pv.likelihoods.Bernoulli(2), prior=prior, guide=pv.guides.StudentT()).double()
    x = torch.tensor([[0.0, 1.0], [1.0, 1.0], [0.0, 0.0]], dtype=torch.float64)
    grid = torch.linspace(-40, 40, 16001, dtype=torch.float64).unsqueeze(1)
    own, given = first(3, age=torch.tensor([-1.0, 0.0, 1.0]).double()), []
    read = vae.read_rows(x, own)[0].take(slice(None), KINDS, like=vae.like)
    found = vae.log_likelihood(x, num_particles=20_000, seed=0, **own)
    for i in range(3):
        fields = {key: read[key][i].expand(len(grid)) for key in KINDS}
        with torch.no_grad():
            log_p = vae.prior_of(fields).log_prob(grid) + vae.p_x(grid, fields).log_prob(x[i])
            other = vae.p_x(grid, fields | {"site": torch.ones(len(grid), dtype=torch.int64)}).mean
        exact = log_p.logsumexp(0) + (grid[1, 0] - grid[0, 0]).log()
        assert abs(found.estimate[i] - exact) < 4 * found.standard_error[i] + 1e-6
        given.append((log_p.softmax(0).unsqueeze(1) * other).sum(0))
    drawn = vae.posterior_predictive(x, num_samples=4000, num_candidates=8000, seed=1, decode_as={"site": "B"}, **own)
    error = drawn.std(0) / 4000**0.5
    assert ((drawn.mean(0) - torch.stack(given)).abs() < 4 * error).all()


# The doors

FRAME = pd.DataFrame(X.numpy(), columns=["u", "v", "w"]).assign(**{name: np.asarray(v) for name, v in FIELDS.items()})


@pytest.mark.parametrize("kind", ["binary", ["a", "b"]], ids=["binary", "levels"])
def test_a_saved_model_in_float64_has_covariates_in_its_prior(kind: Any, tmp_path: Any) -> None:
    fields = {"c": SEX if kind == "binary" else ["ab"[code] for code in SEX]}
    vae = conditional(covariates=pv.Covariates({"c": kind}, EVERYWHERE)).double()
    vae.fit(X.double(), fields=fields, **QUICK)
    vae.save(tmp_path)
    loaded = pv.load(tmp_path)
    assert torch.equal(loaded.elbo(X, seed=0, **fields).bound, vae.elbo(X, seed=0, **fields).bound)


def test_an_aggregate_posterior_takes_the_place_of_the_prior_that_covariates_shift() -> None:
    """Two groups far apart: the prior is fitted to what the latents are without the shift of their group."""
    x = X + 6.0 * torch.tensor(SEX).unsqueeze(1)
    vae = conditional(covariates=pv.Covariates({"sex": "binary"}, ("encoder", "prior")), decoder=nets.MLP(()))
    vae.fit(x, fields={"sex": SEX}, **QUICK | {"epochs": 60, "learning_rate": 0.02})
    before = vae.log_likelihood(x, sex=SEX, num_particles=500, seed=0).estimate.mean()
    vae.prior = vae.fit_aggregate_posterior(x, num_components=1, num_draws=20, fields={"sex": SEX})
    after = vae.log_likelihood(x, sex=SEX, num_particles=500, seed=0).estimate.mean()
    assert after > before - 0.1


CODES = {"site": torch.tensor([0, 1, 2] * (N // 3)), "age": AGE, "sex": torch.tensor(SEX), "year": torch.tensor(YEAR)}
DOORS: dict[str, Any] = {
    "keywords": (X, FIELDS),
    "a dictionary": (X, {"fields": FIELDS}),
    "Rows": (pv.Rows(X, CODES), {}),
    "a frame": (FRAME, {}),
    "a frame in another order": (FRAME[["site", "u", "age", "v", "w", "year", "sex"]], {}),
    "a tuple": ((X, SITE, AGE, SEX, YEAR), {"fields": ("x", "site", "age", "sex", "year")}),
    "a loader": (
        torch.utils.data.DataLoader([{"x": x} | {n: v[i] for n, v in CODES.items()} for i, x in enumerate(X)], 32),
        {},
    ),
}


@pytest.mark.parametrize("name", DOORS)
def test_every_door_leads_to_the_same_numbers(name: str, fitted: pv.VAE) -> None:
    data, fields = DOORS[name]
    found = fitted.log_likelihood(data, seed=0, **fields).estimate
    assert torch.equal(found, fitted.log_likelihood(X, seed=0, **FIELDS).estimate)


@pytest.mark.parametrize("name", sorted(DOORS.keys() - {"a loader"}))
def test_every_door_leads_to_the_same_fit(name: str) -> None:
    data, fields = DOORS[name]
    vae, expected = conditional(), conditional()
    vae.fit(data, **QUICK, **({"fields": fields.get("fields", fields)} if fields else {}))
    expected.fit(X, fields=FIELDS, **QUICK)
    for key, value in expected.state_dict().items():
        torch.testing.assert_close(vae.state_dict()[key], value, msg=key)


def test_a_loader_is_fitted_too() -> None:
    vae = conditional()
    history = vae.fit(DOORS["a loader"][0], **QUICK)
    assert len(history) == 2 and vae.schema.fields is not None and set(vae.schema.fields) == set(KINDS)


# Draws under other values


def test_draws_under_chosen_values_take_single_values(fitted: pv.VAE) -> None:
    single = fitted.sample(4, seed=0, fields={"age": 50, "site": "B", "sex": 1, "year": 2020})
    each = fitted.sample(4, seed=0, age=[50.0] * 4, site=["B"] * 4, sex=[1] * 4, year=[2020] * 4)
    assert torch.equal(single, each)


PREDICTIVES = {
    "posterior_predictive": lambda vae, **o: vae.posterior_predictive(X, num_samples=7, seed=0, **FIELDS, **o),
    "candidates": lambda vae, **o: vae.posterior_predictive(X, num_samples=3, num_candidates=9, seed=0, **FIELDS, **o),
    "quantiles": lambda vae, **o: vae.posterior_predictive(X, quantiles=(0.5,), num_samples=9, seed=0, **FIELDS, **o),
    "reconstruct": lambda vae, **o: vae.reconstruct(X, **FIELDS, **o),
    "predictive": lambda vae, **o: vae.predictive(torch.zeros(N, 2), num_samples=3, seed=0, **FIELDS, **o),
}


@pytest.mark.parametrize("name", PREDICTIVES)
def test_rows_are_encoded_under_their_own_values_and_decoded_under_others(name: str, fitted: pv.VAE) -> None:
    predict = PREDICTIVES[name]
    assert torch.equal(predict(fitted), predict(fitted, decode_as={"site": SITE}))
    other = predict(fitted, decode_as={"site": "B"})
    row = 3 * torch.arange(N // 3)  # rows of site A; those of B are as they were
    own = predict(fitted)
    assert torch.equal(own[..., row + 1, :], other[..., row + 1, :]) and not torch.equal(
        own[..., row, :], other[..., row, :]
    )


def test_a_counterfactual_is_the_decoder_at_the_rows_own_latents(fitted: pv.VAE) -> None:
    z = fitted.encode(X, **FIELDS).mean
    expected = fitted.decode(z, **FIELDS | {"site": ["C"] * N}).mean
    torch.testing.assert_close(fitted.reconstruct(X, decode_as={"site": "C"}, **FIELDS), expected)


def test_latents_that_are_left_out_are_drawn_under_the_rows_own_values() -> None:
    vae = pv.HierarchicalVAE(
        likelihood=pv.likelihoods.Normal(3),
        latent_dims=(3, 2),
        seed=0,
        covariates=pv.Covariates({"c": "binary"}, ("decoder",)),
    )
    z = {"z2": torch.zeros(4, 2)}
    own, other = (vae.predictive(z, num_samples=5, seed=0, c=0, **o) for o in ({}, {"decode_as": {"c": 0}}))
    assert own.shape == other.shape == (5, 4, 3)
    assert not torch.equal(other, vae.predictive(z, num_samples=5, seed=0, c=0, decode_as={"c": 1}))


def test_a_program_of_the_users_is_decoded_under_other_fields() -> None:
    program, label = Conditional(), torch.arange(9, dtype=torch.float64)  # the label shifts the mean of x
    x = LinearGaussian().draw(9) + label.unsqueeze(-1)
    own, other = (program.reconstruct(x, label=label, **o) for o in ({}, {"decode_as": {"label": 5.0}}))
    torch.testing.assert_close(other - own, (5.0 - label).unsqueeze(-1).expand_as(own))


class Moved(pv.VAE):
    """A VAE whose data are moved by a field that its own program reads."""

    def p_x(self, z: torch.Tensor, batch: dict[str, torch.Tensor]) -> Any:
        given = dict(batch)
        moved = given.pop("move")
        return self.likelihood(self.decoder(z) + moved.unsqueeze(-1), **given)

    def model(self, x: Any = None, *, rows: int | None = None, move: torch.Tensor, **batch: torch.Tensor) -> Any:
        return super().model(x, rows=rows, **batch, move=move)


def test_a_subclass_is_decoded_under_fields_of_its_own_program() -> None:
    vae = Moved(
        likelihood=pv.likelihoods.Normal(3, standardize=False), prior=priors.Normal(2), decoder=nets.MLP((8,)), seed=0
    )
    own, other = (vae.reconstruct(X[:4], move=[0.0] * 4, **o) for o in ({}, {"decode_as": {"move": 2.0}}))
    torch.testing.assert_close(other - own, torch.full((4, 3), 2.0))


# Tables


def table(**more: Any) -> pv.Table:
    return pv.Table(FRAME, covariates=["age", "site", "year"], kinds={"year": "categorical"}, **more)


def test_covariates_of_a_table_are_no_columns_of_x(tmp_path: Any) -> None:
    rows = table()
    assert rows.schema.names == ["u", "v", "w", "sex"] and rows.field_names == ("age", "site", "year")
    assert "(covariate)" in str(rows) and rows.frame().equals(FRAME)
    vae = pv.VAE.for_table(rows, latent_dim=2, seed=0)
    vae.fit(rows, **QUICK)
    vae.save(tmp_path)
    for data in (rows, FRAME, FRAME.sample(frac=1, random_state=0).sort_index()):
        assert torch.equal(
            pv.load(tmp_path).log_likelihood(data, seed=0).estimate, vae.log_likelihood(rows, seed=0).estimate
        )
    drawn = vae.sample(3, seed=0, fields={"age": 40, "site": "C", "year": 2021})
    fields = {"site": torch.tensor([2, 2, 2]), "year": torch.tensor([2021, 2021, 2020])}
    frame = vae.table_schema.frame(drawn, fields)
    assert list(frame) == ["u", "v", "w", "site", "sex", "year"]
    assert frame["site"].tolist() == list("CCC") and frame["year"].tolist() == [2021, 2021, 2020]


def test_a_column_of_times_is_a_covariate_that_takes_dates() -> None:
    frame = FRAME[["u", "v"]].assign(seen=pd.date_range("2020-01-01", periods=N, freq="12h"))
    rows = pv.Table(frame, covariates=["seen"])
    vae = pv.VAE.for_table(rows, latent_dim=1, seed=0)
    vae.fit(rows, **QUICK)
    drawn = [vae.sample(2, fields={"seen": value}, seed=0) for value in ("2020-01-11", pd.Timestamp("2020-01-11"), 10)]
    assert torch.equal(drawn[0], drawn[1]) and torch.equal(drawn[0], drawn[2])
    other = vae.reconstruct(frame, decode_as={"seen": frame["seen"]})
    assert torch.equal(other, vae.reconstruct(frame))


def test_schemas_of_tables_without_covariates_are_read_from_earlier_files() -> None:
    plain = pv.Table(FRAME).schema.to_plain()
    earlier = plain | {
        "version": 1,
        "columns": [{k: v for k, v in c.items() if k != "covariate"} for c in plain["columns"]],
    }
    assert pv.tables.TableSchema.from_plain(earlier) == pv.Table(FRAME).schema


# What is refused

BAD: dict[str, tuple[str, Any]] = {
    "unseen level": ("got 'D' in row 1", lambda v: v.elbo(X[:2], **first(2, site=["A", "D"]))),
    "unseen year": ("got 1999 in row 0", lambda v: v.elbo(X[:2], **first(2, year=[1999, 2020]))),
    "code out of range": (
        "A tensor holds their numbers, 0 to 2",
        lambda v: v.elbo(X[:2], **first(2, site=torch.tensor([0, 3]))),
    ),
    "codes in a list": (
        "lists and arrays hold the levels themselves",
        lambda v: v.elbo(X[:2], **first(2, site=[0, 1])),
    ),
    "text for a year": ("Convert it to whole numbers", lambda v: v.elbo(X[:2], **first(2, year=["2020", "2021"]))),
    "missing real": (
        "got a missing value in row 1 (1 of 2). Make it a column of x",
        lambda v: v.elbo(X[:2], **first(2, age=[1.0, None])),
    ),
    "missing level": ("got a missing value in row 0", lambda v: v.elbo(X[:2], **first(2, site=[None, "A"]))),
    "NaN in a frame": ("covariate 'age' must be known", lambda v: v.elbo(FRAME.assign(age=np.nan))),
    "NaN in a tensor": (
        "'age' must be known in every row",
        lambda v: v.elbo(X[:2], **first(2, age=torch.tensor([1.0, torch.nan]))),
    ),
    "two for binary": ("must be 0 or 1; got 2 in row 1", lambda v: v.elbo(X[:2], **first(2, sex=[1, 2]))),
    "another order": (
        "field 'age' must have the index of x, in its order; got 59 in place of 0 in row 0",
        lambda v: v.elbo(FRAME[["u", "v", "w"]], **FIELDS | {"age": FRAME["age"][::-1]}),
    ),
    "single value for rows": ("must have one entry per row (2)", lambda v: v.elbo(X[:2], **first(2, site="A"))),
    "a column": ("covariate 'age' must have shape (rows,)", lambda v: v.elbo(X[:2], **first(2, age=[[1.0], [2.0]]))),
    "absent": ("field 'site' must be given", lambda v: v.elbo(X[:2], age=[1.0, 2.0])),
    "absent from draws": ("field 'age' must be given", lambda v: v.sample(3, site="B")),
    "name of an option": (
        "covariate 'seed' must have a name that is no argument",
        lambda v: conditional(covariates=pv.Covariates({"seed": "real"})),
    ),
    "reserved name": ("covariate 'offset' must have a name", lambda v: pv.Covariates({"offset": "real"})),
    "kind": (
        "kinds['age'] must be 'real', 'binary', 'time', a list of levels",
        lambda v: pv.Covariates({"age": "reel"}),
    ),
    "twice": ("kinds must name each covariate once", lambda v: pv.Covariates([("a", "real"), ("a", "binary")])),
    "large levels in float32": (
        "'c' must hold its levels as integers",
        lambda v: Levels([20240100, 20240101]).check("c", torch.tensor([20240101.0])),
    ),
    "no covariate": ("Name at least one covariate", lambda v: pv.Covariates({})),
    "role": (
        "into must name some of encoder, decoder, prior",
        lambda v: pv.Covariates({"age": "real"}, into=("deocder",)),
    ),
    "one level": ("levels must be at least two", lambda v: pv.Covariates({"site": ["A"]})),
    "mixed levels": ("levels must be a list of text or of whole numbers", lambda v: pv.Covariates({"site": ["A", 1]})),
    "other": ("other must be one of the levels", lambda v: Levels(["A", "B"], other="C")),
    "no covariates": ("covariates must be None or pv.Covariates", lambda v: conditional(covariates={"age": "real"})),
    "VampPrior": ("prior must not be VampPrior", lambda v: conditional(prior=priors.VampPrior(2, (3,)))),
    "VampPrior, set later": (
        "prior must not be VampPrior",
        lambda v: setattr(conditional(), "prior", priors.VampPrior(2, (3,))),
    ),
    "prior on a sphere": ("prior must draw real numbers", lambda v: conditional(prior=priors.PowerSpherical(2))),
    "sets": ("rows must be vectors or images", lambda v: conditional(event=(4, 2), encoder=nets.DeepSet())),
    "decode_as typo": (
        "must name fields that the data depend on",
        lambda v: v.reconstruct(X, decode_as={"sit": "B"}, **FIELDS),
    ),
    "decode_as in another order": (
        "field 'site' must have the index of x",
        lambda v: v.reconstruct(FRAME, decode_as={"site": FRAME["site"][::-1]}, **FIELDS),
    ),
    "unknown name with text": (
        "field 'sites' must be one that the model reads",
        lambda v: conditional().fit(X, fields=FIELDS | {"sites": SITE}, **QUICK),
    ),
    "given twice": (
        "field 'site' must be given once; got it by keyword and in fields=",
        lambda v: v.elbo(X[:2], **first(2), fields={"site": ["A", "A"]}),
    ),
    "text for a number": (
        "covariate 'age' must be numbers; got '50'",
        lambda v: v.elbo(X[:2], **first(2, age=["50", 1])),
    ),
    "no date": ("covariate 'c' must be a date or time; got 'May'", lambda v: Time().read("c", ["May"])),
    "a year": ("covariate 'c' must be a date or time; got '2020'", lambda v: Time().read("c", ["2020"])),
    "a number among dates": (
        "covariate 'c' must be a date or time; got 5",
        lambda v: Time().read("c", [pd.Timestamp("2020-01-01"), 5]),
    ),
    "number as origin": ("origin must be the text of a date or time; got 2020", lambda v: Time(2020)),
    "no time": ("got a missing value in row 1", lambda v: Time().read("c", pd.to_datetime(["2020-01-01", None]))),
    "no origin": ("origin must be a date or time; got 'start'", lambda v: Time("start")),
    "decode_as level": ("got 'Q'", lambda v: v.reconstruct(X, decode_as={"site": "Q"}, **FIELDS)),
    "decode_as length": (
        "must have one entry per row (60)",
        lambda v: v.reconstruct(X, decode_as={"site": ["A", "B"]}, **FIELDS),
    ),
    "decode_as text": ("decode_as must be a dictionary", lambda v: v.reconstruct(X, decode_as="B", **FIELDS)),
    "decode_as without effect": (
        "must name fields that the data depend on",
        lambda v: conditional(("encoder",)).reconstruct(X, decode_as={"site": "B"}, **FIELDS),
    ),
    "table, missing": (
        "must have no missing cells as a covariate; got 1, the first in row 3",
        lambda v: pv.Table(
            FRAME.assign(age=AGE.index_fill(0, torch.tensor([3]), torch.nan).numpy()), covariates=["age"]
        ),
    ),
    "table, unknown": ("covariates must name columns of the frame", lambda v: pv.Table(FRAME, covariates=["agee"])),
    "table, left out": (
        "leave_out must name no covariates",
        lambda v: pv.Table(FRAME, covariates=["age"], leave_out=["age"]),
    ),
    "table, constant": ("must vary", lambda v: pv.Table(FRAME.assign(age=1.0), covariates=["age"])),
    "table, unread": (
        "covariates of the table must be ones that the model reads",
        lambda v: pv.VAE(likelihood=table().likelihood(), prior=priors.Normal(2)).fit(table(), **QUICK),
    ),
    "table, other covariates": (
        "covariates must be those of the table",
        lambda v: pv.VAE.for_table(table(), covariates=pv.Covariates({"age": "real"})),
    ),
}


def first(count: int, **changed: Any) -> dict[str, Any]:
    return {name: values[:count] for name, values in FIELDS.items()} | changed


@pytest.mark.parametrize("name", BAD)
def test_what_is_wrong_is_refused(name: str, fitted: pv.VAE) -> None:
    message, call = BAD[name]
    with pytest.raises((ValueError, TypeError, NotImplementedError)) as caught:
        call(fitted)
    assert message in str(caught.value)


def test_a_constant_covariate_is_said() -> None:
    with pytest.warns(UserWarning, match="covariate 'c' is constant in the 60 rows that the model starts from"):
        conditional(covariates=pv.Covariates({"c": "real"})).fit(X, fields={"c": [1.0] * N}, **QUICK)


UNUSUAL = {
    "a level without a row": (
        "covariate 'c' has no row at 'C', 'rest' among the 60 rows",
        lambda v: conditional(covariates=pv.Covariates({"c": Levels(["A", "B", "C", "rest"], other="rest")})).fit(
            X, fields={"c": ["A", "B"] * (N // 2)}, **QUICK
        ),
    ),
    "a constant level": (
        "'c' is constant in the 60 rows that the model starts from",
        lambda v: conditional(covariates=pv.Covariates({"c": "binary"})).fit(X, fields={"c": [0] * N}, **QUICK),
    ),
    "wrong unit": (
        "'age' lies far outside of the rows by which it was standardized",
        lambda v: v.sample(2, fields=dict(CHOSEN, age=5000)),
    ),
    "wrong unit in rows": ("in row 1", lambda v: v.elbo(X[:2], **first(2, age=[50.0, 0.5e4]))),
    "lost digits": (
        "'c' varies in digits that torch.float32 does not hold",
        lambda v: conditional(covariates=pv.Covariates({"c": "real"})).fit(X, fields={"c": AGE + 1e6}, **QUICK),
    ),
}
CHOSEN = {"age": 50, "site": "B", "sex": 1, "year": 2020}


@pytest.mark.parametrize("name", UNUSUAL)
def test_what_is_unusual_is_said(name: str, fitted: pv.VAE) -> None:
    message, call = UNUSUAL[name]
    with pytest.warns(UserWarning, match=message):
        call(fitted)


def test_models_with_other_levels_are_not_compared(fitted: pv.VAE) -> None:
    other = conditional(covariates=pv.Covariates(KINDS | {"site": ["B", "A", "C"]}))
    with pytest.raises(ValueError, match="same levels in the same order"):
        pv.compare({"a": fitted, "b": other}, X, num_particles=5, **FIELDS)
