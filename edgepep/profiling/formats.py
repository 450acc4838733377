"""The profile for other programs and for pages: JSON, CSV, Markdown and HTML; one record a figure, one schema.

A record has: model, rule, quantity, value, unit, precision, tag ("counted" from the executed step, "modelled",
"measured" or "estimate") and, where it is a part of something, part. Fields are only ever added. What is of a forward
pass, whatever the rule, has an empty one.
"""

from __future__ import annotations

import csv
import html
import io
import json
from collections.abc import Sequence
from typing import Any

from edgepep.profiling import sparsity_report
from edgepep.profiling.costs import RuleCosts
from edgepep.profiling.sparsity_report import ForwardPass

FIELDS = ("model", "rule", "quantity", "part", "value", "unit", "precision", "tag")
SCHEMA = 1


def records(found: Sequence[RuleCosts], model: str, done: ForwardPass | None = None) -> list[dict[str, Any]]:
    """Every figure as one record."""
    made: list[dict[str, Any]] = []
    for c in found:

        def add(
            quantity: str, part: str, value: float, unit: str, tag: str, precision: str = "fp32", rule: str = c.rule
        ) -> None:
            record = (model, rule, quantity, part, value, unit, precision, tag)
            made.append(dict(zip(FIELDS, record, strict=True)))

        for part, macs in c.torch.macs.items():
            add("macs", part, macs, "MAC", "counted")
        for part, macs in c.layers.items():
            add("macs of layer", part, macs, "MAC", "counted")
        add("macs", "total", c.torch.total_macs, "MAC", "counted")
        add("element-wise operations", "total", c.elements, "operation", "counted")
        add("random draws", "total", c.draws, "draw", "counted")
        add("bytes moved", "total", c.bytes_moved, "byte", "counted")
        add("batch", "torch", c.torch.batch, "sample", "counted")
        for part, size in c.torch.memory.items():
            add("memory in torch", part, size, "byte", "counted")
        add("memory in torch", "total", c.torch.total_memory, "byte", "counted")
        add("batch", "device", c.device_step.batch, "sample", "modelled", c.precision)
        for part, size in _device(c).items():
            add("memory on a device", part, size, "byte", "modelled", c.precision)
        if c.effective is not None:
            add("effective macs", "total", c.effective[0], "MAC", "counted")
            add("effective accumulates", "total", c.effective[1], "AC", "counted")
        if c.energy is not None:
            add("energy of a device step", "total", c.energy, "microjoule", "estimate", c.precision)
        for part, value in c.measured.items():
            unit = {"peak_bytes": "byte", "predicted_bytes": "byte", "milliseconds": "millisecond"}.get(part, "ratio")
            add("measured", part, value, unit, "measured")
    for figure in sparsity_report.figures(done) if done else ():
        record = (model, "", *figure, "fp32", "counted")
        made.append(dict(zip(FIELDS, record, strict=True)))
    return made


def _device(c: RuleCosts) -> dict[str, int]:
    own = c.device
    return {
        "weights": own.weights,
        "arena": own.arena,
        "feedback F": own.feedback,
        "optimizer state": own.optimizer,
        "weights at rest": own.frozen,
        "total": own.ram,
    }


def as_json(found: Sequence[RuleCosts], model: str, done: ForwardPass | None = None) -> str:
    """JSON: {"schema": 1, "records": [...]}."""
    return json.dumps({"schema": SCHEMA, "records": records(found, model, done)}, indent=1)


def as_csv(found: Sequence[RuleCosts], model: str, done: ForwardPass | None = None) -> str:
    """CSV with a line of names."""
    page = io.StringIO()
    writer = csv.DictWriter(page, FIELDS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(records(found, model, done))
    return page.getvalue().rstrip("\n")


def as_markdown(found: Sequence[RuleCosts], model: str, done: ForwardPass | None = None) -> str:
    """A table of rules against quantities."""
    head, rows = _table(found)
    lines = [f"Costs of one training step of {model}.", "", *_table_lines(head, rows)]
    if done:
        cells = [[cell.replace("|", r"\|") for cell in row] for row in sparsity_report.rows(done)]
        lines += ["", done.title, "", *_table_lines(sparsity_report.HEAD, cells), "", done.notes]
    return "\n".join(lines)


def as_html(found: Sequence[RuleCosts], model: str, done: ForwardPass | None = None) -> str:
    """A page by itself."""
    head, rows = _table(found)
    tables = _html_table(head, rows)
    if done:
        own = _html_table(sparsity_report.HEAD, list(sparsity_report.rows(done)))
        tables += f"\n<p>{html.escape(done.title)}</p>\n{own}\n<p>{html.escape(done.notes)}</p>\n"
    style = (
        "body{font:15px/1.5 system-ui,sans-serif;max-width:70em;margin:2em auto;padding:0 1em}"
        "table{border-collapse:collapse}td,th{padding:.3em .8em;text-align:right;border-bottom:1px solid #ccc}"
        "td:first-child,th:first-child{text-align:left}"
    )
    title = f"Costs of one training step of {html.escape(model)}"
    return (
        f'<!doctype html>\n<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{title}</title><style>{style}</style>\n<h1>{title}</h1>\n"
        f"{tables}</html>"
    )


def _html_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    cells = "".join(f"<th>{html.escape(cell)}</th>" for cell in head)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>\n" for row in rows)
    return f"<table><thead><tr>{cells}</tr></thead>\n<tbody>\n{body}</tbody></table>"


def _table(found: Sequence[RuleCosts]) -> tuple[list[str], list[list[str]]]:
    head = ["rule", "MACs", "memory in torch, kB", "RAM on a device, kB", "of it F, kB"]
    measured = all(c.measured for c in found)
    if measured:
        head += ["measured peak, kB", "measured ms"]
    rows = []
    for c in found:
        row = [c.rule, f"{c.torch.total_macs:,}", _kb(c.torch.total_memory), _kb(c.device.ram), _kb(c.device.feedback)]
        if measured:
            row += [_kb(c.measured["peak_bytes"]), f"{c.measured['milliseconds']:.2f}"]
        rows.append(row)
    return head, rows


def _table_lines(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [_line(head), _line(["---"] * len(head)), *map(_line, rows)]


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _kb(size: float) -> str:
    return f"{size / 1000:,.1f}"


FORMATS = {"json": as_json, "csv": as_csv, "markdown": as_markdown, "html": as_html}
