"""The estimators of `pv.sklearn`: scikit-learn's own checks, closed forms, and what users may pass."""

from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
import pyro.distributions as dist
import pytest
import scipy.sparse
import torch
from sklearn.base import clone
from sklearn.compose import make_column_transformer
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

import pyro_vae as pv
from pyro_vae.sklearn import DensityEstimator, Imputer, LatentTransformer

MONTE_CARLO = "Scores are Monte Carlo estimates, and the noise of a row depends on its place among the rows."
EXPECTED = {
    "DensityEstimator": {
        "check_methods_sample_order_invariance": MONTE_CARLO,
        "check_methods_subset_invariance": MONTE_CARLO,
        "check_classifier_data_not_an_array": "Whole numbers are counts in a frame and real numbers in an array.",
    }
}
CHECKED = [
    LatentTransformer(2, epochs=2),
    Imputer(2, epochs=2, num_candidates=30),
    DensityEstimator(2, epochs=20, num_particles=50),
]
ALL = [LatentTransformer, Imputer, DensityEstimator]
QUICK: dict[str, Any] = {"epochs": 3, "random_state": 0}
DRAWS = np.random.default_rng(0)
X = DRAWS.normal(size=(40, 4))
GAPS = np.where(DRAWS.random(X.shape) < 0.2, np.nan, X)
CONSTANT = np.where(np.arange(4) == 2, 7.0, X)
FRAME = pd.DataFrame(
    {
        "age": DRAWS.normal(50, 10, 60),
        "sex": DRAWS.choice(["f", "m"], 60),
        "visits": DRAWS.poisson(3, 60),
        "group": pd.Categorical(DRAWS.choice(["a", "b", "c"], 60)),
        "site": "north",
    },
    index=range(100, 160),
)
INCOMPLETE = FRAME.mask(DRAWS.random(FRAME.shape) < 0.2)


@parametrize_with_checks(CHECKED, expected_failed_checks=lambda estimator: EXPECTED.get(type(estimator).__name__, {}))
@pytest.mark.filterwarnings("ignore")
def test_scikit_learns_checks(estimator: Any, check: Callable[[Any], None]) -> None:
    check(estimator)


def factor_data(rows: int = 500) -> np.ndarray:
    draws = np.random.default_rng(1)
    loadings = np.array([[2.0, 0.0], [1.5, 0.5], [0.0, 2.0], [0.5, -1.0], [1.0, 1.0]])
    return draws.normal(size=(rows, 2)) @ loadings.T + 0.7 * draws.normal(size=(rows, 5)) + 3.0


LINEAR: dict[str, Any] = {
    "latent_dim": 2,
    "likelihood": pv.likelihoods.Normal(5, scale="shared"),
    "decoder": pv.nets.MLP(()),
    "epochs": 150,
    "random_state": 0,
}


def fitted_gaussian(vae: pv.VAE) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Loadings, mean and noise variances of an affine decoder, and the covariance matrix of x."""
    with torch.no_grad():
        points = vae.decode(torch.cat([torch.zeros(1, 2), torch.eye(2)]))
        mean = points.mean[0].numpy()
        loadings = (points.mean[1:] - points.mean[0]).T.numpy()
        noise = points.variance[0].numpy()
    return loadings, mean, noise, loadings @ loadings.T + np.diag(noise)


def test_transform_is_the_posterior_mean_and_score_the_log_density_of_a_linear_model() -> None:
    x = factor_data()
    latents = LatentTransformer(**LINEAR, encoder=pv.nets.MLP(())).fit(x)
    loadings, mean, noise, covariance = fitted_gaussian(latents.vae_)
    precision = np.eye(2) + loadings.T / noise @ loadings
    exact = (x - mean) @ np.linalg.solve(precision, loadings.T / noise).T
    assert np.sqrt(np.mean((latents.transform(x) - exact) ** 2)) < 0.05 * exact.std()
    density = torch.distributions.MultivariateNormal(torch.from_numpy(mean), torch.from_numpy(covariance))
    exact_score = float(density.log_prob(torch.from_numpy(x)).mean())
    found = latents.vae_.log_likelihood(x, num_particles=200, seed=0).mean()
    assert latents.score(x) == pytest.approx(exact_score, abs=5 * found.monte_carlo_error + 1e-3)
    assert PCA(2).fit(x).score(x) - 0.05 < latents.score(x) < PCA(2).fit(x).score(x) + 0.01  # maximum likelihood
    back = latents.inverse_transform(exact)
    np.testing.assert_allclose(back, exact @ loadings.T + mean, rtol=1e-6)


def test_imputations_have_the_conditional_mean_and_spread_of_a_linear_model() -> None:
    x = factor_data()
    gone = np.random.default_rng(2).random(x.shape) < 0.25
    gaps = np.where(gone, np.nan, x)
    imputer = Imputer(**LINEAR, num_candidates=500).fit(gaps)
    guess = imputer.transform(gaps)
    drawn = imputer.set_params(sample_posterior=True).transform(gaps)
    _, mean, _, covariance = fitted_gaussian(imputer.vae_)
    expected, deviation = x.copy(), np.ones_like(x)
    for row, missing in enumerate(gone):
        if missing.any():
            seen = ~missing
            weights = covariance[np.ix_(missing, seen)] @ np.linalg.inv(covariance[np.ix_(seen, seen)])
            expected[row, missing] = mean[missing] + weights @ (x[row, seen] - mean[seen])
            left = covariance[np.ix_(missing, missing)] - weights @ covariance[np.ix_(seen, missing)]
            deviation[row, missing] = np.sqrt(np.diag(left))
    assert np.array_equal(guess[~gone], x[~gone]) and np.array_equal(drawn[~gone], x[~gone])
    assert np.sqrt(np.mean(((guess - expected) / deviation)[gone] ** 2)) < 0.15
    z = ((drawn - expected) / deviation)[gone]
    assert abs(z.mean()) < 5 / np.sqrt(len(z)) and abs(z.var() - 1) < 5 * np.sqrt(2 / len(z)) + 0.05


def test_outliers_are_the_rows_of_low_density() -> None:
    x = factor_data()
    far = np.array([3.0, -3.0, 3.0, 3.0, 9.0])
    density = DensityEstimator(**LINEAR, contamination=0.05).fit(x)
    assert (density.predict(x) == -1).sum() == 25
    assert np.array_equal(density.fit_predict(x), density.predict(x))
    assert density.offset_ == pytest.approx(np.percentile(density.score_samples(x), 5))
    np.testing.assert_allclose(density.decision_function(x), density.score_samples(x) - density.offset_)
    assert density.score(x) == pytest.approx(density.score_samples(x).mean())
    assert (density.predict(x.mean(0) + far * np.ones((3, 1))) == -1).all()
    _, mean, _, covariance = fitted_gaussian(density.vae_)
    distance = ((x - mean) @ np.linalg.inv(covariance) * (x - mean)).sum(1)
    assert np.corrcoef(density.score_samples(x), -distance)[0, 1] > 0.999


def test_the_defaults_train_small_data_well() -> None:
    x = factor_data(700)
    train, test = x[:300], x[300:]
    assert LatentTransformer(2, random_state=0).fit(train).score(test) > PCA(2).fit(train).score(test) - 0.1


@pytest.mark.parametrize(
    ("rows", "epochs"), [(2, 1000), (128, 1000), (300, 334), (1000, 125), (5000, 50), (200_000, 10)]
)
def test_the_number_of_epochs_and_the_decoder_follow_from_the_number_of_rows(rows: int, epochs: int) -> None:
    from pyro_vae.sklearn.making import fit_options, make_parts

    given = LatentTransformer().get_params()
    assert fit_options(given, rows)["epochs"] == epochs
    assert make_parts(given, None, 4, rows)["decoder"].hidden == ((64,) if rows >= 1000 else ())


@pytest.mark.parametrize("kind", ALL)
def test_an_integer_repeats_results_and_no_global_state_of_torch_changes(kind: Any) -> None:
    before = torch.get_rng_state()
    results = []
    for seed in (0, 0, 1):
        estimator = kind(epochs=3, random_state=seed).fit(GAPS)
        results.append(estimator.predict(GAPS) if kind is DensityEstimator else estimator.transform(GAPS))
        if hasattr(estimator, "score"):
            assert estimator.score(GAPS) == estimator.score(GAPS)
    assert torch.equal(before, torch.get_rng_state())
    assert np.array_equal(results[0], results[1])
    assert kind is DensityEstimator or not np.array_equal(results[0], results[2])


def test_a_random_state_moves_on_and_none_is_that_of_numpy() -> None:
    state = np.random.RandomState(0)
    first, second = (LatentTransformer(epochs=1, random_state=state).fit_transform(X) for _ in range(2))
    assert not np.array_equal(first, second)
    np.random.seed(3)
    first = LatentTransformer(epochs=1).fit_transform(X)
    np.random.seed(3)
    assert np.array_equal(first, LatentTransformer(epochs=1).fit_transform(X))


def test_drawn_cells_repeat_for_an_integer_and_change_with_another() -> None:
    imputer = Imputer(sample_posterior=True, **QUICK).fit(GAPS)
    first = imputer.transform(GAPS)
    assert np.array_equal(first, imputer.transform(GAPS))
    assert not np.array_equal(first, imputer.set_params(random_state=5).transform(GAPS))


def test_parts_are_copied_and_a_clone_trains_like_the_original() -> None:
    parts = {
        "likelihood": pv.likelihoods.Normal(4),
        "prior": pv.priors.Normal(2, learn=True),
        "guide": pv.guides.MultivariateNormal(),
        "encoder": torch.nn.Sequential(torch.nn.Linear(4, 5)),
        "decoder": torch.nn.Linear(2, 4),
        "elbo": pv.elbos.IWAE(num_particles=3),
        "learning_rate": pv.schedules.Cosine(1e-2, 1e-4, epochs=3),
    }
    modules = [part for part in parts.values() if isinstance(part, torch.nn.Module)]
    before = [{k: v.clone() for k, v in module.state_dict().items()} for module in modules]
    original = LatentTransformer(**parts, **QUICK)
    first = original.fit_transform(X)
    assert all(original.get_params()[name] is part for name, part in parts.items())
    for module, state in zip(modules, before, strict=True):
        assert all(torch.equal(state[k], v) for k, v in module.state_dict().items())
    assert np.array_equal(original.fit_transform(X), first)  # a second fit starts anew
    assert np.array_equal(clone(original).fit_transform(X), first)


def frames(frame: pd.DataFrame = INCOMPLETE) -> list[Any]:
    """The frame in each library."""
    polars, pyarrow = pytest.importorskip("polars"), pytest.importorskip("pyarrow")
    return [frame, polars.from_pandas(frame), pyarrow.Table.from_pandas(frame, preserve_index=False)]


@pytest.mark.parametrize("which", [0, 1, 2])
def test_frames_of_every_library_come_back_as_such(which: int) -> None:
    frame = frames()[which]
    imputer = Imputer(**QUICK, add_indicator=True)
    done = imputer.fit_transform(frame)
    assert type(done) is type(frame)
    table = done if which == 0 else done.to_pandas()
    names = [f"missingindicator_{name}" for name in INCOMPLETE]
    assert list(table.columns) == list(imputer.get_feature_names_out()) == [*INCOMPLETE, *names]
    assert not table.isna().any().any() and (table["site"] == "north").all()
    seen = INCOMPLETE.notna().to_numpy()
    assert np.array_equal(table[names].to_numpy(bool), ~seen)
    assert np.array_equal(table[list(INCOMPLETE)].to_numpy(object)[seen], INCOMPLETE.to_numpy(object)[seen])
    latents = LatentTransformer(2, **QUICK).fit(frame)
    drawn, back = latents.sample(7), latents.inverse_transform(latents.transform(frame))
    assert type(drawn) is type(back) is type(frame) and len(drawn) == 7 and len(back) == 60
    if which == 0:
        assert table.index.equals(INCOMPLETE.index)
        assert back.dtypes.equals(INCOMPLETE.dtypes) and set(back["group"]) <= {"a", "b", "c"}
    flagged = DensityEstimator(2, **QUICK).fit(frame).predict(frame)
    assert set(flagged) == {-1, 1}


def test_set_output_gives_frames_of_pandas_and_polars() -> None:
    polars = pytest.importorskip("polars")
    for wanted, kind in (("pandas", pd.DataFrame), ("polars", polars.DataFrame)):
        latents = LatentTransformer(2, **QUICK).set_output(transform=wanted).fit_transform(FRAME)
        assert isinstance(latents, kind) and list(latents.columns) == ["latent0", "latent1"]
        assert wanted != "pandas" or latents.index.equals(FRAME.index)
        for frame in frames():
            done = Imputer(**QUICK).set_output(transform=wanted).fit_transform(frame)
            assert isinstance(done, kind) and list(done.columns) == list(FRAME)
            assert str(done["age"].dtype).lower() == "float64"
        done = Imputer(**QUICK).set_output(transform=wanted).fit_transform(GAPS)
        assert isinstance(done, kind) and list(done.columns) == ["x0", "x1", "x2", "x3"]


def test_an_array_is_read_by_the_columns_of_the_frame_in_fit() -> None:
    frame = pd.DataFrame({"a": X[:, 0], "code": np.where(X[:, 1] > 0, 3, 7), "same": 2.0, "n": np.arange(40) % 5})
    incomplete = frame.mask(np.random.default_rng(0).random(frame.shape) < 0.2)
    imputer = Imputer(**QUICK, add_indicator=True).fit(incomplete)
    with pytest.warns(UserWarning, match="does not have valid feature names"):
        done = imputer.transform(incomplete.to_numpy())
    np.testing.assert_allclose(done, imputer.transform(incomplete).to_numpy(float))


@pytest.mark.parametrize("which", [0, 1, 2])
def test_columns_of_a_frame_may_be_covariates(which: int) -> None:
    names = ["age", "group"]
    frame = frames(FRAME)[which]
    latents = LatentTransformer(2, **QUICK, covariates=names).fit(frame)
    fields = pv.Table(FRAME, covariates=names).fields
    assert latents.vae_.covariates.names == names and latents.vae_.table_schema.names == ["sex", "visits"]
    codes = latents.transform(frame)
    np.testing.assert_allclose(codes, latents.vae_.encode(pv.Table(FRAME, covariates=names)).mean.numpy())
    np.testing.assert_array_equal(latents.score(frame), latents._log_density(frame).mean())
    back = latents.inverse_transform(codes, frame)
    mean = latents.vae_.decode(codes, **fields).mean
    np.testing.assert_allclose(np.asarray(back["visits"], float), mean[:, 1], atol=0.51)  # of whole numbers
    for column in names:
        assert list(map(str, back[column].to_numpy())) == list(map(str, FRAME[column]))
    drawn = latents.sample(3, frame[:3])
    assert len(drawn) == 3 and type(drawn) is type(frame)


def test_covariates_stay_and_help_where_cells_are_filled_in() -> None:
    frame = pd.DataFrame({"dose": X[:, 0], "code": np.arange(40) % 2, "n": 5 * X[:, 0] + X[:, 1], "m": X[:, 2]})
    gaps = frame.copy()
    gaps.loc[::3, "n"] = None
    imputer = Imputer(2, epochs=300, random_state=0, covariates=["dose", "code"]).fit(gaps)
    done = imputer.transform(gaps)
    pd.testing.assert_frame_equal(done[["dose", "code", "m"]], frame[["dose", "code", "m"]])
    assert np.corrcoef(done["n"][::3], frame["n"][::3])[0, 1] > 0.9, "n without dose is noise"
    with pytest.warns(UserWarning, match="does not have valid feature names"):
        array = imputer.transform(gaps.to_numpy(float))
    np.testing.assert_allclose(array, done.to_numpy(float))


def test_missing_cells_may_have_a_number_of_their_own() -> None:
    marked = np.where(np.isnan(GAPS), -99, GAPS)
    found = Imputer(missing_values=-99, **QUICK).fit_transform(marked)
    assert np.array_equal(found, Imputer(**QUICK).fit_transform(GAPS))
    assert np.array_equal(Imputer(**QUICK).fit(X).transform(GAPS)[~np.isnan(GAPS)], GAPS[~np.isnan(GAPS)])


def test_constant_columns_of_an_array_are_left_out_and_come_back() -> None:
    latents = LatentTransformer(2, **QUICK).fit(CONSTANT)
    assert latents.vae_.likelihood.event_shape == (3,)
    assert (latents.inverse_transform(latents.transform(CONSTANT))[:, 2] == 7).all()
    assert (latents.sample(3)[:, 2] == 7).all() and np.isfinite(latents.score(CONSTANT))
    with pytest.warns(UserWarning, match="40 of 40 rows have another value in a column that was constant"):
        assert latents.score(X) == -np.inf
    gaps = CONSTANT.copy()
    gaps[0, 2] = np.nan
    assert Imputer(**QUICK).fit_transform(gaps)[0, 2] == 7
    density = DensityEstimator(**QUICK).fit(CONSTANT)
    with pytest.warns(UserWarning, match="minus infinity"):
        assert (density.predict(X) == -1).all()


@pytest.mark.parametrize(
    ("parts", "rows"),
    [
        ({"guide": pv.guides.Flow(hidden=(6,), context_dim=2)}, X),
        ({"guide": pv.guides.Mixture(2)}, X),
        ({"prior": pv.priors.LogisticNormal(3), "guide": pv.guides.LogisticNormal()}, X),
        ({"prior": pv.priors.PowerSpherical(3), "guide": pv.guides.PowerSpherical()}, X),
        ({"prior": pv.priors.Mixture, "latent_dim": 3}, X),
        ({"prior": dist.Laplace(torch.zeros(3), 1.0).to_event(1)}, X),
        ({"likelihood": pv.likelihoods.Poisson}, np.abs(X).round()),
        ({"likelihood": pv.likelihoods.Categorical(4, 9)}, np.abs(X).round()),
        ({"likelihood": pv.likelihoods.StudentT(4, df=1.0)}, X),
        ({"likelihood": pv.likelihoods.Normal((1, 2, 2)), "encoder": pv.nets.Conv(channels=(2,), hidden=())}, X),
    ],
    ids=lambda value: ", ".join(value) if isinstance(value, dict) else "",
)
def test_all_parts_of_a_vae_can_be_chosen(parts: dict[str, Any], rows: np.ndarray) -> None:
    latents = LatentTransformer(**parts, **QUICK).fit(rows)
    z = latents.transform(rows)
    assert z.shape == (40, latents.vae_.prior.latent_dim) and np.isfinite(z).all()
    assert np.array_equal(z, latents.transform(rows))
    back = latents.inverse_transform(z)
    assert back.shape == latents.sample(40).shape == rows.shape and np.isfinite(back).all()
    assert np.isfinite(latents.score(rows))


def test_further_options_of_fit_are_passed_on_and_validation_rows_are_read_as_x() -> None:
    options = {"valid": CONSTANT[:10], "patience": 1}
    latents = LatentTransformer(epochs=5, fit_options=options, random_state=0).fit(CONSTANT)
    assert "valid_bound" in latents.vae_.history.rows[0]
    options = {"valid": INCOMPLETE[:10]}
    assert "valid_bound" in LatentTransformer(epochs=2, fit_options=options).fit(INCOMPLETE).vae_.history.rows[0]


def test_float32_stays_float32() -> None:
    rows = GAPS.astype(np.float32)
    latents = LatentTransformer(**QUICK).fit(rows)
    assert latents.transform(rows).dtype == Imputer(**QUICK).fit_transform(rows).dtype == np.float32
    assert latents.vae_.like.dtype == torch.float32
    assert LatentTransformer(**QUICK).fit(X).vae_.like.dtype == torch.float64


def fit(kind: Any, data: Any, **parameters: Any) -> Callable[[], Any]:
    return lambda: kind(**(QUICK | parameters)).fit(data)


def then(kind: Any, data: Any, new: Any, **parameters: Any) -> Callable[[], Any]:
    return lambda: kind(**(QUICK | parameters)).fit(data).transform(new)


NUMBERS = pd.DataFrame(X, columns=list("abcd"))
REFUSED: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "sparse": (fit(LatentTransformer, scipy.sparse.csr_matrix(X)), TypeError, "Sparse data was passed"),
    "text": (fit(LatentTransformer, np.array([["a"], ["b"]])), ValueError, "could not convert string"),
    "infinity": (fit(LatentTransformer, np.where(X > 2, np.inf, X)), ValueError, "infinity"),
    "one row": (fit(LatentTransformer, X[:1]), ValueError, "minimum of 2"),
    "one row of a frame": (fit(LatentTransformer, NUMBERS[:1]), ValueError, "at least 2 rows; got n_samples = 1"),
    "a series": (fit(LatentTransformer, NUMBERS["a"]), ValueError, "Expected a 2-dimensional"),
    "only constants": (fit(LatentTransformer, np.ones((5, 2))), ValueError, "must have a column that varies"),
    "an empty column": (
        fit(Imputer, np.where(np.arange(4) == 1, np.nan, X)),
        ValueError,
        "not missing in each column; got none in column 1",
    ),
    "gaps later": (then(LatentTransformer, X, GAPS), ValueError, "no missing cells for this model.*AtRandom"),
    "order of columns": (then(LatentTransformer, NUMBERS, NUMBERS[list("bacd")]), ValueError, "in the same order"),
    "fewer columns": (then(LatentTransformer, X, X[:, :2]), ValueError, "expecting 4 features"),
    "another level": (then(LatentTransformer, FRAME, FRAME.assign(group="z")), ValueError, "one of the levels 'a'"),
    "another constant": (then(LatentTransformer, FRAME, FRAME.assign(site="s")), ValueError, "be 'north' in all"),
    "text for a likelihood": (fit(LatentTransformer, X, likelihood="poisson"), TypeError, "part of pv.likelihoods"),
    "another size": (fit(LatentTransformer, X, likelihood=pv.likelihoods.Normal(3)), ValueError, "as many cells as X"),
    "text in columns of a likelihood": (
        fit(LatentTransformer, FRAME, likelihood=pv.likelihoods.Normal),
        ValueError,
        "could not convert",
    ),
    "reals for counts": (fit(LatentTransformer, X, likelihood=pv.likelihoods.Poisson), ValueError, "Give counts"),
    "prior and size": (fit(LatentTransformer, X, latent_dim=2, prior=pv.priors.Normal(2)), ValueError, "left out with"),
    "latents": (fit(LatentTransformer, X, latent_dim=0), ValueError, "latent_dim must be a positive integer"),
    "epochs": (fit(LatentTransformer, X, epochs=0), ValueError, "epochs must be a positive integer"),
    "batches": (fit(LatentTransformer, X, batch_size=-1), ValueError, "batch_size must be a positive integer"),
    "kinds of an array": (fit(LatentTransformer, X, kinds={"a": "real"}), ValueError, "left out with an array"),
    "kinds and likelihood": (
        fit(LatentTransformer, NUMBERS, kinds={"a": "real"}, likelihood=pv.likelihoods.Normal),
        ValueError,
        "left out with a likelihood",
    ),
    "kinds of a table": (fit(LatentTransformer, pv.Table(FRAME), kinds={"age": "real"}), ValueError, "a pv.Table"),
    "covariates of an array": (fit(LatentTransformer, X, covariates=["a"]), ValueError, "left out with an array"),
    "covariates of a table": (
        fit(Imputer, pv.Table(FRAME), covariates=["age"]),
        ValueError,
        "left out with a pv.Table",
    ),
    "an unknown covariate": (fit(DensityEstimator, FRAME, covariates=["b"]), ValueError, "name columns of the frame"),
    "gaps of a covariate": (
        fit(Imputer, INCOMPLETE, covariates=["age"]),
        ValueError,
        "no missing cells as a covariate",
    ),
    "no covariates for draws": (
        lambda: LatentTransformer(**QUICK, covariates=["age"]).fit(FRAME).sample(3),
        ValueError,
        "must be a frame with the columns age; got None",
    ),
    "covariates without a column": (
        lambda: LatentTransformer(**QUICK, covariates=["age"]).fit(FRAME).sample(3, FRAME[["sex"]][:3]),
        ValueError,
        "must have the column 'age'; got sex",
    ),
    "covariates for a model without": (
        lambda: LatentTransformer(**QUICK).fit(FRAME).sample(3, FRAME[:3]),
        ValueError,
        "must be None for a model without any; got DataFrame",
    ),
    "options": (fit(LatentTransformer, X, fit_options={"epoch": 3}), ValueError, "got 'epoch'. Correct it"),
    "own options": (fit(LatentTransformer, X, fit_options={"epochs": 3}), ValueError, "to the estimator itself"),
    "options in a list": (fit(LatentTransformer, X, fit_options=["epochs"]), TypeError, "must be a dictionary"),
    "contamination": (fit(DensityEstimator, X, contamination="auto"), ValueError, "above 0 and at most 0.5"),
    "particles": (fit(DensityEstimator, X, num_particles=0), ValueError, "num_particles must be a positive integer"),
    "guess": (fit(Imputer, X, single="most_frequent"), ValueError, "one of mean, median, mode"),
    "draws": (fit(Imputer, X, sample_posterior="yes"), TypeError, "sample_posterior must be True or False"),
    "marker": (fit(Imputer, X, missing_values=None), ValueError, "a number or NaN"),
    "marker of a frame": (fit(Imputer, FRAME, missing_values=-1), ValueError, "must be NaN for a frame"),
    "two markers": (fit(Imputer, GAPS, missing_values=-1), ValueError, "must have no NaN where"),
    "names": (
        lambda: Imputer(**QUICK).fit(X).get_feature_names_out(["a"]),
        ValueError,
        "input_features must be 4 names",
    ),
    "other names": (
        lambda: Imputer(**QUICK).fit(FRAME).get_feature_names_out(list("abcde")),
        ValueError,
        "the names of the columns in fit, .'age'",
    ),
    "latents of another size": (
        lambda: LatentTransformer(3, **QUICK).fit(X).inverse_transform(X),
        ValueError,
        r"must have shape \(..., 3\)",
    ),
    "before fit": (lambda: DensityEstimator().predict(X), NotFittedError, "not fitted yet"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_is_named(name: str) -> None:
    call, kind, message = REFUSED[name]
    with pytest.raises(kind, match=message):
        call()


@pytest.mark.filterwarnings("ignore:X does not have valid feature names")
def test_an_array_for_columns_that_hold_no_numbers_is_refused() -> None:
    dated = LatentTransformer(**QUICK).fit(NUMBERS.assign(when=pd.date_range("2020", periods=40)))
    with pytest.raises(TypeError, match="X must be a frame, as in fit; got an array. column 'when'"):
        dated.transform(np.ones((3, 5)))
    with pytest.raises(ValueError, match="one of the levels 'f', 'm'; got 1.0"):
        LatentTransformer(**QUICK).fit(FRAME[["age", "sex"]]).transform(np.ones((3, 2)))


def test_a_fit_that_fails_leaves_no_model_behind() -> None:
    latents = LatentTransformer(**QUICK).fit(X)
    with pytest.raises(ValueError, match="varies"):
        latents.fit(np.ones((5, 4)))
    with pytest.raises(NotFittedError):
        latents.transform(X)


def test_tables_are_taken_with_their_kinds() -> None:
    table = pv.Table(FRAME, kinds={"visits": "real"})
    latents = LatentTransformer(2, **QUICK).fit(table)
    assert latents.vae_.table_schema == table.schema
    assert np.array_equal(latents.transform(table), latents.transform(FRAME))
    other = LatentTransformer(2, kinds={"visits": "real"}, **QUICK).fit(FRAME)
    assert np.array_equal(other.transform(FRAME), latents.transform(FRAME))


def test_columns_that_are_left_out_are_named_and_come_back() -> None:
    named = INCOMPLETE.assign(name=[f"p{i}" for i in range(60)])
    with pytest.warns(UserWarning, match="left out: 'name'"):
        done = Imputer(**QUICK).fit_transform(named)
    assert done["name"].equals(named["name"])


def test_a_grid_search_over_latents_and_likelihoods_in_a_pipeline_on_digits() -> None:
    x, y = (part[:300] for part in load_digits(return_X_y=True))
    steps = [("scale", StandardScaler()), ("latents", LatentTransformer(epochs=10, random_state=0))]
    pipeline = Pipeline([*steps, ("classify", LogisticRegression(max_iter=1000))])
    grid = {"latents__latent_dim": [2, 8], "latents__likelihood": [None, pv.likelihoods.Normal]}
    search = GridSearchCV(pipeline, grid, cv=3, error_score="raise").fit(x, y)
    assert search.best_params_["latents__latent_dim"] == 8 and search.best_score_ > 0.4
    assert search.predict(x).shape == (300,)


def test_a_grid_search_on_an_incomplete_table() -> None:
    latents = LatentTransformer(epochs=3, missing=pv.missing.AtRandom(), random_state=0)
    grid = {"latent_dim": [1, 2], "prior": [pv.priors.Normal, pv.priors.Mixture]}
    search = GridSearchCV(latents, grid, cv=3, error_score="raise").fit(INCOMPLETE)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    y = (FRAME["age"] > 50).to_numpy()
    pipeline = Pipeline([("latents", latents), ("classify", LogisticRegression())])
    grid = {"latents__latent_dim": [1, 2], "latents__kinds": [None, {"visits": "real"}]}
    assert GridSearchCV(pipeline, grid, cv=3, error_score="raise").fit(INCOMPLETE, y).best_score_ > 0.3


def test_columns_of_a_frame_may_go_through_several_estimators() -> None:
    both = make_column_transformer(
        (Imputer(**QUICK), ["age", "visits"]), (LatentTransformer(2, **QUICK), ["sex", "group", "visits"])
    ).set_output(transform="pandas")
    found = both.fit_transform(INCOMPLETE)
    assert found.shape == (60, 4) and found.index.equals(FRAME.index) and not found.isna().any().any()
    assert list(found)[2:] == ["latenttransformer__latent0", "latenttransformer__latent1"]


def test_threads_wait_for_each_other() -> None:
    expected = cross_val_score(LatentTransformer(epochs=20, random_state=0), X, cv=3)
    with joblib.parallel_backend("threading"):
        found = cross_val_score(LatentTransformer(epochs=20, random_state=0), X, cv=3, n_jobs=3)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("kind", ALL)
def test_joblib_writes_and_reads_a_fitted_estimator(kind: Any) -> None:
    fitted, file = kind(**QUICK).fit(INCOMPLETE), io.BytesIO()
    joblib.dump(fitted, file)
    file.seek(0)
    read = joblib.load(file)
    method = "score_samples" if kind is DensityEstimator else "transform"
    first, second = (getattr(one, method)(INCOMPLETE) for one in (fitted, read))
    assert first.equals(second) if kind is Imputer else np.array_equal(first, second)


def test_the_model_inside_has_all_methods(tmp_path: Path) -> None:
    imputer = Imputer(**QUICK).fit(INCOMPLETE)
    assert isinstance(imputer.vae_, pv.VAE) and len(imputer.vae_.impute(INCOMPLETE, num_imputations=3, seed=0)) == 3
    imputer.vae_.save(tmp_path / "model")
    assert torch.equal(
        pv.load(tmp_path / "model").encode(INCOMPLETE).mean.double(), imputer.vae_.encode(INCOMPLETE).mean
    )


@pytest.mark.slow
def test_other_processes_give_the_same_numbers(tmp_path: Path) -> None:
    latents = LatentTransformer(2, **QUICK)
    alone = cross_val_score(latents, INCOMPLETE, cv=2)
    np.testing.assert_allclose(cross_val_score(latents, INCOMPLETE, cv=2, n_jobs=2), alone)
    joblib.dump((latents.fit(X), X), tmp_path / "fitted")
    code = f"import joblib; e, x = joblib.load({str(tmp_path / 'fitted')!r}); print(e.transform(x).sum())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(done.stdout) == pytest.approx(latents.transform(X).sum(), rel=1e-9)
