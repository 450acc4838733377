"""Learning curves with bands, and accuracy against time steps; readable in black and white, and without a display."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import TYPE_CHECKING, Any

from edgepep.errors import EdgepepError
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
_OTHERS: tuple[tuple[Any, str], ...] = (("-", "0.6"), ((0, (1, 3)), "black"), ((0, (8, 4)), "0.6"))


def save(chosen: RunSet, stored: Stored, folder: Path) -> list[Path]:
    """Draw a set's figures as PNG and SVG files.

    Raises:
        EdgepepError: if nothing of the set is stored, or the files cannot be written.

    """
    figures = {"curves": curves(chosen, stored)}
    axis = chosen.about.against
    found = along(chosen, stored, axis) if axis else {}
    lines = {name: {n: v for n, v in values.items() if v} for name, values in found.items()}
    if axis and any(lines.values()):
        from edgepep.spikeplots import accuracy_against

        named = {" ".join(name).replace("_", " "): values for name, values in lines.items() if values}
        figures[axis.split()[-1]] = accuracy_against(named, axis)
    paths = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, figure in figures.items():
            for suffix in ("png", "svg"):
                paths.append(folder / f"{chosen.name}-{name}.{suffix}")
                figure.savefig(paths[-1], dpi=150)
    except OSError as error:
        raise EdgepepError(f"cannot write figures in {folder}: {error.strerror}.") from error
    return paths


def curves(chosen: RunSet, stored: Stored) -> Figure:
    """Test accuracy by epoch: a panel a network, a line a rule, its band one standard deviation over seeds.

    Raises:
        EdgepepError: if nothing of the set is stored.

    """
    from matplotlib.figure import Figure

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
    rows = -(-len(drawn) // columns)
    figure = Figure(figsize=(1 + 3.6 * columns, 0.9 + 2.9 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False)
    for axes, (cell, found) in zip(panels.flat, drawn, strict=False):
        _panel(axes, cell, found, rules)
    for axes in list(panels.flat)[len(drawn) :]:
        axes.set_visible(False)
    _legend(figure, panels)
    return figure


def _panel(axes: Any, cell: Cell, found: dict[str, list[Result]], rules: Sequence[str]) -> None:
    for rule, results in found.items():
        by_epoch = list(zip(*(r.curve["test_accuracy"] for r in results), strict=True))
        epochs = range(1, len(by_epoch) + 1)
        middle = [mean(values) for values in by_epoch]
        line, grey = _OF_RULES.get(rule) or _OTHERS[rules.index(rule) % len(_OTHERS)]
        axes.plot(epochs, middle, linestyle=line, color=grey, linewidth=1.3, label=rule.replace("_", " "))
        if len(results) > 1:
            spread = [stdev(values) for values in by_epoch]
            low = [m - s for m, s in zip(middle, spread, strict=True)]
            high = [m + s for m, s in zip(middle, spread, strict=True)]
            axes.fill_between(epochs, low, high, color="0.5", alpha=0.3, linewidth=0)
        if points := cell.curve.get(rule):
            x, y = [p.epoch for p in points], [p.accuracy for p in points]
            axes.plot(x, y, "o", markerfacecolor="white", markeredgecolor="black", label=f"{rule}, published")
    seeds = sorted({len(results) for results in found.values()})
    counted = f"n = {seeds[0]}" + (f" to {seeds[-1]}" if len(seeds) > 1 else "")
    axes.set_title(f"{cell.title} ({counted})", fontsize=10)
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
