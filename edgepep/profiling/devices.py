"""Will it fit? A part's memory beside what a step needs, the line that breaks it, and what would fit instead."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from edgepep import plugins
from edgepep.build import rule_class, rule_options
from edgepep.errors import EdgepepError
from edgepep.profiling.costs import DeviceMemory, RuleCosts, costs
from edgepep.profiling.subject import Subject
from edgepep.toml_files import read

PARTS = Path(__file__).parent / "devices.toml"
CODE = 16 * 1024
"""Bytes of flash set aside for the program; kernels of a training step were measured at 0.5 to 3 kB."""
STACK = 1024
"""Bytes of RAM set aside for the stack; 84 to 296 were measured."""


@dataclass(frozen=True)
class Device:
    """A part: its memory in bytes."""

    name: str
    part: str
    ram: int
    flash: int
    source: str = ""


def names() -> list[str]:
    """Names of the known parts."""
    return sorted(read(PARTS))


def device(name: str) -> Device:
    """Find a known part.

    Raises:
        EdgepepError: if it is not known.

    """
    known = read(PARTS)
    if name not in known:
        try:
            plugins.check("device", name, sorted(known))
        except EdgepepError as error:
            raise EdgepepError(f"{error} For another part, give --ram and --flash.") from error
    own = known[name]
    return Device(name, own["part"], own["ram"] * 1024, own["flash"] * 1024, own["source"])


def custom(ram: str | None, flash: str | None) -> Device:
    """A part by its memory: sizes such as "256K" or "1M"; what is not said is not limited."""
    return Device("this part", "by its memory", _size("--ram", ram), _size("--flash", flash))


def _size(option: str, text: str | None) -> int:
    if text is None:
        return 2**62
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kKmM]?)(?:i?[bB])?", text.strip())
    if not found:
        raise EdgepepError(f"{option} is {text!r}; write a size such as 256K or 1M.")
    return int(float(found[1]) * {"": 1, "k": 1024, "m": 1024**2}[found[2].lower()])


def shortage(memory: DeviceMemory, part: Device) -> str | None:
    """Say which line breaks the budget; None if the step fits."""
    ram = memory.ram + STACK
    lines = {
        "weights that learn": memory.weights,
        "activities and scratch": memory.arena,
        "feedback F": memory.feedback,
        "optimizer state": memory.optimizer,
        "stack": STACK,
    }
    if ram > part.ram:
        total = 0
        for line, size in lines.items():
            total += size
            if total > part.ram:
                return f"RAM: {_kb(ram)} needed, {_kb(part.ram)} there; {line} ({_kb(size)}) breaks it."
    flash = memory.weights + memory.frozen + CODE
    if flash > part.flash:
        return f"flash: {_kb(flash)} needed for the weights to start from and the program, {_kb(part.flash)} there."
    return None


def verdict(found: RuleCosts, part: Device) -> str:
    """One line: fits or does not fit, and why."""
    said = shortage(found.device, part)
    if said is None:
        return f"{found.rule} fits {part.name}: {_kb(found.device.ram + STACK)} of {_kb(part.ram)} RAM."
    return f"{found.rule} does not fit {part.name}. {said}"


def alternatives(
    subject: Subject, rule: str, part: Device, *, device_batch: int = 1, precision: str = "fp32", limit: int = 3
) -> list[str]:
    """What would fit instead, at the same batch: the smallest changes first."""
    found: list[str] = []
    for words, tried in _changes(subject, rule, precision):
        made = costs(subject, batch=1, device_batch=device_batch, **{"precision": precision, **tried})  # type: ignore[arg-type]
        if shortage(made.device, part) is None:
            found.append(f"{words}: {_kb(made.device.ram + STACK)}")
        if len(found) == limit:
            break
    return found


def _changes(subject: Subject, rule: str, precision: str) -> Iterator[tuple[str, dict[str, object]]]:
    network = subject.network(rule)
    hidden = [layer.name for layer in network.chain[:-1] if layer.learns]
    half = tuple(hidden[: (len(hidden) + 1) // 2])
    frozen = f"the first {len(half)} layers frozen" if len(half) > 1 else "the first layer frozen"
    seeds = "storage" in rule_options(rule_class(rule))
    own: dict[str, object] = {"rule": rule, "seeded": seeds}
    if seeds:
        yield f"{rule} with feedback from its seed", own
    others = [name for name in ("mempepita", "drtp", "spela") if name != rule]
    for other in others:
        yield f"{other} with feedback from its seed", {"rule": other, "seeded": True}
    if half:
        yield f"{rule} with {frozen}", {**own, "frozen": half}
    if precision != "int8":
        yield f"{rule} with weights and activities in int8", {**own, "precision": "int8"}
        for other in others:
            yield f"{other} in int8", {"rule": other, "seeded": True, "precision": "int8"}
        if half:
            yield f"{rule} in int8, {frozen}", {**own, "precision": "int8", "frozen": half}
    last: dict[str, object] = {"rule": "frozen_hidden", "frozen": tuple(hidden)}
    yield "frozen_hidden (the last layer alone)", last
    if precision != "int8":
        yield "frozen_hidden in int8", {**last, "precision": "int8"}


def _kb(size: int) -> str:
    return f"{size / 1024:,.1f} KiB"
