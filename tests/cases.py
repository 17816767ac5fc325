"""Tables of constructors: every property in `test_parts.py` runs over every row. A new part costs one line."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import scipy.stats
import torch
from torch import Tensor, nn

import pyro_vae as pv
from pyro_vae import elbos, guides, likelihoods, nets, priors

EVENT = (2, 3)
IMAGE = (1, 8, 8)

PRIORS: dict[str, Callable[[], priors.Prior]] = {
    "Normal": lambda: priors.Normal(3),
    "Normal learned": lambda: priors.Normal(3, learn=True),
}

GUIDES: dict[str, Callable[[], guides.Guide]] = {
    "Normal": lambda: guides.Normal(),
}

LIKELIHOODS: dict[str, Callable[[], likelihoods.Likelihood]] = {
    "Bernoulli": lambda: likelihoods.Bernoulli(EVENT),
    "Binomial": lambda: likelihoods.Binomial(EVENT, total_count=5),
    "Normal fixed": lambda: likelihoods.Normal(EVENT, scale="fixed", fixed_scale=0.7),
    "Normal shared": lambda: likelihoods.Normal(EVENT, scale="shared"),
    "Normal per dimension": lambda: likelihoods.Normal(EVENT, scale="per_dimension"),
    "Normal predicted": lambda: likelihoods.Normal(EVENT, scale="predicted"),
    "Normal plain": lambda: likelihoods.Normal(EVENT, standardize=False),
}

# Names of the above: scipy's log-probability of cells x given the base distribution's parameters.
REFERENCES: dict[str, Callable[[Any, Any], Any]] = {
    "Bernoulli": lambda d, x: scipy.stats.bernoulli.logpmf(x, d.probs.detach().numpy()),
    "Binomial": lambda d, x: scipy.stats.binom.logpmf(x, 5, d.probs.detach().numpy()),
    "Normal": lambda d, x: scipy.stats.norm.logpdf(x, d.loc.detach().numpy(), d.scale.detach().numpy()),
}

NETS: dict[str, tuple[Callable[[], nets.Recipe], tuple[int, ...], tuple[int, ...]]] = {
    "MLP": (lambda: nets.MLP(hidden=(7,)), EVENT, (4,)),
    "MLP affine": (lambda: nets.MLP(hidden=()), (4,), EVENT),
    "MLP dropout": (lambda: nets.MLP(hidden=(7, 6), activation="tanh", dropout=0.2), (5,), (2, 2, 2)),
    "Conv encoder": (lambda: nets.Conv(channels=(3, 4), hidden=(6,)), IMAGE, (4,)),
    "Conv decoder": (lambda: nets.Conv(channels=(3, 4), hidden=(6,)), (4,), IMAGE),
    "Conv odd sizes": (lambda: nets.Conv(channels=(3, 4, 5), hidden=()), (2,), (3, 7, 9)),
}

ELBOS: dict[str, Callable[[], elbos.Estimator]] = {
    "ELBO": lambda: elbos.ELBO(),
    "ELBO K=3": lambda: elbos.ELBO(num_particles=3),
    "MeanFieldELBO": lambda: elbos.MeanFieldELBO(num_particles=2),
    "IWAE": lambda: elbos.IWAE(num_particles=4),
    "ELBO stl": lambda: elbos.ELBO(gradient="stl"),
    "ELBO rloo": lambda: elbos.ELBO(num_particles=3, gradient="rloo"),
    "IWAE dreg": lambda: elbos.IWAE(num_particles=4, gradient="dreg"),
    "IWAE vimco": lambda: elbos.IWAE(num_particles=4, gradient="vimco"),
    "IWAE in chunks": lambda: elbos.IWAE(num_particles=5, max_particles_at_once=2),
    "CIWAE": lambda: elbos.CIWAE(num_particles=4),
    "CUBO": lambda: elbos.CUBO(num_particles=4),
    "MIWAE": lambda: elbos.MIWAE(num_particles=4, groups=2),
    "PIWAE": lambda: elbos.PIWAE(num_particles=4, groups=2),
    "Renyi": lambda: elbos.Renyi(alpha=0.5, num_particles=4),
    "Renyi VR-max": lambda: elbos.Renyi(alpha=float("-inf"), num_particles=4),
    "TVO": lambda: elbos.TVO(num_particles=4),
    "WakeSleep wake": lambda: elbos.WakeSleep(num_particles=4),
    "WakeSleep dreg": lambda: elbos.WakeSleep(num_particles=4, gradient="dreg"),
    "WakeSleep sleep": lambda: elbos.WakeSleep(num_particles=4, phase="sleep"),
}


def small_vae(**parts: Any) -> pv.VAE:
    """A small VAE with the parts given, in float64."""
    parts.setdefault("likelihood", likelihoods.Bernoulli(EVENT))
    parts.setdefault("prior", priors.Normal(3))
    parts.setdefault("encoder", nets.MLP(hidden=(8,)))
    parts.setdefault("decoder", nets.MLP(hidden=(8,)))
    return pv.VAE(**parts, seed=1).double()


def draw_data(likelihood: likelihoods.Likelihood, rows: int, seed: int = 0) -> Tensor:
    """Rows that the likelihood itself draws, so that they lie in its support."""
    with pv.scope.seeded(seed), torch.no_grad():
        return likelihood(torch.randn(rows, *likelihood.output_shape).to(next(likelihood.buffers()))).sample()


class BatchNormNet(nn.Module):
    """A user's own module with running statistics and dropout."""

    def __init__(self, sizes: tuple[int, int]) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(*sizes), nn.BatchNorm1d(sizes[1]), nn.Dropout(0.1))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x.flatten(1))
