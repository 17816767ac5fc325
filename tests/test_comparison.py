"""Models compared on the same rows: differences by hand, against closed forms, and the bias due to guides."""

from __future__ import annotations

import copy
import math
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
from torch import nn

import pyro_vae as pv
from pyro_vae import evaluation
from pyro_vae.criticism import comparison
from pyro_vae.evaluation import UnreliableWarning

X = LinearGaussian().draw(200)


def three() -> dict[str, Any]:
    return {"far": LinearGaussian(seed=5), "wide": LinearGaussian(width=1.4), "near": LinearGaussian(seed=4)}


def test_differences_are_paired_by_row_and_carry_two_errors() -> None:
    models = three()
    result = pv.compare(models, X, num_particles=50, seed=0)
    alone = {name: model.log_likelihood(X, num_particles=50, seed=0) for name, model in models.items()}
    assert result.names == sorted(models, key=lambda name: -float(alone[name].estimate.mean()))
    assert result.names[0] == "wide"
    assert list(result.results) == result.names
    best = alone["wide"]
    for i, name in enumerate(result.names):
        one = alone[name]
        assert torch.equal(result.results[name].estimate, one.estimate)
        assert result.scores[i] == one.mean()
        assert result.bias[i] == pytest.approx(-float(one.standard_error.square().mean()) / 2)
        assert result.unreliable[i] == int(one.unreliable.sum())
        difference = result.differences[i]
        rows = one.estimate - best.estimate
        assert difference.estimate == pytest.approx(float(rows.mean()))
        assert difference.sampling_error == pytest.approx(float(rows.std() / 200**0.5))
        if i:
            squares = one.standard_error.square() + best.standard_error.square()
            assert difference.monte_carlo_error == pytest.approx(float(squares.sum().sqrt()) / 200)
            assert difference.estimate < 0
    assert result.differences[0] == evaluation.Mean(0.0, 0.0, 0.0)
    assert not result.within_bias[0]


def test_differences_are_those_of_the_closed_form() -> None:
    """Guides are exact: there is neither Monte Carlo error nor bias."""
    models = {"a": LinearGaussian(seed=4), "b": LinearGaussian()}
    result = pv.compare(models, X, num_particles=30, seed=0)
    rows = (models["a"].log_evidence(X) - models["b"].log_evidence(X)).detach()
    assert result.names == ["b", "a"]
    assert result.differences[1].estimate == pytest.approx(float(rows.mean()))
    assert result.differences[1].sampling_error == pytest.approx(float(rows.std() / 200**0.5))
    assert result.differences[1].monte_carlo_error < 1e-6
    assert result.within_bias == [False, False]
    assert max(abs(bias) for bias in result.bias) < 1e-9


def test_the_monte_carlo_error_is_not_too_small() -> None:
    """Errors of 60 repeats are as large as stated, or smaller since models share their noise."""
    models = {"a": LinearGaussian(width=1.1, seed=4), "b": LinearGaussian(width=1.1)}
    x = X[:20]
    exact = float((models["a"].log_evidence(x) - models["b"].log_evidence(x)).mean().detach())
    differences = [pv.compare(models, x, num_particles=300, seed=seed).differences[1] for seed in range(60)]
    stated = math.sqrt(np.mean([one.monte_carlo_error**2 for one in differences]))
    found = np.array([one.estimate for one in differences])
    assert abs(found.mean() - exact) < 4.5 * stated / 60**0.5
    assert math.sqrt(np.mean((found - exact) ** 2)) < stated * (1 + 4.5 / math.sqrt(2 * 60))


@pytest.mark.parametrize("width", [1.3, 2.0])
@pytest.mark.parametrize("num_particles", [5, 30])
def test_a_difference_that_is_due_to_the_guide_is_flagged(width: float, num_particles: int) -> None:
    models = {"wide": LinearGaussian(width=width), "exact": LinearGaussian()}
    lower = 0
    for seed in range(10):
        result = pv.compare(models, X, num_particles=num_particles, seed=seed)
        assert result.within_bias == [False, True]
        lower += result.names == ["exact", "wide"]
        assert result.bias[result.names.index("wide")] < -1e-4
        assert abs(result.bias[result.names.index("exact")]) < 1e-9
    assert lower >= 6


def test_a_model_that_is_worse_is_not_flagged() -> None:
    models = {"worse": LinearGaussian(width=1.3, seed=4), "better": LinearGaussian(width=1.3)}
    for seed in range(10):
        result = pv.compare(models, X, num_particles=100, seed=seed)
        assert result.names == ["better", "worse"]
        assert result.within_bias == [False, False]
    few = pv.compare(models, X, num_particles=1, seed=0)  # errors are not known
    assert few.within_bias == [False, True]


def test_a_difference_a_few_times_the_margin_is_not_flagged() -> None:
    better, worse = LinearGaussian(width=1.3), LinearGaussian(width=1.3)
    with torch.no_grad():
        worse.log_scale.add_(0.25)
    result = pv.compare({"worse": worse, "better": better}, X, num_particles=30, seed=0)
    difference = result.differences[1]
    margin = 2 * (difference.monte_carlo_error - min(result.bias))
    assert margin < -difference.estimate < 10 * margin
    assert result.within_bias == [False, False]


def test_one_model_under_two_names_is_a_tie() -> None:
    program = LinearGaussian(width=1.5)
    result = pv.compare({"a": program, "b": program}, X, num_particles=10, seed=0)
    assert result.differences[1].estimate == 0
    assert result.within_bias == [False, True]


def test_all_models_are_scored_by_the_method_asked_for() -> None:
    models = {"a": LinearGaussian(width=2.0), "b": LinearGaussian(seed=4)}
    result = pv.compare(models, X[:10], num_particles=4, method=evaluation.AIS(num_steps=4), seed=0)
    assert {one.method for one in result.results.values()} == {"ais"}


def test_rows_with_a_high_khat_are_counted() -> None:
    models = {"narrow": LinearGaussian(width=0.3), "exact": LinearGaussian()}
    result = pv.compare(models, X, num_particles=200, seed=0)
    count = dict(zip(result.names, result.unreliable, strict=True))
    assert count["narrow"] > 100
    assert count["exact"] == 0


def test_the_table_has_scores_errors_and_notes() -> None:
    result = pv.compare({"exact": LinearGaussian(), "wide one": LinearGaussian(width=1.5)}, X, num_particles=10, seed=0)
    assert result.names == ["exact", "wide one"]
    frame = result.to_pandas()
    assert frame.index.tolist() == result.names
    assert frame.index.name == "model"
    assert frame["elpd"].tolist() == [score.estimate for score in result.scores]
    assert frame["sampling error"].tolist() == [score.sampling_error for score in result.scores]
    known, unknown = frame["Monte Carlo error"]
    assert known == result.scores[0].monte_carlo_error and math.isnan(unknown)  # 10 draws: all rows are flagged
    assert frame["difference"].tolist() == [one.estimate for one in result.differences]
    second = result.differences[1]
    expected = [0.0, math.hypot(second.sampling_error, second.monte_carlo_error)]
    np.testing.assert_allclose(frame["error of difference"], expected)
    assert frame["bias"].tolist() == result.bias
    assert frame["rows of high k-hat"].tolist() == ["0", "-"]  # 10 particles are too few for a k-hat
    assert frame["note"].tolist() == ["", "difference may be due to the guides"]
    head, first, last, foot = str(result).splitlines()
    assert head.split()[:2] == ["model", "elpd"]
    assert first.startswith("exact ") and f">= {result.scores[0].estimate:.3f}" in first
    assert last.startswith("wide one ") and last.endswith("difference may be due to the guides")
    assert foot == "Mean log p(x) in nats per row, 200 rows; differences to the best model, paired by row."


def test_fields_reach_every_model() -> None:
    label = torch.arange(9)
    x = X[:9] + label.unsqueeze(-1)
    models = {"a": Conditional(), "b": Conditional(seed=4)}
    expected = LinearGaussian().log_evidence(X[:9]).detach()
    frame = pd.DataFrame(x.numpy()).assign(label=label.numpy())
    for data, options in (
        (x, {"label": label.numpy()}),
        ((x, label), {"fields": ("x", "label")}),
        (pv.Rows(x, {"label": label}), {"fields": "label"}),
        (frame, {"fields": ("label",)}),
    ):
        result = pv.compare(models, data, num_particles=3, seed=0, **options)
        assert result.names == ["a", "b"]
        np.testing.assert_allclose(result.results["a"].estimate, expected, atol=1e-8)


@pytest.mark.parametrize("seed", [0, None])
def test_models_see_the_same_draw_of_a_random_transform(seed: int | None) -> None:
    program = LinearGaussian()
    rows = pv.Rows(X, transform=lambda x: x + torch.randn_like(x))
    result = pv.compare({"a": program, "b": program}, rows, num_particles=3, seed=seed)
    np.testing.assert_allclose(result.results["a"].estimate, result.results["b"].estimate, atol=1e-8)
    assert float((result.results["a"].estimate - program.log_evidence(X).detach()).abs().max()) > 0.1


def test_densities_are_not_compared_with_probabilities() -> None:
    x = Discrete.rows
    models = {"real": LinearGaussian(event=2), "binary": Discrete()}
    message = (
        r"models must all give probabilities of x, or all densities; got \{'real': 'densities', 'binary':"
        r" 'probabilities'\}. These cannot be compared"
    )
    with pytest.raises(ValueError, match=message):
        pv.compare(models, x, num_particles=3)


@pytest.mark.parametrize("models", [{}, {"a": LinearGaussian()}, [LinearGaussian(), LinearGaussian()]])
def test_fewer_than_two_models_are_refused(models: Any) -> None:
    with pytest.raises(ValueError, match="models must be a dictionary of two models or more; got"):
        pv.compare(models, X)


def test_models_with_a_global_latent_are_not_paired() -> None:
    models = {"a": GlobalMean(), "b": GlobalMean(prior_scale=3.0)}
    with pytest.raises(ValueError, match="models must have independent rows to be paired; got a global latent"):
        pv.compare(models, torch.randn(6, dtype=torch.float64), num_particles=3)


@pytest.mark.usefixtures("plain_pyro")
def test_comparing_leaves_models_and_global_state_unchanged() -> None:
    encoder, decoder = BatchNormNet((6, 6)), nn.Sequential(BatchNormNet((3, 6)), nn.Unflatten(1, (2, 3)))
    vae, other = small_vae(encoder=encoder, decoder=decoder), small_vae()
    x = draw_data(vae.likelihood, 8)
    vae.train()
    vae.decoder.module[0].layers[2].eval()
    pyro.param("mine", torch.ones(2))
    before, modes = copy.deepcopy(vae.state_dict()), [part.training for part in vae.modules()]
    random, store = torch.get_rng_state(), sorted(pyro.get_param_store())

    def call(seed: int | None) -> list[dict[str, Any]]:
        return comparison.compare({"a": vae, "b": other}, x, num_particles=30, seed=seed).lines()

    first, again = call(0), call(0)
    assert torch.equal(torch.get_rng_state(), random)
    assert first == again
    assert modes == [part.training for part in vae.modules()]
    assert all(torch.equal(value, before[key]) for key, value in vae.state_dict().items())
    assert all(parameter.grad is None for parameter in vae.parameters())
    assert sorted(pyro.get_param_store()) == store
    assert call(None) != call(None)


def test_flagged_rows_are_warned_of_once_with_advice_for_a_comparison() -> None:
    narrow = LinearGaussian(width=0.05, shift=2.0)
    with pytest.warns(UnreliableWarning, match=r"9\d% under 'narrow'.* Compare by method='ais'") as caught:
        pv.compare({"exact": LinearGaussian(), "narrow": narrow}, X, num_particles=100, seed=0)
    assert len(caught) == 1
    with pytest.warns(UnreliableWarning, match="too few draws for it.* Draw at least 25 particles"):
        pv.compare({"exact": LinearGaussian(), "narrow": narrow}, X, num_particles=10, seed=0)


def product(**blocks: Any) -> pv.VAE:
    return pv.VAE(likelihood=pv.likelihoods.Product(blocks), prior=pv.priors.Normal(1), seed=0)


def test_a_density_does_not_compete_with_a_probability_in_any_column() -> None:
    parts = pv.likelihoods
    x = torch.tensor([[0.5, 1.0, 0.0], [1.5, 2.0, 1.0]])
    models = {
        "counts": product(age=parts.Normal(1), visits=parts.Poisson(2)),
        "real": product(age=parts.Normal(1), visits=parts.Normal(2)),
    }
    for data, column in ((x, r"visits\[0\]"), (pd.DataFrame(x.numpy(), columns=["age", "v", "w"]), "v")):
        message = f"got for column '{column}' of 'x' a probability from 'counts' and a density from 'real'"
        with pytest.raises(ValueError, match=message):
            pv.compare(models, data, num_particles=3)
    models["real"] = product(age=parts.StudentT(1), first=parts.NegativeBinomial(1), second=parts.Poisson(1))
    assert len(pv.compare(models, x, num_particles=3, seed=0).names) == 2  # the same measures, in other blocks
    models["real"] = product(age=parts.Normal(1), first=parts.Poisson(1), second=parts.ContinuousBernoulli(1))
    with pytest.raises(ValueError, match=r"column 'visits\[1\]' of 'x' a probability from 'counts' and a density"):
        pv.compare(models, x, num_particles=3)


def test_densities_on_surfaces_are_not_compared_with_others() -> None:
    def custom(function: Any, support: Any) -> pv.VAE:
        return pv.VAE(likelihood=pv.likelihoods.Custom(3, function, support=support), prior=pv.priors.Normal(1), seed=0)

    simplex = custom(lambda out: dist.Dirichlet(out.exp()), dist.constraints.simplex)
    real = custom(lambda out: dist.Normal(out, 1.0).to_event(1), dist.constraints.real)
    with pytest.raises(ValueError, match="cell 0 of 'x' a density on the probability simplex from 'a' and a density"):
        pv.compare({"a": simplex, "b": real}, torch.full((4, 3), 1 / 3), num_particles=3)


def test_each_model_receives_the_fields_that_it_reads() -> None:
    counts, offset = torch.poisson(torch.full((9, 2), 3.0)), torch.zeros(9)
    models = {"with": pv.VAE(likelihood=pv.likelihoods.Poisson(2), prior=pv.priors.Normal(1), seed=0)}
    models["without"] = pv.VAE(likelihood=pv.likelihoods.Binomial(2, 99), prior=pv.priors.Normal(1), seed=0)
    assert len(pv.compare(models, counts, num_particles=3, offset=offset).names) == 2
    with pytest.raises(ValueError, match=r"field 'label' must be one that the model reads \('offset'\)"):
        pv.compare(models, counts, num_particles=3, label=offset)
