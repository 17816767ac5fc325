"""The statement for a discrete latent that is known in some rows, and is summed out exactly in the others."""

from __future__ import annotations

from typing import Any, ClassVar

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from pyro_vae.arguments import finite_number

__all__ = ["CLASSIFIER_WEIGHT", "Labelled", "sample_label"]

CLASSIFIER_WEIGHT = "classifier_weight"  # the key of `infer` that holds the weight of known labels


class Labelled(dist.TorchDistribution):
    """A discrete distribution of which the value is known in some rows: draws there are the label.

    Probabilities are those of the distribution, also of labels. Values are single numbers.

    Args:
        base: the distribution, of batch shape (..., B) and event shape ().
        label: (B,), integers; -1 where the value is unknown.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}

    def __init__(self, base: Any, label: Tensor) -> None:
        self.base, self.label = base, label
        batch_shape = torch.broadcast_shapes(base.batch_shape, label.shape)
        super().__init__(torch.Size(batch_shape), base.event_shape, validate_args=False)

    @property
    def support(self) -> Any:
        return self.base.support

    @property
    def has_enumerate_support(self) -> bool:  # type: ignore[override]
        return bool(self.base.has_enumerate_support)

    def expand(self, batch_shape: Any, _instance: Any = None) -> Labelled:
        return Labelled(self.base.expand(torch.Size(batch_shape)), self.label)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        drawn = self.base.expand(self.batch_shape).sample(torch.Size(sample_shape))
        return self.known(drawn)

    def log_prob(self, value: Tensor) -> Tensor:
        log_prob: Tensor = self.base.log_prob(value)
        return log_prob

    def known(self, values: Tensor) -> Tensor:
        """The values, (..., B), with those of rows with a label replaced by the label."""
        return torch.where(self.label >= 0, self.label.to(values.dtype), values)

    def enumerate_support(self, expand: bool = True) -> Tensor:
        if not isinstance(self.label, FakeTensor) and bool((self.label >= 0).any()):
            raise NotImplementedError(
                "label must be unknown in every row (-1) for Pyro's own enumeration, which would count a known label"
                " once for each value. Use an estimator of pv.elbos."
            )
        values: Tensor = self.base.enumerate_support(expand)
        return values


def sample_label(
    name: str, distribution: Any, label: Tensor | None = None, *, classifier_weight: float = 1.0
) -> Tensor:
    """A sample statement for a discrete latent y of a row: log-weights sum it out, except in rows with a label.

    Use it inside the row plate, either in the model alone, or in the model and in a guide q(y | x). Whatever reads the
    value must accept several values at once: they come in dimensions of their own, to the left of all others, as
    particles do. Where a row has a label, the value is the label, and the row's weight is that of p(x, y).

    Args:
        name: the name of the site.
        distribution: a distribution of finitely many single numbers, such as `Categorical` or `Bernoulli`.
        label: (B,), integers from 0; -1 or NaN where it is unknown. None: unknown in all rows.
        classifier_weight: in a guide, what -log q(label | x) of a row with a label is multiplied by when it is
            subtracted from the objective of training (alpha of Kingma et al.).

    Raises:
        ValueError: if a label is no possible value; the message names the row.

    References:
        *Semi-supervised Learning with Deep Generative Models* (Kingma et al., 2014), arXiv 1406.5298

    Example:
        >>> import pyro.distributions as dist
        >>> with pyro.plate("data", 3):
        ...     sample_label("y", dist.Categorical(torch.ones(4)), torch.tensor([2, 0, 2]))
        tensor([2, 0, 2])
    """
    weight = finite_number(CLASSIFIER_WEIGHT, classifier_weight)
    if weight < 0:
        raise ValueError(f"{CLASSIFIER_WEIGHT} must be zero or more; got {weight}. 1 counts each label once.")
    if label is not None:
        label = _as_label(label, distribution, name)
        distribution = Labelled(distribution, label)
    infer: Any = {"enumerate": "parallel", CLASSIFIER_WEIGHT: weight}
    drawn: Tensor = pyro.sample(name, distribution, infer=infer)
    return drawn


def _as_label(label: Tensor, distribution: Any, name: str) -> Tensor:
    """Labels (B,) as integers, with -1 for NaN; a ValueError names the first row whose label is impossible."""
    if distribution.event_shape:
        raise ValueError(
            f"The distribution at site {name!r} must have single numbers as values for labels; got events of shape"
            f" {tuple(distribution.event_shape)}. Use Categorical or Bernoulli."
        )
    if label.dim() != 1:
        raise ValueError(f"label at site {name!r} must have shape (rows,); got {tuple(label.shape)}. Pass one a row.")
    sizes = distribution.batch_shape[-1:]
    if sizes and sizes[0] not in (1, len(label)):
        raise ValueError(
            f"label at site {name!r} must have one number for each of the {sizes[0]} rows; got {len(label)}. Align."
        )
    whole = label.nan_to_num(-1.0).long() if label.is_floating_point() else label.long()
    if isinstance(label, FakeTensor):  # a graph is being recorded: there are no values to check
        return whole
    inside = distribution.support.check(whole.clamp_min(0).to(torch.get_default_dtype()))
    wrong = ((whole != label) & (label == label)) | (whole < -1) | ~inside  # NaN differs from itself
    if wrong.any():
        row = int(wrong.nonzero()[0])
        raise ValueError(
            f"label at site {name!r} must be an integer that {type(distribution).__name__} can draw,"
            f" {distribution.support}, or -1 or NaN where it is unknown; got {label[row].item():g} in row {row}."
            " Number the levels from 0."
        )
    return whole
