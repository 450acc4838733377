"""Interleaved timing: every round times every candidate, and a ratio is taken within its round."""

import gc
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from benchmarks.cycles import Meter

Run = Callable[[], object]
METER = Meter()
"""Made before torch starts its threads, which it would else not count."""


class Goal(NamedTuple):
    """A candidate's time is to be at most `limit` times the base's."""

    candidate: str
    base: str
    limit: float


@dataclass(frozen=True)
class Case:
    """Things that do the same, to be timed side by side.

    Args:
        title: what they do; runs are compared by it, so it does not change from run to run.
        candidates: what is called; a number is a time in milliseconds that somebody else has published.
        base: the candidate that the others are compared with.
        goals: what is hoped for, of any candidate against any other.
        differences: further times, each the first candidate's less the second's.
        absent: who is not here, and why.
        rounds: at most so many, for what takes long.

    """

    title: str
    candidates: Mapping[str, Run | float]
    base: str
    goals: tuple[Goal, ...] = ()
    differences: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    absent: Mapping[str, str] = field(default_factory=dict)
    rounds: int | None = None


class Timing(NamedTuple):
    """One candidate against a base: median milliseconds of one call, and what it cost the CPU, in the meter's unit.

    The ratio of milliseconds is the median over rounds, with the middle 80 % of them; `cpu_ratio` is that of the cost.
    """

    candidate: str
    base: str
    milliseconds: float
    ratio: float
    low: float
    high: float
    cpu: float | None = None
    cpu_ratio: float | None = None
    limit: float | None = None


Taken = tuple[list[float], list[float] | None]
"""Milliseconds of each round, and the CPU's cost, if anything was run."""


def timings(case: Case, rounds: int = 21, aim: float = 0.02) -> list[Timing]:
    """Time each candidate in every round, each for about `aim` seconds, in alternating order."""
    rounds = min(rounds, case.rounds or rounds)
    taken = _taken({n: run for n, run in case.candidates.items() if callable(run)}, rounds, aim)
    taken |= {n: ([float(run)] * rounds, None) for n, run in case.candidates.items() if not callable(run)}
    for name, (whole, part) in case.differences.items():
        taken[name] = [a - b for a, b in zip(taken[whole][0], taken[part][0], strict=True)], None
    limits = {(goal.candidate, goal.base): goal.limit for goal in case.goals}
    pairs = [(n, case.base) for n in [*case.candidates, *case.differences]]
    pairs += [pair for pair in limits if pair not in pairs]
    return [_timing(n, base, taken[n], taken[base], limits.get((n, base))) for n, base in pairs]


def _taken(runs: dict[str, Run], rounds: int, aim: float) -> dict[str, Taken]:
    repeats = {name: _repeats(run, aim) for name, run in runs.items()}
    taken: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in runs}
    gc.collect()
    gc.disable()
    try:
        for number in range(rounds):
            for name in list(runs)[:: -1 if number % 2 else 1]:
                run, times = runs[name], repeats[name]
                cost, started = METER.read(), time.perf_counter()
                for _ in range(times):
                    run()
                taken[name][0].append((time.perf_counter() - started) / times * 1e3)
                taken[name][1].append((METER.read() - cost) / times)
    finally:
        gc.enable()
    return dict(taken)


def _repeats(run: Run, aim: float) -> int:
    """Warm up, and say how many calls take about `aim` seconds."""
    began = time.perf_counter()
    for _ in range(5):
        run()
        if time.perf_counter() - began > 10 * aim:
            break
    started = time.perf_counter()
    if started - began < 10 * aim:
        run()
        return max(1, round(aim / max(time.perf_counter() - started, 1e-6)))
    return 1


def _timing(candidate: str, base: str, own: Taken, other: Taken, limit: float | None) -> Timing:
    ratios = sorted(t / b for t, b in zip(own[0], other[0], strict=True))
    tenth = len(ratios) // 10
    cpu = None if own[1] is None else statistics.median(own[1])
    by_cpu = None
    if own[1] is not None and other[1] is not None and min(other[1]) > 0:
        by_cpu = statistics.median(t / b for t, b in zip(own[1], other[1], strict=True))
    spread = statistics.median(ratios), ratios[tenth], ratios[-1 - tenth]
    return Timing(candidate, base, statistics.median(own[0]), *spread, cpu, by_cpu, limit)


def table(case: Case, threads: int, found: list[Timing]) -> str:
    """Lines of text, one a candidate."""
    said = "thread" if threads == 1 else "threads"
    names = [t.candidate if t.base == case.base else f"{t.candidate} / {t.base}" for t in found]
    width = max(map(len, [*names, *case.absent]))
    lines = [f"{case.title}, {threads} {said}: ms, {METER.unit}; ratio [10 %, 90 %], of {METER.unit}; goal"]
    lines += [f"  {name:<{width}}  {_figures(t)}" for name, t in zip(names, found, strict=True)]
    return "\n".join([*lines, *(f"  {name:<{width}}  absent: {why}" for name, why in case.absent.items())])


def _figures(t: Timing) -> str:
    cpu = "-" if t.cpu is None else f"{t.cpu:.4g}"
    by_cpu = "-" if t.cpu_ratio is None else f"{t.cpu_ratio:.3f}"
    said = f"{t.milliseconds:10.3f} {cpu:>10}  {t.ratio:7.3f} [{t.low:.3f}, {t.high:.3f}] {by_cpu:>7}"
    if t.limit is None:
        return said
    return f"{said}  {'meets' if t.ratio <= t.limit else 'MISSES'} {t.limit:.3g}"
