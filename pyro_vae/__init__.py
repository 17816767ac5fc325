"""Variational autoencoders as probabilistic programs."""

from typing import Any

from pyro_vae import (
    bounds,
    calibration,
    checks,
    datasets,
    disentanglement,
    elbos,
    evaluation,
    guides,
    latents,
    likelihoods,
    nets,
    priors,
    schedules,
    statistics,
)
from pyro_vae.base import LatentVariableModel
from pyro_vae.batches import Rows
from pyro_vae.checks import check
from pyro_vae.comparison import compare
from pyro_vae.diagnosis import diagnose
from pyro_vae.exchange import draws
from pyro_vae.hierarchies import HierarchicalVAE
from pyro_vae.history import History
from pyro_vae.loading import load
from pyro_vae.vae import VAE
from pyro_vae.weights import log_weights

__version__ = "0.1.0"

__all__ = [
    "VAE",
    "HierarchicalVAE",
    "History",
    "LatentVariableModel",
    "Rows",
    "bounds",
    "calibration",
    "check",
    "checks",
    "compare",
    "datasets",
    "diagnose",
    "disentanglement",
    "draws",
    "elbos",
    "evaluation",
    "guides",
    "latents",
    "likelihoods",
    "load",
    "log_weights",
    "nets",
    "plots",
    "priors",
    "schedules",
    "statistics",
]


def __getattr__(name: str) -> Any:
    """`pv.plots`, imported when it is first used: matplotlib is slow to import."""
    if name == "plots":
        import importlib

        return importlib.import_module("pyro_vae.plots")
    raise AttributeError(f"module 'pyro_vae' has no attribute {name!r}")
