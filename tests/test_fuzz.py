"""Every public function, given an unusual argument, returns a well-formed result or raises a clear error.

It never changes the model, its arguments or a global state. The tables have an entry for each function: what is called,
and arguments that work. One argument is then replaced: an array by an unusual array, any other, also one that is left
out, by an unusual option. PYRO_VAE_FUZZ_EXAMPLES=1000 tries more examples than the default.
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
import pandas
import pyro.distributions as dist
import pyro.infer
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from strange import (
    OTHER,
    Call,
    Strange,
    Unchanged,
    argument_names,
    arrays,
    check_error,
    check_finite,
    check_same,
    outcome,
)
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
    "gaps": (lambda: pv.likelihoods.Normal(3), np.where(REAL > 1.5, np.nan, REAL), {}),
}


def make(kind: str) -> pv.VAE:
    net = pv.nets.MLP(hidden=(4,))
    parts: dict[str, Any] = {"prior": pv.priors.Normal(2), "encoder": net, "decoder": net, "seed": 0}
    missing = pv.missing.AtRandom() if kind == "gaps" else None
    return pv.VAE(likelihood=KINDS[kind][0](), missing=missing, **parts).double()


def calls_with_a_model(vae: pv.VAE, x: np.ndarray, fields: dict[str, np.ndarray]) -> dict[str, Call]:
    """The functions that take a model."""
    z, few = np.zeros((6, 2)), {"num_particles": 2, "seed": 0}
    ais = evaluation.AIS(num_steps=2, leapfrog_steps=1)
    return {
        "VAE.fit": (vae.fit, {"data": x, "epochs": 1, "progress": False, "seed": 0, "valid": x}),
        "VAE.elbo": (vae.elbo, {"x": x, **few, **fields}),
        "VAE.audited_log_likelihood": (
            vae.audited_log_likelihood,
            {"x": x, "num_rows": 2, "seconds": 1.0, "method": "importance", **few, **fields},
        ),
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
        "VAE.impute": (vae.impute, {"x": x, "num_candidates": 5, "seed": 0, **fields}),
        "missing.sensitivity": (
            pv.missing.sensitivity,
            {"model": vae, "x": x, "shift": {0: [1.0]}, "analysis": lambda one: (one.mean(), 1.0), "seed": 0},
        ),
        "VAE.save": (vae.save, {"path": "saved"}),
        "VAE.refined": (lambda **o: vae.refined(**o).__enter__() and None, {"steps": 1, "learning_rate": 0.1}),
        "compare": (pv.compare, {"models": {"a": vae, "b": vae}, "x": x, **few}),
        "contrast": (
            pv.contrast,
            {
                **{"model": vae, "x": x, "field": "arm", "levels": (0, 1), "arm": np.arange(6) % 2},
                **{"num_samples": 3, "num_candidates": 5, "seed": 0, **fields},
            },
        ),
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
def shared_calls_with_a_model(kind: str) -> tuple[pv.VAE, dict[str, Call]]:
    vae = make(kind)
    return vae, calls_with_a_model(vae, *KINDS[kind][1:])


@functools.cache
def saved() -> str:
    path = tempfile.mkdtemp()
    make("real").save(path)
    return path


def calls_without_a_model() -> dict[str, Call]:
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
        "datasets.read_frame": (pv.datasets.read_frame, {"path": "nowhere.csv"}),
        "Rows": (pv.Rows, {"x": REAL}),
        "Table": (pv.Table, {"frame": pandas.DataFrame(REAL, columns=list("abc"))}),
        "VAE.for_table": (pv.VAE.for_table, {"table": pandas.DataFrame(REAL, columns=list("abc")), "latent_dim": 2}),
        "pool": (pv.pool, {"estimates": REAL[0], "variances": REAL[1] ** 2 + 1}),
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
        "plots.imputed": (plots.imputed, {"observed": {"a": SHARES}, "drawn": {"a": SHARES}}),
        "plots.interpolation": (plots.interpolation, {"path": np.zeros((2, 3, 4))}),
        "plots.khat": (plots.khat, {"values": SHARES, "threshold": 0.7}),
        "plots.khat_map": (plots.khat_map, {"points": CODES[:5, :2], "values": SHARES, "threshold": 0.7}),
        "plots.kl_per_dimension": (plots.kl_per_dimension, {"kl": SHARES, "active": SHARES > 0.5}),
        "plots.latent_map": (plots.latent_map, {"points": CODES[:, :2], "labels": LABELS}),
        "plots.contrast": (
            plots.contrast,
            {"names": list("abcde"), "estimates": SHARES, "lower": SHARES - 1, "upper": SHARES + 1, "threshold": 0.5},
        ),
        "plots.marginals": (plots.marginals, {"samples": {"data": {"a": SHARES}}}),
        "plots.missing_pattern": (plots.missing_pattern, {"missing": REAL, "names": list("abc")}),
        "plots.moments": (
            plots.moments,
            {f"{a}_{b}": SHARES.copy() for a in ("guide", "reference") for b in ("mean", "scale")},
        ),
        "plots.pairs": (plots.pairs, {"samples": {"data": {"a": SHARES, "b": SHARES}}}),
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
        "plots.reliability": (plots.reliability, {"confidence": SHARES, "share": SHARES, "errors": SHARES / 10}),
        "plots.rate_distortion": (plots.rate_distortion, {"rates": SHARES, "distortions": SHARES}),
        "plots.reconstructions": (plots.reconstructions, {"x": REAL, "means": REAL}),
        "plots.sandwich": (plots.sandwich, {"lower": SHARES, "upper": SHARES}),
        "plots.statistic": (plots.statistic, {"observed": 0.5, "replicated": SHARES, "name": "mean"}),
        "plots.training_curve": (
            plots.training_curve,
            {"history": {"epoch": [1, 2], "train_bound": [-2.0, -1.0], "valid_bound": [None, -1.0]}},
        ),
    }


# Modules whose classes and functions are all called, and values for arguments without a default, by name.
MODULES = ("priors", "guides", "likelihoods", "nets", "elbos", "schedules", "statistics", "bounds")
NEEDED: dict[str, Any] = {
    **{"latent_dim": 2, "event_shape": 3, "total_count": 5, "num_categories": 3, "value": 1.0, "start": 0.0},
    **{"stop": 1.0, "steps": 3, "level": 0.5, "first": 0, "second": 1, "beta": 0.5, "groups": 2, "alpha": 0.5},
    **{"log_w": CODES[:8], "x": REAL, "points": (0.0, 0.5), "likelihood": pv.likelihoods.Bernoulli((1, 4, 4))},
    **{"distribution": dist.Normal(torch.zeros(2), 1.0).to_event(1), "blocks": {"a": pv.likelihoods.Normal(1)}},
    **{"function": lambda outputs: dist.Normal(outputs, 1.0).to_event(1), "elbo": pyro.infer.Trace_ELBO()},
}


def calls_of_modules() -> dict[str, Call]:
    calls = {}
    for module in MODULES:
        for name in getattr(pv, module).__all__:
            function = getattr(getattr(pv, module), name)
            if callable(function) and not inspect.isabstract(function) and f"{module}.{name}" not in EXEMPT:
                names = [p.name for p in inspect.signature(function).parameters.values() if p.default is p.empty]
                calls[f"{module}.{name}"] = function, {name: NEEDED[name] for name in names if name in NEEDED}
    return calls


MAY_RETURN_NAN = (
    "plots.",
    "statistics.",
    "bounds.",
    "Rows with",
    "pool",
    "missing.sensitivity",
)  # what these are given, they may return

EXEMPT = {
    "History": "made by fit",
    "LatentVariableModel": "the base of the user's own classes; VAE has its methods",
    **dict.fromkeys(("SemiSupervisedVAE", "classification"), "wrong labels and options are in test_semi_supervised"),
    "Covariates": "wrong kinds and values are in test_covariates",
    "sample_label": "a statement of programs; wrong labels are in test_enumeration",
    "log_weights": "the record of two plain Pyro programs, which are given their arguments as they are",
    **{f"{module}.{name}": "a base" for module, name in (("priors", "Prior"), ("guides", "Guide"))},
    "likelihoods.Likelihood": "a base",
    **{f"VAE.{name}": "the program" for name in ("model", "guide")},
    "VAE.export": "a path and a choice, tried in test_export",
    **{
        f"VAE.{name}": "called by fit and evaluation"
        for name in (
            "initialize",
            "check_batch",
            "check_data",
            "check_columns",
            "split_missing",
            "beside",
            "level_names",
            "reads_covariates",
            "size_beside",
            "decoder_output",
            "encoder_output",
            "net_output",
            "p_x",
            "prior_of",
            "read_field",
            "sample_latents",
            "sample_row",
            "check_fields",
            "unbounded_at",
            "read_rows",
            "made_of",
        )
    },
    **{f"evaluation.{name}": "inner" for name in ("mean_over_rows", "summarize_log_weights")},
    "datasets.names": "takes nothing",
    **{f"processes.{name}": "takes nothing" for name in ("launched", "rank", "size")},
    **dict.fromkeys(
        (
            "Classification",
            "Comparison",
            "Contrast",
            "Convergence",
            "Diagnosis",
            "Discoveries",
            "Draws",
            "Finding",
            "LogWeights",
        ),
        "a result",
    ),
    **dict.fromkeys(("Imputations", "Pooled", "WaldTest"), "a result"),
    "elbos.GradientPath": "a record",
    "evaluation.Summary": "a record",
    "plots.grid": "inner",
    "nets.Recipe": "a base",
    "schedules.Schedule": "a base",
    **{f"elbos.{name}": "a base" for name in ("Estimator", "WeightBound")},
    **{f"nets.{name}": "inner" for name in ("Rowwise", "Shape", "build")},
    **{f"elbos.{name}": "inner" for name in ("PyroEstimator", "Terms", "from_pyro")},
    "schedules.value_at": "inner",
    "statistics.Statistic": "a type",
}


def all_calls() -> dict[str, Callable[[], tuple[pv.VAE | None, Call]]]:
    """Functions by name that return a model, if the call has one, and the call."""
    found: dict[str, Any] = {}
    for kind in KINDS:
        for name in calls_with_a_model(make(kind), *KINDS[kind][1:]):
            found[f"{name} of {kind}"] = lambda kind=kind, name=name: _call_with_a_model(kind, name)
    for name, call in (calls_without_a_model() | calls_of_modules()).items():
        found[name] = lambda call=call: (None, call)
    return found


def _call_with_a_model(kind: str, name: str) -> tuple[pv.VAE, Call]:
    if name == "VAE.fit":  # this changes the model, so it is not shared
        vae = make(kind)
        return vae, calls_with_a_model(vae, *KINDS[kind][1:])[name]
    vae, calls = shared_calls_with_a_model(kind)
    return vae, calls[name]


CALLS = all_calls()


def check_call(name: str, argument: str, strange: Any) -> None:
    """Make a call with one argument replaced, and check the result or the error, and that nothing else changed."""
    model, (function, arguments) = CALLS[name]()
    value, expected = strange, None
    if isinstance(strange, Strange):
        value, plain = strange.made(arguments[argument])
        if plain is not None:
            plain = torch.as_tensor(plain) if name.startswith("bounds.") else plain
            expected = outcome(function, arguments | {argument: plain})
            model, (function, arguments) = CALLS[name]()
    before = Unchanged(model, value)
    result = outcome(function, arguments | {argument: value})
    if isinstance(result, Exception):
        check_error(result)
    elif not name.startswith(MAY_RETURN_NAN):
        check_finite(result, huge=isinstance(strange, Strange) and strange.value.startswith("1e+"))
    if isinstance(strange, Strange) and not isinstance(result, Exception):
        assert expected is not None, f"an array that does not hold numbers was accepted: {value!r}"
        check_same(result, expected)
    if isinstance(result, Exception) or not name.startswith("VAE.fit of"):
        before.check(except_for="random" if argument == "seed" and value is None else "")


def skip(name: str, argument: str, value: Any) -> bool:
    """Whether this would take long: a compiled step, a long run, the network, or counts that exceed the memory."""
    if isinstance(value, Strange):
        return name.startswith("bounds.") and value.form == "meta"  # the bound of a meta tensor is one, too
    if argument in ("method", "download") or (argument == "compile" and value is not False and value != "a"):
        return True
    return argument != "seed" and isinstance(value, int | float) and 20 < abs(value) < np.inf


def is_array(name: str, argument: str) -> bool:
    return isinstance(CALLS[name]()[1][1].get(argument), np.ndarray)


@pytest.fixture
def in_new_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> Any:
    """Run in a new folder, where unusual names may make files."""
    monkeypatch.chdir(tmp_path)
    return capsys


def check_examples(strategy: st.SearchStrategy[Any], check: Callable[[Any], None]) -> None:
    """Run a check on many examples, the same ones each time."""
    some = settings(
        max_examples=EXAMPLES, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck)
    )
    some(given(strategy)(check))()


@pytest.mark.parametrize("name", [name for name in CALLS if argument_names(CALLS[name]()[1])])
def test_an_unusual_argument_gives_a_result_or_a_clear_error_and_changes_nothing(name: str, in_new_folder: Any) -> None:
    arguments = st.sampled_from(argument_names(CALLS[name]()[1]))
    strange = arguments.flatmap(
        lambda argument: st.tuples(
            st.just(argument), (arrays() | st.sampled_from(OTHER)) if is_array(name, argument) else strange_options()
        )
    )
    check_examples(strange.filter(lambda one: not skip(name, *one)), lambda one: check_call(name, *one))


def command_lines() -> st.SearchStrategy[list[str]]:
    """A command with data or a run that do not exist, so that it ends early, and one option with an unusual value."""
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


def test_an_unusual_command_line_gives_a_clear_error(in_new_folder: Any) -> None:
    def check(line: list[str]) -> None:
        assert main(line) == 2
        printed = in_new_folder.readouterr().err
        assert LINE.fullmatch(printed.strip()), printed

    check_examples(command_lines(), check)


def functions(module: Any) -> list[str]:
    return [name for name in module.__all__ if inspect.isfunction(getattr(module, name))]


def test_every_public_function_is_called_here_or_exempt() -> None:
    names = [name for name in pv.__all__ if not inspect.ismodule(getattr(pv, name))]
    modules = {name: getattr(pv, name) for name in pv.__all__ if inspect.ismodule(getattr(pv, name))}
    names += [f"{path}.{name}" for path, module in modules.items() for name in functions(module)]
    names += [
        f"{path}.{name}" for path in MODULES for name in modules[path].__all__ if callable(getattr(modules[path], name))
    ]
    names += [f"VAE.{name}" for name, value in inspect.getmembers(pv.VAE, inspect.isfunction) if is_ours(name, value)]
    known = {name.split(" ")[0] for name in CALLS} | {"check"}  # which is checks.check
    assert sorted(set(names) - known - set(EXEMPT)) == []
    assert sorted(set(EXEMPT) & known) == []


def is_ours(name: str, value: Any) -> bool:
    return value.__module__.startswith("pyro_vae") and not name.startswith("_")
