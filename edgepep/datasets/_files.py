"""Files of published data sets: read once, in bounded memory, taken only with their published SHA-256, then parsed."""

from __future__ import annotations

import gzip
import hashlib
import io
import pickle
import pickletools
import struct
import zlib
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from edgepep.errors import DataError

_BYTES, _SIDES = 0x08, 3
"""Of an IDX file: the code of unsigned bytes, and the most axes."""
MOST = 1 << 28  # bytes of one file


def verified(path: Path, digest: str) -> bytes:
    """Content of a file, or of path.gz where only that is there, if it is the published one.

    Raises:
        DataError: if it cannot be read, or has another SHA-256.

    """
    packed = path.with_name(path.name + ".gz")
    try:
        with path.open("rb") if path.is_file() or not packed.is_file() else gzip.open(packed) as file:
            content: bytes = file.read(MOST + 1)
    except (OSError, EOFError, zlib.error) as error:
        place = f"unpack {packed}" if not path.is_file() else f"read {path}"
        raise DataError(f"cannot {place}: {error}. Delete it and run again to download it.") from error
    actual = hashlib.sha256(content).hexdigest()
    if actual != digest:
        raise DataError(
            f"{path} is damaged: its sha256 is {actual}, not {digest}. Delete it and run again to download it."
        )
    return content


def idx(content: bytes) -> Tensor:
    """Values [n, ...] as uint8 of an IDX file (LeCun, Cortes & Burges 1998): a code of the type, sides, bytes.

    Raises:
        DataError: if it is not one of unsigned bytes, or its length is not what its head says.

    """
    zero, code, axes = struct.unpack(">HBB", content[:4]) if len(content) >= 4 else (1, 0, 0)
    if zero or code != _BYTES or not 1 <= axes <= _SIDES or len(content) < 4 + 4 * axes:
        raise DataError(f"no IDX file of bytes with 1 to {_SIDES} axes: it begins with {content[:4]!r}.")
    sides = struct.unpack(f">{axes}I", content[4 : 4 + 4 * axes])
    values = content[4 + 4 * axes :]
    size = 1
    for side in sides:
        size *= side
    if size != len(values):
        raise DataError(f"an IDX file of sides {list(sides)} has {len(values)} values, not {size}.")
    return torch.from_numpy(np.frombuffer(values, np.uint8).reshape(sides).copy())


def batch(content: bytes) -> dict[str, Any]:
    """One of CIFAR's batches: a table of lists and an array of uint8, pickled in 2009.

    Raises:
        DataError: if it is not one.

    """
    try:
        table = _Batch(io.BytesIO(content), encoding="latin1").load()
        if isinstance(table, dict):
            return {key: value.values() if isinstance(value, _Array) else value for key, value in table.items()}
    except Exception as error:  # a pickle can raise anything
        said = (str(error).splitlines() or ["?"])[0]
        raise DataError(f"no batch of CIFAR's: {type(error).__name__}: {said}.") from error
    raise DataError(f"no batch of CIFAR's: it is a {type(table).__name__}.")


class _Kind:
    """What stands in a pickle for NumPy's dtype."""

    def __init__(self, code: Any = None, *flags: Any) -> None:
        self.code = code

    def __setstate__(self, state: Any) -> None:
        """Nothing of it is needed: bytes have no order."""


class _Array:
    """What stands in a pickle for NumPy's array: NumPy's own trusts the state that it is given."""

    state: Any = None

    def __init__(self, *given: Any) -> None:
        """Its pickle says all in its state."""

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def values(self) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """Its bytes as a matrix."""
        _, (rows, columns), kind, by_column, values = self.state
        if not isinstance(kind, _Kind) or kind.code != "u1" or by_column:
            raise pickle.UnpicklingError("its array is not one of bytes, row by row")
        return np.frombuffer(values.encode("latin1"), np.uint8).reshape(int(rows), int(columns))


class _Batch(pickle._Unpickler):
    """Reads a pickle of 2009 (protocol 2 or less), in which an array may be named and nothing else.

    It is Python's own reader in Python: the one in C takes memory as large as a number in the file says, and so does
    this one's bytearray of a later protocol.
    """

    dispatch = {  # noqa: RUF012
        ord(code.code): pickle._Unpickler.dispatch[ord(code.code)] for code in pickletools.opcodes if code.proto <= 2
    }
    _ALLOWED: ClassVar[dict[tuple[str, str], Any]] = {
        ("numpy.core.multiarray", "_reconstruct"): _Array,
        ("numpy", "ndarray"): _Array,
        ("numpy", "dtype"): _Kind,
    }

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._ALLOWED:
            raise pickle.UnpicklingError(f"it names {module}.{name}")
        return self._ALLOWED[module, name]
