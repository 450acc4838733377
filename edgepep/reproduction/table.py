"""The tables of a set, from stored results alone: published figures beside ours, curves, numbers, slowness, angles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import mean, stdev
from typing import NamedTuple

from edgepep.reproduction import angles
from edgepep.reproduction.axes import AXES, Name
from edgepep.reproduction.identity import Identity
from edgepep.reproduction.sets import Cell, Published, RunSet
from edgepep.reproduction.slowness import slowness
from edgepep.reproduction.store import Result

Stored = Mapping[Identity, Result]
NONE = "-"
NOT_RUN = "not run"
MARKS = {"code": "", "stored": " °", "recall": " †"}
NOTES = {
    "stored": "° read in a third party's copy of the published table, not in the paper itself.",
    "recall": "† from memory; not checked against the paper.",
}
_TRAINED = ("network", "data", "rule")


class Sheet(NamedTuple):
    """A table: what it is of, its head and its rows."""

    title: str
    head: tuple[str, ...]
    rows: list[tuple[str, ...]]


class Figure(NamedTuple):
    """Accuracies of some seeds, and how many seeds failed."""

    values: list[float]
    failed: int = 0

    def shown(self, digits: int = 2) -> str:
        """Mean ± standard deviation over seeds, and their number."""
        failed = f"{self.failed} diverged" if self.failed else ""
        if not self.values:
            return failed or NOT_RUN
        spread = f" ± {stdev(self.values):.{digits}f}" if len(self.values) > 1 else ""
        return f"{mean(self.values):.{digits}f}{spread} (n = {len(self.values)}{failed and ', ' + failed})"

    def __str__(self) -> str:
        """As shown with two digits."""
        return self.shown()


def results_of(cell: Cell, rule: str, stored: Stored) -> list[Result]:
    """Every stored seed of a rule in a cell, in the order of the seeds."""
    return sorted(
        (r for r in stored.values() if r.identity.setting == cell.settings[rule]), key=lambda r: r.identity.seed
    )


def figure(results: Sequence[Result]) -> Figure:
    """Accuracy after the last epoch."""
    found = [r.accuracy for r in results if r.accuracy is not None]
    return Figure(found, len(results) - len(found))


def sheets(chosen: RunSet, stored: Stored) -> list[Sheet]:
    """All tables of a set."""
    found = [_accuracies(chosen, stored)]
    found += [_curve(chosen, cell, rule, stored) for cell in chosen.cells for rule in cell.curve]
    if chosen.about.against:
        found.append(_against(chosen, stored, chosen.about.against))
    if chosen.about.slowness:
        found.append(_slowness(chosen, stored))
    if chosen.about.angles:
        found += [_angles(chosen, stored, kind) for kind in angles.KINDS]
    return found


def notes(chosen: RunSet, stored: Stored) -> list[str]:
    """What the marks in a set's tables mean, which controls are one, and what was not measured."""
    figures = [p for cell in chosen.cells for p in cell.published.values()]
    found = [note for mark, note in NOTES.items() if any(p.confidence == mark for p in figures)]
    if any(p.std for p in figures):
        found.append("difference: ours minus published, in the published standard deviation (σ).")  # noqa: RUF001
    if {"frozen_hidden", "last_layer"} <= set(chosen.about.controls):
        found.append("last layer: one layer is trained, so it is the frozen-hidden control; the same runs count.")
    if chosen.about.angles:
        every = [r for cell in chosen.cells for rule in cell.rules for r in results_of(cell, rule, stored)]
        without = sorted({r.path.name for r in every if "angles" not in r.about and r.curve["loss"]})
        if without:
            more = f" and {len(without) - 1} more" if len(without) > 1 else ""
            found.append(f"not asked for angles when done: {without[0]}{more}; a run that is removed is done again.")
    return found


def _accuracies(chosen: RunSet, stored: Stored) -> Sheet:
    controls = tuple(name.replace("_", " ") for name in chosen.about.controls)
    answers = any(cell.published for cell in chosen.cells)
    rows: list[tuple[str, ...]] = []
    for cell in chosen.cells:
        beside = [str(figure(results_of(cell, control, stored))) for control in chosen.about.controls]
        for rule in cell.rules:
            ours, published = figure(results_of(cell, rule, stored)), cell.published.get(rule)
            shown = [_published(published), str(ours), _difference(ours, published)] if answers else [str(ours)]
            rows.append((cell.title, cell.recipe.dataset, rule, *shown, *beside))
    figures = ("published", "ours", "difference") if answers else ("ours",)
    return Sheet("test accuracy after the last epoch, %", (*_TRAINED, *figures, *controls), rows)


def _published(published: Published | None) -> str:
    if published is None:
        return NONE
    spread = f" ± {published.std:.2f}" if published.std is not None else ""
    return f"{published.accuracy:.2f}{spread}{MARKS[published.confidence]}"


def _difference(ours: Figure, published: Published | None) -> str:
    if published is None or not published.std or not ours.values:
        return NONE
    return f"{(mean(ours.values) - published.accuracy) / published.std:+.1f} σ"  # noqa: RUF001


def _at(results: Sequence[Result], epoch: int) -> Figure:
    return Figure([r.curve["test_accuracy"][epoch - 1] for r in results if len(r.curve["test_accuracy"]) >= epoch])


def _curve(chosen: RunSet, cell: Cell, rule: str, stored: Stored) -> Sheet:
    rows = []
    for point in cell.curve[rule]:
        ours = _at(results_of(cell, rule, stored), point.epoch)
        points = f"{mean(ours.values) - point.accuracy:+.2f} points" if ours.values else NONE
        beside = [str(_at(results_of(cell, control, stored), point.epoch)) for control in chosen.about.controls]
        rows.append((str(point.epoch), f"{point.accuracy:.2f} (n = 1)", str(ours), points, *beside))
    head = ("epochs", "published", "ours", "difference", *(name.replace("_", " ") for name in chosen.about.controls))
    return Sheet(f"test accuracy along the learning curve of {rule} on {cell.title}, %", head, rows)


def along(chosen: RunSet, stored: Stored, axis: Name) -> dict[tuple[str, str], dict[float, Figure]]:
    """Accuracies by line and rule, by the cell's number, where there are at least two such numbers."""
    found: dict[tuple[str, str], dict[float, Figure]] = {}
    for cell in chosen.cells:
        number = cell.at(axis)
        if number is None:
            continue
        for rule in [*cell.rules, *chosen.about.controls]:
            found.setdefault((cell.line, rule), {})[number] = figure(results_of(cell, rule, stored))
    return {name: values for name, values in found.items() if len(values) > 1}


def _against(chosen: RunSet, stored: Stored, axis: Name) -> Sheet:
    found = along(chosen, stored, axis)
    numbers = sorted({number for values in found.values() for number in values})
    rows = [(*name, *(str(values[n]) if n in values else NONE for n in numbers)) for name, values in found.items()]
    head = ("network", "rule", *(AXES[axis].column(n) for n in numbers))
    return Sheet(f"test accuracy against {axis}, %", head, rows)


def _angles(chosen: RunSet, stored: Stored, kind: str) -> Sheet:
    rows = []
    for cell in chosen.cells:
        for rule in cell.rules:
            runs = [r.angles[kind] for r in results_of(cell, rule, stored) if kind in r.angles]
            for layer in dict.fromkeys(layer for run in runs for layer in run):
                by_epoch = angles.by_epoch(runs, layer)
                ends = (Figure(values).shown(1) if values else NONE for values in (by_epoch[0], by_epoch[-1]))
                rows.append((cell.title, rule, layer, *ends))
    head = ("network", "rule", "layer", "first epoch", "last epoch")
    return Sheet(f"angle of the {angles.KINDS[kind]} after an epoch, degrees", head, rows)


def _slowness(chosen: RunSet, stored: Stored) -> Sheet:
    """Epochs, fitted to each run's curve before its first drop of the learning rate."""
    rows: list[tuple[str, ...]] = []
    for cell in chosen.cells:
        distinct: dict[str, str] = {}
        for rule in cell.settings:
            distinct.setdefault(cell.settings[rule], rule)
        for rule in distinct.values():
            if values := slownesses(cell, rule, stored):
                rows.append((cell.title, cell.recipe.dataset, rule, Figure(values).shown(3)))
    return Sheet("slowness, epochs: s of a(t) = a_max t / (s + t); smaller is faster", (*_TRAINED, "ours"), rows)


def slownesses(cell: Cell, rule: str, stored: Stored) -> list[float]:
    """Slowness of every stored run of a rule in a cell that did not diverge."""
    drops = cell.recipe.settings(rule).decay_epochs
    first = min(drops) if drops else None
    found = [r.curve["test_accuracy"] for r in results_of(cell, rule, stored) if r.accuracy is not None]
    return [slowness(curve, first) for curve in found if len(curve[:first]) > 1]
