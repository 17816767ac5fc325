"""How the processor computes during a call: threads, denormal numbers, memory that is kept."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch

__all__ = ["keep_memory", "memory_limit", "tuned_processor"]


def keep_memory() -> None:
    """Make the C library keep memory that is freed, for what is allocated next.

    glibc returns freed blocks to the system if they are larger than a threshold, which follows the largest block freed
    so far, up to 32 MiB. Without this call every step asks for its memory again, page by page, which can take a third
    of the step.
    """
    torch.empty(31 * 2**20, dtype=torch.uint8)


def memory_limit(device: torch.device) -> float:
    """The memory, in bytes, that this process can have on a device; infinity where this is unknown."""
    if device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[1])
    limits = [math.inf]
    with suppress(AttributeError, ValueError, OSError):
        limits.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    with suppress(ImportError, ValueError, OSError):  # not on Windows
        import resource

        allowed = resource.getrlimit(resource.RLIMIT_AS)[0]
        limits += [] if allowed == resource.RLIM_INFINITY else [allowed]
    with suppress(ValueError, OSError):  # of a container; "max" if there is none
        limits.append(int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return min(limits)


@contextmanager
def tuned_processor(num_threads: int) -> Iterator[None]:
    """Compute with `num_threads` threads and treat denormal numbers as zero; both are set back on exit.

    Adam's moments of cells that are always zero decay into denormal numbers, on which a CPU is many times slower.
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
