"""Draws and means of data and latents: `draws` has the draws, `means` the means and the sites' distributions."""

from pyro_vae.predictive.draws import (
    posterior_draws,
    posterior_predictive,
    predictive,
    replicate_whole,
    run_model,
    sample,
    simulate,
)
from pyro_vae.predictive.means import decode, encode, reconstruct

__all__ = [
    "decode",
    "encode",
    "posterior_draws",
    "posterior_predictive",
    "predictive",
    "reconstruct",
    "replicate_whole",
    "run_model",
    "sample",
    "simulate",
]
