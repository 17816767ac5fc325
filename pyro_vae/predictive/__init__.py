"""Draws and means of data and latents: `draws` has the draws, `means` the means and the sites' distributions."""

from pyro_vae.predictive.draws import (
    check_latent,
    one_site,
    posterior_draws,
    posterior_predictive,
    predictive,
    read_fields,
    replicates,
    run_model,
    sample,
    simulate,
    simulated_rows,
)
from pyro_vae.predictive.means import decode, encode, reconstruct

__all__ = [
    "check_latent",
    "decode",
    "encode",
    "one_site",
    "posterior_draws",
    "posterior_predictive",
    "predictive",
    "read_fields",
    "reconstruct",
    "replicates",
    "run_model",
    "sample",
    "simulate",
    "simulated_rows",
]
