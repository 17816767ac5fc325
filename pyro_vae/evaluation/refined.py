"""Importance sampling from a guide that gradient steps improve for each row; latents must have derivatives."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.distributions import Independent, transform_to

from pyro_vae.distributions import unwrap
from pyro_vae.evaluation.base import Batch, Method
from pyro_vae.evaluation.importance import Importance
from pyro_vae.inference.chunks import chunk_weights, fields_of
from pyro_vae.inference.handlers import Program, fix_latents
from pyro_vae.inference.pair import ProgramPair
from pyro_vae.inference.refinement import Refinement
from pyro_vae.inference.weights import LogWeights, log_weights

__all__ = ["SemiAmortized"]

Offsets = dict[str, dict[str, Tensor]]  # by site and parameter, in unconstrained coordinates
NUM_PARTICLES = 4  # for each gradient
OFFSET_HALVING_GRADIENT = 0.1  # see `Refinement`; in nats for a move of one standard deviation


@dataclass(frozen=True)
class SemiAmortized(Method):
    """Importance sampling from a guide that gradient steps improve for each row, for encoders with an amortization gap.

    In a `VAE` the steps change the encoder's output; in other programs they change the parameters of the distributions
    at the guide's sites, by offsets of each row.

    Args:
        steps: number of steps.
        learning_rate: about how far a parameter moves in the first step.

    Raises:
        ValueError: if one is not positive.

    References:
        *Semi-Amortized Variational Autoencoders* (Kim et al., 2018), arXiv 1802.02550
    """

    name: ClassVar[str] = "semi_amortized"
    steps: int = 20
    learning_rate: float = 0.05

    def __post_init__(self) -> None:
        Refinement(self.steps, self.learning_rate)  # raises if one of them is out of range

    def log_weights(
        self, model: ProgramPair, batch: Batch, num_particles: int, cells: Sequence[Tensor | None] = (None,)
    ) -> list[Tensor]:
        with self.refined(model, batch) as guide:
            return Importance(guide).log_weights(model, batch, num_particles, cells)

    @contextmanager
    def refined(self, model: ProgramPair, batch: Batch) -> Iterator[Program]:
        """The improved guide for these rows, to be run within this context."""
        if hasattr(model, "refined"):
            with model.refined(steps=self.steps, learning_rate=self.learning_rate):
                yield model.guide
        else:
            yield _shifted_guide(model, self._find_offsets(model, batch))

    def _find_offsets(self, model: ProgramPair, batch: Batch) -> Offsets:
        """Offsets of the guide's parameters that raise the ELBO of each row."""
        sites = chunk_weights(model, batch, 1).guide
        shapes = {
            name: {parameter: value.shape for parameter, value in _parameters(name, site.distribution).items()}
            for name, site in sites.items()
        }

        def offsets(flat: Tensor) -> Offsets:
            sizes = [shape.numel() for named in shapes.values() for shape in named.values()]
            parts = iter(flat.split(sizes))
            return {n: {p: next(parts).reshape(shape) for p, shape in named.items()} for n, named in shapes.items()}

        def elbo(flat: Tensor) -> Tensor:
            def run(program: Program, guide: Program) -> LogWeights:
                return log_weights(program, guide, batch["x"], num_particles=NUM_PARTICLES, **fields_of(batch))

            record = run(model.model, _shifted_guide(model, offsets(flat)))
            values = {name: site.value for name, site in record.guide.items()}
            # with constant parameters, log q adds no noise to the gradient if q is the posterior
            detached = run(_shifted_guide(model, offsets(flat.detach())), fix_latents(model.guide, values))
            return (record.log_likelihood + record.log_prior - detached.log_prior).mean(0)

        count = sum(shape.numel() for named in shapes.values() for shape in named.values())
        start = torch.zeros(count).to(model.like)
        ascent = Refinement(self.steps, self.learning_rate, OFFSET_HALVING_GRADIENT)
        return offsets(ascent(elbo, start, differentiable=False))


class _Shift(Messenger):  # type: ignore[misc]
    """Add offsets to the parameters of the distributions at some sites."""

    def __init__(self, offsets: Offsets) -> None:
        super().__init__()
        self.offsets = offsets

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"] in self.offsets:
            msg["fn"] = _shifted(msg["fn"], self.offsets[msg["name"]])


def _shifted_guide(model: ProgramPair, offsets: Offsets) -> Program:
    def guide(*args: Any, **kwargs: Any) -> Any:
        with _Shift(offsets):
            return model.guide(*args, **kwargs)

    guide.__self__ = model  # type: ignore[attr-defined]
    return guide


def _shifted(distribution: Any, offsets: dict[str, Tensor]) -> Any:
    base = unwrap(distribution, Independent)
    events = len(base.batch_shape) - len(distribution.batch_shape)
    named = {name: _moved(base, name, offset) for name, offset in offsets.items()}
    moved = type(base)(**named, validate_args=False)
    return moved.to_event(events) if events else moved


def _moved(base: Any, name: str, offset: Tensor) -> Tensor:
    """A parameter plus an offset in units of the standard deviation, in which all gradients have similar sizes."""
    value, constraint = getattr(base, name), base.arg_constraints[name]
    if name == "scale_tril":
        return value @ transform_to(constraint)(offset)  # type: ignore[no-any-return]
    if name == "loc" and "scale_tril" in vars(base):
        return value + (base.scale_tril.detach() @ offset.unsqueeze(-1)).squeeze(-1)  # type: ignore[no-any-return]
    if name == "loc":
        return value + base.stddev.detach() * offset  # type: ignore[no-any-return]
    transform = transform_to(constraint)
    return transform(transform.inv(value) + offset)  # type: ignore[no-any-return]


def _parameters(site: str, distribution: Any) -> dict[str, Tensor]:
    """The parameters that the distribution was made from, by name.

    Raises:
        NotImplementedError: if it has no pathwise derivative, or cannot be made again from its parameters.
    """
    base = unwrap(distribution, Independent)
    names = [name for name in base.arg_constraints if name in vars(base)] or list(base.arg_constraints)
    try:
        if not base.has_rsample:
            raise NotImplementedError
        named = {name: getattr(base, name) for name in names}
        type(base)(**named, validate_args=False)
    except (NotImplementedError, AttributeError, TypeError):
        raise NotImplementedError(
            f"Guides are refined by moving the parameters of distributions with derivatives; got {type(base).__name__}"
            f" at site {site!r}. Use method='ais' or 'importance'."
        ) from None
    return named
