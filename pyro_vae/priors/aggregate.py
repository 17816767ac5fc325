"""Priors fitted, after training, to the aggregate posterior: the average of q(z | x) over the data."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pyro_vae import priors
from pyro_vae.arguments import positive_integer, positive_number
from pyro_vae.parts import as_unbounded
from pyro_vae.runtime.isolation import isolated
from pyro_vae.runtime.random import seeded

__all__ = ["fit_flow", "fit_mixture"]


def fit_mixture(z: Tensor, *, num_components: int = 10, seed: int = 0) -> priors.Mixture:
    """Fit a mixture of normals with diagonal covariance by expectation maximization.

    Args:
        z: draws of the latents, (N, D).
        num_components: C, at most N.
        seed: seed of the starting values.

    Raises:
        ValueError: if there are more components than draws.
    """
    from sklearn.mixture import GaussianMixture

    prior = priors.Mixture(z.shape[-1], num_components)
    if prior.num_components > len(z):
        raise ValueError(f"num_components must be at most the {len(z)} draws; got {num_components}. Draw more.")
    fitted = GaussianMixture(num_components, covariance_type="diag", random_state=seed % 2**32).fit(
        z.double().cpu().numpy()
    )
    with torch.no_grad():
        prior.logits.copy_(torch.as_tensor(fitted.weights_).log())
        prior.loc.copy_(torch.as_tensor(fitted.means_))
        prior.raw_scale.copy_(as_unbounded(torch.as_tensor(fitted.covariances_).sqrt()))
    return prior.to(z)


def fit_flow(
    z: Tensor, *, epochs: int = 50, learning_rate: float = 2e-3, batch_size: int = 256, seed: int = 0, **flow: Any
) -> priors.Flow:
    """Fit a normalizing flow by maximum likelihood.

    Args:
        z: draws of the latents, (N, D).
        epochs: passes over the draws.
        learning_rate: the first learning rate of Adam, which falls to zero along a cosine.
        batch_size: draws per step.
        seed: seed of the order of the draws.
        **flow: arguments of `priors.Flow`, such as `kind` and `layers`.
    """
    positive_integer("epochs", epochs)
    positive_integer("batch_size", batch_size)
    positive_number("learning_rate", learning_rate)
    prior = priors.Flow(z.shape[-1], **({"kind": "spline_coupling"} | flow)).to(z)
    with torch.no_grad():  # the noise takes the location and the spread of the draws
        prior.loc.copy_(z.mean(0))
        prior.scale.copy_(z.std(0).clamp_min(1e-3))
    optimizer = torch.optim.Adam(prior.parameters(), lr=learning_rate)
    steps = epochs * -(-len(z) // batch_size)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(steps, 1))
    with seeded(seed), isolated(), torch.enable_grad():
        for _ in range(epochs):
            for batch in torch.randperm(len(z), device=z.device).split(batch_size):
                optimizer.zero_grad()
                (-prior().log_prob(z[batch]).mean()).backward()
                optimizer.step()
                schedule.step()
    return prior
