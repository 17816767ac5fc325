"""Seconds and memory of a call, as the benchmarks and some tests measure them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

STATUS = Path("/proc/self/status")


class Measured(NamedTuple):
    """How long a call took, and by how many bytes anonymous memory rose at its peak."""

    seconds: float
    peak: float


def anonymous_memory() -> float:
    """Bytes of this process's memory that belong to no file (RssAnon); NaN where the system has no /proc."""
    lines = STATUS.read_text().splitlines() if STATUS.exists() else []
    return next((int(line.split()[1]) * 1024.0 for line in lines if line.startswith("RssAnon")), float("nan"))


def measure(call: Callable[[], Any], interval: float = 0.01) -> Measured:
    """Run a call, and read the process's anonymous memory every `interval` seconds."""
    start, peak, done = anonymous_memory(), [0.0], threading.Event()

    def watch() -> None:
        while not done.wait(interval):
            peak[0] = max(peak[0], anonymous_memory() - start)

    watcher = threading.Thread(target=watch)
    watcher.start()
    begin = time.perf_counter()
    try:
        call()
        seconds = time.perf_counter() - begin
    finally:
        done.set()
        watcher.join()
    return Measured(seconds, peak[0])
