"""Log-likelihoods by compiled code: the same numbers as without, at the same noise, and where it is used."""

from __future__ import annotations

import gc
from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from both_steps import (  # noqa: F401
    RAN,
    REALS,
    Branching,
    Pair,
    batch_norm_vae,
    inductor,
    recorded,
)
from cases import GUIDES, LIKELIHOODS, PRIORS, combined_vae, draw_data, fits, small_vae
from covering import each_once
from torch.fx.experimental.symbolic_shapes import ShapeEnv

import pyro_vae as pv
from pyro_vae.evaluation import AIS, Importance, SemiAmortized
from pyro_vae.graphs import graph as graphs
from pyro_vae.runtime.isolation import evaluating

OPEN_PRODUCTS = pytest.mark.skipif(  # "auto" goes without compiled code there
    tuple(map(int, torch.__version__.split(".")[:2])) < (2, 13),
    reason="before 2.13, torch cannot record the draws of gamma variables, and products of matrices of open sizes",
)
SHORT = partial(AIS, num_steps=4, leapfrog_steps=2, num_chains=20)
ROWS = each_once([PRIORS, GUIDES, LIKELIHOODS], lambda row: fits(row[:2]))
FAST = [
    ("Mixture", "StudentT", "BetaBinomial"),
    ("Flow", "Flow", "Normal predicted"),
    ("LogisticNormal", "LogisticNormal", "Poisson"),
]
UNCOMPILED = {"PowerSpherical"}  # torch cannot record the derivative of gamma draws


def assert_compiled_equals_uncompiled(model, x, method, **options) -> list[int]:
    """The numbers of one graph are those of the programs, which ran nothing before; returns the sizes of its calls."""
    values, sizes = [], []
    for compile in (True, False):
        RAN.clear()
        before = graphs.compilations
        found = model.log_likelihood(x, method=method(compile=compile), seed=0, **options)
        values.append(torch.stack([found.estimate, found.standard_error]))
        assert graphs.compilations == before + compile
        assert bool(RAN) == compile
        sizes += RAN
    torch.testing.assert_close(*values, rtol=1e-9, atol=1e-9)
    return sizes


def evaluate_both_ways(parts) -> None:
    model = combined_vae(*parts)
    x = draw_data(model.likelihood, 12)
    assert_compiled_equals_uncompiled(model, x, Importance, num_particles=50)
    try:
        model.log_likelihood(x[:2], method=SHORT(compile=False), seed=0)
    except NotImplementedError:  # discrete latents
        return
    assert_compiled_equals_uncompiled(model, x, SHORT)


@OPEN_PRODUCTS
@pytest.mark.parametrize("parts", FAST, ids=", ".join)
def test_compiled_equals_uncompiled(parts) -> None:
    evaluate_both_ways(parts)


@pytest.mark.slow
@OPEN_PRODUCTS
@pytest.mark.parametrize("parts", [row for row in ROWS if not UNCOMPILED & {*row}], ids=", ".join)
def test_compiled_equals_uncompiled_for_every_row_of_the_tables(parts) -> None:
    evaluate_both_ways(parts)


@pytest.mark.slow
@OPEN_PRODUCTS
@pytest.mark.parametrize("parts", FAST, ids=", ".join)
def test_compiled_equals_uncompiled_with_inductor(parts, inductor) -> None:  # noqa: F811
    evaluate_both_ways(parts)


def test_given_cells_and_a_start_from_the_prior() -> None:
    model = small_vae(likelihood=pv.likelihoods.Normal(4))
    given = torch.tensor([True, False, True, False])
    for method in (Importance, SHORT, partial(SHORT, start="prior")):
        found = [
            model.conditional_log_likelihood(REALS[:9], given, method=method(compile=way), num_particles=20, seed=0)
            for way in (False, True)
        ]
        torch.testing.assert_close(found[0].estimate, found[1].estimate, rtol=1e-9, atol=1e-9)


def test_a_sandwich_is_the_same_compiled() -> None:
    model = small_vae(likelihood=pv.likelihoods.Normal(4))
    gaps = [model.sandwich(16, method=SHORT(compile=way), seed=0).gap().estimate for way in (False, True)]
    assert gaps[0] == pytest.approx(gaps[1], abs=1e-9)


@OPEN_PRODUCTS
@pytest.mark.parametrize("rows", [1, 16, 20])
def test_one_graph_holds_for_all_numbers_of_rows_and_chains(rows: int) -> None:
    """The pilot run has 16 chains and the other one 20, either of which may be the number of rows."""
    sizes = assert_compiled_equals_uncompiled(Pair(), REALS[:rows], SHORT)
    if rows > 1:
        assert sizes == [16] * 7 + [20] * 7  # one before the first move, and one in each of six leapfrog steps


@OPEN_PRODUCTS
def test_parameters_are_read_anew_and_other_attributes_recorded_anew() -> None:
    model = Pair()
    method = Importance(compile=True).prepared(model, 50, 100, 4)
    changes = (
        lambda: None,
        lambda: model.weight.data.mul_(2.0),
        lambda: setattr(model, "loc", lambda z: -z @ model.weight.T),
    )
    for change in changes:
        change()
        expected = model.log_likelihood(REALS, method=Importance(compile=False), num_particles=100, seed=0)
        found = model.log_likelihood(REALS, method=method, num_particles=100, seed=0)
        torch.testing.assert_close(found.estimate, expected.estimate, rtol=1e-9, atol=1e-9)


class Bounded(Pair):
    """The latents of a row lie between bounds that depend on the row."""

    def model(self, x=None, *, rows=None, bound=None, **batch):
        with pyro.plate("data", len(x) if x is not None else rows):
            z = pyro.sample("z", self.uniform(bound))
            return pyro.sample("x", dist.Normal(self.loc(z), 1.0).to_event(1), obs=x)

    def guide(self, x, *, bound, **batch):
        with pyro.plate("data", len(x)):
            return pyro.sample("z", self.uniform(bound))

    def uniform(self, bound):
        bounds = bound[:, None].expand(-1, 2)
        return dist.Uniform(-bounds, bounds).to_event(1)


NOT_COMPILED = {  # model, rows, fields, method, message
    "a support that differs between rows": (
        Bounded,
        REALS[:6],
        {"fields": {"bound": torch.linspace(0.5, 3.0, 6, dtype=torch.float64)}},
        SHORT,
        "a latent whose support depends on tensors",
    ),
    "control flow": (Branching, REALS, {}, Importance, "GuardOnDataDependentSymNode"),
}


@pytest.mark.parametrize("name", NOT_COMPILED)
def test_what_cannot_be_compiled_is_refused_or_runs_as_it_is_and_says_so(name: str, caplog, monkeypatch) -> None:
    make, x, fields, method, message = NOT_COMPILED[name]
    with pytest.raises(RuntimeError, match=f"must be what can be compiled; got {message}"):
        make().log_likelihood(x, method=method(compile=True), seed=0, **fields)
    monkeypatch.setattr("pyro_vae.evaluation.base.COMPILATION", 0.0)
    found = [make().log_likelihood(x, method=method(compile=way), seed=0, **fields) for way in (False, "auto")]
    assert torch.equal(found[0].estimate, found[1].estimate)
    assert not RAN
    warned = {record.getMessage() for record in caplog.records if record.name == "pyro_vae"}
    assert len(warned) == 1
    assert message in warned.pop()


@OPEN_PRODUCTS
def test_one_prepared_method_serves_other_fields_and_other_sets_of_cells() -> None:
    model, given = Pair(), torch.tensor([True, False, True, False]).expand(9, 4)
    for method in (Importance(compile=True), SHORT(compile=True)):
        prepared, plain = method.prepared(model, 9, 20, 4), type(method)(**vars(method) | {"compile": False})
        for batch in ({"x": REALS[:9]}, {"x": REALS[:9], "a": REALS[:9, 0]}, {"a": REALS[:9, 0], "x": REALS[:9]}):
            for cells in ((None,), (given,), (None, given), (given, None)):
                found = []
                for one in (prepared, plain):
                    with evaluating(model, seed=0):
                        found.append(one.log_weights(model, batch, 20, cells))
                torch.testing.assert_close(*found, rtol=1e-9, atol=1e-9)


@OPEN_PRODUCTS
def test_graphs_of_evaluations_that_are_over_are_freed() -> None:
    model, alive = Pair(), []
    for _ in range(3):
        model.log_likelihood(REALS, method=SHORT(compile=True), seed=0)
        gc.collect()
        alive.append(sum(type(thing) is ShapeEnv for thing in gc.get_objects()))
    assert alive[2] == alive[1]  # what other tests left may go with the first two


def test_running_statistics_are_left_alone() -> None:
    model = batch_norm_vae()
    x = draw_data(model.likelihood, 12)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert_compiled_equals_uncompiled(model, x, Importance, num_particles=50)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_auto_compiles_where_it_pays() -> None:
    model = small_vae()
    few, many = (Importance().prepared(model, rows, 1000, 784).recorder for rows in (100, 10_000))
    assert few is None
    assert many is not None
    assert AIS(num_steps=2).prepared(model, 20, 32, 6).recorder is None
    assert AIS().prepared(model, 1000, 32, 784).recorder is not None
    assert SemiAmortized().prepared(model, 10**6, 1000, 784).recorder is None


@pytest.mark.parametrize("make", [AIS, Importance])
def test_compile_must_be_a_choice(make) -> None:
    with pytest.raises(ValueError, match="compile must be True, False or 'auto'; got 'yes'"):
        make(compile="yes")
