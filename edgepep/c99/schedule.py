"""A schedule: calls of kernels in order, on values that live from a first to a last call in one arena."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from edgepep.c99.table import Stage
from edgepep.placement import Lasting, put_beside

FINITE = "ep_finite"
"""A call after which nothing more is done if some floats are not finite numbers."""


@dataclass(eq=False)
class Value:
    """Some floats in the arena; `over` is the value whose room they take, which is not needed any more."""

    name: str
    size: int
    over: Value | None = None

    @property
    def root(self) -> Value:
        """The value that was in this room first."""
        return self if self.over is None else self.over.root


@dataclass(frozen=True)
class Call:
    """One call: a kernel's name, its arguments in C's order, and the multiply-accumulates that it makes."""

    kernel: str
    arguments: tuple[Value | str, ...]
    macs: int


@dataclass(eq=False)
class Room:
    """What a root value takes of the arena, in floats; times are numbers of calls, both included."""

    value: Value
    size: int
    first: int
    last: int
    offset: int = 0


@dataclass
class Schedule:
    """Calls, beginning with one value in the arena: the input."""

    stages: Sequence[Stage]
    calls: list[Call] = field(default_factory=list)
    logits: Value | None = None
    """Where the last layer's answer is, if it outlives the calls."""

    def __post_init__(self) -> None:
        """Begin with the input."""
        first = self.stages[0]
        shape = first.pools[0].shape if first.pools else first.in_shape
        self.input = Value("x", shape[0] * shape[1] * shape[2])

    def call(self, kernel: str, *arguments: Value | str, macs: int = 0) -> None:
        """Add a call."""
        self.calls.append(Call(kernel, arguments, macs))

    @property
    def macs(self) -> int:
        """Multiply-accumulates of all calls."""
        return sum(call.macs for call in self.calls)


@dataclass(frozen=True)
class Arena:
    """Where each root value of a schedule lies, in floats, and how many floats there are."""

    rooms: dict[Value, Room]
    size: int

    def offset(self, value: Value) -> int:
        """Where a value lies."""
        return self.rooms[value.root].offset

    @property
    def used(self) -> int:
        """Floats that any value ever takes; what is more than that would be a gap that nothing fits."""
        edges = sorted((room.offset, room.offset + room.size) for room in self.rooms.values())
        total, end = 0, 0
        for start, stop in edges:
            total += max(0, stop - max(start, end))
            end = max(end, stop)
        return total


def arranged(schedule: Schedule, start: int | None = None) -> Arena:
    """Find every value a place: the smallest arena that one of three orders gives.

    The largest first, as they come to be, or what lives longest first.

    Args:
        schedule: whose values they are.
        start: where the input must lie; None: anywhere.

    """
    best: Arena | None = None
    for order in (_by_size, _by_birth, _by_span):
        rooms = _rooms(schedule)
        put: list[Lasting] = []
        if start is not None:
            fixed = rooms[schedule.input]
            fixed.offset = start
            put.append(fixed)
        for room in sorted(rooms.values(), key=order):
            if room not in put:
                put_beside(room, put)
        arena = Arena(rooms, max(room.offset + room.size for room in rooms.values()))
        if best is None or (arena.size, -arena.used) < (best.size, -best.used):
            best = arena
    assert best is not None
    return best


def _by_size(room: Room) -> tuple[int, int]:
    return -room.size, room.first


def _by_birth(room: Room) -> tuple[int, int]:
    return room.first, -room.size


def _by_span(room: Room) -> tuple[int, int]:
    return room.first - room.last, -room.size


def _rooms(schedule: Schedule) -> dict[Value, Room]:
    """How long each root value lives; the input before the first call."""
    rooms = {schedule.input: Room(schedule.input, schedule.input.size, -1, -1)}
    for now, call in enumerate(schedule.calls):
        for value in call.arguments:
            if isinstance(value, Value):
                room = rooms.setdefault(value.root, Room(value.root, value.root.size, now, now))
                room.last = now
    return rooms
