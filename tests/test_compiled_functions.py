"""The forms in which operations are recorded: the same values as the functions themselves."""

from __future__ import annotations

import math
from typing import Any

import mpmath
import pytest
import torch
from torch import Tensor

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
