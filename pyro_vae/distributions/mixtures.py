"""Mixtures of distributions."""

from __future__ import annotations

from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor

__all__ = ["MixtureOfDiagNormals"]


class MixtureOfDiagNormals(dist.MixtureOfDiagNormals):
    """Pyro's distribution of this name, with several draws from a batch, for which Pyro's raises an error."""

    def expand(self, batch_shape: Any, _instance: Any = None) -> MixtureOfDiagNormals:
        shape = torch.Size(batch_shape)
        locs, scales = (part.expand(shape + part.shape[-2:]) for part in (self.locs, self.coord_scale))
        return MixtureOfDiagNormals(locs, scales, self.component_logits.expand(shape + locs.shape[-2:-1]))

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        if not sample_shape:
            return super().rsample()  # type: ignore[no-any-return]
        return self.expand(torch.Size(sample_shape) + self.batch_shape).rsample()
