"""Neural networks, and recipes: descriptions of networks that do not state the sizes of input and output.

A recipe is a frozen dataclass with a method `build(in_shape, out_shape) -> nn.Module`, which `VAE` calls with the sizes
that its parts need. Any `nn.Module` that maps (B, *in_shape) to (B, *out_shape) can be used in place of a recipe.
"""

from pyro_vae.nets.base import Recipe, Rowwise, Shape, build
from pyro_vae.nets.conv import Conv
from pyro_vae.nets.gaps import CellSet, Masked
from pyro_vae.nets.mlp import MLP
from pyro_vae.nets.pixelcnn import PixelCNN
from pyro_vae.nets.resnet import ResNet
from pyro_vae.nets.sets import DeepSet
from pyro_vae.nets.spatial import Spatial

__all__ = [
    "MLP",
    "CellSet",
    "Conv",
    "DeepSet",
    "Masked",
    "PixelCNN",
    "Recipe",
    "ResNet",
    "Rowwise",
    "Shape",
    "Spatial",
    "build",
]
