"""Weights as a safetensors file that carries its own SHA-256: the digest of the file with zeros where it stands."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

from torch import Tensor

from edgepep.errors import RunError

_KEY = "edgepep.sha256"
_ZEROS = "0" * 64
_MOST_HEADER = 1 << 24  # bytes


def pack(tensors: Mapping[str, Tensor]) -> bytes:
    """A safetensors file of tensors on the CPU, with its digest in the metadata."""
    from safetensors.torch import save

    content: bytes = save(dict(tensors), {_KEY: _ZEROS})
    start, stop = _place(content, _ZEROS)
    return content[:start] + hashlib.sha256(content).hexdigest().encode() + content[stop:]


def unpack(content: bytes, required: bool = True) -> dict[str, Tensor]:
    """Tensors of such a file, or, where it is not required, of one without a digest.

    Raises:
        RunError: if the file is damaged.

    """
    digest = _header(content).get("__metadata__", {}).get(_KEY)
    if digest is not None or required:
        if not isinstance(digest, str) or len(digest) != 64:
            raise RunError("it is damaged: it has no SHA-256.")
        start, stop = _place(content, digest)
        if hashlib.sha256(content[:start] + _ZEROS.encode() + content[stop:]).hexdigest() != digest:
            raise RunError("it is damaged: its SHA-256 is not the one that it was written with.")
    return tensors_of(content)


def tensors_of(content: bytes) -> dict[str, Tensor]:
    """Tensors of a safetensors file, each with memory of its own.

    Raises:
        RunError: if it is not one.

    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        return {name: tensor.clone() for name, tensor in load(content).items()}
    except (SafetensorError, ValueError, KeyError, TypeError, RuntimeError, OverflowError) as error:
        raise RunError(f"its tensors are damaged: {(str(error).splitlines() or ['?'])[0]}.") from error


def _header(content: bytes) -> dict[str, dict[str, object]]:
    length = int.from_bytes(content[:8], "little")
    try:
        if len(content) < 8 or length > min(len(content) - 8, _MOST_HEADER):
            raise ValueError(f"a header of {length} bytes in {len(content)}")
        header = json.loads(content[8 : 8 + length])
        if not isinstance(header, dict) or not isinstance(header.get("__metadata__", {}), dict):
            raise ValueError("its header is not a table")
    except (ValueError, RecursionError) as error:
        raise RunError(f"it is damaged, or no safetensors file: {error}.") from error
    return header


def _place(content: bytes, digest: str) -> tuple[int, int]:
    """Where the digest stands in the header."""
    start = content.find(f'"{_KEY}":"{digest}"'.encode(), 8)
    if start < 0:
        raise RunError("it is damaged: its SHA-256 is not where it was written.")
    return start + len(_KEY) + 4, start + len(_KEY) + 68
