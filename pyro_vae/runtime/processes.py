"""The processes that train one model together: which one this is, and how they exchange numbers.

Everything here uses `torch.distributed`. Without an initialized process group there is one process and no message.
"""

from __future__ import annotations

import importlib
import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

__all__ = ["launched", "rank", "size"]  # what users need; the others serve this package

logger = logging.getLogger("pyro_vae")


def size() -> int:
    """The number of processes."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """The number of this process, from 0; process 0 writes files and prints."""
    return dist.get_rank() if size() > 1 else 0


def agree_on(value: Any) -> Any:
    """The value that process 0 has, in all processes."""
    if size() == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0, device=_device())
    return box[0]


def gathered(value: Any) -> list[Any]:
    """The values of all processes, in the order of their ranks."""
    if size() == 1:
        return [value]
    values: list[Any] = [None] * size()
    dist.all_gather_object(values, value)
    return values


def sum_of(numbers: Tensor) -> Tensor:
    """The sum of these numbers over the processes."""
    if size() > 1:
        there = numbers.to(_device())
        dist.all_reduce(there)
        numbers = there.to(numbers.device)
    return numbers


def any_of(flag: bool) -> bool:
    """Whether a flag is set in any of the processes."""
    return bool(sum_of(torch.tensor(float(flag))) > 0)


def synchronize(tensors: Iterable[Tensor]) -> None:
    """Overwrite these tensors with those of process 0."""
    if size() > 1:
        for tensor in tensors:
            there = tensor.detach().to(_device()).contiguous()
            dist.broadcast(there, src=0)
            with torch.no_grad():
                tensor.copy_(there)


def mean_gradient(parameters: Sequence[nn.Parameter], num_rows: int, numbers: Sequence[float]) -> list[float]:
    """Replace each gradient, a mean over this process's rows, by the mean over all rows, in one message.

    Args:
        parameters: the parameters that are trained, the same in every process.
        num_rows: the number of rows that this process has; if it has none, its gradients are ignored.
        numbers: numbers to sum over the processes in the same message.

    Returns:
        The sums of the numbers.
    """
    parts = [
        parameter.grad.reshape(-1) * num_rows
        if num_rows and parameter.grad is not None
        else parameter.new_zeros(parameter.numel())
        for parameter in parameters
    ]
    flat = torch.cat([*parts, parts[0].new_tensor([num_rows, *numbers])])
    dist.all_reduce(flat)
    *sums, counts = flat.split([*(part.numel() for part in parts), 1 + len(numbers)])
    for parameter, total in zip(parameters, sums, strict=True):
        parameter.grad = (total / counts[0]).view_as(parameter).to(parameter.dtype)
    return counts[1:].tolist()


def _device() -> torch.device:
    """The device that messages must be on: NCCL sends from GPUs only."""
    return torch.device("cuda" if dist.get_backend() == "nccl" else "cpu")


def own() -> slice:
    """This process's share of any sequence: every n-th item from its own number on, where n processes train."""
    return slice(rank(), None, size())


def share(count: int) -> slice | None:
    """This process's share of `count` rows; None where it has all of them: alone, or with fewer rows than processes."""
    return None if size() == 1 or count < size() else own()


def joined(columns: Sequence[Tensor], count: int, mine: slice | None) -> list[Tensor]:
    """Columns of numbers by row for all `count` rows, from those of each process's share.

    Args:
        columns: numbers by row of this process's share.
        count: the number of all rows.
        mine: what `share` returned.
    """
    if mine is None:
        return list(columns)
    whole = [column.new_empty(count, *column.shape[1:]) for column in columns]
    for number, others in enumerate(gathered([column.cpu() for column in columns])):
        for column, part in zip(whole, others, strict=True):
            column[number :: size()] = part.to(column.device)
    return whole


def restarted() -> bool:
    """Whether the launcher has restarted these processes after one of them died."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0


def launch() -> str | None:
    """A name for this launch of processes: the identifier it was given, or the launcher's process number."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return None
    given = os.environ["TORCHELASTIC_RUN_ID"]
    return f"process {os.getppid()}" if given == "none" else given


def warn_if_alone() -> None:
    """Warn if a launcher started several processes and this one has not joined the others."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and "RANK" in os.environ and size() == 1:
        logger.warning(
            "This is one of %s processes and it trains alone: call fit within `with pv.processes.launched():`.",
            os.environ["WORLD_SIZE"],
        )


@contextmanager
def launched() -> Iterator[None]:
    """Join the processes that a launcher such as `torchrun` started, for as long as the context lasts.

    The launcher is recognized by its environment variables; without one there is a single process.
    """
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ or dist.is_initialized():
        yield
        return
    # Its functions take the group that exists at import as a default. An optimizer imports it; then the group's threads
    # would outlive the group, and one that frees a tensor while Python shuts down aborts the process.
    importlib.import_module("torch.distributed.nn.functional")
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)))
    backend = "nccl" if torch.cuda.is_available() else "gloo"
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    store, number, count = next(dist.rendezvous("env://"))
    store = dist.PrefixStore(f"attempt {attempt}", store)  # without it, addresses of dead processes would be found
    dist.init_process_group(backend, store=store, rank=number, world_size=count)
    try:
        yield
    finally:
        dist.destroy_process_group()
