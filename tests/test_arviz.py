"""Draws by group: their shapes and names, their distributions, and that ArviZ reads them."""

from __future__ import annotations

import copy
import sys
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
from cases import BatchNormNet, draw_data, small_vae
from exact import Discrete, GlobalMean, LinearGaussian
from test_hard_cases import Conditional
from test_predictive import TwoLayers
from torch import nn

import pyro_vae as pv
from pyro_vae import likelihoods, nets
from pyro_vae.criticism.arviz import Draws
from pyro_vae.inference import chunks

GROUPS = ["posterior", "posterior_predictive", "prior", "prior_predictive", "log_likelihood", "observed_data"]


class GlobalVector(pv.LatentVariableModel):
    """mu ~ N(0, 4 I) in two dimensions for the whole data set, x_i ~ N(mu, I); the guide is the exact posterior."""

    def __init__(self) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.tensor(1.0, dtype=torch.float64))

    def model(self, x=None, *, rows=None, **batch):
        mu = pyro.sample("mu", dist.Normal(self.slope.new_zeros(2), 2.0).to_event(1))
        with pyro.plate("data", len(x) if x is not None else rows):
            return pyro.sample("x", dist.Normal(mu, 1.0).to_event(1), obs=x)

    def guide(self, x, **batch):
        precision = 0.25 + len(x)
        return pyro.sample("mu", dist.Normal(self.slope * x.sum(0) / precision, precision**-0.5).to_event(1))


class Blocks(pv.LatentVariableModel):
    """z ~ N(0, 1); two cells at the site x and one at the site y, all N(z, 1); the guide is the prior."""

    data_sites = ("x", "y")

    def model(self, x=None, *, rows=None, **batch):
        with pyro.plate("data", len(x) if x is not None else rows):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            cells = dist.Normal(z.unsqueeze(-1).expand(*z.shape, 2), 1.0).to_event(1)
            pyro.sample("x", cells, obs=None if x is None else x[:, :2])
            pyro.sample("y", dist.Normal(z, 1.0), obs=None if x is None else x[:, 2])

    def guide(self, x, **batch):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(0.0, 1.0))


def shapes(found: Draws) -> dict[str, dict[str, tuple[int, ...]]]:
    return {group: {name: tuple(value.shape) for name, value in sites.items()} for group, sites in found.groups.items()}


def dims(tree: Any) -> dict[str, dict[str, tuple[str, ...]]]:
    return {group: {name: value.dims for name, value in node.data_vars.items()} for group, node in tree.items()}


@pytest.fixture
def xarray() -> Any:
    return pytest.importorskip("xarray", reason="the exchange format needs xarray")


@pytest.fixture
def arviz(xarray: Any) -> Iterator[Any]:
    """ArviZ, with its own warnings silenced."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield pytest.importorskip("arviz", reason="to read what is written")


# Shapes and names


def test_draws_of_a_vae_on_vectors_have_their_shapes_and_dimensions(xarray: Any) -> None:
    vae = small_vae(likelihood=likelihoods.Normal(4))
    x = draw_data(vae.likelihood, 7)
    found = pv.draws(vae, x, num_samples=5, num_particles=10, seed=0)
    assert list(found.groups) == GROUPS
    assert shapes(found) == {
        "posterior": {"z": (5, 7, 3)},
        "posterior_predictive": {"x": (5, 7, 4)},
        "prior": {"z": (5, 7, 3)},
        "prior_predictive": {"x": (5, 7, 4)},
        "log_likelihood": {"x": (7,)},
        "observed_data": {"x": (7, 4)},
    }
    assert found.attributes == {
        "inference_library": "pyro_vae",
        "num_samples": 5,
        "num_particles": 10,
        "unreliable_rows": 7,  # of so few draws k-hat is unknown
    }
    assert found.columns is found.index is None
    tree = found.to_datatree()
    latent, data = ("chain", "draw", "row", "z_dim_0"), ("chain", "draw", "row", "x_dim_0")
    assert dims(tree) == {
        "posterior": {"z": latent},
        "posterior_predictive": {"x": data},
        "prior": {"z": latent},
        "prior_predictive": {"x": data},
        "log_likelihood": {"x": ("chain", "draw", "row")},
        "observed_data": {"x": ("row", "x_dim_0")},
    }
    assert dict(tree["posterior"].sizes) == {"chain": 1, "draw": 5, "row": 7, "z_dim_0": 3}
    assert tree["posterior"].coords["row"].values.tolist() == list(range(7))
    assert tree["posterior"].attrs == found.attributes
    np.testing.assert_array_equal(tree["posterior"]["z"].values[0], found.groups["posterior"]["z"])
    scores = tree["log_likelihood"]["x"].values
    assert scores.shape == (1, 5, 7)
    np.testing.assert_array_equal(scores[0], found.groups["log_likelihood"]["x"].expand(5, 7))


def test_draws_of_a_vae_on_images_have_their_shapes_and_dimensions(xarray: Any) -> None:
    vae = small_vae(likelihood=likelihoods.Bernoulli((1, 4, 4)), encoder=nets.MLP((5,)), decoder=nets.MLP((5,)))
    found = pv.draws(vae, draw_data(vae.likelihood, 6), num_samples=3, num_particles=10, seed=0)
    assert shapes(found)["posterior_predictive"] == shapes(found)["prior_predictive"] == {"x": (3, 6, 1, 4, 4)}
    assert shapes(found)["observed_data"] == {"x": (6, 1, 4, 4)}
    tree = found.to_datatree()
    assert tree["prior_predictive"]["x"].dims == ("chain", "draw", "row", "x_dim_0", "x_dim_1", "x_dim_2")
    assert tree["observed_data"]["x"].dims == ("row", "x_dim_0", "x_dim_1", "x_dim_2")
    assert tree["observed_data"].coords["x_dim_2"].values.tolist() == [0, 1, 2, 3]


def test_names_of_columns_and_rows_are_kept(xarray: Any) -> None:
    program = LinearGaussian()
    x = program.draw(3)
    frame = pd.DataFrame(x.numpy(), columns=list("abcd"), index=["r", "s", "t"])
    found = pv.draws(program, frame, num_samples=2, num_particles=5, seed=0)
    assert found.columns == ["a", "b", "c", "d"]
    assert found.index == ["r", "s", "t"]
    tree = found.to_datatree()
    for group in ("posterior_predictive", "prior_predictive"):
        assert tree[group]["x"].dims == ("chain", "draw", "row", "column")
    assert tree["observed_data"]["x"].dims == ("row", "column")
    assert tree["posterior"]["z"].dims == ("chain", "draw", "row", "z_dim_0")
    for group in GROUPS:
        assert tree[group].coords["row"].values.tolist() == ["r", "s", "t"]
        assert ("column" in tree[group].coords) == (group in GROUPS[1::2] and group != "log_likelihood")
    observed = tree["observed_data"]["x"]
    assert observed.coords["column"].values.tolist() == ["a", "b", "c", "d"]
    assert float(observed.sel(row="s", column="c")) == frame.loc["s", "c"]
    replicated = tree["posterior_predictive"]["x"].sel(row="t", column="a").values[0]
    np.testing.assert_array_equal(replicated, found.groups["posterior_predictive"]["x"][:, 2, 0])


def test_draws_of_a_program_with_two_latent_and_two_data_sites_are_by_site(xarray: Any) -> None:
    x = torch.tensor([[1.0, 0.0], [-2.0, 3.0], [0.5, 4.0]])
    found = pv.draws(TwoLayers(), x, num_samples=5, num_particles=10, seed=0)
    for group, sites in shapes(found).items():
        if group == "log_likelihood":
            assert sites == {"x": (3,)}
        elif group == "observed_data":
            assert sites == {"x": (3,), "y": (3,)}
        else:
            names = {"a", "b"} if group in ("posterior", "prior") else {"x", "y"}
            assert sites == dict.fromkeys(names, (5, 3))
    assert torch.equal(found.groups["observed_data"]["y"], x[:, 1])
    assert torch.equal(found.groups["observed_data"]["x"], x[:, 0])
    tree = found.to_datatree()
    for group in GROUPS[:-1]:
        assert set(dims(tree)[group].values()) == {("chain", "draw", "row")}
    assert tree["observed_data"]["y"].dims == ("row",)


def test_a_site_with_some_of_the_columns_has_no_column_names(xarray: Any) -> None:
    frame = pd.DataFrame(np.zeros((4, 3)), columns=["a", "b", "c"], index=list("rstu"))
    tree = pv.draws(Blocks(), frame, num_samples=2, num_particles=5, seed=0).to_datatree()
    assert tree["observed_data"]["x"].dims == ("row", "x_dim_0")
    assert tree["posterior_predictive"]["x"].dims == ("chain", "draw", "row", "x_dim_0")
    assert tree["posterior_predictive"]["y"].dims == ("chain", "draw", "row")
    assert tree["observed_data"].coords["row"].values.tolist() == list("rstu")
    assert "column" not in tree["observed_data"].coords


@pytest.mark.parametrize("num_samples", [1, 4])
def test_global_latents_have_no_dimension_of_rows(num_samples: int, xarray: Any) -> None:
    program, x = GlobalMean(), torch.randn(6, dtype=torch.float64)
    found = pv.draws(program, x, num_samples=num_samples, num_particles=20, seed=0)
    assert shapes(found) == {
        "posterior": {"mu": (num_samples,)},
        "posterior_predictive": {"x": (num_samples, 6)},
        "prior": {"mu": (num_samples,)},
        "prior_predictive": {"x": (num_samples, 6)},
        "log_likelihood": {"x": ()},
        "observed_data": {"x": (6,)},
    }
    assert float(found.groups["log_likelihood"]["x"]) == pytest.approx(float(program.log_evidence(x)))
    tree = found.to_datatree()
    assert dims(tree) == {
        "posterior": {"mu": ("chain", "draw")},
        "posterior_predictive": {"x": ("chain", "draw", "row")},
        "prior": {"mu": ("chain", "draw")},
        "prior_predictive": {"x": ("chain", "draw", "row")},
        "log_likelihood": {"x": ("chain", "draw")},
        "observed_data": {"x": ("row",)},
    }


def test_a_global_latent_as_long_as_the_data_is_not_taken_for_rows(xarray: Any) -> None:
    program, x = GlobalVector(), torch.randn(2, 2, dtype=torch.float64)
    found = pv.draws(program, x, num_samples=4, num_particles=20, seed=0)
    assert shapes(found)["posterior"] == shapes(found)["prior"] == {"mu": (4, 2)}
    assert shapes(found)["posterior_predictive"] == {"x": (4, 2, 2)}
    tree = found.to_datatree()
    assert tree["posterior"]["mu"].dims == ("chain", "draw", "mu_dim_0")
    assert tree["prior_predictive"]["x"].dims == ("chain", "draw", "row", "x_dim_0")


def test_to_dict_gives_numpy_arrays() -> None:
    found = pv.draws(Discrete(), Discrete.rows, num_samples=2, num_particles=5, seed=0)
    plain = found.to_dict()
    assert list(plain) == GROUPS
    for group, sites in plain.items():
        for name, value in sites.items():
            assert type(value) is np.ndarray
            np.testing.assert_array_equal(value, found.groups[group][name])
    assert plain["posterior"]["z"].dtype == np.int64
    assert str(found).splitlines()[:2] == ["posterior: z (2, 5)", "posterior_predictive: x (2, 5, 2)"]


def test_without_xarray_the_error_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    found = pv.draws(LinearGaussian(), LinearGaussian().draw(2), num_samples=2, num_particles=5, seed=0)
    monkeypatch.setitem(sys.modules, "xarray", None)
    with pytest.raises(ImportError, match=r"xarray must be installed for to_datatree; got none. Run pip install"):
        found.to_datatree()
    assert list(found.to_dict()) == GROUPS


# Values


def assert_moments(values: torch.Tensor, mean: torch.Tensor, variance: torch.Tensor) -> None:
    """Normal draws (S, ...) have these moments within 4.5 of their errors."""
    count = len(values)
    assert ((values.mean(0) - mean).abs() < 4.5 * (variance / count).sqrt()).all()
    assert ((values.var(0) - variance).abs() < 4.5 * variance * (2 / (count - 1)) ** 0.5).all()


def test_draws_have_the_moments_of_their_distributions() -> None:
    program = LinearGaussian(width=1.5, shift=0.3)
    x = program.draw(3)
    found = pv.draws(program, x, num_samples=600, num_particles=500, seed=0)
    with torch.no_grad():
        mean_map, covariance = program.posterior_parameters()
        mean, spread = (x - program.bias) @ mean_map.T + 0.3, 1.5**2 * covariance
        noise, marginal = program.log_scale.mul(2).exp(), program.marginal()
        out = (program.weight @ spread @ program.weight.T).diag() + noise
        groups = found.groups
        assert_moments(groups["posterior"]["z"], mean, spread.diag().expand(3, 2))
        assert_moments(groups["posterior_predictive"]["x"], mean @ program.weight.T + program.bias, out.expand(3, 4))
        assert_moments(groups["prior"]["z"], torch.zeros(3, 2), torch.ones(3, 2))
        assert_moments(groups["prior_predictive"]["x"], marginal.mean, marginal.variance.expand(3, 4))
        # predictions belong to the latents of the same draw
        for kind in ("posterior", "prior"):
            residual = groups[f"{kind}_predictive"]["x"] - groups[kind]["z"] @ program.weight.T - program.bias
            assert_moments(residual, torch.zeros(3, 4), noise.expand(3, 4))
    assert torch.equal(groups["observed_data"]["x"], x)


def test_the_log_likelihood_is_that_of_the_closed_form() -> None:
    program = LinearGaussian()
    x = program.draw(20)
    found = pv.draws(program, x, num_samples=2, num_particles=30, seed=0)
    expected = program.log_likelihood(x, num_particles=30, seed=1).estimate  # exact guide: no noise
    score = found.groups["log_likelihood"]["x"]
    np.testing.assert_allclose(score, expected, atol=1e-8)
    np.testing.assert_allclose(score.sum(), program.log_evidence(x).sum().detach(), atol=1e-7)
    narrow = pv.draws(LinearGaussian(width=0.3), x, num_samples=2, num_particles=200, seed=0)
    assert narrow.attributes["unreliable_rows"] > 10


def test_groups_see_the_same_draw_of_a_random_transform() -> None:
    program = LinearGaussian()
    x = program.draw(20)
    rows = pv.Rows(x, transform=lambda x: x + torch.randn_like(x), index=range(20))
    found = pv.draws(program, rows, num_samples=2, num_particles=3, seed=0)
    observed = found.groups["observed_data"]["x"]
    assert ((observed - x).abs() > 0).all()
    expected = program.log_evidence(observed).detach()
    np.testing.assert_allclose(found.groups["log_likelihood"]["x"], expected, atol=1e-8)
    assert found.index == list(range(20))


def test_resampled_draws_follow_the_posterior() -> None:
    program = LinearGaussian(width=1.5, shift=0.3)
    x = program.draw(2)
    found = pv.draws(program, x, num_samples=200, num_candidates=20_000, num_particles=10, seed=0)
    with torch.no_grad():
        mean_map, covariance = program.posterior_parameters()
        mean = (x - program.bias) @ mean_map.T
        assert_moments(found.groups["posterior"]["z"], mean, covariance.diag().expand(2, 2))
        out = mean @ program.weight.T + program.bias
        variance = (program.weight @ covariance @ program.weight.T).diag() + program.log_scale.mul(2).exp()
        assert_moments(found.groups["posterior_predictive"]["x"], out, variance.expand(2, 4))


def test_global_draws_have_the_moments_of_the_posterior() -> None:
    program, x = GlobalMean(), 3 + torch.randn(6, dtype=torch.float64)
    found = pv.draws(program, x, num_samples=400, num_particles=10, seed=0)
    mean, variance = x.sum() / program.precision, torch.tensor(1 / program.precision)
    assert_moments(found.groups["posterior"]["mu"], mean, variance)
    assert_moments(found.groups["prior"]["mu"], torch.tensor(0.0), torch.tensor(4.0))
    residual = found.groups["posterior_predictive"]["x"] - found.groups["posterior"]["mu"].unsqueeze(-1)
    assert_moments(residual, torch.zeros(6), torch.ones(6))  # the rows of a draw share its latent


def test_fields_reach_the_programs_in_any_form() -> None:
    program, label = Conditional(), torch.arange(9)
    rows = LinearGaussian().draw(9)
    x = rows + label.unsqueeze(-1)
    first = pv.draws(program, x, label=label.numpy(), num_samples=50, num_particles=5, seed=0)
    np.testing.assert_allclose(first.groups["log_likelihood"]["x"], program.log_evidence(rows).detach(), atol=1e-8)
    mean = program.bias.detach() + label.unsqueeze(-1)
    scale = program.marginal().stddev.detach()
    assert ((first.groups["prior_predictive"]["x"].mean(0) - mean).abs() < 4.5 * scale / 50**0.5).all()
    for data, options in (
        ((x, label), {"fields": ("x", "label")}),
        (pv.Rows(x, {"label": label}), {"fields": "label"}),
        (pd.DataFrame(x.numpy()).assign(label=label.numpy()), {"fields": ("label",)}),
    ):
        again = pv.draws(program, data, num_samples=50, num_particles=5, seed=0, **options)
        for group, sites in again.groups.items():
            for name, value in sites.items():
                assert torch.equal(value, first.groups[group][name])
    assert again.columns == ["0", "1", "2", "3"]


@pytest.mark.usefixtures("plain_pyro")
def test_chunks_cover_every_row_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    program = LinearGaussian()
    with torch.no_grad():
        program.log_scale.fill_(-12.0)
        program.tril.mul_(1e-6)
    x = program.draw(11)
    monkeypatch.setattr(chunks, "CELLS", 4 * 9)
    found = pv.draws(program, x, num_samples=9, num_particles=5, seed=0)
    mean = ((x - program.bias) @ program.mean_map.T).detach()
    np.testing.assert_allclose(found.groups["posterior"]["z"], mean.expand(9, 11, 2), atol=1e-4)
    replicated = (mean @ program.weight.T + program.bias).detach()
    np.testing.assert_allclose(found.groups["posterior_predictive"]["x"], replicated.expand(9, 11, 4), atol=1e-3)
    assert torch.equal(found.groups["observed_data"]["x"], x)
    assert found.groups["prior"]["z"].flatten(0, 1).unique(dim=0).shape == (99, 2)


def test_num_samples_must_be_positive() -> None:
    program = LinearGaussian()
    with pytest.raises(ValueError, match="num_samples must be a positive integer; got 0"):
        pv.draws(program, program.draw(2), num_samples=0)


# ArviZ


def read(arviz: Any, found: Draws) -> Any:
    """What ArviZ takes: the tree itself from version 1.0, and before that its own class."""
    tree = found.to_datatree()
    return arviz.InferenceData.from_datatree(tree) if is_older(arviz) else tree


def is_older(arviz: Any) -> bool:
    return int(arviz.__version__.partition(".")[0]) < 1


def test_arviz_summarizes_the_draws_and_loo_returns_the_log_likelihood(arviz: Any) -> None:
    program = LinearGaussian(width=1.2)
    x = program.draw(25)
    found = pv.draws(program, x, num_samples=40, num_particles=300, seed=0)
    data = read(arviz, found)
    assert set(data.groups() if callable(data.groups) else data.children) == set(GROUPS)
    summary = arviz.summary(data, var_names=["z"], kind="stats", round_to=6)
    np.testing.assert_allclose(summary["mean"], found.groups["posterior"]["z"].mean(0).flatten(), atol=1e-3)
    total = float(found.groups["log_likelihood"]["x"].sum())
    score = program.log_likelihood(x, num_particles=300, seed=0)
    assert abs(total - float(program.log_evidence(x).sum().detach())) < 4.5 * float(score.standard_error.norm())
    if is_older(arviz):
        pointwise = arviz.loo(data, pointwise=True)
        assert float(pointwise.elpd_loo) == pytest.approx(total)
        np.testing.assert_allclose(pointwise.loo_i, found.groups["log_likelihood"]["x"])
        assert float(pointwise.p_loo) == pytest.approx(0, abs=1e-9)
    else:
        with pytest.raises(ValueError, match="All tail values are the same"):
            arviz.loo(data, pointwise=True)


def test_arviz_reads_several_sites_and_global_latents(arviz: Any) -> None:
    for program, x in ((TwoLayers(), torch.randn(4, 2)), (GlobalMean(), torch.randn(6, dtype=torch.float64))):
        found = pv.draws(program, x, num_samples=10, num_particles=20, seed=0)
        data = read(arviz, found)
        extracted = arviz.extract(data, **({} if is_older(arviz) else {"keep_dataset": True}))
        assert set(extracted.data_vars) == set(found.groups["posterior"])


# Side effects


@pytest.mark.usefixtures("plain_pyro")
def test_drawing_leaves_model_and_global_state_unchanged() -> None:
    encoder, decoder = BatchNormNet((6, 6)), nn.Sequential(BatchNormNet((3, 6)), nn.Unflatten(1, (2, 3)))
    vae = small_vae(encoder=encoder, decoder=decoder)
    x = draw_data(vae.likelihood, 8)
    vae.train()
    vae.decoder.module[0].layers[2].eval()
    pyro.param("mine", torch.ones(2))
    before, modes = copy.deepcopy(vae.state_dict()), [part.training for part in vae.modules()]
    random, store = torch.get_rng_state(), sorted(pyro.get_param_store())

    def call(seed: int | None) -> Draws:
        return pv.draws(vae, x, num_samples=3, num_particles=5, seed=seed)

    first, again = call(0), call(0)
    assert torch.equal(torch.get_rng_state(), random)
    other = call(None)
    for group, sites in first.groups.items():
        for name, value in sites.items():
            assert torch.equal(value, again.groups[group][name])
            assert torch.equal(value, other.groups[group][name]) == (group == "observed_data")
            assert not value.requires_grad
    assert modes == [part.training for part in vae.modules()]
    assert all(torch.equal(value, before[key]) for key, value in vae.state_dict().items())
    assert all(parameter.grad is None for parameter in vae.parameters())
    assert sorted(pyro.get_param_store()) == store
