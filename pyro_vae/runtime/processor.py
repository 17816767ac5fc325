"""The processor while a call runs: threads, denormal numbers, memory that is kept."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

__all__ = ["keep_memory", "tuned_processor"]


def keep_memory() -> None:
    """Let the C library keep memory that is freed for what is allocated next.

    glibc returns blocks to the system above a size that follows the largest block freed so far, up to 32 MiB. Without
    this every step asks for its memory anew, page by page, which can take as long as a third of the step.
    """
    torch.empty(31 * 2**20, dtype=torch.uint8)


@contextmanager
def tuned_processor(num_threads: int) -> Iterator[None]:
    """Compute with so many threads, and take denormal numbers for zero; both are set back on exit.

    Adam's moments of cells that are always zero decay into denormals, on which a CPU is many times slower.
    """
    keep_memory()
    threads, flushed = torch.get_num_threads(), bool(torch.tensor([1e-40]).mul(1.0) == 0.0)
    try:
        torch.set_flush_denormal(True)
        torch.set_num_threads(num_threads)
        yield
    finally:
        torch.set_num_threads(threads)
        torch.set_flush_denormal(flushed)
