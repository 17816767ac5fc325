"""Missing cells: completed data sets, and the results of several of them pooled into one."""

from pyro_vae.imputation.imputations import Imputations
from pyro_vae.imputation.impute import impute
from pyro_vae.imputation.pooling import Pooled, pool
from pyro_vae.imputation.wald import WaldTest

__all__ = ["Imputations", "Pooled", "WaldTest", "impute", "pool"]
