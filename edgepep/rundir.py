"""Run directories: who may begin or go on with one, and that only one process does."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from edgepep import checkpoint, states
from edgepep.errors import RunError

_OURS = {".lock", f".{checkpoint.ABOUT}.new"}
"""What a run that was killed before it began may leave behind."""


def check(folder: Path, asked: dict[str, Any], resume: bool | None = None) -> bool:
    """Whether a run is to be begun in a directory, rather than gone on with.

    Args:
        folder: need not be there.
        asked: what the run is asked to do.
        resume: True if there has to be a run to go on with.

    Raises:
        RunError: if it is no run directory, its run is finished, or was asked something else.

    """
    elsewhere = "name another directory with --out, or remove it."
    try:
        there = {path.name for path in folder.iterdir()} - _OURS if folder.exists() else set()
    except NotADirectoryError:
        raise RunError(f"{folder} exists already, and is no directory; {elsewhere}") from None
    except OSError as error:
        raise RunError(f"cannot read {folder}: {error.strerror}.") from error
    if not there:
        if resume:
            raise RunError(f"there is no run in {folder} to go on with.")
        return True
    if checkpoint.ABOUT not in there:
        raise RunError(f"{folder} exists already, and is no run; {elsewhere}")
    about = checkpoint.read_about(folder)
    if about.get("finished") or "format" not in about:
        raise RunError(f"{folder} exists already, and its run is finished; {elsewhere}")
    other = checkpoint.differing({key: about.get(key) for key in asked}, asked)
    if other:
        raise RunError(f"{folder} exists already, and its run was asked something else: {other}; {elsewhere}")
    if not states.found(folder) and any(name.endswith(".damaged") for name in there):
        raise RunError(f"no state in {folder} can be used; {elsewhere}")
    return not states.found(folder)


@contextmanager
def held(folder: Path, asked: dict[str, Any], resume: bool | None = None) -> Iterator[bool]:
    """Context in which no other process trains in a directory, which is made; gives what `check` says.

    The lock goes with the process that holds it, however it ends.

    Raises:
        RunError: as `check`; if the directory cannot be made or written, or another process is training in it.

    """
    from filelock import FileLock, Timeout

    check(folder, asked, resume)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"cannot make the run directory {folder}: {error.strerror}.") from error
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise RunError(f"another process is training in {folder}.") from None
    except OSError as error:
        raise RunError(f"cannot write in {folder}: {error.strerror}.") from error
    try:
        yield check(folder, asked, resume)
    finally:
        lock.release()
