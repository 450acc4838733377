"""`edgepep profile`: from what is asked on the command line to a page."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from edgepep import plugins, rules
from edgepep.errors import EdgepepError
from edgepep.profiling import accounting as published
from edgepep.profiling import devices, energy, measure, plots, sparsity_report
from edgepep.profiling.costs import CHECKPOINTED, HELD, RuleCosts, costs, prepared
from edgepep.profiling.formats import FORMATS
from edgepep.profiling.report import COMPARATORS, REFERENCE, text
from edgepep.profiling.subject import Subject, subject


@dataclass(frozen=True)
class Asked:
    """The options of the command, as given."""

    rule: str
    model: str
    input: str | None
    batch: int | None
    device_batch: int
    precision: str
    seeded: bool
    measure: bool
    per_layer: bool
    data: bool
    activity: bool
    samples: int | None
    energy: str | None
    device: str | None
    ram: str | None
    flash: str | None
    executed: bool
    accounting: str | None
    format: str
    plot: Path | None
    data_dir: Path | None


def page(asked: Asked) -> str:
    """Count, plan, measure, and put it on a page.

    Raises:
        EdgepepError: for anything that cannot be, saying what to type instead.

    """
    if asked.format != "text":
        plugins.check("format", asked.format, ["text", *FORMATS])
    _refuse_what_excludes_itself(asked)
    if asked.executed:
        from edgepep.profiling import executed

        return executed.page(asked.model, _part(asked))
    if asked.model.endswith(".onnx"):
        from edgepep.profiling import onnx_cost

        return onnx_cost.page(asked.model)
    chosen = subject(asked.model, asked.input)
    if asked.accounting is not None:
        return _published(chosen, asked.accounting)
    if asked.plot is not None:
        plots.check(asked.plot)
    names = _names(asked.rule)
    batch = asked.batch if asked.batch is not None else chosen.batch
    for option, value in (("batch", batch), ("device-batch", asked.device_batch)):
        if value < 1:
            raise EdgepepError(f"{option} is {value}; it must be at least 1.")
    done = sparsity_report.forward_pass(chosen, asked.samples, asked.data_dir) if asked.activity else None
    table = None if asked.energy is None else energy.table(asked.energy)
    part = _part(asked)
    options: dict[str, Any] = {"batch": batch, "device_batch": asked.device_batch, "precision": asked.precision}
    options |= {"seeded": asked.seeded, "table": table, "samples": _samples(chosen, batch, asked)}
    found = [costs(chosen, name, **options) for name in names]
    if asked.measure:
        found = _measured(chosen, found, batch, asked.seeded)
    if asked.plot is not None:
        plots.save(found, chosen.name, asked.plot)
    if asked.format != "text":
        return FORMATS[asked.format](found, chosen.name, done)
    fits = [] if part is None else _fits(chosen, found, part, asked)
    counted = [] if done is None else ["", sparsity_report.text(done)]
    return "\n".join([text(found, chosen.name, asked.per_layer), *fits, *counted])


def _refuse_what_excludes_itself(asked: Asked) -> None:
    fits = bool(asked.device or asked.ram or asked.flash)
    if asked.device and (asked.ram or asked.flash):
        raise EdgepepError(f"--device {asked.device} has its own memory; leave out --ram and --flash, or the device.")
    if fits and asked.format != "text":
        raise EdgepepError(f"whether it fits is said in text; leave out --format {asked.format}.")
    others = asked.format != "text" or asked.plot or asked.measure or asked.activity or asked.accounting
    if asked.executed and others:
        raise EdgepepError("--executed gives a page of text; leave out --format, --plot, --measure and the like.")
    what = "an .onnx file" if asked.model.endswith(".onnx") else "--accounting" if asked.accounting else None
    if asked.samples is not None and not asked.activity:
        raise EdgepepError(f"--samples {asked.samples} is of --activity; give both, or neither.")
    if what and (fits or asked.format != "text" or asked.plot or asked.measure or asked.activity):
        raise EdgepepError(
            f"{what} gives a page of text; leave out --format, --plot, --measure, --activity, --device and sizes."
        )


def _part(asked: Asked) -> devices.Device | None:
    if asked.device:
        return devices.device(asked.device)
    return devices.custom(asked.ram, asked.flash) if asked.ram or asked.flash else None


def _names(rule: str) -> list[str]:
    known = plugins.in_package(rules)
    asked = known if rule == "all" else [name.strip() for name in rule.split(",")]
    for name in asked:
        if ":" not in name:
            plugins.check("rule", name, known)
    names = [*COMPARATORS, *(name for name in asked if name not in COMPARATORS)]
    return [*names, "mempepita"] if "pepita" in names and "mempepita" not in names else names


def _samples(chosen: Subject, batch: int, asked: Asked) -> tuple[Tensor, Tensor] | None:
    if not asked.data:
        return None
    if chosen.recipe is None:
        raise EdgepepError("--data needs a recipe, which names its data set; a factory's module has none.")
    from edgepep import datasets

    return datasets.load(chosen.recipe.dataset, True, asked.data_dir).take(slice(0, batch))


def _measured(chosen: Subject, found: list[RuleCosts], batch: int, seeded: bool) -> list[RuleCosts]:
    """Add what the allocator and the clock say; all rules in turn in every round."""
    steps = {c.rule: prepared(chosen, c.rule, batch, seeded) for c in found}
    times = measure.milliseconds(steps)
    peaks = {name: measure.peak_bytes(step) for name, step in steps.items()}
    reference = times[REFERENCE]
    return [
        replace(
            c,
            measured={
                "peak_bytes": peaks[c.rule],
                "milliseconds": times[c.rule],
                "ratio": times[c.rule] / reference,
            },
        )
        for c in found
    ]


def _fits(chosen: Subject, found: list[RuleCosts], part: devices.Device, asked: Asked) -> list[str]:
    shown = f"{part.name}: {part.part}" + (f" ({part.source})" if part.source else "")
    verdicts = [devices.verdict(c, part) for c in found if c.rule not in (HELD, CHECKPOINTED)]
    lines = ["", shown, *(line for said in verdicts for line in textwrap.wrap(said, 80, subsequent_indent="  "))]
    wanted = next(c for c in found if c.rule not in COMPARATORS or c.rule == asked.rule)
    if devices.shortage(wanted.device, part) is not None:
        instead = devices.alternatives(
            chosen, wanted.rule, part, device_batch=asked.device_batch, precision=asked.precision
        )
        said = "; ".join(instead) or "nothing that edgepep knows of; take a smaller network."
        lines += textwrap.wrap(f"would fit: {said}", 80)
    return lines


def _published(chosen: Subject, which: str) -> str:
    if which not in ("paper", "exact"):
        raise EdgepepError(f"--accounting is {which!r}; it must be paper or exact.")
    if chosen.recipe is None:
        raise EdgepepError("--accounting needs a recipe, such as ds-cnn, mobilenet, resnet8 or autoencoder.")
    sheet = published.paper(chosen.recipe) if which == "paper" else published.exact(chosen.recipe)
    lines = [
        f"{chosen.name}, accounting of Pau & Aymone 2023, {which}: int8, batch 1, F not stored",
        "",
        f"{'':<12}{'training':>14}{'activations':>13}{'peak RAM':>11}{'inference':>13}{'RAM':>9}",
        f"{'':<12}{'MACC':>14}{'bytes':>13}{'kB':>11}{'MACC':>13}{'bytes':>9}",
    ]
    for name in published.PROCEDURES:
        c = sheet.cells(name)
        peak = (c.training_activations + sheet.parameters) / 1000
        lines.append(
            f"{name:<12}{c.training_macs:>14,}{c.training_activations:>13,}{peak:>11,.3f}"
            f"{c.inference_macs:>13,}{c.inference_ram:>9,}"
        )
    feedback = sheet.inputs * sheet.outputs
    lines += [
        "",
        f"F, left out by the published figures, is {feedback:,} bytes in int8, or none from a seed.",
    ]
    return "\n".join([*lines, *(f"published error kept: {error}" for error in sheet.errors)])
