"""Networks from tensor to tensor, and recipes for them that know no sizes yet.

A recipe is a frozen dataclass with `build(in_shape, out_shape) -> nn.Module`; `VAE` fills the sizes in. Any
`nn.Module` that maps (B, *in_shape) to (B, *out_shape) serves as well.
"""

from pyro_vae.nets.base import Recipe, Rowwise, Shape, build
from pyro_vae.nets.conv import Conv
from pyro_vae.nets.mlp import MLP
from pyro_vae.nets.pixelcnn import PixelCNN
from pyro_vae.nets.resnet import ResNet
from pyro_vae.nets.sets import DeepSet
from pyro_vae.nets.spatial import Spatial

__all__ = [
    "MLP",
    "Conv",
    "DeepSet",
    "PixelCNN",
    "Recipe",
    "ResNet",
    "Rowwise",
    "Shape",
    "Spatial",
    "build",
]
