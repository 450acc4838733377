"""The processes that train one network, started by torchrun."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
from torch import Tensor
from torch import distributed as dist

from edgepep.errors import EdgepepError, RunError

PARTS = 8
"""Into which a batch is cut, whatever the number of processes."""
_PATIENCE = timedelta(minutes=30)


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
            RunError: if one of them has ended.

        """
        if self.size == 1:
            return mine.unsqueeze(0)
        all_of_them = mine.new_empty(self.size, *mine.shape)
        try:
            dist.all_gather(list(all_of_them.unbind(0)), mine.contiguous())
        except RuntimeError as error:
            raise RunError(f"process {self.rank} hears the others no more: one of them has ended.") from error
        return all_of_them

    def from_first(self, content: bytes) -> bytes:
        """What the first process gives, on all of them."""
        if self.size == 1:
            return content
        size = torch.tensor([len(content)], dtype=torch.int64)
        dist.broadcast(size, 0)
        given = torch.frombuffer(bytearray(content), dtype=torch.uint8) if self.rank == 0 and content else None
        held = torch.empty(int(size), dtype=torch.uint8) if given is None else given
        dist.broadcast(held, 0)
        return held.numpy().tobytes()


@contextmanager
def joined(device: str) -> Iterator[Group | None]:
    """The group that torchrun has started this process in, or None if it has not.

    Computing threads are one a process, so that sums are taken in the same order everywhere.

    Raises:
        EdgepepError: if the processes cannot be joined.

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
        dist.init_process_group(backend, timeout=_PATIENCE)
    except (RuntimeError, ValueError) as error:
        raise EdgepepError(f"cannot join the processes: {str(error).splitlines()[0]}") from error
    try:
        yield Group(rank, size)
    finally:
        dist.destroy_process_group()


def device_of(device: str) -> str:
    """The device of this process: each has a GPU of its own."""
    return f"cuda:{os.environ['LOCAL_RANK']}" if device == "cuda" and "LOCAL_RANK" in os.environ else device
