"""Stored results: one small JSON file a run, found again by what the run is, never overwritten."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from edgepep import models
from edgepep.epoch import accuracy_key
from edgepep.errors import EdgepepError, RunError
from edgepep.reproduction import angles
from edgepep.reproduction.angles import Series
from edgepep.reproduction.identity import Identity, Plan, setting


def curve_keys(held_out: bool) -> tuple[str, ...]:
    """What a run's curve holds."""
    return "loss", "train_accuracy", accuracy_key(held_out), "seconds"


class Result(NamedTuple):
    """A stored run."""

    path: Path
    identity: Identity
    about: dict[str, Any]
    accuracy: float | None
    """After the last epoch, in percent: of the test set, or of held-out samples; None where training failed."""
    curve: dict[str, list[float]]
    """By epoch: loss, train_accuracy, test_accuracy or held_out_accuracy, seconds."""
    angles: dict[str, Series]
    """By kind, by layer, by epoch, in degrees; empty where none were asked for."""

    @property
    def seconds(self) -> float:
        """Of training, without evaluation."""
        return math.fsum(self.curve["seconds"])


class Store:
    """A folder of results.

    Args:
        folder: made when the first result is stored.

    """

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)

    def read(self) -> dict[Identity, Result]:
        """Every stored result by its identity.

        Raises:
            RunError: if a file is damaged, or two hold the same run.

        """
        found: dict[Identity, Result] = {}
        for path in sorted(self.folder.glob("*.json")):
            result = read(path)
            other = found.setdefault(result.identity, result)
            if other is not result:
                raise RunError(f"{other.path} and {path} hold the same run; remove one of them.")
        return found

    def find(self, plan: Plan) -> Result | None:
        """A run's result, if it is stored under one of the names that it could have, or was by another process."""
        found = (read(path) for path in (*self._names(plan), *self._noted(plan)) if path.exists())
        return next((result for result in found if result.identity == plan.identity), None)

    def holds(self, plan: Plan) -> bool:
        """Whether a run is stored under one of the names that it could have."""
        return self.find(plan) is not None

    @contextmanager
    def lock(self, plan: Plan, timeout: float) -> Iterator[bool]:
        """Hold a run, so that no other process does it; gives False if another one holds it for as long as timeout.

        Raises:
            RunError: if the folder cannot be written.

        """
        from filelock import Timeout

        held = self.lock_file(plan.identity.short)
        try:
            held.acquire(timeout=timeout)
        except Timeout:
            yield False
            return
        try:
            yield True
        finally:
            held.release()

    def add(self, plan: Plan, table: dict[str, Any]) -> Path:
        """Write a result whole or not at all, under a name that is free.

        Raises:
            RunError: if the run is stored already, or the file cannot be written.

        """
        content = json.dumps(table, indent=1, allow_nan=False) + "\n"
        with self.lock_file("names"):
            path = next((path for path in self._names(plan) if not path.exists()), None)
            if path is None or self.holds(plan):
                raise RunError(f"{plan.label} is stored already in {self.folder}.")
            beside = path.with_name(f".{path.name}.new")
            try:
                beside.write_text(content, encoding="utf-8")
                beside.replace(path)
                self._note(plan).write_text(path.name, encoding="utf-8")
            except OSError as error:
                raise RunError(f"cannot write {path}: {error.strerror}.") from error
        return path

    def _note(self, plan: Plan) -> Path:
        """File that says under which name a run was stored: another process may call the same run otherwise."""
        return self.folder / ".locks" / f"{plan.identity.short}.stored"

    def _noted(self, plan: Plan) -> list[Path]:
        note = self._note(plan)
        return [self.folder / note.read_text(encoding="utf-8")] if note.exists() else []

    def _names(self, plan: Plan) -> list[Path]:
        """Where a run may be: under its label, or with a digest where another run has that name."""
        return [self.folder / f"{plan.label}.json", self.folder / f"{plan.label}-{plan.identity.short}.json"]

    def work(self, plan: Plan) -> Path:
        """Directory in which a run is done, so that it can be gone on with, by whatever name; git does not see it."""
        folder = self.folder / ".work"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / ".gitignore").write_text("*\n")
        except OSError as error:
            raise RunError(f"cannot write in {self.folder}: {error.strerror}.") from error
        begun = sorted(folder.glob(f"*-{plan.identity.short}"))
        return begun[0] if begun else folder / f"{plan.label}-{plan.identity.short}"

    def lock_file(self, name: str) -> Any:
        """A lock that is free again as soon as its process has ended, however it ended."""
        from filelock import FileLock

        locks = self.folder / ".locks"
        try:
            locks.mkdir(parents=True, exist_ok=True)
            (locks / ".gitignore").write_text("*\n")
        except OSError as error:
            raise RunError(f"cannot write in {self.folder}: {error.strerror}.") from error
        return FileLock(locks / f"{name}.lock")


def read(path: Path) -> Result:
    """Read one result.

    Raises:
        RunError: if it is damaged.

    """
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
        head = about["settings"].get("head") or {}
        recipe = models.from_table(about["settings"], str(path), [str(head.get("rule"))])  # which is not made here
        rule, seed, epochs, failed = str(about["rule"]), int(about["seed"]), int(about["epochs"]), "failed" in about
        held_out = bool(recipe.settings(rule).held_out)
        judged = accuracy_key(held_out)
        curve = {key: [float(value) for value in about["curve"][key]] for key in curve_keys(held_out)}
        accuracy = None if failed else float(about[judged])
        lengths = {len(values) for values in curve.values()}
        if lengths != {epochs} and not (failed and len(lengths) == 1):
            raise ValueError(f"its curve does not have {epochs} epochs")
        if accuracy is not None and abs(accuracy - curve[judged][-1]) > 0.01:
            raise ValueError(f"{judged} is {accuracy}, its curve ends at {curve[judged][-1]}")
        measured = angles.read(about.get("angles", {}), lengths.pop())
        return Result(path, Identity(setting(recipe, rule, epochs), seed), about, accuracy, curve, measured)
    except OSError as error:
        raise RunError(f"cannot read {path}: {error.strerror}.") from error
    except KeyError as error:
        raise RunError(f"{path} is damaged: it has no {error}. Remove it, and its run is done again.") from error
    except (ValueError, TypeError, AttributeError, EdgepepError) as error:
        raise RunError(f"{path} is damaged: {error}. Remove it, and its run is done again.") from error
