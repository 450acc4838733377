"""The same step on a device: buffers live from their first to their last use, in one static arena."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from edgepep import phases
from edgepep.placement import place
from edgepep.profiling.observe import BATCH
from edgepep.profiling.trace import Buffer, Operation, Trace

FLOAT = 4
"""Bytes of a value in the step that was traced."""


@dataclass(eq=False)
class Slot:
    """A stretch of the arena that one or more buffers use in turn; times are numbers of operators, both included."""

    size: int
    first: int
    last: int
    phase: str
    offset: int = 0
    buffers: list[Buffer] = field(default_factory=list)


@dataclass(frozen=True)
class Arena:
    """A plan of the arena: where each slot lies, and how many bytes they need together."""

    slots: list[Slot]
    size: int
    moment: str
    """The phase in which most is alive."""
    live: int
    """Bytes alive at that moment: no plan can need fewer."""


def plan(trace: Trace, shapes: frozenset[torch.Size], bytes_per_value: float = FLOAT, streaming: bool = True) -> Arena:
    """Plan a step as a device runs it.

    What differs from torch: a buffer ends with its last use; an operator that works element by element writes over an
    input that ends there; padding is read as zeros, not copied; a weight gradient that is only added to weights or a
    velocity goes there as it arises; feedback that is not stored in floats is drawn or unpacked value by value where it
    is used. The batch counts, as the device has to hold it.

    Args:
        trace: of the step, run with in-place updates.
        shapes: of the weights.
        bytes_per_value: of floating-point values; others count as in torch.
        streaming: whether weight gradients go where they are added as they arise; else each has its place.

    """
    slots = _slots(trace, _streamed(trace, shapes) if streaming else set(), bytes_per_value)
    place(slots)
    live, moment = 0, ""
    for now, operation in enumerate(trace.operations):
        alive = sum(slot.size for slot in slots if slot.first <= now <= slot.last)
        if alive > live:
            live, moment = alive, operation.phase
    return Arena(slots, max((slot.offset + slot.size for slot in slots), default=0), moment, live)


def _slots(trace: Trace, streamed: set[Buffer], bytes_per_value: float) -> list[Slot]:
    last: dict[Buffer, int] = {}
    first: dict[Buffer, int] = {}
    for now, operation in enumerate(trace.operations):
        for buffer in (*operation.reads, *operation.writes):
            last[buffer] = now
            first.setdefault(buffer, now)
    slot_of: dict[Buffer, Slot] = {}
    slots: list[Slot] = []

    def new(buffer: Buffer, since: int, here: str) -> None:
        slot = Slot(buffer.at(bytes_per_value), since, last[buffer], here, buffers=[buffer])
        slot_of[buffer] = slot
        slots.append(slot)

    for buffer in trace.buffers:
        if buffer.kind == BATCH and buffer in last:
            new(buffer, 0, phases.FORWARD)
    for now, operation in enumerate(trace.operations):
        for buffer in operation.reads:  # made before the step
            if not (buffer.kind or buffer in slot_of or buffer in streamed or buffer.phase == phases.DRAW):
                new(buffer, 0, operation.phase)
        for buffer in operation.writes:
            if buffer.kind or buffer in slot_of or buffer in streamed or operation.phase == phases.DRAW:
                continue
            heir = _written_over(operation, buffer, now, last, slot_of)
            if heir is not None and heir.size < buffer.at(bytes_per_value):
                heir = None
            if heir is None:
                new(buffer, now, operation.phase)
            else:
                heir.last = max(heir.last, last[buffer])
                heir.buffers.append(buffer)
                slot_of[buffer] = heir
    return slots


def _written_over(
    operation: Operation, buffer: Buffer, now: int, last: dict[Buffer, int], slot_of: dict[Buffer, Slot]
) -> Slot | None:
    """The slot that an operator's answer may take over from one of its inputs."""
    padding = "constant_pad_nd" in operation.name
    for read in operation.reads:
        slot = slot_of.get(read)
        if slot is None:
            continue
        if padding:
            return slot
        if operation.pointwise and read.elements == buffer.elements and last[read] == now and slot.last == now:
            return slot
    return None


def _streamed(trace: Trace, shapes: frozenset[torch.Size]) -> set[Buffer]:
    """Weight gradients whose only use is to be added, element by element, to what outlives the step."""
    candidates = {
        b
        for operation in trace.operations
        if operation.macs and operation.phase in (phases.UPDATE, phases.BACKWARD)
        for b in operation.writes
        if not b.kind and b.shape in shapes
    }
    for operation in trace.operations:
        for buffer in operation.reads:
            added = (operation.pointwise or buffer in operation.writes) and all(
                w.kind or w in candidates for w in operation.writes
            )
            if buffer in candidates and not added:
                candidates.discard(buffer)
    return candidates
