"""The forms in which operations are recorded: the same values as the functions themselves."""

from __future__ import annotations

import math
from typing import Any

import mpmath
import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from pyro_vae.training.compiled import functions
from pyro_vae.training.compiled.graph import Graph

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
    def gradient(static: list[Tensor], inputs: list[Tensor]) -> Tensor:
        x = inputs[0].detach().requires_grad_()
        (slope,) = torch.autograd.grad(torch.lgamma(x).sum(), x)
        return torch.stack([torch.lgamma(x.detach()), slope])

    x = POINTS[(POINTS > 1e-3) & (POINTS < 1e8)]
    graph = Graph(gradient, [], [x], num_threads=1)
    torch.testing.assert_close(graph([x]), torch.stack([torch.lgamma(x), torch.digamma(x)]), rtol=1e-13, atol=1e-13)


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
@pytest.mark.parametrize("name", ELEMENTARY)
def test_elementary_functions_are_within_3_units_in_the_last_place(name: str, dtype: torch.dtype) -> None:
    """Uncompiled and compiled, over the whole range; what is not finite is as in torch."""
    function, exact = ELEMENTARY[name]
    x = elementary_points(dtype)
    kind = np.float32 if dtype == torch.float32 else np.float64
    with mpmath.workdps(40):
        known = [math.nan if math.isnan(value) else float(exact(mpmath.mpf(value))) for value in x.tolist()]
    expected = np.array(known)
    with np.errstate(over="ignore"):
        rounded = expected.astype(kind)
    finite = np.isfinite(rounded)
    graph = Graph(lambda static, inputs: function(inputs[0]), [], [x], num_threads=1)
    for found in (function(x), graph([x])):
        values = found.numpy()
        error = np.abs(values[finite].astype(np.float64) - expected[finite]) / np.spacing(np.abs(rounded[finite]))
        assert error.max() <= 3
        np.testing.assert_array_equal(values[~finite], rounded[~finite])


@pytest.mark.parametrize("name", ["log1p", "expm1", "softplus", "logsigmoid", "cross-entropy"])
def test_graphs_differentiate_elementary_functions_twice(name: str) -> None:
    functions_of_torch: dict[str, Any] = {
        "log1p": torch.log1p,
        "expm1": torch.expm1,
        "softplus": torch.nn.functional.softplus,
        "logsigmoid": torch.nn.functional.logsigmoid,
        "cross-entropy": lambda x: binary_cross_entropy_with_logits(x, torch.full_like(x, 0.3), reduction="none"),
    }

    def slopes(static: list[Tensor], inputs: list[Tensor]) -> Tensor:
        x = inputs[0].detach().requires_grad_()
        value = functions_of_torch[name](x)
        (first,) = torch.autograd.grad(value.sum(), x, create_graph=True)
        (second,) = torch.autograd.grad(first.sum(), x)
        return torch.stack([value.detach(), first.detach(), second])

    x = torch.linspace(-0.99, 30, 500)
    x = torch.cat([x, -30 * torch.rand(100, generator=torch.Generator().manual_seed(0))]) if name != "log1p" else x
    found = Graph(slopes, [], [x], num_threads=1)([x])
    torch.testing.assert_close(found, slopes([], [x]), rtol=1e-5, atol=1e-7)
