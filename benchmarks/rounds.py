"""Interleaved timing: every round times every candidate, and a ratio is taken within its round."""

import gc
import statistics
import time
from collections.abc import Callable
from typing import NamedTuple


class Timing(NamedTuple):
    """Median milliseconds of one call, and the median of its ratio to the base with the middle 80 % of rounds."""

    milliseconds: float
    ratio: float
    low: float
    high: float


def interleaved(
    candidates: dict[str, Callable[[], object]], base: str, rounds: int = 21, aim: float = 0.02
) -> dict[str, Timing]:
    """Time each candidate in every round, each for about `aim` seconds, in alternating order."""
    repeats = {}
    for name, run in candidates.items():
        for _ in range(5):
            run()
        started = time.perf_counter()
        run()
        repeats[name] = max(1, round(aim / max(time.perf_counter() - started, 1e-6)))
    times: dict[str, list[float]] = {name: [] for name in candidates}
    gc.collect()
    gc.disable()
    for number in range(rounds):
        for name in list(candidates)[:: -1 if number % 2 else 1]:
            run = candidates[name]
            started = time.perf_counter()
            for _ in range(repeats[name]):
                run()
            times[name].append((time.perf_counter() - started) / repeats[name] * 1e3)
    gc.enable()
    return {name: _timing(taken, times[base]) for name, taken in times.items()}


def _timing(taken: list[float], base: list[float]) -> Timing:
    ratios = sorted(t / b for t, b in zip(taken, base, strict=True))
    tenth = len(ratios) // 10
    return Timing(statistics.median(taken), statistics.median(ratios), ratios[tenth], ratios[-1 - tenth])


def table(title: str, timings: dict[str, Timing]) -> str:
    """Lines of text, one a candidate."""
    width = max(map(len, timings))
    rows = [
        f"  {n:<{width}}  {t.milliseconds:9.3f} ms   {t.ratio:6.3f}  [{t.low:.3f}, {t.high:.3f}]"
        for n, t in timings.items()
    ]
    return "\n".join([title, *rows])
