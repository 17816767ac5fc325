"""The covariates of a model, and how its prior depends on them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions import transforms
from torch import Tensor, nn

from pyro_vae import nets
from pyro_vae.arguments import check_kind
from pyro_vae.covariates.base import Covariate
from pyro_vae.covariates.levels import Levels
from pyro_vae.covariates.numbers import Binary, Real
from pyro_vae.covariates.times import Time
from pyro_vae.data.tensors import as_names, as_tensor
from pyro_vae.fields import OBSERVED, RESERVED, ROW_WEIGHTS, Field
from pyro_vae.parts import Part, as_scale

__all__ = ["ROLES", "Covariates"]

ROLES = ("encoder", "decoder", "prior")
NAMED: dict[str, type[Covariate]] = {"real": Real, "binary": Binary, "time": Time}
TAKEN = (*RESERVED, ROW_WEIGHTS, OBSERVED, "offset", "total_count", "time", "length", "fields")


class Covariates(Part):
    """What is known about a row besides x: p(x | z, c), q(z | x, c) or p(z | c) in place of p(x | z), q(z | x), p(z).

    Covariates are fields of the rows: columns of a frame, or values by keyword. Those that reach the encoder or the
    decoder are put beside their inputs. Of a prior they shift and stretch the draws: z = a(c) + b(c) u with u from the
    prior, where a net gives a and b.

    Args:
        kinds: the kind of each covariate by name: "real", "binary", "time", a list of levels, or an object such as
            `covariates.Levels(sites, embed=4)`.
        into: what depends on them: any of "encoder", "decoder" and "prior".
        prior_net: the net from covariates to a(c) and b(c).

    Raises:
        TypeError: if a kind is none of these.
        ValueError: if there is no covariate, a name is one that programs use, or `into` names something else.

    References:
        *Learning Structured Output Representation using Deep Conditional Generative Models* (Sohn, Lee, Yan, 2015)

    Example:
        >>> covariates = Covariates({"age": "real", "site": ["A", "B", "C"]})
        >>> covariates(age=torch.tensor([0.5, 1.5]), site=torch.tensor([2, 0]))
        tensor([[0.5000, 0.0000, 0.0000, 1.0000],
                [1.5000, 1.0000, 0.0000, 0.0000]])
    """

    def __init__(
        self,
        kinds: Mapping[str, Any] | Sequence[tuple[str, Any]],
        into: Sequence[str] = ("encoder", "decoder"),
        prior_net: nets.Recipe | None = None,
    ) -> None:
        super().__init__()
        pairs = list(kinds.items() if isinstance(kinds, Mapping) else kinds if isinstance(kinds, Sequence) else ())
        if not pairs or not all(isinstance(pair, Sequence) and len(pair) == 2 for pair in pairs):
            raise ValueError(
                f"kinds must be a dictionary of kinds by name; got {kinds!r}. Name at least one covariate."
            )
        self.names = [check_name(name) for name, _ in pairs]
        if len(set(self.names)) < len(self.names):
            raise ValueError(f"kinds must name each covariate once; got {self.names}. Rename one.")
        self.parts = nn.ModuleList(_as_kind(name, kind) for name, kind in pairs)
        self.into = as_names(into, "into")
        if not self.into or not set(self.into) <= set(ROLES):
            raise ValueError(f"into must name some of {', '.join(ROLES)}; got {into!r}. Pass e.g. ('decoder',).")
        self.prior_net = nets.MLP((64,)) if prior_net is None else check_kind("prior_net", prior_net, nets.Recipe)
        self.shift: nn.Module | None = None

    @property
    def kinds(self) -> list[tuple[str, Any]]:
        """Names and kinds, as pairs: these keep their order, and any name, when saved."""
        return list(zip(self.names, self.parts, strict=True))

    @property
    def fields(self) -> dict[str, Field]:
        return {name: Field(one_per_row=not kind.shape, meaning=f"covariate: {kind!r}") for name, kind in self.kinds}

    @property
    def size(self) -> int:
        """F, how many numbers reach a net."""
        return sum(kind.size for _, kind in self.kinds)

    def kind(self, name: str) -> Covariate | None:
        """The kind of the covariate of this name; None where there is none."""
        return dict(self.kinds).get(name)

    def prepare(self, latent_dim: int) -> None:
        """Make the net of the prior; the constructor of a model calls this."""
        if "prior" in self.into:
            self.shift = nets.build(self.prior_net, (self.size,), (2 * latent_dim,), "prior_net")

    def read(self, name: str, values: Any) -> Any:
        """Values of a field as numbers; those of fields that are not covariates as a tensor."""
        kind = self.kind(name)
        return as_tensor(values, name) if kind is None else kind.read(name, values)

    def check_fields(self, fields: Mapping[str, Tensor], first_row: int = 0) -> None:
        """Raise a ValueError unless values of covariates are possible, and name the first row where they are not."""
        for name, kind in self.kinds:
            if name in fields:
                kind.check(name, fields[name], first_row)

    def initialize(self, fields: Mapping[str, Tensor]) -> None:
        """Standardize by the values of the training rows."""
        for name, kind in self.kinds:
            kind.initialize(name, fields[name])

    def forward(self, **batch: Tensor) -> Tensor:
        """The covariates of a batch as inputs of a net, (B, F)."""
        return torch.cat([kind(batch[name]) for name, kind in self.kinds], -1)

    def shifted(self, prior: Any, batch: Mapping[str, Tensor]) -> dist.TorchDistribution:
        """p(z | covariates), (B,) distributions of events (D,), from p(z)."""
        loc, scale = self._shift_and_stretch(batch)
        base: Any = getattr(prior, "base_dist", None)
        if type(base) in (dist.Normal, dist.Laplace) and prior.event_dim == 1:
            return type(base)(loc + scale * base.loc, scale * base.scale).to_event(1)
        affine = transforms.AffineTransform(loc, scale, event_dim=1)
        return dist.TransformedDistribution(prior.expand(loc.shape[:-1]), [affine])

    def unshifted(self, z: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
        """u = (z - a(c)) / b(c) of latents z (..., B, D) of rows with these fields, on which the prior itself is."""
        loc, scale = self._shift_and_stretch(batch)
        return (z - loc) / scale

    def _shift_and_stretch(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """a(c) and b(c), (B, D) each."""
        if self.shift is None:
            raise ValueError("into must name the prior for it to be shifted; got none. Add 'prior'.")
        given = self(**batch).to(next(self.shift.parameters(), torch.zeros(())).dtype)
        loc, raw = self.shift(given).chunk(2, -1)
        return loc, as_scale(raw)


def check_name(name: Any) -> str:
    """Return the name of a covariate; raise an error if it is none, or one that programs use."""
    if not isinstance(name, str) or not name:
        raise TypeError(f"kinds must have names as keys; got {name!r}. Pass e.g. {{'age': 'real'}}.")
    if name in TAKEN:
        raise ValueError(f"covariate {name!r} must have a name that programs do not use; got {name!r}. Rename it.")
    return name


def _as_kind(name: str, kind: Any) -> Covariate:
    """The kind that the user gives for a covariate."""
    if isinstance(kind, Covariate):
        return kind
    if isinstance(kind, str) and kind in NAMED:
        return NAMED[kind]()
    kind = kind.tolist() if hasattr(kind, "tolist") else kind  # of an array or a Series
    if isinstance(kind, Sequence) and not isinstance(kind, str):
        return Levels(kind)
    raise TypeError(
        f"kinds[{name!r}] must be 'real', 'binary', 'time', a list of levels or an object of pv.covariates; got"
        f" {kind!r}. Choose one."
    )
