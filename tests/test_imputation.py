"""Imputations: closed-form conditional moments, best guesses, frames, pooling, sensitivity, cells not at random."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from incomplete import linear_gaussian, with_gaps

import pyro_vae as pv
from pyro_vae import likelihoods, missing, priors
from pyro_vae.imputation.guesses import guess


@pytest.fixture(scope="module")
def exact() -> tuple[pv.VAE, Any, torch.Tensor, list[tuple[Any, Any, Any]]]:
    """A model with exact guides, its rows, and of each row the missing cells with their conditional moments."""
    vae, marginal = linear_gaussian()
    with torch.random.fork_rng():
        torch.manual_seed(2)
        x = with_gaps(marginal.sample((12,)))
    truth = []
    for row in x:
        gap = row.isnan()
        c = marginal.covariance_matrix
        slope = c[gap][:, ~gap] @ torch.linalg.inv(c[~gap][:, ~gap])
        mean = marginal.loc[gap] + slope @ (row[~gap] - marginal.loc[~gap])
        truth.append((gap, mean, c[gap][:, gap] - slope @ c[~gap][:, gap]))
    return vae, marginal, x, truth


def test_imputations_have_the_conditional_moments(exact) -> None:
    vae, _, x, truth = exact
    m = 4000
    found = vae.impute(x, num_imputations=m, num_candidates=4 * m, seed=0)
    assert torch.equal(torch.where(x.isnan(), torch.nan, found.values).nan_to_num(), x.expand(m, -1, -1).nan_to_num())
    scores = []
    for i, (gap, mean, covariance) in enumerate(truth):
        if not gap.any():
            continue
        draws = found.values[:, i][:, gap]
        scores.append(((draws.mean(0) - mean) / (covariance.diagonal() / m).sqrt()).flatten())
        products = covariance.diagonal()[:, None] * covariance.diagonal() + covariance.square()
        error = (products / m).sqrt()
        scores.append(((torch.cov(draws.T).reshape(covariance.shape) - covariance) / error).flatten())
    # Resampling 4,000 of 16,000 repeats some draws: standard errors are up to 1.12 times as large.
    assert torch.cat(scores).abs().max() < 4.5  # some 80 normal scores: fails once in 1,500 at this size


@pytest.mark.parametrize("kind", ["mean", "median", "mode"])
def test_best_guesses_are_the_conditional_means(exact, kind: str) -> None:
    vae, _, x, truth = exact
    found = vae.impute(x, single=kind, num_candidates=4000, seed=0)
    assert len(found) == 1 and found.single == kind
    for i, (gap, mean, covariance) in enumerate(truth):
        scale = covariance.diagonal().sqrt()
        assert ((found[0][i, gap] - mean) / scale).abs().max().nan_to_num() < 0.1 if gap.any() else True


def test_guesses_of_every_kind_of_cell_are_those_of_the_weighted_distribution() -> None:
    """Against enumeration: weights of three draws of z, cells with levels, ordered levels, counts."""
    torch.manual_seed(0)
    product = likelihoods.Product(
        {"c": likelihoods.Categorical(2, 3), "o": likelihoods.OrderedLogistic(1, 4), "n": likelihoods.Poisson(1)}
    )
    outputs = torch.randn(3, 2, *product.output_shape)  # three draws of z for two rows
    p, weights = product(outputs), torch.tensor([[0.2, 0.5], [0.5, 0.1], [0.3, 0.4]])
    draws = p.sample()
    probabilities = (weights[..., None, None] * p.blocks[0].base_dist.probs).sum(0)
    for kind in ("mean", "median", "mode"):
        found = guess(p, draws, weights, kind)
        assert torch.equal(found[:, :2], probabilities.argmax(-1).float())
        for row in range(2):
            for cell in (2, 3):
                values, w = draws[:, row, cell], weights[:, row]
                if kind == "mean":
                    expected = (w * p.mean[:, row, cell]).sum()
                elif kind == "mode":
                    mass = torch.stack([w[values == value].sum() for value in values])
                    expected = values[mass == mass.max()]
                else:
                    order = values.argsort()
                    expected = values[order][w[order].cumsum(0) >= 0.5 - 1e-6][0]
                assert torch.isclose(found[row, cell], expected, atol=1e-6).any()


def mixed_frame(rows: int = 120) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    z = rng.normal(size=rows)
    frame = pd.DataFrame(
        {
            "age": 40 + 10 * z + rng.normal(size=rows),
            "visits": rng.poisson(np.exp(0.5 + 0.5 * z)),
            "smokes": np.where(z + rng.normal(size=rows) > 0, "yes", "no"),
            "grade": pd.Categorical.from_codes((z > 0) * 1 + (z > 1) * 1, ["a", "b", "c"], ordered=True),
            "site": rng.choice(["A", "B", "C"], rows),
        },
        index=pd.Index([f"r{i}" for i in range(rows)], name="who"),
    )
    return frame.mask(rng.random(frame.shape) < 0.2)


@pytest.fixture(scope="module")
def fitted() -> tuple[pv.VAE, pd.DataFrame]:
    frame = mixed_frame()
    vae = pv.VAE.for_table(pv.Table(frame), latent_dim=2, seed=0)
    vae.fit(frame, epochs=5, valid=frame, seed=0, progress=False)
    return vae, frame


def test_a_collapsed_model_warns_that_associations_are_lost() -> None:
    vae = plain(missing=missing.AtRandom(), decoder=pv.nets.MLP(()))
    vae.fit(X, epochs=1, seed=0, progress=False)
    with torch.no_grad():
        for parameter in vae.encoder.parameters():
            parameter.zero_()
    with pytest.warns(
        pv.evaluation.UnreliableWarning, match=r"The latents hold next to nothing .* \(KL -?0.0\d nats\)"
    ):
        vae.impute(X, num_imputations=1, seed=0)


@pytest.mark.parametrize("single", [None, "mean", "median", "mode"])
def test_frames_come_back_completed(fitted, single) -> None:
    vae, frame = fitted
    found = vae.impute(frame, single=single, seed=0)
    for one in found:
        assert one.index.equals(frame.index) and list(one) == list(frame) and (one.dtypes == frame.dtypes).all()
        assert not one.isna().any().any()
        kept = frame.notna()
        assert one.where(kept).equals(frame)
    assert len(found) == (1 if single else 5)


def test_long_form_is_that_of_mice(fitted) -> None:
    vae, frame = fitted
    long = vae.impute(frame, num_imputations=2, seed=0).long(include_incomplete=True)
    assert list(long)[:2] == [".imp", ".id"] and len(long) == 3 * len(frame)
    assert long[".imp"].value_counts().tolist() == [len(frame)] * 3
    assert long.loc[long[".imp"] == 0, "age"].isna().sum() == frame["age"].isna().sum()
    assert (long.loc[long[".imp"] == 1, ".id"] == frame.index).all()


def test_a_loaded_model_imputes_without_any_other_file(fitted, tmp_path) -> None:
    vae, frame = fitted
    vae.save(tmp_path)
    again = pv.load(tmp_path)
    one, other = (model.impute(frame, num_imputations=1, seed=0)[0] for model in (vae, again))
    assert one.equals(other)
    drawn = again.table_schema.frame(again.sample(4, seed=0))
    assert (drawn.dtypes == frame.dtypes).all() and list(drawn) == list(frame)
    assert again.table_schema == vae.table_schema


def test_tensors_and_frames_of_numbers_come_back_as_they_came() -> None:
    x = with_gaps(torch.randn(20, 3, generator=torch.Generator().manual_seed(0)), 0.3)
    vae = pv.VAE(likelihood=likelihoods.Normal(3), prior=priors.Normal(2), missing=missing.AtRandom(), seed=0)
    vae.fit(x, epochs=1, seed=0, progress=False)
    (one,) = vae.impute(x, num_imputations=1, seed=0)
    assert isinstance(one, torch.Tensor) and one.dtype == x.dtype and not one.isnan().any()
    frame = pd.DataFrame(x.numpy(), columns=list("abc"), index=range(5, 25))
    (other,) = vae.impute(frame, num_imputations=1, seed=0)
    assert other.index.tolist() == frame.index.tolist() and list(other) == ["a", "b", "c"]
    assert np.array_equal(other.to_numpy(), one.double().numpy())
    assert "1 imputations of" in str(vae.impute(x, num_imputations=1, seed=0))


def test_complete_rows_are_left_alone() -> None:
    vae, marginal = linear_gaussian(exact=False)
    x = marginal.sample((5,))
    found = vae.impute(x, seed=0)
    assert torch.equal(found[0], x) and not found.flagged.any() and (found.khat == -torch.inf).all()


def test_pooling_and_sensitivity(fitted) -> None:
    vae, frame = fitted

    def mean_age(one: pd.DataFrame) -> tuple[float, float]:
        return one["age"].mean(), one["age"].var() / len(one)

    found = vae.impute(frame, num_imputations=10, seed=0)
    pooled = found.pool(mean_age, complete_df=len(frame) - 1)
    by_hand = np.array([mean_age(one) for one in found])
    assert float(pooled.estimate) == pytest.approx(by_hand[:, 0].mean())
    total = by_hand[:, 1].mean() + 1.1 * by_hand[:, 0].var(ddof=1)
    assert float(pooled.standard_error) == pytest.approx(total**0.5)
    result = missing.sensitivity(vae, frame, shift={"age": [0.0, 5.0]}, analysis=mean_age, num_imputations=10, seed=0)
    share = frame["age"].isna().mean()
    moved = float(result.results[1].estimate - result.results[0].estimate)
    assert moved == pytest.approx(5 * share) and float(result.results[0].estimate) == pytest.approx(
        by_hand[:, 0].mean()
    )
    assert "shift of age" in str(result) and len(result.to_pandas()) == 2


def self_masked(rows: int = 800) -> tuple[torch.Tensor, torch.Tensor]:
    """Two columns with one latent; the second is missing more often where it is large."""
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(rows, 1, generator=generator)
    x = z @ torch.tensor([[1.0, 1.0]]) + 0.4 * torch.randn(rows, 2, generator=generator)
    gone = torch.rand(rows, generator=generator) < torch.sigmoid(3 * x[:, 1] - 0.5)
    return x, x.masked_fill(torch.stack([torch.zeros(rows).bool(), gone], 1), torch.nan)


def make_not_at_random(mechanism: Any) -> pv.VAE:
    return pv.VAE(
        likelihood=likelihoods.Normal(2, scale="per_dimension"),
        prior=priors.Normal(1),
        decoder=pv.nets.MLP(()),
        missing=mechanism,
        seed=0,
    )


def test_a_known_mechanism_mends_what_missing_at_random_gets_wrong() -> None:
    x, holed = self_masked()
    gap = holed.isnan()
    errors = {}
    for name, assumed in {
        "at random": missing.AtRandom(),
        "not": missing.NotAtRandom(missing.SelfMasking(known_sign=1)),
    }.items():
        vae = make_not_at_random(assumed)
        options = {"epochs": 60, "batch_size": 100, "learning_rate": 5e-3, "seed": 0, "progress": False}
        vae.fit(holed, elbo=pv.elbos.IWAE(num_particles=5), **options)
        guessed = vae.impute(holed, single="mean", seed=0)[0]
        errors[name] = float((guessed - x)[gap].mean())
    assert errors["at random"] < -0.2 and abs(errors["not"]) < 0.5 * abs(errors["at random"])


@pytest.mark.parametrize(
    "mechanism",
    [
        missing.SelfMasking(),
        missing.SelfMasking(known_sign=[-1, None]),
        missing.Logistic(),
        lambda x: 1 - x,
        torch.nn.Linear(2, 2),
    ],
    ids=["self-masking", "known signs", "logistic", "function", "module"],
)
def test_every_question_to_a_model_with_a_mechanism(mechanism: Any, tmp_path) -> None:
    _, holed = self_masked(40)
    vae = make_not_at_random(missing.NotAtRandom(mechanism))
    vae.fit(holed, epochs=2, seed=0, progress=False)
    assert torch.isfinite(vae.log_likelihood(holed, num_particles=30, seed=0).estimate).all()
    assert vae.posterior_predictive(holed, num_samples=3, seed=0).shape == (3, 40, 2)
    assert not vae.impute(holed, num_imputations=2, seed=0)[1].isnan().any()
    assert vae.reconstruct(holed).shape == vae.sample(40).shape == (40, 2)
    report = pv.diagnose(vae, holed, num_particles=30, num_samples=40, seed=0, verbose=False)
    assert "x_missing" not in str(report)
    if isinstance(mechanism, missing.Mechanism):
        vae.save(tmp_path)
        again = pv.load(tmp_path)
        expected = vae.log_likelihood(holed, num_particles=30, seed=0).estimate
        assert torch.equal(again.log_likelihood(holed, num_particles=30, seed=0).estimate, expected)


def test_the_density_of_a_model_with_a_mechanism_is_that_of_cells_and_pattern() -> None:
    """Against quadrature over the missing cell: x_1 observed, x_2 missing, a logistic mechanism on x_2."""
    vae, marginal = linear_gaussian(event=2, latent=1)
    assumed = missing.NotAtRandom(lambda x: torch.stack([torch.full_like(x[..., 0], 4.0), 1 - 2 * x[..., 1]], -1))
    other = pv.VAE(
        likelihood=vae.likelihood,
        prior=priors.Normal(1),
        guide=pv.guides.MultivariateNormal(),
        encoder=vae.encoder.module,
        decoder=vae.decoder.module,
        missing=assumed,
    ).double()
    x = torch.tensor([[0.3, torch.nan]], dtype=torch.float64)
    found = other.log_likelihood(x, num_particles=100_000, seed=0)
    grid = torch.linspace(-12, 12, 20_001, dtype=torch.float64)
    both = torch.stack([torch.full_like(grid, 0.3), grid], -1)
    log_joint = marginal.log_prob(both) + torch.nn.functional.logsigmoid(2 * grid - 1)
    expected = torch.logsumexp(log_joint, 0) + (grid[1] - grid[0]).log() + torch.sigmoid(torch.tensor(4.0)).log()
    assert abs(float(found.estimate - expected)) < 5 * float(found.standard_error)


X = with_gaps(torch.randn(20, 3, generator=torch.Generator().manual_seed(0)), 0.3)


def plain(**options: Any) -> pv.VAE:
    return pv.VAE(likelihood=likelihoods.Normal(3), prior=priors.Normal(2), seed=0, **options)


REFUSED: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "model without": (lambda: plain().impute(X.nan_to_num()), ValueError, "model must allow for missing cells"),
    "both": (
        lambda: plain(missing=missing.AtRandom()).impute(X, single="mean", num_imputations=3),
        ValueError,
        "num_imputations must be left out with single='mean'",
    ),
    "unknown guess": (
        lambda: plain(missing=missing.AtRandom()).impute(X, single="best"),
        ValueError,
        "single must be mean, median or mode; got 'best'",
    ),
    "few candidates": (
        lambda: plain(missing=missing.AtRandom()).impute(X, num_imputations=300),
        ValueError,
        "num_candidates must be an integer of at least 300",
    ),
    "guess pooled": (
        lambda: plain(missing=missing.AtRandom()).impute(X, single="mean").pool(len),
        ValueError,
        "Imputations must be draws to be pooled",
    ),
    "shift of levels": (
        lambda: missing.sensitivity(*levels_only(), shift={"a": [1]}, analysis=len),
        ValueError,
        "column must hold numbers to be shifted; got 'a' with levels",
    ),
    "shift that is not whole": (
        lambda: sensitivity_of("n", 0.25),
        ValueError,
        "shift must be whole for column 'n', which holds whole numbers; got 0.25",
    ),
    "shift out of range": (
        lambda: sensitivity_of("n", -500.0),
        ValueError,
        "shift must leave cells of column 'n' in the range of the kind 'count'; got -",
    ),
    "shift with a mechanism": (
        lambda: missing.sensitivity(make_not_at_random(missing.NotAtRandom()), X, shift={0: [1.0]}, analysis=len),
        ValueError,
        "model must assume that cells are missing at random",
    ),
    "transform": (
        lambda: plain(missing=missing.AtRandom()).impute(pv.Rows(X, transform=torch.exp)),
        ValueError,
        "x must be rows without a transform to be imputed",
    ),
    **{
        f"{name} with a mechanism": (
            lambda elbo=elbo: make_not_at_random(missing.NotAtRandom()).fit(X[:, :2], elbo=elbo, progress=False),
            NotImplementedError,
            f"elbo must follow one bound with all parameters .*; got {name}",
        )
        for name, elbo in {
            "IWAE with gradient='stl'": pv.elbos.IWAE(gradient="stl"),
            "WakeSleep": pv.elbos.WakeSleep(),
            "CUBO": pv.elbos.CUBO(),
            "PIWAE": pv.elbos.PIWAE(),
            "DIPVAE": pv.elbos.DIPVAE(),
        }.items()
    },
    **{
        f"{name} of a mechanism": (
            lambda question=question: question(make_not_at_random(missing.NotAtRandom())),
            NotImplementedError,
            "missing must be AtRandom",
        )
        for name, question in {
            "conditional": lambda vae: vae.conditional_log_likelihood(X[:, :2], X[1, :2] < 9),
            "refinement": lambda vae: vae.refined().__enter__(),
            "calibration": lambda vae: pv.calibration.simulation_based_calibration(vae, num_rows=5),
            "NUTS": lambda vae: pv.calibration.against_nuts(vae, X[:1, :2]),
        }.items()
    },
    "shift of nothing": (
        lambda: missing.sensitivity(plain(missing=missing.AtRandom()), X, shift={9: [1.0]}, analysis=len),
        ValueError,
        r"column must be one of \[0, 1, 2\]; got 9",
    ),
    "shifts": (
        lambda: missing.sensitivity(plain(), X, shift={"a": ["x"]}, analysis=len),
        ValueError,
        "shifts must be numbers",
    ),
    "sign": (lambda: missing.SelfMasking(known_sign=2), ValueError, r"known_sign must be None, \+1 or -1, .*; got 2"),
    "signs": (
        lambda: make_not_at_random(missing.NotAtRandom(missing.SelfMasking(known_sign=[1, None, 1]))),
        ValueError,
        "known_sign must have one entry for each of 2 cells; got 3",
    ),
    "analysis of one": (
        lambda: plain(missing=missing.AtRandom()).impute(X, seed=0).pool(lambda one: one.mean(0)),
        TypeError,
        r"analysis must return a tuple \(estimates, squared standard errors\); got Tensor",
    ),
    "mechanism": (lambda: missing.NotAtRandom(3), TypeError, "mechanism must be an object of pv.missing or a function"),
    "hierarchy": (
        lambda: pv.HierarchicalVAE(likelihood=likelihoods.Normal(3), latent_dims=(2, 2), missing=missing.NotAtRandom()),
        NotImplementedError,
        "missing must be AtRandom for several layers",
    ),
    "level that was not seen": (
        lambda: levels_only()[0].impute(pd.DataFrame({"a": ["p", "z"], "b": [1.5, 2.5]})),
        ValueError,
        "column 'a' must have one of the levels 'p', 'q'; got 'z' in row 1",
    ),
    "kind that was another": (
        lambda: levels_only()[0].fit(pv.Table(levels_only()[1], kinds={"b": "positive"}), progress=False),
        ValueError,
        "column 'b' must be of the kind 'real', as in the data of training; got 'positive'",
    ),
    "latents and prior": (
        lambda: pv.VAE.for_table(levels_only()[1], latent_dim=2, prior=priors.Normal(2)),
        ValueError,
        "latent_dim must be left out with a prior",
    ),
}


def sensitivity_of(column: str, shift: float) -> Any:
    frame = pd.DataFrame({"n": [1, 0, None, 3, 9, 2] * 5, "b": [1.5, 2.5, 3.5, None, 2.25, 1.0] * 5})
    vae = pv.VAE.for_table(pv.Table(frame, kinds={"n": "count"}), seed=0)
    return missing.sensitivity(vae, frame, shift={column: [shift]}, analysis=len, seed=0)


def levels_only() -> tuple[pv.VAE, pd.DataFrame]:
    frame = pd.DataFrame({"a": ["p", "q", None, "p"] * 5, "b": [1.5, 2.5, 3.5, None] * 5})
    return pv.VAE.for_table(frame, seed=0), frame


@pytest.mark.parametrize("name", REFUSED)
def test_wrong_input_is_refused(name: str) -> None:
    call, kind, match = REFUSED[name]
    with pytest.raises(kind, match=match):
        call()


def test_refits_carry_the_uncertainty_of_the_parameters() -> None:
    """Of a column without information in the others, imputed means vary as bootstrap means do."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(40, 2, generator=generator).masked_fill(torch.arange(80).reshape(40, 2) < 40, torch.nan)
    x[:, 0] = torch.randn(40, generator=generator)
    vae = pv.VAE(
        likelihood=likelihoods.Normal(2, scale="per_dimension"),
        prior=priors.Normal(1),
        decoder=pv.nets.MLP(()),
        encoder=pv.nets.Masked(pv.nets.MLP((4,))),
        missing=missing.AtRandom(),
        seed=0,
    )
    options = {"learning_rate": 0.05, "batch_size": 40, "progress": False, "compile": False}
    vae.fit(x, epochs=60, seed=0, **options)
    before = {name: value.clone() for name, value in vae.state_dict().items()}
    found = vae.impute(x, num_imputations=12, refit="bootstrap", refit_options=options | {"epochs": 60}, seed=0)
    assert all(torch.equal(value, before[name]) for name, value in vae.state_dict().items())
    again = vae.impute(x, num_imputations=12, refit="bootstrap", refit_options=options | {"epochs": 60}, seed=0)
    assert torch.equal(found.values, again.values)
    fixed = vae.impute(x, num_imputations=200, seed=0)
    gap = x[:, 1].isnan()
    of_draws, of_refits = (one.values[:, gap, 1].mean(1).var() for one in (fixed, found))
    # 20 drawn cells: variance s^2 / 20 of their mean; the bootstrap of 20 observed cells adds as much again.
    # The ratio of variances with 11 and 199 degrees of freedom is above 1.05 in 92 % of seeds; this one is kept.
    assert of_refits > 1.05 * of_draws


REFITS: dict[str, tuple[dict[str, Any], str]] = {
    "unknown": ({"refit": "jackknife", "refit_options": {"epochs": 1}}, "refit must be 'bootstrap' or None"),
    "no options": (
        {"refit": "bootstrap"},
        "refit_options must be arguments of fit with the number of epochs; got None",
    ),
    "no epochs": ({"refit": "bootstrap", "refit_options": {"batch_size": 5}}, "with the number of epochs"),
    "no refit": ({"refit_options": {"epochs": 1}}, "refit_options must be left out without refit="),
    "one guess": (
        {"refit": "bootstrap", "refit_options": {"epochs": 1}, "single": "mean"},
        "refit must be left out with single=",
    ),
}


@pytest.mark.parametrize("name", REFITS)
def test_wrong_arguments_of_refits_are_refused(name: str) -> None:
    options, match = REFITS[name]
    with pytest.raises(ValueError, match=match):
        plain(missing=missing.AtRandom()).impute(X, **options)


def test_a_table_of_real_columns_can_have_a_mechanism() -> None:
    frame = pd.DataFrame(X.numpy(), columns=list("abc"))
    frame["a"] = frame["a"].round(1)
    kinds = {"a": "real", "b": "real", "c": "real"}
    vae = pv.VAE.for_table(pv.Table(frame, kinds=kinds), missing=missing.NotAtRandom(), seed=0)
    vae.fit(frame, elbo=pv.elbos.IWAE(num_particles=2), epochs=2, seed=0, progress=False)
    assert not vae.impute(frame, num_imputations=1, seed=0)[0].isna().any().any()
    assert vae.likelihood(torch.zeros(1, *vae.likelihood.output_shape, requires_grad=True)).rsample().requires_grad
