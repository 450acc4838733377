"""Learning curves with bands, accuracy against a number, and angles over time, all readable in black and white."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import TYPE_CHECKING, Any

from edgepep.errors import EdgepepError
from edgepep.lineplots import accuracy_against
from edgepep.reproduction.angles import KINDS, Series, by_epoch
from edgepep.reproduction.axes import AXES
from edgepep.reproduction.sets import Cell, RunSet
from edgepep.reproduction.store import Result
from edgepep.reproduction.table import Stored, along, results_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_OF_RULES: dict[str, tuple[Any, str]] = {
    "pepita": ("-", "black"),
    "backprop": ("--", "0.35"),
    "feedback_alignment": ("-.", "black"),
    "drtp": ((0, (6, 2, 1, 2, 1, 2)), "0.35"),
    "frozen_hidden": (":", "black"),
}
_OF_LAYERS: tuple[tuple[Any, str, str], ...] = (
    ("-", "o", "black"),
    ("--", "s", "black"),
    (":", "^", "black"),
    ("-.", "D", "0.45"),
    ("-", "v", "0.45"),
    ("--", "x", "0.45"),
)
_OTHERS: tuple[tuple[Any, str], ...] = (("-", "0.6"), ((0, (1, 3)), "black"), ((0, (8, 4)), "0.6"))


def save(chosen: RunSet, stored: Stored, folder: Path) -> list[Path]:
    """Draw a set's figures as PNG and SVG files; the same results give the same files.

    Raises:
        EdgepepError: if nothing of the set is stored, or the files cannot be written.

    """
    import matplotlib

    paths = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, figure in figures(chosen, stored).items():
            for suffix, about in (("png", {}), ("svg", {"Date": None})):
                paths.append(folder / f"{chosen.name}-{name}.{suffix}")
                with matplotlib.rc_context({"svg.hashsalt": chosen.name}):
                    figure.savefig(paths[-1], dpi=150, metadata=about)
    except OSError as error:
        raise EdgepepError(f"cannot write figures in {folder}: {error.strerror}.") from error
    return paths


def figures(chosen: RunSet, stored: Stored) -> dict[str, Figure]:
    """By name: learning curves, and what else the set asks for.

    Raises:
        EdgepepError: if nothing of the set is stored.

    """
    found = {"curves": curves(chosen, stored)}
    if axis := chosen.about.against:
        lines = along(chosen, stored, axis)
        alone = len({network for network, _ in lines}) == 1
        values, lost = {}, {}
        for (network, rule), line in lines.items():
            name = (rule if alone else f"{network}: {rule}").replace("_", " ")
            # where one seed diverged, the mean of the others would be better than the rule is
            values[name] = {n: v.values for n, v in line.items() if v.values and not v.failed}
            lost[name] = [n for n, v in line.items() if v.failed]
        if values := {name: line for name, line in values.items() if line}:
            found[AXES[axis].kind] = accuracy_against(values, axis, lost)
    if chosen.about.angles and (drawn := over_time(chosen, stored)):
        found["angles"] = drawn
    return found


def curves(chosen: RunSet, stored: Stored) -> Figure:
    """Test accuracy by epoch: a panel a network, a line a rule, its band one standard deviation over seeds.

    Raises:
        EdgepepError: if nothing of the set is stored.

    """
    rules = list(dict.fromkeys(rule for cell in chosen.cells for rule in cell.settings))
    drawn = []
    for cell in chosen.cells:
        found = {rule: results_of(cell, rule, stored) for rule in cell.settings}
        if "frozen_hidden" in found and "last_layer" in found and found["frozen_hidden"] == found["last_layer"]:
            del found["last_layer"]
        found = {rule: kept for rule, results in found.items() if (kept := [r for r in results if r.accuracy])}
        if found:
            drawn.append((cell, found))
    if not drawn:
        raise EdgepepError(f"nothing of the set {chosen.name} is stored yet; there is nothing to draw.")
    columns = min(len(drawn), 3 if len(drawn) != 4 else 2)
    figure, panels = _panels(len(drawn), columns)
    for axes, (cell, found) in zip(panels.flat, drawn, strict=False):
        _panel(axes, cell, found, rules)
    _legend(figure, panels)
    return figure


def over_time(chosen: RunSet, stored: Stored) -> Figure | None:
    """Angles by epoch, where any are stored: a panel a rule and network, a line a layer, its band one deviation."""
    named = [(cell, rule, results_of(cell, rule, stored)) for cell in chosen.cells for rule in cell.rules]
    found = {
        (i, kind): runs
        for i, (*_, results) in enumerate(named)
        for kind in KINDS
        if (runs := [r.angles[kind] for r in results if kind in r.angles])
    }
    if not found:
        return None
    shown = sorted({i for i, _ in found})
    rows = [(kind, shown[i : i + 3]) for kind in KINDS for i in range(0, len(shown), 3)]
    rows = [(kind, row) for kind, row in rows if any((i, kind) in found for i in row)]
    layers = list(dict.fromkeys(layer for runs in found.values() for run in runs for layer in run))
    highest = max(a for runs in found.values() for run in runs for v in run.values() for a in v if a is not None)
    columns = min(len(shown), 3)
    figure, panels = _panels(columns * len(rows), columns)
    for line, (kind, row) in zip(panels, rows, strict=True):
        for axes in line[len(row) :]:
            axes.set_visible(False)
        for axes, i in zip(line, row, strict=False):
            (cell, rule, _), runs = named[i], found.get((i, kind), [])
            _angles(axes, runs, layers)
            _title(axes, f"{rule.replace('_', ' ')} on {cell.title} {_counted([len(runs)])}")
            axes.set(ylabel=f"{KINDS[kind]}, °", ylim=(-3, max(97.0, highest + 3)))
    _legend(figure, panels)
    return figure


def _angles(axes: Any, runs: Sequence[Series], layers: Sequence[str]) -> None:
    axes.set_visible(bool(runs))
    for i, layer in enumerate(layers):
        line, mark, grey = _OF_LAYERS[i % len(_OF_LAYERS)]
        style = {"linestyle": line, "marker": mark, "markersize": 3.5, "color": grey, "label": f"layer {layer}"}
        _band(axes, by_epoch(runs, layer), **style)
    axes.axhline(90, color="0.6", linewidth=0.8)
    axes.set(xlabel="epoch", yticks=range(0, 181, 30))
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.grid(axis="y", color="0.9", linewidth=0.6)


def _panels(count: int, columns: int) -> tuple[Figure, Any]:
    from matplotlib.figure import Figure

    rows = -(-count // columns)
    figure = Figure(figsize=(1 + 3.6 * columns, 0.9 + 2.9 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False)
    for axes in list(panels.flat)[count:]:
        axes.set_visible(False)
    return figure, panels


def _counted(seeds: Sequence[int]) -> str:
    """How many, in words that stay on one line."""
    few, most = min(seeds), max(seeds)
    return (f"(n = {few})" if few == most else f"(n = {few} to {most})").replace(" ", "\N{NO-BREAK SPACE}")


def _title(axes: Any, text: str) -> None:
    """Above a panel, in lines no wider than it."""
    axes.set_title(textwrap.fill(text, 44), fontsize=10)


def _band(axes: Any, by_epoch: Sequence[Sequence[float]], **style: Any) -> None:
    """A line through the means of what there is at each epoch, in a band of one standard deviation."""
    there = [(epoch, values) for epoch, values in enumerate(by_epoch, 1) if values]
    if not there:
        return
    epochs, middle = [epoch for epoch, _ in there], [mean(values) for _, values in there]
    axes.plot(epochs, middle, linewidth=1.3, **style)
    spread = [stdev(values) if len(values) > 1 else 0.0 for _, values in there]
    if any(spread):
        low = [m - s for m, s in zip(middle, spread, strict=True)]
        high = [m + s for m, s in zip(middle, spread, strict=True)]
        axes.fill_between(epochs, low, high, color="0.5", alpha=0.3, linewidth=0)


def _panel(axes: Any, cell: Cell, found: dict[str, list[Result]], rules: Sequence[str]) -> None:
    for rule, results in found.items():
        every = list(zip(*(r.curve["test_accuracy"] for r in results), strict=True))
        line, grey = _OF_RULES.get(rule) or _OTHERS[rules.index(rule) % len(_OTHERS)]
        _band(axes, every, linestyle=line, color=grey, label=rule.replace("_", " "))
        if points := cell.curve.get(rule):
            x, y = [p.epoch for p in points], [p.accuracy for p in points]
            axes.plot(x, y, "o", markerfacecolor="white", markeredgecolor="black", label=f"{rule}, published")
    _title(axes, f"{cell.title} {_counted([len(results) for results in found.values()])}")
    axes.set(xlabel="epoch", ylabel="test accuracy, %")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.grid(axis="y", color="0.9", linewidth=0.6)


def _legend(figure: Figure, panels: Any) -> None:
    """One legend for all panels, below them."""
    entries: dict[str, Any] = {}
    for axes in panels.flat:
        handles, labels = axes.get_legend_handles_labels()
        entries |= {label: handle for handle, label in zip(handles, labels, strict=True)}
    columns = min(len(entries), 2 * panels.shape[1])
    figure.legend(
        entries.values(), entries.keys(), loc="outside lower center", ncols=columns, fontsize=9, frameon=False
    )
