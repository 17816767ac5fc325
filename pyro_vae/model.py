"""The base class of models: a pair of Pyro programs, and the methods that train, evaluate, draw and save."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pyro.infer
import torch
from pyro.nn import PyroModule, pyro_method
from torch import Tensor, nn

from pyro_vae import evaluation, imputation, predictive
from pyro_vae.data.batches import Rows, as_rows
from pyro_vae.data.frames import check_alignment
from pyro_vae.data.loaders import names_of_columns, read_whole
from pyro_vae.evaluation import annealing, audit, bound, likelihood
from pyro_vae.fields import choose_fields, split_fields
from pyro_vae.inference.pair import ProgramPair
from pyro_vae.runtime import display
from pyro_vae.runtime.random import preserved_rng
from pyro_vae.saving import description
from pyro_vae.tables import TableSchema
from pyro_vae.tables.table import matching
from pyro_vae.training import fitting
from pyro_vae.training.history import History
from pyro_vae.training.options import Callback, FitOptions
from pyro_vae.training.state import TrainingState

__all__ = ["LatentVariableModel", "check_model", "keep_parameters"]


class LatentVariableModel(ProgramPair):
    """A pair of Pyro programs over rows of data: a model p(x, z) and a guide q(z | x).

    Subclass it, write both programs with ordinary `pyro.sample` and `pyro.plate` statements, and call
    `super().__init__()` first in the constructor. Training, evaluation, draws and saving then work. The programs also
    work in plain Pyro.

    Several particles run together under a plate to the left of the others. Programs must therefore accept latents with
    leading dimensions, as linear layers do; `nets.Rowwise` adapts a convolution, or any module that expects one batch
    dimension.

    The plate named `row_plate` counts rows, and `data_sites` names the observed sites. The model is called with `x` to
    compute its density, and with `rows=` (a number of rows) to draw from it; named per-row fields come as keywords.

    Attributes:
        row_plate: the name of the plate over rows.
        data_sites: the names of the sites that are data.

    Example:
        >>> import pyro, pyro.distributions as dist
        >>> class Mine(LatentVariableModel):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.encoder = torch.nn.Linear(1, 1)
        ...     def model(self, x=None, *, rows=None, **batch):
        ...         with pyro.plate("data", len(x) if x is not None else rows):
        ...             z = pyro.sample("z", dist.Normal(0.0, 1.0).expand([1]).to_event(1))
        ...             return pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)
        ...     def guide(self, x, **batch):
        ...         with pyro.plate("data", len(x)):
        ...             pyro.sample("z", dist.Normal(self.encoder(x), 0.7).to_event(1))
        >>> Mine().sample(3).shape
        torch.Size([3, 1])
    """

    training_state: TrainingState | None
    saved_history: History | None

    def __init__(self) -> None:
        super().__init__()
        keep_parameters(self)
        self.register_buffer("initialized", torch.tensor(False))
        self.training_state = None
        self.saved_history = None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for name in ("model", "guide"):
            if name in cls.__dict__:  # otherwise plain SVI would see no parameters
                setattr(cls, name, pyro_method(cls.__dict__[name]))

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if isinstance(value, nn.Module):
            keep_parameters(value)

    def __repr__(self) -> str:
        return display.model_line(self, self.made_of())

    def _repr_html_(self) -> str:
        return display.model_table(self, self.made_of())

    def made_of(self) -> dict[str, Any] | None:
        """The constructor's arguments for saving: the attributes of the same names; None if one is missing."""
        names = list(inspect.signature(type(self)).parameters)
        return {name: getattr(self, name) for name in names} if all(hasattr(self, name) for name in names) else None

    @property
    def history(self) -> History:
        """The table of all epochs so far; of a loaded model that is not trained again, those before it was saved."""
        saved = History() if self.saved_history is None else self.saved_history
        return saved if self.training_state is None else self.training_state.history

    @property
    def table_schema(self) -> TableSchema | None:
        """The columns of the table that the model was made for or trained on; None where there was none."""
        return None if self.schema.table is None else TableSchema.from_plain(self.schema.table)

    def read_rows(self, x: Any, fields: dict[str, Any]) -> tuple[Rows, tuple[str, ...]]:
        """The rows of `x`, checked, and the names of the fields that the programs receive.

        Args:
            x: rows (B, *E), in any form that `fit` takes.
            fields: values by name, or a dictionary of them as `fields=`; or, as `fields=("x", "label")`, the names of
                the fields that `x` itself has. Fields of `x` that the model reads need not be named.

        Raises:
            ValueError: if a field is given that nothing reads, one is absent that is required or was used in `fit`, or
                the columns of `x` have other names than in `fit`.
        """
        names, given = split_fields(fields)
        readable = self.fields
        with preserved_rng():  # a random transform draws numbers here, too
            known = (*readable, *(self.schema.fields or ()))
            read = as_rows(matching(x, self.schema.table), names, readable=known, read_field=self.read_field)
            columns = names_of_columns(read)
            if columns is not None:
                self.check_columns(columns)
            rows = read if isinstance(read, Rows) else read_whole(read, names, readable=readable)
            used = choose_fields(readable, (*names, *given), rows.field_names, seen=self.schema.fields)
            if given:
                check_alignment(given, rows.index)
                rows = rows.with_fields({name: self.read_field(name, values) for name, values in given.items()})
            for first_row, batch in rows.chunks(used, self.like, new=rows is not x and not given):
                self.check_batch(batch, used, first_row)
        return rows, used

    def fit(
        self,
        data: Any,
        *,
        elbo: pyro.infer.ELBO | None = None,
        epochs: int = 100,
        batch_size: int = 128,
        learning_rate: float | Callable[..., float] | None = None,
        optimizer: Callable[..., torch.optim.Optimizer] | None = None,
        valid: Any = None,
        patience: int | None = None,
        grad_clip: float | None = None,
        num_rows: int | None = None,
        seed: int | None = None,
        device: torch.device | str | None = None,
        fields: Sequence[str] | Mapping[str, Any] = (),
        callbacks: Sequence[Callback] = (),
        compile: bool | str = "auto",
        precision: str = "float32",
        on_nonfinite: str = "raise",
        locate_nonfinite: bool = True,
        run_dir: str | os.PathLike[str] | None = None,
        resume: bool = False,
        checkpoint_every: float = 300.0,
        progress: bool = True,
    ) -> History:
        """Train model and guide by stochastic variational inference; a second call continues the first.

        Optimizer, learning rate and history continue from the last call; `epochs` are additional. Ctrl-C ends the
        run and returns the history so far. The first batch is checked strictly. If a loss or gradient is not finite,
        `fit` raises before the optimizer's step, and the message says where it came from. Within an initialized
        `torch.distributed` process group all processes train one model: each is given all data, and takes its share of
        every batch.

        Args:
            data: rows (N, *E): a tensor, array, pandas frame, tuple of them, `Rows`, `Dataset` or `DataLoader`. Of data
                that are not in memory, only the first batch is checked, and the model starts from it.
            elbo: the estimator; any `pyro.infer.ELBO`, ours or Pyro's. `Trace_ELBO` by default.
            epochs: passes over the data.
            batch_size: rows per step; a `DataLoader` brings its own.
            learning_rate: a number, a schedule of `pv.schedules`, or a function of the steps taken; by default that of
                the last call, 1e-3 in the first.
            optimizer: a function or class that makes a `torch.optim` optimizer from `(parameters, lr=...)`; fused Adam
                by default.
            valid: validation rows; their bound, with every weight on the KL removed, is reported each epoch.
            patience: stop after this many epochs without a better validation bound, and restore the best parameters.
            grad_clip: the largest norm of the gradient; longer gradients are scaled down to it.
            num_rows: N, the number of rows that an epoch visits; needed where data or sampler do not state it.
            seed: seed of the order of rows and of the noise; parameters are drawn when the model is made.
            device: where to train, e.g. "cuda"; the model is moved there.
            fields: values of per-row fields by name; or names of the elements of a tuple data set, `"x"` among them, or
                of the fields of `Rows` or a frame, where those that the model reads (`model.fields`) need not be named.
                The programs receive them as keywords. `row_weights`, (N,), multiplies each row's bound.
            callbacks: functions of (model, history), called after each epoch; if one returns True, the run ends.
            compile: True compiles programs, gradient and update into one function, which is many times faster for small
                models, or raises with the reason why it can't; False never compiles; "auto" compiles if the steps of
                this call are expected to save more than twelve seconds, about what a first compilation takes.
            precision: "float32" computes in the model's own precision, which is float64 after `model.double()`;
                "bf16-mixed" computes the products of linear and convolutional layers, and those of their gradients, in
                bfloat16, and all else in float32. It pays on GPUs and processors that have such instructions.
            on_nonfinite: "raise", or "skip" to leave out steps whose loss or gradient is not finite; the history counts
                them, and an epoch without any finite step raises.
            locate_nonfinite: whether a step that fails is repeated with every module watched, to name the module where
                the first number that is not finite arose.
            run_dir: a folder for checkpoints of parameters, optimizer, random states, position and history. One is
                written at the end of each epoch (of short epochs, every two seconds), every `checkpoint_every` seconds
                within an epoch, and before SIGTERM or Ctrl-C take effect; the last two are kept.
            resume: continue from the last checkpoint in `run_dir`, if there is one, as if the run had never been
                interrupted: on a CPU bit for bit. Model, data and options must be those of the run, whose steps stay
                compiled or uncompiled; `epochs` counts from where the run began, and may be larger than it was.
            checkpoint_every: seconds between checkpoints.
            progress: whether to show a progress bar where there is a terminal.

        Returns:
            The table of all epochs so far, in nats per row.

        Raises:
            ValueError, TypeError: naming what is wrong with options, data or programs; nothing is trained then.
            OSError, RuntimeError: if `run_dir` can't be written, or another process trains there.
        """
        return fitting.fit(self, data, FitOptions.of_call(locals()))

    def elbo(
        self, x: Any, *, num_particles: int = 64, seed: int | None = None, **fields: Any
    ) -> evaluation.BoundResult:
        """The evidence lower bound of each row and its parts, unweighted; the KL is in closed form where there is one.

        A closed-form KL has no noise that could cancel the noise of the reconstruction. Near the exact posterior the
        Monte Carlo error of `log_likelihood` is therefore much smaller.

        Args:
            x: rows (B, *E), in any form that `fit` takes.
            num_particles: draws from the guide per row.
            seed: seed of the draws.
            **fields: named per-row fields; or `fields=("x", "label")`, names of fields of `x` itself, as in `fit`.
        """
        rows, names = self.read_rows(x, fields)
        return bound.elbo(self, rows, num_particles=num_particles, seed=seed, fields=names)

    def log_likelihood(
        self,
        x: Any,
        *,
        num_particles: int | None = None,
        method: str | evaluation.Method = "importance",
        target_error: float | None = None,
        max_particles: int = 100_000,
        seed: int | None = None,
        **fields: Any,
    ) -> evaluation.LogLikelihood:
        """log p(x) of each row with its standard error, effective sample size and Pareto k-hat, in nats.

        It is on the original scale of the data; for real x it is a log-density. The estimate is a lower bound in
        expectation, and printed as one.

        A row is flagged if its k-hat is above min(1 - 1 / log10 K, 0.7) with fewer than 100 effective draws, or if its
        k-hat is unknown, as with fewer than 25 draws. A warning counts these rows. They describe the set by their share
        (`flagged_share`): above 5 % the error of the mean is known to be larger than the stated one and is not printed.
        Rows that are not flagged are not the better ones: never pick them out.

        Args:
            x: rows (B, *E), in any form that `fit` takes.
            num_particles: K, draws per row; by default the method's own number: 1,000, or 32 chains of "ais".
            method: "importance" sampling from the guide; "semi_amortized", from a guide refined row by row;
                "ais", annealed from the guide to the posterior; or an object such as
                `pv.evaluation.AIS(num_steps=500)`.
            target_error: double the number of draws until each row's standard error is at most this. First draws decide
                how many a row needs, and new ones estimate it, since rows that stop early would be the lucky ones.
            max_particles: the largest number of draws per row; if the target is not reached by then, a warning says so.
            seed: seed of the draws.
            **fields: named per-row fields; or `fields=("x", "label")`, names of fields of `x` itself, as in `fit`.

        Raises:
            ValueError: naming what is wrong with an option or the data.
            NotImplementedError: if the method does not suit the model.

        References:
            *Importance Weighted Autoencoders* (Burda, Grosse, Salakhutdinov, 2015), arXiv 1509.00519; *Pareto Smoothed
            Importance Sampling* (Vehtari et al., 2024), arXiv 1507.02646; *On the Quantitative Analysis of
            Decoder-Based Generative Models* (Wu et al., 2017), arXiv 1611.04273
        """
        rows, names = self.read_rows(x, fields)
        return likelihood.log_likelihood(
            self,
            rows,
            num_particles=num_particles,
            method=method,
            target_error=target_error,
            max_particles=max_particles,
            seed=seed,
            fields=names,
        )

    def audited_log_likelihood(
        self,
        x: Any,
        *,
        num_rows: int | None = None,
        seconds: float = 60.0,
        num_particles: int | None = None,
        method: str | evaluation.Method = "ais",
        seed: int | None = None,
        **fields: Any,
    ) -> evaluation.AuditedLogLikelihood:
        """Mean log p(x) over rows, to be reported: importance sampling for all of them, corrected on random ones.

        A better method scores a random sample of the rows. Its mean difference from importance sampling corrects the
        mean over all rows, and the spread of the differences gives the error. That error is to be relied on where
        importance sampling alone is not; what the better method misses is left, and the result is a lower bound. Where
        the better method is clearly lower, importance sampling counts, with its own error, and a warning
        (`UnreliableWarning`) says so.

        Args:
            x: rows (B, *E), in any form that `fit` takes.
            num_rows: how many random rows the better method scores; by default 50, and as many more as `seconds` allow.
            seconds: about how long the better method may take in all, where `num_rows` is not given.
            num_particles: K, draws per row of importance sampling; 1,000 by default.
            method: the better method, as in `log_likelihood`.
            seed: seed of the sample and of the draws.
            **fields: as in `log_likelihood`.

        Raises:
            ValueError: naming what is wrong with an option or the data.
            NotImplementedError: if the better method does not suit the model.
        """
        rows, names = self.read_rows(x, fields)
        return audit.audited_log_likelihood(
            self,
            rows,
            num_rows=num_rows,
            seconds=seconds,
            num_particles=num_particles,
            method=method,
            seed=seed,
            fields=names,
        )

    def conditional_log_likelihood(
        self,
        x: Any,
        given: Any,
        *,
        asked: Any = None,
        num_particles: int | None = None,
        method: str | evaluation.Method = "importance",
        seed: int | None = None,
        **fields: Any,
    ) -> evaluation.ConditionalLogLikelihood:
        """log p(x_A | x_B) = log p(x) - log p(x_B) of each row, in nats, with its error and k-hat for both terms.

        Cells must be independent given the latents. A model that allows for missing cells shows its guide x_B alone for
        p(x_B), with draws of their own for both terms. The guide of any other model sees all of x, also for p(x_B):
        where x_A is informative about z it is too narrow for p(x_B). Its k-hat shows this, and "ais" helps;
        "semi_amortized" makes it worse. Cells that are missing in x belong to neither x_A nor x_B.

        Args:
            x: rows (B, *E), in any form that `fit` takes.
            given: which cells are x_B: a boolean tensor of shape E, or (B, *E) with cells of its own for each row; or
                names of the columns of a frame.
            asked: which cells are x_A, likewise; by default all that are not given. Other sets of cells need a model
                that allows for missing cells.
            num_particles: K, draws per row, as in `log_likelihood`.
            method: as in `log_likelihood`.
            seed: seed of the draws.
            **fields: as in `log_likelihood`.

        Raises:
            ValueError: if `given` does not name cells of x.
            NotImplementedError: if cells depend on each other given z, or a latent is global.
        """
        rows, names = self.read_rows(x, fields)
        return likelihood.conditional_log_likelihood(
            self,
            rows,
            given,
            asked=asked,
            num_particles=num_particles,
            method=method,
            seed=seed,
            fields=names,
        )

    def sandwich(
        self,
        num_rows: int = 200,
        *,
        num_particles: int | None = None,
        method: evaluation.AIS | None = None,
        seed: int | None = None,
        **fields: Any,
    ) -> evaluation.Sandwich:
        """Lower and upper estimates of log p(x) on rows drawn from the model, to check `log_likelihood` with.

        For such rows an exact posterior draw is known. Annealed importance sampling that runs backward from it bounds
        log p(x) from above; forward it bounds it from below. Compute the `log_likelihood` of the same rows, `.x`: it
        must lie between the two.

        All chains of a row that run backward start at its one exact draw, so that more chains do not average over the
        start. The error of the upper estimate therefore comes from the spread over rows: draw more rows to lower it.

        Args:
            num_rows: B.
            num_particles: K, chains per row; by default those of the method, 32.
            method: an object `pv.evaluation.AIS(...)`, with the lengths of the chains.
            seed: seed of the rows and the draws.
            **fields: named per-row fields to draw under.

        References:
            *Sandwiching the Marginal Likelihood Using Bidirectional Monte Carlo* (Grosse, Ghahramani, Adams, 2015),
            arXiv 1511.02543
        """
        return annealing.sandwich(self, num_rows, num_particles=num_particles, method=method, seed=seed, **fields)

    def sample(self, num_rows: int, *, mean: bool = False, seed: int | None = None, **fields: Any) -> Any:
        """Draws of x from the prior predictive, (num_rows, *E), with observation noise.

        Args:
            num_rows: the number of rows.
            mean: whether to return E[x | z] at draws of z instead.
            seed: seed of the draws.
            **fields: named per-row fields to draw under, one value for each row or a single one for all: by keyword, or
                as `fields={"site": "B", "age": 50}`.

        Returns:
            A tensor; a dictionary by site where the model has several data sites.
        """
        return predictive.sample(self, num_rows, mean=mean, seed=seed, **fields)

    def simulate(self, num_rows: int, *, seed: int | None = None, **fields: Any) -> dict[str, Tensor]:
        """Draws of latents and data together from the model, by site: (num_rows, ...), or (...) for a global latent.

        Args:
            num_rows: the number of rows.
            seed: seed of the draws.
            **fields: named per-row fields to draw under.
        """
        return predictive.simulate(self, num_rows, seed=seed, **fields)

    def predictive(
        self,
        latents: Any,
        *,
        num_samples: int = 100,
        quantiles: Sequence[float] | None = None,
        seed: int | None = None,
        decode_as: Mapping[str, Any] | None = None,
        **fields: Any,
    ) -> Any:
        """Draws of x given latents, with observation noise.

        Args:
            latents: values (B, ...) by site, or those of the only site; sites that are left out are drawn.
            num_samples: S, draws for each value of the latents.
            quantiles: Q levels between 0 and 1; the draws' quantiles are returned instead of the draws.
            seed: seed of the draws.
            decode_as: as in `posterior_predictive`; latents that are left out are drawn under `fields`.
            **fields: named per-row fields to draw under.

        Returns:
            (S, B, *E), or (Q, B, *E); a dictionary by site where the model has several data sites.
        """
        return predictive.predictive(
            self, latents, num_samples=num_samples, quantiles=quantiles, seed=seed, decode_as=decode_as, **fields
        )

    def posterior_predictive(
        self,
        x: Any,
        *,
        num_samples: int = 100,
        num_candidates: int | None = None,
        quantiles: Sequence[float] | None = None,
        seed: int | None = None,
        out: Any = None,
        decode_as: Mapping[str, Any] | None = None,
        **fields: Any,
    ) -> Any:
        """Replicated data: draws of new x given z ~ q(z | x), with observation noise.

        Args:
            x: rows (B, *E), in any form that `fit` takes.
            num_samples: S, draws per row.
            num_candidates: for guides that are not exact: the number of draws of z from the guide, at least S, from
                which S are resampled by their importance weights; these follow p(z | x) where k-hat is low.
            quantiles: Q levels between 0 and 1; the draws' quantiles are returned instead of the draws. A central 90 %
                interval is (0.05, 0.95).
            seed: seed of the draws.
            out: where to write: a tensor or array (S, B, *E), or the path of a new .npy file.
            decode_as: fields by name, such as {"site": "B"}, that take the place of the rows' own once the latents are
                drawn: what the row would look like there. One value for each row, or a single one for all. That this is
                an effect of the field, and not of what goes with it, is an assumption about the world.
            **fields: named per-row fields; or `fields=("x", "label")`, names of fields of `x` itself, as in `fit`.

        Returns:
            (S, B, *E), or (Q, B, *E); a dictionary by site where the model has several data sites.
        """
        rows, names = self.read_rows(x, fields)
        decoded = predictive.read_decode_as(self, decode_as, len(rows), rows.index)
        return predictive.posterior_predictive(
            self,
            rows,
            num_samples=num_samples,
            num_candidates=num_candidates,
            quantiles=quantiles,
            seed=seed,
            out=out,
            fields=names,
            decode_as=decoded,
        )

    def posterior_draws(
        self,
        x: Any,
        *,
        num_samples: int = 100,
        num_candidates: int | None = None,
        seed: int | None = None,
        **fields: Any,
    ) -> dict[str, Tensor]:
        """Draws of the latents given x, by site: (S, B, ...), (S, ...) for a global latent.

        Args:
            x: rows (B, *E), in any form that `fit` takes.
            num_samples: S, draws per row.
            num_candidates: as in `posterior_predictive`.
            seed: seed of the draws.
            **fields: as in `posterior_predictive`.
        """
        rows, names = self.read_rows(x, fields)
        return predictive.posterior_draws(
            self, rows, num_samples=num_samples, num_candidates=num_candidates, seed=seed, fields=names
        )

    def impute(
        self,
        x: Any,
        *,
        num_imputations: int | None = None,
        num_candidates: int = 200,
        single: str | None = None,
        refit: str | None = None,
        refit_options: Mapping[str, Any] | None = None,
        seed: int | None = None,
        **fields: Any,
    ) -> imputation.Imputations:
        """Completed data: missing cells drawn from p(x_missing | x_observed), observed cells as they were.

        Draws of the latents from the guide are resampled by their importance weights, and the missing cells are drawn
        given these; k-hat says where that is not to be relied on. The parameters of the model stay at their estimates,
        so that intervals from few rows are somewhat too narrow, unless the model is fitted again for each imputation.

        Args:
            x: rows (B, *E) with missing cells, in any form that `fit` takes.
            num_imputations: m, the number of completed data sets; 5 by default.
            num_candidates: K, draws of the latents for each row.
            single: one best guess in place of draws: the "mean" or the "median" of numbers, or the "mode", which for
                real cells is the median too. Cells with levels in no order get the most probable level. A best guess
                has no spread: never estimate variances or standard errors from it.
            refit: "bootstrap" fits a copy of the model on for each imputation, to as many rows drawn with replacement.
                The imputations then carry the uncertainty of the parameters ("proper" imputations). These rows must be
                those of training.
            refit_options: arguments of `fit` for these copies, such as {"epochs": 50}.
            seed: seed of the draws.
            **fields: as in `log_likelihood`.

        Returns:
            A sequence of completed data sets, frames where `x` is one, which can also be had in long form (`.long()`)
            and pooled by Rubin's rules (`.pool(analysis)`).

        Raises:
            ValueError: if the model does not allow for missing cells, or an option is out of range.
            NotImplementedError: if a latent is global.

        References:
            *MIWAE: Deep Generative Modelling and Imputation of Incomplete Data Sets* (Mattei, Frellsen, 2019), arXiv
            1812.02633; *Multiple Imputation for Nonresponse in Surveys* (Rubin, 1987)
        """
        rows, names = self.read_rows(x, fields)
        return imputation.impute(
            self,
            rows,
            num_imputations=num_imputations,
            num_candidates=num_candidates,
            single=single,
            refit=refit,
            refit_options=refit_options,
            seed=seed,
            fields=names,
        )

    def reconstruct(
        self,
        x: Any,
        *,
        num_samples: int = 100,
        seed: int | None = None,
        decode_as: Mapping[str, Any] | None = None,
        **fields: Any,
    ) -> Any:
        """E[x | z] at the guide's mean of z, (B, *E); several latent sites take their means one after the other.

        Where guide or likelihood has no mean, it is an average over `num_samples` draws, and a warning says so. An
        autoregressive likelihood then needs a pass of its net for each pixel and draw: ask for few draws. `decode_as`
        is that of `posterior_predictive`.
        """
        rows, names = self.read_rows(x, fields)
        decoded = predictive.read_decode_as(self, decode_as, len(rows), rows.index)
        return predictive.reconstruct(self, rows, num_samples=num_samples, seed=seed, fields=names, decode_as=decoded)

    def encode(self, x: Any, *, seed: int | None = None, **fields: Any) -> Any:
        """The guide's distributions given x, by latent site; a site that depends on others is given a draw of them."""
        rows, names = self.read_rows(x, fields)
        return predictive.encode(self, seed=seed, **rows.take(slice(None), names, like=self.like))

    def decode(self, z: Any, **fields: Any) -> Any:
        """The distributions of the data given `{site: value}` for every latent site, by site."""
        return predictive.decode(self, z, **fields)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write `model.safetensors` and `config.json` into the folder `path`; `pv.load(path)` reads them.

        Each file is whole or absent, even if the process is killed; neither can run code. The arguments of your own
        class are saved if each is kept as an attribute of its own name and is a plain value or a part; otherwise
        `pv.load` needs an instance.
        """
        description.save(self, path)


def check_model(model: Any) -> LatentVariableModel:
    """Return the model, or raise a TypeError if it is not a `LatentVariableModel`."""
    if not isinstance(model, LatentVariableModel):
        raise TypeError(
            f"model must be a LatentVariableModel, such as a VAE; got {type(model).__name__}. Pass the fitted model."
        )
    return model


def keep_parameters(owner: nn.Module) -> None:
    """Make all Pyro modules inside keep their own parameters, as Pyro does if its setting is on when they are made."""
    for module in owner.modules():
        if isinstance(module, PyroModule) and not hasattr(module._pyro_context, "param_state"):
            module._pyro_context.param_state = {"params": {}, "constraints": {}}
