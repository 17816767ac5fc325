"""Estimators of scikit-learn that train a VAE: `LatentTransformer`, `Imputer` and `DensityEstimator`.

scikit-learn takes long to import, so that `pv.sklearn` is imported when it is first used.
"""

from pyro_vae.sklearn.density import DensityEstimator
from pyro_vae.sklearn.imputer import Imputer
from pyro_vae.sklearn.transformer import LatentTransformer

__all__ = ["DensityEstimator", "Imputer", "LatentTransformer"]
