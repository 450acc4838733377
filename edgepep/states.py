"""Training states on disk: one checksummed file each, the last two kept, the newest that is whole taken.

    8 bytes   EDGEPEP and the version of the form, 1
    32 bytes  SHA-256 of all that follows
    16 bytes  lengths of the two parts, little-endian
    JSON      numbers, words, and where each tensor belongs (edgepep.plain)
    tensors   in the safetensors format

No pickle, and nothing in a file is looked up by its name but the kinds of containers in edgepep.plain.
"""

from __future__ import annotations

import hashlib
import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edgepep import durable, plain, sealed
from edgepep.errors import RunError

MAGIC = b"EDGEPEP\x01"
KEPT = 2
_HEAD = struct.Struct("<8s32sQQ")
_LENGTHS = struct.Struct("<QQ")
_NAME = re.compile(r"state-([0-9]{1,18})\.edgepep")


def write(folder: Path, step: int, state: Any) -> Path:
    """Write the state after so many steps, and let go of all but the last two.

    Raises:
        RunError: if it cannot be written, or holds what is not plain data; the states that are there still are.

    """
    from safetensors.torch import save

    text, tensors = plain.pack(state)
    parts = (text, save(tensors))
    lengths = _LENGTHS.pack(*map(len, parts))
    digest = hashlib.sha256(lengths)
    for part in parts:
        digest.update(part)
    path = folder / f"state-{step:09d}.edgepep"
    durable.write(path, MAGIC + digest.digest() + lengths, *parts)
    for old in found(folder)[KEPT:]:
        durable.remove(old)
    return path


def read(path: Path, most: int) -> Any:
    """Read one state.

    Args:
        path: of the file.
        most: bytes that it may have.

    Raises:
        RunError: if it cannot be read, is damaged, or is not a state.

    """
    content = memoryview(durable.read(path, most))
    if len(content) < _HEAD.size:
        raise RunError(f"{path} is damaged: it has {len(content)} bytes, less than its head.")
    magic, digest, *lengths = _HEAD.unpack(content[: _HEAD.size])
    if magic != MAGIC:
        raise RunError(f"{path} is damaged, or of another version: it begins with {magic!r}, not {MAGIC!r}.")
    if _HEAD.size + sum(lengths) != len(content):
        raise RunError(f"{path} is damaged: it has {len(content)} bytes, not {_HEAD.size + sum(lengths)}.")
    if hashlib.sha256(content[_HEAD.size - _LENGTHS.size :]).digest() != digest:
        raise RunError(f"{path} is damaged: its SHA-256 is not the one that it was written with.")
    between = _HEAD.size + lengths[0]
    try:
        return plain.unpack(bytes(content[_HEAD.size : between]), sealed.tensors_of(bytes(content[between:])))
    except RunError as error:
        raise RunError(f"{path} cannot be used: {error}") from error


def found(folder: Path) -> list[Path]:
    """Files of states, the newest first."""
    steps = {path: _NAME.fullmatch(path.name) for path in folder.glob("state-*.edgepep")}
    return sorted((path for path, name in steps.items() if name), key=lambda path: -int(path.name[6:-8]))


def newest(folder: Path, most: int) -> Iterator[tuple[Path, Any]]:
    """States that are whole, the newest first; a file that is not is set aside, under its name with .damaged."""
    for path in found(folder):
        try:
            yield path, read(path, most)
        except RunError:
            set_aside(path)


def set_aside(path: Path) -> None:
    """Take a state out of those that are read."""
    try:
        path.rename(path.with_name(path.name + ".damaged"))
    except OSError as error:
        raise RunError(f"{path} is damaged, and cannot be renamed: {error.strerror}.") from error
