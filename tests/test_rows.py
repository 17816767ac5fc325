"""Rows that share memory, are mapped from a file or are picked by index act as copies of them do."""

from __future__ import annotations

import hashlib
import math
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
import torch
from cases import small_vae
from torch import Tensor

import pyro_vae as pv
from pyro_vae.cli import choices
from pyro_vae.data import rows as room
from pyro_vae.data.batches import Batches, Rows, as_rows
from pyro_vae.data.columns import warn_of_lost_digits
from pyro_vae.data.tensors import as_tensor

X = torch.from_numpy(np.random.RandomState(0).randint(0, 2, (60, 6)).astype(np.float64))
FIELDS = {"label": torch.arange(60), "mask": torch.arange(120.0).reshape(60, 2)}


def double(x: Tensor) -> Tensor:
    return 2 * x


def both(monkeypatch: pytest.MonkeyPatch, index: Any, **options: Any) -> tuple[Rows, Rows]:
    """The same rows picked by copying, and by index."""
    rows = Rows(X, FIELDS, columns=list("abcdef"), index=[f"r{i}" for i in range(60)], **options)
    copied = rows.subset(index)
    monkeypatch.setattr(room, "PICKED_BY_NUMBER", -1)
    return copied, rows.subset(index)


INDICES = {
    "slice": slice(3, 50, 2),
    "permutation": torch.randperm(60, generator=torch.Generator().manual_seed(0)),
    "with repetition": torch.tensor([5, 5, 0, 59, 7]),
    "boolean": torch.arange(60) % 3 == 0,
}


@pytest.mark.parametrize("name", INDICES)
def test_rows_picked_by_index_equal_copied_rows(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    copied, picked = both(monkeypatch, INDICES[name], transform=double)
    for a, b in ((copied, picked), (copied.subset(torch.tensor([2, 0])), picked.subset(torch.tensor([2, 0])))):
        assert b.stored()["x"][0].untyped_storage().data_ptr() == X.untyped_storage().data_ptr()
        assert len(a) == len(b) and a.index == b.index and a.columns == b.columns and a.event_shape == b.event_shape
        assert torch.equal(a.x, b.x) and a.digests(["label", "mask"]) == b.digests(["label", "mask"])
        assert a.fields.keys() == b.fields.keys() and torch.equal(a.field("mask"), b.field("mask"))
        for index in (1, slice(0, 2), torch.tensor([1, 0]), [0, 1]):
            assert all(map(torch.equal, a[index], b[index]))
            one, other = a.take(index, ["label"]), b.take(index, ["label"])
            assert one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)
        further = {"extra": torch.arange(len(a)) * 1.0}
        assert torch.equal(b.with_fields(further).take([1], ["extra"])["extra"], torch.tensor([1.0]))
        assert torch.equal(b.with_transform(None).take(slice(None))["x"], a.x)
        assert torch.equal(torch.cat(list(b.pieces())), a.x)


def test_an_empty_subset_and_a_wrong_field_are_errors() -> None:
    with pytest.raises(ValueError, match="index must name at least one of 60 rows; got none"):
        Rows(X).subset(slice(0, 0))
    with pytest.raises(ValueError, match=r"fields must name fields of the data \(\['label'\]\); got 'x'"):
        Rows(X, {"label": FIELDS["label"]}).field("x")


@pytest.mark.parametrize("compile", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_training_and_evaluation_are_the_same_on_rows_picked_by_index(
    monkeypatch: pytest.MonkeyPatch, compile: bool
) -> None:
    found = []
    for rows in both(monkeypatch, INDICES["permutation"][:50]):
        vae = small_vae(likelihood=pv.likelihoods.Bernoulli(6)).double()
        history = vae.fit(rows, epochs=3, batch_size=16, seed=0, compile=compile, progress=False, valid=rows)
        found.append((history.rows[-1]["train_bound"], vae.log_likelihood(rows, num_particles=5, seed=0).estimate))
    assert found[0][0] == found[1][0] and torch.equal(found[0][1], found[1][1])


def test_a_file_mapped_for_reading_is_not_copied(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", X.numpy())
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    for view in (mapped, mapped[10:], mapped[:, ::2], mapped.T):
        tensor = as_tensor(view)
        assert tensor.data_ptr() == view.ctypes.data and torch.equal(tensor, torch.tensor(np.array(view)))
    for view in (mapped[::-1], np.asarray(mapped)):
        assert as_tensor(view).data_ptr() != view.ctypes.data
    assert as_tensor(np.load(tmp_path / "x.npy", mmap_mode="r").astype(">f8")).dtype == torch.float64
    vae = small_vae(likelihood=pv.likelihoods.Bernoulli(6)).double()
    assert torch.equal(vae.elbo(mapped, seed=0).bound, vae.elbo(X, seed=0).bound)


def test_a_cell_that_is_not_finite_is_found_in_a_later_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "CHUNK", 12)
    x = X.clone()
    x[31, 2], x[50] = torch.inf, torch.nan
    with pytest.raises(ValueError, match=r"x must be finite; got inf in row 31, column 'c' \(1 such cells\)"):
        Rows(x, columns=list("abcdef"))


def test_digests_depend_on_type_shape_and_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "CHUNK", 12)
    for x in (X, X.float(), X.to(torch.uint8), X.bool(), X.reshape(60, 2, 3)):
        array = x.numpy()
        expected = hashlib.sha256(f"{array.dtype.str} {array.shape}".encode() + array.tobytes()).hexdigest()
        assert Rows(x).digests() == {"x": expected}
    assert Rows(X.bfloat16()).digests() != Rows(X.half()).digests()


def test_digits_that_float32_loses_are_found_piece_by_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "CHUNK", 24)
    x = torch.randn(60, 6, dtype=torch.float64)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_lost_digits(Rows(x), torch.zeros(()))
    x[:, 3] = 1e9 + x[:, 3]
    with pytest.warns(UserWarning, match=r"Columns 3 of x vary in digits that torch.float32 does not hold"):
        warn_of_lost_digits(Rows(x), torch.zeros(()))


def test_a_sample_is_all_rows_or_evenly_spaced_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    batches = Batches(Rows(X, FIELDS), like=torch.zeros(()), fields=("label",))
    assert batches.sample()["label"].tolist() == list(range(60))
    assert [first for first, _ in batches.chunks()] == [0]
    monkeypatch.setattr("pyro_vae.data.batches.PARTIAL_SAMPLE", 100)
    monkeypatch.setattr("pyro_vae.data.batches.WHOLE_SAMPLE", 100)
    monkeypatch.setattr(room, "CHUNK", 24)
    assert Rows(X).rows_at_once() == 4
    sample = batches.sample()
    assert sample["label"].tolist() == list(range(0, 60, 4)) and sample["x"].dtype == torch.float32
    chunks = list(batches.chunks())
    assert [first for first, _ in chunks] == list(range(0, 60, 4))
    assert torch.equal(torch.cat([chunk["x"] for _, chunk in chunks]), X.float())


def test_the_largest_cell_is_found_piece_by_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    digits = pv.datasets.load("digits")
    monkeypatch.setattr(room, "CHUNK", 640)
    assert choices._largest(digits) == 16


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_rows_whose_memory_changes_after_they_were_made_are_checked_again(value: float) -> None:
    x = torch.zeros(10, 2, 3)
    rows, vae = Rows(x), small_vae(likelihood=pv.likelihoods.Normal((2, 3))).float()
    x[3, 1, 0] = value
    for call in (vae.encode, vae.log_likelihood, vae.posterior_predictive, partial(vae.fit, epochs=1, progress=False)):
        with pytest.raises(ValueError, match="x must be finite in torch.float32; got (nan|inf) in row 3"):
            call(rows)


def test_a_cell_that_overflows_in_the_cast_is_named() -> None:
    x = torch.zeros(10, 2, 3, dtype=torch.float64)
    x[4, 0, 1] = 1e300
    vae = small_vae(likelihood=pv.likelihoods.Normal((2, 3))).float()
    with pytest.raises(ValueError, match=r"torch.float32; got inf in row 4. Rescale it, or use model.double\(\)"):
        vae.encode(x)


def test_a_transform_that_gives_nan_is_named() -> None:
    rows = Rows(torch.zeros(10, 2, 3), transform=lambda x: x / x)
    vae = small_vae(likelihood=pv.likelihoods.Normal((2, 3))).float()
    with pytest.raises(ValueError, match="x must be finite in torch.float32; got nan in row 0. Look at that row"):
        vae.encode(rows)


# Digits and sizes

LOST: dict[str, tuple[Any, torch.dtype, str]] = {
    "int64 in float32": (10**9 + torch.arange(60)[:, None], torch.float32, "torch.float32 .* model.double"),
    "int32 in float32": (10**9 + torch.arange(60, dtype=torch.int32)[:, None], torch.float32, "torch.float32 .* model"),
    "int64 in float64": (2**60 + torch.arange(60)[:, None], torch.float64, "torch.float64 .* before they become"),
    "int64 beyond float64 in float32": (
        2**60 + torch.arange(60)[:, None],
        torch.float32,
        "torch.float32 .* before they",
    ),
    "float64 in float32": (1e9 + torch.arange(60.0, dtype=torch.float64)[:, None], torch.float32, "model.double"),
    "a frame": (pandas.DataFrame({"a": 2**60 + np.arange(60)}), torch.float64, "Columns a .* float64 does not hold"),
    "small int64": (torch.arange(60)[:, None], torch.float32, ""),
    "int32 in float64": (10**9 + torch.arange(60, dtype=torch.int32)[:, None], torch.float64, ""),
    "uint8": (torch.arange(60, dtype=torch.uint8)[:, None], torch.float32, ""),
    "int16 in half": (10**4 + torch.arange(60, dtype=torch.int16)[:, None], torch.float32, ""),
    "bool": ((torch.arange(60) % 2 == 0)[:, None], torch.float32, ""),
    "float32": (1e9 + 1e4 * torch.arange(60.0)[:, None], torch.float32, ""),
}


@pytest.mark.parametrize("name", LOST)
def test_digits_that_a_cast_loses_are_told_for_every_type(name: str) -> None:
    x, dtype, message = LOST[name]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        if not message:
            warn_of_lost_digits(as_rows(x), torch.zeros((), dtype=dtype))  # type: ignore[arg-type]
            return
    with pytest.warns(UserWarning, match=message):
        warn_of_lost_digits(as_rows(x), torch.zeros((), dtype=dtype))


@pytest.mark.parametrize("scale", ["shared", "per_dimension", "predicted"])
def test_cells_too_small_to_be_squared_are_refused(scale: str) -> None:
    x = 1e-20 * torch.randn(50, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    vae = small_vae(likelihood=pv.likelihoods.Normal(2, scale=scale))
    with pytest.raises(ValueError, match=r"x must vary by amounts that can be squared in torch.float32; .*column 0"):
        vae.float().fit(x, epochs=1, progress=False)
    assert not vae.initialized
    vae.double().fit(x, epochs=1, progress=False, compile=False)
    logs = small_vae(likelihood=pv.likelihoods.LogNormal(2, scale=scale)).float()
    logs.fit(1e-20 * torch.rand(50, 2).clamp_min(0.01), epochs=1, progress=False, compile=False)


# Columns that are constant in the training rows

L = pv.likelihoods
UNBOUNDED: dict[str, Any] = {
    "Normal": lambda: L.Normal(3, scale="per_dimension"),
    "Normal predicted": lambda: L.Normal(3, scale="predicted"),
    "Normal plain": lambda: L.Normal(3, scale="per_dimension", standardize=False),
    "Laplace": lambda: L.Laplace(3, scale="per_dimension"),
    "StudentT": lambda: L.StudentT(3, scale="predicted"),
    "LogNormal": lambda: L.LogNormal(3, scale="per_dimension"),
    "Gamma": lambda: L.Gamma(3, dispersion="per_dimension"),
    "Beta": lambda: L.Beta(3, dispersion="predicted"),
    "MultivariateNormal": lambda: L.MultivariateNormal(3),
    "LowRankNormal": lambda: L.LowRankNormal(3, rank=1),
    "Product": lambda: L.Product({"a": L.Normal(1), "b": L.Normal(1), "c": L.Gamma(1)}),
}
HARMLESS: dict[str, Any] = {
    "Normal": lambda: L.Normal(3),
    "Normal fixed": lambda: L.Normal(3, scale="fixed"),
    "Normal optimal": lambda: L.Normal(3, scale="optimal"),
    "StudentT": lambda: L.StudentT(3),
    "Gamma": lambda: L.Gamma(3),
    "ContinuousBernoulli": lambda: L.ContinuousBernoulli(3),
}
COUNTS: dict[str, Any] = {
    "Bernoulli": lambda: L.Bernoulli(3),
    "Poisson": lambda: L.Poisson(3),
    "NegativeBinomial": lambda: L.NegativeBinomial(3, dispersion="per_dimension"),
    "Categorical": lambda: L.Categorical(3, num_categories=3),
    "Binomial": lambda: L.Binomial(3, total_count=2),
}
QUICK: dict[str, Any] = {"epochs": 1, "progress": False, "compile": False, "seed": 0}


def constant_in_the_middle(counts: bool = False) -> Tensor:
    x = torch.rand(40, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64).clamp(0.01, 0.99)
    x[:, 1] = 0.5
    return (x > 0.4).double() if counts else x


@pytest.mark.parametrize("name", UNBOUNDED)
def test_a_constant_column_is_refused_where_the_density_is_unbounded(name: str) -> None:
    x = constant_in_the_middle()
    for data, named in ((x, "1"), (pandas.DataFrame(x.numpy(), columns=list("abc")), "'b'")):
        vae = small_vae(likelihood=UNBOUNDED[name]())
        with pytest.raises(
            ValueError, match=rf"got constant columns {named} \(1 of 3\) .* no upper bound.*Leave these"
        ):
            vae.fit(data, **QUICK)
        assert not vae.initialized
    vae.fit(x + 0.001 * torch.arange(40)[:, None] / 40, valid=x, **QUICK)  # validation rows may be constant


@pytest.mark.parametrize("name", HARMLESS)
def test_a_constant_column_is_harmless_under_one_scale(name: str) -> None:
    small_vae(likelihood=HARMLESS[name]()).fit(constant_in_the_middle(), **QUICK)


@pytest.mark.parametrize("name", COUNTS)
def test_a_constant_column_of_counts_is_warned_of(name: str) -> None:
    with pytest.warns(UserWarning, match=r"Columns 1 \(1 of 3\) of x are constant in the training rows.*Leave these"):
        small_vae(likelihood=COUNTS[name]()).fit(constant_in_the_middle(counts=True), **QUICK)


def test_a_constant_border_of_images_needs_no_word() -> None:
    x = torch.zeros(30, 1, 4, 4, dtype=torch.float64)
    x[:, :, 1:3, 1:3] = torch.rand(30, 1, 2, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    small_vae(likelihood=L.Normal((1, 4, 4))).fit(x, **QUICK)
    small_vae(likelihood=L.Bernoulli((1, 4, 4))).fit((x > 0.5).double(), **QUICK)
    with pytest.raises(ValueError, match=r"got constant columns 0, 1, 2, 3, 4, 7, 8, 11, \.\.\. \(12 of 16\)"):
        small_vae(likelihood=L.Normal((1, 4, 4), scale="per_dimension")).fit(x, **QUICK)
