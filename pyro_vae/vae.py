"""The variational autoencoder: five independent parts composed into a model and a guide."""

from __future__ import annotations

from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from pyro_vae import guides, likelihoods, nets, priors, scope
from pyro_vae.base import LatentVariableModel, keep_parameters
from pyro_vae.batches import as_tensor
from pyro_vae.parts import check_kind, positive_integer, support
from pyro_vae.programs import num_rows

__all__ = ["VAE"]


class VAE(LatentVariableModel):
    """z ~ prior, x | z ~ likelihood(decoder(z)); q(z | x) = guide(encoder(x)).

    Args:
        likelihood: p(x | z), with the event shape of one row.
        prior: p(z), with the number of latents; or any `pyro.distributions` object with events (D,).
        guide: the family of q(z | x); a mean-field normal by default.
        encoder: a recipe, or a module from (B, *E) to the guide's parameters (B, P). It sees `likelihood.features(x)`.
        decoder: a recipe, or a module from (B, D) to the likelihood's parameters.
        seed: of the initial parameters of the nets; the global random state by default. Parts start alike.

    Attributes:
        family: the guide's family (`guide` is the program).

    Raises:
        TypeError: if a part is not of its kind.
        ValueError: if parts do not fit each other: sizes, event shapes, supports.

    References:
        *Auto-Encoding Variational Bayes* (Kingma, Welling, 2013), arXiv 1312.6114

    Example:
        >>> from pyro_vae import likelihoods, priors
        >>> vae = VAE(likelihood=likelihoods.Bernoulli((1, 8, 8)), prior=priors.Normal(2), seed=0)
        >>> vae.encode(torch.zeros(3, 1, 8, 8)).mean.shape, vae.sample(5).shape
        (torch.Size([3, 2]), torch.Size([5, 1, 8, 8]))
    """

    def __init__(
        self,
        *,
        likelihood: likelihoods.Likelihood,
        prior: priors.Prior | Distribution,
        guide: guides.Guide | None = None,
        encoder: nets.Recipe | nn.Module | None = None,
        decoder: nets.Recipe | nn.Module | None = None,
        seed: int | None = None,
    ) -> None:
        super().__init__()
        prior = priors.Distribution(prior) if isinstance(prior, Distribution) else prior
        self.likelihood = check_kind("likelihood", likelihood, likelihoods.Likelihood)
        self.prior = check_kind("prior", prior, priors.Prior)
        self.family = check_kind("guide", guides.Normal() if guide is None else guide, guides.Guide)
        self.nets = {"encoder": encoder or nets.MLP(), "decoder": decoder or nets.MLP()}
        for net in (encoder, decoder):
            if isinstance(net, nn.Module):
                keep_parameters(net)
        with scope.seeded(seed), scope.isolated():
            latent_shape = (prior.latent_dim,)
            parameter_shape = self.family.parameter_shape(prior.latent_dim)
            self.encoder = nets.build(self.nets["encoder"], likelihood.feature_shape, parameter_shape, "encoder")
            self.decoder = nets.build(self.nets["decoder"], latent_shape, likelihood.output_shape, "decoder")
        with scope.isolated(), scope.preserved_rng(), scope.preserved_buffers(self), torch.no_grad():
            self._check_parts(parameter_shape)

    def _check_parts(self, parameter_shape: tuple[int, ...]) -> None:
        """Raise where the parts do not fit each other; what depends on fields is checked by the first batch."""
        seen = self.likelihood.feature_shape
        if isinstance(self.prior, priors.VampPrior) and self.prior.event_shape != seen:
            raise ValueError(
                f"event_shape of the VampPrior must be the likelihood's feature_shape, {seen}; got"
                f" {self.prior.event_shape}. Pass event_shape={seen}."
            )
        try:
            p = self.prior(posterior=self._posterior)
            likelihood = self.likelihood(torch.zeros(1, *self.likelihood.output_shape).to(self.like))
        except (KeyError, TypeError):
            return
        q = self.family(torch.zeros(1, *parameter_shape).to(self.like))
        latent, guide = type(self.prior).__name__, type(self.family).__name__
        if not p.event_shape == q.event_shape == (self.prior.latent_dim,):
            raise ValueError(
                f"prior and guide must have the event shape ({self.prior.latent_dim},); got {tuple(p.event_shape)} from"
                f" {latent} and {tuple(q.event_shape)} from {guide}. Change sizes, or declare events by to_event(1)."
            )
        if support(p) and support(q) and support(p) != support(q):
            raise ValueError(
                f"guide must draw z from the support of prior {latent}, {support(p)}; got {support(q)} from {guide}."
                f" {_advice(support(p))}"
            )
        if likelihood.event_shape != self.likelihood.event_shape:
            raise ValueError(
                f"likelihood must be a distribution of events {self.likelihood.event_shape}; got"
                f" {tuple(likelihood.event_shape)}. Change event_shape, or declare events by to_event."
            )

    def made_of(self) -> dict[str, Any]:
        return {"likelihood": self.likelihood, "prior": self.prior, "guide": self.family, **self.nets}

    def model(self, x: Tensor | None = None, *, rows: int | None = None, **batch: Tensor) -> Tensor:
        x = x if x is None else x.to(self.like.dtype)
        with pyro.plate(self.row_plate, num_rows(x, rows)):
            z = pyro.sample("z", self.prior(posterior=self._posterior, **batch))
            return pyro.sample("x", self.likelihood(self.decoder(z), **batch), obs=x)

    def guide(self, x: Tensor, **batch: Tensor) -> Tensor:
        with pyro.plate(self.row_plate, x.shape[0]):
            return pyro.sample("z", self._posterior(self.likelihood.features(x.to(self.like.dtype))))

    def _posterior(self, features: Tensor) -> dist.TorchDistribution:
        return self.family(self.encoder(features))  # type: ignore[no-any-return]

    def initialize(self, x: Tensor, **batch: Tensor) -> None:
        self.likelihood.initialize(x, **batch)
        self.prior.initialize(self.likelihood.features(x))

    def check_data(self, x: Tensor, first_row: int = 0) -> None:
        self.likelihood.check(x, first_row)

    def encode(self, x: Any, *, seed: int | None = None, **fields: Any) -> dist.TorchDistribution:
        """q(z | x): batch shape (B,), event shape (D,); its `.mean` is deterministic, its `.sample()` a draw."""
        rows, _ = self._rows(x, fields)
        with scope.evaluating(self, seed=seed):
            chunks = [rows.take(part, like=self.like)["x"] for part in torch.arange(len(rows)).split(4096)]
            return self.family(torch.cat([self.encoder(self.likelihood.features(chunk)) for chunk in chunks]))  # type: ignore[no-any-return]

    def decode(self, z: Any, **fields: Tensor) -> dist.TorchDistribution:
        """The distribution p(x | z) for latents (..., D): batch shape (...), event shape E."""
        z = as_tensor(z, "z")
        if z.shape[-1:] != (self.prior.latent_dim,):
            raise ValueError(
                f"z must have shape (..., {self.prior.latent_dim}); got {tuple(z.shape)}. Its last dimension is D."
            )
        with scope.evaluating(self):
            return self.likelihood(self.decoder(z.to(self.like)), **fields)  # type: ignore[no-any-return]

    def interpolate(self, x0: Any, x1: Any, *, steps: int = 9, path: str = "linear") -> Tensor:
        """Decoder means along a path between the guide's means of two batches of rows.

        Args:
            x0: where to start, (B, *E).
            x1: where to end, (B, *E).
            steps: points on the path, both ends included.
            path: "linear", or "spherical": along the great circle, lengths interpolated, which keeps to where the
                standard normal has its mass.

        Returns:
            (steps, B, *E).

        Raises:
            ValueError: if `steps` is less than 2 or `path` unknown.

        References:
            *Sampling Generative Networks* (White, 2016), arXiv 1609.04468
        """
        if positive_integer("steps", steps) < 2:
            raise ValueError(f"steps must be at least 2; got {steps}. Both ends count.")
        if path not in ("linear", "spherical"):
            raise ValueError(f"path must be linear or spherical; got {path!r}. Choose one of these.")
        z0, z1 = self.encode(x0).mean, self.encode(x1).mean
        if len(z0) != len(z1):
            raise ValueError(f"x1 must have as many rows as x0, {len(z0)}; got {len(z1)}. Pair the rows.")
        t = torch.linspace(0, 1, steps).to(z0).reshape(-1, 1, 1)
        means: Tensor = self.decode(_linear(z0, z1, t) if path == "linear" else _spherical(z0, z1, t)).mean
        return means


def _advice(wanted: str) -> str:
    """Which families draw from a support."""
    fitting = [name for name in guides.__all__ if name != "Guide" and getattr(guides, name).support == wanted]
    if not fitting:
        return "Choose another prior, or subclass guides.Guide."
    return f"Choose guides.{' or guides.'.join(fitting)}, or another prior."


def _linear(z0: Tensor, z1: Tensor, t: Tensor) -> Tensor:
    return (1 - t) * z0 + t * z1


def _spherical(z0: Tensor, z1: Tensor, t: Tensor) -> Tensor:
    """Directions along the great circle, lengths along the line; a straight line where the angle vanishes."""
    r0, r1 = z0.norm(dim=-1, keepdim=True), z1.norm(dim=-1, keepdim=True)
    cosine = ((z0 * z1).sum(-1, keepdim=True) / (r0 * r1).clamp_min(1e-12)).clamp(-1, 1)
    angle = cosine.acos()
    direction = ((1 - t) * angle).sin() * z0 / r0.clamp_min(1e-12) + (t * angle).sin() * z1 / r1.clamp_min(1e-12)
    on_sphere = direction / angle.sin().clamp_min(1e-12) * _linear(r0, r1, t)
    return torch.where(angle.sin() > 1e-4, on_sphere, _linear(z0, z1, t))
