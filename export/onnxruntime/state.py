"""State of a network that learns, as a safetensors file that says its version and its SHA-256; needs numpy alone."""

import hashlib
import json
import os
from pathlib import Path

import numpy as np

EMPTY = b"0" * 64
"""Stands in the place of the hash in what is hashed: the whole file."""
TYPES = {"F32": np.float32, "I64": np.int64, "I32": np.int32, "I8": np.int8}


def unpack(content):
    """Tensors by name, of a state.safetensors; ValueError for one that is damaged or newer than this."""
    try:
        end = 8 + int.from_bytes(content[:8], "little")
        header, data = json.loads(content[8:end]), content[end:]
        about = header.pop("__metadata__")
        version, digest = about["edgepep.version"], about["sha256"]
        intact = digest == hashlib.sha256(content.replace(digest.encode(), EMPTY, 1)).hexdigest()
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"the state is damaged: {error}.") from None
    if version != "1" or not intact:
        raise ValueError(f"the state is {'damaged' if version == '1' else f'of version {version}; this reads 1'}.")
    parts = {name: (TYPES[v["dtype"]], v["shape"], v["data_offsets"]) for name, v in header.items()}
    return {name: np.frombuffer(data[i:j], kind).reshape(shape) for name, (kind, shape, (i, j)) in parts.items()}


def pack(state):
    """What unpack reads."""
    data, at = b"".join(value.tobytes() for value in state.values()), 0
    header = {"__metadata__": {"edgepep.version": "1", "sha256": EMPTY.decode()}}
    for name, v in state.items():
        word = next(word for word, kind in TYPES.items() if kind == v.dtype)
        header[name] = {"dtype": word, "shape": list(v.shape), "data_offsets": [at, at := at + v.nbytes]}
    text = json.dumps(header).encode()
    content = len(text).to_bytes(8, "little") + text + data
    return content.replace(EMPTY, hashlib.sha256(content).hexdigest().encode(), 1)


def save(state, path):
    """Write a state whole or not at all, even if the power fails."""
    path = Path(path)
    with open(path.with_name(path.name + ".new"), "wb") as file:
        file.write(pack(state))
        file.flush()
        os.fsync(file.fileno())
    os.replace(file.name, path)
    if os.name == "posix":  # the new name is not safe before the directory is
        folder = os.open(path.parent, os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)
