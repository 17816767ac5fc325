"""What latents tell and where they lie: probes, traversals, rates and distortions, principal components."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_vae.arguments import is_integer, positive_integer, positive_number
from pyro_vae.data.tensors import as_tensor, check_finite
from pyro_vae.evaluation import Mean
from pyro_vae.model import check_model

__all__ = ["Probe", "RateDistortion", "principal_components", "probe", "rate_distortion", "traverse"]


@dataclass(frozen=True)
class Probe:
    """What a simple model reads off the codes: accuracy for labels that are whole numbers, R squared for others.

    Attributes:
        score: its mean over folds, on rows that the probe was not fitted to.
        standard_error: of that mean, by the spread over folds.
        baseline: the score without codes: the share of the largest class, or 0.
        kind: "linear" or "knn".
    """

    score: float
    standard_error: float
    baseline: float
    kind: str

    def __str__(self) -> str:
        return f"{self.kind} probe: {self.score:.3f} +- {self.standard_error:.3f} (without codes {self.baseline:.3f})"


def probe(codes: Any, labels: Any, *, kind: str = "linear", folds: int = 5, seed: int = 0) -> Probe:
    """How well labels can be read off the codes by a linear model or by the 15 nearest neighbours, cross-validated.

    Args:
        codes: (N, D), e.g. `vae.encode(x).mean`.
        labels: (N,): whole numbers are classes, others are predicted as numbers.
        kind: "linear" (logistic or ridge regression) or "knn".
        folds: how many parts the rows are cut into.
        seed: of the cut.

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
            f" {counts.min()}. Leave rare classes out, or ask for fewer folds."
        )
    if not classes and len(y) < 2 * folds:
        raise ValueError(f"labels must be at least {2 * folds} numbers; got {len(y)}. Ask for fewer folds.")
    makers: dict[tuple[str, bool], Any] = {
        ("linear", True): lambda: LogisticRegression(max_iter=2000),
        ("linear", False): lambda: RidgeCV(np.logspace(-3, 3, 7)),
        ("knn", True): lambda: KNeighborsClassifier(neighbours),
        ("knn", False): lambda: KNeighborsRegressor(neighbours),
    }
    cut = (StratifiedKFold if classes else KFold)(folds, shuffle=True, random_state=seed % 2**32)
    model = make_pipeline(StandardScaler(), makers[kind, classes]())
    scores = cross_val_score(model, z, y, cv=cut, scoring="accuracy" if classes else "r2")
    if not np.isfinite(scores).all():
        raise ValueError(f"codes and labels must be of moderate size; got scores {scores}. Rescale them.")
    baseline = float(counts.max() / len(y)) if classes else 0.0
    return Probe(float(scores.mean()), float(scores.std(ddof=1) / math.sqrt(folds)), baseline, kind)


def traverse(vae: Any, x: Any, *, steps: int = 9, span: float = 3.0, dims: Sequence[int] | None = None) -> Tensor:
    """Decoder means while one latent at a time moves and the others stay at the code of one row.

    Args:
        vae: a model with one vector of latents, as `VAE`.
        x: one row (1, *E).
        steps: points on each line.
        span: each latent goes from -span to span.
        dims: which latents; all of them by default.

    Returns:
        (steps, D, *E), as `plots.interpolation` takes it: a line of pictures for each latent.

    Raises:
        ValueError: if `x` is not one row, or a number is out of range.
    """
    positive_integer("steps", steps, 2)
    positive_number("span", span)
    if not hasattr(check_model(vae), "prior") or isinstance(vae.encode(x), dict):
        raise NotImplementedError(f"Traversals are for models with one vector of latents; got {type(vae).__name__}.")
    z = vae.encode(x).mean
    if z.dim() != 2 or len(z) != 1:
        raise ValueError(f"x must be one row; got codes of shape {tuple(z.shape)}. Pass e.g. x[:1].")
    chosen = list(range(z.shape[1])) if dims is None else list(dims) if isinstance(dims, Sequence) else []
    if not chosen or not all(is_integer(d) and 0 <= d < z.shape[1] for d in chosen):
        raise ValueError(f"dims must be numbers of latents, 0 to {z.shape[1] - 1}; got {dims}. Choose some of these.")
    codes = z.expand(steps, len(chosen), -1).clone()
    for line, dim in enumerate(chosen):
        codes[:, line, dim] = torch.linspace(-span, span, steps).to(z)
    means: Tensor = vae.decode(codes).mean
    return means


@dataclass(frozen=True)
class RateDistortion:
    """Rates KL(q(z | x) || p(z)) and distortions -E log p(x | z) of models, in nats per row; their sum is -ELBO.

    Attributes:
        names: of the models, by rising rate.
        rates: their rates, with errors.
        distortions: their distortions, with errors.
    """

    names: list[str]
    rates: list[Mean]
    distortions: list[Mean]

    def plot(self, ax: Any = None) -> Any:
        """The curve; returns matplotlib axes."""
        from pyro_vae import plots

        rates, distortions = ([mean.estimate for mean in part] for part in (self.rates, self.distortions))
        return plots.rate_distortion(rates, distortions, self.names, ax=ax)


def rate_distortion(
    models: Mapping[str, Any], x: Any, *, num_particles: int = 64, seed: int | None = None, **fields: Any
) -> RateDistortion:
    """Rate and distortion of each of several models, e.g. trained with different weights on the KL.

    Args:
        models: models by name.
        x: rows (N, *E), the same for all.
        num_particles: draws from the guide per row.
        seed: of the draws.
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
    """The coordinates of rows along their directions of largest variance, (N, D) -> (N, count), each of mean zero.

    The largest entry of each direction is positive, so that the signs do not depend on the machine.

    Args:
        z: rows (N, D), e.g. the guide's means.
        count: how many directions, at most min(N, D).

    Raises:
        ValueError: if `z` is not a matrix, or has fewer directions.

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
