"""Files that are there whole or not at all, whatever happens; read only where they are plain and not too large.

What is written goes beside its place under a name of its own, is flushed to the disk, and is then renamed; the folder
is flushed last, so that after a loss of power the name stands for the new content or for the old.
"""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path

from edgepep.errors import RunError

_FLAGS = getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)


def write(path: Path, *parts: bytes) -> None:
    """Write a file whole or not at all.

    Args:
        path: of the file; what is there is replaced.
        parts: its content, one after the other.

    Raises:
        RunError: if it cannot be written; what was there before still is.

    """
    beside = path.with_name(f".{path.name}.new")
    try:
        try:
            _fill(beside, parts)
            os.replace(beside, path)
        except OSError:
            with contextlib.suppress(OSError):
                beside.unlink(missing_ok=True)
            raise
        flush_folder(path.parent)
    except OSError as error:
        raise RunError(f"cannot write {path}: {error.strerror}.") from error


def check_place(path: Path) -> None:
    """Look, before there is anything to write, whether a file can be written at a path.

    Raises:
        RunError: if its folder is not there or must not be written, or the path is a folder itself.

    """
    folder = path.parent
    if path.is_dir():
        raise RunError(f"cannot write {path}: it is a folder; name a file.")
    if not folder.is_dir():
        raise RunError(f"cannot write {path}: there is no folder {folder}; make it first.")
    if not os.access(path if path.exists() else folder, os.W_OK):
        raise RunError(f"cannot write {path}: it is not permitted.")


def read(path: Path, most: int) -> bytes:
    """Read a file that is no link, no pipe and no device.

    Args:
        path: of the file.
        most: bytes that it may have.

    Raises:
        RunError: if it cannot be read, is not a plain file, or is longer.

    """
    try:
        handle = os.open(path, os.O_RDONLY | _FLAGS | getattr(os, "O_NONBLOCK", 0))
        with open(handle, "rb") as file:
            found = os.fstat(handle)
            if not stat.S_ISREG(found.st_mode):
                raise RunError(f"{path} is not a plain file.")
            if found.st_size > most:
                raise RunError(f"{path} has {found.st_size} bytes; at most {most} are read.")
            content = file.read(most + 1)
    except OSError as error:
        linked = path.is_symlink()
        raise RunError(f"cannot read {path}: {'it is a link' if linked else error.strerror}.") from error
    except ValueError as error:  # a path with a null in it
        raise RunError(f"cannot read {str(path)!r}: {error}.") from error
    if len(content) > most:
        raise RunError(f"{path} grows while it is read.")
    return content


def remove(path: Path) -> None:
    """Remove a file, if it is there and can be; what cannot be removed is left."""
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)


def flush_folder(folder: Path) -> None:
    """Have the names in a folder on the disk, where the system can be asked for it."""
    if os.name == "nt":
        return
    handle = os.open(folder, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _fill(path: Path, parts: tuple[bytes, ...]) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | _FLAGS, 0o666)
    try:
        for part in parts:
            left = memoryview(part)
            while len(left):
                left = left[os.write(handle, left) :]
        os.fsync(handle)
    finally:
        os.close(handle)
