"""RESULTS.md, from the sets and the stored results."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from edgepep.folders import FIGURES
from edgepep.reproduction.axes import AXES
from edgepep.reproduction.identity import Plan
from edgepep.reproduction.sets import RunSet
from edgepep.reproduction.store import Result
from edgepep.reproduction.table import Sheet, Stored, notes, sheets

KINDS = ("curves", "angles", *(axis.kind for axis in AXES.values()))
"""Of figures, as their files are named."""
_HEAD = """# Results

Written by `edgepep results --out RESULTS.md` from the sets in `results/sets/` and the runs in `results/runs/`; not by
hand. `edgepep reproduce NAME` does the runs of a set that are missing and prints its tables.

How the test set is used: accuracy is that of the test set after the last epoch. It chooses nothing, neither an epoch
nor a rate nor a seed, but for one thing: which of the authors' two schedules PEPITA's convolution on MNIST stands by in
Table 1, where the other is shown too. Every stored seed counts. PEPITA's authors set no other data aside and, by their
published log, report the last epoch too. Rates are theirs, or were chosen on a part of the training set that was held
out.

Figures are mean ± standard deviation over n seeds. *Frozen hidden* is the control that a rule has to beat: hidden
layers stay random, the last one learns. Training that diverges is a result, and counted.
"""


def page(chosen: Iterable[RunSet], stored: Stored) -> str:
    """The page; a set of which nothing is stored is only named."""
    parts, used = [_HEAD], set()
    for one in chosen:
        plans = one.plans()
        settings = {setting for cell in one.cells for setting in cell.settings.values()}
        own = [result for result in stored.values() if result.identity.setting in settings]
        used |= {result.identity for result in own}
        parts.append(_section(one, plans, own, stored))
    others = len(stored) - len(used)
    if others:
        parts.append(f"{others} stored {'run belongs' if others == 1 else 'runs belong'} to no set as it is now.\n")
    return "\n".join(parts)


def _section(one: RunSet, plans: Sequence[Plan], own: Sequence[Result], stored: Stored) -> str:
    lines = [f"## {one.about.title}", ""]
    command = f"`edgepep reproduce {one.name}`"
    if not own:
        return "\n".join([*lines, f"Not run yet: {len(plans)} runs, {command}.", ""])
    lines += [f"{command}. {one.about.text}", "", f"Source: {one.about.source}.", ""]
    for sheet in sheets(one, stored):
        lines += [f"**{sheet.title}**", "", *markdown(sheet), ""] if sheet.rows else []
    lines += [line for figure in _figures(one) for line in (figure, "")]
    lines += [line for note in notes(one, stored) for line in (note, "")]
    missing = sum(plan.identity not in stored for plan in plans)
    there = f"{len(plans) - missing} of {len(plans)} runs are stored"
    return "\n".join([*lines, f"{there}, done on:", "", *_machines(own), ""])


def _figures(one: RunSet) -> list[str]:
    """Those in docs/figures, as `edgepep reproduce NAME --plot docs/figures` drew them; each leads to its SVG."""
    kinds = [path.stem.removeprefix(f"{one.name}-") for path in sorted(FIGURES.glob(f"{one.name}-*.png"))]
    places = {kind: f"docs/figures/{one.name}-{kind}" for kind in kinds if kind in KINDS}
    return [f"[![{one.about.title}: {kind}]({place}.png)]({place}.svg)" for kind, place in places.items()]


def _machines(own: Sequence[Result]) -> list[str]:
    counted = Counter(_machine(result) for result in own)
    seeds = {machine: sorted({r.identity.seed for r in own if _machine(r) == machine}) for machine in counted}
    hours = {machine: sum(r.seconds for r in own if _machine(r) == machine) / 3600 for machine in counted}
    return [
        f"- {machine}: {count} {'run' if count == 1 else 'runs'}, seeds {', '.join(map(str, seeds[machine]))}, "
        f"{hours[machine]:.1f} h of training"
        for machine, count in sorted(counted.items())
    ]


def _machine(result: Result) -> str:
    about = result.about
    device = "" if about.get("device", "cpu") == "cpu" else f", {about['device']}"
    versions = ", ".join(f"{name} {version}" for name, version in about.get("versions", {}).items() if version)
    return f"{about.get('machine', 'a machine not named')}{device}; {versions}, Python {about.get('python', '?')}"


def markdown(sheet: Sheet) -> list[str]:
    """A table's lines."""
    rows = [sheet.head, ["---"] * len(sheet.head), *sheet.rows]
    return ["| " + " | ".join(cell.replace("|", r"\|") for cell in row) + " |" for row in rows]
