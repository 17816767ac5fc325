"""What can be read off latents: probes, traversals, rate and distortion, principal components."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_vae.arguments import is_integer, positive_integer, positive_number
from pyro_vae.criticism.latents.conditions import conditions, repeated
from pyro_vae.data.tensors import as_tensor, check_finite
from pyro_vae.evaluation import Mean
from pyro_vae.model import check_model
from pyro_vae.runtime.display import Shown

__all__ = ["Probe", "RateDistortion", "principal_components", "probe", "rate_distortion", "traverse"]


@dataclass(frozen=True, repr=False)
class Probe(Shown):
    """How well a simple model predicts labels from the codes: accuracy for classes, R squared for real labels.

    Attributes:
        score: accuracy or R squared on held-out rows, mean over folds.
        standard_error: standard error of this mean, by the spread over folds.
        baseline: the score without codes: the share of the largest class, or 0 for real labels.
        kind: "linear" or "knn".
    """

    score: float
    standard_error: float
    baseline: float
    kind: str

    def __str__(self) -> str:
        return f"{self.kind} probe: {self.score:.3f} +- {self.standard_error:.3f} (without codes {self.baseline:.3f})"


def probe(codes: Any, labels: Any, *, kind: str = "linear", folds: int = 5, seed: int = 0) -> Probe:
    """Predict labels from the codes by a linear model or by the 15 nearest neighbours, with cross-validation.

    Args:
        codes: (N, D), e.g. `vae.encode(x).mean`.
        labels: (N,); integers are classes, other numbers are real labels.
        kind: "linear" (logistic or ridge regression) or "knn".
        folds: number of folds of the cross-validation.
        seed: seed of the assignment of rows to folds.

    Raises:
        ValueError: if shapes, kind or folds are wrong, or a class has fewer rows than there are folds.
    """
    from sklearn.linear_model import LogisticRegression, RidgeCV
    from sklearn.model_selection import KFold, StratifiedKFold, cross_val_score
    from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    z, y = as_tensor(codes, "codes").detach().cpu().double().numpy(), as_tensor(labels, "labels").cpu().numpy()
    check_finite("codes", torch.as_tensor(z))
    check_finite("labels", torch.as_tensor(y))
    folds, seed = positive_integer("folds", folds, 2), positive_integer("seed", seed, 0)
    if z.ndim != 2 or z.shape[1] == 0 or y.shape != z.shape[:1] or len(y) < folds:
        raise ValueError(
            f"codes and labels must have shapes (N, D) and (N,) with N at least {folds}; got {z.shape} and {y.shape}."
            " Give one label for each code."
        )
    if not isinstance(kind, str) or kind not in ("linear", "knn"):
        raise ValueError(f"kind must be linear or knn; got {kind!r}. Choose one of these.")
    classes, neighbours = y.dtype.kind in "biu", min(15, len(y) // 2)
    counts = np.unique(y, return_counts=True)[1]
    if classes and (len(counts) < 2 or counts.min() < folds):
        raise ValueError(
            f"labels must be two classes or more of at least {folds} rows each; got {len(counts)}, the smallest of"
            f" size {counts.min()}. Leave rare classes out, or use fewer folds."
        )
    if not classes and len(y) < 2 * folds:
        raise ValueError(f"labels must be at least {2 * folds} numbers; got {len(y)}. Use fewer folds.")
    predictors: dict[tuple[str, bool], Any] = {
        ("linear", True): LogisticRegression(max_iter=2000),
        ("linear", False): RidgeCV(np.logspace(-3, 3, 7)),
        ("knn", True): KNeighborsClassifier(neighbours),
        ("knn", False): KNeighborsRegressor(neighbours),
    }
    splitter = (StratifiedKFold if classes else KFold)(folds, shuffle=True, random_state=seed % 2**32)
    model = make_pipeline(StandardScaler(), predictors[kind, classes])
    scores = cross_val_score(model, z, y, cv=splitter, scoring="accuracy" if classes else "r2")
    if not np.isfinite(scores).all():
        raise ValueError(f"codes and labels must give finite scores; got {scores}. Rescale them.")
    baseline = float(counts.max() / len(y)) if classes else 0.0
    return Probe(float(scores.mean()), float(scores.std(ddof=1) / math.sqrt(folds)), baseline, kind)


def traverse(
    vae: Any, x: Any, *, steps: int = 9, span: float = 3.0, dims: Sequence[int] | None = None, **fields: Any
) -> Tensor:
    """Decoder means along each latent in turn, with the others held at the code of one row, and its fields kept.

    Args:
        vae: a model with one vector of latents, such as `VAE`.
        x: one row (1, *E).
        steps: number of values that each latent takes.
        span: each latent moves from -span to span.
        dims: numbers of the latents to move, from 0; all by default.
        **fields: named per-row fields of the row, such as covariates, under which it is encoded and decoded.

    Returns:
        Means (steps, D, *E), which `plots.interpolation` draws as one line of pictures for each latent.

    Raises:
        ValueError: if `x` is not one row, or a number is out of range.
    """
    positive_integer("steps", steps, 2)
    positive_number("span", span)
    posterior = vae.encode(x, **fields) if hasattr(check_model(vae), "prior") else {}
    if isinstance(posterior, dict):
        raise NotImplementedError(f"Traversals need a model with one vector of latents; got {type(vae).__name__}.")
    z = posterior.mean
    if z.dim() != 2 or len(z) != 1:
        raise ValueError(f"x must be one row; got codes of shape {tuple(z.shape)}. Pass e.g. x[:1].")
    chosen = list(range(z.shape[1])) if dims is None else list(dims) if isinstance(dims, Sequence) else []
    if not chosen or not all(is_integer(d) and 0 <= d < z.shape[1] for d in chosen):
        raise ValueError(f"dims must be numbers of latents, 0 to {z.shape[1] - 1}; got {dims}. Choose some of these.")
    codes = z.expand(steps, len(chosen), -1).clone()
    for line, dim in enumerate(chosen):
        codes[:, line, dim] = torch.linspace(-span, span, steps).to(z)
    means: Tensor = vae.decode(codes, **repeated(conditions(vae, x, **fields), len(chosen))).mean
    return means


@dataclass(frozen=True, repr=False)
class RateDistortion(Shown):
    """Rates KL(q(z | x) || p(z)) and distortions -E log p(x | z) of models, in nats per row; their sum is -ELBO.

    Attributes:
        names: names of the models, in order of increasing rate.
        rates: the rate of each model, with errors.
        distortions: the distortion of each model, with errors.
    """

    names: list[str]
    rates: list[Mean]
    distortions: list[Mean]

    def __str__(self) -> str:
        return "\n".join(
            f"{name}: rate {rate}, distortion {distortion} nats per row"
            for name, rate, distortion in zip(self.names, self.rates, self.distortions, strict=True)
        )

    def plot(self, ax: Any = None) -> Any:
        """Distortion against rate; returns matplotlib axes."""
        from pyro_vae import plots

        rates, distortions = ([mean.estimate for mean in part] for part in (self.rates, self.distortions))
        return plots.rate_distortion(rates, distortions, self.names, ax=ax)


def rate_distortion(
    models: Mapping[str, Any], x: Any, *, num_particles: int = 64, seed: int | None = None, **fields: Any
) -> RateDistortion:
    """Rate and distortion of several models, e.g. trained with different weights on the KL.

    Args:
        models: models by name.
        x: rows (N, *E), the same for all models.
        num_particles: draws from the guide per row.
        seed: seed of the draws.
        **fields: named per-row fields, as in `elbo`.

    Raises:
        ValueError: if there is no model.

    References:
        *Fixing a Broken ELBO* (Alemi et al., 2018), arXiv 1711.00464
    """
    if not isinstance(models, Mapping) or not models:
        raise ValueError(f"models must be a dictionary of models; got {models!r}. Pass e.g. {{'beta 1': vae}}.")
    found = {}
    for name, model in models.items():
        result = check_model(model).elbo(x, num_particles=num_particles, seed=seed, **fields)
        distortion = result.mean("reconstruction")
        found[name] = result.mean("kl"), replace(distortion, estimate=-distortion.estimate)
    names = sorted(found, key=lambda name: found[name][0].estimate)
    return RateDistortion(names, [found[name][0] for name in names], [found[name][1] for name in names])


def principal_components(z: Tensor, count: int = 2) -> Tensor:
    """The first principal components of a matrix, (N, D) -> (N, count), each of mean zero.

    The largest entry of each direction is positive, so that signs do not depend on the machine.

    Args:
        z: matrix (N, D), e.g. the guide's means.
        count: number of components, at most min(N, D).

    Raises:
        ValueError: if `z` is not a matrix, or `count` is larger than min(N, D).

    Example:
        >>> z = torch.tensor([[0.0, 1.0], [0.0, 5.0], [1.0, 3.0], [-1.0, 3.0]])
        >>> principal_components(z, 1).squeeze(1).tolist()
        [-2.0, 2.0, 0.0, 0.0]
    """
    positive_integer("count", count)
    z = as_tensor(z, "z")
    z = z if z.dtype in (torch.float32, torch.float64) else z.double()
    check_finite("z", z)
    if z.dim() != 2 or count > min(z.shape):
        raise ValueError(
            f"z must have shape (N, D) with N and D at least {count}; got {tuple(z.shape)}. Ask for fewer."
        )
    centred = z - z.mean(0)
    directions = torch.linalg.svd(centred, full_matrices=False).Vh[:count]
    largest = directions.gather(1, directions.abs().argmax(1, keepdim=True))
    return centred @ (directions * largest.sign()).T
