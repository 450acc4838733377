"""Runs of the benchmarks, kept as JSON and compared with each other."""

import json
import os
import platform
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from benchmarks.rounds import METER, Timing
from edgepep.errors import EdgepepError

FOLDER = Path(__file__).resolve().parent.parent / "results" / "benchmarks"
SLOWER = 1.1
"""A ratio grown by more than this is a slowdown."""
KEY = ("suite", "case", "candidate", "base", "threads")
Run = dict[str, Any]


def cpu_model() -> str:
    """Name of the processor, its family and model, and the number of cores: on clouds the name alone says little."""
    file = Path("/proc/cpuinfo")
    said = file.read_text(encoding="utf-8") if file.is_file() else ""
    fields = dict(line.split("\t: ", 1) for line in said.replace("\t\t", "\t").splitlines() if "\t: " in line)
    name = fields.get("model name") or platform.processor() or platform.machine()
    family = ", ".join(f"{key} {fields[key]}" for key in ("cpu family", "model") if key in fields)
    return f"{name}{f' ({family})' if family else ''}, {os.cpu_count()} cores"


def begun(rounds: int, quick: bool, argv: list[str]) -> Run:
    """Return a run without results: of what, on what and when."""
    import torch

    import edgepep

    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": " ".join(["python -m benchmarks", *argv]),
        "cpu": cpu_model(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "edgepep": edgepep.__version__,
        "meter": METER.unit,
        "rounds": rounds,
        "quick": quick,
        "notes": [],
        "results": [],
    }


def row(suite: str, case: str, threads: int, timing: Timing) -> dict[str, Any]:
    """Return one result."""
    return {"suite": suite, "case": case, "threads": threads, **timing._asdict()}


def save(run: Run, path: Path) -> None:
    """Write a run; what was there is replaced."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(run, indent=1) + "\n", encoding="utf-8")


def load(path: Path) -> Run:
    """Read a run.

    Raises:
        EdgepepError: if there is none, or it is something else.

    """
    try:
        run: Run = json.loads(path.read_text(encoding="utf-8"))
        for result in run["results"]:
            _key(result), float(result["ratio"])
        str(run["cpu"]), str(run["date"]), bool(run["quick"])
    except OSError as error:
        raise EdgepepError(f"no earlier run can be read from {path}: {error.strerror}.") from error
    except (ValueError, KeyError, TypeError) as error:
        raise EdgepepError(f"{path} is no run of the benchmarks: {type(error).__name__}: {error}.") from error
    return run


def newest(cpu: str, folder: Path = FOLDER) -> Path | None:
    """Return the newest whole run on a machine of the same kind, if one is stored."""
    found = []
    for path in sorted(folder.glob("*.json")):
        try:
            run = load(path)
        except EdgepepError:
            continue  # other results lie in this folder too
        if run["cpu"] == cpu and not run["quick"]:
            found.append((run["date"], path))
    return max(found)[1] if found else None


def slowdowns(run: Run, earlier: Run) -> Iterator[str]:
    """Say of every figure of both runs whose ratio to its base has grown by more than a tenth."""
    before = {_key(result): result for result in earlier["results"]}
    for result in run["results"]:
        old = before.get(_key(result))
        if old is None or result["candidate"] == result["base"] or old["ratio"] <= 0:
            continue
        growth = result["ratio"] / old["ratio"]
        if growth > SLOWER:
            said = "1 thread" if result["threads"] == 1 else f"{result['threads']} threads"
            spread = "within their spreads" if result["low"] <= old["high"] else "beyond their spreads"
            yield (
                f"{result['suite']}, {result['case']}, {said}: {result['candidate']} takes "
                f"{result['ratio']:.3f} of {result['base']}, {old['ratio']:.3f} before: {100 * (growth - 1):.0f} % "
                f"slower, {spread}"
            )


def _key(result: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(result[name] for name in KEY)
