"""Random state: a stream of its own for every call with a seed, states that are set back, noise that is repeated."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = [
    "INITIAL",
    "PREDICTIVE",
    "Noise",
    "RandomState",
    "begin_stream",
    "every_random_state",
    "preserved_rng",
    "random_state",
    "seeded",
    "set_every_random_state",
    "set_random_state",
]


RandomState = tuple[Tensor, list[Tensor] | None]

INITIAL = 0x696E6974  # step of the streams of initial parameters: `seeded(0, INITIAL)` is that of no seed and epoch
# Step of the streams of data that are drawn. Scored under the same seed, data from the stream of the scores would meet
# the very noise that they are made of: log p(x) would be too high.
PREDICTIVE = 0x70726564


def random_state() -> RandomState:
    """Torch's random state: CPU, and CUDA where it is in use."""
    return torch.get_rng_state(), torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None


def set_random_state(state: RandomState) -> None:
    """Set torch's random state back to what `random_state` returned."""
    cpu, cuda = state
    torch.set_rng_state(cpu)
    if cuda is not None:
        torch.cuda.set_rng_state_all(cuda)


def every_random_state(generators: Sequence[torch.Generator] = ()) -> dict[str, Tensor]:
    """All random states that data and programs may draw from: torch's, NumPy's, Python's, and those of `generators`."""
    cpu, cuda = random_state()
    _, python, spare = random.getstate()
    numbers: Any = np.random.get_state(legacy=False)
    return {
        "torch": cpu,
        **{f"cuda{i}": state for i, state in enumerate(cuda or ())},
        **{f"generator{i}": generator.get_state() for i, generator in enumerate(generators)},
        "python": torch.tensor(python),
        "python_spare": torch.tensor([math.nan if spare is None else spare], dtype=torch.float64),
        "numpy": torch.tensor([*numbers["state"]["key"].tolist(), numbers["state"]["pos"], numbers["has_gauss"]]),
        "numpy_spare": torch.tensor([numbers["gauss"]], dtype=torch.float64),
    }


def set_every_random_state(states: Mapping[str, Tensor], generators: Sequence[torch.Generator] = ()) -> None:
    """Set back what `every_random_state` returned; devices that are not in use, and states left out, stay."""
    if "torch" in states:
        torch.set_rng_state(states["torch"])
    if torch.cuda.is_initialized() and f"cuda{torch.cuda.device_count() - 1}" in states:
        torch.cuda.set_rng_state_all([states[f"cuda{i}"] for i in range(torch.cuda.device_count())])
    for i, generator in enumerate(generators):
        generator.set_state(states[f"generator{i}"])
    spare = states["python_spare"].item()
    random.setstate((3, tuple(states["python"].tolist()), None if math.isnan(spare) else spare))
    *key, position, has_spare = states["numpy"].tolist()
    np.random.set_state(("MT19937", np.array(key, np.uint32), position, has_spare, states["numpy_spare"].item()))


@contextmanager
def preserved_rng() -> Iterator[None]:
    """Restore torch's random state (CPU, and CUDA where it is in use) on exit."""
    state = random_state()
    try:
        yield
    finally:
        set_random_state(state)


@contextmanager
def seeded(seed: int | None, *steps: int) -> Iterator[None]:
    """Draw from a stream of its own, which `seed` and `steps` determine; with None, from the global stream.

    The global stream is untouched when a seed is given, and never reseeded when none is.

    Args:
        seed: a non-negative integer, or None.
        *steps: further non-negative integers, e.g. the epoch; each combination has its own stream, except that zeros at
            the end count for nothing: `seeded(5)` is `seeded(5, 0)`.

    Raises:
        TypeError: if `seed` is neither an integer nor None.
        ValueError: if it is negative.
    """
    if seed is None:
        yield
        return
    if not isinstance(seed, int) or isinstance(seed, bool):
        raise TypeError(f"seed must be an integer or None; got {seed!r}. Pass e.g. seed=0.")
    if seed < 0:
        raise ValueError(f"seed must be zero or more; got {seed}. Pass e.g. seed=0.")
    with preserved_rng():
        begin_stream(seed, *steps)
        yield


def begin_stream(seed: int, *steps: int) -> None:
    """Make torch draw from the stream that these numbers determine from now on."""
    state = int(np.random.SeedSequence([seed, *steps]).generate_state(1, np.uint64)[0])
    torch.default_generator.manual_seed(state)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(state)


class Noise(TorchDispatchMode):
    """Record what random operations return, or return what was recorded in another run of the same code.

    It works where the random state itself cannot be set back: inside a graph that is being recorded.

    Args:
        repeat: the noise to return again; by default noise is drawn and recorded.
    """

    def __init__(self, repeat: Noise | None = None) -> None:
        super().__init__()
        self.kept: list[Any] = []
        self.repeat = None if repeat is None else iter(repeat.kept)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if torch.Tag.nondeterministic_seeded not in func.tags:
            return func(*args, **kwargs)
        if self.repeat is None:
            drawn = func(*args, **kwargs)
            self.kept.append(pytree.tree_map_only(Tensor, torch.clone, drawn))
            return drawn
        kept = next(self.repeat, None)
        if kept is None:
            raise ValueError("The guide must draw the same noise each time it runs; got more. Make it repeatable.")
        return args[0].copy_(kept) if func._schema.is_mutable else pytree.tree_map_only(Tensor, torch.clone, kept)
