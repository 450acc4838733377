"""Runs as jobs of a SLURM cluster, by submitit."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from edgepep.errors import RunError
from edgepep.reproduction.identity import Plan
from edgepep.reproduction.runner import Said, Where, perform

_LOOK = 2.0  # seconds between two looks at the jobs


def submitted(plans: Sequence[Plan], where: Where, jobs: int, cluster: str = "slurm") -> Iterator[Said]:
    """Submit a job a run, as one array, and say what becomes of them; leaving the iterator leaves the jobs running.

    Each job stores its result by itself, so nothing is lost if nobody waits. Jobs log beside the results, in `.jobs`.

    Args:
        plans: the runs.
        where: data, device and store, on a file system that the nodes share.
        jobs: how many at a time.
        cluster: "slurm", or "local" for processes of this machine.

    Raises:
        RunError: if submitit is not installed, or there is no such cluster here.

    """
    try:
        import submitit
    except ImportError:
        raise RunError("--slurm needs submitit: pip install 'edgepep[slurm]'.") from None
    folder = where.store.folder / ".jobs"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / ".gitignore").write_text("*\n")
        executor = submitit.AutoExecutor(folder=folder / "%j", cluster=cluster)
    except (OSError, RuntimeError) as error:
        raise RunError(f"cannot submit to {cluster}: {error}.") from error
    asked: dict[str, Any] = {"timeout_min": 24 * 60, "cpus_per_task": 1, "name": "edgepep"}
    asked |= {"gpus_per_node": 1} if where.device.startswith("cuda") else {}
    executor.update_parameters(**asked, **({"slurm_array_parallelism": jobs} if cluster == "slurm" else {}))
    at = Where(where.store, where.data_dir and Path(where.data_dir).resolve(), where.device)
    at.store.folder = at.store.folder.resolve()
    waiting = dict(zip(executor.map_array(_perform, plans, [at] * len(plans)), plans, strict=True))
    for plan in plans:
        yield Said(plan, "began")
    while waiting:
        for job in [job for job in waiting if job.done()]:
            yield _outcome(job, waiting.pop(job))
        time.sleep(_LOOK if waiting else 0)


def _perform(plan: Plan, where: Where) -> Said:
    """One run, in its job; the last that it says."""
    import torch

    torch.set_num_threads(1)
    *_, last = perform(plan, where)
    return last


def _outcome(job: Any, plan: Plan) -> Said:
    error = job.exception()
    if error is None:
        said: Said = job.result()
        return said
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return Said(plan, "failed", error=f"job {job.job_id}: {lines[-1]}")
