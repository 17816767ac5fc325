"""Cases that first users met and that were wrong once."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pyro.infer
import pytest
import torch
from cases import draw_data, small_vae
from exact import LinearGaussian
from pyro.nn import PyroModule
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import pyro_vae as pv
from pyro_vae import elbos, likelihoods


@pytest.mark.parametrize("scale", ["per_dimension", "predicted"])
def test_columns_in_very_different_units_are_each_standardized(scale: str) -> None:
    generator = np.random.default_rng(0)
    x = np.stack([5e4 + 2e4 * generator.normal(size=2000), 0.02 + 0.003 * generator.normal(size=2000)], 1)
    vae = pv.VAE(likelihood=likelihoods.Normal(2, scale=scale), prior=pv.priors.Normal(1), seed=0)
    vae.fit(x, epochs=5, seed=0, progress=False)
    np.testing.assert_allclose(vae.likelihood.unit, x.std(0), rtol=1e-4)
    np.testing.assert_allclose(vae.likelihood.features(torch.tensor(x).float()).std(0), 1.0, rtol=1e-2)
    independent = dist.Normal(torch.tensor(x.mean(0)), torch.tensor(x.std(0))).log_prob(torch.tensor(x)).sum(-1).mean()
    assert vae.log_likelihood(x[:200], seed=0).mean().estimate == pytest.approx(float(independent), abs=0.4)


class TwoOrders(pv.LatentVariableModel):
    """A guide that samples the latents in the opposite order to the model's."""

    def model(self, x=None, *, rows=None, **batch):
        with pyro.plate("data", len(x)):
            z2 = pyro.sample("z2", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            z1 = pyro.sample("z1", dist.Normal(z2, 0.5).to_event(1))
            pyro.sample("x", dist.Normal(z1, 1.0).to_event(1), obs=x)

    def guide(self, x, **batch):
        with pyro.plate("data", len(x)):
            z1 = pyro.sample("z1", dist.Normal(x, 1.0).to_event(1))
            pyro.sample("z2", dist.Normal(z1, 0.5).to_event(1))


@pytest.mark.usefixtures("plain_pyro")
@pytest.mark.parametrize(
    "make",
    [
        elbos.MeanFieldELBO,
        elbos.KLBalancedELBO,
        lambda **o: elbos.DIPVAE(off_diagonal=0.0, diagonal=0.0, **o),
        lambda **o: elbos.InfoVAE(weight=1.0, **o),
    ],
    ids=["MeanField", "KLBalanced", "DIPVAE", "InfoVAE"],
)
def test_estimators_take_no_closed_form_kl_where_guide_and_model_order_sites_differently(make) -> None:
    program, x = TwoOrders(), torch.zeros(50, 1)
    losses = []
    for estimator in (elbos.ELBO(num_particles=20), make(num_particles=20)):
        torch.manual_seed(0)
        losses.append(estimator.loss(program.model, program.guide, x))
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)


def test_patience_compares_with_epochs_of_this_fit_only() -> None:
    x = torch.randn(200, 4)
    vae = pv.VAE(likelihood=likelihoods.Normal(4), prior=pv.priors.Normal(2), seed=0)
    vae.fit(0.01 * x, valid=0.01 * x[:50], patience=9, epochs=5, progress=False, seed=0)
    before = [parameter.detach().clone() for parameter in vae.parameters()]
    history = vae.fit(x, valid=x[:50], patience=5, epochs=20, learning_rate=1e-2, progress=False, seed=0)
    assert len(history) == 25
    assert not any(torch.equal(a, b) for a, b in zip(before, vae.parameters(), strict=True))


def test_digits_lost_in_the_cast_to_float32_warn_and_name_the_column() -> None:
    generator = np.random.default_rng(0)
    frame = pd.DataFrame({"time": 1.7e9 + 100 * generator.normal(size=50), "size": generator.normal(size=50)})
    vae = pv.VAE(likelihood=likelihoods.Normal(2, scale="per_dimension"), prior=pv.priors.Normal(1), seed=0)
    with pytest.warns(UserWarning, match=r"Columns time of x vary in digits that torch.float32 does not hold"):
        vae.fit(frame, epochs=1, progress=False)
    vae.double().fit(frame, epochs=1, progress=False)


@pytest.mark.usefixtures("plain_pyro")
def test_weights_on_rows_and_on_the_kl_are_refused_where_they_have_no_meaning() -> None:
    vae = small_vae()
    x = draw_data(vae.likelihood, 4)
    with pytest.raises(NotImplementedError, match="FreeBitsELBO with weights on rows is not built"):
        elbos.FreeBitsELBO().loss(vae.model, vae.guide, x, row_weights=torch.ones(4))
    for kind in (elbos.InfoVAE, elbos.BetaTCVAE, elbos.DIPVAE, elbos.CapacityELBO):
        with pytest.raises(ValueError, match=f"kl_weight must be left out for {kind.__name__}"):
            kind(kl_weight=2.0)


def test_evaluation_takes_loaders_in_a_fixed_order() -> None:
    vae = small_vae()
    x = draw_data(vae.likelihood, 12)
    random = torch.get_rng_state()
    expected = vae.elbo(x, num_particles=3, seed=0).bound
    for data in (
        DataLoader(TensorDataset(x), batch_size=5),
        DataLoader([{"x": row} for row in x], batch_size=5),
        torch.utils.data.Subset(TensorDataset(x), range(12)),
    ):
        assert torch.equal(vae.elbo(data, num_particles=3, seed=0).bound, expected)
    assert torch.equal(random, torch.get_rng_state())
    with pytest.raises(ValueError, match="x must come in a fixed order; got a loader with shuffle=True"):
        vae.elbo(DataLoader(TensorDataset(x), shuffle=True))
    with pytest.raises(ValueError, match=r"batches must have \('x',\); got a dictionary of \('y',\)"):
        vae.fit(DataLoader([{"y": row} for row in x]), epochs=1, progress=False)


class Conditional(LinearGaussian):
    def model(self, x=None, *, rows=None, label, **batch):
        with pyro.plate("data", len(label)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2, dtype=torch.float64), 1.0).to_event(1))
            loc = z @ self.weight.T + self.bias + label.unsqueeze(-1)
            return pyro.sample("x", dist.Normal(loc, self.log_scale.exp()).to_event(1), obs=x)

    def guide(self, x, *, label, **batch):
        return super().guide(x - label.unsqueeze(-1))


def test_fields_mean_the_same_with_the_data_or_beside_them_in_any_form() -> None:
    program, label = Conditional(), torch.arange(9)
    x = LinearGaussian().draw(9) + label.unsqueeze(-1)
    expected = program.log_likelihood(x, label=label, num_particles=3, seed=0).estimate
    for data, options in (
        (x, {"label": label.numpy()}),
        ((x, label), {"fields": ("x", "label")}),
        (pv.Rows(x, {"label": label}), {"fields": "label"}),
        (pd.DataFrame(x.numpy()).assign(label=label.numpy()), {"fields": ("label",)}),
        (DataLoader(TensorDataset(x, label), batch_size=4), {"fields": ("x", "label")}),
    ):
        again = program.log_likelihood(data, num_particles=3, seed=0, **options).estimate
        np.testing.assert_allclose(again, expected, atol=1e-8)
    with pytest.raises(ValueError, match=r"field 'num_particle' must be one that the model reads \('label'\)"):
        program.log_likelihood(x, label=label, num_particle=3)
    with pytest.raises(ValueError, match=r"field 'label' must have one entry per row \(5\); got shape \(9,\)"):
        program.sample(5, label=label)


def test_overflow_in_the_cast_is_named_with_the_row_of_the_data() -> None:
    vae = pv.VAE(likelihood=likelihoods.Bernoulli(4), prior=pv.priors.Normal(1), seed=0)
    x = np.zeros((9000, 4))
    x[8500, 2] = 0.5
    with pytest.raises(ValueError, match="got 0.5 in row 8500"):
        vae.log_likelihood(x)
    real = pv.VAE(likelihood=likelihoods.Normal(4), prior=pv.priors.Normal(1), seed=0)
    x[8500, 2] = 1e39
    for call in (real.log_likelihood, lambda data: real.fit(data, epochs=1, progress=False)):
        with pytest.raises(ValueError, match="x must be finite in torch.float32; got inf in row 8500"):
            call(x)


def test_decode_of_a_program_counts_rows_by_the_plate() -> None:
    class Mixed(pv.LatentVariableModel):
        def model(self, x=None, *, rows=None, **batch):
            w = pyro.sample("w", dist.Normal(torch.zeros(5), 1.0).to_event(1))
            with pyro.plate("data", len(x) if x is not None else rows):
                z = pyro.sample("z", dist.Normal(0.0, 1.0))
                return pyro.sample("x", dist.Normal(z + w.sum(), 1.0), obs=x)

    for rows in (1, 3, 7):
        decoded = Mixed().decode({"w": torch.zeros(5), "z": torch.arange(float(rows))})["x"]
        assert decoded.batch_shape == (rows,)
        np.testing.assert_allclose(decoded.mean, np.arange(rows))


@pytest.mark.parametrize("num_rows", [0, -5, 2.5])
def test_num_rows_must_be_a_positive_integer(num_rows) -> None:
    with pytest.raises(ValueError, match="num_rows must be a positive integer"):
        elbos.ELBO(num_rows=num_rows)
    with pytest.raises(ValueError, match="num_rows must be a positive integer"):
        small_vae().fit(torch.ones(4, 2, 3), num_rows=num_rows, epochs=1, progress=False)


class Binary(pv.LatentVariableModel):
    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.Linear(4, 3), nn.Linear(3, 4)

    def model(self, x=None, *, rows=None, **batch):
        with pyro.plate("data", len(x) if x is not None else rows):
            z = pyro.sample("z", dist.Bernoulli(torch.full((3,), 0.3)).to_event(1))
            return pyro.sample("x", dist.Normal(self.decoder(z), 1.0).to_event(1), obs=x)

    def guide(self, x, **batch):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Bernoulli(logits=self.encoder(x)).to_event(1))


def test_binary_latents_have_a_closed_kl_for_any_number_of_particles() -> None:
    program, x = Binary(), torch.randn(20, 4)
    result = program.elbo(x, num_particles=50, seed=0)
    q = torch.sigmoid(program.encoder(x))
    expected = (q * (q / 0.3).log() + (1 - q) * ((1 - q) / 0.7).log()).sum(-1)
    np.testing.assert_allclose(result.kl, expected.detach(), rtol=1e-4)
    assert result.analytic_sites == ("z",)


def test_regularized_objectives_are_finite_with_particles_and_with_one_latent() -> None:
    for estimator in (
        elbos.InfoVAE(num_particles=2),
        elbos.DIPVAE(num_particles=2),
        elbos.FreeBitsELBO(num_particles=2),
    ):
        vae = small_vae(prior=pv.priors.Normal(1))
        history = vae.fit(draw_data(vae.likelihood, 8), elbo=estimator, epochs=1, seed=0, progress=False)
        assert np.isfinite(history["train_objective"][0])


def test_encoder_and_decoder_may_share_a_module() -> None:
    shared = nn.Linear(4, 4)
    decoder = nn.Sequential(nn.Linear(2, 4), shared)
    vae = pv.VAE(likelihood=likelihoods.Normal(4), prior=pv.priors.Normal(2), encoder=shared, decoder=decoder)
    before = shared.weight.detach().clone()
    vae.fit(torch.randn(20, 4), epochs=1, seed=0, progress=False)
    assert not torch.equal(before, shared.weight)


class OneBatchDimension(Binary):
    """A program that takes no leading dimensions: Pyro's own default runs particles one by one."""

    def model(self, x=None, *, rows=None, **batch):
        with pyro.plate("data", len(x) if x is not None else rows):
            z = pyro.sample("z", dist.Normal(torch.zeros(3), 1.0).to_event(1))
            assert z.dim() == 2
            return pyro.sample("x", dist.Normal(self.decoder(z), 1.0).to_event(1), obs=x)

    def guide(self, x, **batch):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(self.encoder(x), 0.5).to_event(1))


def test_pyros_particles_run_one_by_one_give_the_same_fit_wrapped_or_not() -> None:
    x = torch.randn(12, 4)
    runs = []
    for wrap in (False, True):
        torch.manual_seed(0)
        program = OneBatchDimension()
        elbo = pyro.infer.Trace_ELBO(num_particles=5)
        elbo = elbos.PyroEstimator(elbo) if wrap else elbo
        runs.append(program.fit(x, elbo=elbo, epochs=2, batch_size=6, seed=0, progress=False)["train_bound"])
    np.testing.assert_allclose(runs[0], runs[1], rtol=1e-5)


def test_arguments_of_the_wrong_kind_are_named() -> None:
    with pytest.raises(TypeError, match="hidden must be a sequence of widths; got 64"):
        pv.nets.MLP(hidden=64)
    with pytest.raises(ValueError, match=r"share must lie in \(0, 1\]; got 0.0"):
        pv.schedules.Cyclical(0.0, 1.0, steps=3, share=0.0)
    with pytest.raises(TypeError, match="model must be your own class or an instance of it; got 'VAE'"):
        pv.load("anywhere", "VAE")
    for optimizer in (torch.optim.Adam([torch.zeros(1)]), pyro.optim.Adam({"lr": 1e-3})):
        with pytest.raises(TypeError, match="optimizer must make a first-order torch.optim.Optimizer"):
            small_vae().fit(torch.ones(4, 2, 3), optimizer=optimizer, epochs=1, progress=False)
    with pytest.raises(TypeError, match="callbacks must be a sequence of functions"):
        small_vae().fit(torch.ones(4, 2, 3), callbacks=print, epochs=1, progress=False)
    assert len(small_vae().fit(torch.ones(4, 2, 3), epochs=np.int64(1), batch_size=np.int64(2), progress=False)) == 1


def test_pyro_modules_inside_nets_are_trained() -> None:
    encoder = nn.Sequential(nn.Flatten(), PyroModule[nn.Linear](6, 6))
    vae = small_vae(encoder=encoder)
    before = encoder[1].weight.detach().clone()
    vae.fit(draw_data(vae.likelihood, 20), epochs=1, progress=False)
    assert not torch.equal(encoder[1].weight, before)


def test_columns_of_a_frame_must_come_in_the_order_of_the_blocks() -> None:
    likelihood = likelihoods.Product({"age": likelihoods.Normal(1), "visits": likelihoods.Poisson(1)})
    vae = pv.VAE(likelihood=likelihood, prior=pv.priors.Normal(1), seed=0)
    frame = pd.DataFrame({"age": [30.0, 40.0], "visits": [1, 2]})
    vae.elbo(frame, num_particles=2)
    turned = frame[["visits", "age"]]
    for call in (vae.elbo, lambda data: vae.fit(data, epochs=1, progress=False)):
        with pytest.raises(ValueError, match=r"columns must come in the order of the blocks, \['age', 'visits'\]; got"):
            call(turned)


def test_fields_must_be_finite() -> None:
    vae = pv.VAE(likelihood=likelihoods.Poisson(2), prior=pv.priors.Normal(1), seed=0)
    x, offset = torch.ones(3, 2), torch.tensor([0.0, float("nan"), 0.0])
    calls = (
        lambda: vae.elbo(x, offset=offset),
        lambda: vae.sample(3, offset=offset),
        lambda: vae.decode(torch.zeros(3, 1), offset=offset),
        lambda: vae.predictive(torch.zeros(3, 1), offset=offset),
        lambda: vae.fit((x, offset), fields=("x", "offset"), epochs=1, progress=False),
    )
    for call in calls:
        with pytest.raises(ValueError, match="field 'offset' must be finite; got nan in row 1"):
            call()


@pytest.mark.parametrize(
    ("prior", "guide", "mean"),
    [
        (pv.priors.Bernoulli(3), pv.guides.Bernoulli(), True),
        (pv.priors.Categorical(3), pv.guides.Categorical(), True),
        (pv.priors.LogisticNormal(3), pv.guides.LogisticNormal(), False),
        (pv.priors.PowerSpherical(3), pv.guides.PowerSpherical(), True),
    ],
)
def test_latents_lie_in_the_support_of_the_prior(prior, guide, mean) -> None:
    vae = pv.VAE(likelihood=likelihoods.Normal(2), prior=prior, guide=guide, seed=0)
    q = vae.encode(torch.zeros(4, 2))
    vae.predictive(q.sample(), num_samples=2)
    if mean:
        vae.decode(q.mean)
    with pytest.raises(ValueError, match="latents at 'z' must lie in the support of the prior"):
        vae.predictive(torch.full((4, 3), 0.4))
    with pytest.raises(ValueError, match="z must be finite; got nan in row 2"):
        vae.decode(torch.tensor([0.0, 0.0, float("nan")]).reshape(3, 1).expand(3, 3))


def test_load_leaves_the_random_state_alone(tmp_path) -> None:
    small_vae().save(tmp_path)
    before = torch.get_rng_state()
    pv.load(tmp_path)
    assert torch.equal(torch.get_rng_state(), before)


def test_one_likelihood_object_for_several_blocks_is_refused() -> None:
    shared = likelihoods.Normal(1)
    inner = likelihoods.Product({"a": shared})
    for blocks in (dict.fromkeys("abc", shared), [("a", shared), ("b", shared)], {"a": shared, "b": inner}):
        with pytest.raises(ValueError, match=r"blocks must be objects of their own; got one Normal for 'a' and 'b'"):
            likelihoods.Product(blocks)
    likelihoods.Product({name: likelihoods.Normal(1) for name in "abc"})


@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 8, 6)])
def test_channels_last_are_told_how_to_come_first(shape: tuple[int, ...]) -> None:
    vae = pv.VAE(likelihood=likelihoods.DiscretizedLogistic(shape), prior=pv.priors.Normal(1), seed=0)
    x = np.zeros((20, *shape[1:], shape[0]), "uint8")
    for call in (lambda: vae.fit(x, epochs=1, progress=False), lambda: vae.elbo(x)):
        with pytest.raises(ValueError, match=r"Channels come first: x.movedim\(-1, 1\)"):
            call()


@pytest.mark.filterwarnings("ignore:Encountered NaN")
@pytest.mark.parametrize("unit", [1e18, 1e-20])
def test_values_in_extreme_units_are_refused_with_the_advice_to_change_units(unit: float) -> None:
    x = unit * np.random.default_rng(0).normal(size=(400, 2))
    vae = pv.VAE(likelihood=likelihoods.Normal(2, scale="per_dimension"), prior=pv.priors.Normal(1), seed=0)
    with pytest.raises(ValueError, match="the units of x.*power of 10|Choose units in which the numbers are larger"):
        vae.fit(x, epochs=1, progress=False)


def test_nuts_that_has_not_converged_warns() -> None:
    program = LinearGaussian(event=3, latent=1)
    with pytest.warns(UserWarning, match="NUTS has not converged: the largest R-hat is .* no reference"):
        pv.calibration.against_nuts(program, program.draw(1), num_samples=4, warmup=1, max_tree_depth=1, seed=0)
