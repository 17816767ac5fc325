"""The programs are ordinary Pyro programs: SVI, Predictive, poutine, MCMC and render_model take them unchanged."""

from __future__ import annotations

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from cases import draw_data, small_vae
from exact import LinearGaussian
from pyro import poutine
from pyro.infer import MCMC, NUTS, SVI, Predictive, Trace_ELBO
from pyro.nn import PyroParam
from torch import nn

import pyro_vae as pv

pytestmark = pytest.mark.usefixtures("plain_pyro")


@pytest.mark.parametrize(
    "make",
    [Trace_ELBO, lambda: pv.elbos.ELBO(num_rows=60), lambda: pv.elbos.IWAE(num_particles=3)],
    ids=["Pyro", "ELBO", "IWAE"],
)
def test_parameters_move_under_plain_svi(make) -> None:
    vae = small_vae()
    x = draw_data(vae.likelihood, 6)
    before = [parameter.detach().clone() for parameter in vae.parameters()]
    svi = SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 1e-2}), loss=make())
    losses = [svi.step(x) for _ in range(60)]
    assert np.mean(losses[-10:]) < np.mean(losses[:10])
    assert not any(torch.equal(a, b) for a, b in zip(before, vae.parameters(), strict=True))
    assert np.isfinite(svi.evaluate_loss(x))


def test_parameters_of_a_users_program_move_under_svi_and_fit() -> None:
    class Mine(pv.LatentVariableModel):
        def __init__(self):
            super().__init__()
            self.net = nn.Linear(2, 2)
            self.rate = PyroParam(torch.tensor(2.0), constraint=dist.constraints.positive)
            self.loc = nn.Parameter(torch.zeros(2))

        def model(self, x=None, *, rows=None, **batch):
            with pyro.plate("data", len(x) if x is not None else rows):
                z = pyro.sample("z", dist.Normal(self.loc, self.rate).to_event(1))
                return pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

        def guide(self, x, **batch):
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Normal(self.net(x), 0.5).to_event(1))

    x = torch.randn(30, 2)
    for train in ("svi", "fit"):
        pyro.get_param_store().clear()
        mine = Mine()
        before = [parameter.detach().clone() for parameter in mine.parameters()]
        if train == "svi":
            svi = SVI(mine.model, mine.guide, pyro.optim.Adam({"lr": 1e-2}), loss=Trace_ELBO())
            for _ in range(3):
                svi.step(x)
        else:
            mine.fit(x, epochs=2, progress=False)
        assert len(before) == 4
        assert not any(torch.equal(a, b) for a, b in zip(before, mine.parameters(), strict=True))
        assert mine.rate > 0


def test_pyros_predictive_draws_replicated_data() -> None:
    vae = small_vae()
    x = draw_data(vae.likelihood, 5)
    for parallel in (False, True):
        draws = Predictive(poutine.uncondition(vae.model), guide=vae.guide, num_samples=10, parallel=parallel)(x)
        assert draws["x"].shape == (10, 5, 2, 3)
        assert not torch.equal(draws["x"][0], x)


def test_nuts_finds_the_exact_posterior_of_the_latents() -> None:
    program = LinearGaussian(event=3, latent=1)
    x = program.draw(2)
    sampler = MCMC(NUTS(program.model), num_samples=400, warmup_steps=200, disable_progbar=True)
    sampler.run(x)
    z = sampler.get_samples()["z"].squeeze(-1)
    mean_map, covariance = program.posterior_parameters()
    expected = ((x - program.bias) @ mean_map.T).squeeze(-1)
    # NUTS draws are near independent here; 5 standard errors with an effective size of 100.
    error = float(covariance.squeeze().sqrt().detach()) / 10
    np.testing.assert_allclose(z.mean(0), expected.detach(), atol=5 * error)
    np.testing.assert_allclose(z.std(0), covariance.squeeze().sqrt().detach().expand(2), rtol=5 / (2 * 100) ** 0.5)


def test_the_model_can_be_traced_conditioned_and_rendered() -> None:
    vae = small_vae()
    x = draw_data(vae.likelihood, 5)
    trace = poutine.trace(vae.model).get_trace(x)
    assert trace.log_prob_sum().isfinite()
    z = torch.zeros(5, 3, dtype=torch.float64)
    held = poutine.trace(poutine.condition(vae.model, data={"z": z})).get_trace(x)
    assert torch.equal(held.nodes["z"]["value"], z)
    graph = pyro.infer.inspect.get_model_relations(vae.model, model_args=(x,))
    assert graph["sample_sample"]["x"] == ["z"]
    assert graph["plate_sample"] == {"data": ["z", "x"]}
    picture = pyro.render_model(vae.model, model_args=(x,))
    assert "data" in picture.source


def test_convolutional_programs_run_under_pyros_particle_plate() -> None:
    conv = pv.nets.Conv(channels=(3, 4), hidden=(6,))
    vae = pv.VAE(likelihood=pv.likelihoods.Bernoulli((1, 8, 8)), prior=pv.priors.Normal(2), encoder=conv, decoder=conv)
    x = torch.bernoulli(torch.full((5, 1, 8, 8), 0.3))
    loss = Trace_ELBO(num_particles=4, vectorize_particles=True, max_plate_nesting=1).loss(vae.model, vae.guide, x)
    assert np.isfinite(loss)
    assert vae.log_likelihood(x, num_particles=6).estimate.shape == (5,)


def test_a_subclass_without_model_or_guide_raises_what_to_define() -> None:
    class Empty(pv.LatentVariableModel):
        pass

    with pytest.raises(NotImplementedError, match="Empty must define guide"):
        Empty().guide(torch.zeros(1))
    with pytest.raises(NotImplementedError, match="Empty must define model"):
        Empty().sample(3)
    with pytest.raises(ValueError, match="rows must be given where x is not"):
        small_vae().model()


class Broadcast(pv.LatentVariableModel):
    """Programs that treat one particle right and several wrong, or several right ("well"), by the way they index."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how, self.encoder, self.decoder = how, nn.Linear(3, 1), nn.Linear(1, 3)

    def model(self, x=None, *, rows=None, **batch):
        weight = pyro.sample("weight", dist.Normal(torch.zeros(3, 1), 1.0).to_event(2)) if "global" in self.how else 1.0
        with pyro.plate("data", len(x) if x is not None else rows):
            z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            mean = {
                "well": lambda: self.decoder(z),
                "well, global": lambda: (weight @ z.unsqueeze(-1)).squeeze(-1) + self.decoder.bias,
                "global matrix": lambda: z @ weight.mT + self.decoder.bias,
                "first column": lambda: self.decoder.bias + z[:, 0].unsqueeze(-1),
                "mean over rows": lambda: self.decoder(z - z.mean(0)),
                "flattened": lambda: self.decoder(z.reshape(-1, 1)),
                "concatenated": lambda: self.decoder(torch.cat([z, z], 1)[:, :1]),
                "guide": lambda: self.decoder(z),
            }[self.how]()
            return pyro.sample("x", dist.Normal(mean, 0.5).to_event(1), obs=x)

    def guide(self, x, **batch):
        loc = self.encoder(x)
        if "global" in self.how:
            weight = pyro.sample("weight", dist.Normal(self.decoder.weight, 0.1).to_event(2))
            loc = loc + 0.0 * weight.sum((-2, -1)).unsqueeze(-1)
        with pyro.plate("data", len(x)):
            z0 = pyro.sample("z0", dist.Normal(loc, 0.5).to_event(1), infer={"is_auxiliary": True})
            pyro.sample("z", dist.Normal(z0[0] if self.how == "guide" else z0, 0.5).to_event(1))


WRONG = ["global matrix", "first column", "mean over rows", "flattened", "concatenated", "guide"]
ACTIONS = {
    "fit": lambda m, x: m.fit(x, epochs=1, progress=False),
    "elbo": lambda m, x: m.elbo(x, num_particles=3),
    "log_likelihood": lambda m, x: m.log_likelihood(x, num_particles=30),
    "posterior_draws": lambda m, x: m.posterior_draws(x, num_samples=3),
    "posterior_predictive": lambda m, x: m.posterior_predictive(x, num_samples=3),
}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    ("how", "action"),
    # A guide that uses the first row alone is refused by `fit` for the order of rows: tests/test_first_batch.py.
    [(h, a) for h in [*WRONG, "well", "well, global"] for a in ACTIONS if (h, a) != ("guide", "fit")],
)
def test_programs_that_mix_up_particles_are_refused_by_every_door(how: str, action: str) -> None:
    program, x = Broadcast(how), torch.randn(8, 3)
    if how.startswith("well"):
        ACTIONS[action](program, x)
        return
    with pytest.raises(ValueError, match=r"Site '.*particle|must accept two particles"):
        ACTIONS[action](program, x)


def test_programs_that_mix_up_particles_still_train_one_by_one_and_evaluation_refuses_them() -> None:
    program, x = Broadcast("global matrix"), torch.randn(8, 3)
    program.fit(x, elbo=Trace_ELBO(num_particles=2), epochs=1, progress=False)
    for _ in range(2):
        with pytest.raises(ValueError, match=r"Site 'x' must have log-probabilities of shape \(2, 8\).*Rowwise"):
            program.elbo(x, num_particles=4)


class Subsampling(pv.LatentVariableModel):
    """Programs that draw a subsample of rows by themselves, of a number or of a share of the rows."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size, self.encoder, self.decoder = size, nn.Linear(3, 1), nn.Linear(1, 3)

    def plate(self, num_rows: int) -> pyro.plate:
        return pyro.plate("data", num_rows, subsample_size=self.size)

    def model(self, x=None, *, rows=None, **batch):
        with self.plate(len(x) if x is not None else rows) as index:
            z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            mean = self.decoder(z)
            return pyro.sample("x", dist.Normal(mean, 0.5).to_event(1), obs=None if x is None else x[index])

    def guide(self, x, **batch):
        with self.plate(len(x)) as index:
            pyro.sample("z", dist.Normal(self.encoder(x[index]), 0.5).to_event(1))


BY_ROW = {name: action for name, action in ACTIONS.items() if name != "fit"} | {
    "encode": lambda m, x: m.encode(x),
    "reconstruct": lambda m, x: m.reconstruct(x),
    "sample": lambda m, x: m.sample(8),
    "simulate": lambda m, x: m.simulate(8),
    "predictive": lambda m, x: m.predictive({"z": torch.zeros(8, 1)}),
    "decode": lambda m, x: m.decode(torch.zeros(8, 1)),
    "resampled": lambda m, x: m.posterior_predictive(x, num_samples=2, num_candidates=4),
    "AIS": lambda m, x: m.log_likelihood(x, num_particles=3, method=pv.evaluation.AIS(num_steps=2)),
    "semi_amortized": lambda m, x: m.log_likelihood(x, num_particles=30, method="semi_amortized"),
    "latent use": lambda m, x: pv.latents.use(m, x),
}


@pytest.mark.parametrize("action", BY_ROW)
def test_programs_that_subsample_by_themselves_are_refused_outside_of_training(action: str) -> None:
    program, x = Subsampling(5), torch.randn(8, 3)
    with pytest.raises(NotImplementedError, match=r"Plate 'data' must have all of its rows.*fit\(batch_size=\)"):
        BY_ROW[action](program, x)


@pytest.mark.parametrize("num_particles", [1, 3])
def test_programs_that_subsample_by_themselves_train(num_particles: int) -> None:
    program, x = Subsampling(5), torch.randn(8, 3)
    elbo = pv.elbos.ELBO(num_particles=num_particles)
    assert len(program.fit(x, valid=x, elbo=elbo, epochs=2, progress=False)) == 2
