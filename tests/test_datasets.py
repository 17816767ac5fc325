"""Data sets: the embedded one, small files in the formats that torchvision reads, and the user's own files."""

from __future__ import annotations

import gzip
import hashlib
import os
import pickle
import random
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import pytest
import torch
from torch import Tensor

import pyro_vae.datasets
from pyro_vae.data.batches import Batches, Rows
from pyro_vae.datasets import Splits, load, names

MNIST_LIKE = {"mnist": "MNIST", "fashion-mnist": "FashionMNIST", "kmnist": "KMNIST", "emnist": "EMNIST"}
COLOUR = ("cifar10", "svhn", "celeba")
NUM_TRAIN, NUM_TEST = 36, 8
RNG = np.random.RandomState(0)
GREY = RNG.randint(0, 256, (NUM_TRAIN + NUM_TEST, 28, 28)).astype(np.uint8)
GREY[:, 0], GREY[:, 1] = 0, 255
COLOURS = RNG.randint(0, 256, (NUM_TRAIN + NUM_TEST, 3, 32, 32)).astype(np.uint8)
LABELS = np.arange(NUM_TRAIN + NUM_TEST) % 10


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise URLError("no network in tests")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    monkeypatch.delenv("PYRO_VAE_DATA", raising=False)


@pytest.fixture
def unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let torchvision read files that are not the official ones."""
    from torchvision.datasets import celeba, cifar, omniglot, svhn

    for module in (celeba, cifar, omniglot, svhn):
        monkeypatch.setattr(module, "check_integrity", lambda path, md5=None: os.path.isfile(path))


def write_idx(path: Path, array: np.ndarray) -> None:
    header = bytes([0, 0, 8, array.ndim]) + b"".join(size.to_bytes(4, "big") for size in array.shape)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(header + array.astype(np.uint8).tobytes())


def write_mnist(root: Path, kind: str = "MNIST") -> None:
    prefixes = ("emnist-balanced-train", "emnist-balanced-test") if kind == "EMNIST" else ("train", "t10k")
    for prefix, part in zip(prefixes, (slice(0, NUM_TRAIN), slice(NUM_TRAIN, None)), strict=True):
        write_idx(root / kind / "raw" / f"{prefix}-images-idx3-ubyte", GREY[part])
        write_idx(root / kind / "raw" / f"{prefix}-labels-idx1-ubyte", LABELS[part])


def write_cifar10(root: Path) -> None:
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    names = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]
    for name, rows in zip(names, (*np.array_split(np.arange(NUM_TRAIN), 5), np.arange(NUM_TRAIN, 44)), strict=True):
        batch = {"data": COLOURS[rows].reshape(len(rows), -1), "labels": LABELS[rows].tolist()}
        (folder / name).write_bytes(pickle.dumps(batch))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": list("abcdefghij")}))


def write_svhn(root: Path) -> None:
    from scipy.io import savemat

    for name, part in (("train", slice(0, NUM_TRAIN)), ("test", slice(NUM_TRAIN, None))):
        labels = np.where(LABELS == 0, 10, LABELS)[part].astype(np.uint8)[:, None]
        savemat(root / f"{name}_32x32.mat", {"X": COLOURS[part].transpose(2, 3, 1, 0), "y": labels})


def write_celeba(root: Path) -> None:
    folder = root / "celeba"
    (folder / "img_align_celeba").mkdir(parents=True)
    files = [f"{i + 1:06d}.jpg" for i in range(12)]
    for i, name in enumerate(files):
        pixels = np.full((218, 178, 3), 255, np.uint8)
        pixels[35:183, 15:163] = (10 * i, 20 * i, 0)
        write_image(folder / "img_align_celeba" / name, pixels, kind="PNG")
    attributes = [" ".join("1" if (i + j) % 2 else "-1" for j in range(40)) for i in range(12)]
    tables: dict[str, tuple[list[str], list[str]]] = {
        "list_eval_partition.txt": ([], ["0"] * 8 + ["1"] * 2 + ["2"] * 2),
        "identity_CelebA.txt": ([], ["7"] * 12),
        "list_bbox_celeba.txt": (["12", "image_id x_1 y_1 width height"], ["1 2 3 4"] * 12),
        "list_landmarks_align_celeba.txt": (["12", " ".join(f"p{i}" for i in range(10))], ["1 " * 9 + "1"] * 12),
        "list_attr_celeba.txt": (["12", " ".join(f"a{i}" for i in range(40))], attributes),
    }
    for table, (header, cells) in tables.items():
        lines = header + [f"{name} {row}" for name, row in zip(files, cells, strict=True)]
        (folder / table).write_text("\n".join(lines) + "\n")


def write_omniglot(root: Path) -> None:
    for kind, alphabets in (("images_background", "BA"), ("images_evaluation", "C")):
        (root / "omniglot-py").mkdir(exist_ok=True)
        (root / "omniglot-py" / f"{kind}.zip").write_bytes(b"")
        for alphabet in alphabets:
            for character in ("character02", "character01"):
                for i in range(6):
                    pixels = np.ones((105, 105), bool)
                    pixels[:, : 15 * (i + 1)] = False
                    write_image(root / "omniglot-py" / kind / alphabet / character / f"{i:02d}.png", pixels)


WRITERS: dict[str, Callable[[Path], None]] = {
    **{name: lambda root, kind=kind: write_mnist(root, kind) for name, kind in MNIST_LIKE.items()},  # type: ignore[misc]
    "cifar10": write_cifar10,
    "svhn": write_svhn,
    "celeba": write_celeba,
    "omniglot": write_omniglot,
}


def write_image(path: Path, pixels: np.ndarray, kind: str | None = None) -> None:
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, format=kind)


def drawn(rows: Rows) -> Tensor:
    return rows.take(slice(None), like=torch.empty(0))["x"]


def is_binary(x: Tensor) -> bool:
    return bool(((x == 0) | (x == 1)).all())


def splits_of(data: Splits) -> Iterator[Rows]:
    yield from (data.train, data.valid, data.test)


# The embedded digits


def test_digits_are_counts_with_labels() -> None:
    data = load("digits")
    assert [len(rows) for rows in splits_of(data)] == [1257, 180, 360]
    assert data.event_shape == tuple(data.train.x.shape[1:]) == (1, 8, 8)
    assert (data.likelihood, data.unit) == ("BetaBinomial", "ink 0..16")
    assert data.likelihood_options == {"total_count": 16, "dispersion": "predicted"}
    x = torch.cat([drawn(rows) for rows in splits_of(data)])
    assert x.min() == 0 and x.max() == 16 and (x == x.round()).all()
    labels = torch.cat([rows.field("label") for rows in splits_of(data)])
    assert labels.dtype == torch.int64 and labels.unique().tolist() == list(range(10))


def test_digits_are_split_by_a_permutation_that_depends_on_the_seed() -> None:
    from sklearn.datasets import load_digits

    first, again, other = load("digits"), load("digits"), load("digits", seed=1)
    assert first.indices == again.indices and first.indices != other.indices
    assert sorted(chain.from_iterable(first.indices.values())) == list(range(1797))
    assert first.indices["test"][:5] == np.random.RandomState(0).permutation(1797)[:5].tolist()
    raw = load_digits()
    for split, rows in zip(("train", "valid", "test"), splits_of(first), strict=True):
        np.testing.assert_array_equal(rows.x[:, 0], raw.images[first.indices[split]])
        np.testing.assert_array_equal(rows.field("label"), raw.target[first.indices[split]])


def test_digits_can_be_binarized() -> None:
    data = load("digits", binarize="dynamic")
    assert data.likelihood == "Bernoulli" and all(is_binary(drawn(rows)) for rows in splits_of(data))
    assert drawn(data.train).mean().item() == pytest.approx(data.train.x.float().mean().item() / 16, abs=0.01)


def test_every_name_has_a_description_of_one_line() -> None:
    assert set(names()) == {"digits", "omniglot", *MNIST_LIKE, *COLOUR}
    assert all(description and "\n" not in description for description in names().values())


# Sets that torchvision reads


@pytest.mark.parametrize("name", MNIST_LIKE)
def test_sets_in_the_format_of_mnist_are_read(name: str, tmp_path: Path) -> None:
    write_mnist(tmp_path, MNIST_LIKE[name])
    data = load(name, data_dir=tmp_path, binarize="none", download=False)
    assert [len(rows) for rows in splits_of(data)] == [33, 3, 8]
    assert data.event_shape == (1, 28, 28) and data.train.x.dtype == torch.uint8
    x = torch.cat([rows.x for rows in splits_of(data)])[:, 0]
    np.testing.assert_array_equal(x.mT if name == "emnist" else x, GREY)
    np.testing.assert_array_equal(torch.cat([rows.field("label") for rows in splits_of(data)]), LABELS)
    assert data.indices == {"train": list(range(33)), "valid": [33, 34, 35], "test": list(range(8))}


def test_compressed_mnist_files_are_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.datasets import MNIST

    write_mnist(tmp_path)
    resources = []
    for path in sorted((tmp_path / "MNIST" / "raw").iterdir()):
        packed = gzip.compress(path.read_bytes())
        path.with_name(path.name + ".gz").write_bytes(packed)
        path.unlink()
        resources.append((path.name + ".gz", hashlib.md5(packed).hexdigest()))
    monkeypatch.setattr(MNIST, "resources", resources)
    assert len(load("mnist", data_dir=tmp_path).test) == NUM_TEST


@pytest.mark.parametrize("name", ["cifar10", "svhn"])
def test_colour_images_are_read_as_levels(name: str, tmp_path: Path, unchecked: None) -> None:
    WRITERS[name](tmp_path)
    data = load(name, data_dir=tmp_path, download=False)
    assert [len(rows) for rows in splits_of(data)] == [33, 3, 8] and data.event_shape == (3, 32, 32)
    np.testing.assert_array_equal(torch.cat([rows.x for rows in splits_of(data)]), COLOURS)
    np.testing.assert_array_equal(torch.cat([rows.field("label") for rows in splits_of(data)]), LABELS)
    assert (data.likelihood, data.likelihood_options) == ("Normal", {"scale": "shared"})
    torch.testing.assert_close(drawn(data.test), torch.from_numpy(COLOURS[NUM_TRAIN:]) / 255)


def test_celeba_is_cut_and_resized(tmp_path: Path, unchecked: None) -> None:
    write_celeba(tmp_path)
    data = load("celeba", data_dir=tmp_path, download=False)
    assert [len(rows) for rows in splits_of(data)] == [8, 2, 2] and data.event_shape == (3, 64, 64)
    expected = torch.tensor([[10 * i, 20 * i, 0] for i in range(8)])[:, :, None, None].expand(8, 3, 64, 64)
    np.testing.assert_array_equal(data.train.x, expected)
    assert data.valid.x[0, 0, 0, 0] == 80 and data.test.x[0, 1, 5, 5] == 200
    assert data.train.field("label")[1, :3].tolist() == [1, 0, 1]
    assert load("celeba", data_dir=tmp_path, image_size=16).event_shape == (3, 16, 16)


def test_omniglot_has_ink_as_one_and_rows_in_order_of_path(tmp_path: Path, unchecked: None) -> None:
    write_omniglot(tmp_path)
    data = load("omniglot", data_dir=tmp_path, binarize="none", download=False)
    assert [len(rows) for rows in splits_of(data)] == [22, 2, 12] and data.event_shape == (1, 28, 28)
    assert torch.cat([data.train.field("label"), data.valid.field("label")]).tolist() == sorted([0, 1, 2, 3] * 6)
    ink = drawn(data.test)[:6].mean((1, 2, 3))
    torch.testing.assert_close(ink, torch.arange(1, 7) / 7, atol=0.02, rtol=0)
    small = load("omniglot", data_dir=tmp_path, image_size=14)
    assert small.event_shape == (1, 14, 14) and small.likelihood == "Bernoulli"


def test_dynamic_binarization_redraws_training_rows_only(tmp_path: Path) -> None:
    write_mnist(tmp_path)
    data, again = load("mnist", data_dir=tmp_path), load("mnist", data_dir=tmp_path, seed=5)
    assert (data.likelihood, data.likelihood_options, data.unit) == ("Bernoulli", {}, "pixel on/off")
    assert not torch.equal(drawn(data.train), drawn(data.train))
    for rows, same in ((data.valid, again.valid), (data.test, again.test)):
        assert torch.equal(drawn(rows), drawn(rows)) and torch.equal(drawn(rows), drawn(same))
    assert all(is_binary(drawn(rows)) for rows in splits_of(data))
    assert is_binary(data.train[3][0]) and is_binary(pickle.loads(pickle.dumps(data.train))[3][0])
    assert next(iter(Batches(data.train, like=torch.empty(0, dtype=torch.float64))))["x"].dtype == torch.float64


def test_dynamic_binarization_has_the_grey_level_as_mean(tmp_path: Path) -> None:
    write_mnist(tmp_path)
    torch.manual_seed(0)
    train = load("mnist", data_dir=tmp_path).train
    mean = torch.stack([drawn(train) for _ in range(400)]).mean(0)
    level = train.x / 255
    assert ((mean - level).abs() <= 5 * (level * (1 - level) / 400).sqrt()).all()


def test_static_binarization_has_the_grey_level_as_probability(tmp_path: Path) -> None:
    write_mnist(tmp_path)
    grey = load("mnist", data_dir=tmp_path, binarize="none")
    data, again = (load("mnist", data_dir=tmp_path, binarize="static") for _ in range(2))
    for rows, same, levels in zip(splits_of(data), splits_of(again), splits_of(grey), strict=True):
        x, level = drawn(rows), drawn(levels)
        assert is_binary(x) and torch.equal(x, drawn(rows)) and torch.equal(x, drawn(same))
        assert (x[level == 0] == 0).all() and (x[level == 1] == 1).all()
        error = (level * (1 - level)).sum().sqrt() / level.numel()
        assert (x - level).mean().abs() < 5 * error and ((x - level) * level).mean().abs() < 5 * error


def test_grey_levels_without_binarization_lie_in_the_unit_interval(tmp_path: Path) -> None:
    write_mnist(tmp_path)
    data = load("mnist", data_dir=tmp_path, binarize="none")
    assert (data.likelihood, data.likelihood_options) == ("Normal", {"scale": "shared"})
    assert data.unit == "grey level 0..1"
    for rows in splits_of(data):
        assert drawn(rows).min() == 0 and drawn(rows).max() == 1 and torch.equal(drawn(rows), rows[:][0])


@pytest.mark.parametrize("binarize", [None, "static", "none"])
@pytest.mark.parametrize("name", ["digits", "mnist"])
def test_loading_leaves_global_random_states_alone(name: str, binarize: Any, tmp_path: Path) -> None:
    write_mnist(tmp_path)
    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()  # type: ignore[index]
    load(name, data_dir=tmp_path, binarize=binarize)
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1:] == (np.random.get_state()[1].tolist(), random.getstate())  # type: ignore[index]


@pytest.mark.parametrize("name", COLOUR)
def test_binarizing_colour_images_is_refused(name: str, tmp_path: Path, unchecked: None) -> None:
    WRITERS[name](tmp_path)
    with pytest.raises(ValueError, match="binarize must be 'none' for colour images; got 'static'"):
        load(name, data_dir=tmp_path, binarize="static")


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("download", [True, False])
def test_absent_files_are_named_in_the_error(
    name: str, download: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torchvision.datasets import CelebA

    def fail(self: Any) -> None:
        raise URLError("no network in tests")

    monkeypatch.setattr(CelebA, "download", fail)
    file = {"cifar10": "data_batch_1", "svhn": "test_32x32.mat", "celeba": "list_attr_celeba.txt"}
    file |= {"omniglot": "images_background.zip", "emnist": "emnist-balanced-test-images-idx3-ubyte"}
    with pytest.raises(FileNotFoundError) as caught:
        load(name, data_dir=tmp_path, download=download)
    message = str(caught.value)
    assert f"the files of {name!r} must be in {tmp_path}" in message and "by hand" in message
    assert file.get(name, "t10k-images-idx3-ubyte") in message
    assert ("no network in tests" in message) == download
    if name in MNIST_LIKE:
        assert str(tmp_path / MNIST_LIKE[name] / "raw") in message


def test_damaged_files_are_named_in_the_error(tmp_path: Path, unchecked: None) -> None:
    write_mnist(tmp_path)
    path = tmp_path / "MNIST" / "raw" / "train-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(
        ValueError, match=r"the files of 'mnist' in .*raw must be whole: train-images.*; got RuntimeError"
    ):
        load("mnist", data_dir=tmp_path)
    write_celeba(tmp_path)
    (tmp_path / "celeba" / "img_align_celeba" / "000003.jpg").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"000003.jpg must be a whole .jpg file"):
        load("celeba", data_dir=tmp_path)


def test_data_dir_has_the_documented_defaults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "home", lambda: tmp_path / "home")
    with pytest.raises(FileNotFoundError) as caught:
        load("mnist", download=False)
    assert str(tmp_path / "home" / ".cache" / "pyro_vae" / "MNIST" / "raw") in str(caught.value)
    write_mnist(tmp_path / "data")
    monkeypatch.setenv("PYRO_VAE_DATA", str(tmp_path / "data"))
    assert len(load("mnist").train) == 33


def test_torchvision_must_match_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken:
        @staticmethod
        def find_spec(name: str, path: Any = None, target: Any = None) -> None:
            if name.startswith("torchvision"):
                raise RuntimeError("operator torchvision::nms does not exist")

    for module in [module for module in sys.modules if module.split(".")[0] == "torchvision"]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setattr(sys, "meta_path", [Broken, *sys.meta_path])
    with pytest.raises(
        ImportError, match="torchvision must be the release that matches.*pip install torch torchvision"
    ):
        load("mnist", data_dir=tmp_path)
    assert len(load("digits").train) == 1257


def test_mnist_has_the_published_sizes_and_mean(data_dir: Path) -> None:
    data = load("mnist", data_dir=data_dir, download=False)
    assert [len(rows) for rows in splits_of(data)] == [55_000, 5_000, 10_000]
    assert data.train.x.float().mean().item() / 255 == pytest.approx(0.1307, abs=2e-4)
    assert data.test.x.float().mean().item() == pytest.approx(0.1325, abs=2e-3)
    assert data.test.field("label")[:5].tolist() == [7, 2, 1, 0, 4]


# The user's own files


def test_a_npy_file_is_split_randomly(tmp_path: Path) -> None:
    values = np.random.RandomState(0).randn(50, 3)
    np.save(tmp_path / "a.npy", values)
    data = load(tmp_path / "a.npy")
    assert [len(rows) for rows in splits_of(data)] == [40, 5, 5] and data.event_shape == (3,)
    assert (data.likelihood, data.likelihood_options) == ("Normal", {"scale": "per_dimension"})
    assert data.unit == "as in the file" and data.name == str(tmp_path / "a.npy")
    assert sorted(chain.from_iterable(data.indices.values())) == list(range(50))
    np.testing.assert_array_equal(data.test.x, values[data.indices["test"]])
    assert load(str(tmp_path / "a.npy"), seed=1).indices != data.indices


@pytest.mark.parametrize("dtype", [bool, np.int64, np.uint8, np.uint16, ">f4"])
def test_zeros_and_ones_suggest_bernoulli(dtype: Any, tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.eye(12).astype(dtype))
    assert load(tmp_path / "a.npy").likelihood == "Bernoulli"
    np.save(tmp_path / "a.npy", 2 * np.eye(12))
    assert load(tmp_path / "a.npy").likelihood == "Normal"


def test_an_array_of_one_dimension_has_one_number_per_row(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.arange(20.0))
    assert load(tmp_path / "a.npy").event_shape == (1,)


def test_a_npz_file_has_x_and_fields(tmp_path: Path) -> None:
    x = np.random.RandomState(0).randn(20, 2, 4).astype(np.float32)
    np.savez(tmp_path / "a.npz", x=x, label=np.arange(20), mean=np.zeros(4))
    data = load(tmp_path / "a.npz", fields=("x", "label"))
    assert data.event_shape == (2, 4) and set(data.train.fields) == {"label"}
    assert data.train.field("label").tolist() == data.indices["train"]
    np.savez_compressed(tmp_path / "b.npz", images=x)
    assert load(tmp_path / "b.npz").event_shape == (2, 4)


def test_a_csv_file_keeps_names_of_columns_and_rows(tmp_path: Path) -> None:
    import pandas

    columns = {"a": np.sqrt(np.arange(30.0)), "b": np.arange(30.0) ** 2, "label": np.arange(30) % 3}
    frame = pandas.DataFrame(columns, index=range(100, 130))
    frame.to_csv(tmp_path / "a.csv", index=False)
    data = load(tmp_path / "a.csv", fields="label")
    assert data.event_shape == (2,) and data.train.columns == ["a", "b"]
    assert data.train.field("label").tolist() == [i % 3 for i in data.indices["train"]]
    frame.to_csv(tmp_path / "b.csv")
    named = load(tmp_path / "b.csv", fields=["label"])
    assert named.event_shape == (2,) and named.test.index == [100 + i for i in named.indices["test"]]


def test_a_folder_of_grey_images_has_its_subfolders_as_labels(tmp_path: Path) -> None:
    for i in range(20):
        write_image(tmp_path / "ab"[i % 2] / f"{i:02d}.png", np.full((6, 5), 10 * i, np.uint8))
    (tmp_path / "a" / "._00.png").write_bytes(b"a hidden file, as some systems make")
    data = load(tmp_path)
    assert data.event_shape == (1, 6, 5) and [len(rows) for rows in splits_of(data)] == [16, 2, 2]
    assert (data.likelihood, data.likelihood_options) == ("Normal", {"scale": "shared"})
    order = [*range(0, 20, 2), *range(1, 20, 2)]
    levels = [10 * order[i] / 255 for i in data.indices["train"]]
    torch.testing.assert_close(drawn(data.train)[:, 0, 0, 0], torch.tensor(levels))
    assert data.train.field("label").tolist() == [order[i] % 2 for i in data.indices["train"]]
    binary = load(tmp_path, binarize="dynamic", image_size=4)
    assert binary.event_shape == (1, 4, 4) and binary.likelihood == "Bernoulli" and is_binary(drawn(binary.train))


def test_a_folder_may_hold_images_of_several_formats_and_colours(tmp_path: Path) -> None:
    for i, suffix in enumerate(["png", "jpg", "jpeg", "bmp", "webp"] * 3):
        write_image(tmp_path / f"{i:02d}.{suffix.upper()}", np.full((4, 4, 3), (10 * i, 0, 200), np.uint8))
    write_image(tmp_path / "20.png", np.full((4, 4), 100, np.uint8))
    data = load(tmp_path)
    assert data.event_shape == (3, 4, 4) and data.train.fields == {}
    assert data.unit == "colour level 0..1" and drawn(data.train).max() <= 1
    with pytest.raises(ValueError, match="binarize must be 'none' for colour"):
        load(tmp_path, binarize="dynamic")


def test_a_folder_must_hold_undamaged_images_of_one_size(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"must hold images \(.bmp.*got none"):
        load(tmp_path)
    for i in range(12):
        write_image(tmp_path / f"{i:02d}.png", np.full((6, 5), i, np.uint8))
    write_image(tmp_path / "odd.png", np.zeros((9, 8), np.uint8))
    with pytest.raises(ValueError, match=r"one size, 5x6 like most; got 8x9 in .*odd.png \(1 such"):
        load(tmp_path)
    assert load(tmp_path, image_size=4).event_shape == (1, 4, 4)
    write_image(tmp_path / "odd.png", np.zeros((6, 5), np.uint16))
    with pytest.raises(ValueError, match=r"odd.png must have 8 bits per channel; got mode 'I;16'"):
        load(tmp_path)
    whole = (tmp_path / "00.png").read_bytes()
    for damaged in (b"no image", whole[:45]):
        (tmp_path / "odd.png").write_bytes(damaged)
        with pytest.raises(ValueError, match=r"odd.png must be a whole .png file"):
            load(tmp_path)


def test_a_damaged_file_of_numbers_is_named_in_the_error(tmp_path: Path) -> None:
    np.save(tmp_path / "objects.npy", np.array([{}] * 20), allow_pickle=True)
    np.savez(tmp_path / "objects.npz", x=np.array([{}] * 20))
    np.save(tmp_path / "cut.npy", np.zeros((20, 3)))
    np.savez(tmp_path / "cut.npz", x=np.zeros((20, 3)))
    for name in ("cut.npy", "cut.npz"):
        (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:150])
    for name in ("text.npy", "text.npz"):
        (tmp_path / name).write_text("neither")
    (tmp_path / "empty.npy").write_bytes(b"")
    (tmp_path / "empty.csv").write_bytes(b"")
    files = sorted(path.name for path in tmp_path.iterdir())
    assert len(files) == 8
    for name in files:
        with pytest.raises(ValueError, match=f"{name} must be a whole .* file of plain numbers"):
            load(tmp_path / name)


def test_a_file_must_hold_enough_rows_of_finite_numbers_and_take_its_options(tmp_path: Path) -> None:
    np.save(tmp_path / "few.npy", np.zeros((9, 2)))
    with pytest.raises(ValueError, match=r"few.npy must hold at least 10 rows to split; got 9"):
        load(tmp_path / "few.npy")
    np.save(tmp_path / "text.npy", np.array(["a"] * 20))
    with pytest.raises(TypeError, match="x must be .* of numbers"):
        load(tmp_path / "text.npy")
    np.save(tmp_path / "scalar.npy", np.array(1.0))
    with pytest.raises(ValueError, match="x must be at least one row"):
        load(tmp_path / "scalar.npy")
    np.save(tmp_path / "infinite.npy", np.array([[0.0, np.inf]] * 20))
    with pytest.raises(ValueError, match="x must be finite; got inf in row 0"):
        load(tmp_path / "infinite.npy")
    np.save(tmp_path / "good.npy", np.zeros((20, 2)))
    for option in ({"binarize": "static"}, {"image_size": 8}):
        with pytest.raises(ValueError, match=f"{next(iter(option))} must be None for .*good.npy"):
            load(tmp_path / "good.npy", **option)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="fields must name fields of the data .* got 'label'"):
        load(tmp_path / "good.npy", fields=("label",))


def test_a_npz_file_must_hold_x_and_usable_fields(tmp_path: Path) -> None:
    np.savez(tmp_path / "two.npz", a=np.zeros((20, 2)), b=np.zeros(20))
    with pytest.raises(ValueError, match=r"two.npz must hold an array 'x', or only one; got \['a', 'b'\]"):
        load(tmp_path / "two.npz")
    np.savez(tmp_path / "text.npz", x=np.zeros((20, 2)), label=np.array(["a"] * 20))
    with pytest.raises(TypeError, match="label must be .* of numbers"):
        load(tmp_path / "text.npz")
    np.savez(tmp_path / "rows.npz", x=np.zeros((20, 2)), rows=np.zeros(20))
    with pytest.raises(ValueError, match=r"names that programs do not use; got \['rows'\]"):
        load(tmp_path / "rows.npz")


def test_fields_of_a_csv_file_must_be_known_columns_of_numbers_beside_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.csv"
    path.write_text("a,name,gap\n" + "1,x,1\n2,y,\n" * 10)
    with pytest.raises(TypeError, match=r"field 'name' must hold numbers; got \w+. Encode it"):
        load(path, fields=("name",))
    with pytest.raises(ValueError, match=r"field 'gap' must have no gaps; got a missing cell in row 1. Drop the row"):
        load(path, fields=("gap",))
    with pytest.raises(ValueError, match=r"fields must be columns of the frame; got \['label'\]"):
        load(path, fields=("label",))
    path.write_text("a,label\n" + "1,0\n" * 20)
    with pytest.raises(ValueError, match=r"a.csv must have a column of data besides the fields; got none. Name fewer"):
        load(path, fields=("a", "label"))
    path.write_text("a,b\n1,\n" * 20)
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match="pandas must be installed to read .*a.csv.*pip install pandas"):
        load(path)


# Arguments


def test_unknown_names_are_refused_and_names_precede_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        ValueError, match=r"name must be one of \['digits', 'mnist'.*\.npy.*got 'minst', which does not exist"
    ):
        load("minst")
    (tmp_path / "a.txt").write_text("1")
    with pytest.raises(ValueError, match=r"folder of images; got '.*a.txt'. Correct"):
        load(tmp_path / "a.txt")
    with pytest.raises(TypeError, match="name must be a name or a path; got int"):
        load(3)  # type: ignore[arg-type]
    monkeypatch.chdir(tmp_path)
    for i in range(10):
        write_image(Path("digits") / f"{i}.png", np.zeros((2, 2), np.uint8))
    assert len(load("digits").train) == 1257 and len(load(Path("digits")).train) == 8


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"binarize": "threshold"}, "binarize must be 'dynamic', 'static', 'none' or None; got 'threshold'"),
        ({"image_size": 0}, "image_size must be a positive integer; got 0"),
        ({"image_size": 28}, "image_size must be None for 'digits'; got 28"),
        ({"seed": -1}, r"seed must lie in 0..2\*\*32 - 1; got -1"),
        ({"fields": ("letter",)}, r"fields must name fields of the data \(\['label'\]\); got 'letter'"),
    ],
)
def test_options_without_a_meaning_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load("digits", **options)


@pytest.mark.parametrize("name", [*MNIST_LIKE, "cifar10", "svhn"])
def test_data_sets_of_one_size_refuse_image_size(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"image_size must be None for '{name}'; got 32. Leave it out"):
        load(name, data_dir=tmp_path, image_size=32)


def test_importing_datasets_loads_no_heavy_libraries() -> None:
    heavy = ("torchvision", "sklearn", "pandas", "PIL", "matplotlib")
    code = f"import pyro_vae.datasets, sys; print([name for name in {heavy} if name in sys.modules])"
    root = str(Path(pyro_vae.datasets.__file__).parents[2])
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])}
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, check=False)
    assert result.stdout.strip() == "[]", result.stderr
