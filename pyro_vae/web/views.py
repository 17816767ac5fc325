"""Rows of data as a page shows them: pictures as data URIs, or the cells of a table."""

from __future__ import annotations

import base64
import math
import struct
import zlib
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_vae.data.rows import Rows
from pyro_vae.distributions import Blocks, unwrap
from pyro_vae.distributions.moments import known_mean
from pyro_vae.models import VAE
from pyro_vae.plots import INK, TRAIN
from pyro_vae.runtime.random import seeded
from pyro_vae.tables import TableSchema

__all__ = ["Cells", "Pictures", "View", "mean_of", "png", "text_of", "view_of"]

RowView = str | list[list[Any]]  # a picture as a data URI; or for each column [text, share of its bar or None]

STEMS = 64  # longest vector that is drawn as bars; longer ones are lines
DRAWS = 200  # for a mean that has no closed form
WIDTH, HEIGHT = 240, 120  # of the picture of a vector


class Pictures:
    """Rows as pictures: grey and colour images as PNG, dark where x is large; other rows as bars or as a line in SVG.

    Args:
        vae: the model.
        rows: rows whose range of values is that of the grey scale or of the axis.
    """

    kind = "picture"
    columns: tuple[str, ...] = ()

    def __init__(self, vae: VAE, rows: Rows) -> None:
        shape = vae.likelihood.event_shape
        self.is_image = len(shape) == 2 or (len(shape) == 3 and shape[0] in (1, 3))
        x = rows.subset(slice(0, 1000)).take(slice(None), like=vae.like)["x"].double()
        known: Any = x.cpu().numpy()
        total = getattr(vae.likelihood, "total_count", None)
        axis = None if self.is_image or vae.likelihood.discrete else 0
        low, high = (
            np.where(np.isfinite(known), known, np.inf).min(axis, initial=0.0 if vae.likelihood.discrete else np.inf),
            np.where(np.isfinite(known), known, -np.inf).max(axis, initial=-np.inf),
        )
        self.low: Any
        self.high: Any
        self.low, self.high = (np.zeros(()), np.asarray(float(total))) if isinstance(total, int) else (low, high)

    def show(self, x: Tensor) -> list[RowView]:
        """Rows of data or of means, (N, *E), each as a data URI."""
        values = x.detach().double().cpu().numpy()
        span = np.where(self.high > self.low, self.high - self.low, 1.0)
        with np.errstate(invalid="ignore", over="ignore"):
            scaled = ((values - self.low) / span).clip(0, 1)
        if self.is_image:
            return [_image(row) for row in scaled]
        zero = np.broadcast_to((-self.low / span).clip(0, 1), values.shape[1:]).reshape(-1)
        return [_bars(row.reshape(-1), zero) for row in scaled]

    def show_means(self, distribution: Any) -> list[RowView]:
        """E[x | z] of each of N rows, for p(x | z) with batch shape (N,)."""
        return self.show(mean_of(distribution))


class Cells:
    """Rows of a table as cells: of each column a text, and the length of a bar from 0 to 1.

    The bar of a number is its place between the smallest and the largest cell of the rows given; that of a level is
    its probability.

    Args:
        schema: the columns.
        rows: rows whose range of values is that of the bars.
    """

    kind = "cells"

    def __init__(self, schema: TableSchema, rows: Rows) -> None:
        self.schema, self.columns = schema, tuple(schema.names)
        x = rows.take(slice(None))["x"].double()
        known = x.isfinite()
        self.low = x.masked_fill(~known, math.inf).amin(0)
        self.high = x.masked_fill(~known, -math.inf).amax(0)

    def show(self, x: Tensor) -> list[RowView]:
        """Rows of data, (N, D), NaN where a cell is missing."""
        values = x.detach().double().cpu()
        decoded = self.schema.decode(values)
        columns = [
            [
                ["missing", None]
                if value.isnan()
                else [text_of(cell), self._share(place, float(value)) if self.schema.holds_numbers(name) else None]
                for cell, value in zip(decoded[name], values[:, place], strict=True)
            ]
            for place, name in enumerate(self.columns)
        ]
        return [list(row) for row in zip(*columns, strict=True)]

    def show_means(self, distribution: Any) -> list[RowView]:
        """E[x | z] of each of N rows: means of numbers, and of levels the most probable one with its probability."""
        blocks = distribution.blocks if isinstance(distribution, Blocks) else [distribution]
        columns: list[list[list[Any]]] = []
        for block in blocks:
            base = unwrap(block)
            if isinstance(base, torch.distributions.Categorical):
                found = base.probs.detach().double().cpu()  # (N, columns, C)
                columns += [self._levels(len(columns) + i, found[:, i]) for i in range(found.shape[1])]
                continue
            means = mean_of(block).double().cpu()
            for i in range(means.shape[1]):
                place, mean = len(columns), means[:, i]
                if self.schema.holds_numbers(self.columns[place]):
                    columns.append(self._numbers(place, mean))
                else:  # of 0 and 1
                    columns.append(self._levels(place, torch.stack([1 - mean, mean], 1)))
        return [list(row) for row in zip(*columns, strict=True)]

    def _numbers(self, place: int, means: Tensor) -> list[list[Any]]:
        name = self.columns[place]
        finite = torch.where(means.isfinite(), means, math.nan)
        # whole numbers have means that are not whole: only times are decoded
        cells: Any = (
            self.schema.kinds[name].decode(finite.numpy()) if self.schema.kinds[name].name == "time" else finite
        )
        return [
            [text_of(cell), self._share(place, float(mean))] if math.isfinite(mean) else ["not finite", None]
            for cell, mean in zip(cells, means, strict=True)
        ]

    def _levels(self, place: int, probabilities: Tensor) -> list[list[Any]]:
        """The most probable level of each row, from probabilities (N, C)."""
        names: Any = getattr(self.schema.kinds[self.columns[place]], "levels", ())
        found = []
        for row in probabilities:
            best = int(row.argmax())
            level = text_of(names[best]) if best < len(names) else f"level {best}"
            found.append([f"{level} ({float(row[best]):.0%})", round(float(row[best]), 3)])
        return found

    def _share(self, place: int, value: float) -> float:
        low, high = float(self.low[place]), float(self.high[place])
        return round(min(1.0, max(0.0, (value - low) / (high - low))), 3) if high > low else 0.5


View = Pictures | Cells


def view_of(vae: VAE, rows: Rows) -> View:
    """How rows of a model's data are shown; `rows` give the range of values."""
    return Pictures(vae, rows) if vae.table_schema is None else Cells(vae.table_schema, rows)


def mean_of(distribution: Any) -> Tensor:
    """The mean, (N, *E); where it has no closed form, the average over 200 draws under a fixed seed."""
    mean = known_mean(distribution)
    if mean is not None:
        return mean
    with seeded(0):
        return distribution.sample((DRAWS,)).double().mean(0)  # type: ignore[no-any-return]


def png(pixels: np.ndarray) -> bytes:
    """An image as a PNG file.

    Args:
        pixels: values 0 to 255, (H, W), or (H, W, 3) for colours.
    """
    height, width = pixels.shape[:2]
    lines = pixels.astype(np.uint8).reshape(height, -1)
    raw = np.concatenate([np.zeros((height, 1), np.uint8), lines], 1).tobytes()  # each line begins with its filter, 0

    def chunk(kind: bytes, content: bytes) -> bytes:
        checksum = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)

    header = struct.pack(">IIBBBBB", width, height, 8, 2 if pixels.ndim == 3 else 0, 0, 0, 0)
    parts = (chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(raw, 9)), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def _image(scaled: np.ndarray) -> str:
    """An image (H, W), (1, H, W) or (3, H, W) in 0..1 as a data URI; cells that are missing are mid-grey."""
    filled = np.where(np.isfinite(scaled), scaled, 0.5)
    if filled.ndim == 3 and len(filled) == 3:
        pixels = np.moveaxis(filled, 0, -1)
    else:
        pixels = 1 - (filled[0] if filled.ndim == 3 else filled)
    return f"data:image/png;base64,{base64.b64encode(png((255 * pixels).round())).decode()}"


def _bars(scaled: np.ndarray, zero: np.ndarray) -> str:
    """A vector in 0..1 as a picture of bars that start at zero, or as a line if it is long; as a data URI."""
    place = (np.arange(len(scaled)) + 0.5) / len(scaled) * WIDTH
    top, base = (HEIGHT - 4 - part * (HEIGHT - 8) for part in (scaled, zero))
    known = np.isfinite(scaled)
    if len(scaled) <= STEMS:
        width = 0.7 * WIDTH / len(scaled)
        drawn = "".join(
            f'<rect x="{x - width / 2:.1f}" y="{min(y, b):.1f}" width="{width:.1f}" height="{abs(y - b) + 0.5:.1f}"/>'
            for x, y, b, one in zip(place, top, base, known, strict=True)
            if one
        )
        zeros = "".join(f"M{x - width / 2:.1f} {b:.1f}h{width:.1f}" for x, b in zip(place, base, strict=True))
        drawn = f'<g fill="{TRAIN}">{drawn}</g><path d="{zeros}" stroke="{INK}"/>'
    else:
        points = " ".join(f"{x:.1f},{y:.1f}" for x, y, one in zip(place, top, known, strict=True) if one)
        drawn = f'<polyline fill="none" stroke="{TRAIN}" points="{points}"/>'
    text = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}">{drawn}</svg>'
    return f"data:image/svg+xml;base64,{base64.b64encode(text.encode()).decode()}"


def text_of(cell: Any) -> str:
    """A cell in words: numbers with four digits, dates without a time at midnight."""
    if isinstance(cell, Tensor):
        cell = cell.item()
    if isinstance(cell, np.datetime64):
        text = str(cell.astype("datetime64[s]")).replace("T", " ")
        return text.removesuffix(" 00:00:00")
    if isinstance(cell, float | np.floating):
        number = float(cell)
        return f"{number:.4g}" if abs(number) < 1e4 else f"{number:,.0f}" if abs(number) < 1e9 else f"{number:.3g}"
    return str(cell)
