"""`edgepep reproduce` and `edgepep results`: typer commands; torch is imported inside them only."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from edgepep.errors import EdgepepError, RunError, Stopped

if TYPE_CHECKING:
    from edgepep.reproduction.identity import Plan
    from edgepep.reproduction.progress import Log
    from edgepep.reproduction.runner import Where
    from edgepep.reproduction.sets import RunSet
    from edgepep.reproduction.store import Store
    from edgepep.reproduction.table import Stored

# typer reads these annotations when a command runs, so they are written out in full for Python 3.10.
Results = Annotated[Optional[Path], typer.Option(help="Folder of stored runs; else results/runs.")]  # noqa: UP045


def reproduce(
    name: Annotated[Optional[str], typer.Argument(help="A set's name, or a .toml file; none lists the sets.")] = None,  # noqa: UP045
    seeds: Annotated[Optional[int], typer.Option(help="How many, from 0; else the set's.")] = None,  # noqa: UP045
    jobs: Annotated[Optional[int], typer.Option(help="Runs at a time; else as many as CPUs, or 1 on a GPU.")] = None,  # noqa: UP045
    device: Annotated[str, typer.Option(help="cpu, cuda or mps.")] = "cpu",
    data_dir: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Where the data are; else $EDGEPEP_DATA, else the cache."),
    ] = None,
    results: Results = None,
    show: Annotated[bool, typer.Option("--list", "--dry-run", help="Only say what is stored and missing.")] = False,
    plot: Annotated[Optional[Path], typer.Option(help="Draw curves, PNG and SVG, into this folder.")] = None,  # noqa: UP045
) -> None:
    """Do the runs of a set that are not stored yet, and print published figures beside ours."""
    from edgepep.reproduction import progress, sets

    store = _store(results)
    if name is None:
        progress.list_sets([sets.load(known) for known in sets.names()], store.read())
        return
    chosen = sets.load(name)
    plans = chosen.plans(seeds)
    jobs = jobs if jobs is not None else cores() if device == "cpu" else 1
    if jobs < 1:
        raise EdgepepError(f"--jobs is {jobs}; it must be at least 1.")
    stored = store.read()
    if show:
        progress.list_runs(plans, stored, jobs)
        return
    from edgepep.reproduction.runner import Where

    missing = [plan for plan in plans if plan.identity not in stored]
    failed = do(missing, Where(store, data_dir, device), jobs) if missing else []
    _show(chosen, store.read(), plot)
    if failed:
        raise RunError(f"{len(failed)} of {len(missing)} runs failed; the first: {failed[0]}")


def results(
    out: Annotated[Optional[Path], typer.Option(help="Write it here, such as RESULTS.md.")] = None,  # noqa: UP045
    results: Results = None,
) -> None:
    """The page of results, from all sets and every stored run."""
    from edgepep import durable
    from edgepep.reproduction import sets
    from edgepep.reproduction.page import page

    store = _store(results)
    if out is not None:
        durable.check_place(out)
    if not store.folder.is_dir():
        raise RunError(f"there is no folder {store.folder} of results; `edgepep reproduce NAME` stores them.")
    made = page([sets.load(name) for name in sets.names()], store.read())
    if out is None:
        print(made, end="")
        return
    try:
        out.write_text(made, encoding="utf-8")
    except OSError as error:
        raise RunError(f"cannot write {out}: {error.strerror}.") from error


def _store(results: Path | None) -> Store:
    from edgepep.folders import RUNS
    from edgepep.reproduction.store import Store

    return Store(results or RUNS)


def cores() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def do(missing: list[Plan], where: Where, jobs: int, slurm: bool = False) -> list[str]:
    """Do runs, with a line for what happens; return those that failed, and why."""
    from edgepep import training
    from edgepep.reproduction import runner
    from edgepep.reproduction.progress import Log

    log = Log(len(missing), where.store.folder)
    with kept(log):
        if slurm:
            from edgepep.reproduction import cluster

            heard = cluster.submitted(missing, where, jobs)
        else:
            training.check_device(where.device)
            heard = runner.run(missing, where, jobs)
        for said in heard:
            log.hear(said)
    return log.failed


@contextmanager
def kept(log: Log) -> Iterator[None]:
    """Context in which SIGTERM ends the program in order, and whatever ends it has it said what is kept."""
    from edgepep import signals

    try:
        with signals.ending():
            yield
    except (KeyboardInterrupt, Stopped, SystemExit):
        log.stopped()
        raise


def _show(chosen: RunSet, stored: Stored, plot: Path | None) -> None:
    from edgepep.reproduction.table import notes, sheets
    from edgepep.terminal import table

    for sheet in sheets(chosen, stored):
        if sheet.rows:
            print(f"\n{sheet.title}")
            table(sheet.head, sheet.rows)
    print("\n" + "\n".join([*notes(chosen, stored), f"source: {chosen.about.source}"]))
    if plot is not None:
        from edgepep.reproduction import plots

        for path in plots.save(chosen, stored, plot):
            print(path)
