"""Time of one training step: this package beside plain Pyro, PyTorch by hand, NumPyro, pythae, and a lower limit.

    python benchmarks/training.py                          # all cases: some twenty minutes on 2 cores
    python benchmarks/training.py --cases a,b --repeat 3   # some cases, each measured three times
    python benchmarks/training.py --cases b --profile      # where our step spends its time, instead of the comparison

A step is everything from the data in memory to the new parameters: the batch, drawn in random order, loss, gradient,
and Adam's update. All contenders of a case are built and warmed up; then each takes the same number of steps in every
round, in alternating order. Ratios are formed within rounds; reported are the median and the range over rounds.

- ours: the steps of `vae.fit` with `compile=True` and `False`, checks for finite numbers included; where the processor
  has instructions for bfloat16, with `precision="bf16-mixed"` too.
- pyro.infer.SVI: the same programs with Pyro's defaults; the loss is `Trace_ELBO` or, for IWAE, `RenyiELBO(alpha=0)`.
- PyTorch by hand: the same nets and Monte Carlo loss with fused Adam, uncompiled and under `torch.compile`.
- NumPyro: the same programs; the steps of a round are one compiled loop, as in NumPyro's own VAE example.
- pythae: its `VAE` with the same nets and its loss, stepped by hand with fused Adam, without its trainer.
- floor: only the matrix products of the forward and backward pass, by the library that our compiled steps call (on
  processors that Intel has not made, oneDNN), and fused Adam. They are called one by one from Python, so that for a
  very small model, where these calls count, a compiled step can be faster.

"first step" includes building and compiling; in a second run, torch takes compiled code from its cache on disk.
"memory" is the rise of anonymous memory while a contender is built and warmed up. The memory of a library counts for
the first contender that loads it, and a case can reuse what the case before it has freed: to compare memory, run one
case. "growth" is the rise of memory over all rounds.
"""

from __future__ import annotations

import argparse
import math
import re
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pyro
import torch
from contenders import CASES, CONTENDERS, OURS, Case, Run, compiled_step, ours
from measuring import anonymous_memory

from pyro_vae.runtime.processor import tuned_processor

KERNELS = {
    "matrix products": r"aoti_torch\w+(mm|conv|linear)",
    "random numbers": r"aoti_torch\w+(normal|bernoulli|rand)",
    "fused loops": r"graph_\d+_cpp_fused",
}


@dataclass
class Timing:
    """The measurements of one contender: seconds of the first step, megabytes, milliseconds per step in each round."""

    first: float
    memory: float
    growth: float = 0.0
    steps: list[float] = field(default_factory=list)


def measure(case: Case, steps: int, rounds: int) -> dict[str, Timing | None]:
    """Time the contenders of a case; None for those that are not installed."""
    runs: dict[str, Run] = {}
    timings: dict[str, Any] = dict.fromkeys(case.contenders)
    case.data  # noqa: B018  so that the data count for no contender's memory
    torch.compiler.reset()  # else torch gives up compiling after a few measurements
    pyro.clear_param_store()
    for name in filter(CONTENDERS.get, case.contenders):
        memory, start = anonymous_memory(), time.perf_counter()
        runs[name] = CONTENDERS[name](case)
        runs[name](1)
        first = time.perf_counter() - start
        runs[name](steps)
        timings[name] = Timing(first, (anonymous_memory() - memory) / 1e6)
    for number in range(rounds):
        for name in list(runs)[:: -1 if number % 2 else 1]:
            memory, start = anonymous_memory(), time.perf_counter()
            runs[name](steps)
            timings[name].steps.append(1e3 * (time.perf_counter() - start) / steps)
            timings[name].growth += (anonymous_memory() - memory) / 1e6
    pyro.clear_param_store()
    return timings


def table(*lines: tuple[str, ...]) -> str:
    """A table in Markdown; the first line is its head."""
    return "\n".join(f"| {' | '.join(line)} |" for line in (lines[0], ("---",) * len(lines[0]), *lines[1:]))


def median_and_range(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def compare(case: Case, steps: int, rounds: int, repeat: int) -> None:
    """Print a table for each measurement of a case and, if there are several, a table of their medians."""
    head = ("contender", "ms per step", f"relative to {OURS}")
    medians: dict[str, list[tuple[float, float]]] = {}
    for _ in range(repeat):
        timings = measure(case, steps, rounds)
        lines = []
        for name, timing in timings.items():
            if timing is None:
                lines.append((name, "not installed", *"----"))
                continue
            ratios = [other / own for other, own in zip(timing.steps, timings[OURS].steps, strict=True)]
            milliseconds = statistics.median(timing.steps)
            medians.setdefault(name, []).append((milliseconds, statistics.median(ratios)))
            memory = ("-" if math.isnan(size) else f"{size:.0f}" for size in (timing.memory, timing.growth))
            lines.append((name, f"{milliseconds:.3f}", median_and_range(ratios), f"{timing.first:.1f}", *memory))
        print(f"\n{case.name}: {rounds} rounds of {steps} steps, {torch.get_num_threads()} threads\n")
        print(table((*head, "first step, s", "memory, MB", "growth, MB"), *lines), flush=True)
    if repeat > 1:
        lines = [
            (name, *(median_and_range(list(values)) for values in zip(*pairs, strict=True)))
            for name, pairs in medians.items()
        ]
        print(f"\n{case.name}: medians of {repeat} measurements\n\n{table(head, *lines)}", flush=True)


def profile(case: Case, steps: int, rounds: int) -> None:
    """Print where our compiled step spends its time.

    The graph is timed alone on one batch, and the Python code around it with a function in the graph's place that does
    nothing. The graph is compiled in such a way that torch's profiler sees its kernels and library calls by name.
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
    lines = [(part, f"{value:.3f}", f"{100 * value / parts['step']:.0f} %") for part, value in parts.items()]
    print(f"\n{case.name}: {OURS}, {step.num_threads} threads\n")
    print(table(("part", "ms per step", "share"), *lines), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cases = "; ".join(f"{key}: {case.name}" for key, case in CASES.items())
    parser.add_argument("--cases", default=",".join(CASES), help=f"letters, separated by commas. {cases}")
    parser.add_argument(
        "--steps",
        type=int,
        help="number of steps per round; by default those of some seconds for the slowest contender",
    )
    parser.add_argument("--rounds", type=int, default=7, help="number of rounds")
    parser.add_argument("--repeat", type=int, default=1, help="number of measurements, each with everything built anew")
    parser.add_argument("--profile", action="store_true", help="show where our compiled step spends its time")
    options = parser.parse_args()
    for case in (CASES[key] for key in options.cases.split(",")):
        if options.profile:
            profile(case, options.steps or case.steps, options.rounds)
        else:
            compare(case, options.steps or case.steps, options.rounds, options.repeat)


if __name__ == "__main__":
    main()
