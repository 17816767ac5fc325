"""What the estimators share: their parameters, what they take for data, and how they train a model."""

from __future__ import annotations

import functools
import math
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data
from torch.distributions import Distribution

from pyro_vae.likelihoods import Likelihood
from pyro_vae.missing import AtRandom, Missing
from pyro_vae.models import VAE
from pyro_vae.priors import Prior
from pyro_vae.sklearn.columns import ArrayColumns, Columns, TableColumns
from pyro_vae.sklearn.making import fit_options, make_likelihood, make_parts
from pyro_vae.tables import Kind, Table
from pyro_vae.tables.libraries import is_frame

__all__ = ["VAEEstimator", "one_at_a_time"]

LOCK = threading.RLock()


def one_at_a_time(method: Callable[..., Any]) -> Callable[..., Any]:
    """Let threads of one process run such methods in turn: what Pyro keeps of a running program is one for all threads.

    Several processes, which `n_jobs` starts by default, do not wait for each other.
    """

    @functools.wraps(method)
    def run(*args: Any, **kwargs: Any) -> Any:
        with LOCK:
            return method(*args, **kwargs)

    return run


class VAEEstimator(BaseEstimator):
    """Base of the estimators. The parameters are those of `LatentTransformer`, which explains them.

    Attributes:
        vae_: the fitted model.
    """

    vae_: VAE
    _columns: Columns
    _seed: int

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
        random_state: Any = None,
    ) -> None:
        self.latent_dim = latent_dim
        self.likelihood = likelihood
        self.prior = prior
        self.guide = guide
        self.encoder = encoder
        self.decoder = decoder
        self.missing = missing
        self.kinds = kinds
        self.covariates = covariates
        self.elbo = elbo
        self.epochs = epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.fit_options = fit_options
        self.random_state = random_state

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        if tags.transformer_tags is not None:
            tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags

    @one_at_a_time
    def _fit(self, X: Any) -> Any:  # noqa: N803
        """Make a model for the rows and train it; returns X as validated."""
        self.__dict__.pop("vae_", None)  # a fit that fails leaves no model of other data behind
        x = self._validated(X, reset=True)
        self._seed = self._new_seed()
        if isinstance(x, np.ndarray):
            vae = self._vae_for_array(x)
        else:
            table = x if isinstance(x, Table) else Table(x, kinds=self.kinds, covariates=self.covariates)
            self._columns = TableColumns(table.schema)
            missing, count = self._missing(table.has_missing), len(table.schema.names)
            parts = make_parts(self.get_params(deep=False), missing, count, len(table))
            vae = VAE.for_table(table, **parts, seed=self._seed).double()
        rows = self._columns.rows(x)
        options = fit_options(self.get_params(deep=False), len(rows))
        if options.get("valid") is not None:
            options["valid"] = self._columns.rows(self._validated(options["valid"], reset=False))
        options["elbo"] = self._default_elbo() if options["elbo"] is None else options["elbo"]
        vae.fit(rows, **options, seed=self._seed)
        self.vae_ = vae
        return x

    def _vae_for_array(self, x: np.ndarray) -> VAE:
        empty = np.isnan(x).all(0)
        if empty.any():
            raise ValueError(
                f"X must have a cell that is not missing in each column; got none in column {_listed(empty)}. Drop"
                " what is empty."
            )
        same = np.nanmin(x, 0) == np.nanmax(x, 0) if self.likelihood is None else np.zeros(x.shape[1], dtype=bool)
        if same.all():
            raise ValueError("X must have a column that varies; got constant columns only. Pass other rows.")
        constants = np.where(same, np.nanmin(x, 0), np.nan)
        count = int((~same).sum())
        likelihood = make_likelihood(self.likelihood, count)
        shape = getattr(likelihood, "event_shape", (count,))
        if math.prod(shape) != count:
            raise ValueError(
                f"likelihood must have as many cells as X has columns, {count}; got the event shape {shape}. Pass"
                f" event_shape={count}, or a function of the number of columns, such as pv.likelihoods.Normal."
            )
        self._columns = ArrayColumns(constants, tuple(shape))
        missing = self._missing(bool(np.isnan(x).any()))
        parts = make_parts(self.get_params(deep=False), missing, count, len(x))
        return VAE(likelihood=likelihood, **parts, seed=self._seed).to(getattr(torch, x.dtype.name))

    def _validated(self, X: Any, *, reset: bool) -> Any:  # noqa: N803
        """X as an array (N, D) of float64 or float32, or as the frame that it is where the model is one of a table."""
        is_table = isinstance(X, Table)
        frame = X.frame() if is_table else X
        of_table = self.likelihood is None if reset else isinstance(self._columns, TableColumns)
        if of_table and is_frame(frame):
            validate_data(self, frame, reset=reset, skip_check_array=True)
            self._check_frame(X, reset=reset)
            return X
        what = "an array" if self.likelihood is None else "a likelihood"
        if reset and self.kinds is not None:
            raise ValueError(f"kinds must be left out with {what}; got {self.kinds!r}. They say what frames hold.")
        if reset and self.covariates is not None and len(self.covariates):
            raise ValueError(
                f"covariates must be left out with {what}; got {self.covariates!r}. They name columns of a frame."
            )
        return validate_data(
            self,
            frame,
            reset=reset,
            dtype=[np.float64, np.float32],
            ensure_all_finite="allow-nan",
            ensure_min_samples=2 if reset else 1,
        )

    def _check_frame(self, X: Any, *, reset: bool) -> None:  # noqa: N803
        if reset and len(X) < 2:
            raise ValueError(f"X must have at least 2 rows; got n_samples = {len(X)}. Pass those of training.")
        for name, given in (("kinds", self.kinds), ("covariates", self.covariates)):
            if reset and isinstance(X, Table) and given is not None and len(given):
                raise ValueError(
                    f"{name} must be left out with a pv.Table, which has its own; got {given!r}. Pass {name}= to"
                    " pv.Table."
                )

    def _read(self, X: Any) -> Any:  # noqa: N803
        """Rows of X, in a form that the fitted model takes."""
        check_is_fitted(self, "vae_")
        return self._columns.rows(self._validated(X, reset=False))

    def _missing(self, has_missing: bool) -> Missing | None:
        return AtRandom() if self.missing is None and has_missing else self.missing

    def _default_elbo(self) -> Any:
        return None  # that of `VAE.fit`

    def _new_seed(self) -> int:
        """A seed from `random_state`: the same at each call for an integer, else the next one."""
        return int(check_random_state(self.random_state).randint(2**31 - 1))


def _listed(columns: np.ndarray) -> str:
    places = np.flatnonzero(columns)
    return ", ".join(map(str, places[:8])) + (", ..." if len(places) > 8 else "")
