"""What latents hold: `usage` says how many are in use and what they tell about x, `views` what can be read off them."""

from pyro_vae.criticism.latents.usage import REMEDIES, LatentUse, SiteUse, use
from pyro_vae.criticism.latents.views import (
    Probe,
    RateDistortion,
    principal_components,
    probe,
    rate_distortion,
    traverse,
)

__all__ = [
    "REMEDIES",
    "LatentUse",
    "Probe",
    "RateDistortion",
    "SiteUse",
    "principal_components",
    "probe",
    "rate_distortion",
    "traverse",
    "use",
]
