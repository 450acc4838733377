"""The profile as a page of text that fits a terminal 80 wide: rules side by side, or one a line when there are many."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from functools import partial

from edgepep.phases import AGAIN, ALIGN, BACKWARD, FORWARD, PROJECTION, SECOND, STEP, UPDATE
from edgepep.profiling.costs import CHECKPOINTED, HELD, RuleCosts
from edgepep.profiling.observe import FEEDBACK, GRADIENTS, KEPT, OPTIMIZER, PARAMETERS, ROLLING

PHASES = [FORWARD, SECOND, AGAIN, PROJECTION, BACKWARD, UPDATE, ALIGN]
MEMORY = [PARAMETERS, KEPT, ROLLING, FEEDBACK, GRADIENTS, OPTIMIZER]
COMPARATORS = (HELD, "backprop", CHECKPOINTED, "frozen_hidden")
"""Always beside the rules that are asked for."""
_SHORT = {HELD: "BP", "backprop": "BP place", CHECKPOINTED: "BP check", "frozen_hidden": "frozen"}
_LABEL, _COLUMN, _MOST, _WIDTH = 24, 9, 6, 80
Row = Callable[[str, Sequence[str]], str]
"""Makes a line of a label and cells."""
REFERENCE = "backprop"
"""The rule that ratios are to: backpropagation with each weight updated in place."""


def text(found: Sequence[RuleCosts], name: str, per_layer: bool = False) -> str:
    """One screen, or with per_layer a table of layers too."""
    first = found[0]
    lines = [f"One training step of {name}, counted from the step itself.", ""]
    lines += _columns(found) if len(found) <= _MOST else _rows(found)
    if per_layer:
        for start in range(0, len(found), _MOST):
            lines += ["", *_layers(found[start : start + _MOST], len(found) > _MOST)]
    if first.energy is not None:
        source = "cost table " + str(first.energy_table)
        energies = ", ".join(f"{c.rule} {c.energy:.3g}" for c in found)
        lines += ["", *textwrap.wrap(f"Energy of a step on a device in uJ, an estimate ({source}): {energies}", 80)]
    if first.effective is not None:
        lines += ["", *_effective(found)]
    return "\n".join(lines)


def _columns(found: Sequence[RuleCosts]) -> list[str]:
    titles = _titles(found)
    first, row = found[0], partial(_row, titles)
    seen = {p for c in found for p in c.torch.macs}
    phases = [p for p in PHASES if p in seen] + sorted(seen - set(PHASES))
    lines = [
        row(f"MACs, batch {first.torch.batch}", list(titles.values())),
        *(row(f"  {p}", [_count(c.torch.macs.get(p, 0)) for c in found]) for p in phases),
        *_total(row, "  total", found, lambda c: c.torch.total_macs, _count),
        row("  element-wise", [_count(c.elements) for c in found]),
        row("  random draws", [_count(c.draws) for c in found]),
        "",
        row("memory in torch, kB", list(titles.values())),
        *(row(f"  {kind}", [_kb(c.torch.memory[kind]) for c in found]) for kind in MEMORY),
        *_total(row, "  peak", found, lambda c: c.torch.total_memory, _kb),
        row("  in", [_moment(c.torch.moment) for c in found]),
    ]
    if any(c.measured for c in found):
        lines += [
            row("  measured peak, no state", [_kb(int(c.measured["peak_bytes"])) for c in found]),
            row("  measured ms", [f"{c.measured['milliseconds']:.2f}" for c in found]),
            row("  ratio", [f"{c.measured['ratio']:.2f}" for c in found]),
        ]
    lines += [
        "",
        row(f"on a device, {first.precision}, kB", list(titles.values())),
        row("  weights that learn", [_kb(c.device.weights) for c in found]),
        row("  activities, scratch", [_kb(c.device.arena) for c in found]),
        row("  feedback F", [_kb(c.device.feedback) for c in found]),
        *_total(row, "  RAM", found, lambda c: c.device.ram, _kb),
        "",
        *_notes(found, titles),
    ]
    return [line for i, line in enumerate(lines) if line or (i and lines[i - 1])]


def _rows(found: Sequence[RuleCosts]) -> list[str]:
    reference = next((c for c in found if c.rule == REFERENCE), found[0])
    lines = [
        f"{'rule':<24}{'MACs':>10}{'ratio':>7}{'torch kB':>11}{'ratio':>7}{'device kB':>11}{'ratio':>7}",
    ]
    for c in found:
        cells = (
            (_count(c.torch.total_macs), 10),
            (_ratio(c.torch.total_macs, reference.torch.total_macs), 7),
            (_kb(c.torch.total_memory), 11),
            (_ratio(c.torch.total_memory, reference.torch.total_memory), 7),
            (_kb(c.device.ram), 11),
            (_ratio(c.device.ram, reference.device.ram), 7),
        )
        lines.append(f"{c.rule:<24}" + "".join(f"{cell:>{width}}" for cell, width in cells))
    if all(c.measured for c in found):
        lines += ["", f"{'measured':<24}{'peak kB':>10}{'ms':>10}{'ratio':>7}"]
        for c in found:
            peak, taken, ratio = c.measured["peak_bytes"], c.measured["milliseconds"], c.measured["ratio"]
            lines.append(f"{c.rule:<24}{_kb(int(peak)):>10}{taken:>10.2f}{ratio:>7.2f}")
    return [*lines, "", *_notes(found, {})]


def _layers(found: Sequence[RuleCosts], alone: bool) -> list[str]:
    """A table of layers; alone: no columns above explain its titles."""
    names = list(dict.fromkeys(name for c in found for name in c.layers))
    titles = _titles(found)
    row = partial(_row, titles)
    lines = [row("MACs of each layer", list(titles.values()))]
    lines += [row(f"  {name}"[:_LABEL], [_count(c.layers.get(name, 0)) for c in found]) for name in names]
    return [*lines, *textwrap.wrap(_meant(titles), 80)] if alone else lines


def _effective(found: Sequence[RuleCosts]) -> list[str]:
    lines = ["forward passes on real data (zeros skipped; spikes need an addition only):"]
    for c in found:
        macs, acs = c.effective or (0.0, 0.0)
        lines.append(f"  {c.rule:<24} {_count(int(macs)):>9} MACs  {_count(int(acs)):>9} additions")
    return lines


def _notes(found: Sequence[RuleCosts], titles: dict[str, str]) -> list[str]:
    """What the table leaves unsaid, its rules named as they are there: by their titles, or in full."""
    batch, device = found[0].torch.batch, found[0].device_step.batch
    held, place, check = (titles.get(rule, f'"{rule}"') for rule in (HELD, REFERENCE, CHECKPOINTED))
    said = (
        f"In torch: batch {batch}, 32-bit floats, momentum; counted. On a device: batch {device}, no momentum, one "
        f"static arena; modelled. {held} holds every gradient for the optimizer; {place} updates in the backward pass, "
        f"as all other rules here do; {check}{' (checkpoints)' if titles else ''} runs groups of layers twice. "
        f"1 kB = 1000 bytes; ratios are to {place}."
    )
    if any(c.rule == "pepita" for c in found):
        said += " PEPITA keeps every layer's activity, as backprop does; MEMPEPITA repeats the first pass."
    if any("quant" in o.name or "round" in o.name for o in found[0].device_step.trace.operations):
        said += (
            " This network simulates quantisation: its scratch includes float copies of the weights and masks that a "
            "device would not make."
        )
    return textwrap.wrap(f"{said} {_meant({rule: t for rule, t in titles.items() if rule not in _SHORT})}", 80)


def _meant(titles: dict[str, str]) -> str:
    """The rules that titles stand for, where they are not their names."""
    short = [f"{title} is {rule}" for rule, title in titles.items() if title != rule]
    return "; ".join(short) + "." if short else ""


def _titles(found: Sequence[RuleCosts]) -> dict[str, str]:
    """Heads of columns by rule: names in full while there is room, then by their initials: FA, KP."""
    titles, room = {}, _WIDTH - _LABEL - _COLUMN * len(found)
    for rule in (c.rule for c in found):
        more = max(0, len(rule) + 1 - _COLUMN)
        titles[rule] = _SHORT.get(rule) or (rule if more <= room else _initials(rule))
        room -= more if titles[rule] == rule else 0
    return titles


def _initials(rule: str) -> str:
    words = rule.rpartition(":")[2].split("_")
    short = "".join(word[:1].upper() for word in words) if len(words) > 1 else words[0]
    return short[: _COLUMN - 1]


def _row(titles: dict[str, str], label: str, cells: Sequence[str]) -> str:
    widths = [max(_COLUMN, len(title) + 1) for title in titles.values()]
    return f"{label:<{_LABEL}}" + "".join(f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=True))


def _total(
    row: Row, label: str, found: Sequence[RuleCosts], value: Callable[[RuleCosts], int], show: Callable[[int], str]
) -> list[str]:
    reference = next((c for c in found if c.rule == REFERENCE), found[0])
    ratios = [_ratio(value(c), value(reference)) for c in found]
    return [row(label, [show(value(c)) for c in found]), row("  ratio", ratios)]


def _ratio(value: int, reference: int) -> str:
    return f"{value / reference:.2f}" if reference else "-"


def _count(n: int) -> str:
    """At most seven characters, exact below ten million when it fits."""
    if n < 100_000:
        return f"{n:,}"
    return f"{n / 1e6:.4g} M" if n < 1e9 else f"{n / 1e9:.4g} G"


def _kb(n: int) -> str:
    return f"{n / 1000:,.1f}" if n < 1e7 else f"{n / 1000:,.0f}"


def _moment(phase: str) -> str:
    return {SECOND: "2nd pass", AGAIN: "repeat", FORWARD: "forward", PROJECTION: "project", STEP: "the rest"}.get(
        phase, phase
    )[:8]
