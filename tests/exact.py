"""Programs whose evidence, posterior, bounds and gradients have closed forms."""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

import pyro_vae as pv


class LinearGaussian(pv.LatentVariableModel):
    """z ~ N(0, I), x | z ~ N(W z + b, s^2 I); the guide is N(A (x - b) + a, L L^T), exact by default.

    Args:
        event: the number of columns of x.
        latent: the number of latents.
        width: factor of the guide's standard deviations (1 for the posterior's).
        shift: what is added to the guide's mean (0 for the posterior's).
        seed: seed of the parameters.
    """

    def __init__(
        self, event: int = 4, latent: int = 2, *, width: float = 1.0, shift: float = 0.0, seed: int = 3
    ) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        draw = {"generator": generator, "dtype": torch.float64}
        self.weight = nn.Parameter(torch.randn(event, latent, **draw))
        self.bias = nn.Parameter(torch.randn(event, **draw))
        self.log_scale = nn.Parameter(torch.tensor(-0.4, dtype=torch.float64))
        mean_map, covariance = self.posterior_parameters()
        self.mean_map = nn.Parameter(mean_map.detach())
        self.mean_shift = nn.Parameter(torch.full((latent,), shift, dtype=torch.float64))
        self.tril = nn.Parameter(width * torch.linalg.cholesky(covariance.detach()))

    def model(self, x: Tensor | None = None, *, rows: int | None = None, **batch: Tensor) -> Tensor:
        with pyro.plate("data", len(x) if x is not None else rows):
            z = pyro.sample("z", dist.Normal(self.weight.new_zeros(self.weight.shape[1]), 1.0).to_event(1))
            loc = z @ self.weight.T + self.bias
            return pyro.sample("x", dist.Normal(loc, self.log_scale.exp()).to_event(1), obs=x)

    def guide(self, x: Tensor, **batch: Tensor) -> Tensor:
        with pyro.plate("data", len(x)):
            loc = (x - self.bias.detach()) @ self.mean_map.T + self.mean_shift
            return pyro.sample("z", dist.MultivariateNormal(loc, scale_tril=self.tril.tril()))

    def posterior_parameters(self) -> tuple[Tensor, Tensor]:
        """The matrix A and the covariance of p(z | x) = N(A (x - b), C)."""
        precision = self.log_scale.mul(-2).exp()
        eye = torch.eye(self.weight.shape[1], dtype=torch.float64)
        covariance = torch.linalg.inv(eye + precision * self.weight.T @ self.weight)
        return precision * covariance @ self.weight.T, covariance

    def marginal(self) -> dist.MultivariateNormal:
        eye = torch.eye(self.weight.shape[0], dtype=torch.float64)
        return dist.MultivariateNormal(self.bias, self.weight @ self.weight.T + self.log_scale.mul(2).exp() * eye)

    def log_evidence(self, x: Tensor) -> Tensor:
        return self.marginal().log_prob(x)

    def exact_elbo(self, x: Tensor) -> Tensor:
        """log p(x) - KL(q || p(z | x)), (B,), differentiable in all parameters."""
        mean_map, covariance = self.posterior_parameters()
        posterior = dist.MultivariateNormal((x - self.bias) @ mean_map.T, covariance)
        loc = (x - self.bias.detach()) @ self.mean_map.T + self.mean_shift
        q = dist.MultivariateNormal(loc, scale_tril=self.tril.tril())
        return self.log_evidence(x) - torch.distributions.kl_divergence(q, posterior)

    def draw(self, rows: int, seed: int = 0) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        z = torch.randn(rows, self.weight.shape[1], generator=generator, dtype=torch.float64)
        noise = torch.randn(rows, self.weight.shape[0], generator=generator, dtype=torch.float64)
        return (z @ self.weight.T + self.bias + self.log_scale.exp() * noise).detach()


class Discrete(pv.LatentVariableModel):
    """z in {0, 1, 2}, two binary cells given z; every probability differs, so that a swapped index shows."""

    def __init__(self) -> None:
        super().__init__()
        self.prior_logits = nn.Parameter(torch.tensor([0.2, -0.7, 0.9], dtype=torch.float64))
        self.cell_logits = nn.Parameter(torch.tensor([[0.3, -1.2], [1.5, 0.4], [-0.6, 0.8]], dtype=torch.float64))
        self.guide_logits = nn.Parameter(
            torch.tensor(
                [[[0.1, 0.5, -0.4], [0.7, -0.2, 0.3]], [[-0.9, 0.6, 0.2], [0.4, 0.8, -0.1]]], dtype=torch.float64
            )
        )

    def model(self, x: Tensor | None = None, *, rows: int | None = None, **batch: Tensor) -> Tensor:
        with pyro.plate("data", len(x) if x is not None else rows):
            z = pyro.sample("z", dist.Categorical(logits=self.prior_logits))
            return pyro.sample("x", dist.Bernoulli(logits=self.cell_logits[z]).to_event(1), obs=x)

    def guide(self, x: Tensor, **batch: Tensor) -> Tensor:
        with pyro.plate("data", len(x)):
            logits = self.guide_logits[x[:, 0].long(), x[:, 1].long()]
            return pyro.sample("z", dist.Categorical(logits=logits), infer={"enumerate": "parallel"})

    def log_joint(self, x: Tensor) -> Tensor:
        """log p(x, z) for every z, (B, 3)."""
        cells = dist.Bernoulli(logits=self.cell_logits).log_prob(x.unsqueeze(1)).sum(-1)
        return cells + self.prior_logits.log_softmax(-1)

    def log_evidence(self, x: Tensor) -> Tensor:
        return torch.logsumexp(self.log_joint(x), -1)

    def exact_elbo(self, x: Tensor) -> Tensor:
        log_q = self.guide_logits[x[:, 0].long(), x[:, 1].long()].log_softmax(-1)
        return (log_q.exp() * (self.log_joint(x) - log_q)).sum(-1)

    rows = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0], [1.0, 0.0]], dtype=torch.float64)


class GlobalMean(pv.LatentVariableModel):
    """mu ~ N(0, t^2) for the whole data set, x_i ~ N(mu, 1); the guide is the exact posterior."""

    def __init__(self, prior_scale: float = 2.0, rows: int = 6) -> None:
        super().__init__()
        self.prior_scale = prior_scale
        self.precision = 1 / prior_scale**2 + rows
        self.slope = nn.Parameter(torch.tensor(1.0, dtype=torch.float64))

    def model(self, x: Tensor | None = None, *, rows: int | None = None, **batch: Tensor) -> Tensor:
        mu = pyro.sample("mu", dist.Normal(self.slope.new_zeros(()), self.prior_scale))
        with pyro.plate("data", len(x) if x is not None else rows):
            return pyro.sample("x", dist.Normal(mu, 1.0), obs=x)

    def guide(self, x: Tensor, **batch: Tensor) -> Tensor:
        return pyro.sample("mu", dist.Normal(self.slope * x.sum() / self.precision, self.precision**-0.5))

    def log_evidence(self, x: Tensor) -> Tensor:
        covariance = torch.eye(len(x), dtype=x.dtype) + self.prior_scale**2
        return dist.MultivariateNormal(torch.zeros_like(x), covariance).log_prob(x)


def probabilistic_pca_evidence(x: Tensor, latent: int) -> float:
    """The largest mean log-evidence per row of probabilistic PCA (Tipping & Bishop, 1999)."""
    d = x.shape[1]
    values = torch.linalg.eigvalsh(torch.cov(x.T, correction=0)).flip(0)
    noise = values[latent:].mean()
    log_det = values[:latent].log().sum() + (d - latent) * noise.log()
    return -0.5 * float(d * math.log(2 * math.pi) + log_det + d)
