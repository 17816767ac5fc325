"""doc"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from torch import Tensor, nn

import pyro_vae as pv

HOURS = torch.tensor([0.5, 1.5, 4.0, 10.0])  # when blood is taken
TYPICAL, SPREAD = torch.tensor([0.0, 1.2, 3.0]), torch.tensor([0.5, 0.4, 0.4])  # of log absorption, clearance, volume
NAMES = ("absorption", "clearance", "volume")


class Concentration(nn.Module):
    def forward(self, z: Tensor) -> Tensor:
        absorption, clearance, volume = (TYPICAL + SPREAD * z).exp().unsqueeze(-1).unbind(-2)  # (..., 1) each
        elimination = clearance / volume
        difference = (absorption - elimination) * HOURS
        rise = torch.where(difference.abs() < 1e-3, 1 - difference / 2, -torch.expm1(-difference) / difference)
        return (absorption * HOURS / volume * 100 * rise).log() - elimination * HOURS


GUIDES = {
    "Normal": lambda: pv.guides.Normal(),
    "MultivariateNormal": lambda: pv.guides.MultivariateNormal(),
    "Flow": lambda: pv.guides.Flow(3, kind="spline_autoregressive", layers=2),
}


def make(guide):
    likelihood = pv.likelihoods.Normal(4, scale="fixed", fixed_scale=0.2, standardize=False)
    encoder = pv.nets.MLP(hidden=(64, 64), activation="silu")
    return pv.VAE(
        likelihood=likelihood, prior=pv.priors.Normal(3), guide=guide, encoder=encoder, decoder=Concentration(), seed=0
    )


if __name__ == "__main__":
    import warnings

    warnings.simplefilter("ignore")
    for name, g in GUIDES.items():
        vae = make(g())
        x = vae.sample(4000, seed=1)
        t = time.time()
        rate = pv.schedules.Cosine(5e-3, 1e-5, epochs=100)
        vae.fit(x, epochs=100, batch_size=200, learning_rate=rate, seed=0)
        print(name, time.time() - t)
        t = time.time()
        c = pv.calibration.simulation_based_calibration(vae, num_rows=1000, seed=2)
        print(c, c.shape(), c.p_values, time.time() - t)
        t = time.time()
        new = vae.sample(200, seed=3)
        s = vae.log_likelihood(new, num_particles=2000, seed=4)
        print(
            s.unreliable.double().mean(),
            s.mean(),
            s.mean().estimate - vae.elbo(new, num_particles=500, seed=3).mean().estimate,
            time.time() - t,
        )
        t = time.time()
        print(pv.calibration.amortization_gap(vae, new, seed=5), time.time() - t)
        t = time.time()
        if name == "Normal":
            d = vae.posterior_draws(new[:5], num_samples=2000, resample=20000)["z"]
            for i in range(5):
                print(torch.corrcoef(d[:, i].T))
