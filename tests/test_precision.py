"""Training with products in bfloat16: what is computed in it, that compiled steps agree, and what is refused."""

from __future__ import annotations

import pytest
import torch
from both_steps import DATA, RAN, assert_same, both, inductor, recorded, train  # noqa: F401
from cases import IMAGE, small_vae
from torch import nn
from torch.nn.functional import linear

import pyro_vae as pv
from pyro_vae import nets
from pyro_vae.runtime import precision
from pyro_vae.training import fitting


@pytest.fixture(autouse=True)
def instructions(monkeypatch) -> None:
    """As if this processor had instructions for bfloat16; without them there is a warning."""
    monkeypatch.setattr(fitting, "has_bfloat16", lambda device: True)


def single_vae() -> pv.VAE:
    return small_vae().float()


def conv_vae() -> pv.VAE:
    net = nets.Conv(channels=(2,), hidden=(6,))
    likelihood = pv.likelihoods.Bernoulli(IMAGE)
    return small_vae(likelihood=likelihood, encoder=net, decoder=net).float()


def test_products_of_layers_are_rounded_to_bfloat16_and_returned_in_float32() -> None:
    x, weight = torch.randn(5, 7), torch.randn(3, 7)
    with precision.products_in("bf16-mixed"):
        product, other = linear(x, weight), x @ weight.T
    assert torch.equal(product, linear(x.bfloat16(), weight.bfloat16()).float())
    assert torch.equal(other, x @ weight.T)


def test_products_of_float64_are_left_alone() -> None:
    x, weight = (torch.randn(5, 7, dtype=torch.float64) for _ in range(2))
    with precision.products_in("bf16-mixed"):
        assert torch.equal(linear(x, weight), x @ weight.T)


def test_gradients_are_those_of_the_rounded_products() -> None:
    layer, x = nn.Linear(7, 3), torch.randn(5, 7)
    with precision.products_in("bf16-mixed"):
        layer(x).square().sum().backward()
    gradient = 2 * layer(x.bfloat16().float()).bfloat16().float()
    torch.testing.assert_close(layer.weight.grad, gradient.T @ x, rtol=0.05, atol=0.05)
    assert layer.weight.grad.dtype == torch.float32
    assert torch.equal(layer.weight.grad, layer.weight.grad.bfloat16().float())


@pytest.mark.parametrize("make", [single_vae, conv_vae])
def test_compiled_equals_uncompiled(make) -> None:
    data = DATA.float() if make is single_vae else torch.rand(50, *IMAGE).round()
    assert_same(*both(make, data, precision="bf16-mixed"), atol=1e-6, rtol=1e-5)


@pytest.mark.slow
def test_compiled_equals_uncompiled_with_inductor(inductor) -> None:  # noqa: F811
    assert_same(*both(single_vae, DATA.float(), precision="bf16-mixed"), atol=2e-3, rtol=2e-2)


def test_a_run_differs_from_one_in_float32_by_little() -> None:
    mixed, whole = (train(single_vae, DATA.float(), precision=p, compile=False) for p in precision.PRECISIONS[::-1])
    one, other = (model.history["train_bound"][-1] for model in (mixed, whole))
    assert one != other
    assert one == pytest.approx(other, abs=0.02)
    assert all(parameter.dtype == torch.float32 for parameter in mixed.parameters())


def test_what_is_not_possible_is_refused() -> None:
    with pytest.raises(ValueError, match="precision must be one of .*; got 'fp8'. Choose one of these"):
        train(single_vae, DATA.float(), precision="fp8")
    with pytest.raises(ValueError, match="unless the model is in float32; got 'bf16-mixed' for torch.float64"):
        train(small_vae, DATA, precision="bf16-mixed")


def test_a_processor_without_such_instructions_is_warned_of(monkeypatch, caplog) -> None:
    monkeypatch.setattr(fitting, "has_bfloat16", lambda device: False)
    train(single_vae, DATA.float(), precision="bf16-mixed", compile=False)
    assert "This processor has no instructions for bfloat16" in caplog.text


def test_a_resumed_run_must_have_the_same_precision(tmp_path) -> None:
    train(single_vae, DATA.float(), precision="bf16-mixed", compile=False, run_dir=tmp_path)
    with pytest.raises(ValueError, match="precision 'bf16-mixed' .* and 'float32'"):
        train(single_vae, DATA.float(), compile=False, run_dir=tmp_path, resume=True)


def test_processors_are_asked_for_their_instructions(monkeypatch) -> None:
    for name, value in (("_is_avx512_bf16_supported", False), ("_is_amx_tile_supported", True)):
        monkeypatch.setattr(torch.cpu, name, lambda value=value: value, raising=False)
    assert precision.has_bfloat16(torch.device("cpu"))
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False, raising=False)
    assert not precision.has_bfloat16(torch.device("cpu"))
