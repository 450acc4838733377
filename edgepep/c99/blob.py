"""Weights of a device as one block of bytes with a checksum, to and from a network in torch.

Little-endian 32-bit words: "EPC1", version, checksum of the network's table, updates made, number of values; the
values, layer by layer: the scale of codes, the weights or codes (four to a word), the bias, and of a head what its
feedback is drawn with and its weights; then a CRC-32 of all.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from edgepep.c99.heads import take
from edgepep.c99.table import Stage, stages, with_heads
from edgepep.errors import ExportError
from edgepep.network import Network
from edgepep.rule import Rule

MAGIC, VERSION, HEADER = int.from_bytes(b"EPC1", "little"), 2, 5
"""Version 1 counted the updates since the export alone; codes need them all, by which their random bits are drawn."""


def values(stage: Stage) -> bytes:
    """What a blob holds of one layer, its head after it."""
    return layer_values(stage) + b"".join(_bytes(n) for n in (stage.head.numbers if stage.head else ()))


def layer_values(stage: Stage) -> bytes:
    """What a blob holds of one layer itself."""
    if stage.weight is None:
        return b""
    parts: list[bytes] = []
    if stage.scale is not None:
        parts.append(_bytes(stage.scale))
    codes = _bytes(stage.weight)
    parts += [codes, bytes(-len(codes) % 4)]
    if stage.bias is not None:
        parts.append(_bytes(stage.bias))
    return b"".join(parts)


def network_word(chain: Sequence[Stage]) -> int:
    """Checksum of all that weights have to fit: kinds, shapes, connections and precision of the layers."""
    table: list[tuple[object, ...]] = [
        (s.kind, s.sources, s.pools, s.in_shape, s.out_shape, s.relu, s.bits, s.bias is not None, _geometry(s))
        for s in chain
    ]
    table += [(s.index, *s.head.geometry) for s in chain if s.head is not None]
    return zlib.crc32(repr(table).encode())


def updates(chain: Sequence[Stage]) -> int:
    """Updates that the codes of a network have seen; 0 of floats, which do not count them."""
    return max(stage.before for stage in chain)


def pack(chain: Sequence[Stage]) -> bytes:
    """The blob of a network as it is."""
    body = b"".join(values(stage) for stage in chain)
    head = struct.pack("<5I", MAGIC, VERSION, network_word(chain), updates(chain), len(body) // 4)
    return head + body + struct.pack("<I", zlib.crc32(head + body))


def write(network: Network, example: Tensor, path: Path | str, rule: Rule | None = None) -> None:
    """Write a network's weights as a blob, and those of a rule's heads, for a device that runs the same."""
    Path(path).write_bytes(pack(with_heads(stages(network, example), rule)))


@torch.no_grad()
def read(network: Network, example: Tensor, blob: bytes | Path | str, rule: Rule | None = None) -> int:
    """Put the weights of a blob into a network, in place; all of them, or none if it is refused.

    Args:
        network: of the same layers as on the device, its precision included.
        example: one batch of inputs [batch, ...], for the shapes.
        blob: its bytes, or the file that holds them.
        rule: what it was exported with, if that has heads (`local_heads`), which the blob holds too.

    Returns:
        Training steps that the device has made beyond the network's own.

    Raises:
        ExportError: for bytes that are no blob, are damaged, newer than this version, or of another network.

    """
    content = blob if isinstance(blob, bytes) else Path(blob).read_bytes()
    chain = with_heads(stages(network, example), rule)
    steps, at = checked(content, chain) - updates(chain), 4 * HEADER
    for stage in chain:
        own: Any = network.chain[stage.index].synapses
        if stage.weight is None:
            continue
        if stage.scale is not None:
            own.scale.copy_(_tensor(content, at, stage.scale))
            own.step.add_(steps if stage.learns else 0)
            at += 4
        target = own.codes if stage.scale is not None else own.weight
        target.copy_(_tensor(content, at, stage.weight))
        at += -(-stage.weight.numel() * stage.weight.element_size() // 4) * 4
        if stage.bias is not None:
            own.bias.copy_(_tensor(content, at, stage.bias))
            at += 4 * stage.bias.numel()
        numbers: list[Tensor] = []
        for like in stage.head.numbers if stage.head is not None else ():
            numbers.append(_tensor(content, at, like))
            at += 4 * like.numel()
        if rule is not None and stage.head is not None:
            take(rule, stage.index, numbers)
    return steps


def checked(content: bytes, chain: Sequence[Stage]) -> int:
    """Updates that a blob has seen, if it is sound and of this network; as the device checks it."""
    if len(content) < 4 * HEADER or struct.unpack_from("<I", content)[0] != MAGIC:
        raise ExportError(
            f"these {len(content)} bytes are not weights of an edgepep device: they do not begin with EPC1."
        )
    _, version, network, steps, count = struct.unpack_from("<5I", content)
    if version > VERSION:
        raise ExportError(f"the weights have version {version}; this edgepep reads up to {VERSION}.")
    whole = 4 * (HEADER + count + 1)
    if len(content) != whole:
        raise ExportError(f"the weights are cut off: {len(content)} bytes, {whole} by their header.")
    if zlib.crc32(content[:-4]) != struct.unpack_from("<I", content, whole - 4)[0]:
        raise ExportError("the weights are damaged: their checksum is wrong.")
    wanted = sum(len(values(stage)) for stage in chain) // 4
    if network != network_word(chain) or count != wanted:
        heads = any(s.head is not None for s in chain)
        said = (
            "those layers have to learn that did at the export" if heads else "those of local_heads need the rule too"
        )
        raise ExportError(f"the weights are of another network: {count} values, where this one has {wanted}; {said}.")
    return int(steps) + (updates(chain) if version == 1 else 0)


def _geometry(stage: Stage) -> tuple[object, ...]:
    return stage.kernel, stage.stride, stage.pad, stage.dilation, stage.groups


def _bytes(tensor: Tensor) -> bytes:
    whole = tensor.detach().cpu().contiguous()
    return whole.to(torch.int8 if whole.dtype == torch.int8 else torch.float32).numpy().tobytes()


def _tensor(content: bytes, at: int, like: Tensor) -> Tensor:
    kind = torch.int8 if like.dtype == torch.int8 else torch.float32
    return torch.frombuffer(bytearray(content), dtype=kind, count=like.numel(), offset=at).view(like.shape)
