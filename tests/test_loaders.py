"""N is the number of rows that an epoch of a loader visits, and evaluation by row takes the order of the data alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from cases import small_vae
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    Sampler,
    SequentialSampler,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

import pyro_vae as pv
from pyro_vae.data.batches import Batches
from pyro_vae.runtime import processes

X = torch.arange(47.0)[:, None]
DATA = TensorDataset(X)
LIKE = torch.zeros(())


class Odd(Sampler[int]):
    """The odd rows; it has a length."""

    def __iter__(self) -> Iterator[int]:
        return iter(range(1, 47, 2))

    def __len__(self) -> int:
        return 23


class Without(Sampler[int]):
    """Some rows; it has no length."""

    def __iter__(self) -> Iterator[int]:
        return iter(range(12))


class Backwards(SequentialSampler):
    def __iter__(self) -> Iterator[int]:
        return iter(range(46, -1, -1))


class Buckets(BatchSampler):
    """Batches in another order."""

    def __iter__(self) -> Iterator[list[int]]:
        return iter(list(super().__iter__())[::-1])


class Ragged(Sampler[list[int]]):
    """Batches of 1, 2, 3, ... rows: the length says nothing about rows."""

    batch_size = 10

    def __iter__(self) -> Iterator[list[int]]:
        return iter([list(range(size)) for size in range(1, 9)])

    def __len__(self) -> int:
        return 8


class Stream(IterableDataset[torch.Tensor]):
    def __iter__(self) -> Iterator[torch.Tensor]:
        return iter(X)


class Counted(Stream):
    def __len__(self) -> int:
        return 47


class Fields(torch.utils.data.Dataset[torch.Tensor]):
    """A data set with a method `shuffle`, as those of some other packages."""

    def __len__(self) -> int:
        return 47

    def __getitem__(self, index: int) -> torch.Tensor:
        return X[index]

    def shuffle(self) -> None: ...


class Whole(torch.utils.data.Dataset[torch.Tensor]):
    """Each item is a batch."""

    num_rows = 47

    def __len__(self) -> int:
        return 5

    def __getitem__(self, index: int) -> torch.Tensor:
        if index >= 5:
            raise IndexError
        return X[10 * index : 10 * index + 10]


def of(sampler: Any = None, **options: Any) -> Callable[[], DataLoader[Any]]:
    return lambda: DataLoader(DATA, **{"batch_size": 10} | options, sampler=sampler)


def by(batch_sampler: Any) -> Callable[[], DataLoader[Any]]:
    return lambda: DataLoader(DATA, batch_sampler=batch_sampler)


def shard(**options: Any) -> DistributedSampler[Any]:
    return DistributedSampler(DATA, num_replicas=2, rank=0, **options)


ORDER = SequentialSampler(DATA)
# The loader; N, or None where it must be given; and how an evaluation by row refuses it, or "" where it takes it.
LOADERS: dict[str, tuple[Callable[[], DataLoader[Any]], int | None, str]] = {
    "plain": (of(), 47, ""),
    "one by one": (of(batch_size=1), 47, ""),
    "drop_last": (of(drop_last=True), 40, "drop_last=True"),
    "shuffle": (of(shuffle=True), 47, "shuffle=True"),
    "shuffle and drop_last": (of(shuffle=True, drop_last=True), 40, "shuffle=True"),
    "sequential": (of(ORDER), 47, ""),
    "sequential over a part": (of(SequentialSampler(range(20))), 20, "a sampler of 20 of 47 rows"),
    "a subclass of sequential": (of(Backwards(DATA)), 47, "the sampler Backwards"),
    "a range": (of(range(20)), 20, "the sampler range"),
    "random": (of(RandomSampler(DATA)), 47, "shuffle=True"),
    "random with replacement": (of(RandomSampler(DATA, replacement=True, num_samples=70)), 70, "shuffle=True"),
    "random rows": (of(RandomSampler(DATA, num_samples=15)), 15, "shuffle=True"),
    "subset": (of(SubsetRandomSampler(range(25))), 25, "the sampler SubsetRandomSampler"),
    "subset and drop_last": (of(SubsetRandomSampler(range(25)), drop_last=True), 20, "the sampler SubsetRandomSampler"),
    "weighted": (of(WeightedRandomSampler(torch.ones(47), 33)), 33, "the sampler WeightedRandomSampler"),
    "weighted without replacement": (
        of(WeightedRandomSampler(torch.ones(47), 12, replacement=False)),
        12,
        "the sampler WeightedRandomSampler",
    ),
    "distributed, in one process": (of(shard()), 24, "the sampler DistributedSampler"),
    "distributed, shuffle=False": (of(shard(shuffle=False)), 24, "the sampler DistributedSampler"),
    "distributed, drop_last": (of(shard(drop_last=True)), 23, "the sampler DistributedSampler"),
    "own": (of(Odd()), 23, "the sampler Odd"),
    "own and drop_last": (of(Odd(), drop_last=True), 20, "the sampler Odd"),
    "own without a length": (of(Without()), None, "the sampler Without"),
    "batches": (by(BatchSampler(ORDER, 10, False)), 47, ""),
    "batches, drop_last": (by(BatchSampler(ORDER, 10, True)), 40, "drop_last=True"),
    "batches of random rows": (by(BatchSampler(RandomSampler(DATA), 10, False)), 47, "shuffle=True"),
    "batches of a subset": (by(BatchSampler(SubsetRandomSampler(range(25)), 10, True)), 20, "the sampler SubsetRand"),
    "batches without a length": (by(BatchSampler(Without(), 10, False)), None, "the sampler Without"),
    "batches in another order": (by(Buckets(ORDER, 10, False)), 47, "the sampler Buckets"),
    "listed batches": (by([[0, 1, 2], [3, 4]]), 5, "the sampler list"),
    "own batches": (by(Ragged()), None, "the sampler Ragged"),
    "batches in the place of rows": (
        lambda: DataLoader(DATA, batch_size=None, sampler=BatchSampler(ORDER, 10, False)),
        47,
        "",
    ),
    "workers in any order": (of(num_workers=2, in_order=False), 47, "in_order=False"),
    "a part of the data": (lambda: DataLoader(Subset(DATA, range(20)), batch_size=10), 20, ""),
    "a data set with a method shuffle": (lambda: DataLoader(Fields(), batch_size=10), 47, ""),
    "items that are batches": (lambda: DataLoader(Whole(), batch_size=None), 47, ""),
    "a stream": (lambda: DataLoader(Stream(), batch_size=10), None, ""),
    "a stream with a length": (lambda: DataLoader(Counted(), batch_size=10), 47, ""),
    "a stream, drop_last": (lambda: DataLoader(Counted(), batch_size=10, drop_last=True), 40, "drop_last=True"),
}


def test_every_sampler_of_torch_is_in_the_table() -> None:
    samplers = {type(loader().sampler).__name__ for loader, _, _ in LOADERS.values()} | {"Sampler"}
    assert {name for name in dir(torch.utils.data) if name.endswith("Sampler")} <= samplers


@pytest.mark.parametrize("name", LOADERS)
def test_n_is_the_number_of_rows_that_an_epoch_visits(name: str) -> None:
    make, num_rows, _ = LOADERS[name]
    visited = sum(len(batch["x"]) for batch in Batches(make(), like=LIKE, num_rows=1))
    if num_rows is None:
        with pytest.raises(ValueError, match=r"num_rows must be given for .* samplers that .*fit\(num_rows=N"):
            Batches(make(), like=LIKE)
    else:
        assert Batches(make(), like=LIKE).num_rows == num_rows == visited
    assert Batches(make(), like=LIKE, num_rows=7).num_rows == 7


@pytest.mark.parametrize("name", LOADERS)
def test_evaluation_by_row_takes_the_order_of_the_data_alone(name: str) -> None:
    make, num_rows, refused = LOADERS[name]
    vae = small_vae(likelihood=pv.likelihoods.Normal(1)).float()
    if refused:
        for call in (vae.encode, vae.elbo, vae.log_likelihood, vae.posterior_predictive):
            with pytest.raises(ValueError, match=f"x must come in a fixed order; got a loader with {refused}.*Subset"):
                call(make())
    else:
        assert torch.equal(vae.encode(make()).mean, vae.encode(X[:num_rows]).mean)


def test_processes_share_the_rows_of_a_distributed_sampler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "size", lambda: 2)
    for sampler, num_rows in ((shard(), 47), (shard(drop_last=True), 46)):
        for loader in (of(sampler)(), by(BatchSampler(sampler, 10, False))()):
            batches = Batches(loader, like=LIKE)
            assert batches.num_rows == num_rows  # rows that are repeated to fill up are no further rows
            assert torch.equal(batches.own(X), X)
            first = [batch["x"].tolist() for batch in map(batches.read, batches.order(0))]
            assert first != [batch["x"].tolist() for batch in map(batches.read, batches.order(1))]
    assert Batches(of(shard(), drop_last=True)(), like=LIKE).num_rows == 40


def test_an_epoch_that_visits_no_row_is_refused() -> None:
    for loader in (of(batch_size=50, drop_last=True)(), of(SubsetRandomSampler([]))()):
        with pytest.raises(ValueError, match="x must be at least one row; got none. Check the data set, its sampler"):
            Batches(loader, like=LIKE)
