"""What a model that is made of parts asks them: mixed into such models."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import pyro
import torch
from pyro.distributions import constraints
from torch import Tensor

from pyro_vae.covariates import Covariates
from pyro_vae.fields import OBSERVED, Field, merge_fields
from pyro_vae.nets import Rowwise, Shape, build
from pyro_vae.nets.beside import put_beside, shape_beside
from pyro_vae.parts import support_name, support_of
from pyro_vae.priors import VampPrior

__all__ = ["AsksParts", "check_prior", "prepare_covariates"]


class AsksParts:
    """Base of models that have a likelihood, a prior, an encoder and a decoder as parts."""

    likelihood: Any
    prior: Any
    missing: Any  # what is assumed about missing cells; None where there must be none
    covariates: Any  # what is known about a row besides x; None where nothing is
    encoder: Any
    decoder: Any
    nets: dict[str, Any]  # recipes or modules by role

    def _build_net(self, role: str, in_shape: Shape, out_shape: Shape) -> Rowwise:
        """The net with this role, with room for the covariates that it takes."""
        net = self.nets[role]
        return build(net, shape_beside(net, in_shape, self.size_beside(role)), out_shape, role)

    def initialize(self, x: Tensor, *, observed: Tensor | None = None, **batch: Tensor) -> None:
        if self.covariates is not None:
            self.covariates.initialize(batch)
        if observed is not None:
            self.missing.start_pattern(observed)
            x = self.missing.complete(x, observed)
        self.likelihood.initialize(x, **batch)
        features = self.likelihood.features(x)
        if self.missing is not None:
            self.missing.initialize(x, features)
        self.prior.initialize(features)

    @property
    def site_of_missing(self) -> str | None:
        """The latent site whose draws are the missing cells of x; None where the programs have no such site."""
        return None if self.missing is None else self.missing.site

    def split_missing(self, x: Tensor, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor | None, dict[str, Tensor]]:
        """x without NaN, which cells are observed (None where all are), and the other fields of a batch."""
        if self.missing is None:
            return x, None, batch
        others = {name: value for name, value in batch.items() if name != OBSERVED}
        observed = ~torch.isnan(x) & batch.get(OBSERVED, torch.ones_like(x, dtype=torch.bool))
        return self.missing.fill(x, observed), observed, others

    def sample_row(self, distribution: Any, x: Tensor | None, observed: Tensor | None) -> Tensor:
        """The statements of the model about the data, given p(x | z)."""
        if observed is None:
            return pyro.sample("x", distribution, obs=x)
        return self.missing.sample_row(distribution, x, observed, self.likelihood)  # type: ignore[no-any-return]

    def reads_covariates(self, role: str) -> bool:
        """Whether the net with this role, or the prior, reads the covariates."""
        return self.covariates is not None and role in self.covariates.into

    def size_beside(self, role: str) -> int:
        """How many numbers stand beside the input of the net with this role."""
        return self.covariates.size if self.reads_covariates(role) else 0

    def beside(self, role: str, batch: Mapping[str, Tensor]) -> Tensor | None:
        """What stands beside the input of the net with this role, (..., F); None where nothing does."""
        return self.covariates(**batch) if self.reads_covariates(role) else None

    def encoder_output(self, x: Tensor, observed: Tensor | None, batch: Mapping[str, Tensor]) -> Tensor:
        """The encoder's output for rows x with these fields, of which it sees the observed cells."""
        return self.net_output("encoder", x, observed, batch)

    def net_output(self, role: str, x: Tensor, observed: Tensor | None, batch: Mapping[str, Tensor]) -> Tensor:
        """The output of the net with this role, which reads rows as the encoder does."""
        net = getattr(self, role)
        features, further = self.likelihood.features(x), self.beside(role, batch)
        inputs = [features]
        if observed is not None:
            pattern = self.likelihood.feature_pattern(observed)
            inputs = [torch.where(pattern, features, self.missing.marginal), pattern.to(features)]
        if further is not None:
            event_dim, known = len(self.likelihood.feature_shape), [further, torch.ones_like(further)]
            inputs = [
                put_beside(rows, numbers, event_dim, net.event_dim)
                for rows, numbers in zip(inputs, known, strict=False)
            ]
        return net(*inputs)  # type: ignore[no-any-return]

    def decoder_output(self, z: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
        """The decoder's output for latents z (..., D) of rows with these fields."""
        further = self.beside("decoder", batch)
        return self.decoder(z if further is None else put_beside(z, further, 1, 1))  # type: ignore[no-any-return]

    def prior_of(self, batch: Mapping[str, Tensor], **more: Any) -> Any:
        """The prior of rows with these fields; `more` is passed to the prior."""
        prior = self.prior(**more, **batch)
        return self.covariates.shifted(prior, batch) if self.reads_covariates("prior") else prior

    def check_data(self, x: Tensor, first_row: int = 0, *, observed: Tensor | None = None) -> None:
        same_shape = tuple(x.shape[1:]) == self.likelihood.event_shape  # the likelihood refuses others
        self.likelihood.check(x if observed is None or not same_shape else self.missing.fill(x, observed), first_row)

    def unbounded_at(self, constant: Tensor) -> Tensor:
        return self.likelihood.unbounded_at(constant)  # type: ignore[no-any-return]

    @property
    def fields(self) -> dict[str, Field]:
        """The per-row fields that the likelihood and the prior read, and those of programs of a subclass."""
        own: Any = super()
        pattern = {} if self.missing is None else {OBSERVED: Field(required=False, meaning="which cells are observed")}
        covariates = {} if self.covariates is None else self.covariates.fields
        return merge_fields((own.fields, self.likelihood.fields, self.prior.fields, covariates, pattern))

    @property
    def decoded_fields(self) -> tuple[str, ...]:
        """Names of the fields that p(x | z) depends on, under whose values `decode_as` may decode."""
        own: Any = super()
        read = [name for name in own.fields if name != OBSERVED]  # by programs of a subclass
        if self.reads_covariates("decoder"):
            read += self.covariates.names
        return tuple(dict.fromkeys((*read, *self.likelihood.fields)))

    def read_field(self, name: str, values: Any) -> Any:
        return super().read_field(name, values) if self.covariates is None else self.covariates.read(name, values)  # type: ignore[misc]

    def level_names(self, name: str) -> list[str] | None:
        kind = None if self.covariates is None else self.covariates.kind(name)
        return kind.level_names if kind is not None else super().level_names(name)  # type: ignore[misc,no-any-return]

    def check_fields(self, x: Tensor | None, fields: Mapping[str, Tensor], first_row: int = 0) -> None:
        if self.covariates is not None:
            self.covariates.check_fields(fields, first_row)
        self.likelihood.check_fields(x, fields, first_row)

    def check_columns(self, columns: Sequence[str]) -> None:
        super().check_columns(columns)  # type: ignore[misc]
        self.likelihood.check_columns(columns)


def prepare_covariates(covariates: Any, model: Any) -> Covariates | None:
    """A copy of the covariates for a model, whose methods must have no arguments of these names.

    Raises:
        TypeError: if they are no `Covariates`.
        ValueError: if one is named like an argument of a method, or the prior's draws are not all real numbers.
    """
    if covariates is None:
        return None
    if not isinstance(covariates, Covariates):
        raise TypeError(
            f"covariates must be None or pv.Covariates; got {covariates!r}. Pass e.g. pv.Covariates({{'age': 'real'}})."
        )
    taken = sorted(set(covariates.names) & _argument_names(type(model)))
    if taken:
        raise ValueError(
            f"covariate {taken[0]!r} must have a name that is no argument of a method; got {taken[0]!r}. Rename it."
        )
    check_prior(covariates, model.prior)
    prepared = copy.deepcopy(covariates)  # of its own: it holds what it learns from the data of this model
    prepared.shift = None
    return prepared


def check_prior(covariates: Covariates, prior: Any) -> None:
    """Raise unless a model with these covariates can have this prior.

    Raises:
        NotImplementedError: if it is a VampPrior.
        ValueError: if it is to depend on covariates, and its draws are not all real numbers.
    """
    if isinstance(prior, VampPrior):
        raise NotImplementedError(
            "prior must not be VampPrior with covariates, which its pseudo-inputs lack. Choose another, e.g."
            " priors.Mixture."
        )
    if "prior" in covariates.into and support_name(_support(prior)) != support_name(constraints.real):
        raise ValueError(
            f"prior must draw real numbers to depend on covariates; got {type(prior).__name__}. Choose another, or"
            " leave 'prior' out of into=."
        )


def _support(prior: Any) -> Any:
    """The support of a prior; None where it cannot be known without fields."""
    try:
        return support_of(prior())
    except (KeyError, TypeError):
        return None


def _argument_names(model: type) -> set[str]:
    """The names of all arguments of the public methods of a class."""
    found = [getattr(model, name) for name in dir(model) if name[0] != "_"]
    methods = [m for m in found if inspect.isfunction(m) and m.__module__.startswith("pyro_vae")]
    return {name for method in methods for name in inspect.signature(method).parameters}
