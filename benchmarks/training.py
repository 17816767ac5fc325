"""One training step timed side by side: this package, plain Pyro, PyTorch by hand, NumPyro, pythae, and a floor.

    python benchmarks/training.py                          # all cases: some twenty minutes on 2 cores
    python benchmarks/training.py --cases a,b --repeat 3   # some cases, each measured three times
    python benchmarks/training.py --cases b --profile      # where our step spends its time, instead of the comparison

A step is everything: the batch drawn in random order from data in memory, loss, gradient, Adam's update. The contenders
of a case are built and warmed up; then all take the same number of steps in every round, in alternating order. Ratios
are formed within rounds; reported are medians, and the range over rounds.

- ours: the steps of `vae.fit` with `compile=True` and `False`, checks of finiteness included.
- SVI: the same programs in `pyro.infer.SVI` with Pyro's defaults; `Trace_ELBO` or, for IWAE, `RenyiELBO(alpha=0)`.
- by hand: the same nets and Monte Carlo loss in bare PyTorch with fused Adam, as it is and under `torch.compile`.
- NumPyro: the same programs; the steps of a round are one compiled loop, as in NumPyro's own VAE example.
- pythae: its `VAE` with the same nets and its loss, stepped by hand with fused Adam, without its trainer.
- floor: the matrix products forward and backward into memory that is there already, and fused Adam, called from Python
  one by one: for a model so small that the calls themselves count, one compiled function can be faster.

"first step" has building and compiling in it: with torch, a second run takes compiled code from its cache on disk.
"memory" is how far anonymous memory grew by building and warming up; a library is charged to the first that loads it,
and one case uses what the last one freed, so compare by runs of one case. "grown": how far it grew over all rounds.
"""

from __future__ import annotations

import argparse
import importlib
import math
import re
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from itertools import islice
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.infer import SVI, RenyiELBO, Trace_ELBO
from pyro.nn import PyroParam
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

import pyro_vae as pv
from pyro_vae.data.batches import Batches
from pyro_vae.parts import as_scale
from pyro_vae.runtime.isolation import isolated
from pyro_vae.runtime.processor import tuned_processor
from pyro_vae.runtime.random import seeded
from pyro_vae.training import first_batch
from pyro_vae.training.compiled.step import CompiledStep, choose_num_threads
from pyro_vae.training.eager import EagerStep
from pyro_vae.training.state import prepare_state


def optional(module: str) -> Any:
    """A module, or None where it is not installed."""
    try:
        return importlib.import_module(module)
    except ImportError:
        return None


jax, numpyro, pythae = map(optional, ("jax", "numpyro", "pythae.models"))
KERNELS = {
    "matrix products": r"aoti_torch\w+(mm|conv)",
    "random numbers": r"aoti_torch\w+(normal|bernoulli|rand)",
    "fused loops": r"graph_\d+_cpp_fused",
}
ROWS = 61_440  # about as many as MNIST has, and whole batches in every case
Run = Callable[[int], None]  # takes so many steps


# The models and their data


def vae(event: int | tuple[int, ...], encoder: pv.nets.Recipe, decoder: pv.nets.Recipe, latent: int) -> pv.VAE:
    likelihood, prior = pv.likelihoods.Bernoulli(event), pv.priors.Normal(latent)
    return pv.VAE(likelihood=likelihood, prior=prior, encoder=encoder, decoder=decoder)


def dense(columns: int, hidden: tuple[int, ...], latent: int, activation: str = "relu") -> pv.VAE:
    return vae(columns, pv.nets.MLP(hidden, activation), pv.nets.MLP(hidden[::-1], activation), latent)


def normal(parameters: Tensor) -> dist.TorchDistribution:
    loc, raw = parameters.chunk(2, -1)
    return dist.Normal(loc, as_scale(raw)).to_event(1)


class TwoLayers(pv.LatentVariableModel):
    """z2 -> z1 -> x, and x -> z1 -> z2."""

    def __init__(self) -> None:
        super().__init__()
        wide, narrow = pv.nets.MLP((400,)), pv.nets.MLP((100,))
        self.up1, self.up2 = wide.build((784,), (80,)), narrow.build((40,), (20,))
        self.down2, self.down1 = narrow.build((10,), (80,)), wide.build((40,), (784,))

    def model(self, x: Tensor | None = None, *, rows: int | None = None, **batch: Tensor) -> Tensor:
        with pyro.plate("data", len(x) if x is not None else rows):
            z2 = pyro.sample("z2", dist.Normal(torch.zeros(10), 1.0).to_event(1))
            z1 = pyro.sample("z1", normal(self.down2(z2)))
            return pyro.sample("x", dist.Bernoulli(logits=self.down1(z1)).to_event(1), obs=x)

    def guide(self, x: Tensor, **batch: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z1 = pyro.sample("z1", normal(self.up1(x)))
            pyro.sample("z2", normal(self.up2(z1)))


class ItemResponse(pv.LatentVariableModel):
    """A user's own program: answers by two abilities and an inclination to say yes, of a spread to be learned."""

    def __init__(self) -> None:
        super().__init__()
        self.slopes, self.easiness = nn.Parameter(0.1 * torch.randn(2, 10)), nn.Parameter(torch.zeros(10))
        self.spread = PyroParam(torch.tensor(1.0), constraint=dist.constraints.positive)
        self.encoder = pv.nets.MLP((32,)).build((10,), (6,))

    def model(self, x: Tensor | None = None, *, rows: int | None = None, **batch: Tensor) -> Tensor:
        with pyro.plate("data", len(x) if x is not None else rows):
            yes = pyro.sample("yes", dist.Normal(0.0, self.spread))
            ability = pyro.sample("ability", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            logits = self.easiness + yes.unsqueeze(-1) + ability @ self.slopes
            return pyro.sample("x", dist.Bernoulli(logits=logits).to_event(1), obs=x)

    def guide(self, x: Tensor, **batch: Tensor) -> None:
        yes, ability = self.encoder(x).split((2, 4), -1)
        with pyro.plate("data", len(x)):
            pyro.sample("yes", dist.Normal(yes[..., 0], as_scale(yes[..., 1])))
            pyro.sample("ability", normal(ability))


@cache
def binary_rows(event: tuple[int, ...]) -> Tensor:
    """Random binary rows with something to learn: ten factors behind the logits."""
    with seeded(0):
        logits = torch.randn(ROWS, 10) @ torch.randn(10, math.prod(event))
        return torch.bernoulli(logits.sigmoid()).reshape(ROWS, *event)


@dataclass(frozen=True)
class Case:
    """A model, the shape of its rows, how many make a batch, how many steps a round has, and who takes part."""

    name: str
    make: Callable[[], Any]
    event: tuple[int, ...]
    batch: int
    steps: int
    contenders: tuple[str, ...]
    particles: int = 1

    @property
    def data(self) -> Tensor:
        return binary_rows(self.event)

    def model(self) -> Any:
        """A new model, the same every time."""
        with seeded(0):
            model = self.make()
        with torch.no_grad():
            model.initialize(self.data)
        return model.train()

    def order(self) -> Iterator[Tensor]:
        """The numbers of the rows of each batch, without end."""
        while True:
            yield from torch.randperm(ROWS).split(self.batch)


# The contenders: functions from a case to a function that takes so many steps


def eager_step(case: Case) -> EagerStep:
    model = case.model()
    estimator = pv.elbos.ELBO() if case.particles == 1 else pv.elbos.IWAE(num_particles=case.particles)
    batches = Batches(case.data, like=model.like, batch_size=case.batch)
    x = batches.read(batches.first())["x"]
    first_batch.check_gradients(model, estimator, x, num_rows=ROWS)  # as `fit` does; plates are counted here
    return EagerStep(model, estimator, prepare_state(model, None, None).optimizer, batches)


def compiled_step(case: Case) -> CompiledStep:
    eager = eager_step(case)
    return CompiledStep(eager, eager.batches.first(), num_threads=choose_num_threads(eager))


def ours(case: Case, step: EagerStep | CompiledStep) -> Run:
    """What `fit` does between its checks of the first batch and the history it returns."""
    keys = case.order()

    def run(steps: int) -> None:
        step.begin_epoch()
        with isolated(), tuned_processor(step.num_threads):
            for key in islice(keys, steps):
                step(key)
                step.estimator.step += 1

    return run


def plain_pyro(case: Case) -> Run:
    data, keys, model, particles = case.data, case.order(), case.model(), case.particles
    renyi = RenyiELBO(alpha=0, num_particles=max(particles, 2), vectorize_particles=True)
    loss = renyi if particles > 1 else Trace_ELBO()
    svi = SVI(model.model, model.guide, pyro.optim.Adam({"lr": 1e-3}), loss=loss)

    def run(steps: int) -> None:
        for key in islice(keys, steps):
            svi.step(data[key])

    return run


def torch_loop(case: Case, module: nn.Module, loss_function: Callable[[Tensor], Tensor]) -> Run:
    data, keys = case.data, case.order()
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-3, fused=True)

    def run(steps: int) -> None:
        for key in islice(keys, steps):
            loss = loss_function(data[key])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    return run


def by_hand(case: Case, *, compiled: bool) -> Run:
    model, particles = case.model(), case.particles
    encoder, decoder = model.encoder.module, model.decoder.module

    def loss(x: Tensor) -> Tensor:
        loc, raw = encoder(x).chunk(2, -1)
        scale = as_scale(raw)
        noise = torch.randn_like(loc) if particles == 1 else torch.randn(particles, *loc.shape)
        z = loc + scale * noise
        log_ratio = 0.5 * (noise.square() - z.square()) + scale.log()  # log p(z) - log q(z | x)
        logits = decoder(z)
        if particles == 1:
            return (binary_cross_entropy_with_logits(logits, x, reduction="sum") - log_ratio.sum()) / len(x)
        log_p = -binary_cross_entropy_with_logits(logits, x.expand_as(logits), reduction="none").sum(-1)
        return math.log(particles) - (log_p + log_ratio.sum(-1)).logsumexp(0).mean()

    return torch_loop(case, model, torch.compile(loss) if compiled else loss)


def by_pythae(case: Case) -> Run:
    class Net(pythae.nn.BaseEncoder, pythae.nn.BaseDecoder):
        def __init__(self, net: nn.Module, name: Callable[[Tensor], dict[str, Tensor]]) -> None:
            super().__init__()
            self.net, self.name = net, name

        def forward(self, x: Tensor) -> Any:
            return pythae.base.base_utils.ModelOutput(**self.name(self.net(x)))

    def posterior(y: Tensor) -> dict[str, Tensor]:
        return dict(zip(("embedding", "log_covariance"), y.chunk(2, -1), strict=True))

    model = case.model()
    encoder = Net(model.encoder.module, posterior)
    decoder = Net(model.decoder.module, lambda y: {"reconstruction": y.sigmoid()})
    config = pythae.VAEConfig(case.event, model.prior.latent_dim, reconstruction_loss="bce")
    module = pythae.VAE(config, encoder, decoder)
    return torch_loop(case, module, lambda x: module({"data": x}).loss)


def by_numpyro(case: Case) -> Run:
    numpyro.set_platform("cpu")
    jnp, normal, bernoulli = jax.numpy, numpyro.distributions.Normal, numpyro.distributions.Bernoulli
    data, keys, torch_model = jnp.from_dlpack(case.data), case.order(), case.model()
    latent, activation = torch_model.prior.latent_dim, getattr(jax.nn, torch_model.nets["encoder"].activation)
    start = {
        name: [[jnp.asarray(p.detach().numpy().T) for p in layer.parameters()] for layer in linear_layers(net)]
        for name, net in (("encoder", torch_model.encoder), ("decoder", torch_model.decoder))
    }

    def net(name: str, x: Any) -> Any:
        *hidden, (last_weight, last_bias) = numpyro.param(name, start[name])
        for weight, bias in hidden:
            x = activation(x @ weight + bias)
        return x @ last_weight + last_bias

    def model(x: Any) -> None:
        with numpyro.plate("data", len(x)):
            z = numpyro.sample("z", normal(jnp.zeros(latent), 1.0).to_event(1))
            numpyro.sample("x", bernoulli(logits=net("decoder", z)).to_event(1), obs=x)

    def guide(x: Any) -> None:
        loc, raw = jnp.split(net("encoder", x), 2, -1)
        scale = jax.nn.softplus(raw + 0.5413248546129181) + 1e-6
        with numpyro.plate("data", len(x)):
            numpyro.sample("z", normal(loc, scale).to_event(1))

    renyi = numpyro.infer.RenyiELBO(alpha=0, num_particles=case.particles)
    loss = renyi if case.particles > 1 else numpyro.infer.Trace_ELBO()
    svi = numpyro.infer.SVI(model, guide, numpyro.optim.Adam(1e-3), loss)
    state = svi.init(jax.random.key(0), data[: case.batch])

    @jax.jit
    def loop(state: Any, data: Any, keys: Any) -> Any:
        return jax.lax.scan(lambda state, key: svi.update(state, data[key]), state, keys)

    def run(steps: int) -> None:
        nonlocal state
        state, losses = loop(state, data, jnp.asarray(torch.stack(list(islice(keys, steps))).int().numpy()))
        jax.block_until_ready((state, losses))

    return run


def floor(case: Case) -> Run:
    eager = eager_step(case)  # for its parameters, optimizer and number of threads
    for parameter in eager.parameters:
        parameter.grad = torch.zeros_like(parameter)
    products: list[tuple[Tensor, Tensor, Tensor]] = []
    for net, rows in ((eager.model.encoder, case.batch), (eager.model.decoder, case.batch * case.particles)):
        for layer in linear_layers(net):
            weight, first = layer.weight.detach(), not products
            x, g = (torch.randn(rows, size) for size in reversed(weight.shape))
            products += [(x, weight.T, torch.empty_like(g)), (g.T, x, layer.weight.grad)]
            products += [] if first else [(g, weight, torch.empty_like(x))]  # the data need no gradient

    def run(steps: int) -> None:
        with tuned_processor(choose_num_threads(eager)):
            for _ in range(steps):
                for left, right, product in products:
                    torch.mm(left, right, out=product)
                eager.optimizer.step()

    return run


def linear_layers(net: nn.Module) -> list[nn.Linear]:
    return [layer for layer in net.modules() if isinstance(layer, nn.Linear)]


OURS = "ours, compiled"
CONTENDERS: dict[str, Callable[[Case], Run] | None] = {
    OURS: lambda case: ours(case, compiled_step(case)),
    "ours, eager": lambda case: ours(case, eager_step(case)),
    "pyro.infer.SVI": plain_pyro,
    "PyTorch by hand, eager": partial(by_hand, compiled=False),
    "PyTorch by hand, torch.compile": partial(by_hand, compiled=True),
    "NumPyro, compiled loop": by_numpyro if numpyro else None,
    "pythae": by_pythae if pythae else None,
    "floor": floor,
}
ALL = tuple(CONTENDERS)
CONV, TANH = pv.nets.Conv(), partial(dense, 784, (200, 200), 50, "tanh")
CASES = {
    "a": Case("64-64-20, batch 32", partial(dense, 64, (64,), 20), (64,), 32, 800, ALL),
    "b": Case("784-400-20, batch 128", partial(dense, 784, (400,), 20), (784,), 128, 200, ALL),
    "c": Case("784-400-20, batch 512", partial(dense, 784, (400,), 20), (784,), 512, 60, ALL),
    "d": Case("Conv, batch 128", partial(vae, (1, 28, 28), CONV, CONV, 20), (1, 28, 28), 128, 50, ALL[:5]),
    "e": Case("IWAE-50, 784-200-200-50, batch 20", TANH, (784,), 20, 50, (*ALL[:6], "floor"), particles=50),
    "f": Case("two stochastic layers, batch 128", TwoLayers, (784,), 128, 150, ALL[:3]),
    "g": Case("own program, 10 columns, batch 64", ItemResponse, (10,), 64, 500, ALL[:3]),
}


# The measurement


@dataclass
class Timing:
    """What was seen of a contender: seconds, megabytes, and milliseconds per step in each round."""

    first: float
    memory: float
    grown: float = 0.0
    steps: list[float] = field(default_factory=list)


def anonymous_memory() -> float:
    """Megabytes of this process that no file backs; NaN where the system does not tell."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("RssAnon")), math.nan)


def measure(case: Case, steps: int, rounds: int) -> dict[str, Timing | None]:
    """Time the contenders of a case; None for those that are not installed."""
    runs: dict[str, Run] = {}
    timings: dict[str, Any] = dict.fromkeys(case.contenders)
    case.data  # noqa: B018  so that nobody's memory holds it
    torch.compiler.reset()  # else torch gives up compiling after a few measurements
    pyro.clear_param_store()
    for name in filter(CONTENDERS.get, case.contenders):
        memory, start = anonymous_memory(), time.perf_counter()
        runs[name] = CONTENDERS[name](case)
        runs[name](1)
        first = time.perf_counter() - start
        runs[name](steps)
        timings[name] = Timing(first, anonymous_memory() - memory)
    for number in range(rounds):
        for name in list(runs)[:: -1 if number % 2 else 1]:
            memory, start = anonymous_memory(), time.perf_counter()
            runs[name](steps)
            timings[name].steps.append(1e3 * (time.perf_counter() - start) / steps)
            timings[name].grown += anonymous_memory() - memory
    pyro.clear_param_store()
    return timings


def table(*rows: tuple[str, ...]) -> str:
    """A table in Markdown; the first row is its head."""
    return "\n".join(f"| {' | '.join(row)} |" for row in (rows[0], ("---",) * len(rows[0]), *rows[1:]))


def spread(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def compare(case: Case, steps: int, rounds: int, repeat: int) -> None:
    """Print a table for each measurement of a case and, of several, one of their medians."""
    head = ("contender", "ms per step", f"against {OURS}")
    medians: dict[str, list[tuple[float, float]]] = {}
    for _ in range(repeat):
        timings = measure(case, steps, rounds)
        rows = []
        for name, timing in timings.items():
            if timing is None:
                rows.append((name, "not installed", *"----"))
                continue
            ratios = [other / own for other, own in zip(timing.steps, timings[OURS].steps, strict=True)]
            milliseconds = statistics.median(timing.steps)
            medians.setdefault(name, []).append((milliseconds, statistics.median(ratios)))
            memory = ("-" if math.isnan(size) else f"{size:.0f}" for size in (timing.memory, timing.grown))
            rows.append((name, f"{milliseconds:.3f}", spread(ratios), f"{timing.first:.1f}", *memory))
        print(f"\n{case.name}: {rounds} rounds of {steps} steps, {torch.get_num_threads()} threads\n")
        print(table((*head, "first step, s", "memory, MB", "grown, MB"), *rows), flush=True)
    if repeat > 1:
        rows = [
            (name, *(spread(list(values)) for values in zip(*pairs, strict=True))) for name, pairs in medians.items()
        ]
        print(f"\n{case.name}: medians of {repeat} measurements\n\n{table(head, *rows)}", flush=True)


def profile(case: Case, steps: int, rounds: int) -> None:
    """Print where our compiled step spends its time.

    The graph is called alone on one batch, and Python runs with nothing in the graph's place. What the graph spends it
    on is seen by torch's profiler, which the graph is compiled to tell of each kernel and library call.
    """
    with torch._inductor.config.patch({"cpp.enable_kernel_profile": True}):
        step = compiled_step(case)
    run, graph, finite = ours(case, step), step.graph, torch.tensor(True)
    compiled, rows = graph.run, [next(case.order())]

    def graph_alone(steps: int) -> None:
        with tuned_processor(step.num_threads):
            for _ in range(steps):
                graph(rows)

    def python_alone(steps: int) -> None:
        graph.run = lambda *tensors: (finite,)
        run(steps)
        graph.run = compiled

    runs = {"step": run, "Python around the graph": python_alone, "graph": graph_alone}
    times: dict[str, list[float]] = {part: [] for part in (*runs, *KERNELS)}
    for number in range(rounds + 1):
        seen = {}
        for part, take in runs.items():
            start = time.perf_counter()
            take(steps)
            seen[part] = 1e3 * (time.perf_counter() - start) / steps
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as record:
            graph_alone(steps)
        events = record.key_averages()
        for part, name in KERNELS.items():
            seen[part] = sum(e.cpu_time_total for e in events if re.match(name, e.key)) / 1e3 / steps
        for part, value in seen.items() if number else ():  # the first round warms up
            times[part].append(value)
    parts = {part: statistics.median(values) for part, values in times.items()}
    parts["everything else"] = parts["graph"] - sum(parts[part] for part in KERNELS)
    rows = [(part, f"{value:.3f}", f"{100 * value / parts['step']:.0f} %") for part, value in parts.items()]
    print(f"\n{case.name}: {OURS}, {step.num_threads} threads\n")
    print(table(("part", "ms per step", "share"), *rows), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cases = "; ".join(f"{key}: {case.name}" for key, case in CASES.items())
    parser.add_argument("--cases", default=",".join(CASES), help=f"with commas between them. {cases}")
    parser.add_argument("--steps", type=int, help="per round; by default some seconds' worth for the slowest")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--repeat", type=int, default=1, help="how often to measure, everything built anew")
    parser.add_argument("--profile", action="store_true", help="where our compiled step spends its time")
    options = parser.parse_args()
    for case in (CASES[key] for key in options.cases.split(",")):
        if options.profile:
            profile(case, options.steps or case.steps, options.rounds)
        else:
            compare(case, options.steps or case.steps, options.rounds, options.repeat)


if __name__ == "__main__":
    main()
