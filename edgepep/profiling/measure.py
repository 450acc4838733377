"""What a step really takes here: peak bytes from the allocator's own events, and time beside backprop's."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.profiler import ProfilerActivity

from edgepep.profiling.trace import Trace, living_at

Step = Callable[[], None]


def peak_bytes(step: Step) -> int:
    """Most bytes that a step holds beyond what was held before it, from the allocator's events.

    On a GPU it is the caching allocator's peak.
    """
    step()  # what is made once, such as an optimizer's state, is not the step's
    if torch.cuda.is_available() and torch.cuda.memory_allocated():
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    with allocations() as events:
        step()
    held = highest = 0
    for _, size in events:
        held += size
        highest = max(highest, held)
    return highest


@contextmanager
def allocations() -> Iterator[list[tuple[int, int]]]:
    """Note when, in nanoseconds, how many bytes are taken or, below zero, given back; filled in at the end."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    events: list[tuple[int, int]] = []
    with _quiet(), torch.profiler.profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        yield events
    results: Any = seen.profiler
    found = [(e.start_ns(), e.nbytes()) for e in results.kineto_results.events() if e.name() == "[memory]"]
    events.extend(sorted(found))


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep what torch's profiler says of itself from standard error."""
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def predicted_peak(trace: Trace, events: list[tuple[int, int]]) -> int:
    """Most bytes of a traced step: what is alive after each operator, and what its kernel takes while it runs.

    No formula covers the kernels' own scratch (oneDNN's reordered copies, say), so that is taken from the allocator's
    events inside each operator.
    """
    highest, place = 0, 0
    for now, alive in living_at(trace):
        operation = trace.operations[now]
        began, ended = operation.times
        inside = top = 0
        while place < len(events) and events[place][0] <= ended:
            if events[place][0] >= began:
                inside += events[place][1]
                top = max(top, inside)
            place += 1
        highest = max(highest, sum(b.size for b in alive) + top - max(inside, 0))
    return highest


def milliseconds(steps: dict[str, Step], rounds: int = 15) -> dict[str, float]:
    """Median time of each step, all of them in turn in every round, so that what else the machine does falls on all."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    for step in steps.values():
        step()
    for _ in range(rounds):
        for name, step in steps.items():
            started = time.perf_counter()
            step()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            times[name].append(1000 * (time.perf_counter() - started))
    return {name: statistics.median(taken) for name, taken in times.items()}
