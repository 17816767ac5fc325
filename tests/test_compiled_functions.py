"""The forms in which operations are recorded: the same values as the functions themselves."""

from __future__ import annotations

import contextlib
import math
from typing import Any

import mpmath
import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from pyro_vae.distributions.rising import log_rising
from pyro_vae.graphs import functions, rules
from pyro_vae.graphs.graph import Graph

STREAM = torch.Generator().manual_seed(0)
POINTS = torch.cat(
    [
        torch.logspace(-300, 300, 301, dtype=torch.float64),
        20 * torch.rand(500, generator=STREAM, dtype=torch.float64),
        -30 * torch.rand(200, generator=STREAM, dtype=torch.float64),
        torch.tensor([1, 2, 3, 7, 8, 8 - 1e-12, 1 - 1e-9, 2 + 1e-9, 1e8, 1e-307], dtype=torch.float64),
    ]
)
SPECIAL = torch.tensor([0.0, -0.0, -1.0, -2.0, math.inf, -math.inf, math.nan], dtype=torch.float64)
EXACT: dict[str, Any] = {
    "lgamma": lambda z: mpmath.loggamma(z) if z > 0 else mpmath.log(abs(mpmath.gamma(z))),
    "digamma": mpmath.digamma,
}


@pytest.mark.parametrize("name", EXACT)
def test_gamma_functions_are_exact_to_float64(name: str) -> None:
    with mpmath.workdps(40):
        expected = torch.tensor([float(EXACT[name](mpmath.mpf(z))) for z in POINTS.tolist()], dtype=torch.float64)
    error = (getattr(functions, name)(POINTS) - expected).abs() / expected.abs().clamp_min(1.0)
    assert error.max() < 1e-14
    assert torch.equal(getattr(functions, name)(SPECIAL).nan_to_num(7.5), getattr(torch, name)(SPECIAL).nan_to_num(7.5))


@pytest.mark.parametrize("name", EXACT)
def test_gamma_functions_keep_the_precision_of_their_argument(name: str) -> None:
    x = torch.tensor([0.3, 4.0, 50.0])
    found = getattr(functions, name)(x)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, getattr(torch, name)(x))


def test_a_graph_computes_the_log_gamma_function_and_its_gradient() -> None:
    def gradient(static: list[Tensor], inputs: list[Tensor]) -> list[Tensor]:
        x = inputs[0].detach().requires_grad_()
        (slope,) = torch.autograd.grad(torch.lgamma(x).sum(), x)
        return [torch.lgamma(x.detach()), slope]

    x = POINTS[(POINTS > 1e-3) & (POINTS < 1e8)]
    graph = Graph(gradient, [], [x], num_threads=1)
    torch.testing.assert_close(graph([x]), [torch.lgamma(x), torch.digamma(x)], rtol=1e-13, atol=1e-13)


def elementary_points(dtype: torch.dtype) -> Tensor:
    """Points from subnormal numbers to the largest, of both signs, and many between -30 and 30."""
    low, high = (-44, 38) if dtype == torch.float32 else (-320, 300)
    stream = torch.Generator().manual_seed(0)
    wide = torch.logspace(low, high, 1000, dtype=torch.float64)
    near = 60 * torch.rand(1000, generator=stream, dtype=torch.float64) - 30
    small = torch.randn(1000, generator=stream, dtype=torch.float64)
    ends = torch.tensor([0.0, -0.0, -1.0, 17, -17, 30, -30, 88, -88, -104, 4e36, 1e38], dtype=torch.float64)
    infinite = torch.tensor([math.inf, -math.inf, math.nan], dtype=torch.float64)
    return torch.cat([wide, -wide, near, small, 1e-3 * small, 1e-6 * small, ends, infinite]).to(dtype)


def exact_log1p(x: Any) -> Any:
    return mpmath.log1p(x) if x > -1 else (-mpmath.inf if x == -1 else mpmath.nan)


ELEMENTARY: dict[str, tuple[Any, Any]] = {
    "log1p": (functions.log1p, exact_log1p),
    "expm1": (functions.expm1, mpmath.expm1),
    "softplus": (functions.softplus, lambda x: mpmath.log1p(mpmath.exp(x)) if x <= 20 else x),
    "logsigmoid": (
        lambda x: functions.log_sigmoid_forward(x)[0],
        lambda x: -mpmath.log1p(mpmath.exp(-x)) if x > -1000 else x,
    ),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_elementary_functions_are_within_3_units_in_the_last_place(dtype: torch.dtype) -> None:
    """Uncompiled and compiled, over the whole range; what is not finite is as in torch."""
    x = elementary_points(dtype)

    def values(static: list[Tensor], inputs: list[Tensor]) -> list[Tensor]:
        return [function(inputs[0]) for function, _ in ELEMENTARY.values()]

    compiled = Graph(values, [], [x], num_threads=1)([x])
    for (name, (_, exact)), *both in zip(ELEMENTARY.items(), values([], [x]), compiled, strict=True):
        with mpmath.workdps(40):
            known = [math.nan if math.isnan(value) else float(exact(mpmath.mpf(value))) for value in x.tolist()]
        expected = np.array(known)
        with np.errstate(over="ignore"):
            rounded = expected.astype(np.float32 if dtype == torch.float32 else np.float64)
        finite = np.isfinite(rounded)
        for found in both:
            error = np.abs(found.numpy()[finite].astype(np.float64) - expected[finite])
            assert (error / np.spacing(np.abs(rounded[finite]))).max() <= 3, name
            np.testing.assert_array_equal(found.numpy()[~finite], rounded[~finite], err_msg=name)


def test_graphs_differentiate_elementary_functions_twice() -> None:
    negative = -30 * torch.rand(100, generator=torch.Generator().manual_seed(0))
    x = torch.cat([torch.linspace(-0.99, 30, 500), negative])
    functions_of_torch: dict[str, Any] = {
        "log1p": lambda x: torch.log1p(x.clamp_min(-0.99)),
        "expm1": torch.expm1,
        "softplus": torch.nn.functional.softplus,
        "logsigmoid": torch.nn.functional.logsigmoid,
        "cross-entropy": lambda x: binary_cross_entropy_with_logits(x, torch.full_like(x, 0.3), reduction="none"),
    }

    def slopes(static: list[Tensor], inputs: list[Tensor]) -> list[Tensor]:
        results = []
        for function in functions_of_torch.values():
            x = inputs[0].detach().requires_grad_()
            value = function(x)
            (first,) = torch.autograd.grad(value.sum(), x, create_graph=True)
            (second,) = torch.autograd.grad(first.sum(), x)
            results += [value.detach(), first.detach(), second]
        return results

    found = Graph(slopes, [], [x], num_threads=1)([x])
    torch.testing.assert_close(found, slopes([], [x]), rtol=1e-5, atol=1e-7)


def exact_rising(a: float, b: float, k: int, n: int) -> Any:
    def log_rising(start: float, count: int) -> Any:
        return mpmath.loggamma(mpmath.mpf(start) + count) - mpmath.loggamma(mpmath.mpf(start)) if count else 0

    return log_rising(a, k) + log_rising(b, n - k)


def test_rising_factorials_and_their_derivatives_are_exact_uncompiled_and_compiled() -> None:
    """For parameters from the smallest to the largest number of float32, and all counts from 0 to n."""
    sizes, inputs, expected = (1, 8, 16, 31, 32), [], []
    for n in sizes:
        stream = torch.Generator().manual_seed(0)
        a, b = (10.0 ** (76 * torch.rand(5, n + 1, generator=stream, dtype=torch.float64) - 38) for _ in range(2))
        a[0], b[1], a[2:4], b[2:4] = 1e38, 1e38, a[2:4].log().abs() / 9, b[2:4].log().abs() / 9
        inputs += [a, b]
        counts = list(range(n + 1)) * 5
        with mpmath.workdps(60):
            for one, other, k in zip(a.flatten().tolist(), b.flatten().tolist(), counts, strict=True):
                first = sum(1 / (mpmath.mpf(one) + j) for j in range(k))
                second = sum(1 / (mpmath.mpf(other) + j) for j in range(n - k))
                expected.append([float(exact_rising(one, other, k, n)), float(first), float(second)])

    def values(static: list[Tensor], inputs: list[Tensor]) -> list[Tensor]:
        results = []
        for n, a, b in zip(sizes, inputs[::2], inputs[1::2], strict=True):
            a, b = (value.detach().requires_grad_() for value in (a, b))
            value = log_rising(a, b, torch.arange(n + 1, dtype=torch.float64), n)
            slopes = torch.autograd.grad(value.sum(), [a, b])
            results.append(torch.stack([value.detach(), *slopes], -1).flatten(0, 1))
        return [torch.cat(results)]

    for (found,) in (values([], inputs), Graph(values, [], inputs, num_threads=1)(inputs)):
        np.testing.assert_allclose(found, expected, rtol=1e-13, atol=1e-13)


def test_rising_factorials_have_second_derivatives() -> None:
    a, b, k = (torch.tensor(v, dtype=torch.float64, requires_grad=v[0] < 2) for v in ([0.5, 1.5], [1.0, 0.2], [3, 0]))
    assert torch.autograd.gradcheck(lambda a, b: log_rising(a, b, k.detach(), 5), (a, b))
    assert torch.autograd.gradgradcheck(lambda a, b: log_rising(a, b, k.detach(), 5), (a, b))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_convolutions_with_channels_side_by_side_have_the_same_values_and_gradients(dtype: torch.dtype) -> None:
    """Convolutions and transposed ones, in one group of channels and in three."""
    kinds = (torch.nn.Conv2d, torch.nn.ConvTranspose2d)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        nets = [kind(6, 9, 3, stride=2, padding=1, groups=groups, dtype=dtype) for kind in kinds for groups in (1, 3)]
        x = torch.randn(4, 6, 7, 5, dtype=dtype)

    def gradients(static: list[Tensor], inputs: list[Tensor]) -> list[Tensor]:
        results = []
        for net, weight, bias in zip(nets, static[::2], static[1::2], strict=True):
            leaves = [tensor.detach().requires_grad_() for tensor in (weight, bias, inputs[0])]
            value = torch.func.functional_call(net, {"weight": leaves[0], "bias": leaves[1]}, leaves[2])
            flat = value.view(len(value), -1)  # programs may take it for granted that values lie in order
            results += [flat.detach(), *torch.autograd.grad(flat.square().sum(), leaves)]
        return results

    static = [parameter.detach() for net in nets for parameter in (net.weight, net.bias)]
    found = Graph(gradients, static, [x], num_threads=1)([x])
    tolerance = 1e-5 if dtype == torch.float32 else 1e-13
    torch.testing.assert_close(found, gradients(static, [x]), rtol=tolerance, atol=tolerance)


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="torch was built without oneDNN")
def test_large_products_by_onednn_have_the_same_values_for_open_sizes_too(monkeypatch) -> None:
    calls, linear = [], rules._linear

    def counted(*args: Any) -> Any:
        calls.append(args)
        return linear(*args)

    monkeypatch.setattr(rules, "_linear", counted)
    monkeypatch.setattr(rules, "prefers_onednn", lambda: True)
    weight, bias = torch.randn(300, 200, generator=STREAM), torch.randn(300, generator=STREAM)

    def gradients(static: list[Tensor], inputs: list[Tensor]) -> list[Tensor]:
        leaves = [tensor.detach().requires_grad_() for tensor in (*static, inputs[0])]
        value = torch.nn.functional.linear(leaves[2], leaves[0], leaves[1]).tanh()
        small = value[:, :8] @ value[:8, :8]  # not worth another library
        return [value.detach(), *torch.autograd.grad(value.square().sum() + small.sum(), leaves)]

    rows = torch.randn(64, 200, generator=STREAM)
    compiled = torch._inductor.standalone_compile
    times = []
    monkeypatch.setattr(torch._inductor, "standalone_compile", lambda *a, **k: times.append(1) or compiled(*a, **k))
    with torch._inductor.config.patch(force_disable_caches=True):
        graph = Graph(gradients, [weight, bias], [rows], num_threads=1)
    assert len(times) == 1  # else torch's own rules were used after all
    assert len(calls) == 3  # of the layer: forward, and the slopes of its weight and of its input
    for x in (rows, torch.randn(50, 200, generator=STREAM)):
        assert graph.fits([x])
        torch.testing.assert_close(graph([x]), gradients([weight, bias], [x]), rtol=1e-4, atol=1e-4)


def test_rules_hold_while_we_compile_and_picked_rows_are_kept() -> None:
    from torch._inductor import lowering
    from torch.compiler import config

    index, tag = torch.ops.aten.index.Tensor, config.cache_key_tag
    own = lowering.lowerings[index]
    for fails in (False, True):
        with contextlib.suppress(RuntimeError), rules.own_rules(), rules.own_rules():
            assert lowering.lowerings[index] is not own and config.cache_key_tag != tag
            if fails:
                raise RuntimeError
        assert lowering.lowerings[index] is own and config.cache_key_tag == tag

    class Picked:
        kept = False

        def realize(self) -> None:
            self.kept = True

    assert rules._kept(Picked)().kept


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="torch was built without oneDNN")
def test_products_by_onednn_hold_for_matrices_in_any_layout_and_all_numbers_of_rows(monkeypatch) -> None:
    monkeypatch.setattr(rules, "prefers_onednn", lambda: True)
    monkeypatch.setattr(rules, "LARGE", 0)
    sizes = ((300, 200), (200, 300), (700, 400), (300,), (1,), (513, 257))
    static = [torch.randn(*size, generator=STREAM) for size in sizes]

    def products(static: list[Tensor], inputs: list[Tensor]) -> list[Tensor]:
        (a, b, c, bias, one, d), (x,) = static, inputs
        return [
            x @ a.T,
            torch.addmm(one.expand(300), x, a.T),  # a bias without a stride
            torch.addmm(bias, x, a.T, beta=2.0),
            x[:, ::2] @ c[:100],
            x.T @ x @ b,
            x.sum(0, keepdim=True).expand(len(a), 200) @ b,
            d.T[::2, :] @ d,
        ]

    with torch._inductor.config.patch(force_disable_caches=True):
        graph = Graph(products, static, [torch.randn(37, 200, generator=STREAM)], num_threads=1)
    for rows in (2, 37, 500):
        x = torch.randn(rows, 200, generator=STREAM)
        assert graph.fits([x])
        exact = products([part.double() for part in static], [x.double()])
        for found, expected in zip(graph([x]), exact, strict=True):
            assert float((found - expected).abs().max() / expected.abs().max()) < 1e-5
