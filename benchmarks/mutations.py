"""Read randomly damaged files, and hostile files, in a new process, and record the outcome, time and memory of each.

    python benchmarks/mutations.py models 100 0 FOLDER                # what `run_apart` runs

There are four kinds of trial:

- "checked": a damaged model file, which must load to the same numbers or be refused.
- "signed": a model file whose description was changed and whose checksum was corrected; it may load to another model.
- "data": a damaged data file; it may load to other numbers, but these must be finite rows of the right shape.
- "hostile": a file that was made to do harm, which must be refused.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import random
import re
import resource
import struct
import subprocess
import sys
import time
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

FORM = re.compile(r"(?s).+ (must|are to|is to) .+; got .+\..*")
SECONDS, MEMORY = 5.0, 10**9
OUT_OF_MEMORY = re.compile("(?i)can't allocate|unable to allocate|malloc of size|out of memory|std::bad_alloc")


class Trial(NamedTuple):
    """One file: what was done to it, the outcome of reading it, the seconds that took, and the problem, if any."""

    name: str
    kind: str
    outcome: str
    seconds: float
    problem: str


class Found(NamedTuple):
    """All trials, by how many bytes resident memory rose at most, and whether code from a file was run."""

    trials: list[Trial]
    peak: int
    code_run: bool


def run_apart(what: str, count: int, seed: int, limit: float = 3600.0) -> Found:
    """Read hostile files, then damaged ones, in a new process.

    Args:
        what: "models" or "data".
        count: the number of damaged files.
        seed: seed of the damage.
        limit: seconds after which the process is stopped.

    Raises:
        RuntimeError: if the process crashes.
    """
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, __file__, what, str(count), str(seed), folder]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=limit)
        if done.returncode != 0:
            raise RuntimeError(f"the process must not crash; got exit status {done.returncode}: {done.stderr[-2000:]}")
        answer = json.loads(done.stdout.splitlines()[-1])
        return Found([Trial(*trial) for trial in answer["trials"]], answer["peak"], canary(Path(folder)).exists())


def canary(folder: Path) -> Path:
    """The file that is made if code from a file is run."""
    return folder / "canary"


class Canary:
    """An object that makes a file when it is unpickled."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def __reduce__(self) -> Any:
        return open, (str(canary(Path(self.folder))), "w")


# Damage: functions from bytes and a random number generator to bytes


def flip(data: bytes, draw: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(draw.choice((1, 1, 1, 4))):
        changed[_place(changed, draw)] ^= 1 << draw.randrange(8)
    return bytes(changed)


def _place(data: bytes | bytearray, draw: random.Random) -> int:
    """A random position; with probability one half among the first bytes, where headers are."""
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
    """The paths, as tuples of keys, to all values within nested dictionaries and lists."""
    yield path
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in inside:
        yield from leaves(part, (*path, key))


def edited(config: dict[str, Any], draw: random.Random) -> dict[str, Any]:
    """A description in which one or two values were changed, deleted or renamed."""
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


# Files to damage, and hostile files


def models(folder: Path) -> dict[str, Path]:
    """Save models of different parts, and return their files by name."""
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


def hostile_models(folder: Path, good: Path) -> Iterator[tuple[str, bytes]]:
    """Names and bytes of model files that must be refused."""
    import torch
    from safetensors.torch import save

    from pyro_vae.saving import files

    data = good.read_bytes()
    tensors, config = files.load_tensors(good)
    pickled = pickle.dumps(Canary(str(folder)))
    zipped, archive = io.BytesIO(), io.BytesIO()
    torch.save({"weight": Canary(str(folder))}, zipped)
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("data.pkl", pickled)
    text = json.dumps(config)
    yield from (("empty", b""), ("pickle", pickled), ("torch.save", zipped.getvalue()), ("zip", archive.getvalue()))
    yield "header too long", struct.pack("<Q", 2**40) + data[8:]
    yield "header of spaces", struct.pack("<Q", 10**6) + b" " * 10**6
    yield "header nested deeply", struct.pack("<Q", 2 * 10**5) + b"[" * 10**5 + b"]" * 10**5
    yield "no checksum", save(tensors, metadata={"pyro_vae": text})
    yield "checksum of another", save(tensors, metadata={"pyro_vae": text, "sha256": "0" * 64})
    for version in (0, -1, 3, 10**9, "2", None, 1.0, True):
        other = json.dumps(config | {"format": version})
        if version is True:
            other = "[2]"
        yield f"format {version}", signed(other, tensors)
    for path in ("../../escape", "/etc/passwd", "a/../../b", "\0", "x" * 10000):
        yield f"tensor {path[:20]!r}", signed(text, tensors | {path: torch.zeros(1)})
    yield "text nested deeply", signed('{"format": 2, "model": ' + "[" * 10**5 + "]" * 10**5 + "}", tensors)
    yield "text of many values", signed('{"format": 2, "model": [' + "[]," * (5 * 10**6) + "1]}", tensors)
    yield "many tensors", save({str(i): torch.zeros(0) for i in range(100_001)}, metadata={"pyro_vae": text})
    yield "a number of many digits", signed('{"format": 2, "model": ' + "9" * 10**5 + "}", tensors)
    for role, value in (
        ("encoder", {"class": "nets.MLP", "arguments": {"hidden": [10**9]}}),
        ("encoder", {"class": "nets.MLP", "arguments": {"hidden": [1] * 10**5}}),
        ("encoder", {"class": "nets.MLP", "arguments": {"hidden": [30000, 30000, 30000]}}),
        ("encoder", {"class": "nets.ResNet", "arguments": {"blocks": 10**9}}),
        ("prior", {"class": "priors.Normal", "arguments": {"latent_dim": 10**9}}),
        ("prior", {"class": "priors.Normal", "arguments": {"latent_dim": 10**30}}),
        ("prior", {"class": "priors.Flow", "arguments": {"latent_dim": 2, "layers": 10**9}}),
        ("prior", {"class": "priors.Mixture", "arguments": {"latent_dim": 2, "num_components": 10**9}}),
        ("guide", {"class": "guides.Flow", "arguments": {"latent_dim": 2, "layers": 10**9}}),
        ("likelihood", {"class": "likelihoods.Bernoulli", "arguments": {"event_shape": [10**6, 10**6]}}),
        ("likelihood", {"class": "likelihoods.MultivariateNormal", "arguments": {"event_shape": 10**5}}),
        ("likelihood", {"class": "likelihoods.Categorical", "arguments": {"event_shape": 6, "num_categories": 10**9}}),
    ):
        made_up = config | {"arguments": config["arguments"] | {role: value}}
        yield f"{role} {json.dumps(value)[:100]}", signed(json.dumps(made_up), tensors)


def signed(text: str, tensors: dict[str, Any]) -> bytes:
    """A model file with this description and a correct checksum."""
    from safetensors.torch import save

    from pyro_vae.saving import files

    return save(tensors, metadata={"pyro_vae": text, "sha256": files._checksum(text, tensors)})


def data_files(folder: Path) -> dict[str, Path]:
    """Write small files of numbers and folders of images, and return them by suffix."""
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


def hostile_data(folder: Path) -> Iterator[tuple[str, str, bytes]]:
    """Names, suffixes and bytes of data files that must be refused."""
    import numpy as np

    pickled = pickle.dumps(Canary(str(folder)))

    def npy(shape: Any, body: bytes = b"\0" * 480, descr: Any = "<f4") -> bytes:
        file = io.BytesIO()
        np.lib.format.write_array_header_1_0(file, {"descr": descr, "fortran_order": False, "shape": shape})
        return file.getvalue() + body

    def zipped(body: bytes, times: int = 1) -> bytes:
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("x.npy", "w") as member:
            for _ in range(times):
                member.write(body)
        return file.getvalue()

    for suffix in (".npy", ".npz", ".csv", ".parquet"):
        yield "pickle", suffix, pickled
        yield "empty", suffix, b""
    yield "objects", ".npy", npy((1,), pickled, "|O")
    yield "objects", ".npz", zipped(npy((1,), pickled, "|O"))
    for shape in ((10**12, 3), (2**62, 4), (-40, -3), (41, 3), (39, 3), (40, 3, 10**9), (0,), (0, 10**12)):
        yield f"shape {shape}", ".npy", npy(shape)
        yield f"shape {shape}", ".npz", zipped(npy(shape))
    yield "a bomb", ".npz", zipped(bytes(10**7), 150)
    yield "no array", ".npz", zipped(b"text")
    yield "not a zip", ".npz", npy((40, 3))
    yield "infinite", ".csv", b"a,b\n" + b"1e999,2\n" * 20
    yield "header alone", ".csv", b"a,b\n"
    yield "very wide", ".csv", b",".join(str(i).encode() for i in range(20000)) + b"\n1\n"
    yield "text", ".csv", b"a,b\n" + b"__import__('os'),2\n" * 20
    yield "a bomb", ".png", _png(30000, 30000)
    yield "a large image", ".png", _png(9400, 9400)
    yield "a script", ".png", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(x) run\n"


def _png(width: int, height: int) -> bytes:
    """An image whose pixels are all zero; the file is some thousand times smaller than the pixels."""
    import zlib

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    packer = zlib.compressobj(9)
    rows = b"".join(packer.compress(bytes(width + 1)) for _ in range(height)) + packer.flush()
    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


# Trials


def attempt(name: str, kind: str, read: Callable[[], str]) -> Trial:
    """Read one file.

    Args:
        name: what was done to the file.
        kind: the kind of trial.
        read: reads it; returns "the same" or "other numbers", compared with the undamaged file, or a problem.
    """
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
    """The problem with an error, if any: it has not our form, or the process ran out of memory before it."""
    if not isinstance(error, ValueError | TypeError | OSError) or not FORM.match(str(error)):
        return f"{type(error).__name__}: {str(error)[:300]}"
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, MemoryError) or OUT_OF_MEMORY.search(str(cause)):
            return f"memory ran out: {type(cause).__name__}: {str(cause)[:300]}"
        cause = cause.__cause__ or cause.__context__
    return ""


def try_models(folder: Path, count: int, draw: random.Random) -> Iterator[Trial]:
    """Read undamaged model files, hostile ones, then `count` damaged ones."""
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

    for name in saved:  # undamaged, first: this loads libraries
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
    """Read hostile data files, then `count` damaged ones."""
    import torch

    from pyro_vae import datasets

    files = data_files(folder / "data")
    whole = {suffix: datasets.load(path).train.x for suffix, path in files.items()}

    def read(suffix: str, path: Path) -> str:
        rows = datasets.load(path).train
        x = rows.x
        if len(x) != len(rows) or not torch.isfinite(x).all() or x.shape[1:] != rows.event_shape:
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
    """A figure of this process's memory, in bytes, from the line of this name in /proc/self/status."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith(f"{name}:"))) * 1024


def main(what: str, count: str, seed: str, place: str) -> None:
    import torch

    torch.set_num_threads(1)
    folder, trials, before = Path(place), [], 0
    for trial in (try_models if what == "models" else try_data)(folder, int(count), random.Random(int(seed))):
        if not before:  # after the first trial, which loads libraries
            before, room = status("VmHWM"), status("VmSize") + 4 * MEMORY
            resource.setrlimit(resource.RLIMIT_AS, (room, room))
        trials.append(trial)
    print(json.dumps({"trials": trials, "peak": status("VmHWM") - before}))


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main(*sys.argv[1:])
