"""What each of two processes runs for `test_processes.py`: fits of a program whose noise is given as data, and more.

torchrun --nproc-per-node 2 tests/two_processes.py FOLDER
"""

from __future__ import annotations

import signal
import sys
import weakref
from functools import partial
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from exact import LinearGaussian
from torch import Tensor, nn

import pyro_vae as pv
from pyro_vae.runtime import processes
from pyro_vae.runtime.random import seeded

N, D, E = 41, 2, 5


class Given(dist.Normal):
    """A normal distribution whose noise is given."""

    def __init__(self, loc: Tensor, scale: Tensor, noise: Tensor) -> None:
        super().__init__(loc, scale)
        self.noise = noise

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        return (self.loc + self.scale * self.noise).expand(*sample_shape, *self.batch_shape)

    def expand(self, batch_shape: Any, _instance: Any = None) -> Given:
        return Given(self.loc.expand(batch_shape), self.scale.expand(batch_shape), self.noise.expand(batch_shape))


class Program(pv.LatentVariableModel):
    """A linear-Gaussian pair of programs; with `ridge`, a parameter has a prior, outside of the row plate."""

    def __init__(self, dtype: torch.dtype, *, ridge: bool = False) -> None:
        super().__init__()
        with seeded(0):
            self.decoder, self.encoder = nn.Linear(D, E), nn.Linear(E, D)
        self.slope = nn.Parameter(torch.ones(()))
        self.ridge = ridge
        self.to(dtype)

    def model(self, x=None, *, rows=None, **batch):
        if self.ridge:
            pyro.factor("ridge", -0.5 * self.slope.square())
        with pyro.plate("data", len(x) if x is not None else rows):
            z = pyro.sample("z", dist.Normal(self.slope.new_zeros(D), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.slope * self.decoder(z), 1.0).to_event(1), obs=x)

    def guide(self, x, noise=None, **batch):
        scale = torch.full_like(x[:, :D], 0.5)
        loc = self.encoder(x)
        with pyro.plate("data", len(x)):
            pyro.sample("z", (dist.Normal(loc, scale) if noise is None else Given(loc, scale, noise)).to_event(1))


def data(dtype: torch.dtype) -> pv.Rows:
    stream = torch.Generator().manual_seed(2)
    x, noise = (torch.randn(N, width, generator=stream, dtype=torch.float64) for width in (E, D))
    return pv.Rows(x.to(dtype), {"noise": noise.to(dtype)})


SGD = partial(torch.optim.SGD, momentum=0.5)
CASES: dict[str, dict[str, Any]] = {
    "one step": {"epochs": 1, "batch_size": N, "optimizer": torch.optim.SGD, "learning_rate": 1.0},
    "uneven shares": {"batch_size": 8, "optimizer": SGD},  # in the last batch, one process has one more row
    "no rows for one": {"batch_size": 40, "loader": True, "optimizer": SGD},
    "ridge": {"batch_size": 8, "ridge": True, "optimizer": SGD},
    "clipped": {"batch_size": 10, "optimizer": SGD, "grad_clip": 0.1},
    "Adam": {"batch_size": 8},
    "closed form": {"batch_size": 8, "optimizer": SGD, "elbo": pv.elbos.MeanFieldELBO()},
    "importance-weighted": {"batch_size": 8, "optimizer": SGD, "elbo": pv.elbos.IWAE(num_particles=2)},
    "Pyro's": {"batch_size": 8, "optimizer": SGD, "elbo": "Trace_ELBO"},
    "patience": {"batch_size": 8, "optimizer": SGD, "valid": True, "patience": 2, "epochs": 5},
    "loader": {"loader": True, "batch_size": 8, "optimizer": SGD},
}


def fit(case: str, dtype: torch.dtype, **more: Any) -> dict[str, Any]:
    """Fit one case; returns parameters and history."""
    options = {"epochs": 2, "learning_rate": 0.01, "seed": 0, "compile": False, "progress": False} | CASES[case] | more
    model, rows = Program(dtype, ridge=options.pop("ridge", False)), data(dtype)
    if options.get("valid"):
        options["valid"] = pv.Rows(rows.x[:20], {"noise": rows.fields["noise"][:20]})
    if options.get("elbo") == "Trace_ELBO":
        options["elbo"] = pyro.infer.TraceGraph_ELBO()
    source: Any = rows
    if options.pop("loader", False):
        source = torch.utils.data.DataLoader(
            torch.utils.data.TensorDataset(rows.x, rows.fields["noise"]), batch_size=options["batch_size"], shuffle=True
        )
    history = model.fit(source, fields=("x", "noise"), **options)
    kept = [{name: value for name, value in row.items() if name != "seconds" and value is not None} for row in history]
    return {"parameters": {name: value.detach().clone() for name, value in model.state_dict().items()}, "history": kept}


def likelihood(**options: Any) -> list[Tensor]:
    """log p(x) by a guide that is a little too wide: estimates and their standard errors."""
    found = LinearGaussian(E, D, width=1.2).log_likelihood(data(torch.float64).x, num_particles=500, **options)
    return [found.estimate, found.standard_error]


def spoiled() -> str:
    """The error where a row of one process overflows."""
    rows = data(torch.float32)
    x = rows.x.clone()
    x[17] = 1e30  # its square is infinite
    try:
        Program(torch.float32).fit(
            pv.Rows(x, rows.fields),
            fields=("noise",),
            batch_size=8,
            seed=0,
            epochs=3,
            compile=False,
            progress=False,
        )
    except ValueError as error:
        return str(error)
    return ""


def differing() -> list[str]:
    """The errors where processes get different rows, different epochs, and a run folder in one of them only."""
    rows, own = data(torch.float64), processes.rank()
    errors = []
    for added, options in ((own, {}), (0, {"epochs": 1 + own}), (0, {"run_dir": None if own else "nowhere"})):
        try:
            Program(torch.float64).fit(pv.Rows(rows.x + added, rows.fields), fields=("noise",), **options)
        except ValueError as error:
            errors.append(str(error))
    return errors


def ended(folder: Path) -> list[Any]:
    """How a fit ends where one process gets a signal that its own handler survives."""
    before = signal.signal(signal.SIGTERM, lambda number, frame: None)

    def rate(step: int) -> float:
        if step == 8 and processes.rank() == 0:
            signal.raise_signal(signal.SIGTERM)
        return 0.01

    options = {"epochs": 4, "batch_size": 8, "fields": ("noise",), "compile": False, "progress": False}
    history = Program(torch.float64).fit(data(torch.float64), learning_rate=rate, run_dir=folder / "ended", **options)
    signal.signal(signal.SIGTERM, before)
    return [history.interrupted, len(history)]


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    with processes.launched():
        found: dict[str, Any] = {
            f"{case}, {dtype}": fit(case, dtype) for case in CASES for dtype in (torch.float32, torch.float64)
        }
        found["kept"] = fit("Adam", torch.float64, run_dir=folder / "kept", epochs=2)
        found["resumed"] = fit("Adam", torch.float64, run_dir=folder / "one", resume=True, epochs=4)
        found["log-likelihood"] = likelihood(seed=0)
        found["repeated"] = likelihood(seed=0)
        found["spoiled"] = spoiled()
        found["differing"] = differing()
        found["ended"] = ended(folder)
        found["ours"] = processes.agree_on({"rank": processes.rank()}), processes.gathered(processes.rank())
        own = processes.rank()
        group = weakref.ref(torch.distributed.group.WORLD)
    found["freed"] = group() is None
    torch.save(found, folder / f"{own}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
