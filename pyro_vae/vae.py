"""The variational autoencoder: five independent parts composed into a model and a guide."""

from __future__ import annotations

from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyro_vae import guides, likelihoods, nets, priors, scope
from pyro_vae.base import LatentVariableModel, keep_parameters
from pyro_vae.batches import as_tensor
from pyro_vae.parts import positive_integer

__all__ = ["VAE"]


class VAE(LatentVariableModel):
    """z ~ prior, x | z ~ likelihood(decoder(z)); q(z | x) = guide(encoder(x)).

    Args:
        likelihood: p(x | z), with the event shape of one row.
        prior: p(z), with the number of latents.
        guide: the family of q(z | x); a mean-field normal by default.
        encoder: a recipe, or a module from (B, *E) to the guide's parameters (B, P). It sees `likelihood.features(x)`.
        decoder: a recipe, or a module from (B, D) to the likelihood's parameters.
        seed: of the initial parameters; the global random state by default.

    Attributes:
        family: the guide's family (`guide` is the program).

    Raises:
        TypeError: if a part is not of its kind.
        ValueError: if a module's sizes do not fit.

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
        prior: priors.Prior,
        guide: guides.Guide | None = None,
        encoder: nets.Recipe | nn.Module | None = None,
        decoder: nets.Recipe | nn.Module | None = None,
        seed: int | None = None,
    ) -> None:
        super().__init__()
        family = guides.Normal() if guide is None else guide
        for role, part, kind in (
            ("likelihood", likelihood, likelihoods.Likelihood),
            ("prior", prior, priors.Prior),
            ("guide", family, guides.Guide),
        ):
            if not isinstance(part, kind):
                raise TypeError(
                    f"{role} must be a part of pv.{kind.__module__.split('.')[-1]}; got {part!r}. Pass an object."
                )
        self.likelihood, self.prior, self.family = likelihood, prior, family
        self.nets = {"encoder": encoder or nets.MLP(), "decoder": decoder or nets.MLP()}
        for net in (encoder, decoder):
            if isinstance(net, nn.Module):
                keep_parameters(net)
        with scope.seeded(seed), scope.isolated():
            latent_shape = (prior.latent_dim,)
            parameter_shape = family.parameter_shape(prior.latent_dim)
            self.encoder = nets.build(self.nets["encoder"], likelihood.event_shape, parameter_shape, "encoder")
            self.decoder = nets.build(self.nets["decoder"], latent_shape, likelihood.output_shape, "decoder")

    def made_of(self) -> dict[str, Any]:
        return {"likelihood": self.likelihood, "prior": self.prior, "guide": self.family, **self.nets}

    def model(self, x: Tensor | None = None, *, rows: int | None = None, **batch: Tensor) -> Tensor:
        x = x if x is None else x.to(self.like.dtype)
        with pyro.plate(self.row_plate, _size(x, rows)):
            z = pyro.sample("z", self.prior(**batch))
            return pyro.sample("x", self.likelihood(self.decoder(z), **batch), obs=x)

    def guide(self, x: Tensor, **batch: Tensor) -> Tensor:
        with pyro.plate(self.row_plate, x.shape[0]):
            return pyro.sample("z", self._posterior(x.to(self.like.dtype)))

    def _posterior(self, x: Tensor) -> dist.TorchDistribution:
        return self.family(self.encoder(self.likelihood.features(x)))  # type: ignore[no-any-return]

    def initialize(self, x: Tensor) -> None:
        self.likelihood.initialize(x)

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


def _size(x: Tensor | None, rows: int | None) -> int:
    if x is not None:
        return x.shape[0]
    if rows is None:
        raise ValueError("rows must be given where x is not; got None. Call model(x) or model(rows=B).")
    return rows


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
