"""What is assumed about missing cells: parts that a `VAE` takes as `missing=`."""

from pyro_vae.missing.at_random import AtRandom
from pyro_vae.missing.base import Missing
from pyro_vae.missing.mechanisms import FromFunction, Logistic, Mechanism, SelfMasking
from pyro_vae.missing.not_at_random import NotAtRandom
from pyro_vae.missing.sensitivity import Sensitivity, sensitivity

__all__ = [
    "AtRandom",
    "FromFunction",
    "Logistic",
    "Mechanism",
    "Missing",
    "NotAtRandom",
    "SelfMasking",
    "Sensitivity",
    "sensitivity",
]
