"""How well a model with labels classifies rows whose label is known: accuracy, scores of probabilities, reliability."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyro_vae.arguments import positive_integer
from pyro_vae.model import check_model
from pyro_vae.runtime.display import Shown
from pyro_vae.runtime.random import seeded

__all__ = ["Classification", "classification"]

REPLICATES = 200  # labels drawn from the probabilities, by which the calibration error of a calibrated model is found


@dataclass(frozen=True, repr=False)
class Classification(Shown):
    """Probabilities of labels compared with known labels.

    Attributes:
        probabilities: of each label in each row, (N, C).
        label: the known labels, (N,).
        names: names of the labels, (C,).
        bins: the number of groups of rows, of equal size by confidence, from which the calibration error is computed.
        calibration_error: the mean over these groups of |share of right guesses - mean confidence|. It depends on the
            number of groups, and is above 0 even for a model whose probabilities are right.
        calibrated: the mean and the standard deviation of that error were the probabilities right, from labels drawn
            from them.
    """

    probabilities: Tensor
    label: Tensor
    names: list[str]
    bins: int
    calibration_error: float
    calibrated: tuple[float, float]

    @property
    def guess(self) -> Tensor:
        """The label of the largest probability in each row, (N,)."""
        return self.probabilities.argmax(1)

    @property
    def accuracy(self) -> tuple[float, float]:
        """The share of rows whose guess is right, and its standard error."""
        return _mean((self.guess == self.label).double())

    @property
    def log_loss(self) -> tuple[float, float]:
        """The mean of -log of the probability of the known label, in nats, and its standard error."""
        return _mean(-self.probabilities.double().gather(1, self.label.unsqueeze(1)).squeeze(1).log())

    @property
    def brier(self) -> tuple[float, float]:
        """The mean of the summed squares of the differences to the known label, 0 to 2, and its standard error."""
        known = torch.nn.functional.one_hot(self.label, self.probabilities.shape[1])
        return _mean((self.probabilities.double() - known).square().sum(1))

    def groups(self) -> tuple[Tensor, Tensor, Tensor]:
        """Mean confidence of each group of rows, the share of right guesses, and its standard error, (bins,) each."""
        confidence, right = _by_group(self.probabilities, self.label, self.bins)
        share = torch.stack([part.mean() for part in right])
        count = torch.tensor([len(part) for part in right], device=share.device)
        return torch.stack([part.mean() for part in confidence]), share, (share * (1 - share) / count).sqrt()

    def confusion(self) -> Tensor:
        """How many rows of each known label (line) got each guess (column), (C, C)."""
        size = len(self.names)
        return torch.bincount(self.label * size + self.guess, minlength=size * size).reshape(size, size)

    def __str__(self) -> str:
        numbers = {"accuracy": self.accuracy, "log loss": self.log_loss, "Brier score": self.brier}
        scores = ", ".join(f"{name} {mean:.4f} +- {error:.4f}" for name, (mean, error) in numbers.items())
        mean, deviation = self.calibrated
        return (
            f"{len(self.label):,} rows with a label: {scores}. Calibration error {self.calibration_error:.4f} in"
            f" {self.bins} groups; {mean:.4f} +- {deviation:.4f} were the probabilities right."
        )

    def plot(self, ax: Any = None) -> Any:
        """The share of right guesses against the confidence in them; returns matplotlib axes."""
        from pyro_vae import plots

        return plots.reliability(*self.groups(), ax=ax)


def classification(
    model: Any,
    x: Any,
    *,
    method: str = "classifier",
    num_particles: int = 100,
    bins: int = 10,
    seed: int | None = 0,
    **fields: Any,
) -> Classification:
    """Compare the probabilities of labels with the known ones: accuracy, log loss, Brier score and reliability.

    Args:
        model: a fitted `SemiSupervisedVAE`.
        x: rows (N, *E), in any form that `fit` takes; those without a label are left out.
        method: "classifier" or "posterior", as in `SemiSupervisedVAE.classify`.
        num_particles: K, for "posterior".
        bins: the number of groups of rows for the calibration error.
        seed: seed of all draws.
        **fields: named per-row fields; `label` must be among them, or among those of `x`.

    Raises:
        TypeError: if the model has no labels.
        ValueError: if no row has a label, or there are fewer than `bins`.

    References:
        *On Calibration of Modern Neural Networks* (Guo et al., 2017), arXiv 1706.04599

    Example:
        >>> import pyro_vae as pv
        >>> vae = pv.SemiSupervisedVAE(
        ...     labels=2, likelihood=pv.likelihoods.Bernoulli(3), prior=pv.priors.Normal(2), seed=0
        ... )
        >>> found = pv.classification(vae, torch.ones(20, 3), label=[0, 1] * 10, bins=2)
        >>> found.accuracy[0], found.confusion().sum().item()
        (0.5, 20)
    """
    if not hasattr(check_model(model), "classify"):
        raise TypeError(f"model must classify rows; got {type(model).__name__}. Pass a SemiSupervisedVAE.")
    positive_integer("bins", bins)
    rows, names = model.read_rows(x, fields)
    if "label" not in names:
        raise ValueError("field 'label' must be given to be compared; got none. Pass label=, one for each row.")
    label = rows.field("label").nan_to_num(-1.0).long()
    known = (label >= 0).nonzero().flatten()
    if len(known) < bins:
        raise ValueError(
            f"field 'label' must be known in at least {bins} rows, the number of bins; got {len(known)}. Pass more."
        )
    scored = rows.subset(known)
    options = {"method": method, "num_particles": num_particles, "seed": seed}
    probabilities = model.classify(scored, fields=names, **options).double()
    label = label[known].to(probabilities.device)
    with seeded(seed):
        drawn = [torch.multinomial(probabilities, 1).squeeze(1) for _ in range(REPLICATES)]
    replicated = torch.stack([_calibration_error(probabilities, one, bins) for one in drawn])
    return Classification(
        probabilities,
        label,
        list(model.label_names),
        bins,
        float(_calibration_error(probabilities, label, bins)),
        (float(replicated.mean()), float(replicated.std())),
    )


def _mean(values: Tensor) -> tuple[float, float]:
    """The mean over rows and its standard error, NaN for one row."""
    count = len(values)
    return float(values.mean()), float(values.std()) / math.sqrt(count) if count > 1 else math.nan


def _by_group(probabilities: Tensor, label: Tensor, bins: int) -> tuple[list[Tensor], list[Tensor]]:
    """Confidence, and whether the guess is right, of the rows of each of `bins` groups by confidence."""
    confidence, guess = probabilities.double().max(1)
    order = confidence.argsort(stable=True)
    right = (guess == label).double()
    return list(confidence[order].tensor_split(bins)), list(right[order].tensor_split(bins))


def _calibration_error(probabilities: Tensor, label: Tensor, bins: int) -> Tensor:
    parts = zip(*_by_group(probabilities, label, bins), strict=True)
    sums = torch.stack([(right - confidence).sum().abs() for confidence, right in parts])
    return sums.sum() / len(label)
