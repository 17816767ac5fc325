"""Discrete latents that are summed out exactly: a handler that runs all their values, and sums over these runs.

Let a be, for each combination of values of the enumerated sites, the sum of the log-probabilities of the model's sites
minus those of the guide's sites that were drawn. The log-weight of a particle is logsumexp(a) over all combinations,
and r = softmax(a) are their responsibilities, the posterior probabilities of the values given the particle. The guide's
q(y | x) of an enumerated site is not in a weight, since nothing was drawn from it.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from pyro import poutine
from torch import Tensor

from pyro_vae.inference.labels import CLASSIFIER_WEIGHT, Labelled

__all__ = ["Enumeration", "Marks", "PlatesUnknownError", "SumOut", "Summed", "is_marked", "weighted"]


def is_marked(site: Any) -> bool:
    """Whether a site is marked infer={"enumerate": "parallel"}, which in the model says that it is summed out."""
    return not site["is_observed"] and site["infer"].get("enumerate") == "parallel"


class PlatesUnknownError(Exception):
    """Raised at the first marked site where it is not yet known how many plate dimensions the programs use."""


class Marks(poutine.messenger.Messenger):
    """A handler that notes the names of the sites that the program itself marks."""

    def __init__(self) -> None:
        super().__init__()
        self.names: dict[str, None] = {}

    def _pyro_sample(self, msg: Any) -> None:
        if is_marked(msg):
            self.names[msg["name"]] = None


class SumOut(poutine.messenger.Messenger):
    """A handler that gives each site to be summed out all of its values, in a dimension left of plates and particles.

    Args:
        plate: the name of the row plate.
        first_dim: the first free dimension, counted from the right; None if it is unknown.
        names: the names of the sites that the model marks.

    Attributes:
        dims: the dimension of each of these sites, by name.
        refused: whether a site was found that cannot be summed out.
    """

    def __init__(self, plate: str, first_dim: int | None, names: Sequence[str] = ()) -> None:
        super().__init__()
        self.plate, self.first_dim, self.names = plate, first_dim, names
        self.dims: dict[str, int] = {}
        self.refused = False

    def _pyro_sample(self, msg: Any) -> None:
        if msg["done"] or msg["is_observed"]:
            return
        if self.first_dim is None and is_marked(msg):
            raise PlatesUnknownError
        if self.first_dim is None or msg["name"] not in self.names:
            return
        dim = self.dims.setdefault(msg["name"], self.first_dim - len(self.dims))
        self.refused = True
        values = _values(msg, self.plate)
        self.refused = False
        shape = (len(values), *[1] * (-dim - 1), *msg["fn"].event_shape)
        values = values.reshape(shape)
        msg["value"] = msg["fn"].known(values) if isinstance(msg["fn"], Labelled) else values
        msg["done"] = True


def _values(site: Any, plate: str) -> Tensor:
    """All values of a site: (C, ..., *event)."""
    name, fn = site["name"], site["fn"]
    frames = [frame for frame in site["cond_indep_stack"] if frame.name != "particles"]
    if [frame.name for frame in frames] != [plate] or not frames[0].vectorized:
        inside = ", ".join(repr(frame.name) for frame in frames) or "no plate"
        raise ValueError(
            f"Site {name!r}, which is to be summed out, must lie in the row plate {plate!r} and in no other; got"
            f" {inside}. Move it there, or draw it: leave out infer={{'enumerate': 'parallel'}}."
        )
    if isinstance(fn, Labelled):
        if frames[0].dim != -1 or fn.label.shape[0] != frames[0].size:
            raise ValueError(
                f"label at site {name!r} must have one number for each of the {frames[0].size} rows, and the row plate"
                f" must be the rightmost; got {tuple(fn.label.shape)} and dim={frames[0].dim}. Correct either."
            )
        fn = fn.base
    try:
        if not fn.has_enumerate_support:
            raise NotImplementedError
        values: Tensor = fn.enumerate_support(expand=False)
    except NotImplementedError:
        raise ValueError(
            f"Site {name!r}, which is to be summed out, must have finitely many values that can be listed; got"
            f" {type(fn).__name__}. Use Categorical, Bernoulli or OneHotCategorical, or draw the site in the guide."
        ) from None
    return values


@dataclass(frozen=True)
class Summed:
    """What enumeration needs to know of one site that is summed out.

    Attributes:
        name: the name of the site.
        count: C, the number of its values.
        allowed: which of its values the label allows in each row, boolean (C, 1, ..., 1, B); None without labels.
        known: the rows with a label, boolean (B,), or None.
        weight: the weight of -log q(label | x).
        log_q: log q(y | x) of the guide, (C1, ..., K, B); None if the site is in the model alone.
    """

    name: str
    count: int
    allowed: Tensor | None
    known: Tensor | None
    weight: float
    log_q: Tensor | None

    @classmethod
    def of(cls, place: int, model_site: Any, guide_site: Any | None, log_q: Tensor | None) -> Summed:
        """From the site in the trace of the model, and in that of the guide if it has it.

        Args:
            place: the number of the site's dimension among those of enumeration, from the right.
            model_site: the site in the model.
            guide_site: the site in the guide, or None.
            log_q: its log-probabilities there.
        """
        named = [site for site in (guide_site, model_site) if site is not None]
        labels = [site["fn"].label for site in named if isinstance(site["fn"], Labelled)]
        fn = model_site["fn"].base if isinstance(model_site["fn"], Labelled) else model_site["fn"]
        values = fn.enumerate_support(expand=False)
        count = len(values)
        allowed = known = None
        if labels:
            known = labels[0] >= 0
            same = values.reshape(count, 1) == labels[0].to(values.dtype)
            allowed = (~known | same).reshape(count, *[1] * (place + 1), -1)
        weight = 1.0 if guide_site is None else guide_site["infer"].get(CLASSIFIER_WEIGHT, 1.0)
        return cls(model_site["name"], count, allowed, known, weight, log_q)


@dataclass(frozen=True)
class Enumeration:
    """All combinations of values of the sites that are summed out: their log-weights, responsibilities and sums.

    Arrays have shape (C_n, ..., C_1, K, B), where C_i is the number of values of the i-th site, or 1 along a dimension
    in which they do not vary.

    Attributes:
        summed: the sites that are summed out, in the order of their dimensions from the right.
        log_terms: a, the log-weight of each combination.
        shares: r, the responsibilities of the combinations, detached.
    """

    summed: tuple[Summed, ...]
    log_terms: Tensor
    shares: Tensor

    @classmethod
    def of(cls, summed: tuple[Summed, ...], log_terms: Tensor) -> Enumeration:
        """From the log-weight of each combination."""
        log_terms = log_terms.expand(*(site.count for site in reversed(summed)), *log_terms.shape[-2:])
        allowed = _all(site.allowed for site in summed)
        return cls(summed, log_terms, _softmax(_only(log_terms.detach(), allowed), _dims(summed)))

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the sites that are summed out."""
        return tuple(site.name for site in self.summed)

    @property
    def in_guide(self) -> bool:
        """Whether the guide has one of these sites."""
        return any(site.log_q is not None for site in self.summed)

    @property
    def allowed(self) -> Tensor | None:
        """The combinations that the labels allow; None without labels."""
        return _all(site.allowed for site in self.summed)

    def average(self, terms: Tensor) -> Tensor:
        """The mean of terms under the responsibilities: (K, B)."""
        return weighted(self.shares, terms)

    def log_sum(self, terms: Tensor, *, guide: bool = False) -> Tensor:
        """logsumexp of terms over the combinations that labels allow: (K, B).

        Args:
            terms: terms of all combinations.
            guide: whether these are combinations of the guide's sites alone.
        """
        dims, allowed = (self._guide_dims, self._allowed_by_guide) if guide else (_dims(self.summed), self.allowed)
        sizes = [n if dim in dims else 1 for dim, n in enumerate(self.log_terms.shape[:-2])]
        whole = _only(terms.expand(*sizes, *terms.shape[-2:]), allowed)
        return torch.logsumexp(whole, dims).reshape(terms.shape[-2:]) if dims else terms

    def entropies(self) -> list[Tensor]:
        """Parts, one for each site, of the mean of log r under r: (K, B) each."""
        total, found = torch.zeros(()).to(self.shares), []
        for place in range(len(self.summed)):
            others = [dim for dim in _dims(self.summed) if dim < len(self.summed) - 1 - place]
            marginal = self.shares.sum(others, keepdim=True) if others else self.shares
            so_far = torch.xlogy(marginal, marginal).sum(_dims(self.summed))
            found.append(so_far - total)
            total = so_far
        return found

    @property
    def _model_dims(self) -> list[int]:
        """The dimensions of the sites that are in the model alone."""
        return [dim for dim, site in zip(_dims(self.summed), reversed(self.summed), strict=True) if site.log_q is None]

    @property
    def _guide_dims(self) -> list[int]:
        return [dim for dim in _dims(self.summed) if dim not in self._model_dims]

    @property
    def _allowed_by_guide(self) -> Tensor | None:
        return _all(site.allowed for site in self.summed if site.log_q is not None)

    @property
    def log_q(self) -> Tensor:
        """log q of the combinations of the guide's sites, 0 for labels."""
        total = torch.zeros(()).to(self.log_terms)
        for site in self.summed:
            if site.log_q is not None:
                total = total + (site.log_q if site.known is None else torch.where(site.known, 0.0, site.log_q))
        return total

    def _guide_probabilities(self) -> Tensor:
        """q of the combinations of the guide's sites: 1 for labels, 0 for values that a label excludes."""
        probabilities, allowed = self.log_q.exp(), self._allowed_by_guide
        return probabilities if allowed is None else torch.where(allowed, probabilities, 0.0)

    def _model_log_sum(self) -> Tensor:
        """A, the log-weight of each combination of the guide's sites: sites of the model alone are summed out."""
        if not self._model_dims:
            return self.log_terms
        allowed = _all(site.allowed for site in self.summed if site.log_q is None)
        return torch.logsumexp(_only(self.log_terms, allowed), self._model_dims, keepdim=True)

    def guide_shares(self) -> Tensor:
        """The probability of each combination under the guide; the model's, given these, for sites that it alone has.

        Gradients pass to the guide's probabilities alone.
        """
        return self._guide_probabilities() * self._model_shares()

    def _model_shares(self) -> Tensor:
        if not self._model_dims:
            return torch.ones(()).to(self.shares)
        allowed = _all(site.allowed for site in self.summed if site.log_q is None)
        return _softmax(_only(self.log_terms.detach(), allowed), self._model_dims)

    def guide_entropy(self) -> Tensor:
        """The mean of the logarithm of `guide_shares` under them: (K, B)."""
        given = self._model_shares()
        return weighted(self.guide_shares(), self.log_q + torch.where(given > 0, given, 1.0).log())

    def mismatch(self, *, detached: bool) -> Tensor:
        """KL(q(y | x) || r) of the guide's sites, with q(y | x) a point mass where there is a label: (K, B).

        Args:
            detached: whether the responsibilities are constants, so that gradients reach q(y | x) alone.
        """
        terms, allowed, dims = self._model_log_sum(), self._allowed_by_guide, self._guide_dims
        terms = terms.detach() if detached else terms
        log_sum = torch.logsumexp(_only(terms, allowed), dims, keepdim=True)
        return weighted(self._guide_probabilities(), self.log_q - terms + log_sum)

    def classification(self) -> Tensor:
        """The weighted sum of -log q(label | x) over the guide's sites with labels: (K, B)."""
        total = torch.zeros(()).to(self.log_terms)
        for site in self.summed:
            if site.log_q is not None and site.known is not None and site.weight:
                loss = torch.where(site.known, -site.log_q, 0.0)
                total = total + site.weight * weighted(self._guide_probabilities(), loss)
        return total.expand(self.log_terms.shape[-2:])

    def drawn(self, shares: Tensor) -> dict[str, Tensor]:
        """Draws of a combination by its probability: for each site the number of its value, (K, B)."""
        shares = shares.expand(self.log_terms.shape)
        flat = shares.flatten(0, -3).movedim(0, -1)  # (K, B, number of combinations)
        number = torch.multinomial(flat.reshape(-1, flat.shape[-1]).double(), 1).reshape(flat.shape[:-1])
        chosen = {}
        for site in self.summed:  # the first site's dimension is the rightmost
            chosen[site.name], number = number % site.count, number // site.count
        return chosen


def _dims(summed: tuple[Summed, ...]) -> list[int]:
    return list(range(len(summed)))


def _all(masks: Iterable[Tensor | None]) -> Tensor | None:
    """The conjunction of masks, of which some may be None; None without any."""
    given = [mask for mask in masks if mask is not None]
    return functools.reduce(torch.logical_and, given) if given else None


def _only(terms: Tensor, allowed: Tensor | None) -> Tensor:
    return terms if allowed is None else torch.where(allowed, terms, -torch.inf)


def _softmax(terms: Tensor, dims: list[int]) -> Tensor:
    """exp(terms) / sum over `dims`; equal shares where all terms are -inf or one is not a number."""
    log_sum = torch.logsumexp(terms, dims, keepdim=True)
    count = math.prod(terms.shape[dim] for dim in dims)
    return torch.where(torch.isfinite(log_sum), (terms - log_sum).exp(), 1.0 / count)


def weighted(shares: Tensor, terms: Tensor) -> Tensor:
    """The sum over combinations of shares, of sum 1, x terms; a share of 0 counts as 0 whatever the term: (K, B)."""
    if terms.dim() == 2:
        return terms
    products = shares * torch.where(shares > 0, terms, 0.0)
    return products.sum(tuple(range(products.dim() - 2)))
