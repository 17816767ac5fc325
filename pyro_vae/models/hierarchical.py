"""Variational autoencoders with several stochastic layers, as Pyro programs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyro
import pyro.distributions as dist
from pyro.distributions import constraints
from torch import Tensor, nn

from pyro_vae import likelihoods, nets, priors
from pyro_vae.arguments import check_kind, positive_integer
from pyro_vae.covariates import Covariates
from pyro_vae.inference.programs import num_rows
from pyro_vae.missing.base import Missing, default_encoder, prepare_missing
from pyro_vae.model import LatentVariableModel
from pyro_vae.models.asking import AsksParts, prepare_covariates
from pyro_vae.parts import as_scale, support_name, support_of
from pyro_vae.runtime.isolation import isolated
from pyro_vae.runtime.random import seeded

__all__ = ["HierarchicalVAE"]


class HierarchicalVAE(AsksParts, LatentVariableModel):
    """z_L ~ prior, z_l | z_{l+1} ~ Normal for l = L - 1, ..., 1, and x | z_1 ~ likelihood; sites "z1" to "zL" and "x".

    The upper layers make the prior of the lower ones more flexible, which is worth some nats over one layer of the same
    size. There are two kinds of guides:

    - "bottom_up" (Burda et al.): q(z_1 | x), then q(z_{l+1} | z_l), each with a net of its own. It trains fast.
    - "top_down" (ladder): a deterministic path leads upward, and the latents are drawn from the top down. q of a layer
      has a density proportional to the product of two normals: one from the path, and the model's p(z_l | z_{l+1}).
      Guide and model share the nets from layer to layer downward. Warm the KL up over most of the training: on MNIST
      the upper layer held next to nothing otherwise, and a VAE with one layer was better. Annealing came out below
      importance sampling there: look at both.

    Args:
        likelihood: p(x | z_1), with the event shape of one row.
        latent_dims: the sizes D_1, ..., D_L of the layers, from the data upward; at least two.
        prior: p(z_L) on the real numbers; the standard normal by default.
        inference: "bottom_up" or "top_down".
        encoder: a recipe for the net that sees x.
        decoder: a recipe for the net that gives the likelihood's parameters.
        between: a recipe for the nets from layer to layer, upward and downward.
        width: number of features in each layer of the path upward; for "top_down" only.
        missing: what is assumed about missing cells; see `VAE`.
        covariates: what is known about a row besides x; see `VAE`. They reach the net that sees x, that of the
            likelihood, or the prior of the highest layer.
        seed: seed of the initial parameters; by default they are drawn from the global random state.

    Raises:
        TypeError: if a part is not of its kind.
        ValueError: if a size is out of range, `inference` unknown, or the prior does not fit the highest layer.

    References:
        *Importance Weighted Autoencoders* (Burda, Grosse, Salakhutdinov, 2015), arXiv 1509.00519; *Ladder Variational
        Autoencoders* (Sonderby et al., 2016), arXiv 1602.02282

    Example:
        >>> import torch
        >>> from pyro_vae import likelihoods
        >>> vae = HierarchicalVAE(likelihood=likelihoods.Bernoulli((1, 8, 8)), latent_dims=(8, 2), seed=0)
        >>> {site: q.event_shape for site, q in vae.encode(torch.zeros(3, 1, 8, 8)).items()}
        {'z1': torch.Size([8]), 'z2': torch.Size([2])}
    """

    def __init__(
        self,
        *,
        likelihood: likelihoods.Likelihood,
        latent_dims: Sequence[int],
        prior: priors.Prior | None = None,
        inference: str = "bottom_up",
        encoder: nets.Recipe | None = None,
        decoder: nets.Recipe | None = None,
        between: nets.Recipe | None = None,
        width: int = 256,
        missing: Missing | None = None,
        covariates: Covariates | None = None,
        seed: int | None = None,
    ) -> None:
        super().__init__()
        sizes = latent_dims if isinstance(latent_dims, Sequence) else (latent_dims,)
        self.latent_dims = tuple(positive_integer("latent_dims", size) for size in sizes)
        if len(self.latent_dims) < 2:
            raise ValueError(f"latent_dims must be two sizes or more; got {self.latent_dims}. For one layer use VAE.")
        if inference not in ("top_down", "bottom_up"):
            raise ValueError(f"inference must be top_down or bottom_up; got {inference!r}. Choose one of these.")
        top = self.latent_dims[-1]
        self.prior = check_kind("prior", priors.Normal(top) if prior is None else prior, priors.Prior)
        if self.prior.latent_dim != top:
            raise ValueError(
                f"prior must have {top} latents, as the highest layer; got {self.prior.latent_dim}. Change its size."
            )
        _check_real(self.prior)
        self.likelihood = check_kind("likelihood", likelihood, likelihoods.Likelihood)
        self.likelihood.check_support()
        self.missing = prepare_missing(missing, likelihood)
        if self.missing is not None and self.missing.site is not None:
            raise NotImplementedError(
                f"missing must be AtRandom for several layers; got {type(missing).__name__}. Use a VAE with one."
            )
        self.covariates = prepare_covariates(covariates, self)
        self.inference, self.width = inference, positive_integer("width", width)
        self.nets = {
            "encoder": default_encoder(missing) if encoder is None else encoder,
            "decoder": nets.MLP() if decoder is None else decoder,
            "between": nets.MLP((64,)) if between is None else between,
        }
        below = list(zip(self.latent_dims, self.latent_dims[1:], strict=False))
        with seeded(seed), isolated():
            if self.covariates is not None:
                self.covariates.prepare(top)
            self.decoder = self._build_net("decoder", (self.latent_dims[0],), likelihood.output_shape)
            self.down = nn.ModuleList(self._build_net("between", (high,), (2 * low,)) for low, high in below)
            if inference == "bottom_up":
                self.encoder = self._build_net("encoder", likelihood.feature_shape, (2 * self.latent_dims[0],))
                self.up = nn.ModuleList(self._build_net("between", (low,), (2 * high,)) for low, high in below)
            else:
                self.encoder = self._build_net("encoder", likelihood.feature_shape, (width,))
                self.up = nn.ModuleList(self._build_net("between", (width,), (width,)) for _ in below)
                self.heads = nn.ModuleList(nn.Linear(width, 2 * size) for size in self.latent_dims)

    def made_of(self) -> dict[str, Any]:
        names = ("likelihood", "latent_dims", "prior", "inference", "width", "missing", "covariates")
        return {name: getattr(self, name) for name in names} | self.nets

    def model(self, x: Tensor | None = None, *, rows: int | None = None, **batch: Tensor) -> Tensor:
        observed = None
        if x is not None:
            x, observed, batch = self.split_missing(x.to(self.like.dtype), batch)
        with pyro.plate(self.row_plate, num_rows(x, rows)):
            z = pyro.sample(f"z{len(self.latent_dims)}", self.prior_of(batch))
            for layer in reversed(range(len(self.down))):
                z = pyro.sample(f"z{layer + 1}", _normal(*_moments(self.down[layer](z))))
            return self.sample_row(self.likelihood(self.decoder_output(z, batch), **batch), x, observed)

    def guide(self, x: Tensor, **batch: Tensor) -> None:
        x, observed, batch = self.split_missing(x.to(self.like.dtype), batch)
        features = self.encoder_output(x, observed, batch)
        with pyro.plate(self.row_plate, x.shape[0]):
            (self._bottom_up if self.inference == "bottom_up" else self._top_down)(features)

    def _bottom_up(self, parameters: Tensor) -> None:
        z = pyro.sample("z1", _normal(*_moments(parameters)))
        for layer, net in enumerate(self.up):
            z = pyro.sample(f"z{layer + 2}", _normal(*_moments(net(z))))

    def _top_down(self, features: Tensor) -> None:
        path = [features]
        for net in self.up:
            path.append(net(path[-1]))
        *lower, (loc, scale) = [_moments(head(features)) for head, features in zip(self.heads, path, strict=True)]
        z = pyro.sample(f"z{len(path)}", _normal(loc, scale))
        for layer in reversed(range(len(lower))):
            z = pyro.sample(f"z{layer + 1}", _normal(*_product_of_normals(lower[layer], _moments(self.down[layer](z)))))


def _check_real(prior: priors.Prior) -> None:
    """Raise a ValueError unless a prior draws real numbers, and needs no posterior to do so."""
    advice = "Choose another, e.g. priors.Mixture or priors.Flow."
    if isinstance(prior, priors.VampPrior):  # a mixture of q(z | x), which has several layers here
        raise ValueError(f"prior must draw real numbers by itself; got VampPrior. {advice}")
    support = support_of(prior())
    if support is not None and support_name(support) != support_name(constraints.real):
        raise ValueError(
            f"prior must draw real numbers, since the guide is normal; got {support_name(support)} from"
            f" {type(prior).__name__}. {advice}"
        )


Moments = tuple[Tensor, Tensor]  # mean and standard deviation of independent normals


def _moments(parameters: Tensor) -> Moments:
    """Mean and standard deviation from the output of a net, (..., 2 D)."""
    loc, raw = parameters.chunk(2, -1)
    return loc, as_scale(raw)


def _normal(loc: Tensor, scale: Tensor) -> dist.TorchDistribution:
    return dist.Normal(loc, scale).to_event(1)


def _product_of_normals(one: Moments, two: Moments) -> Moments:
    """The moments of the normal whose density is proportional to the product of two normal densities."""
    a, b = one[1].square().reciprocal(), two[1].square().reciprocal()
    return (a * one[0] + b * two[0]) / (a + b), (a + b).rsqrt()
