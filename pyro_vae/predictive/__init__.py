"""Draws and means of data and latents, in `draws` and `means`; `sites` tells data and latents of a program apart."""

from pyro_vae.predictive.candidates import Candidates, draw_candidates
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
from pyro_vae.predictive.given import read_decode_as, read_fields
from pyro_vae.predictive.means import decode, encode, reconstruct
from pyro_vae.predictive.sites import check_latent

__all__ = [
    "Candidates",
    "check_latent",
    "decode",
    "draw_candidates",
    "encode",
    "one_site",
    "posterior_draws",
    "posterior_predictive",
    "predictive",
    "read_decode_as",
    "read_fields",
    "reconstruct",
    "replicates",
    "run_model",
    "sample",
    "simulate",
    "simulated_rows",
]
