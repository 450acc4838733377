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
    from edgepep.models import Recipe
    from edgepep.reproduction.identity import Plan
    from edgepep.reproduction.runner import Where
    from edgepep.reproduction.table import Stored

Set = Annotated[
    Optional[list[str]],  # noqa: UP045
    typer.Option(
        "--set", help="Such as rule=pepita,dfa or seed=0..9; in a search also a range: training.learning_rate=0.01~1."
    ),
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
    search: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option("--search", metavar="TRIALS", help="Search by Optuna on held-out samples, so many trials."),
    ] = None,
) -> None:
    """Do every run of a grid that is not stored yet, and print mean and spread over the seeds.

    With --search the axes are what is searched: choices (a,b,c), whole numbers (1..9) and numbers (0.01~1, drawn evenly
    in their logarithm where the ends are positive and a factor of 10 or more apart). The mean over the seeds is what
    counts, on samples that training.held_out=N takes from the training set. The same command goes on; several may work
    on one folder.
    """
    from edgepep import durable, models
    from edgepep.reproduction import grid, progress
    from edgepep.reproduction.runner import Where
    from edgepep.reproduction.store import Store

    chosen = models.load(recipe)
    said = " ".join(["edgepep sweep", recipe, *(f"--set {word}" for word in set or [])])
    store = Store(results or Path("sweeps") / chosen.name)
    jobs = jobs if jobs is not None else cores() if device == "cpu" else 1
    if jobs < 1:
        raise EdgepepError(f"--jobs is {jobs}; it must be at least 1.")
    if csv is not None:
        durable.check_place(csv)
    where = Where(store, data_dir, device)
    if search is not None:
        if slurm:
            raise EdgepepError(
                "--slurm does a grid, whose runs are known before; --search does its own. Submit the command without "
                "--slurm as several jobs on one --results folder: they share the trials."
            )
        _search(chosen, recipe, set or [], f"{said} --search {search}", search, where, jobs, csv, show)
        return
    axes = [grid.axis(word) for word in set or []]
    plans = grid.plans(chosen, axes, said)
    stored = store.read()
    if show:
        progress.list_runs(plans, stored, jobs)
        return
    missing = [plan for plan in plans if plan.identity not in stored]
    failed = do(missing, where, jobs, slurm) if missing else []
    stored = store.read()
    summary(plans, stored)
    if csv is not None:
        write(rows(plans, stored), csv)
    if failed:
        raise RunError(f"{len(failed)} of {len(missing)} runs failed; the first: {failed[0]}")


def _search(
    chosen: Recipe,
    recipe: str,
    words: list[str],
    command: str,
    total: int,
    where: Where,
    jobs: int,
    csv: Path | None,
    show: bool,
) -> None:
    from edgepep.reproduction import journal, search
    from edgepep.reproduction.space import space

    if total < 1:
        raise EdgepepError(f"--search is {total}; it must be at least 1 trial.")
    found, store = space(chosen, words, command), where.store
    failed = [] if show else search.search(found, where, total, jobs)
    trials, stored = journal.finished(found, store), store.read()
    options = [] if where.device == "cpu" else ["--device", where.device]
    options += ["--data-dir", str(where.data_dir)] if where.data_dir else []
    search.summary(found, trials, stored, total, [recipe, *options])
    if csv is not None:
        write(search.trial_rows(found, trials, stored), csv)
    if failed:
        raise RunError(f"{len(failed)} runs failed; the first: {failed[0]}")


def rows(plans: list[Plan], stored: Stored) -> list[dict[str, Any]]:
    """A table, one row a stored run: rule, seed, settings of the grid, accuracy in percent, loss, seconds, file.

    The column of the accuracy is test_accuracy, or held_out_accuracy for runs that are judged by held-out samples.
    `pandas.DataFrame(rows(...))` makes a data frame of it. The accuracy of a run that diverged is not a number.
    """
    from edgepep.epoch import accuracy_key
    from edgepep.reproduction.grid import coordinates

    table = []
    for plan in plans:
        result = stored.get(plan.identity)
        if result is not None:
            accuracy = math.nan if result.accuracy is None else result.accuracy
            loss = result.curve["loss"][-1] if result.curve["loss"] else math.nan
            judged = accuracy_key(bool(plan.held_out))
            done = {"epochs": plan.epochs, judged: accuracy, "loss": loss, "seconds": round(result.seconds, 2)}
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
    from edgepep.epoch import judged_on
    from edgepep.reproduction.grid import coordinates
    from edgepep.terminal import table

    points: dict[tuple[str, tuple[tuple[str, str], ...]], list[float | None]] = {}
    for plan in plans:
        result = stored.get(plan.identity)
        if result is not None:
            place = tuple((key, str(value)) for key, value in coordinates(plan).items() if key != "seed")
            points.setdefault((judged_on(bool(plan.held_out)), place), []).append(result.accuracy)
    keys = list(dict.fromkeys(key for _, place in points for key, _ in place))
    figures = list(dict.fromkeys(judged for judged, _ in points)) or [judged_on(False)]
    lines = []
    for (judged, place), accuracies in points.items():
        known = [a for a in accuracies if a is not None]
        said = [spread(known) if judged == figure else "" for figure in figures]
        own = dict(place)
        lines.append([*(own.get(key, "") for key in keys), *said, str(len(known)), str(len(accuracies) - len(known))])
    none_lost = all(line[-1] == "0" for line in lines)
    head = [*keys, *(f"{figure} accuracy, %" for figure in figures), "n", "diverged"]
    table(head[:-1] if none_lost else head, [line[:-1] if none_lost else line for line in lines])


def spread(accuracies: list[float]) -> str:
    """Mean ± standard deviation, or a dash where there is nothing."""
    if not accuracies:
        return "-"
    around = f" ± {statistics.stdev(accuracies):.2f}" if len(accuracies) > 1 else ""
    return f"{statistics.mean(accuracies):.2f}{around}"
