"""Linear-Gaussian VAEs whose encoder is the exact posterior for every pattern of missing cells."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import pyro_vae as pv
from pyro_vae.parts import as_unbounded


class ExactEncoder(nn.Module):
    """Parameters of `guides.MultivariateNormal` for the posterior of z, given the observed cells of each row."""

    reads_pattern = True

    def __init__(self, weight: Tensor, bias: Tensor, noise: float) -> None:
        super().__init__()
        self.register_buffer("weight", weight)
        self.register_buffer("bias", bias)
        self.noise = noise

    def forward(self, features: Tensor, pattern: Tensor) -> Tensor:
        weighted = pattern.unsqueeze(-1) * self.weight / self.noise**2  # (B, D, latents)
        eye = torch.eye(self.weight.shape[1], dtype=features.dtype)
        covariance = torch.linalg.inv(eye + self.weight.T @ weighted)
        residual = torch.where(pattern.bool(), features - self.bias, 0.0).unsqueeze(-1)
        loc = (covariance @ weighted.transpose(1, 2) @ residual).squeeze(-1)
        tril = torch.linalg.cholesky(covariance)
        rows, columns = torch.tril_indices(len(eye), len(eye), -1)
        return torch.cat([loc, as_unbounded(tril.diagonal(dim1=-2, dim2=-1)), tril[:, rows, columns]], -1)


def linear_gaussian(
    event: int = 5, latent: int = 2, noise: float = 0.6, seed: int = 0, exact: bool = True
) -> tuple[pv.VAE, torch.distributions.MultivariateNormal]:
    """A VAE in float64 that allows for missing cells, and the distribution of its rows."""
    generator = torch.Generator().manual_seed(seed)
    weight, bias = (
        torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in ((event, latent), (event,))
    )
    decoder = nn.Linear(latent, event)
    vae = pv.VAE(
        likelihood=pv.likelihoods.Normal(event, scale="fixed", fixed_scale=noise, standardize=False),
        prior=pv.priors.Normal(latent),
        guide=pv.guides.MultivariateNormal(),
        encoder=ExactEncoder(weight, bias, noise).float() if exact else pv.nets.Masked(pv.nets.MLP((16,))),
        decoder=decoder,
        missing=pv.missing.AtRandom(),
        seed=seed,
    ).double()
    if exact:
        vae.encoder.module.weight, vae.encoder.module.bias = weight, bias
    with torch.no_grad():
        decoder.weight.copy_(weight)
        decoder.bias.copy_(bias)
    covariance = weight @ weight.T + noise**2 * torch.eye(event, dtype=torch.float64)
    return vae, torch.distributions.MultivariateNormal(bias, covariance)


def of_cells(marginal: torch.distributions.MultivariateNormal, x: Tensor, cells: Tensor) -> Tensor:
    """The log-density of some cells of each row, (B,)."""
    found = []
    for row, own in zip(x, cells, strict=True):
        covariance = marginal.covariance_matrix[own][:, own]
        one = torch.distributions.MultivariateNormal(marginal.loc[own], covariance) if own.any() else None
        found.append(torch.zeros((), dtype=x.dtype) if one is None else one.log_prob(row[own]))
    return torch.stack(found)


def with_gaps(x: Tensor, share: float = 0.4, seed: int = 1) -> Tensor:
    """The rows with this share of their cells missing; all cells of the first row, and none of the second."""
    gaps = torch.rand(x.shape, generator=torch.Generator().manual_seed(seed)) < share
    gaps[0], gaps[1] = True, False
    return x.masked_fill(gaps, torch.nan)
