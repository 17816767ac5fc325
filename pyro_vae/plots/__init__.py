"""Figures from arrays: nothing here evaluates a model, reads a file or trains.

Every function draws into the axes `ax`, or into a new figure if `ax` is not given, and returns the axes. Those about
tables draw several panels: into `figure`, or a new one, which they return.
"""

from pyro_vae.plots.contrasts import contrast
from pyro_vae.plots.curves import latent_map, rate_distortion, training_curve
from pyro_vae.plots.pictures import images, interpolation, reconstructions
from pyro_vae.plots.posteriors import importance, khat, khat_map, kl_per_dimension, moments, rank_ecdf, sandwich
from pyro_vae.plots.predictions import comparison, coverage, pit, predictive_intervals, statistic
from pyro_vae.plots.reliability import reliability
from pyro_vae.plots.style import COLORS, FAINT, GREY, INK, MARKERS, TRAIN, VALID, grid
from pyro_vae.plots.tables import imputed, marginals, missing_pattern, pairs

__all__ = [
    "COLORS",
    "FAINT",
    "GREY",
    "INK",
    "MARKERS",
    "TRAIN",
    "VALID",
    "comparison",
    "contrast",
    "coverage",
    "grid",
    "images",
    "importance",
    "imputed",
    "interpolation",
    "khat",
    "khat_map",
    "kl_per_dimension",
    "latent_map",
    "marginals",
    "missing_pattern",
    "moments",
    "pairs",
    "pit",
    "predictive_intervals",
    "rank_ecdf",
    "rate_distortion",
    "reconstructions",
    "reliability",
    "sandwich",
    "statistic",
    "training_curve",
]
