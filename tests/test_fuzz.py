"""Strange inputs at every public door: a well-formed result, or an error that says what must be given; never a change.

The tables have a line for each function: what is called, and arguments that work. Arrays among these are replaced by
strange arrays, all others, also those left out, by strange options. PYRO_VAE_FUZZ_EXAMPLES=1000 tries more.
"""

from __future__ import annotations

import functools
import inspect
import os
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyro.distributions as dist
import pyro.infer
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from strange import OTHER, Door, Strange, Unchanged, arrays, check_error, check_finite, check_same, outcome, settable
from strange import options as strange_options

import pyro_vae as pv
from pyro_vae import evaluation, plots
from pyro_vae.cli import main
from pyro_vae.cli.options import parser

EXAMPLES = int(os.environ.get("PYRO_VAE_FUZZ_EXAMPLES", "25"))

RANDOM = np.random.RandomState(0)
COUNTS, REAL = RANDOM.poisson(3.0, (6, 3)).astype(float), RANDOM.randn(6, 3)
CODES, LABELS, SHARES = RANDOM.randn(30, 3), np.arange(30) % 3, np.sort(RANDOM.rand(5))
FACTORS = np.stack([np.arange(30) % 3, np.arange(30) // 3 % 2], 1)
KINDS = {
    "counts": (lambda: pv.likelihoods.Poisson(3), COUNTS, {"offset": np.zeros(6)}),
    "real": (lambda: pv.likelihoods.Normal(3), REAL, {}),
}


def make(kind: str) -> pv.VAE:
    net = pv.nets.MLP(hidden=(4,))
    return pv.VAE(likelihood=KINDS[kind][0](), prior=pv.priors.Normal(2), encoder=net, decoder=net, seed=0).double()


def of_model(vae: pv.VAE, x: np.ndarray, fields: dict[str, np.ndarray]) -> dict[str, Door]:
    """Everything that takes a model."""
    z, few = np.zeros((6, 2)), {"num_particles": 2, "seed": 0}
    ais = evaluation.AIS(num_steps=2, leapfrog_steps=1)
    return {
        "VAE.fit": (vae.fit, {"data": x, "epochs": 1, "progress": False, "seed": 0, "valid": x}),
        "VAE.elbo": (vae.elbo, {"x": x, **few, **fields}),
        "VAE.log_likelihood": (vae.log_likelihood, {"x": x, **few, **fields}),
        "VAE.conditional_log_likelihood": (
            vae.conditional_log_likelihood,
            {"x": x, "given": np.array([True, False, False]), **few, **fields},
        ),
        "VAE.encode": (vae.encode, {"x": x, "seed": 0}),
        "VAE.reconstruct": (vae.reconstruct, {"x": x, "seed": 0, **fields}),
        "VAE.decode": (vae.decode, {"z": z, **fields}),
        "VAE.sample": (vae.sample, {"num_rows": 6, "seed": 0, **fields}),
        "VAE.simulate": (vae.simulate, {"num_rows": 6, "seed": 0, **fields}),
        "VAE.sandwich": (vae.sandwich, {"num_rows": 6, "method": ais, **few, **fields}),
        "VAE.predictive": (vae.predictive, {"latents": z, "num_samples": 2, "seed": 0, **fields}),
        "VAE.posterior_predictive": (vae.posterior_predictive, {"x": x, "num_samples": 2, "seed": 0, **fields}),
        "VAE.posterior_draws": (vae.posterior_draws, {"x": x, "num_samples": 2, "seed": 0, **fields}),
        "VAE.interpolate": (vae.interpolate, {"x0": x, "x1": x, "steps": 2}),
        "VAE.fit_aggregate_posterior": (vae.fit_aggregate_posterior, {"x": x, "num_components": 2}),
        "VAE.save": (vae.save, {"path": "saved"}),
        "VAE.refined": (lambda **o: vae.refined(**o).__enter__() and None, {"steps": 1, "learning_rate": 0.1}),
        "compare": (pv.compare, {"models": {"a": vae, "b": vae}, "x": x, **few}),
        "checks.check": (pv.checks.check, {"model": vae, "x": x, "num_samples": 2, **few}),
        "checks.pit": (pv.checks.pit, {"model": vae, "x": x, "num_samples": 2, "seed": 0}),
        "diagnose": (pv.diagnose, {"model": vae, "x": x, "num_particles": 5, "num_samples": 3, "verbose": False}),
        "draws": (pv.draws, {"model": vae, "x": x, "num_samples": 2, **few}),
        "latents.use": (pv.latents.use, {"model": vae, "x": x, **few}),
        "latents.traverse": (pv.latents.traverse, {"vae": vae, "x": x[:1], "steps": 2}),
        "latents.rate_distortion": (pv.latents.rate_distortion, {"models": {"a": vae}, "x": x, **few}),
        "calibration.simulation_based_calibration": (
            pv.calibration.simulation_based_calibration,
            {"model": vae, "num_rows": 6, "num_draws": 5, "seed": 0, **fields},
        ),
        "calibration.amortization_gap": (pv.calibration.amortization_gap, {"model": vae, "x": x, "steps": 1, **few}),
        "calibration.against_nuts": (
            pv.calibration.against_nuts,
            {"model": vae, "x": x[:1], "num_samples": 4, "warmup": 1, "max_tree_depth": 1, "seed": 0},
        ),
    }


@functools.cache
def doors_of_model(kind: str) -> tuple[pv.VAE, dict[str, Door]]:
    vae = make(kind)
    return vae, of_model(vae, *KINDS[kind][1:])


@functools.cache
def saved() -> str:
    path = tempfile.mkdtemp()
    make("real").save(path)
    return path


def of_arrays() -> dict[str, Door]:
    pd, each = pv.disentanglement, {"codes": CODES, "factors": FACTORS}
    unit = torch.as_tensor(REAL)
    return {
        "VAE": (pv.VAE, {"likelihood": pv.likelihoods.Normal(3), "prior": pv.priors.Normal(2), "seed": 0}),
        "HierarchicalVAE": (
            pv.HierarchicalVAE,
            {"likelihood": pv.likelihoods.Normal(3), "latent_dims": (2, 2), "seed": 0},
        ),
        "evaluation.AIS": (evaluation.AIS, {}),
        "evaluation.SemiAmortized": (evaluation.SemiAmortized, {}),
        "load": (pv.load, {"path": saved()}),
        "datasets.load": (pv.datasets.load, {"name": "digits", "download": False}),
        "datasets.parquet": (pv.datasets.parquet, {"path": "nowhere.parquet"}),
        "Rows": (pv.Rows, {"x": REAL}),
        "Rows with fields": (lambda label: pv.Rows(unit, {"label": label}), {"label": np.zeros(6)}),
        "latents.probe": (pv.latents.probe, {"codes": CODES, "labels": LABELS, "folds": 2}),
        "latents.principal_components": (pv.latents.principal_components, {"z": CODES, "count": 1}),
        "calibration.band_of_uniform_ecdf": (
            pv.calibration.band_of_uniform_ecdf,
            {"num_rows": 5, "num_draws": 4, "simulations": 10},
        ),
        "disentanglement.mig": (pd.mig, each),
        "disentanglement.sap": (pd.sap, each),
        "disentanglement.dci": (pd.dci, {**each, "num_trees": 2}),
        "disentanglement.factor_vae_score": (pd.factor_vae_score, {**each, "num_votes": 5, "group_size": 2}),
        "plots.coverage": (plots.coverage, {"levels": SHARES, "observed": SHARES}),
        "plots.comparison": (
            plots.comparison,
            {"names": ["a", "b", "c"], "differences": np.array([0.0, -1.0, -2.0]), "errors": np.ones(3)},
        ),
        "plots.images": (plots.images, {"x": REAL}),
        "plots.importance": (plots.importance, {"matrix": np.abs(REAL)}),
        "plots.interpolation": (plots.interpolation, {"path": np.zeros((2, 3, 4))}),
        "plots.khat": (plots.khat, {"values": SHARES, "threshold": 0.7}),
        "plots.khat_map": (plots.khat_map, {"points": CODES[:5, :2], "values": SHARES, "threshold": 0.7}),
        "plots.kl_per_dimension": (plots.kl_per_dimension, {"kl": SHARES, "active": SHARES > 0.5}),
        "plots.latent_map": (plots.latent_map, {"points": CODES[:, :2], "labels": LABELS}),
        "plots.moments": (
            plots.moments,
            {f"{a}_{b}": SHARES.copy() for a in ("guide", "reference") for b in ("mean", "scale")},
        ),
        "plots.pit": (plots.pit, {"values": SHARES}),
        "plots.predictive_intervals": (
            plots.predictive_intervals,
            {"x": SHARES, "quantiles": np.sort(RANDOM.randn(3, 5), 0), "levels": np.array([0.1, 0.5, 0.9])},
        ),
        "plots.rank_ecdf": (
            plots.rank_ecdf,
            {
                **{"ranks": FACTORS, "num_draws": 2, "points": SHARES},
                **{"lower": SHARES - 2, "upper": SHARES + 1},
            },
        ),
        "plots.rate_distortion": (plots.rate_distortion, {"rates": SHARES, "distortions": SHARES}),
        "plots.reconstructions": (plots.reconstructions, {"x": REAL, "means": REAL}),
        "plots.sandwich": (plots.sandwich, {"lower": SHARES, "upper": SHARES}),
        "plots.statistic": (plots.statistic, {"observed": 0.5, "replicated": SHARES, "name": "mean"}),
        "plots.training_curve": (
            plots.training_curve,
            {"history": {"epoch": [1, 2], "train_bound": [-2.0, -1.0], "valid_bound": [None, -1.0]}},
        ),
    }


# Classes and functions that are doors by themselves, with arguments for those that have no default, by name.
ROOMS = ("priors", "guides", "likelihoods", "nets", "elbos", "schedules", "statistics", "bounds")
NEEDED: dict[str, Any] = {
    **{"latent_dim": 2, "event_shape": 3, "total_count": 5, "num_categories": 3, "value": 1.0, "start": 0.0},
    **{"stop": 1.0, "steps": 3, "level": 0.5, "first": 0, "second": 1, "beta": 0.5, "groups": 2, "alpha": 0.5},
    **{"log_w": CODES[:8], "x": REAL, "points": (0.0, 0.5), "likelihood": pv.likelihoods.Bernoulli((1, 4, 4))},
    **{"distribution": dist.Normal(torch.zeros(2), 1.0).to_event(1), "blocks": {"a": pv.likelihoods.Normal(1)}},
    **{"function": lambda outputs: dist.Normal(outputs, 1.0).to_event(1), "elbo": pyro.infer.Trace_ELBO()},
}


def of_rooms() -> dict[str, Door]:
    doors = {}
    for room in ROOMS:
        for name in getattr(pv, room).__all__:
            thing = getattr(getattr(pv, room), name)
            if callable(thing) and not inspect.isabstract(thing) and f"{room}.{name}" not in EXEMPT:
                names = [p.name for p in inspect.signature(thing).parameters.values() if p.default is p.empty]
                doors[f"{room}.{name}"] = thing, {name: NEEDED[name] for name in names if name in NEEDED}
    return doors


LAX = ("plots.", "statistics.", "bounds.", "Rows with")  # NaN and infinity pass through

EXEMPT = {
    "History": "made by fit",
    "LatentVariableModel": "the base of the user's own classes; VAE has its methods",
    "log_weights": "the record of two plain Pyro programs, which are given their arguments as they are",
    **{f"{room}.{name}": "a base" for room, name in (("priors", "Prior"), ("guides", "Guide"))},
    "likelihoods.Likelihood": "a base",
    **{f"VAE.{name}": "the program" for name in ("model", "guide")},
    **{
        f"VAE.{name}": "called by fit and evaluation"
        for name in ("initialize", "check_data", "check_columns", "read_rows", "made_of")
    },
    **{f"evaluation.{name}": "inner" for name in ("mean_over_rows", "summarize_log_weights")},
    "datasets.names": "takes nothing",
    "plots.grid": "inner",
    "nets.Recipe": "a base",
    "schedules.Schedule": "a base",
    **{f"elbos.{name}": "a base" for name in ("Estimator", "WeightBound")},
    **{f"nets.{name}": "inner" for name in ("Rowwise", "Shape", "build")},
    **{f"elbos.{name}": "inner" for name in ("PyroEstimator", "Terms", "from_pyro")},
    "schedules.value_at": "inner",
    "statistics.Statistic": "a type",
}


def all_doors() -> dict[str, Callable[[], tuple[pv.VAE | None, Door]]]:
    """By name: the model, if there is one, and the door."""
    found: dict[str, Any] = {}
    for kind in KINDS:
        for name in of_model(make(kind), *KINDS[kind][1:]):
            found[f"{name} of {kind}"] = lambda kind=kind, name=name: _of(kind, name)
    for name, door in (of_arrays() | of_rooms()).items():
        found[name] = lambda door=door: (None, door)
    return found


def _of(kind: str, name: str) -> tuple[pv.VAE, Door]:
    if name == "VAE.fit":  # changes it
        vae = make(kind)
        return vae, of_model(vae, *KINDS[kind][1:])[name]
    vae, doors = doors_of_model(kind)
    return vae, doors[name]


DOORS = all_doors()


def knock(name: str, argument: str, strange: Any) -> None:
    """Call with one strange argument."""
    model, (function, arguments) = DOORS[name]()
    value, expected = strange, None
    if isinstance(strange, Strange):
        value, plain = strange.made(arguments[argument])
        if plain is not None:
            plain = torch.as_tensor(plain) if name.startswith("bounds.") else plain
            expected = outcome(function, arguments | {argument: plain})
            model, (function, arguments) = DOORS[name]()
    before = Unchanged(model, value)
    result = outcome(function, arguments | {argument: value})
    if isinstance(result, Exception):
        check_error(result)
    elif not name.startswith(LAX):
        check_finite(result, huge=isinstance(strange, Strange) and strange.value.startswith("1e+"))
    if isinstance(strange, Strange) and not isinstance(result, Exception):
        assert expected is not None, f"these are no numbers, but are taken: {value!r}"
        check_same(result, expected)
    if isinstance(result, Exception) or not name.startswith("VAE.fit of"):
        before.check(except_for="random" if argument == "seed" and value is None else "")


def skip(name: str, argument: str, value: Any) -> bool:
    """Whether this asks for what takes long: a compiled step, a long run, the network, counts that no machine holds."""
    if isinstance(value, Strange):
        return name.startswith("bounds.") and value.form == "meta"  # whose bound is one without data, too
    if argument in ("method", "download") or (argument == "compile" and value is not False and value != "a"):
        return True
    return argument != "seed" and isinstance(value, int | float) and 20 < abs(value) < np.inf


def is_array(name: str, argument: str) -> bool:
    return isinstance(DOORS[name]()[1][1].get(argument), np.ndarray)


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> Any:
    """A folder of its own, where strange names make files."""
    monkeypatch.chdir(tmp_path)
    return capsys


def often(strategy: st.SearchStrategy[Any], check: Callable[[Any], None]) -> None:
    """Check for many examples, the same each time."""
    some = settings(
        max_examples=EXAMPLES, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck)
    )
    some(given(strategy)(check))()


@pytest.mark.parametrize("name", [name for name in DOORS if settable(DOORS[name]()[1])])
def test_strange_inputs(name: str, elsewhere: Any) -> None:
    arguments = st.sampled_from(settable(DOORS[name]()[1]))
    strange = arguments.flatmap(
        lambda argument: st.tuples(
            st.just(argument), (arrays() | st.sampled_from(OTHER)) if is_array(name, argument) else strange_options()
        )
    )
    often(strange.filter(lambda one: not skip(name, *one)), lambda one: knock(name, *one))


def command_lines() -> st.SearchStrategy[list[str]]:
    """A command with data or a run that do not exist, so that it ends early, and one option with a strange value."""
    (commands,) = (action.choices for action in parser()._actions if isinstance(action.choices, dict))
    lines = [
        [command, *(["nowhere.npy"] if command != "datasets" else []), name]
        for command, sub in commands.items()
        for action in sub._actions
        for name in action.option_strings
        if name not in ("-h", "--help")
    ]
    lines += [[], ["nothing"], ["train", "nowhere.npy"]]
    values = st.sampled_from(["-1", "0", "1.5", "nan", "inf", "1e400", "9" * 30, "--", "a", "", "\N{SNOWMAN}"])
    return st.tuples(st.sampled_from(lines), values | st.text(max_size=4)).map(lambda one: [*one[0], one[1]])


ARGPARSE = "argument .*|the following arguments are required.*|unrecognized arguments.*"
LINE = re.compile(rf"pyro-vae: error: (.*must .*; got .*\.|{ARGPARSE})")


def test_strange_command_lines(elsewhere: Any) -> None:
    def check(line: list[str]) -> None:
        assert main(line) == 2
        printed = elsewhere.readouterr().err
        assert LINE.fullmatch(printed.strip()), printed

    often(command_lines(), check)


def functions(room: Any) -> list[str]:
    return [name for name in room.__all__ if inspect.isfunction(getattr(room, name))]


def test_every_public_name_is_a_door() -> None:
    names = [name for name in pv.__all__ if not inspect.ismodule(getattr(pv, name))]
    rooms = {name: getattr(pv, name) for name in pv.__all__ if inspect.ismodule(getattr(pv, name))}
    names += [f"{room}.{name}" for room, module in rooms.items() for name in functions(module)]
    names += [
        f"{room}.{name}" for room in ROOMS for name in rooms[room].__all__ if callable(getattr(rooms[room], name))
    ]
    names += [f"VAE.{name}" for name, value in inspect.getmembers(pv.VAE, inspect.isfunction) if is_ours(name, value)]
    known = {name.split(" ")[0] for name in DOORS} | {"check"}  # which is checks.check
    assert sorted(set(names) - known - set(EXEMPT)) == []
    assert sorted(set(EXEMPT) & known) == []


def is_ours(name: str, value: Any) -> bool:
    return value.__module__.startswith("pyro_vae") and not name.startswith("_")
