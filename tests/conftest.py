"""Checks around every test, and where the real data are."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pyro
import pytest
import torch

pytest.register_assert_rewrite("both_steps", "interrupted")  # so that their assertions show values
signal.signal(signal.SIGINT, signal.default_int_handler)  # a process started in the background ignores Ctrl-C
torch.set_num_threads(1)  # tests are small: threads would spend more time waiting for each other than computing


@pytest.fixture
def plain_pyro() -> Iterator[None]:
    """Clear Pyro's global parameter store after a test that runs programs as Pyro does, which fills it."""
    yield
    pyro.get_param_store().clear()


@pytest.fixture(autouse=True)
def guard_of_global_state() -> Iterator[None]:
    """Seed the test, and fail it if it leaves Pyro's or torch's global state changed."""
    pyro.get_param_store().clear()
    random = torch.get_rng_state()
    torch.manual_seed(20)
    before = _state()
    yield
    torch.set_rng_state(random)
    after = _state()
    pyro.get_param_store().clear()
    assert after == before


def _state() -> dict[str, object]:
    return {
        "parameters": sorted(pyro.get_param_store()),
        "dtype": torch.get_default_dtype(),
        "validation": (
            pyro.distributions.is_validation_enabled(),
            pyro.infer.is_validation_enabled(),
            pyro.poutine.is_validation_enabled(),
        ),
        "threads": torch.get_num_threads(),
        "gradients": torch.is_grad_enabled(),
        "local_parameters": pyro.settings.get("module_local_params"),
    }


@pytest.fixture(scope="module")
def short_annealing() -> Iterator[None]:
    """Few temperatures where the command line scores rows: for tests about commands and pages, not about numbers."""
    import pages

    with pages.short_annealing():
        yield


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder with real MNIST; tests that need it are skipped where it is absent."""
    folder = Path(os.environ.get("PYRO_VAE_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not (folder / "MNIST" / "raw" / "train-images-idx3-ubyte").exists():
        pytest.skip(f"no MNIST in {folder}: set PYRO_VAE_DATA to the folder that holds MNIST/raw")
    return folder
