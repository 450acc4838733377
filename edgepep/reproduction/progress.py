"""What a person sees of runs: lines that do as well in a file, and lists of what is there and what is missing."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from statistics import mean

from edgepep.reproduction.identity import Plan
from edgepep.reproduction.runner import Said
from edgepep.reproduction.sets import RunSet
from edgepep.reproduction.store import Result
from edgepep.reproduction.table import Stored
from edgepep.terminal import table

_EVERY = 30.0  # seconds between two lines of one run


class Log:
    """A line where a run begins, now and then while it goes on, and where it ends."""

    def __init__(self, total: int, folder: Path, done: int = 0) -> None:
        self.total, self.folder, self.done = total, folder, done
        self.stored = 0
        self.failed: list[str] = []
        self.started: dict[str, float] = {}
        self.shown: dict[str, float] = {}
        self.waiting: set[str] = set()

    def hear(self, said: Said) -> None:
        """Print what is new to a person."""
        label, now = said.plan.label, time.monotonic()
        if said.what == "busy":
            if label not in self.waiting:
                self.line(f"{label}  another process is at it; left for later")
            self.waiting.add(label)
        elif said.what == "began":
            self.started[label] = self.shown[label] = now
            self.line(f"{label}  begins")
        elif said.what == "epoch":
            if said.epoch and now - self.shown[label] >= _EVERY:
                self.shown[label] = now
                self.line(f"{label}  epoch {said.epoch.epoch}/{said.plan.epochs}  {self.outcome(said, now)}")
        else:
            self.done += 1
            self.stored += said.what != "failed"
            self.line(f"{label}  {self.outcome(said, now)}")
            if said.what == "failed":
                self.failed.append(f"{label}: {said.error}")

    def outcome(self, said: Said, now: float) -> str:
        """Where a run stands."""
        if said.what == "failed":
            return f"failed: {said.error}"
        if said.what == "diverged":
            return "diverged, and stored as that"
        if said.epoch is None:
            return "stored by another process"
        held_out = " held-out" if said.plan.held_out else ""
        return f"{said.epoch.accuracy:.2f} %{held_out}  {duration(now - self.started[said.plan.label])}"

    def line(self, text: str) -> None:
        """Print at once, also into a file."""
        print(f"[{self.done}/{self.total}] {text}", flush=True)

    def stopped(self) -> None:
        """Say what is kept."""
        print(f"{self.stored} runs of this call are kept in {self.folder}; the same command goes on.", flush=True)


def duration(seconds: float) -> str:
    """Seconds, minutes or hours, to a person."""
    if seconds < 99:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def list_sets(chosen: Sequence[RunSet], stored: Stored) -> None:
    """Print a row a set."""
    rows = []
    for one in chosen:
        plans = one.plans()
        rows.append((one.name, f"{sum(p.identity in stored for p in plans)} of {len(plans)}", one.about.title))
    table(("set", "runs stored", "what it is"), rows)


def list_runs(plans: Sequence[Plan], stored: Stored, jobs: int) -> None:
    """Print a row a run, with its result or how long it may take."""
    rows, missing = [], []
    for plan in plans:
        result = stored.get(plan.identity)
        if result is None:
            missing.append(estimate(plan, stored))
            guess = f", about {duration(missing[-1])}" if missing[-1] is not None else ""
            rows.append((plan.label, f"missing{guess}", ""))
        else:
            accuracy = "diverged" if result.accuracy is None else f"{result.accuracy:.2f} %"
            rows.append((plan.label, accuracy, result.path.name))
    table(("run", "result", "file"), rows)
    known = [seconds for seconds in missing if seconds is not None]
    said = f"{len(plans) - len(missing)} of {len(plans)} runs are stored"
    if known:
        said += f"; {len(known)} of the others take about {duration(sum(known) / jobs)} with {jobs} at a time"
    print(f"{said}." + (f" For {len(missing) - len(known)} nothing is known." if len(known) < len(missing) else ""))


def estimate(plan: Plan, stored: Stored) -> float | None:
    """Seconds that a run may take, by stored ones: of the same setting, else the same layers and rule, else any rule.

    Only training is counted, not evaluation.
    """
    layers = plan.recipe.table()["network"]["layers"]
    known = [r for r in stored.values() if r.curve["seconds"]]
    same = [r for r in known if r.identity.setting == plan.identity.setting]
    alike = [
        r for r in known if r.about["recipe"] == plan.recipe.name and r.about["settings"]["network"]["layers"] == layers
    ]
    for found in (same, [r for r in alike if r.about["rule"] == plan.rule], alike):
        if found:
            return plan.epochs * mean(_per_epoch(result) for result in found)
    return None


def _per_epoch(result: Result) -> float:
    return result.seconds / len(result.curve["seconds"])
