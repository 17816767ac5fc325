"""Contrasts: what differs between two levels of a field, with its uncertainty.

`sides` reads which rows are compared under which values, `draws` computes, `results` has what is returned.
"""

from pyro_vae.criticism.contrasts.contrast import contrast
from pyro_vae.criticism.contrasts.discoveries import Discoveries
from pyro_vae.criticism.contrasts.results import Contrast

__all__ = ["Contrast", "Discoveries", "contrast"]
