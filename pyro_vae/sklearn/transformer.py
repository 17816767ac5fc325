"""Latents as features."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

import numpy as np
import torch
from sklearn.base import TransformerMixin
from sklearn.utils.validation import check_array, check_is_fitted
from torch.distributions import Distribution

from pyro_vae.distributions.moments import known_mean
from pyro_vae.imputation.guesses import nominal_probabilities
from pyro_vae.likelihoods import Likelihood
from pyro_vae.missing import Missing
from pyro_vae.priors import Prior
from pyro_vae.runtime.random import seeded
from pyro_vae.sklearn.base import one_at_a_time
from pyro_vae.sklearn.columns import as_array
from pyro_vae.sklearn.scored import Scored
from pyro_vae.tables import Kind

__all__ = ["LatentTransformer"]

DRAWS = 200  # whose average stands for a mean that has no closed form


class LatentTransformer(TransformerMixin, Scored):
    """Rows as the posterior means of their latents, in the place of, say, principal components.

    X is an array (N, D) of numbers, with NaN where a cell is missing; or a frame of pandas or polars, a table of
    pyarrow or a `pv.Table`, whose columns are read by their kinds (see `pv.Table`) unless `likelihood` is given.
    Columns of an array that have one value in `fit` are no part of the model, as in a table: `transform` ignores
    them, and `inverse_transform` gives that value.

    The model computes in float64, or in float32 where X is an array of float32.

    Args:
        latent_dim: the number of latents; by default half the number of columns, at least 2 and at most 16.
        likelihood: p(x given z) of the columns of an array or of a frame of numbers: a part such as
            `pv.likelihoods.Poisson(3)`, or a function of the number of columns, such as `pv.likelihoods.Poisson`. By
            default the columns of an array are normal with a standard deviation each, and those of a frame are as
            their kinds say. A part of another event shape, such as (1, 8, 8), gets the rows in that shape.
        prior: p(z), a part or a function of the number of latents, such as `pv.priors.Mixture`; standard normal.
        guide: the family of q(z given x); a mean-field normal.
        encoder: a net, as of `pv.VAE`; by default one hidden layer of 64 units.
        decoder: a net; by default affine (the model is then factor analysis) below 1,000 rows, and one hidden layer of
            64 units from there.
        missing: what is assumed about missing cells; `pv.missing.AtRandom()` if there are any in `fit`.
        kinds: kinds of the columns of a frame that should not be inferred, as of `pv.Table`.
        covariates: names of columns of a frame that are covariates, as of `pv.Table`: encoder and decoder read them,
            and the model is one of the other columns given these.
        elbo: the estimator of the bound, such as `pv.elbos.IWAE(num_particles=5)`.
        epochs: passes over the rows; by default about 100, within 1,000 to 2,000 steps, and never fewer than 10.
        batch_size: rows for each step.
        learning_rate: a number or a schedule of `pv.schedules`; by default it falls from .01 to .0002 along a cosine.
        fit_options: further arguments of `VAE.fit`, such as {"valid": X_valid, "patience": 20, "device": "cuda"}.
        num_particles: draws for each row in `score`.
        random_state: an integer, a `numpy.random.RandomState` or None (NumPy's global one), from which the seed of
            the nets, of training and of `score` comes. The random state of torch is left alone.

    Attributes:
        vae_: the fitted `pv.VAE`, with all its methods.
        n_features_in_, feature_names_in_: the number of columns in `fit`, and their names if they are text.

    Raises:
        TypeError, ValueError: naming a parameter that is wrong, or data that do not fit.

    Example:
        >>> from sklearn.datasets import load_iris
        >>> x = load_iris().data
        >>> latents = LatentTransformer(2, epochs=20, random_state=0).fit(x)
        >>> latents.transform(x).shape, latents.inverse_transform(latents.transform(x)).shape
        ((150, 2), (150, 4))
        >>> latents.get_feature_names_out()
        array(['latent0', 'latent1'], dtype=object)
    """

    def __init__(
        self,
        latent_dim: int | None = None,
        *,
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
        num_particles: int = 200,
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
        self.num_particles = num_particles

    def fit(self, X: Any, y: Any = None) -> Self:  # noqa: N803
        """Train a new model on rows X; y is not used."""
        self._fit(X)
        return self

    @one_at_a_time
    def transform(self, X: Any) -> Any:  # noqa: N803
        """The mean of q(z given x) of each row, (N, latent_dim).

        It is deterministic. Where the family has no mean in closed form (flows, for example) it is the average of 200
        draws with the seed of `fit`.
        """
        rows = self._read(X)
        q = self.vae_.encode(rows)
        mean = known_mean(q)
        if mean is None:
            with seeded(self._seed):
                mean = q.sample((DRAWS,)).mean(0)
        return as_array(mean)

    @one_at_a_time
    def inverse_transform(self, X: Any, covariates: Any = None) -> Any:  # noqa: N803
        """The mean of p(x given z) for latents X, (N, latent_dim), on the scale of the data.

        A mean without a closed form is the average of 200 draws with the seed of `fit`; where there is none, as of
        Student's t with one degree of freedom, their median stands for it.

        Args:
            X: latents (N, latent_dim).
            covariates: a frame of N rows with the columns that are covariates, such as the one that was transformed;
                its other columns are not read. None for a model without covariates.

        Returns:
            An array (N, D); where the model is one of a table, a frame of the library that `fit` was given, with the
            most probable level of columns that hold levels, and without columns that are left out as identifiers.
        """
        check_is_fitted(self, "vae_")
        z = check_array(X, dtype=[np.float64, np.float32], input_name="X", estimator=self)
        fields = self._columns.covariates(covariates)
        with seeded(self._seed), torch.no_grad():
            mean = _center(self.vae_.decode(z, **fields))
        return self._columns.back(mean, fields)

    @one_at_a_time
    def sample(self, n_samples: int = 1, covariates: Any = None) -> Any:
        """Rows drawn from the model, in the form of the training data: an array (n_samples, D), or a frame.

        With an integer as `random_state`, repeated calls return the same rows.

        Args:
            n_samples: the number of rows.
            covariates: a frame of so many rows with the columns that are covariates; None for a model without any.
        """
        check_is_fitted(self, "vae_")
        fields = self._columns.covariates(covariates)
        return self._columns.back(self.vae_.sample(n_samples, seed=self._new_seed(), fields=fields), fields)

    def get_feature_names_out(self, input_features: Any = None) -> np.ndarray:
        """The names of the columns of `transform`: latent0, latent1, ...; `input_features` is not used."""
        check_is_fitted(self, "vae_")
        return np.array([f"latent{i}" for i in range(self.vae_.prior.latent_dim)], dtype=object)


def _center(p: Any) -> torch.Tensor:
    """The mean of each cell, (N, *E); the median where it has none, and the most probable level where it has levels."""
    try:
        mean = p.mean.clone()
    except NotImplementedError:
        mean = p.sample((DRAWS,)).double().mean(0)
    for columns, probabilities in nominal_probabilities(p):
        mean[:, columns] = probabilities.argmax(-1).to(mean)
    if mean.isnan().any():
        mean = torch.where(mean.isnan(), p.sample((DRAWS,)).median(0).values, mean)
    return mean
