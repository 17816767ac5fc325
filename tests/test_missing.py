"""Missing cells: closed forms, cells that never count, every door, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pandas
import pyro
import pyro.distributions as dist
import pytest
import torch
from both_steps import assert_same, both, recorded  # noqa: F401
from cases import GUIDES, LIKELIHOODS, draw_data
from incomplete import linear_gaussian, of_cells, with_gaps
from torch import Tensor, nn
from torch.utils.data import DataLoader

import pyro_vae as pv
from pyro_vae import elbos, likelihoods, missing, nets, priors
from pyro_vae.distributions.masked import masked, value_inside
from pyro_vae.runtime.random import seeded

CELLWISE = [name for name in LIKELIHOODS if not name.startswith(("Autoreg", "LowRank", "Multi", "Normal optimal"))]
GARBAGE = 1e30


def small_vae(**options: Any) -> pv.VAE:
    parts = {"likelihood": likelihoods.Normal(5), "prior": priors.Normal(2), "missing": missing.AtRandom(), "seed": 0}
    return pv.VAE(**(parts | options))


@pytest.fixture(scope="module")
def exact() -> tuple[pv.VAE, Any, Tensor]:
    vae, marginal = linear_gaussian()
    with torch.random.fork_rng():
        torch.manual_seed(2)
        x = marginal.sample((12,))
    return vae, marginal, with_gaps(x)


def test_log_likelihood_is_the_marginal_of_the_observed_cells(exact) -> None:
    vae, marginal, x = exact
    found = vae.log_likelihood(x, num_particles=3, seed=0)
    torch.testing.assert_close(found.estimate, of_cells(marginal, x, ~x.isnan()), rtol=0, atol=1e-8)
    assert abs(found.estimate[0]) < 1e-8  # a row without an observed cell says nothing
    torch.testing.assert_close(vae.elbo(x, num_particles=20_000, seed=0).bound, found.estimate, rtol=0, atol=0.1)


def test_conditional_log_likelihood_of_any_cells_given_any_others(exact) -> None:
    vae, marginal, x = exact
    observed = ~x.isnan()
    given = torch.tensor([True, False, True, False, False])
    found = vae.conditional_log_likelihood(x, given, num_particles=3, seed=0)
    expected = of_cells(marginal, x, observed) - of_cells(marginal, x, observed & given)
    torch.testing.assert_close(found.estimate, expected, rtol=0, atol=1e-8)
    asked = torch.tensor([False, True, False, False, True])
    found = vae.conditional_log_likelihood(x, given, asked=asked, num_particles=3, seed=0)
    expected = of_cells(marginal, x, observed & (given | asked)) - of_cells(marginal, x, observed & given)
    torch.testing.assert_close(found.estimate, expected, rtol=0, atol=1e-8)


@pytest.mark.parametrize("name", CELLWISE)
@pytest.mark.parametrize("encoder", ["Masked", "CellSet"])
def test_what_stands_in_missing_cells_never_counts(name: str, encoder: str) -> None:
    likelihood = LIKELIHOODS[name]()
    x = draw_data(likelihood, 12).double()
    observed = torch.rand(x.shape, generator=torch.Generator().manual_seed(0)) > 0.4
    observed[0], observed[1] = False, True
    recipe = nets.CellSet(width=4, element_hidden=(5,), hidden=(6,)) if encoder == "CellSet" else None
    results = []
    for rows, fields in (
        (x.masked_fill(~observed, torch.nan), {}),
        (x.masked_fill(~observed, GARBAGE), {"observed": observed}),
        (x.masked_fill(~observed, -GARBAGE), {"observed": observed}),
    ):
        vae = small_vae(likelihood=LIKELIHOODS[name](), encoder=recipe)
        history = vae.fit(rows, fields=fields, epochs=2, batch_size=5, seed=0, progress=False)
        score = vae.log_likelihood(rows, num_particles=5, seed=0, **fields).estimate
        results.append((history.rows[-1]["train_bound"], score))
        assert torch.isfinite(score).all()
    for bound, score in results[1:]:
        assert bound == results[0][0] and torch.equal(score, results[0][1])


@pytest.mark.parametrize("name", CELLWISE)
def test_all_observed_gives_the_numbers_of_a_model_without_missing_cells(name: str) -> None:
    x = draw_data(LIKELIHOODS[name](), 12)
    results = []
    for assumed in (None, missing.AtRandom()):
        vae = small_vae(likelihood=LIKELIHOODS[name](), missing=assumed, encoder=nets.MLP((6,)))
        history = vae.fit(x, epochs=2, batch_size=5, seed=0, progress=False)
        score = vae.log_likelihood(x, num_particles=5, seed=0).estimate
        results.append((history.rows[-1]["train_bound"], score, vae.sample(3, seed=0)))
    assert results[0][0] == results[1][0]
    assert torch.equal(results[0][1], results[1][1]) and torch.equal(results[0][2], results[1][2])


@pytest.mark.parametrize("name", CELLWISE)
def test_cells_that_stand_for_missing_ones_lie_in_the_support(name: str) -> None:
    likelihood = LIKELIHOODS[name]()
    value = value_inside(likelihood.support, likelihood.event_shape)
    likelihood.check(value.unsqueeze(0))
    p = masked(likelihood(torch.zeros(1, *likelihood.output_shape)), torch.zeros(likelihood.event_shape).bool())
    assert torch.equal(p.log_prob(value.unsqueeze(0)), torch.zeros(1))


def test_a_model_learns_from_incomplete_rows() -> None:
    _, marginal = linear_gaussian()
    torch.manual_seed(0)
    x = with_gaps(marginal.sample((600,)).float(), 0.3)
    vae = small_vae(decoder=nets.MLP(()), encoder=nets.Masked(nets.MLP((32,))))
    vae.fit(x, epochs=60, batch_size=50, learning_rate=5e-3, seed=0, progress=False)
    new = with_gaps(marginal.sample((500,)).float(), 0.3, seed=5)
    best = float(of_cells(marginal, new.double(), ~new.isnan()).mean())
    found = vae.log_likelihood(new, num_particles=200, seed=0).mean().estimate
    assert best - 0.1 < found < best + 0.03  # 17 parameters cost .014 nats on average


class Own(pv.LatentVariableModel):
    """A program of a user's own that reads the pattern."""

    def __init__(self) -> None:
        super().__init__()
        with seeded(0):
            self.decoder, self.encoder = nn.Linear(2, 5), nn.Linear(10, 4)

    def model(self, x: Tensor | None = None, *, rows: int | None = None, observed: Tensor | None = None) -> Tensor:
        with pyro.plate("data", len(x) if x is not None else rows):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            p = dist.Normal(self.decoder(z), 1.0)
            return pyro.sample("x", (p if observed is None else p.mask(observed)).to_event(1), obs=x)

    def guide(self, x: Tensor, *, observed: Tensor | None = None) -> Tensor:
        seen = torch.ones_like(x) if observed is None else observed.to(x)
        loc, raw = self.encoder(torch.cat([x, seen], -1)).chunk(2, -1)
        with pyro.plate("data", len(x)):
            return pyro.sample("z", dist.Normal(loc, raw.exp()).to_event(1))


class Careless(Own):
    """A program that takes the pattern and does not mask its data."""

    def model(self, x: Tensor | None = None, *, rows: int | None = None, observed: Tensor | None = None) -> Tensor:
        with pyro.plate("data", len(x) if x is not None else rows):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            return pyro.sample("x", dist.Normal(self.decoder(z), 1.0).to_event(1), obs=x)


def hierarchical() -> pv.HierarchicalVAE:
    return pv.HierarchicalVAE(likelihood=likelihoods.Normal(5), latent_dims=(3, 2), missing=missing.AtRandom(), seed=0)


MODELS: dict[str, Callable[[], pv.LatentVariableModel]] = {
    "VAE": small_vae,
    "correlated guide": lambda: small_vae(guide=GUIDES["MultivariateNormal"]()),
    "VampPrior": lambda: small_vae(prior=priors.VampPrior(2, 5, num_components=3)),
    "HierarchicalVAE": hierarchical,
    "program": Own,
}


@pytest.mark.parametrize("name", MODELS)
def test_every_question_reads_the_pattern(name: str) -> None:
    _, marginal = linear_gaussian()
    torch.manual_seed(0)
    x = with_gaps(marginal.sample((40,)).float(), 0.3)
    observed = ~x.isnan()
    frame = pandas.DataFrame(x.numpy(), columns=list("abcde"))
    model = MODELS[name]()
    model.fit(frame, epochs=2, valid=frame, elbo=elbos.IWAE(num_particles=2), seed=0, progress=False)
    garbage = x.masked_fill(~observed, GARBAGE)

    def same(question: Callable[..., Any]) -> Any:
        a, b = question(frame), question(pv.Rows(garbage, {"observed": observed}, columns=list("abcde")))
        assert str(a) == str(b)
        return a

    same(lambda data: model.log_likelihood(data, num_particles=30, seed=0).mean())
    same(lambda data: model.elbo(data, num_particles=2, seed=0).mean())
    same(lambda data: model.posterior_predictive(data, num_samples=2, seed=0))
    same(lambda data: model.reconstruct(data, seed=0))
    same(lambda data: model.conditional_log_likelihood(data, ["a", "b"], num_particles=30, seed=0).mean())
    same(lambda data: pv.compare({"a": model, "b": model}, data, num_particles=30, seed=0))
    checks = same(lambda data: pv.check(model, data, num_samples=40, seed=0))
    assert not checks.pit.values.isnan().any()
    cells = same(lambda data: pv.checks.pit(model, data, unit="cell", num_particles=30, seed=0))
    assert torch.equal(cells.values.isnan(), ~observed)
    found = pv.draws(model, frame, num_samples=3, num_particles=10, seed=0)
    assert torch.equal(found.groups["observed_data"]["x"].isnan(), ~observed)
    if name not in ("VAE", "program"):
        return  # each takes seconds
    report = str(pv.diagnose(model, frame, num_particles=30, num_samples=40, seed=0, verbose=False))
    assert "nan" not in report.lower()


def test_a_true_model_passes_its_checks_though_observed_cells_say_which_are_missing() -> None:
    vae, marginal = linear_gaussian()
    failed = 0
    for seed in range(20):
        torch.manual_seed(seed)
        x = marginal.sample((200,))
        gone = torch.rand(200) < torch.sigmoid(3 * (x[:, 0] - marginal.loc[0]))
        x[:, 1] = x[:, 1].masked_fill(gone, torch.nan)
        failed += bool(pv.check(vae, x, num_samples=60, seed=seed).disagreeing)
    assert failed <= 4  # at most 3.5 % of data sets each: more than 4 of 20 in 1 of 2,000 suites


def test_bits_per_dimension_need_complete_rows() -> None:
    vae, marginal = linear_gaussian()
    found = vae.log_likelihood(with_gaps(marginal.sample((5,))), num_particles=30, seed=0)
    for question in (found.bits_per_dimension, lambda width: found.mean("bits", width)):
        with pytest.raises(ValueError, match="bits per dimension must be of complete rows"):
            question(0.1)


def test_statistics_leave_out_missing_cells() -> None:
    torch.manual_seed(0)
    x = torch.randn(30, 4, dtype=torch.float64).round()
    gaps = torch.rand(30, 4) < 0.3
    holed, alone = x.masked_fill(gaps, torch.nan), [x[~gaps[:, j], j] for j in range(4)]
    s = pv.statistics
    by_column = {s.mean: Tensor.mean, s.variance: Tensor.var, s.largest: Tensor.max}
    by_column |= {s.zero_fraction: lambda c: (c == 0).double().mean(), s.quantile(0.3): lambda c: c.quantile(0.3)}
    for statistic, expected in by_column.items():
        torch.testing.assert_close(statistic(holed), torch.stack([expected(column) for column in alone]))
        assert statistic(holed[:, :1].masked_fill(torch.ones(30, 1).bool(), torch.nan)).tolist() == [0.0]
    rows = [x[i, ~gaps[i]] for i in range(30)]
    by_row = {s.row_total: Tensor.sum, s.row_largest: lambda r: r.max() if len(r) else r.sum()}
    by_row |= {s.row_mean: lambda r: r.mean().nan_to_num()}
    by_row |= {s.row_standard_deviation: lambda r: r.std(correction=0).nan_to_num() if len(r) else r.sum()}
    for statistic, expected in by_row.items():
        torch.testing.assert_close(statistic(holed), torch.stack([expected(row) for row in rows]))
    both = ~gaps[:, 0] & ~gaps[:, 1]
    torch.testing.assert_close(s.correlation(0, 1)(holed), torch.corrcoef(x[both][:, :2].T)[0, 1])


def test_a_loader_reads_the_pattern() -> None:
    vae, rows = small_vae(), HOLED.clone()
    for named in (rows, {"x": X, "observed": ~rows.isnan()}):
        items = [named[i] if named is rows else {key: value[i] for key, value in named.items()} for i in range(len(X))]
        loader = DataLoader(items, batch_size=10)
        vae.fit(loader, epochs=1, seed=0, progress=False)
        found = vae.log_likelihood(loader, num_particles=5, seed=0).estimate
        assert torch.equal(found, vae.log_likelihood(rows, num_particles=5, seed=0).estimate)


def test_plain_pyro_reads_the_pattern(plain_pyro) -> None:
    vae = small_vae()
    svi = pyro.infer.SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 0.01}), pyro.infer.Trace_ELBO())
    losses = [svi.step(HOLED) for _ in range(50)]
    assert sum(losses[-10:]) < sum(losses[:10]) - 50


def test_compiled_steps_read_the_pattern(recorded) -> None:  # noqa: F811
    for make in (small_vae, lambda: small_vae(encoder=nets.CellSet(width=4)), Own, hierarchical):
        assert_same(*both(lambda make=make: make().double(), HOLED.double()))
    assert_same(*both(lambda: small_vae().double(), lambda: DataLoader(list(HOLED.double()), batch_size=10)))


def test_a_model_with_missing_cells_is_saved(tmp_path) -> None:
    torch.manual_seed(0)
    x = with_gaps(torch.randn(40, 5), 0.3)
    for recipe in (None, nets.CellSet(width=4), nets.Masked(nets.MLP((3,)))):
        vae = small_vae(encoder=recipe)
        vae.fit(x, epochs=1, seed=0, progress=False)
        vae.save(tmp_path / "model")
        again = pv.load(tmp_path / "model")
        expected = vae.log_likelihood(x, num_particles=5, seed=0).estimate
        assert torch.equal(again.log_likelihood(x, num_particles=5, seed=0).estimate, expected)


def test_two_models_do_not_share_what_they_learn() -> None:
    assumed = missing.AtRandom()
    one, two = small_vae(missing=assumed), small_vae(missing=assumed)
    assert one.missing is not two.missing and one.missing is not assumed


X = torch.randn(20, 5, generator=torch.Generator().manual_seed(0))
HOLED = with_gaps(X, 0.3)
REFUSED: dict[str, tuple[Callable[[], Any], type, str]] = {
    "missing cell in fit": (
        lambda: small_vae(missing=None).fit(HOLED, progress=False),
        ValueError,
        r"x must have no missing cells for this model; got nan in row 0 \(\d+ such cells\)\. Allow .*AtRandom",
    ),
    "missing cell of a named column": (
        lambda: small_vae(missing=None).elbo(pandas.DataFrame(HOLED[1:].numpy(), columns=list("abcde"))),
        ValueError,
        r"got nan in row \d+, column '.'",
    ),
    "infinite cell": (lambda: pv.Rows(X.clone().fill_(torch.inf)), ValueError, "x must be finite; got inf in row 0"),
    "mask of another shape": (
        lambda: small_vae().fit(X, fields={"observed": torch.ones(20, 4).bool()}, progress=False),
        ValueError,
        r"field 'observed' must be boolean of shape \(20, 5\), that of x; got torch.bool of shape \(20, 4\)",
    ),
    "mask of numbers": (
        lambda: small_vae().elbo(X, observed=torch.ones(20, 5)),
        ValueError,
        "must be boolean .*; got torch.float32",
    ),
    "mask that contradicts": (
        lambda: small_vae().elbo(HOLED, observed=torch.ones(20, 5).bool()),
        ValueError,
        "'observed' must be false where x is nan; got true in row 0",
    ),
    "mask for a model without": (
        lambda: small_vae(missing=None).elbo(X, observed=torch.ones(20, 5).bool()),
        ValueError,
        "field 'observed' must be one that the model reads",
    ),
    "mask within rows, for a model without": (
        lambda: small_vae(missing=None).elbo(pv.Rows(X, {"observed": X > 0})),
        ValueError,
        "x must have no missing cells for this model; got false in 'observed'",
    ),
    "empty column": (
        lambda: small_vae().fit(X.masked_fill(torch.arange(5) == 2, torch.nan), progress=False),
        ValueError,
        r"x must have an observed cell in each column; got none in columns 2 \(1 of 5\)",
    ),
    "observed cell outside the support": (
        lambda: small_vae(likelihood=likelihoods.Bernoulli(5)).fit(HOLED, progress=False),
        ValueError,
        "x must lie in {0, 1} for Bernoulli",
    ),
    "dependent cells": (
        lambda: small_vae(likelihood=likelihoods.MultivariateNormal(5)),
        NotImplementedError,
        "Cells must be independent given the latents; got MultivariateNormal",
    ),
    "optimal scale": (
        lambda: small_vae(likelihood=likelihoods.Normal(5, scale="optimal")),
        NotImplementedError,
        'scale must not be "optimal" where cells may be missing',
    ),
    "not an assumption": (
        lambda: small_vae(missing=True),
        TypeError,
        "missing must be None or an object of pv.missing",
    ),
    "asked, without": (
        lambda: small_vae(missing=None).conditional_log_likelihood(X, X[0] > 0, asked=X[0] < -9),
        NotImplementedError,
        "asked must be None",
    ),
    "nested masks": (lambda: nets.Masked(nets.Masked()), TypeError, "recipe must be one of a net for whole rows"),
    "program that reads missing cells": (
        lambda: Careless().fit(HOLED, epochs=1, progress=False),
        ValueError,
        "The log-probability of the data must not read missing cells",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_wrong_input_is_refused(name: str) -> None:
    call, kind, match = REFUSED[name]
    with pytest.raises(kind, match=match):
        call()


def test_nets_that_read_the_pattern_are_permutation_invariant_and_accept_empty_sets() -> None:
    torch.manual_seed(0)
    net = nets.CellSet(width=4).build((5,), (3,))
    x, seen = torch.randn(2, 5), torch.tensor([[1.0, 0.0, 1.0, 1.0, 0.0], [0.0] * 5])
    order = torch.tensor([4, 2, 0, 1, 3])
    expected = net(x, seen)
    net.names.data = net.names.data[order]
    torch.testing.assert_close(net(x[:, order], seen[:, order]), expected)
    assert torch.isfinite(expected).all()
