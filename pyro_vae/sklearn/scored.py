"""log p(x) of an estimator's rows."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from sklearn.utils.validation import check_is_fitted

from pyro_vae.arguments import positive_integer
from pyro_vae.sklearn.base import VAEEstimator, one_at_a_time
from pyro_vae.sklearn.columns import as_array

__all__ = ["Scored"]


class Scored(VAEEstimator):
    """Base of the estimators whose `score` is log p(x)."""

    num_particles: int

    def score(self, X: Any, y: Any = None) -> float:  # noqa: N803
        """The mean over rows of log p(x), in nats: the larger, the better, for `cross_val_score` and `GridSearchCV`.

        It is estimated by importance sampling with `num_particles` draws for each row: a lower bound in expectation,
        and close to log p(x) unless a warning (`UnreliableWarning`) says that it is not. The draws have the seed of
        `fit`, so that repeated calls agree. Of rows with missing cells it is log p of the observed ones. Of a row with
        another value in a column that was constant in training it is minus infinity, with a warning.

        Args:
            X: rows (N, D), as in `fit`.
            y: not used.
        """
        return float(self._log_density(X).mean())

    @one_at_a_time
    def _log_density(self, X: Any) -> np.ndarray:  # noqa: N803
        """log p(x) of each row, (N,) in float64."""
        check_is_fitted(self, "vae_")
        x = self._validated(X, reset=False)
        found = self.vae_.log_likelihood(
            self._columns.rows(x), num_particles=positive_integer("num_particles", self.num_particles), seed=self._seed
        )
        log_density = as_array(found.estimate)[:, 0].astype(np.float64)
        impossible = self._columns.impossible(x)
        if impossible.any():
            warnings.warn(
                f"{int(impossible.sum()):,} of {len(impossible):,} rows have another value in a column that was"
                " constant in fit: their log p(x) is minus infinity. Drop such columns, or pass a likelihood for all.",
                stacklevel=4,
            )
        return np.where(impossible, -np.inf, log_density)
