"""Estimates of log p(x) and their reliability, computed from log-weights."""

from __future__ import annotations

import warnings
from typing import NamedTuple

import torch
from torch import Tensor

from pyro_vae import bounds
from pyro_vae.evaluation.base import Method
from pyro_vae.evaluation.results import LogLikelihood, UnreliableWarning, check_estimates, unknown_khat
from pyro_vae.inference import pareto
from pyro_vae.inference.chunks import ProgramStructure

__all__ = ["Summary", "as_log_likelihood", "summarize_log_weights", "warn_if_unreliable"]


class Summary(NamedTuple):
    """What `summarize_log_weights` computes, each (B,) in double precision; `LogLikelihood` explains the fields."""

    estimate: Tensor
    standard_error: Tensor
    ess: Tensor
    khat: Tensor
    smoothed: Tensor

    @staticmethod
    def joined(parts: list[Summary]) -> Summary:
        """Concatenate summaries over rows."""
        return Summary(*(torch.cat(column) for column in zip(*parts, strict=True)))

    def with_rows(self, index: Tensor, other: Summary) -> Summary:
        """A copy in which the rows with numbers `index` are those of another summary."""
        return Summary(*(old.index_copy(0, index, new) for old, new in zip(self, other, strict=True)))


def summarize_log_weights(log_w: Tensor) -> Summary:
    """Log-mean, its standard error, effective sample size, k-hat and smoothed log-mean of log-weights (K, B).

    The standard error is that of the logarithm of a mean to first order: the weights' coefficient of variation over
    sqrt(K). Weights that differ by no more than rounding errors have a k-hat of -inf.
    """
    size = log_w.abs().masked_fill(log_w.isinf(), 0.0).amax(0).double()  # weights of zero are no rounding errors
    rounding = 64 * torch.finfo(log_w.dtype).eps * size
    log_w, k = log_w.double(), len(log_w)
    ess = 1.0 / torch.softmax(log_w, 0).square().sum(0)
    ess = torch.where((log_w == log_w[0]).all(0), torch.full_like(ess, k), ess)
    ess[log_w.amax(0) == -torch.inf] = torch.nan  # no draw has weight
    variance = (k / ess - 1.0).clamp_min(0.0) / (k - 1) if k > 1 else torch.full_like(ess, torch.nan)
    smoothed, khat = pareto.smooth(log_w)
    khat = torch.where((log_w.amax(0) - log_w.amin(0) <= rounding) & (k > 1), -torch.inf, khat)
    return Summary(bounds.iwae(log_w), variance.sqrt(), ess, khat, bounds.iwae(smoothed))


def as_log_likelihood(
    summary: Summary,
    num_particles: int | Tensor,
    method: Method,
    structure: ProgramStructure,
    what: str = "log p(x)",
) -> LogLikelihood:
    """The result that users see; `what` says what is estimated.

    Raises:
        ValueError: if an estimate is NaN or infinity.
    """
    check_estimates(what, summary.estimate)
    return LogLikelihood(
        *summary,
        num_particles=num_particles,
        joint=structure.joint,
        method=method.name,
        discrete=structure.discrete,
        num_cells=structure.num_cells,
        what=what,
    )


def warn_if_unreliable(
    result: LogLikelihood,
    advice: str,
    what: str = "log p(x)",
    consequence: str = "as a rule too low",
) -> None:
    """Warn if rows are flagged, and say how many, why, and what to do.

    Args:
        result: the estimates.
        advice: what to do; see `remedies.remedy`.
        what: what they estimate.
        consequence: which way their mean errs.
    """
    num_rows, unknown = len(result.khat), int(result.khat.isnan().sum())
    high = int(result.unreliable.sum()) - unknown
    reasons = []
    if high:
        where = "All rows together have" if result.joint else f"{high} of {num_rows} rows have"
        reasons.append(
            f"{where} a Pareto k-hat above the threshold and fewer than {pareto.MIN_EFFECTIVE} effective draws"
        )
    if unknown:
        reasons.append(unknown_khat(result))
    if reasons:
        warnings.warn(
            f"{'; '.join(reasons)}: {what} is unreliable, {consequence}. {advice}", UnreliableWarning, stacklevel=4
        )
