"""What the options of `train` choose by name: the parts of the model, the bound and the optimizer."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from pyro_vae import elbos, guides, likelihoods, nets, priors
from pyro_vae.cli import tables
from pyro_vae.data.batches import Rows
from pyro_vae.datasets import Splits
from pyro_vae.missing import AtRandom
from pyro_vae.models import VAE, latents_for
from pyro_vae.runtime.random import preserved_rng
from pyro_vae.tables import Table

__all__ = ["ESTIMATORS", "GUIDES", "LIKELIHOODS", "PRIORS", "model", "training"]

ESTIMATORS: dict[str, Callable[..., elbos.Estimator]] = {
    "elbo": elbos.ELBO,
    "meanfield": elbos.MeanFieldELBO,
    "iwae": partial(elbos.IWAE, num_particles=3),  # 5 gain nothing: see docs/design.md
    "miwae": elbos.MIWAE,
    "piwae": elbos.PIWAE,
    "ciwae": elbos.CIWAE,
    "renyi": elbos.Renyi,
    "tvo": elbos.TVO,
    "wake-sleep": elbos.WakeSleep,
}

PRIORS: dict[str, Callable[[int, tuple[int, ...]], priors.Prior]] = {
    "normal": lambda latent_dim, event_shape: priors.Normal(latent_dim),
    "mixture": lambda latent_dim, event_shape: priors.Mixture(latent_dim, num_components=20),
    "vamp": lambda latent_dim, event_shape: priors.VampPrior(latent_dim, event_shape),
    "flow": lambda latent_dim, event_shape: priors.Flow(latent_dim),
}
GUIDES: dict[str, type[guides.Guide]] = {
    "normal": guides.Normal,
    "full-normal": guides.MultivariateNormal,
    "student-t": guides.StudentT,
}
LIKELIHOODS = {
    "bernoulli": "Bernoulli",
    "binomial": "Binomial",
    "beta-binomial": "BetaBinomial",
    "normal": "Normal",
}  # of `--likelihood`
SMALL_ROWS = 64  # largest number of cells for which 12 latents are enough, as for the digits; for MNIST they are not


def model(options: argparse.Namespace, splits: Splits) -> VAE:
    """The model that the options of `train` choose for the data."""
    if options.covariates_into is not None and options.covariates is None:
        raise ValueError(
            f"--covariates-into must be given with --covariates; got {options.covariates_into} alone. Name covariates."
        )
    if splits.table is not None:
        return _of_table(options, splits, splits.table)
    hidden, small = tuple(options.hidden), math.prod(splits.event_shape) <= SMALL_ROWS
    encoder, decoder = (
        (nets.MLP(hidden), nets.MLP(hidden[::-1], dropout=options.dropout))
        if options.net == "mlp"
        else (nets.Conv(hidden=hidden), nets.Conv(hidden=hidden[::-1]))
    )
    return VAE(
        likelihood=_likelihood(options.likelihood, splits),
        prior=PRIORS[options.prior](options.latent_dim or (12 if small else 16), splits.event_shape),
        guide=GUIDES[options.guide or "student-t"](),
        encoder=encoder,
        decoder=decoder,
        seed=options.seed,
    )


def _of_table(options: argparse.Namespace, splits: Splits, table: Table) -> VAE:
    """A model with likelihoods by the kinds of the columns, and room for missing cells where there are any."""
    tables.check_options(options)
    hidden, missing = tuple(options.hidden), tables.needs_missing(splits)
    into = {} if options.covariates_into is None else {"into": tables.read_names(options.covariates_into) or ()}
    seen = table.likelihood().feature_shape
    return VAE.for_table(
        table,
        prior=PRIORS[options.prior](options.latent_dim or latents_for(len(table.schema.names)), seen),
        guide=GUIDES[options.guide or "normal"](),
        encoder=nets.Masked(nets.MLP(hidden)) if missing else nets.MLP(hidden),
        decoder=nets.MLP(hidden[::-1], dropout=options.dropout),
        missing=AtRandom() if missing else None,
        covariates=table.covariates(**into) if table.schema.covariates else None,
        seed=options.seed,
    )


def _likelihood(choice: str, splits: Splits) -> likelihoods.Likelihood:
    """The likelihood that was chosen; if it is the one that the data suggest, with the arguments they suggest too."""
    name = splits.likelihood if choice == "auto" else LIKELIHOODS[choice]
    arguments: dict[str, Any] = {}
    if name == splits.likelihood:
        arguments = splits.likelihood_options
    elif name in ("Binomial", "BetaBinomial"):
        arguments = {"total_count": max(1, _largest(splits))}
    return getattr(likelihoods, name)(splits.event_shape, **arguments)  # type: ignore[no-any-return]


def _largest(splits: Splits) -> int:
    """The largest cell of the training, validation and test rows, rounded down to an integer."""
    with preserved_rng():
        return int(max(_largest_of(rows) for rows in (splits.train, splits.valid, splits.test)))


def _largest_of(rows: Rows) -> float:
    size = rows.rows_at_once()
    pieces = (rows.take(slice(start, start + size))["x"] for start in range(0, len(rows), size))
    return max(float(piece.max()) for piece in pieces)


def training(options: argparse.Namespace, splits: Splits) -> dict[str, Any]:
    """The arguments of `fit`, by name, that the options of `train` choose: all but where and how the run reports."""
    names = ("epochs", "batch_size", "learning_rate", "patience", "compile", "precision", "seed", "on_nonfinite")
    chosen = {name: getattr(options, name) for name in (*names, "checkpoint_every")}
    optimizer = _optimizer(options.ridge, len(splits.train))
    return chosen | {"elbo": _estimator(options), "optimizer": optimizer, "valid": splits.valid}


def _estimator(options: argparse.Namespace) -> elbos.Estimator:
    """The bound that `--elbo`, with its particles and gradient, trains with."""
    given = {"num_particles": options.num_particles, "gradient": options.gradient}
    return ESTIMATORS[options.elbo](**{name: value for name, value in given.items() if value is not None})


def _optimizer(ridge: float, num_rows: int) -> Callable[..., torch.optim.Optimizer] | None:
    """Adam with the ridge penalty, which is on the sum over all rows, as gradients are means; None for `fit`'s own."""
    if ridge == 0:
        return None
    return partial(torch.optim.Adam, weight_decay=ridge / num_rows, fused=True)
