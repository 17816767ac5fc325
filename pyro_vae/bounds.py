"""Bounds on the log-evidence: pure functions of log-weights, (K, B) -> (B,).

Add one by writing a function of `log_w`; no scaling, no subsampling, no parameters belong here.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["elbo", "iwae", "renyi"]


def elbo(log_w: Tensor) -> Tensor:
    """Evidence lower bound, the mean log-weight: (K, B) -> (B,).

    References:
        *Auto-Encoding Variational Bayes* (Kingma, Welling, 2013), arXiv 1312.6114
    """
    return log_w.mean(0)


def iwae(log_w: Tensor) -> Tensor:
    """Importance-weighted bound, the log of the mean weight: (K, B) -> (B,).

    References:
        *Importance Weighted Autoencoders* (Burda, Grosse, Salakhutdinov, 2015), arXiv 1509.00519

    Example:
        >>> iwae(torch.zeros(5, 2)).tolist()
        [0.0, 0.0]
    """
    return torch.logsumexp(log_w, 0) - math.log(len(log_w))


def renyi(log_w: Tensor, alpha: float) -> Tensor:
    """Renyi bound, log mean w^(1 - alpha) / (1 - alpha): (K, B) -> (B,); alpha = 1 is the ELBO, 0 is IWAE.

    References:
        *Renyi Divergence Variational Inference* (Li, Turner, 2016), arXiv 1602.02311
    """
    if alpha == 1.0:
        return elbo(log_w)
    return iwae((1.0 - alpha) * log_w) / (1.0 - alpha)
