"""Tables of constructors of parts, over which tests of a property run: a new part takes one line here."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pyro.distributions as dist
import scipy.special
import scipy.stats
import torch
from torch import Tensor, nn

import pyro_vae as pv
from pyro_vae import elbos, guides, likelihoods, nets, priors
from pyro_vae.parts import support_name, support_of
from pyro_vae.runtime.random import seeded

EVENT = (2, 3)
IMAGE = (1, 8, 8)

PRIORS: dict[str, Callable[[], priors.Prior]] = {
    "Normal": lambda: priors.Normal(3),
    "Normal learned": lambda: priors.Normal(3, learn=True),
    "Laplace": lambda: priors.Laplace(3),
    "Laplace learned": lambda: priors.Laplace(3, learn=True),
    "StudentT": lambda: priors.StudentT(3, df=4.0),
    "StudentT learned": lambda: priors.StudentT(3, learn=True),
    "Mixture": lambda: priors.Mixture(3, num_components=4),
    "VampPrior": lambda: priors.VampPrior(3, EVENT, num_components=4),
    "VampPrior of rows": lambda: priors.VampPrior(3, EVENT, num_components=4, learn=False),
    "VampPrior weighted": lambda: priors.VampPrior(3, EVENT, num_components=4, learn_weights=True),
    "Flow": lambda: priors.Flow(3, layers=2, hidden=(6,)),
    "Flow affine autoregressive": lambda: priors.Flow(3, kind="affine_autoregressive", layers=2, hidden=(6,)),
    "Flow spline coupling": lambda: priors.Flow(3, kind="spline_coupling", layers=2, hidden=(6,)),
    "Flow spline autoregressive": lambda: priors.Flow(3, kind="spline_autoregressive", layers=2, hidden=(6,)),
    "Distribution": lambda: priors.Distribution(dist.Gumbel(torch.zeros(3), 1.0).to_event(1)),
    "LogisticNormal": lambda: priors.LogisticNormal(3, concentration=(0.5, 1.0, 2.0)),
    "LogisticNormal learned": lambda: priors.LogisticNormal(3, learn=True),
    "PowerSpherical": lambda: priors.PowerSpherical(3),
    "PowerSpherical learned": lambda: priors.PowerSpherical(3, learn=True),
    "Bernoulli": lambda: priors.Bernoulli(3),
    "Bernoulli learned": lambda: priors.Bernoulli(3, learn=True),
    "Categorical": lambda: priors.Categorical(3),
    "Categorical learned": lambda: priors.Categorical(3, learn=True),
}

GUIDES: dict[str, Callable[[], guides.Guide]] = {
    "Normal": lambda: guides.Normal(),
    "MultivariateNormal": lambda: guides.MultivariateNormal(),
    "LowRankNormal": lambda: guides.LowRankNormal(rank=2),
    "Mixture": lambda: guides.Mixture(num_components=2),
    "StudentT": lambda: guides.StudentT(df=6.0),
    "Flow": lambda: guides.Flow(hidden=(6,), context_dim=2),
    "Flow affine coupling": lambda: guides.Flow(kind="affine_coupling", hidden=(6,), context_dim=2),
    "Flow spline autoregressive": lambda: guides.Flow(kind="spline_autoregressive", hidden=(6,), context_dim=2),
    "Flow spline coupling": lambda: guides.Flow(kind="spline_coupling", hidden=(6,), context_dim=2),
    "LogisticNormal": lambda: guides.LogisticNormal(),
    "PowerSpherical": lambda: guides.PowerSpherical(),
    "Bernoulli": lambda: guides.Bernoulli(),
    "Categorical": lambda: guides.Categorical(),
}

LIKELIHOODS: dict[str, Callable[[], likelihoods.Likelihood]] = {
    "Bernoulli": lambda: likelihoods.Bernoulli(EVENT),
    "Binomial": lambda: likelihoods.Binomial(EVENT, total_count=5),
    "Normal fixed": lambda: likelihoods.Normal(EVENT, scale="fixed", fixed_scale=0.7),
    "Normal shared": lambda: likelihoods.Normal(EVENT, scale="shared"),
    "Normal per dimension": lambda: likelihoods.Normal(EVENT, scale="per_dimension"),
    "Normal predicted": lambda: likelihoods.Normal(EVENT, scale="predicted"),
    "Normal plain": lambda: likelihoods.Normal(EVENT, standardize=False),
    "Normal optimal": lambda: likelihoods.Normal(EVENT, scale="optimal"),
    "Beta": lambda: likelihoods.Beta(EVENT),
    "Beta predicted": lambda: likelihoods.Beta(EVENT, dispersion="predicted"),
    "BetaBinomial": lambda: likelihoods.BetaBinomial(EVENT, total_count=5),
    "BetaBinomial predicted": lambda: likelihoods.BetaBinomial(EVENT, total_count=5, dispersion="predicted"),
    "Categorical": lambda: likelihoods.Categorical(EVENT, num_categories=4),
    "ContinuousBernoulli": lambda: likelihoods.ContinuousBernoulli(EVENT),
    "ContinuousBernoulli without limit": lambda: likelihoods.ContinuousBernoulli(EVENT, limit=None),
    "DiscretizedLogistic": lambda: likelihoods.DiscretizedLogistic(EVENT, levels=16),
    "DiscretizedLogistic mixture": lambda: likelihoods.DiscretizedLogistic(EVENT, levels=16, num_components=3),
    "Gamma": lambda: likelihoods.Gamma(EVENT),
    "Gamma predicted": lambda: likelihoods.Gamma(EVENT, dispersion="predicted"),
    "Laplace": lambda: likelihoods.Laplace(EVENT),
    "Laplace predicted": lambda: likelihoods.Laplace(EVENT, scale="predicted"),
    "LogNormal": lambda: likelihoods.LogNormal(EVENT),
    "LowRankNormal": lambda: likelihoods.LowRankNormal(5, rank=2),
    "Multinomial": lambda: likelihoods.Multinomial(5),
    "Multinomial of seven": lambda: likelihoods.Multinomial(5, total_count=7),
    "MultivariateNormal": lambda: likelihoods.MultivariateNormal(5),
    "NegativeBinomial": lambda: likelihoods.NegativeBinomial(EVENT),
    "NegativeBinomial per dimension": lambda: likelihoods.NegativeBinomial(EVENT, dispersion="per_dimension"),
    "NegativeBinomial predicted": lambda: likelihoods.NegativeBinomial(EVENT, dispersion="predicted"),
    "OrderedLogistic": lambda: likelihoods.OrderedLogistic(EVENT, num_categories=4),
    "Poisson": lambda: likelihoods.Poisson(EVENT),
    "Product": lambda: likelihoods.Product(
        {"visits": likelihoods.Poisson(2), "age": likelihoods.Normal(1), "class": likelihoods.Categorical(1, 3)}
    ),
    "StudentT": lambda: likelihoods.StudentT(EVENT, scale="predicted"),
    "StudentT learned": lambda: likelihoods.StudentT(EVENT, df=None),
    "ZeroInflatedNegativeBinomial": lambda: likelihoods.ZeroInflatedNegativeBinomial(EVENT),
    "ZeroInflatedPoisson": lambda: likelihoods.ZeroInflatedPoisson(EVENT),
    "Autoregressive Bernoulli": lambda: likelihoods.Autoregressive(
        likelihoods.Bernoulli((1, 4, 4)), net=nets.PixelCNN(channels=4, layers=2, kernel=3), context_channels=3
    ),
}

# Parts that hold a function, and so are not saved.
UNSAVED: dict[str, Callable[[], likelihoods.Likelihood]] = {
    "Custom": lambda: likelihoods.Custom(EVENT, lambda loc: dist.Gumbel(loc, 1.0).to_event(2)),
}


def _zero_inflated(counts: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    def reference(d: Any, x: Any) -> Any:
        gate = scipy.special.expit(d.gate_logits.detach().numpy())
        return np.log(gate * (x == 0) + (1 - gate) * np.exp(counts(d.base_dist, x)))

    return reference


def _discretized_logistic(d: Any, x: Any) -> Any:
    loc, scale, logits = (part.detach().numpy() for part in (d.loc, d.scale, d.logits))
    edges = [
        np.where(end, edge, (x + shift))[..., None]
        for end, edge, shift in ((x == 0, -np.inf, -0.5), (x == d.levels - 1, np.inf, 0.5))
    ]
    low, high = (scipy.stats.logistic.cdf(edge, loc, scale) for edge in edges)
    return np.log((scipy.special.softmax(logits, -1) * (high - low)).sum(-1))


def _normal_rows(d: Any, x: Any) -> Any:
    terms = zip(x, d.loc.detach().numpy(), d.covariance_matrix.detach().numpy(), strict=True)
    return np.array([scipy.stats.multivariate_normal.logpdf(*row) for row in terms])


def _product(d: Any, x: Any) -> Any:
    columns = np.split(x, np.cumsum(d.sizes)[:-1], -1)
    kinds = ("Poisson", "Normal", "Categorical")
    terms = [REFERENCES[k](b.base_dist, c).sum(-1) for k, b, c in zip(kinds, d.blocks, columns, strict=True)]
    return np.sum(terms, 0)


def _continuous_bernoulli(d: Any, x: Any) -> Any:
    logits = d.logits.detach().numpy()
    size, distance = np.abs(logits), np.where(logits > 0, 1 - x, x)
    return scipy.stats.truncexpon.logpdf(size * distance, size) + np.log(size)


# By class: scipy's log-probability of the cells of x, or of its rows, given the parameters of the base distribution.
REFERENCES: dict[str, Callable[[Any, Any], Any]] = {
    "Bernoulli": lambda d, x: scipy.stats.bernoulli.logpmf(x, d.probs.detach().numpy()),
    "Beta": lambda d, x: scipy.stats.beta.logpdf(x, d.concentration1.detach(), d.concentration0.detach()),
    "BetaBinomial": lambda d, x: scipy.stats.betabinom.logpmf(
        x, 5, d.concentration1.detach(), d.concentration0.detach()
    ),
    "Binomial": lambda d, x: scipy.stats.binom.logpmf(x, 5, d.probs.detach().numpy()),
    "Categorical": lambda d, x: np.log(np.take_along_axis(d.probs.detach().numpy(), x.astype(int)[..., None], -1))[
        ..., 0
    ],
    "ContinuousBernoulli": _continuous_bernoulli,
    "DiscretizedLogistic": _discretized_logistic,
    "Gamma": lambda d, x: scipy.stats.gamma.logpdf(x, d.concentration.detach(), scale=1 / d.rate.detach()),
    "Laplace": lambda d, x: scipy.stats.laplace.logpdf(x, d.loc.detach(), d.scale.detach()),
    "LogNormal": lambda d, x: scipy.stats.lognorm.logpdf(x, d.scale.detach(), scale=d.loc.detach().exp()),
    "LowRankNormal": _normal_rows,
    "Multinomial": lambda d, x: scipy.stats.multinomial.logpmf(x, x.sum(-1), d.logits.softmax(-1).detach().numpy()),
    "MultivariateNormal": _normal_rows,
    "NegativeBinomial": lambda d, x: scipy.stats.nbinom.logpmf(
        x, d.total_count.detach(), (-d.logits).sigmoid().detach()
    ),
    "Normal": lambda d, x: scipy.stats.norm.logpdf(x, d.loc.detach().numpy(), d.scale.detach().numpy()),
    "OrderedLogistic": lambda d, x: REFERENCES["Categorical"](d, x),
    "Poisson": lambda d, x: scipy.stats.poisson.logpmf(x, d.rate.detach()),
    "Product": _product,
    "StudentT": lambda d, x: scipy.stats.t.logpdf(x, d.df.detach(), d.loc.detach(), d.scale.detach()),
    "ZeroInflatedNegativeBinomial": _zero_inflated(lambda d, x: REFERENCES["NegativeBinomial"](d, x)),
    "ZeroInflatedPoisson": _zero_inflated(lambda d, x: REFERENCES["Poisson"](d, x)),
}

NETS: dict[str, tuple[Callable[[], nets.Recipe], tuple[int, ...], tuple[int, ...]]] = {
    "MLP": (lambda: nets.MLP(hidden=(7,)), EVENT, (4,)),
    "MLP affine": (lambda: nets.MLP(hidden=()), (4,), EVENT),
    "MLP dropout": (lambda: nets.MLP(hidden=(7, 6), activation="tanh", dropout=0.2), (5,), (2, 2, 2)),
    "Conv encoder": (lambda: nets.Conv(channels=(3, 4), hidden=(6,)), IMAGE, (4,)),
    "Conv decoder": (lambda: nets.Conv(channels=(3, 4), hidden=(6,)), (4,), IMAGE),
    "Conv odd sizes": (lambda: nets.Conv(channels=(3, 4, 5), hidden=()), (2,), (3, 7, 9)),
    "MLP gated": (lambda: nets.MLP(hidden=(7, 6), gated=True), EVENT, (4,)),
    "MLP residual": (lambda: nets.MLP(hidden=(6, 7, 7), residual=True), EVENT, (4,)),
    "MLP layer norm": (lambda: nets.MLP(hidden=(7,), normalization="layer"), (5,), EVENT),
    "MLP of all": (
        lambda: nets.MLP((7, 7), "silu", dropout=0.1, gated=True, residual=True, normalization="batch"),
        EVENT,
        (4,),
    ),
    "ResNet encoder": (lambda: nets.ResNet(channels=(4, 16), blocks=1, hidden=(6,)), IMAGE, (4,)),
    "ResNet decoder": (lambda: nets.ResNet(channels=(4, 16), blocks=1, hidden=(6,)), (4,), IMAGE),
    "ResNet plain": (lambda: nets.ResNet(channels=(4,), blocks=2, normalization=None), (2, 8, 8), (4,)),
    "ResNet odd sizes": (lambda: nets.ResNet(channels=(3, 4, 5), blocks=1), (2,), (3, 7, 9)),
    "ResNet odd encoder": (lambda: nets.ResNet(channels=(3, 4, 5), blocks=1), (3, 7, 9), (2,)),
    "DeepSet": (lambda: nets.DeepSet(features=5, element_hidden=(6,), hidden=(7,)), (6, 2), (4,)),
    "DeepSet sum": (lambda: nets.DeepSet(features=5, element_hidden=(), hidden=(), pool="sum"), (6, 2), (4,)),
    "DeepSet max": (lambda: nets.DeepSet(features=5, pool="max", activation="tanh"), (6, 2), (4,)),
    "Spatial": (lambda: nets.Spatial(hidden=(6,)), (5,), (2, 4, 6)),
    "Spatial of all": (lambda: nets.Spatial(scale=True, hidden=(6, 6), activation="silu"), (4,), IMAGE),
    "Spatial of none": (lambda: nets.Spatial(rotation=False, translation=False, hidden=(6,)), (3,), IMAGE),
    "Masked": (lambda: nets.Masked(nets.MLP(hidden=(7,))), EVENT, (4,)),
    "CellSet": (lambda: nets.CellSet(width=4, element_hidden=(5,), hidden=(6,)), EVENT, (4,)),
    "PixelCNN": (lambda: nets.PixelCNN(channels=4, layers=2, kernel=3), (2, 4, 5), (6, 4, 5)),
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
    """Rows that the likelihood itself draws, and which therefore lie in its support."""
    with seeded(seed), torch.no_grad():
        like = next(likelihood.buffers(), torch.empty(()))  # a likelihood may have none
        return likelihood(torch.randn(rows, *likelihood.output_shape).to(like)).sample()


class BatchNormNet(nn.Module):
    """A user's own module with running statistics and dropout."""

    def __init__(self, sizes: tuple[int, int]) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(*sizes), nn.BatchNorm1d(sizes[1]), nn.Dropout(0.1))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x.flatten(1))


@cache
def _guide_distribution(name: str) -> Any:
    guide = GUIDES[name]()
    guide.prepare(3)
    return guide(torch.zeros(1, *guide.parameter_shape(3)))


@cache
def _prior_support(name: str) -> str | None:
    """The name of the support of a prior; None for a VampPrior, which has that of any guide."""
    prior = PRIORS[name]()
    return None if isinstance(prior, priors.VampPrior) else support_name(support_of(prior()))


def fits(row: tuple[str, ...]) -> bool:
    """Whether a prior and a guide, and an estimator if the row ends with one, fit; every likelihood fits them all."""
    prior, guide, *rest = row
    q = _guide_distribution(guide)
    any_draws = not rest or rest[-1] not in ELBOS or rest[-1].endswith(("rloo", "vimco"))
    return _prior_support(prior) in (None, support_name(support_of(q))) and (q.has_rsample or any_draws)


def combined_vae(prior: str, guide: str, likelihood: str) -> pv.VAE:
    """A small VAE of the cases with these names."""
    x_given_z, p = LIKELIHOODS[likelihood](), PRIORS[prior]()
    if isinstance(p, priors.VampPrior):
        p = priors.VampPrior(3, x_given_z.feature_shape, p.num_components, p.learn, p.learn_weights)
    return small_vae(likelihood=x_given_z, prior=p, guide=GUIDES[guide]())


def by_class(table: dict[str, Callable[[], Any]]) -> list[str]:
    """The name of the first case of each class."""
    first: dict[type, str] = {}
    for name, make in table.items():
        first.setdefault(type(make()), name)
    return list(first.values())
