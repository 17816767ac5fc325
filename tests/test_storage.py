"""A loaded model is the model that was saved, and files that are not saved models are refused."""

from __future__ import annotations

import errno
import json
import pickle

import pytest
import torch
from cases import GUIDES, LIKELIHOODS, PRIORS, BatchNormNet, combined_vae, draw_data, fits, small_vae
from covering import each_once
from exact import LinearGaussian
from safetensors.torch import save_file
from torch import nn

import pyro_vae as pv
from pyro_vae import elbos, nets
from pyro_vae.saving import files


@pytest.mark.parametrize("parts", each_once([PRIORS, GUIDES, LIKELIHOODS], fits))
def test_every_part_is_the_same_after_loading(tmp_path, parts) -> None:
    vae = combined_vae(*parts)
    x = draw_data(vae.likelihood, 20)
    elbo = elbos.ELBO(num_particles=2, gradient="rloo")
    vae.fit(x, elbo=elbo, epochs=1, seed=0, progress=False)
    vae.save(tmp_path / "model")
    not_saved = {"prior": vae.prior.distribution} if parts[0] == "Distribution" else {}
    again = pv.load(tmp_path / "model", **not_saved)
    assert not again.training
    torch.testing.assert_close(  # up to rounding: the order of a sum depends on where a tensor lies in memory
        again.log_likelihood(x, num_particles=5, seed=1).estimate,
        vae.log_likelihood(x, num_particles=5, seed=1).estimate,
        rtol=1e-12,
        atol=1e-12,
    )
    torch.testing.assert_close(again.sample(3, seed=1), vae.sample(3, seed=1), rtol=1e-12, atol=1e-12)
    assert [p.requires_grad for p in again.parameters()] == [p.requires_grad for p in vae.parameters()]
    again.fit(x, elbo=elbo, epochs=1, seed=0, progress=False)


def test_recipes_are_saved_and_loaded(tmp_path) -> None:
    recipe = nets.Conv(channels=(3, 4), hidden=(5,), activation="silu")
    vae = pv.VAE(
        likelihood=pv.likelihoods.Bernoulli((1, 8, 8)), prior=pv.priors.Normal(2), encoder=recipe, decoder=recipe
    )
    vae.save(tmp_path)
    assert pv.load(tmp_path).nets == vae.nets
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["arguments"]["encoder"]["class"] == "nets.Conv"
    assert set(config["versions"]) == {"pyro", "torch"}


def test_modules_of_the_user_must_be_given_again(tmp_path) -> None:
    def make():
        return nn.Sequential(nn.Linear(3, 6), nn.Unflatten(1, (2, 3)))

    vae = small_vae(decoder=make(), encoder=BatchNormNet((6, 6)))
    vae.save(tmp_path)
    with pytest.raises(
        TypeError, match="encoder must be given, since it is, or holds, an object of your own .BatchNormNet."
    ):
        pv.load(tmp_path, decoder=make())
    again = pv.load(tmp_path, decoder=make(), encoder=BatchNormNet((6, 6)))
    z = torch.randn(4, 3)
    assert torch.equal(again.decode(z).mean, vae.decode(z).mean)
    with pytest.raises(ValueError, match="must hold the tensors of VAE; got other names or shapes"):
        pv.load(tmp_path, decoder=nets.MLP(), encoder=BatchNormNet((6, 6)))


class Mine(pv.LatentVariableModel):
    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size
        self.weight = nn.Parameter(torch.randn(size))


class Forgetful(pv.LatentVariableModel):
    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(size))


def test_a_class_of_the_user_must_be_given_again(tmp_path) -> None:
    mine = Mine(3)
    mine.save(tmp_path)
    assert torch.equal(pv.load(tmp_path, Mine).weight, mine.weight)
    with pytest.raises(
        TypeError, match=r"model must be given for your own class; got None for 'Mine'. Call pv.load\(path, Mine\)"
    ):
        pv.load(tmp_path)
    with pytest.raises(ValueError, match="model must be the class that was saved, 'Mine'; got 'LinearGaussian'"):
        pv.load(tmp_path, LinearGaussian)
    forgetful = Forgetful(3)
    forgetful.save(tmp_path)
    with pytest.raises(TypeError, match="the arguments of 'Forgetful' were not saved"):
        pv.load(tmp_path, Forgetful)
    assert torch.equal(pv.load(tmp_path, Forgetful(3)).weight, forgetful.weight)
    assert torch.equal(pv.load(tmp_path, Forgetful, size=3).weight, forgetful.weight)
    with pytest.raises(ValueError, match="must hold the tensors of Forgetful"):
        pv.load(tmp_path, Forgetful(4))


def test_saving_over_a_model_replaces_it_and_leaves_no_other_files(tmp_path) -> None:
    for seed in (1, 2):
        vae = pv.VAE(likelihood=pv.likelihoods.Bernoulli(4), prior=pv.priors.Normal(2), seed=seed)
        vae.save(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "model.safetensors"]
    assert torch.equal(pv.load(tmp_path / "model.safetensors").sample(2, seed=0), vae.sample(2, seed=0))


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch) -> None:
    files.write_text(tmp_path / "a.txt", "old")

    def fail(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.os, "replace", fail)
    message = r"path must be a file that can be written; got No space left .*a.txt'\. Make"
    with pytest.raises(OSError, match=message) as raised:
        files.write_text(tmp_path / "a.txt", "new")
    assert raised.value.errno == errno.ENOSPC
    assert (tmp_path / "a.txt").read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 1


def write_unusable_files(folder):
    """Write a file of each name in the table below."""
    small_vae().save(folder / "good")
    whole = (folder / "good" / "model.safetensors").read_bytes()
    flipped = bytearray(whole)
    flipped[20] ^= 255
    config = files.load_tensors(folder / "good" / "model.safetensors")[1]
    save_file({"a": torch.zeros(1)}, folder / "foreign.safetensors")
    save_file(
        {"a": torch.zeros(1)}, folder / "newer.safetensors", metadata={"pyro_vae": json.dumps(config | {"format": 99})}
    )
    evil = config | {
        "arguments": config["arguments"] | {"prior": {"class": "os.system", "arguments": {"command": "true"}}}
    }
    files.save_tensors(folder / "evil.safetensors", {"a": torch.zeros(1)}, evil)
    base = config | {"arguments": config["arguments"] | {"prior": {"class": "priors.torch", "arguments": {}}}}
    files.save_tensors(folder / "module.safetensors", {"a": torch.zeros(1)}, base)
    (folder / "truncated.safetensors").write_bytes(whole[: len(whole) // 2])
    (folder / "flipped.safetensors").write_bytes(flipped)
    (folder / "pickle.safetensors").write_bytes(pickle.dumps({"weight": [1.0]}))
    (folder / "empty.safetensors").write_bytes(b"")
    (folder / "header.safetensors").write_bytes((2**62).to_bytes(8, "little") + b"{}")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("truncated", "must be a whole safetensors file"),
        ("flipped", "must be a whole safetensors file"),
        ("pickle", "must be a whole safetensors file; .* pickles are not read"),
        ("empty", "must be a whole safetensors file"),
        ("header", "must be a whole safetensors file"),
        ("foreign", "must be a model saved by pyro_vae"),
        ("newer", "must be of format 2 or older; got format 99"),
        ("evil", "A saved part must be of a class of pyro_vae; got 'os.system'"),
        ("module", "A saved part must be of a class of pyro_vae; got 'priors.torch'"),
    ],
)
def test_files_that_are_not_saved_models_are_refused(tmp_path, name: str, message: str) -> None:
    write_unusable_files(tmp_path)
    with pytest.raises(ValueError, match=message):
        pv.load(tmp_path / f"{name}.safetensors")


def test_a_model_is_not_saved_over_a_file(tmp_path) -> None:
    (tmp_path / "taken").write_text("mine")
    with pytest.raises(ValueError, match="path must be a folder or a new name; got the file"):
        small_vae().save(tmp_path / "taken")
    assert (tmp_path / "taken").read_text() == "mine"


def test_the_error_for_a_missing_file_names_it(tmp_path) -> None:
    with pytest.raises(FileNotFoundError, match=r"path must be a saved model; got .*nowhere.* does not exist"):
        pv.load(tmp_path / "nowhere")


L = pv.likelihoods
OTHERS = {
    "df 5.0 in the file and 2.1 in the instance": (lambda: L.StudentT(3, df=5.0), lambda: L.StudentT(3, df=2.1)),
    "class 'likelihoods.Normal' in the file and 'likelihoods.Laplace'": (lambda: L.Normal(3), lambda: L.Laplace(3)),
    "total_count 4 in the file and 5": (lambda: L.Binomial(3, total_count=4), lambda: L.Binomial(3, total_count=5)),
    r"blocks \[\['a'.*Poisson.* in the file and .*Normal": (
        lambda: L.Product({"a": L.Poisson(1), "b": L.Normal(2)}),
        lambda: L.Product({"a": L.Normal(1), "b": L.Normal(2)}),
    ),
}


@pytest.mark.parametrize("message", OTHERS)
def test_an_instance_must_be_made_as_the_model_that_was_saved(tmp_path, message: str) -> None:
    saved, given = (pv.VAE(likelihood=make(), prior=pv.priors.Normal(1), seed=0) for make in OTHERS[message])
    saved.save(tmp_path)
    with pytest.raises(ValueError, match=f"model must be made as the one that was saved; got .*{message}"):
        pv.load(tmp_path, given)
    again = pv.load(tmp_path, pv.VAE(likelihood=OTHERS[message][0](), prior=pv.priors.Normal(1), seed=1))
    assert torch.equal(again.sample(2, seed=0), saved.sample(2, seed=0))


def test_an_instance_of_a_class_of_the_user_is_compared_as_far_as_it_is_known(tmp_path) -> None:
    Mine(3).save(tmp_path)
    with pytest.raises(ValueError, match="arguments.size 3 in the file and 4 in the instance"):
        pv.load(tmp_path, Mine(4))
    with pytest.raises(ValueError, match="model 'Mine' in the file and 'Forgetful' in the instance"):
        pv.load(tmp_path, Forgetful(3))
    files.save_tensors(  # of an earlier version, whose class had no argument of this name
        tmp_path / "model.safetensors", Mine(3).state_dict(), {"model": "Mine", "arguments": {"former": 1}}
    )
    assert pv.load(tmp_path, Mine(3)).schema == pv.LatentVariableModel.schema
