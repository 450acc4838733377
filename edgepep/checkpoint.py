"""A run on disk: what was asked for, what came of it, and the weights; no pickle, nothing in a file is executed."""

from __future__ import annotations

import hashlib
import json
import os
import platform
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from edgepep import durable, models, sealed
from edgepep.errors import EdgepepError, RunError
from edgepep.network import Network
from edgepep.outside import names_in, refuse_unnamed
from edgepep.rule import Rule

WEIGHTS, ABOUT, METRICS = "weights.safetensors", "run.json", "metrics.jsonl"
FORMAT = 2
"""Of run directories; from 2 on, run.json and the weights carry their SHA-256."""
_MOST_ABOUT = 1 << 22  # bytes of run.json
_SPARE = 1 << 26  # bytes of a file of weights or of a state, beyond what the rule's own tensors need


class Run(NamedTuple):
    """A run read back from its directory."""

    recipe: models.Recipe
    rule: str
    seed: int
    learner: Rule
    about: dict[str, Any]

    @property
    def network(self) -> Network:
        """The trained network."""
        return self.learner.network

    @property
    def parts(self) -> set[str]:
        """Names of its rules: of the run, and of the last layers if they have another."""
        return {self.rule, *([self.recipe.head.rule] if self.recipe.head else [])}

    def under(self, rule: str | None) -> Rule | None:
        """The rule that trained it, also by what `read` was given; another on the same network; for "none", none."""
        if rule is None or rule == self.rule or (":" in rule and names_in(rule) <= self.parts):
            return self.learner
        return None if rule == "none" else self.recipe.make_rule(self.network, rule, self.seed)


def free(path: Path) -> Path:
    """The path, or the first of path-2, path-3, … that does not exist."""
    return next(p for p in _names(path) if not p.exists())


def unfinished(path: Path, asked: dict[str, Any]) -> Path:
    """The last of path, path-2, … that was asked the same and is not finished.

    Raises:
        RunError: if there is none.

    """
    found = None
    for other in _names(path):
        if not other.exists():
            break
        try:
            about = read_about(other)
        except RunError:
            continue
        found = found if about.get("finished") or differing(about, asked) else other
    if found is None:
        raise RunError(f"there is no unfinished run of this kind at {path}; name one with --out.")
    return found


def _names(path: Path) -> list[Path]:
    return [path, *(path.with_name(f"{path.name}-{n}") for n in range(2, 10_000))]


def asked_for(recipe: models.Recipe, rule: str, seed: int, epochs: int, device: str, parts: int = 1) -> dict[str, Any]:
    """What a run is asked to do, as it is read back from JSON: all that determines what comes of it.

    Args:
        recipe: of the run.
        rule: its name.
        seed: of the run.
        epochs: of the run.
        device: of the run.
        parts: into which each batch is cut.

    """
    asked: dict[str, Any] = {"recipe": recipe.table(), "rule": rule, "seed": seed, "epochs": epochs, "device": device}
    asked |= {"parts": parts} if parts > 1 else {}
    table: dict[str, Any] = json.loads(json.dumps(asked))
    return table


def differing(about: dict[str, Any], asked: dict[str, Any], place: str = "") -> str:
    """First thing that two runs were asked otherwise, as "key: this, not that", or nothing."""
    for key in [*asked, *(k for k in about if k not in asked and place)]:
        here, there = about.get(key), asked.get(key)
        if isinstance(here, dict) and isinstance(there, dict):
            found = differing(here, there, f"{place}{key}.")
            if found:
                return found
        elif here != there:
            return f"{place}{key} is {here!r} there, {there!r} here"
    return ""


def describe(recipe: models.Recipe, rule: str, seed: int, **more: Any) -> dict[str, Any]:
    """What a run is asked to do, and where: recipe, versions, machine and time, ready for JSON."""
    return {
        "recipe": recipe.table(),
        "rule": rule,
        "seed": seed,
        **more,
        "versions": {name: _version(name) for name in ("edgepep", "torch", "snntorch", "brevitas")},
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPUs",
        "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def begin(path: Path, recipe: models.Recipe, rule: str, seed: int, **more: Any) -> None:
    """Write what a run was asked to do, before it does anything."""
    _write_about(path, {"format": FORMAT, **describe(recipe, rule, seed, **more)})


def finish(path: Path) -> None:
    """Write that a run has come to its end."""
    now = datetime.now(timezone.utc).isoformat(timespec="seconds")
    _write_about(path, read_about(path) | {"finished": now})


def note(path: Path, metrics: dict[str, Any]) -> None:
    """Add one line to the run's metrics."""
    try:
        with (path / METRICS).open("a", encoding="utf-8") as file:
            file.write(json.dumps(metrics) + "\n")
    except OSError as error:
        raise RunError(f"cannot write {path / METRICS}: {error.strerror}.") from error


def rewrite_metrics(path: Path, lines: list[dict[str, Any]]) -> None:
    """Write the run's metrics anew, so that each epoch is there once."""
    durable.write(path / METRICS, "".join(json.dumps(line) + "\n" for line in lines).encode())


def metrics(path: Path) -> list[dict[str, Any]]:
    """The run's metrics, a table for each epoch.

    Raises:
        RunError: if they are damaged.

    """
    if not (path / METRICS).exists():
        return []
    try:
        lines = durable.read(path / METRICS, _SPARE).decode().splitlines()
        return [dict(json.loads(line)) for line in lines]
    except (ValueError, TypeError, RecursionError) as error:
        raise RunError(f"{path / METRICS} is damaged: {error}.") from error


def save_weights(path: Path, rule: Rule) -> None:
    """Write the network's weights and the rule's feedback, with their SHA-256."""
    state: dict[str, Tensor] = {k: v.detach().cpu().contiguous() for k, v in rule.state_dict().items()}
    durable.write(path / WEIGHTS, sealed.pack(state))


def most_bytes(rule: Rule) -> int:
    """Bytes that a file with a rule's tensors may have, in floats of 64 bits and with a velocity, and room to spare."""
    numbers: int = sum(value.numel() for value in rule.state_dict().values())
    return _SPARE + 24 * numbers


def read_about(path: Path | str) -> dict[str, Any]:
    """Read what a run was asked to do.

    Raises:
        RunError: if it is no run directory, or the file is damaged.

    """
    file = Path(path) / ABOUT
    if not file.is_file():
        raise RunError(f"{path} is not a run directory: it has no {ABOUT}. `edgepep train` makes one.")
    try:
        about = json.loads(durable.read(file, _MOST_ABOUT).decode())
        digest = about.pop("sha256", None)
        if digest != _digest(about) and (digest or "format" in about):
            raise ValueError("its SHA-256 is not the one that it was written with")
    except (ValueError, AttributeError, TypeError, RecursionError) as error:
        raise RunError(f"{file} is damaged: {error}.") from error
    found: dict[str, Any] = about
    return found


def read(path: Path | str, rule: str | None = None) -> Run:
    """Read a run directory back: its recipe, and its rule and network with what they learned.

    Args:
        path: of the directory.
        rule: name of the run's rule, "package.module:Name", where it is code of your own: no file can have it imported.
            So for a rule of the last layers; both with a comma between.

    Raises:
        RunError: if a file is missing, damaged, or does not fit the recipe.

    """
    path = Path(path)
    about, trusted = read_about(path), names_in(rule)
    try:
        for one in (str(about["rule"]), str((about["recipe"].get("head") or {}).get("rule", ""))):
            refuse_unnamed(path / ABOUT, one, trusted, RunError)
        recipe = models.from_table(about["recipe"], str(path / ABOUT), trusted)
        named, seed = str(about["rule"]), int(about["seed"])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError) as error:
        raise RunError(f"{path / ABOUT} is damaged: {error}.") from error
    learner = recipe.make_rule(recipe.under(named).build(seed), named, seed)
    try:
        content = durable.read(path / WEIGHTS, most_bytes(learner))
        learner.load_state_dict(sealed.unpack(content, required="format" in about))
    except (EdgepepError, RuntimeError) as error:
        raise RunError(f"{path / WEIGHTS} cannot be used: {str(error).splitlines()[0]}") from error
    return Run(recipe, named, seed, learner.eval(), about)


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _write_about(path: Path, about: dict[str, Any]) -> None:
    table: dict[str, Any] = json.loads(json.dumps(about))
    durable.write(path / ABOUT, json.dumps(table | {"sha256": _digest(table)}, indent=2).encode())


def _digest(about: dict[str, Any]) -> str:
    """SHA-256 of a table's canonical JSON."""
    return hashlib.sha256(json.dumps(about, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
