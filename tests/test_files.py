"""A damaged or hostile file is read as it was written or refused with a clear error, and has no other effect."""

from __future__ import annotations

import errno
import json
import os
import pickle
from pathlib import Path
from typing import Any

import hostile
import mapped
import mutations
import numpy as np
import pytest
import torch
from cases import BatchNormNet, small_vae
from PIL import Image
from safetensors.torch import save_file
from torch import nn

import pyro_vae as pv
from pyro_vae.cli import runs
from pyro_vae.datasets import arrays, decompression
from pyro_vae.saving import files
from pyro_vae.saving.limits import TensorBudget

MODELS = int(os.environ.get("PYRO_VAE_MODEL_MUTATIONS", "100"))
DATA = int(os.environ.get("PYRO_VAE_DATA_MUTATIONS", "50"))


# Random damage


@pytest.mark.parametrize(("what", "count"), [("models", MODELS), ("data", DATA)])
def test_damaged_files_load_unchanged_or_raise_a_clear_error(what: str, count: int) -> None:
    found = mutations.run_apart(what, count, seed=1)
    assert [trial for trial in found.trials if trial.problem] == []
    assert len(found.trials) > count and found.peak < mutations.MEMORY and not found.code_run


def test_the_checks_of_damaged_files_can_fail(tmp_path: Path) -> None:
    def raise_(error: Exception) -> str:
        raise error

    def hide_memory() -> str:
        try:
            raise MemoryError
        except MemoryError as error:
            raise ValueError("x must be small; got much. Reduce it.") from error

    reads: dict[str, Any] = {
        "loads: other numbers": lambda: "other numbers",
        "KeyError: 'x'": lambda: raise_(KeyError("x")),
        "ValueError: no form": lambda: raise_(ValueError("no form")),
        "memory ran out: MemoryError: ": hide_memory,
    }
    assert [mutations.attempt("", "checked", read).problem for read in reads.values()] == list(reads)
    assert mutations.attempt("", "hostile", lambda: "the same").problem == "loads: the same"
    assert mutations.attempt("", "checked", lambda: raise_(ValueError("x must be a; got b. Do c."))).problem == ""
    pickle.loads(pickle.dumps(hostile.Canary(str(tmp_path)))).close()
    assert hostile.canary(tmp_path).exists()


# Model files


def test_a_file_of_format_1_loads_without_a_checksum_and_not_with_a_wrong_one(tmp_path: Path) -> None:
    small_vae().save(tmp_path)
    tensors, config = files.load_tensors(tmp_path / "model.safetensors")
    assert config["format"] == files.FORMAT == 2
    text = json.dumps(config | {"format": 1})
    save_file(tensors, tmp_path / "old.safetensors", metadata={"pyro_vae": text})
    assert isinstance(pv.load(tmp_path / "old.safetensors"), pv.VAE)
    for metadata in ({"pyro_vae": text, "sha256": "0" * 64}, {"pyro_vae": json.dumps(config)}):
        save_file(tensors, tmp_path / "other.safetensors", metadata=metadata)
        with pytest.raises(ValueError, match=r"must be a file as it was saved; got .*other.*checksum differs"):
            pv.load(tmp_path / "other.safetensors")


def test_loaded_tensors_do_not_change_with_their_file(tmp_path: Path) -> None:
    file = tmp_path / "a.safetensors"
    files.save_tensors(file, {"a": torch.arange(3.0), "b": torch.tensor(True), "c": torch.zeros(0, 2)}, {"n": np.nan})
    tensors, config = files.load_tensors(file)
    assert np.isnan(config["n"]) and all(tensor.data_ptr() % 16 == 0 for tensor in tensors.values())
    file.write_bytes(bytes(file.stat().st_size))
    assert tensors["a"].tolist() == [0.0, 1.0, 2.0] and tensors["b"].item() and tensors["c"].shape == (0, 2)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EDQUOT])
@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_failed_save_leaves_the_earlier_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, call: str
) -> None:
    def fail(*args: Any) -> None:
        raise OSError(number, os.strerror(number))

    small_vae().save(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    monkeypatch.setattr(files.os, call, fail)
    message = rf"path must be a file that can be written; got {os.strerror(number)} for '.*'\. Make room, or"
    with pytest.raises(type(OSError(number, "")), match=message) as raised:
        small_vae().save(tmp_path)
    assert raised.value.errno == number
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_description_too_large_to_be_read_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"config must have at most 4000000 values .*; got 5000002 values"):
        files.save_tensors(tmp_path / "a.safetensors", {}, {"a": [[]] * 2_500_000})
    assert list(tmp_path.iterdir()) == []


def test_tensors_are_limited_in_proportion_to_the_file() -> None:
    weights = [torch.zeros(1000)]
    with TensorBudget(weights, spare=0):
        assert torch.zeros(100, 100).shape == (100, 100)
    for make in (
        lambda: torch.empty(10**6, 10**6),
        lambda: torch.zeros(10**30),
        lambda: torch.arange(10**9),
        lambda: torch.eye(10**5),
        lambda: torch.zeros(7000, 1) > torch.zeros(7000),
        lambda: torch.zeros(5000) @ torch.zeros(5000, 1) + torch.outer(torch.ones(5000), torch.ones(5000)),
        lambda: torch.diag_embed(torch.zeros(10000)),
        lambda: torch.zeros(10).repeat(10**8),
        lambda: [torch.zeros(()) for _ in range(10**4)],
    ):
        with (
            pytest.raises((ValueError, TypeError, OverflowError, RuntimeError)) as raised,
            TensorBudget(weights, spare=0),
        ):
            make()
        assert isinstance(raised.value, TypeError | OverflowError) or "must suit the 1000 numbers" in str(raised.value)


def test_large_models_and_models_with_modules_of_the_user_load(tmp_path: Path) -> None:
    net = pv.nets.Conv(channels=(4,) * 6, hidden=(4,))
    large = pv.VAE(
        likelihood=pv.likelihoods.DiscretizedLogistic((3, 256, 256), num_components=3),
        prior=pv.priors.Normal(2),
        encoder=net,
        decoder=net,
    )
    large.save(tmp_path / "large")
    pv.load(tmp_path / "large")
    decoder = nn.Sequential(nn.Linear(3, 6), nn.Unflatten(1, (2, 3)))
    small_vae(decoder=decoder, encoder=BatchNormNet((6, 6))).save(tmp_path / "yours")
    pv.load(tmp_path / "yours", decoder=decoder, encoder=BatchNormNet((6, 6)))


def test_an_error_from_a_made_up_description_names_the_file(tmp_path: Path) -> None:
    small_vae().save(tmp_path)
    tensors, config = files.load_tensors(tmp_path / "model.safetensors")
    for role, value in (("prior", {"class": "priors.Normal", "arguments": {"x": 1}}), ("encoder", [[]]), ("seed", {})):
        made_up = config | {"arguments": config["arguments"] | {role: value}}
        files.save_tensors(tmp_path / "made.safetensors", tensors, made_up)
        with pytest.raises(ValueError, match=r"The saved arguments must fit 'VAE'; got .*made.safetensors'"):
            pv.load(tmp_path / "made.safetensors")


# Folders of runs


@pytest.mark.parametrize("text", ["", "[", "[" * 10**5, "[]", "3", "null", '{"data": 3}', '{"data": {}}', "\0"])
def test_a_config_file_without_a_configuration_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ValueError, match="must name the data of the run; got nothing that can be read. Train again"):
        runs.read_splits(tmp_path, None)
    with pytest.raises(ValueError, match=r"must (name the data|hold the options) of (the|a) run"):
        runs.read_options(tmp_path)


def test_a_config_file_with_impossible_values_is_refused(tmp_path: Path) -> None:
    good = {"name": "digits", "path": None, "data_dir": None, "binarize": None, "sha256": {}, "indices": {}}
    for key in good:
        for value in (3, [], ["a"], {"a": 1}, True, "\0", "/dev/zero", "/dev/zero/x.npy", None):
            (tmp_path / "config.json").write_text(json.dumps({"data": good | {key: value}}))
            with pytest.raises((ValueError, FileNotFoundError), match=r"must .*; got "):
                runs.read_splits(tmp_path, None)
    config: dict[str, Any] = {"data": good, "options": {"epochs": 3}, "seed": 0}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert runs.read_options(tmp_path)["data"] == "digits"
    for change in ({"seed": "a"}, {"options": {"command": "x"}}, {"options": {"hidden": [[3]]}}, {"options": 3}):
        (tmp_path / "config.json").write_text(json.dumps(config | change))
        with pytest.raises(ValueError, match=r"must hold the options of a run; got a config.json with"):
            runs.read_options(tmp_path)


@pytest.mark.parametrize(
    ("likelihood", "options", "expected"),
    [
        ("Binomial", {"likelihood": "auto"}, ("normal", "binomial", 0.0)),
        ("Bernoulli", {"likelihood": "auto"}, ("normal", "auto", 0.0)),
        ("Binomial", {"likelihood": "normal"}, ("normal", "normal", 0.0)),
        ("BetaBinomial", {"likelihood": "auto", "prior": "flow"}, ("flow", "auto", 0.0)),
        ("BetaBinomial", {"likelihood": "auto", "prior": "flow", "ridge": 0.4}, ("flow", "auto", 0.4)),
    ],
)
def test_runs_of_earlier_versions_keep_the_defaults_that_they_had(
    tmp_path: Path, likelihood: str, options: dict[str, Any], expected: tuple[str, str, float]
) -> None:
    """The digits suggested a binomial likelihood then, and a beta-binomial one since."""
    arguments = {"likelihood": {"class": f"likelihoods.{likelihood}", "arguments": {}}}
    config = {"arguments": arguments, "data": {"name": "digits"}, "options": options, "seed": 0}
    (tmp_path / "config.json").write_text(json.dumps(config))
    found = runs.read_options(tmp_path)
    assert (found["prior"], found["likelihood"], found["ridge"]) == expected


# Data files


def test_headers_of_arrays_are_checked_before_memory_is_allocated(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    for shape in ((10**12, 3), (20, 4), (19, 3), (-20, -3)):
        with path.open("wb") as file:
            np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})
            file.write(bytes(240))
        with pytest.raises(ValueError, match=r"a.npy must be a whole .npy file .*got ValueError: 240 bytes of numbers"):
            pv.datasets.load(path)


def test_large_arrays_are_memory_mapped_and_not_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    x = np.random.RandomState(0).randn(30, 4)
    for name, array in {"c": x, "f": np.asfortranarray(x), "swapped": x.astype(">f8")}.items():
        np.save(tmp_path / f"{name}.npy", array)
        expected = pv.datasets.load(tmp_path / f"{name}.npy").train.x
        with monkeypatch.context() as patch:
            patch.setattr(arrays, "MAP_ABOVE", 0)
            patch.setattr("pyro_vae.data.rows.PICKED_BY_NUMBER", 0)
            assert isinstance(arrays.read_array(tmp_path / f"{name}.npy"), np.memmap)
            data = pv.datasets.load(tmp_path / f"{name}.npy")
        assert torch.equal(data.train.x, expected)
        assert data.train.stored()["x"][0] is data.test.stored()["x"][0]


def test_decompression_bombs_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decompression, "ALWAYS_ALLOWED", 10**5)
    np.savez_compressed(tmp_path / "a.npz", x=np.zeros((1000, 100)))
    with pytest.raises(ValueError, match=r"a.npz must unpack to at most 1 GB, or 100 times its size; got \d+ bytes"):
        pv.datasets.load(tmp_path / "a.npz")
    np.savez(tmp_path / "b.npz", x=np.zeros((1000, 100)))
    pv.datasets.load(tmp_path / "b.npz")
    for i in range(12):
        (tmp_path / "images").mkdir(exist_ok=True)
        Image.fromarray(np.zeros((200, 200), np.uint8)).save(tmp_path / "images" / f"{i}.png")
    with pytest.raises(ValueError, match="images must unpack to at most 1 GB"):
        pv.datasets.load(tmp_path / "images")


def test_an_image_of_too_many_pixels_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for i in range(12):
        Image.fromarray(np.zeros((20, 20), np.uint8)).save(tmp_path / f"{i}.png")
    pv.datasets.load(tmp_path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 300)
    with pytest.raises(ValueError, match=r"0.png must be a whole .* got DecompressionBombWarning"):
        pv.datasets.load(tmp_path)


# Data larger than memory


@pytest.fixture(scope="session")
def large_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return mapped.write(tmp_path_factory.mktemp("large") / "x.npy", 400_000_000)


@pytest.mark.slow
@pytest.mark.parametrize("way", mapped.WAYS)
def test_training_on_a_memory_mapped_file_takes_little_memory(large_file: Path, way: str) -> None:
    found = mapped.run_apart(way, large_file, seconds=60.0, sample=2**21)
    assert found.peak < 200_000_000 and found.num_rows > 0


@pytest.mark.slow
def test_the_check_of_memory_can_fail(large_file: Path) -> None:
    found = mapped.run_apart("pv.datasets.load", large_file, seconds=1.0, sample=2**30)
    assert found.peak > 200_000_000
