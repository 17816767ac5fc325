"""Seeded models and data of `same_numbers.py`: few cases in which most kinds of part and estimator occur."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

import pyro_vae as pv
from pyro_vae import elbos, guides, likelihoods, priors

ROWS, COLUMNS = 320, 6


def draw_data(stream: torch.Generator) -> dict[str, Tensor]:
    """Rows of one kind: uniform and normal numbers, transformed."""
    uniform, normal = (draw(ROWS, COLUMNS, generator=stream) for draw in (torch.rand, torch.randn))
    return {
        "binary": (uniform > 0.5).float(),
        "real": normal,
        "positive": normal.exp(),
        "counts": (10 * uniform).floor(),
        "shares": uniform.clamp(0.01, 0.99),
        "levels": (3 * uniform).floor(),
    }


class Case(NamedTuple):
    """A model, the kind of its data, an estimator (the default if None), and further options of `fit`."""

    make: Callable[[], Any]
    kind: str
    elbo: Any = None
    options: dict[str, Any] = {}  # noqa: RUF012  nobody changes it


def vae(
    likelihood: likelihoods.Likelihood, prior: priors.Prior | None = None, guide: Any = None, **parts: Any
) -> pv.VAE:
    parts |= {} if guide is None else {"guide": guide}
    return pv.VAE(likelihood=likelihood, prior=priors.Normal(3) if prior is None else prior, seed=0, **parts)


def layers(likelihood: likelihoods.Likelihood, **options: Any) -> pv.HierarchicalVAE:
    return pv.HierarchicalVAE(likelihood=likelihood, latent_dims=(4, 2), seed=0, **options)


def flow_guide() -> guides.Flow:
    """An older version of the class needs the number of latents."""
    options: Any = {"latent_dim": 3} if "latent_dim" in inspect.signature(guides.Flow).parameters else {}
    return guides.Flow(**options)


class Factors(pv.LatentVariableModel):
    """A user's own program: x is linear in two latents."""

    def __init__(self) -> None:
        super().__init__()
        self.slopes, self.encoder = nn.Parameter(torch.full((COLUMNS, 2), 0.3)), nn.Linear(COLUMNS, 2)

    def model(self, x: Tensor | None = None, *, rows: int | None = None, **batch: Tensor) -> Tensor:
        with pyro.plate("data", len(x) if x is not None else rows):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            return pyro.sample("x", dist.Normal(z @ self.slopes.T, 1.0).to_event(1), obs=x)

    def guide(self, x: Tensor, **batch: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(self.encoder(x), 0.6).to_event(1))


def factors() -> Factors:
    torch.manual_seed(5)
    return Factors()


CASES = {
    "Bernoulli": Case(lambda: vae(likelihoods.Bernoulli(6)), "binary", None, {"patience": 5, "grad_clip": 1.0}),
    "Binomial, IWAE": Case(lambda: vae(likelihoods.Binomial(6, total_count=10)), "counts", elbos.IWAE(num_particles=5)),
    "Normal, mixture prior, DReG": Case(
        lambda: vae(likelihoods.Normal(6), priors.Mixture(3, 4)), "real", elbos.IWAE(num_particles=4, gradient="dreg")
    ),
    "Normal, flows, STL": Case(
        lambda: vae(likelihoods.Normal(6, scale="predicted"), priors.Flow(3), flow_guide()),
        "real",
        elbos.ELBO(num_particles=3, gradient="stl"),
    ),
    "Categorical, StudentT, MIWAE": Case(
        lambda: vae(likelihoods.Categorical(6, 3), priors.StudentT(3), guides.MultivariateNormal()),
        "levels",
        elbos.MIWAE(num_particles=4),
    ),
    "NegativeBinomial, Laplace, annealed": Case(
        lambda: vae(likelihoods.NegativeBinomial(6), priors.Laplace(3), guides.LowRankNormal(1)),
        "counts",
        elbos.MeanFieldELBO(kl_weight=pv.schedules.Linear(0.0, 1.0, steps=15)),
    ),
    "discrete latents, VIMCO": Case(
        lambda: vae(likelihoods.Bernoulli(6), priors.Bernoulli(3), guides.Bernoulli()),
        "binary",
        elbos.IWAE(num_particles=5, gradient="vimco"),
    ),
    "Gamma, free bits": Case(lambda: vae(likelihoods.Gamma(6)), "positive", elbos.FreeBitsELBO(floor=0.2)),
    "Beta, BetaTCVAE": Case(lambda: vae(likelihoods.Beta(6)), "shares", elbos.BetaTCVAE()),
    "two layers": Case(lambda: layers(likelihoods.Bernoulli(6)), "binary"),
    "ladder, KL balanced": Case(
        lambda: layers(likelihoods.Poisson(6), inference="top_down", width=16), "counts", elbos.KLBalancedELBO()
    ),
    "product": Case(
        lambda: vae(likelihoods.Product({"a": likelihoods.Normal(2), "b": likelihoods.Poisson(4)}), priors.Normal(2)),
        "counts",
    ),
    "StudentT, InfoVAE": Case(lambda: vae(likelihoods.StudentT(6), priors.Normal(2)), "real", elbos.InfoVAE()),
    "LogNormal, DIPVAE": Case(
        lambda: vae(likelihoods.LogNormal(6), priors.Normal(2)), "positive", elbos.DIPVAE(of="draws")
    ),
    "Bernoulli, wake-sleep": Case(
        lambda: vae(likelihoods.Bernoulli(6), priors.Normal(2)), "binary", elbos.WakeSleep(num_particles=4)
    ),
    "ContinuousBernoulli, TVO": Case(
        lambda: vae(likelihoods.ContinuousBernoulli(6), priors.Normal(2)), "shares", elbos.TVO(num_particles=4)
    ),
    "own program": Case(factors, "real", pyro.infer.Trace_ELBO(num_particles=2)),
}
AUTO = "Categorical, StudentT, MIWAE"  # with compile="auto", of which one case is enough
