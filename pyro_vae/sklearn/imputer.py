"""Missing cells filled in."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

import numpy as np
from sklearn import get_config
from sklearn.base import TransformerMixin
from sklearn.impute import MissingIndicator
from sklearn.utils.validation import check_is_fitted
from torch.distributions import Distribution

from pyro_vae.arguments import is_number, true_or_false
from pyro_vae.elbos import IWAE
from pyro_vae.imputation.guesses import GUESSES
from pyro_vae.likelihoods import Likelihood
from pyro_vae.missing import AtRandom, Missing
from pyro_vae.priors import Prior
from pyro_vae.sklearn.base import VAEEstimator, one_at_a_time
from pyro_vae.sklearn.columns import TableColumns, in_library, with_columns
from pyro_vae.tables import Kind

__all__ = ["Imputer"]


class Imputer(TransformerMixin, VAEEstimator):
    """Missing cells filled in given the observed ones, in the place of `sklearn.impute.IterativeImputer`.

    A frame comes back as a frame of the same library, with its dtypes and levels, unless `set_output` says otherwise;
    an array comes back as an array. Observed cells stay as they are. Columns of a frame that are left out of the model
    as identifiers come back with their gaps. Missing cells of a constant column get the constant. A column without an
    observed cell in `fit` is refused.

    A completed table hides that cells were missing: standard errors computed from it are too small. To analyse, use
    `vae_.impute` with several imputations, and `pv.pool`.

    Args:
        missing_values: the number that stands for a missing cell of an array; NaN. Of a frame, cells that its library
            takes for missing are missing.
        single: which best guess is filled in: "mean", "median" or "mode", as in `VAE.impute`.
        sample_posterior: whether a draw given the observed cells is filled in, not the best guess. With an integer as
            `random_state`, repeated calls return the same draw; `set_params(random_state=...)` gives another one
            without another `fit`.
        add_indicator: whether columns follow that say which cells were missing, one for each column with missing
            cells in `fit`.
        num_candidates: draws of the latents for each row, as in `VAE.impute`.
        missing: what is assumed about missing cells; `pv.missing.AtRandom()`.
        elbo: the estimator of the bound; `pv.elbos.IWAE(num_particles=5)`, of which imputations are better.
        latent_dim, likelihood, prior, guide, encoder, decoder, kinds, covariates: as of `LatentTransformer`.
        epochs, batch_size, learning_rate, fit_options, random_state: as of `LatentTransformer`.

    Attributes:
        vae_: the fitted `pv.VAE`, with all its methods.
        indicator_: the fitted `sklearn.impute.MissingIndicator`; None without `add_indicator`.
        n_features_in_, feature_names_in_: the number of columns in `fit`, and their names if they are text.

    Example:
        >>> import pandas
        >>> frame = pandas.DataFrame({"age": [31.5, 40.0, None, 58.5], "smokes": ["no", "yes", "no", None]})
        >>> Imputer(epochs=5, random_state=0).fit_transform(frame).isna().sum().tolist()
        [0, 0]
    """

    indicator_: Any

    def __init__(
        self,
        latent_dim: int | None = None,
        *,
        missing_values: float = np.nan,
        single: str = "mean",
        sample_posterior: bool = False,
        add_indicator: bool = False,
        num_candidates: int = 200,
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
        self.missing_values = missing_values
        self.single = single
        self.sample_posterior = sample_posterior
        self.add_indicator = add_indicator
        self.num_candidates = num_candidates

    def fit(self, X: Any, y: Any = None) -> Self:  # noqa: N803
        """Train a new model on the observed cells of X; y is not used."""
        self._check_single()
        true_or_false("sample_posterior", self.sample_posterior)
        x = self._fit(X)
        self.indicator_ = None
        if true_or_false("add_indicator", self.add_indicator):
            self.indicator_ = MissingIndicator(error_on_new=False).fit(_marked(self._columns.missing(x)))
            taken = set(self._names()) & set(self._indicator_names())
            if taken:
                raise ValueError(
                    f"add_indicator must add columns with new names; got {min(taken)!r}, which X has. Rename it."
                )
        return self

    @one_at_a_time
    def transform(self, X: Any) -> Any:  # noqa: N803
        """The rows with their missing cells filled in, (N, D), and the columns of the indicator, in the form of X."""
        check_is_fitted(self, "vae_")
        x = self._validated(X, reset=False)
        how: dict[str, Any] = {"single": self._check_single(), "seed": self._seed}
        if self.sample_posterior:
            how = {"num_imputations": 1, "seed": self._new_seed()}
        found = self.vae_.impute(self._columns.rows(x), num_candidates=self.num_candidates, **how)
        completed = self._columns.completed(x, found)
        if self.indicator_ is not None:
            pattern = self.indicator_.transform(_marked(self._columns.missing(x)))
            if isinstance(completed, np.ndarray):
                return np.hstack([completed, pattern])
            completed = with_columns(completed, dict(zip(self._indicator_names(), pattern.T, strict=True)))
        wanted = getattr(self, "_sklearn_output_config", {}).get("transform", get_config()["transform_output"])
        return completed if isinstance(completed, np.ndarray) else in_library(completed, wanted)

    def get_feature_names_out(self, input_features: Any = None) -> np.ndarray:
        """The names of the columns of X in `fit` (x0, x1, ... if they have none), and of the indicator.

        Raises:
            ValueError: if `input_features` are others, or another number of names.
        """
        check_is_fitted(self, "vae_")
        names = self._names(input_features)
        return np.array([*names, *self._indicator_names(input_features)], dtype=object)

    def _names(self, input_features: Any = None) -> list[str]:
        """The names of the columns of X."""
        if isinstance(self._columns, TableColumns):
            own = [column.name for column in self._columns.schema.columns]
        else:
            own = list(getattr(self, "feature_names_in_", ()))
        given = own or [f"x{i}" for i in range(self.n_features_in_)] if input_features is None else list(input_features)
        if len(given) != self.n_features_in_ or (own and given != own):
            expected = f"the names of the columns in fit, {own}" if own else f"{self.n_features_in_} names"
            raise ValueError(f"input_features must be {expected}; got {given}. Leave it out.")
        return given

    def _indicator_names(self, input_features: Any = None) -> list[str]:
        if self.indicator_ is None:
            return []
        return list(self.indicator_.get_feature_names_out(self._names(input_features)))

    def _missing(self, has_missing: bool) -> Missing:
        return AtRandom() if self.missing is None else self.missing  # cells may be missing later, too

    def _default_elbo(self) -> Any:
        return IWAE(num_particles=5)

    def _check_single(self) -> str:
        if self.single not in GUESSES:
            raise ValueError(f"single must be one of {', '.join(GUESSES)}; got {self.single!r}. Choose one.")
        return self.single

    def _validated(self, X: Any, *, reset: bool) -> Any:  # noqa: N803
        x, marker = super()._validated(X, reset=reset), self.missing_values
        if isinstance(marker, float) and np.isnan(marker):
            return x
        if not is_number(marker):
            raise ValueError(f"missing_values must be a number or NaN; got {marker!r}. Mark missing cells by NaN.")
        if not isinstance(x, np.ndarray):
            raise ValueError(
                f"missing_values must be NaN for a frame; got {marker!r}. Make these cells missing first, such as by"
                f" frame.replace({marker!r}, None)."
            )
        if np.isnan(x).any():
            raise ValueError(f"X must have no NaN where missing_values is {marker!r}. Mark missing cells in one way.")
        return np.where(x == marker, np.nan, x).astype(x.dtype)


def _marked(missing: np.ndarray) -> np.ndarray:
    """A matrix whose cells are NaN where missing and zero elsewhere."""
    return np.where(missing, np.nan, 0.0)
