"""The semi-supervised variational autoencoder: labels that are known in some rows, and summed out in the others."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyro_vae import nets, priors
from pyro_vae.arguments import finite_number, is_integer, is_number, positive_integer
from pyro_vae.covariates import Covariates
from pyro_vae.covariates.base import as_cells, is_missing
from pyro_vae.fields import Field, merge_fields, split_fields
from pyro_vae.inference.chunks import chunk_weights, particle_counts, row_chunks
from pyro_vae.inference.labels import sample_label
from pyro_vae.inference.programs import num_rows
from pyro_vae.missing.base import default_encoder
from pyro_vae.model import keep_parameters
from pyro_vae.models.vae import VAE
from pyro_vae.runtime.isolation import evaluating, isolated
from pyro_vae.runtime.random import seeded

__all__ = ["SemiSupervisedVAE"]

LABEL = "label"
METHODS = ("classifier", "posterior")


class SemiSupervisedVAE(VAE):
    """y ~ Categorical, z ~ prior, x | y, z ~ likelihood(decoder(z, y)); q(y | x) = classifier(x), q(z | x, y) = guide.

    The field `label` holds y: 0, 1, ... or -1 or NaN where it is unknown. log p(x) and its bounds sum over the values
    of an unknown label exactly; a row with a label is scored with it, as log p(x, y). Training also fits the
    classifier: its objective is the bound less KL(q(y | x) || p(y | x)), estimated with the draws of z, in rows without
    a label, and less `classifier_weight` x -log q(label | x) in rows with one. With the ELBO that is the objective of
    Kingma et al.; the bound that is reported is the one on log p.

    Args:
        labels: the number of labels, or their names.
        classifier: a recipe, or a module from the encoder's input to the logits of the labels.
        classifier_weight: alpha, the weight of -log q(label | x) of a row with a label.
        label_probabilities: p(y): probabilities, "learned", or None for equal ones.
        **parts: the arguments of `VAE`. Labels stand beside the inputs of encoder and decoder, as covariates do.

    References:
        *Semi-supervised Learning with Deep Generative Models* (Kingma et al., 2014), arXiv 1406.5298: model M2

    Example:
        >>> from pyro_vae import likelihoods, priors
        >>> vae = SemiSupervisedVAE(labels=3, likelihood=likelihoods.Bernoulli(4), prior=priors.Normal(2), seed=0)
        >>> x = torch.eye(4)
        >>> history = vae.fit(x, fields={"label": [0, 1, -1, 2]}, epochs=2, seed=0, progress=False)
        >>> vae.classify(x).shape, vae.sample(6, label=2, seed=0).shape
        (torch.Size([4, 3]), torch.Size([6, 4]))
    """

    def __init__(
        self,
        *,
        labels: int | Sequence[str],
        classifier: nets.Recipe | nn.Module | None = None,
        classifier_weight: float = 1.0,
        label_probabilities: str | Sequence[float] | None = None,
        seed: int | None = None,
        **parts: Any,
    ) -> None:
        labels = labels.tolist() if hasattr(labels, "tolist") else labels  # of an array or a Series
        names = _as_names(labels)
        self.__dict__["num_labels"] = len(names)  # the nets that VAE builds have room for them
        if isinstance(parts.get("prior"), priors.VampPrior):
            raise NotImplementedError(
                "prior must not be VampPrior with labels, which its pseudo-inputs lack. Choose another, e.g."
                " priors.Mixture."
            )
        if isinstance(parts.get("covariates"), Covariates) and LABEL in parts["covariates"].names:
            raise ValueError("covariates must not be named 'label', the field of labels; got one. Rename it.")
        super().__init__(seed=seed, **parts)
        self.labels, self.label_names = labels if isinstance(labels, int) else list(labels), names
        self.classifier_weight = finite_number("classifier_weight", classifier_weight)
        if self.classifier_weight < 0:
            raise ValueError(f"classifier_weight must be zero or more; got {classifier_weight}. 1 counts a label once.")
        self.label_probabilities = label_probabilities
        self._set_probabilities(label_probabilities)
        self.nets["classifier"] = default_encoder(self.missing) if classifier is None else classifier
        if isinstance(classifier, nn.Module):
            keep_parameters(classifier)
        with seeded(seed, 1), isolated():
            self.classifier = self._build_net("classifier", self.likelihood.feature_shape, (self.num_labels,))

    def _set_probabilities(self, given: Any) -> None:
        """Set the logits of p(y)."""
        start = torch.zeros(self.num_labels)
        if given == "learned":
            self.label_logits = nn.Parameter(start)
            return
        if given is not None:
            numbers = isinstance(given, Sequence) and not isinstance(given, str) and all(map(is_number, given))
            start = torch.tensor(list(given)) if numbers else start
            if (
                not numbers
                or len(given) != self.num_labels
                or not (start > 0).all()
                or abs(float(start.sum()) - 1) > 1e-4
            ):
                raise ValueError(
                    f"label_probabilities must be None, 'learned' or {self.num_labels} positive numbers of sum 1; got"
                    f" {given!r}. Correct them."
                )
            start = start.log()
        self.register_buffer("label_logits", start)

    def made_of(self) -> dict[str, Any]:
        own = ("labels", "classifier_weight", "label_probabilities")
        return super().made_of() | {name: getattr(self, name) for name in own}

    @property
    def fields(self) -> dict[str, Field]:
        """The per-row fields: the label and those of `VAE`."""
        label = Field(
            required=False, one_per_row=True, unknown=True, meaning="the label; -1 or NaN where it is unknown"
        )
        return merge_fields((super().fields, {LABEL: label}))

    def read_field(self, name: str, values: Any) -> Any:
        return super().read_field(name, values) if name != LABEL else _as_codes(values, self.label_names)

    def check_fields(self, x: Tensor | None, fields: Mapping[str, Tensor], first_row: int = 0) -> None:
        super().check_fields(x, {name: value for name, value in fields.items() if name != LABEL}, first_row)
        if LABEL not in fields:
            return
        label = fields[LABEL]
        if label.dim() != 1:
            raise ValueError(
                f"field 'label' must have shape (rows,); got {tuple(label.shape)}. Give one number for each row."
            )
        known = label.nan_to_num(-1.0)
        bad = (known != known.round()) | (known < -1) | (known >= self.num_labels)
        if bad.any():
            row = int(bad.nonzero()[0])
            raise ValueError(
                f"field 'label' must hold integers from 0 to {self.num_labels - 1}, and -1 or NaN where the label is"
                f" unknown; got {label[row].item():g} in row {first_row + row}. Number the labels from 0."
            )

    def initialize(self, x: Tensor, *, observed: Tensor | None = None, **batch: Tensor) -> None:
        label = batch.pop(LABEL, None)
        if label is None or not (label >= 0).any():
            raise ValueError(
                "field 'label' must be known in some rows of the data of fit; got none. Pass fields={'label': labels},"
                " with -1 where a label is unknown, or fit a VAE, which needs no labels."
            )
        super().initialize(x, observed=observed, **batch)

    def level_names(self, name: str) -> list[str] | None:
        return super().level_names(name) if name != LABEL else self.label_names

    def reads_covariates(self, role: str) -> bool:
        return super().reads_covariates("encoder" if role == "classifier" else role)

    def size_beside(self, role: str) -> int:
        return super().size_beside(role) + (0 if role == "classifier" else self.num_labels)

    def beside(self, role: str, batch: Mapping[str, Tensor]) -> Tensor | None:
        further = super().beside(role, batch)
        if role == "classifier":
            return further
        if LABEL not in batch:
            raise ValueError("label must be given here; got none. Pass label=, one for each row.")
        one_hot = (batch[LABEL].unsqueeze(-1) == torch.arange(self.num_labels, device=batch[LABEL].device)).to(
            self.like
        )
        if further is None:
            return one_hot
        lead = torch.broadcast_shapes(further.shape[:-1], one_hot.shape[:-1])
        return torch.cat([part.expand(*lead, part.shape[-1]) for part in (further, one_hot)], -1)

    def q_y(self, x: Tensor, batch: Mapping[str, Tensor]) -> dist.Categorical:
        """q(y | x) of the rows x (B, *E) with these fields."""
        x, observed, batch = self.split_missing(x, dict(batch))
        return dist.Categorical(logits=self.net_output("classifier", x, observed, batch))

    def model(self, x: Tensor | None = None, *, rows: int | None = None, **batch: Tensor) -> Tensor:
        observed = None
        if x is not None:
            x, observed, batch = self.split_missing(x.to(self.like.dtype), batch)
        with pyro.plate(self.row_plate, num_rows(x, rows)):
            p_y = dist.Categorical(logits=self.label_logits)
            batch = batch | {LABEL: sample_label("y", p_y, batch.get(LABEL))}
            z = pyro.sample("z", self.prior_of(batch, posterior=self._posterior))
            return self.sample_row(self.p_x(z, batch), x, observed)

    def guide(self, x: Tensor, **batch: Tensor) -> Tensor:
        x = x.to(self.like.dtype)
        with pyro.plate(self.row_plate, x.shape[0]):
            y = sample_label("y", self.q_y(x, batch), batch.get(LABEL), classifier_weight=self.classifier_weight)
            return self.sample_latents(x, batch | {LABEL: y})

    def classify(
        self, x: Any, *, method: str = "classifier", num_particles: int = 100, seed: int | None = None, **fields: Any
    ) -> Tensor:
        """The probabilities of the labels of each row, (B, C); a label among the fields is not read.

        Args:
            x: rows (B, *E), in any form that `fit` takes.
            method: "classifier" for q(y | x); "posterior" for p(y | x), by importance sampling of z for every label.
            num_particles: K, draws of z for each label, for "posterior".
            seed: seed of these draws.
            **fields: named per-row fields, as in `elbo`.

        Raises:
            ValueError: if the method is unknown.
        """
        if not isinstance(method, str) or method not in METHODS:
            raise ValueError(f"method must be classifier or posterior; got {method!r}. Choose one of these.")
        positive_integer("num_particles", num_particles)
        rows, names = self.read_rows(x, fields)
        names = tuple(name for name in names if name != LABEL)
        count = num_particles if method == "posterior" else 1
        with evaluating(self, seed=seed):
            found = []
            for batch in row_chunks(self, rows, count, names):
                if method == "classifier":
                    found.append(self.q_y(batch["x"], {n: v for n, v in batch.items() if n != "x"}).probs)
                    continue
                terms = []
                for part in particle_counts(batch, count):
                    enumeration = chunk_weights(self, batch, part).enumeration
                    terms.append(torch.empty(0) if enumeration is None else enumeration.log_terms)  # (C, K, B)
                found.append(torch.cat(terms, 1).double().logsumexp(1).softmax(0).T.to(self.like))
        return torch.cat(found)

    def encode(self, x: Any, *, seed: int | None = None, **fields: Any) -> dist.TorchDistribution:
        """q(z | x), a mixture of q(z | x, y) under q(y | x), of one component in rows with a label; events (D,)."""
        rows, names = self.read_rows(x, fields)
        weights, parameters = [], []
        with evaluating(self, seed=seed):
            for part in torch.arange(len(rows)).split(4096):
                batch = rows.take(part, names, like=self.like)
                x, label = batch.pop("x"), batch.pop(LABEL, None)
                each = torch.arange(self.num_labels, device=x.device).reshape(-1, 1).expand(-1, len(x))  # (C, B)
                parameters.append(self._guide_parameters(x, batch | {LABEL: each}).movedim(0, 1))
                probs = self.q_y(x, batch).probs
                known = torch.zeros(len(x), dtype=torch.bool, device=x.device) if label is None else label >= 0
                label = each[0] if label is None else label
                weights.append(torch.where(known.unsqueeze(-1), (label.unsqueeze(-1) == each.T).to(probs), probs))
            q = self.family(torch.cat(parameters))
            return dist.MixtureSameFamily(dist.Categorical(torch.cat(weights)), q)

    def decode(self, z: Any, **fields: Any) -> dist.TorchDistribution:
        """p(x | z, y) for latents (..., D) and labels, which must be known: batch shape (...), event shape E."""
        label = split_fields(fields)[1].get(LABEL)
        unknown = torch.zeros(0) if label is None else ~(self.read_field(LABEL, label).reshape(-1) >= 0)
        if unknown.any():
            raise ValueError(
                f"field 'label' must be known to decode; got an unknown one in row {int(unknown.nonzero()[0])}. Pass"
                f" labels from 0 to {self.num_labels - 1}, or their names."
            )
        return super().decode(z, **fields)

    @contextmanager
    def refined(self, steps: int = 20, learning_rate: float = 0.05) -> Iterator[VAE]:
        """Not built: the encoder's output would have to be refined for each label."""
        raise NotImplementedError("refined is not built for labels. Use method='ais' for log p(x).")
        yield self


def _as_names(labels: Any) -> list[str]:
    """The names of the labels."""
    if isinstance(labels, int) and not isinstance(labels, bool):
        if labels < 2:
            raise ValueError(f"labels must be at least 2; got {labels}. Give the number of labels, or their names.")
        return [str(number) for number in range(labels)]
    names = list(labels) if isinstance(labels, Sequence) and not isinstance(labels, str) else []
    if len(names) < 2 or not all(isinstance(name, str) for name in names) or len(set(names)) < len(names):
        raise ValueError(
            f"labels must be the number of labels, or at least two different names as text; got {labels!r}. Pass e.g."
            " ['cat', 'dog']."
        )
    return names


def _as_codes(values: Any, names: list[str]) -> Tensor:
    """Labels as integers, with -1 where they are unknown: numbers from 0, or names."""
    cells = as_cells(values)
    if not isinstance(cells, Tensor) and cells.dtype.kind == "O":
        codes = {name: code for code, name in enumerate(names)}
        found = []
        for row, cell in enumerate(cells.reshape(-1)):
            code: Any = -1 if is_missing(cell) else codes.get(cell) if isinstance(cell, str) else cell
            if not is_integer(code):
                raise ValueError(
                    f"field 'label' must have one of the labels {names[:12]}; got {cell!r} in row {row}. Correct it, or"
                    " write -1 or None where it is unknown."
                )
            found.append(int(code))
        return torch.tensor(found).reshape(cells.shape)
    numbers = cells if isinstance(cells, Tensor) else torch.tensor(cells)
    if not numbers.is_floating_point():
        return numbers.long()
    whole = numbers.nan_to_num(-1.0)
    return whole.long() if bool((whole == whole.round()).all()) else numbers
