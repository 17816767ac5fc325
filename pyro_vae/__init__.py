"""Variational autoencoders as probabilistic programs."""

from typing import Any

from pyro_vae import (
    bounds,
    covariates,
    datasets,
    elbos,
    evaluation,
    guides,
    likelihoods,
    missing,
    nets,
    priors,
    schedules,
    tables,
)
from pyro_vae.covariates import Covariates
from pyro_vae.criticism import calibration, checks, disentanglement, latents, statistics
from pyro_vae.criticism.arviz import Draws, draws
from pyro_vae.criticism.checks import check
from pyro_vae.criticism.classification import Classification, classification
from pyro_vae.criticism.comparison import Comparison, compare
from pyro_vae.criticism.contrasts import Contrast, Discoveries, contrast
from pyro_vae.criticism.diagnosis import Diagnosis, Finding, diagnose
from pyro_vae.data.batches import Rows
from pyro_vae.imputation import Imputations, Pooled, WaldTest, pool
from pyro_vae.inference.labels import sample_label
from pyro_vae.inference.weights import LogWeights, log_weights
from pyro_vae.loading import load
from pyro_vae.model import LatentVariableModel
from pyro_vae.models import VAE, HierarchicalVAE, SemiSupervisedVAE
from pyro_vae.runtime import processes
from pyro_vae.tables import Table
from pyro_vae.training import callbacks
from pyro_vae.training.convergence import Convergence
from pyro_vae.training.history import History

__version__ = "0.2.0"

__all__ = [
    "VAE",
    "Classification",
    "Comparison",
    "Contrast",
    "Convergence",
    "Covariates",
    "Diagnosis",
    "Discoveries",
    "Draws",
    "Finding",
    "HierarchicalVAE",
    "History",
    "Imputations",
    "LatentVariableModel",
    "LogWeights",
    "Pooled",
    "Rows",
    "SemiSupervisedVAE",
    "Table",
    "WaldTest",
    "bounds",
    "calibration",
    "callbacks",
    "check",
    "checks",
    "classification",
    "compare",
    "contrast",
    "covariates",
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
    "missing",
    "nets",
    "plots",
    "pool",
    "priors",
    "processes",
    "sample_label",
    "schedules",
    "sklearn",
    "statistics",
    "tables",
]


def __dir__() -> list[str]:
    """What users use: the names in `__all__`."""
    return sorted(__all__)


def __getattr__(name: str) -> Any:
    """`pv.plots` and `pv.sklearn` are imported when first used: matplotlib and scikit-learn take long to import."""
    if name in ("plots", "sklearn"):
        import importlib

        return importlib.import_module(f"pyro_vae.{name}")
    raise AttributeError(f"module 'pyro_vae' has no attribute {name!r}")
