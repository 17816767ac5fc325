"""Files made by hand that must be refused: pickles in disguise, decompression bombs, absurd sizes, paths as names."""

from __future__ import annotations

import io
import json
import pickle
import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def canary(folder: Path) -> Path:
    """The file that exists if code from another file was run."""
    return folder / "canary"


class Canary:
    """An object whose unpickling makes a file."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def __reduce__(self) -> Any:
        return open, (str(canary(Path(self.folder))), "w")


def hostile_models(folder: Path, good: Path) -> Iterator[tuple[str, bytes]]:
    """Name and bytes of model files made by hand."""
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
    """A model file of this description with the right checksum."""
    from safetensors.torch import save

    from pyro_vae.saving import files

    return save(tensors, metadata={"pyro_vae": text, "sha256": files._checksum(text, tensors)})


def hostile_data(folder: Path) -> Iterator[tuple[str, str, bytes]]:
    """Name, suffix and bytes of data files made by hand."""
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
    """A black image, which is some thousand times smaller as a file than in memory."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    packer = zlib.compressobj(9)
    rows = b"".join(packer.compress(bytes(width + 1)) for _ in range(height)) + packer.flush()
    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
