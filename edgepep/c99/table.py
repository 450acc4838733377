"""A network as a table of what the C kernels know; what they do not know is refused by name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from edgepep import noise
from edgepep.c99.heads import Head, heads
from edgepep.c99.preparation import Pair, Pool, Shape, pools
from edgepep.errors import ExportError
from edgepep.integer_weights import IntegerWeights
from edgepep.layer import Layer
from edgepep.network import Network
from edgepep.neurons.dropout import Dropout
from edgepep.rule import Rule
from edgepep.synapses import PaddedConv2d


@dataclass(frozen=True, eq=False)
class Stage:
    """One layer of the network: what prepares its input, then synapses of one kind, then ReLU or nothing."""

    index: int
    name: str
    kind: str
    """"dense", "conv" or "sum", which has no synapses; so has a first layer that only prepares the input."""
    sources: tuple[int, ...]
    pools: tuple[Pool, ...]
    in_shape: Shape
    out_shape: Shape
    relu: bool
    learns: bool
    weight: Tensor | None = None
    """Floats, or int8 codes [out, in / groups, *kernel]."""
    bias: Tensor | None = None
    scale: Tensor | None = None
    """Of codes."""
    seed: int = 0
    """Key of the rounding, as unsigned 32-bit integer."""
    before: int = 0
    """Updates of the codes made so far."""
    bits: int = 0
    kernel: Pair = (1, 1)
    stride: Pair = (1, 1)
    pad: Pair = (0, 0)
    """Zeros above and left; those below and right follow from the shapes."""
    dilation: Pair = (1, 1)
    groups: int = 1
    head: Head | None = None
    """What its own error comes from, under `local_heads`."""

    @property
    def size(self) -> int:
        """Values of its answer."""
        return prod(self.out_shape)

    @property
    def fan(self) -> int:
        """Weights of one unit."""
        return self.in_shape[0] // self.groups * prod(self.kernel)

    @property
    def macs(self) -> int:
        """Multiplications of one forward pass; those with padding, which are not made, do not count."""
        if self.kind == "dense":
            return self.in_shape[0] * self.out_shape[0]
        met = 1
        for axis in (0, 1):
            starts = [o * self.stride[axis] - self.pad[axis] for o in range(self.out_shape[1 + axis])]
            reach = [k * self.dilation[axis] for k in range(self.kernel[axis])]
            met *= sum(0 <= start + k < self.in_shape[1 + axis] for start in starts for k in reach)
        return met * self.in_shape[0] // self.groups * self.out_shape[0]


def stages(network: Network, example: Tensor) -> list[Stage]:
    """Read a network.

    Args:
        network: layers of nn.Linear, nn.Conv2d or integer weights, ReLU or no neurons, pooling, normalisation of the
            sample, flatten and sums; a first layer may only prepare the input.
        example: one batch of inputs [batch, ...], for the shapes.

    Raises:
        ExportError: for the first thing that has no kernel, by the name of its layer.

    """
    if type(network.encode) is not nn.Identity:
        raise ExportError(f"the encoder {type(network.encode).__name__} has no C form: spiking networks have none yet.")
    found: list[Stage] = []
    with torch.no_grad():
        for i, activity in enumerate(network.stream(example[:1])):
            layer, sources = network.chain[i], network.sources[i]
            given = found[sources[0]].out_shape if sources else _shape(example[0])
            found.append(_fitting(_stage(i, layer, sources, given, _shape(activity.current[0]))))
    last = found[-1]
    if last.kind != "dense" or last.relu:
        raise ExportError(f"layer {last.name} is the output; it must be linear, without neurons, to be written in C.")
    return found


def with_heads(chain: Sequence[Stage], rule: Rule | None) -> list[Stage]:
    """The same layers, those that learn with the heads that a rule gives them."""
    found = heads(rule)
    return [replace(stage, head=found.get(stage.index) if stage.learns else None) for stage in chain]


def _stage(i: int, layer: Layer, sources: tuple[int, ...], given: Shape, answered: Shape) -> Stage:
    prepared = tuple(pools(layer, given))
    shape = prepared[-1].out_shape if prepared else given
    if any(type(m) is nn.Flatten for m in layer.prepare.modules()):
        shape = (prod(shape), 1, 1)
    own: Any = layer.synapses
    common: dict[str, Any] = {"sources": sources, "pools": prepared, "relu": _relu(layer), "out_shape": answered}
    if type(own) is nn.Identity:
        first = not sources and not common["relu"]
        if not first and (len(sources) < 2 or prepared):
            raise ExportError(
                f"layer {layer.name} has no synapses; in C it must be the plain sum of two or more layers, or the "
                "first, without neurons."
            )
        return Stage(i, layer.name, "sum", in_shape=shape, learns=False, **common)
    kind = type(own)
    if kind not in (nn.Linear, nn.Conv2d, PaddedConv2d) and not isinstance(own, IntegerWeights):
        raise ExportError(
            f"layer {layer.name} has {kind.__name__} synapses; in C there are Linear, Conv2d and integer weights."
        )
    if layer.over_time:
        raise ExportError(f"layer {layer.name} answers over time, which has no C form.")
    common |= {"learns": layer.learns, "bias": None if own.bias is None else own.bias.detach()}
    if isinstance(own, IntegerWeights):
        key = noise.key(own.seed, own.place)
        common |= {"weight": own.codes, "scale": own.scale, "bits": own.bits, "before": int(own.step)}
        common["seed"] = int(key) % 2**32
    else:
        common["weight"] = own.weight.detach()
    if isinstance(own, nn.Linear):
        if shape[1:] != (1, 1):
            raise ExportError(f"layer {layer.name} is linear over the last axis of {list(shape)}; flatten it before.")
        return Stage(i, layer.name, "dense", in_shape=shape, **common)
    return Stage(i, layer.name, "conv", in_shape=shape, **common, **_geometry(layer.name, own))


def _fitting(stage: Stage) -> Stage:
    """The stage, if its sizes fit into the types of ep_kernels.h."""
    shapes = [stage.in_shape, stage.out_shape, *(pool.shape for pool in stage.pools)]
    if max(map(max, shapes)) > 65535 or any(max(pool.window) > 255 for pool in stage.pools):
        raise ExportError(f"layer {stage.name} has a size above 65535, or windows wider than 255; in C neither can be.")
    return stage


def _geometry(name: str, own: Any) -> dict[str, Any]:
    if own.padding_mode != "zeros":
        raise ExportError(f"layer {name} pads with {own.padding_mode!r}; in C there are zeros only.")
    pads = getattr(own, "pads", None)
    if pads is not None:
        above, left = pads[2], pads[0]
    elif isinstance(own.padding, str):
        left, _, above, _ = own._reversed_padding_repeated_twice
    else:
        above, left = own.padding
    values = {"kernel": own.kernel_size, "stride": own.stride, "dilation": own.dilation, "pad": (above, left)}
    for what, pair in {**values, "pads": pads or (0, 0)}.items():
        if max(pair) > 255 or min(pair) < 0:
            raise ExportError(f"layer {name}: {what} is {pair}; in C it must be from 0 to 255.")
    return {**values, "groups": own.groups}


def _relu(layer: Layer) -> bool:
    answers = [
        m for m in layer.neurons.modules() if not isinstance(m, (nn.Sequential, nn.Identity, Dropout, nn.Dropout))
    ]
    if len(answers) > 1 or any(type(m) is not nn.ReLU for m in answers):
        names = ", ".join(type(m).__name__ for m in answers)
        raise ExportError(
            f"layer {layer.name} has the neurons {names}; in C there are ReLU and none, and batch normalisation where "
            "nothing learns and it follows plain weights, into which it goes."
        )
    return bool(answers)


def _shape(sample: Tensor) -> Shape:
    sizes = tuple(sample.shape)
    if len(sizes) == 3:
        return sizes[0], sizes[1], sizes[2]
    if len(sizes) == 1:
        return sizes[0], 1, 1
    raise ExportError(f"a sample has shape {list(sizes)}; in C it is [features] or [channels, height, width].")
