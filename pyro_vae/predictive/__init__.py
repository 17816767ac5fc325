"""Draws and means of data and latents: `draws` has the draws, `means` the means and the sites' distributions."""

from pyro_vae.predictive.draws import (
    one_site,
    posterior_draws,
    posterior_predictive,
    predictive,
    replicates,
    run_model,
    sample,
    simulate,
    simulated_rows,
)
from pyro_vae.predictive.means import decode, encode, reconstruct

__all__ = [
    "decode",
    "encode",
    "one_site",
    "posterior_draws",
    "posterior_predictive",
    "predictive",
    "reconstruct",
    "replicates",
    "run_model",
    "sample",
    "simulate",
    "simulated_rows",
]
