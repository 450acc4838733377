"""What exports did on emulated boards: results/device.json as a page of text, predictions beside what was executed."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path
from typing import Any

from edgepep import models, plugins
from edgepep.errors import EdgepepError
from edgepep.folders import DEVICE
from edgepep.profiling.devices import Device

Run = dict[str, Any]
_ORDER = ("m4", "m7", "m3", "lm3s")
"""Of boards, the first that a run has is shown."""
_TITLES = (
    ("RAM kB", 8),
    ("linked", 8),
    ("arena", 9),
    ("touched", 9),
    ("stack", 6),
    ("MACs", 6),
    ("insn", 6),
    ("same", 5),
)
_HEAD = f"{'rule':<12}{'':<5}" + "".join(f"{title:>{width}}" for title, width in _TITLES)


def page(model: str, part: Device | None, file: Path = DEVICE) -> str:
    """Rows of the runs of a model, or of all models if it has none.

    Args:
        model: as for `subject`, or the name of a network that was run.
        part: whether it fits there is said too.
        file: what was kept of the runs.

    Raises:
        EdgepepError: if nothing was ever run, or there is no such model.

    """
    if not file.is_file():
        raise EdgepepError(f"{file.name} is not there: nothing was run. `python -m benchmarks.device` does it.")
    kept = json.loads(file.read_text(encoding="utf-8"))
    runs: list[Run] = kept["runs"]
    names = list(dict.fromkeys(run["model"] for run in runs))
    model = _known(model, names)
    shown = [model] if model in names else names
    lines = ["Exports in C on emulated boards, one sample a step; ratios are to backprop.", ""]
    if model not in names:
        lines += [f"{model} was not run (`python -m benchmarks.device`); these were.", ""]
    for name in shown:
        own = [run for run in runs if run["model"] == name]
        lines += [f"{name}, {own[0]['steps']} steps on {own[0]['data']} data, {_where(own[0])}", _HEAD]
        lines += [_row(run, own, part) for run in own] + [""]
    return "\n".join([*lines, *_notes(runs, kept, part)])


def _known(model: str, run: list[str]) -> str:
    """Name of a model that was run, of a recipe, or of a file, folder or module of the user's own."""
    name = model if ":" in model else Path(model).stem
    if ":" in model or Path(model).exists():
        return name
    return plugins.check("network", name, [*run, *(recipe for recipe in models.names() if recipe not in run)])


def _row(run: Run, others: list[Run], part: Device | None) -> str:
    board = run["boards"][_board(run)]
    reference = next((o for o in others if (o["rule"], o["precision"]) == ("backprop", run["precision"])), None)
    macs = insn = "-"
    if reference is not None:
        macs = _ratio(run["macs"], reference["macs"])
        insn = _ratio(board["learn_instructions"], reference["boards"][_board(reference)]["learn_instructions"])
    same = all(b["weights_as_on_host"] for b in run["boards"].values())
    values = (
        f"{run['ram_bytes'] / 1000:.1f}",
        f"{board['static_bytes'] / 1000:.1f}",
        f"{run['arena_bytes']:,}",
        f"{board['arena_touched']:,}",
        str(board["stack_bytes"]),
        macs,
        insn,
        "yes" if same else "NO",
    )
    cells = "".join(f"{value:>{width}}" for value, (_, width) in zip(values, _TITLES, strict=True))
    row = f"{run['rule']:<12}{run['precision']:<5}{cells}"
    return row if part is None else f"{row}  {'fits' if _fits(run, part) else 'no'}"


def _notes(runs: list[Run], kept: dict[str, Any], part: Device | None) -> list[str]:
    exact = sum(
        all(
            b["arena_touched"] == r["arena_bytes"] and b["static_bytes"] == r["ram_bytes"] for b in r["boards"].values()
        )
        for r in runs
    )
    same = sum(all(b["weights_as_on_host"] for b in r["boards"].values()) for r in runs)
    tools = kept.get("tools", {})
    notes = (
        f"RAM: weights that learn, arena and counters, as predicted; linked: .data and .bss. Exact in {exact} of "
        f"{len(runs)} runs. same: the weights after all steps are the compiling machine's on every board, in {same} of "
        f"{len(runs)}. MACs are those that are made, without padding. Instructions are QEMU's count, not cycles: "
        f"{tools.get('arm-none-eabi-gcc', 'gcc')}, -O2; {tools.get('qemu-system-arm', 'QEMU')}."
    )
    if part is not None:
        notes += f" fits: {part.name} has RAM for linked and stack, and flash for weights and program."
    return textwrap.wrap(notes, 80)


def _fits(run: Run, part: Device) -> bool:
    board = run["boards"][_board(run)]
    return bool(board["static_bytes"] + board["stack_bytes"] <= part.ram and board["text_bytes"] <= part.flash)


def _board(run: Run) -> str:
    return next(board for board in _ORDER if board in run["boards"])


def _where(run: Run) -> str:
    return f"shown on {_board(run)} of {', '.join(run['boards'])}"


def _ratio(value: int, reference: int) -> str:
    return f"{value / reference:.2f}" if value and reference else "-"
