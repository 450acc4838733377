"""A run on disk: what was asked for, what came of it, and the weights; no pickle, nothing in a file is executed."""

import json
import os
import platform
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from edgepep import models
from edgepep.errors import RunError
from edgepep.network import Network
from edgepep.rule import Rule

WEIGHTS, ABOUT, METRICS = "weights.safetensors", "run.json", "metrics.jsonl"


class Run(NamedTuple):
    """A finished run read back from its directory."""

    recipe: models.Recipe
    rule: str
    seed: int
    learner: Rule
    about: dict[str, Any]

    @property
    def network(self) -> Network:
        """The trained network."""
        return self.learner.network

    def under(self, rule: str | None) -> Rule | None:
        """The rule that trained it; or another of that name on the same network and seed; or, for "none", no rule."""
        if rule is None or rule == self.rule:
            return self.learner
        return None if rule == "none" else self.recipe.make_rule(self.network, rule, self.seed)


def fresh_directory(path: Path | str) -> Path:
    """Make a run directory, which must not exist.

    Raises:
        RunError: if it exists, or cannot be made.

    """
    path = Path(path)
    try:
        path.mkdir(parents=True)
    except FileExistsError:
        raise RunError(f"{path} exists already; name another directory with --out, or remove it.") from None
    except OSError as error:
        raise RunError(f"cannot make the run directory {path}: {error.strerror}.") from error
    return path


def free(path: Path) -> Path:
    """The path, or the first of path-2, path-3, … that does not exist."""
    tries = [path, *(path.with_name(f"{path.name}-{n}") for n in range(2, 10_000))]
    return next(p for p in tries if not p.exists())


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
    _write(path / ABOUT, json.dumps(describe(recipe, rule, seed, **more), indent=2).encode())


def note(path: Path, metrics: dict[str, Any]) -> None:
    """Add one line to the run's metrics."""
    try:
        with (path / METRICS).open("a", encoding="utf-8") as file:
            file.write(json.dumps(metrics) + "\n")
    except OSError as error:
        raise RunError(f"cannot write {path / METRICS}: {error.strerror}.") from error


def save_weights(path: Path, rule: Rule) -> None:
    """Write the network's weights and the rule's feedback."""
    from safetensors.torch import save

    state: dict[str, Tensor] = {k: v.detach().cpu().contiguous() for k, v in rule.state_dict().items()}
    _write(path / WEIGHTS, save(state))


def read(path: Path | str) -> Run:
    """Read a run directory back: its recipe, and its rule and network with what they learned.

    Raises:
        RunError: if a file is missing, damaged, or does not fit the recipe.

    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = Path(path)
    if not (path / ABOUT).is_file():
        raise RunError(f"{path} is not a run directory: it has no {ABOUT}. `edgepep train` makes one.")
    try:
        about = json.loads((path / ABOUT).read_text(encoding="utf-8"))
        recipe = models.from_table(about["recipe"], str(path / ABOUT))
        rule, seed = str(about["rule"]), int(about["seed"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"{path / ABOUT} is damaged: {error}.") from error
    learner = recipe.make_rule(recipe.under(rule).build(seed), rule, seed)
    try:
        learner.load_state_dict(load_file(path / WEIGHTS))
    except (OSError, SafetensorError, RuntimeError) as error:
        raise RunError(f"{path / WEIGHTS} cannot be used: {str(error).splitlines()[0]}") from error
    return Run(recipe, rule, seed, learner.eval(), about)


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _write(path: Path, content: bytes) -> None:
    """Write a file whole or not at all."""
    beside = path.with_name(path.name + ".new")
    try:
        beside.write_bytes(content)
        beside.replace(path)
    except OSError as error:
        raise RunError(f"cannot write {path}: {error.strerror}.") from error
