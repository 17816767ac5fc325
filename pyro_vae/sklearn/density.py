"""log p(x), and rows for which it is low."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

import numpy as np
from sklearn.base import OutlierMixin
from sklearn.utils.validation import check_is_fitted
from torch.distributions import Distribution

from pyro_vae.arguments import is_number
from pyro_vae.likelihoods import Likelihood
from pyro_vae.missing import Missing
from pyro_vae.priors import Prior
from pyro_vae.sklearn.scored import Scored
from pyro_vae.tables import Kind

__all__ = ["DensityEstimator"]


class DensityEstimator(OutlierMixin, Scored):
    """log p(x) of each row, and outliers: rows whose log p(x) is below that of most rows of training.

    Log-densities are estimated by importance sampling, with the seed of `fit`. The noise of a row depends on its place
    in X: of another order of rows, or a part of them, scores differ by their Monte Carlo error, which
    `vae_.log_likelihood(X)` tells, and which more `num_particles` make smaller.

    Args:
        contamination: the share of rows of training, above 0 and at most .5, that are taken for outliers.
        num_particles: draws for each row.
        latent_dim, likelihood, prior, guide, encoder, decoder, missing, kinds, covariates: as of
            `LatentTransformer`.
        elbo, epochs, batch_size, learning_rate, fit_options, random_state: as of `LatentTransformer`.

    Attributes:
        vae_: the fitted `pv.VAE`, with all its methods.
        offset_: the quantile `contamination` of log p(x) in the rows of training, in nats.
        n_features_in_, feature_names_in_: the number of columns in `fit`, and their names if they are text.

    Example:
        >>> from sklearn.datasets import load_iris
        >>> x = load_iris().data
        >>> density = DensityEstimator(epochs=20, contamination=0.02, random_state=0).fit(x)
        >>> density.score_samples(x).shape, int((density.predict(x) == -1).sum())
        ((150,), 3)
    """

    offset_: float

    def __init__(
        self,
        latent_dim: int | None = None,
        *,
        contamination: float = 0.1,
        num_particles: int = 200,
        likelihood: Likelihood | Callable[[int], Likelihood] | None = None,
        prior: Prior | Distribution | Callable[[int], Prior] | None = None,
        guide: Any = None,
        encoder: Any = None,
        decoder: Any = None,
        missing: Missing | None = None,
        kinds: Mapping[str, str | Kind] | None = None,
        covariates: Sequence[str] | None = (),
        elbo: Any = None,
        epochs: int | None = None,
        batch_size: int = 128,
        learning_rate: Any = None,
        fit_options: Mapping[str, Any] | None = None,
        random_state: Any = None,
    ) -> None:
        super().__init__(
            latent_dim,
            likelihood=likelihood,
            prior=prior,
            guide=guide,
            encoder=encoder,
            decoder=decoder,
            missing=missing,
            kinds=kinds,
            covariates=covariates,
            elbo=elbo,
            epochs=epochs,
            batch_size=batch_size,
            learning_rate=learning_rate,
            fit_options=fit_options,
            random_state=random_state,
        )
        self.contamination = contamination
        self.num_particles = num_particles

    def fit(self, X: Any, y: Any = None) -> Self:  # noqa: N803
        """Train a new model on rows X, and set the offset; y is not used."""
        share = self.contamination
        if not (is_number(share) and 0 < share <= 0.5):
            raise ValueError(f"contamination must be above 0 and at most 0.5; got {share!r}. Pass e.g. 0.1.")
        self._fit(X)
        self.offset_ = float(np.percentile(self._log_density(X), 100 * share))
        return self

    def score_samples(self, X: Any) -> np.ndarray:  # noqa: N803
        """log p(x) of each row in nats, (N,), as `score` has its mean."""
        return self._log_density(X)

    def decision_function(self, X: Any) -> np.ndarray:  # noqa: N803
        """log p(x) minus the offset, (N,): negative for outliers."""
        check_is_fitted(self, "vae_")
        return self._log_density(X) - self.offset_

    def predict(self, X: Any) -> np.ndarray:  # noqa: N803
        """-1 for outliers and 1 for the other rows, (N,)."""
        return np.where(self.decision_function(X) < 0, -1, 1)
