"""Covariates: what is known about a row besides x, and reaches encoder, decoder or prior.

To add a kind, write a subclass of `Covariate` in the file of its sort, and a line in `covariates.NAMED` if it is to
have a name.
"""

from pyro_vae.covariates.base import Covariate
from pyro_vae.covariates.covariates import Covariates
from pyro_vae.covariates.levels import Levels
from pyro_vae.covariates.numbers import Binary, Real
from pyro_vae.covariates.times import Time

__all__ = ["Binary", "Covariate", "Covariates", "Levels", "Real", "Time"]
