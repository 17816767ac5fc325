"""From the parameters of an estimator to the parts of its model and the arguments of `VAE.fit`."""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Mapping
from typing import Any

from torch.distributions import Distribution

from pyro_vae import likelihoods, nets, priors, schedules
from pyro_vae.arguments import positive_integer
from pyro_vae.likelihoods import Likelihood
from pyro_vae.missing import Missing
from pyro_vae.models import VAE, latents_for
from pyro_vae.priors import Prior

__all__ = ["fit_options", "make_likelihood", "make_parts"]

HIDDEN = (64,)  # of the nets
ENOUGH = 1000  # rows from which the decoder has a hidden layer: with fewer, it follows the rows of training too closely
RATE = 1e-2  # at the first step; it falls to a fiftieth of that
EPOCHS, STEPS, FEWEST = 100, (1000, 2000), 10
NOT_OPTIONS = ("self", "data", "elbo", "epochs", "batch_size", "learning_rate", "seed", "fields", "num_rows")


def make_likelihood(given: Any, count: int) -> Any:
    """The likelihood of an array of so many columns: a copy of the part that was given, or what a function makes."""
    if given is None:
        return likelihoods.Normal(count, scale="per_dimension")
    return given(count) if callable(given) and not isinstance(given, Likelihood) else copy.deepcopy(given)


def make_parts(given: Mapping[str, Any], missing: Missing | None, count: int, num_rows: int) -> dict[str, Any]:
    """The parts of a model of so many columns and rows without its likelihood: defaults, and copies of those given."""
    hidden = nets.MLP(HIDDEN)
    decoder = hidden if num_rows >= ENOUGH else nets.MLP(())
    hidden_or_masked: Any = hidden if missing is None else nets.Masked(hidden)
    return {
        "prior": _make_prior(given["prior"], given["latent_dim"], count),
        "guide": copy.deepcopy(given["guide"]),
        "encoder": hidden_or_masked if given["encoder"] is None else copy.deepcopy(given["encoder"]),
        "decoder": decoder if given["decoder"] is None else copy.deepcopy(given["decoder"]),
        "missing": missing,
    }


def _make_prior(given: Any, latent_dim: Any, count: int) -> Any:
    is_function = callable(given) and not isinstance(given, Prior | Distribution)
    if given is not None and not is_function:
        if latent_dim is not None:
            raise ValueError(
                f"latent_dim must be left out with a prior, which has its own; got {latent_dim}. Pass one of both, or"
                " as prior a function of the number of latents, such as pv.priors.Mixture."
            )
        return copy.deepcopy(given)
    size = latents_for(count) if latent_dim is None else positive_integer("latent_dim", latent_dim)
    return given(size) if is_function else priors.Normal(size)


def fit_options(given: Mapping[str, Any], num_rows: int) -> dict[str, Any]:
    """The arguments of `VAE.fit`, except for the data and the seed."""
    if not isinstance(given["fit_options"], Mapping | None):
        raise TypeError(f"fit_options must be a dictionary; got {given['fit_options']!r}. Pass {{}}.")
    options = dict(given["fit_options"] or {})
    known = [name for name in inspect.signature(VAE.fit).parameters if name not in NOT_OPTIONS]
    if wrong := [name for name in options if name not in known]:
        advice = "Pass it to the estimator itself" if wrong[0] in given else "Correct it"
        raise ValueError(f"fit_options must hold arguments out of {', '.join(known)}; got {wrong[0]!r}. {advice}.")
    size, epochs, rate = positive_integer("batch_size", given["batch_size"]), given["epochs"], given["learning_rate"]
    epochs = _default_epochs(num_rows, size) if epochs is None else positive_integer("epochs", epochs)
    return {
        "progress": False,
        **options,
        "elbo": copy.deepcopy(given["elbo"]),
        "epochs": epochs,
        "batch_size": size,
        "learning_rate": schedules.Cosine(RATE, RATE / 50, epochs=epochs) if rate is None else copy.deepcopy(rate),
    }


def _default_epochs(num_rows: int, batch_size: int) -> int:
    """About 100 epochs, within 1,000 to 2,000 steps, and never fewer than 10 epochs."""
    batches = math.ceil(num_rows / batch_size)
    steps = min(max(EPOCHS * batches, STEPS[0]), STEPS[1])
    return max(FEWEST, math.ceil(steps / batches))
