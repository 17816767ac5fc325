"""The variational autoencoder: five independent parts composed into a model and a guide."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor, nn
from torch.distributions import Distribution

from pyro_vae import guides, likelihoods, nets, predictive, priors
from pyro_vae.arguments import check_kind, positive_integer
from pyro_vae.covariates import Covariates
from pyro_vae.data.tensors import as_tensor
from pyro_vae.distributions import masked
from pyro_vae.fields import OBSERVED, Schema
from pyro_vae.imputation.guesses import nominal_probabilities
from pyro_vae.inference.programs import num_rows
from pyro_vae.inference.refinement import Refinement
from pyro_vae.missing import AtRandom, Missing
from pyro_vae.missing.base import default_encoder, prepare_missing
from pyro_vae.model import LatentVariableModel, keep_parameters
from pyro_vae.models.asking import AsksParts, check_prior, prepare_covariates
from pyro_vae.models.paths import PATHS
from pyro_vae.parts import support_name, support_of
from pyro_vae.priors import aggregate
from pyro_vae.runtime.isolation import evaluating, isolated, preserved_buffers
from pyro_vae.runtime.random import preserved_rng, seeded
from pyro_vae.saving import exported
from pyro_vae.tables import Table

__all__ = ["VAE", "latents_for"]


class VAE(AsksParts, LatentVariableModel):
    """z ~ prior, x | z ~ likelihood(decoder(z)); q(z | x) = guide(encoder(x)).

    Args:
        likelihood: p(x | z), with the event shape of one row.
        prior: p(z), which holds the number of latents; or any `pyro.distributions` object with events (D,).
        guide: the family of q(z | x); a mean-field normal by default.
        encoder: a recipe, or a module from `likelihood.features(x)` to the parameters of the guide, one row each.
        decoder: a recipe, or a module from (B, D) to the parameters of the likelihood.
        missing: what is assumed about missing cells, such as `pv.missing.AtRandom()`; None where no cell may be
            missing. The default encoder is then `nets.Masked(nets.MLP())`, which sees the pattern of missing cells; an
            encoder that does not read it sees the marginal mean in their place.
        covariates: what is known about a row besides x, and what depends on it; see `pv.Covariates`. Nets that are
            given as modules take the covariates beside their inputs: after the numbers of a vector, or as further
            channels of an image.
        seed: seed of the initial parameters of the nets; by default they are drawn from the global random state. The
            initial parameters of the other parts are always the same.

    Attributes:
        family: the part given as `guide`; the method `guide` is the program.

    Raises:
        TypeError: if a part is not of its kind.
        ValueError: if parts do not fit each other: sizes, event shapes, supports.

    References:
        *Auto-Encoding Variational Bayes* (Kingma, Welling, 2013), arXiv 1312.6114

    Example:
        >>> from pyro_vae import likelihoods, priors
        >>> vae = VAE(likelihood=likelihoods.Bernoulli((1, 8, 8)), prior=priors.Normal(2), seed=0)
        >>> vae.encode(torch.zeros(3, 1, 8, 8)).mean.shape, vae.sample(5).shape
        (torch.Size([3, 2]), torch.Size([5, 1, 8, 8]))
    """

    def __init__(
        self,
        *,
        likelihood: likelihoods.Likelihood,
        prior: priors.Prior | Distribution,
        guide: guides.Guide | None = None,
        encoder: nets.Recipe | nn.Module | None = None,
        decoder: nets.Recipe | nn.Module | None = None,
        missing: Missing | None = None,
        covariates: Covariates | None = None,
        seed: int | None = None,
    ) -> None:
        super().__init__()
        prior = priors.Distribution(prior) if isinstance(prior, Distribution) else prior
        self.refinement: Refinement | None = None
        self.likelihood = check_kind("likelihood", likelihood, likelihoods.Likelihood)
        self.prior = check_kind("prior", prior, priors.Prior)
        self.family = check_kind("guide", guides.Normal() if guide is None else guide, guides.Guide)
        self.missing = prepare_missing(missing, likelihood)
        self.covariates = prepare_covariates(covariates, self)
        self.nets = {
            "encoder": default_encoder(missing) if encoder is None else encoder,
            "decoder": nets.MLP() if decoder is None else decoder,
        }
        for net in (encoder, decoder):
            if isinstance(net, nn.Module):
                keep_parameters(net)
        latent_dim = prior.latent_dim
        self.family.prepare(latent_dim)
        with seeded(seed), isolated():
            parameter_shape = self.family.parameter_shape(latent_dim)
            if self.covariates is not None:
                self.covariates.prepare(latent_dim)
            self.encoder = self._build_net("encoder", likelihood.feature_shape, parameter_shape)
            self.decoder = self._build_net("decoder", (latent_dim,), likelihood.output_shape)
        self._check_parts(latent_dim)
        self.family.in_use = True

    @classmethod
    def for_table(cls, table: Any, *, latent_dim: int | None = None, **parts: Any) -> VAE:
        """A VAE for the rows of a table: likelihoods by the kinds of its columns, and room for missing cells.

        Args:
            table: a `pv.Table`, or a frame, whose kinds are then inferred.
            latent_dim: the number of latents; by default half the number of columns, at least 2 and at most 16.
            **parts: arguments of `VAE`, which take the place of what is chosen here: `likelihood` (one block for each
                run of adjacent columns of one kind), `prior` (a standard normal), `missing` (`AtRandom()` if the table
                has missing cells, else None), `covariates` (those of the table, into encoder and decoder).

        Raises:
            TypeError, ValueError: as `pv.Table` and `VAE`.

        Example:
            >>> import pandas
            >>> frame = pandas.DataFrame({"age": [31.5, 40.0, None, 58.5], "smokes": ["no", "yes", "no", None]})
            >>> vae = VAE.for_table(frame, latent_dim=2, seed=0)
            >>> history = vae.fit(frame, epochs=2, seed=0, progress=False)
            >>> vae.impute(frame, single="median", seed=0)[0].shape
            (4, 2)
        """
        table = table if isinstance(table, Table) else Table(table)
        if latent_dim is not None and "prior" in parts:
            raise ValueError(
                f"latent_dim must be left out with a prior, which has its own; got {latent_dim}. Pass one of both."
            )
        size = latents_for(len(table.schema.names)) if latent_dim is None else latent_dim
        chosen: dict[str, Any] = {"likelihood": table.likelihood, "prior": lambda: priors.Normal(size)}
        chosen["missing"] = lambda: AtRandom() if table.has_missing else None
        chosen["covariates"] = lambda: table.covariates() if table.schema.covariates else None
        made = {name: make() for name, make in chosen.items() if name not in parts}
        vae = cls(**(made | parts))
        names = [column.name for column in table.schema.covariates]
        own = [] if vae.covariates is None else vae.covariates.names
        if set(names) - set(own):
            raise ValueError(
                f"covariates must be those of the table, {names}; got {own}. Name others in leave_out=, or pass"
                " covariates=table.covariates(into=...)."
            )
        vae.schema = Schema(columns=tuple(table.schema.names), table=table.schema.to_plain())
        return vae

    def __setattr__(self, name: str, value: Any) -> None:
        """Check a prior that is set after construction as the constructor does."""
        if name != "prior" or "decoder" not in self._modules:
            super().__setattr__(name, value)
            return
        value = priors.Distribution(value) if isinstance(value, Distribution) else value
        earlier, value = self.prior, check_kind("prior", value, priors.Prior)
        super().__setattr__(name, value.to(self.like))
        try:
            self._check_parts(earlier.latent_dim)
        except (ValueError, NotImplementedError):
            super().__setattr__(name, earlier)
            raise

    def _check_parts(self, latent_dim: int) -> None:
        """Raise a ValueError where the parts do not fit each other.

        A prior or a likelihood that needs fields is left to the checks of the first batch.
        """
        self.likelihood.check_support()
        if self.covariates is not None:
            check_prior(self.covariates, self.prior)
        seen = self.likelihood.feature_shape
        if isinstance(self.prior, priors.VampPrior) and self.prior.event_shape != seen:
            raise ValueError(
                f"event_shape of the VampPrior must be the likelihood's feature_shape, {seen}; got"
                f" {self.prior.event_shape}. Pass event_shape={seen}."
            )
        with isolated(), preserved_rng(), preserved_buffers(self), torch.no_grad():
            try:
                p = self.prior(posterior=self._posterior)
                p_x = self.likelihood(torch.zeros(1, *self.likelihood.output_shape).to(self.like))
                if self.missing is not None:
                    masked(p_x, torch.ones(1, *self.likelihood.event_shape, dtype=torch.bool))
            except (KeyError, TypeError):  # fields are missing
                return
            q = self._zero_guide(latent_dim)
        self._check_prior_and_guide(p, q, latent_dim)
        if p_x.event_shape != self.likelihood.event_shape:
            raise ValueError(
                f"likelihood must be a distribution of events {self.likelihood.event_shape}; got"
                f" {tuple(p_x.event_shape)}. Change event_shape, or declare events by to_event."
            )

    def _check_prior_and_guide(self, p: Any, q: Any, latent_dim: int) -> None:
        """Raise a ValueError unless p(z) and q(z | x) have the same events and the same support."""
        prior, guide = type(self.prior).__name__, type(self.family).__name__
        if not p.event_shape == q.event_shape == (latent_dim,):
            raise ValueError(
                f"prior and guide must have the event shape {(latent_dim,)}; got {tuple(p.event_shape)} from"
                f" {prior} and {tuple(q.event_shape)} from {guide}. Change sizes, or declare events by to_event(1)."
            )
        if support_of(p) is None or support_of(q) is None:
            return
        wanted, got = support_name(support_of(p)), support_name(support_of(q))
        if wanted != got:
            raise ValueError(
                f"guide must draw z from the support of prior {prior}, {wanted}; got {got} from {guide}."
                f" {_advise_guide(wanted)}"
            )

    def _zero_guide(self, latent_dim: int) -> dist.TorchDistribution:
        """q(z | x) where the encoder's output is zero, for one row."""
        parameters = torch.zeros(1, *self.family.parameter_shape(latent_dim)).to(self.like)
        return self.family(parameters)  # type: ignore[no-any-return]

    def made_of(self) -> dict[str, Any]:
        parts = {"likelihood": self.likelihood, "prior": self.prior, "guide": self.family}
        return parts | {"missing": self.missing, "covariates": self.covariates} | self.nets

    def model(self, x: Tensor | None = None, *, rows: int | None = None, **batch: Tensor) -> Tensor:
        observed = None
        if x is not None:
            x, observed, batch = self.split_missing(x.to(self.like.dtype), batch)
        with pyro.plate(self.row_plate, num_rows(x, rows)):
            z = pyro.sample("z", self.prior_of(batch, posterior=self._posterior))
            return self.sample_row(self.p_x(z, batch), x, observed)

    def guide(self, x: Tensor, **batch: Tensor) -> Tensor:
        x = x.to(self.like.dtype)
        with pyro.plate(self.row_plate, x.shape[0]):
            return self.sample_latents(x, batch)

    def sample_latents(self, x: Tensor, batch: dict[str, Tensor]) -> Tensor:
        """The statements of the guide about z, and about missing cells that are latents, within the plate of rows."""
        z = pyro.sample("z", self.family(self._guide_parameters(x, batch)))
        if self.missing is not None and self.site_of_missing is not None:
            _, observed, batch = self.split_missing(x, batch)
            self.missing.sample_guide(self.p_x(z, batch), observed)
        return z

    def p_x(self, z: Tensor, batch: dict[str, Tensor]) -> Any:
        """p(x | z) for latents z (..., D) of rows with these fields."""
        return self.likelihood(self.decoder_output(z, batch), **batch)

    def _guide_parameters(self, x: Tensor, batch: dict[str, Tensor]) -> Tensor:
        """The parameters of q(z | x): the encoder's output; within `refined`, that output after the gradient steps."""
        x, observed, batch = self.split_missing(x, batch)
        amortized = self.encoder_output(x, observed, batch)
        if self.refinement is None:
            return amortized

        differentiable = self.training and torch.is_grad_enabled()

        def one_draw_elbo(parameters: Tensor) -> Tensor:
            p, z = self.prior_of(batch, posterior=self._posterior), self.family(parameters).rsample()
            # With its parameters detached, log q adds no noise to the gradient where q is the posterior. But the
            # derivative of that gradient, which training needs, would be wrong.
            q = self.family(parameters if differentiable else parameters.detach())
            p_x = self.p_x(z, batch)
            p_x = p_x if observed is None else masked(p_x, observed)
            terms: Tensor = p_x.log_prob(x) + p.log_prob(z) - q.log_prob(z)
            return terms

        return self.refinement(one_draw_elbo, amortized, differentiable=differentiable)

    @contextmanager
    def refined(self, steps: int = 20, learning_rate: float = 0.05) -> Iterator[VAE]:
        """Within this context, q(z | x) is refined: its parameters take gradient steps on each row's own ELBO.

        They start at the encoder's output. In evaluation, this narrows the gap that the encoder leaves, at the cost of
        `steps` forward and backward passes. Large steps add noise where the gap is small: compare the bounds with and
        without. In training, the gradient passes through the steps: the encoder learns to be a good start, and the
        decoder fits the refined q. Evaluate a model that was trained within this context within it too.

        Args:
            steps: number of gradient steps.
            learning_rate: about how far a parameter moves in the first step.

        Raises:
            ValueError: if `steps` or `learning_rate` is not positive.
            NotImplementedError: if draws of the guide carry no derivative.

        References:
            *Semi-Amortized Variational Autoencoders* (Kim et al., 2018), arXiv 1802.02550

        Example:
            >>> from pyro_vae import likelihoods, priors
            >>> vae = VAE(likelihood=likelihoods.Bernoulli(3), prior=priors.Normal(2), seed=0)
            >>> with vae.refined(steps=5):
            ...     vae.elbo(torch.ones(4, 3), seed=0).bound.shape
            torch.Size([4])
        """
        refinement = Refinement(steps, learning_rate)
        if self.site_of_missing is not None:
            raise NotImplementedError(
                "missing must be AtRandom to refine the guide, whose steps leave the mechanism out. Use method="
                "'semi_amortized' for log p(x)."
            )
        if not self._zero_guide(self.prior.latent_dim).has_rsample:
            raise NotImplementedError(
                f"guide must have draws with derivatives to be refined; got {type(self.family).__name__}."
                " Choose another family."
            )
        earlier, self.refinement = self.refinement, refinement
        try:
            yield self
        finally:
            self.refinement = earlier

    def _posterior(self, features: Tensor) -> dist.TorchDistribution:
        return self.family(self.encoder(features))  # type: ignore[no-any-return]

    def encode(self, x: Any, *, seed: int | None = None, **fields: Any) -> dist.TorchDistribution:
        """q(z | x): batch shape (B,), event shape (D,); its `.mean` is deterministic, its `.sample()` a draw."""
        rows, names = self.read_rows(x, fields)
        with evaluating(self, seed=seed):
            chunks = [rows.take(part, names, like=self.like) for part in torch.arange(len(rows)).split(4096)]
            return self.family(torch.cat([self._guide_parameters(chunk.pop("x"), chunk) for chunk in chunks]))  # type: ignore[no-any-return]

    def decode(self, z: Any, **fields: Any) -> dist.TorchDistribution:
        """The distribution p(x | z) for latents (..., D): batch shape (...), event shape E."""
        z = as_tensor(z, "z").to(self.like)
        if z.shape[-1:] != (self.prior.latent_dim,) or z.numel() == 0:
            raise ValueError(
                f"z must have shape (..., {self.prior.latent_dim}); got {tuple(z.shape)}. Put the latents in"
                " the last dimension."
            )
        with evaluating(self):
            read = predictive.read_fields(self, fields, z.shape[-2] if z.dim() > 1 else 1)
            predictive.check_latent("z", z, self.prior_of(read, posterior=self._posterior), means=True)
            return self.p_x(z, read)  # type: ignore[no-any-return]

    def export(self, path: str | os.PathLike[str], *, part: str = "decoder") -> None:
        """Write a part as a program of `torch.export`, which runs in processes that have torch alone.

        There, `torch.export.load(path).module()` is a function of tensors of the model's dtype, for any number of rows:

        - "decoder": z (B, D) to E[x | z], (B, *E), on the scale of the data.
        - "encoder": x (B, *E), with NaN where cells are missing, to the mean and the standard deviation of q(z | x),
          each (B, D).
        - "log_density": x (B, *E) and z (B, D) to log p(x, z), (B,), in nats.

        Arguments are passed by name. A `.pt2` file is torch's own format: what `pv.load` promises about files does not
        hold for it, and other versions of torch may not read it. Keep the saved model, too.

        Args:
            path: the file, whose name ends in .pt2.
            part: which part.

        Raises:
            ValueError: if the part is unknown, or the name of the file ends otherwise.
            NotImplementedError: if the model reads fields, the part has no mean or variance in closed form, as a column
                of levels has none, or the log-density is asked of a model that allows for missing cells.

        Example:
            >>> import pathlib, tempfile
            >>> from pyro_vae import likelihoods, priors
            >>> vae = VAE(likelihood=likelihoods.Bernoulli((1, 8, 8)), prior=priors.Normal(2), seed=0)
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     vae.export(pathlib.Path(folder) / "decoder.pt2")
            ...     decoder = torch.export.load(pathlib.Path(folder) / "decoder.pt2").module()
            >>> decoder(z=torch.zeros(5, 2)).shape
            torch.Size([5, 1, 8, 8])
        """
        if part == "decoder" and self._has_levels():
            raise NotImplementedError(
                "likelihood must have cells with means to export the decoder; got levels in no order. Export the"
                " log-density, or save the model, and use `pv.load`."
            )
        exported.export(self, path, part)

    def _has_levels(self) -> bool:
        """Whether a cell of x has levels in no order."""
        with evaluating(self):
            p_x = self.likelihood(torch.zeros(1, *self.likelihood.output_shape).to(self.like))
        return next(nominal_probabilities(p_x), None) is not None

    def fit_aggregate_posterior(
        self, x: Any, *, family: str = "mixture", num_draws: int = 1, seed: int = 0, fields: Any = (), **options: Any
    ) -> priors.Prior:
        """A prior fitted to the average of q(z | x) over rows, by maximum likelihood on draws of z.

        Draws from the prior of training may fall where q(z | x) of no row has mass, and decode to nothing like the
        data. `vae.prior = vae.fit_aggregate_posterior(x)` mends that after training. This call leaves the model as it
        is; with the new prior it is another model, whose log p(x) is mostly higher. Where covariates shift and stretch
        the draws of the prior, it is fitted to the draws of z without their shift and stretch.

        Args:
            x: rows (N, *E), mostly those of training.
            family: "mixture" (of normals) or "flow".
            num_draws: number of draws of z for each row.
            seed: seed of the draws and of the fit.
            fields: names of the fields that `x` brings, as in `fit`.
            **options: `num_components` of the mixture; `epochs`, `learning_rate`, `batch_size` and the arguments of
                `priors.Flow` for the flow.

        Raises:
            ValueError: if the family is unknown or the latents are not real numbers.

        References:
            *From Variational to Deterministic Autoencoders* (Ghosh et al., 2020), arXiv 1903.12436, on ex-post density
            estimation
        """
        fits: dict[str, Any] = {"mixture": aggregate.fit_mixture, "flow": aggregate.fit_flow}
        positive_integer("seed", seed, 0)
        if not isinstance(family, str) or family not in fits:
            raise ValueError(f"family must be mixture or flow; got {family!r}. Choose one of these.")
        if support_name(self.family.support) != support_name(constraints.real):
            raise ValueError(
                f"latents must be real numbers; got {type(self.family).__name__}. Learn the prior in training instead."
            )
        with seeded(seed):
            z = self.encode(x, fields=fields).sample((positive_integer("num_draws", num_draws),))
        if self.reads_covariates("prior"):
            rows, names = self.read_rows(x, {"fields": fields})
            with evaluating(self):
                z = self.covariates.unshifted(z, rows.take(slice(None), names, like=self.like))
        z = z.flatten(0, 1)
        if len(z) < 2:
            raise ValueError(f"x must be at least two rows; got {len(z)}. Pass those of training.")
        return fits[family](z, seed=seed, **options)  # type: ignore[no-any-return]

    def interpolate(self, x0: Any, x1: Any, *, steps: int = 9, path: str = "linear", **fields: Any) -> Tensor:
        """Decoder means along a path between the guide's means of two batches of rows.

        Args:
            x0: where to start, (B, *E).
            x1: where to end, (B, *E).
            steps: number of points on the path, both ends included.
            path: "linear", or "spherical": directions along the great circle and lengths along the line, so that the
                path stays where a standard normal prior has its mass.
            **fields: named per-row fields, one entry for each pair of rows, under which all points are decoded.

        Returns:
            (steps, B, *E).

        Raises:
            ValueError: if `steps` is less than 2 or `path` unknown.

        References:
            *Sampling Generative Networks* (White, 2016), arXiv 1609.04468
        """
        if positive_integer("steps", steps) < 2:
            raise ValueError(f"steps must be at least 2; got {steps}. Count both ends.")
        if not isinstance(path, str) or path not in PATHS:
            raise ValueError(f"path must be linear or spherical; got {path!r}. Choose one of these.")
        z0, z1 = self.encode(x0, **fields).mean, self.encode(x1, **fields).mean
        if len(z0) != len(z1):
            raise ValueError(f"x1 must have as many rows as x0, {len(z0)}; got {len(z1)}. Pair the rows.")
        t = torch.linspace(0, 1, steps).to(z0).reshape(-1, 1, 1)
        rows, names = self.read_rows(x0, fields)
        given = {name: rows.field(name) for name in names if name != OBSERVED}
        points = PATHS[path](z0, z1, t)
        means: Tensor = self.decode(points, **given).mean
        return means


def latents_for(num_columns: int) -> int:
    """The number of latents for a table where none is given: half its number of columns, at least 2 and at most 16."""
    return min(16, max(2, num_columns // 2))


def _advise_guide(wanted: str) -> str:
    """Advice that names the guides whose draws lie in the support of this name."""
    families = [name for name in guides.__all__ if name != "Guide"]
    fitting = [name for name in families if support_name(getattr(guides, name).support) == wanted]
    if not fitting:
        return "Choose another prior, or subclass guides.Guide."
    return f"Choose guides.{' or guides.'.join(fitting)}, or another prior."
