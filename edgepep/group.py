"""The processes that train one network, started by torchrun."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
from torch import Tensor
from torch import distributed as dist
from torch._C._distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from edgepep.errors import EdgepepError, Lost

PARTS = 8
"""Into which a batch is cut, whatever the number of processes."""
_PATIENCE = timedelta(minutes=30)
_LOOK = 0.05  # seconds
_met: list[Store] = []  # the one of this process


class Group:
    """The processes that train one network.

    Args:
        rank: of this one.
        size: how many there are.

    """

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        self.rank, self.size = rank, size

    def gathered(self, mine: Tensor) -> Tensor:
        """What all processes give, [size, ...], in the order of their ranks.

        Raises:
            Lost: if one of them has ended.

        """
        if self.size == 1:
            return mine.unsqueeze(0)
        all_of_them = mine.new_empty(self.size, *mine.shape)
        try:
            dist.all_gather(list(all_of_them.unbind(0)), mine.contiguous())
        except RuntimeError as error:
            raise Lost(f"process {self.rank} hears the others no more: one of them has ended.") from error
        return all_of_them

    def from_first(self, content: bytes) -> bytes:
        """What the first process gives, on all of them.

        Raises:
            Lost: if one of them has ended.

        """
        if self.size == 1:
            return content
        size = torch.tensor([len(content)], dtype=torch.int64)
        try:
            dist.broadcast(size, 0)
            given = torch.frombuffer(bytearray(content), dtype=torch.uint8) if self.rank == 0 and content else None
            held = torch.empty(int(size), dtype=torch.uint8) if given is None else given
            dist.broadcast(held, 0)
        except RuntimeError as error:
            raise Lost(f"process {self.rank} hears the others no more: one of them has ended.") from error
        return held.numpy().tobytes()


def meeting(patience: float) -> Store:
    """Where the processes that torchrun has started leave word for each other.

    Args:
        patience: seconds for which the others are waited for.

    Raises:
        RuntimeError: if they are not there.

    """
    if not _met:
        store, *_ = next(rendezvous("env://", timeout=timedelta(seconds=patience)))
        _met.append(PrefixStore("edgepep", store))
    return _met[0]


def _all_here(store: Store, size: int) -> None:
    """Wait for all processes, or for the first word of one that will not come."""
    store.add("here", 1)
    while int(store.add("here", 0)) < size:
        if any(store.check([f"end/{rank}"]) for rank in range(size)):
            raise Lost("another process has ended before all were joined.")
        time.sleep(_LOOK)


@contextmanager
def joined(device: str) -> Iterator[Group | None]:
    """The group that torchrun has started this process in, or None if it has not.

    Computing threads are one a process, so that sums are taken in the same order everywhere.

    Raises:
        EdgepepError: if there cannot be so many.
        Lost: if the processes cannot be joined.

    """
    if "TORCHELASTIC_RUN_ID" not in os.environ and "WORLD_SIZE" not in os.environ:
        yield None
        return
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    if not 1 <= size <= PARTS or PARTS % size:
        allowed = ", ".join(str(n) for n in range(1, PARTS + 1) if PARTS % n == 0)
        raise EdgepepError(f"{size} processes cannot share {PARTS} parts of a batch; start {allowed} of them.")
    torch.set_num_threads(1)
    backend = "nccl" if device.startswith("cuda") else "gloo"
    try:
        store = meeting(_PATIENCE.total_seconds())
        _all_here(store, size)
        dist.init_process_group(
            backend, store=PrefixStore("group", store), rank=rank, world_size=size, timeout=_PATIENCE
        )
    except (RuntimeError, ValueError) as error:
        raise Lost(f"cannot join the processes: {str(error).splitlines()[0]}") from error
    try:
        yield Group(rank, size)
    finally:
        dist.destroy_process_group()


def device_of(device: str) -> str:
    """The device of this process: each has a GPU of its own."""
    return f"cuda:{os.environ['LOCAL_RANK']}" if device == "cuda" and "LOCAL_RANK" in os.environ else device
