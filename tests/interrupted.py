"""A run that sends itself a signal at a chosen step, and the comparison of two runs."""

from __future__ import annotations

import signal
from pathlib import Path

import numpy as np
import torch
from cases import small_vae

import pyro_vae as pv

DATA = (torch.rand(50, 2, 3, generator=torch.Generator().manual_seed(3)) < 0.4).double()


class Rate:
    """A learning rate that sends a signal to its own process at the given steps."""

    def __init__(self, at: int | set[int] | None, number: int = signal.SIGINT) -> None:
        self._at, self._number = at if isinstance(at, set) else {at}, number

    def __call__(self, step: int) -> float:
        if step in self._at:
            signal.raise_signal(self._number)
        return 1e-2 / (1 + step / 20)


def fit(run_dir, at: int | set[int] | None = None, data=None, number: int = signal.SIGINT, net=None, **options):
    """Train a small VAE, the same at each call, with the signal `number` at the steps `at`; an epoch has 7 steps."""
    torch.manual_seed(5)
    np.random.seed(5)
    vae = small_vae(**({} if net is None else {"encoder": net((6, 6))}))
    vae.fit(
        DATA if data is None else data,
        learning_rate=Rate(at, number),
        run_dir=run_dir,
        **{"epochs": 4, "batch_size": 8, "num_rows": 50, "seed": 0, "compile": False, "progress": False} | options,
    )
    return vae


def assert_ends_alike(vae, other) -> None:
    """The same parameters, buffers and history, apart from its seconds."""
    assert all(torch.equal(a, b) for a, b in zip(vae.state_dict().values(), other.state_dict().values(), strict=True))
    for column in set(pv.History.COLUMNS) - {"seconds"}:
        assert vae.history[column] == other.history[column], column


def checkpoints_of(run_dir: Path) -> list[Path]:
    """The checkpoints in a run folder, newest first."""
    return sorted((run_dir / "checkpoints").glob("step-*.safetensors"), reverse=True)
