"""`fit`: every estimator, likelihood and form of data trains, and where an exact answer is known, fit reaches it."""

from __future__ import annotations

import dataclasses
import inspect
import math

import numpy as np
import pyro
import pyro.distributions as dist
import pyro.infer
import pytest
import torch
from cases import ELBOS, LIKELIHOODS, BatchNormNet, draw_data, small_vae
from exact import Discrete, GlobalMean, LinearGaussian, probabilistic_pca_evidence
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

import pyro_vae as pv
from pyro_vae import elbos, nets, priors
from pyro_vae.training.options import FitOptions

DATA = draw_data(LIKELIHOODS["Bernoulli"]().double(), 50)


def parameters(model) -> list[torch.Tensor]:
    return [parameter.detach().clone() for parameter in model.parameters()]


def test_a_linear_gaussian_vae_reaches_probabilistic_pca() -> None:
    """The evidence under the trained parameters is within 0.05 nats per row of the maximum-likelihood fit's."""
    truth = LinearGaussian(event=5, latent=2, seed=8)
    x = truth.draw(1500)
    vae = pv.VAE(
        likelihood=pv.likelihoods.Normal(5, scale="shared"),
        prior=priors.Normal(2),
        encoder=nets.MLP(hidden=()),
        decoder=nets.MLP(hidden=()),
        seed=0,
    ).double()
    rate = lambda step: 0.02 * 0.99 ** (step / 15)  # noqa: E731
    vae.fit(x, elbo=elbos.MeanFieldELBO(), epochs=120, batch_size=100, learning_rate=rate, seed=0, progress=False)
    p0 = vae.decode(torch.zeros(1, 2)).base_dist
    columns = vae.decode(torch.eye(2)).mean - p0.mean
    covariance = columns.T @ columns + p0.scale.square().expand(1, 5).squeeze(0).diag()
    trained = dist.MultivariateNormal(p0.mean[0], covariance).log_prob(x).mean()
    assert float(trained) == pytest.approx(probabilistic_pca_evidence(x, 2), abs=0.05)
    # 50 rows at 4 standard errors: a family-wise failure rate of 3e-3 if the errors are normal; the seed is fixed.
    result = vae.log_likelihood(x[:50], num_particles=2000, seed=0)
    exact = dist.MultivariateNormal(p0.mean[0], covariance).log_prob(x[:50])
    assert ((result.estimate - exact).abs() < 4 * result.standard_error + 1e-8).all()
    assert abs(result.mean().estimate - float(exact.mean())) < 4 * result.mean().monte_carlo_error


PYROS = {
    "Trace_ELBO": lambda: pyro.infer.Trace_ELBO(),
    "Trace_ELBO K=3": lambda: pyro.infer.Trace_ELBO(num_particles=3),
    "TraceMeanField_ELBO": lambda: pyro.infer.TraceMeanField_ELBO(),
    "TraceGraph_ELBO": lambda: pyro.infer.TraceGraph_ELBO(),
    "TraceEnum_ELBO": lambda: pyro.infer.TraceEnum_ELBO(max_plate_nesting=1),
    "RenyiELBO": lambda: pyro.infer.RenyiELBO(num_particles=3),
}


@pytest.mark.parametrize("make", (PYROS | ELBOS).values(), ids=PYROS | ELBOS)
def test_every_estimator_trains(make) -> None:
    vae = small_vae()
    start = vae.log_likelihood(DATA, num_particles=500, seed=0).mean().estimate
    before = parameters(vae)
    history = vae.fit(DATA, elbo=make(), epochs=15, batch_size=10, learning_rate=3e-3, seed=0, progress=False)
    assert len(history) == 15
    assert all(math.isfinite(bound) for bound in history["train_bound"])
    assert vae.log_likelihood(DATA, num_particles=500, seed=0).mean().estimate > start
    assert not any(torch.equal(a, b) for a, b in zip(before, vae.parameters(), strict=True))


def test_pyros_estimators_give_the_same_run_as_ours() -> None:
    runs = []
    for elbo in (None, elbos.ELBO(), pyro.infer.Trace_ELBO(), pyro.infer.TraceGraph_ELBO()):
        vae = small_vae()
        history = vae.fit(DATA, elbo=elbo, epochs=2, batch_size=16, seed=0, progress=False)
        runs.append((history["train_bound"], parameters(vae)))
    for bounds, trained in runs[1:]:
        np.testing.assert_allclose(bounds, runs[0][0], rtol=1e-8)
        for ours, theirs in zip(runs[0][1], trained, strict=True):
            np.testing.assert_allclose(ours, theirs, atol=1e-7)


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_every_likelihood_trains(likelihood: str) -> None:
    vae = small_vae(likelihood=LIKELIHOODS[likelihood]())
    x = draw_data(vae.likelihood, 30)
    history = vae.fit(x, valid=x[:10], epochs=1, batch_size=16, seed=0, progress=False)
    row = history.rows[0]
    assert row["train_bound"] == pytest.approx(row["train_reconstruction"] - row["train_kl"])
    assert math.isfinite(row["valid_bound"])


def sources():
    class Stream(IterableDataset):
        def __iter__(self):
            return iter(DATA)

    rows = pv.Rows(DATA, {"label": torch.arange(50)})
    return {
        "tensor": (DATA, {}),
        "float32": (DATA.float(), {}),
        "integers": (DATA.long(), {}),
        "booleans": (DATA.bool(), {}),
        "numpy": (DATA.numpy(), {}),
        "numpy float16": (DATA.numpy().astype(np.float16), {}),
        "reversed numpy": (DATA.numpy()[::-1], {}),
        "big-endian numpy": (DATA.numpy().astype(">f8"), {}),
        "rows": (rows, {}),
        "tuple": ((DATA, torch.arange(50)), {}),
        "TensorDataset": (TensorDataset(DATA, torch.arange(50)), {}),
        "subset": (torch.utils.data.Subset(TensorDataset(DATA), range(50)), {}),
        "DataLoader": (DataLoader(TensorDataset(DATA), batch_size=10), {}),
        "loader of dictionaries": (DataLoader([{"x": row} for row in DATA], batch_size=10), {}),
        "stream": (Stream(), {"num_rows": 50}),
    }


@pytest.mark.parametrize("name", sources())
def test_every_form_of_data_trains(name: str) -> None:
    data, options = sources()[name]
    vae = small_vae()
    history = vae.fit(data, epochs=2, batch_size=10, seed=0, progress=False, **options)
    assert math.isfinite(history["train_bound"][-1])
    assert vae.training_state.step == 10


def test_a_single_last_row_joins_the_batch_before() -> None:
    from pyro_vae.data.batches import Batches

    def sizes(rows: int, batch_size: int) -> list[int]:
        return [len(batch["x"]) for batch in Batches(DATA[:rows], like=DATA, batch_size=batch_size)]

    assert sizes(21, 10) == [10, 11]
    assert sizes(22, 10) == [10, 10, 2]
    assert sizes(3, 1) == [1, 1, 1]
    assert sizes(1, 10) == [1]
    vae = small_vae(encoder=BatchNormNet((6, 6)))
    assert len(vae.fit(DATA[:21], epochs=1, batch_size=10, seed=0, progress=False)) == 1


def test_fields_reach_the_programs_and_row_weights_the_bound() -> None:
    class Conditional(LinearGaussian):
        def model(self, x=None, *, rows=None, label, **batch):
            assert label.dtype == torch.int64
            return super().model(x, rows=rows)

        def guide(self, x, *, label, **batch):
            return super().guide(x + 0 * label.unsqueeze(-1))

    x, label = LinearGaussian().draw(20), torch.arange(20)
    model = Conditional()
    history = model.fit((x, label), fields=("x", "label"), epochs=1, seed=0, progress=False)
    assert len(history) == 1
    assert model.log_likelihood(x, label=label, num_particles=3, seed=0).estimate.shape == (20,)
    assert model.sample(3, label=label[:3]).shape == (3, 4)
    assert model.posterior_predictive(x, label=label, num_samples=2).shape == (2, 20, 4)

    # Rows of weight zero have no influence: the same run as without them.
    rows = pv.Rows(torch.cat([x, 9 + x]), {"row_weights": torch.cat([torch.ones(20), torch.zeros(20)])})
    weighted, plain = LinearGaussian(width=2.0), LinearGaussian(width=2.0)
    weighted.fit(rows, fields=("row_weights",), epochs=30, batch_size=40, learning_rate=1e-2, seed=0, progress=False)
    plain.fit(x, epochs=30, batch_size=40, learning_rate=1e-2, seed=0, progress=False)
    assert float((weighted.bias - plain.bias).detach().abs().max()) < 0.1


def test_initialization_happens_once_and_is_saved(tmp_path) -> None:
    vae = small_vae()
    vae.fit(DATA, epochs=1, seed=0, progress=False)
    offset = vae.likelihood.offset.clone()
    vae.fit(1 - DATA, epochs=1, seed=0, progress=False)
    assert torch.equal(vae.likelihood.offset, offset)
    vae.save(tmp_path / "m")
    again = pv.load(tmp_path / "m")
    assert bool(again.initialized)
    assert torch.equal(again.likelihood.offset, offset)


def test_global_latents_train_on_batches() -> None:
    model, x = GlobalMean(rows=40), 1 + torch.randn(40, dtype=torch.float64)
    with torch.no_grad():
        model.slope.fill_(0.2)
    history = model.fit(x, epochs=200, batch_size=40, learning_rate=2e-2, seed=0, progress=False)
    assert model.slope.item() == pytest.approx(1.0, abs=0.05)
    exact = float(model.log_evidence(x)) / 40
    assert history["train_bound"][-1] == pytest.approx(exact, abs=0.05)


def test_discrete_latents_train_through_pyros_estimators() -> None:
    for elbo in (pyro.infer.TraceEnum_ELBO(max_plate_nesting=1), pyro.infer.Trace_ELBO(), None):
        model = Discrete()
        start = model.exact_elbo(model.rows).mean().item()
        history = model.fit(model.rows, elbo=elbo, epochs=60, learning_rate=2e-2, seed=0, progress=False)
        assert model.exact_elbo(model.rows).mean().item() > start + 0.05
        assert history["train_kl"][0] is None


def test_rows_may_be_a_sample_of_more_rows() -> None:
    """With `num_rows`, rows stand for N rows, also in batches that are larger than the sample."""
    history = small_vae().fit(DATA, num_rows=1000, batch_size=128, epochs=1, progress=False)
    assert math.isfinite(history["train_bound"][0])


def test_every_option_of_fit_is_in_its_record() -> None:
    options = set(inspect.signature(pv.LatentVariableModel.fit).parameters) - {"self", "data"}
    assert options == {option.name for option in dataclasses.fields(FitOptions)}
