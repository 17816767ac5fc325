"""Models composed of parts."""

from pyro_vae.models.hierarchical import HierarchicalVAE
from pyro_vae.models.semi_supervised import SemiSupervisedVAE
from pyro_vae.models.vae import VAE, latents_for

__all__ = ["VAE", "HierarchicalVAE", "SemiSupervisedVAE", "latents_for"]
