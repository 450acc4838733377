"""Places in one static arena for buffers that live from a first to a last moment."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol


class Lasting(Protocol):
    """What takes some room from a first to a last moment, both included."""

    size: int
    first: int
    last: int
    offset: int


def place(slots: Iterable[Lasting]) -> None:
    """Give every slot the lowest offset at which nothing that lives at the same time lies; the largest first."""
    put: list[Lasting] = []
    for slot in sorted(slots, key=lambda s: (-s.size, s.first)):
        put_beside(slot, put)


def put_beside(slot: Lasting, put: list[Lasting]) -> None:
    """Give one more slot its offset beside those that have theirs, and add it to them."""
    beside = sorted((s for s in put if s.first <= slot.last and slot.first <= s.last), key=lambda s: s.offset)
    offset = 0
    for other in beside:
        if offset + slot.size <= other.offset:
            break
        offset = max(offset, other.offset + other.size)
    slot.offset = offset
    put.append(slot)
