"""Accuracy against a number, as a picture that is readable in black and white and needs no display."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import count
from statistics import mean, stdev
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from edgepep.errors import EdgepepError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Number = TypeVar("Number", int, float)
_MOST_INSIDE = 6
"""Entries of a legend for which there is room within the axes; more stand below."""
_STYLES = (("o", "-"), ("s", "--"), ("^", ":"), ("D", "-."), ("v", "-"), ("p", "--"))


class _Look(NamedTuple):
    mark: str
    line: str
    grey: str


def accuracy_against(
    results: Mapping[str, Mapping[Number, float | Sequence[float]]],
    axis: str,
    diverged: Mapping[str, Collection[float]] | None = None,
) -> Figure:
    """Test accuracy against a number, a line for each of what is compared; from a factor of 8 on, in logarithms.

    Args:
        results: by name, by number: an accuracy in percent, or one for each seed, drawn as their mean
            with bars of one standard deviation.
        axis: what the number is of.
        diverged: by name, at which numbers a run diverged; drawn as hollow marks below the lines, a row for each name.

    Raises:
        EdgepepError: if there is nothing to draw.

    """
    from matplotlib.figure import Figure

    if not results or not all(results.values()):
        raise EdgepepError("there are no results; give {name: {number: accuracy in percent}}.")
    lost: dict[str, Sequence[float]] = {name: list(found) for name, found in (diverged or {}).items() if found}
    looks = dict(zip(dict.fromkeys([*results, *lost]), _looks(), strict=False))
    below = len(looks) > _MOST_INSIDE
    figure = Figure(figsize=(6.5, 4.5 + 0.13 * len(looks) * below), dpi=150, layout="constrained")
    axes = figure.subplots()
    entries = [_line(axes, name, by_number, looks[name]) for name, by_number in results.items()]
    entries += _marks_below(axes, lost, looks)
    numbers = {float(n) for line in results.values() for n in line} | {n for found in lost.values() for n in found}
    _ticks(axes, sorted(numbers))
    axes.set(xlabel=axis, ylabel="test accuracy, %")
    axes.grid(axis="y", color="0.85", linewidth=0.6)
    if below:
        figure.legend(handles=entries, fontsize=9, loc="outside lower center", ncols=2)
    elif len(entries) > 1:
        axes.legend(handles=entries, fontsize=9)
    return figure


def _looks() -> Iterator[_Look]:
    """Marks, lines and greys, all different as long as they can be."""
    for i in count():
        mark, line = _STYLES[i % len(_STYLES)]
        yield _Look(mark, line, ("black", "0.45")[(i + i // len(_STYLES)) % 2])


def _line(axes: Any, name: str, by_number: Mapping[Number, float | Sequence[float]], look: _Look) -> Any:
    numbers = sorted(by_number)
    seeds = [[v] if isinstance(v, (int, float)) else list(v) for v in (by_number[n] for n in numbers)]
    spread = [stdev(values) if len(values) > 1 else 0.0 for values in seeds]
    drawn: dict[str, Any] = {"markersize": 5, "linewidth": 1.3, "color": look.grey, "label": name}
    bars = spread if any(spread) else None
    return axes.errorbar(numbers, [mean(v) for v in seeds], bars, fmt=look.mark + look.line, capsize=3, **drawn)


def _marks_below(axes: Any, lost: Mapping[str, Sequence[float]], looks: Mapping[str, _Look]) -> list[Any]:
    """Hollow marks in a strip below the lowest point."""
    if not lost:
        return []
    low, high = axes.get_ylim()
    row = 0.05 * (high - low)
    axes.set_ylim(low - row * len(lost), high)
    axes.axhline(low, color="black", linewidth=0.8)
    entries = []
    for i, (name, numbers) in enumerate(lost.items()):
        where, look = [low - row * (i + 0.35)] * len(numbers), looks[name]
        drawn: dict[str, Any] = {"color": look.grey, "markerfacecolor": "white", "markersize": 6}
        entries += axes.plot(numbers, where, look.mark, label=f"{name}: diverged", **drawn)
    return entries


def _ticks(axes: Any, every: Sequence[float]) -> None:
    if every[0] > 0 and every[-1] >= 8 * every[0]:
        axes.set_xscale("log")
    axes.set_xticks(every, [f"{n:g}" for n in every])
    axes.set_xticks([], minor=True)
