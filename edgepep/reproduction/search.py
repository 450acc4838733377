"""`edgepep sweep --search`: trials that Optuna chooses by what came of those before, on samples that are held out."""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterator
from statistics import mean
from typing import TYPE_CHECKING, Any

from edgepep import datasets, training
from edgepep.errors import RunError
from edgepep.reproduction import runner
from edgepep.reproduction.command import kept
from edgepep.reproduction.identity import Identity, Plan
from edgepep.reproduction.journal import Journal, Trial
from edgepep.reproduction.progress import Log
from edgepep.reproduction.runner import Said, Where
from edgepep.reproduction.sweep import rows, spread
from edgepep.terminal import table

if TYPE_CHECKING:
    from edgepep.reproduction.space import Space
    from edgepep.reproduction.store import Result
    from edgepep.reproduction.table import Stored

SHOWN = 10
"""Trials in the table."""
_GIVE_UP = 3  # trials in a row that fail
_LOOK = 2.0  # seconds between two looks at what other processes do


class _Open:
    """A trial that is under way here."""

    def __init__(self, trial: Trial, plans: list[Plan]) -> None:
        self.trial, self.plans = trial, plans
        self.waiting: set[Identity] = set()
        self.error = ""


class Search:
    """Trials until there are enough, each a run for every seed.

    A trial's score is the mean accuracy on held-out samples over its seeds. Training that diverges counts as chance,
    100 % by the number of classes: so the search keeps away from there, and one lucky seed does not hide the others.

    Args:
        journal: of the search.
        where: data, device and store.
        total: number of trials, those that were finished before included.

    """

    def __init__(self, journal: Journal, where: Where, total: int) -> None:
        self.journal, self.where, self.total = journal, where, total
        self.space = journal.space
        self.stored = where.store.read()  # also what a grid has stored there, under other names
        self.open: list[_Open] = []
        self.failed: list[str] = []
        self.log = Log(total * len(self.space.seeds), where.store.folder)

    def run(self, jobs: int) -> None:
        """Do what is missing, so many runs at a time.

        Raises:
            RunError: if trial after trial fails.

        """
        training.check_device(self.where.device)
        error = runner.no_data(self.space.recipe.dataset, self.where, test=False)
        if error:
            raise RunError(error)
        with kept(self.log), self.journal.working():
            waiting = False
            while True:
                for said in runner.work(self._plans(), self.where, jobs):
                    self.log.hear(said)
                    self._hear(said)
                self._count()
                if self.log.done >= self.log.total:
                    return
                if not waiting:
                    self.log.line("other processes are at the last trials; waiting for them")
                waiting = True
                time.sleep(_LOOK)

    def _plans(self) -> Iterator[Plan]:
        """Runs that are not stored, of one trial after the other."""
        while begun := self.journal.begin(self.total):
            trial = _Open(begun, self.space.plans(begun.drawn))
            self.open.append(trial)
            missing = [plan for plan in trial.plans if not self._find(plan)]
            trial.waiting = {plan.identity for plan in missing}
            self._count()
            self._close(trial)
            yield from missing

    def _hear(self, said: Said) -> None:
        if said.what not in ("stored", "diverged", "failed"):
            return
        for trial in [trial for trial in self.open if said.plan.identity in trial.waiting]:
            trial.waiting.remove(said.plan.identity)
            trial.error = trial.error or said.error * (said.what == "failed")
            self._close(trial)

    def _find(self, plan: Plan) -> Result | None:
        return self.stored.get(plan.identity) or self.where.store.find(plan)

    def _count(self) -> None:
        """Runs that are done: of finished trials, whoever did them, and of those that are under way here."""
        under_way = sum(len(trial.plans) - len(trial.waiting) for trial in self.open)
        self.log.done = len(self.journal.finished()) * len(self.space.seeds) + under_way

    def _close(self, trial: _Open) -> None:
        """Write a trial's score, if all its runs are done."""
        if trial.waiting:
            return
        self.open.remove(trial)
        if trial.error:
            self.journal.fail(trial.trial)
            self.failed.append(trial.error)
            self._count()
            self.log.line(f"trial {trial.trial.number}: failed")
            if len(self.failed) >= _GIVE_UP:
                raise RunError(f"{_GIVE_UP} trials in a row failed; the last: {trial.error}")
            return
        self.failed = []
        found = score(trial.plans, [self._find(plan) for plan in trial.plans])
        self.journal.finish(trial.trial, found)
        self._count()
        best = max(self.journal.finished(), key=_score)
        beside = "the best so far" if best.number == trial.trial.number else f"best: {best.score:.2f} %"
        drawn = zip(short(self.space), said_of(self.space, trial.trial).values(), strict=True)
        words = "  ".join(f"{name}={word}" for name, word in drawn)
        self.log.line(f"trial {trial.trial.number}: {found:.2f} % held-out, {beside}  {words}")


def search(space: Space, where: Where, total: int, jobs: int) -> list[str]:
    """Do the trials that are missing; return the runs that failed, and why."""
    found = Search(Journal(space, where.store), where, total)
    found.run(jobs)
    return found.log.failed


def score(plans: list[Plan], results: list[Any]) -> float:
    """Mean held-out accuracy in percent; chance for training that diverged."""
    chance = 100 / datasets.info(plans[0].recipe.dataset).classes
    return mean(chance if result.accuracy is None else result.accuracy for result in results)


def said_of(space: Space, trial: Trial) -> dict[str, str]:
    """What was drawn, as words on the command line."""
    return {one.key: one.said(trial.drawn[one.key]) for one in space.dimensions}


def short(space: Space) -> list[str]:
    """Names of what is searched: the last part of the key where no other key ends like it."""
    ends = [one.key.rpartition(".")[2] for one in space.dimensions]
    return [end if ends.count(end) == 1 else one.key for one, end in zip(space.dimensions, ends, strict=True)]


def _score(trial: Trial) -> tuple[float, int]:
    return trial.score or 0.0, -trial.number


def summary(space: Space, trials: list[Trial], stored: Stored, total: int, given: list[str]) -> None:
    """Print the best trials, and how the best one is trained on all data.

    Args:
        space: what is searched.
        trials: those that are finished.
        stored: runs.
        total: number of trials that were asked for.
        given: recipe, and options of where to compute, as words on the command line.

    """
    print(f"{len(trials)} of {total} trials are finished.")
    if not trials:
        return
    best = sorted(trials, key=_score, reverse=True)[:SHOWN]
    lines = []
    for trial in best:
        results = [stored[plan.identity] for plan in space.plans(trial.drawn) if plan.identity in stored]
        known = [result.accuracy for result in results if result.accuracy is not None]
        words = said_of(space, trial).values()
        lines.append([str(trial.number), *words, spread(known), str(len(known)), str(len(results) - len(known))])
    cut = -1 if all(line[-1] == "0" for line in lines) else None
    head = ["trial", *short(space), "held-out accuracy, %", "n", "diverged"]
    table(head[:cut], [line[:cut] for line in lines])
    print(f"the best, trained on all data and then judged once by the test set:\n{command(space, best[0], given)}")


def command(space: Space, trial: Trial, given: list[str]) -> str:
    """`edgepep train` of a trial on all training samples."""
    words = {key: word for key, word in space.fixed.items() if not key.endswith("held_out")} | said_of(space, trial)
    bare = space._replace(fixed={k: v for k, v in space.fixed.items() if k in words}, seeds=space.seeds[:1])
    (plan,) = bare.plans(trial.drawn)
    name, *options = given
    rule = words.pop("rule", None)
    said = ["edgepep", "train", name, *(["--rule", rule] if rule else [])]
    said += [part for key, word in words.items() for part in ("--set", f"{key}={word}")]
    if plan.held_out:
        own = "held_out" in space.recipe.rules.get(plan.rule, {}).get("training", {})
        said += ["--set", f"rules.{plan.rule}.training.held_out=0"] if own else ["--held-out", "0"]
    return shlex.join([*said, *options])


def trial_rows(space: Space, trials: list[Trial], stored: Stored) -> list[dict[str, Any]]:
    """A table, one row a run of a finished trial: its number, and what `edgepep.reproduction.sweep.rows` says."""
    return [{"trial": trial.number, **row} for trial in trials for row in rows(space.plans(trial.drawn), stored)]
