"""`edgepep sweep`: a typer command; torch is imported inside it only."""

from __future__ import annotations

import csv
import math
import statistics
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from edgepep.errors import EdgepepError, RunError
from edgepep.reproduction.command import cores, do

if TYPE_CHECKING:
    from edgepep.reproduction.identity import Plan
    from edgepep.reproduction.table import Stored

Set = Annotated[
    Optional[list[str]],  # noqa: UP045
    typer.Option("--set", help="An axis, such as rule=pepita,backprop, seed=0..9 or training.learning_rate=0.1,0.01."),
]


def sweep(
    recipe: Annotated[str, typer.Argument(help="A recipe's name (`edgepep models`), or a path to a .toml file.")],
    set: Set = None,
    jobs: Annotated[Optional[int], typer.Option(help="Runs at a time; else as many as CPUs, or 1 on a GPU.")] = None,  # noqa: UP045
    device: Annotated[str, typer.Option(help="cpu, cuda or mps.")] = "cpu",
    data_dir: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Where the data are; else $EDGEPEP_DATA, else the cache."),
    ] = None,
    results: Annotated[Optional[Path], typer.Option(help="Folder of its runs; else sweeps/RECIPE.")] = None,  # noqa: UP045
    csv: Annotated[Optional[Path], typer.Option(help="Write a row a run into this file.")] = None,  # noqa: UP045
    show: Annotated[bool, typer.Option("--list", "--dry-run", help="Only say what is stored and missing.")] = False,
    slurm: Annotated[bool, typer.Option("--slurm", help="A job a run, by submitit; --jobs at a time.")] = False,
) -> None:
    """Do every run of a grid that is not stored yet, and print mean and spread over the seeds."""
    from edgepep import models
    from edgepep.reproduction import grid, progress
    from edgepep.reproduction.runner import Where
    from edgepep.reproduction.store import Store

    chosen = models.load(recipe)
    axes = [grid.axis(word) for word in set or []]
    plans = grid.plans(chosen, axes, " ".join(["edgepep sweep", recipe, *(f"--set {word}" for word in set or [])]))
    store = Store(results or Path("sweeps") / chosen.name)
    jobs = jobs if jobs is not None else cores() if device == "cpu" else 1
    if jobs < 1:
        raise EdgepepError(f"--jobs is {jobs}; it must be at least 1.")
    stored = store.read()
    if show:
        progress.list_runs(plans, stored, jobs)
        return
    missing = [plan for plan in plans if plan.identity not in stored]
    failed = do(missing, Where(store, data_dir, device), jobs, slurm) if missing else []
    stored = store.read()
    summary(plans, stored)
    if csv is not None:
        write(rows(plans, stored), csv)
    if failed:
        raise RunError(f"{len(failed)} of {len(missing)} runs failed; the first: {failed[0]}")


def rows(plans: list[Plan], stored: Stored) -> list[dict[str, Any]]:
    """A table, one row a stored run: rule, seed, settings of the grid, test accuracy in percent, loss, seconds, file.

    `pandas.DataFrame(rows(...))` makes a data frame of it. The accuracy of a run that diverged is not a number.
    """
    from edgepep.reproduction.grid import coordinates

    table = []
    for plan in plans:
        result = stored.get(plan.identity)
        if result is not None:
            accuracy = math.nan if result.accuracy is None else result.accuracy
            loss = result.curve["loss"][-1] if result.curve["loss"] else math.nan
            done = {"epochs": plan.epochs, "test_accuracy": accuracy, "loss": loss, "seconds": round(result.seconds, 2)}
            table.append({**coordinates(plan), **done, "file": result.path.name})
    return table


def write(table: list[dict[str, Any]], path: Path) -> None:
    """Write a table as CSV.

    Raises:
        RunError: if it cannot be written.

    """
    head = list(dict.fromkeys(key for row in table for key in row))
    try:
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, head)
            writer.writeheader()
            writer.writerows(table)
    except OSError as error:
        raise RunError(f"cannot write {path}: {error.strerror}.") from error


def summary(plans: list[Plan], stored: Stored) -> None:
    """Print a row for each point of the grid, over its seeds, in the grid's order: a test set is not to choose by."""
    from edgepep.reproduction.grid import coordinates
    from edgepep.terminal import table

    points: dict[tuple[tuple[str, str], ...], list[float | None]] = {}
    for plan in plans:
        result = stored.get(plan.identity)
        if result is not None:
            point = tuple((key, str(value)) for key, value in coordinates(plan).items() if key != "seed")
            points.setdefault(point, []).append(result.accuracy)
    keys = list(dict.fromkeys(key for point in points for key, _ in point))
    lines = []
    for point, accuracies in points.items():
        known = [a for a in accuracies if a is not None]
        spread = f" ± {statistics.stdev(known):.2f}" if len(known) > 1 else ""
        said = f"{statistics.mean(known):.2f}{spread}" if known else "-"
        lost = str(len(accuracies) - len(known))
        lines.append([*(dict(point).get(key, "") for key in keys), said, str(len(known)), lost])
    none_lost = all(line[-1] == "0" for line in lines)
    head = [*keys, "test accuracy, %", "n", "diverged"]
    table(head[:-1] if none_lost else head, [line[:-1] if none_lost else line for line in lines])
