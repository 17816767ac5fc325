"""VAEs with labels that are known in some rows: sums over labels, classification, files, draws, and wrong input."""

from __future__ import annotations

import math
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

import pyro_vae as pv

C, CELLS = 3, 4
SMALL = pv.nets.MLP(hidden=(8,))
LABEL = torch.tensor([0, 1, 2, -1, -1, 1])


def data(rows: int = 6, seed: int = 0) -> Tensor:
    return torch.bernoulli(torch.full((rows, CELLS), 0.4), generator=torch.Generator().manual_seed(seed))


def make(**options: object) -> pv.SemiSupervisedVAE:
    parts = {"likelihood": pv.likelihoods.Bernoulli(CELLS), "prior": pv.priors.Normal(1), "labels": C, "seed": 0}
    nets = {"encoder": SMALL, "decoder": SMALL, "classifier": SMALL}
    return pv.SemiSupervisedVAE(**(parts | nets | options)).double()


@pytest.fixture(scope="module")
def fitted() -> pv.SemiSupervisedVAE:
    vae = make()
    vae.fit(data(), fields={"label": LABEL}, epochs=30, learning_rate=0.02, seed=0, compile=False, progress=False)
    return vae


def log_joint(vae: pv.SemiSupervisedVAE, x: Tensor) -> Tensor:
    """log p(x, y) of every label, (B, C), by quadrature over z."""
    z = torch.linspace(-6, 6, 2001, dtype=torch.float64)
    found = []
    with torch.no_grad():
        for y in range(C):
            one_hot = torch.nn.functional.one_hot(torch.full((len(z),), y), C).double()
            outputs = vae.decoder(torch.cat([z.unsqueeze(1), one_hot], 1))
            p = vae.likelihood(outputs)
            given = torch.stack([p.log_prob(row.double()) for row in x])  # (B, Z)
            prior = torch.distributions.Normal(0.0, 1.0).log_prob(z)
            found.append(torch.logsumexp(given + prior, 1) + math.log(12 / 2000) - math.log(C))
    return torch.stack(found, 1)


def test_log_likelihood_sums_over_the_label(fitted: pv.SemiSupervisedVAE) -> None:
    x = data(5, seed=1)
    joint = log_joint(fitted, x)
    whole = fitted.log_likelihood(x, num_particles=4000, seed=0)
    assert ((whole.estimate - torch.logsumexp(joint, 1)).abs() < 5 * whole.standard_error + 1e-6).all()
    label = torch.tensor([0, 1, 2, 0, 1])
    known = fitted.log_likelihood(x, num_particles=4000, seed=0, label=label)
    assert (
        (known.estimate - joint.gather(1, label.unsqueeze(1)).squeeze(1)).abs() < 5 * known.standard_error + 1e-6
    ).all()


def test_classify_gives_the_classifier_and_the_posterior(fitted: pv.SemiSupervisedVAE) -> None:
    x = data(5, seed=1)
    exact = log_joint(fitted, x).softmax(1)
    posterior = fitted.classify(x, method="posterior", num_particles=4000, seed=0)
    np.testing.assert_allclose(posterior, exact, atol=0.02)
    with torch.no_grad():
        expected = fitted.classifier(fitted.likelihood.features(x.double())).softmax(-1)
    np.testing.assert_allclose(fitted.classify(x), expected, rtol=1e-6)


def test_encode_is_the_mixture_over_labels(fitted: pv.SemiSupervisedVAE) -> None:
    x, label = data(4, seed=1), torch.tensor([0, 1, 2, -1])
    parts = [fitted.encode(x, label=torch.full((4,), y)).mean for y in range(C)]
    found = fitted.encode(x, label=label)
    assert found.batch_shape == (4,)
    assert found.event_shape == (1,)
    for row, y in enumerate(label.tolist()[:3]):
        np.testing.assert_allclose(found.mean[row], parts[y][row], rtol=1e-6)
    mixed = (fitted.classify(x).unsqueeze(-1) * torch.stack(parts, 1)).sum(1)
    np.testing.assert_allclose(found.mean[3], mixed[3], rtol=1e-6)


def test_draws_are_given_the_label(fitted: pv.SemiSupervisedVAE) -> None:
    assert fitted.sample(7, label=2, seed=0).shape == (7, CELLS)
    assert fitted.simulate(7, fields={"label": 2}, seed=0)["y"].tolist() == [2] * 7
    assert set(fitted.simulate(200, seed=0)["y"].tolist()) == {0, 1, 2}
    mean = fitted.sample(4000, label=1, mean=True, seed=0).mean(0)
    z = torch.randn(20000, 1, generator=torch.Generator().manual_seed(0)).double()
    exact = fitted.decode(z, label=torch.ones(20000).long()).mean.mean(0)
    np.testing.assert_allclose(mean, exact, atol=0.02)


@pytest.mark.parametrize("probabilities", [None, "learned", [0.5, 0.3, 0.2]])
def test_a_saved_model_is_the_same(probabilities: object) -> None:
    vae = make(label_probabilities=probabilities, labels=["a", "b", "c"], classifier_weight=3.0)
    x = data()
    vae.fit(x, fields={"label": ["a", "b", None, "c", "a", -1]}, epochs=2, seed=0, compile=False, progress=False)
    with tempfile.TemporaryDirectory() as folder:
        vae.save(Path(folder) / "vae")
        loaded = pv.load(Path(folder) / "vae")
    assert loaded.labels == ["a", "b", "c"]
    assert loaded.classifier_weight == 3.0
    assert torch.equal(loaded.label_logits, vae.label_logits)
    assert torch.equal(loaded.classify(x), vae.classify(x))
    assert vae.label_logits.requires_grad == (probabilities == "learned")


def test_labels_may_be_absent_in_evaluation_and_nan_where_they_are_unknown(fitted: pv.SemiSupervisedVAE) -> None:
    x = data()
    values = [fitted.elbo(x, seed=0, num_particles=4, **given).bound for given in ({}, {"label": [-1] * 6})]
    np.testing.assert_array_equal(*values)
    label = torch.where(LABEL >= 0, LABEL.double(), torch.nan)
    values = [fitted.elbo(x, seed=0, num_particles=4, label=given).bound for given in (LABEL, label)]
    np.testing.assert_array_equal(*values)


@pytest.mark.parametrize(
    "label",
    [
        ["a", -1, "c"],
        ["a", torch.nan, "c"],
        ["a", None, "c"],
        [0, None, 2],
        pd.Series(["a", None, "c"], dtype="string"),
        pd.Series(["a", None, "c"], dtype="category"),
        pd.Series([0, None, 2], dtype="Int64"),
        torch.tensor([0.0, torch.nan, 2.0]),
    ],
    ids=str,
)
def test_labels_are_names_or_numbers_with_any_mark_of_an_unknown_one(label: object) -> None:
    assert make(labels=["a", "b", "c"]).read_field("label", label).nan_to_num(-1).tolist() == [0, -1, 2]


def test_contrasts_by_the_label_name_it() -> None:
    vae = make(labels=["a", "b", "c"], covariates=pv.Covariates({"arm": "binary"}))
    fields = {"label": LABEL, "arm": [0, 1, 0, 1, 0, 1]}
    vae.fit(data(), fields=fields, epochs=1, seed=0, compile=False, progress=False)
    found = pv.contrast(vae, data(), "arm", (0, 1), by="label", num_samples=4, num_candidates=50, seed=0, **fields)
    assert found.groups == ["unknown", "a", "b", "c"]


@pytest.mark.parametrize(
    ("label", "message"),
    [
        ([0, 1, 2, 3, 0, 0], r"field 'label' must hold integers from 0 to 2, .*; got 3 in row 3"),
        ([0, 1, 2, 0.5, 0, 0], "got 0.5 in row 3"),
        ([0, -2, 2, 0, 0, 0], "got -2 in row 1"),
        ([0, 1], "field 'label' must have one entry per row"),
        ([[0]] * 6, r"field 'label' must have shape \(rows,\)"),
        (["0", "1", "x", None, "2", "0"], "field 'label' must have one of the labels .*; got 'x' in row 2"),
    ],
)
def test_an_impossible_label_is_refused(label: list[object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make().fit(data(), fields={"label": label}, epochs=1, progress=False)


@pytest.mark.parametrize("fields", [{}, {"fields": {"label": [-1] * 6}}], ids=["absent", "all unknown"])
def test_fit_needs_some_labels(fields: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="field 'label' must be known in some rows of the data of fit; got none"):
        make().fit(data(), epochs=1, progress=False, **fields)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"labels": 1}, ValueError, "labels must be at least 2; got 1"),
        ({"labels": ["a", "a"]}, ValueError, "at least two different names"),
        ({"classifier_weight": -1.0}, ValueError, "classifier_weight must be zero or more; got -1"),
        ({"label_probabilities": [0.5, 0.6, 0.1]}, ValueError, "3 positive numbers of sum 1"),
        ({"label_probabilities": "equal"}, ValueError, "label_probabilities must be None, 'learned' or"),
        ({"covariates": pv.Covariates({"label": "real"})}, ValueError, "covariates must not be named 'label'"),
        ({"prior": pv.priors.VampPrior(1, CELLS, 3)}, NotImplementedError, "prior must not be VampPrior with labels"),
    ],
)
def test_impossible_options_are_refused(options: dict[str, object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make(**options)


def test_what_needs_a_label_says_so(fitted: pv.SemiSupervisedVAE) -> None:
    with pytest.raises(ValueError, match="label must be given here; got none"):
        fitted.decode(torch.zeros(2, 1))
    for unknown in ([0, -1], torch.tensor([0.0, torch.nan])):
        with pytest.raises(ValueError, match="field 'label' must be known to decode; got an unknown one in row 1"):
            fitted.decode(torch.zeros(2, 1), label=unknown)
    with pytest.raises(NotImplementedError, match="refined is not built for labels"), fitted.refined():
        pass
    with pytest.raises(ValueError, match="method must be classifier or posterior; got 'net'"):
        fitted.classify(data(), method="net")


def test_labels_stand_beside_covariates_and_missing_cells() -> None:
    x = data()
    x[0, 1] = torch.nan
    vae = make(missing=pv.missing.AtRandom(), covariates=pv.Covariates({"age": "real"}), encoder=None, classifier=None)
    fields = {"label": LABEL, "age": torch.linspace(-1, 1, 6)}
    vae.fit(x, fields=fields, epochs=2, seed=0, compile=False, progress=False)
    found = vae.log_likelihood(x, num_particles=50, seed=0, age=fields["age"])
    assert torch.isfinite(found.estimate).all()
    assert vae.classify(x, age=fields["age"], method="posterior", num_particles=5, seed=0).shape == (6, C)


def test_classification_reports_scores_of_the_probabilities(fitted: pv.SemiSupervisedVAE) -> None:
    x, label = data(40, seed=2), torch.arange(40) % C
    label[::5] = -1
    found = pv.classification(fitted, x, label=label, bins=4)
    known = label >= 0
    p = fitted.classify(x).double()[known]
    right = (p.argmax(1) == label[known]).double()
    assert found.accuracy == pytest.approx((right.mean().item(), (right.std() / len(right) ** 0.5).item()))
    assert found.log_loss[0] == pytest.approx(-p.gather(1, label[known, None]).log().mean().item())
    one_hot = torch.nn.functional.one_hot(label[known], C)
    assert found.brier[0] == pytest.approx((p - one_hot).square().sum(1).mean().item())
    assert found.confusion().sum() == known.sum()
    assert found.confusion().diag().sum() == right.sum()
    confidence, share, _ = found.groups()
    assert len(confidence) == 4
    assert found.calibration_error == pytest.approx(float(((share - confidence).abs()).mean()), abs=1e-12)
    assert "32 rows with a label: accuracy" in str(found)
    assert found.plot().get_xlabel() == "confidence in the guess"


def test_the_calibration_error_of_right_probabilities_is_as_stated() -> None:
    vae = make()
    x = data(400, seed=3)
    label = torch.multinomial(vae.classify(x), 1).squeeze(1)
    found = pv.classification(vae, x, label=label, bins=5)
    mean, deviation = found.calibrated
    assert abs(found.calibration_error - mean) < 4 * deviation


def test_classification_refuses_what_it_cannot_score(fitted: pv.SemiSupervisedVAE) -> None:
    vae = pv.VAE(likelihood=pv.likelihoods.Bernoulli(CELLS), prior=pv.priors.Normal(1), seed=0)
    with pytest.raises(TypeError, match="model must classify rows; got VAE"):
        pv.classification(vae, data())
    with pytest.raises(ValueError, match="field 'label' must be given to be compared"):
        pv.classification(fitted, data())
    with pytest.raises(ValueError, match="must be known in at least 10 rows, the number of bins; got 4"):
        pv.classification(fitted, data(), label=LABEL)


@pytest.mark.slow
def test_rows_without_labels_help_on_the_digits() -> None:
    digits = pv.datasets.load("digits", fields=("label",))
    x, label = (digits.train.x > 8).float(), digits.train.field("label").long()
    known = torch.cat([(label == digit).nonzero().flatten()[:5] for digit in range(10)])
    partly = torch.full_like(label, -1)
    partly[known] = label[known]
    test, accuracy = (digits.test.x > 8).float(), []
    for rows, field in ((x, partly), (x[known], label[known])):
        options = {"labels": 10, "likelihood": pv.likelihoods.Bernoulli((1, 8, 8)), "prior": pv.priors.Normal(6)}
        vae = pv.SemiSupervisedVAE(**options, classifier_weight=20.0, seed=0)
        epochs = 60 if len(rows) > 100 else 400
        vae.fit(rows, fields={"label": field}, epochs=epochs, batch_size=100, seed=0, progress=False)
        accuracy.append((vae.classify(test).argmax(1) == digits.test.field("label")).double().mean().item())
    assert accuracy[0] > accuracy[1] + 0.03, accuracy


def test_a_score_says_whether_labels_are_part_of_it() -> None:
    vae = pv.SemiSupervisedVAE(labels=2, likelihood=pv.likelihoods.Normal(3), prior=pv.priors.Normal(2), seed=0)
    plain = pv.VAE(likelihood=pv.likelihoods.Normal(3), prior=pv.priors.Normal(2), seed=0)
    x = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    said = {"log p(x)": [-1] * 4, "log p(x, label where known)": [0, -1, 1, -1], "log p(x, label)": [0, 1, 1, 0]}
    for what, label in said.items():
        assert str(vae.log_likelihood(x, label=label, num_particles=30, seed=0)).startswith(f"{what} >=")
    assert vae.log_likelihood(x, num_particles=30, seed=0).what == "log p(x)"
    rows = pv.Rows(x, {"label": torch.tensor([0, 1, 1, 0])})
    with pytest.raises(ValueError, match="field 'label' must be read by all models, or left out"):
        pv.compare({"a": vae, "b": plain}, rows, num_particles=30, seed=0)
    pv.compare({"a": vae, "b": plain}, pv.Rows(x), num_particles=30, seed=0)
