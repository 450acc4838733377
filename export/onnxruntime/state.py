"""State of a network that learns, as a safetensors file that says its version and its SHA-256; needs numpy alone."""

import hashlib
import json
import os
from pathlib import Path

import numpy as np

TYPES = {"F32": np.float32, "I64": np.int64, "I32": np.int32, "I8": np.int8}


def unpack(content):
    """Tensors by name, of a state.safetensors; ValueError for one that is damaged or newer than this."""
    try:
        end = 8 + int.from_bytes(content[:8], "little")
        header, data = json.loads(content[8:end]), content[end:]
        about = header.pop("__metadata__")
        version, intact = about["edgepep.version"], about["sha256"] == hashlib.sha256(data).hexdigest()
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"the state is damaged: {error}.") from None
    if version != "1" or not intact:
        raise ValueError(f"the state is {'damaged' if intact is False else f'of version {version}; this reads 1'}.")
    parts = {name: (TYPES[v["dtype"]], v["shape"], v["data_offsets"]) for name, v in header.items()}
    return {name: np.frombuffer(data[i:j], kind).reshape(shape) for name, (kind, shape, (i, j)) in parts.items()}


def pack(state):
    """What unpack reads."""
    data, header = b"".join(value.tobytes() for value in state.values()), {}
    header["__metadata__"], at = {"edgepep.version": "1", "sha256": hashlib.sha256(data).hexdigest()}, 0
    for name, v in state.items():
        word = next(word for word, kind in TYPES.items() if kind == v.dtype)
        header[name] = {"dtype": word, "shape": list(v.shape), "data_offsets": [at, at := at + v.nbytes]}
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


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
