"""DOC

"""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path

import matplotlib.pyplot as plt
import pyro
import pyro.distributions as dist
import torch
from pyro.infer import MCMC, NUTS
from pyro.nn import PyroParam
from torch import Tensor, nn

import pyro_vae as pv
from pyro_vae import plots

EFFECT = torch.tensor([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0])  # of coaching, in points
FIELDS = {"sigma": torch.tensor([15.0, 10, 16, 11, 9, 11, 10, 18]), "school": torch.arange(8)}


class EightSchools(pv.LatentVariableModel):
    """x_i ~ N(theta_i, sigma_i), theta_i ~ N(mu, tau); mu and tau, outside the plate, are latents of all rows."""

    def __init__(self, centred: bool = True) -> None:
        super().__init__()
        self.centred = centred
        for name, shape in (("mu", ()), ("tau", ()), ("school", (8,))):
            setattr(self, f"{name}_loc", nn.Parameter(torch.zeros(shape)))
            setattr(self, f"{name}_scale", PyroParam(torch.ones(shape), constraint=dist.constraints.positive))

    def model(self, x: Tensor | None = None, *, rows: int | None = None, sigma: Tensor, **batch: Tensor) -> Tensor:
        mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
        tau = pyro.sample("tau", dist.HalfCauchy(5.0))
        with pyro.plate("data", len(sigma)):
            if self.centred:
                theta = pyro.sample("theta", dist.Normal(mu, tau))
            else:
                theta = mu + tau * pyro.sample("eta", dist.Normal(0.0, 1.0))
            return pyro.sample("x", dist.Normal(theta, sigma), obs=x)

    def guide(self, x: Tensor, *, school: Tensor, **batch: Tensor) -> None:
        pyro.sample("mu", dist.Normal(self.mu_loc, self.mu_scale))
        pyro.sample("tau", dist.LogNormal(self.tau_loc, self.tau_scale))
        with pyro.plate("data", len(x)):  # rows come in any order: a school finds its parameters by its number
            own = dist.Normal(self.school_loc[school], self.school_scale[school])
            pyro.sample("theta" if self.centred else "eta", own)


def first_school(draws: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """theta_1 and log tau of draws (S, ...), in either form."""
    mu, tau = draws["mu"].flatten(), draws["tau"].flatten()
    return draws["theta"][:, 0] if "theta" in draws else mu + tau * draws["eta"][:, 0], tau.log()


def digits_against_nuts(epochs: int, rows: int, draws: int):
    digits = pv.datasets.load("digits")
    vae = pv.VAE(
        likelihood=pv.likelihoods.Binomial(digits.event_shape, total_count=16),
        prior=pv.priors.Normal(4),
        encoder=pv.nets.MLP(hidden=(128,)),
        decoder=pv.nets.MLP(hidden=(128,)),
        seed=0,
    )
    vae.fit(digits.train, epochs=epochs, seed=0)
    found = pv.calibration.against_nuts(vae, digits.test.x[:rows], num_samples=draws, warmup=draws // 2, seed=1)
    print(found)
    return found


if __name__ == "__main__":
    import time
    warnings.simplefilter("ignore")
    c = time.process_time()
    f = digits_against_nuts(100, 3, 400)
    print(f, f.guide_mean, f.nuts_mean, f.guide_scale, f.nuts_scale, f.rhat, time.process_time() - c, flush=True)
    for centred in (True, False):
        m = EightSchools(centred); c = time.process_time()
        rate = pv.schedules.Cosine(0.03, 1e-4, epochs=2000)
        m.fit(pv.Rows(EFFECT, FIELDS), fields=("x", *FIELDS), batch_size=8, epochs=2000, elbo=pv.elbos.ELBO(num_particles=10), learning_rate=rate, seed=0, compile=False)
        for s in range(4):
            r = m.log_likelihood(EFFECT, num_particles=10000, seed=s, **FIELDS)
            print(centred, r.khat, r.estimate)
        print(m.mu_loc.item(), m.mu_scale.item(), m.tau_loc.item(), m.tau_scale.item(), time.process_time()-c, flush=True)
    c = time.process_time()
    chain = MCMC(NUTS(m.model), num_samples=1000, warmup_steps=300, disable_progbar=True)
    chain.run(EFFECT, **FIELDS)
    d = chain.get_samples()
    print(d["mu"].mean(), d["mu"].std(), d["tau"].log().mean(), d["tau"].log().std(), time.process_time() - c)
    chain.summary()
