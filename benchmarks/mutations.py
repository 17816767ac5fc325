"""Files with seeded damage, read in a process of its own: what comes of each.

    python benchmarks/mutations.py models 100 0 FOLDER    # what `run_apart` runs: kind, number of files, seed, folder

There are four kinds of trial:

- "checked": a model file. It must load to the same numbers or be refused.
- "signed": a model file with a changed description and a checksum to match. It may load to another model.
- "data": a data file. It may load to other numbers, which must be finite, well-formed rows.
- "hostile": a file made by hand. It must be refused.
"""

from __future__ import annotations

import json
import os
import random
import re
import resource
import struct
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from hostile import canary, hostile_data, hostile_models, signed

FORM = re.compile(r"(?s).+ (must|are to|is to) .+; got .+\..*")
SECONDS, MEMORY = 5.0, 10**9
UNBOUNDED = re.compile("(?i)can't allocate|unable to allocate|malloc of size|out of memory|std::bad_alloc")


class Trial(NamedTuple):
    """One file: what was done to it, its kind, what came of it, seconds, and what is wrong with that, or nothing."""

    name: str
    kind: str
    outcome: str
    seconds: float
    problem: str


class Found(NamedTuple):
    """All trials, by how many bytes the resident memory rose, and whether code from a file was run."""

    trials: list[Trial]
    peak: int
    code_run: bool


def run_apart(what: str, count: int, seed: int, limit: float = 3600.0) -> Found:
    """Read `count` damaged files of a kind, "models" or "data", and those made by hand, in a process of its own.

    Raises:
        RuntimeError: if that process crashes.
    """
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, __file__, what, str(count), str(seed), folder]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=limit)
        if done.returncode != 0:
            raise RuntimeError(f"the process must not crash; got {done.returncode}: {done.stderr[-2000:]}")
        answer = json.loads(done.stdout.splitlines()[-1])
        return Found([Trial(*trial) for trial in answer["trials"]], answer["peak"], canary(Path(folder)).exists())


# Damage: functions of a file's bytes and a random stream


def flip(data: bytes, draw: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(draw.choice((1, 1, 1, 4))):
        changed[_place(changed, draw)] ^= 1 << draw.randrange(8)
    return bytes(changed)


def _place(data: bytes | bytearray, draw: random.Random) -> int:
    """A random place; half of the time among the first bytes, where headers are."""
    return draw.randrange(min(len(data), 400) if draw.random() < 0.5 else len(data))


def truncate(data: bytes, draw: random.Random) -> bytes:
    return data[: draw.randrange(len(data))]


def overwrite(data: bytes, draw: random.Random) -> bytes:
    start, block = _place(data, draw), draw.choice((b"\0", b"\xff", b"9", draw.randbytes(16))) * draw.randint(1, 16)
    return (data[:start] + block + data[start + len(block) :])[: len(data)]


def insert(data: bytes, draw: random.Random) -> bytes:
    start = _place(data, draw)
    return data[:start] + draw.choice((draw.randbytes(draw.randint(1, 64)), data[:64])) + data[start:]


def header_length(data: bytes, draw: random.Random) -> bytes:
    size = int.from_bytes(data[:8], "little")
    other = draw.choice((0, 1, size - 1, size + 1, size * 2, len(data), 10**8, 2**31, 2**63, 2**64 - 1, size ^ 256))
    return struct.pack("<Q", max(0, other)) + data[8:]


DAMAGE: tuple[Callable[[bytes, random.Random], bytes], ...] = (flip, truncate, overwrite, insert)


# Descriptions

STRANGE: tuple[Any, ...] = (
    *(None, True, -1, 0, 1, 2, 7, 10**3, 10**6, 10**9, 2**63, 10**30, -(10**9), 0.5, 1e308, float("nan"), float("inf")),
    *("", "x", "a" * 1000, "../../etc/passwd", "os.system", [], {}, [[]], [10**9], [10**9, 10**9], [1] * 2000, [-1]),
    *([1.5], ["a"], {"class": "priors.Normal"}, {"yours": "Mine"}, {"class": "nets.MLP", "arguments": {}}),
    *({"class": "nets.MLP", "arguments": {"hidden": [10**9]}}, {"class": "nets.build", "arguments": {}}),
    *({"class": "priors.Flow", "arguments": {"latent_dim": 4, "layers": 10**9}}, {"class": ["a"], "arguments": {}}),
    *({"class": "nets.Conv", "arguments": {"channels": [100000, 100000]}}, {"class": "nets.nn", "arguments": {}}),
    *({"class": "guides.Guide", "arguments": {}}, {"class": "priors.__class__", "arguments": {}}),
)


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths (keys and indices) to all values within nested lists and dictionaries."""
    yield path
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in inside:
        yield from leaves(part, (*path, key))


def edited(config: dict[str, Any], draw: random.Random) -> dict[str, Any]:
    """A description with one or two values changed, dropped or renamed."""
    config = json.loads(json.dumps(config))
    for _ in range(draw.choice((1, 1, 2))):
        *way, last = draw.choice([path for path in leaves(config) if path])
        owner: Any = config
        for key in way:
            owner = owner[key]
        action = draw.random()
        if action < 0.1 and isinstance(owner, dict):
            owner[draw.choice(("x", "hidden", "layers", "__class__"))] = owner.pop(last)
        elif action < 0.2:
            del owner[last]
        elif action < 0.4 and isinstance(owner[last], int):
            owner[last] = owner[last] * draw.choice((2, 3, 1000, 10**6)) + draw.choice((0, 1))
        else:
            owner[last] = draw.choice(STRANGE)
    return config


# Files to damage


def models(folder: Path) -> dict[str, Path]:
    """Saved models of different parts."""
    import pyro_vae as pv

    small, image = pv.nets.MLP((8,)), pv.nets.Conv(channels=(2, 3), hidden=(4,))
    table: dict[str, dict[str, Any]] = {
        "plain": {"likelihood": pv.likelihoods.Bernoulli(6), "prior": pv.priors.Normal(2)},
        "flow": {
            "likelihood": pv.likelihoods.Normal(5, scale="per_dimension"),
            "prior": pv.priors.Flow(3, kind="spline_autoregressive", hidden=(8,)),
            "guide": pv.guides.Flow(hidden=(8,)),
        },
        "mixture": {
            "likelihood": pv.likelihoods.Product({"a": pv.likelihoods.Normal(2), "b": pv.likelihoods.Poisson(3)}),
            "prior": pv.priors.Mixture(2, num_components=3),
            "guide": pv.guides.MultivariateNormal(),
        },
        "images": {"likelihood": pv.likelihoods.DiscretizedLogistic((1, 8, 8)), "prior": pv.priors.Normal(2)},
    }
    for name, parts in table.items():
        net = image if name == "images" else small
        pv.VAE(**parts, encoder=net, decoder=net, seed=0).save(folder / name)
    pv.HierarchicalVAE(
        likelihood=pv.likelihoods.Bernoulli(6),
        prior=pv.priors.Normal(2),
        latent_dims=(3, 2),
    ).save(folder / "layers")
    return {name: folder / name / "model.safetensors" for name in [*table, "layers"]}


def data_files(folder: Path) -> dict[str, Path]:
    """Small files of numbers and folders of images, by suffix."""
    import numpy as np
    import pandas
    from PIL import Image

    folder.mkdir()
    x = np.random.RandomState(0).randn(40, 3).astype(np.float32)
    files = {suffix: folder / f"x{suffix}" for suffix in (".npy", ".npz", ".csv", ".parquet")}
    np.save(files[".npy"], x)
    np.savez_compressed(files[".npz"], x=x, label=np.arange(40))
    frame = pandas.DataFrame(x, columns=["a", "b", "c"])
    frame.to_csv(files[".csv"], index=False)
    frame.to_parquet(files[".parquet"], row_group_size=16)
    for suffix in (".png", ".jpg"):
        files[suffix] = folder / suffix[1:]
        files[suffix].mkdir()
        for i in range(12):
            pixels = np.random.RandomState(i).randint(0, 256, (9, 9), dtype=np.uint8)
            Image.fromarray(pixels).save(files[suffix] / f"{i:02d}{suffix}")
    return files


# Trials


def attempt(name: str, kind: str, read: Callable[[], str]) -> Trial:
    """Read one file; `read` returns "the same", "other numbers" or what is wrong with the file."""
    start, problem = time.perf_counter(), ""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            outcome = read()
    except Exception as error:
        outcome = type(error).__name__
        problem = _wrong_with(error)
    else:
        allowed = {"checked": ("the same",), "signed": ("the same", "other numbers"), "hostile": ()}
        if outcome not in allowed.get(kind, ("the same", "other numbers")):
            problem = f"loads: {outcome}"
    seconds = time.perf_counter() - start
    if seconds > SECONDS:
        problem = problem or f"takes {seconds:.1f} s"
    return Trial(name, kind, outcome, seconds, problem)


def _wrong_with(error: Exception) -> str:
    """What is wrong with an error: it is not one of ours, or it came from an allocation that failed."""
    if not isinstance(error, ValueError | TypeError | OSError) or not FORM.match(str(error)):
        return f"{type(error).__name__}: {str(error)[:300]}"
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, MemoryError) or UNBOUNDED.search(str(cause)):
            return f"memory ran out: {type(cause).__name__}: {str(cause)[:300]}"
        cause = cause.__cause__ or cause.__context__
    return ""


def try_models(folder: Path, count: int, draw: random.Random) -> Iterator[Trial]:
    """Try model files made by hand, then `count` damaged ones."""
    import torch

    import pyro_vae as pv
    from pyro_vae.saving import files

    saved = models(folder)
    wholes = {name: (path.read_bytes(), *files.load_tensors(path)) for name, path in saved.items()}
    path = folder / "trial.safetensors"

    def read(name: str) -> str:
        state = pv.load(path).state_dict()
        expected = wholes[name][1]
        same = state.keys() == expected.keys() and all(torch.equal(state[key], expected[key]) for key in state)
        return "the same" if same else "other numbers"

    for name in saved:  # loads what is loaded once
        path.write_bytes(wholes[name][0])
        yield attempt(name, "checked", lambda name=name: read(name))  # type: ignore[misc]
    for title, data in hostile_models(folder, saved["plain"]):
        path.write_bytes(data)
        yield attempt(title, "hostile", lambda: read("plain"))
    for i in range(count):
        name = draw.choice(list(saved))
        data, tensors, config = wholes[name]
        way = draw.choice((*DAMAGE, *DAMAGE, header_length, "edit", "signed", "signed", "signed", "swap"))
        if way in ("edit", "signed"):
            text = json.dumps(edited(config, draw))
            sound = files._checksum(json.dumps(config), tensors)
            from safetensors.torch import save

            path.write_bytes(
                signed(text, tensors)
                if way == "signed"
                else save(tensors, metadata={"pyro_vae": text, "sha256": sound})
            )
        elif way == "swap":
            first, second = draw.sample(sorted(tensors), 2)
            swapped = tensors | {first: tensors[second], second: tensors[first]}
            path.write_bytes(signed(json.dumps(config), swapped))
        else:
            path.write_bytes(way(data, draw))  # type: ignore[operator]
        title = f"{i} {name} {way if isinstance(way, str) else way.__name__}"
        kind = "signed" if way in ("signed", "swap") else "checked"
        yield attempt(title, kind, lambda name=name: read(name))  # type: ignore[misc]


def try_data(folder: Path, count: int, draw: random.Random) -> Iterator[Trial]:
    """Try data files made by hand, then `count` damaged ones."""
    import torch

    from pyro_vae import datasets

    files = data_files(folder / "data")
    whole = {suffix: datasets.load(path).train.x for suffix, path in files.items()}

    def read(suffix: str, path: Path) -> str:
        rows = datasets.load(path).train
        x = rows.x
        if len(x) != len(rows) or torch.isinf(x).any() or x.shape[1:] != rows.event_shape:
            return "rows that are not well-formed"
        if suffix == ".parquet":
            list(datasets.parquet(path))
        same = x.shape == whole[suffix].shape and torch.equal(x, whole[suffix])
        return "the same" if same else "other numbers"

    def damaged(suffix: str, path: Path, change: Callable[[bytes], bytes], title: str, kind: str) -> Trial:
        victim = path / f"03{suffix}" if path.is_dir() else path
        before = victim.read_bytes()
        victim.write_bytes(change(before))
        try:
            return attempt(f"{title} {suffix}", kind, lambda: read(suffix, path))
        finally:
            victim.write_bytes(before)

    for title, suffix, data in hostile_data(folder):
        yield damaged(suffix, files[suffix], lambda _, data=data: data, title, "hostile")  # type: ignore[misc]
    for i in range(count):
        suffix, way = draw.choice(list(files)), draw.choice(DAMAGE)
        yield damaged(suffix, files[suffix], lambda data, way=way: way(data, draw), f"{i} {way.__name__}", "data")  # type: ignore[misc]


def status(name: str) -> int:
    """A line of /proc/self/status, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith(f"{name}:"))) * 1024


def main(what: str, count: str, seed: str, place: str) -> None:
    import torch

    torch.set_num_threads(1)
    folder, trials, before = Path(place), [], 0
    for trial in (try_models if what == "models" else try_data)(folder, int(count), random.Random(int(seed))):
        if not before:  # the first trial has loaded what is loaded once
            before, room = status("VmHWM"), status("VmSize") + 4 * MEMORY
            resource.setrlimit(resource.RLIMIT_AS, (room, room))
        trials.append(trial)
    print(json.dumps({"trials": trials, "peak": status("VmHWM") - before}))


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main(*sys.argv[1:])
