"""What a network has learned where it runs, as a checksummed safetensors file: written for a device, and read back."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from edgepep.errors import StateError
from edgepep.rule import Rule
from edgepep.stand_in import StandIn

VERSION = "1"
"""Of the files' form; whoever reads them refuses another."""
_EMPTY = "0" * 64
_VELOCITIES = ("velocity.", "velocity_codes.", "velocity_scale.")


def state_bytes(state: Mapping[str, Tensor]) -> bytes:
    """A state as a safetensors file whose metadata hold the version and the file's SHA-256.

    It is that of the whole file, header and all, with 64 zeros in the place of the hash.
    """
    from safetensors.torch import save as packed

    plain: bytes = packed({name: value.contiguous() for name, value in state.items()})
    length = int.from_bytes(plain[:8], "little")
    header, content = json.loads(plain[8 : 8 + length]), plain[8 + length :]
    header["__metadata__"] = {"edgepep.version": VERSION, "sha256": _EMPTY}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    whole = len(text).to_bytes(8, "little") + text + content
    return whole.replace(_EMPTY.encode(), hashlib.sha256(whole).hexdigest().encode(), 1)


def load_state(rule: Rule, path: Path | str) -> None:
    """Give a rule and its network what was learned on a device; on any error they stay as they are.

    Velocities are checked and left aside: an optimizer that goes on in PyTorch begins with its own.

    Args:
        rule: of the network that was exported, such as `edgepep.checkpoint.read(run).learner`.
        path: a state.safetensors that a kit has written.

    Raises:
        StateError: if the file cannot be read, is damaged, of another version, or of another network.

    """
    state = _read(Path(path))
    tensors = {name: t for name, t in _named(rule).items() if not isinstance(t, StandIn)}
    learned = {name: value for name, value in state.items() if not name.startswith(_VELOCITIES)}
    for name, value in learned.items():
        there = tensors.get(name)
        if there is None:
            raise StateError(f"{path}: {name} is not in {type(rule).__name__}'s network; it is of another network.")
        if there.shape != value.shape or there.dtype != value.dtype:
            found, wanted = (f"{str(t.dtype).removeprefix('torch.')} {list(t.shape)}" for t in (value, there))
            raise StateError(f"{path}: {name} is {found}, and {wanted} in the network; it is of another network.")
        if not bool(value.isfinite().all()):
            raise StateError(f"{path}: {name} has a value that is not finite.")
    for name in _learnable(rule):
        if name not in learned:
            raise StateError(f"{path}: {name} learns, but is not in the file; it is of another network.")
    with torch.no_grad():
        for name, value in learned.items():
            tensors[name].copy_(value)


def _read(path: Path) -> dict[str, Tensor]:
    """Tensors of a file that is whole and of this version."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        content = path.read_bytes()
    except OSError as error:
        raise StateError(f"cannot read {path}: {error.strerror}.") from error
    end = 8 + int.from_bytes(content[:8], "little")
    try:
        about = json.loads(content[8:end])["__metadata__"]
        version, checksum = about["edgepep.version"], about["sha256"]
    except (ValueError, KeyError, TypeError) as error:
        raise StateError(f"{path} is damaged, or not a state: its header has no version and checksum.") from error
    if version != VERSION:
        raise StateError(f"{path} is of version {version}; this edgepep reads {VERSION}.")
    actual = hashlib.sha256(content.replace(str(checksum).encode(), _EMPTY.encode(), 1)).hexdigest()
    if actual != checksum:
        raise StateError(f"{path} is damaged: its SHA-256 is {actual}, not {checksum}.")
    try:
        tensors: dict[str, Tensor] = load(content)
    except SafetensorError as error:
        raise StateError(f"{path} is damaged: {error}.") from error
    return tensors


def _learnable(rule: Rule) -> list[str]:
    """Names of what a step changes: weights, or the codes in their place."""
    learns = {id(p) for layer in rule.network.chain for p in layer.learnable()}
    return [
        name.removesuffix("weight") + "codes" if isinstance(p, StandIn) else name
        for name, p in rule.named_parameters()
        if id(p) in learns
    ]


def _named(rule: Rule) -> dict[str, Tensor]:
    return dict(rule.named_parameters()) | dict(rule.named_buffers())
