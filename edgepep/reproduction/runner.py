"""Running what is missing: here, or in several processes, each run under its own lock."""

from __future__ import annotations

import shutil
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from edgepep import checkpoint, datasets, models, rundir, signals, training
from edgepep.epoch import Epoch, accuracy_key
from edgepep.errors import DataError, DivergenceError, EdgepepError, RunError, Stopped
from edgepep.keeper import Policy
from edgepep.models import Recipe
from edgepep.reproduction import angles
from edgepep.reproduction.identity import Plan, setting
from edgepep.reproduction.store import Store, curve_keys

_PATIENCE = 2.0  # seconds for which a run that another process holds is waited for before others are tried

_SAVE_EVERY = 60.0  # seconds between two states that a run can go on from


class Said(NamedTuple):
    """What a run says of itself."""

    plan: Plan
    what: Literal["began", "epoch", "stored", "diverged", "failed", "busy"]
    epoch: Epoch | None = None
    error: str = ""


class Where(NamedTuple):
    """Where runs read, compute and are stored."""

    store: Store
    data_dir: Path | str | None = None
    device: str = "cpu"


def run(plans: Sequence[Plan], where: Where, jobs: int = 1) -> Iterator[Said]:
    """Do runs and store them, saying how each goes; what goes wrong in one does not stop the others.

    With one job they are done in this process, in turn; with more, in processes of their own, of one thread each.
    A run that another process is doing is left until that has ended, and done only if it is not stored then. Training
    that diverges is a result, and stored; whatever else goes wrong is not.

    Args:
        plans: the runs.
        where: data, device and store.
        jobs: how many at a time.

    """
    ready = []
    for dataset in dict.fromkeys(plan.recipe.dataset for plan in plans):
        own = [plan for plan in plans if plan.recipe.dataset == dataset]
        error = no_data(dataset, where, test=not all(plan.held_out for plan in own))
        ready += [] if error else own
        yield from (Said(plan, "failed", error=error) for plan in own if error)
    ready.sort(key=plans.index)
    if ready:
        yield from work(ready, where, min(jobs, len(ready)) if jobs > 1 else 1)


def work(plans: Iterable[Plan], where: Where, jobs: int) -> Iterator[Said]:
    """Do runs as `run` does, of data that are there; each plan is asked for only when a process is free for it."""
    if jobs == 1:
        yield from _in_turn(plans, where)
        return
    from edgepep.reproduction.processes import at_once

    yield from at_once(plans, where, jobs)


def perform(plan: Plan, where: Where, asking: tuple[int, ...] = signals.ASKING) -> Iterator[Said]:
    """Do one run, or go on with it, unless it is stored or another process is at it.

    Args:
        plan: the run.
        where: data, device and store.
        asking: signals on which the run's state is kept.

    Raises:
        Stopped: when one of them has come.

    """
    try:
        with where.store.lock(plan, _PATIENCE) as mine:
            if not mine:
                yield Said(plan, "busy")
            elif where.store.holds(plan):
                yield Said(plan, "stored")
            else:
                with signals.noted(asking) as stop:
                    yield from _perform(plan, where, stop)
    except Stopped:
        raise
    except Exception as error:  # of any kind: it is this run's alone
        yield Said(plan, "failed", error=(str(error).splitlines() or [type(error).__name__])[0])


def _perform(plan: Plan, where: Where, stop: signals.Stop) -> Iterator[Said]:
    yield Said(plan, "began")
    work = where.store.work(plan)
    plan = plan._replace(recipe=_as_begun(plan, work))
    about = checkpoint.describe(
        plan.recipe, plan.rule, plan.seed, epochs=plan.epochs, device=_name(where.device), **_threads()
    )
    failed = ""
    try:
        if _is_to_be_done(plan, where, work):
            for epoch in training.train(
                plan.recipe,
                rule=plan.rule,
                epochs=plan.epochs,
                seed=plan.seed,
                device=where.device,
                data_dir=where.data_dir,
                out=work,
                policy=Policy(save_every=_SAVE_EVERY, stop=stop),
                angles=plan.angles,
            ):
                yield Said(plan, "epoch", epoch)
    except DivergenceError as error:
        failed = str(error).split(" The last good state")[0]
    epochs = [Epoch.read(line) for line in checkpoint.metrics(work)]
    where.store.add(plan, record(plan, about, epochs, failed))
    shutil.rmtree(work, ignore_errors=True)
    yield Said(plan, "diverged" if failed else "stored", epochs[-1] if epochs else None, failed)


def _as_begun(plan: Plan, work: Path) -> Recipe:
    """The recipe by which a run was begun, if it is the same run: what has been edited since may not count in it."""
    try:
        named = [plan.recipe.head.rule] if plan.recipe.head else []
        recipe = models.from_table(checkpoint.read_about(work)["recipe"], str(work), named)
        same = setting(recipe, plan.rule, plan.epochs) == plan.identity.setting
    except (EdgepepError, KeyError):
        return plan.recipe
    return recipe if same else plan.recipe


def _is_to_be_done(plan: Plan, where: Where, work: Path) -> bool:
    """Whether a run has not come to its end in its working directory, which is cleared if it cannot be gone on with."""
    asked = checkpoint.asked_for(plan.recipe, plan.rule, plan.seed, plan.epochs, where.device)
    try:
        about = checkpoint.read_about(work) if (work / checkpoint.ABOUT).exists() else {}
        if about.get("finished") and not checkpoint.differing({key: about.get(key) for key in asked}, asked):
            return False
        rundir.check(work, asked)
    except RunError:
        shutil.rmtree(work, ignore_errors=True)
    return True


def record(plan: Plan, about: dict[str, Any], epochs: list[Epoch], failed: str = "") -> dict[str, Any]:
    """A run as it is stored."""
    held_out = bool(plan.held_out)
    table = {
        "command": plan.command,
        "recipe": plan.recipe.name,
        "changes": plan.changes,
        "rule": plan.rule,
        "seed": plan.seed,
        "dataset": plan.recipe.dataset,
        "epochs": plan.epochs,
        **({"failed": failed} if failed else {accuracy_key(held_out): round(epochs[-1].accuracy, 4)}),
        "settings": about["recipe"],
        **{key: value for key, value in about.items() if key not in ("recipe", "rule", "seed", "epochs")},
    }
    table["curve"] = {key: [round(float(getattr(e, key)), 6) for e in epochs] for key in curve_keys(held_out)}
    measured = any(epoch.angles is not None for epoch in epochs)
    return table | ({"angles": angles.record(epochs)} if measured else {})


def _in_turn(plans: Iterable[Plan], where: Where) -> Iterator[Said]:
    waiting = Waiting(plans)
    while plan := waiting.next():
        for said in perform(plan, where):
            if said.what == "busy":
                waiting.again.append(said.plan)
            yield said


class Waiting:
    """Runs that are to be done: first those that come, then those that another process was at."""

    def __init__(self, plans: Iterable[Plan]) -> None:
        self.coming = iter(plans)
        self.again: deque[Plan] = deque()

    def next(self) -> Plan | None:
        """The run that is to be done next, or None."""
        plan = next(self.coming, None)
        return plan or (self.again.popleft() if self.again else None)


def no_data(dataset: str, where: Where, test: bool = True) -> str:
    """Why a data set cannot be had, or nothing; it is downloaded here, once, where it is missing."""
    try:
        for part in (True, False) if test else (True,):
            datasets.load(dataset, part, where.data_dir)
    except DataError as error:
        return str(error)
    return ""


def _threads() -> dict[str, int]:
    import torch

    return {"threads": torch.get_num_threads()}


def _name(device: str) -> str:
    if not device.startswith("cuda"):
        return device
    import torch

    return f"{device} ({torch.cuda.get_device_name(device)})"
