"""Digests of seeded numbers of many models, to see whether two versions of this package compute the same.

    PYTHONPATH=OLD python benchmarks/same_numbers.py > old.txt    # OLD and NEW: two checkouts
    PYTHONPATH=NEW python benchmarks/same_numbers.py > new.txt
    diff old.txt new.txt                                          # prints nothing where all bits are the same

A line has a model, what was computed, and a digest: of the history and the parameters after two epochs, of bounds,
log-likelihoods and draws, or of checks and other criticism. This takes some ten seconds. With `compiled` as argument,
models are trained by compiled steps, which takes up to some minutes, and only digests of training are printed.

Digests are comparable on one machine with the same releases of torch and Pyro. One thread computes.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import inspect
import logging
import re
import warnings
from collections.abc import Callable
from typing import Any

import torch
from seeded_models import AUTO, CASES, Case, Factors, draw_data
from torch import Tensor

import pyro_vae as pv


def digest(*values: Any) -> str:
    """A digest of tensors bit by bit, and of other values by their text."""
    state = hashlib.sha256()

    def add(value: Any) -> None:
        if isinstance(value, Tensor):
            state.update(str(value.dtype).encode() + value.detach().contiguous().numpy().tobytes())
        elif isinstance(value, dict):
            for key, part in value.items():
                state.update(str(key).encode())
                add(part)
        elif isinstance(value, list | tuple):
            for part in value:
                add(part)
        elif isinstance(value, torch.distributions.Distribution):
            add(value.mean)
        elif dataclasses.is_dataclass(value):
            add([getattr(value, field.name) for field in dataclasses.fields(value)])
        else:
            state.update(repr(value).encode())

    for value in values:
        add(value)
    return state.hexdigest()[:12]


def accepted(function: Callable[..., Any], *names: str) -> str:
    """The first of some names of an argument that a function has: another version may use another name."""
    return next(name for name in names if name in inspect.signature(function).parameters)


# Numbers of every model of parts, given rows x.
NUMBERS: dict[str, Callable[[Any, Tensor], Any]] = {
    "elbo": lambda model, x: fields(model.elbo(x[:20], num_particles=8, seed=1), "bound", "kl", "standard_error"),
    "log-likelihood": lambda model, x: fields(
        model.log_likelihood(x[:20], num_particles=30, seed=1), "estimate", "khat", "smoothed", "ess"
    ),
    "posterior predictive": lambda model, x: model.posterior_predictive(x[:9], num_samples=7, seed=2),
    "prior draws": lambda model, x: (model.sample(11, seed=2), model.simulate(5, seed=1)),
    "reconstruction": lambda model, x: model.reconstruct(x[:9], num_samples=5, seed=2),
    "posterior draws": lambda model, x: model.posterior_draws(
        x[:9], num_samples=4, seed=1, **{accepted(model.posterior_draws, "num_candidates", "resample"): 40}
    ),
}

# Numbers of the own program, given real rows x.
CRITICISM: dict[str, Callable[[Any, Tensor], Any]] = {
    "annealing": lambda model, x: model.log_likelihood(x[:9], num_particles=30, method="ais", seed=0).estimate,
    "refined": lambda model, x: model.log_likelihood(x[:9], num_particles=30, method="semi_amortized", seed=0).estimate,
    "conditional": lambda model, x: (
        model.conditional_log_likelihood(
            x[:9], given=torch.tensor([True] * 3 + [False] * 3), num_particles=30, seed=0
        ).estimate
    ),
    "sandwich": lambda model, x: model.sandwich(9, num_particles=4, seed=0).upper.estimate,
    "encode": lambda model, x: model.encode(x[:5]),
    "check": lambda model, x: checks(pv.check(model, x[:40], num_samples=20, seed=0)),
    "calibration": lambda model, x: pv.calibration.simulation_based_calibration(
        model, num_rows=40, num_draws=19, seed=0
    ),
    "amortization gap": lambda model, x: pv.calibration.amortization_gap(model, x[:20], num_particles=20, seed=0),
    "latent use": lambda model, x: pv.latents.use(model, x[:60], seed=0),
    "draws by group": lambda model, x: pv.draws(model, x[:12], num_samples=5, num_particles=10, seed=0).groups,
}

# Numbers of a VAE, given binary rows x.
OF_VAE: dict[str, Callable[[Any, Tensor], Any]] = {
    "compare": lambda model, x: numbers_in(
        pv.compare({"a": model, "b": CASES["Bernoulli"].make()}, x[:30], num_particles=20, seed=0)
    ),
    "diagnose": lambda model, x: [
        numbers_in(finding) for finding in pv.diagnose(model, x[:60], num_samples=10, verbose=False, seed=0).findings
    ],
    "aggregate posterior": lambda model, x: model.fit_aggregate_posterior(
        x, family="mixture", num_components=3, seed=0
    ).state_dict(),
}


def fields(result: Any, *names: str) -> list[Any]:
    return [getattr(result, name) for name in names]


def checks(result: Any) -> Any:
    return [(name, statistic.prior) for name, statistic in result.statistics.items()], result.pit.values


def numbers_in(result: Any) -> list[str]:
    """The numbers in the text of a result, whose words may change."""
    return re.findall(r"\d+(?:[.,]\d+)*", repr(result))


def train(name: str, case: Case, x: Tensor, *, compiled: bool) -> Any:
    """Train a model of a case and print the digests of its history and parameters."""
    model = case.make()
    options = {"batch_size": 32, "epochs": 2, "seed": 3, "progress": False, "elbo": case.elbo} | case.options
    options |= {"valid": x[:64]} if "patience" in options else {}
    history = model.fit(x, compile="auto" if compiled and name == AUTO else compiled, **options)
    lines = [{column: value for column, value in line.items() if column != "seconds"} for line in history]
    show(name, "history", lines)
    show(name, "parameters", model.state_dict())
    return model


def show(name: str, what: str, *values: Any) -> None:
    print(f"{name:36s} {what:22s} {digest(*values)}", flush=True)


def main(*, compiled: bool) -> None:
    stream = torch.Generator().manual_seed(0)
    for name, case in CASES.items():
        x = draw_data(stream)[case.kind]
        model = train(name, case, x, compiled=compiled)
        if compiled:
            continue
        for what, ask in (CRITICISM if isinstance(model, Factors) else NUMBERS).items():
            show(name, what, ask(model, x))
    if not compiled:
        criticize(stream)


def criticize(stream: torch.Generator) -> None:
    """Print digests of numbers of a VAE, of codes and factors, and of data alone."""
    x, model = draw_data(stream)["binary"], CASES["Bernoulli"].make()
    model.fit(x, epochs=1, progress=False, seed=0)
    for what, ask in OF_VAE.items():
        show("VAE", what, ask(model, x))
    factors = torch.rand(200, 3, generator=stream)
    codes = torch.randn(200, 4, generator=stream) + factors[:, :1]
    for metric in ("mig", "sap", "dci"):
        show("disentanglement", metric, getattr(pv.disentanglement, metric)(codes, (factors * 4).floor().long()))
    for statistic in ("mean", "variance"):
        show("statistics", statistic, getattr(pv.statistics, statistic)(x[:20]))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("steps", nargs="?", choices=["uncompiled", "compiled"], default="uncompiled")
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    torch.set_num_threads(1)
    main(compiled=parser.parse_args().steps == "compiled")
