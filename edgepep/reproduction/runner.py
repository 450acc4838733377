"""Running what is missing: here, or in several processes, each run under its own lock."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from edgepep import checkpoint, datasets, training
from edgepep.errors import DataError, DivergenceError
from edgepep.reproduction.identity import Plan
from edgepep.reproduction.store import CURVE, Store
from edgepep.training import Epoch

_PATIENCE = 2.0  # seconds for which a run that another process holds is waited for before others are tried


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
        error = _no_data(dataset, where)
        ready += [] if error else own
        yield from (Said(plan, "failed", error=error) for plan in own if error)
    ready.sort(key=plans.index)
    if jobs == 1:
        yield from _in_turn(ready, where)
    elif ready:
        from edgepep.reproduction.processes import at_once

        yield from at_once(ready, where, min(jobs, len(ready)))


def perform(plan: Plan, where: Where) -> Iterator[Said]:
    """Do one run, unless it is stored or another process is at it."""
    try:
        with where.store.lock(plan, _PATIENCE) as mine:
            if not mine:
                yield Said(plan, "busy")
            elif where.store.holds(plan):
                yield Said(plan, "stored")
            else:
                yield from _perform(plan, where)
    except Exception as error:  # of any kind: it is this run's alone
        yield Said(plan, "failed", error=(str(error).splitlines() or [type(error).__name__])[0])


def _perform(plan: Plan, where: Where) -> Iterator[Said]:
    yield Said(plan, "began")
    about = checkpoint.describe(
        plan.recipe, plan.rule, plan.seed, epochs=plan.epochs, device=_name(where.device), **_threads()
    )
    epochs: list[Epoch] = []
    failed = ""
    try:
        for epoch in training.train(
            plan.recipe, rule=plan.rule, seed=plan.seed, device=where.device, data_dir=where.data_dir
        ):
            epochs.append(epoch)
            yield Said(plan, "epoch", epoch)
    except DivergenceError as error:
        failed = str(error)
    where.store.add(plan, record(plan, about, epochs, failed))
    yield Said(plan, "diverged" if failed else "stored", epochs[-1] if epochs else None, failed)


def record(plan: Plan, about: dict[str, Any], epochs: list[Epoch], failed: str = "") -> dict[str, Any]:
    """A run as it is stored."""
    table = {
        "command": plan.command,
        "recipe": plan.recipe.name,
        "changes": plan.changes,
        "rule": plan.rule,
        "seed": plan.seed,
        "dataset": plan.recipe.dataset,
        "epochs": plan.epochs,
        **({"failed": failed} if failed else {"test_accuracy": round(epochs[-1].test_accuracy, 4)}),
        "settings": about["recipe"],
        **{key: value for key, value in about.items() if key not in ("recipe", "rule", "seed", "epochs")},
    }
    return table | {"curve": {key: [round(float(getattr(e, key)), 6) for e in epochs] for key in CURVE}}


def _in_turn(plans: Sequence[Plan], where: Where) -> Iterator[Said]:
    waiting = deque(plans)
    while waiting:
        for said in perform(waiting.popleft(), where):
            if said.what == "busy":
                waiting.append(said.plan)
            yield said


def _no_data(dataset: str, where: Where) -> str:
    """Why a data set cannot be had, or nothing; it is downloaded here, once, where it is missing."""
    try:
        for part in (True, False):
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
